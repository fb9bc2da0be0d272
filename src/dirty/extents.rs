//! The interval map of a file: where each run of its bytes is. Pure; neighbours that continue each other are one entry.

use super::sealed::Sealed;
use crate::keep::Locator;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where else the bytes of a block in Keep are to be had, should its signature not be good any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A collection names the block, and who may read that gets a new signature from the server.
    Named,
    /// Nowhere: this program has stored the block, and no commit has named it yet.
    Own,
    /// In the backing file, at the same offset as in the file; no commit has named the block yet.
    Copied,
}

#[derive(Clone)]
pub(super) enum Source {
    /// In Keep.
    Stored { locator: Locator, block_size: u64, offset: u64, origin: Origin },
    /// In a full block on the way to Keep. `copied`: and in the backing file, at the same offset as in the file.
    Sealed { block: Arc<Sealed>, offset: u64, copied: bool },
    /// In the tail.
    Memory,
    /// In the backing file, at the same offset.
    Backing,
    /// Zeros nobody wrote.
    Hole,
}

#[derive(Clone)]
pub(super) struct Extent {
    pub start: u64,
    pub length: u64,
    pub source: Source,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// Covers `[0, size)`.
#[derive(Default)]
pub(super) struct Extents {
    map: BTreeMap<u64, (u64, Source)>,
    size: u64,
}

impl Source {
    /// The backing file has the bytes.
    pub fn is_in_backing(&self) -> bool {
        match self {
            Source::Backing | Source::Stored { origin: Origin::Copied, .. } => true,
            Source::Sealed { copied, .. } => *copied,
            Source::Stored { .. } | Source::Memory | Source::Hole => false,
        }
    }

    /// The same, where the backing file has the bytes as well, or has them no more.
    pub fn with_copy(&self, is_there: bool) -> Source {
        let mut source = self.clone();
        match &mut source {
            Source::Stored { origin: Origin::Named, .. } | Source::Memory | Source::Backing | Source::Hole => {}
            Source::Stored { origin, .. } => *origin = if is_there { Origin::Copied } else { Origin::Own },
            Source::Sealed { copied, .. } => *copied = is_there,
        }
        source
    }

    /// The same, `by` bytes further.
    pub fn skip(&self, by: u64) -> Source {
        let mut source = self.clone();
        match &mut source {
            Source::Stored { offset, .. } | Source::Sealed { offset, .. } => *offset += by,
            Source::Memory | Source::Backing | Source::Hole => {}
        }
        source
    }

    /// Whether `next` continues it after `length` bytes.
    fn continues(&self, length: u64, next: &Source) -> bool {
        match (self, next) {
            (Source::Memory, Source::Memory) | (Source::Backing, Source::Backing) | (Source::Hole, Source::Hole) => {
                true
            }
            (
                Source::Stored { locator, offset, origin, .. },
                Source::Stored { locator: other, offset: at, origin: also, .. },
            ) => origin == also && offset + length == *at && locator == other,
            (Source::Sealed { block, offset, copied }, Source::Sealed { block: other, offset: at, copied: also }) => {
                copied == also && Arc::ptr_eq(block, other) && offset + length == *at
            }
            _ => false,
        }
    }
}

impl Extents {
    pub fn size(&self) -> u64 {
        self.size
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.map.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.map.iter().map(|(start, (length, source))| Extent {
            start: *start,
            length: *length,
            source: source.clone(),
        })
    }

    pub fn any(&self, is: impl Fn(&Source) -> bool) -> bool {
        self.map.values().any(|(_, source)| is(source))
    }

    /// What is in `[start, end)`, cut to it.
    pub fn within(&self, start: u64, end: u64) -> Vec<Extent> {
        let end = end.min(self.size);
        let mut found = Vec::new();
        if start >= end {
            return found;
        }
        let first = self.map.range(..=start).next_back().map_or(start, |(first, _)| *first);
        for (from, (length, source)) in self.map.range(first..end) {
            let (low, high) = ((*from).max(start), (from + length).min(end));
            if low < high {
                found.push(Extent { start: low, length: high - low, source: source.skip(low - from) });
            }
        }
        found
    }

    fn split(&mut self, at: u64) {
        let Some((start, (length, source))) = self.map.range_mut(..at).next_back() else { return };
        let (start, whole) = (*start, *length);
        if start + whole > at {
            *length = at - start;
            let rest = source.skip(at - start);
            self.map.insert(at, (start + whole - at, rest));
        }
    }

    /// Joins what starts at `at` to what ends there.
    fn join(&mut self, at: u64) {
        let Some((length, source)) = self.map.get(&at) else { return };
        let length = *length;
        let Some((_, (before, left))) = self.map.range(..at).next_back() else { return };
        if !left.continues(*before, source) {
            return;
        }
        self.map.remove(&at);
        if let Some((_, (before, _))) = self.map.range_mut(..at).next_back() {
            *before += length;
        }
    }

    /// `[start, start + length)` is there from now on; a gap before it becomes a hole.
    pub fn replace(&mut self, start: u64, length: u64, source: Source) {
        if length == 0 {
            return;
        }
        if start > self.size {
            self.resize(start);
        }
        let end = start + length;
        self.split(start);
        self.split(end);
        while let Some((at, _)) = self.map.range(start..end).next() {
            let at = *at;
            self.map.remove(&at);
        }
        self.map.insert(start, (length, source));
        self.size = self.size.max(end);
        self.join(end);
        self.join(start);
    }

    /// Puts other sources in the place of those for which `other` has one.
    pub fn change(&mut self, other: impl Fn(&Extent) -> Option<Source>) {
        let changed: Vec<(Extent, Source)> =
            self.iter().filter_map(|extent| other(&extent).map(|source| (extent, source))).collect();
        for (Extent { start, length, .. }, source) in changed {
            self.replace(start, length, source);
        }
    }

    /// Cuts, or adds a hole.
    pub fn resize(&mut self, size: u64) {
        if size > self.size {
            let (from, length) = (self.size, size - self.size);
            self.map.insert(from, (length, Source::Hole));
            self.size = size;
            self.join(from);
        } else {
            self.split(size);
            drop(self.map.split_off(&size));
            self.size = size;
        }
    }
}
