//! Objects: what directories of the tree stand for, their slots, and when they may be dropped.
//!
//! An object lives as long as somebody counts on it: the kernel knows a node in it, a handle is open, or an operation is under
//! way. All three are one number, because all that matters is whether it is zero. FORGET and LOOKUP may overtake each
//! other, so the number may be below zero for a moment; and an object whose number is zero is only dropped by a sweep
//! some time later, which first makes it unusable in one atomic step. Whoever wants to use it after that finds that out
//! and takes another one. So there is no lock, and nobody can use what has been dropped.

use crate::actors::collection::{CollectionCell, Kind};
use crate::actors::listing::{ListingCell, Source};
use crate::actors::{Supervisor, listing};
use crate::vfs::{Inode, Timestamp};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use dashmap::DashMap;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Number of the hidden file (`.arvados#collection`, `.arvados#project`) within its object.
pub const RECORD_FILE: u32 = u32::MAX;

/// What is behind a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    Fixed(Arc<Vec<FixedItem>>),
    /// A directory where things appear when they are named.
    Magic {
        by_uuid: bool,
        is_top: bool,
    },
    Listing(Source),
    /// A collection by uuid or portable data hash.
    Collection(String),
}

impl Behind {
    /// Nothing about it will ever change.
    pub fn is_immutable(&self) -> bool {
        match self {
            Behind::Fixed(_) | Behind::Magic { .. } => true,
            Behind::Listing(_) => false,
            Behind::Collection(id) => Kind::of(id) == Kind::Immutable,
        }
    }

    /// What a name in a listing leads to.
    pub fn of(target: &listing::Target) -> Behind {
        match target {
            listing::Target::Collection(uuid) => Behind::Collection(uuid.to_string()),
            listing::Target::Project(uuid) => Behind::Listing(Source::Project(uuid.to_string())),
            listing::Target::Tag(tag) => Behind::Listing(Source::Tag(tag.to_string())),
        }
    }
}

/// A name in a directory that is made by the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedItem {
    pub name: String,
    pub node: FixedNode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FixedNode {
    Text(Bytes),
    Door(Behind),
}

/// A name that somebody has found in a magic directory.
#[derive(Debug, Clone)]
pub struct MagicItem {
    pub name: Arc<str>,
    pub behind: Behind,
    /// For projects, as the record said when it was found.
    pub modified: Timestamp,
}

/// The names found in one magic directory so far. Numbers begin after those of its fixed items.
#[derive(Debug, Default)]
pub struct MagicItems {
    items: Vec<Option<MagicItem>>,
    by_name: HashMap<Arc<str>, u32>,
}

impl MagicItems {
    pub fn get(&self, number: u32) -> Option<&MagicItem> {
        self.items.get(number as usize)?.as_ref()
    }

    pub fn find(&self, name: &str) -> Option<(u32, &MagicItem)> {
        let number = *self.by_name.get(name)?;
        Some((number, self.get(number)?))
    }

    /// Adds a name, or returns the number that it has.
    pub fn add(&mut self, item: MagicItem) -> u32 {
        if let Some(number) = self.by_name.get(&item.name) {
            return *number;
        }
        let number = self.items.len() as u32;
        self.by_name.insert(item.name.clone(), number);
        self.items.push(Some(item));
        number
    }

    /// Takes a name out. Its number is not used again.
    pub fn remove(&mut self, number: u32) {
        if let Some(item) = self.items.get_mut(number as usize).and_then(Option::take) {
            self.by_name.remove(&item.name);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &MagicItem)> {
        self.items.iter().enumerate().filter_map(|(number, item)| Some((number as u32, item.as_ref()?)))
    }
}

pub enum Content {
    Fixed(Arc<Vec<FixedItem>>),
    Magic { by_uuid: bool, fixed: Arc<Vec<FixedItem>>, items: Mutex<MagicItems> },
    Listing { source: Source, cell: Arc<ListingCell> },
    Collection { id: String, cell: Arc<CollectionCell> },
}

/// The hidden file with the record of an object, as it was when it was last looked up.
#[derive(Debug)]
pub struct RecordText {
    text: Bytes,
    modified: Timestamp,
    /// It was there at the last sweep already, and nobody had opened it.
    was_idle: AtomicBool,
}

impl RecordText {
    pub fn new(text: Bytes, modified: Timestamp) -> RecordText {
        RecordText { text, modified, was_idle: AtomicBool::new(false) }
    }

    pub fn size(&self) -> usize {
        self.text.len()
    }

    pub fn modified(&self) -> Timestamp {
        self.modified
    }
}

pub struct Object {
    pub slot: u32,
    /// The node in another object that leads here.
    pub door: Inode,
    pub content: Content,
    pub record: ArcSwapOption<RecordText>,
    /// Handles on it.
    readers: AtomicUsize,
    /// Which content of a file the kernel may have pages of, for files that grew in place or were written through another object.
    pub opened: DashMap<u32, u32>,
    users: AtomicI64,
    was_idle: AtomicBool,
}

/// In place of a version in [`Object::opened`]: the content is another one than the kernel has. No file grows that often.
const REWRITTEN: u32 = u32::MAX;

/// `users` of an object that has been dropped: so far below zero that no count brings it back.
const DROPPED: i64 = i64::MIN / 2;

impl Object {
    /// The names found so far in a magic directory; no lock is held elsewhere while this one is, and no await happens.
    pub fn lock(items: &Mutex<MagicItems>) -> MutexGuard<'_, MagicItems> {
        items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file's content was changed by another way than through this object.
    pub fn was_rewritten(&self, number: u32) {
        self.opened.insert(number, REWRITTEN);
    }

    /// A file is opened that has this version. Has the kernel seen this content before, if it has seen any?
    pub fn knows(&self, number: u32, version: u32) -> bool {
        if version == 0 && !self.opened.contains_key(&number) {
            return true;
        }
        self.opened.insert(number, version) == Some(version)
    }

    /// Drops the text of a record that was only looked up, with what a manifest takes: whoever opens it looks its name up first, and
    /// that makes it anew. One that was made since the last sweep may be for somebody who is about to open it.
    fn sweep_record(&self) {
        if let Some(record) = self.record.load_full()
            && self.readers.load(Ordering::Acquire) == 0
            && record.was_idle.swap(true, Ordering::Relaxed)
        {
            self.record.compare_and_swap(&record, None);
        }
    }
}

/// An object that stays while this lives.
pub struct Pinned(Arc<Object>);

impl Deref for Pinned {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.0
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A handle on the hidden file. It may hold as much as a manifest has, so the last one takes the text with it; whoever looks
/// the name up again has it made anew anyway.
pub struct OpenRecord {
    object: Pinned,
    record: Arc<RecordText>,
}

impl OpenRecord {
    /// `None`: nobody has looked it up since it was last closed.
    pub fn new(object: Pinned) -> Option<OpenRecord> {
        // Counted before it is loaded: who closes it at this moment must know of us.
        object.readers.fetch_add(1, Ordering::AcqRel);
        match object.record.load_full() {
            Some(record) => Some(OpenRecord { object, record }),
            None => {
                object.readers.fetch_sub(1, Ordering::AcqRel);
                None
            }
        }
    }

    pub fn text(&self) -> &Bytes {
        &self.record.text
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        if self.object.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            // One that was made meanwhile is for somebody who is about to open it.
            self.object.record.compare_and_swap(&self.record, None);
        }
    }
}

/// All objects of a mount, by slot and by the door that leads to them.
pub struct Objects {
    supervisor: Arc<Supervisor>,
    slots: DashMap<u32, Arc<Object>>,
    doors: DashMap<Inode, u32>,
    /// The slots of those that show a collection, by its key.
    collections: DashMap<String, Vec<u32>>,
    next: AtomicU32,
}

impl Objects {
    /// Slot 0 holds only the root: a door as node 1 (node 0 is an empty text, so that numbers are positions).
    pub fn new(supervisor: Arc<Supervisor>, root: Behind) -> Objects {
        let nothing = FixedItem { name: String::new(), node: FixedNode::Text(Bytes::new()) };
        let root = FixedItem { name: String::new(), node: FixedNode::Door(root) };
        let (slots, doors, collections) = (DashMap::new(), DashMap::new(), DashMap::new());
        let objects = Objects { supervisor, slots, doors, collections, next: AtomicU32::new(0) };
        let slot = objects.make(Inode(0), &Behind::Fixed(Arc::new(vec![nothing, root])));
        // Never dropped: the kernel knows the root without ever looking it up.
        slot.0.users.fetch_add(1, Ordering::AcqRel);
        objects
    }

    /// The object of a slot. `None`: it has been dropped.
    pub fn get(&self, slot: u32) -> Option<Pinned> {
        pin(self.slots.get(&slot)?.clone())
    }

    /// The object behind `door`; made if nobody has looked inside yet.
    pub fn enter(&self, door: Inode, behind: &Behind) -> Pinned {
        if let Some(object) = self.entered(door) {
            return object;
        }
        // Two who come at once may both get here; the entry makes one of them find what the other made.
        match self.doors.entry(door) {
            dashmap::Entry::Occupied(mut entry) => match self.get(*entry.get()) {
                Some(object) => object,
                None => {
                    let object = self.make(door, behind);
                    entry.insert(object.slot);
                    object
                }
            },
            dashmap::Entry::Vacant(entry) => {
                let object = self.make(door, behind);
                entry.insert(object.slot);
                object
            }
        }
    }

    /// The object behind `door`, if somebody has looked inside.
    pub fn entered(&self, door: Inode) -> Option<Pinned> {
        let slot = *self.doors.get(&door)?;
        self.get(slot)
    }

    fn make(&self, door: Inode, behind: &Behind) -> Pinned {
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        let content = match behind {
            Behind::Fixed(items) => Content::Fixed(items.clone()),
            Behind::Magic { by_uuid, is_top } => Content::Magic {
                by_uuid: *by_uuid,
                fixed: Arc::new(crate::vfs::site::magic_items(*by_uuid, *is_top)),
                items: Mutex::default(),
            },
            Behind::Listing(source) => {
                Content::Listing { source: source.clone(), cell: self.supervisor.listing(source) }
            }
            Behind::Collection(id) => Content::Collection { id: id.clone(), cell: self.supervisor.collection(id) },
        };
        let object = Arc::new(Object {
            slot,
            door,
            content,
            record: ArcSwapOption::empty(),
            readers: AtomicUsize::new(0),
            opened: DashMap::new(),
            users: AtomicI64::new(1),
            was_idle: AtomicBool::new(false),
        });
        self.slots.insert(slot, object.clone());
        if let Behind::Collection(id) = behind {
            self.collections.entry(id.clone()).or_default().push(slot);
        }
        Pinned(object)
    }

    /// The kernel got to know a node of `slot`.
    pub fn remember(&self, slot: u32) {
        if let Some(object) = self.slots.get(&slot) {
            object.users.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The kernel forgot nodes of `slot`, `count` times.
    pub fn forget(&self, slot: u32, count: u64) {
        if let Some(object) = self.slots.get(&slot) {
            object.users.fetch_sub(i64::try_from(count).unwrap_or(i64::MAX / 4), Ordering::AcqRel);
        }
    }

    /// The objects that show this collection.
    pub fn of_collection(&self, key: &str) -> Vec<Arc<Object>> {
        let slots = self.collections.get(key).map(|slots| slots.clone()).unwrap_or_default();
        slots.iter().filter_map(|slot| Some(self.slots.get(slot)?.clone())).collect()
    }

    /// The other objects that show the same collection as this one. Mostly there are none.
    pub fn others(&self, object: &Object) -> Vec<Arc<Object>> {
        let Content::Collection { id, .. } = &object.content else { return Vec::new() };
        if self.collections.get(id).is_none_or(|slots| slots.len() < 2) {
            return Vec::new();
        }
        let mut objects = self.of_collection(id);
        objects.retain(|it| it.slot != object.slot);
        objects
    }

    /// The objects that show this listing.
    pub fn of_listing(&self, source: &Source) -> Vec<Arc<Object>> {
        let shows =
            |object: &Arc<Object>| matches!(&object.content, Content::Listing { source: it, .. } if it == source);
        self.slots.iter().filter(|object| shows(object)).map(|object| object.clone()).collect()
    }

    /// The doors in listings that lead to this collection.
    pub fn listed_doors_to(&self, key: &str) -> Vec<Inode> {
        let door = |object: &Arc<Object>| {
            let Content::Listing { cell, .. } = &object.content else { return None };
            let listing = cell.load()?;
            let leads =
                |item: &&Arc<listing::Item>| matches!(&item.target, listing::Target::Collection(it) if **it == *key);
            Some(Inode::new(object.slot, listing.items().iter().find(leads)?.number))
        };
        self.slots.iter().filter_map(|object| door(&object)).collect()
    }

    /// Drops what nobody has counted on since the last sweep. Returns how many objects are left.
    pub fn sweep(&self) -> usize {
        self.slots.iter().for_each(|object| object.sweep_record());
        let candidates: Vec<Arc<Object>> =
            self.slots.iter().filter(|object| is_idle(object)).map(|it| it.clone()).collect();
        for object in candidates {
            if object.users.compare_exchange(0, DROPPED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.slots.remove(&object.slot);
                self.doors.remove_if(&object.door, |_, slot| *slot == object.slot);
                if let Content::Collection { id, .. } = &object.content {
                    self.collections.alter(id, |_, mut slots| {
                        slots.retain(|slot| *slot != object.slot);
                        slots
                    });
                    self.collections.remove_if(id, |_, slots| slots.is_empty());
                }
            }
        }
        self.slots.len()
    }
}

/// Idle now and at the sweep before? A magic directory is not dropped: its listing shows what was found in it.
fn is_idle(object: &Object) -> bool {
    if matches!(object.content, Content::Magic { .. }) {
        return false;
    }
    let is_idle = object.users.load(Ordering::Acquire) == 0;
    object.was_idle.swap(is_idle, Ordering::Relaxed) && is_idle
}

fn pin(object: Arc<Object>) -> Option<Pinned> {
    if object.users.fetch_add(1, Ordering::AcqRel) < DROPPED / 2 { None } else { Some(Pinned(object)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Arc<Object> {
        Arc::new(Object {
            slot: 1,
            door: Inode::ROOT,
            content: Content::Fixed(Arc::default()),
            record: ArcSwapOption::empty(),
            readers: AtomicUsize::new(0),
            opened: DashMap::new(),
            users: AtomicI64::new(0),
            was_idle: AtomicBool::new(false),
        })
    }

    fn look_up(object: &Object) {
        let record = RecordText::new(Bytes::from_static(b"{}"), Timestamp::default());
        object.record.store(Some(Arc::new(record)));
    }

    /// Some programs look at the hidden file of every collection, and a text may be as long as a manifest.
    #[test]
    fn text_of_a_record_that_nobody_opens_is_dropped_by_the_second_sweep() {
        let object = object();
        look_up(&object);
        object.sweep_record();
        assert!(object.record.load().is_some(), "somebody may be about to open it");
        look_up(&object);
        object.sweep_record();
        assert!(object.record.load().is_some(), "another one");
        let open = OpenRecord::new(pin(object.clone()).expect("in use"));
        object.sweep_record();
        object.sweep_record();
        assert_eq!(open.as_ref().map(|it| it.text().len()), Some(2));
        assert!(object.record.load().is_some(), "for whoever asks an open file for its attributes");
        drop(open);
        look_up(&object);
        object.sweep_record();
        object.sweep_record();
        assert!(object.record.load().is_none());
    }

    #[test]
    fn pages_are_kept_as_long_as_they_are_of_the_newest_content() {
        let object = object();
        assert!(object.knows(5, 0) && object.knows(5, 0) && object.opened.is_empty(), "a file that never changed");
        assert!(!object.knows(5, 1) && object.knows(5, 1), "it grew");
        object.was_rewritten(5);
        assert!(!object.knows(5, 1) && object.knows(5, 1));
        object.was_rewritten(6);
        assert!(!object.knows(6, 0) && object.knows(6, 0), "written elsewhere for the first time");
    }

    #[test]
    fn text_of_a_record_is_kept_until_the_last_handle_on_it_is_closed() {
        let object = object();
        let look_up = || look_up(&object);
        let open = || OpenRecord::new(pin(object.clone()).expect("in use"));
        assert!(open().is_none());
        look_up();
        let (one, other) = (open(), open());
        drop(one);
        assert!(object.record.load().is_some());
        drop(other);
        assert!(object.record.load().is_none() && open().is_none());
        look_up();
        let old = open();
        look_up();
        drop(old);
        assert_eq!(open().map(|it| it.text().len()), Some(2), "made for somebody who comes now");
        assert_eq!(object.users.load(Ordering::Relaxed), 0);
    }
}
