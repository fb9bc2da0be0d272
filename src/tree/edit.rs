//! Changing a tree: an [`Editor`] collects edits, and [`Editor::finish`] gives the snapshot that has them.
//!
//! The snapshot it started from stays what it was. A node keeps its number through renames and through new content, so an
//! open file is followed by node; a removed node keeps its content, and its last name and directory.

use super::overlay::{AddedBlock, ChildEdits, Content, Edited, Extent, Overlay};
use super::{BlockId, Kind, NodeId, Snapshot};
use crate::keep::Locator;
use crate::keep::manifest::Piece;
use std::sync::Arc;

/// Why an edit is refused; nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The node that was to hold the entry is no directory, or a directory was needed where a file is.
    #[error("not a directory")]
    NotADirectory,
    /// A file was needed where a directory is.
    #[error("is a directory")]
    IsADirectory,
    /// There is no such entry or node.
    #[error("no such entry")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// Empty, `.`, `..` or with a `/`.
    #[error("not a valid name")]
    InvalidName,
    /// A directory cannot be moved below itself.
    #[error("a directory cannot be moved into itself")]
    IntoItself,
    /// Numbers of nodes or blocks have run out, or a file is larger than 2^63 bytes: fold the snapshot.
    #[error("too many nodes or blocks, or a file too large")]
    TooLarge,
}

/// Edits in the making. Between two edits, [`Editor::snapshot`] shows the state.
pub struct Editor {
    snapshot: Snapshot,
}

impl Snapshot {
    /// Starts to edit. Dropping the editor drops the edits.
    pub fn edit(&self) -> Editor {
        Editor { snapshot: self.clone() }
    }
}

impl Editor {
    /// The tree with the edits so far.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The tree with all edits.
    pub fn finish(self) -> Snapshot {
        self.snapshot
    }

    /// Gives a file new content, and makes it if there is none with this name. A file that is there stays the same node.
    pub fn set_file(&mut self, directory: NodeId, name: &[u8], pieces: &[Piece<Locator>]) -> Result<NodeId, EditError> {
        self.check_name(directory, name)?;
        match self.snapshot.lookup(directory, name) {
            Some(node) => self.set_content(node, pieces).map(|()| node),
            None => {
                let extents = self.extents(pieces)?;
                self.add(directory, name, Content::File(extents))
            }
        }
    }

    /// Gives a file new content wherever it is, also if it has been removed.
    pub fn set_content(&mut self, file: NodeId, pieces: &[Piece<Locator>]) -> Result<(), EditError> {
        match self.snapshot.entry(file).ok_or(EditError::NotFound)?.kind {
            Kind::Directory => Err(EditError::IsADirectory),
            Kind::File => {
                let extents = self.extents(pieces)?;
                self.change(file, |edited| edited.content = Content::File(extents));
                Ok(())
            }
        }
    }

    /// Makes an empty directory.
    pub fn make_directory(&mut self, directory: NodeId, name: &[u8]) -> Result<NodeId, EditError> {
        self.check_name(directory, name)?;
        if self.snapshot.lookup(directory, name).is_some() {
            return Err(EditError::Exists);
        }
        self.add(directory, name, Content::Directory(ChildEdits::new()))
    }

    /// Removes an entry, a directory with all that is in it. Whether that may be is the caller's to know.
    pub fn remove(&mut self, directory: NodeId, name: &[u8]) -> Result<NodeId, EditError> {
        let node = self.snapshot.lookup(directory, name).ok_or(EditError::NotFound)?;
        self.set_child(directory, name, None);
        Ok(node)
    }

    /// Moves an entry, and replaces whatever has the new name: the caller knows what `rename` may replace.
    pub fn rename(&mut self, from: NodeId, name: &[u8], to: NodeId, new_name: &[u8]) -> Result<NodeId, EditError> {
        self.check_name(to, new_name)?;
        let node = self.snapshot.lookup(from, name).ok_or(EditError::NotFound)?;
        self.check_not_below(to, node)?;
        if from == to && name == new_name {
            return Ok(node);
        }
        self.set_child(from, name, None);
        self.link(node, to, new_name);
        Ok(node)
    }

    /// Gives a removed node, with the content that it has kept, a place again. The name must be free.
    pub fn restore(&mut self, node: NodeId, directory: NodeId, name: &[u8]) -> Result<(), EditError> {
        self.check_name(directory, name)?;
        self.snapshot.entry(node).ok_or(EditError::NotFound)?;
        if self.snapshot.is_linked(node) || self.snapshot.lookup(directory, name).is_some() {
            return Err(EditError::Exists);
        }
        self.check_not_below(directory, node)?;
        self.link(node, directory, name);
        Ok(())
    }

    /// Refuses a directory that is `node` or stands below it.
    fn check_not_below(&self, directory: NodeId, node: NodeId) -> Result<(), EditError> {
        let mut above = directory;
        while above != NodeId::ROOT {
            if above == node {
                return Err(EditError::IntoItself);
            }
            above = self.snapshot.parent(above);
        }
        Ok(())
    }

    fn link(&mut self, node: NodeId, directory: NodeId, name: &[u8]) {
        self.change(node, |edited| {
            edited.parent = directory;
            edited.name = Some(Arc::from(name));
        });
        self.set_child(directory, name, Some(node));
    }

    /// Copies a file or a directory with all that is in it, of this or another tree, by reference to its blocks. The name
    /// must be free.
    pub fn copy(&mut self, source: &Snapshot, node: NodeId, to: NodeId, name: &[u8]) -> Result<NodeId, EditError> {
        self.check_name(to, name)?;
        if self.snapshot.lookup(to, name).is_some() {
            return Err(EditError::Exists);
        }
        let copied = self.copy_node(source, node, to, name)?;
        let mut pending = vec![(node, copied)];
        while let Some((from, to)) = pending.pop() {
            for child in source.children(from) {
                let copied = self.copy_node(source, child, to, source.name(child))?;
                if source.is_directory(child) {
                    pending.push((child, copied));
                }
            }
        }
        Ok(copied)
    }

    fn copy_node(&mut self, source: &Snapshot, node: NodeId, to: NodeId, name: &[u8]) -> Result<NodeId, EditError> {
        match source.entry(node).ok_or(EditError::NotFound)?.kind {
            Kind::Directory => self.add(to, name, Content::Directory(ChildEdits::new())),
            Kind::File => {
                let pieces: Vec<_> = source.pieces(node).collect();
                let extents = self.extents(&pieces)?;
                self.add(to, name, Content::File(extents))
            }
        }
    }

    /// From now on, takes locators from `newer` where it has the same block with a signature that expires later. `newer` is
    /// a tree that was just read; of its edits nothing is taken.
    pub fn renew_signatures(&mut self, newer: &Snapshot) {
        self.overlay().renewed = Some(newer.base.blocks.clone());
    }

    fn overlay(&mut self) -> &mut Overlay {
        Arc::make_mut(&mut self.snapshot.overlay)
    }

    fn check_name(&self, directory: NodeId, name: &[u8]) -> Result<(), EditError> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(EditError::InvalidName);
        }
        match self.snapshot.entry(directory).ok_or(EditError::NotFound)?.kind {
            Kind::Directory => Ok(()),
            Kind::File => Err(EditError::NotADirectory),
        }
    }

    fn add(&mut self, directory: NodeId, name: &[u8], content: Content) -> Result<NodeId, EditError> {
        let number = self.snapshot.node_limit();
        if number >= 1 << 31 {
            return Err(EditError::TooLarge);
        }
        let node = NodeId(number);
        let overlay = self.overlay();
        overlay.added += 1;
        overlay.nodes.insert(node, Edited { parent: directory, name: Some(Arc::from(name)), content });
        self.set_child(directory, name, Some(node));
        Ok(node)
    }

    /// Changes what the overlay has of a node, which is entered there if it is of the base.
    fn change(&mut self, node: NodeId, change: impl FnOnce(&mut Edited)) {
        let mut edited = match self.snapshot.overlay.nodes.get(&node) {
            Some(edited) => edited.clone(),
            None => Edited {
                parent: self.snapshot.parent(node),
                name: None,
                content: if self.snapshot.is_directory(node) {
                    Content::Directory(ChildEdits::new())
                } else {
                    Content::BaseFile
                },
            },
        };
        change(&mut edited);
        self.overlay().nodes.insert(node, edited);
    }

    fn set_child(&mut self, directory: NodeId, name: &[u8], child: Option<NodeId>) {
        let in_base = self.snapshot.base.lookup(directory, name);
        self.change(directory, |edited| {
            if let Content::Directory(edits) = &mut edited.content {
                if child == in_base {
                    edits.remove(name);
                } else {
                    edits.insert(Arc::from(name), child);
                }
            }
        });
    }

    fn extents(&mut self, pieces: &[Piece<Locator>]) -> Result<Arc<[Extent]>, EditError> {
        let mut extents: Vec<Extent> = Vec::with_capacity(pieces.len());
        let mut end = 0u64;
        for piece in pieces.iter().filter(|piece| piece.length > 0) {
            let block = self.block(&piece.block, piece.block_size)?;
            let start = end;
            end = end.checked_add(piece.length).filter(|&end| end <= i64::MAX as u64).ok_or(EditError::TooLarge)?;
            match extents.last_mut() {
                Some(last) if last.block == block && last.continues_at(start, piece.offset) => last.end = end,
                _ => extents.push(Extent { block, offset: piece.offset, start, end }),
            }
        }
        Ok(Arc::from(extents))
    }

    /// The number of a locator, added if neither the base nor the overlay has it.
    fn block(&mut self, locator: &Locator, size: u64) -> Result<BlockId, EditError> {
        let base = &self.snapshot.base.blocks;
        if let Some(number) = base.find_text(locator).filter(|&number| base.size(number) == size) {
            return Ok(BlockId(number));
        }
        let same_hash = self.snapshot.overlay.block_numbers.get(&locator.hash()).cloned().unwrap_or_default();
        let same = |block: &&BlockId| {
            self.snapshot.added_block(**block).is_some_and(|added| added.locator == *locator && added.size == size)
        };
        if let Some(block) = same_hash.iter().find(same) {
            return Ok(*block);
        }
        let number = base.len() as usize + self.snapshot.overlay.blocks.len();
        let block = u32::try_from(number).map(BlockId).map_err(|_| EditError::TooLarge)?;
        let overlay = self.overlay();
        overlay.blocks.push_back(AddedBlock { locator: locator.clone(), size });
        overlay.block_numbers.insert(locator.hash(), same_hash.iter().copied().chain([block]).collect());
        Ok(block)
    }
}
