//! What a save that is still under way has brought to the server already.
//!
//! The journal is told at once when a save has arrived, and what it says until then of what the server has is put right by that. The
//! actor takes the save in a moment later. Whatever is written down in between must not say what the server had before: after
//! a crash our own save would look like the work of somebody else, and what was removed since would come back. So it is written down
//! on top of what is told here, and a record that was begun before the save arrived is not written after that, but begun anew.
//!
//! The lock is held for a comparison or a copy, also within that of the journal's log; nothing is locked within it.

use crate::tree::Snapshot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Last {
    arrivals: u64,
    /// What the server has, unless the actor has taken it in.
    snapshot: Option<Snapshot>,
}

/// Shared by the actor, its saves and what writes its journal.
#[derive(Clone, Default)]
pub(super) struct Landed(Arc<Mutex<Last>>);

impl Landed {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A save has arrived. To be called before the journal hears of it.
    pub(super) fn arrived(&self, snapshot: Snapshot) {
        let mut last = self.last();
        last.arrivals += 1;
        last.snapshot = Some(snapshot);
    }

    /// The actor knows all that has arrived.
    pub(super) fn was_taken_in(&self) {
        self.last().snapshot = None;
    }

    /// How many saves have arrived so far, and what the server has by that, where the actor does not know.
    pub(super) fn now(&self) -> (u64, Option<Snapshot>) {
        let last = self.last();
        (last.arrivals, last.snapshot.clone())
    }

    /// Has no other save arrived?
    pub(super) fn is_still(&self, arrivals: u64) -> bool {
        self.last().arrivals == arrivals
    }
}
