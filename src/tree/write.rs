//! From a tree back to a manifest, in either normal form.

use super::{BlockId, NodeId, Snapshot};
use crate::keep::manifest::{Form, Piece, Writer};
use crate::keep::{BlockHash, Locator};

/// What makes two blocks one for a normal form: the text that is written for them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Listed {
    Own(BlockId),
    Renewed(BlockHash),
}

impl Snapshot {
    /// The tree as a manifest, with all the locators' hints and the newest signatures.
    pub fn to_manifest(&self, form: Form) -> String {
        let mut text = String::new();
        let mut writer = Writer::new(form, &mut text);
        // Directories still to be written, the next one last, with the length of the path above each. A list and not
        // recursion: a manifest may have a path as deep as it likes.
        let mut pending = vec![(NodeId::ROOT, 0)];
        let mut path = Vec::new();
        while let Some((directory, above)) = pending.pop() {
            path.truncate(above);
            match directory {
                NodeId::ROOT => path.push(b'.'),
                _ => {
                    path.push(b'/');
                    path.extend_from_slice(self.name(directory));
                }
            }
            let first = pending.len();
            let mut files = false;
            for child in self.children(directory) {
                match self.is_directory(child) {
                    true => pending.push((child, path.len())),
                    false => files = true,
                }
            }
            pending[first..].reverse();
            if files {
                let files = self.children(directory).filter(|&child| !self.is_directory(child));
                let files = files.map(|file| (self.name(file), self.listed_pieces(file, form)));
                writer.stream(&path, files, |text, listed| self.push_listed(text, listed));
            } else if pending.len() == first && directory != NodeId::ROOT {
                writer.empty_directory(&path);
            }
        }
        text
    }

    /// The content of a file as pieces of blocks, with the newest signatures.
    pub fn pieces(&self, file: NodeId) -> impl Iterator<Item = Piece<Locator>> {
        self.segments(file, 0, u64::MAX).map(|segment| Piece {
            block: self.locator(segment.block),
            block_size: self.block_size(segment.block),
            offset: segment.block_offset,
            length: segment.length,
        })
    }

    fn listed_pieces(&self, file: NodeId, form: Form) -> impl Iterator<Item = Piece<Listed>> {
        // Python lists a block of no bytes again if it stands inside a file (`protocol.md` 5.7, V14), Go never.
        let segments = self.segments(file, 0, u64::MAX).with_empty_blocks(form == Form::Python);
        segments.map(|segment| Piece {
            block: self.listed(segment.block),
            block_size: self.block_size(segment.block),
            offset: segment.block_offset,
            length: segment.length,
        })
    }

    fn listed(&self, block: BlockId) -> Listed {
        // Most trees have no newer signatures, and then nothing is made of a block but its number.
        match self.overlay.renewed.is_some() && self.renewed(&self.own_locator(block)).is_some() {
            true => Listed::Renewed(self.block_hash(block)),
            false => Listed::Own(block),
        }
    }

    fn push_listed(&self, text: &mut String, listed: Listed) {
        match listed {
            Listed::Own(block) => match self.added_block(block) {
                Some(added) => text.push_str(added.locator.as_str()),
                None => self.base.blocks.push_locator(text, block.0),
            },
            Listed::Renewed(hash) => {
                if let Some(locator) = self.find_locator(hash) {
                    text.push_str(locator.as_str());
                }
            }
        }
    }
}
