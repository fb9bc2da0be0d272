//! From two trees and the paths that were touched to the request.
//!
//! A path is compared from the root downwards. The first place where the two trees do not have a directory each decides: all
//! that is below has changed with it, and the edit is made there. So there is never a target below a file of the server,
//! and never a target inside another that is not a deletion.
//!
//! A new directory is sent as the *files* in it, not as a directory: a directory as target would replace one of that name
//! that another client has made meanwhile, with its files. Only empty directories have to be targets themselves, and
//! large ones that were moved here as a whole are (see [`WHOLE_DIRECTORY`]).

use super::touched::{Depth, Touched};
use crate::keep::manifest::{Form, RESERVED_NAME};
use crate::tree::diff::pair_children;
use crate::tree::path::{ancestors, join, split};
use crate::tree::{EditError, Kind, NodeId, Snapshot, same_content};
use std::collections::{BTreeMap, HashSet};

/// A new directory with more entries than this, moved or copied here as a whole, is one edit. The server looks at every
/// ancestor of every target, and a request has its size limit; a directory of this size is not made twice by accident.
const WHOLE_DIRECTORY: usize = 200;

/// The option `replace_files` with what belongs to it, and what it does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Target → source, as it is to be sent. Empty: there is nothing to save.
    pub replace_files: BTreeMap<String, String>,
    /// The attribute `manifest_text`: just what is written, at its own paths, with signatures. `None`: only deletions, and
    /// then the attribute must not be sent.
    pub manifest_text: Option<String>,
    changes: BTreeMap<Vec<u8>, PathChange>,
}

/// What an edit does to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathChange {
    /// What the server has there.
    pub was: Option<Kind>,
    /// What it will have there.
    pub now: Now,
}

/// What an edit leaves at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// Nothing; or a directory, whose entries are edits of their own, in the place of a file.
    Gone,
    /// A file.
    File,
    /// A directory without entries.
    EmptyDirectory,
    /// A directory with all that is in it.
    Tree,
}

/// Why a change cannot be saved by `replace_files`. A whole manifest may do (under condition B only).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotExpressible {
    /// Targets are JSON strings, and the stored text has to be UTF-8.
    #[error("{path:?} is not UTF-8: rename it")]
    NotUtf8 {
        /// With what is not UTF-8 replaced.
        path: String,
    },
    /// The controller keeps the name for itself (`keep::replace_files`: `invalid operation`, 500).
    #[error("{path:?}: the server keeps this name for itself: rename it")]
    Reserved {
        /// The path.
        path: String,
    },
    /// More nodes than a tree can count.
    #[error("the changes are too large for one request: {0}")]
    TooLarge(#[from] EditError),
}

impl Edits {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The paths that are overwritten, created or deleted, and how. A directory that goes or comes as a whole stands for all
    /// that is in it.
    pub fn changes(&self) -> impl Iterator<Item = (&[u8], PathChange)> {
        self.changes.iter().map(|(path, &change)| (&**path, change))
    }

    /// The paths of [`Edits::changes`].
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.changes.keys().map(|path| &**path)
    }

    /// The paths as touched: what leads to the same edits again.
    pub fn touched(&self) -> Touched {
        self.changes().map(|(path, change)| (path, change.depth())).collect()
    }
}

impl PathChange {
    fn depth(self) -> Depth {
        if self.now == Now::Tree { Depth::Tree } else { Depth::Entry }
    }
}

/// The request that makes `base`, which the server has, into `target`. They may differ at the touched paths only; elsewhere
/// nothing is looked at. They need not be of one lineage: paths and contents are compared.
pub fn edits(base: &Snapshot, target: &Snapshot, touched: &Touched) -> Result<Edits, NotExpressible> {
    let mut planner = Planner { base, target, changes: BTreeMap::new(), covered: HashSet::new() };
    for (path, depth) in touched.iter() {
        planner.path(path, depth);
    }
    planner.finish()
}

struct Planner<'s> {
    base: &'s Snapshot,
    target: &'s Snapshot,
    changes: BTreeMap<Vec<u8>, PathChange>,
    /// New directories of which everything has been entered.
    covered: HashSet<Vec<u8>>,
}

type Pair = (Option<NodeId>, Option<NodeId>);

impl Planner<'_> {
    fn kinds(&self, (base, target): Pair) -> (Option<Kind>, Option<Kind>) {
        let kind =
            |tree: &Snapshot, node: Option<NodeId>| node.and_then(|node| tree.entry(node)).map(|entry| entry.kind);
        (kind(self.base, base), kind(self.target, target))
    }

    fn step(&self, (base, target): Pair, name: &[u8]) -> Pair {
        (base.and_then(|node| self.base.lookup(node, name)), target.and_then(|node| self.target.lookup(node, name)))
    }

    fn path(&mut self, path: &[u8], depth: Depth) {
        let mut above: (&[u8], Pair) = (b"", (Some(NodeId::ROOT), Some(NodeId::ROOT)));
        if path.is_empty() {
            return self.compare(path, above.1, depth);
        }
        for path in ancestors(path) {
            if self.covered.contains(path) {
                return;
            }
            let pair = self.step(above.1, split(path).1);
            match self.kinds(pair) {
                (None | Some(Kind::Directory), Some(Kind::Directory)) => above = (path, pair),
                _ => return self.found(above, path, pair, Depth::Tree),
            }
        }
        self.found(above, path, self.step(above.1, split(path).1), depth);
    }

    /// The end of the way down: `path`, in the directory `above`.
    fn found(&mut self, above: (&[u8], Pair), path: &[u8], pair: Pair, depth: Depth) {
        match (above, pair) {
            // Made and removed again. If its directory is new and has become empty, it has to be made.
            ((directory, (None, Some(node))), (None, None)) => {
                self.compare(directory, (None, Some(node)), Depth::Entry);
            }
            _ => self.compare(path, pair, depth),
        }
    }

    fn compare(&mut self, path: &[u8], pair: Pair, depth: Depth) {
        let mut pending = vec![(path.to_vec(), pair)];
        while let Some((path, pair)) = pending.pop() {
            match (self.kinds(pair), pair) {
                ((None, None), _) => {}
                ((was, None), _) => self.change(path, was, Now::Gone),
                ((Some(Kind::File), Some(Kind::File)), (Some(base), Some(target)))
                    if same_content(self.base, base, self.target, target) => {}
                ((was, Some(Kind::File)), _) => self.change(path, was, Now::File),
                ((Some(Kind::Directory), Some(Kind::Directory)), (base, target)) => {
                    if depth == Depth::Tree {
                        let pairs = pair_children(self.base, base, self.target, target);
                        pending.extend(pairs.map(|(base, target)| {
                            let name = match (base, target) {
                                (_, Some(node)) => self.target.name(node),
                                (Some(node), None) => self.base.name(node),
                                (None, None) => b"",
                            };
                            (join(&path, name), (base, target))
                        }));
                    }
                }
                ((was, Some(Kind::Directory)), (_, target)) => {
                    let directory = target.unwrap_or(NodeId::ROOT);
                    self.new_directory(path, was, directory, depth);
                }
            }
        }
    }

    /// A directory where the server has nothing or a file.
    fn new_directory(&mut self, path: Vec<u8>, was: Option<Kind>, directory: NodeId, depth: Depth) {
        if !self.covered.insert(path.clone()) {
            return;
        }
        if self.target.children(directory).next().is_none() {
            return self.change(path, was, Now::EmptyDirectory);
        }
        if depth == Depth::Tree && self.has_more_entries_than(directory, WHOLE_DIRECTORY) {
            return self.change(path, was, Now::Tree);
        }
        let mut pending = vec![(path.clone(), directory)];
        if was.is_some() {
            self.change(path, was, Now::Gone);
        }
        while let Some((path, directory)) = pending.pop() {
            for child in self.target.children(directory) {
                let path = join(&path, self.target.name(child));
                if !self.target.is_directory(child) {
                    self.change(path, None, Now::File);
                } else if self.target.children(child).next().is_none() {
                    self.change(path, None, Now::EmptyDirectory);
                } else {
                    pending.push((path, child));
                }
            }
        }
    }

    fn has_more_entries_than(&self, directory: NodeId, limit: usize) -> bool {
        let mut count = 0;
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            for child in self.target.children(directory) {
                count += 1;
                if count > limit {
                    return true;
                }
                if self.target.is_directory(child) {
                    pending.push(child);
                }
            }
        }
        false
    }

    fn change(&mut self, path: Vec<u8>, was: Option<Kind>, now: Now) {
        self.changes.insert(path, PathChange { was, now });
    }

    fn finish(self) -> Result<Edits, NotExpressible> {
        let mut replace_files = BTreeMap::new();
        let mut sources = Snapshot::empty().edit();
        let mut any = false;
        for (path, change) in &self.changes {
            let text = expressible(path)?;
            let source = match self.target.find(path).filter(|_| change.now != Now::Gone) {
                None => String::new(),
                Some(node) => {
                    if change.now == Now::Tree {
                        self.check_names_below(path, node)?;
                    }
                    let (directory, name) = split(path);
                    let mut parent = NodeId::ROOT;
                    for part in directory.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
                        parent = match sources.snapshot().lookup(parent, part) {
                            Some(known) => known,
                            None => sources.make_directory(parent, part)?,
                        };
                    }
                    sources.copy(self.target, node, parent, name)?;
                    any = true;
                    format!("manifest_text/{text}")
                }
            };
            replace_files.insert(format!("/{text}"), source);
        }
        let manifest_text = any.then(|| sources.snapshot().to_manifest(Form::Go));
        Ok(Edits { replace_files, manifest_text, changes: self.changes })
    }

    fn check_names_below(&self, path: &[u8], directory: NodeId) -> Result<(), NotExpressible> {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            for child in self.target.children(directory) {
                if std::str::from_utf8(self.target.name(child)).is_err() {
                    let below = join(path, self.target.name(child));
                    return Err(NotExpressible::NotUtf8 { path: String::from_utf8_lossy(&below).into_owned() });
                }
                if self.target.is_directory(child) {
                    pending.push(child);
                }
            }
        }
        Ok(())
    }
}

fn expressible(path: &[u8]) -> Result<&str, NotExpressible> {
    let lossy = || String::from_utf8_lossy(path).into_owned();
    let text = std::str::from_utf8(path).map_err(|_| NotExpressible::NotUtf8 { path: lossy() })?;
    match text.split('/').next() {
        Some(RESERVED_NAME) => Err(NotExpressible::Reserved { path: lossy() }),
        _ => Ok(text),
    }
}
