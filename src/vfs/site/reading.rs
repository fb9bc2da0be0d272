//! Reading files: from the handle's snapshot to the bytes of blocks.
//!
//! A block that is in memory is sliced without a copy. A read that touches several blocks copies each piece and lets go of
//! its block before it asks for the next one: whoever held a block while waiting for room for another could wait for ever.

use super::Site;
use crate::actors::collection::{CollectionCell, CollectionState};
use crate::actors::{self, Supervisor};
use crate::cache::{Block, RenewLocator};
use crate::dirty::Part;
use crate::keep::Locator;
use crate::tree::{NodeId, Segment};
use crate::vfs::Error;
use crate::vfs::handle::OpenFile;
use crate::vfs::object::Content;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

impl Site {
    /// Up to `size` bytes of a file at `offset`.
    pub(super) async fn read_file(&self, file: &OpenFile, offset: u64, size: u32) -> Result<Bytes, Error> {
        let (state, node) = self.current(file);
        if let Some(draft) = state.draft(file.inode.number()) {
            let length = u64::from(size).min(draft.file.size().saturating_sub(offset));
            let parts = draft.file.read(offset, length).await.map_err(actors::Error::from)?;
            return self.put_together(file, parts).await;
        }
        let end = offset.saturating_add(u64::from(size)).min(state.snapshot.size(node));
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut segments = state.snapshot.segments(node, offset, end - offset);
        let Some(first) = segments.next() else { return Ok(Bytes::new()) };
        if first.length == end - offset {
            return self.piece(file, &state, &first).await;
        }
        let mut data = BytesMut::with_capacity((end - offset) as usize);
        let mut next = Some(first);
        while let Some(segment) = next {
            data.extend_from_slice(&self.piece(file, &state, &segment).await?);
            next = segments.next();
        }
        Ok(data.freeze())
    }

    /// The newest content of an open file: what others in this mount have written to it shows at once. One that another client
    /// has replaced, or that is gone with its collection, is read as it was opened.
    fn current(&self, file: &OpenFile) -> (Arc<CollectionState>, NodeId) {
        if let Content::Collection { cell, .. } = &file.object.content
            && let Some(state) = cell.load()
            && let Some(node) = state.node(file.inode.number())
            && !state.snapshot.is_directory(node)
        {
            return (state, node);
        }
        (file.state.clone(), file.node)
    }

    async fn put_together(&self, file: &OpenFile, parts: Vec<Part>) -> Result<Bytes, Error> {
        if let [Part::Bytes(bytes)] = &parts[..] {
            return Ok(bytes.clone());
        }
        let mut data = BytesMut::new();
        for part in parts {
            match part {
                Part::Bytes(bytes) => data.extend_from_slice(&bytes),
                Part::Zeros(count) => data.resize(data.len() + count as usize, 0),
                Part::Stored { locator, offset, length } => {
                    let block = match self.cache.cached(&locator.hash()) {
                        Some(block) => block,
                        None => self.fetch(file, locator).await?,
                    };
                    data.extend_from_slice(&block.slice(offset as usize..(offset + length) as usize));
                }
            }
        }
        Ok(data.freeze())
    }

    async fn piece(&self, file: &OpenFile, state: &CollectionState, segment: &Segment) -> Result<Bytes, Error> {
        let block = match self.cache.cached(&state.snapshot.block_hash(segment.block)) {
            Some(block) => block,
            None => self.fetch(file, state.snapshot.locator(segment.block)).await?,
        };
        let start = segment.block_offset as usize;
        Ok(block.slice(start..start + segment.length as usize))
    }

    async fn fetch(&self, file: &OpenFile, known: Locator) -> Result<Block, Error> {
        let Content::Collection { cell, .. } = &file.object.content else { return Err(Error::Stale) };
        // The newest state has the newest signatures; a block that is not in it any more is known to the handle's own.
        let newest = cell.load().and_then(|state| state.snapshot.find_locator(known.hash()));
        let locator = newest.unwrap_or(known);
        let renewal = Renewal { supervisor: self.supervisor.clone(), cell: cell.clone(), opened: file.state.clone() };
        let renewal: Arc<dyn RenewLocator> = Arc::new(renewal);
        Ok(self.cache.get(&locator, &renewal).await?)
    }
}

/// Where a fresh signature comes from when Keep refuses one.
struct Renewal {
    supervisor: Arc<Supervisor>,
    cell: Arc<CollectionCell>,
    opened: Arc<CollectionState>,
}

#[async_trait]
impl RenewLocator for Renewal {
    async fn renew(&self, refused: &Locator) -> Result<Locator, String> {
        let of = |state: &CollectionState| {
            let locator = state.snapshot.find_locator(refused.hash());
            locator.filter(|locator| locator.as_str() != refused.as_str())
        };
        if let Some(locator) = self.cell.load().and_then(|state| of(&state)) {
            return Ok(locator);
        }
        // The collection as it is now, and if the block is not in that any more, whatever has the content that was opened.
        let renewed = self.supervisor.renew_signatures(&self.cell).await.map_err(|error| error.to_string());
        let renewed = renewed.map(|state| of(&state));
        if let Ok(Some(locator)) = renewed {
            return Ok(locator);
        }
        let content = self.supervisor.collection(self.opened.portable_data_hash());
        let state = self.supervisor.renew_signatures(&content).await.map_err(|error| error.to_string())?;
        of(&state).ok_or_else(|| "the block is in no collection that can be read any more".to_owned())
    }
}
