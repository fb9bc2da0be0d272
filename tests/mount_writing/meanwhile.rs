//! What others do while a look at the server or a save is under way.

use crate::fixture::{Fixture, names};
use crate::mount_support::files::save;
use crate::mount_support::writer::is_ours;
use crate::support::until;
use serde_json::json;
use std::fs;

/// A mount that hears of everything, and looks at nothing of its own accord.
fn listening(options: &[&str]) -> Fixture {
    let fixture = Fixture::new(&[&["--refresh-time=3600"], options].concat());
    assert_eq!(names(&fixture.path()), ["a", "d"]);
    until("the mount to listen", || fixture.control("ws", json!({}))["connections"] == 1);
    fixture
}

/// The collection has the content with which it was made.
fn restore(fixture: &Fixture) {
    let first = fixture.client.manifest(&[("a", b"first"), ("d/b", b"second")]);
    fixture.client.replace(&fixture.made.uuid, first);
}

fn is_reading_from_keep(fixture: &Fixture) -> bool {
    let logs = fixture.control("keeplog", json!({}));
    let mut requests = logs.as_array().unwrap().iter().flat_map(|log| log.as_array().unwrap());
    requests.any(|request| request["m"] == "GET")
}

/// A program makes a lock and removes it while the mount compares bytes of another file, which takes its time.
#[test]
fn change_that_is_undone_while_it_is_merged_does_not_stay() {
    if !is_ours() {
        return;
    }
    let fixture = listening(&["--sync=exit"]);
    let path = fixture.path();
    save(&path.join("x"), b"ours!").unwrap();
    fixture.control("faults", json!({"keep": [{"method": ["GET"], "delay": 6}]}));
    fixture.client.put_files(&fixture.made.uuid, &[("x", b"their"), ("lock", b"")]);
    until("the mount to compare", || is_reading_from_keep(&fixture));
    restore(&fixture);
    fixture.control("faults", json!({"keep": []}));
    until("the merge", || names(&path).iter().any(|name| name.contains("~conflict~")));
    until("the lock to be gone", || !names(&path).contains(&"lock".to_owned()));
    assert_eq!(fs::read(path.join("x")).unwrap(), b"ours!");
}

/// The server tells of a save, and of its end, before it answers.
#[test]
fn save_that_others_undo_before_it_is_answered_does_not_stay() {
    if !is_ours() {
        return;
    }
    let fixture = listening(&[]);
    let path = fixture.path();
    fixture.control("config", json!({"event_lead": 4}));
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| save(&path.join("x"), b"ours").unwrap());
        until("the save to arrive", || fixture.server_names().contains(&"x".to_owned()));
        restore(&fixture);
        saving.join().unwrap();
    });
    fixture.control("config", json!({"event_lead": 0}));
    until("the file to be gone", || names(&path) == ["a", "d"]);
}
