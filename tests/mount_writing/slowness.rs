//! Who waits for a slow server, and who does not.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{append, errno, save};
use crate::support::until;
use arvados::remote::api::CollectionUpdate;
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

/// Much longer than everything else takes that is done meanwhile, on a loaded machine too.
const SLOW: f64 = 12.0;

fn hash(locator: &str) -> String {
    locator.split('+').next().unwrap().to_owned()
}

/// Reads of blocks that nobody has fetched yet, names that nobody has looked up, and writes.
fn use_everything_else(fixture: &Fixture, other: &std::path::Path, third: &std::path::Path) {
    let path = fixture.path();
    assert_eq!(fs::read(path.join("d/b")).unwrap(), b"second");
    assert_eq!(names(&path.join("d")), ["b"]);
    assert_eq!(errno(fs::metadata(path.join("missing"))), libc::ENOENT);
    assert_eq!(fs::read(other.join("f")).unwrap(), b"of another collection");
    assert_eq!(names(third), ["g"]);
    assert_eq!(fs::read(third.join("g")).unwrap(), b"of one that was not loaded");
    save(&other.join("written"), b"meanwhile").unwrap();
}

/// With the collections that [`use_everything_else`] wants: paths, and the uuid of the first.
fn others(fixture: &Fixture) -> (std::path::PathBuf, std::path::PathBuf, String) {
    let made = |name: &str, file: &str, content: &[u8]| {
        fixture.client.collection(name, None, fixture.client.manifest(&[(file, content)])).uuid
    };
    let (other, third) =
        (made("other", "f", b"of another collection"), made("third", "g", b"of one that was not loaded"));
    let (other_path, third_path) = (fixture.writer.collection(&other), fixture.writer.collection(&third));
    assert_eq!(names(&other_path), ["f"]);
    assert_eq!(names(&fixture.path()), ["a", "d"]);
    (other_path, third_path, other)
}

#[test]
fn block_that_comes_slowly_is_waited_for_by_its_readers_alone() {
    let fixture = Fixture::new(&QUIET);
    let (other, third, uuid) = others(&fixture);
    let path = fixture.path();
    let block = hash(&fixture.client.manifest_of(&fixture.made.uuid).files["a"][0].0);
    fixture.control("faults", json!({"keep": [{"method": ["GET"], "path": block, "delay": SLOW}]}));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| fs::read(path.join("a")).unwrap());
        let also_slow = scope.spawn(|| fs::read(path.join("a")).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(500));
        use_everything_else(&fixture, &other, &third);
        save(&path.join("new"), b"new").unwrap();
        assert!(!slow.is_finished() && !also_slow.is_finished(), "the test slowed nothing down, or others waited, too");
        assert!(fixture.client.manifest_of(&fixture.made.uuid).files.contains_key("new"));
        assert!(slow.join().unwrap().starts_with(b"first") && also_slow.join().unwrap().starts_with(b"first"));
    });
    fixture.control("faults", json!({"keep": []}));
    append(&path.join("a"), b" and more").unwrap();
    assert!(fixture.server_has("a", b"first and more") && fixture.client.has(&uuid, "written", b"meanwhile"));
}

#[test]
fn slow_save_holds_up_no_reader_of_blocks_that_are_not_there_yet() {
    let fixture = Fixture::new(&QUIET);
    let (other, third, _) = others(&fixture);
    let path = fixture.path();
    let slow = json!([{"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "delay": SLOW, "times": 1}]);
    fixture.control("faults", json!({"api": slow}));
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| save(&path.join("new"), b"new").unwrap());
        std::thread::sleep(std::time::Duration::from_millis(500));
        use_everything_else(&fixture, &other, &third);
        assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
        assert_eq!(fs::read(path.join("new")).unwrap(), b"new");
        assert!(!saving.is_finished(), "the test slowed nothing down, or readers waited, too");
    });
    assert!(fixture.server_has("new", b"new"));
}

#[test]
fn what_others_save_shows_while_a_large_file_is_on_its_way_to_keep() {
    let fixture = Fixture::new(&["--refresh-time=3600"]);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    until("the mount to listen", || fixture.control("ws", json!({}))["connections"] == 1);
    let manifest = format!(". {} 0:6:theirs\n", fixture.client.block(b"theirs"));
    fixture.control("faults", json!({"keep": [{"method": ["PUT"], "delay": SLOW}]}));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let large = scope.spawn(|| save(&path.join("large"), &vec![7; 8 << 20]).unwrap());
        std::thread::sleep(Duration::from_secs(1));
        let update = CollectionUpdate {
            manifest: Some(manifest),
            replace_files: [("/theirs".to_owned(), "manifest_text/theirs".to_owned())].into(),
            ..CollectionUpdate::default()
        };
        fixture.client.update(&fixture.made.uuid, &update).unwrap();
        until("theirs", || names(&path).contains(&"theirs".to_owned()));
        // Keep has not answered yet.
        assert!(began.elapsed().as_secs_f64() < SLOW, "{:?}", began.elapsed());
        assert_eq!(fs::read(path.join("theirs")).unwrap(), b"theirs");
        large.join().unwrap();
    });
    assert!(fixture.server_has("large", &vec![7; 8 << 20]) && fixture.server_has("theirs", b"theirs"));
    assert_eq!(fixture.server_names(), ["a", "d/b", "large", "theirs"]);
}
