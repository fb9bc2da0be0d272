//! `--on-conflict=error`: who has written to a path that another client has changed hears of it, and his data stay here.

use crate::fixture::{Fixture, QUIET, changed_behind_its_back, names};
use crate::mount_support::files::{close, errno, open, save};
use crate::mount_support::writer::is_ours;
use crate::support::until;
use serde_json::json;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

#[test]
fn policy_error_tells_the_writer_and_keeps_his_data() {
    if !is_ours() {
        return;
    }
    let fixture = changed_behind_its_back(&["--on-conflict=error"], b"theirs");
    let refused = errno(save(&fixture.path().join("a"), b"mine"));
    assert_ne!(refused, 0);
    assert!(fixture.server_has("a", b"theirs"));
    assert_eq!(fs::read(fixture.path().join("a")).unwrap(), b"mine");
    save(&fixture.path().join("c"), b"another").unwrap();
    assert!(fixture.server_has("c", b"another"), "others are saved");
    assert!(fixture.server_has("a", b"theirs"), "and theirs is still there");
}

#[test]
fn policy_error_fails_only_those_who_wait_for_the_conflicting_path() {
    if !is_ours() {
        return;
    }
    let fixture = changed_behind_its_back(&["--on-conflict=error"], b"theirs");
    let path = fixture.path();
    let slow = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "delay": 0.5, "times": 1});
    fixture.control("faults", json!({"api": [slow]}));
    let results = fixture.together(vec![
        Box::new(|| errno(save(&path.join("a"), b"mine"))),
        Box::new(|| errno(save(&path.join("c"), b"another"))),
        Box::new(|| errno(fs::rename(path.join("d"), path.join("e")))),
    ]);
    assert_eq!(results, [libc::EBUSY, 0, 0], "{}", fixture.writer.log());
    assert!(fixture.server_has("c", b"another") && fixture.server_has("e/b", b"second"));
    save(&path.join("later"), b"later").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(fixture.server_has("a", b"theirs"), "ours waits until it is written to again");
    assert_eq!(fs::read(path.join("a")).unwrap(), b"mine");
    save(&path.join("a"), b"mine again").unwrap();
    assert!(fixture.server_has("a", b"mine again"));
}

#[test]
fn conflict_under_policy_error_outlives_the_mount() {
    if !is_ours() {
        return;
    }
    let mut fixture = changed_behind_its_back(&["--on-conflict=error"], b"theirs");
    let path = fixture.path();
    assert_eq!(errno(save(&path.join("a"), b"mine")), libc::EBUSY);
    save(&path.join("later"), b"later").unwrap();
    let status = fixture.writer.unmount();
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    assert!(fixture.server_has("a", b"theirs"), "not replaced at the end");
    fixture.writer.start_again();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"mine");
    assert!(fixture.server_has("a", b"theirs"), "nor by the next mount");
    save(&path.join("a"), b"mine again").unwrap();
    assert!(fixture.server_has("a", b"mine again"));
}

/// Theirs arrives while somebody is writing, who goes on and knows nothing of it.
#[test]
fn policy_error_tells_a_writer_in_the_middle_of_writing() {
    if !is_ours() {
        return;
    }
    for sync in ["--sync=close", "--sync=idle:60"] {
        let mut fixture = Fixture::new(&["--refresh-time=1", "--on-conflict=error", sync]);
        let path = fixture.path();
        let file = open(&path.join("a"), libc::O_WRONLY).unwrap();
        file.write_all_at(b"mine", 0).unwrap();
        // A save comes by that leaves out what is half written.
        save(&path.join("another"), b"another").unwrap();
        std::thread::sleep(Duration::from_secs(2));
        fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs"), ("sign", b"")]);
        until("theirs to arrive", || names(&path).contains(&"sign".to_owned()));
        file.write_all_at(b"mine, more of it", 0).unwrap();
        assert_eq!(errno(file.sync_all()), libc::EBUSY, "{sync}");
        assert_eq!(errno(fs::remove_file(path.join("a"))), libc::EBUSY, "{sync}");
        assert_eq!(errno(fs::rename(path.join("another"), path.join("a"))), libc::EBUSY, "{sync}");
        file.write_all_at(b"MINE", 0).unwrap();
        assert_eq!(errno(close(file)), libc::EBUSY, "{sync}");
        assert_eq!(fs::read(path.join("a")).unwrap(), b"MINE, more of it", "{sync}");
        save(&path.join("later"), b"later").unwrap();
        std::thread::sleep(Duration::from_secs(2));
        assert!(fixture.server_has("a", b"theirs"), "{sync}");
        fixture.writer.start_after_kill();
        until("the journal to be taken over", || fs::read(path.join("a")).unwrap() == b"MINE, more of it");
        assert!(fixture.server_has("a", b"theirs"), "{sync}");
        save(&path.join("a"), b"mine again").unwrap();
        fs::read(path.join(".arvados#collection")).unwrap();
        assert!(fixture.server_has("a", b"mine again"), "{sync}");
    }
}

/// As above, but he has not written anything yet.
#[test]
fn policy_error_tells_a_writer_who_has_only_opened_the_file_yet() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--refresh-time=1", "--on-conflict=error"]);
    let path = fixture.path();
    let file = open(&path.join("a"), libc::O_WRONLY).unwrap();
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs"), ("sign", b"")]);
    until("theirs to arrive", || names(&path).contains(&"sign".to_owned()));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"theirs");
    file.write_all_at(b"mine!", 0).unwrap();
    assert_eq!(errno(close(file)), libc::EBUSY);
    assert_eq!(fs::read(path.join("a")).unwrap(), b"mine!");
    save(&path.join("later"), b"later").unwrap();
    assert!(fixture.server_has("a", b"theirs"));
    fixture.writer.start_after_kill();
    until("the journal to be taken over", || fs::read(path.join("a")).unwrap() == b"mine!");
    assert!(fixture.server_has("a", b"theirs"));
    save(&path.join("a"), b"mine again").unwrap();
    assert!(fixture.server_has("a", b"mine again"));
}

/// The refused request is still noted in the journal: what may have arrived is no reason to take the conflict back.
#[test]
fn conflict_under_policy_error_outlives_a_mount_that_saved_nothing_else() {
    if !is_ours() {
        return;
    }
    // Of a collection that was left alone the version is known to tell: the request goes out, and is refused.
    let mut fixture = Fixture::old(&[QUIET[0], QUIET[1], "--on-conflict=error"]);
    let path = fixture.path();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs")]);
    assert_eq!(errno(save(&path.join("a"), b"mine")), libc::EBUSY);
    let status = fixture.writer.unmount();
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    fixture.writer.start_again();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"mine");
    assert!(fixture.server_has("a", b"theirs"));
}

/// A program that reads a file and then writes it anew has not seen what arrived in between.
#[test]
fn policy_error_tells_who_writes_a_file_anew_that_another_client_saved_just_now() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--refresh-time=1", "--on-conflict=error"]);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs"), ("sign", b"")]);
    until("theirs to arrive", || names(&path).contains(&"sign".to_owned()));
    assert_eq!(errno(save(&path.join("a"), b"mine")), libc::EBUSY);
    save(&path.join("later"), b"later").unwrap();
    assert!(fixture.server_has("a", b"theirs"));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"mine");
    save(&path.join("a"), b"mine again").unwrap();
    assert!(fixture.server_has("a", b"mine again"));
}

/// What is made in the folder that is in conflict would bring it back, and theirs would be replaced.
#[test]
fn policy_error_makes_nothing_in_a_folder_whose_conflict_a_writer_does_not_know_of() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--refresh-time=1", "--on-conflict=error", "--sync=idle:60"]);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fs::create_dir(path.join("e")).unwrap();
    let file = open(&path.join("e/x"), libc::O_WRONLY | libc::O_CREAT).unwrap();
    file.write_all_at(b"mine", 0).unwrap();
    fixture.client.put_files(&fixture.made.uuid, &[("e", b"theirs"), ("sign", b"")]);
    until("theirs to arrive", || names(&path).contains(&"sign".to_owned()));
    assert_eq!(errno(save(&path.join("e/y"), b"another")), libc::EBUSY);
    assert_eq!(errno(fs::create_dir(path.join("e/z"))), libc::EBUSY);
    assert_eq!(errno(fs::read(path.join(".arvados#collection"))), libc::EBUSY);
    assert!(fixture.server_has("e", b"theirs"));
    // A program that another test starts closes a copy of it at any time, and what that had flushed counts as told.
    file.write_all_at(b"MINE", 0).unwrap();
    assert_eq!(errno(close(file)), libc::EBUSY);
    save(&path.join("e/y"), b"another").unwrap();
    fs::read(path.join(".arvados#collection")).unwrap();
    assert!(fixture.server_has("e/x", b"MINE") && fixture.server_has("e/y", b"another"), "who knows of it means it");
}

/// A folder was moved, and whether that arrived is not known. What is in it is in conflict by then.
#[test]
fn conflict_in_a_folder_that_may_have_arrived_stands() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::old(&[QUIET[0], QUIET[1], "--on-conflict=error", "--retries=0"]);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    let lost = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "body": "replace_files", "drop": "after"});
    let outage = json!({"method": ["GET"], "path": fixture.made.uuid, "status": 503});
    fixture.control("faults", json!({"api": [lost, outage]}));
    assert_ne!(errno(fs::rename(path.join("d"), path.join("e"))), 0);
    fixture.control("faults", json!({"api": []}));
    assert!(fixture.server_has("e/b", b"second"), "it has not arrived: this proves nothing");
    fixture.client.put_files(&fixture.made.uuid, &[("e/b", b"theirs")]);
    until("the conflict", || fixture.writer.log().contains("changed here and by another client"));
    save(&path.join("later"), b"later").unwrap();
    assert!(fixture.server_has("later", b"later") && fixture.server_has("e/b", b"theirs"));
    assert_eq!(fs::read(path.join("e/b")).unwrap(), b"second");
}
