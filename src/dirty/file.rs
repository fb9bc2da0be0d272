//! A file with data that is not in Keep: writing, cutting and reading it.

use super::error::Error;
use super::extents::{Extent, Extents, Origin, Source};
use super::own_ends::OwnEnd;
use super::scratch::Backing;
use super::sealed::{Progress, Sealed};
use super::settle::pieces_of;
use super::store::DirtyStore;
use super::tail::Tail;
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
/// The largest file.
const LARGEST: u64 = i64::MAX as u64;

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

pub(super) struct State {
    pub extents: Extents,
    pub tail: Option<Tail>,
    pub backing: Option<Arc<Backing>>,
    /// A record may say that the backing file has what was cut off here: what comes in its place goes to another one.
    pub(super) is_spoken_for: bool,
    /// A record that speaks of the backing file was to be on the disk. Later ones take its place there, at a time of their own, so
    /// what they speak of has to be there before them.
    pub is_durable: bool,
    pub generation: u64,
    /// See [`DirtyFile::writes`].
    pub writes: u64,
    pub modified: DateTime<Utc>,
    /// The short last piece that settling stored, so that the next one can take its place.
    pub last_own: Option<OwnEnd>,
    /// Where the last write ended.
    last_end: u64,
}

/// See the module. The data goes with it, except what is kept for the journal.
pub struct DirtyFile {
    pub(super) store: Arc<DirtyStore>,
    pub(super) number: u64,
    request: PutRequest,
    pub(super) turn: Arc<AsyncMutex<()>>,
    state: Mutex<State>,
}

enum Step {
    Done(usize),
    /// Done, and a block is full.
    Full(usize, Arc<Sealed>),
    /// This many bytes belong into the backing file.
    Backing(usize),
    /// The tail is in the way.
    Flush,
    /// No memory.
    Refused,
}

impl DirtyFile {
    pub(super) fn new(
        store: Arc<DirtyStore>,
        number: u64,
        (extents, own_end): (Extents, Option<OwnEnd>),
        backing: Option<Arc<Backing>>,
        request: PutRequest,
    ) -> Arc<DirtyFile> {
        let modified = Utc::now();
        let state = State {
            extents,
            tail: None,
            backing,
            is_spoken_for: false,
            is_durable: false,
            generation: 0,
            writes: 0,
            modified,
            last_own: own_end,
            last_end: u64::MAX,
        };
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

    /// Something of it is not in Keep.
    pub fn is_local(&self) -> bool {
        self.state().extents.any(|source| !matches!(source, Source::Stored { .. }))
    }

    /// What it consists of, if all of it is in Keep.
    pub fn stored(&self) -> Option<Vec<Piece<Locator>>> {
        pieces_of(&self.state().extents).ok()
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
            || at.saturating_add(data.len() as u64) > LARGEST
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
        let size = at.saturating_add(data.len() as u64);
        if size > LARGEST {
            return Err(Error::TooLarge { size });
        }
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
        if size > LARGEST {
            return Err(Error::TooLarge { size });
        }
        let _turn = self.turn().await;
        let mut state = self.state();
        let is_recorded = state.backing.as_ref().is_some_and(|backing| backing.is_recorded());
        let before = state.extents.size();
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
        let unused = state.drop_unused_backing();
        state.writes += u64::from(size != before);
        state.touch();
        drop(state);
        drop(unused);
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
            state.drop_unused_backing()
        };
        drop(unused);
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

impl State {
    fn touch(&mut self) {
        self.generation += 1;
        self.modified = Utc::now();
    }

    fn forget_last_own(&mut self, from: u64) {
        if self.last_own.as_ref().is_some_and(|end| from < end.start + end.bytes.len() as u64) {
            self.last_own = None;
        }
    }

    fn wrote(&mut self, at: u64, length: u64, source: Source) {
        self.forget_last_own(at);
        self.extents.replace(at, length, source);
        self.last_end = at + length;
        self.writes += 1;
        self.touch();
    }

    /// The backing file has the bytes of this range as well, as far as they are not there only, or has them no more.
    pub fn mark_copied(&mut self, start: u64, length: u64, is_there: bool) {
        for extent in self.extents.within(start, start.saturating_add(length)) {
            if extent.source.is_in_backing() != is_there {
                self.extents.replace(extent.start, extent.length, extent.source.with_copy(is_there));
            }
        }
    }

    /// Takes the backing file out if nothing is in it and nobody else needs it. To be dropped outside the lock.
    pub fn drop_unused_backing(&mut self) -> Option<Arc<Backing>> {
        let unused =
            self.backing.as_ref().is_some_and(|backing| !backing.is_kept()) && !self.extents.any(Source::is_in_backing);
        if !unused {
            return None;
        }
        self.is_spoken_for = false;
        self.backing.take()
    }

    /// Whether [`State::step`] would do all of a write: it goes to the tail, and there is memory for it, which is leased.
    fn has_room(&mut self, store: &DirtyStore, at: u64, length: usize) -> bool {
        let block_size = usize::try_from(store.block_size).unwrap_or(usize::MAX);
        let is_sequential = self.is_sequential(at);
        match &mut self.tail {
            Some(tail) if at < tail.start => false,
            Some(tail) if at < tail.end() => length as u64 <= tail.end() - at,
            Some(tail) if at == tail.end() => tail.make_room(length, block_size, &store.allowance),
            Some(_) => false,
            None if is_sequential => {
                let tail = Tail::new(at, block_size, &store.allowance);
                let tail =
                    tail.and_then(|mut tail| tail.make_room(length, block_size, &store.allowance).then_some(tail));
                self.tail = tail;
                self.tail.is_some()
            }
            None => false,
        }
    }

    /// Goes on where the file ends or the last write did.
    fn is_sequential(&self, at: u64) -> bool {
        let size = self.extents.size();
        at == size || size == 0 || at == self.last_end
    }

    /// Does as much of a write as can be done without I/O, or says what else is to be done.
    fn step(&mut self, store: &DirtyStore, at: u64, data: &[u8]) -> Step {
        let block_size = usize::try_from(store.block_size).unwrap_or(usize::MAX);
        let sequential = self.is_sequential(at);
        let mut tail = match self.tail.take() {
            Some(mut tail) => {
                if at < tail.start {
                    let before = usize::try_from(tail.start - at).unwrap_or(usize::MAX);
                    self.tail = Some(tail);
                    return Step::Backing(data.len().min(before));
                }
                if at < tail.end() {
                    let from = usize::try_from(at - tail.start).unwrap_or(usize::MAX);
                    let count = data.len().min(tail.bytes.len() - from);
                    tail.bytes[from..from + count].copy_from_slice(&data[..count]);
                    self.tail = Some(tail);
                    self.wrote(at, count as u64, Source::Memory);
                    return Step::Done(count);
                }
                if at > tail.end() {
                    self.tail = Some(tail);
                    return if sequential { Step::Flush } else { Step::Backing(data.len().min(block_size)) };
                }
                tail
            }
            None if sequential => match Tail::new(at, block_size, &store.allowance) {
                Some(tail) => tail,
                None => return Step::Refused,
            },
            None => return Step::Backing(data.len().min(block_size)),
        };
        let count = tail.append(data, block_size, &store.allowance);
        if count == 0 {
            self.tail = Some(tail);
            return Step::Refused;
        }
        if tail.bytes.len() < block_size {
            self.tail = Some(tail);
            self.wrote(at, count as u64, Source::Memory);
            return Step::Done(count);
        }
        let start = tail.start;
        let (bytes, leases) = tail.into_parts();
        let sealed = Sealed::new(start, bytes, leases);
        self.wrote(at, count as u64, Source::Memory);
        self.extents.replace(start, sealed.length, Source::Sealed { block: sealed.clone(), offset: 0, copied: false });
        Step::Full(count, sealed)
    }

    /// The bytes of an extent that is in the short last piece, which stays in memory when it is stored.
    pub fn end_of(&self, extent: &Extent) -> Option<Bytes> {
        let own = self.last_own.as_ref()?;
        let from = usize::try_from(extent.start.checked_sub(own.start)?).ok()?;
        let to = from.checked_add(usize::try_from(extent.length).ok()?)?;
        (to <= own.bytes.len()).then(|| own.bytes.slice(from..to))
    }

    /// What can be read of an extent without I/O; `None` is in the backing file.
    pub fn part(&self, extent: &Extent) -> Option<Part> {
        let range = |offset: u64| -> Option<std::ops::Range<usize>> {
            Some(usize::try_from(offset).ok()?..usize::try_from(offset + extent.length).ok()?)
        };
        match &extent.source {
            Source::Stored { locator, offset, origin, .. } => match self.end_of(extent) {
                Some(bytes) => Some(Part::Bytes(bytes)),
                None if *origin == Origin::Copied => None,
                None => Some(Part::Stored { locator: locator.clone(), offset: *offset, length: extent.length }),
            },
            Source::Sealed { block, offset, .. } => match block.bytes() {
                Some(bytes) => Some(Part::Bytes(bytes.slice(range(*offset)?))),
                None => match block.stored(*offset, false)? {
                    Source::Stored { locator, offset, .. } => {
                        Some(Part::Stored { locator, offset, length: extent.length })
                    }
                    _ => None,
                },
            },
            Source::Memory => {
                let tail = self.tail.as_ref()?;
                let bytes = tail.bytes.get(range(extent.start.checked_sub(tail.start)?)?)?;
                Some(Part::Bytes(Bytes::copy_from_slice(bytes)))
            }
            Source::Hole => Some(Part::Zeros(extent.length)),
            Source::Backing => None,
        }
    }
}
