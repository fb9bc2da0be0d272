//! What all dirty files of a mount share: the limit on their memory, and the way to Keep.

use crate::cache::{Budget, Charge};
use crate::dirty::extents::{Extents, Home};
use crate::dirty::{Content, DirtyFile, Error, Scratch, Source};
use crate::keep::manifest::Piece;
use crate::keep::{Locator, MAX_BLOCK_SIZE};
use crate::remote::keep::{Keep, PutRequest};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};

/// How a store is made.
pub struct Options {
    pub budget: Arc<Budget>,
    /// The most bytes of the budget that data at rest may have: it must leave room for the largest block.
    pub memory: usize,
    pub scratch: Arc<Scratch>,
    pub keep: Arc<dyn Keep>,
    /// Where uploads run.
    pub runtime: Handle,
    /// Uploads at a time.
    pub uploads: usize,
    /// Size of a full block, in bytes: [`MAX_BLOCK_SIZE`], but for tests.
    pub block_size: u64,
}

/// What it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Bytes in memory, on their way to Keep included.
    pub memory: usize,
    /// Bytes in backing files.
    pub disk: u64,
    /// Blocks that are full and not in Keep yet.
    pub sealed: usize,
}

/// See the module's essay.
pub struct DirtyStore {
    pub(super) options: Options,
    memory: AtomicUsize,
    pub(super) sealed: AtomicUsize,
    /// A sealed block has left.
    pub(super) left: Notify,
    pub(super) permits: Arc<Semaphore>,
    /// Blocks of zeros that are in Keep, by size and how they are stored.
    zeros: Mutex<HashMap<(u64, u32, Vec<String>), Arc<Locator>>>,
}

/// Permission to hold so much memory; counted against the store's limit and the budget.
pub(super) struct Hold {
    store: Arc<DirtyStore>,
    charges: Vec<Charge>,
    bytes: usize,
}

/// The first step in which a tail grows, and the largest: few steps for large files, little waste for small ones.
const FIRST_STEP: usize = 64 << 10;
const LARGEST_STEP: usize = 4 << 20;

impl Hold {
    pub(super) fn new(store: &Arc<DirtyStore>) -> Hold {
        Hold { store: store.clone(), charges: Vec::new(), bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it `needed` bytes at least. `false`: there is no room now.
    pub(super) fn grow(&mut self, needed: usize, most: usize) -> bool {
        if needed <= self.bytes {
            return true;
        }
        let step = self.bytes.clamp(FIRST_STEP, LARGEST_STEP);
        let more = (needed - self.bytes).max(step).min(most.saturating_sub(self.bytes)).max(needed - self.bytes);
        let limit = self.store.options.memory;
        let fits = |used: usize| used.checked_add(more).filter(|sum| *sum <= limit);
        if self.store.memory.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_err() {
            return false;
        }
        match self.store.options.budget.try_charge_or_reclaim(more) {
            Some(charge) => {
                self.charges.push(charge);
                self.bytes += more;
                true
            }
            None => {
                self.store.memory.fetch_sub(more, Ordering::AcqRel);
                false
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.store.memory.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A full block on its way to Keep. Its bytes stay until it is there.
pub(super) struct Sealed {
    held: Mutex<Option<(Bytes, Hold)>>,
    request: PutRequest,
    /// `None` while it is under way.
    result: watch::Sender<Option<Result<Arc<Locator>, Error>>>,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sealed")
    }
}

impl Sealed {
    pub(super) fn bytes(&self) -> Option<Bytes> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|(bytes, _)| bytes.clone())
    }

    pub(super) fn locator(&self) -> Option<Arc<Locator>> {
        self.result.borrow().as_ref().and_then(|result| result.as_ref().ok().cloned())
    }

    /// Waits until it is in Keep; tries again if that has failed before.
    pub(super) async fn arrive(self: &Arc<Self>, store: &Arc<DirtyStore>) -> Result<Arc<Locator>, Error> {
        let has_failed = matches!(&*self.result.borrow(), Some(Err(_)));
        if has_failed {
            self.result.send_replace(None);
            store.send(self.clone());
        }
        let mut result = self.result.subscribe();
        let arrived = result.wait_for(Option::is_some).await.map_err(|_| Error::BrokenOff)?;
        arrived.clone().unwrap_or(Err(Error::BrokenOff))
    }
}

impl DirtyStore {
    pub fn new(options: Options) -> Arc<DirtyStore> {
        let permits = Arc::new(Semaphore::new(options.uploads.max(1)));
        Arc::new(DirtyStore {
            options,
            memory: AtomicUsize::new(0),
            sealed: AtomicUsize::new(0),
            left: Notify::new(),
            permits,
            zeros: Mutex::default(),
        })
    }

    /// A file with this content, nothing of which is dirty. `request`: how what is written to it is to be stored.
    pub fn file(self: &Arc<Self>, pieces: impl Iterator<Item = Piece<Locator>>, request: PutRequest) -> Arc<DirtyFile> {
        let mut extents = Extents::default();
        for piece in pieces {
            let home =
                Home::Stored { locator: Arc::new(piece.block), size: piece.block_size, offset: piece.offset };
            extents.set(extents.size(), piece.length, home);
        }
        DirtyFile::new(self.clone(), extents, None, request)
    }

    /// A file as a journal has it. `scratch`: where its backing file is.
    pub fn restore(
        self: &Arc<Self>,
        content: &Content,
        scratch: Option<&Arc<Scratch>>,
        request: PutRequest,
    ) -> Result<Arc<DirtyFile>, Error> {
        let scratch = scratch.unwrap_or(&self.options.scratch);
        let mut backing = content.backing.map(|number| scratch.adopt(number)).transpose()?;
        let mut extents = Extents::default();
        for extent in &content.extents {
            let at = extents.size();
            let home = match &extent.source {
                Source::Stored { locator, block_size, offset } => {
                    let locator = locator.parse::<Locator>().map_err(|error| Error::Damaged(error.to_string()))?;
                    Home::Stored { locator: Arc::new(locator), size: *block_size, offset: *offset }
                }
                Source::Backing if backing.is_some() => Home::Backing,
                Source::Backing => return Err(Error::Damaged("a backing file has no number".into())),
                Source::Inline(bytes) if bytes.len() as u64 == extent.length => {
                    if backing.is_none() {
                        backing = Some(self.options.scratch.create()?);
                    }
                    if let Some(backing) = &backing {
                        backing.write(at, bytes, extent.length)?;
                    }
                    Home::Backing
                }
                Source::Inline(_) => return Err(Error::Damaged("a run has another length than its bytes".into())),
                Source::Hole => Home::Hole,
            };
            extents.set(at, extent.length, home);
        }
        if extents.size() != content.size {
            return Err(Error::Damaged(format!("{} bytes where there should be {}", extents.size(), content.size)));
        }
        Ok(DirtyFile::new(self.clone(), extents, backing, request))
    }

    pub fn figures(&self) -> Figures {
        Figures {
            memory: self.memory.load(Ordering::Acquire),
            disk: self.options.scratch.used(),
            sealed: self.sealed.load(Ordering::Acquire),
        }
    }

    /// Sends a full block on its way.
    pub(super) fn seal(self: &Arc<Self>, bytes: Bytes, hold: Hold, request: PutRequest) -> Arc<Sealed> {
        let held = Mutex::new(Some((bytes, hold)));
        let sealed = Arc::new(Sealed { held, request, result: watch::Sender::new(None) });
        self.sealed.fetch_add(1, Ordering::AcqRel);
        self.send(sealed.clone());
        sealed
    }

    fn send(self: &Arc<Self>, sealed: Arc<Sealed>) {
        let store = self.clone();
        self.options.runtime.spawn(async move {
            let Some(bytes) = sealed.bytes() else { return };
            let result = store.put(bytes, &sealed.request).await;
            if let Err(error) = &result {
                tracing::warn!(%error, "a block could not be brought to Keep: it is kept, and tried again");
            }
            let is_there = result.is_ok();
            sealed.result.send_replace(Some(result.map(Arc::new)));
            if is_there {
                drop(sealed.held.lock().unwrap_or_else(PoisonError::into_inner).take());
                store.sealed.fetch_sub(1, Ordering::AcqRel);
            }
            store.left.notify_waiters();
        });
    }

    /// Brings a block to Keep, when it is its turn.
    pub(super) async fn put(&self, bytes: Bytes, request: &PutRequest) -> Result<Locator, Error> {
        let _permit = self.permits.acquire().await.map_err(|_| Error::BrokenOff)?;
        Ok(self.options.keep.put(bytes, request).await?.locator)
    }

    /// A block of zeros, brought to Keep when it is first needed.
    pub(super) async fn zeros(&self, size: u64, request: &PutRequest) -> Result<Arc<Locator>, Error> {
        // Never written, so these pages are the kernel's one page of zeros and take no memory.
        static ZEROS: [u8; MAX_BLOCK_SIZE as usize] = [0; MAX_BLOCK_SIZE as usize];
        let key = (size, request.replicas.unwrap_or(0), request.storage_classes.clone());
        let known = self.zeros.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let bytes = Bytes::from_static(&ZEROS[..size as usize]);
        let locator = Arc::new(self.put(bytes, request).await?);
        self.zeros.lock().unwrap_or_else(PoisonError::into_inner).insert(key, locator.clone());
        Ok(locator)
    }
}
