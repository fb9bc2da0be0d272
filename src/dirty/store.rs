//! What all dirty files share: the memory they may have, the scratch folder, the way to Keep.

use super::content::{self, Content};
use super::error::Error;
use super::extents::{Extents, Origin, Source};
use super::file::DirtyFile;
use super::lease::Allowance;
use super::own_ends::{OwnEnd, OwnEnds};
use super::scratch::{Backing, Scratch};
use super::tail::Tail;
use crate::cache::Budget;
use crate::keep::manifest::Piece;
use crate::keep::{BlockHash, Locator, MAX_BLOCK_SIZE};
use crate::remote::keep::{Keep, PutRequest};
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, Semaphore};

/// For how long the locator of the block of zeros is used: much less than any signature is valid.
const ZEROS_FOR: Duration = Duration::from_secs(600);

/// At most this share of the scratch folder is filled by copies of what is in Keep: one half, so that as much is left for what is
/// nowhere else, and a writer who needs it is not refused on their account.
const COPIES_SHARE: u64 = 2;

/// What a store works with.
pub struct Options {
    pub budget: Arc<Budget>,
    /// Most bytes of dirty data in memory.
    pub memory: usize,
    pub scratch: Arc<Scratch>,
    pub keep: Arc<dyn Keep>,
    /// Where uploads run.
    pub runtime: Handle,
    /// How many at once.
    pub uploads: usize,
    /// 64 MiB except in tests.
    pub block_size: u64,
}

/// See the module.
pub struct DirtyStore {
    pub(super) allowance: Arc<Allowance>,
    pub(super) scratch: Arc<Scratch>,
    pub(super) runtime: Handle,
    pub(super) permits: Arc<Semaphore>,
    pub(super) uploads: usize,
    pub(super) block_size: u64,
    /// Most bytes of a block that is packed.
    pub(super) pack_size: u64,
    /// Sealed blocks on the way.
    pub(super) in_flight: AtomicUsize,
    /// One of them ended.
    pub(super) ended: Notify,
    pub(super) own_ends: OwnEnds,
    pub(super) keep: Arc<dyn Keep>,
    next: AtomicU64,
    stored: AtomicU64,
    failed: AtomicU64,
    zeros: Mutex<Vec<(PutRequest, Locator, Instant)>>,
    zeros_hash: OnceLock<BlockHash>,
    /// Backing files that no file uses any more, and a record or who reads them just now may. The lock is a leaf.
    retired: std::sync::Mutex<Vec<Arc<Backing>>>,
}

/// What a store has done and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    pub memory: usize,
    pub memory_limit: usize,
    pub scratch: u64,
    pub scratch_limit: u64,
    /// Full blocks on the way.
    pub in_flight: usize,
    pub blocks_stored: u64,
    pub blocks_failed: u64,
}

impl DirtyStore {
    /// A store without files. `memory` is cut where a block would not fit into the budget beside it.
    pub fn new(options: Options) -> Arc<DirtyStore> {
        let block_size = options.block_size.clamp(1, MAX_BLOCK_SIZE);
        let capacity = options.budget.capacity();
        let block = usize::try_from(block_size).unwrap_or(usize::MAX);
        let memory = options.memory.min(capacity.saturating_sub(block).max(capacity / 2));
        let uploads = options.uploads.max(1);
        Arc::new(DirtyStore {
            allowance: Allowance::new(options.budget, memory),
            scratch: options.scratch,
            runtime: options.runtime,
            permits: Arc::new(Semaphore::new(uploads)),
            uploads,
            block_size,
            pack_size: block_size.min((capacity - memory) as u64).max(1),
            in_flight: AtomicUsize::new(0),
            ended: Notify::new(),
            own_ends: OwnEnds::default(),
            keep: options.keep,
            next: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            zeros: Mutex::default(),
            zeros_hash: OnceLock::new(),
            retired: std::sync::Mutex::default(),
        })
    }

    /// A file that consists of `pieces` so far; what is written to it is stored as `request` says.
    pub fn file(self: &Arc<Self>, pieces: impl Iterator<Item = Piece<Locator>>, request: PutRequest) -> Arc<DirtyFile> {
        let mut extents = Extents::default();
        let mut last = None;
        for Piece { block, block_size, offset, length } in pieces {
            last = Some((block.clone(), offset, (extents.size(), length)));
            let origin = Origin::Named;
            extents.replace(extents.size(), length, Source::Stored { locator: block, block_size, offset, origin });
        }
        let own_end = last.and_then(|(locator, offset, place)| self.own_ends.take(&locator, offset, place));
        self.make((extents, own_end), None, request)
    }

    fn make(
        self: &Arc<Self>,
        content: (Extents, Option<OwnEnd>),
        backing: Option<Arc<Backing>>,
        request: PutRequest,
    ) -> Arc<DirtyFile> {
        DirtyFile::new(self.clone(), self.next.fetch_add(1, Ordering::AcqRel), content, backing, request)
    }

    /// A file as a journal has it. Its backing file is in `folder`, that of another journal, or in the store's own. Whatever is
    /// written down of the file from now on names a file in the store's own folder. Blocking, but short.
    pub fn restore(
        self: &Arc<Self>,
        content: &Content,
        folder: Option<&Arc<Scratch>>,
        request: PutRequest,
    ) -> Result<Arc<DirtyFile>, Error> {
        let mut extents = Extents::default();
        let adopt = |number| match folder {
            Some(other) => self.scratch.adopt_from(other, number),
            None => self.scratch.adopt(number),
        };
        // Most small files have nothing else. They need no disk, which may be full, as long as there is memory for them.
        if let [content::Extent { length, source: content::Source::Inline(bytes) }] = &content.extents[..]
            && bytes.len() as u64 == *length
            && *length == content.size
            && *length > 0
            && content.backing.is_none()
            && let Some(tail) = self.tail_of(0, bytes)
        {
            extents.replace(0, *length, Source::Memory);
            let file = self.make((extents, None), None, request);
            file.state().tail = Some(tail);
            return Ok(file);
        }
        let mut backing = content.backing.map(adopt).transpose()?;
        let there = backing.as_ref().map_or(Ok(0), |backing| backing.length())?;
        for extent in &content.extents {
            let start = extents.size();
            let end = start.checked_add(extent.length).filter(|end| *end <= content.size);
            let end = end.ok_or_else(|| Error::content("the extents are longer than the file"))?;
            let source = match &extent.source {
                content::Source::Stored { locator, block_size, offset, own } => {
                    if offset.checked_add(extent.length).is_none_or(|end| end > *block_size) {
                        return Err(Error::content("an extent is longer than its block"));
                    }
                    let locator = locator.parse().map_err(|error| Error::content(format!("{error}")))?;
                    let origin = if *own { Origin::Own } else { Origin::Named };
                    Source::Stored { locator, block_size: *block_size, offset: *offset, origin }
                }
                content::Source::Backing => {
                    let missing = || Error::content("the backing file is missing or too short");
                    let backing = backing.as_ref().filter(|_| end <= there).ok_or_else(missing)?;
                    backing.count(start, end, true)?;
                    Source::Backing
                }
                content::Source::Inline(bytes) => {
                    if bytes.len() as u64 != extent.length {
                        return Err(Error::content("an extent has another length than its bytes"));
                    }
                    let backing = match &mut backing {
                        Some(backing) => backing,
                        None => backing.insert(self.scratch.create()?),
                    };
                    backing.write(start, bytes)?;
                    Source::Backing
                }
                content::Source::Hole => Source::Hole,
            };
            extents.replace(start, extent.length, source);
        }
        if extents.size() != content.size {
            return Err(Error::content("the extents are shorter than the file"));
        }
        Ok(self.make((extents, None), backing, request))
    }

    /// The bytes in memory, if there is some for them and they are less than a block.
    pub(super) fn tail_of(&self, start: u64, bytes: &Bytes) -> Option<Tail> {
        let block_size = usize::try_from(self.block_size).unwrap_or(usize::MAX);
        let mut tail = Tail::new(start, block_size, &self.allowance).filter(|_| bytes.len() < block_size)?;
        if !tail.make_room(bytes.len(), block_size, &self.allowance) {
            return None;
        }
        tail.bytes.extend_from_slice(bytes);
        Some(tail)
    }

    pub(super) fn retire(&self, backing: Arc<Backing>) {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(backing);
    }

    /// Takes away a backing file that no file uses, now or when no record speaks of it any more.
    pub(super) fn let_go(&self, backing: Option<Arc<Backing>>) {
        backing.into_iter().filter(|backing| backing.is_kept()).for_each(|backing| self.retire(backing));
    }

    /// No backing file waits for [`DirtyStore::sweep`].
    pub fn has_swept(&self) -> bool {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Lets go of the backing files that no file uses, that nobody holds and that are not `needed` by a record. `is_certain`: what
    /// makes it so is on the disk. `true`: all of them.
    pub fn sweep(&self, needed: impl Fn(u64) -> bool, is_certain: impl FnOnce() -> bool) -> bool {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *retired);
        drop(retired);
        let is_needed = |backing: &Arc<Backing>| Arc::strong_count(backing) > 1 || needed(backing.number());
        let (mut stay, mut gone): (Vec<_>, Vec<_>) = all.into_iter().partition(is_needed);
        if gone.iter().any(|backing| backing.is_recorded()) && !is_certain() {
            stay.append(&mut gone);
        }
        gone.iter().for_each(|backing| backing.discard());
        let is_all = stay.is_empty();
        stay.into_iter().for_each(|backing| self.retire(backing));
        is_all
    }

    /// What it has done and holds.
    pub fn figures(&self) -> Figures {
        Figures {
            memory: self.allowance.used(),
            memory_limit: self.allowance.limit,
            scratch: self.scratch.used(),
            scratch_limit: self.scratch.limit(),
            in_flight: self.in_flight.load(Ordering::Acquire),
            blocks_stored: self.stored.load(Ordering::Acquire),
            blocks_failed: self.failed.load(Ordering::Acquire),
        }
    }

    pub(super) async fn put(&self, bytes: Bytes, request: &PutRequest) -> Result<Locator, Error> {
        let stored = self.keep.put(bytes, request).await;
        let count = if stored.is_ok() { &self.stored } else { &self.failed };
        count.fetch_add(1, Ordering::AcqRel);
        Ok(stored?.locator)
    }

    /// The block of `block_size` zeros, stored as `request` says. Its pages are never written to, so they are no memory.
    pub(super) async fn zeros(&self, request: &PutRequest) -> Result<Locator, Error> {
        let mut zeros = self.zeros.lock().await;
        zeros.retain(|(_, _, since)| since.elapsed() < ZEROS_FOR);
        if let Some((_, locator, _)) = zeros.iter().find(|(known, _, _)| known == request) {
            return Ok(locator.clone());
        }
        let size = usize::try_from(self.block_size).map_err(|_| Error::TooLarge { size: self.block_size })?;
        let locator = self.put(Bytes::from(vec![0; size]), request).await?;
        let _ = self.zeros_hash.set(locator.hash());
        zeros.push((request.clone(), locator.clone(), Instant::now()));
        Ok(locator)
    }

    /// It is the block of zeros that was stored here.
    pub(super) fn is_zeros(&self, locator: &Locator) -> bool {
        self.zeros_hash.get() == Some(&locator.hash())
    }

    /// Copies of what is in Keep may take more of the scratch folder: the rest is for what is nowhere else.
    pub(super) fn has_room_for_copies(&self, bytes: u64) -> bool {
        self.scratch.used().saturating_add(bytes) <= self.scratch.limit() / COPIES_SHARE
    }
}
