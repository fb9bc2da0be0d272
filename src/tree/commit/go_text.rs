//! The text that the server will store, kept line by line.
//!
//! Lines are in a persistent map in the order of the Go form, so a prediction shares all of them with the state that it
//! comes from, and costs the lines of the directories that change and one MD5 pass. Directories that have a line are
//! those with files and those without entries; the others are only seen in the paths of what is in them.
//!
//! What must stay true: the lines are those of the server's *next* rewrite if nothing changes, and a prediction, once
//! committed, leaves them so.

use super::edits::{Edits, Now};
use super::line::{Lines, Origin, empty_directory, lines};
use super::path_key::PathKey;
use crate::keep::{BlockHash, PortableDataHash};
use crate::tree::path::{ancestors, join, split};
use crate::tree::{Kind, NodeId, Snapshot};
use imbl::OrdMap;
use md5::{Digest, Md5};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Seconds by which the clocks of client and server, and the moments of a prediction and of the request, may be apart. Within
/// these our signature may turn out to be the server's own (`protocol.md` 5.5, "ambiguous").
pub const SAME_SECOND_MARGIN: u64 = 60;

/// A directory's part of the text, with its newline.
#[derive(Clone, PartialEq, Eq)]
enum Line {
    Files(Arc<str>),
    Empty(Arc<str>),
}

impl Line {
    fn text(&self) -> &str {
        match self {
            Line::Files(text) | Line::Empty(text) => text,
        }
    }
}

type Text = OrdMap<PathKey, Line>;

/// The portable text of a collection in the form that the server gives it at the next `replace_files`. Cloning shares it.
#[derive(Clone)]
pub struct GoText {
    text: Text,
}

/// What a request will make the server store.
pub struct Prediction {
    /// The portable data hash of the text.
    pub hash: PortableDataHash,
    /// Whether the server may list a block once that is predicted twice, because our signature may be of the second in which
    /// it will sign. Then the hash must not be sent as a condition.
    pub ambiguous: bool,
    /// The latest expiry of our signatures on blocks that also stand next to them in the collection, in seconds since 1970.
    /// `None`: there are none, and the prediction does not depend on the time.
    pub newest_doubtful_expiry: Option<u64>,
    /// How many lines were written anew: the cost, but for the MD5 pass.
    pub rewritten_lines: usize,
    settled: Text,
}

/// What the edits do in one directory.
#[derive(Default)]
struct Parent<'e> {
    /// Files came or went.
    files: bool,
    /// The files that we send.
    sent: BTreeSet<&'e [u8]>,
}

impl GoText {
    /// The text of a tree. Costs a pass over all of it: once after each load.
    pub fn of(tree: &Snapshot) -> GoText {
        let mut rewrite = Rewrite::of(tree, Text::new());
        rewrite.subtree(NodeId::ROOT, Origin::Current);
        GoText { text: rewrite.settled }
    }

    /// The hash of the text if a request rewrites it and changes nothing.
    pub fn hash(&self) -> PortableDataHash {
        hash(&self.text)
    }

    /// What the server will store after `edits` have made of it `target`: these are the arguments and the result of
    /// [`super::edits`], with the tree as `base` that this is the text of.
    ///
    /// * `now_expiry`: when a signature expires that the server makes now, in seconds since 1970 (now + the cluster's
    ///   `BlobSigningTTL`, at most the collection's `trash_at`). `None`, not known: every case that depends on it
    ///   is ambiguous. Locators without signature, of a cluster that does not sign, never are.
    pub fn predict(&self, target: &Snapshot, edits: &Edits, now_expiry: Option<u64>) -> Prediction {
        let mut rewrite = Rewrite::of(target, self.text.clone());
        let mut parents: BTreeMap<&[u8], Parent<'_>> = BTreeMap::new();
        for (path, change) in edits.changes() {
            let (directory, name) = split(path);
            let parent = parents.entry(directory).or_default();
            parent.files |= change.was == Some(Kind::File) || change.now == Now::File;
            if change.now == Now::File {
                parent.sent.insert(name);
            }
            if change.was == Some(Kind::Directory) {
                rewrite.remove_subtree(path);
            }
            if change.now != Now::Gone {
                ancestors(path).for_each(|directory| rewrite.remove_mark(directory));
            }
        }
        for (path, change) in edits.changes() {
            match change.now {
                Now::Gone | Now::File => {}
                Now::EmptyDirectory => rewrite.mark_empty(path),
                Now::Tree => {
                    if let Some(directory) = target.find(path) {
                        rewrite.subtree(directory, Origin::Text);
                    }
                }
            }
        }
        for (path, parent) in &parents {
            rewrite.directory(path, parent);
        }
        let mut text = rewrite.settled.clone();
        for (path, line) in rewrite.at_first {
            text.insert(path, Line::Files(line));
        }
        let near = |expiry: &u64| now_expiry.is_none_or(|now| now.abs_diff(*expiry) <= SAME_SECOND_MARGIN);
        Prediction {
            hash: hash(&text),
            ambiguous: rewrite.doubtful.iter().any(near),
            newest_doubtful_expiry: rewrite.doubtful.last().copied(),
            rewritten_lines: rewrite.rewritten,
            settled: rewrite.settled,
        }
    }

    /// Takes over what was predicted from this text, once the server has stored it.
    pub fn commit(&mut self, prediction: Prediction) {
        self.text = prediction.settled;
    }

    /// The portable text in one piece.
    pub fn to_text(&self) -> String {
        self.text.values().map(Line::text).collect()
    }

    /// Bytes of memory, about.
    pub fn memory_bytes(&self) -> usize {
        let per_line = size_of::<PathKey>() + size_of::<Line>() + 4 * size_of::<usize>();
        self.text.values().map(|line| line.text().len() + per_line).sum()
    }
}

fn hash(text: &Text) -> PortableDataHash {
    let mut hasher = Md5::new();
    let mut size = 0;
    for line in text.values() {
        hasher.update(line.text());
        size += line.text().len() as u64;
    }
    PortableDataHash { hash: BlockHash(hasher.finalize().into()), size }
}

/// A text on its way to what it will be.
struct Rewrite<'s> {
    target: &'s Snapshot,
    settled: Text,
    /// Lines that the request makes different from those in which they settle.
    at_first: BTreeMap<PathKey, Arc<str>>,
    doubtful: BTreeSet<u64>,
    rewritten: usize,
}

impl<'s> Rewrite<'s> {
    fn of(target: &'s Snapshot, settled: Text) -> Rewrite<'s> {
        Rewrite { target, settled, at_first: BTreeMap::new(), doubtful: BTreeSet::new(), rewritten: 0 }
    }

    fn remove_subtree(&mut self, path: &[u8]) {
        self.settled.remove(&PathKey::new(path));
        let inside = join(path, b"");
        let below = self.settled.range(PathKey::new(&inside)..).map(|(key, _)| key.clone());
        let below: Vec<_> = below.take_while(|key| key.is_below(&inside)).collect();
        for key in below {
            self.settled.remove(&key);
        }
    }

    /// A directory that gets an entry is not marked as empty any more.
    fn remove_mark(&mut self, directory: &[u8]) {
        let key = PathKey::new(directory);
        if matches!(self.settled.get(&key), Some(Line::Empty(_))) {
            self.settled.remove(&key);
        }
    }

    fn mark_empty(&mut self, path: &[u8]) {
        if !path.is_empty() {
            self.rewritten += 1;
            self.settled.insert(PathKey::new(path), Line::Empty(Arc::from(empty_directory(path))));
        }
    }

    /// The line of a directory with edits in it.
    fn directory(&mut self, path: &[u8], parent: &Parent<'_>) {
        let key = PathKey::new(path);
        if !parent.files && matches!(self.settled.get(&key), Some(Line::Files(_))) {
            return;
        }
        self.settled.remove(&key);
        let Some(directory) = self.target.find(path).filter(|&node| self.target.is_directory(node)) else { return };
        if self.target.children(directory).next().is_none() {
            return self.mark_empty(path);
        }
        if parent.files {
            let origin = |name: &[u8]| if parent.sent.contains(name) { Origin::Text } else { Origin::Current };
            self.files(path, directory, origin);
        }
    }

    fn files(&mut self, path: &[u8], directory: NodeId, origin: impl FnMut(&[u8]) -> Origin) {
        let Some(Lines { settled, at_first, doubtful }) = lines(self.target, directory, path, origin) else { return };
        let key = PathKey::new(path);
        self.rewritten += 1;
        self.doubtful.extend(doubtful);
        if let Some(line) = at_first {
            self.at_first.insert(key.clone(), Arc::from(line));
        }
        self.settled.insert(key, Line::Files(Arc::from(settled)));
    }

    /// The lines of a directory and of all below it.
    fn subtree(&mut self, directory: NodeId, origin: Origin) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            let mut any = false;
            let mut files = false;
            for child in self.target.children(directory) {
                any = true;
                match self.target.is_directory(child) {
                    true => pending.push(child),
                    false => files = true,
                }
            }
            if any && !files {
                continue;
            }
            let path = self.target.path(directory);
            match files {
                true => self.files(&path, directory, |_| origin),
                false => self.mark_empty(&path),
            }
        }
    }
}
