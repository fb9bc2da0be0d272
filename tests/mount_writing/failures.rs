//! What fails is told to who wrote, loses nothing, and the mount goes on.

use crate::fixture::{Fixture, QUIET, changed_behind_its_back, names};
use crate::mount_support::files::{append, close, errno, open, save, truncate};
use crate::mount_support::writer::{Writer, is_ours};
use crate::support::until;
use arvados::remote::api::CollectionUpdate;
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

/// arv-mount.md 8.1, 1: everybody gets ENOTCONN, and the process ends with status 0.
#[test]
fn failed_fsync_is_an_error_and_the_mount_lives() {
    let mut fixture = Fixture::new(&["--retries=0"]);
    let path = fixture.path();
    let mut file = File::create(path.join("new")).unwrap();
    // Before the write: starting a process closes a copy of the descriptor, which saves what was written.
    fixture.refuse_saves(403);
    file.write_all(b"content").unwrap();
    assert_eq!(errno(file.sync_all()), libc::EACCES);
    assert_eq!(errno(File::open(&path).and_then(|folder| folder.sync_all())), libc::EACCES);
    assert_eq!(fs::read(path.join("new")).unwrap(), b"content");
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    assert!(fixture.writer.process.as_mut().unwrap().try_wait().unwrap().is_none());
    let log = fixture.writer.log();
    assert!(log.contains(&fixture.made.uuid) && log.contains("403"), "{log}");
    fixture.refuse_saves(0);
    file.sync_all().unwrap();
    close(file).unwrap();
    assert!(fixture.server_has("new", b"content"));
}

/// arv-mount.md 3.1: all of them are EIO.
#[test]
fn refused_save_says_why_and_is_made_up_for() {
    let cases: [(u16, &[i32]); 5] = [
        (401, &[libc::EACCES, libc::EPERM]),
        (403, &[libc::EACCES, libc::EPERM]),
        (404, &[libc::ESTALE]),
        (422, &[libc::EIO, libc::EINVAL]),
        (500, &[libc::EIO]),
    ];
    for (status, expected) in cases {
        let fixture = Fixture::new(&["--retries=0"]);
        let path = fixture.path();
        assert_eq!(names(&path), ["a", "d"]);
        fixture.refuse_saves(status);
        let refused = errno(save(&path.join("new"), b"content"));
        assert!(expected.contains(&refused), "{status}: {refused}\n{}", fixture.writer.log());
        assert_eq!(fs::read(path.join("new")).unwrap(), b"content", "{status}: the data stay");
        fixture.refuse_saves(0);
        save(&path.join("next"), b"next").unwrap();
        assert!(fixture.server_has("next", b"next"));
        until("the refused file", || fixture.server_has("new", b"content"));
    }
}

#[test]
fn full_keep_is_no_space_and_a_failing_one_an_io_error() {
    for (status, expected) in [(507, vec![libc::ENOSPC, libc::EDQUOT]), (500, vec![libc::EIO])] {
        let fixture = Fixture::new(&["--retries=0"]);
        let path = fixture.path();
        fixture.control("faults", json!({"keep": [{"method": ["PUT"], "status": status}]}));
        let refused = errno(save(&path.join("new"), b"some content"));
        assert!(expected.contains(&refused), "{status}: {refused}");
        if status == 500 {
            assert!(fixture.writer.log().contains("Keep write error"), "the phrase that callers look for");
        }
        fixture.control("faults", json!({"keep": []}));
        append(&path.join("new"), b", more").unwrap();
        assert!(fixture.server_has("new", b"some content, more"));
    }
}

/// arv-mount.md 8.1, 4 (truncate by name), go-filesystem.md 3.2 (rmdir): and a later look at the record saves it.
#[test]
fn read_only_mount_cannot_be_changed() {
    let fixture = Fixture::new(&["--read-only"]);
    fixture.client.put_files(&fixture.made.uuid, &[("c", b"third")]);
    let hash = fixture.client.record(&fixture.made.uuid).portable_data_hash.clone();
    let path = fixture.path();
    assert_eq!(errno(truncate(&path.join("a"), 0)), libc::EROFS);
    assert_eq!(errno(fs::remove_dir(path.join("d"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(path.join("a"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(path.join("x"))), libc::EROFS);
    assert_eq!(errno(fs::rename(path.join("a"), path.join("x"))), libc::EROFS);
    assert_ne!(errno(open(&path.join("a"), libc::O_WRONLY | libc::O_TRUNC)), 0);
    File::open(path.join("a")).unwrap().sync_all().unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    fs::read(path.join(".arvados#collection")).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    assert_eq!(fixture.client.record(&fixture.made.uuid).portable_data_hash, hash);
}

/// go-filesystem.md 1.10: edits below a hash are accepted, fsync succeeds, and nothing is saved.
#[test]
fn collection_by_hash_cannot_be_changed() {
    let fixture = Fixture::new(&[]);
    let path = fixture.writer.collection(&fixture.made.hash);
    for refused in [
        errno(save(&path.join("x"), b"x")),
        errno(append(&path.join("a"), b"x")),
        errno(truncate(&path.join("a"), 0)),
        errno(fs::create_dir(path.join("x"))),
        errno(fs::remove_file(path.join("a"))),
        errno(fs::rename(path.join("a"), path.join("x"))),
        errno(fs::rename(path.join("a"), fixture.path().join("x"))),
    ] {
        assert!([libc::EPERM, libc::EACCES, libc::EROFS].contains(&refused), "{refused}");
    }
    assert_eq!(names(&path), ["a", "d"]);
}

#[test]
fn lost_answer_is_looked_after_and_not_repeated_blindly() {
    // And how many changes are sent in all: a save that has to be sent again asks for old versions to be kept first, as others may
    // have come in between.
    let faults = [
        (json!({"drop": "after"}), 1),
        (json!({"drop": "before"}), 3),
        (json!({"status": 502, "apply_first": true}), 1),
        (json!({"status": 502}), 3),
    ];
    for (fault, expected) in faults {
        let fixture = Fixture::old(&[]);
        let path = fixture.path();
        assert_eq!(names(&path), ["a", "d"]);
        let mut rule = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "times": 1});
        rule.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
        fixture.control("faults", json!({"api": [rule]}));
        let since = fixture.sequence();
        fs::rename(path.join("a"), path.join("moved")).unwrap();
        let requests = fixture.requests(since);
        let kinds: String = requests.iter().map(|request| request.chars().next().unwrap()).collect();
        assert_eq!(kinds.matches('P').count(), expected, "{fault}: {requests:?}");
        assert!(kinds.trim_start_matches('G').starts_with("PG"), "{fault}: looked after in between: {requests:?}");
        save(&path.join("d/b"), b"changed").unwrap();
        assert_eq!(fixture.server_names(), ["d/b", "moved"], "{fault}");
        assert!(fixture.server_has("d/b", b"changed"), "{fault}");
        assert_eq!(names(&path), ["d", "moved"], "{fault}: no conflict with oneself");
    }
}

/// The server seems to have it, but has what was saved in between, and the answer to that got lost.
#[test]
fn file_that_is_changed_back_after_an_answer_got_lost_is_not_saved_until_the_server_is_asked() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::old(&["--retries=0"]);
    let path = fixture.path();
    save(&path.join("x"), b"as before").unwrap();
    let lost = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "drop": "after"});
    let outage = json!({"method": ["GET"], "path": fixture.made.uuid, "status": 503});
    fixture.control("faults", json!({"api": [lost, outage]}));
    assert_ne!(errno(save(&path.join("x"), b"in between")), 0);
    let _ = save(&path.join("x"), b"as before");
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.control("faults", json!({"api": []}));
    assert!(fixture.server_has("x", b"in between"), "it has not arrived: this proves nothing");
    fixture.writer.start_again();
    until("the last version to be saved", || fixture.server_has("x", b"as before"));
    assert_eq!(fixture.server_names(), ["a", "d/b", "x"]);
}

/// A proxy gives up on a request that the server goes on with: it arrives when the file is removed again here.
#[test]
fn save_that_arrives_after_what_it_brings_was_removed_is_put_right() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--retries=0", "--refresh-time=3600"]);
    let path = fixture.path();
    until("the mount to listen", || fixture.control("ws", json!({}))["connections"] == 1);
    let block = fixture.client.block(b"late");
    let lost = json!({"method": ["PUT"], "path": fixture.made.uuid, "body": "replace_files", "drop": "before"});
    fixture.control("faults", json!({"api": [lost]}));
    assert_ne!(errno(save(&path.join("late"), b"late")), 0);
    fs::remove_file(path.join("late")).unwrap();
    fixture.control("faults", json!({"api": []}));
    let since = fixture.sequence();
    let text = format!(". {block} 0:4:late\n");
    let update = CollectionUpdate {
        manifest: Some(text),
        replace_files: [("/late".to_owned(), "manifest_text/late".to_owned())].into(),
        ..CollectionUpdate::default()
    };
    fixture.client.update(&fixture.made.uuid, &update).unwrap();
    assert!(fixture.server_names().contains(&"late".to_owned()));
    until("the file to be removed again", || fixture.server_names() == ["a", "d/b"]);
    assert_eq!(names(&path), ["a", "d"], "{:?}", fixture.requests(since));
}

/// Another client was faster, and what the merge has led to fails at the server.
#[test]
fn save_that_fails_after_a_merge_is_tried_again_with_pauses() {
    let fixture = changed_behind_its_back(&["--sync=idle:0.1", "--retries=0"], b"theirs");
    let path = fixture.path();
    let failing = json!({"method": ["PUT"], "path": fixture.made.uuid, "body": "conflict", "status": 500});
    fixture.control("faults", json!({"api": [failing]}));
    let since = fixture.sequence();
    save(&path.join("a"), b"mine").unwrap();
    until("a save to fail", || fixture.writer.log().contains("cannot save the collection"));
    std::thread::sleep(Duration::from_secs(3));
    let saves = fixture.requests(since).into_iter().filter(|request| request.starts_with('P')).count();
    assert!((2..15).contains(&saves), "{saves} requests in three seconds");
    fixture.control("faults", json!({"api": []}));
    until("both to be saved", || fixture.server_has("a", b"mine") && fixture.server_names().len() == 3);
}

#[test]
fn server_without_replace_files_gets_the_whole_manifest() {
    let fixture = Fixture::new(&[]);
    fixture.control("config", json!({"no_replace_files": true}));
    save(&fixture.path().join("new"), b"content").unwrap();
    fs::rename(fixture.path().join("a"), fixture.path().join("moved")).unwrap();
    assert!(fixture.server_has("new", b"content") && fixture.server_has("d/b", b"second"));
    assert_eq!(fixture.server_names(), ["d/b", "moved", "new"]);
}

#[test]
fn outage_of_the_api_is_survived() {
    let fixture = Fixture::old(&[]);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.control("faults", json!({"api": [{"status": 503, "times": 3, "empty": true}]}));
    save(&path.join("new"), b"content").unwrap();
    assert!(fixture.server_has("new", b"content"));
}

#[test]
fn what_was_closed_survives_the_death_of_the_mount() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    save(&path.join("new"), b"content").unwrap();
    append(&path.join("a"), b" and more").unwrap();
    fs::rename(path.join("d"), path.join("renamed")).unwrap();
    assert_eq!(fixture.server_names(), ["a", "d/b"], "nothing is saved yet");
    fixture.writer.start_after_kill();
    assert_eq!(names(&path), ["a", "new", "renamed"]);
    assert_eq!(fs::read(path.join("new")).unwrap(), b"content");
    fixture.writer.unmount_well();
    assert!(fixture.server_has("new", b"content") && fixture.server_has("a", b"first and more"));
    assert!(fixture.server_has("renamed/b", b"second"));
}

#[test]
fn failed_flush_at_the_end_is_a_status_and_keeps_the_data() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit", "--retries=0"]);
    save(&fixture.path().join("new"), b"content").unwrap();
    fixture.refuse_saves(403);
    let status = fixture.writer.unmount();
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    let log = fixture.writer.log();
    assert!(log.contains(fixture.writer.journal().to_str().unwrap()), "it says where the data are: {log}");
    fixture.refuse_saves(0);
    fixture.writer.start_again();
    assert_eq!(fs::read(fixture.path().join("new")).unwrap(), b"content");
    fixture.writer.unmount_well();
    assert!(fixture.server_has("new", b"content"));
}

/// fuse.md, trap 9: a third of the time `arv-mount` leaves them in state D for ever.
#[test]
fn users_of_a_killed_mount_get_an_error_within_a_second() {
    let mut fixture = Fixture::new(&[]);
    for _ in 0..3 {
        let path = fixture.path();
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let path = path.clone();
                std::thread::spawn(move || {
                    let mut number = 0;
                    while save(&path.join(format!("w{worker}-{}", number % 5)), b"content").is_ok() {
                        number += 1;
                        if fs::read_dir(&path).is_err() {
                            break;
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(700));
        let start = Instant::now();
        assert!(fixture.writer.kill(), "it does not die");
        while !workers.iter().all(|worker| worker.is_finished()) && start.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let waited = start.elapsed();
        fixture.writer.clear();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert!(waited < Duration::from_millis(1500), "{waited:?}");
        fixture.writer.start_again();
    }
}

#[test]
fn file_that_cannot_be_saved_holds_up_no_other() {
    let fixture = Fixture::new(&["--retries=0"]);
    let path = fixture.path();
    let other = fixture.client.collection("other", None, String::new());
    let other = fixture.writer.collection(&other.uuid);
    assert!(names(&other).is_empty());
    let rule = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "status": 403});
    fixture.control("faults", json!({"api": [rule]}));
    assert_ne!(errno(save(&path.join("refused"), b"x")), 0);
    save(&other.join("saved"), b"saved").unwrap();
    let file = File::open(&other).unwrap();
    file.sync_all().unwrap();
}

/// What is saved meanwhile is not what the journal has.
#[test]
fn journal_that_could_not_be_taken_over_at_once_is_kept_until_it_is() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=idle:3", "--disable-event-listening"]);
    let path = fixture.path();
    save(&path.join("left"), b"left by a killed mount").unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    let forbidden = json!({"method": ["GET"], "path": fixture.made.uuid, "status": 403, "times": 1});
    fixture.control("faults", json!({"api": [forbidden]}));
    fixture.writer.start_again();
    until("the mount to show the collection", || fs::read(path.join("a")).is_ok());
    save(&path.join("new"), b"of the next mount").unwrap();
    until("both to be saved", || {
        fixture.server_has("new", b"of the next mount") && fixture.server_has("left", b"left by a killed mount")
    });
    fixture.writer.unmount_well();
}

#[test]
fn refused_save_is_made_up_for_though_nobody_touches_the_mount() {
    for mode in ["close", "idle:1"] {
        let mut fixture = Fixture::old(&[&QUIET[..], &[&format!("--sync={mode}"), "--retries=0"]].concat());
        let path = fixture.path();
        assert_eq!(names(&path), ["a", "d"]);
        fixture.refuse_saves(403);
        let refused = errno(save(&path.join("new"), b"content"));
        assert_eq!(refused, if mode == "close" { libc::EACCES } else { 0 });
        until("the refusal", || fixture.writer.log().contains("403"));
        assert_eq!(fixture.server_names(), ["a", "d/b"]);
        fixture.refuse_saves(0);
        until("the refused file", || fixture.server_has("new", b"content"));
        fixture.writer.unmount_well();
    }
}

/// A line of the log about this collection that says what is to be done.
fn remedy(fixture: &Fixture, text: &str) -> String {
    let log = fixture.writer.log();
    let line =
        log.lines().find(|line| line.contains(&fixture.made.uuid) && line.contains("remedy") && line.contains(text));
    line.unwrap_or_else(|| panic!("no remedy with {text:?}: {log}")).to_owned()
}

#[test]
fn expired_token_is_told_and_costs_no_data() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    fixture.writer.unmount_well();
    let secret = "secret".repeat(9);
    let token = format!("v2/zzzzz-gj3su-0123456789abcde/{}", &secret[..50]);
    fixture.control("newtoken", json!({"token": token, "user": fixture.client.user()}));
    fixture.writer = Writer::start_as(&fixture.cluster, &["--retries=0"], &token);
    let path = fixture.path();
    save(&path.join("before"), b"before").unwrap();
    fixture.control("token", json!({"token": token, "expires_at": 1.5}));
    assert_eq!(errno(save(&path.join("new"), b"content")), libc::EACCES, "{}", fixture.writer.log());
    assert_eq!(errno(fs::remove_file(path.join("d/b"))), libc::EACCES);
    let line = remedy(&fixture, "token");
    assert!(line.contains("401"), "the cause: {line}");
    assert!(!fixture.writer.log().contains(&secret[..50]));
    assert_eq!(fs::read(path.join("new")).unwrap(), b"content", "the data stay");
    let status = fixture.writer.unmount();
    assert_eq!(status.code(), Some(1), "{}", fixture.writer.log());
    fixture.control("token", json!({"token": token, "expires_at": null}));
    fixture.writer.start_again();
    assert_eq!(fs::read(path.join("new")).unwrap(), b"content");
    fixture.writer.unmount_well();
    assert!(fixture.server_has("new", b"content") && fixture.server_has("before", b"before"));
    assert_eq!(fixture.server_names(), ["a", "before", "new"]);
}

#[test]
fn collection_in_the_trash_is_told_and_costs_no_data() {
    if !is_ours() {
        return;
    }
    for options in [&QUIET[..], &[]] {
        let mut fixture = Fixture::new(&[&["--retries=0"], options].concat());
        let path = fixture.path();
        assert_eq!(names(&path), ["a", "d"]);
        // What is written while nothing can be saved, first to a file that was open before.
        let mut file = File::create(path.join("open")).unwrap();
        fixture.client.delete(&fixture.made.uuid);
        file.write_all(b"content").unwrap();
        assert_eq!(errno(close(file)), libc::ESTALE, "{}", fixture.writer.log());
        let line = remedy(&fixture, "trash");
        assert!(line.contains("404"), "the cause: {line}");
        let status = fixture.writer.unmount();
        assert_eq!(status.code(), Some(1), "{}", fixture.writer.log());
        let back = json!({"is_trashed": false, "trash_at": null, "delete_at": null});
        fixture.control("raw", json!({"uuid": fixture.made.uuid, "set": back}));
        fixture.writer.start_again();
        until("the data that were left", || fixture.server_has("open", b"content"));
        fixture.writer.unmount_well();
        assert_eq!(fixture.server_names(), ["a", "d/b", "open"]);
    }
}
