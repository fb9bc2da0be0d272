//! Blocks that were brought to Keep before their save succeeded are signed for one token and one time. What is in them must
//! arrive although the save comes later, or from a mount with another token.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{append, close, errno, open, save};
use crate::mount_support::writer::is_ours;
use crate::support::until;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// More than a block.
const LARGE: usize = (64 << 20) + (5 << 20);

fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

/// New files of all sizes, and changes to those that are there; what must be on the server. Whether closing succeeds is the
/// caller's to say.
fn write_all(fixture: &Fixture, closes: bool) -> BTreeMap<&'static str, Vec<u8>> {
    let path = fixture.path();
    let new = [("small", 20), ("in the log", 60_000), ("medium", 3 << 20), ("large", LARGE)];
    let mut expected: BTreeMap<_, _> = (1..).zip(new).map(|(seed, (name, size))| (name, content(seed, size))).collect();
    for (name, data) in &expected {
        let mut file = fs::File::create(path.join(name)).unwrap();
        file.write_all(data).unwrap();
        // Then nobody has the bytes of the full block any more when the file is closed.
        std::thread::sleep(Duration::from_secs(if data.len() < LARGE { 0 } else { 2 }));
        assert_eq!(errno(close(file)) == 0, closes, "{name}");
    }
    assert_eq!(errno(append(&path.join("a"), b" and more")) == 0, closes);
    expected.insert("a", b"first and more".to_vec());
    let patched = open(&path.join("d/b"), libc::O_RDWR).unwrap();
    patched.write_all_at(b"X", 2).unwrap();
    drop(patched);
    expected.insert("d/b", b"seXond".to_vec());
    expected
}

fn all_is_saved(fixture: &Fixture, expected: &BTreeMap<&'static str, Vec<u8>>) -> bool {
    let files = fixture.client.files(&fixture.made.uuid);
    files.len() == expected.len() && expected.iter().all(|(name, data)| files.get(*name) == Some(data))
}

/// Files that wait in the journals of the mount without their bytes.
fn bare(fixture: &Fixture) -> BTreeSet<String> {
    let accounts = fs::read_dir(fixture.writer.journal()).unwrap().flatten();
    let journals = accounts.flat_map(|account| fs::read_dir(account.path()).unwrap().flatten());
    let mut bare = BTreeSet::new();
    for journal in journals {
        let contents = arvados::journal::Contents::read(&journal.path()).unwrap();
        for change in contents.pending.collections.values().flat_map(BTreeMap::values) {
            match &change.operation {
                arvados::journal::Operation::File { path, content, .. } if content.is_bare() => {
                    bare.insert(String::from_utf8(path.clone()).unwrap());
                }
                _ => {}
            }
        }
    }
    bare
}

fn until_journals_have_all(fixture: &Fixture) {
    until("the journal to have the bytes", || bare(fixture).is_empty());
}

/// A mount that cannot save, and has no room in its journal for what is in Keep of a large file.
fn with_a_bare_file() -> (Fixture, BTreeMap<&'static str, Vec<u8>>) {
    for _ in 0..10 {
        let fixture = Fixture::new(&["--journal-size=100M"]);
        fixture.refuse_saves(401);
        let expected = write_all(&fixture, false);
        until("the others to be in the journal", || bare(&fixture).iter().all(|name| name == "large"));
        // A process that another test starts in the wrong moment closes a copy of the descriptor: then the file may be in the
        // journal as it is on its way.
        if !bare(&fixture).is_empty() {
            return (fixture, expected);
        }
    }
    panic!("each time the journal had all");
}

/// Under `--sync=close` the blocks are in Keep when the save fails, under `--sync=fsync` full ones are there when a file is closed.
#[test]
fn what_was_written_outlives_the_signatures_of_its_blocks() {
    if !is_ours() {
        return;
    }
    for mode in ["--sync=close", "--sync=fsync"] {
        let mut fixture = Fixture::new(&[mode, "--retries=0"]);
        let path = fixture.path();
        fixture.refuse_saves(503);
        fixture.control("config", json!({"sign_expiry": 8}));
        let expected = write_all(&fixture, mode == "--sync=fsync");
        // A save that fails, so that it is known that this takes longer.
        assert_ne!(errno(fs::File::open(&path).unwrap().sync_all()), 0);
        until_journals_have_all(&fixture);
        std::thread::sleep(Duration::from_secs(10));
        for (name, data) in &expected {
            assert!(fs::read(path.join(name)).unwrap() == *data, "{mode}: {name} can be read");
        }
        fixture.refuse_saves(0);
        fixture.control("config", json!({"sign_expiry": null}));
        until("a save to succeed", || fs::File::open(&path).unwrap().sync_all().is_ok());
        assert!(all_is_saved(&fixture, &expected), "{mode}");
        fixture.writer.unmount_well();
    }
}

/// The blocks that are full are in Keep, and no save names them before the file is closed.
#[test]
fn file_that_is_written_for_longer_than_a_signature_lives_is_saved() {
    let mut fixture = Fixture::new(&["--sync=close"]);
    let path = fixture.path();
    fixture.writer.unmount_well();
    fixture.control("config", json!({"ttl": 20}));
    fixture.writer.start_again();
    let data = content(1, LARGE);
    let mut file = fs::File::create(path.join("large")).unwrap();
    file.write_all(&data).unwrap();
    std::thread::sleep(Duration::from_secs(25));
    file.write_all(b"end").unwrap();
    assert_eq!(errno(close(file)), 0);
    assert!(fixture.server_has("large", &[&data[..], b"end"].concat()));
}

/// Fetching blocks back is for when something goes wrong.
#[test]
fn nothing_is_fetched_from_keep_for_saves_that_succeed() {
    if !is_ours() {
        return;
    }
    for mode in ["--sync=close", "--sync=fsync"] {
        let mut fixture = Fixture::new(&[mode]);
        let path = fixture.path();
        let reads = || {
            let logs = fixture.control("keeplog", json!({}));
            let requests = logs.as_array().unwrap().iter().flat_map(|log| log.as_array().unwrap());
            requests.filter(|request| request["m"] != "PUT").count()
        };
        let before = reads();
        save(&path.join("large"), &content(1, LARGE)).unwrap();
        save(&path.join("small"), b"small").unwrap();
        fs::File::open(&path).unwrap().sync_all().unwrap();
        assert_eq!(reads(), before, "{mode}");
        fixture.writer.unmount_well();
    }
}

/// An administrator changes how long signatures live, and all that were given out before are void.
#[test]
fn signatures_that_have_become_void_are_had_anew() {
    let fixture = Fixture::old(&QUIET);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.control("config", json!({"ttl": 1_000_000}));
    assert_eq!(errno(append(&path.join("a"), b" and more")), 0);
    assert!(fixture.server_has("a", b"first and more"));
}

/// Another path is refused for what it is, so the save is taken apart.
#[test]
fn void_signatures_are_had_anew_also_where_a_save_is_taken_apart() {
    let fixture = Fixture::old(&[&QUIET[..], &["--retries=0"]].concat());
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.control("config", json!({"ttl": 1_000_000}));
    fixture.refuse_text("/bad", 422);
    let good = path.join("a");
    let bad = path.join("bad");
    let results = fixture.together(vec![
        Box::new(move || errno(append(&good, b" and more"))),
        Box::new(move || errno(save(&bad, b"bad"))),
    ]);
    assert!(results[0] == 0 && results[1] != 0, "{results:?}\n{}", fixture.writer.log());
    assert!(fixture.server_has("a", b"first and more"));
}

/// A user who has lost the permission to write tries again and again.
#[test]
fn keep_is_asked_only_once_about_the_blocks_of_a_save_that_is_forbidden() {
    let fixture = Fixture::old(&[&QUIET[..], &["--retries=0"]].concat());
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    let questions = || {
        let logs = fixture.control("keeplog", json!({}));
        let requests = logs.as_array().unwrap().iter().flat_map(|log| log.as_array().unwrap());
        requests.filter(|request| request["m"] == "HEAD").count()
    };
    fixture.refuse_saves(403);
    assert_ne!(errno(append(&path.join("a"), b" and more")), 0);
    let first = questions();
    assert!(first > 0, "the server does not say whether it is for the blocks");
    for _ in 0..3 {
        assert_ne!(errno(fs::File::open(&path).unwrap().sync_all()), 0);
    }
    assert_eq!(questions(), first);
    fixture.refuse_saves(0);
    until("a save to succeed", || fs::File::open(&path).unwrap().sync_all().is_ok());
    assert!(fixture.server_has("a", b"first and more"));
}

/// The token has expired: the server answers 401, and there is another one when somebody mounts again.
#[test]
fn unsaved_data_of_a_killed_mount_are_saved_with_another_token() {
    if !is_ours() {
        return;
    }
    for mode in ["--sync=close", "--sync=fsync"] {
        let mut fixture = Fixture::new(&[mode]);
        let path = fixture.path();
        fixture.refuse_saves(401);
        let expected = write_all(&fixture, mode == "--sync=fsync");
        assert_ne!(errno(fs::File::open(&path).unwrap().sync_all()), 0);
        until_journals_have_all(&fixture);
        fixture.writer.kill();
        fixture.writer.clear();
        fixture.refuse_saves(0);
        fixture.start_with_another_token();
        for (name, data) in &expected {
            assert!(fs::read(path.join(name)).unwrap() == *data, "{mode}: {name} can be read");
        }
        until("all to be saved", || all_is_saved(&fixture, &expected));
        fixture.writer.unmount_well();
        assert!(!fixture.writer.log().contains("not signed for this token"), "nothing had to be refused first");
    }
}

/// No save has failed, since none was tried: what waits for a minute is fetched all the same.
#[test]
fn killed_mount_that_had_not_saved_for_long_leaves_all_to_one_with_another_token() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let expected = write_all(&fixture, true);
    until_journals_have_all(&fixture);
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.start_with_another_token();
    until("all to be saved", || all_is_saved(&fixture, &expected));
    fixture.writer.unmount_well();
}

/// Under `--sync=exit` the end of the mount is the first save of all.
#[test]
fn mount_that_cannot_save_at_its_end_leaves_all_to_one_with_another_token() {
    if !is_ours() {
        return;
    }
    for mode in ["--sync=close", "--sync=exit"] {
        let mut fixture = Fixture::new(&[mode]);
        if mode == "--sync=close" {
            fixture.refuse_saves(401);
        }
        let expected = write_all(&fixture, mode == "--sync=exit");
        fixture.refuse_saves(401);
        assert!(!fixture.writer.unmount().success(), "{mode}");
        fixture.refuse_saves(0);
        fixture.start_with_another_token();
        until("all to be saved", || all_is_saved(&fixture, &expected));
        fixture.writer.unmount_well();
    }
}

/// Where the journal has no room for the bytes it has locators, which are good for one token only.
#[test]
fn file_whose_blocks_another_token_cannot_save_holds_back_no_other() {
    if !is_ours() {
        return;
    }
    let (mut fixture, expected) = with_a_bare_file();
    let path = fixture.path();
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.refuse_saves(0);
    let old = fixture.writer.token().to_owned();
    fixture.start_with_another_token();
    let mut without = expected.clone();
    without.remove("large");
    until("the others to be saved", || all_is_saved(&fixture, &without));
    save(&path.join("new"), b"new").unwrap();
    assert!(fixture.server_has("new", b"new"), "and what comes later");
    let log = fixture.writer.log();
    let line = log.lines().find(|line| line.contains("this path cannot be saved")).expect(&log);
    assert!(line.contains("large") && line.contains("another token") && !line.contains("medium"), "{line}");
    // Nor what a later mount leaves.
    fixture.refuse_saves(401);
    assert_ne!(errno(save(&path.join("later"), b"later")), 0);
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.refuse_saves(0);
    fixture.writer.start_again();
    until("what comes later still", || fixture.server_has("later", b"later"));
    assert!(!fixture.writer.unmount().success(), "something is not saved");
    fixture.writer.use_token(&old);
    fixture.writer.start_again();
    until("the rest to be saved", || fixture.server_has("large", &expected["large"]));
    fixture.writer.unmount_well();
}
