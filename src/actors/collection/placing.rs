//! The two halves of a move from one collection to another: it is placed in the one, and then taken away in the other.
//!
//! Only names and references go from here to there; unsaved files are shared until the move is over. Between the halves either
//! collection goes on: its saves end, others' changes are merged, somebody writes to a file, or makes another with its name. So what
//! is taken away is compared with what was placed, and where it is something else by then, the caller places it again, in the
//! place of what he has placed before. Only what was in a file when it was placed has surely come to the other collection's journal.

use crate::actors::Error;
use crate::actors::collection::CollectionActor;
use crate::actors::collection::draft::Draft;
use crate::actors::collection::merging::nodes_below;
use crate::actors::collection::moving::Transit;
use crate::actors::collection::operation::Edit;
use crate::actors::collection::state::CollectionState;
use crate::tree::commit::Depth;
use crate::tree::{NodeId, consists_of, same_content};
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::sync::Arc;

/// A file or a directory on its way from one collection to another: names and references, no bytes.
#[derive(Clone)]
pub struct Moved {
    pub state: Arc<CollectionState>,
    pub node: NodeId,
    pub transit: Arc<Transit>,
    /// Of the unsaved files in it: what was in them.
    generations: Arc<HashMap<u32, u64>>,
}

impl Moved {
    /// As it is now.
    pub fn new(state: Arc<CollectionState>, node: NodeId, transit: Arc<Transit>) -> Moved {
        let nodes = if state.drafts.is_empty() { Vec::new() } else { nodes_below(&state.snapshot, node) };
        let numbers = nodes.iter().map(|node| state.number(*node));
        let generation = |number: u32| Some((number, state.draft(number)?.file.generation()));
        let generations = Arc::new(numbers.filter_map(generation).collect());
        Moved { state, node, transit, generations }
    }

    /// Is the unsaved file one that is moved, and as it was?
    fn has(&self, number: u32, draft: &Draft) -> bool {
        let is_same = |moved: &Arc<Draft>| Arc::ptr_eq(&moved.file, &draft.file);
        self.state.draft(number).is_some_and(is_same) && self.generations.get(&number) == Some(&draft.file.generation())
    }

    fn is_directory(&self) -> bool {
        self.state.snapshot.is_directory(self.node)
    }

    /// Is it what is there? What was saved since is the same file, with another layout.
    fn is(&self, state: &CollectionState, node: NodeId) -> bool {
        let (before, now) = (&self.state.snapshot, &state.snapshot);
        let mut pending = vec![(self.node, node)];
        while let Some((old, new)) = pending.pop() {
            if before.is_directory(old) != now.is_directory(new) {
                return false;
            }
            if !before.is_directory(old) {
                let number = self.state.number(old);
                let is_as_saved = || {
                    let draft = self.state.draft(number).filter(|draft| self.has(number, draft));
                    let pieces = draft.and_then(|draft| draft.file.stored());
                    pieces.is_some_and(|pieces| consists_of(now, new, &pieces))
                };
                if !same_content(before, old, now, new) && !is_as_saved() {
                    return false;
                }
                continue;
            }
            let (mut olds, mut news) = (before.children(old), now.children(new));
            loop {
                match (olds.next(), news.next()) {
                    (None, None) => break,
                    (Some(old), Some(new)) if before.name(old) == now.name(new) => pending.push((old, new)),
                    _ => return false,
                }
            }
        }
        true
    }
}

/// Times and unsaved data of what was moved from another collection come along, the data by reference.
fn hand_over(edit: &mut Edit, moved: &Moved, top: NodeId) {
    let mut pending = vec![(moved.node, top)];
    while let Some((old, new)) = pending.pop() {
        let (old_number, number) = (moved.state.number(old), edit.state.number(new));
        edit.state.numbers.set_modified(number, moved.state.modified(old_number));
        // Also what was saved meanwhile: the tree that is moved along does not have that yet.
        if let Some(draft) = moved.state.draft(old_number) {
            edit.state.drafts.insert(number, Arc::new(Draft::unsaved(draft.file.clone())));
        }
        let (before, now) = (&moved.state.snapshot, edit.editor.snapshot());
        if before.is_directory(old) {
            pending.extend(before.children(old).zip(now.children(new)));
        }
    }
}

impl CollectionActor {
    /// Puts it at the name. `placed`: what the caller has put there before, with the number that it got.
    pub(super) fn place(
        &self,
        edit: &mut Edit,
        (parent, name): (u32, &[u8]),
        moved: &Moved,
        (keep, placed): (bool, Option<(u32, Moved)>),
        now: DateTime<Utc>,
    ) -> Result<NodeId, Error> {
        let directory = edit.directory(parent)?;
        self.check_not_held(&edit.path(directory, name))?;
        let mut was_durable = false;
        if let Some(target) = edit.snapshot().lookup(directory, name) {
            let is_placed = |(number, before): &(u32, Moved)| {
                edit.state.number(target) == *number && before.is(&edit.state, target)
            };
            if !placed.as_ref().is_some_and(is_placed) {
                if keep {
                    return Err(Error::Exists);
                }
                edit.check_replace(target, moved.is_directory())?;
            }
            was_durable = edit.is_durable(target);
            let replaced = nodes_below(edit.snapshot(), target);
            edit.editor.remove(directory, name)?;
            for node in replaced {
                edit.drop_drafts_of(node, &self.cell.shared().open);
            }
        }
        let is_written = |number: &u32| moved.state.draft(*number).is_some_and(|draft| draft.is_open());
        if moved.generations.keys().any(is_written) {
            // Who writes to it writes into the collection that it is in: the caller copies instead.
            return Err(Error::CrossDevice);
        }
        let node = edit.editor.copy(&moved.state.snapshot, moved.node, directory, name)?;
        let path = edit.path(directory, name);
        edit.touch(path, Depth::Tree);
        edit.stamp(directory, now);
        hand_over(edit, moved, node);
        edit.be_as_durable(node, was_durable);
        Ok(node)
    }

    /// Takes away what was placed elsewhere: [`Error::Busy`] if it is something else by now, or somebody writes to it. Returns the
    /// path that it had.
    pub(super) fn take(
        &self,
        edit: &mut Edit,
        (parent, name): (u32, &[u8]),
        moved: &Moved,
        now: DateTime<Utc>,
    ) -> Result<(NodeId, Vec<u8>), Error> {
        let directory = edit.directory(parent)?;
        let node = edit.snapshot().lookup(directory, name).ok_or(Error::NotFound)?;
        if !moved.is(&edit.state, node) {
            return Err(Error::Busy);
        }
        let mut drafts: Vec<(u32, Arc<Draft>)> = Vec::new();
        for below in nodes_below(edit.snapshot(), node) {
            let number = edit.state.number(below);
            let Some(draft) = edit.state.draft(number) else { continue };
            if draft.is_open() || (draft.is_changed() && !moved.has(number, draft)) {
                return Err(Error::Busy);
            }
            drafts.push((number, draft.clone()));
        }
        let path = edit.path(directory, name);
        self.check_not_held(&path)?;
        edit.editor.remove(directory, name)?;
        edit.touch(path.clone(), Depth::Entry);
        edit.stamp(directory, now);
        for (number, draft) in drafts {
            // Its bytes belong to the other collection now: nothing is discarded.
            draft.hand_over();
            if !self.cell.shared().open.contains(number) {
                edit.state.drafts.remove(&number);
            }
        }
        Ok((node, path))
    }
}
