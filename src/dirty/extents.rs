//! Which bytes of a file are where: runs that cover it from its start to its end.

use crate::dirty::store::Sealed;
use crate::keep::Locator;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Where a run of bytes is.
#[derive(Debug, Clone)]
pub(super) enum Home {
    /// In a block in Keep, from `offset` on. `own`: this mount brought it there.
    Stored { locator: Arc<Locator>, size: u64, offset: u64 },
    /// In a block that is on its way.
    Sealed { block: Arc<Sealed>, offset: u64 },
    /// In the file's tail.
    Memory,
    /// In the backing file, at the same place.
    Backing,
    /// Zeros that nobody wrote.
    Hole,
}

impl Home {
    /// The home of what follows `bytes` later.
    fn skip(&self, bytes: u64) -> Home {
        match self {
            Home::Stored { locator, size, offset } => {
                Home::Stored { locator: locator.clone(), size: *size, offset: offset + bytes }
            }
            Home::Sealed { block, offset } => Home::Sealed { block: block.clone(), offset: offset + bytes },
            Home::Memory => Home::Memory,
            Home::Backing => Home::Backing,
            Home::Hole => Home::Hole,
        }
    }

    /// Is `next` the same run, `length` bytes on?
    fn continues(&self, length: u64, next: &Home) -> bool {
        match (self, next) {
            (Home::Stored { locator, offset, .. }, Home::Stored { locator: other, offset: at, .. }) => {
                offset + length == *at && (Arc::ptr_eq(locator, other) || locator == other)
            }
            (Home::Sealed { block, offset }, Home::Sealed { block: other, offset: at }) => {
                Arc::ptr_eq(block, other) && offset + length == *at
            }
            (Home::Memory, Home::Memory) | (Home::Backing, Home::Backing) | (Home::Hole, Home::Hole) => true,
            _ => false,
        }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) home: Home,
}

/// All runs of a file, by where they start. Neighbours that are one run are one entry.
#[derive(Debug, Default)]
pub(super) struct Extents {
    runs: BTreeMap<u64, (u64, Home)>,
    size: u64,
}

impl Extents {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Puts a run in the place of whatever was there. What lies between the end of the file and its start becomes a hole.
    pub(super) fn set(&mut self, start: u64, length: u64, home: Home) {
        if length == 0 {
            return;
        }
        if start > self.size {
            self.resize(start);
        }
        self.clear(start, start + length);
        self.size = self.size.max(start + length);
        self.insert(start, length, home);
    }

    /// Makes the file shorter, or longer with a hole.
    pub(super) fn resize(&mut self, size: u64) {
        match size.cmp(&self.size) {
            std::cmp::Ordering::Less => self.clear(size, self.size),
            std::cmp::Ordering::Greater => self.insert(self.size, size - self.size, Home::Hole),
            std::cmp::Ordering::Equal => {}
        }
        self.size = size;
    }

    /// The runs in a range, cut to it.
    pub(super) fn range(&self, start: u64, end: u64) -> impl Iterator<Item = Run> + '_ {
        let first = self.runs.range(..=start).next_back().map_or(start, |(first, _)| *first);
        self.runs.range(first..end).filter_map(move |(at, (length, home))| {
            let (from, to) = ((*at).max(start), (at + length).min(end));
            (from < to).then(|| Run { start: from, length: to - from, home: home.skip(from - at) })
        })
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Run> + '_ {
        self.range(0, self.size)
    }

    fn clear(&mut self, start: u64, end: u64) {
        if let Some((&at, (length, home))) = self.runs.range_mut(..start).next_back()
            && at + *length > start
        {
            let rest = (at + *length > end).then(|| (at + *length - end, home.skip(end - at)));
            *length = start - at;
            if let Some((length, home)) = rest {
                self.runs.insert(end, (length, home));
                return;
            }
        }
        loop {
            let next = self.runs.range((Bound::Included(start), Bound::Excluded(end))).next();
            let Some(at) = next.map(|(at, _)| *at) else { return };
            if let Some((length, home)) = self.runs.remove(&at)
                && at + length > end
            {
                self.runs.insert(end, (at + length - end, home.skip(end - at)));
            }
        }
    }

    fn insert(&mut self, mut start: u64, mut length: u64, mut home: Home) {
        if length == 0 {
            return;
        }
        if let Some((&at, (before, same))) = self.runs.range(..start).next_back()
            && at + before == start
            && same.continues(*before, &home)
        {
            (home, length, start) = (same.clone(), length + before, at);
        }
        if let Some((after, same)) = self.runs.get(&(start + length))
            && home.continues(length, same)
        {
            let next = start + length;
            length += after;
            self.runs.remove(&next);
        }
        self.runs.insert(start, (length, home));
    }
}
