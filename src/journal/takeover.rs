//! Which journals of dead mounts the next one takes over, and in which order.
//!
//! A mount goes on with what those before it had left, and says so in its records ([`Change::after`]). Nothing else
//! tells for sure who came after whom: clocks go back, and `info.json` may be damaged. So:
//!
//! * A journal comes behind all that its records name, and nothing comes between that knows of neither: journals are
//!   one replay only in a row. Where the records say nothing, the clock decides.
//! * Journals that go on with each other are taken over together or not at all. If only the later one was, its changes
//!   would be settled, and the next replay of the earlier one would bring back what was removed; if only the earlier
//!   one was, the later one would find on the server what it never saw there. What is left alone stays in its journal
//!   until the next mount.
//!
//! What a mount that runs has of one journal is being saved by it, so a journal waits for that at most as long as there
//! is something of the same collection in it. The other way round nobody waits: a mount that runs has had what it goes
//! on with, and has given back of that what it could not use.
//!
//! One mount at a time takes journals over, so that two that start together do not get half each: that is the lock of
//! the account, a file `lock` in its folder, which goes with who holds it. Its holder waits for nothing but the disk.
//! Locks of journals it only tries for some milliseconds; so a mount that has one, if only its own, may wait for the
//! account, and there is no deadlock. That wait has an end, too: who holds the lock so long is stopped, or has much to
//! read, and is to have all of it.

use super::{Change, Contents, Error, LOCK, PAUSE, Recovered, acquire, folders, id, sweep};
use nix::fcntl::Flock;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long another mount may take: it reads three or four logs of the greatest length (256 MiB) from a disk with 50
/// MB/s. What is saved of them puts a mount off for no longer, either.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// See [`Journal::recover`](super::Journal::recover). `patience`: how long another mount is waited for that does the
/// same.
pub(super) fn take(account_folder: &Path, patience: Duration) -> Result<Vec<Recovered>, Error> {
    sweep(account_folder);
    if folders(account_folder)?.is_empty() {
        return Ok(Vec::new());
    }
    let _turn = match Turn::wait(account_folder, patience) {
        Ok(Some(turn)) => Some(turn),
        Ok(None) => {
            tracing::warn!(
                folder = %account_folder.display(),
                "another mount is taking over what earlier ones had not saved: what it does not take waits for the next mount"
            );
            return Ok(Vec::new());
        }
        Err(error) => {
            // What belongs together is found out without it, too.
            tracing::warn!(folder = %account_folder.display(), %error, "cannot lock the journals of the account");
            None
        }
    };
    let mut taken = Vec::new();
    let mut others = Vec::new();
    for folder in folders(account_folder)? {
        match Recovered::open(&folder) {
            Ok(Some(recovered)) => taken.push(recovered),
            Ok(None) => others.push((folder, false)),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "a journal of a dead mount is kept, it cannot be taken over");
                others.push((folder, true));
            }
        }
    }
    taken.sort_by_key(|recovered: &Recovered| recovered.info.as_ref().map(|info| info.started));
    let taken = together(taken, others);
    Ok(in_order(taken).into_iter().map(|(_, recovered)| recovered).collect())
}

/// The lock of the account.
struct Turn {
    file: PathBuf,
    _lock: Flock<File>,
}

impl Turn {
    /// `None`: another mount has it for longer than that.
    fn wait(account_folder: &Path, patience: Duration) -> Result<Option<Turn>, Error> {
        let start = Instant::now();
        loop {
            if let Some(lock) = acquire(account_folder)? {
                return Ok(Some(Turn { file: account_folder.join(LOCK), _lock: lock }));
            }
            if start.elapsed() >= patience {
                return Ok(None);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is ours. Who waits for it sees that it has another name, or none, and asks again.
        if let Err(error) = std::fs::remove_file(&self.file) {
            tracing::debug!(file = %self.file.display(), %error, "cannot remove the lock of the account");
        }
    }
}

/// What a journal says of those before it.
struct Names {
    id: String,
    /// Journals that it goes on with, by the collections of which it has something.
    after: BTreeMap<String, BTreeSet<String>>,
}

impl Names {
    fn of(recovered: &Recovered) -> Names {
        let collections = recovered.collections.iter();
        let after = collections.map(|(uuid, changes)| (uuid.clone(), named(changes.iter().map(|(_, change)| change))));
        Names { id: recovered.journal.id(), after: after.collect() }
    }

    fn read(folder: &Path, contents: &Contents) -> Names {
        let collections = contents.pending.collections.iter();
        let after = collections.map(|(uuid, changes)| (uuid.clone(), named(changes.values())));
        Names { id: id(folder), after: after.collect() }
    }

    fn name(&self, id: &str) -> bool {
        self.after.values().any(|after| after.contains(id))
    }

    /// Has it something that comes after what the other one still has?
    fn go_on_with(&self, other: &Names) -> bool {
        self.after.iter().any(|(uuid, after)| after.contains(&other.id) && other.after.contains_key(uuid))
    }
}

fn named<'c>(changes: impl Iterator<Item = &'c Change>) -> BTreeSet<String> {
    changes.flat_map(|change| &change.after).cloned().collect()
}

/// Without those that go on with one of the others, or that one of the others goes on with which could not be taken
/// over (`true`).
fn together(taken: Vec<Recovered>, others: Vec<(PathBuf, bool)>) -> Vec<(Names, Recovered)> {
    let mut taken: Vec<_> = taken.into_iter().map(|recovered| (Names::of(&recovered), recovered)).collect();
    for (folder, has_failed) in others {
        let id = id(&folder);
        // Reading the log of a mount that runs may take a while, and is seldom of use.
        if !has_failed && !taken.iter().any(|(names, _)| names.name(&id)) {
            continue;
        }
        let other = Contents::read(&folder).map(|contents| Names::read(&folder, &contents));
        taken = match other {
            Ok(other) => without(taken, &other, has_failed),
            // Its owner has ended, and removed it.
            Err(_) if !folder.exists() => taken,
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "cannot look into a journal that another one names");
                // Whatever it is that it has.
                let collections = taken.iter().flat_map(|(names, _)| names.after.keys());
                let after = collections.map(|uuid| (uuid.clone(), BTreeSet::new())).collect();
                without(taken, &Names { id, after }, false)
            }
        };
    }
    taken
}

/// Lets go of those that go on with this one, and, if `either_way`, of those that it goes on with; then of all that
/// belong together with them.
fn without(taken: Vec<(Names, Recovered)>, other: &Names, either_way: bool) -> Vec<(Names, Recovered)> {
    let belongs = |(names, _): &(Names, Recovered)| names.go_on_with(other) || (either_way && other.go_on_with(names));
    let (left, mut taken): (Vec<_>, Vec<_>) = taken.into_iter().partition(belongs);
    for (names, recovered) in left {
        tracing::warn!(
            journal = names.id,
            waits_for = other.id,
            "a journal of a dead mount waits for another that belongs to it and could not be taken over: the next mount tries again"
        );
        drop(recovered);
        taken = without(taken, &names, true);
    }
    taken
}

/// Each behind all that it names, and at once behind the one before it if it names that; otherwise as they are.
fn in_order(mut waiting: Vec<(Names, Recovered)>) -> Vec<(Names, Recovered)> {
    let mut ordered: Vec<(Names, Recovered)> = Vec::new();
    while !waiting.is_empty() {
        let is_next = |(names, _): &(Names, Recovered)| {
            !waiting.iter().any(|(other, _)| other.id != names.id && names.name(&other.id))
        };
        let last = ordered.last().map(|(names, _)| names.id.as_str());
        let goes_on = |next: &(Names, Recovered)| is_next(next) && last.is_some_and(|last| next.0.name(last));
        let next = waiting.iter().position(goes_on).or_else(|| waiting.iter().position(is_next));
        // None: they name each other in a circle, which no mount writes.
        ordered.push(waiting.remove(next.unwrap_or_default()));
    }
    ordered
}
