//! What a dirty file consists of, and one step of a write.
//!
//! A step does as much as can be done without I/O, under the file's short lock, and says what is left: bytes that belong into the
//! backing file, a tail that has to go there first, memory that is not to be had. Doing that is [`file`](super::file)'s.

use super::extents::{Extent, Extents, Origin, Source};
use super::file::Part;
use super::own_ends::OwnEnd;
use super::scratch::Backing;
use super::sealed::Sealed;
use super::store::DirtyStore;
use super::tail::Tail;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::sync::Arc;

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
    /// See [`DirtyFile::writes`](super::DirtyFile::writes).
    pub writes: u64,
    pub modified: DateTime<Utc>,
    /// The short last piece that settling stored, so that the next one can take its place.
    pub last_own: Option<OwnEnd>,
    /// Where the last write ended.
    last_end: u64,
}

pub(super) enum Step {
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

impl State {
    pub(super) fn new(extents: Extents, own_end: Option<OwnEnd>, backing: Option<Arc<Backing>>) -> State {
        State {
            extents,
            tail: None,
            backing,
            is_spoken_for: false,
            is_durable: false,
            generation: 0,
            writes: 0,
            modified: Utc::now(),
            last_own: own_end,
            last_end: u64::MAX,
        }
    }

    pub(super) fn touch(&mut self) {
        self.generation += 1;
        self.modified = Utc::now();
    }

    pub(super) fn forget_last_own(&mut self, from: u64) {
        if self.last_own.as_ref().is_some_and(|end| from < end.start + end.bytes.len() as u64) {
            self.last_own = None;
        }
    }

    pub(super) fn wrote(&mut self, at: u64, length: u64, source: Source) {
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

    /// Takes the backing file out if nothing is in it: to be given to [`DirtyStore::let_go`], outside the lock.
    pub fn take_unused_backing(&mut self) -> Option<Arc<Backing>> {
        if self.extents.any(Source::is_in_backing) {
            return None;
        }
        self.is_spoken_for = false;
        self.backing.take()
    }

    /// Whether [`State::step`] would do all of a write: it goes to the tail, and there is memory for it, which is leased.
    pub(super) fn has_room(&mut self, store: &DirtyStore, at: u64, length: usize) -> bool {
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
    pub(super) fn step(&mut self, store: &DirtyStore, at: u64, data: &[u8]) -> Step {
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
