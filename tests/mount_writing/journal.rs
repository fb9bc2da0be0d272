//! What the journal keeps when there is much of it, or when something in it is broken.

use crate::fixture::{Fixture, names};
use crate::mount_support::files::{append, close, errno, open, save, truncate};
use crate::mount_support::writer::is_ours;
use crate::support::until;
use nix::mount::{MntFlags, MsFlags, umount2};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The backing files of all journals of the mount.
fn backing_files(journal: &Path) -> Vec<PathBuf> {
    let mut pending = vec![journal.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                pending.push(entry.path());
            } else if folder.ends_with("data") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// What they take on the disk, in bytes.
fn backing_bytes(journal: &Path) -> u64 {
    let files = backing_files(journal).into_iter();
    files.filter_map(|path| path.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// A file system of its own in memory, of this size; taken away at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, size: &str) -> SmallDisk {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={size},mode=700");
        nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
        SmallDisk(path.to_owned())
    }

    /// Leaves no room on it.
    fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Each file that is too large for the log has a file of its own there.
#[test]
fn far_more_unsaved_files_than_descriptors_survive_a_kill() {
    if !is_ours() {
        return;
    }
    const FILES: u32 = 900;
    let content = |number: u32| number.to_le_bytes().repeat(17 << 10);
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    for number in 0..FILES {
        save(&path.join(format!("file{number}")), &content(number)).unwrap();
    }
    assert!(backing_files(&fixture.writer.journal()).len() >= FILES as usize);
    let open = descriptors(fixture.writer.pid());
    assert!(open < 500, "{open} descriptors");
    fixture.writer.start_after_kill();
    let open = descriptors(fixture.writer.pid());
    assert!(open < 500, "{open} descriptors after taking over");
    for number in 0..FILES {
        assert!(fs::read(path.join(format!("file{number}"))).unwrap() == content(number), "file{number}");
    }
    until("all to be saved", || fixture.server_names().len() == FILES as usize + 2);
    fixture.writer.unmount_well();
    assert_eq!(backing_files(&fixture.writer.journal()), Vec::<PathBuf>::new());
}

/// The journal's log has a limit, and small files are in it: what there is no room for is saved instead.
#[test]
fn full_journal_makes_room_by_saving() {
    if !is_ours() {
        return;
    }
    const FILES: usize = 300;
    for mode in ["--sync=exit", "--sync=fsync", "--sync=idle:60"] {
        let mut fixture = Fixture::new(&[mode, "--journal-size=2M"]);
        let path = fixture.path();
        for number in 0..FILES {
            let saved = save(&path.join(format!("file{number}")), &vec![number as u8; 30_000]);
            assert_eq!(errno(saved), 0, "{mode}: file{number}\n{}", fixture.writer.log());
        }
        fs::create_dir(path.join("folder")).unwrap();
        fs::rename(path.join("file0"), path.join("folder/file0")).unwrap();
        fixture.writer.unmount_well();
        assert_eq!(fixture.server_names().len(), FILES + 2, "{mode}");
        assert!(fixture.server_has("folder/file0", &[0; 30_000]), "{mode}");
    }
}

/// What was promised of a file that somebody writes to all the time is saved with each save, and need not stay in the journal.
#[test]
fn journal_shrinks_though_somebody_writes_to_a_file_all_the_time() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--sync=idle:1"]);
    let path = fixture.path();
    let mut log = File::create(path.join("log")).unwrap();
    let mut most = 0;
    for round in 0..4 {
        for number in 0..10 {
            save(&path.join(format!("file{round}-{number}")), &vec![number; 100_000]).unwrap();
        }
        for _ in 0..20 {
            log.write_all(&[b'x'; 1000]).unwrap();
            most = most.max(backing_files(&fixture.writer.journal()).len());
            std::thread::sleep(Duration::from_millis(100));
        }
        log.sync_all().unwrap();
    }
    assert!(most >= 10, "it had something to let go of");
    for _ in 0..100 {
        if backing_files(&fixture.writer.journal()).len() < 5 {
            break;
        }
        log.write_all(b"x").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let left = backing_files(&fixture.writer.journal());
    assert!(left.len() < 5, "{left:?}");
    close(log).unwrap();
}

/// Found by a log that was appended to for weeks: all of it was on the journal's disk.
#[test]
fn what_is_saved_of_a_file_leaves_the_journal_though_it_stays_open() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--sync=idle:0.2"]);
    let mut log = File::create(fixture.path().join("log")).unwrap();
    let mut written = Vec::new();
    for round in 0..10 {
        let more = vec![round; 100_000];
        log.write_all(&more).unwrap();
        log.sync_all().unwrap();
        written.extend(more);
        until("a round to be saved", || fixture.server_has("log", &written));
    }
    until("the journal to let go of what is saved", || backing_bytes(&fixture.writer.journal()) < 300_000);
    assert!(fs::read(fixture.path().join("log")).unwrap() == written);
    close(log).unwrap();
}

/// A handle has the collection as it was when it was opened, with all that was not saved then.
#[test]
fn what_is_saved_leaves_the_journal_though_somebody_reads_a_file() {
    if !is_ours() {
        return;
    }
    const FILES: u8 = 20;
    let fixture = Fixture::new(&["--sync=idle:1"]);
    let path = fixture.path();
    let name = |number: u8| format!("file{number}");
    for number in 0..FILES {
        save(&path.join(name(number)), &[number; 100_000]).unwrap();
    }
    let reader = File::open(path.join(name(0))).unwrap();
    assert_eq!(backing_files(&fixture.writer.journal()).len(), usize::from(FILES), "nothing is saved yet");
    until("all to be saved", || (0..FILES).all(|number| fixture.server_has(&name(number), &[number; 100_000])));
    until("the journal to let go of them", || backing_files(&fixture.writer.journal()).is_empty());
    let mut read = vec![1; 100_000];
    reader.read_exact_at(&mut read, 0).unwrap();
    assert!(read.iter().all(|byte| *byte == 0));
}

/// A file whose bytes are lost is kept as it is recorded, and all else is saved.
#[test]
fn file_that_is_lost_from_the_journal_holds_up_no_other() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    save(&path.join("lost"), &[1; 200_000]).unwrap();
    save(&path.join("small"), b"small").unwrap();
    save(&path.join("large"), &[2; 200_000]).unwrap();
    save(&path.join("a"), &[3; 200_000]).unwrap();
    fs::rename(path.join("d/b"), path.join("b")).unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    for file in backing_files(&fixture.writer.journal()) {
        let content = fs::read(&file).unwrap();
        if content[0] == 1 || content[0] == 3 {
            fs::remove_file(&file).unwrap();
        }
    }
    fixture.writer.start_again();
    until("the others to be saved", || {
        fixture.server_has("small", b"small")
            && fixture.server_has("large", &[2; 200_000])
            && fixture.server_has("b", b"second")
    });
    assert!(fixture.server_has("a", b"first"), "there the server keeps what it has");
    assert!(!fixture.server_names().contains(&"lost".to_owned()));
    let log = fixture.writer.log();
    assert!(log.contains("cannot be read") && log.contains("lost"), "{log}");
    fixture.writer.unmount();
    // It is there again with the next mount, and does no harm.
    fixture.writer.start_again();
    assert_eq!(names(&path), ["a", "b", "d", "large", "small"]);
    assert_eq!(fixture.writer.log().matches("cannot be read").count(), 4, "two files, two mounts");
}

/// An error of the disk at the moment of writing down is told to who waits for it, although a later save may succeed.
#[test]
fn file_that_cannot_be_written_to_the_journal_fails_its_close() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    save(&path.join("before"), &[1; 200_000]).unwrap();
    let backing = backing_files(&fixture.writer.journal());
    let folder = backing[0].parent().unwrap();
    let hidden = folder.with_extension("hidden");
    fs::rename(folder, &hidden).unwrap();
    assert_eq!(errno(save(&path.join("after"), &[2; 200_000])), libc::EIO);
    fs::rename(&hidden, folder).unwrap();
    assert!(fixture.writer.log().contains("a file cannot be written to the journal"));
    assert!(fixture.writer.unmount().success());
    assert!(fixture.server_has("before", &[1; 200_000]));
    assert!(fixture.server_has("after", &[2; 200_000]), "and what was in memory was not lost");
}

#[test]
fn file_that_cannot_be_written_to_the_journal_under_its_new_name_keeps_its_old_one() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    save(&path.join("before"), &[1; 200_000]).unwrap();
    let backing = backing_files(&fixture.writer.journal());
    let folder = backing[0].parent().unwrap();
    let hidden = folder.with_extension("hidden");
    let mut file = open(&path.join("d/b"), libc::O_WRONLY | libc::O_APPEND).unwrap();
    file.write_all(&[2; 200_000]).unwrap();
    fs::rename(folder, &hidden).unwrap();
    let _ = fs::rename(path.join("d/b"), path.join("moved"));
    until("the record", || fixture.writer.log().contains("a file cannot be written to the journal"));
    fs::rename(&hidden, folder).unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    drop(file);
    fixture.writer.start_again();
    until("the rest to be saved", || fixture.server_has("before", &[1; 200_000]));
    assert!(fixture.server_has("d/b", b"second"));
}

/// A hole of a hundred tebibytes cannot be stored, and a file that has one would keep its collection from being saved as a whole.
#[test]
fn size_that_can_never_be_stored_is_refused_at_once() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&[]);
    let path = fixture.path();
    let file = File::create(path.join("huge")).unwrap();
    assert_eq!(errno(file.set_len(100 << 40)), libc::EFBIG);
    assert_eq!(errno(file.set_len(i64::MAX as u64)), libc::EFBIG);
    assert_eq!(errno(file.write_all_at(b"x", 1 << 62)), libc::EFBIG);
    assert_eq!(errno(truncate(&path.join("huge"), i64::MAX)), libc::EFBIG);
    assert!(!fixture.writer.log().contains("too large"), "nothing that anybody should hear of");
    assert_eq!(file.metadata().unwrap().len(), 0);
    file.write_all_at(b"small", 0).unwrap();
    assert_eq!(errno(close(file)), 0);
    assert!(fixture.server_has("huge", b"small"));
    fixture.writer.unmount_well();
    assert_eq!(fixture.server_names(), ["a", "d/b", "huge"]);
}

/// `echo line >> log` opens the file each time.
#[test]
fn appends_of_a_shell_leave_no_trail_of_small_blocks() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let mut expected = Vec::new();
    for number in 0..30 {
        let line = format!("line {number}\n");
        append(&path.join("log"), line.as_bytes()).unwrap();
        expected.extend_from_slice(line.as_bytes());
    }
    assert!(fixture.server_has("log", &expected));
    let text = fixture.client.fetch(&fixture.made.uuid).unwrap().1;
    let blocks = text.lines().next().unwrap().split(' ').filter(|token| token.contains('+')).count();
    assert!(blocks <= 4, "{blocks} blocks: {text}");
}

/// POSIX promises nothing, but `truncate` returned, and the file is open elsewhere for long.
#[test]
fn size_that_was_set_by_name_outlives_a_kill_while_another_has_the_file_open() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    let file = open(&path.join("a"), libc::O_WRONLY).unwrap();
    truncate(&path.join("a"), 2).unwrap();
    fixture.writer.kill();
    drop(file);
    fixture.writer.clear();
    fixture.writer.start_again();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"fi");
}

/// What is in the journal is saved also when nothing has room beside it.
#[test]
fn mount_whose_journal_has_a_full_disk_starts_and_makes_room() {
    if !is_ours() || !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit", "--retries=0"]);
    let path = fixture.path();
    fixture.writer.unmount_well();
    let disk = SmallDisk::mount(&fixture.writer.journal(), "8M");
    fixture.writer.start_again();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.refuse_saves(503);
    // Some in the log, some in files of their own.
    let content = |number: u32| number.to_le_bytes().repeat(if number.is_multiple_of(2) { 2_000 } else { 40_000 });
    let mut kept = Vec::new();
    for number in 0..1000u32 {
        let name = format!("file{number}");
        let error = errno(save(&path.join(&name), &content(number)));
        if error != 0 {
            assert_eq!(error, libc::ENOSPC);
            break;
        }
        kept.push((name, number));
    }
    assert!(kept.len() > 10 && kept.len() < 999, "{}", kept.len());
    fixture.writer.kill();
    fixture.writer.clear();
    disk.fill();
    fixture.refuse_saves(0);
    fixture.writer.start_again();
    until("all to be saved", || kept.iter().all(|(name, number)| fixture.server_has(name, &content(*number))));
    fixture.writer.unmount_well();
    drop(fixture.writer);
    drop(disk);
}

/// `ulimit -f` ends a process that does not see to it, and with it everybody's mount.
#[test]
fn limit_on_the_size_of_files_fails_a_write_and_not_the_mount() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let pid = fixture.writer.pid() as i32;
    // SAFETY: both structures outlive the calls.
    unsafe {
        assert_eq!(libc::prlimit(pid, libc::RLIMIT_FSIZE, std::ptr::null(), &mut limit), 0);
        limit.rlim_cur = 3 << 20;
        assert_eq!(libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()), 0);
    }
    save(&path.join("small"), &[1; 200_000]).unwrap();
    let mut file = File::create(path.join("big")).unwrap();
    let result = file.write_all(&[2; 6 << 20]).and_then(|()| file.sync_all());
    assert!([0, libc::ENOSPC].contains(&errno(result)), "too large for the journal, and saved at once, or refused");
    drop(file);
    assert_eq!(fs::read(path.join("small")).unwrap(), [1; 200_000]);
    fixture.writer.unmount();
    assert!(fixture.server_has("small", &[1; 200_000]));
}

/// `rm -rf` on what looks like leftovers.
#[test]
fn journal_that_was_removed_under_a_mount_is_told_to_whoever_relies_on_it() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    save(&path.join("before"), b"before").unwrap();
    for account in fs::read_dir(fixture.writer.journal()).unwrap().flatten() {
        for journal in fs::read_dir(account.path()).unwrap().flatten() {
            fs::remove_dir_all(journal.path()).unwrap();
        }
    }
    assert_eq!(errno(save(&path.join("small"), b"small")), libc::EIO);
    assert_eq!(errno(save(&path.join("large"), &[2; 200_000])), libc::EIO);
    let file = open(&path.join("synced"), libc::O_WRONLY | libc::O_CREAT).unwrap();
    (&file).write_all(b"synced").unwrap();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    drop(file);
    assert_eq!(errno(fs::create_dir(path.join("made"))), libc::EIO);
    let log = fixture.writer.log();
    assert!(log.contains("was removed while the mount uses it"), "{log}");
    fixture.writer.unmount();
    for (name, data) in
        [("before", &b"before"[..]), ("small", b"small"), ("large", &[2; 200_000]), ("synced", b"synced")]
    {
        assert!(fixture.server_has(name, data), "{name} is saved all the same");
    }
}

#[test]
fn journal_that_was_removed_keeps_nothing_from_being_saved_at_once() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    save(&path.join("before"), b"before").unwrap();
    for account in fs::read_dir(fixture.writer.journal()).unwrap().flatten() {
        fs::remove_dir_all(account.path()).unwrap();
    }
    for (name, data) in [("small", &b"small"[..]), ("large", &[2; 200_000])] {
        assert_eq!(errno(save(&path.join(name), data)), 0);
        assert!(fixture.server_has(name, data));
    }
    assert_eq!(errno(fs::create_dir(path.join("made"))), libc::EIO, "only the journal promises that");
}
