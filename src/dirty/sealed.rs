//! A full block of a file on its way to Keep. Its bytes stay in memory until Keep has them.

use super::error::Error;
use super::extents::{Origin, Source};
use super::file::DirtyFile;
use super::lease::Lease;
use super::store::DirtyStore;
use crate::keep::Locator;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::watch;

#[derive(Clone)]
pub(super) enum Progress {
    Running,
    Failed(Error),
    Stored(Locator),
}

pub(super) struct Sealed {
    /// In the file.
    pub start: u64,
    pub length: u64,
    bytes: Mutex<Option<(Bytes, Vec<Lease>)>>,
    progress: watch::Sender<Progress>,
}

impl Sealed {
    pub fn new(start: u64, bytes: Vec<u8>, leases: Vec<Lease>) -> Arc<Sealed> {
        let length = bytes.len() as u64;
        let bytes = Mutex::new(Some((Bytes::from(bytes), leases)));
        Arc::new(Sealed { start, length, bytes, progress: watch::Sender::new(Progress::Running) })
    }

    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// The bytes, as long as Keep does not have them.
    pub fn bytes(&self) -> Option<Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(bytes, _)| bytes.clone())
    }

    /// Where it is, once it is in Keep.
    pub fn stored(&self, offset: u64, copied: bool) -> Option<Source> {
        let origin = if copied { Origin::Copied } else { Origin::Own };
        match self.progress() {
            Progress::Stored(locator) => Some(Source::Stored { locator, block_size: self.length, offset, origin }),
            Progress::Running | Progress::Failed(_) => None,
        }
    }

    /// Waits until the upload has ended one way or the other.
    pub async fn finished(&self) -> Result<(), Error> {
        let mut progress = self.progress.subscribe();
        let ended = progress.wait_for(|progress| !matches!(progress, Progress::Running)).await;
        match ended.map(|progress| progress.clone()) {
            Ok(Progress::Stored(_)) => Ok(()),
            Ok(Progress::Failed(error)) => Err(error),
            Ok(Progress::Running) | Err(_) => Err(Error::BrokenOff),
        }
    }

    /// Starts the upload, or starts it again.
    pub fn upload(self: &Arc<Self>, store: &Arc<DirtyStore>, file: &Arc<DirtyFile>) {
        self.progress.send_replace(Progress::Running);
        store.in_flight.fetch_add(1, Ordering::AcqRel);
        let running = Running { sealed: self.clone(), store: store.clone(), result: Err(Error::BrokenOff) };
        let file = Arc::downgrade(file);
        store.runtime.spawn(running.run(file));
    }
}

/// An upload. However it ends, those who wait are told.
struct Running {
    sealed: Arc<Sealed>,
    store: Arc<DirtyStore>,
    result: Result<Locator, Error>,
}

impl Running {
    async fn run(mut self, file: Weak<DirtyFile>) {
        let Ok(_permit) = self.store.permits.clone().acquire_owned().await else { return };
        let Some(request) = file.upgrade().map(|file| file.request().clone()) else { return };
        let Some(bytes) = self.sealed.bytes() else { return };
        self.result = self.store.put(bytes, &request).await;
        if let (Ok(locator), Some(file)) = (&self.result, file.upgrade()) {
            self.sealed.progress.send_replace(Progress::Stored(locator.clone()));
            file.resolve(&self.sealed);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let progress = match self.result.clone() {
            Ok(locator) => {
                self.sealed.progress.send_replace(Progress::Stored(locator.clone()));
                drop(self.sealed.bytes.lock().unwrap_or_else(PoisonError::into_inner).take());
                Progress::Stored(locator)
            }
            Err(error) => Progress::Failed(error),
        };
        self.store.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.sealed.progress.send_replace(progress);
        self.store.ended.notify_waiters();
    }
}
