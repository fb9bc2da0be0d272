//! Outages that a journal must survive, and models of what it must remember.

use super::*;
use crate::dirty::Content;
use crate::dirty::content::{Extent, Source};
use chrono::{DateTime, Utc};
use std::os::unix::fs::PermissionsExt;

mod crash;
mod damage;
mod disk;
mod model;
mod records;
mod takeover;

const ONE: &str = "zzzzz-4zz18-000000000000001";
const TWO: &str = "zzzzz-4zz18-000000000000002";
const NO_LIMIT: u64 = u64::MAX;

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn change(operation: Operation) -> Change {
    Change { operation, bases: Vec::new(), time: time(1), state: 0, after: Vec::new(), moved_to: None }
}

fn file(path: &str, bytes: &[u8]) -> Change {
    let source = Source::Inline(bytes.to_vec().into());
    let extents = vec![Extent { length: bytes.len() as u64, source }];
    let content = Content { size: bytes.len() as u64, backing: None, extents };
    change(Operation::File { path: path.into(), content, modified: None })
}

fn sent(paths: Vec<(Vec<u8>, Base)>) -> Sent {
    Sent { state: 1, paths, has_arrived: false }
}

fn info() -> Info {
    Info::of_process(Path::new("/mnt/keep"))
}

/// The folder of an account in a folder that goes with the test.
fn account() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let account =
        place::account_folder(&directory.path().join("state"), "zzzzz", "zzzzz-tpzed-000000000000000").unwrap();
    (directory, account)
}

/// As after `kill -9`: the lock is gone, and nothing has been tidied up.
fn kill(journal: Journal) -> PathBuf {
    let folder = journal.folder().to_owned();
    let lock = journal.lock.try_clone().unwrap();
    std::mem::forget(journal);
    // `flock` belongs to the open file, so this releases it for the forgotten descriptor, too.
    nix::fcntl::Flock::lock(lock, FlockArg::LockSharedNonblock).map(drop).map_err(|(_, errno)| errno).unwrap();
    folder
}

fn recovered(account: &Path) -> Recovered {
    let mut all = Journal::recover(account).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.pop().unwrap()
}

fn paths(recovered: &Recovered, collection: &str) -> Vec<String> {
    let changes = recovered.collections.get(collection).into_iter().flatten();
    changes.map(|(_, change)| String::from_utf8_lossy(change.operation.path()).into_owned()).collect()
}

#[test]
fn what_a_killed_mount_has_written_down_is_found_by_the_next() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), false).unwrap();
    let up_to = journal.append(ONE, &file("b", b"2"), true).unwrap();
    journal.append(TWO, &file("c", b"3"), false).unwrap();
    let last = journal.append(ONE, &file("d", b"4"), false).unwrap();
    journal.settled(ONE, up_to).unwrap();
    assert!(journal.pending(ONE) && journal.pending(TWO) && !journal.pending("x"));
    kill(journal);

    let found = recovered(&account);
    assert_eq!((paths(&found, ONE), paths(&found, TWO)), (vec!["d".to_owned()], vec!["c".to_owned()]));
    assert_eq!(found.damage, None);
    assert_eq!(found.info.as_ref().unwrap().mount_point, Path::new("/mnt/keep"));
    // It goes on where it was.
    assert!(found.journal.append(ONE, &file("e", b"5"), false).unwrap() > last);
    kill(found.journal);
    assert_eq!(paths(&recovered(&account), ONE), ["d", "e"]);
}

/// The note that makes the log worth shortening counts when it is shortened.
#[test]
fn what_is_settled_is_forgotten_also_when_the_log_is_made_short_by_it() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let content = vec![1; 100 << 10];
    let mut sequences = Vec::new();
    for number in 0..20 {
        sequences.push(journal.append(ONE, &file(&format!("file{number}"), &content), false).unwrap());
    }
    let before = journal.size();
    journal.sent(ONE, &sent(Vec::new())).unwrap();
    journal.settled(ONE, sequences[17]).unwrap();
    assert!(journal.size() < before / 4, "it is short");
    journal.arrived(ONE).unwrap();
    journal.settled(ONE, sequences[18]).unwrap();
    let folder = kill(journal);
    let found = recovered(&account);
    assert_eq!(paths(&found, ONE), ["file19"]);
    found.journal.settled(ONE, sequences[19]).unwrap();
    assert!(found.journal.close());
    assert!(!folder.exists());

    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let last =
        (0..20).map(|number| journal.append(ONE, &file(&format!("file{number}"), &content), false).unwrap()).last();
    journal.append(TWO, &file("other", b"x"), false).unwrap();
    journal.settled(ONE, last.unwrap()).unwrap();
    assert!(!journal.pending(ONE));
    assert_eq!(journal.pending_collections(), [TWO]);
}

#[test]
fn a_mount_that_ends_with_all_saved_leaves_nothing_and_otherwise_its_journal() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let folder = journal.folder().to_owned();
    std::fs::write(journal.data_folder().join("1"), b"x").unwrap();
    let sequence = journal.append(ONE, &file("a", b"1"), false).unwrap();
    drop(journal);
    assert!(folder.exists());
    let found = recovered(&account);
    assert!(found.journal.data_folder().join("1").exists());
    found.journal.settled(ONE, sequence).unwrap();
    assert_eq!(found.journal.size(), log::LEAST, "nothing is pending");
    assert!(found.journal.close());
    assert_eq!(std::fs::read_dir(&account).unwrap().count(), 0);

    // One that was killed with nothing in it is tidied up by the next.
    let folder = kill(Journal::create(&account, &info(), NO_LIMIT).unwrap());
    assert!(Journal::recover(&account).unwrap().is_empty());
    assert!(!folder.exists());
}

#[test]
fn a_journal_that_a_mount_holds_is_not_taken_over_nor_discarded_by_anybody() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), false).unwrap();
    assert!(is_running(journal.folder()));
    assert!(Journal::recover(&account).unwrap().is_empty());
    assert!(matches!(discard(journal.folder()), Err(Error::Running { .. })));
    let lock = journal.folder().join(LOCK);
    // Another process.
    let asks = |lock: &Path| std::process::Command::new("flock").arg("-n").arg(lock).arg("true").status().unwrap();
    assert!(!asks(&lock).success());

    let found = {
        let folder = kill(journal);
        assert!(!is_running(&folder));
        assert!(asks(&lock).success());
        recovered(&account)
    };
    assert!(is_running(found.journal.folder()));
    assert!(Journal::recover(&account).unwrap().is_empty(), "taken over once");
    let folder = kill(found.journal);
    discard(&folder).unwrap();
    assert!(Journal::recover(&account).unwrap().is_empty() && !folder.exists());
}

#[test]
fn journals_of_other_accounts_are_left_alone() {
    let (directory, account) = account();
    let other = place::account_folder(&directory.path().join("state"), "zzzzz", "zzzzz-tpzed-anotheruser0000").unwrap();
    let journal = Journal::create(&other, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), false).unwrap();
    kill(journal);
    assert!(Journal::recover(&account).unwrap().is_empty());
    assert_eq!(Journal::recover(&other).unwrap().len(), 1);
}

#[test]
fn nobody_else_can_read_a_journal() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), false).unwrap();
    let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o777;
    for folder in [&account, journal.folder(), &journal.data_folder()] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    for name in [LOCK, log::FILE, info::FILE] {
        assert_eq!(mode(&journal.folder().join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_link_in_the_way_is_not_followed() {
    let (directory, account) = account();
    let elsewhere = directory.path().join("elsewhere");
    std::fs::create_dir_all(account.parent().unwrap()).unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &account).unwrap();
    assert!(matches!(Journal::create(&account, &info(), NO_LIMIT), Err(Error::NotOurs { .. })));
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);

    std::fs::remove_file(&account).unwrap();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), false).unwrap();
    let folder = kill(journal);
    let log = folder.join(log::FILE);
    std::fs::rename(&log, elsewhere.join("log")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("log"), &log).unwrap();
    assert!(Journal::recover(&account).unwrap().is_empty());
    assert!(folder.exists(), "kept as it is");
}

#[test]
fn a_journal_below_the_mount_point_is_refused() {
    let (directory, account) = account();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    for mount_point in [directory.path(), &link, &account] {
        let info = Info { mount_point: mount_point.to_owned(), ..info() };
        assert!(matches!(Journal::create(&account, &info, NO_LIMIT), Err(Error::BelowMount { .. })));
        assert!(!account.exists(), "nothing was made");
    }
    let beside = Info { mount_point: directory.path().join("stat"), ..info() };
    Journal::create(&account, &beside, NO_LIMIT).unwrap();
}

#[test]
fn a_torn_record_ends_the_log_and_is_kept_and_said() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), false).unwrap();
    let last = journal.append(ONE, &file("b", b"2"), false).unwrap();
    let log = journal.folder().join(log::FILE);
    kill(journal);
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 1]).unwrap();

    let found = recovered(&account);
    assert_eq!(paths(&found, ONE), ["a"]);
    let damage = found.damage.unwrap();
    assert!(damage.contains("not a whole record") && damage.contains(contents::DAMAGED), "{damage}");
    found.journal.settled(ONE, last).unwrap();
    assert!(!found.journal.close(), "it has something that nobody has looked at");
    let again = recovered(&account);
    assert!(again.collections.is_empty() && again.damage.is_some());
    let kept = Contents::read(again.journal.folder()).unwrap().put_aside;
    assert_eq!(std::fs::read(again.journal.folder().join(&kept[0])).unwrap(), whole[..whole.len() - 1]);
}

#[test]
fn our_own_commit_does_not_look_like_another_clients() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let with = |path: &str, base| Change { bases: vec![(path.into(), base)], ..file(path, b"1") };
    let first = journal.append(ONE, &with("a", Base::Absent), false).unwrap();
    journal.append(ONE, &with("a", Base::Absent), false).unwrap();
    journal.append(ONE, &change(Operation::Remove { path: "b".into() }), false).unwrap();
    journal.append(ONE, &with("a", Base::Absent), false).unwrap();
    let ours = Base::File { pieces: vec![Piece { locator: "x+1".into(), block_size: 1, offset: 0, length: 1 }] };
    journal.sent(ONE, &sent(vec![(b"a".to_vec(), ours.clone())])).unwrap();
    journal.settled(ONE, first).unwrap();
    journal.arrived(ONE).unwrap();
    kill(journal);
    let found = recovered(&account);
    let bases: Vec<_> = found.collections[ONE].iter().flat_map(|(_, change)| &change.bases).collect();
    assert!(!bases.is_empty() && bases.iter().all(|(path, base)| path == b"a" && *base == ours), "{bases:?}");
}

#[test]
fn changes_that_belong_together_are_there_all_or_none() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let renamed = [change(Operation::Remove { path: "from".into() }), file("to", b"1")];
    journal.append(ONE, &file("from", b"1"), false).unwrap();
    let before = journal.size();
    journal.append_together(ONE, &renamed, false).unwrap();
    let (after, log) = (journal.size(), journal.folder().join(log::FILE));
    let folder = kill(journal);
    let whole = std::fs::read(&log).unwrap();
    for length in before..=after {
        std::fs::write(&log, &whole[..length as usize]).unwrap();
        let pending = Contents::read(&folder).unwrap().pending;
        assert_eq!(pending.collections[ONE].len(), if length == after { 3 } else { 1 });
    }
}

#[test]
fn a_save_that_may_have_arrived_is_told_to_the_next_mount() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let save = sent(vec![(b"a".to_vec(), Base::Absent)]);
    journal.sent(ONE, &save).unwrap();
    assert!(!journal.pending(ONE) && journal.pending_collections().is_empty(), "there is nothing to be saved");
    let last = journal.append(ONE, &file("b", b"1"), false).unwrap();
    kill(journal);
    let found = recovered(&account);
    assert_eq!(found.sent, [(ONE.to_owned(), vec![save])].into());
    found.journal.settled(ONE, last).unwrap();
    drop(found);
    assert!(Journal::recover(&account).unwrap().is_empty(), "it matters to nobody without changes");
}

#[test]
fn saves_that_fail_for_days_do_not_fill_the_journal() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let last = journal.append(ONE, &file("file0", b"1"), false).unwrap();
    let save = |state, names: std::ops::Range<u32>| Sent {
        state,
        paths: names.map(|name| (format!("file{name}").into_bytes(), Base::Absent)).collect(),
        has_arrived: false,
    };
    for attempt in 0..400 {
        journal.sent(ONE, &save(attempt, 0..1000)).unwrap();
    }
    assert!(journal.size() < 3 << 20, "answers were lost: {}", journal.size());
    journal.log().rewrite().unwrap();
    let told = Contents::read(journal.folder()).unwrap().pending.sent[ONE].clone();
    assert_eq!(told, [save(399, 0..1000)], "the last one says it all");
    journal.arrived(ONE).unwrap();
    for attempt in 400..800 {
        journal.sent(ONE, &save(attempt, 0..1000)).unwrap();
        journal.withdrawn(ONE).unwrap();
    }
    assert!(journal.size() < 3 << 20, "they were refused: {}", journal.size());
    let told = Contents::read(journal.folder()).unwrap().pending.sent[ONE].clone();
    assert_eq!(told.iter().map(|save| (save.state, save.has_arrived)).collect::<Vec<_>>(), [(399, true)]);
    journal.settled(ONE, last).unwrap();
    assert!(journal.close(), "nothing is left");
}

/// Or who restores the directory afterwards, as it was, would be taken for the server as it was.
#[test]
fn what_was_in_a_directory_whose_removal_has_arrived_is_gone_too() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let here = || Base::File { pieces: Vec::new() };
    let bases = [("d", Base::Directory), ("d/sub/x", here()), ("dd", here())];
    let bases = bases.map(|(path, base)| (path.into(), base)).to_vec();
    let removal = Change { bases, ..change(Operation::Remove { path: "d".into() }) };
    journal.append(ONE, &removal, false).unwrap();
    journal.sent(ONE, &sent(vec![("d".into(), Base::Absent)])).unwrap();
    journal.arrived(ONE).unwrap();
    kill(journal);
    let found = recovered(&account);
    let (_, change) = &found.collections[ONE][0];
    let absent = |path: &str| (path.as_bytes().to_vec(), Base::Absent);
    assert_eq!(change.bases, [absent("d"), absent("d/sub/x"), ("dd".into(), here())]);
}

#[test]
fn save_that_may_have_arrived_stays_when_a_later_one_is_refused() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), false).unwrap();
    let save = sent(vec![(b"a".to_vec(), Base::Absent)]);
    journal.sent(ONE, &save).unwrap();
    journal.sent(ONE, &sent(vec![(b"b".to_vec(), Base::Absent)])).unwrap();
    journal.withdrawn(ONE).unwrap();
    assert!(Contents::read(journal.folder()).unwrap().pending.sent[ONE].contains(&save));
    journal.arrived(ONE).unwrap();
    journal.sent(ONE, &save).unwrap();
    journal.sent(ONE, &save).unwrap();
    journal.log().rewrite().unwrap();
    journal.withdrawn(ONE).unwrap();
    kill(journal);
    assert!(recovered(&account).sent[ONE].contains(&save), "the first of the two may have arrived");
}

#[test]
fn whoever_counts_states_anew_learns_how_far_they_have_come() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    assert_eq!(journal.reach(ONE), (0, None));
    let last = journal.append(ONE, &Change { state: 7, ..file("a", b"1") }, false).unwrap();
    journal.append(TWO, &Change { state: 99, ..file("a", b"1") }, false).unwrap();
    assert_eq!(journal.reach(ONE), (7, Some(last)));
    journal.sent(ONE, &Sent { state: 9, ..sent(vec![(b"a".to_vec(), Base::Absent)]) }).unwrap();
    journal.log().rewrite().unwrap();
    assert_eq!(journal.reach(ONE), (9, Some(last)));
}

#[test]
fn journal_follows_another_only_with_all_that_it_has() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let after =
        |name: &str, ids: &[&str]| Change { after: ids.iter().map(|id| id.to_string()).collect(), ..file(name, b"1") };
    assert!(!journal.follows(ONE, "x"), "it has nothing");
    let first = journal.append(ONE, &after("a", &["y"]), false).unwrap();
    let last = journal.append(ONE, &after("b", &["x", "y"]), false).unwrap();
    assert!(journal.follows(ONE, "y") && !journal.follows(ONE, "x") && !journal.follows(TWO, "y"));
    journal.log().rewrite().unwrap();
    journal.settled(ONE, first).unwrap();
    assert!(journal.follows(ONE, "x"));
    kill(journal);
    let found = recovered(&account);
    assert!(found.journal.follows(ONE, "x"));
    assert_eq!(found.collections[ONE][0].0, last);
}

#[test]
fn a_save_that_arrived_is_told_as_long_as_older_changes_are_pending() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let path = |name: &str| (name.as_bytes().to_vec(), Base::Absent);
    journal.append(ONE, &file("b", b"1"), false).unwrap();
    for (names, arrives) in [(["a", "b"], true), (["b", "lost"], false), (["b", "c"], true), (["d", "e"], false)] {
        journal.sent(ONE, &sent(names.map(path).to_vec())).unwrap();
        if arrives {
            journal.arrived(ONE).unwrap();
        }
    }
    journal.log().rewrite().unwrap();
    kill(journal);
    let found = recovered(&account);
    let names = |save: &Sent| save.paths.iter().map(|(path, _)| path[0] as char).collect::<String>();
    let told: Vec<_> = found.sent[ONE].iter().map(|save| (names(save), save.has_arrived)).collect();
    assert_eq!(told, [("b".into(), true), ("de".into(), false)], "of what has arrived, what is near a change");
    found.journal.settled(ONE, found.collections[ONE][0].0).unwrap();
    drop(found);
    assert!(Journal::recover(&account).unwrap().is_empty());
}

/// The server refuses one path for good, and all others are saved for weeks.
#[test]
fn one_change_that_cannot_be_saved_does_not_make_the_log_keep_all_that_was_saved_since() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let at = |state, change: Change| Change { state, ..change };
    journal.append(ONE, &at(1, file("bad", b"1")), false).unwrap();
    for number in 0..20_000 {
        let path = (format!("file{number}").into_bytes(), Base::File { pieces: Vec::new() });
        journal.sent(ONE, &Sent { state: number + 2, ..sent(vec![path]) }).unwrap();
        journal.arrived(ONE).unwrap();
    }
    let tells = (b"bad".to_vec(), Base::Absent);
    journal.sent(ONE, &Sent { state: 30_000, ..sent(vec![tells.clone()]) }).unwrap();
    journal.arrived(ONE).unwrap();
    assert!(journal.size() < 2 << 20, "it was made short in between: {}", journal.size());
    journal.log().rewrite().unwrap();
    assert!(journal.size() < 10_000, "{}", journal.size());
    kill(journal);
    let told = recovered(&account).sent[ONE].clone();
    assert_eq!(told, [Sent { state: 30_000, paths: vec![tells], has_arrived: true }]);
}

#[test]
fn a_backing_file_is_named_as_long_as_a_record_of_any_collection_may_be_replayed() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let backed = |path: &str| {
        let extents = vec![Extent { length: 1, source: Source::Backing }];
        let content = Content { size: 1, backing: Some(8), extents };
        change(Operation::File { path: path.into(), content, modified: None })
    };
    let first = journal.append(ONE, &backed("a"), false).unwrap();
    let second = journal.append(TWO, &backed("b"), false).unwrap();
    journal.settled(ONE, first).unwrap();
    assert!(journal.names(8), "the other collection's record still has to be replayed");
    journal.append(TWO, &file("b", b"2"), false).unwrap();
    assert!(!journal.names(8), "superseded");
    journal.settled(TWO, second).unwrap();
    assert!(!journal.names(8));
}

#[test]
fn no_signature_is_shown() {
    let locator = format!("{}+3+A{}@65000000", "0".repeat(32), "1".repeat(40));
    let piece = Piece { locator: locator.clone(), block_size: 3, offset: 0, length: 3 };
    let stored = Source::Stored { locator, block_size: 3, offset: 0, own: true };
    let content = Content { size: 3, backing: None, extents: vec![Extent { length: 3, source: stored }] };
    assert!(!format!("{content:?}").contains("11111"));
    assert!(!format!("{:?}", Base::File { pieces: vec![piece] }).contains("11111"));
}

#[test]
fn places_follow_the_rules_of_xdg() {
    let root = |state: Option<&str>, home: Option<&str>| place::root_of(state.map(Into::into), home.map(Into::into));
    assert_eq!(root(Some("/s"), Some("/h")).unwrap(), Path::new("/s/arvados/journal"));
    assert_eq!(root(Some("s"), Some("/h")).unwrap(), Path::new("/h/.local/state/arvados/journal"));
    assert_eq!(root(None, Some("/h")).unwrap(), Path::new("/h/.local/state/arvados/journal"));
    assert!(matches!(root(None, None), Err(Error::NoPlace)));
    assert!(place::account_folder(Path::new("/s"), "..", "/x").is_err());
}
