//! A path that the server refuses for good stops no other.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{append, errno, save};
use crate::mount_support::writer::is_ours;
use crate::support::until;
use serde_json::json;
use std::fs::{self, File};
use std::time::Duration;

/// With a group of new files that was saved while the server refuses everything with `/bad` in it.
fn refused_among_others(options: &[&str], status: u16, others: usize) -> (Fixture, i32) {
    let fixture = Fixture::old(&[&QUIET, options].concat());
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.refuse_text("/bad", status);
    let file = |name: String| {
        let path = path.join(name);
        Box::new(move || errno(save(&path, b"content"))) as Box<dyn FnOnce() -> i32 + Send>
    };
    let mut changes: Vec<_> = (0..others).map(|number| file(format!("good{number}"))).collect();
    changes.push(file("bad".to_owned()));
    let mut results = fixture.together(changes);
    let bad = results.pop().unwrap();
    assert!(results.iter().all(|result| *result == 0), "{results:?}\n{}", fixture.writer.log());
    let on_server = fixture.server_names();
    for number in 0..others {
        assert!(on_server.contains(&format!("good{number}")), "{on_server:?}");
    }
    assert!(!on_server.contains(&"bad".to_owned()));
    assert_eq!(fs::read(path.join("bad")).unwrap(), b"content", "the data stay");
    (fixture, bad)
}

fn saves(fixture: &Fixture, since: u64) -> usize {
    fixture.requests(since).into_iter().filter(|request| request.starts_with('P')).count()
}

#[test]
fn refused_path_is_told_to_its_writer_and_all_others_are_saved() {
    for (status, expected) in [(400, libc::EIO), (413, libc::EFBIG), (422, libc::EIO)] {
        let (fixture, refused) = refused_among_others(&[], status, 8);
        assert_eq!(refused, expected, "{status}");
        let log = fixture.writer.log();
        let line = log.lines().find(|line| line.contains("this path cannot be saved")).expect(&log);
        for part in [&fixture.made.uuid, "bad", "this name is not allowed here", "remedy"] {
            assert!(line.contains(part), "{part} is missing: {line}");
        }
        assert!(!line.contains("good"), "{line}");
        fixture.control("faults", json!({"api": []}));
        append(&fixture.path().join("bad"), b", more").unwrap();
        assert!(fixture.server_has("bad", b"content, more"), "tried again when it was changed");
    }
}

#[test]
fn search_for_the_path_to_blame_costs_two_requests_a_halving() {
    let fixture = Fixture::old(&[&QUIET[..], &["--sync=fsync"]].concat());
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    for number in 0..100 {
        save(&path.join(format!("good{number}")), b"content").unwrap();
    }
    save(&path.join("good50 is bad"), b"content").unwrap();
    fixture.refuse_text("/good50 is bad", 422);
    let since = fixture.sequence();
    assert_eq!(errno(File::open(&path).unwrap().sync_all()), libc::EIO);
    let saves = saves(&fixture, since);
    assert!(saves <= 2 + 2 * 7, "{saves} requests for one of 101 paths");
    assert_eq!(fixture.server_names().len(), 2 + 100);
}

/// Somebody renames the file while it is being saved, and the server refuses its old name, which nobody has any more.
#[test]
fn close_does_not_hear_of_success_when_its_file_was_renamed_and_not_saved() {
    for (new, expected) in [("bad too", libc::EIO), ("fine", 0)] {
        let fixture = Fixture::old(&QUIET);
        let path = fixture.path();
        let refused = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "body": "/bad", "status": 422});
        fixture.control("faults", json!({"api": [refused], "keep": [{"method": ["PUT"], "delay": 1}]}));
        std::thread::scope(|scope| {
            scope.spawn(|| save(&path.join("under way"), b"x").unwrap());
            std::thread::sleep(Duration::from_millis(300));
            scope.spawn(|| save(&path.join("good"), b"good").unwrap());
            let closed = scope.spawn(|| errno(save(&path.join("bad"), b"content")));
            // The first save has ended by then, and the second waits for Keep.
            std::thread::sleep(Duration::from_millis(1200));
            let renamed = errno(fs::rename(path.join("bad"), path.join(new)));
            assert_eq!((closed.join().unwrap(), renamed), (expected, expected), "{new}\n{}", fixture.writer.log());
        });
        assert_eq!(fixture.server_has(new, b"content"), expected == 0);
    }
}

#[test]
fn refused_path_is_not_sent_again_and_again_but_when_its_folder_is_synchronised() {
    let (fixture, _) = refused_among_others(&[], 422, 4);
    let path = fixture.path();
    std::thread::sleep(Duration::from_millis(500));
    let since = fixture.sequence();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(saves(&fixture, since), 0, "nobody asked for it");
    save(&path.join("next"), b"next").unwrap();
    assert_eq!(saves(&fixture, since), 1, "others are saved as if nothing were");
    assert_eq!(errno(File::open(&path).unwrap().sync_all()), libc::EIO);
    fixture.control("faults", json!({"api": []}));
    File::open(&path).unwrap().sync_all().unwrap();
    assert!(fixture.server_has("bad", b"content") && fixture.server_has("next", b"next"));
}

#[test]
fn what_was_moved_to_a_refused_name_stays_on_the_server_until_it_has_another() {
    let fixture = Fixture::old(&QUIET);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.refuse_text("/bad", 422);
    let results = fixture.together(vec![
        Box::new(|| errno(fs::rename(path.join("a"), path.join("bad")))),
        Box::new(|| errno(save(&path.join("good"), b"content"))),
        Box::new(|| errno(fs::remove_file(path.join("d/b")))),
    ]);
    assert_eq!(results, [libc::EIO, 0, 0]);
    assert!(fixture.server_has("a", b"first") && fixture.server_has("good", b"content"));
    assert_eq!(fixture.server_names(), ["a", "good", "under way"]);
    assert_eq!(names(&path), ["bad", "d", "good", "under way"], "the mount shows what was done");
    fs::rename(path.join("bad"), path.join("fine")).unwrap();
    assert_eq!(fixture.server_names(), ["fine", "good", "under way"]);
    assert!(fixture.server_has("fine", b"first"));
}

#[test]
fn refused_path_survives_the_death_of_the_mount() {
    if !is_ours() {
        return;
    }
    let (mut fixture, _) = refused_among_others(&["--retries=0"], 422, 4);
    for number in 0..3 {
        // What was saved later must not take its record along.
        save(&fixture.path().join(format!("later{number}")), b"later").unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    fixture.writer.start_after_kill();
    assert_eq!(fs::read(fixture.path().join("bad")).unwrap(), b"content");
    fixture.control("faults", json!({"api": []}));
    until("the refused file", || fixture.server_has("bad", b"content"));
    fixture.writer.unmount_well();
    assert!(!fixture.server_names().iter().any(|name| name.contains("conflict")));
}

#[test]
fn refused_path_is_tried_at_the_end_and_kept_for_the_next_mount() {
    if !is_ours() {
        return;
    }
    let (mut fixture, _) = refused_among_others(&["--retries=0"], 422, 2);
    let status = fixture.writer.unmount();
    assert!(status.code().is_some_and(|code| code != 0), "{status:?}");
    fixture.control("faults", json!({"api": []}));
    fixture.writer.start_again();
    assert_eq!(fs::read(fixture.path().join("bad")).unwrap(), b"content");
    fixture.writer.unmount_well();
    assert!(fixture.server_has("bad", b"content"));
}
