//! Changing names, and the content of files; [`moving`](super::moving) has what is moved.
//!
//! What is inside a collection goes to its actor; in a project there are collections, each of which is one request; everywhere
//! else nothing can be changed. Which promise an operation keeps before it returns is decided here, from `--sync`:
//!
//! | | `close` | `fsync` | `idle`, `periodic`, `exit` |
//! |---|---|---|---|
//! | unlink, rmdir, rename | on the server | in the journal | in the journal |
//! | mkdir, mknod, truncate by path | in the journal | in the journal | in the journal |
//! | close | on the server | in the journal | in the journal |
//! | fsync | on the server | on the server | in the journal, on the disk |

use super::telling::of_name;
use super::{Directory, Site};
use crate::actors;
use crate::actors::collection::draft::Draft;
use crate::actors::collection::operation::{Applied, Operation};
use crate::actors::collection::saving::{Files, Need, SyncMode};
use crate::actors::collection::{CollectionCell, CollectionState, Kind as CollectionKind, Writing};
use crate::actors::listing::{Item, ListingCell, Source, Target};
use crate::actors::news;
use crate::dirty::Place;
use crate::keep::manifest::{MAX_NAME_LENGTH, NameProblem, check_new_name};
use crate::tree::NodeId;
use crate::vfs::handle::{Open, OpenFile, Writer};
use crate::vfs::object::{Content, Object, Pinned, RECORD_FILE};
use crate::vfs::{Access, AtOnce, Change, Destination, Entry, Error, Handle, Inode, Opened};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Where something is to be changed.
pub(super) enum Spot {
    Collection { object: Pinned, cell: Arc<CollectionCell>, state: Arc<CollectionState>, node: NodeId },
    Project { object: Pinned, cell: Arc<ListingCell>, uuid: String },
}

impl Site {
    /// Can anything be changed in this mount at all?
    pub(super) fn can_change(&self) -> bool {
        self.supervisor.environment().writing.is_some()
    }

    fn writing(&self) -> Result<&Arc<Writing>, Error> {
        self.supervisor.environment().writing.as_ref().ok_or(Error::ReadOnly)
    }

    /// What an operation on names promises.
    pub(super) fn need_of_names(&self) -> Need {
        match self.supervisor.environment().writing.as_ref().map(|writing| writing.sync) {
            Some(SyncMode::Close) => Need::Server,
            _ => Need::Journal,
        }
    }

    fn need_of_close(&self) -> Need {
        self.need_of_names()
    }

    fn need_of_sync(&self) -> Need {
        match self.supervisor.environment().writing.as_ref().map(|writing| writing.sync) {
            Some(SyncMode::Close | SyncMode::Fsync) => Need::Server,
            _ => Need::Disk,
        }
    }

    /// The directory `parent` as a place for changes (arv-mount.md 3.1: EROFS in a mount that cannot write, EPERM where
    /// nothing can be written).
    pub(super) async fn place(&self, parent: Inode) -> Result<Spot, Error> {
        self.writing()?;
        match self.directory(parent, false).await? {
            Directory::Inside { object, state, node } => {
                let Content::Collection { cell, .. } = &object.content else { return Err(Error::NotWritable) };
                if state.is_immutable() {
                    return Err(Error::NotWritable);
                }
                let cell = cell.clone();
                Ok(Spot::Collection { object, cell, state, node })
            }
            Directory::Top(object) => {
                let Content::Listing { source: Source::Project(uuid), cell } = &object.content else {
                    return Err(Error::NotWritable);
                };
                let (uuid, cell) = (uuid.clone(), cell.clone());
                if !self.is_writable_project(&uuid).await? {
                    return Err(Error::NotWritable);
                }
                Ok(Spot::Project { object, cell, uuid })
            }
        }
    }

    pub(super) async fn is_writable_project(&self, uuid: &str) -> Result<bool, Error> {
        Ok(self.supervisor.can_write(uuid).await?)
    }

    fn entry_of(&self, object: &Object, applied: &Applied) -> Result<Entry, Error> {
        let node = applied.state.node(applied.number).ok_or(Error::Stale)?;
        let valid = self.freshness.of(false);
        Ok(Entry { attributes: self.node_attributes(object, &applied.state, node), valid })
    }

    /// Makes a file, a directory, or a collection in a project.
    pub(super) async fn make(&self, parent: Inode, name: &[u8], is_directory: bool) -> Result<Entry, Error> {
        match self.place(parent).await? {
            Spot::Collection { object, cell, state, node } => {
                check_new_name(name, node == NodeId::ROOT)?;
                let number = state.number(node);
                let operation = Operation::Make { parent: number, name: name.to_vec(), is_directory, open: false };
                let applied = self.supervisor.apply(&cell, operation, Need::Journal).await;
                // Also what cannot be kept as was promised is to be seen.
                self.tell_others(&object, &of_name(number, name)).await;
                let entry = self.entry_of(&object, &applied?)?;
                self.objects.remember(object.slot);
                Ok(entry)
            }
            Spot::Project { .. } if !is_directory => Err(Error::NotSupported),
            Spot::Project { object, cell, uuid } => {
                let text = check_collection_name(name)?;
                if self.supervisor.find(&cell, name).await?.is_some() {
                    return Err(Error::Exists);
                }
                let classes = self.writing()?.storage_classes.clone();
                let item = self.supervisor.make_collection(&uuid, &cell, text, &classes).await?;
                let entry = self.door_of(&object, &item);
                self.objects.remember(object.slot);
                Ok(entry)
            }
        }
    }

    fn door_of(&self, object: &Object, item: &Item) -> Entry {
        let inode = Inode::new(object.slot, item.number);
        let behind = crate::vfs::object::Behind::of(&item.target);
        self.door(inode, &behind, super::attributes::timestamp(item.modified))
    }

    pub(super) async fn create_file(
        &self,
        parent: Inode,
        name: &[u8],
        access: Access,
        exclusive: bool,
    ) -> Result<(Entry, Opened), Error> {
        let (object, cell, state, node) = match self.place(parent).await? {
            Spot::Collection { object, cell, state, node } => (object, cell, state, node),
            Spot::Project { .. } => return Err(Error::NotSupported),
        };
        check_new_name(name, node == NodeId::ROOT)?;
        let parent = state.number(node);
        let operation = Operation::Make { parent, name: name.to_vec(), is_directory: false, open: true };
        let applied = match self.supervisor.apply(&cell, operation, Need::Nothing).await {
            Ok(applied) => applied,
            Err(actors::Error::Exists) if !exclusive => {
                // A node of one state is none of another, a number is.
                let state = self.supervisor.collection_state(&cell, false).await?;
                let directory = state.node(parent).ok_or(Error::Stale)?;
                let found = state.snapshot.lookup(directory, name).ok_or(Error::Stale)?;
                let inode = Inode::new(object.slot, state.number(found));
                let opened = self.open_for_writing(object, &cell, inode, access).await?;
                let entry = match self.attributes(inode).await {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.release_file(opened.handle).await;
                        return Err(error);
                    }
                };
                self.objects.remember(inode.slot());
                return Ok((entry, opened));
            }
            Err(error) => return Err(error.into()),
        };
        self.tell_others(&object, &of_name(parent, name)).await;
        let entry = self.entry_of(&object, &applied)?;
        self.objects.remember(object.slot);
        let opened = self.opened(object, &applied, true)?;
        Ok((entry, opened))
    }

    /// Opens a file of a collection for writing.
    pub(super) async fn open_for_writing(
        &self,
        object: Pinned,
        cell: &Arc<CollectionCell>,
        inode: Inode,
        access: Access,
    ) -> Result<Opened, Error> {
        let operation = Operation::Open { number: inode.number(), empties: access.truncate };
        let applied = self.supervisor.apply(cell, operation, Need::Nothing).await?;
        let opened = self.opened(object, &applied, false)?;
        if access.truncate
            && let Some(draft) = &applied.draft
            // Also what is empty already, as long as the collection has not been told.
            && (draft.file.size() > 0 || (draft.is_changed() && !draft.is_announced()))
        {
            if let Err(error) = self.change_file(cell, inode.number(), &applied, 0).await {
                self.release_file(opened.handle).await;
                return Err(error);
            }
            if let Some(open) = self.handles.get(opened.handle)
                && let Open::File(OpenFile { writer: Some(writer), .. }) = open.as_ref()
            {
                writer.has_written.store(true, Ordering::Release);
            }
            if let Some(object) = self.objects.get(inode.slot()) {
                self.tell_written(&object, inode.number()).await;
            }
        }
        Ok(opened)
    }

    fn opened(&self, object: Pinned, applied: &Applied, is_new: bool) -> Result<Opened, Error> {
        let node = applied.state.node(applied.number).ok_or(Error::Stale)?;
        let attributes = self.node_attributes(&object, &applied.state, node);
        let writer = applied.draft.clone().map(|draft| Writer {
            draft,
            has_written: AtomicBool::new(false),
            flushed: AtomicU64::new(u64::MAX),
            is_new: AtomicBool::new(is_new),
        });
        let inode = Inode::new(object.slot, applied.number);
        if let Content::Collection { cell, .. } = &object.content {
            cell.shared().open.add(applied.number);
        }
        // What was written through the kernel is not lost if it drops its pages: it writes changed ones first.
        let pages = self.pages(&object, &applied.state, applied.number);
        let file = OpenFile { inode, object, state: applied.state.clone(), node, attributes, writer };
        Ok(Opened { handle: self.handles.add(Open::File(file)), pages })
    }

    /// Changes the size of a file that is open for writing.
    async fn change_file(
        &self,
        cell: &Arc<CollectionCell>,
        number: u32,
        applied: &Applied,
        size: u64,
    ) -> Result<(), Error> {
        let Some(draft) = &applied.draft else { return Err(Error::Stale) };
        draft.file.truncate(size).await.map_err(actors::Error::from)?;
        self.announce(cell, number, draft).await
    }

    /// Tells the collection that a file has changed, unless it knows.
    async fn announce(&self, cell: &Arc<CollectionCell>, number: u32, draft: &Draft) -> Result<(), Error> {
        if draft.announce()
            && let Err(error) = self.supervisor.apply(cell, Operation::Written { number }, Need::Nothing).await
        {
            // Nobody knows of the change: the next one tells again.
            draft.retract();
            return Err(error.into());
        }
        Ok(())
    }

    pub(super) async fn change(&self, inode: Inode, handle: Option<Handle>, change: Change) -> Result<Entry, Error> {
        let object = self.objects.get(inode.slot()).ok_or(Error::Stale)?;
        let Content::Collection { cell, .. } = &object.content else {
            return if change.size.is_some() { Err(Error::NotWritable) } else { self.attributes(inode).await };
        };
        let can_change = self.can_change() && cell.kind() != CollectionKind::Immutable && inode.number() != RECORD_FILE;
        if !can_change {
            // Times, owner and mode are accepted and ignored (2.8), a size is not.
            return match change.size {
                Some(_) if !self.can_change() => Err(Error::ReadOnly),
                Some(_) => Err(Error::NotWritable),
                None => self.attributes(inode).await,
            };
        }
        let number = inode.number();
        if let Some(size) = change.size {
            let open = handle.and_then(|handle| self.handles.get(handle));
            match open.as_deref() {
                Some(Open::File(OpenFile { writer: Some(writer), .. })) => {
                    writer.draft.file.truncate(size).await.map_err(actors::Error::from)?;
                    writer.has_written.store(true, Ordering::Release);
                    self.announce(cell, number, &writer.draft).await?;
                }
                _ => {
                    self.supervisor.collection_state(cell, false).await?;
                    let open = Operation::Open { number, empties: size == 0 };
                    let applied = self.supervisor.apply(cell, open, Need::Nothing).await?;
                    let result = self.change_file(cell, number, &applied, size).await;
                    self.supervisor.apply(cell, Operation::Close { number }, Need::Nothing).await?;
                    result?;
                    // Also what others, who have it open, have written to the file.
                    self.supervisor.save(cell, Files::One(number), Need::Journal).await?;
                }
            }
        }
        if let Some(time) =
            change.modified.and_then(|time| DateTime::<Utc>::from_timestamp(time.seconds, time.nanoseconds))
        {
            self.supervisor.collection_state(cell, false).await?;
            self.supervisor.apply(cell, Operation::SetModified { number, time }, Need::Nothing).await?;
        }
        match change.size {
            Some(_) => self.tell_written(&object, number).await,
            None => self.tell_others(&object, &[news::Change::Node(number)]).await,
        }
        self.attributes(inode).await
    }

    pub(super) fn write_file_at_once(&self, handle: Handle, destination: Destination, data: &[u8]) -> AtOnce {
        let open = self.handles.get(handle);
        let Some(Open::File(OpenFile { writer: Some(writer), .. })) = open.as_deref() else { return AtOnce::Nothing };
        if !writer.draft.file.write_at_once(place(destination), data) {
            return AtOnce::Nothing;
        }
        writer.was_written(destination);
        // A save that began before the write has taken the announcement by now, one that begins later sees the write.
        if writer.draft.is_announced() { AtOnce::All } else { AtOnce::Unannounced }
    }

    pub(super) async fn write_file(&self, handle: Handle, destination: Destination, data: Bytes) -> Result<(), Error> {
        let open = self.handles.get(handle).ok_or(Error::BadHandle)?;
        let Open::File(file) = open.as_ref() else { return Err(Error::NotWritable) };
        let Some(writer) = &file.writer else { return Err(Error::NotWritable) };
        writer.draft.file.write(place(destination), data).await.map_err(actors::Error::from)?;
        writer.was_written(destination);
        let Content::Collection { cell, .. } = &file.object.content else { return Err(Error::Stale) };
        self.announce(cell, file.inode.number(), &writer.draft).await
    }

    /// Saves what was written through a handle, as far as `need` says.
    async fn save_file(&self, handle: Handle, need: Need, always: bool) -> Result<(), Error> {
        let open = self.handles.get(handle).ok_or(Error::BadHandle)?;
        let Open::File(file) = open.as_ref() else { return Ok(()) };
        let Content::Collection { cell, .. } = &file.object.content else { return Ok(()) };
        // Looked up first: what is written from now on is not what is saved here.
        let generation = file.writer.as_ref().map(|writer| writer.draft.file.generation());
        let is_unflushed = file.writer.as_ref().is_some_and(Writer::is_unflushed);
        if let Some(writer) = file.writer.as_ref().filter(|_| is_unflushed) {
            // The collection was gone, and is another one: what was written here has no place in it.
            let known = cell.load().and_then(|state| state.draft(file.inode.number()).cloned());
            if !known.is_some_and(|known| Arc::ptr_eq(&known, &writer.draft)) {
                return Err(Error::Stale);
            }
        }
        let (files, need) = match &file.writer {
            Some(_) if is_unflushed => (Files::One(file.inode.number()), need),
            Some(_) if always => (Files::One(file.inode.number()), need),
            // `echo x > f` closes a copy before its first write: the server need not hear of the empty file yet.
            Some(writer) if writer.is_new.load(Ordering::Acquire) => (Files::One(file.inode.number()), Need::Journal),
            // What others are writing to the file, too: `sync` opens it for reading.
            _ if always && self.can_change() && cell.kind() == CollectionKind::Mutable => {
                (Files::One(file.inode.number()), need)
            }
            _ => return Ok(()),
        };
        self.supervisor.save(cell, files, need).await.map_err(gone_is_stale)?;
        if let (Some(writer), Some(generation)) = (&file.writer, generation) {
            writer.was_flushed((is_unflushed || always).then_some(generation));
        }
        Ok(())
    }

    /// Tells of what was written through a handle and is not told yet. Before it is saved: here it is to be seen already.
    async fn tell_unflushed(&self, handle: Handle) {
        if let Some(open) = self.handles.get(handle)
            && let Open::File(OpenFile { inode, object, writer: Some(writer), .. }) = open.as_ref()
            && writer.is_unflushed()
        {
            self.tell_written(object, inode.number()).await;
        }
    }

    pub(super) async fn flush_file(&self, handle: Handle) -> Result<(), Error> {
        self.tell_unflushed(handle).await;
        self.save_file(handle, self.need_of_close(), false).await
    }

    pub(super) async fn sync_file(&self, handle: Handle) -> Result<(), Error> {
        self.tell_unflushed(handle).await;
        self.save_file(handle, self.need_of_sync(), true).await
    }

    pub(super) async fn sync_names(&self, handle: Handle) -> Result<(), Error> {
        let open = self.handles.get(handle).ok_or(Error::BadHandle)?;
        let Open::Directory(directory) = open.as_ref() else { return Ok(()) };
        let Content::Collection { cell, .. } = &directory.object.content else { return Ok(()) };
        if !self.can_change() || cell.kind() != CollectionKind::Mutable {
            return Ok(());
        }
        self.supervisor.save(cell, Files::None, self.need_of_sync()).await.map(drop).map_err(gone_is_stale)
    }

    pub(super) async fn release_file(&self, handle: Handle) {
        self.tell_unflushed(handle).await;
        let Some(open) = self.handles.remove(handle) else { return };
        let Open::File(file) = open.as_ref() else { return };
        let Content::Collection { cell, .. } = &file.object.content else { return };
        let number = file.inode.number();
        let is_last = cell.shared().open.remove(number);
        let operation = match &file.writer {
            Some(_) => Operation::Close { number },
            None if is_last && is_removed_draft(cell, number) => Operation::Closed { number },
            None => return,
        };
        if let Err(error) = self.supervisor.apply(cell, operation, Need::Nothing).await {
            tracing::error!(collection = cell.key(), number, %error, "cannot close a file");
        }
    }

    pub(super) async fn remove(&self, parent: Inode, name: &[u8], is_directory: bool) -> Result<(), Error> {
        match self.place(parent).await? {
            Spot::Collection { object, cell, state, node } => {
                let parent = state.number(node);
                let operation = Operation::Remove { parent, name: name.to_vec(), is_directory };
                let removed = state.snapshot.lookup(node, name).map(|node| news::Change::Node(state.number(node)));
                let result = self.supervisor.apply(&cell, operation, self.need_of_names()).await;
                let changes: Vec<_> = of_name(parent, name).into_iter().chain(removed).collect();
                self.tell_others(&object, &changes).await;
                result.map(drop).map_err(gone_is_stale)
            }
            Spot::Project { cell, .. } => {
                let item = self.supervisor.find(&cell, name).await?.ok_or(Error::NotFound)?;
                if !is_directory {
                    return Err(Error::IsADirectory);
                }
                let Target::Collection(uuid) = &item.target else { return Err(Error::NotWritable) };
                let collection = self.supervisor.collection(uuid);
                Ok(self.supervisor.remove_collection(&cell, &item, &collection).await?)
            }
        }
    }
}

/// Where a write goes; `append` as in [`crate::vfs::FileSystem::write`].
fn place(destination: Destination) -> Place {
    match destination {
        Destination::End => Place::End,
        Destination::At(offset) | Destination::Pages(offset) => Place::At(offset),
    }
}

/// A name that the server takes for a collection: at most 255 characters (a column's width, not bytes), protocol.md 4.2.
pub(super) fn check_collection_name(name: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(name).map_err(|_| NameProblem::NotUtf8)?;
    if text.chars().count() > MAX_NAME_LENGTH {
        return Err(NameProblem::TooLong.into());
    }
    Ok(text)
}

/// Is this a file that is gone from its collection, with data that were never saved?
fn is_removed_draft(cell: &CollectionCell, number: u32) -> bool {
    cell.load().is_some_and(|state| {
        state.draft(number).is_some() && state.node(number).is_none_or(|node| !state.snapshot.is_linked(node))
    })
}

/// A collection that was there and cannot be found any more is no missing file.
pub(super) fn gone_is_stale(error: actors::Error) -> Error {
    if error.is_not_found() {
        return Error::Stale;
    }
    error.into()
}
