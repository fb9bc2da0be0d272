use super::*;
use crate::cluster::clock::{ShiftedClock, Timestamp};

struct Fixture {
    _directory: tempfile::TempDir,
    clock: Arc<ShiftedClock>,
    volume: Volume,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ShiftedClock::default());
    let root = directory.path().join("keep0");
    let volume = Volume::open(&root, String::new(), 1, vec!["default".to_owned()], Arc::clone(&clock) as _).unwrap();
    Fixture { _directory: directory, clock, volume }
}

fn hash(data: &[u8]) -> BlockHash {
    BlockHash(Md5::digest(data).into())
}

fn store(volume: &Volume, data: &[u8]) -> BlockHash {
    let mut block = volume.create(hash(data)).unwrap();
    block.write(data).unwrap();
    block.commit().unwrap();
    hash(data)
}

fn names(volume: &Volume) -> Vec<String> {
    let mut names = Vec::new();
    volume
        .directories("", |directory| {
            names.extend(entries(directory)?.iter().map(|entry| entry.file_name().into_string().unwrap()));
            Ok(true)
        })
        .unwrap();
    names.sort();
    names
}

#[test]
fn a_block_is_stored_where_a_real_keepstore_looks_for_it() {
    let Fixture { volume, .. } = &fixture();
    store(volume, b"foo");
    assert_eq!(fs::read(volume.root().join("acb/acbd18db4cc2f85cedef654fccc4a4d8")).unwrap(), b"foo");
    assert_eq!(digest(&volume.block(hash(b"foo")).unwrap().unwrap()).unwrap(), hash(b"foo"));
    assert_eq!(volume.usage().unwrap(), Usage { blocks: 1, bytes: 3 });
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing_behind() {
    let Fixture { volume, .. } = &fixture();
    let mut block = volume.create(hash(b"foo")).unwrap();
    block.write(b"fo").unwrap();
    assert!(volume.block(hash(b"foo")).unwrap().is_none(), "half a block can be read");
    assert_eq!(volume.usage().unwrap(), Usage::default());
    drop(block);
    assert_eq!(names(volume), Vec::<String>::new());
}

#[test]
fn what_a_killed_process_left_is_swept_after_a_day() {
    let Fixture { volume, clock, .. } = &fixture();
    let directory = volume.directory(hash(b"foo"));
    fs::create_dir(&directory).unwrap();
    let left = directory.join(format!("tmp{}abc", hash(b"foo")));
    fs::write(&left, "fo").unwrap();
    assert_eq!(volume.sweep().unwrap(), 0);
    assert!(left.exists(), "an upload that may be running was deleted");
    clock.advance(ABANDONED + Duration::from_secs(1));
    assert_eq!(volume.sweep().unwrap(), 1);
    assert!(!left.exists());
}

#[test]
fn a_young_block_is_not_trashed_and_an_old_one_comes_back_until_its_deadline() {
    let Fixture { volume, clock, .. } = &fixture();
    let (age, lifetime) = (Duration::from_secs(100), Duration::from_secs(1000));
    let foo = store(volume, b"foo");
    assert_eq!(volume.trash(foo, age, lifetime, None).unwrap(), Trashed::Kept);
    clock.advance(Duration::from_secs(101));
    assert_eq!(volume.trash(foo, age, lifetime, Some(1)).unwrap(), Trashed::Kept, "not the block that was seen");
    assert_eq!(volume.trash(foo, age, lifetime, None).unwrap(), Trashed::Yes);
    assert_eq!(volume.trash(foo, age, lifetime, None).unwrap(), Trashed::Missing);
    let deadline = clock.now().seconds() + 1000;
    assert!(names(volume)[0].starts_with("acbd18db4cc2f85cedef654fccc4a4d8.trash."), "{deadline}");
    assert_eq!(volume.usage().unwrap(), Usage::default());

    assert!(volume.untrash(foo).unwrap());
    assert!(!volume.untrash(foo).unwrap());
    assert!(volume.block(foo).unwrap().is_some());

    assert_eq!(volume.trash(foo, age, lifetime, None).unwrap(), Trashed::Yes);
    assert_eq!(volume.sweep().unwrap(), 0);
    clock.advance(Duration::from_secs(1001));
    assert_eq!(volume.sweep().unwrap(), 1);
    assert_eq!(names(volume), Vec::<String>::new());
}

#[test]
fn a_touched_block_is_young_again() {
    let Fixture { volume, clock, .. } = &fixture();
    let foo = store(volume, b"foo");
    clock.advance(Duration::from_secs(1000));
    assert!(volume.touch(foo).unwrap().is_some());
    assert_eq!(volume.trash(foo, Duration::from_secs(100), Duration::ZERO, None).unwrap(), Trashed::Kept);
    assert!(volume.touch(hash(b"bar")).unwrap().is_none());
}

#[test]
fn without_a_trash_lifetime_a_block_is_deleted() {
    let Fixture { volume, clock, .. } = &fixture();
    let foo = store(volume, b"foo");
    clock.advance(Duration::from_secs(1));
    assert_eq!(volume.trash(foo, Duration::ZERO, Duration::ZERO, None).unwrap(), Trashed::Yes);
    assert_eq!(names(volume), Vec::<String>::new());
}

#[test]
fn the_index_has_blocks_only_and_obeys_its_prefix() {
    let Fixture { volume, clock, .. } = &fixture();
    clock.set(Timestamp::parse("2026-11-22T20:48:35.955762Z").unwrap());
    let before = i128::from(clock.now().seconds());
    let foo = store(volume, b"foo");
    let after = i128::from(clock.now().seconds());
    store(volume, b"bar");
    fs::write(volume.path(foo).with_file_name(format!("tmp{foo}x")), "fo").unwrap();
    fs::write(volume.path(foo).with_file_name(format!("{foo}.trash.9")), "fo").unwrap();
    fs::create_dir(volume.root().join("xyz")).unwrap();
    let list = |prefix: &str| {
        let mut lines = Vec::new();
        let mut note = |hash, size, modified| {
            lines.push((hash, size, modified));
            true
        };
        volume.index(prefix, &mut note).unwrap();
        lines
    };
    assert_eq!(list("").len(), 2);
    for prefix in ["a", "acb", "acbd1", "acbd18db4cc2f85cedef654fccc4a4d8"] {
        let lines = list(prefix);
        assert_eq!((lines.len(), lines[0].0, lines[0].1), (1, foo, 3), "{prefix}");
        assert!((before..=after).contains(&(lines[0].2 / 1_000_000_000)), "{prefix}: {}", lines[0].2);
    }
    assert!(list("acbe").is_empty());
}

#[test]
fn a_full_disk_is_remembered_for_an_hour() {
    let Fixture { volume, clock, .. } = &fixture();
    assert!(!volume.is_full().unwrap());
    volume.remember_full().unwrap();
    volume.remember_full().unwrap();
    assert!(volume.is_full().unwrap());
    clock.advance(Duration::from_secs(3601));
    assert!(!volume.is_full().unwrap());
}

#[test]
fn a_comparison_sees_every_difference() {
    let Fixture { volume, .. } = &fixture();
    let stored = store(volume, b"stored block");
    let equal = |pieces: &[&[u8]]| {
        let mut comparison = Comparison::new(volume.block(stored).unwrap().unwrap());
        for piece in pieces {
            comparison.update(piece).unwrap();
        }
        comparison.finish().unwrap()
    };
    assert!(equal(&[b"stored", b" block"]));
    assert!(!equal(&[b"stored", b" blocK"]));
    assert!(!equal(&[b"stored"]));
    assert!(!equal(&[b"stored block", b"s"]));
    assert!(!equal(&[]));
}
