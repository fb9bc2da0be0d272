//! Which bytes of which blocks make up a range of a file.

use super::base::Base;
use super::overlay::{Content, Extent};
use super::{BlockId, NodeId, Snapshot};

/// A run of bytes of one block in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file, in bytes.
    pub file_offset: u64,
    /// Whose bytes.
    pub block: BlockId,
    /// Where it starts in the block, in bytes.
    pub block_offset: u64,
    /// Number of bytes, never zero.
    pub length: u64,
}

/// The segments of a range of a file, in order, without gaps. The first is found by binary search.
pub struct Segments<'s> {
    source: Source<'s>,
    /// The next byte of the file.
    offset: u64,
    /// Where to stop.
    end: u64,
    empty_blocks: bool,
}

enum Source<'s> {
    Nothing,
    Base { base: &'s Base, ranges: std::ops::Range<usize>, first_range: usize, block: usize },
    Extents { extents: &'s [Extent], next: usize },
}

impl<'s> Segments<'s> {
    pub(super) fn nothing() -> Segments<'s> {
        Segments { source: Source::Nothing, offset: 0, end: 0, empty_blocks: false }
    }

    pub(super) fn of_base(base: &'s Base, ranges: std::ops::Range<usize>, offset: u64, length: u64) -> Segments<'s> {
        let size = ranges.clone().last().map_or(0, |last| base.range_ends[last]);
        let end = offset.saturating_add(length).min(size);
        if offset >= end {
            return Segments::nothing();
        }
        let first_range = ranges.start;
        let skip = base.range_ends[ranges.clone()].partition_point(|&end| end <= offset);
        let ranges = ranges.start + skip..ranges.end;
        let block = first_block(base, &ranges, first_range, offset);
        Segments { source: Source::Base { base, ranges, first_range, block }, offset, end, empty_blocks: false }
    }

    /// Whether blocks of no bytes that stand inside a range come too, as segments of length zero.
    pub(super) fn with_empty_blocks(self, empty_blocks: bool) -> Segments<'s> {
        Segments { empty_blocks, ..self }
    }

    pub(super) fn of_extents(extents: &'s [Extent], offset: u64, length: u64) -> Segments<'s> {
        let size = extents.last().map_or(0, |last| last.end);
        let end = offset.saturating_add(length).min(size);
        if offset >= end {
            return Segments::nothing();
        }
        let next = extents.partition_point(|extent| extent.end <= offset);
        Segments { source: Source::Extents { extents, next }, offset, end, empty_blocks: false }
    }
}

/// Where a range starts in its file.
fn range_start(base: &Base, range: usize, first_range: usize) -> u64 {
    if range == first_range { 0 } else { base.range_ends[range - 1] }
}

/// The block of the first range of `ranges` that holds byte `offset` of the file.
fn first_block(base: &Base, ranges: &std::ops::Range<usize>, first_range: usize, offset: u64) -> usize {
    let range = base.range(ranges.start);
    let position = range.position + (offset - range_start(base, ranges.start, first_range));
    base.stream(range.stream).1.partition_point(|&end| end <= position)
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.offset >= self.end {
            return None;
        }
        let segment = match &mut self.source {
            Source::Nothing => return None,
            Source::Base { base, ranges, first_range, block } => {
                let range = base.range(ranges.start);
                let (blocks, ends) = base.stream(range.stream);
                let start = range_start(base, ranges.start, *first_range);
                let position = range.position + (self.offset - start);
                let block_start = |block: usize| if block == 0 { 0 } else { ends[block - 1] };
                while *ends.get(*block)? <= position {
                    *block += 1;
                    let passed = *block - 1;
                    if self.empty_blocks && position > range.position && block_start(passed) == ends[passed] {
                        let block = BlockId(blocks[passed]);
                        return Some(Segment { file_offset: self.offset, block, block_offset: 0, length: 0 });
                    }
                }
                let block_start = block_start(*block);
                let length = (ends[*block] - position).min(range.end.min(self.end) - self.offset);
                let segment = Segment {
                    file_offset: self.offset,
                    block: BlockId(blocks[*block]),
                    block_offset: position - block_start,
                    length,
                };
                if self.offset + length == range.end && range.end < self.end {
                    ranges.start += 1;
                    *block = first_block(base, ranges, *first_range, range.end);
                }
                segment
            }
            Source::Extents { extents, next } => {
                let extent = extents.get(*next)?;
                *next += 1;
                Segment {
                    file_offset: self.offset,
                    block: extent.block,
                    block_offset: extent.offset + (self.offset - extent.start),
                    length: extent.end.min(self.end) - self.offset,
                }
            }
        };
        self.offset += segment.length;
        Some(segment)
    }
}

impl Snapshot {
    /// The segments of `length` bytes of a file from `offset` on, cut at the end of the file. Nothing for a directory.
    pub fn segments(&self, file: NodeId, offset: u64, length: u64) -> Segments<'_> {
        match self.overlay.nodes.get(&file).map(|edited| &edited.content) {
            None | Some(Content::BaseFile) => Segments::of_base(&self.base, self.base.ranges(file), offset, length),
            Some(Content::File(extents)) => Segments::of_extents(extents, offset, length),
            Some(Content::Directory(_)) => Segments::nothing(),
        }
    }
}
