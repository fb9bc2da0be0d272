//! What files are made of: runs of bytes of blocks.
//!
//! A collection has a hundred thousand files and most are one run of one block. So a block is made once per line and shared
//! by its pieces, and a file of one piece needs no memory of its own: a copy of a directory costs two counters per file.

use crate::keep::locator::LocatorText;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Where a piece came from, which decides who signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Current,
    ManifestText,
    /// The nth portable data hash of the request.
    Source(u32),
}

/// A block as a text names it.
pub(super) struct Block {
    pub(super) locator: Box<str>,
    pub(super) size: u64,
    pub(super) origin: Origin,
    /// Length of `hash+size`, if nothing but signatures stands behind it and the server signs it: hash in lower case.
    plain: Option<usize>,
}

/// A locator may hold a signature, which is a password.
impl std::fmt::Debug for Block {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.locator.split("+A").next().unwrap_or_default();
        write!(formatter, "Block({shown}, {:?})", self.origin)
    }
}

impl Block {
    pub(super) fn new(locator: &str, size: u64, origin: Origin) -> Arc<Block> {
        let plain = LocatorText::parse(locator).ok().and_then(|parsed| {
            let signable = !locator.bytes().take(32).any(|byte| byte.is_ascii_uppercase());
            let plain = parsed.size().is_some() && signable && parsed.hints().all(|hint| hint.starts_with('A'));
            plain.then(|| parsed.portable().len())
        });
        Arc::new(Block { locator: locator.into(), size, origin, plain })
    }

    /// The locator without signatures, if it needs no more than that to be stored and signed again.
    pub(super) fn plain(&self) -> Option<&str> {
        self.plain.and_then(|length| self.locator.get(..length))
    }

    /// Whether it carries a signature. Only of one that is [`plain`](Block::plain).
    pub(super) fn is_signed(&self) -> bool {
        self.plain.is_some_and(|length| length < self.locator.len())
    }
}

/// A block for the writer, to which two with the same locator are one.
#[derive(Clone, Copy)]
pub(super) struct Named<'t>(pub(super) &'t Arc<Block>);

impl PartialEq for Named<'_> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.0, other.0) || self.0.locator == other.0.locator
    }
}

impl Eq for Named<'_> {}

impl Hash for Named<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.locator.hash(state);
    }
}

/// A run of bytes of a block.
#[derive(Debug, Clone)]
pub(super) struct FilePiece {
    pub(super) block: Arc<Block>,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The content of a file.
#[derive(Debug, Clone, Default)]
pub(super) enum Pieces {
    #[default]
    None,
    One(FilePiece),
    Many(Arc<Vec<FilePiece>>),
}

impl Pieces {
    pub(super) fn as_slice(&self) -> &[FilePiece] {
        match self {
            Pieces::None => &[],
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many(pieces) => pieces,
        }
    }

    /// For changes; what others share is copied before.
    pub(super) fn as_mut_slice(&mut self) -> &mut [FilePiece] {
        match self {
            Pieces::None => &mut [],
            Pieces::One(piece) => std::slice::from_mut(piece),
            Pieces::Many(pieces) => Arc::make_mut(pieces).as_mut_slice(),
        }
    }

    pub(super) fn push(&mut self, piece: FilePiece) {
        *self = match std::mem::take(self) {
            Pieces::None => Pieces::One(piece),
            Pieces::One(first) => Pieces::Many(Arc::new(vec![first, piece])),
            Pieces::Many(mut pieces) => {
                Arc::make_mut(&mut pieces).push(piece);
                Pieces::Many(pieces)
            }
        };
    }
}
