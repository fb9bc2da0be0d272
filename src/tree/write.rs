//! From a tree back to a manifest, in either normal form.
//!
//! Locators come out as they went in, but for one thing: a block without size is written with the size that its files say it
//! has. A directory's files share one line, where every block but the last needs a size; without, nobody could read
//! the text. (No other client reads a collection with such a block at all, so that a save mends it.)

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
            false => Listed::Own(self.with_size(block).map_or(block, |(_, same)| same)),
        }
    }

    /// The locator as it is written: with the newest signature, and with a size.
    pub(super) fn sized_locator(&self, block: BlockId) -> Locator {
        let locator = self.locator(block);
        self.sized(&locator, block).unwrap_or(locator)
    }

    /// Appends what is left of a locator in the portable text (`protocol.md` 5.4).
    pub(super) fn push_portable(&self, text: &mut String, block: BlockId) {
        match self.added_block(block) {
            // A newer signature does not show.
            Some(added) if added.locator.size().is_some() => text.push_str(added.locator.as_text().portable()),
            None if self.base.blocks.push_portable(text, block.0) => {}
            _ => text.push_str(self.sized_locator(block).as_text().portable()),
        }
    }

    /// A locator without size, with the one that its block has here.
    fn sized(&self, locator: &Locator, block: BlockId) -> Option<Locator> {
        let bare = locator.size().is_none().then(|| locator.as_str().split_at(BlockHash::TEXT_LENGTH))?;
        format!("{}+{}{}", bare.0, self.block_size(block), bare.1).parse().ok()
    }

    /// Of a block without size, the locator with one, and the block that has this locator: itself or another.
    fn with_size(&self, block: BlockId) -> Option<(Locator, BlockId)> {
        if self.added_block(block).is_none() && !self.base.blocks.is_odd(block.0) {
            return None;
        }
        let sized = self.sized(&self.own_locator(block), block)?;
        let same = self.base.blocks.find_text(&sized).map_or(block, BlockId);
        Some((sized, same))
    }

    fn push_listed(&self, text: &mut String, listed: Listed) {
        match listed {
            Listed::Own(block) => match (self.with_size(block), self.added_block(block)) {
                (Some((sized, _)), _) => text.push_str(sized.as_str()),
                (None, Some(added)) => text.push_str(added.locator.as_str()),
                (None, None) => self.base.blocks.push_locator(text, block.0),
            },
            Listed::Renewed(hash) => {
                if let Some(locator) = self.find_locator(hash) {
                    text.push_str(locator.as_str());
                }
            }
        }
    }
}
