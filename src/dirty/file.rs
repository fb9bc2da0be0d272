//! A file with data that is not in Keep: writing, cutting and reading it.

use super::error::Error;
use super::extents::{Extent, Extents, Source};
use super::own_ends::OwnEnd;
use super::scratch::Backing;
use super::sealed::{Progress, Sealed};
use super::settle::{MOST_ZEROS, pieces_of};
use super::state::{State, Step};
use super::store::DirtyStore;
use crate::keep::Locator;
use crate::keep::manifest::Piece;
use crate::remote::keep::PutRequest;
use bytes::{Buf, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::timeout;

/// How long a writer waits for an upload to give memory back before it takes the scratch file.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of a tail is copied at a time on its way to the scratch file.
const FLUSH_STEP: usize = 256 << 10;
/// Where to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    At(u64),
    /// Where the file ends when it is this write's turn.
    End,
}

/// A run of what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Bytes(Bytes),
    /// To be had from Keep.
    Stored {
        locator: Locator,
        offset: u64,
        length: u64,
    },
    Zeros(u64),
}

/// The turn to write. Shared with the threads that write to the backing file, so that a writer whose future is dropped
/// does not let the next one in before its bytes are down.
pub(super) type Turn = Arc<OwnedMutexGuard<()>>;

/// See the module. The data goes with it, except what is kept for the journal.
pub struct DirtyFile {
    pub(super) store: Arc<DirtyStore>,
    pub(super) number: u64,
    request: PutRequest,
    pub(super) turn: Arc<AsyncMutex<()>>,
    state: Mutex<State>,
}

impl DirtyFile {
    pub(super) fn new(
        store: Arc<DirtyStore>,
        number: u64,
        (extents, own_end): (Extents, Option<OwnEnd>),
        backing: Option<Arc<Backing>>,
        request: PutRequest,
    ) -> Arc<DirtyFile> {
        let state = State::new(extents, own_end, backing);
        Arc::new(DirtyFile { store, number, request, turn: Arc::default(), state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn turn(&self) -> Turn {
        Arc::new(self.turn.clone().lock_owned().await)
    }

    /// Number of its backing file, if it has one.
    pub fn backing(&self) -> Option<u64> {
        self.state().backing.as_ref().map(|backing| backing.number())
    }

    /// A record of a journal may speak of its backing file.
    pub fn is_recorded(&self) -> bool {
        self.state().backing.as_ref().is_some_and(|backing| backing.is_recorded())
    }

    /// Its backing file, if it still is the one with this number. It does not go while somebody has it
    /// ([`DirtyStore::sweep`]).
    pub fn hold(&self, number: u64) -> Option<Arc<Backing>> {
        self.state().backing.clone().filter(|backing| backing.number() == number)
    }

    /// How its blocks are stored.
    pub fn request(&self) -> &PutRequest {
        &self.request
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.state().extents.size()
    }

    /// Changes with every change of bytes, size or time.
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Changes with every change of bytes or size, also one that leaves the same bytes.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// When it was last changed.
    pub fn modified(&self) -> DateTime<Utc> {
        self.state().modified
    }

    /// Sets the time, which counts as a change.
    pub fn set_modified(&self, modified: DateTime<Utc>) {
        let mut state = self.state();
        state.modified = modified;
        state.generation += 1;
    }

    /// Was a record that speaks of its backing file to be on the disk?
    pub fn is_durable(&self) -> bool {
        self.state().is_durable
    }

    /// It takes the place of such a file: if its record came to the disk before its bytes, neither would be there.
    pub fn be_durable(&self) {
        self.state().is_durable = true;
    }

    /// Something of it is not in Keep.
    pub fn is_local(&self) -> bool {
        self.state().extents.any(|source| !matches!(source, Source::Stored { .. }))
    }

    /// Bytes that are not in Keep; what was never written is none.
    pub fn local_bytes(&self) -> u64 {
        let state = self.state();
        let is_local = |extent: &Extent| !matches!(extent.source, Source::Stored { .. } | Source::Hole);
        state.extents.iter().filter(is_local).map(|extent| extent.length).sum()
    }

    /// What it consists of, if all of it is in Keep.
    pub fn stored(&self) -> Option<Vec<Piece<Locator>>> {
        pieces_of(&self.state().extents).ok()
    }

    /// May the file grow from `before` to `size`? Not beyond what can be stored should all of it be a hole: such a file would never
    /// be saved. What is larger already, because another client made it so, may be changed all the same.
    fn check_size(&self, before: u64, size: u64) -> Result<(), Error> {
        let largest = self.store.block_size.saturating_mul(MOST_ZEROS);
        if size > before && size > largest { Err(Error::TooLarge { size }) } else { Ok(()) }
    }

    /// Writes `data` if that can be done without waiting for anything; if not, nothing of it is written. Whether it was.
    pub fn write_at_once(self: &Arc<Self>, place: Place, data: &[u8]) -> bool {
        let Ok(_turn) = self.turn.try_lock() else { return false };
        let mut state = self.state();
        let at = match place {
            Place::At(at) => at,
            Place::End => state.extents.size(),
        };
        if data.is_empty()
            || self.check_size(state.extents.size(), at.saturating_add(data.len() as u64)).is_err()
            || !state.has_room(&self.store, at, data.len())
        {
            return false;
        }
        match state.step(&self.store, at, data) {
            Step::Done(_) => {}
            Step::Full(_, sealed) => {
                drop(state);
                sealed.upload(&self.store, self);
            }
            Step::Backing(_) | Step::Flush | Step::Refused => return false,
        }
        true
    }

    /// Writes all of `data`. Errors: `NoSpace`, `TooLarge`, `Backing`; a part may then have been written. Waits for earlier
    /// writers, and briefly for memory.
    pub async fn write(self: &Arc<Self>, place: Place, data: Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let turn = self.turn().await;
        let mut at = match place {
            Place::At(at) => at,
            Place::End => self.size(),
        };
        self.check_size(self.size(), at.saturating_add(data.len() as u64))?;
        let mut rest = data;
        let mut patient = true;
        while !rest.is_empty() {
            let step = self.state().step(&self.store, at, &rest);
            let count = match step {
                Step::Done(count) => count,
                Step::Full(count, sealed) => {
                    sealed.upload(&self.store, self);
                    count
                }
                Step::Backing(count) => {
                    self.write_backing(&turn, at, rest.slice(..count)).await?;
                    self.state().wrote(at, count as u64, Source::Backing);
                    count
                }
                Step::Flush => {
                    self.flush(&turn).await?;
                    0
                }
                Step::Refused if self.store.own_ends.clear() => 0,
                Step::Refused if patient && self.wait_for_memory().await => {
                    patient = false;
                    0
                }
                Step::Refused => {
                    self.flush(&turn).await?;
                    let count = rest.len().min(usize::try_from(self.store.block_size).unwrap_or(usize::MAX));
                    self.write_backing(&turn, at, rest.slice(..count)).await?;
                    self.state().wrote(at, count as u64, Source::Backing);
                    count
                }
            };
            at += count as u64;
            rest.advance(count);
        }
        Ok(())
    }

    /// Whether waiting made sense: something was on the way.
    ///
    /// This is no deadlock, although the writer keeps its turn and its tail meanwhile: an upload needs neither. Its block is leased
    /// already, and a permit is only held by other uploads and by settling, which waits for a part of the budget that no tail can
    /// have. And it does not wait for long: after that the tail goes to the scratch file, which needs no memory of the budget.
    async fn wait_for_memory(&self) -> bool {
        let mut ended = pin!(self.store.ended.notified());
        ended.as_mut().enable();
        if self.store.in_flight.load(Ordering::Acquire) == 0 {
            return false;
        }
        timeout(PATIENCE, ended).await.is_ok()
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.store.runtime.spawn_blocking(work).await.unwrap_or(Err(Error::BrokenOff))
    }

    /// Goes on with a new backing file, and leaves the old one to the records that speak of it.
    pub(super) async fn renew_backing(&self, turn: &Turn) -> Result<(), Error> {
        let (old, ranges) = {
            let state = self.state();
            let is_there = |extent: &Extent| matches!(extent.source, Source::Backing);
            let ranges: Vec<_> = state.extents.iter().filter(is_there).map(|it| (it.start, it.length)).collect();
            (state.backing.clone(), ranges)
        };
        let Some(old) = old else { return Ok(()) };
        let (turn, from, scratch) = (turn.clone(), old.clone(), self.store.scratch.clone());
        let new = self
            .blocking(move || {
                let new = scratch.create()?;
                let mut bytes = vec![0; FLUSH_STEP];
                for (start, length) in ranges {
                    for at in (start..start + length).step_by(FLUSH_STEP) {
                        let count = usize::try_from(start + length - at).unwrap_or(FLUSH_STEP).min(FLUSH_STEP);
                        from.read(at, &mut bytes[..count])?;
                        new.write(at, &bytes[..count])?;
                    }
                }
                drop(turn);
                Ok(new)
            })
            .await?;
        let mut state = self.state();
        state.backing = Some(new);
        state.is_spoken_for = false;
        // The new one has no more than it must.
        state.extents.change(|extent| match &extent.source {
            Source::Backing => None,
            source => source.is_in_backing().then(|| source.with_copy(false)),
        });
        drop(state);
        self.store.retire(old);
        Ok(())
    }

    /// Puts bytes down at their place in the backing file, which is made if there is none. The map is not changed.
    pub(super) async fn write_backing(&self, turn: &Turn, at: u64, data: Bytes) -> Result<(), Error> {
        if self.state().is_spoken_for {
            self.renew_backing(turn).await?;
        }
        // Should this end half-way, what is there is no copy any more.
        self.state().mark_copied(at, data.len() as u64, false);
        let (turn, backing, scratch) = (turn.clone(), self.state().backing.clone(), self.store.scratch.clone());
        let backing = self
            .blocking(move || {
                let backing = backing.map_or_else(|| scratch.create(), Ok)?;
                let written = backing.write(at, &data);
                drop(turn);
                Ok((backing, written))
            })
            .await?;
        let (backing, written) = backing;
        self.state().backing = Some(backing);
        written
    }

    /// Moves the tail to the backing file. It is copied in steps: it is moved because there is no memory, or while there is none
    /// to spare, and all writers may do so at once.
    pub(super) async fn flush(&self, turn: &Turn) -> Result<(), Error> {
        let Some((start, length)) = self.state().tail.as_ref().map(|tail| (tail.start, tail.bytes.len())) else {
            return Ok(());
        };
        for from in (0..length).step_by(FLUSH_STEP) {
            let to = length.min(from + FLUSH_STEP);
            let bytes =
                self.state().tail.as_ref().and_then(|tail| tail.bytes.get(from..to).map(Bytes::copy_from_slice));
            self.write_backing(turn, start + from as u64, bytes.ok_or(Error::BrokenOff)?).await?;
        }
        let mut state = self.state();
        state.extents.replace(start, length as u64, Source::Backing);
        state.tail = None;
        Ok(())
    }

    /// Cuts the file, or extends it with zeros. Error: `TooLarge`.
    pub async fn truncate(&self, size: u64) -> Result<(), Error> {
        let _turn = self.turn().await;
        let mut state = self.state();
        let is_recorded = state.backing.as_ref().is_some_and(|backing| backing.is_recorded());
        let before = state.extents.size();
        self.check_size(before, size)?;
        state.is_spoken_for |= is_recorded && size < before;
        state.extents.resize(size);
        match &mut state.tail {
            Some(tail) if tail.start >= size => state.tail = None,
            Some(tail) => {
                let left = usize::try_from(size - tail.start).unwrap_or(usize::MAX);
                tail.bytes.truncate(left);
            }
            None => {}
        }
        state.forget_last_own(size);
        let unused = state.take_unused_backing();
        state.writes += u64::from(size != before);
        state.touch();
        drop(state);
        self.store.let_go(unused);
        Ok(())
    }

    /// What is in `[offset, offset + length)`, as far as the file goes. Does not wait for writers.
    pub async fn read(&self, offset: u64, length: u64) -> Result<Vec<Part>, Error> {
        let (parts, backing) = {
            let state = self.state();
            let found = state.extents.within(offset, offset.saturating_add(length));
            let parts = found.into_iter().map(|extent| (extent.clone(), state.part(&extent))).collect::<Vec<_>>();
            (parts, state.backing.clone())
        };
        let mut read = Vec::with_capacity(parts.len());
        for (extent, part) in parts {
            read.push(match part {
                Some(part) => part,
                None => {
                    let backing = backing.clone().ok_or(Error::BrokenOff)?;
                    let bytes = self.blocking(move || {
                        let length = usize::try_from(extent.length);
                        let length = length.map_err(|_| Error::TooLarge { size: extent.length })?;
                        let mut bytes = BytesMut::zeroed(length);
                        backing.read(extent.start, &mut bytes)?;
                        Ok(bytes.freeze())
                    });
                    Part::Bytes(bytes.await?)
                }
            });
        }
        Ok(read)
    }

    /// The journal no longer needs the backing file: it goes with the file.
    pub fn discard(&self) {
        let unused = {
            let mut state = self.state();
            state.backing.iter().for_each(|backing| backing.discard());
            state.take_unused_backing()
        };
        self.store.let_go(unused);
    }

    /// Leaves the backing file to the records that speak of it, if nothing that the file consists of is in it: whoever has the file, open
    /// for weeks perhaps, does not need it.
    pub fn retire_unused_backing(&self) {
        // A writer may be about to need the backing file; then it stays for now.
        let turn = self.turn.try_lock();
        let unused = turn.is_ok().then(|| self.state().take_unused_backing()).flatten();
        // Taking it away is work for a disk, and this is called where nobody may wait for one.
        unused.into_iter().for_each(|backing| self.store.retire(backing));
    }

    /// Puts Keep in the place of a block that is stored.
    pub(super) fn resolve(&self, sealed: &Arc<Sealed>) {
        let mut state = self.state();
        for extent in state.extents.within(sealed.start, sealed.start + sealed.length) {
            if let Source::Sealed { block, offset, copied } = &extent.source
                && Arc::ptr_eq(block, sealed)
                && let Some(source) = sealed.stored(*offset, *copied)
            {
                state.extents.replace(extent.start, extent.length, source);
            }
        }
    }

    /// The full blocks that are not in Keep. Those that failed are started again.
    pub(super) fn start_sealed(self: &Arc<Self>) -> Vec<Arc<Sealed>> {
        let mut found: Vec<Arc<Sealed>> = Vec::new();
        for extent in self.state().extents.iter() {
            if let Source::Sealed { block, .. } = extent.source
                && !found.iter().any(|known| Arc::ptr_eq(known, &block))
            {
                found.push(block);
            }
        }
        for sealed in &found {
            if let Progress::Failed(_) = sealed.progress() {
                sealed.upload(&self.store, self);
            }
        }
        found
    }
}
