//! What a save of ours must not overwrite unseen (`--commit-guard`).

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{errno, save};
use crate::mount_support::writer::is_ours;
use crate::support::until;
use serde_json::json;
use std::fs;
use std::time::Duration;

/// A mount that listens to events has saved a file of its own, and another client changes that in place: it makes no version, and
/// no event tells of it.
fn changed_in_place_and_unheard_of(options: &[&str]) -> Fixture {
    let fixture = Fixture::new(&[&["--refresh-time=3600"], options].concat());
    let path = fixture.path();
    until("the mount to listen", || fixture.control("ws", json!({}))["connections"] == 1);
    // However long the machine takes.
    fixture.control("config", json!({"PreserveVersionIfIdle": 3600}));
    save(&path.join("a"), b"mine").unwrap();
    fixture.control("ws", json!({"mute": true}));
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs")]);
    fixture
}

#[test]
fn guard_strict_sees_a_change_of_the_same_path() {
    let fixture = changed_in_place_and_unheard_of(&["--commit-guard=strict"]);
    save(&fixture.path().join("a"), b"mine again").unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert!(files.values().any(|content| content == b"theirs") && files["a"] == b"mine again", "{:?}", files.keys());
    if is_ours() {
        // The one case that `auto` does not see in time: without it the above would say nothing of `strict`.
        let fixture = changed_in_place_and_unheard_of(&["--commit-guard=auto"]);
        save(&fixture.path().join("a"), b"mine again").unwrap();
        let files = fixture.client.files(&fixture.made.uuid);
        assert!(!files.values().any(|content| content == b"theirs"), "{:?}", files.keys());
    }
}

/// By the mount's clock the collection was left alone for an hour. By the server's it is being changed.
#[test]
fn guard_strict_trusts_no_clock() {
    let fixture = Fixture::old(&[&QUIET[..], &["--commit-guard=strict"]].concat());
    let path = fixture.path();
    fixture.control("config", json!({"PreserveVersionIfIdle": 1e6}));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs")]);
    assert_eq!(fixture.versions(), 1, "it was not changed in place: this proves nothing");
    save(&path.join("a"), b"mine").unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert!(files.values().any(|content| content == b"theirs") && files["a"] == b"mine", "{:?}", files.keys());
}

/// The mount's request is held up while another client adds a file to the folder that goes.
#[test]
fn file_that_another_client_adds_to_a_folder_that_goes_is_kept() {
    if !is_ours() {
        return;
    }
    type Change = fn(&std::path::Path) -> std::io::Result<()>;
    let remove: Change = |path| fs::remove_dir(path.join("d"));
    let rename: Change = |path| fs::rename(path.join("d"), path.join("e"));
    for (name, change) in [("moved", rename), ("removed", remove)] {
        let fixture = Fixture::new(&["--refresh-time=3600"]);
        let path = fixture.path();
        until("the mount to listen", || fixture.control("ws", json!({}))["connections"] == 1);
        fixture.control("config", json!({"PreserveVersionIfIdle": 3600}));
        if name == "removed" {
            fs::remove_file(path.join("d/b")).unwrap();
        }
        save(&path.join("own"), b"own").unwrap();
        let slow = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "delay": 1.5, "times": 1});
        fixture.control("faults", json!({"api": [slow]}));
        let since = fixture.sequence();
        let changed = std::thread::scope(|scope| {
            let changing = scope.spawn(|| change(&path));
            until("the request", || fixture.requests(since).iter().any(|request| request.starts_with('P')));
            fixture.client.put_files(&fixture.made.uuid, &[("d/new", b"theirs")]);
            changing.join().unwrap()
        });
        changed.unwrap();
        let files = fixture.client.files(&fixture.made.uuid);
        assert!(files.values().any(|content| content == b"theirs"), "{name}: {:?}", files.keys());
        if name == "moved" {
            assert!(files["e/b"] == b"second" && !files.contains_key("d/b"), "{:?}", files.keys());
        }
    }
}

/// A new folder that is empty stands for all that is in it. Under `auto` no condition that a lone writer can have for nothing sees
/// what another client puts there in that moment: it is reported, and kept under `strict`.
#[test]
fn file_that_another_client_puts_into_a_folder_that_is_being_made_here_is_kept_or_reported() {
    if !is_ours() {
        return;
    }
    for guard in ["strict", "auto"] {
        let fixture = Fixture::new(&["--refresh-time=3600", &format!("--commit-guard={guard}")]);
        let path = fixture.path();
        until("the mount to listen", || fixture.control("ws", json!({}))["connections"] == 1);
        fixture.control("config", json!({"PreserveVersionIfIdle": 3600}));
        save(&path.join("own"), b"own").unwrap();
        let slow = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "delay": 5, "times": 1});
        fixture.control("faults", json!({"api": [slow]}));
        let since = fixture.sequence();
        std::thread::scope(|scope| {
            let making = scope.spawn(|| {
                fs::create_dir(path.join("n")).unwrap();
                fs::File::open(&path).unwrap().sync_all().unwrap();
            });
            until("the request", || fixture.requests(since).iter().any(|request| request.starts_with('P')));
            fixture.client.put_files(&fixture.made.uuid, &[("n/new", b"theirs")]);
            making.join().unwrap();
        });
        if guard == "strict" {
            assert!(fixture.server_has("n/new", b"theirs"), "{:?}", fixture.server_names());
            continue;
        }
        until("the report", || fixture.writer.log().contains("overwrote it"));
        let log = fixture.writer.log();
        assert!(log.lines().any(|line| line.contains("overwrote it") && line.contains("paths=\"n/new\"")), "{log}");
    }
}

/// The one case that `--commit-guard=auto` cannot see in time.
#[test]
fn overwritten_version_is_reported_by_path_and_with_the_way_to_it() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::old(&["--refresh-time=3600"]);
    let path = fixture.path();
    save(&path.join("common"), b"mine").unwrap();
    save(&path.join("mine alone"), b"mine").unwrap();
    // The listener needs a moment to be connected.
    std::thread::sleep(Duration::from_secs(2));
    let slow = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "delay": 1.5, "times": 1});
    fixture.control("faults", json!({"api": [slow]}));
    let theirs = std::thread::scope(|scope| {
        let saving = scope.spawn(|| save(&path.join("common"), b"mine again").unwrap());
        std::thread::sleep(Duration::from_millis(500));
        let theirs = fixture.client.put_files(&fixture.made.uuid, &[("common", b"theirs")]);
        saving.join().unwrap();
        theirs.portable_data_hash.clone()
    });
    assert!(fixture.server_has("common", b"mine again"), "it was overwritten, or the test is about nothing");
    let log = || fixture.writer.log();
    until("the report", || log().contains("overwrote it"));
    let log = log();
    let line = log.lines().find(|line| line.contains("overwrote it")).unwrap();
    assert!(line.contains("paths=\"common\"") && line.contains(&theirs) && line.contains("administrator"), "{line}");
    assert!(!line.contains("mine alone"), "{line}");
}

/// Whoever hears of nothing could not even report what he overwrites.
#[test]
fn mount_without_events_overwrites_nothing_unseen() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&QUIET);
    let path = fixture.path();
    save(&path.join("a"), b"ours").unwrap();
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs")]);
    save(&path.join("a"), b"ours again").unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert!(fixture.server_has("a", b"ours again"));
    assert!(files.values().any(|content| &content[..] == b"theirs"), "{:?}", files.keys());
}

/// Nothing told this mount of the other file but the answer to its own save.
#[test]
fn what_others_had_saved_before_an_unguarded_save_shows() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&[&QUIET[..], &["--commit-guard=none"]].concat());
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.client.put_files(&fixture.made.uuid, &[("theirs", b"theirs")]);
    save(&path.join("mine"), b"mine").unwrap();
    until("theirs to show", || names(&path) == ["a", "d", "mine", "theirs"]);
    assert_eq!(fs::read(path.join("theirs")).unwrap(), b"theirs");
    save(&path.join("mine"), b"mine again").unwrap();
    assert!(fixture.server_has("mine", b"mine again") && fixture.server_has("theirs", b"theirs"));
}

/// The request does not arrive, and until it is sent again another client changes the same file in place: within the save, or
/// with the next one.
#[test]
fn request_that_is_sent_again_overwrites_nothing_that_came_in_between() {
    if !is_ours() {
        return;
    }
    for retries in ["--retries=3", "--retries=0"] {
        let fixture = Fixture::new(&["--refresh-time=3600", retries]);
        let path = fixture.path();
        until("the mount to listen", || fixture.control("ws", json!({}))["connections"] == 1);
        fixture.control("config", json!({"PreserveVersionIfIdle": 3600}));
        save(&path.join("a"), b"mine").unwrap();
        fixture.control("ws", json!({"mute": true}));
        let rule = |fault: &str, value: serde_json::Value| json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "times": 1, fault: value});
        fixture.control("faults", json!({"api": [rule("drop", json!("before")), rule("delay", json!(2))]}));
        let since = fixture.sequence();
        let count = || fixture.requests(since).iter().filter(|request| request.starts_with('P')).count();
        std::thread::scope(|scope| {
            let saving = scope.spawn(|| errno(save(&path.join("a"), b"mine again")));
            until("the second attempt", || count() == 2);
            fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs")]);
            assert_eq!(saving.join().unwrap() == 0, retries == "--retries=3");
        });
        until("the second attempt to be through", || fixture.server_has("a", b"mine again"));
        let files = fixture.client.files(&fixture.made.uuid);
        assert!(files.values().any(|content| content == b"theirs"), "{retries}: {files:?}");
    }
}

/// Whole manifests race with those of another client, who does it with care.
#[test]
fn whole_manifest_wipes_out_nothing_that_another_client_saves_meanwhile() {
    let fixture = Fixture::new(&[]);
    let path = fixture.path();
    fixture.control("config", json!({"no_replace_files": true, "PreserveVersionIfIdle": 3600}));
    save(&path.join("before"), b"before").unwrap();
    let slow = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "delay": 1.5, "times": 1});
    fixture.control("faults", json!({"api": [slow]}));
    let since = fixture.sequence();
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| save(&path.join("mine"), b"mine").unwrap());
        until("the request", || fixture.requests(since).iter().any(|request| request.starts_with('P')));
        let files = [("a", &b"first"[..]), ("d/b", b"changed by them"), ("before", b"before"), ("theirs", b"theirs")];
        fixture.client.replace(&fixture.made.uuid, fixture.client.manifest(&files));
        saving.join().unwrap();
    });
    let files = fixture.client.files(&fixture.made.uuid);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "before", "d/b", "mine", "theirs"]);
    assert!(files["d/b"] == b"changed by them" && files["mine"] == b"mine", "{files:?}");
}

/// Where it needs to see everything, it sees to that though it was told to look at nothing.
#[test]
fn whole_manifests_are_saved_without_a_guard_too() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--commit-guard=none"]);
    let path = fixture.path();
    fixture.control("config", json!({"no_replace_files": true, "PreserveVersionIfIdle": 3600}));
    for content in [&b"mine"[..], b"mine again"] {
        save(&path.join("mine"), content).unwrap();
        assert!(fixture.server_has("mine", content));
    }
    assert_eq!(fixture.server_names(), ["a", "d/b", "mine"]);
}
