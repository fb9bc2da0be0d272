//! The arrays of a tree that does not change.
//!
//! Nodes stand in breadth-first order, so the children of a directory are neighbours, sorted by name. A file is a run of
//! ranges (mostly one), and a range is a piece of a stream: the sequence of blocks of one manifest line. Ranges and not
//! block pieces are kept, because a file of a terabyte is one range, and 16,000 pieces. Per file that is a node (16 bytes),
//! a range (20 bytes) and its name.

use super::block_table::BlockTable;
use super::name_table::Names;
use super::{Kind, NodeId};
use std::sync::Arc;

/// A file or directory. `count` of a directory has [`DIRECTORY`] set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) name: u32,
    pub(super) parent: u32,
    /// First child, or first range.
    pub(super) first: u32,
    /// Number of children, or of ranges.
    pub(super) count: u32,
}

/// Marks a directory in [`Node::count`].
pub(super) const DIRECTORY: u32 = 1 << 31;

/// A run of bytes of a stream that belongs to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) stream: u32,
    /// First byte in the stream.
    pub(super) position: u64,
    /// Where the range ends in the file; it starts where the one before ends.
    pub(super) end: u64,
}

/// See the module's essay.
#[derive(Default)]
pub(super) struct Base {
    pub(super) nodes: Vec<Node>,
    pub(super) names: Names,
    pub(super) range_streams: Vec<u32>,
    pub(super) range_positions: Vec<u64>,
    pub(super) range_ends: Vec<u64>,
    /// Where the blocks of a stream start in the two arrays below; one more entry than there are streams.
    pub(super) streams: Vec<u32>,
    pub(super) stream_blocks: Vec<u32>,
    /// Where each block ends in its stream.
    pub(super) stream_ends: Vec<u64>,
    pub(super) blocks: Arc<BlockTable>,
}

impl Base {
    pub(super) fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node.0 as usize)
    }

    pub(super) fn kind(node: &Node) -> Kind {
        if node.count & DIRECTORY != 0 { Kind::Directory } else { Kind::File }
    }

    /// The numbers of the children of a directory; of a file, none.
    pub(super) fn children(&self, node: NodeId) -> std::ops::Range<u32> {
        match self.node(node) {
            Some(node) if node.count & DIRECTORY != 0 => node.first..node.first + (node.count & !DIRECTORY),
            _ => 0..0,
        }
    }

    /// The numbers of the ranges of a file; of a directory, none.
    pub(super) fn ranges(&self, node: NodeId) -> std::ops::Range<usize> {
        match self.node(node) {
            Some(node) if node.count & DIRECTORY == 0 => node.first as usize..(node.first + node.count) as usize,
            _ => 0..0,
        }
    }

    pub(super) fn range(&self, index: usize) -> Range {
        Range { stream: self.range_streams[index], position: self.range_positions[index], end: self.range_ends[index] }
    }

    /// Size of a file in bytes.
    pub(super) fn size(&self, node: NodeId) -> u64 {
        let ranges = self.ranges(node);
        if ranges.is_empty() { 0 } else { self.range_ends[ranges.end - 1] }
    }

    /// The blocks of a stream and where each ends.
    pub(super) fn stream(&self, stream: u32) -> (&[u32], &[u64]) {
        let span = self.streams[stream as usize] as usize..self.streams[stream as usize + 1] as usize;
        (&self.stream_blocks[span.clone()], &self.stream_ends[span])
    }

    pub(super) fn name(&self, node: &Node) -> &[u8] {
        self.names.get(node.name)
    }

    /// The first child of `children` whose name is not before `name`.
    pub(super) fn lower_bound(&self, children: std::ops::Range<u32>, name: &[u8]) -> u32 {
        let slice = &self.nodes[children.start as usize..children.end as usize];
        children.start + slice.partition_point(|child| self.names.get(child.name) < name) as u32
    }

    pub(super) fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let children = self.children(directory);
        let found = self.lower_bound(children.clone(), name);
        (found < children.end && self.name(&self.nodes[found as usize]) == name).then_some(NodeId(found))
    }

    pub(super) fn shrink(&mut self) {
        self.nodes.shrink_to_fit();
        self.names.shrink();
        self.range_streams.shrink_to_fit();
        self.range_positions.shrink_to_fit();
        self.range_ends.shrink_to_fit();
        self.streams.shrink_to_fit();
        self.stream_blocks.shrink_to_fit();
        self.stream_ends.shrink_to_fit();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.names.memory_bytes()
            + self.range_streams.capacity() * 4
            + (self.range_positions.capacity() + self.range_ends.capacity()) * 8
            + (self.streams.capacity() + self.stream_blocks.capacity()) * 4
            + self.stream_ends.capacity() * 8
            + self.blocks.memory_bytes()
    }
}
