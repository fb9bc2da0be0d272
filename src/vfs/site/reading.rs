//! Reading files: from the handle's snapshot to the bytes of blocks.
//!
//! A block that is in memory is sliced without a copy. A read that touches several blocks copies each piece and lets go of
//! its block before it asks for the next one: whoever held a block while waiting for room for another could wait for ever.

use super::Site;
use crate::actors::Supervisor;
use crate::actors::collection::{CollectionCell, CollectionState};
use crate::cache::{Block, RenewLocator};
use crate::keep::Locator;
use crate::tree::Segment;
use crate::vfs::Error;
use crate::vfs::handle::OpenFile;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

impl Site {
    /// Up to `size` bytes of a file at `offset`.
    pub(super) async fn read_file(&self, file: &OpenFile, offset: u64, size: u32) -> Result<Bytes, Error> {
        let end = offset.saturating_add(u64::from(size)).min(file.attributes.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut segments = file.state.snapshot.segments(file.node, offset, end - offset);
        let Some(first) = segments.next() else { return Ok(Bytes::new()) };
        if first.length == end - offset {
            return self.piece(file, &first).await;
        }
        let mut data = BytesMut::with_capacity((end - offset) as usize);
        let mut next = Some(first);
        while let Some(segment) = next {
            data.extend_from_slice(&self.piece(file, &segment).await?);
            next = segments.next();
        }
        Ok(data.freeze())
    }

    async fn piece(&self, file: &OpenFile, segment: &Segment) -> Result<Bytes, Error> {
        let block = match self.cache.cached(&file.state.snapshot.block_hash(segment.block)) {
            Some(block) => block,
            None => self.fetch(file, segment).await?,
        };
        let start = segment.block_offset as usize;
        Ok(block.slice(start..start + segment.length as usize))
    }

    async fn fetch(&self, file: &OpenFile, segment: &Segment) -> Result<Block, Error> {
        let crate::vfs::object::Content::Collection { cell, .. } = &file.object.content else {
            return Err(Error::Stale);
        };
        // The newest state has the newest signatures; a block that is not in it any more is known to the handle's own.
        let hash = file.state.snapshot.block_hash(segment.block);
        let newest = cell.load().and_then(|state| state.snapshot.find_locator(hash));
        let locator = match newest {
            Some(locator) => locator,
            None => file.state.snapshot.locator(segment.block),
        };
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
