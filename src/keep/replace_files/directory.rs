//! Trees of files made of pieces of blocks, as the controller keeps them while it edits.
//!
//! Directories are shared by reference until one is changed, so that a snapshot of a part costs nothing. What follows from a
//! directory alone (its [`Line`]) and from all below it (its [`Totals`]) may be noted in it, see `kept`; whoever changes a
//! directory takes back what this makes wrong, on the way down to it: that is all there is to keep true here, and why
//! nobody else gets at the entries.

use super::error::Refusal;
use super::pieces::{FilePiece, Named, Pieces};
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

/// What the controller says about that name.
const INVALID_OPERATION: &str = "invalid operation";

/// An entry of a directory.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Pieces),
    Directory(Arc<Directory>),
}

/// The line of a directory, which follows from its own entries.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// In the Go form, from the blank behind the path to the end; nothing if it has no line. So it stays true when the
    /// directory is found elsewhere.
    pub(super) text: Arc<str>,
    pub(super) totals: Totals,
}

/// Sums over a directory and all that is below.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) file_count: u64,
    pub(super) file_size_total: u64,
    /// Bytes of lines, without the paths.
    pub(super) text: usize,
    /// Levels of directories, this one included.
    pub(super) levels: usize,
    /// Memory that is held, about.
    pub(super) memory: usize,
}

impl Totals {
    /// Adds what is one level further down.
    pub(super) fn add(&mut self, below: &Totals) {
        self.file_count += below.file_count;
        self.file_size_total = self.file_size_total.saturating_add(below.file_size_total);
        self.text += below.text;
        self.levels = self.levels.max(below.levels + 1);
        self.memory += below.memory;
    }
}

/// The entries by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    entries: BTreeMap<Arc<[u8]>, Node>,
    /// None: not worked out since a file or the last entry came or went.
    line: Option<Line>,
    /// None: not worked out since anything changed here or below.
    totals: Option<Totals>,
}

impl Directory {
    pub(super) fn entries(&self) -> &BTreeMap<Arc<[u8]>, Node> {
        &self.entries
    }

    /// The entries, to be changed.
    fn change(&mut self) -> &mut BTreeMap<Arc<[u8]>, Node> {
        (self.line, self.totals) = (None, None);
        &mut self.entries
    }

    /// The entries, of which only what is inside directories may be changed.
    pub(super) fn descend(&mut self) -> &mut BTreeMap<Arc<[u8]>, Node> {
        self.totals = None;
        &mut self.entries
    }

    pub(super) fn line(&self) -> Option<&Line> {
        self.line.as_ref()
    }

    pub(super) fn totals(&self) -> Option<&Totals> {
        self.totals.as_ref()
    }

    /// Notes what follows from the entries as they are.
    pub(super) fn note_line(&mut self, line: Line) {
        self.line = Some(line);
    }

    /// Notes what follows from the entries and all below as they are.
    pub(super) fn note_totals(&mut self, totals: Totals) {
        self.totals = Some(totals);
    }

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
            self.change().clear();
            return Ok(());
        };
        let mut directory = self;
        for parent in parents.split('/').filter(|parent| !parent.is_empty()) {
            directory = match directory.descend().get_mut(parent.as_bytes()) {
                None => return Ok(()),
                Some(Node::File(_)) => return Err(Refusal::RemoveUnderFile { target: target.to_owned() }),
                Some(Node::Directory(directory)) => Arc::make_mut(directory),
            };
        }
        if directory.entries.contains_key(name.as_bytes()) {
            directory.change().remove(name.as_bytes());
        }
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
        directory.change().insert(name.as_bytes().into(), node);
        Ok(())
    }

    /// A sub-directory, made if there is none. `None`: it is a file.
    pub(super) fn subdirectory(&mut self, name: &[u8]) -> Option<&mut Directory> {
        // Looked up first: the name need not be copied for a directory that is there.
        if !self.entries.contains_key(name) {
            self.change().insert(name.into(), Node::Directory(Arc::default()));
        }
        match self.descend().get_mut(name) {
            Some(Node::Directory(directory)) => Some(Arc::make_mut(directory)),
            _ => None,
        }
    }

    /// The pieces of a file, made if there is none. `None`: it is a directory.
    pub(super) fn file(&mut self, name: &[u8]) -> Option<&mut Pieces> {
        let node = match self.change().entry(name.into()) {
            Entry::Vacant(entry) => entry.insert(Node::File(Pieces::None)),
            Entry::Occupied(entry) => entry.into_mut(),
        };
        match node {
            Node::File(pieces) => Some(pieces),
            Node::Directory(_) => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives an empty directory its files, in the order of their names.
    pub(super) fn fill<'n>(&mut self, files: impl Iterator<Item = (&'n [u8], Pieces)>) {
        *self.change() = files.map(|(name, pieces)| (name.into(), Node::File(pieces))).collect();
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&[u8], &[FilePiece])> {
        self.entries.iter().filter_map(|(name, node)| match node {
            Node::File(pieces) => Some((&**name, pieces.as_slice())),
            Node::Directory(_) => None,
        })
    }

    pub(super) fn directories(&self) -> impl Iterator<Item = (&[u8], &Directory)> {
        self.entries.iter().filter_map(|(name, node)| match node {
            Node::Directory(directory) => Some((&**name, &**directory)),
            Node::File(_) => None,
        })
    }

    /// The text in the Go form.
    pub(super) fn to_manifest(&self) -> String {
        let mut text = String::new();
        let mut path = b".".to_vec();
        let mut writer = Writer::new(Form::Go, &mut text);
        self.write(&mut writer, &mut path);
        text
    }

    fn write<'t>(&'t self, writer: &mut Writer<'_, Named<'t>>, path: &mut Vec<u8>) {
        if self.entries.is_empty() && path.len() > 1 {
            writer.empty_directory(path);
        }
        self.write_files(writer, path, |text, Named(block)| text.push_str(&block.locator));
        for (name, directory) in self.directories() {
            let length = path.len();
            path.push(b'/');
            path.extend_from_slice(name);
            directory.write(writer, path);
            path.truncate(length);
        }
    }

    /// Writes the line of the files, if there are any.
    pub(super) fn write_files<'t>(
        &'t self,
        writer: &mut Writer<'_, Named<'t>>,
        path: &[u8],
        push_locator: impl FnMut(&mut String, Named<'t>),
    ) {
        if self.files().next().is_some() {
            let piece = |piece: &'t FilePiece| Piece {
                block: Named(&piece.block),
                block_size: piece.block.size,
                offset: piece.offset,
                length: piece.length,
            };
            let files = self.files().map(|(name, pieces)| (name, pieces.iter().map(piece)));
            writer.stream(path, files, push_locator);
        }
    }

    /// See [`super::Replaced::ambiguous`].
    pub(super) fn is_ambiguous(&self) -> bool {
        // Lines and totals are noted where all is of one origin.
        if self.totals.is_some() {
            return false;
        }
        (self.line.is_none() && self.has_ambiguous_files())
            || self.directories().any(|(_, directory)| directory.is_ambiguous())
    }

    fn has_ambiguous_files(&self) -> bool {
        let mut last: Option<&FilePiece> = None;
        for piece in self.files().flat_map(|(_, pieces)| pieces) {
            if let Some(FilePiece { block: last, .. }) = last.replace(piece)
                && last.origin != piece.block.origin
                && last.locator.get(..32) == piece.block.locator.get(..32)
                && strip_signature(&last.locator) == strip_signature(&piece.block.locator)
            {
                return true;
            }
        }
        false
    }

    /// Calls `change` for every piece of the tree.
    pub(super) fn for_each_piece(&mut self, change: &mut impl FnMut(&mut FilePiece)) {
        for node in self.change().values_mut() {
            match node {
                Node::File(pieces) => pieces.as_mut_slice().iter_mut().for_each(&mut *change),
                Node::Directory(directory) => Arc::make_mut(directory).for_each_piece(change),
            }
        }
    }

    /// Calls `change` for every piece of its own files, for changes that keep what is noted true.
    pub(super) fn for_each_own_piece(&mut self, mut change: impl FnMut(&mut FilePiece)) {
        for node in self.entries.values_mut() {
            if let Node::File(pieces) = node {
                pieces.as_mut_slice().iter_mut().for_each(&mut change);
            }
        }
    }
}
