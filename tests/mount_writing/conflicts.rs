//! Several clients change one collection.

use crate::fixture::{Fixture, QUIET, changed_behind_its_back, names};
use crate::mount_support::files::{close, open, save};
use crate::mount_support::writer::{Writer, is_ours};
use crate::support::until;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The name of a copy that a conflict made of `name`.
fn is_conflict_of(name: &str, of: &str) -> bool {
    let Some(rest) = name.strip_prefix(of) else { return false };
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = rest.split('~').collect();
    let ["", time, "conflict", ""] = parts[..] else { return false };
    time.split_once('-').is_some_and(|(day, time)| digits(day, 8) && digits(time, 6))
}

#[test]
fn both_versions_are_kept_by_default() {
    let fixture = changed_behind_its_back(&[], b"theirs");
    save(&fixture.path().join("a"), b"mine").unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert_eq!(files["a"], b"mine");
    let copies: Vec<_> = files.iter().filter(|(name, _)| is_conflict_of(name, "a")).collect();
    assert_eq!(copies.len(), 1, "{:?}", files.keys());
    assert_eq!(copies[0].1, b"theirs");
    assert!(names(&fixture.path()).contains(copies[0].0), "the mount shows it too");
}

/// Who writes what was there before has changed the file as well.
#[test]
fn file_that_is_written_with_the_bytes_it_had_is_not_lost_to_what_another_client_has_saved() {
    if !is_ours() {
        return;
    }
    for guard in ["auto", "strict"] {
        let fixture = Fixture::new(&[&QUIET[..], &[&format!("--commit-guard={guard}")]].concat());
        let path = fixture.path();
        save(&path.join("x"), b"as before").unwrap();
        fixture.client.put_files(&fixture.made.uuid, &[("x", b"theirs")]);
        save(&path.join("x"), b"as before").unwrap();
        save(&path.join("other"), b"other").unwrap();
        let files = fixture.client.files(&fixture.made.uuid);
        assert_eq!(files["x"], b"as before", "{guard}");
        let mut copies = files.iter().filter(|(name, _)| is_conflict_of(name, "x"));
        assert_eq!(copies.next().unwrap().1, b"theirs", "{guard}");
        assert_eq!(copies.next(), None, "{guard}");
    }
}

/// Closed here and not saved yet when the event of another client's change arrives.
#[test]
fn what_is_closed_and_not_saved_yet_is_merged_with_what_others_save() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=idle:60", "--refresh-time=3600"]);
    let path = fixture.path();
    until("the mount to listen", || fixture.control("ws", json!({}))["connections"] == 1);
    save(&path.join("a"), b"mine").unwrap();
    save(&path.join("new"), b"new").unwrap();
    fs::remove_file(path.join("d/b")).unwrap();
    fixture.client.put_files(&fixture.made.uuid, &[("other", b"other"), ("d/c", b"more")]);
    until("the other file", || names(&path).contains(&"other".to_owned()));
    assert_eq!(
        (names(&path), names(&path.join("d"))),
        (["a", "d", "new", "other"].map(String::from).into(), vec!["c".into()])
    );
    assert_eq!(fs::read(path.join("a")).unwrap(), b"mine");
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs"), ("sign", b"")]);
    until("the same file", || names(&path).contains(&"sign".to_owned()));
    let copies: Vec<_> = names(&path).into_iter().filter(|name| is_conflict_of(name, "a")).collect();
    assert_eq!(copies.len(), 1, "{:?}", names(&path));
    assert_eq!(fs::read(path.join(&copies[0])).unwrap(), b"theirs");
    assert_eq!(fs::read(path.join("a")).unwrap(), b"mine");
    assert!(fixture.server_has("a", b"theirs") && !fixture.server_names().contains(&"new".to_owned()), "not saved yet");
    fixture.writer.unmount_well();
    let files = fixture.client.files(&fixture.made.uuid);
    let mut expected: Vec<&str> = vec!["a", &copies[0], "d/c", "new", "other", "sign"];
    expected.sort();
    assert_eq!(files.keys().collect::<Vec<_>>(), expected);
    assert!(files["a"] == b"mine" && files[&copies[0]] == b"theirs" && files["new"] == b"new", "{files:?}");
}

#[test]
fn policy_overwrite_makes_no_copy() {
    if !is_ours() {
        return;
    }
    let fixture = changed_behind_its_back(&["--on-conflict=overwrite"], b"theirs");
    save(&fixture.path().join("a"), b"mine").unwrap();
    assert!(fixture.server_has("a", b"mine"));
    assert_eq!(fixture.server_names(), ["a", "d/b"]);
}

/// arv-mount.md 8.1, 5: a conflict file although both wrote the same.
#[test]
fn same_content_on_both_sides_is_no_conflict() {
    let fixture = changed_behind_its_back(&[], b"the same, word by word");
    save(&fixture.path().join("a"), b"the same, word by word").unwrap();
    save(&fixture.path().join("c"), b"packed into another block").unwrap();
    assert_eq!(fixture.server_names(), ["a", "c", "d/b"]);
}

#[test]
fn change_of_another_path_is_merged() {
    let fixture = changed_behind_its_back(&[], b"theirs");
    save(&fixture.path().join("d/b"), b"mine").unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert_eq!(files.len(), 2, "{:?}", files.keys());
    assert_eq!((files["a"].as_slice(), files["d/b"].as_slice()), (&b"theirs"[..], &b"mine"[..]));
}

#[test]
fn file_deleted_here_and_changed_there_is_kept_as_a_copy() {
    let fixture = changed_behind_its_back(&[], b"theirs");
    fs::remove_file(fixture.path().join("a")).unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert!(files.values().any(|content| content == b"theirs"), "{:?}", files.keys());
}

#[test]
fn file_changed_here_and_deleted_there_is_kept() {
    let fixture = Fixture::new(&QUIET);
    assert_eq!(names(&fixture.path()), ["a", "d"]);
    fixture.client.replace(&fixture.made.uuid, fixture.client.manifest(&[("d/b", b"second")]));
    save(&fixture.path().join("a"), b"mine").unwrap();
    assert!(fixture.server_has("a", b"mine"));
}

/// A file open for writing is judged by what it showed when it was opened.
#[test]
fn file_open_for_writing_keeps_its_base() {
    let fixture = Fixture::new(&["--refresh-time=1"]);
    let path = fixture.path();
    let file = open(&path.join("a"), libc::O_RDWR).unwrap();
    let mut seen = [0; 5];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"first");
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs"), ("c", b"seen")]);
    crate::support::until("the change to arrive", || names(&path).contains(&"c".to_owned()));
    file.set_len(0).unwrap();
    file.write_all_at(b"mine", 0).unwrap();
    close(file).unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    for content in [&b"theirs"[..], b"mine"] {
        assert!(files.values().any(|found| found == content), "{:?}", files.keys());
    }
}

/// The draft of a file that is open for writing has the content that was seen. It must not take the place of a longer one unseen.
#[test]
fn what_another_client_appended_outlives_our_append() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--refresh-time=1"]);
    let path = fixture.path();
    let file = open(&path.join("a"), libc::O_WRONLY | libc::O_APPEND).unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"first");
    let (old, more) = (fixture.client.manifest(&[("a", b"first")]), fixture.client.manifest(&[("x", b", theirs")]));
    let block = |text: &str| text.split(' ').nth(1).unwrap().to_owned();
    let grown = format!(". {} {} 0:5:a 5:8:a\n", block(&old), block(&more));
    fixture.client.replace(&fixture.made.uuid, grown);
    until("theirs to arrive", || fs::read(path.join("a")).unwrap() == b"first, theirs");
    (&file).write_all(b", mine").unwrap();
    close(file).unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    for content in [&b"first, theirs"[..], b"first, mine"] {
        assert!(files.values().any(|found| found == content), "{files:?}");
    }
}

/// A program reads a file, another client saves it, the program writes it anew: what it has read is what it replaces. After a
/// while it counts as known.
#[test]
fn what_another_client_saved_just_now_is_kept_when_the_file_is_written_anew() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--refresh-time=1"]);
    let path = fixture.path();
    assert_eq!(names(&path), ["a", "d"]);
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"theirs"), ("sign", b"")]);
    until("theirs to arrive", || names(&path).contains(&"sign".to_owned()));
    save(&path.join("a"), b"mine").unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert!(files["a"] == b"mine" && files.values().any(|content| content == b"theirs"), "{files:?}");
    fixture.client.put_files(&fixture.made.uuid, &[("a", b"later"), ("another", b"")]);
    until("theirs to arrive", || names(&path).contains(&"another".to_owned()));
    assert_eq!(fs::read(path.join("a")).unwrap(), b"later");
    save(&path.join("a"), b"mine, having seen it").unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert!(files["a"] == b"mine, having seen it" && !files.values().any(|content| content == b"later"), "{files:?}");
}

/// Nothing was written to it, only its time was set.
#[test]
fn empty_file_that_is_touched_here_does_not_wipe_what_another_client_wrote() {
    let fixture = Fixture::new(&QUIET);
    fixture.client.put_files(&fixture.made.uuid, &[("empty", b"")]);
    let path = fixture.path();
    assert_eq!(fs::read(path.join("empty")).unwrap(), b"");
    fixture.client.put_files(&fixture.made.uuid, &[("empty", b"theirs")]);
    let file = open(&path.join("empty"), libc::O_WRONLY).unwrap();
    file.try_clone().unwrap().set_times(fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH)).unwrap();
    close(file).unwrap();
    save(&path.join("another"), b"mine").unwrap();
    let files = fixture.client.files(&fixture.made.uuid);
    assert!(files.values().any(|content| content == b"theirs"), "{files:?}");
}

/// Their times were set, and nothing was written to them.
#[test]
fn files_that_are_only_touched_here_follow_another_client() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=idle:60", "--refresh-time=1"]);
    let path = fixture.path();
    for name in ["a", "d/b"] {
        let file = open(&path.join(name), libc::O_WRONLY).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        close(file).unwrap();
    }
    fixture.client.replace(&fixture.made.uuid, fixture.client.manifest(&[("a", b"theirs"), ("sign", b"")]));
    until("theirs to arrive", || names(&path).contains(&"sign".to_owned()));
    assert_eq!((names(&path), fs::read(path.join("a")).unwrap()), (vec!["a".into(), "sign".into()], b"theirs".into()));
    fixture.writer.unmount_well();
    assert_eq!(fixture.server_names(), ["a", "sign"]);
    assert!(fixture.server_has("a", b"theirs"));
}

/// The mark to beat: of what two `arv-mount` and an SDK client close in 20 seconds, in different files of one collection,
/// half is lost.
#[test]
fn two_mounts_and_another_client_that_write_different_files_lose_nothing() {
    let fixture = Fixture::new(&[]);
    let second = Writer::start(&fixture.cluster, &[]);
    let stop = AtomicBool::new(false);
    let written = [const { AtomicUsize::new(0) }; 3];
    std::thread::scope(|scope| {
        for (writer, path) in [fixture.path(), second.collection(&fixture.made.uuid)].into_iter().enumerate() {
            let (stop, written) = (&stop, &written);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = written[writer].load(Ordering::Relaxed);
                    save(&path.join(format!("w{writer}-{number}")), format!("{writer} {number}").as_bytes()).unwrap();
                    written[writer].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(6) {
            let number = written[2].load(Ordering::Relaxed);
            fixture
                .client
                .put_files(&fixture.made.uuid, &[(&format!("w2-{number}"), format!("2 {number}").as_bytes())]);
            written[2].fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let files = fixture.client.files(&fixture.made.uuid);
    let (mut total, mut lost) = (0, 0);
    for (writer, written) in written.iter().enumerate() {
        for number in 0..written.load(Ordering::Relaxed) {
            total += 1;
            lost += usize::from(
                files
                    .get(&format!("w{writer}-{number}"))
                    .is_none_or(|content| content != format!("{writer} {number}").as_bytes()),
            );
        }
    }
    assert_eq!(lost, 0, "of {total}");
    assert!(total > 50, "only {total} files: this proves nothing");
    assert!(!files.keys().any(|name| name.contains("conflict")), "nobody had a reason for a copy");
}

/// The program has cut the empty file, which says nothing yet; what it writes then has no place of its own any more.
#[test]
fn what_is_written_to_an_empty_open_file_that_another_client_has_filled_is_kept() {
    if !is_ours() {
        return;
    }
    let mut fixture = Fixture::new(&["--sync=exit"]);
    let path = fixture.path();
    fixture.client.put_files(&fixture.made.uuid, &[("empty", b"")]);
    until("the empty file", || names(&path).contains(&"empty".to_owned()));
    let file = open(&path.join("empty"), libc::O_WRONLY).unwrap();
    file.set_len(0).unwrap();
    fixture.client.put_files(&fixture.made.uuid, &[("empty", b"theirs")]);
    until("what the other client wrote", || fs::read(path.join("empty")).is_ok_and(|bytes| bytes == b"theirs"));
    (&file).write_all(b"ours").unwrap();
    close(file).unwrap();
    fixture.writer.unmount_well();
    let files = fixture.client.files(&fixture.made.uuid);
    let contents: Vec<_> = files.values().map(|content| String::from_utf8_lossy(content).into_owned()).collect();
    for wanted in ["ours", "theirs"] {
        assert!(contents.iter().any(|content| content == wanted), "{wanted} in {contents:?}");
    }
}

/// Numbers of files are given anew when a collection is read anew.
#[test]
fn open_file_stays_the_file_it_is_when_its_collection_comes_back_from_the_trash() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new(&["--refresh-time=1"]);
    let path = fixture.path();
    save(&path.join("z"), b"content of z").unwrap();
    save(&path.join("c"), b"content of c").unwrap();
    let file = open(&path.join("z"), libc::O_RDONLY).unwrap();
    fixture.client.delete(&fixture.made.uuid);
    until("the collection to be gone", || fs::read_dir(&path).is_err());
    let back = json!({"is_trashed": false, "trash_at": null, "delete_at": null});
    fixture.control("raw", json!({"uuid": fixture.made.uuid, "set": back}));
    until("the collection to be back", || fs::read(path.join("c")).is_ok());
    assert_eq!(fs::read(path.join("c")).unwrap(), b"content of c");
    let mut content = Vec::new();
    // The kernel may have dropped its pages with the collection.
    (&file).read_to_end(&mut content).unwrap();
    assert_eq!(String::from_utf8_lossy(&content), "content of z");
}

/// The kernel has pages of the shorter file, the last of them filled up with zeros.
#[test]
fn writer_who_opens_a_file_that_has_grown_elsewhere_sees_no_old_pages() {
    let fixture = Fixture::new(&["--disable-event-listening", "--refresh-time=1"]);
    let path = fixture.path().join("a");
    let mut content = b"first".to_vec();
    assert_eq!(fs::read(&path).unwrap(), content);
    let mut tokens = fixture.client.manifest(&[("a", b"first")]).split(' ').nth(1).unwrap().to_owned();
    for number in 0..10 {
        let more = format!(", {number}");
        let locator = fixture.client.manifest(&[("x", more.as_bytes())]).split(' ').nth(1).unwrap().to_owned();
        tokens = format!("{tokens} {locator}");
        content.extend_from_slice(more.as_bytes());
        fixture.client.replace(&fixture.made.uuid, format!(". {tokens} 0:{}:a\n", content.len()));
        until("the growth to arrive", || fs::metadata(&path).unwrap().len() == content.len() as u64);
        let file = open(&path, libc::O_RDWR).unwrap();
        let mut seen = Vec::new();
        (&file).read_to_end(&mut seen).unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&content));
        close(file).unwrap();
    }
}
