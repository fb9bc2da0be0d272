//! Journals of several mounts that were killed, with changes to the same collection.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::save;
use crate::mount_support::writer::{Writer, is_ours};
use crate::support::until;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Puts the journals of another mount to those of this one, as if they had had the same folder.
fn move_journals(from: &Path, to: &Path) {
    for account in fs::read_dir(from).unwrap().flatten() {
        for journal in fs::read_dir(account.path()).unwrap().flatten() {
            let account = to.join(account.file_name());
            fs::rename(journal.path(), account.join(journal.file_name())).unwrap();
        }
    }
}

/// Folders of all journals.
fn journal_folders(root: &Path) -> Vec<PathBuf> {
    let accounts = fs::read_dir(root).unwrap().flatten();
    accounts.flat_map(|account| fs::read_dir(account.path()).unwrap().flatten()).map(|journal| journal.path()).collect()
}

/// Contents of the files with this name, or with one that a conflict gave them.
fn versions(fixture: &Fixture, name: &str) -> Vec<String> {
    let names = fixture.server_names().into_iter().filter(|it| it == name || it.starts_with(&format!("{name}~")));
    let mut contents: Vec<String> = names.map(|name| fs::read_to_string(fixture.path().join(name)).unwrap()).collect();
    contents.sort();
    contents
}

/// Neither has seen what the other wrote, so neither may replace it.
#[test]
fn mounts_that_ran_at_the_same_time_and_died_are_to_each_other_as_any_client() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&[&["--sync=idle:60"], &QUIET[..]].concat());
    let path = fixture.path();
    save(&path.join("a"), b"of the first").unwrap();
    save(&path.join("both"), b"of the first").unwrap();
    let mut second = Writer::start(&fixture.cluster, &[&["--sync=idle:1"], &QUIET[..]].concat());
    let beside = second.collection(&fixture.made.uuid);
    save(&beside.join("a"), b"of the second").unwrap();
    let slow = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "delay": 3, "times": 1});
    fixture.control("faults", json!({"api": [slow]}));
    // It begins after a second, and takes three.
    std::thread::sleep(Duration::from_secs(2));
    save(&beside.join("both"), b"of the second").unwrap();
    until("the save", || fixture.server_has("a", b"of the second"));
    // And until its answer is noted.
    std::thread::sleep(Duration::from_millis(300));
    second.kill();
    second.clear();
    fixture.writer.kill();
    fixture.writer.clear();
    assert!(!fixture.server_names().contains(&"both".into()), "both have left it in their journals");
    move_journals(&second.journal(), &fixture.writer.journal());
    fixture.writer.start_again();
    let expected = ["of the first", "of the second"];
    until("all to be saved", || versions(&fixture, "both").len() == 2);
    assert_eq!(versions(&fixture, "a"), expected, "{:?}", fixture.server_names());
    assert_eq!(versions(&fixture, "both"), expected, "{:?}", fixture.server_names());
    fixture.writer.unmount_well();
}

/// The second has shown what the first left, and its user has replaced it.
#[test]
fn what_was_written_over_what_an_earlier_mount_left_is_no_conflict() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=idle:60", "--retries=0"]);
    let path = fixture.path();
    save(&path.join("a"), b"of the first mount").unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.refuse_saves(503);
    fixture.writer.start_again();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"of the first mount");
    save(&path.join("a"), b"of the second mount").unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.refuse_saves(0);
    fixture.writer.start_again();
    until("the last version to be saved", || fixture.server_has("a", b"of the second mount"));
    assert_eq!(versions(&fixture, "a"), ["of the second mount"]);
    fixture.writer.unmount_well();
}

/// The clock went back between the two, or nothing can be read of the second one's start.
#[test]
fn what_a_later_mount_removed_stays_away_whatever_the_clock_said_when_it_started() {
    if !is_ours() {
        return;
    }
    for is_damaged in [false, true] {
        let mut fixture = Fixture::new(&[&["--sync=idle:60", "--retries=0"], &QUIET[..]].concat());
        let path = fixture.path();
        fixture.refuse_saves(403);
        save(&path.join("removed"), b"of the first mount").unwrap();
        save(&path.join("replaced"), b"of the first mount").unwrap();
        fixture.writer.kill();
        fixture.writer.clear();
        let first = journal_folders(&fixture.writer.journal());
        fixture.writer.start_again();
        fs::remove_file(path.join("removed")).unwrap();
        save(&path.join("replaced"), b"of the second mount").unwrap();
        fixture.writer.kill();
        fixture.writer.clear();
        let mut second = journal_folders(&fixture.writer.journal());
        second.retain(|folder| !first.contains(folder));
        assert_eq!((first.len(), second.len()), (1, 1));
        let info = second[0].join("info.json");
        let mut stored: Value = serde_json::from_slice(&fs::read(&info).unwrap()).unwrap();
        stored["started"] = json!("2001-01-01T00:00:00Z");
        let stored = if is_damaged { "{".to_owned() } else { stored.to_string() };
        fs::write(&info, stored).unwrap();
        fixture.refuse_saves(0);
        fixture.writer.start_again();
        until("all to be saved", || fixture.writer.journals() == 1);
        assert_eq!(versions(&fixture, "replaced"), ["of the second mount"], "{is_damaged}");
        assert_eq!(versions(&fixture, "removed"), [""; 0], "{is_damaged}");
        fixture.writer.unmount_well();
    }
}

/// Each has shown what those before it had left, and has gone on from there.
#[test]
fn file_that_the_server_refuses_keeps_nothing_waiting_that_later_mounts_have_left() {
    if !is_ours() {
        return;
    }
    for is_removed in [false, true] {
        let mut fixture = Fixture::new(&[&["--sync=idle:60", "--retries=0"], &QUIET[..]].concat());
        let path = fixture.path();
        fs::create_dir(path.join("folder")).unwrap();
        for name in ["bad", "both", "folder/gone", "folder/stays"] {
            save(&path.join(name), b"of the first").unwrap();
        }
        fixture.writer.kill();
        fixture.writer.clear();
        fixture.refuse_saves(403);
        fixture.writer.start_again();
        save(&path.join("second"), b"of the second").unwrap();
        save(&path.join("both"), b"of the second").unwrap();
        fs::remove_file(path.join("folder/gone")).unwrap();
        fs::rename(path.join("folder"), path.join("renamed")).unwrap();
        fs::remove_file(path.join("a")).unwrap();
        for mount in ["third", "fourth"] {
            fixture.writer.kill();
            fixture.writer.clear();
            fixture.refuse_text("/bad", 422);
            fixture.writer.start_again();
            let mut shown = vec!["bad", "both", "d", "renamed", "second"];
            shown.extend((mount == "fourth").then_some("third"));
            assert_eq!(names(&path), shown, "{mount}");
            assert_eq!(fs::read(path.join("bad")).unwrap(), b"of the first", "{mount}");
            let mut saved = vec!["both", "d/b", "renamed/stays", "second"];
            saved.extend((mount == "fourth").then_some("third"));
            until("all others to be saved", || fixture.server_names() == saved);
            assert!(fixture.server_has("both", b"of the second") && fixture.server_has("second", b"of the second"));
            save(&path.join("third"), b"of the third").unwrap();
        }
        if is_removed {
            fs::remove_file(path.join("bad")).unwrap();
        }
        fixture.control("faults", json!({"api": []}));
        let saved = ["bad", "both", "d/b", "renamed/stays", "second", "third"];
        until("the rest to be saved", || fixture.server_names() == saved[usize::from(is_removed)..]);
        fixture.writer.unmount_well();
        assert_eq!(fixture.writer.journals(), 0, "{is_removed}");
        assert_eq!(fixture.server_names(), saved[usize::from(is_removed)..]);
    }
}
