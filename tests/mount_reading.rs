//! The mount on `arvados cluster`, through the kernel: what is shown, and that it can only be looked at.

mod mount_support;
mod support;

use mount_support::Client;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Cluster, LIMIT, Mount, run, succeed, until, wait};

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

/// Peak memory of a process, in bytes.
fn peak_memory(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn tree_shows_collections_by_uuid_by_hash_and_in_the_home_project() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("a collection", None, client.manifest(&[("f", b"foo"), ("d/g", b"barbar")]));
    let mut mount = cluster.mount(&["--all"]);
    let root = mount.path();
    assert_eq!(names(&root), ["README", "by_id", "by_tag", "home", "shared"]);
    assert_eq!(names(&root.join("by_id")), ["README"]);
    for place in [format!("by_id/{}", made.uuid), format!("by_id/{}", made.hash), "home/a collection".to_owned()] {
        let place = root.join(place);
        assert_eq!(names(&place), ["d", "f"]);
        assert_eq!(fs::read(place.join("f")).unwrap(), b"foo");
        assert_eq!(fs::read(place.join("d/g")).unwrap(), b"barbar");
        let attributes = fs::metadata(place.join("d/g")).unwrap();
        assert_eq!((attributes.len(), attributes.permissions().mode()), (6, 0o100555));
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(place.join(".arvados#collection")).unwrap()).unwrap();
        assert_eq!(record["portable_data_hash"], made.hash.as_str());
        assert!(record["manifest_text"].as_str().unwrap().contains("+A"));
    }
    assert!(names(&root.join("by_id")).contains(&made.uuid));
    succeed(Command::new("fusermount3").arg("-u").arg(&root));
    let status = wait(&mut mount.process, LIMIT).expect("it ends with its mount");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn collection_of_100_000_files_is_found_and_listed_in_seconds() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let block = client.block(b"0123456789");
    let mut manifest = String::new();
    for directory in 0..100 {
        manifest.push_str(&format!("./dir{directory:02} {block}"));
        (0..1000).for_each(|file| manifest.push_str(&format!(" 0:{}:file{file:04}", file % 11)));
        manifest.push('\n');
    }
    let made = client.collection("large", None, manifest);
    let mount = cluster.mount(&["--mount-by-id", "by_id"]);
    for id in [&made.uuid, &made.hash] {
        let path = mount.path().join("by_id").join(id);
        let start = Instant::now();
        let found = succeed(Command::new("find").arg(&path).args(["-type", "f"]));
        assert_eq!(found.lines().count(), 100_000);
        let listed = succeed(Command::new("ls").arg("-lR").arg(&path));
        assert_eq!(listed.lines().filter(|line| line.starts_with("-r-x")).count(), 100_000);
        // Seconds, and not the minutes of arv-mount, also unoptimised on a busy machine with two cores.
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    }
    assert!(peak_memory(&mount) < 200 << 20, "{} bytes", peak_memory(&mount));
}

#[test]
fn many_readers_of_many_blocks_stay_within_the_memory_limit() {
    const BLOCK: usize = 16 << 20;
    const BLOCKS: usize = 16;
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let block = |number: usize| -> Vec<u8> { (0..BLOCK).map(|at| (at / 4096 + at + number * 7) as u8).collect() };
    let manifest: String =
        (0..BLOCKS).map(|number| format!(". {} 0:{BLOCK}:f{number}\n", client.block(&block(number)))).collect();
    let made = client.collection("blocks", None, manifest);
    let mount = cluster.mount(&["--memory-limit", "64M", "--mount-by-id", "by_id"]);
    let directory = mount.path().join("by_id").join(&made.hash);
    std::thread::scope(|scope| {
        for number in 0..BLOCKS {
            let path = directory.join(format!("f{number}"));
            scope.spawn(move || assert!(fs::read(path).unwrap() == block(number), "file {number}"));
        }
    });
    // The limit, and what the program itself and the answers under way to the kernel take.
    assert!(peak_memory(&mount) < (64 + 96) << 20, "{} bytes", peak_memory(&mount));
}

#[test]
fn file_that_another_client_replaced_is_another_file_and_open_handles_keep_the_old_one() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let manifest = |files: &[(&str, &[u8])]| client.manifest(files);
    let made = client.collection("changing", None, manifest(&[("kept", b"kept"), ("replaced", b"old content")]));
    let mount = cluster.mount(&["--refresh-time=1", "--mount-by-id", "by_id"]);
    let directory = mount.path().join("by_id").join(&made.uuid);
    let inode = |name: &str| fs::metadata(directory.join(name)).unwrap().ino();
    let (kept, replaced) = (inode("kept"), inode("replaced"));
    let open = File::open(directory.join("replaced")).unwrap();
    client.replace(&made.uuid, manifest(&[("kept", b"kept"), ("replaced", b"new"), ("added", b"a")]));
    until("the change", || fs::read(directory.join("replaced")).unwrap() == b"new");
    assert_eq!(inode("kept"), kept);
    assert_ne!(inode("replaced"), replaced);
    assert_eq!(names(&directory), ["added", "kept", "replaced"]);
    let mut old = vec![0; 20];
    let count = open.read_at(&mut old, 0).unwrap();
    assert_eq!(&old[..count], b"old content");
    assert_eq!(open.metadata().unwrap().ino(), replaced);
}

#[test]
fn file_that_grew_keeps_its_inode_and_shows_what_was_added() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let (first, second) = (client.block(b"first "), client.block(b"second"));
    let made = client.collection("growing", None, format!(". {first} 0:6:log\n"));
    let mount = cluster.mount(&["--refresh-time=1", "--mount-by-id", "by_id"]);
    let path = mount.path().join("by_id").join(&made.uuid).join("log");
    assert_eq!(fs::read(&path).unwrap(), b"first ");
    let inode = fs::metadata(&path).unwrap().ino();
    client.replace(&made.uuid, format!(". {first} {second} 0:12:log\n"));
    until("the growth", || fs::metadata(&path).unwrap().len() == 12);
    assert_eq!(fs::read(&path).unwrap(), b"first second");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
}

#[test]
fn nothing_can_be_changed_by_any_route() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("fixed", None, client.manifest(&[("f", b"foo"), ("d/g", b"bar")]));
    let mount = cluster.mount(&["--all"]);
    let directory = mount.path().join("home/fixed");
    let file = directory.join("f");
    let before = fs::metadata(&file).unwrap();
    for place in [directory.clone(), mount.path(), mount.path().join("home"), mount.path().join("by_id")] {
        assert_eq!(errno(File::create(place.join("new"))), libc::EROFS, "{place:?}");
        assert_eq!(errno(fs::create_dir(place.join("new"))), libc::EROFS, "{place:?}");
    }
    assert_eq!(errno(fs::remove_file(&file)), libc::EROFS);
    assert_eq!(errno(fs::remove_dir_all(directory.join("d"))), libc::EROFS);
    assert_eq!(errno(fs::rename(&file, directory.join("h"))), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(&directory)), libc::EROFS);
    assert_eq!(errno(File::options().write(true).open(&file)), libc::EPERM);
    assert_eq!(errno(File::options().append(true).open(&file)), libc::EPERM);
    assert_eq!(errno(File::create(&file)), libc::EPERM);
    assert_eq!(errno(nix::unistd::truncate(&file, 0).map_err(std::io::Error::from)), libc::EROFS);
    assert_ne!(errno(fs::hard_link(&file, directory.join("h"))), 0);
    assert_eq!(errno(std::os::unix::fs::symlink("f", directory.join("h"))), libc::EROFS);
    // These succeed and change nothing, as with arv-mount: `touch` and `cp -p` work on what is there.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o777)).unwrap();
    succeed(Command::new("touch").arg(&file));
    let after = fs::metadata(&file).unwrap();
    assert_eq!((after.mode(), after.mtime(), after.len()), (before.mode(), before.mtime(), before.len()));
    assert_eq!(fs::read(&file).unwrap(), b"foo");
    drop(mount);
    let mount = cluster.mount(&["--mount-by-id", "by_id"]);
    assert_eq!(names(&mount.path().join("by_id").join(&made.hash)), ["d", "f"], "the content is what it was");
}

#[test]
fn renamed_and_deleted_collections_follow_the_events() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("first name", None, client.manifest(&[("f", b"foo")]));
    // Only an event can tell within the time of this test.
    let mount = cluster.mount(&["--refresh-time=600", "--mount-home", "home", "--mount-by-id", "by_id"]);
    let (home, by_id) = (mount.path().join("home"), mount.path().join("by_id").join(&made.uuid));
    assert_eq!(names(&home), ["first name"]);
    assert_eq!(names(&by_id), ["f"]);
    // The listener needs a moment to be connected.
    until("the new name", || {
        client.rename(&made.uuid, &format!("name {:?}", Instant::now()));
        std::thread::sleep(Duration::from_millis(500));
        names(&home) != ["first name"]
    });
    client.rename(&made.uuid, "last name");
    until("the last name", || names(&home) == ["last name"]);
    client.delete(&made.uuid);
    until("the end of it", || names(&home).is_empty());
    until("the end of it", || errno(fs::read_dir(&by_id)) == libc::ENOENT);
}

#[test]
fn seeking_beyond_the_end_and_reading_across_blocks_gives_what_is_there() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let pieces: Vec<Vec<u8>> = (0..40u8).map(|number| vec![number; 1000 + usize::from(number)]).collect();
    let blocks: Vec<String> = pieces.iter().map(|piece| client.block(piece)).collect();
    let whole = pieces.concat();
    let made = client.collection("pieces", None, format!(". {} 0:{}:f\n", blocks.join(" "), whole.len()));
    let mount = cluster.mount(&["--collection", &made.hash]);
    let mut file = File::open(mount.path().join("f")).unwrap();
    for (offset, length) in [(0, 10), (990, 100), (1500, 20_000), (whole.len() - 5, 100), (whole.len() + 5, 5)] {
        let mut data = vec![0; length];
        let expected = &whole[offset.min(whole.len())..(offset + length).min(whole.len())];
        file.seek(SeekFrom::Start(offset as u64)).unwrap();
        let mut count = 0;
        while let Some(read) = Some(file.read(&mut data[count..]).unwrap()).filter(|read| *read > 0) {
            count += read;
        }
        assert_eq!(&data[..count], expected, "{offset} {length}");
    }
    let output = run(Command::new("cmp").arg(mount.path().join("f")).arg("-"), LIMIT);
    assert_eq!(output.status.code(), Some(1), "cmp with an empty input differs");
}
