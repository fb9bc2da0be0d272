//! Journals of earlier mounts that are being saved.
//!
//! Such a journal is settled when all of it is saved, which may be long after a part of it was. Should this mount die, or end,
//! before that, the next one replays it as a whole, and must not take for new what has been saved since: what others have made of
//! it would be a conflict. So what this mount sends and what arrives is noted in every journal that still has something of the
//! collection, as in its own. A journal counts states of its own: of what it has, everything is in what is sent once it was taken
//! over, and nothing before. It belongs to those who save it, and goes with the last of them.
//!
//! The lock is a leaf but for the journals' own.

use crate::journal::{Journal, Sent};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

#[derive(Default)]
pub struct Earlier {
    journals: Mutex<Vec<Journaled>>,
}

struct Journaled {
    journal: Weak<Journal>,
    /// Collections of which it was taken over.
    adopted: HashSet<String>,
}

impl Earlier {
    fn journals(&self) -> MutexGuard<'_, Vec<Journaled>> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, journal: &Arc<Journal>) {
        self.journals().push(Journaled { journal: Arc::downgrade(journal), adopted: HashSet::new() });
    }

    /// What it has of the collection is part of the collection from now on.
    pub fn was_adopted(&self, journal: &Arc<Journal>, collection: &str) {
        for known in self.journals().iter_mut().filter(|known| known.journal.as_ptr() == Arc::as_ptr(journal)) {
            known.adopted.insert(collection.to_owned());
        }
    }

    /// Those that still have something of the collection, and whether that was taken over.
    fn pending(&self, collection: &str) -> Vec<(Arc<Journal>, bool)> {
        let known = self.journals();
        let journals = known.iter().filter_map(|it| Some((it.journal.upgrade()?, it.adopted.contains(collection))));
        journals.filter(|(journal, _)| journal.pending(collection)).collect()
    }

    /// A save is about to be sent. Blocking.
    pub(super) fn note(&self, collection: &str, save: &Sent) {
        for (journal, is_adopted) in self.pending(collection) {
            let state = if is_adopted { u64::MAX } else { 0 };
            if let Err(error) = journal.sent(collection, &Sent { state, ..save.clone() }) {
                tracing::debug!(collection, %error, "cannot note in an earlier journal what is sent");
            }
        }
    }

    /// It is what the server has. Blocking.
    pub(super) fn has_arrived(&self, collection: &str) {
        for (journal, _) in self.pending(collection) {
            if let Err(error) = journal.arrived(collection) {
                tracing::debug!(collection, %error, "cannot note in an earlier journal that a save arrived");
            }
        }
    }
}
