//! The edits on top of a base: persistent maps, so that a changed copy shares all but a logarithm of the old one.
//!
//! A node that differs from the base has an entry here, whole; a node that only the overlay has is numbered behind those
//! of the base. A directory keeps the difference of its children only: creating a file in a directory of a million
//! copies one path of a search tree.

use super::block_table::{BlockId, BlockTable};
use super::{Kind, NodeId};
use crate::keep::{BlockHash, Locator};
use imbl::{HashMap, OrdMap, Vector};
use std::sync::Arc;

/// How the children of a directory differ from those of the base: a node that has the name now, or none.
pub(super) type ChildEdits = OrdMap<Arc<[u8]>, Option<NodeId>>;

/// A run of bytes of a block in a file that was edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) block: BlockId,
    pub(super) offset: u64,
    /// Where it starts in the file: where the one before ends.
    pub(super) start: u64,
    /// Where it ends in the file.
    pub(super) end: u64,
}

impl Extent {
    /// Whether the bytes of its block from `offset` on, put into the file at `start`, would only make it longer.
    pub(super) fn continues_at(&self, start: u64, offset: u64) -> bool {
        self.end == start && self.offset + (self.end - self.start) == offset
    }
}

/// What an edited node is.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// The children of the base's node of this number (if it is one), changed.
    Directory(ChildEdits),
    /// Data of its own.
    File(Arc<[Extent]>),
    /// The data that the file of this number has in the base.
    BaseFile,
}

/// A node as it is after the edits.
#[derive(Debug, Clone)]
pub(super) struct Edited {
    pub(super) parent: NodeId,
    /// `None`: the name that the base has.
    pub(super) name: Option<Arc<[u8]>>,
    pub(super) content: Content,
}

impl Edited {
    pub(super) fn kind(&self) -> Kind {
        match self.content {
            Content::Directory(_) => Kind::Directory,
            Content::File(_) | Content::BaseFile => Kind::File,
        }
    }
}

/// A block that the base does not have, with the size that its user gave.
#[derive(Debug, Clone)]
pub(super) struct AddedBlock {
    pub(super) locator: Locator,
    pub(super) size: u64,
}

/// See the module's essay.
#[derive(Clone, Default)]
pub(super) struct Overlay {
    pub(super) nodes: HashMap<NodeId, Edited>,
    /// How many nodes were added behind those of the base.
    pub(super) added: u32,
    /// Numbered behind those of the base.
    pub(super) blocks: Vector<AddedBlock>,
    /// Those blocks by hash; one hash may have several locators.
    pub(super) block_numbers: HashMap<BlockHash, Arc<[BlockId]>>,
    /// Newer locators of some of the blocks. Shared with the tree they came with.
    pub(super) renewed: Option<Arc<BlockTable>>,
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.renewed.is_none()
    }

    /// An estimate: what the nodes of the maps take with their bookkeeping, twice the size of what they hold.
    pub(super) fn memory_bytes(&self) -> usize {
        let content = |content: &Content| match content {
            Content::Directory(edits) => edits.len() * 2 * (size_of::<(Arc<[u8]>, Option<NodeId>)>() + 32),
            Content::File(extents) => extents.len() * size_of::<Extent>(),
            Content::BaseFile => 0,
        };
        let nodes: usize = self.nodes.values().map(|edited| content(&edited.content)).sum();
        let locator = size_of::<Locator>() + 96;
        nodes
            + self.nodes.len() * 2 * size_of::<(NodeId, Edited)>()
            + self.blocks.len() * (size_of::<AddedBlock>() + 2 * locator)
            + self.renewed.as_ref().map_or(0, |blocks| blocks.memory_bytes())
    }
}
