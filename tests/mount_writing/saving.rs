//! When what was written is on the server, and what that costs it.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{append, close, errno, open, save, truncate};
use crate::mount_support::writer::{Writer, is_ours};
use crate::mount_support::{Client, control};
use crate::support::{Cluster, run, succeed, until};
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn closed_file_is_on_the_server_when_close_returns() {
    let fixture = Fixture::new(&["--sync=close"]);
    save(&fixture.path().join("new"), b"content").unwrap();
    assert!(fixture.server_has("new", b"content"));
    fs::create_dir(fixture.path().join("folder")).unwrap();
    fs::rename(fixture.path().join("new"), fixture.path().join("folder/renamed")).unwrap();
    assert!(fixture.server_has("folder/renamed", b"content"));
    fs::remove_file(fixture.path().join("a")).unwrap();
    assert_eq!(fixture.server_names(), ["d/b", "folder/renamed"]);
}

/// go-filesystem.md 1.11 and 3.3: close saves nothing, and an orderly unmount neither.
#[test]
fn unmount_saves_in_every_mode() {
    for mode in ["close", "fsync", "idle:3600", "periodic:3600", "exit"] {
        let mut fixture = Fixture::new(&[&format!("--sync={mode}")]);
        let path = fixture.path();
        save(&path.join("new"), mode.as_bytes()).unwrap();
        fs::create_dir(path.join("empty")).unwrap();
        truncate(&path.join("a"), 1).unwrap();
        fs::remove_file(path.join("d/b")).unwrap();
        fixture.writer.unmount_well();
        assert!(fixture.server_has("new", mode.as_bytes()), "{mode}");
        assert!(fixture.server_has("a", b"f"), "{mode}");
        let manifest = fixture.client.manifest_of(&fixture.made.uuid);
        assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["a", "new"], "{mode}");
        assert!(manifest.directories.contains(&"empty".to_owned()), "{mode}");
    }
}

/// arv-mount.md 8.1, 6: an idle mount does not hear it.
#[test]
fn sigterm_ends_an_idle_mount_and_saves_what_is_not_saved() {
    let mut fixture = Fixture::new(&["--sync=exit"]);
    save(&fixture.path().join("new"), b"content").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    assert_eq!(fixture.writer.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(fixture.server_has("new", b"content"));
}

#[test]
fn modes_decide_when_the_server_hears_of_it() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::old(&["--sync=fsync"]);
    let mut file = File::create(fixture.path().join("new")).unwrap();
    file.write_all(b"content").unwrap();
    close(file).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(fixture.server_names(), ["a", "d/b"], "close does not save");
    File::open(fixture.path().join("new")).unwrap().sync_all().unwrap();
    assert!(fixture.server_has("new", b"content"), "fsync does");
    drop(fixture);

    let fixture = Fixture::old(&["--sync=idle:1"]);
    let since = fixture.sequence();
    for number in 0..20 {
        save(&fixture.path().join(format!("f{number}")), b"content").unwrap();
    }
    until("the idle time", || fixture.server_names().len() == 22);
    let saves = fixture.requests(since).into_iter().filter(|request| request.starts_with('P')).count();
    assert!(saves <= 3, "{saves} saves for one burst");
    drop(fixture);

    let fixture = Fixture::old(&["--sync=periodic:1"]);
    save(&fixture.path().join("new"), b"content").unwrap();
    until("the period", || fixture.server_has("new", b"content"));
}

#[test]
fn reading_the_record_saves_first() {
    let fixture = Fixture::new(&["--sync=exit"]);
    save(&fixture.path().join("new"), b"content").unwrap();
    let record = fs::read(fixture.path().join(".arvados#collection")).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert!(record["manifest_text"].as_str().unwrap().contains(":new"));
    assert_eq!(record["portable_data_hash"], fixture.client.record(&fixture.made.uuid).portable_data_hash.as_str());
    assert!(fixture.server_has("new", b"content"));
}

/// arv-mount.md 3.2: five requests a file, eight with a shell.
#[test]
fn closed_small_file_is_one_request() {
    const FILES: usize = 10;
    let fixture = Fixture::old(&[]);
    let path = fixture.path();
    save(&path.join("the first one loads"), b"x").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let since = fixture.sequence();
    for number in 0..FILES {
        save(&path.join(format!("f{number}")), b"content").unwrap();
        let script = format!("echo x > '{}/g{number}'", path.display());
        succeed(Command::new("sh").args(["-c", &script]));
    }
    let requests = fixture.requests(since);
    assert!(requests.len() <= 2 * FILES + 1, "{}: {requests:#?}", requests.len());
    assert_eq!(fixture.server_names().len(), 3 + 2 * FILES);
}

/// arv-mount.md 3.2: four requests for a file that was opened and not changed, one for every closed folder.
#[test]
fn what_is_not_changed_causes_no_request() {
    let mut fixture = Fixture::old(&[]);
    let path = fixture.path();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    assert_eq!(names(&path.join("d")), ["b"]);
    // When the listener is connected for the first time everything is looked at once more.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    std::thread::sleep(Duration::from_secs(1));
    let since = fixture.sequence();
    for _ in 0..5 {
        close(open(&path.join("a"), libc::O_RDWR).unwrap()).unwrap();
        let file = open(&path.join("d/b"), libc::O_RDWR).unwrap();
        file.sync_all().unwrap();
        close(file).unwrap();
        assert_eq!(names(&path), ["a", "d"]);
        assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
        File::open(&path).unwrap().sync_all().unwrap();
    }
    assert_eq!(fixture.requests(since), Vec::<String>::new());
    fixture.writer.unmount_well();
    let changes: Vec<String> =
        fixture.requests(since).into_iter().filter(|request| !request.starts_with("GET")).collect();
    assert_eq!(changes, Vec::<String>::new());
}

#[test]
fn files_closed_together_share_requests() {
    let fixture = Fixture::old(&[]);
    let path = fixture.path();
    save(&path.join("the first one loads"), b"x").unwrap();
    fixture.control("faults", json!({"api": [{"method": ["PUT", "PATCH"], "path": "/collections/", "delay": 0.3}]}));
    let since = fixture.sequence();
    std::thread::scope(|scope| {
        for writer in 0..16 {
            let path = &path;
            scope.spawn(move || {
                for number in 0..3 {
                    save(&path.join(format!("w{writer}-{number}")), b"content").unwrap();
                }
            });
        }
    });
    let saves = fixture.requests(since).into_iter().filter(|request| request.starts_with('P')).count();
    assert!(saves <= 16, "{saves} requests for 48 files");
    assert_eq!(fixture.server_names().len(), 3 + 48);
}

/// A version is what the server keeps for ever: a lone writer makes at most one per idle period, as today's client does.
#[test]
fn lone_writer_makes_no_more_versions_than_today() {
    let fixture = Fixture::old(&[]);
    assert_eq!(fixture.versions(), 1);
    for number in 0..15 {
        save(&fixture.path().join("a"), format!("version {number}").as_bytes()).unwrap();
    }
    assert!(fixture.versions() <= 2, "{} versions", fixture.versions());
    assert!(fixture.server_has("a", b"version 14"));
}

/// go-filesystem.md 1.10: a block for every fsync.
#[test]
fn appending_with_fsync_leaves_no_trail_of_small_blocks() {
    let fixture = Fixture::old(&[]);
    let path = fixture.path().join("log");
    let mut expected = Vec::new();
    let mut file = File::create(&path).unwrap();
    for number in 0..60 {
        let line = format!("line {number} of a log that somebody wants to keep\n");
        file.write_all(line.as_bytes()).unwrap();
        file.sync_all().unwrap();
        expected.extend_from_slice(line.as_bytes());
    }
    close(file).unwrap();
    let blocks = fixture.client.manifest_of(&fixture.made.uuid).files["log"].len();
    assert!(blocks <= 10, "{blocks} blocks");
    assert!(fixture.server_has("log", &expected));
}

/// arv-mount.md 8.2: a block for every small file.
#[test]
fn small_files_share_blocks_also_across_folders() {
    let fixture = Fixture::old(&["--sync=exit"]);
    let path = fixture.path();
    for number in 0..60 {
        let folder = path.join(format!("folder{}", number % 6));
        let _ = fs::create_dir(&folder);
        save(&folder.join(format!("f{number}")), format!("content {number}").repeat(100).as_bytes()).unwrap();
    }
    let mut fixture = fixture;
    fixture.writer.unmount_well();
    let manifest = fixture.client.manifest_of(&fixture.made.uuid);
    assert!(manifest.blocks().len() <= 2 + 6, "{} blocks", manifest.blocks().len());
    assert!(fixture.server_has("folder3/f45", "content 45".repeat(100).as_bytes()));
}

/// go-filesystem.md 1.4: all of the collection waits for the upload.
#[test]
fn slow_commit_stops_no_reader_and_no_other_collection() {
    let fixture = Fixture::new(&QUIET);
    let other = fixture.client.collection("other", None, fixture.client.manifest(&[("f", b"foo")]));
    let (path, other) = (fixture.path(), fixture.writer.collection(&other.uuid));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    assert_eq!(fs::read(path.join("d/b")).unwrap(), b"second");
    assert_eq!(fs::read(other.join("f")).unwrap(), b"foo");
    let slow = json!([{"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "delay": 5}]);
    fixture.control("faults", json!({"api": slow}));
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| {
            let start = Instant::now();
            save(&path.join("slow"), b"slow").unwrap();
            start.elapsed()
        });
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
        assert_eq!(names(&path), ["a", "d", "slow"]);
        assert_eq!(errno(fs::metadata(path.join("missing"))), libc::ENOENT);
        assert_eq!(fs::read(path.join("slow")).unwrap(), b"slow");
        let mut file = File::create(path.join("another")).unwrap();
        file.write_all(b"another").unwrap();
        save(&other.join("g"), b"g").unwrap();
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        fixture.control("faults", json!({"api": []}));
        close(file).unwrap();
        assert!(saving.join().unwrap() > Duration::from_secs(4), "the test slowed nothing down");
    });
    assert!(fixture.server_has("slow", b"slow") && fixture.server_has("another", b"another"));
}

/// arv-mount.md 3.5: never a record; the content is in `.arvados#collection`.
#[test]
fn temporary_collection_is_written_and_makes_no_record() {
    let fixture = Fixture::new(&["--mount-tmp=tmp", "--mount-tmp=other"]);
    let (one, two) = (fixture.writer.path().join("tmp"), fixture.writer.path().join("other"));
    let since = fixture.sequence();
    save(&one.join("f"), b"one").unwrap();
    fs::create_dir(one.join("d")).unwrap();
    save(&one.join("d/g"), b"two").unwrap();
    fs::rename(one.join("f"), two.join("moved")).unwrap();
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(one.join(".arvados#collection")).unwrap()).unwrap();
    assert!(record["uuid"].is_null());
    assert!(record["manifest_text"].as_str().unwrap().ends_with(" 0:3:g\n"), "{record}");
    assert_eq!(fs::read(two.join("moved")).unwrap(), b"one");
    let is_change = |request: &String| !request.starts_with("GET") && !request.starts_with("WSMSG");
    let changes: Vec<String> = fixture.requests(since).into_iter().filter(is_change).collect();
    assert_eq!(changes, Vec::<String>::new());
    fs::rename(one.join("d/g"), fixture.path().join("kept")).unwrap();
    assert!(fixture.server_has("kept", b"two"));
}

/// Data and status of a command that runs on the mount arrive before its status.
#[test]
fn exec_saves_before_it_ends() {
    let mut fixture = Fixture::new(&["--sync=exit"]);
    fixture.writer.unmount_well();
    let mut command = fixture.writer.command();
    let file = fixture.path().join("made");
    let output = run(
        command.args(["--exec", "sh", "-c", &format!("echo made > {}; exit 3", file.display())]),
        Duration::from_secs(60),
    );
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fixture.server_has("made", b"made\n"));
}

#[test]
fn what_another_client_added_is_visible_in_a_second_and_kept() {
    let fixture = Fixture::new(&["--refresh-time=3600"]);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    // The listener needs a moment to be connected.
    std::thread::sleep(Duration::from_secs(2));
    fixture.client.put_files(&fixture.made.uuid, &[("from_elsewhere", b"theirs")]);
    let start = Instant::now();
    until("the event", || names(&path).contains(&"from_elsewhere".to_owned()));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    append(&path.join("a"), b" and more").unwrap();
    assert!(fixture.server_has("from_elsewhere", b"theirs") && fixture.server_has("a", b"first and more"));
}

/// A process that is started while a file is open closes its copy of the descriptor, beside whoever else does.
#[test]
fn close_waits_for_the_save_that_the_close_of_a_copy_has_begun() {
    let fixture = Fixture::old(&QUIET);
    let slow = json!([{"method": ["PUT", "PATCH"], "path": "/collections/", "delay": 1.0}]);
    let mut file = File::create(fixture.path().join("new")).unwrap();
    file.write_all(b"content").unwrap();
    fixture.control("faults", json!({"api": slow}));
    let copy = file.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || close(copy).unwrap());
        // Until the save is under way.
        std::thread::sleep(Duration::from_millis(300));
        close(file).unwrap();
        assert!(fixture.server_has("new", b"content"), "closed and not saved");
    });
}

/// Before the write under way nothing has brought the file to its new name on the server, and the save leaves it out.
#[test]
fn move_that_was_promised_outlives_a_save_that_leaves_the_file_out_because_it_is_being_written() {
    let mut fixture = Fixture::old(&[&QUIET[..], &["--sync=fsync"]].concat());
    let path = fixture.path();
    fs::rename(path.join("a"), path.join("moved")).unwrap();
    let mut half_written = File::options().append(true).open(path.join("moved")).unwrap();
    half_written.write_all(b", more").unwrap();
    let mut other = File::create(path.join("other")).unwrap();
    other.write_all(b"other").unwrap();
    other.sync_all().unwrap();
    assert!(fixture.server_has("other", b"other"));
    let names = fixture.server_names();
    assert!(names.contains(&"moved".to_owned()), "its old name is gone: {names:?}");
    fixture.writer.kill();
    drop((half_written, other));
    fixture.writer.clear();
    fixture.writer.start_again();
    let found = fs::read(fixture.path().join("moved")).unwrap();
    assert!(found.starts_with(b"first"), "{}", String::from_utf8_lossy(&found));
}

/// `mv` of a folder, and before that is saved somebody opens a file in it for writing, who got to the folder before.
#[test]
fn file_that_is_opened_in_a_folder_that_was_just_moved_is_not_left_out_of_the_save() {
    let mut fixture = Fixture::new(&[]);
    let path = fixture.path();
    let folder = File::open(path.join("d")).unwrap();
    let inside = PathBuf::from(format!("/proc/self/fd/{}/b", folder.as_raw_fd()));
    let slow = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "delay": 1.5, "times": 1});
    fixture.control("faults", json!({"api": [slow]}));
    let half_written = std::thread::scope(|scope| {
        scope.spawn(|| save(&path.join("under way"), b"x").unwrap());
        std::thread::sleep(Duration::from_millis(400));
        let moved = scope.spawn(|| fs::rename(path.join("d"), path.join("e")).unwrap());
        std::thread::sleep(Duration::from_millis(400));
        let mut file = File::options().append(true).open(&inside).unwrap();
        file.write_all(b", more").unwrap();
        moved.join().unwrap();
        file
    });
    let names = fixture.server_names();
    assert!(names.contains(&"e/b".to_owned()), "{names:?}");
    if !is_ours() {
        return;
    }
    fixture.writer.kill();
    drop((half_written, folder));
    fixture.writer.clear();
    fixture.writer.start_again();
    let found = fs::read(path.join("e/b")).unwrap();
    assert!(found.starts_with(b"second"), "{}", String::from_utf8_lossy(&found));
}

/// The journal is being written when the file is renamed, and before it is told of that somebody opens the file for writing.
#[test]
fn file_that_is_opened_before_the_journal_has_its_new_name_outlives_a_kill() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=idle:60"]);
    let path = fixture.path();
    let known = File::open(path.join("a")).unwrap();
    let large = vec![7; 60 << 20];
    let opened = std::thread::scope(|scope| {
        let other = File::create(path.join("large")).unwrap();
        (&other).write_all(&large).unwrap();
        scope.spawn(move || close(other).unwrap());
        std::thread::sleep(Duration::from_millis(10));
        let moved = scope.spawn(|| fs::rename(path.join("a"), path.join("moved")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        let again = open(Path::new(&format!("/proc/self/fd/{}", known.as_raw_fd())), libc::O_WRONLY).unwrap();
        moved.join().unwrap();
        again
    });
    fixture.writer.kill();
    drop((opened, known));
    fixture.writer.clear();
    fixture.writer.start_again();
    assert_eq!(fs::read(path.join("moved")).unwrap(), b"first");
}

/// `sync f` opens the file for reading.
#[test]
fn fsync_through_a_descriptor_for_reading_keeps_what_others_have_written() {
    if !is_ours() {
        return;
    }
    for mode in ["close", "idle:60"] {
        let mut fixture = Fixture::new(&[&format!("--sync={mode}")]);
        let path = fixture.path();
        let file = open(&path.join("half"), libc::O_CREAT | libc::O_WRONLY).unwrap();
        (&file).write_all(b"half written").unwrap();
        File::open(path.join("half")).unwrap().sync_all().unwrap();
        fixture.writer.kill();
        fixture.writer.clear();
        drop(file);
        fixture.writer.start_again();
        assert_eq!(fs::read(path.join("half")).unwrap(), b"half written", "{mode}");
    }
}

/// Log rotation.
#[test]
fn file_that_is_renamed_while_it_is_open_for_writing_outlives_a_kill() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=idle:60"]);
    let path = fixture.path();
    let file = open(&path.join("a"), libc::O_RDWR).unwrap();
    fs::rename(path.join("a"), path.join("a.1")).unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    drop(file);
    fixture.writer.start_again();
    assert_eq!(fs::read(path.join("a.1")).unwrap(), b"first");
    assert!(!path.join("a").exists());
}

/// A log that is turned over while its writer goes on: the server has it under the new name, and never under none.
#[test]
fn file_that_is_renamed_and_then_written_to_stays_on_the_server() {
    let fixture = Fixture::new(&["--sync=idle:1"]);
    let path = fixture.path();
    let file = open(&path.join("a"), libc::O_WRONLY | libc::O_APPEND).unwrap();
    fs::rename(path.join("a"), path.join("a.1")).unwrap();
    (&file).write_all(b" and more").unwrap();
    until("the old name is gone", || !fixture.server_names().contains(&"a".to_owned()));
    let names = fixture.server_names();
    assert!(names.contains(&"a.1".to_owned()), "{names:?}");
    close(file).unwrap();
    until("all of it is saved", || fixture.server_has("a.1", b"first and more"));
}

#[test]
fn emptying_an_empty_file_sets_its_time() {
    let fixture = Fixture::new(&[]);
    let stamp = fixture.path().join("stamp");
    save(&stamp, b"").unwrap();
    let before = fs::metadata(&stamp).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    save(&stamp, b"").unwrap();
    assert!(fs::metadata(&stamp).unwrap().modified().unwrap() > before);
}

#[test]
fn append_flag_counts_as_it_is_when_something_is_written() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    let file = open(&path.join("a"), libc::O_WRONLY | libc::O_APPEND).unwrap();
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"F", 0).unwrap();
    close(file).unwrap();
    assert!(fixture.server_has("a", b"First"));
}

/// The draft of a file that is open for writing is not forgotten with the collection, or what is written later goes nowhere.
#[test]
fn writer_goes_on_when_his_collection_comes_back_from_the_trash() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--refresh-time=1"]);
    let path = fixture.path();
    let file = open(&path.join("log"), libc::O_CREAT | libc::O_WRONLY | libc::O_APPEND).unwrap();
    (&file).write_all(b"one").unwrap();
    file.try_clone().unwrap().sync_all().unwrap();
    fixture.client.delete(&fixture.made.uuid);
    std::thread::sleep(Duration::from_secs(3));
    let _ = fs::read(path.join("a"));
    let back = json!({"is_trashed": false, "trash_at": null, "delete_at": null});
    fixture.control("raw", json!({"uuid": fixture.made.uuid, "set": back}));
    until("the collection to be back", || fs::read(path.join("a")).is_ok());
    let written = (&file).write_all(b", two");
    let closed = errno(close(file));
    // Either it is saved, or the writer hears that it is not.
    assert!(fixture.server_has("log", b"one, two") || written.is_err() || closed != 0, "{written:?} {closed}");
}

/// Upstream's meaning: of new collections, and of data in those that have no wish of their own.
#[test]
fn storage_classes_are_those_of_the_collection_and_for_new_ones_the_option() {
    let cluster = Cluster::start_with(&["--faults", "--keepstores=1", "--storage-class=archive"]);
    let client = Client::new(&cluster);
    let made = client.collection("old", None, String::new());
    let writer = Writer::start(&cluster, &["--storage-classes=archive", "--mount-home=home", "--mount-tmp=temporary"]);
    // What each upload since asked for.
    let uploads = |since: u64| -> Vec<serde_json::Value> {
        let logs = control(&cluster, "keeplog", json!({"since": [since]}));
        let entries = logs[0].as_array().unwrap().iter().filter(|entry| entry["m"] == "PUT");
        entries.map(|entry| entry["classes"].clone()).collect()
    };
    let last = || control(&cluster, "seq", json!({}))["keep"][0].as_u64().unwrap();
    let home = writer.path().join("home");
    fs::create_dir(home.join("new")).unwrap();
    let since = last();
    save(&home.join("new/f"), b"to be archived").unwrap();
    assert_eq!(uploads(since), [json!(["archive"])]);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(home.join("new/.arvados#collection")).unwrap()).unwrap();
    assert_eq!(record["storage_classes_desired"], json!(["archive"]));
    assert!(client.has(record["uuid"].as_str().unwrap(), "f", b"to be archived"));
    let since = last();
    save(&writer.collection(&made.uuid).join("f"), b"as before").unwrap();
    assert_eq!(uploads(since), [json!(["default"])]);
    let since = last();
    save(&writer.path().join("temporary/f"), b"temporary").unwrap();
    fs::read(writer.path().join("temporary/.arvados#collection")).unwrap();
    assert_eq!(uploads(since), [json!(["archive"])]);
}
