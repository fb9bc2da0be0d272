//! Files that are saved or removed, whose backing files wait until nobody can need them any more.
//!
//! A file may be moved to another collection while it is being saved in this one, and the journal's records of any collection
//! may speak of its backing file. So the list is one for the mount, and a backing file goes when the list is the last
//! that holds its file, and no record that is not settled names it: without it such a record could not be replayed. That no
//! record names it any more has to be on the disk before. One in which nothing is that the file consists of is not its file's any more,
//! and does not wait for who holds that ([`DirtyStore::sweep`](crate::dirty::DirtyStore::sweep)).
//!
//! The lock is a leaf: what is looked at is taken out of the list first.

use crate::actors::collection::CollectionActor;
use crate::dirty::DirtyFile;
use crate::journal::Journal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Is it on the disk which records count? Else a record that counts no longer could count again after a power failure, and a
/// backing file that it names must stay.
pub(super) fn is_certain(journal: Option<&Journal>) -> bool {
    let synced = journal.map_or(Ok(()), Journal::sync_rest);
    if let Err(error) = &synced {
        tracing::debug!(%error, "backing files stay, for the journal may not outlive the machine");
    }
    synced.is_ok()
}

#[derive(Default)]
pub struct Finished {
    /// By their addresses: a save can bring a hundred thousand at once.
    files: Mutex<HashMap<usize, Arc<DirtyFile>>>,
}

impl Finished {
    fn files(&self) -> MutexGuard<'_, HashMap<usize, Arc<DirtyFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, file: Arc<DirtyFile>) {
        self.files().insert(Arc::as_ptr(&file).addr(), file);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files().is_empty()
    }

    /// Lets go of the backing files that nobody needs. `true`: all of them; otherwise somebody has to look again. Blocking.
    pub(super) fn sweep(&self, journal: Option<&Journal>) -> bool {
        let mut files = std::mem::take(&mut *self.files());
        // Those who have a file open may have it for weeks, and with it, as it was when they opened it, all of the collection.
        files.values().for_each(|file| file.retire_unused_backing());
        files.retain(|_, file| file.backing().is_some());
        let mut unneeded = Vec::new();
        files.retain(|address, file| {
            let is_named = |backing| journal.is_some_and(|journal| journal.names(backing));
            let is_needed = Arc::strong_count(file) > 1 || file.backing().is_some_and(is_named);
            if !is_needed {
                unneeded.push((*address, file.clone()));
            }
            is_needed
        });
        if unneeded.iter().any(|(_, file)| file.is_recorded()) && !is_certain(journal) {
            files.extend(unneeded.drain(..));
        }
        unneeded.iter().for_each(|(_, file)| file.discard());
        let is_all = files.is_empty();
        self.files().extend(files);
        is_all
    }
}

impl CollectionActor {
    /// Nobody here needs the file any more.
    pub(super) fn finish(&self, file: Arc<DirtyFile>) {
        if let Some(writing) = &self.environment.writing {
            writing.housekeeper.finished().add(file);
        }
    }

    /// Backing files may be needed no longer.
    pub(super) fn sweep_finished(&self) {
        if let Some(writing) = &self.environment.writing {
            writing.housekeeper.sweep();
        }
    }
}
