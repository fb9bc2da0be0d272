//! One file: where each of its bytes is, and the writes to it.

use crate::dirty::extents::{Extents, Home, Run};
use crate::dirty::store::{DirtyStore, Hold};
use crate::dirty::{Backing, Content, Error, Extent, Source};
use crate::keep::Locator;
use crate::remote::keep::PutRequest;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;

/// How long a writer waits for an upload to make room before its data go to the disk.
const PATIENCE: Duration = Duration::from_secs(2);
/// Full blocks that may wait for each upload slot before writers have to: more would only fill the memory.
const WAITING: usize = 2;
/// How long a writer waits for one of those to leave when Keep is slow.
const SLOW: Duration = Duration::from_secs(30);

/// Where to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    At(u64),
    /// At the end, wherever that is when it is the write's turn.
    End,
}

/// A piece of what was read.
#[derive(Debug, Clone)]
pub enum Part {
    Bytes(Bytes),
    /// From a block in Keep.
    Stored {
        locator: Locator,
        offset: u64,
        length: u64,
    },
    Zeros(u64),
}

/// Bytes in memory that were written one after the other.
pub(super) struct Tail {
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) hold: Hold,
}

impl Tail {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

pub(super) struct Inner {
    pub(super) extents: Extents,
    pub(super) tail: Option<Tail>,
    pub(super) backing: Option<Arc<Backing>>,
    generation: u64,
    pub(super) modified: DateTime<Utc>,
    /// Where the last write ended: the next one there is one of a series.
    last_end: u64,
    /// The bytes of the last small piece that this mount brought to Keep, and where they begin.
    pub(super) last_own: Option<(u64, Bytes)>,
}

/// See the essay of [`crate::dirty`].
pub struct DirtyFile {
    pub(super) store: Arc<DirtyStore>,
    pub(super) request: PutRequest,
    inner: Mutex<Inner>,
    /// Whose turn it is to change the file.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// What is to be done with a piece of a write.
enum Step {
    /// So many bytes are in the tail.
    Taken(usize),
    /// The tail is in the way of a new one: write it to the disk first.
    Flush,
    /// There is no memory.
    Full,
    /// It belongs on the disk.
    ToDisk,
}

impl DirtyFile {
    pub(super) fn new(
        store: Arc<DirtyStore>,
        extents: Extents,
        backing: Option<Arc<Backing>>,
        request: PutRequest,
    ) -> Arc<DirtyFile> {
        let inner = Inner {
            extents,
            tail: None,
            backing,
            generation: 0,
            modified: Utc::now(),
            last_end: 0,
            last_own: None,
        };
        Arc::new(DirtyFile { store, request, inner: Mutex::new(inner), turn: Arc::default() })
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.inner().extents.size()
    }

    /// How often it was changed.
    pub fn generation(&self) -> u64 {
        self.inner().generation
    }

    pub fn modified(&self) -> DateTime<Utc> {
        self.inner().modified
    }

    pub fn set_modified(&self, time: DateTime<Utc>) {
        self.inner().modified = time;
    }

    /// Runs that it consists of: what it costs in memory beside its bytes.
    pub fn runs(&self) -> usize {
        self.inner().extents.len()
    }

    /// Is any of it not in Keep?
    pub fn is_local(&self) -> bool {
        self.inner().extents.all().any(|run| !matches!(run.home, Home::Stored { .. } | Home::Hole))
    }

    /// Takes data over. Waits for room where that is to be had soon. Errors: [`Error::NoSpace`], [`Error::Disk`],
    /// [`Error::TooLarge`]; then a part of the data may have been taken, as with any `write`.
    pub async fn write(&self, place: Place, data: &[u8]) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let turn = self.turn().await;
        let mut offset = match place {
            Place::At(offset) => offset,
            Place::End => self.size(),
        };
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= i64::MAX as u64);
        let end = end.ok_or(Error::TooLarge)?;
        let mut rest = data;
        let mut has_waited = false;
        while !rest.is_empty() {
            match self.step(offset, rest) {
                Step::Taken(count) => {
                    (offset, rest) = (offset + count as u64, &rest[count..]);
                    self.wait_for_uploads().await;
                }
                Step::Flush => self.flush_tail().await?,
                Step::Full if !has_waited && self.store.sealed.load(Ordering::Acquire) > 0 => {
                    has_waited = true;
                    let _ = tokio::time::timeout(PATIENCE, self.store.left.notified()).await;
                }
                Step::Full => {
                    self.flush_tail().await?;
                    self.write_to_disk(offset, rest).await?;
                    rest = &[];
                }
                Step::ToDisk => {
                    self.write_to_disk(offset, rest).await?;
                    rest = &[];
                }
            }
        }
        let mut inner = self.inner();
        inner.last_end = end;
        inner.changed();
        drop(turn);
        Ok(())
    }

    /// Puts what fits into the tail, if that is where it belongs.
    fn step(&self, offset: u64, data: &[u8]) -> Step {
        let mut inner = self.inner();
        let block_size = self.store.options.block_size;
        match &inner.tail {
            Some(tail) if offset >= tail.start && offset <= tail.end() => {}
            Some(_) if offset == inner.last_end => return Step::Flush,
            Some(_) => return Step::ToDisk,
            None if offset == inner.extents.size() || offset == inner.last_end => {
                inner.tail = Some(Tail { start: offset, bytes: Vec::new(), hold: Hold::new(&self.store) });
            }
            None => return Step::ToDisk,
        }
        let Some(tail) = &mut inner.tail else { return Step::ToDisk };
        let at = (offset - tail.start) as usize;
        let count = data.len().min(block_size as usize - at);
        let needed = (at + count).max(tail.bytes.len());
        if !tail.hold.grow(needed, block_size as usize) {
            if tail.bytes.is_empty() {
                inner.tail = None;
            }
            return Step::Full;
        }
        if tail.bytes.capacity() < needed {
            let more = tail.hold.bytes() - tail.bytes.len();
            tail.bytes.reserve_exact(more);
        }
        let overlap = (tail.bytes.len() - at).min(count);
        tail.bytes[at..at + overlap].copy_from_slice(&data[..overlap]);
        tail.bytes.extend_from_slice(&data[overlap..count]);
        let is_full = tail.bytes.len() as u64 == block_size;
        inner.extents.set(offset, count as u64, Home::Memory);
        if is_full {
            self.seal_tail(&mut inner);
        }
        Step::Taken(count)
    }

    /// Sends the tail to Keep. Parts of it that were written to the disk since go along and are not used.
    fn seal_tail(&self, inner: &mut Inner) {
        let Some(Tail { start, bytes, hold }) = inner.tail.take() else { return };
        let end = start + bytes.len() as u64;
        let block = self.store.seal(bytes.into(), hold, self.request.clone());
        for run in inner.in_memory(start, end) {
            let home = Home::Sealed { block: block.clone(), offset: run.start - start };
            inner.extents.set(run.start, run.length, home);
        }
        inner.last_own = None;
    }

    async fn wait_for_uploads(&self) {
        let most = self.store.options.uploads.max(1) * WAITING;
        let full = || self.store.sealed.load(Ordering::Acquire) > most;
        if !full() {
            return;
        }
        let wait = async {
            while full() {
                let left = self.store.left.notified();
                if !full() {
                    return;
                }
                left.await;
            }
        };
        let _ = tokio::time::timeout(SLOW, wait).await;
    }

    /// Brings the tail to the disk, so that its memory is free. Only for whose turn it is.
    async fn flush_tail(&self) -> Result<(), Error> {
        let pieces: Vec<(u64, Vec<u8>)> = {
            let inner = self.inner();
            let Some(tail) = &inner.tail else { return Ok(()) };
            let piece = |run: Run| {
                let at = (run.start - tail.start) as usize;
                (run.start, tail.bytes[at..at + run.length as usize].to_vec())
            };
            inner.in_memory(tail.start, tail.end()).into_iter().map(piece).collect()
        };
        for (offset, bytes) in pieces {
            self.store_on_disk(offset, bytes).await?;
        }
        self.inner().tail = None;
        Ok(())
    }

    async fn write_to_disk(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.store_on_disk(offset, data.to_vec()).await
    }

    /// Writes to the backing file, and says so in the runs.
    async fn store_on_disk(&self, offset: u64, bytes: Vec<u8>) -> Result<(), Error> {
        let length = bytes.len() as u64;
        self.put_on_disk(offset, bytes).await?;
        self.inner().extents.set(offset, length, Home::Backing);
        Ok(())
    }

    /// Writes to the backing file only.
    async fn put_on_disk(&self, offset: u64, bytes: Vec<u8>) -> Result<(), Error> {
        let (known, there) = {
            let inner = self.inner();
            let end = offset + bytes.len() as u64;
            let there: u64 = inner
                .extents
                .range(offset, end)
                .filter(|run| matches!(run.home, Home::Backing))
                .map(|run| run.length)
                .sum();
            (inner.backing.clone(), there)
        };
        let scratch = self.store.options.scratch.clone();
        let work = tokio::task::spawn_blocking(move || {
            let backing = match known {
                Some(backing) => backing,
                None => scratch.create()?,
            };
            backing.write(offset, &bytes, bytes.len() as u64 - there)?;
            Ok::<_, Error>(backing)
        });
        let backing = work.await.map_err(|_| Error::BrokenOff)??;
        self.inner().backing.get_or_insert(backing);
        Ok(())
    }

    /// Makes the file shorter, or longer with zeros that cost nothing.
    pub async fn truncate(&self, size: u64) -> Result<(), Error> {
        if size > i64::MAX as u64 {
            return Err(Error::TooLarge);
        }
        let _turn = self.turn().await;
        let mut inner = self.inner();
        if size != inner.extents.size() {
            inner.extents.resize(size);
            match &mut inner.tail {
                Some(tail) if tail.start >= size => inner.tail = None,
                Some(tail) => tail.bytes.truncate((size - tail.start) as usize),
                None => {}
            }
            let is_behind = |own: &(u64, Bytes)| own.0 + own.1.len() as u64 > size;
            inner.last_own = inner.last_own.take().filter(|own| !is_behind(own));
        }
        inner.changed();
        Ok(())
    }

    /// What is in a range, as far as the file goes.
    pub async fn read(&self, offset: u64, length: u64) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        let mut on_disk = Vec::new();
        let backing = {
            let inner = self.inner();
            let end = offset.saturating_add(length).min(inner.extents.size());
            for run in inner.extents.range(offset, end.max(offset)) {
                let Run { start, length, home } = run;
                parts.push(match home {
                    Home::Stored { locator, offset, .. } => Part::Stored { locator: (*locator).clone(), offset, length },
                    Home::Sealed { block, offset } => match (block.bytes(), block.locator()) {
                        (Some(bytes), _) => Part::Bytes(bytes.slice(offset as usize..(offset + length) as usize)),
                        (None, Some(locator)) => Part::Stored { locator: (*locator).clone(), offset, length },
                        (None, None) => return Err(Error::BrokenOff),
                    },
                    Home::Memory => {
                        let tail = inner.tail.as_ref().ok_or(Error::BrokenOff)?;
                        let at = (start - tail.start) as usize;
                        Part::Bytes(Bytes::copy_from_slice(&tail.bytes[at..at + length as usize]))
                    }
                    Home::Backing => {
                        on_disk.push((parts.len(), start, length as usize));
                        Part::Zeros(length)
                    }
                    Home::Hole => Part::Zeros(length),
                });
            }
            inner.backing.clone()
        };
        if let (Some(backing), false) = (backing, on_disk.is_empty()) {
            let work = tokio::task::spawn_blocking(move || {
                let read = |(part, start, length)| Ok((part, backing.read(start, length)?));
                on_disk.into_iter().map(read).collect::<Result<Vec<_>, Error>>()
            });
            for (part, bytes) in work.await.map_err(|_| Error::BrokenOff)?? {
                parts[part] = Part::Bytes(bytes.into());
            }
        }
        Ok(parts)
    }

    /// The file in a form that outlives the process: everything that is not in Keep is in the backing file, or, if it is
    /// `inline_limit` bytes at most, in the answer. `durable`: the backing file survives the machine, too.
    pub async fn persist(&self, inline_limit: u64, durable: bool) -> Result<Content, Error> {
        let _turn = self.turn().await;
        let runs: Vec<Run> = self.inner().extents.all().collect();
        let is_local = |run: &&Run| match &run.home {
            Home::Sealed { block, .. } => block.locator().is_none(),
            Home::Memory | Home::Backing => true,
            Home::Stored { .. } | Home::Hole => false,
        };
        let local: u64 = runs.iter().filter(is_local).map(|run| run.length).sum();
        let is_inline = local <= inline_limit;
        let mut content = Content { size: self.size(), backing: None, extents: Vec::with_capacity(runs.len()) };
        for run in &runs {
            let stored = |locator: &Locator, block_size: u64, offset: u64| Source::Stored {
                locator: locator.as_str().to_owned(),
                block_size,
                offset,
            };
            let source = match &run.home {
                Home::Stored { locator, size, offset } => stored(locator, *size, *offset),
                Home::Hole => Source::Hole,
                Home::Sealed { block, offset } if block.locator().is_some() => match block.locator() {
                    Some(locator) => stored(&locator, locator.size().unwrap_or(0), *offset),
                    None => return Err(Error::BrokenOff),
                },
                Home::Backing if !is_inline => Source::Backing,
                Home::Sealed { .. } | Home::Memory | Home::Backing => {
                    let mut bytes = Vec::with_capacity(run.length as usize);
                    for part in self.read(run.start, run.length).await? {
                        match part {
                            Part::Bytes(piece) => bytes.extend_from_slice(&piece),
                            Part::Zeros(count) => bytes.resize(bytes.len() + count as usize, 0),
                            // It has arrived in Keep in this moment: the next look finds it there.
                            Part::Stored { .. } => return Err(Error::BrokenOff),
                        }
                    }
                    if is_inline {
                        Source::Inline(bytes.into())
                    } else {
                        self.put_on_disk(run.start, bytes).await?;
                        Source::Backing
                    }
                }
            };
            content.extents.push(Extent { length: run.length, source });
        }
        if content.extents.iter().any(|extent| extent.source == Source::Backing) {
            let Some(backing) = self.inner().backing.clone() else { return Err(Error::BrokenOff) };
            backing.keep();
            content.backing = Some(backing.number());
            if durable {
                tokio::task::spawn_blocking(move || backing.sync()).await.map_err(|_| Error::BrokenOff)??;
            }
        }
        Ok(content)
    }

    /// No journal needs its backing file any more.
    pub fn discard(&self) {
        if let Some(backing) = &self.inner().backing {
            backing.discard();
        }
    }
}

impl Inner {
    fn changed(&mut self) {
        self.generation += 1;
        self.modified = Utc::now();
    }

    /// The runs in a range that are in the tail.
    fn in_memory(&self, start: u64, end: u64) -> Vec<Run> {
        self.extents.range(start, end).filter(|run| matches!(run.home, Home::Memory)).collect()
    }
}
