//! What the kernel is told of and has to give back: nodes that count as known, open files. Where it does not hear of them after
//! all, they are given back here.

use super::NOTHING;
use crate::vfs::{DirectoryEntry, Entry, FileSystem, Inode, Opened};
use std::sync::Arc;

/// What an operation made for the kernel: a node that counts as known once more, and perhaps an open file. Unless the
/// answer is sent, nobody else would give them back.
pub(super) struct Given<F: FileSystem> {
    files: Arc<F>,
    entry: Option<Entry>,
    opened: Option<Opened>,
}

impl<F: FileSystem> Given<F> {
    pub(super) fn node(files: Arc<F>, entry: Entry) -> Given<F> {
        Given { files, entry: Some(entry), opened: None }
    }

    /// With its node, if that was made as well.
    pub(super) fn file(files: Arc<F>, entry: Option<Entry>, opened: Opened) -> Given<F> {
        Given { files, entry, opened: Some(opened) }
    }

    /// The answer is on its way: the kernel owns both now.
    pub(super) fn take(mut self) -> (Entry, Option<Opened>) {
        (self.entry.take().unwrap_or(NOTHING), self.opened.take())
    }
}

impl<F: FileSystem> Drop for Given<F> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry {
            self.files.forget(entry.attributes.inode, 1);
        }
        if let (Some(opened), Ok(runtime)) = (self.opened, tokio::runtime::Handle::try_current()) {
            let files = self.files.clone();
            runtime.spawn(async move { files.release(opened.handle).await });
        }
    }
}

/// A node that the kernel gets to know by a listing with attributes is counted when it is handed to the crate, and taken
/// back when the crate found no room for it: then it asks for no further one and drops the stream.
pub(super) struct Counted<F: FileSystem> {
    files: Arc<F>,
    names: F::Names,
    unconfirmed: Option<Inode>,
}

impl<F: FileSystem> Counted<F> {
    pub(super) fn new(files: Arc<F>, names: F::Names) -> Counted<F> {
        Counted { files, names, unconfirmed: None }
    }
}

impl<F: FileSystem> Iterator for Counted<F> {
    type Item = DirectoryEntry;

    fn next(&mut self) -> Option<DirectoryEntry> {
        self.unconfirmed = None;
        let entry = self.names.next()?;
        self.files.remember(entry.entry.attributes.inode);
        self.unconfirmed = Some(entry.entry.attributes.inode);
        Some(entry)
    }
}

impl<F: FileSystem> Drop for Counted<F> {
    fn drop(&mut self) {
        if let Some(inode) = self.unconfirmed {
            self.files.forget(inode, 1);
        }
    }
}
