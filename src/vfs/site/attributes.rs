//! What `stat` shows (arv-mount.md 2.8): 0777 for what can be changed, 0555 for directories and files of collections that
//! cannot, 0444 for texts that the program makes.

use super::Site;
use crate::actors::Supervisor;
use crate::actors::collection::{CollectionState, Kind as CollectionKind};
use crate::actors::listing::{Item, Listing, ListingCell, Source};
use crate::tree::NodeId;
use crate::vfs::object::{Behind, Content, FixedItem, FixedNode, MagicItem, Object, RECORD_FILE};
use crate::vfs::{Attributes, Entry, Error, Inode, Kind, Timestamp};
use chrono::{DateTime, Utc};
use std::time::Duration;

const READABLE: u16 = 0o444;
const ENTERABLE: u16 = 0o555;
const WRITABLE: u16 = 0o777;

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Timestamp {
        Timestamp { seconds: time.timestamp(), nanoseconds: time.timestamp_subsec_nanos() }
    }
}

/// The time of something without one is 1970, as upstream shows it: a fixed time, so that tools that compare do not
/// see a change where there is none.
pub(super) fn timestamp(time: Option<DateTime<Utc>>) -> Timestamp {
    time.map(Timestamp::from).unwrap_or_default()
}

impl Entry {
    pub(super) fn directory(inode: Inode, modified: Timestamp, valid: Duration, is_writable: bool) -> Entry {
        let permissions = if is_writable { WRITABLE } else { ENTERABLE };
        Entry { attributes: unchanged((inode, Kind::Directory), permissions, 0, modified), valid }
    }

    pub(super) fn text(inode: Inode, size: usize, modified: Timestamp, valid: Duration) -> Entry {
        Entry { attributes: unchanged((inode, Kind::File), READABLE, size as u64, modified), valid }
    }
}

/// Attributes of something of which nobody here can change anything but by what `modified` tells.
fn unchanged((inode, kind): (Inode, Kind), permissions: u16, size: u64, modified: Timestamp) -> Attributes {
    Attributes { inode, kind, permissions, size, modified, changed: modified, is_linked: true }
}

/// Attributes of a node of a collection, in the object with this slot.
pub(super) fn of_node(slot: u32, state: &CollectionState, node: NodeId, is_writable: bool) -> Attributes {
    let number = state.number(node);
    let is_directory = state.snapshot.is_directory(node);
    Attributes {
        inode: Inode::new(slot, number),
        kind: if is_directory { Kind::Directory } else { Kind::File },
        permissions: if is_writable && !state.is_immutable() { WRITABLE } else { ENTERABLE },
        size: if is_directory { 0 } else { state.size(node, number) },
        modified: timestamp(state.modified(number)),
        changed: timestamp(state.changed(number)),
        is_linked: state.is_immutable() || state.snapshot.is_linked(node),
    }
}

/// Attributes of a door. A collection that is loaded knows its time better than the list that it stands in. `listed`: what that
/// list says of our right to change what is in a project.
pub(super) fn of_door(
    supervisor: &Supervisor,
    inode: Inode,
    behind: &Behind,
    (modified, listed): (Timestamp, Option<bool>),
    valid: Duration,
) -> Entry {
    let loaded = match behind {
        Behind::Collection(id) => supervisor.existing_collection(id).and_then(|cell| cell.load()),
        _ => None,
    };
    let modified = loaded.map_or(modified, |state| timestamp(state.record.modified_at));
    let can_change = supervisor.environment().writing.is_some();
    let is_writable = can_change
        && match behind {
            Behind::Collection(id) => CollectionKind::of(id) != CollectionKind::Immutable,
            Behind::Listing(Source::Project(uuid)) => match listed.or_else(|| supervisor.known_to_be_writable(uuid)) {
                Some(known) => known,
                // To be asked for again at once, and then found out.
                None => return Entry::directory(inode, modified, Duration::ZERO, false),
            },
            _ => false,
        };
    Entry::directory(inode, modified, valid, is_writable)
}

fn is_listed_with_rights(object: &Object, number: u32) -> bool {
    let Content::Listing { cell, .. } = &object.content else { return false };
    cell.load().is_some_and(|listing| listing.by_number(number).is_some_and(|item| item.can_write.is_some()))
}

/// For how long changes to a listing are sure to be told or looked for; `None` if they are not told.
pub(super) fn told(supervisor: &Supervisor, cell: &ListingCell, listing: &Listing) -> Option<Duration> {
    listing.believable(cell).filter(|_| supervisor.environment().news.is_live())
}

impl Site {
    pub(super) fn node_attributes(&self, object: &Object, state: &CollectionState, node: NodeId) -> Attributes {
        of_node(object.slot, state, node, self.can_change())
    }

    pub(super) fn door(&self, inode: Inode, behind: &Behind, modified: Timestamp) -> Entry {
        of_door(&self.supervisor, inode, behind, (modified, None), self.freshness.of(behind.is_immutable()))
    }

    /// The same of a door in a listing. `told`: see [`told`].
    pub(super) fn listed(&self, inode: Inode, item: &Item, told: Option<Duration>) -> Entry {
        let valid = self.freshness.of_listed(told);
        let said = (timestamp(item.modified), item.can_write);
        of_door(&self.supervisor, inode, &Behind::of(&item.target), said, valid)
    }

    pub(super) fn fixed(&self, inode: Inode, item: &FixedItem) -> Entry {
        match &item.node {
            FixedNode::Text(text) => Entry::text(inode, text.len(), self.began, crate::vfs::freshness::FOR_EVER),
            FixedNode::Door(behind) => self.door(inode, behind, self.began),
        }
    }

    pub(super) fn magic(&self, inode: Inode, item: &MagicItem) -> Entry {
        self.door(inode, &item.behind, item.modified)
    }

    /// Attributes of any node that was known.
    pub(super) async fn attributes(&self, inode: Inode) -> Result<Entry, Error> {
        let object = self.objects.get(inode.slot()).ok_or(Error::Stale)?;
        let number = inode.number();
        if self.can_change()
            && !is_listed_with_rights(&object, number)
            && let Some(Some(Behind::Listing(Source::Project(uuid)))) = self.behind(&object, number)
        {
            // What cannot be found out is shown as not writable; whoever tries to write is told why not.
            self.supervisor.look_at_rights(&uuid).await;
        }
        if number == RECORD_FILE {
            let record = object.record.load_full().ok_or(Error::Stale)?;
            return Ok(Entry::text(inode, record.size(), record.modified(), Duration::ZERO));
        }
        match &object.content {
            Content::Fixed(items) => items.get(number as usize).map(|item| self.fixed(inode, item)).ok_or(Error::Stale),
            Content::Magic { fixed, items, .. } => match fixed.get(number as usize) {
                Some(item) => Ok(self.fixed(inode, item)),
                None => {
                    let item = Object::lock(items).get(number - fixed.len() as u32).cloned();
                    item.map(|item| self.magic(inode, &item)).ok_or(Error::Stale)
                }
            },
            Content::Listing { cell, .. } => {
                let listing = cell.load().ok_or(Error::Stale)?;
                let item = listing.by_number(number).ok_or(Error::Stale)?;
                Ok(self.listed(inode, item, told(&self.supervisor, cell, &listing)))
            }
            Content::Collection { cell, .. } => {
                let state = self.supervisor.collection_state(cell, false).await?;
                let is_there = |node: NodeId| state.is_immutable() || state.snapshot.is_linked(node);
                // Somebody may be in a folder that was removed here. One that still has names was moved away: it has to be looked
                // for.
                let is_left = |node: NodeId| match state.snapshot.is_directory(node) {
                    true => state.snapshot.children(node).next().is_none(),
                    false => self.handles.has_open(inode),
                };
                match state.node(number).filter(|node| is_there(*node) || is_left(*node)) {
                    Some(node) => {
                        let valid = self.freshness.of(state.is_immutable());
                        Ok(Entry { attributes: self.node_attributes(&object, &state, node), valid })
                    }
                    // Replaced or removed: whoever has it open still sees what he opened.
                    None => {
                        let attributes = self.handles.attributes(inode).ok_or(Error::Stale)?;
                        Ok(Entry { attributes, valid: Duration::ZERO })
                    }
                }
            }
        }
    }
}
