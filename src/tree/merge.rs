//! Three-way merge: what somebody else saved, applied to what we have.
//!
//! The rules are `arv-mount`'s (`arv-mount.md` 3.4), with `base` the last state both sides know, `mine` the local one and
//! `theirs` what the server has now:
//!
//! | theirs, seen from base | mine | result |
//! |---|---|---|
//! | added | has no such path | theirs is added |
//! | changed | as in base | theirs takes its place |
//! | removed | as in base | removed |
//! | removed | changed, or gone too | mine stays; of a directory, what is changed in it |
//! | added or changed | has the same content by now | nothing |
//! | added or changed | has something else, or removed it | mine stays, and theirs is put beside it under a conflict name |
//!
//! So both sides are kept, always. Where `arv-mount` does worse, we do not follow: a directory that both sides have made is
//! merged entry by entry instead of being a conflict as a whole; and equal bytes in different blocks are no conflict, if the
//! caller, who may have the bytes, says so.
//!
//! The result is made of edits on `mine`, so that open handles keep their nodes.

use super::diff::{pair_children, same_content, starts_with};
use super::edit::{EditError, Editor};
use super::{Kind, NodeId, Snapshot};
use chrono::{DateTime, TimeDelta, Utc};

/// The result of a merge.
pub struct Merge {
    /// `mine`, with what `theirs` brought.
    pub snapshot: Snapshot,
    /// Where both sides have changed the same path.
    pub conflicts: Vec<Conflict>,
}

/// A path that both sides have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The path, which has our content, or is gone because we removed it.
    pub path: Vec<u8>,
    /// Where their content is now, in the same directory.
    pub kept_as: Vec<u8>,
}

/// The greatest length of a name in bytes that the kernel takes.
const MAX_NAME: usize = 255;

/// Merges. `time` goes into the names of conflicts. `same_bytes` is asked about a file of `mine` and one of `theirs` that have
/// the same size but lie in different blocks, so that hashes do not tell; when in doubt it says no.
pub fn merge(
    base: &Snapshot,
    mine: &Snapshot,
    theirs: &Snapshot,
    time: DateTime<Utc>,
    same_bytes: impl FnMut(NodeId, NodeId) -> bool,
) -> Result<Merge, EditError> {
    let mut editor = mine.edit();
    editor.renew_signatures(theirs);
    let mut merger =
        Merger { base, mine, theirs, time, same_bytes, editor, conflicts: Vec::new(), pending: Vec::new() };
    merger.pending.push(Pair { base: Some(NodeId::ROOT), theirs: NodeId::ROOT, place: Place::Node(NodeId::ROOT) });
    while let Some(pair) = merger.pending.pop() {
        merger.directory(pair)?;
    }
    Ok(Merge { snapshot: merger.editor.finish(), conflicts: merger.conflicts })
}

/// A directory of `theirs` that is to be merged.
struct Pair {
    base: Option<NodeId>,
    theirs: NodeId,
    place: Place,
}

/// Where it is in the result.
enum Place {
    Node(NodeId),
    /// We have removed it: made again, with the directories above it, when something of theirs needs it.
    Removed {
        above: NodeId,
        names: Vec<Vec<u8>>,
    },
}

impl Place {
    /// The place of a directory in this one that is not there.
    fn below(&self, name: &[u8]) -> Place {
        let (above, mut names) = match self {
            Place::Node(directory) => (*directory, Vec::new()),
            Place::Removed { above, names } => (*above, names.clone()),
        };
        names.push(name.to_vec());
        Place::Removed { above, names }
    }
}

struct Merger<'s, S> {
    base: &'s Snapshot,
    mine: &'s Snapshot,
    theirs: &'s Snapshot,
    time: DateTime<Utc>,
    same_bytes: S,
    editor: Editor,
    conflicts: Vec<Conflict>,
    pending: Vec<Pair>,
}

impl<S: FnMut(NodeId, NodeId) -> bool> Merger<'_, S> {
    fn directory(&mut self, pair: Pair) -> Result<(), EditError> {
        let Pair { base, theirs, mut place } = pair;
        for (before, after) in pair_children(self.base, base, self.theirs, Some(theirs)) {
            let name = match (before, after) {
                (_, Some(node)) => self.theirs.name(node),
                (Some(node), None) => self.base.name(node),
                (None, None) => continue,
            };
            let name = name.to_vec();
            let local = match &place {
                Place::Node(directory) => self.editor.snapshot().lookup(*directory, &name),
                Place::Removed { .. } => None,
            };
            match after {
                Some(after) => self.kept_or_new(before, after, local, &mut place, &name)?,
                None => self.removed(before, local, &place, &name)?,
            }
        }
        Ok(())
    }

    /// They have the path.
    fn kept_or_new(
        &mut self,
        before: Option<NodeId>,
        after: NodeId,
        local: Option<NodeId>,
        place: &mut Place,
        name: &[u8],
    ) -> Result<(), EditError> {
        let their_directory = self.theirs.is_directory(after);
        let base_directory = before.filter(|&node| self.base.is_directory(node));
        match local {
            // Directories on all sides that have one: what differs is inside.
            Some(local) if their_directory && self.editor.snapshot().is_directory(local) => {
                self.pending.push(Pair { base: base_directory, theirs: after, place: Place::Node(local) });
                Ok(())
            }
            None if their_directory && base_directory.is_some() => {
                let place = place.below(name);
                self.pending.push(Pair { base: base_directory, theirs: after, place });
                Ok(())
            }
            _ if before.is_some_and(|before| same_content(self.base, before, self.theirs, after)) => Ok(()),
            None if before.is_none() => {
                let parent = self.made(place)?;
                self.editor.copy(self.theirs, after, parent, name).map(drop)
            }
            Some(local) if self.same(local, after) => Ok(()),
            Some(local) if before.is_some_and(|before| self.unchanged(before, local)) => {
                let parent = self.made(place)?;
                self.replace(parent, name, local, after)
            }
            _ => {
                let parent = self.made(place)?;
                self.conflict(parent, name, after)
            }
        }
    }

    /// They have removed the path.
    fn removed(
        &mut self,
        before: Option<NodeId>,
        local: Option<NodeId>,
        place: &Place,
        name: &[u8],
    ) -> Result<(), EditError> {
        let (Some(before), Some(local), Place::Node(directory)) = (before, local, place) else { return Ok(()) };
        if self.unchanged(before, local) {
            self.editor.remove(*directory, name)?;
        } else if self.base.is_directory(before) && self.editor.snapshot().is_directory(local) {
            self.removed_inside(before, local)?;
            if self.editor.snapshot().children(local).next().is_none() {
                self.editor.remove(*directory, name)?;
            }
        }
        Ok(())
    }

    /// They have removed a directory in which something was changed here: what was not goes. Paths are as deep as the kernel takes
    /// them at most, so recursion is no danger.
    fn removed_inside(&mut self, before: NodeId, local: NodeId) -> Result<(), EditError> {
        for child in self.base.children(before) {
            let name = self.base.name(child);
            if let Some(here) = self.editor.snapshot().lookup(local, name) {
                self.removed(Some(child), Some(here), &Place::Node(local), name)?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, parent: NodeId, name: &[u8], local: NodeId, after: NodeId) -> Result<(), EditError> {
        // A file that only grew stays the node it is. Otherwise who has it open goes on with the old content.
        if starts_with(self.theirs, after, self.editor.snapshot(), local) {
            let pieces: Vec<_> = self.theirs.pieces(after).collect();
            return self.editor.set_content(local, &pieces);
        }
        self.editor.remove(parent, name)?;
        self.editor.copy(self.theirs, after, parent, name).map(drop)
    }

    fn conflict(&mut self, parent: NodeId, name: &[u8], after: NodeId) -> Result<(), EditError> {
        let mut time = self.time;
        let kept_as = loop {
            let candidate = conflict_name(name, time);
            match self.editor.snapshot().lookup(parent, &candidate) {
                None => break candidate,
                // The same conflict, met again by a second attempt.
                Some(taken) if same_content(self.editor.snapshot(), taken, self.theirs, after) => break candidate,
                Some(_) => time += TimeDelta::seconds(1),
            }
        };
        let directory = self.editor.snapshot().path(parent);
        let path =
            |name: &[u8]| if directory.is_empty() { name.to_vec() } else { [&directory, &b"/"[..], name].concat() };
        self.conflicts.push(Conflict { path: path(name), kept_as: path(&kept_as) });
        if self.editor.snapshot().lookup(parent, &kept_as).is_none() {
            self.editor.copy(self.theirs, after, parent, &kept_as)?;
        }
        Ok(())
    }

    /// The directory of a place, made if we had removed it.
    fn made(&mut self, place: &mut Place) -> Result<NodeId, EditError> {
        let directory = match place {
            Place::Node(directory) => return Ok(*directory),
            Place::Removed { above, names } => {
                let mut directory = *above;
                for name in names {
                    directory = match self.editor.snapshot().lookup(directory, name) {
                        Some(child) => child,
                        None => self.editor.make_directory(directory, name)?,
                    };
                }
                directory
            }
        };
        *place = Place::Node(directory);
        Ok(directory)
    }

    fn unchanged(&self, before: NodeId, local: NodeId) -> bool {
        same_content(self.base, before, self.editor.snapshot(), local)
    }

    fn same(&mut self, local: NodeId, after: NodeId) -> bool {
        let state = self.editor.snapshot();
        if same_content(state, local, self.theirs, after) {
            return true;
        }
        let (a, b) = (state.entry(local), self.theirs.entry(after));
        // What this merge has put there is theirs, and the caller does not know it.
        let files = a.is_some_and(|entry| entry.kind == Kind::File) && self.mine.entry(local).is_some();
        files && a == b && (self.same_bytes)(local, after)
    }
}

/// `name~YYYYMMDD-HHMMSS~conflict~`, as today's clients have it; a name that would get too long for the kernel is cut.
pub fn conflict_name(name: &[u8], time: DateTime<Utc>) -> Vec<u8> {
    let suffix = time.format("~%Y%m%d-%H%M%S~conflict~").to_string();
    let mut end = name.len().min(MAX_NAME.saturating_sub(suffix.len()));
    while end < name.len() && end > 0 && name[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    [&name[..end], suffix.as_bytes()].concat()
}
