//! One collection at two places of the tree, as in the default layout: what is changed at one of them shows at the other, at
//! once when the file is closed. Nothing here waits: who closes a file or changes a name may rely on it.

use crate::fixture::{Fixture, QUIET, names};
use crate::mount_support::files::{append, close, open, save, truncate};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

/// A mount that hears nothing of others, and both places.
fn twice() -> (Fixture, [PathBuf; 2]) {
    let fixture = Fixture::new(&[&QUIET[..], &["--mount-home=home"]].concat());
    let places = [fixture.writer.path().join("home/work"), fixture.path()];
    (fixture, places)
}

#[test]
fn file_that_was_written_at_one_place_is_read_at_the_other() {
    let (_fixture, places) = twice();
    for (from, to) in [(0, 1), (1, 0)] {
        let (here, there) = (places[from].join("a"), places[to].join("a"));
        for content in ["first 1", "first 2", "longer than before", "short", "", "end"] {
            fs::read(&there).unwrap();
            save(&here, content.as_bytes()).unwrap();
            assert_eq!(fs::metadata(&there).unwrap().len(), content.len() as u64, "{content}");
            assert_eq!(fs::read_to_string(&there).unwrap(), content);
        }
        append(&here, b" and more").unwrap();
        // Who goes to the end must not land in the middle.
        let mut file = open(&there, libc::O_RDWR).unwrap();
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 12);
        file.write_all(b"!").unwrap();
        close(file).unwrap();
        assert_eq!(fs::read(&here).unwrap(), b"end and more!");
        truncate(&there, 3).unwrap();
        assert_eq!(fs::read(&here).unwrap(), b"end");
    }
}

#[test]
fn who_has_a_file_open_at_one_place_reads_what_is_written_at_the_other() {
    let (_fixture, [here, there]) = twice();
    save(&here.join("f"), &[b'1'; 5_000]).unwrap();
    let shows = |file: &File, expected: &[u8]| {
        let mut bytes = vec![0; 8_000];
        let count = file.read_at(&mut bytes, 0).unwrap();
        bytes[..count] == *expected
    };
    let reader = File::open(there.join("f")).unwrap();
    assert!(shows(&reader, &[b'1'; 5_000]));
    let writer = open(&here.join("f"), libc::O_RDWR).unwrap();
    let mut expected = vec![b'1'; 5_000];
    expected[..3].copy_from_slice(b"222");
    writer.write_all_at(b"222", 0).unwrap();
    assert!(shows(&File::open(there.join("f")).unwrap(), &expected), "opened after the write");
    writer.write_all_at(b"333", 10).unwrap();
    expected[10..13].copy_from_slice(b"333");
    writer.sync_all().unwrap();
    assert!(shows(&reader, &expected), "synchronised");
    writer.write_all_at(b"end", 5_000).unwrap();
    expected.extend(b"end");
    close(writer).unwrap();
    assert!(shows(&reader, &expected), "closed");
    assert_eq!(reader.metadata().unwrap().len(), 5_003);
    fs::remove_file(here.join("f")).unwrap();
    assert_eq!(reader.metadata().unwrap().nlink(), 0);
    assert!(shows(&reader, &expected));
}

#[test]
fn names_that_were_changed_at_one_place_are_changed_at_the_other() {
    let (fixture, places) = twice();
    for (from, to) in [(0, 1), (1, 0)] {
        let (here, there) = (&places[from], &places[to]);
        assert!(!there.join("x").exists() && !there.join("y").exists());
        save(&here.join("x"), b"x").unwrap();
        assert_eq!(fs::read(there.join("x")).unwrap(), b"x");
        fs::rename(here.join("x"), here.join("y")).unwrap();
        assert!(!there.join("x").exists());
        assert_eq!(fs::read(there.join("y")).unwrap(), b"x");
        save(&here.join("z"), b"z").unwrap();
        fs::metadata(there.join("z")).unwrap();
        fs::rename(here.join("z"), here.join("y")).unwrap();
        assert_eq!(fs::read(there.join("y")).unwrap(), b"z", "another file");
        fs::remove_file(here.join("y")).unwrap();
        assert!(!there.join("y").exists());
        assert!(!there.join("folder").exists());
        fs::create_dir(here.join("folder")).unwrap();
        save(&there.join("folder/in"), b"in").unwrap();
        assert_eq!(names(&here.join("folder")), ["in"]);
        fs::rename(here.join("folder"), here.join("moved")).unwrap();
        assert_eq!(fs::read(there.join("moved/in")).unwrap(), b"in");
        assert!(!there.join("folder").exists());
        fs::remove_dir_all(there.join("moved")).unwrap();
        assert!(!here.join("moved").exists());
        // From one place to the other, which is the same folder.
        save(&here.join("across"), b"across").unwrap();
        assert!(!there.join("landed").exists());
        fs::rename(here.join("across"), there.join("landed")).unwrap();
        assert_eq!((names(here), names(there)), (names(there), vec!["a".into(), "d".into(), "landed".into()]));
        assert_eq!(fs::read(here.join("landed")).unwrap(), b"across");
        assert!(!there.join("across").exists() && !here.join("across").exists());
        save(&there.join("landed"), b"changed").unwrap();
        assert_eq!(fs::read(here.join("landed")).unwrap(), b"changed");
        fs::remove_file(here.join("landed")).unwrap();
        assert!(!there.join("landed").exists());
    }
    let other = fixture.client.collection("other", None, String::new());
    let elsewhere = fixture.writer.collection(&other.uuid);
    let named = fixture.writer.path().join("home/other");
    assert!(!named.join("a").exists() && places[1].join("a").exists());
    fs::rename(places[0].join("a"), elsewhere.join("a")).unwrap();
    assert!(!places[1].join("a").exists());
    assert_eq!(fs::read(named.join("a")).unwrap(), b"first");
}
