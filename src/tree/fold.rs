//! Folding: edits become part of a new base.

use super::base::{Base, DIRECTORY, Node};
use super::block_table::BlockTable;
use super::{Kind, NodeId, Snapshot};
use std::collections::HashMap;
use std::sync::Arc;

/// A snapshot without edits, and where its nodes were.
pub struct Fold {
    /// The same tree.
    pub snapshot: Snapshot,
    moved: Box<[u32]>,
}

/// Stands in [`Fold::moved`] for nodes that are gone.
const GONE: u32 = u32::MAX;

impl Fold {
    /// The number that a node of the old snapshot has in the new one; `None` if it had been removed.
    pub fn node(&self, old: NodeId) -> Option<NodeId> {
        self.moved.get(old.0 as usize).copied().filter(|&new| new != GONE).map(NodeId)
    }
}

impl Snapshot {
    /// Whether there are edits on top of the base, or newer signatures.
    pub fn is_edited(&self) -> bool {
        !self.overlay.is_empty()
    }

    /// What edits have added to the base: nodes, whether they are still there or not, and blocks. Folding makes it none.
    pub fn edit_count(&self) -> u32 {
        self.overlay.added.saturating_add(u32::try_from(self.overlay.blocks.len()).unwrap_or(u32::MAX))
    }

    /// The same tree without edits: readers get faster, removed nodes and unused blocks are forgotten, and nodes get new
    /// numbers. Costs as much as reading the manifest: do it now and then. Names and blocks are copied once, and the text
    /// of a manifest is never made.
    pub fn fold(&self) -> Fold {
        let mut folder = Folder {
            old: self,
            base: Base { streams: vec![0], ..Base::default() },
            names: HashMap::new(),
            streams: HashMap::new(),
            block_numbers: HashMap::new(),
            blocks: BlockTable::default(),
        };
        let mut moved = vec![GONE; self.node_limit() as usize].into_boxed_slice();
        let mut order = vec![NodeId::ROOT];
        let name = folder.name(NodeId::ROOT);
        folder.base.nodes.push(Node { name, parent: 0, first: 0, count: DIRECTORY });
        let mut next = 0;
        while next < order.len() {
            let old = order[next];
            moved[old.0 as usize] = next as u32;
            if self.is_directory(old) {
                let first = order.len();
                for child in self.children(old) {
                    let node = folder.child(child, next as u32);
                    folder.base.nodes.push(node);
                    order.push(child);
                }
                folder.base.nodes[next].first = first as u32;
                folder.base.nodes[next].count = DIRECTORY | (order.len() - first) as u32;
            }
            next += 1;
        }
        let mut base = folder.base;
        base.blocks = Arc::new(folder.blocks);
        base.shrink();
        Fold { snapshot: Snapshot { base: Arc::new(base), overlay: Arc::default() }, moved }
    }
}

struct Folder<'s> {
    old: &'s Snapshot,
    base: Base,
    /// Positions of names, by the names of the old snapshot.
    names: HashMap<&'s [u8], u32>,
    /// New numbers of the base's streams.
    streams: HashMap<u32, u32>,
    /// New numbers of blocks.
    block_numbers: HashMap<u32, u32>,
    blocks: BlockTable,
}

impl<'s> Folder<'s> {
    fn name(&mut self, node: NodeId) -> u32 {
        let name = self.old.name(node);
        // The arena was not full before, and has no more names now than nodes, which are counted.
        *self.names.entry(name).or_insert_with(|| self.base.names.push(name).unwrap_or_default())
    }

    fn child(&mut self, old: NodeId, parent: u32) -> Node {
        let name = self.name(old);
        if self.old.entry(old).is_some_and(|entry| entry.kind == Kind::Directory) {
            return Node { name, parent, first: 0, count: DIRECTORY };
        }
        let first = self.base.range_ends.len() as u32;
        match self.old.base_ranges(old) {
            Some(ranges) => {
                for range in ranges.map(|index| self.old.base.range(index)) {
                    let stream = self.stream(range.stream);
                    self.push_range(stream, range.position, range.end);
                }
            }
            None => self.extents(old),
        }
        Node { name, parent, first, count: self.base.range_ends.len() as u32 - first }
    }

    fn push_range(&mut self, stream: u32, position: u64, end: u64) {
        self.base.range_streams.push(stream);
        self.base.range_positions.push(position);
        self.base.range_ends.push(end);
    }

    /// A stream of the base, copied when the first file needs it.
    fn stream(&mut self, old: u32) -> u32 {
        if let Some(&new) = self.streams.get(&old) {
            return new;
        }
        let (blocks, ends) = self.old.base.stream(old);
        for (&block, &end) in blocks.iter().zip(ends) {
            let block = self.block(block);
            self.base.stream_blocks.push(block);
            self.base.stream_ends.push(end);
        }
        let new = self.close_stream();
        self.streams.insert(old, new);
        new
    }

    /// An edited file gets a stream of its own blocks.
    fn extents(&mut self, file: NodeId) {
        let stream = self.base.streams.len() as u32 - 1;
        let mut end = 0;
        let mut any = false;
        for segment in self.old.segments(file, 0, u64::MAX) {
            let block = self.block(segment.block.0);
            self.push_range(stream, end + segment.block_offset, segment.file_offset + segment.length);
            end += self.old.block_size(segment.block);
            self.base.stream_blocks.push(block);
            self.base.stream_ends.push(end);
            any = true;
        }
        if any {
            self.close_stream();
        }
    }

    fn close_stream(&mut self) -> u32 {
        self.base.streams.push(self.base.stream_blocks.len() as u32);
        self.base.streams.len() as u32 - 2
    }

    fn block(&mut self, old: u32) -> u32 {
        if let Some(&new) = self.block_numbers.get(&old) {
            return new;
        }
        let new = self.blocks.len();
        let block = super::BlockId(old);
        self.blocks.push(self.old.locator(block).as_text(), self.old.block_size(block));
        self.block_numbers.insert(old, new);
        new
    }
}
