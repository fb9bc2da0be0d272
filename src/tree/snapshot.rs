//! A state of a collection's tree that never changes: what readers work on.

use super::base::Base;
use super::builder;
use super::children::Children;
use super::overlay::{ChildEdits, Content, Overlay};
use super::{BlockId, Kind, NodeId};
use crate::keep::manifest::ManifestError;
use crate::keep::{BlockHash, Locator};
use std::sync::Arc;

/// A tree that never changes. Cloning and sharing cost two counters; an edit makes a new one (see [`super::edit`]).
#[derive(Clone)]
pub struct Snapshot {
    pub(super) base: Arc<Base>,
    pub(super) overlay: Arc<Overlay>,
}

/// What there is to know about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// File or directory.
    pub kind: Kind,
    /// Size in bytes; of a directory zero.
    pub size: u64,
}

impl Snapshot {
    /// Reads a manifest. What is tolerated and how is told in the builder's essay; the error names line and reason.
    pub fn parse(manifest: &str) -> Result<Snapshot, ManifestError> {
        let base = builder::parse(manifest)?;
        Ok(Snapshot { base: Arc::new(base), overlay: Arc::default() })
    }

    /// The tree without entries.
    pub fn empty() -> Snapshot {
        let mut base = Base { streams: vec![0], ..Base::default() };
        let name = base.names.push(b"").unwrap_or_default();
        base.nodes.push(super::base::Node { name, parent: 0, first: 1, count: super::base::DIRECTORY });
        Snapshot { base: Arc::new(base), overlay: Arc::default() }
    }

    /// Kind and size; `None` if this snapshot has no such node, and neither had those it was made from.
    pub fn entry(&self, node: NodeId) -> Option<Entry> {
        let kind = self.kind(node)?;
        let size = if kind == Kind::File { self.size(node) } else { 0 };
        Some(Entry { kind, size })
    }

    fn kind(&self, node: NodeId) -> Option<Kind> {
        match self.overlay.nodes.get(&node) {
            Some(edited) => Some(edited.kind()),
            None => self.base.node(node).map(Base::kind),
        }
    }

    /// Whether the node is a directory.
    pub fn is_directory(&self, node: NodeId) -> bool {
        self.kind(node) == Some(Kind::Directory)
    }

    /// The size of a file in bytes; of anything else zero.
    pub fn size(&self, file: NodeId) -> u64 {
        match self.overlay.nodes.get(&file).map(|edited| &edited.content) {
            None | Some(Content::BaseFile) => self.base.size(file),
            Some(Content::File(extents)) => extents.last().map_or(0, |last| last.end),
            Some(Content::Directory(_)) => 0,
        }
    }

    /// The name of a node in its directory; of the root, and of a node that never was, nothing.
    pub fn name(&self, node: NodeId) -> &[u8] {
        match self.overlay.nodes.get(&node).and_then(|edited| edited.name.as_ref()) {
            Some(name) => name,
            None => self.base.node(node).map_or(b"", |node| self.base.name(node)),
        }
    }

    /// The directory of a node, or the last one it was in; the root is its own.
    pub fn parent(&self, node: NodeId) -> NodeId {
        match self.overlay.nodes.get(&node) {
            Some(edited) => edited.parent,
            None => self.base.node(node).map_or(NodeId::ROOT, |node| NodeId(node.parent)),
        }
    }

    /// The names from the root to a node with `/` between them; of the root, nothing.
    pub fn path(&self, node: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut current = node;
        while current != NodeId::ROOT {
            names.push(self.name(current));
            current = self.parent(current);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The node with this name in a directory.
    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match self.edits(directory).and_then(|edits| edits.get(name)) {
            Some(edit) => *edit,
            None => self.base_children_apply(directory).then(|| self.base.lookup(directory, name)).flatten(),
        }
    }

    /// The node at a path below the root; empty components and `.` are skipped.
    pub fn find(&self, path: &[u8]) -> Option<NodeId> {
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        names.try_fold(NodeId::ROOT, |directory, name| self.lookup(directory, name))
    }

    /// Whether the node can still be reached from the root. Removed ones cannot, though they still have their content.
    pub fn is_linked(&self, node: NodeId) -> bool {
        let mut current = node;
        while current != NodeId::ROOT {
            let parent = self.parent(current);
            if self.lookup(parent, self.name(current)) != Some(current) {
                return false;
            }
            current = parent;
        }
        true
    }

    /// The entries of a directory by the bytes of their names. `nth` costs little, so a listing may resume by index.
    pub fn children(&self, directory: NodeId) -> Children<'_> {
        Children::new(self, self.base_children(directory), self.edits(directory))
    }

    /// The entries of a directory whose names come after `name`: how a listing resumes in a newer snapshot.
    pub fn children_after(&self, directory: NodeId, name: &[u8]) -> Children<'_> {
        Children::after(self, self.base_children(directory), self.edits(directory), name)
    }

    /// The text of a block's locator, with the newest signature known.
    pub fn locator(&self, block: BlockId) -> Locator {
        let own = self.own_locator(block);
        self.renewed(&own).unwrap_or(own)
    }

    /// The text of a block's locator as it came.
    pub(super) fn own_locator(&self, block: BlockId) -> Locator {
        match self.added_block(block) {
            Some(added) => added.locator.clone(),
            None => self.base.blocks.locator(block.0),
        }
    }

    /// The name of a block.
    pub fn block_hash(&self, block: BlockId) -> BlockHash {
        match self.added_block(block) {
            Some(added) => added.locator.hash(),
            None => self.base.blocks.hash(block.0),
        }
    }

    /// The size of a block in bytes, as its stream has it. A lie in a manifest shows when the block is fetched.
    pub fn block_size(&self, block: BlockId) -> u64 {
        match self.added_block(block) {
            Some(added) => added.size,
            None => self.base.blocks.size(block.0),
        }
    }

    /// A locator of the block with this hash, with the newest signature: how a reader that was refused finds a new one in a
    /// newer snapshot.
    pub fn find_locator(&self, hash: BlockHash) -> Option<Locator> {
        let base = self.base.blocks.find(hash).map(BlockId);
        let added = self.overlay.block_numbers.get(&hash).map(|blocks| &**blocks).unwrap_or_default();
        added.iter().copied().chain(base).map(|block| self.locator(block)).max_by_key(expiry)
    }

    /// What is to be used instead of `own`, because its signature expires later.
    pub(super) fn renewed(&self, own: &Locator) -> Option<Locator> {
        let blocks = self.overlay.renewed.as_ref()?;
        let newer = blocks.locator(blocks.find(own.hash())?);
        (expiry(own) < expiry(&newer)).then_some(newer)
    }

    /// Number of nodes of the base, and with the edits: an upper bound of the node numbers in use.
    pub fn node_limit(&self) -> u32 {
        self.base.nodes.len() as u32 + self.overlay.added
    }

    /// Bytes of memory, for the budget: exact for the base, which snapshots share, and an estimate for the edits.
    pub fn memory_bytes(&self) -> usize {
        self.base.memory_bytes() + self.overlay.memory_bytes()
    }

    pub(super) fn edits(&self, directory: NodeId) -> Option<&ChildEdits> {
        match self.overlay.nodes.get(&directory).map(|edited| &edited.content) {
            Some(Content::Directory(edits)) => Some(edits),
            _ => None,
        }
    }

    /// Whether the base's children of this number are this directory's: not of a file that was made from it.
    fn base_children_apply(&self, directory: NodeId) -> bool {
        self.overlay.nodes.get(&directory).is_none_or(|edited| edited.kind() == Kind::Directory)
    }

    pub(super) fn base_children(&self, directory: NodeId) -> std::ops::Range<u32> {
        if self.base_children_apply(directory) { self.base.children(directory) } else { 0..0 }
    }

    /// The ranges of a file whose data are those of the base; `None` if it has data of its own.
    pub(super) fn base_ranges(&self, file: NodeId) -> Option<std::ops::Range<usize>> {
        match self.overlay.nodes.get(&file).map(|edited| &edited.content) {
            None | Some(Content::BaseFile) => Some(self.base.ranges(file)),
            Some(Content::File(_) | Content::Directory(_)) => None,
        }
    }

    pub(super) fn added_block(&self, block: BlockId) -> Option<&super::overlay::AddedBlock> {
        let index = block.0.checked_sub(self.base.blocks.len())?;
        self.overlay.blocks.get(index as usize)
    }
}

fn expiry(locator: &Locator) -> u64 {
    locator.signature().map_or(0, |hint| hint.expiry)
}
