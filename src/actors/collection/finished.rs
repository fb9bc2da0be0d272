//! Files that are saved or removed, whose backing files wait until nobody can need them any more.
//!
//! A file may be moved to another collection while it is being saved in this one, and the journal's records of any collection
//! may speak of its backing file. So the list is one for the mount, and a backing file goes when the list is the last
//! that holds its file, and no record that is not settled names it: without it such a record could not be replayed.
//!
//! The lock is a leaf: what is looked at is taken out of the list first.

use crate::dirty::DirtyFile;
use crate::journal::Journal;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
        files.retain(|_, file| {
            let Some(backing) = file.backing() else { return false };
            let is_needed = Arc::strong_count(file) > 1 || journal.is_some_and(|journal| journal.names(backing));
            if !is_needed {
                file.discard();
            }
            is_needed
        });
        let is_all = files.is_empty();
        self.files().extend(files);
        is_all
    }
}
