//! One directory's line in the Go form, portable (without signatures), as the server will write it.
//!
//! The portable text depends on signatures all the same: a block is listed again unless its locator is the very string
//! before it (`protocol.md` 5.5, items 4 and 6). What stood in the collection is signed anew by the server, all in one
//! second; what we send keeps our signature. After the commit all are signed alike, so that the *next* rewrite lists such
//! a block once: a line has a form that the request gives it, and one in which it settles.

use crate::keep::manifest::{Form, Piece, Writer};
use crate::keep::signature::strip_signature;
use crate::tree::{BlockId, NodeId, Snapshot};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

/// Where a file comes from in a request, which decides who signs its locators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It stands in the collection.
    Current,
    /// We send it.
    Text,
}

/// A line in both forms.
pub(super) struct Lines {
    /// As any later rewrite will have it.
    pub(super) settled: String,
    /// As the request makes it, if that is another text.
    pub(super) at_first: Option<String>,
    /// Expiries of our signatures on blocks of which the server has a piece right before or behind: if the server signs in
    /// that second, it lists the block once.
    pub(super) doubtful: BTreeSet<u64>,
}

/// A locator as the server compares it.
#[derive(Clone, Copy)]
struct Listed<'s> {
    tree: &'s Snapshot,
    block: BlockId,
    origin: Origin,
}

impl Listed<'_> {
    fn same_block(&self, other: &Listed<'_>) -> bool {
        self.block == other.block
            || self.tree.block_hash(self.block) == self.tree.block_hash(other.block)
                && self.unsigned() == other.unsigned()
    }

    fn unsigned(&self) -> String {
        strip_signature(self.tree.sized_locator(self.block).as_str())
    }

    /// When our signature expires; the server's are not known yet.
    fn expiry(&self) -> Option<u64> {
        match self.origin {
            Origin::Current => None,
            Origin::Text => self.tree.locator(self.block).signature().map(|hint| hint.expiry),
        }
    }
}

impl PartialEq for Listed<'_> {
    fn eq(&self, other: &Self) -> bool {
        if self.block == other.block && self.origin == other.origin {
            return true;
        }
        if self.tree.block_hash(self.block) != self.tree.block_hash(other.block) {
            return false;
        }
        let text = |listed: &Self| match listed.origin {
            Origin::Current => listed.unsigned(),
            Origin::Text => listed.tree.sized_locator(listed.block).as_str().to_owned(),
        };
        text(self) == text(other)
    }
}

impl Eq for Listed<'_> {}

impl Hash for Listed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tree.block_hash(self.block).hash(state);
    }
}

/// What neighbouring pieces tell.
#[derive(Default)]
struct Notes<'s> {
    last: Option<Listed<'s>>,
    /// The same block is listed twice, only because of signatures.
    repeated: bool,
    doubtful: BTreeSet<u64>,
}

impl<'s> Notes<'s> {
    fn note(&mut self, next: Listed<'s>) {
        let Some(last) = self.last.replace(next) else { return };
        if last.block == next.block && last.origin == next.origin || !last.same_block(&next) {
            return;
        }
        self.repeated |= last != next;
        if last.origin != next.origin {
            self.doubtful.extend(last.expiry().or(next.expiry()));
        }
    }
}

/// The line of a directory; `None` if it has no files. `path` is that of the directory below the root.
pub(super) fn lines(
    tree: &Snapshot,
    directory: NodeId,
    path: &[u8],
    mut origin: impl FnMut(&[u8]) -> Origin,
) -> Option<Lines> {
    tree.children(directory).find(|&child| !tree.is_directory(child))?;
    let notes = RefCell::new(Notes::default());
    let text = line(tree, directory, path, |name| origin(name), &|listed| notes.borrow_mut().note(listed));
    let Notes { repeated, doubtful, .. } = notes.into_inner();
    Some(match repeated {
        false => Lines { settled: text, at_first: None, doubtful },
        true => {
            let settled = line(tree, directory, path, |_| Origin::Current, &|_| {});
            Lines { settled, at_first: Some(text), doubtful }
        }
    })
}

fn line<'s>(
    tree: &'s Snapshot,
    directory: NodeId,
    path: &[u8],
    mut origin: impl FnMut(&[u8]) -> Origin,
    note: &dyn Fn(Listed<'s>),
) -> String {
    let mut text = String::new();
    let files = tree.children(directory).filter(|&child| !tree.is_directory(child)).map(|file| {
        let origin = origin(tree.name(file));
        let pieces = tree.segments(file, 0, u64::MAX).map(move |segment| {
            let block = Listed { tree, block: segment.block, origin };
            note(block);
            Piece {
                block,
                block_size: tree.block_size(segment.block),
                offset: segment.block_offset,
                length: segment.length,
            }
        });
        (tree.name(file), pieces)
    });
    let mut writer = Writer::new(Form::Go, &mut text);
    writer.stream(&stream_name(path), files, |text, listed| tree.push_portable(text, listed.block));
    text
}

/// The line of a directory without entries.
pub(super) fn empty_directory(path: &[u8]) -> String {
    let mut text = String::new();
    Writer::<Listed<'_>>::new(Form::Go, &mut text).empty_directory(&stream_name(path));
    text
}

fn stream_name(path: &[u8]) -> Vec<u8> {
    match path {
        b"" => b".".to_vec(),
        _ => [b"./", path].concat(),
    }
}
