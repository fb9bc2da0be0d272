//! Journals of earlier mounts that are being saved.
//!
//! Such a journal is settled when all of it is saved, which may be long after a part of it was. Should this mount die, or end,
//! before that, the next one replays it as a whole, and must not take for new what has been saved since: what others have made of
//! it would be a conflict. So what this mount sends and what arrives is noted in every journal that was taken over and still has
//! something of the collection, as in its own. A journal counts states of its own: of what it has, everything is in what is sent once
//! it was taken over.
//!
//! Several mounts may have left something of one collection. Those that ran one after the other have taken over what the one before
//! had left, and say so in their records ([`Change::after`](crate::journal::Change)): they are taken over together
//! ([`replaying`](super::replaying)). Where a later one has to wait all the same, what is saved of the earlier one is what the later one
//! began with, and is noted there before that one's turn comes. Mounts that ran at the same time know nothing of each other,
//! and what one has saved is to the other as the work of any client: noting it there would make that other replace unseen what it never
//! saw. Nor is noted, in what was not taken over, what users of this mount have changed.
//!
//! A journal belongs to those who save it, and goes with the last of them. The lock is a leaf but for the journals' own.

use crate::journal::{Error, Journal, Sent};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

#[derive(Default)]
pub struct Earlier {
    journals: Mutex<Journals>,
}

#[derive(Default)]
struct Journals {
    known: Vec<Journaled>,
    /// Users may have changed something: what is saved is not only what journals had.
    is_mounted: bool,
}

struct Journaled {
    journal: Weak<Journal>,
    /// Collections of which it was taken over.
    adopted: HashSet<String>,
    /// Collections of which it has a note of what was sent last.
    noted: HashSet<String>,
}

impl Earlier {
    fn journals(&self) -> MutexGuard<'_, Journals> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, journal: &Arc<Journal>) {
        let journal = Arc::downgrade(journal);
        self.journals().known.push(Journaled { journal, adopted: HashSet::new(), noted: HashSet::new() });
    }

    /// What it has of the collection is part of the collection from now on.
    pub fn was_adopted(&self, journal: &Arc<Journal>, collection: &str) {
        for known in self.journals().known.iter_mut().filter(|known| known.journal.as_ptr() == Arc::as_ptr(journal)) {
            known.adopted.insert(collection.to_owned());
        }
    }

    /// From now on there are users.
    pub fn is_mounted(&self) {
        self.journals().is_mounted = true;
    }

    /// Names of the journals that were taken over and still have something of the collection.
    pub(super) fn adopted(&self, collection: &str) -> Vec<String> {
        let journals = self.journals();
        let adopted = journals.known.iter().filter(|known| known.adopted.contains(collection));
        let adopted = adopted.filter_map(|known| known.journal.upgrade());
        adopted.filter(|journal| journal.pending(collection)).map(|journal| journal.id()).collect()
    }

    /// A save is about to be sent. Blocking.
    pub(super) fn note(&self, collection: &str, save: &Sent) {
        let adopted = self.adopted(collection);
        let mut journals = self.journals();
        let is_mounted = journals.is_mounted;
        for known in &mut journals.known {
            let Some(journal) = known.journal.upgrade().filter(|journal| journal.pending(collection)) else { continue };
            let state = if known.adopted.contains(collection) {
                u64::MAX
            } else if !is_mounted && !adopted.is_empty() && adopted.iter().all(|id| journal.follows(collection, id)) {
                0
            } else {
                continue;
            };
            match journal.sent(collection, &Sent { state, ..save.clone() }) {
                Ok(()) => drop(known.noted.insert(collection.to_owned())),
                Err(error) => {
                    known.noted.remove(collection);
                    tracing::debug!(collection, %error, "cannot note in an earlier journal what is sent");
                }
            }
        }
    }

    /// Tells those which have a note of the last save what became of that ([`Journal::arrived`], [`Journal::withdrawn`]). Blocking.
    pub(super) fn end(&self, collection: &str, how: fn(&Journal, &str) -> Result<(), Error>) {
        for known in &mut self.journals().known {
            if known.noted.remove(collection)
                && let Some(journal) = known.journal.upgrade()
                && let Err(error) = how(&journal, collection)
            {
                tracing::debug!(collection, %error, "cannot note in an earlier journal what became of a save");
            }
        }
    }
}
