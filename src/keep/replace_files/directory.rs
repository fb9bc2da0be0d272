//! Trees of files made of pieces of blocks, as the controller keeps them while it edits.
//!
//! Directories and files are shared by reference until one is changed, so that a snapshot of a part costs nothing.

use super::error::Refusal;
use crate::keep::manifest::{Form, Piece, RESERVED_NAME, Writer};
use crate::keep::signature::strip_signature;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// The deepest path that is read. The tree is walked by recursion, and nothing that can be mounted comes near: the kernel
/// takes paths of 4096 bytes, 2048 components.
pub(super) const MAX_DEPTH: usize = 2048;

/// As Go says it.
pub(super) const NOT_FOUND: &str = "file does not exist";
const NOT_A_DIRECTORY: &str = "not a directory";

/// Where a piece came from, which decides who signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Current,
    ManifestText,
    /// The nth portable data hash of the request.
    Source(u32),
}

/// A run of bytes of a block.
#[derive(Debug, Clone)]
pub(super) struct FilePiece {
    pub(super) locator: Arc<str>,
    pub(super) origin: Origin,
    pub(super) block_size: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What the controller says about that name.
const INVALID_OPERATION: &str = "invalid operation";

/// An entry of a directory.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Arc<Vec<FilePiece>>),
    Directory(Arc<Directory>),
}

/// The entries by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    pub(super) entries: BTreeMap<Vec<u8>, Node>,
}

impl Directory {
    /// The entry at a path. Empty components and `.` are passed over; `..` takes back the component before it without
    /// looking whether that exists; a path that ends in one of these names a directory.
    pub(super) fn find(&self, path: &str) -> Result<Node, &'static str> {
        let mut names: Vec<&str> = Vec::new();
        for name in path.split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        let wants_directory = matches!(path.rsplit('/').next(), None | Some("" | "." | ".."));
        let mut directory = self;
        let mut found = None;
        for (depth, name) in names.iter().enumerate() {
            match directory.entries.get(name.as_bytes()) {
                Some(node @ Node::Directory(next)) => (directory, found) = (next, Some(node)),
                Some(Node::File(_)) if wants_directory || depth + 1 < names.len() => return Err(NOT_A_DIRECTORY),
                Some(file) => return Ok(file.clone()),
                None if depth == 0 && *name == RESERVED_NAME => return Err(INVALID_OPERATION),
                None => return Err(NOT_FOUND),
            }
        }
        Ok(found.cloned().unwrap_or_else(|| Node::Directory(Arc::new(self.clone()))))
    }

    /// Removes a target with all that is in it. One that is missing is fine, one below a file is not.
    pub(super) fn remove(&mut self, target: &str) -> Result<(), Refusal> {
        let Some((parents, name)) = target.rsplit_once('/').filter(|_| target != "/") else {
            self.entries.clear();
            return Ok(());
        };
        let mut directory = self;
        for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
            directory = match directory.entries.get_mut(parent.as_bytes()) {
                None => return Ok(()),
                Some(Node::File(_)) => return Err(Refusal::RemoveUnderFile { target: target.to_owned() }),
                Some(Node::Directory(directory)) => Arc::make_mut(directory),
            };
        }
        directory.entries.remove(name.as_bytes());
        Ok(())
    }

    /// Puts `node` in the place of whatever is at `target`, and makes the directories above.
    pub(super) fn put(&mut self, target: &str, node: Node) -> Result<(), Refusal> {
        let Some((parents, name)) = target.rsplit_once('/').filter(|_| target != "/") else {
            let Node::Directory(directory) = node else { return Err(Refusal::FileOntoRoot) };
            *self = Arc::unwrap_or_clone(directory);
            return Ok(());
        };
        let mut directory = self;
        let mut above = parents.split('/').filter(|parent| !parent.is_empty()).peekable();
        while let Some(parent) = above.next() {
            directory = directory.subdirectory(parent.as_bytes()).ok_or_else(|| {
                let target = target.to_owned();
                match above.peek() {
                    Some(_) => Refusal::ParentUnderFile { target },
                    None => Refusal::TargetUnderFile { target },
                }
            })?;
        }
        if parents.is_empty() && name == RESERVED_NAME {
            return Err(Refusal::SpecialName { target: target.to_owned() });
        }
        directory.entries.insert(name.as_bytes().to_vec(), node);
        Ok(())
    }

    /// A sub-directory, made if there is none. `None`: it is a file.
    pub(super) fn subdirectory(&mut self, name: &[u8]) -> Option<&mut Directory> {
        // Looked up first: the name need not be copied for a directory that is there.
        if !self.entries.contains_key(name) {
            self.entries.insert(name.to_vec(), Node::Directory(Arc::default()));
        }
        match self.entries.get_mut(name) {
            Some(Node::Directory(directory)) => Some(Arc::make_mut(directory)),
            _ => None,
        }
    }

    /// The pieces of a file, made if there is none. `None`: it is a directory.
    pub(super) fn file(&mut self, name: &[u8]) -> Option<&mut Vec<FilePiece>> {
        match self.entries.entry(name.to_vec()) {
            Entry::Vacant(entry) => match entry.insert(Node::File(Arc::default())) {
                Node::File(pieces) => Some(Arc::make_mut(pieces)),
                Node::Directory(_) => None,
            },
            Entry::Occupied(entry) => match entry.into_mut() {
                Node::File(pieces) => Some(Arc::make_mut(pieces)),
                Node::Directory(_) => None,
            },
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives an empty directory its files, in the order of their names.
    pub(super) fn fill<'n>(&mut self, files: impl Iterator<Item = (&'n [u8], Vec<FilePiece>)>) {
        self.entries = files.map(|(name, pieces)| (name.to_vec(), Node::File(Arc::new(pieces)))).collect();
    }

    fn files(&self) -> impl Iterator<Item = (&[u8], &[FilePiece])> {
        self.entries.iter().filter_map(|(name, node)| match node {
            Node::File(pieces) => Some((&**name, &***pieces)),
            Node::Directory(_) => None,
        })
    }

    fn directories(&self) -> impl Iterator<Item = (&[u8], &Directory)> {
        self.entries.iter().filter_map(|(name, node)| match node {
            Node::Directory(directory) => Some((&**name, &**directory)),
            Node::File(_) => None,
        })
    }

    /// The text in the Go form.
    pub(super) fn to_manifest(&self) -> String {
        let mut text = String::new();
        let mut path = b".".to_vec();
        self.write(&mut Writer::new(Form::Go, &mut text), &mut path);
        text
    }

    fn write<'t>(&'t self, writer: &mut Writer<'_, &'t str>, path: &mut Vec<u8>) {
        if self.entries.is_empty() && path.len() > 1 {
            writer.empty_directory(path);
        }
        if self.files().next().is_some() {
            let piece = |piece: &'t FilePiece| Piece {
                block: &*piece.locator,
                block_size: piece.block_size,
                offset: piece.offset,
                length: piece.length,
            };
            let files = self.files().map(|(name, pieces)| (name, pieces.iter().map(piece)));
            writer.stream(path, files, |text, locator| text.push_str(locator));
        }
        for (name, directory) in self.directories() {
            let length = path.len();
            path.push(b'/');
            path.extend_from_slice(name);
            directory.write(writer, path);
            path.truncate(length);
        }
    }

    /// See [`super::Replaced::ambiguous`].
    pub(super) fn is_ambiguous(&self) -> bool {
        let mut last: Option<&FilePiece> = None;
        for piece in self.files().flat_map(|(_, pieces)| pieces) {
            if let Some(last) = last.replace(piece)
                && last.origin != piece.origin
                && last.locator[..32] == piece.locator[..32]
                && strip_signature(&last.locator) == strip_signature(&piece.locator)
            {
                return true;
            }
        }
        self.directories().any(|(_, directory)| directory.is_ambiguous())
    }

    /// Calls `change` for every piece of the tree.
    pub(super) fn for_each_piece(&mut self, change: &mut impl FnMut(&mut FilePiece)) {
        for node in self.entries.values_mut() {
            match node {
                Node::File(pieces) => Arc::make_mut(pieces).iter_mut().for_each(&mut *change),
                Node::Directory(directory) => Arc::make_mut(directory).for_each_piece(change),
            }
        }
    }
}
