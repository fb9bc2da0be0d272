//! Journals of mounts that followed each other: which of them the next one has, and in which order.

use super::*;
use std::cell::Cell;

thread_local! {
    /// Each mount of a test starts an hour after the one before, so that the clock says nothing else than its order.
    static HOUR: Cell<i64> = const { Cell::new(0) };
}

/// The journal of a mount that was killed and had taken over these. Its id.
fn left(account: &Path, after: &[&str]) -> String {
    left_of(account, &[(ONE, after)])
}

fn left_of(account: &Path, changes: &[(&str, &[&str])]) -> String {
    let hour = HOUR.replace(HOUR.get() + 1);
    started(account, hour, changes)
}

fn started(account: &Path, hour: i64, changes: &[(&str, &[&str])]) -> String {
    let journal = Journal::create(account, &Info { started: time(hour * 3600), ..info() }, NO_LIMIT).unwrap();
    for (collection, after) in changes {
        let after = after.iter().map(|id| (*id).to_owned()).collect();
        journal.append(collection, &Change { after, ..file("x", b"1") }, false).unwrap();
    }
    id(&kill(journal))
}

/// Ids of what the next mount takes over.
fn taken(account: &Path) -> Vec<String> {
    let all = Journal::recover(account).unwrap();
    all.into_iter().map(|found| id(&kill(found.journal))).collect()
}

/// Another mount has it, or reads it just now.
fn held(account: &Path, id: &str) -> Flock<File> {
    acquire(&account.join(id)).unwrap().unwrap()
}

#[test]
fn journal_is_left_alone_while_another_mount_has_one_that_it_goes_on_with() {
    let (_directory, account) = account();
    let first = left(&account, &[]);
    let second = left(&account, &[&first]);
    let third = left(&account, &[&second]);
    let beside = left(&account, &[]);
    let reading = held(&account, &first);
    assert_eq!(taken(&account), [&*beside]);
    drop(reading);
    assert_eq!(taken(&account), [first, second, third, beside]);
}

#[test]
fn journal_does_not_wait_for_one_that_has_nothing_more_of_the_collection() {
    let (_directory, account) = account();
    let first = left_of(&account, &[(TWO, &[])]);
    let second = left_of(&account, &[(ONE, &[&first, "gone"])]);
    let _saving = held(&account, &first);
    assert_eq!(taken(&account), [second]);
}

#[test]
fn what_one_that_cannot_be_taken_over_goes_on_with_waits_for_it() {
    let (_directory, account) = account();
    let first = left(&account, &[]);
    let second = left(&account, &[&first]);
    let third = left(&account, &[&first, &second]);
    let beside = left(&account, &[]);
    for broken in [&second, &third] {
        // Also root cannot open this for writing.
        let lock = account.join(broken).join(LOCK);
        std::fs::remove_file(&lock).unwrap();
        std::fs::create_dir(&lock).unwrap();
        assert_eq!(taken(&account), [&*beside]);
        std::fs::remove_dir(&lock).unwrap();
    }
    assert_eq!(taken(&account), [first, second, third, beside]);
}

#[test]
fn journal_that_goes_on_with_one_of_which_nothing_can_be_read_waits_for_it() {
    let (_directory, account) = account();
    let first = left(&account, &[]);
    let second = left(&account, &[&first]);
    let file = account.join(&first).join(info::FILE);
    let known = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, known.replace("\"format\":2", "\"format\":99")).unwrap();
    assert_eq!(taken(&account), [""; 0]);
    std::fs::write(&file, known).unwrap();
    assert_eq!(taken(&account), [first, second]);
}

#[test]
fn journals_are_in_the_order_in_which_their_mounts_went_on_whatever_the_clock_says() {
    let (_directory, account) = account();
    let first = started(&account, 5, &[(ONE, &[])]);
    let second = started(&account, 1, &[(ONE, &[&first])]);
    let third = started(&account, 3, &[(ONE, &[&second]), (TWO, &[&first])]);
    assert_eq!(taken(&account), [&*first, &second, &third]);
    std::fs::write(account.join(&third).join(info::FILE), "damaged").unwrap();
    assert_eq!(taken(&account), [first, second, third]);
}

#[test]
fn journal_of_a_mount_that_ran_at_the_same_time_does_not_come_between_those_that_go_on_with_each_other() {
    let (_directory, account) = account();
    let first = left(&account, &[]);
    let beside = left(&account, &[]);
    let second = left(&account, &[&first]);
    let third = left(&account, &[&first, &second]);
    assert_eq!(taken(&account), [first, second, third, beside]);
}

/// The other one is to have all of them, not what it has not come to yet.
#[test]
fn nothing_is_taken_over_while_another_mount_does_that() {
    let (_directory, account) = account();
    let first = left(&account, &[]);
    let second = left(&account, &[&first]);
    let other = acquire(&account).unwrap().unwrap();
    assert_eq!(other.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(crate::journal::takeover::take(&account, Duration::ZERO).unwrap().is_empty());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| taken(&account));
        drop(other);
        assert_eq!(waits.join().unwrap(), [first, second]);
    });
    assert!(!account.join(LOCK).exists(), "it goes with the last who has it");
}

/// Two that start together, with journals of three that ran one after the other.
#[test]
fn mounts_that_start_together_share_no_row_of_journals() {
    for _ in 0..20 {
        let (_directory, account) = account();
        let first = left(&account, &[]);
        let second = left(&account, &[&first]);
        let third = left(&account, &[&first, &second]);
        let all: Vec<_> = std::thread::scope(|scope| {
            let mounts: Vec<_> = (0..3).map(|_| scope.spawn(|| Journal::recover(&account).unwrap())).collect();
            mounts.into_iter().map(|mount| mount.join().unwrap()).collect()
        });
        let mut taken: Vec<Vec<String>> =
            all.iter().map(|found| found.iter().map(|one| one.journal.id()).collect()).collect();
        taken.sort_by_key(Vec::len);
        assert_eq!(taken, [vec![], vec![], vec![first, second, third]]);
    }
}

/// No mount writes this. Whoever else did is not to keep any mount from starting.
#[test]
fn journals_that_go_on_with_each_other_in_a_circle_are_taken_over_all_the_same() {
    let (_directory, account) = account();
    let journals: Vec<_> = (0..3)
        .map(|hour| Journal::create(&account, &Info { started: time(hour), ..info() }, NO_LIMIT).unwrap())
        .collect();
    let ids: Vec<String> = journals.iter().map(Journal::id).collect();
    for (number, journal) in journals.into_iter().enumerate() {
        let after = vec![ids[(number + 1) % 3].clone(), ids[number].clone()];
        journal.append(ONE, &Change { after, ..file("x", b"1") }, false).unwrap();
        kill(journal);
    }
    let mut found = taken(&account);
    found.sort();
    let mut expected = ids;
    expected.sort();
    assert_eq!(found, expected);
}
