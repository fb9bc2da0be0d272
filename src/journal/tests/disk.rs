//! A disk without room, one that lies, and a log that must not grow for ever.

use super::*;
use crate::journal::log::FILE;

/// A file system of 256 KiB. Taken down when the value is dropped.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` where this process may not mount.
    fn new() -> Option<Small> {
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        let mounted = nix::mount::mount(Some("tmpfs"), directory.path(), Some("tmpfs"), flags, Some("size=256k"));
        mounted.is_ok().then_some(Small(directory))
    }

    /// Leaves no page free.
    fn fill(&self) {
        use std::io::Write;
        let mut filler = std::fs::File::create(self.0.path().join("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_a_change_and_leaves_the_log_as_it_was() {
    let Some(small) = Small::new() else {
        eprintln!("skipped: no right to mount a small file system");
        return;
    };
    let account = small.0.path().join("account");
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let big = vec![7; 30_000];
    let mut written = Vec::new();
    let error = loop {
        let path = format!("f{}", written.len());
        match journal.append(ONE, &file(&path, &big), false) {
            Ok(sequence) => written.push((path, sequence)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.errno(), libc::ENOSPC, "{error}");
    assert!(matches!(error, Error::NoRoom { .. }), "{error}");
    assert!(written.len() > 2);
    // The next is refused, too; the mount lives, and what is settled makes room.
    journal.append(ONE, &file("x", &big), false).unwrap_err();
    std::fs::write(small.0.path().join("filler"), vec![1; 1 << 20]).unwrap_err();
    let (_, half) = written[written.len() / 2].clone();
    journal.settled(ONE, half).unwrap_or_else(|error| assert_eq!(error.errno(), libc::ENOSPC));
    let left: Vec<String> = written.iter().filter(|(_, at)| *at > half).map(|(path, _)| path.clone()).collect();
    kill(journal);
    let found = recovered(&account);
    assert_eq!(found.damage, None);
    let paths = paths(&found, ONE);
    // What could not be noted as settled is offered again, which does no harm.
    assert!(paths.ends_with(&left), "{paths:?} {left:?}");
    std::fs::remove_file(small.0.path().join("filler")).unwrap();
    found.journal.settled(ONE, half).unwrap();
    assert!(found.journal.append(ONE, &file("y", b"1"), true).is_ok());
    drop(found);
    assert_eq!(super::paths(&recovered(&account), ONE), [left, vec!["y".to_owned()]].concat());
}

#[test]
fn what_was_settled_while_the_disk_was_full_is_noted_later() {
    let Some(small) = Small::new() else { return eprintln!("skipped: no right to mount a small file system") };
    let account = small.0.path().join("account");
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let first = journal.append(ONE, &file("a", &[1; 4096 * 3]), false).unwrap();
    // Up to the last byte of its last page, so that not even a small record fits when there is no other page.
    let before = journal.size();
    journal.append(ONE, &file("b", b"2"), false).unwrap();
    let least = journal.size() - before;
    let wanted = (journal.size() + least).next_multiple_of(4096) - journal.size();
    journal.append(ONE, &file(&"b".repeat((wanted - least) as usize + 1), b"2"), false).unwrap();
    assert_eq!(journal.size() % 4096, 0);
    small.fill();
    let error = journal.settled(ONE, first).unwrap_err();
    assert_eq!(error.errno(), libc::ENOSPC);
    std::fs::remove_file(small.0.path().join("filler")).unwrap();
    journal.append(ONE, &file("c", b"1"), false).unwrap();
    kill(journal);
    let found = recovered(&account);
    let paths = paths(&found, ONE);
    assert!(!paths.contains(&"a".to_owned()) && paths.contains(&"c".to_owned()), "{paths:?}");
}

#[test]
fn the_limit_counts_what_is_pending_and_not_what_is_settled() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), 20_000).unwrap();
    let mut last = Sequence(0);
    for number in 0..100 {
        last = journal.append(ONE, &file(&format!("f{number}"), &[1; 3000]), false).unwrap();
        journal.append(TWO, &file("same", &[1; 3000]), false).unwrap();
        journal.settled(ONE, last).unwrap();
        assert!(journal.size() < 21_000, "{}", journal.size());
    }
    for number in 0.. {
        match journal.append(ONE, &file(&format!("g{number}"), &[1; 3000]), false) {
            Ok(sequence) => last = sequence,
            Err(error) => {
                assert!(matches!(error, Error::Full { limit: 20_000, .. }), "{error}");
                assert_eq!(error.errno(), libc::ENOSPC);
                assert!(number > 1);
                break;
            }
        }
    }
    journal.settled(ONE, last).unwrap();
    journal.append(ONE, &file("h", &[1; 3000]), false).unwrap();
}

#[test]
fn a_log_that_is_mostly_settled_or_superseded_is_written_anew() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(TWO, &file("stays", b"1"), false).unwrap();
    let mut highest = 0;
    for _ in 0..100 {
        journal.append(ONE, &file("same", &[1; 100_000]), false).unwrap();
        highest = highest.max(journal.size());
    }
    assert!(highest < 3 << 20, "13 MB were appended, {highest} bytes is the most there was");
    kill(journal);
    let found = recovered(&account);
    assert_eq!((paths(&found, ONE), paths(&found, TWO)), (vec!["same".to_owned()], vec!["stays".to_owned()]));
}

#[test]
fn after_a_sync_that_failed_the_next_durable_change_writes_everything_again() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), true).unwrap();
    let inode = || journal.folder().join(FILE).metadata().unwrap().ino();
    let before = inode();
    journal.log().distrust();
    journal.append(ONE, &file("b", b"1"), false).unwrap();
    assert_eq!(inode(), before);
    journal.append(ONE, &file("c", b"1"), true).unwrap();
    assert_ne!(inode(), before);
    let after = inode();
    journal.sync().unwrap();
    assert_eq!(inode(), after);
    kill(journal);
    assert_eq!(paths(&recovered(&account), ONE), ["a", "b", "c"]);
}

#[test]
fn a_log_that_reads_back_less_than_was_written_is_not_rewritten() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), false).unwrap();
    journal.append(ONE, &file("b", b"1"), false).unwrap();
    let log = journal.folder().join(FILE);
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    assert!(matches!(journal.log().rewrite(), Err(Error::Changed { .. })));
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
}

/// After a power failure the records on the disk are what a replay has: without a note of what was saved since they would undo that.
#[test]
fn what_is_sent_comes_to_the_disk_where_that_has_records_and_nowhere_else() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let is_synced_when_sent = || {
        journal.sent(ONE, &sent(vec![(b"x".to_vec(), Base::Absent)])).unwrap();
        journal.secure_sent(ONE).unwrap();
        let is_synced = journal.log().is_synced();
        journal.arrived(ONE).unwrap();
        is_synced
    };
    let first = journal.append(ONE, &file("x", b"x"), false).unwrap();
    assert!(!is_synced_when_sent(), "nobody relies on the disk");
    journal.settled(ONE, first).unwrap();
    journal.append(TWO, &file("y", b"y"), true).unwrap();
    assert!(!is_synced_when_sent(), "another collection");
    let second = journal.append(ONE, &file("x", b"x"), true).unwrap();
    assert!(is_synced_when_sent());
    journal.settled(ONE, second).unwrap();
    assert!(is_synced_when_sent(), "the disk does not know that it is settled");
    assert!(!is_synced_when_sent(), "it knows now");
}
