//! Finding the path to blame when a server refuses a group of changes.
//!
//! Halves of the group are tried one after the other, each on what the ones before have led to ([`super::graft`]), and a half
//! that is refused is halved again, until one path stands alone. A directory that came as one change is taken apart as well.
//! Each path to blame costs about two requests for every halving, so twice the logarithm of the number of paths.
//!
//! What only goes away comes last, and stays where it is if its content is that of a path to blame: then it was moved there,
//! and the server would be left with neither.

use super::edits::Edits;
use super::touched::{Depth, Touched};
use crate::tree::path::join;
use crate::tree::{NodeId, Snapshot, same_content};
use std::collections::HashMap;

/// See the module's essay. Pure: who sends the parts tells what became of them.
pub struct Parts {
    base: Snapshot,
    target: Snapshot,
    /// The next one is the last.
    pending: Vec<Part>,
    /// What stood alone, each with what was moved there.
    blamed: Vec<Touched>,
}

/// Some of the changes.
pub struct Part {
    pub paths: Touched,
    /// They are gone from the target, with all that was in them.
    are_gone: bool,
}

impl Parts {
    /// Of a group that was refused as a whole: `edits` makes `base` into `target`.
    pub fn of(base: &Snapshot, target: &Snapshot, edits: &Edits) -> Parts {
        let (mut there, mut gone) = (Touched::default(), Touched::default());
        for (path, depth) in edits.touched().iter() {
            if target.find(path).is_some() { there.touch(path, depth) } else { gone.touch(path, Depth::Tree) }
        }
        let mut parts = Parts { base: base.clone(), target: target.clone(), pending: Vec::new(), blamed: Vec::new() };
        let (there, gone) = (Part { paths: there, are_gone: false }, Part { paths: gone, are_gone: true });
        match (there.paths.is_empty(), gone.paths.is_empty()) {
            (false, false) => parts.pending.extend([gone, there]),
            // This very part was refused.
            (false, true) => drop(parts.halve(there)),
            (true, _) => drop(parts.halve(gone)),
        }
        parts
    }

    /// The next part to be tried.
    pub fn take(&mut self) -> Option<Part> {
        while let Some(mut part) = self.pending.pop() {
            if part.are_gone {
                self.hold_what_was_moved(&mut part.paths);
            }
            if !part.paths.is_empty() {
                return Some(part);
            }
        }
        None
    }

    /// A part was refused. `true`: it stands alone, and is to blame.
    pub fn was_refused(&mut self, part: Part) -> bool {
        let alone = self.halve(part);
        let stands_alone = alone.is_some();
        // As a tree: it is put back with all that the server has there.
        let blamed = alone.map(|part| part.paths.iter().map(|(path, _)| (path, Depth::Tree)).collect());
        self.blamed.extend(blamed);
        stands_alone
    }

    /// The paths to blame so far, in the order in which they were found, each with what has to stay because of it.
    pub fn blamed(&self) -> &[Touched] {
        &self.blamed
    }

    /// Puts both halves of a part before all others; returns it if it has none.
    fn halve(&mut self, part: Part) -> Option<Part> {
        let Part { mut paths, are_gone } = part;
        loop {
            if let Some((first, second)) = paths.halves() {
                self.pending.extend([second, first].map(|paths| Part { paths, are_gone }));
                return None;
            }
            let mut inside = Touched::default();
            for (path, depth) in paths.iter() {
                self.inside(path, depth).iter().for_each(|path| inside.touch(path, Depth::Tree));
            }
            if inside.is_empty() {
                return Some(Part { paths, are_gone });
            }
            paths = inside;
        }
    }

    /// What is in a directory that came as one change.
    fn inside(&self, path: &[u8], depth: Depth) -> Vec<Vec<u8>> {
        let directory = self.target.find(path).filter(|_| depth == Depth::Tree);
        let children = directory.into_iter().flat_map(|directory| self.target.children(directory));
        children.map(|child| join(path, self.target.name(child))).collect()
    }

    /// Takes out of `gone` whose content is now that of a path to blame.
    fn hold_what_was_moved(&mut self, gone: &mut Touched) {
        let mut by_size: HashMap<u64, Vec<(NodeId, usize)>> = HashMap::new();
        for (index, blamed) in self.blamed.iter().enumerate() {
            for file in blamed.iter().flat_map(|(path, _)| files_at(&self.target, path)) {
                by_size.entry(self.target.size(file)).or_default().push((file, index));
            }
        }
        by_size.remove(&0);
        if by_size.is_empty() {
            return;
        }
        let paths: Vec<Vec<u8>> = gone.iter().map(|(path, _)| path.to_vec()).collect();
        for path in paths {
            let moved = files_at(&self.base, &path).into_iter().find_map(|file| {
                let found = by_size.get(&self.base.size(file))?;
                found.iter().find(|(other, _)| same_content(&self.base, file, &self.target, *other))
            });
            if let Some((_, index)) = moved
                && let Some(blamed) = self.blamed.get_mut(*index)
            {
                gone.remove(&path);
                blamed.touch(&path, Depth::Tree);
            }
        }
    }
}

/// The file at a path, or all that are below it.
fn files_at(tree: &Snapshot, path: &[u8]) -> Vec<NodeId> {
    let mut pending: Vec<NodeId> = tree.find(path).into_iter().collect();
    let mut files = Vec::new();
    while let Some(node) = pending.pop() {
        if tree.is_directory(node) {
            pending.extend(tree.children(node));
        } else {
            files.push(node);
        }
    }
    files
}
