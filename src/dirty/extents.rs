//! The interval map of a file: where each run of its bytes is. Pure; neighbours that continue each other are one entry.

use super::sealed::Sealed;
use crate::keep::Locator;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone)]
pub(super) enum Source {
    /// In Keep. `own`: this program stored it for this file.
    Stored { locator: Locator, block_size: u64, offset: u64, own: bool },
    /// In a full block on the way to Keep.
    Sealed { block: Arc<Sealed>, offset: u64 },
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
    /// The same, `by` bytes further.
    fn skip(&self, by: u64) -> Source {
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
                Source::Stored { locator, offset, own, .. },
                Source::Stored { locator: other, offset: at, own: also, .. },
            ) => own == also && offset + length == *at && locator == other,
            (Source::Sealed { block, offset }, Source::Sealed { block: other, offset: at }) => {
                Arc::ptr_eq(block, other) && offset + length == *at
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

    pub fn last(&self) -> Option<Extent> {
        let (start, (length, source)) = self.map.last_key_value()?;
        Some(Extent { start: *start, length: *length, source: source.clone() })
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
