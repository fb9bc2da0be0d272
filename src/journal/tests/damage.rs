//! A journal that somebody or something has damaged from outside, dead or in use.

use super::*;
use crate::journal::log::FILE;

/// A journal of a killed mount with bytes in `data`.
fn with_data(account: &Path) -> PathBuf {
    let journal = Journal::create(account, &info(), NO_LIMIT).unwrap();
    journal.append(ONE, &file("a", b"1"), true).unwrap();
    std::fs::write(journal.data_folder().join("1"), b"acknowledged").unwrap();
    kill(journal)
}

/// However often somebody mounts, or asks.
fn assert_is_kept(account: &Path, folder: &Path, said: &str) {
    let problem = Contents::read(folder).unwrap().problem();
    assert!(problem.as_ref().is_some_and(|problem| problem.contains(said)), "{problem:?}");
    for mount in 1..=3 {
        let found = recovered(account);
        assert!(found.damage.is_some() && found.collections.is_empty(), "mount {mount}: {:?}", found.damage);
        assert!(!found.journal.close(), "mount {mount}");
        assert_eq!(std::fs::read(data_folder(folder).join("1")).unwrap(), b"acknowledged", "mount {mount}");
        assert!(Contents::read(folder).unwrap().problem().is_some(), "mount {mount}");
    }
}

#[test]
fn journal_whose_log_was_cut_to_nothing_is_kept_with_its_data() {
    let (_directory, account) = account();
    let folder = with_data(&account);
    std::fs::write(folder.join(FILE), b"").unwrap();
    assert_is_kept(&account, &folder, "empty");
}

#[test]
fn journal_whose_log_was_removed_is_kept_with_its_data() {
    let (_directory, account) = account();
    let folder = with_data(&account);
    std::fs::remove_file(folder.join(FILE)).unwrap();
    assert_is_kept(&account, &folder, "missing");
}

#[test]
fn journal_whose_log_has_lost_its_first_records_is_damaged() {
    let (_directory, account) = account();
    let folder = with_data(&account);
    let log = std::fs::read(folder.join(FILE)).unwrap();
    let last = log.windows(4).rposition(|bytes| bytes == b"\xFFJR1").unwrap();
    assert!(last > 0, "there is more than the last record");
    std::fs::write(folder.join(FILE), &log[last..]).unwrap();
    let found = recovered(&account);
    assert!(found.damage.unwrap().contains("beginning"));
    assert_eq!(found.collections[ONE].len(), 1, "what could be read is used");
}

/// Bytes that were written and never acknowledged.
#[test]
fn journal_without_records_goes_with_what_a_killed_mount_had_in_its_data_folder() {
    for settles in [false, true] {
        let (_directory, account) = account();
        let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
        if settles {
            let last = journal.append(ONE, &file("a", b"1"), false).unwrap();
            journal.settled(ONE, last).unwrap();
        }
        std::fs::write(journal.data_folder().join("1"), b"scratch").unwrap();
        let folder = kill(journal);
        assert_eq!(Contents::read(&folder).unwrap().problem(), None);
        assert!(Journal::recover(&account).unwrap().is_empty() && !folder.exists());
    }
}

#[test]
fn whoever_relies_on_a_journal_that_was_removed_is_told() {
    let (_directory, account) = account();
    let journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
    let first = journal.append(ONE, &file("a", b"1"), true).unwrap();
    std::fs::remove_dir_all(journal.folder()).unwrap();
    let later = [
        journal.append(ONE, &file("b", b"2"), false).map(drop),
        journal.append(ONE, &file("b", b"2"), true).map(drop),
        journal.sync(),
        journal.sync_rest(),
    ];
    for (number, result) in later.into_iter().enumerate() {
        let error = result.expect_err(&format!("number {number}"));
        assert!(error.errno() == libc::EIO && error.to_string().contains("was removed"), "{number}: {error}");
    }
    // What was saved meanwhile is no trouble.
    let _ = journal.settled(ONE, first);
    assert!(journal.is_settled());
}

#[test]
fn advice_fits_also_where_the_folder_was_chosen_by_an_option() {
    let (directory, account) = account();
    let below = Info { mount_point: directory.path().to_owned(), ..info() };
    let below = Journal::create(&account, &below, NO_LIMIT).unwrap_err();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let not_ours = place::check(&directory.path().join("file")).unwrap_err();
    for error in [below, not_ours] {
        assert!(!error.to_string().contains("XDG_STATE_HOME"), "{error}");
    }
}
