//! A file that is open for writing, or changed here and not saved yet.
//!
//! Its bytes belong to `dirty`; here is what the collection has to know of it. Writers put their data into the file without
//! asking the collection's actor, and tell it once that there is a change ([`Draft::announce`]). When a save begins
//! to look at the file it takes the announcement back first, so that a write that comes later is announced again: a change is
//! either in what the save sees, or announced after it.

use crate::dirty::{DirtyFile, Settled};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

pub struct Draft {
    pub file: Arc<DirtyFile>,
    /// Handles that may write.
    writers: AtomicUsize,
    /// The actor knows that there are changes that no save has begun to look at.
    is_announced: AtomicBool,
    /// Somebody was promised that what is in the file is kept (a `close`, an `fsync`): saves take it along although it is
    /// still open.
    is_promised: AtomicBool,
    /// The file's generation that is on the server.
    saved: AtomicU64,
    /// How often it had been written to by then.
    saved_writes: AtomicU64,
    /// The file belongs to another collection now.
    is_handed_over: AtomicBool,
    /// Somebody has it mapped and has changed it. Nobody can tell who: each who may write and closes it is answered for that.
    has_written_pages: AtomicBool,
}

impl Draft {
    pub fn new(file: Arc<DirtyFile>) -> Draft {
        let (saved, saved_writes) = (AtomicU64::new(file.generation()), AtomicU64::new(file.writes()));
        Draft {
            file,
            writers: AtomicUsize::new(0),
            is_announced: AtomicBool::new(false),
            is_promised: AtomicBool::new(false),
            saved,
            saved_writes,
            is_handed_over: AtomicBool::new(false),
            has_written_pages: AtomicBool::new(false),
        }
    }

    /// A file whose content is not on the server: made here, or found in a journal.
    pub fn unsaved(file: Arc<DirtyFile>) -> Draft {
        Draft { saved_writes: AtomicU64::new(u64::MAX), ..Draft::touched(file) }
    }

    /// A file with the server's content, of which something else is to be saved.
    pub(super) fn touched(file: Arc<DirtyFile>) -> Draft {
        Draft { saved: AtomicU64::new(u64::MAX), ..Draft::new(file) }
    }

    pub(super) fn add_writer(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns whether that was the last one.
    pub(super) fn remove_writer(&self) -> bool {
        self.writers.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// From now on its bytes are another collection's. Who has it open for reading goes on; a write would be nobody's.
    pub(super) fn hand_over(&self) {
        self.is_handed_over.store(true, Ordering::Release);
    }

    pub(super) fn is_handed_over(&self) -> bool {
        self.is_handed_over.load(Ordering::Acquire)
    }

    pub fn pages_were_written(&self) {
        self.has_written_pages.store(true, Ordering::Release);
    }

    pub fn has_written_pages(&self) -> bool {
        self.has_written_pages.load(Ordering::Acquire)
    }

    pub fn is_open(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    /// To be called after each change. `true`: the actor has to be told.
    pub fn announce(&self) -> bool {
        !self.is_announced.swap(true, Ordering::AcqRel)
    }

    /// The actor knows of changes.
    pub fn is_announced(&self) -> bool {
        self.is_announced.load(Ordering::Acquire)
    }

    /// The actor could not be told.
    pub fn retract(&self) {
        self.is_announced.store(false, Ordering::Release);
    }

    /// A save begins to look at the file.
    pub(super) fn take_announcement(&self) {
        self.is_announced.store(false, Ordering::Release);
    }

    /// Does it have content that is not on the server?
    pub fn is_changed(&self) -> bool {
        self.file.generation() != self.saved.load(Ordering::Acquire)
    }

    /// Was it written to since it was opened or saved last? What was put back to the server's bytes was: another client's change
    /// must not take its place, which may be what a save of ours brought of which the answer got lost.
    pub(super) fn is_written(&self) -> bool {
        self.file.writes() != self.saved_writes.load(Ordering::Acquire)
    }

    pub(super) fn set_saved(&self, settled: &Settled) {
        self.saved_writes.store(settled.writes, Ordering::Release);
        self.saved.store(settled.generation, Ordering::Release);
    }

    pub(super) fn promise(&self) {
        self.is_promised.store(true, Ordering::Release);
    }

    /// Everything that was promised is on its way with this save.
    pub(super) fn keep_promise(&self) -> bool {
        self.is_promised.swap(false, Ordering::AcqRel)
    }

    /// Would a save take it along? What is half written is not saved unless somebody asked for it.
    pub(super) fn is_due(&self) -> bool {
        self.is_changed() && (!self.is_open() || self.is_promised.load(Ordering::Acquire))
    }

    /// Nobody may write to it, and the server has what is in it.
    pub(super) fn is_over(&self) -> bool {
        !self.is_open() && !self.is_changed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Budget;
    use crate::dirty::{DirtyStore, Options, Place, Scratch};
    use crate::keep::Locator;
    use crate::remote::error::{Error, Result};
    use crate::remote::keep::{Keep, PutRequest, Stored};
    use bytes::Bytes;

    /// Nothing goes to Keep here.
    struct NoKeep;

    #[async_trait::async_trait]
    impl Keep for NoKeep {
        async fn get(&self, _: &Locator) -> Result<Bytes> {
            Err(Error::NoKeepServices)
        }

        async fn put(&self, _: Bytes, _: &PutRequest) -> Result<Stored> {
            Err(Error::NoKeepServices)
        }
    }

    /// A block counts as not stored when its signature is about to end; a save that is under way may name it all the same.
    #[tokio::test]
    async fn saved_file_whose_blocks_were_given_up_meanwhile_goes_with_its_last_writer() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirtyStore::new(Options {
            budget: Budget::new(1 << 20),
            memory: 1 << 19,
            scratch: Scratch::open(folder.path().join("scratch"), 1 << 20).unwrap(),
            keep: Arc::new(NoKeep),
            runtime: tokio::runtime::Handle::current(),
            uploads: 1,
            block_size: 1 << 16,
        });
        let draft = Draft::unsaved(store.file(std::iter::empty(), PutRequest::default()));
        draft.add_writer();
        draft.file.write(Place::End, Bytes::from_static(b"bytes")).await.unwrap();
        let (generation, writes, modified) = (draft.file.generation(), draft.file.writes(), draft.file.modified());
        draft.set_saved(&Settled { pieces: Vec::new(), size: 5, generation, writes, modified });
        assert!(draft.file.is_local() && !draft.is_over(), "somebody may write to it");
        assert!(draft.remove_writer() && draft.is_over());
        draft.file.write(Place::End, Bytes::from_static(b"more")).await.unwrap();
        assert!(!draft.is_over(), "that is not saved");
    }
}
