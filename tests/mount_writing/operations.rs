//! Operations on files and folders.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{
    Mapping, append, close, create_new, errno, make_node, open, rename_with, save, truncate,
};
use crate::mount_support::writer::{Writer, is_ours};
use crate::support::{run, succeed, until};
use std::fs::{self, File, FileTimes};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// arv-mount.md 8.1, 3: the name resolves to the old file for 15 seconds, and what is appended then is lost.
#[test]
fn rename_over_an_existing_file_shows_the_new_content_and_keeps_what_is_appended_then() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    let old = File::open(path.join("a")).unwrap();
    save(&path.join("a.new"), b"replaced").unwrap();
    fs::rename(path.join("a.new"), path.join("a")).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"replaced");
    append(&path.join("a"), b" and more").unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"replaced and more");
    let mut content = [0; 5];
    old.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"first", "the handle of the replaced file keeps its content");
    assert!(fixture.server_has("a", b"replaced and more"));
    assert_eq!(names(&path), ["a", "d"]);
}

/// An editor's way to save, again and again.
#[test]
fn atomic_saves_of_an_editor_are_each_there() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    for number in 0..10 {
        let content = format!("version {number}");
        let mut file = File::create(path.join(".a.swp")).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.sync_all().unwrap();
        close(file).unwrap();
        fs::rename(path.join(".a.swp"), path.join("a")).unwrap();
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), content);
        assert!(fixture.server_has("a", content.as_bytes()), "{number}");
    }
    assert_eq!(fixture.server_names(), ["a", "d/b"]);
}

/// arv-mount.md 8.1, 3: the source lands inside the target.
#[test]
fn directory_renamed_onto_an_empty_one_takes_its_place() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    fs::create_dir(path.join("empty")).unwrap();
    fs::rename(path.join("d"), path.join("empty")).unwrap();
    assert_eq!(names(&path), ["a", "empty"]);
    assert_eq!(names(&path.join("empty")), ["b"]);
    fs::create_dir(path.join("other")).unwrap();
    assert_eq!(errno(fs::rename(path.join("other"), path.join("empty"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(path.join("other"), path.join("a"))), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(path.join("a"), path.join("other"))), libc::EISDIR);
    assert!(fixture.server_has("empty/b", b"second"));
}

#[test]
fn rename_without_replacing_refuses_a_name_that_is_taken() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let noreplace = libc::RENAME_NOREPLACE;
    assert_eq!(errno(rename_with(&path.join("a"), &path.join("d/b"), noreplace)), libc::EEXIST);
    rename_with(&path.join("a"), &path.join("d/a"), noreplace).unwrap();
    assert!(fixture.server_has("d/a", b"first"));
    let exchanged = errno(rename_with(&path.join("d/a"), &path.join("d/b"), libc::RENAME_EXCHANGE));
    assert!([libc::EINVAL, libc::ENOSYS].contains(&exchanged), "{exchanged}");
    assert_eq!(fs::read(path.join("d/b")).unwrap(), b"second");
}

#[test]
fn rename_moves_between_collections_and_mounts_are_file_systems_of_their_own() {
    let fixture = Fixture::new(&[]);
    let other = fixture.client.collection("other", None, String::new());
    let (from, to) = (fixture.path(), fixture.writer.collection(&other.uuid));
    fs::rename(from.join("a"), to.join("moved")).unwrap();
    fs::rename(from.join("d"), to.join("tree")).unwrap();
    assert_eq!((names(&from), names(&to)), (vec![], vec!["moved".to_owned(), "tree".into()]));
    assert_eq!(fs::read(to.join("tree/b")).unwrap(), b"second");
    let files = fixture.client.files(&other.uuid);
    assert_eq!(
        files.into_iter().collect::<Vec<_>>(),
        [("moved".to_owned(), b"first".to_vec()), ("tree/b".to_owned(), b"second".to_vec())]
    );
    assert!(fixture.server_names().is_empty());
    let local = tempfile::tempdir().unwrap();
    assert_eq!(errno(fs::rename(to.join("moved"), local.path().join("x"))), libc::EXDEV);
    let second = Writer::start(&fixture.cluster, &[]);
    assert_eq!(errno(fs::rename(to.join("moved"), second.collection(&other.uuid).join("x"))), libc::EXDEV);
    succeed(Command::new("mv").arg(to.join("moved")).arg(from.join("back")));
    succeed(Command::new("mv").arg(from.join("back")).arg(local.path().join("out")));
    assert_eq!(fs::read(local.path().join("out")).unwrap(), b"first");
}

/// go-filesystem.md 3.2: the Go mount stores `.fuse_hidden…` files.
#[test]
fn unlinked_open_file_lives_on_and_is_not_saved() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let mut file = open(&path.join("temporary"), libc::O_RDWR | libc::O_CREAT).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(path.join("temporary")).unwrap();
    file.write_all(b" and after").unwrap();
    file.sync_all().unwrap();
    let mut content = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "before and after");
    assert_eq!(file.metadata().unwrap().len(), 16);
    assert_eq!(names(&path), ["a", "d"]);
    assert_eq!(fixture.server_names(), ["a", "d/b"]);
    let stored = File::open(path.join("a")).unwrap();
    fs::remove_file(path.join("a")).unwrap();
    save(&path.join("a"), b"another").unwrap();
    let mut content = [0; 5];
    stored.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"first");
    close(file).unwrap();
    close(stored).unwrap();
    assert!(fixture.server_has("a", b"another"));
    assert_eq!(fixture.server_names(), ["a", "d/b"]);
}

#[test]
fn appends_of_several_handles_never_overwrite_each_other() {
    const LINES: usize = 100;
    let fixture = Fixture::new(&[]);
    let path = fixture.path().join("log");
    save(&path, b"").unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).open(path).unwrap();
                for number in 0..LINES {
                    file.write_all(format!("{writer} {number:03}\n").as_bytes()).unwrap();
                }
                close(file).unwrap();
            });
        }
    });
    let content = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = content.lines().collect();
    assert!(lines.iter().all(|line| line.len() == 5), "no line is torn");
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 4 * LINES);
    assert!(fixture.server_has("log", content.as_bytes()));
}

#[test]
fn open_flags_do_what_they_say() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let exclusive = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    assert_eq!(errno(open(&path.join("a"), exclusive)), libc::EEXIST);
    assert_eq!(errno(open(&path.join("missing"), libc::O_WRONLY)), libc::ENOENT);
    assert_eq!(errno(open(&path.join("d"), libc::O_WRONLY)), libc::EISDIR);
    assert_eq!(errno(open(&path.join("a/x"), libc::O_RDONLY)), libc::ENOTDIR);
    // Emptied at once, whether or not anything is written.
    let file = open(&path.join("a"), libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(fs::metadata(path.join("a")).unwrap().len(), 0);
    close(file).unwrap();
    assert!(fixture.server_has("a", b""));
    // A writer without O_TRUNC keeps the rest.
    let file = open(&path.join("d/b"), libc::O_WRONLY).unwrap();
    file.write_all_at(b"S", 0).unwrap();
    close(file).unwrap();
    assert!(fixture.server_has("d/b", b"Second"));
    make_node(&path.join("node")).unwrap();
    assert_eq!(errno(make_node(&path.join("node"))), libc::EEXIST);
    assert_eq!(fs::metadata(path.join("node")).unwrap().len(), 0);
    assert_eq!(
        errno(File::options().read(true).open(path.join("a")).and_then(|mut file| file.write(b"x"))),
        libc::EBADF
    );
}

#[test]
fn truncation_works_both_ways_by_name_and_by_handle() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    truncate(&path.join("a"), 2).unwrap();
    let file = open(&path.join("d/b"), libc::O_RDWR).unwrap();
    file.set_len(8).unwrap();
    file.write_all_at(b"!", 9).unwrap();
    close(file).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"fi");
    assert_eq!(fs::read(path.join("d/b")).unwrap(), b"second\0\0\0!");
    assert!(fixture.server_has("d/b", b"second\0\0\0!"));
    truncate(&path.join("a"), 4).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"fi\0\0", "what was cut off does not come back");
    let mut fixture = fixture;
    fixture.writer.unmount_well();
    assert!(fixture.server_has("a", b"fi\0\0"));
}

#[test]
fn mapped_pages_are_written_and_show_what_others_wrote() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path().join("mapped");
    save(&path, &[b'x'; 10_000]).unwrap();
    let file = open(&path, libc::O_RDWR).unwrap();
    let mut mapping = Mapping::new(&file, 10_000).unwrap();
    assert_eq!(mapping.bytes()[9_999], b'x');
    mapping.bytes()[5_000..5_004].copy_from_slice(b"here");
    mapping.synchronise().unwrap();
    file.write_all_at(b"there", 0).unwrap();
    assert_eq!(&mapping.bytes()[..5], b"there");
    drop(mapping);
    close(file).unwrap();
    let mut expected = vec![b'x'; 10_000];
    expected[5_000..5_004].copy_from_slice(b"here");
    expected[..5].copy_from_slice(b"there");
    assert_eq!(fs::read(&path).unwrap(), expected);
    assert!(fixture.server_has("mapped", &expected));
}

/// The descriptor may be closed long before the pages are changed: linkers and databases do that.
#[test]
fn pages_that_are_changed_after_the_file_was_closed_arrive() {
    let fixture = Fixture::new(&QUIET);
    let path = fixture.path().join("mapped");
    save(&path, &[b'x'; 10_000]).unwrap();
    let mut expected = vec![b'x'; 10_000];
    let file = open(&path, libc::O_RDWR).unwrap();
    let mut mapping = Mapping::new(&file, 10_000).unwrap();
    mapping.bytes()[10..14].copy_from_slice(b"open");
    close(file).unwrap();
    mapping.bytes()[5_000..5_006].copy_from_slice(b"closed");
    expected[10..14].copy_from_slice(b"open");
    expected[5_000..5_006].copy_from_slice(b"closed");
    mapping.synchronise().unwrap();
    assert!(fixture.server_has("mapped", &expected), "msync is an fsync");
    mapping.bytes()[9_990..9_994].copy_from_slice(b"last");
    expected[9_990..9_994].copy_from_slice(b"last");
    drop(mapping);
    assert_eq!(fs::read(&path).unwrap(), expected);
    until("what was changed last", || fixture.server_has("mapped", &expected));
    // The same where nobody calls `msync` at all, in a file that was written just before.
    let file = open(&path, libc::O_RDWR).unwrap();
    file.write_all_at(b"again", 0).unwrap();
    let mut mapping = Mapping::new(&file, 10_000).unwrap();
    close(file).unwrap();
    mapping.bytes()[7_000..7_005].copy_from_slice(b"alone");
    drop(mapping);
    expected[..5].copy_from_slice(b"again");
    expected[7_000..7_005].copy_from_slice(b"alone");
    let mut fixture = fixture;
    fixture.writer.unmount_well();
    assert!(fixture.server_has("mapped", &expected));
}

/// The kernel writes pages through any descriptor that may write, not through the one of the program that has changed them.
#[test]
fn closing_a_file_saves_its_mapped_pages_while_another_program_has_it_mapped() {
    let fixture = Fixture::new(&QUIET);
    let path = fixture.path().join("mapped");
    save(&path, &[b'x'; 10_000]).unwrap();
    let mut expected = vec![b'x'; 10_000];
    let (first, second) = (open(&path, libc::O_RDWR).unwrap(), open(&path, libc::O_RDWR).unwrap());
    let mut of_first = Mapping::new(&first, 10_000).unwrap();
    let mut of_second = Mapping::new(&second, 10_000).unwrap();
    of_first.bytes()[..5].copy_from_slice(b"first");
    drop(of_first);
    close(first).unwrap();
    expected[..5].copy_from_slice(b"first");
    assert!(fixture.server_has("mapped", &expected), "what the first has changed");
    of_second.bytes()[5_000..5_006].copy_from_slice(b"second");
    drop(of_second);
    close(second).unwrap();
    expected[5_000..5_006].copy_from_slice(b"second");
    assert!(fixture.server_has("mapped", &expected), "what the second has changed");
}

/// arv-mount.md 3.2 and go-filesystem.md 1.3: both fill holes with zeros and upload them.
#[test]
fn sparse_file_of_a_tebibyte_costs_nothing() {
    const SIZE: u64 = 1 << 40;
    let mut fixture = Fixture::new(&["--memory-limit=128M"]);
    let path = fixture.path().join("sparse");
    let start = Instant::now();
    let file = open(&path, libc::O_RDWR | libc::O_CREAT).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"end", SIZE - 3).unwrap();
    let mut hole = [1; 4096];
    file.read_exact_at(&mut hole, SIZE / 2).unwrap();
    assert_eq!(hole, [0; 4096]);
    close(file).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(fs::metadata(&path).unwrap().len(), SIZE);
    let manifest = fixture.client.manifest_of(&fixture.made.uuid);
    assert_eq!(manifest.size("sparse"), SIZE);
    let own = manifest.files["sparse"].iter().map(|piece| piece.0.split('+').next().unwrap().to_owned());
    assert!(own.collect::<std::collections::BTreeSet<_>>().len() <= 4, "a block of zeros, and the end");
    assert!(fixture.writer.peak_memory() < 512 << 20, "{} bytes", fixture.writer.peak_memory());
    fixture.writer.unmount_well();
}

/// arv-mount.md 8.1, 9: they never advance, and `make` builds nothing or everything.
#[test]
fn modification_times_advance_with_writes_and_only_with_them() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let time = |name: &str| fs::metadata(path.join(name)).unwrap().modified().unwrap();
    let untouched = time("d/b");
    let before = time("a");
    std::thread::sleep(Duration::from_millis(1100));
    save(&path.join("source"), b"s").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    save(&path.join("a"), b"made of source").unwrap();
    assert!(time("a") > before);
    assert!(time("a") >= time("source"), "a build would run again");
    std::thread::sleep(Duration::from_millis(1100));
    let saved = time("a");
    save(&path.join("third"), b"later").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(time("a"), saved, "a commit of another file changes nothing here");
    assert_eq!(time("d/b"), untouched);
    append(&path.join("a"), b"!").unwrap();
    assert!(time("a") > saved);
    let elsewhere = time("d");
    save(&path.join("d/new"), b"").unwrap();
    assert!(time("d") > elsewhere, "a folder's time advances when it gets a name");
}

#[test]
fn modification_time_that_was_set_is_kept() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path().join("a");
    let wanted = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    let file = open(&path, libc::O_RDWR).unwrap();
    file.set_times(FileTimes::new().set_modified(wanted)).unwrap();
    close(file).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), wanted);
    save(&fixture.path().join("other"), b"x").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), wanted);
    let local = tempfile::tempdir().unwrap();
    fs::write(local.path().join("old"), "x").unwrap();
    succeed(Command::new("touch").args(["-d", "2001-02-03 04:05:06 UTC"]).arg(local.path().join("old")));
    succeed(Command::new("cp").arg("-p").arg(local.path().join("old")).arg(fixture.path()));
    assert_eq!(fs::metadata(fixture.path().join("old")).unwrap().mtime(), 981_173_106);
}

#[test]
fn what_cannot_be_stored_is_accepted_or_refused_as_before() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let before = fs::metadata(path.join("a")).unwrap().mode();
    fs::set_permissions(path.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(path.join("a"), Some(1), Some(1)).unwrap();
    let after = fs::metadata(path.join("a")).unwrap();
    assert_eq!((after.mode(), after.uid()), (before, 0));
    assert_eq!(after.mode(), 0o100777);
    let linked = [fs::hard_link(path.join("a"), path.join("link")), std::os::unix::fs::symlink("a", path.join("link"))];
    let linked = linked.map(errno);
    // What POSIX has for a file system without links.
    assert!(if is_ours() { linked == [libc::EPERM; 2] } else { !linked.contains(&0) }, "{linked:?}");
    assert_ne!(run(Command::new("mkfifo").arg(path.join("fifo")), Duration::from_secs(20)).status.code(), Some(0));
    assert_eq!(names(&path), ["a", "d"]);
}

/// arv-mount.md 2.8 and go-filesystem.md 3.2: all zeros, and `df` and installers see a full disk.
#[test]
fn free_space_is_never_zero() {
    let fixture = Fixture::new(&[]);
    let shown = succeed(Command::new("stat").args(["-f", "-c", "%S %b %f %a %c %d %l"]).arg(fixture.path()));
    let numbers: Vec<u64> = shown.split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert!(numbers.iter().all(|number| *number > 0), "{shown}");
    let [unit, blocks, free, available, ..] = numbers[..] else { panic!("{shown}") };
    assert!(free <= blocks && available <= blocks && unit * free > 1 << 30, "{shown}");
    assert_eq!(numbers[6], 255, "the longest name");
}

#[test]
fn folders_come_and_go() {
    let mut fixture = Fixture::new(&[]);
    let path = fixture.path();
    fs::create_dir_all(path.join("x/y/z")).unwrap();
    assert_eq!(errno(fs::create_dir(path.join("x"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(path.join("missing/x"))), libc::ENOENT);
    assert_eq!(errno(fs::remove_dir(path.join("x"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(path.join("a"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(path.join("missing"))), libc::ENOENT);
    fs::rename(path.join("x/y"), path.join("d/y")).unwrap();
    fs::remove_dir(path.join("x")).unwrap();
    save(&path.join("d/y/z/deep"), b"deep").unwrap();
    fs::create_dir(path.join("empty")).unwrap();
    fixture.writer.unmount_well();
    let manifest = fixture.client.manifest_of(&fixture.made.uuid);
    assert_eq!(manifest.files.into_keys().collect::<Vec<_>>(), ["a", "d/b", "d/y/z/deep"]);
    assert_eq!(manifest.directories, ["empty"]);
    fixture.writer.start_again();
    fs::remove_dir_all(path.join("d")).unwrap();
    assert_eq!(names(&path), ["a", "empty"]);
    assert_eq!(fixture.server_names(), ["a"]);
}

#[test]
fn parallel_creation_in_one_folder_loses_nothing() {
    let fixture = Fixture::new(&QUIET);
    let path = fixture.path();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let path = &path;
            scope.spawn(move || {
                for number in 0..10 {
                    let name = format!("w{worker}-{number}");
                    create_new(&path.join(&name), name.as_bytes()).unwrap();
                }
            });
        }
    });
    assert_eq!(names(&path).len(), 82);
    let files = fixture.client.files(&fixture.made.uuid);
    assert_eq!(files.len(), 82);
    assert!(files.iter().all(|(name, content)| !name.starts_with('w') || name.as_bytes() == content));
}
