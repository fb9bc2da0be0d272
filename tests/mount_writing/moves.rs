//! Moves from one collection to another: two saves, of which either may fail.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{append, close, errno, open, rename_with, save};
use crate::mount_support::writer::is_ours;
use crate::support::{succeed, until};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// With another collection that has the files `taken` (`"theirs"`) and `full/x` (`"x"`): its uuid, and where it is shown.
fn two_collections(options: &[&str]) -> (Fixture, String, PathBuf) {
    with_another(Fixture::old(&[&QUIET[..], options].concat()))
}

fn with_another(fixture: Fixture) -> (Fixture, String, PathBuf) {
    let manifest = fixture.client.manifest(&[("taken", b"theirs"), ("full/x", b"x")]);
    let other = fixture.client.collection("other", None, manifest);
    let path = fixture.writer.collection(&other.uuid);
    assert_eq!((names(&fixture.path()), names(&path)), (strings(&["a", "d"]), strings(&["full", "taken"])));
    (fixture, other.uuid, path)
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn refuse_saves_of(fixture: &Fixture, uuid: &str, status: u16) {
    let rule = json!({"method": ["PUT", "PATCH"], "path": uuid, "status": status});
    fixture.control("faults", json!({"api": [rule]}));
}

#[test]
fn move_into_a_collection_whose_saves_are_refused_fails_and_loses_nothing() {
    for (status, expected) in [(403, libc::EACCES), (500, libc::EIO)] {
        let (fixture, uuid, other) = two_collections(&["--retries=0"]);
        let path = fixture.path();
        save(&path.join("written"), b"written here").unwrap();
        fs::create_dir_all(path.join("deep/er")).unwrap();
        save(&path.join("deep/er/f"), b"deep").unwrap();
        refuse_saves_of(&fixture, &uuid, status);
        for name in ["a", "written", "d", "deep"] {
            let refused = errno(fs::rename(path.join(name), other.join(name)));
            assert_eq!(refused, expected, "{status} {name}: {}", fixture.writer.log());
        }
        // A move that fails has not happened where it began, neither in the mount nor on the server.
        assert_eq!(names(&path), ["a", "d", "deep", "written"]);
        assert_eq!(fixture.server_names(), ["a", "d/b", "deep/er/f", "written"]);
        let files = fixture.client.files(&uuid);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["full/x", "taken"]);
        assert_eq!(fs::read(path.join("written")).unwrap(), b"written here");
        assert_eq!(fs::read(path.join("deep/er/f")).unwrap(), b"deep");
        assert_eq!(fs::read(other.join("taken")).unwrap(), b"theirs");
        fixture.control("faults", json!({"api": []}));
        // What was to be added to the target is saved as soon as it can be; so both have it, and never none.
        fs::File::open(&other).unwrap().sync_all().unwrap();
        let files = fixture.client.files(&uuid);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "d/b", "deep/er/f", "full/x", "taken", "written"]);
        assert_eq!(fixture.server_names(), ["a", "d/b", "deep/er/f", "written"]);
        assert_eq!(names(&other), ["a", "d", "deep", "full", "taken", "written"]);
        for name in ["a", "written"] {
            fs::rename(path.join(name), other.join(name)).unwrap();
        }
        for name in ["d", "deep"] {
            assert_eq!(errno(fs::rename(path.join(name), other.join(name))), libc::ENOTEMPTY);
            fs::remove_dir_all(other.join(name)).unwrap();
            fs::rename(path.join(name), other.join(name)).unwrap();
        }
        assert!(names(&path).is_empty() && fixture.server_names().is_empty());
        let files = fixture.client.files(&uuid);
        let expected = [
            ("a", &b"first"[..]),
            ("d/b", b"second"),
            ("deep/er/f", b"deep"),
            ("full/x", b"x"),
            ("taken", b"theirs"),
            ("written", b"written here"),
        ];
        let found: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
        assert_eq!(found, expected);
    }
}

/// Where only the journal promises a move, one half of it may be saved long before the other.
fn move_half_of_which_is_refused_outlives_a_kill(refuses_target: bool) {
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:1", "--retries=0"]);
    let path = fixture.path();
    refuse_saves_of(&fixture, if refuses_target { &uuid } else { &fixture.made.uuid }, 403);
    // In Keep, partly in Keep, and not at all.
    append(&path.join("a"), b" and more").unwrap();
    save(&path.join("d/unsaved"), b"never saved where it was").unwrap();
    fs::rename(path.join("a"), other.join("moved")).unwrap();
    fs::rename(path.join("d"), other.join("tree")).unwrap();
    // Until the other half is saved, and this one refused.
    until("a save to be refused", || fixture.writer.log().contains("403"));
    match refuses_target {
        // The source keeps what the target does not have, and saves what else was changed there.
        true => {
            save(&path.join("other"), b"nothing to do with it").unwrap();
            until("the source to be saved", || fixture.server_names().contains(&"other".to_owned()));
            assert_eq!(fixture.server_names(), ["a", "d/b", "other"]);
            fs::remove_file(path.join("other")).unwrap();
        }
        false => until("the target to be saved", || fixture.client.has(&uuid, "moved", b"first and more")),
    }
    let assert_is_shown = || {
        assert_eq!(fs::read(other.join("moved")).unwrap(), b"first and more");
        assert_eq!(fs::read(other.join("tree/b")).unwrap(), b"second");
        assert_eq!(fs::read(other.join("tree/unsaved")).unwrap(), b"never saved where it was");
    };
    assert_is_shown();
    fixture.writer.start_after_kill();
    assert_is_shown();
    assert_eq!(names(&path), Vec::<String>::new());
    if refuses_target {
        // The next mount takes nothing away either.
        save(&path.join("later"), b"nothing to do with it").unwrap();
        until("the source to be saved", || fixture.server_names() == ["a", "d/b", "later"]);
        fs::remove_file(path.join("later")).unwrap();
    }
    fixture.control("faults", json!({"api": []}));
    fixture.writer.unmount_well();
    assert!(fixture.server_names().is_empty(), "{refuses_target}");
    let files = fixture.client.files(&uuid);
    let expected = [
        ("full/x", &b"x"[..]),
        ("moved", b"first and more"),
        ("taken", b"theirs"),
        ("tree/b", b"second"),
        ("tree/unsaved", b"never saved where it was"),
    ];
    let found: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    assert_eq!(found, expected, "{refuses_target}");
}

#[test]
fn move_into_a_collection_that_cannot_be_saved_outlives_a_kill() {
    if is_ours() {
        move_half_of_which_is_refused_outlives_a_kill(true);
    }
}

/// Its layout is another one then, and nothing else.
#[test]
fn what_is_saved_while_it_is_on_its_way_is_moved() {
    if !is_ours() {
        return;
    }
    let (fixture, uuid, other) = two_collections(&["--retries=0"]);
    let path = fixture.path();
    fs::create_dir(path.join("made")).unwrap();
    for (name, top) in [("new", "new"), ("made/inside", "made")] {
        let since = fixture.sequence();
        let refused = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "status": 403, "times": 1});
        // The refused save is tried again after two seconds, in the middle of that.
        let slow = json!({"method": ["PUT", "PATCH"], "path": uuid, "delay": 4, "times": 1});
        fixture.control("faults", json!({"api": [refused, slow]}));
        assert_eq!(errno(save(&path.join(name), b"not saved at once")), libc::EACCES);
        fs::rename(path.join(top), other.join(top)).unwrap();
        let saves =
            |uuid: &str| fixture.requests(since).iter().filter(|it| it.starts_with('P') && it.contains(uuid)).count();
        assert!(saves(&fixture.made.uuid) >= 2, "{:?}", fixture.requests(since));
        assert_eq!(names(&path), ["a", "d", "made"][..if top == "new" { 3 } else { 2 }]);
        assert!(fixture.client.has(&uuid, name, b"not saved at once"));
        until("the removal to be saved", || !fixture.server_names().contains(&name.to_owned()));
    }
}

/// An unsaved file looks like any empty one, to who does not ask what it is.
#[test]
fn file_that_takes_the_place_of_one_on_its_way_is_not_lost() {
    if !is_ours() {
        return;
    }
    let (fixture, uuid, other) = two_collections(&[]);
    let path = fixture.path();
    fs::create_dir_all(path.join("made/sub")).unwrap();
    save(&path.join("made/sub/f"), b"").unwrap();
    let slow = json!({"method": ["PUT", "PATCH"], "path": uuid, "delay": 2, "times": 1});
    fixture.control("faults", json!({"api": [slow]}));
    let inside = nix::fcntl::open(&path.join("made/sub"), nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty());
    let inside = inside.unwrap();
    let new = std::thread::scope(|scope| {
        let moving = scope.spawn(|| fs::rename(path.join("made"), other.join("moved")));
        std::thread::sleep(Duration::from_millis(700));
        nix::unistd::unlinkat(&inside, "f", nix::unistd::UnlinkatFlags::NoRemoveDir).unwrap();
        let flags = nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_WRONLY;
        let new = nix::fcntl::openat(&inside, "f", flags, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let mut new = fs::File::from(new);
        new.write_all(b"new").unwrap();
        // It is open for writing.
        assert_eq!(errno(moving.join().unwrap()), libc::EXDEV);
        new
    });
    close(new).unwrap();
    assert_eq!(fs::read(path.join("made/sub/f")).unwrap(), b"new");
    assert!(fixture.server_has("made/sub/f", b"new"));
}

#[test]
fn moved_file_keeps_its_time() {
    if !is_ours() {
        return;
    }
    let (fixture, _, other) = two_collections(&[]);
    let path = fixture.path();
    fs::create_dir(path.join("made")).unwrap();
    save(&path.join("made/f"), b"f").unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = fs::File::options().write(true).open(path.join("made/f")).unwrap();
    file.set_modified(time).unwrap();
    drop(file);
    let before = fs::metadata(path.join("made")).unwrap().modified().unwrap();
    for top in ["first", "second"] {
        fs::rename(path.join("made"), other.join(top)).unwrap();
        assert_eq!(fs::metadata(other.join(top).join("f")).unwrap().modified().unwrap(), time);
        assert_eq!(fs::metadata(other.join(top)).unwrap().modified().unwrap(), before);
        fs::rename(other.join(top), path.join("made")).unwrap();
    }
    assert_eq!(fs::metadata(path.join("made/f")).unwrap().modified().unwrap(), time);
}

#[test]
fn what_another_client_changes_while_it_is_on_its_way_is_moved_as_it_is_then() {
    if !is_ours() {
        return;
    }
    let (fixture, uuid, other) = with_another(Fixture::old(&[]));
    let path = fixture.path();
    // The listener needs a moment to be connected.
    std::thread::sleep(Duration::from_secs(2));
    fs::write(other.join("in the way"), "").unwrap();
    for (changed, top, there) in [("a", "a", "in the way"), ("d/b", "d", "moved")] {
        let inside = changed.replacen(top, there, 1);
        let slow = json!({"method": ["PUT", "PATCH"], "path": uuid, "delay": 4, "times": 1});
        fixture.control("faults", json!({"api": [slow]}));
        std::thread::scope(|scope| {
            let moving = scope.spawn(|| fs::rename(path.join(top), other.join(there)));
            std::thread::sleep(Duration::from_millis(500));
            fixture.client.put_files(&fixture.made.uuid, &[(changed, b"theirs")]);
            moving.join().unwrap().unwrap();
        });
        assert!(!names(&path).contains(&top.to_owned()));
        assert_eq!(fs::read(other.join(&inside)).unwrap(), b"theirs");
        assert!(fixture.client.has(&uuid, &inside, b"theirs"));
        until("the removal to be saved", || !fixture.server_names().contains(&changed.to_owned()));
    }
}

/// The record of the new place has the blocks as they were signed for the mount that died.
#[test]
fn what_was_moved_and_not_saved_is_saved_by_a_mount_with_another_token() {
    if !is_ours() {
        return;
    }
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:60"]);
    fs::rename(fixture.path().join("a"), other.join("moved")).unwrap();
    fs::rename(fixture.path().join("d"), other.join("tree")).unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.start_with_another_token();
    assert_eq!(fs::read(other.join("moved")).unwrap(), b"first");
    until("the move to be saved", || {
        fixture.client.has(&uuid, "moved", b"first") && fixture.client.has(&uuid, "tree/b", b"second")
    });
    fixture.writer.unmount_well();
    assert!(fixture.server_names().is_empty());
}

/// The journals of a collection are taken over one after the other: the second must not wait for a collection that is never saved.
#[test]
fn what_a_second_mount_left_does_not_wait_for_the_target_of_a_move_that_is_refused() {
    if !is_ours() {
        return;
    }
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:60", "--retries=0"]);
    let path = fixture.path();
    refuse_saves_of(&fixture, &uuid, 403);
    fs::rename(path.join("a"), other.join("moved")).unwrap();
    fixture.writer.start_after_kill();
    assert_eq!((names(&path), fs::read(other.join("moved")).unwrap()), (strings(&["d"]), b"first".to_vec()));
    save(&path.join("new"), b"of the second mount").unwrap();
    fixture.writer.start_after_kill();
    until("what the second left to be saved", || fixture.server_has("new", b"of the second mount"));
    assert!(fixture.server_has("a", b"first"), "in both collections rather than in none");
    assert_eq!((names(&path), fs::read(other.join("moved")).unwrap()), (strings(&["d", "new"]), b"first".to_vec()));
    fixture.control("faults", json!({"api": []}));
    until("the target to be saved", || fixture.client.has(&uuid, "moved", b"first"));
    fixture.writer.unmount_well();
    assert_eq!(fixture.server_names(), ["d/b", "new"]);
}

#[test]
fn what_was_moved_away_before_two_kills_is_in_its_new_collection_only() {
    if !is_ours() {
        return;
    }
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:60", "--retries=0"]);
    let path = fixture.path();
    fs::rename(path.join("a"), other.join("moved")).unwrap();
    fs::rename(other.join("taken"), path.join("came")).unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.control("faults", json!({"api": [{"method": ["PUT", "PATCH"], "path": "/collections/", "status": 403}]}));
    fixture.writer.start_again();
    save(&path.join("new"), b"new").unwrap();
    save(&other.join("new"), b"new").unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.control("faults", json!({"api": []}));
    fixture.writer.start_again();
    let expected = (strings(&["came", "d", "new"]), strings(&["full", "moved", "new"]));
    assert_eq!((names(&path), names(&other)), expected);
    fixture.writer.unmount_well();
    let files: Vec<String> = fixture.client.files(&uuid).into_keys().collect();
    assert_eq!(
        (fixture.server_names(), files),
        (strings(&["came", "d/b", "new"]), strings(&["full/x", "moved", "new"]))
    );
}

/// The journal of the source is settled for good then.
#[test]
fn what_was_moved_away_before_a_kill_is_gone_when_the_next_mount_appears() {
    if !is_ours() {
        return;
    }
    let (mut fixture, uuid, other) = two_collections(&["--sync=exit"]);
    fs::rename(fixture.path().join("a"), other.join("moved")).unwrap();
    save(&fixture.path().join("new"), b"new").unwrap();
    fixture.writer.kill();
    fixture.writer.clear();
    // The target comes later than the source, and is saved while that is.
    let late = json!({"method": ["GET"], "path": uuid, "delay": 0.3, "times": 1});
    let slow = json!({"method": ["PUT", "PATCH"], "path": fixture.made.uuid, "delay": 1.5});
    fixture.control("faults", json!({"api": [late, slow]}));
    fixture.writer.start_again();
    assert_eq!(fixture.server_names(), ["d/b", "new"]);
    fixture.writer.kill();
    fixture.writer.clear();
    fixture.control("faults", json!({"api": []}));
    fixture.writer.start_again();
    assert_eq!((names(&fixture.path()), names(&other)), (strings(&["d", "new"]), strings(&["full", "moved", "taken"])));
    assert!(!fixture.writer.log().contains("ERROR"), "{}", fixture.writer.log());
    fixture.writer.unmount_well();
}

/// The journal of the first mount still has the removal, for the sake of another.
#[test]
fn what_was_put_where_something_had_been_moved_away_outlives_a_second_kill() {
    if !is_ours() {
        return;
    }
    let (mut fixture, uuid, other) = two_collections(&["--sync=fsync", "--retries=0"]);
    let path = fixture.path();
    let save_at_once = |name: &str, data: &[u8]| {
        let mut file = fs::File::create(path.join(name)).unwrap();
        file.write_all(data).unwrap();
        file.sync_all().unwrap();
    };
    refuse_saves_of(&fixture, &uuid, 403);
    fs::rename(path.join("a"), other.join("moved")).unwrap();
    fs::rename(path.join("d/b"), other.join("b")).unwrap();
    fixture.writer.start_after_kill();
    save_at_once("a", b"another");
    save_at_once("z", b"later");
    assert!(fixture.server_has("a", b"another"));
    fixture.writer.start_after_kill();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"another");
    fixture.control("faults", json!({"api": []}));
    until("the target to be saved", || fixture.client.has(&uuid, "moved", b"first"));
    fixture.writer.unmount_well();
    assert!(fixture.server_has("a", b"another") && fixture.server_has("z", b"later"));
    assert_eq!(
        (fixture.server_names(), names_of(&fixture, &uuid)),
        (strings(&["a", "z"]), strings(&["b", "full/x", "moved", "taken"]))
    );
}

#[test]
fn move_out_of_a_collection_that_cannot_be_saved_outlives_a_kill() {
    if is_ours() {
        move_half_of_which_is_refused_outlives_a_kill(false);
    }
}

/// The names of the files of a collection on the server.
fn names_of(fixture: &Fixture, uuid: &str) -> Vec<String> {
    fixture.client.files(uuid).into_keys().collect()
}

/// Has the journal's promise been kept on the server, without anybody asking?
fn until_saved(fixture: &Fixture, uuid: &str, expected: &[&str]) {
    until("the collection to be saved", || names_of(fixture, uuid) == expected);
}

#[test]
fn what_was_moved_away_leaves_the_server_when_its_new_collection_is_there() {
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:1", "--retries=0"]);
    let path = fixture.path();
    if !is_ours() {
        return;
    }
    fs::create_dir_all(path.join("deep/er")).unwrap();
    save(&path.join("deep/er/f"), b"deep").unwrap();
    save(&path.join("deep/stays"), b"not moved").unwrap();
    until("the source to be saved", || fixture.server_has("deep/stays", b"not moved"));
    refuse_saves_of(&fixture, &uuid, 403);
    fs::rename(path.join("a"), other.join("moved")).unwrap();
    fs::rename(path.join("d/b"), other.join("b")).unwrap();
    // What it was in goes, too, and something else is moved.
    fs::remove_dir(path.join("d")).unwrap();
    fs::rename(path.join("deep/er"), other.join("er")).unwrap();
    fs::rename(path.join("deep"), path.join("other")).unwrap();
    assert_eq!(names(&path), ["other"]);
    until("a save to be refused", || fixture.writer.log().contains("403"));
    until_saved(&fixture, &fixture.made.uuid, &["a", "d/b", "deep/er/f", "other/stays"]);
    assert_eq!(names_of(&fixture, &uuid), ["full/x", "taken"]);
    fixture.control("faults", json!({"api": []}));
    until_saved(&fixture, &uuid, &["b", "er/f", "full/x", "moved", "taken"]);
    until_saved(&fixture, &fixture.made.uuid, &["other/stays"]);
    let directories = fixture.client.manifest_of(&fixture.made.uuid).directories;
    assert!(directories.iter().all(|directory| directory == "other"), "{directories:?}");
    fixture.writer.unmount_well();
}

#[test]
fn collections_that_have_moved_files_to_each_other_are_saved_in_turn() {
    let (mut fixture, uuid, other) = two_collections(&["--sync=exit", "--retries=0"]);
    if !is_ours() {
        return;
    }
    let path = fixture.path();
    let third = fixture.client.collection("third", None, fixture.client.manifest(&[("z", b"z")]));
    let third_path = fixture.writer.collection(&third.uuid);
    let move_around = |name: &str| {
        // Away and back again, over a third one to the other, and onto each other.
        fs::rename(path.join("d"), other.join("d")).unwrap();
        fs::create_dir(path.join("d")).unwrap();
        fs::rename(other.join("d/b"), path.join("d/b")).unwrap();
        fs::rename(path.join("a"), third_path.join("a")).unwrap();
        fs::rename(third_path.join("a"), other.join(name)).unwrap();
        fs::rename(other.join("taken"), path.join("a")).unwrap();
        fs::rename(path.join("a"), other.join("taken")).unwrap();
        fs::rename(other.join(name), path.join("a")).unwrap();
        fs::rename(path.join("a"), other.join(name)).unwrap();
        fs::rename(other.join("full"), path.join("full")).unwrap();
    };
    move_around("moved");
    fs::read(path.join(".arvados#collection")).unwrap();
    assert_eq!(names_of(&fixture, &fixture.made.uuid), ["d/b", "full/x"], "{}", fixture.writer.log());
    assert!(fixture.client.has(&uuid, "moved", b"first") && fixture.client.has(&uuid, "taken", b"theirs"));
    fs::rename(other.join("moved"), path.join("a")).unwrap();
    fs::rename(path.join("full"), other.join("full")).unwrap();
    move_around("again");
    fixture.writer.unmount_well();
    assert_eq!(names_of(&fixture, &fixture.made.uuid), ["d/b", "full/x"]);
    assert_eq!(names_of(&fixture, &uuid), ["again", "taken"]);
    assert_eq!(names_of(&fixture, &third.uuid), ["z"]);
    assert!(fixture.client.has(&uuid, "again", b"first") && fixture.server_has("d/b", b"second"));
}

#[test]
fn what_was_moved_on_stays_where_the_server_has_it_until_its_last_place_is_saved() {
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:1", "--retries=0"]);
    if !is_ours() {
        return;
    }
    let path = fixture.path();
    let third = fixture.client.collection("third", None, fixture.client.manifest(&[("z", b"z")]));
    let third_path = fixture.writer.collection(&third.uuid);
    assert_eq!(names(&third_path), ["z"]);
    refuse_saves_of(&fixture, &third.uuid, 403);
    fs::rename(path.join("a"), other.join("a")).unwrap();
    fs::rename(other.join("a"), third_path.join("a")).unwrap();
    fs::rename(path.join("d"), other.join("d")).unwrap();
    save(&path.join("new"), b"new").unwrap();
    until("a save to be refused", || fixture.writer.log().contains("403"));
    until_saved(&fixture, &uuid, &["d/b", "full/x", "taken"]);
    until_saved(&fixture, &fixture.made.uuid, &["a", "new"]);
    // Who wants it to be as he sees it is told why it is not.
    assert_eq!(errno(fs::read(path.join(".arvados#collection"))), libc::EACCES);
    assert_eq!(names_of(&fixture, &fixture.made.uuid), ["a", "new"]);
    fixture.control("faults", json!({"api": []}));
    fs::read(path.join(".arvados#collection")).unwrap();
    assert_eq!(names_of(&fixture, &fixture.made.uuid), ["new"]);
    assert!(fixture.client.has(&third.uuid, "a", b"first"));
    fixture.writer.unmount_well();
}

#[test]
fn new_file_or_the_old_one_where_something_was_moved_away_is_saved() {
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:1", "--retries=0"]);
    if !is_ours() {
        return;
    }
    let path = fixture.path();
    refuse_saves_of(&fixture, &uuid, 403);
    fs::rename(path.join("a"), other.join("moved")).unwrap();
    fs::rename(path.join("d/b"), other.join("b")).unwrap();
    fs::rename(other.join("b"), path.join("d/b")).unwrap();
    append(&path.join("d/b"), b", back").unwrap();
    save(&path.join("a"), b"another").unwrap();
    until("the source to be saved", || {
        fixture.server_has("a", b"another") && fixture.server_has("d/b", b"second, back")
    });
    fs::read(path.join(".arvados#collection")).unwrap();
    fixture.control("faults", json!({"api": []}));
    fixture.writer.unmount_well();
    assert_eq!(names_of(&fixture, &uuid), ["full/x", "moved", "taken"]);
    assert!(fixture.client.has(&uuid, "moved", b"first"));
}

#[test]
fn what_was_moved_and_is_half_written_is_not_taken_away_before_it_is_closed() {
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:1"]);
    if !is_ours() {
        return;
    }
    let path = fixture.path();
    fs::rename(path.join("a"), other.join("a")).unwrap();
    let mut file = open(&other.join("a"), libc::O_WRONLY | libc::O_APPEND).unwrap();
    file.write_all(b" and more").unwrap();
    save(&other.join("done"), b"x").unwrap();
    save(&path.join("done"), b"x").unwrap();
    until("both to be saved", || fixture.client.has(&uuid, "done", b"x") && fixture.server_has("done", b"x"));
    // A process that another test starts inherits the file, and closes it.
    let is_taken_away = !fixture.server_names().contains(&"a".to_owned());
    assert!(!is_taken_away || names_of(&fixture, &uuid).contains(&"a".to_owned()));
    close(file).unwrap();
    until_saved(&fixture, &fixture.made.uuid, &["d/b", "done"]);
    assert!(fixture.client.has(&uuid, "a", b"first and more"));
    fixture.writer.unmount_well();
}

#[test]
fn end_with_a_target_that_is_refused_leaves_what_was_moved_in_its_source() {
    let (mut fixture, uuid, other) = two_collections(&["--sync=exit", "--retries=0"]);
    if !is_ours() {
        return;
    }
    let path = fixture.path();
    refuse_saves_of(&fixture, &uuid, 403);
    fs::rename(path.join("a"), other.join("moved")).unwrap();
    save(&path.join("new"), b"new").unwrap();
    assert_ne!(fixture.writer.unmount().code(), Some(0));
    let log = fixture.writer.log();
    assert!(log.contains("what was moved away from this collection stays in it on the server"), "{log}");
    assert_eq!(names_of(&fixture, &fixture.made.uuid), ["a", "d/b", "new"]);
    assert_eq!(names_of(&fixture, &uuid), ["full/x", "taken"]);
    fixture.control("faults", json!({"api": []}));
    fixture.writer.clear();
    fixture.writer.start_again();
    assert_eq!(fs::read(other.join("moved")).unwrap(), b"first");
    assert_eq!(names(&path), ["d", "new"]);
    fixture.writer.unmount_well();
    assert_eq!(names_of(&fixture, &fixture.made.uuid), ["d/b", "new"]);
    assert!(fixture.client.has(&uuid, "moved", b"first"));
}

#[test]
fn move_to_another_collection_obeys_what_is_there() {
    let (fixture, uuid, other) = two_collections(&[]);
    let path = fixture.path();
    let noreplace = libc::RENAME_NOREPLACE;
    assert_eq!(errno(rename_with(&path.join("a"), &other.join("taken"), noreplace)), libc::EEXIST);
    assert_eq!(errno(rename_with(&path.join("d"), &other.join("full"), noreplace)), libc::EEXIST);
    assert_eq!(errno(fs::rename(path.join("d"), other.join("full"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(path.join("d"), other.join("taken"))), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(path.join("a"), other.join("full"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(path.join("missing"), other.join("x"))), libc::ENOENT);
    assert_eq!(errno(fs::rename(path.join("a"), other.join("missing/x"))), libc::ENOENT);
    assert_eq!(fixture.server_names(), ["a", "d/b"], "what was refused has changed nothing");
    assert_eq!(fixture.client.files(&uuid).keys().collect::<Vec<_>>(), ["full/x", "taken"]);

    let replaced = fs::File::open(other.join("taken")).unwrap();
    fs::rename(path.join("a"), other.join("taken")).unwrap();
    assert_eq!(fs::read(other.join("taken")).unwrap(), b"first");
    assert_eq!(std::io::read_to_string(replaced).unwrap(), "theirs", "who has it open goes on reading it");
    fs::create_dir(other.join("empty")).unwrap();
    fs::create_dir_all(path.join("d/sub/deeper")).unwrap();
    save(&path.join("d/sub/deeper/f"), b"deep").unwrap();
    fs::create_dir(path.join("d/sub/nothing")).unwrap();
    let moved = fs::File::open(path.join("d/b")).unwrap();
    fs::rename(path.join("d"), other.join("empty")).unwrap();
    assert_eq!(std::io::read_to_string(moved).unwrap(), "second");
    rename_with(&other.join("full/x"), &path.join("x"), noreplace).unwrap();
    assert_eq!((names(&path), fixture.server_names()), (strings(&["x"]), strings(&["x"])));
    assert_eq!(names(&other.join("empty/sub")), ["deeper", "nothing"]);
    let files = fixture.client.files(&uuid);
    let found: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    let expected = [("empty/b", &b"second"[..]), ("empty/sub/deeper/f", b"deep"), ("taken", b"first")];
    assert_eq!(found, expected);
    let directories = fixture.client.manifest_of(&uuid).directories;
    assert!(directories.contains(&"empty/sub/nothing".to_owned()), "{directories:?}");
    // What was moved is a file like any other.
    append(&other.join("empty/sub/deeper/f"), b"er").unwrap();
    assert!(fixture.client.has(&uuid, "empty/sub/deeper/f", b"deeper"));
}

/// For a moment the kernel takes it for the folder or file that it was where it came from.
#[test]
fn what_was_just_moved_can_be_changed_at_once() {
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:60"]);
    let path = fixture.path();
    for round in 0..100 {
        fs::rename(path.join("d"), other.join("d")).unwrap();
        save(&other.join("d/new"), format!("new {round}").as_bytes()).unwrap();
        fs::create_dir(other.join("d/made")).unwrap();
        fs::rename(other.join("d"), path.join("d")).unwrap();
        fs::rename(path.join("d/new"), path.join("new")).unwrap();
        fs::remove_dir(path.join("d/made")).unwrap();
        fs::rename(path.join("new"), other.join("new")).unwrap();
        append(&other.join("new"), b", and more").unwrap();
        assert_eq!(fs::read_to_string(other.join("new")).unwrap(), format!("new {round}, and more"));
    }
    fixture.writer.unmount_well();
    assert_eq!(fixture.server_names(), ["a", "d/b"]);
    assert!(fixture.client.has(&uuid, "new", b"new 99, and more"));
}

#[test]
fn what_was_moved_while_it_was_read_is_not_written_to_where_it_was() {
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:60"]);
    let path = fixture.path();
    save(&path.join("a"), b"not saved").unwrap();
    let file = fs::File::open(path.join("a")).unwrap();
    fs::rename(path.join("a"), other.join("a")).unwrap();
    // As whoever opens it before the kernel knows.
    let as_it_was = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    assert_eq!(errno(append(&as_it_was, b", and lost")), libc::ESTALE);
    assert_eq!(std::io::read_to_string(file).unwrap(), "not saved", "who reads it goes on");
    append(&other.join("a"), b", and more").unwrap();
    fixture.writer.unmount_well();
    assert!(fixture.client.has(&uuid, "a", b"not saved, and more"));
}

/// `mv` copies then, and its source lives on for whoever has it open, as on any file system.
#[test]
fn file_that_is_open_for_writing_is_not_moved_away_from_its_writer() {
    let (fixture, uuid, other) = two_collections(&[]);
    let path = fixture.path();
    let mut file = open(&path.join("d/b"), libc::O_WRONLY | libc::O_APPEND).unwrap();
    file.write_all(b", more").unwrap();
    assert_eq!(errno(fs::rename(path.join("d/b"), other.join("b"))), libc::EXDEV);
    assert_eq!(errno(fs::rename(path.join("d"), other.join("d"))), libc::EXDEV);
    assert_eq!(names(&other), ["full", "taken"]);
    file.write_all(b", and more").unwrap();
    close(file).unwrap();
    assert!(fixture.server_has("d/b", b"second, more, and more"));
    // Closed, it can be; also onto one that somebody else is writing to, whose data go with what he wrote to.
    let mut file = open(&other.join("taken"), libc::O_WRONLY | libc::O_APPEND).unwrap();
    file.write_all(b", to be replaced").unwrap();
    fs::rename(path.join("d/b"), other.join("taken")).unwrap();
    file.write_all(b" and forgotten").unwrap();
    close(file).unwrap();
    assert_eq!(fs::read(other.join("taken")).unwrap(), b"second, more, and more");
    assert!(fixture.client.has(&uuid, "taken", b"second, more, and more"));
    succeed(Command::new("mv").arg(other.join("taken")).arg(path.join("a")));
    assert!(fixture.server_has("a", b"second, more, and more"));
    assert_eq!(fixture.client.files(&uuid).keys().collect::<Vec<_>>(), ["full/x"]);
}

/// The collection in between has something else at that path by now, so it holds nothing back any more.
#[test]
fn who_asks_for_a_source_to_be_saved_has_the_last_place_of_what_was_moved_on_saved_first() {
    if !is_ours() {
        return;
    }
    let (mut fixture, uuid, other) = two_collections(&["--sync=idle:1", "--retries=0"]);
    let path = fixture.path();
    let third = fixture.client.collection("third", None, fixture.client.manifest(&[("z", b"z")]));
    let third_path = fixture.writer.collection(&third.uuid);
    assert_eq!(names(&third_path), ["z"]);
    refuse_saves_of(&fixture, &third.uuid, 403);
    fs::rename(path.join("a"), other.join("moved")).unwrap();
    fs::rename(other.join("moved"), third_path.join("again")).unwrap();
    save(&other.join("moved"), b"another").unwrap();
    until("the one in between to be saved", || fixture.client.has(&uuid, "moved", b"another"));
    assert!(fixture.server_has("a", b"first"), "the server has it nowhere else");
    fixture.control("faults", json!({"api": []}));
    fs::read(path.join(".arvados#collection")).unwrap();
    assert!(fixture.client.has(&third.uuid, "again", b"first"));
    assert_eq!(fixture.server_names(), ["d/b"]);
    fixture.writer.unmount_well();
}
