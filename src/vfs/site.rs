//! The tree of an Arvados cluster as a [`FileSystem`].
//!
//! Each operation goes the same way: the inode's slot gives the object, the object's published snapshot gives the rest. Only
//! where nothing is published yet, where a name was never looked up, or where what is published is known to be old and
//! somebody enters the directory, an actor is asked. The parts: [`looking`] for names, [`attributes`] of nodes, [`listing`]
//! of directories, [`reading`] of files, [`changing`] of all of them, [`moving`] what has a name, [`record`] files, [`telling`] the
//! front end what is not as it was.

use crate::actors::Supervisor;
use crate::actors::collection::{CollectionState, Kind as CollectionKind};
use crate::cache::BlockCache;
use crate::tree::NodeId;
use crate::vfs::freshness::Freshness;
use crate::vfs::handle::{Handles, Open, OpenDirectory, OpenFile, OpenText};
use crate::vfs::layout::{self, Layout, Place};
use crate::vfs::object::{Behind, Content, FixedItem, FixedNode, Object, Objects, OpenRecord, Pinned, RECORD_FILE};
use crate::vfs::{
    Access, AtOnce, Change, Destination, Entry, Error, FileSystem, Found, FrontEnd, Handle, Inode, Kind, Opened,
    PageCache, Timestamp, Totals,
};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

mod attributes;
mod changing;
mod listing;
mod looking;
mod moving;
mod reading;
mod record;
mod telling;

pub use listing::Names;

/// How often objects that nobody counts on are looked for; each is dropped at the second time.
pub(super) const SWEEP: Duration = Duration::from_secs(30);

/// Who we are on this cluster, for the texts and the home directory.
#[derive(Debug, Clone)]
pub struct Identity {
    pub host: String,
    pub email: String,
    /// The user's uuid.
    pub user: String,
}

pub struct Site {
    supervisor: Arc<Supervisor>,
    cache: BlockCache,
    objects: Objects,
    handles: Handles,
    freshness: Freshness,
    front_end: OnceLock<Arc<dyn FrontEnd>>,
    /// When the mount began: the time of everything that the program itself makes.
    began: Timestamp,
}

/// A directory that is being looked into.
pub(super) enum Directory {
    /// The object's own top.
    Top(Pinned),
    /// A directory inside a collection.
    Inside { object: Pinned, state: Arc<CollectionState>, node: NodeId },
}

impl Site {
    /// A tree with this layout. Nothing is asked of the cluster yet.
    pub fn new(supervisor: Arc<Supervisor>, cache: BlockCache, layout: &Layout, identity: &Identity) -> Arc<Site> {
        let freshness = Freshness::new(supervisor.environment().refresh);
        let site = Arc::new(Site {
            objects: Objects::new(supervisor.clone(), root(layout, identity)),
            supervisor,
            cache,
            handles: Handles::default(),
            freshness,
            front_end: OnceLock::new(),
            began: Timestamp::from(chrono::Utc::now()),
        });
        site.supervisor.environment().network.spawn(sweep(Arc::downgrade(&site)));
        site.supervisor.environment().network.spawn(telling::run(Arc::downgrade(&site)));
        site
    }

    /// Who is to be told of what changes without his doing. Only the first call counts.
    pub fn set_front_end(&self, front_end: Arc<dyn FrontEnd>) {
        let _ = self.front_end.set(front_end);
    }

    /// The directory behind a node. `attentive`: if what is published is known to be old, wait a little for a newer state.
    async fn directory(&self, inode: Inode, attentive: bool) -> Result<Directory, Error> {
        let object = self.objects.get(inode.slot()).ok_or(Error::Stale)?;
        if inode.number() == RECORD_FILE {
            return Err(Error::NotADirectory);
        }
        if let Content::Collection { cell, .. } = &object.content {
            let state = self.supervisor.collection_state(cell, attentive).await?;
            let node = state.node(inode.number()).ok_or(Error::Stale)?;
            if !state.snapshot.is_directory(node) {
                return Err(Error::NotADirectory);
            }
            return Ok(Directory::Inside { object, state, node });
        }
        let behind = self.behind(&object, inode.number()).ok_or(Error::Stale)?.ok_or(Error::NotADirectory)?;
        let object = self.objects.enter(inode, &behind);
        match &object.content {
            Content::Collection { cell, .. } => {
                let state = self.supervisor.collection_state(cell, attentive).await?;
                Ok(Directory::Inside { object, state, node: NodeId::ROOT })
            }
            _ => Ok(Directory::Top(object)),
        }
    }

    /// May the kernel use the pages that it has of a file? A file whose content was replaced has another number; one that grew in
    /// place has the same, and so has one that is written here. What is written through the object itself is in its pages.
    fn pages(&self, object: &Object, state: &CollectionState, number: u32) -> PageCache {
        // Somebody may be about to write to it at another place of the tree, which he does not tell before he closes it.
        if state.draft(number).is_some_and(|draft| draft.is_changed()) && !self.objects.others(object).is_empty() {
            object.was_rewritten(number);
        }
        if object.knows(number, state.version(number)) { PageCache::Keep } else { PageCache::Drop }
    }

    /// What is behind a node of an object that is no collection: `Some(None)` for a file, `None` if there is no such node.
    fn behind(&self, object: &Object, number: u32) -> Option<Option<Behind>> {
        let of_fixed = |items: &[FixedItem]| match &items.get(number as usize)?.node {
            FixedNode::Door(behind) => Some(Some(behind.clone())),
            FixedNode::Text(_) => Some(None),
        };
        match &object.content {
            Content::Fixed(items) => of_fixed(items),
            Content::Magic { fixed, items, .. } => of_fixed(fixed).or_else(|| {
                let number = number.checked_sub(fixed.len() as u32)?;
                Some(Some(Object::lock(items).get(number)?.behind.clone()))
            }),
            Content::Listing { cell, .. } => {
                let listing = cell.load()?;
                Some(Some(Behind::of(&listing.by_number(number)?.target)))
            }
            Content::Collection { .. } => None,
        }
    }
}

async fn sweep(site: Weak<Site>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        match site.upgrade() {
            Some(site) => {
                let objects = site.objects.sweep();
                tracing::debug!(objects, "looked for what nobody uses");
            }
            None => return,
        }
    }
}

/// What the root stands for.
fn root(layout: &Layout, identity: &Identity) -> Behind {
    let item = |name: &str, place: &Place| FixedItem {
        name: name.to_owned(),
        node: FixedNode::Door(behind(place, identity, false)),
    };
    match layout {
        Layout::Single(place) => behind(place, identity, true),
        Layout::Custom(entries) => {
            let mut items: Vec<FixedItem> = entries.iter().map(|(name, place)| item(name, place)).collect();
            items.sort_by(|one, other| one.name.cmp(&other.name));
            Behind::Fixed(Arc::new(items))
        }
        Layout::Default => {
            let welcome = layout::welcome(&identity.host, &identity.email);
            let readme = FixedItem { name: "README".into(), node: FixedNode::Text(welcome.into()) };
            let places =
                [("by_id", Place::ById), ("by_tag", Place::ByTag), ("home", Place::Home), ("shared", Place::Shared)];
            let items = std::iter::once(readme).chain(places.iter().map(|(name, place)| item(name, place)));
            Behind::Fixed(Arc::new(items.collect()))
        }
    }
}

fn behind(place: &Place, identity: &Identity, is_top: bool) -> Behind {
    use crate::actors::listing::Source;
    match place {
        Place::ById => Behind::Magic { by_uuid: true, is_top },
        Place::ByPdh => Behind::Magic { by_uuid: false, is_top },
        Place::ByTag => Behind::Listing(Source::Tags),
        Place::Home => Behind::Listing(Source::Project(identity.user.clone())),
        Place::Shared => Behind::Listing(Source::Shared),
        Place::Project(uuid) => Behind::Listing(Source::Project(uuid.clone())),
        Place::Temporary(name) => Behind::Collection(format!("{}{name}", CollectionKind::TEMPORARY)),
        Place::Collection(id) => Behind::Collection(layout::portable_data_hash(id).unwrap_or(id).to_owned()),
    }
}

/// What a magic directory has from the beginning; at the top of the mount also itself once more, as `by_id`.
pub(super) fn magic_items(by_uuid: bool, is_top: bool) -> Vec<FixedItem> {
    let readme = FixedItem { name: "README".into(), node: FixedNode::Text(layout::magic(by_uuid).into()) };
    let again = Behind::Magic { by_uuid, is_top: false };
    let again = is_top.then(|| FixedItem { name: "by_id".into(), node: FixedNode::Door(again) });
    std::iter::once(readme).chain(again).collect()
}

impl FileSystem for Site {
    type Names = Names;

    async fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Found, Error> {
        let directory = self.directory(parent, true).await?;
        let found = self.look(&directory, name).await?;
        if let Found::Entry(entry) = &found {
            self.remember(entry.attributes.inode);
        }
        Ok(found)
    }

    fn directory_at(&self, parent: Inode, name: &[u8]) -> Option<Inode> {
        self.published_directory(parent, name)
    }

    fn remember(&self, inode: Inode) {
        self.objects.remember(inode.slot());
    }

    fn forget(&self, inode: Inode, count: u64) {
        self.objects.forget(inode.slot(), count);
    }

    async fn getattr(&self, inode: Inode, handle: Option<Handle>) -> Result<Entry, Error> {
        if let Some(open) = handle.and_then(|handle| self.handles.get(handle))
            && let Open::File(file) = open.as_ref()
        {
            if let Content::Collection { cell, .. } = &file.object.content
                && let Some(state) = cell.load()
                && let Some(node) = state.node(inode.number())
            {
                let attributes = self.node_attributes(&file.object, &state, node);
                return Ok(Entry { attributes, valid: self.freshness.of(state.is_immutable()) });
            }
            return Ok(Entry { attributes: file.attributes_without_name(), valid: Duration::ZERO });
        }
        self.attributes(inode).await
    }

    async fn setattr(&self, inode: Inode, handle: Option<Handle>, change: Change) -> Result<Entry, Error> {
        self.change(inode, handle, change).await
    }

    async fn open(&self, inode: Inode, access: Access) -> Result<Opened, Error> {
        let entry = self.attributes(inode).await?;
        if entry.attributes.kind == Kind::Directory {
            return Err(Error::IsADirectory);
        }
        let object = self.objects.get(inode.slot()).ok_or(Error::Stale)?;
        let is_writing = access.write || access.truncate;
        if is_writing {
            // EPERM, not EROFS, as upstream (arv-mount.md 3.1).
            let Content::Collection { cell, .. } = &object.content else { return Err(Error::NotWritable) };
            if !self.can_change() || cell.kind() == CollectionKind::Immutable || inode.number() == RECORD_FILE {
                return Err(Error::NotWritable);
            }
            let cell = cell.clone();
            return self.open_for_writing(object, &cell, inode, access).await;
        }
        if inode.number() == RECORD_FILE {
            let record = OpenRecord::new(object).ok_or(Error::Stale)?;
            let handle = self.handles.add(Open::Text(OpenText::Record(record)));
            return Ok(Opened { handle, pages: PageCache::Bypass });
        }
        match &object.content {
            Content::Collection { cell, .. } => {
                // Who reads in order to write again must not miss what an event has told.
                let state = self.supervisor.collection_state(cell, self.can_change()).await?;
                let node = state.node(inode.number()).ok_or(Error::Stale)?;
                if state.draft(inode.number()).is_none() && !state.snapshot.is_linked(node) {
                    // Replaced or removed meanwhile: the name has to be looked up again.
                    return Err(Error::Stale);
                }
                let attributes = self.node_attributes(&object, &state, node);
                let pages = self.pages(&object, &state, inode.number());
                cell.shared().open.add(inode.number());
                cell.shared().unseen.see(inode.number());
                let file = OpenFile { inode, object, state, node, attributes, writer: None };
                Ok(Opened { handle: self.handles.add(Open::File(file)), pages })
            }
            Content::Fixed(items) | Content::Magic { fixed: items, .. } => {
                let item = items.get(inode.number() as usize).ok_or(Error::Stale)?;
                let FixedNode::Text(text) = &item.node else { return Err(Error::IsADirectory) };
                let handle = self.handles.add(Open::Text(OpenText::Fixed(text.clone())));
                Ok(Opened { handle, pages: PageCache::Keep })
            }
            Content::Listing { .. } => Err(Error::Stale),
        }
    }

    async fn read(&self, handle: Handle, offset: u64, size: u32) -> Result<Bytes, Error> {
        let open = self.handles.get(handle).ok_or(Error::BadHandle)?;
        match open.as_ref() {
            Open::File(file) => self.read_file(file, offset, size).await,
            Open::Text(open) => {
                let text = open.text();
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = start.saturating_add(size as usize).min(text.len());
                Ok(text.slice(start..end))
            }
            Open::Directory(_) => Err(Error::IsADirectory),
        }
    }

    async fn create(
        &self,
        parent: Inode,
        name: &[u8],
        access: Access,
        exclusive: bool,
    ) -> Result<(Entry, Opened), Error> {
        self.create_file(parent, name, access, exclusive).await
    }

    fn write_at_once(&self, handle: Handle, destination: Destination, data: &[u8]) -> AtOnce {
        self.write_file_at_once(handle, destination, data)
    }

    async fn write(&self, handle: Handle, destination: Destination, data: Bytes) -> Result<(), Error> {
        self.write_file(handle, destination, data).await
    }

    async fn flush(&self, handle: Handle) -> Result<(), Error> {
        self.flush_file(handle).await
    }

    async fn sync(&self, handle: Handle) -> Result<(), Error> {
        self.sync_file(handle).await
    }

    async fn sync_directory(&self, handle: Handle) -> Result<(), Error> {
        self.sync_names(handle).await
    }

    async fn release(&self, handle: Handle) {
        self.release_file(handle).await;
    }

    async fn make_file(&self, parent: Inode, name: &[u8]) -> Result<Entry, Error> {
        self.make(parent, name, false).await
    }

    async fn make_directory(&self, parent: Inode, name: &[u8]) -> Result<Entry, Error> {
        self.make(parent, name, true).await
    }

    async fn unlink(&self, parent: Inode, name: &[u8]) -> Result<(), Error> {
        self.remove(parent, name, false).await
    }

    async fn remove_directory(&self, parent: Inode, name: &[u8]) -> Result<(), Error> {
        self.remove(parent, name, true).await
    }

    async fn rename(&self, from: Inode, name: &[u8], to: Inode, new_name: &[u8], keep: bool) -> Result<(), Error> {
        self.move_name(from, name, to, new_name, keep).await
    }

    async fn opendir(&self, inode: Inode) -> Result<Handle, Error> {
        let directory = self.directory(inode, true).await?;
        let (object, names) = self.names(directory).await?;
        Ok(self.handles.add(Open::Directory(OpenDirectory::new(inode, object, names))))
    }

    async fn readdir(&self, handle: Handle, offset: u64) -> Result<Names, Error> {
        let mut open = self.handles.get(handle).ok_or(Error::BadHandle)?;
        if offset == 0
            && let Open::Directory(directory) = open.as_ref()
            && (directory.was_read.swap(true, Ordering::Relaxed) || directory.is_behind())
        {
            open = self.rewound(handle, directory.inode).await.unwrap_or(open);
        }
        Names::new(self.supervisor.clone(), self.freshness, open, offset).ok_or(Error::NotADirectory)
    }

    fn releasedir(&self, handle: Handle) {
        self.handles.remove(handle);
    }

    async fn statfs(&self) -> Totals {
        // No cluster tells how much room it has. arv-mount shows zeros, which tools take for a full disk; so it is as large as
        // makes no difference, and empty.
        const ROOM: u64 = 1 << 50;
        let block_size = 1 << 17;
        let blocks = ROOM / u64::from(block_size);
        let files = u64::from(u32::MAX);
        Totals { block_size, blocks, free_blocks: blocks, files, free_files: files, longest_name: 255 }
    }
}
