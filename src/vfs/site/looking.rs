//! Finding names.

use super::attributes::{timestamp, told};
use super::{Directory, Site};
use crate::actors::collection::CollectionState;
use crate::actors::listing::Source;
use crate::keep::manifest::{MAX_NAME_LENGTH, NameProblem};
use crate::tree::NodeId;
use crate::vfs::layout::{is_group, is_uuid, portable_data_hash};
use crate::vfs::object::{Behind, Content, MagicItem, MagicItems, Object, Pinned, RECORD_FILE};
use crate::vfs::{Entry, Error, Found, Inode, Timestamp, freshness};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Hidden files with the record of a collection or project.
const COLLECTION_RECORD: &[u8] = b".arvados#collection";
const PROJECT_RECORD: &[u8] = b".arvados#project";

/// A name that can never stand for anything where it was looked for.
const NEVER: Found = Found::Missing { valid: freshness::FOR_EVER };

impl Site {
    pub(super) async fn look(&self, directory: &Directory, name: &[u8]) -> Result<Found, Error> {
        let object = match directory {
            Directory::Inside { object, state, node } => return self.look_inside(object, state, *node, name).await,
            Directory::Top(object) => object,
        };
        match &object.content {
            Content::Fixed(items) => {
                let position = items.iter().position(|item| !name.is_empty() && item.name.as_bytes() == name);
                let Some(position) = position else { return Ok(NEVER) };
                let inode = Inode::new(object.slot, position as u32);
                Ok(Found::Entry(self.fixed(inode, &items[position])))
            }
            Content::Magic { by_uuid, fixed, items } => {
                if let Some(position) = fixed.iter().position(|item| item.name.as_bytes() == name) {
                    let inode = Inode::new(object.slot, position as u32);
                    return Ok(Found::Entry(self.fixed(inode, &fixed[position])));
                }
                self.look_up_magic(object, items, fixed.len() as u32, *by_uuid, name).await
            }
            Content::Listing { source, cell } => {
                if name == PROJECT_RECORD && matches!(source, Source::Project(_)) {
                    return self.look_up_record(object).await;
                }
                // Of the listing that was there before: what is published later is told.
                let told = cell.load().and_then(|listing| told(&self.supervisor, cell, &listing));
                match self.supervisor.find(cell, name).await? {
                    Some(item) => Ok(Found::Entry(self.listed(Inode::new(object.slot, item.number), &item, told))),
                    None => Ok(Found::Missing { valid: self.freshness.of_unlisted(told) }),
                }
            }
            Content::Collection { .. } => Err(Error::Stale),
        }
    }

    /// See [`crate::vfs::FileSystem::directory_at`]. Nothing in a fixed or magic directory can be moved or removed.
    pub(super) fn published_directory(&self, parent: Inode, name: &[u8]) -> Option<Inode> {
        let object = self.objects.get(parent.slot())?;
        let (object, number) = match &object.content {
            Content::Collection { .. } => (object, Some(parent.number())),
            _ => (self.objects.entered(parent)?, None),
        };
        match &object.content {
            Content::Collection { cell, .. } => {
                let state = cell.load()?;
                let directory = number.map_or(Some(NodeId::ROOT), |number| state.node(number))?;
                let found = state.snapshot.lookup(directory, name)?;
                state.snapshot.is_directory(found).then(|| Inode::new(object.slot, state.number(found)))
            }
            Content::Listing { cell, .. } => Some(Inode::new(object.slot, cell.load()?.by_name(name)?.number)),
            Content::Fixed(_) | Content::Magic { .. } => None,
        }
    }

    async fn look_inside(
        &self,
        object: &Pinned,
        state: &CollectionState,
        node: NodeId,
        name: &[u8],
    ) -> Result<Found, Error> {
        match state.snapshot.lookup(node, name) {
            Some(found) => {
                let valid = self.freshness.of(state.is_immutable());
                Ok(Found::Entry(Entry { attributes: self.node_attributes(object, state, found), valid }))
            }
            None if node == NodeId::ROOT && name == COLLECTION_RECORD => self.look_up_record(object).await,
            // Others may have made longer names than can be made here, so that is only said of those that are missing.
            None if name.len() > MAX_NAME_LENGTH => Err(NameProblem::TooLong.into()),
            None => Ok(Found::Missing { valid: self.freshness.of_missing(state.is_immutable()) }),
        }
    }

    /// Looking the hidden file up makes its text anew: who reads it wants to know how things are now.
    async fn look_up_record(&self, object: &Pinned) -> Result<Found, Error> {
        let record = Arc::new(self.record(object).await?);
        object.record.store(Some(record.clone()));
        let inode = Inode::new(object.slot, RECORD_FILE);
        Ok(Found::Entry(Entry::text(inode, record.size(), record.modified(), Duration::ZERO)))
    }

    /// A name in a directory where things appear when they are named (arv-mount.md 2.2). That something does not exist is
    /// only said when the cluster said so; what cannot be found out is an error.
    async fn look_up_magic(
        &self,
        object: &Pinned,
        items: &Mutex<MagicItems>,
        first: u32,
        by_uuid: bool,
        name: &[u8],
    ) -> Result<Found, Error> {
        let Ok(name) = std::str::from_utf8(name) else { return Ok(NEVER) };
        let known = Object::lock(items).find(name).map(|(number, item)| (number, item.clone()));
        let behind = match &known {
            Some((_, item)) => item.behind.clone(),
            None => match portable_data_hash(name) {
                Some(hash) => Behind::Collection(hash.to_owned()),
                None if by_uuid && is_group(name) => Behind::Listing(Source::Project(name.to_owned())),
                None if by_uuid && is_uuid(name) => Behind::Collection(name.to_owned()),
                None => return Ok(NEVER),
            },
        };
        let modified = match self.check(&behind, known.as_ref().map(|(_, item)| item)).await? {
            Some(modified) => modified,
            None => {
                if let Some((number, _)) = known {
                    Object::lock(items).remove(number);
                }
                tracing::warn!(name, "there is no such object, or it is not readable with this token");
                return Ok(Found::Missing { valid: Duration::ZERO });
            }
        };
        let item = MagicItem { name: name.into(), behind, modified };
        let number = Object::lock(items).add(item.clone());
        Ok(Found::Entry(self.magic(Inode::new(object.slot, first + number), &item)))
    }

    /// Is the object there? Then its time of modification.
    async fn check(&self, behind: &Behind, known: Option<&MagicItem>) -> Result<Option<Timestamp>, Error> {
        match behind {
            Behind::Collection(id) => {
                let cell = self.supervisor.collection(id);
                match self.supervisor.collection_state(&cell, true).await {
                    Ok(state) => Ok(Some(timestamp(state.record.modified_at))),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Behind::Listing(Source::Project(uuid)) => match self.supervisor.project(uuid, known.is_some()).await? {
                Some(modified) => {
                    Ok(Some(modified.map(Timestamp::from).or(known.map(|item| item.modified)).unwrap_or_default()))
                }
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }
}
