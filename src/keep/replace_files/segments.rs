//! `replace_segments`: the same bytes from other blocks, as repacking small files into large blocks needs it.

use super::error::{Error, Refusal};
use super::pieces::{Block, FilePiece, Origin};
use super::reader;
use crate::keep::locator::LocatorText;
use crate::keep::{BlockHash, Locator};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

/// A run of bytes of a block, `"<locator> <offset> <length>"` in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSpec {
    /// The block; a replacement needs its size and signature.
    pub locator: Locator,
    /// First byte in the block.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A text that should have been a [`SegmentSpec`]. The controller answers 500 with these words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("transcode: EOF")]
pub struct SegmentSpecError;

impl FromStr for SegmentSpec {
    type Err = SegmentSpecError;

    fn from_str(text: &str) -> Result<SegmentSpec, SegmentSpecError> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(SegmentSpecError);
        let locator = word()?.parse().map_err(|_| SegmentSpecError)?;
        let offset = word()?.parse().map_err(|_| SegmentSpecError)?;
        let length = word()?.parse().map_err(|_| SegmentSpecError)?;
        if words.next().is_some() { Err(SegmentSpecError) } else { Ok(SegmentSpec { locator, offset, length }) }
    }
}

/// What of a segment is compared: hints, size included, are not.
type Key = (BlockHash, u64, u64);

impl SegmentSpec {
    fn key(&self) -> Key {
        (self.locator.hash(), self.offset, self.length)
    }
}

fn key(piece: &FilePiece) -> Option<Key> {
    let locator = LocatorText::parse(&piece.block.locator).ok()?;
    Some((locator.hash(), piece.offset, piece.length))
}

/// Replaces whole pieces of files. `None`: nothing matched, the text stays as it is.
///
/// Where a piece is not found, every replacement by the same locator is left out, as its block was packed for all of them.
pub fn replace_segments(text: &str, edits: &[(SegmentSpec, SegmentSpec)]) -> Result<Option<String>, Error<Infallible>> {
    if edits.is_empty() {
        return Ok(None);
    }
    let mut tree = reader::read(text, Origin::Current).map_err(|error| Refusal::MalformedCurrent { error })?;
    let mut missing: BTreeSet<Key> = edits.iter().map(|(old, _)| old.key()).collect();
    tree.for_each_piece(&mut |piece| {
        key(piece).map(|key| missing.remove(&key));
    });
    let skipped: BTreeSet<&str> =
        edits.iter().filter(|(old, _)| missing.contains(&old.key())).map(|(_, new)| new.locator.as_str()).collect();
    let mut replacements: BTreeMap<Key, (Arc<Block>, &SegmentSpec)> = BTreeMap::new();
    for (old, new) in edits.iter().filter(|(_, new)| !skipped.contains(new.locator.as_str())) {
        if old.length != new.length {
            return Err(Refusal::SegmentLength { old: old.length, new: new.length }.into());
        }
        let size = new.locator.size().ok_or(Refusal::SegmentWithoutSize)?;
        if new.offset.checked_add(new.length).is_none_or(|end| end > size) {
            let (offset, length) = (new.offset, new.length);
            return Err(Refusal::SegmentBeyondBlock { offset, length, size }.into());
        }
        replacements.insert(old.key(), (Block::new(new.locator.as_str(), size, Origin::Current), new));
    }
    let mut changed = false;
    tree.for_each_piece(&mut |piece| {
        if let Some((block, new)) = key(piece).and_then(|key| replacements.get(&key)) {
            changed = true;
            piece.block = block.clone();
            piece.offset = new.offset;
        }
    });
    Ok(changed.then(|| tree.to_manifest()))
}
