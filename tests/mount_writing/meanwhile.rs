//! What others do while a look at the server or a save is under way.

use crate::fixture::{Fixture, names};
use crate::mount_support::files::{close, open, save};
use crate::mount_support::writer::is_ours;
use crate::support::until;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

/// Tells the others of a test to stop, also if it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Many times what a look and a save take together, on a loaded machine too.
const TURNS: Duration = Duration::from_secs(30);
/// So many that some ask while a look is under way, whichever it is.
const READERS: u64 = 24;

/// Each look takes a while, and whenever one ends others have changed something and somebody waits to see it.
#[test]
fn saves_and_looks_take_turns_where_there_is_no_end_of_either() {
    if !is_ours() {
        return;
    }
    let fixture = listening(&[]);
    let path = fixture.path();
    // The kernel looks up one name after the other in a directory.
    let files: Vec<String> = (0..READERS).map(|reader| format!("dir-{reader}/file")).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|file| (&file[..], &b""[..])).collect();
    fixture.client.put_files(&fixture.made.uuid, &files);
    until("the directories", || files.iter().all(|(file, _)| path.join(file).exists()));
    let mine = open(&path.join("mine"), libc::O_CREAT | libc::O_WRONLY).unwrap();
    fixture.control("faults", json!({"api": [{"method": ["GET"], "path": fixture.made.uuid, "delay": 0.5}]}));
    let (stop, reads, saved) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let (stop, reads, path, fixture) = (&stop, &reads, &path, &fixture);
        let again_and_again = move |mut work: Box<dyn FnMut(u64) + Send>| {
            scope.spawn(move || (0..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(&mut work))
        };
        again_and_again(Box::new(move |number| {
            fixture.client.put_files(&fixture.made.uuid, &[(&format!("other-{number}"), b"")]);
            std::thread::sleep(Duration::from_millis(200));
        }));
        for reader in 0..READERS {
            let directory = fs::File::open(path.join(format!("dir-{reader}"))).unwrap();
            let inside = format!("/proc/self/fd/{}", directory.as_raw_fd());
            again_and_again(Box::new(move |number| {
                let _open = &directory;
                // Longer than a look takes, or all who were told the result of one would come in the course of the next.
                std::thread::sleep(Duration::from_millis((reader * 211 + number * 637) % 1500));
                assert!(!Path::new(&format!("{inside}/missing-{number}")).exists());
                reads.fetch_add(1, Ordering::Relaxed);
            }));
        }
        let within_turns = |what: &str, is_done: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !is_done() {
                assert!(start.elapsed() < TURNS, "there is no room for {what}");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        until("the looks to follow each other", || reads.load(Ordering::Relaxed) > 3 * READERS);
        let saving = scope.spawn(move || {
            (&mine).write_all(b"mine").unwrap();
            close(mine).unwrap();
        });
        within_turns("the save", &|| saving.is_finished());
        let saved = &saved;
        again_and_again(Box::new(move |number| {
            save(&path.join(format!("mine-{number}")), b"").unwrap();
            saved.fetch_add(1, Ordering::Relaxed);
        }));
        let others = || names(path).iter().filter(|name| name.starts_with("other")).count();
        let seen = others();
        within_turns("a look", &|| others() > seen);
        within_turns("more saves", &|| saved.load(Ordering::Relaxed) > 1);
    });
    assert!(fixture.server_has("mine", b"mine"));
}
