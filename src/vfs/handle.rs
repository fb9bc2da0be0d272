//! Open files and directories.
//!
//! A handle keeps what was opened: the content of a file, the names of a directory. Whatever happens to the collection
//! meanwhile, its reader goes on with that; only the signatures of blocks are taken from the newest state.

use crate::actors::collection::CollectionState;
use crate::actors::collection::draft::Draft;
use crate::actors::listing::Listing;
use crate::tree::NodeId;
use crate::vfs::object::{Content, Object, OpenRecord, Pinned};
use crate::vfs::{Attributes, Destination, Entry, Handle, Inode};
use bytes::Bytes;
use dashmap::DashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A file of a collection.
pub struct OpenFile {
    pub inode: Inode,
    pub object: Pinned,
    pub state: Arc<CollectionState>,
    pub node: NodeId,
    pub attributes: Attributes,
    /// For those that may write.
    pub writer: Option<Writer>,
}

impl OpenFile {
    /// As it was opened, for when it is not in its collection any more.
    pub fn attributes_without_name(&self) -> Attributes {
        Attributes { is_linked: false, ..self.attributes }
    }
}

/// What a handle that may write has besides.
pub struct Writer {
    pub draft: Arc<Draft>,
    /// Something was written through it.
    pub has_written: AtomicBool,
    /// The file's generation up to which a `flush` has ended well. Not when it begins: copies of a handle are closed side by side (a
    /// process that is started closes its own), and the close of each promises what the last write has brought.
    pub flushed: AtomicU64,
    /// The file was made with it, and no `flush` has ended well since.
    pub is_new: AtomicBool,
}

impl Writer {
    /// Something was written through it. To be called before the writer hears of it.
    pub fn was_written(&self, destination: Destination) {
        match destination {
            Destination::At(_) | Destination::End => self.has_written.store(true, Ordering::Release),
            Destination::Pages(_) => self.draft.pages_were_written(),
        }
    }

    /// Is there anything of this handle that no `flush` has answered for? Changed pages may be of any.
    pub fn is_unflushed(&self) -> bool {
        let may_have_written = self.has_written.load(Ordering::Acquire) || self.draft.has_written_pages();
        may_have_written && self.flushed.load(Ordering::Acquire) != self.draft.file.generation()
    }

    /// A `flush` has ended well. `generation`: it has answered for what was written up to there.
    pub fn was_flushed(&self, generation: Option<u64>) {
        self.is_new.store(false, Ordering::Release);
        if let Some(generation) = generation {
            self.flushed.store(generation, Ordering::Release);
        }
    }
}

/// A file whose content the program makes.
pub enum OpenText {
    Fixed(Bytes),
    Record(OpenRecord),
}

impl OpenText {
    pub fn text(&self) -> &Bytes {
        match self {
            OpenText::Fixed(text) => text,
            OpenText::Record(record) => record.text(),
        }
    }
}

/// How far the names of a directory have been read: `count` of them, of which `last` is the last one.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pub count: usize,
    pub last: NodeId,
}

/// The names of a directory as they were when it was opened.
pub enum OpenNames {
    Ready(Vec<(Vec<u8>, Entry)>),
    Listing(Arc<Listing>),
    Collection { state: Arc<CollectionState>, node: NodeId },
}

pub struct OpenDirectory {
    pub inode: Inode,
    pub object: Pinned,
    pub names: OpenNames,
    /// Where reading in a collection may go on: after the last name that was read, and after the one before, because the last one may
    /// have found no room in the answer.
    pub marks: Mutex<[Option<Mark>; 2]>,
    /// It has been read from the beginning.
    pub was_read: AtomicBool,
}

impl OpenDirectory {
    pub fn new(inode: Inode, object: Pinned, names: OpenNames) -> OpenDirectory {
        OpenDirectory { inode, object, names, marks: Mutex::default(), was_read: AtomicBool::new(false) }
    }

    /// May there be other names since it was opened? Often there is nothing new in this directory, but that costs more to find out.
    pub fn is_behind(&self) -> bool {
        match (&self.names, &self.object.content) {
            (OpenNames::Collection { state, .. }, Content::Collection { cell, .. }) => {
                cell.load().is_some_and(|now| !Arc::ptr_eq(&now, state))
            }
            (OpenNames::Listing(listing), Content::Listing { cell, .. }) => {
                cell.load().is_some_and(|now| !Arc::ptr_eq(&now, listing))
            }
            // Names are added when somebody looks for them, and hardly ever taken out.
            (OpenNames::Ready(names), Content::Magic { fixed, items, .. }) => {
                names.len() != fixed.len() + Object::lock(items).iter().count()
            }
            _ => false,
        }
    }
}

pub enum Open {
    File(OpenFile),
    Text(OpenText),
    Directory(OpenDirectory),
}

/// All handles of a mount. A sharded map: its locks are held for a look-up only.
#[derive(Default)]
pub struct Handles {
    table: DashMap<u64, Arc<Open>>,
    next: AtomicU64,
}

impl Handles {
    /// Numbers begin at 1 and are not used again.
    pub fn add(&self, open: Open) -> Handle {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.table.insert(number, Arc::new(open));
        Handle(number)
    }

    pub fn get(&self, handle: Handle) -> Option<Arc<Open>> {
        self.table.get(&handle.0).map(|open| open.clone())
    }

    /// Puts something else behind a handle, unless it has been closed.
    pub fn replace(&self, handle: Handle, open: Open) -> Option<Arc<Open>> {
        let mut place = self.table.get_mut(&handle.0)?;
        *place = Arc::new(open);
        Some(place.clone())
    }

    pub fn remove(&self, handle: Handle) -> Option<Arc<Open>> {
        self.table.remove(&handle.0).map(|(_, open)| open)
    }

    /// Has anybody this file open?
    pub fn has_open(&self, inode: Inode) -> bool {
        self.attributes(inode).is_some()
    }

    /// What an open file with this number looks like that is not in its collection any more. Looks through all handles,
    /// which is rare enough: only for files that were replaced or deleted while open.
    pub fn attributes(&self, inode: Inode) -> Option<Attributes> {
        let file = |open: &Open| match open {
            Open::File(file) if file.inode == inode => Some(file.attributes_without_name()),
            _ => None,
        };
        self.table.iter().find_map(|open| file(&open))
    }
}
