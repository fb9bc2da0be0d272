//! What others have saved, taken into what is shown and changed here.
//!
//! The merge itself is `tree`'s. Here are the things around it that only the collection knows. Files that were written and not
//! brought to Keep have no blocks yet by which they could be compared, so each stands in the merge as a block of its own that
//! nothing else is equal to. So does one that was written and came to what the server had: writing the same bytes is a change as any
//! other. One of which only the time was set still has its blocks, and is as good as unchanged. Where both
//! sides have a file of the same size, the bytes are compared; and open files whose place another client took are remembered, in
//! case somebody goes on writing to them.

use crate::actors::collection::aside::Reason;
use crate::actors::collection::draft::Draft;
use crate::actors::collection::operation::Operation;
use crate::actors::collection::sent::known_base;
use crate::actors::collection::state::CollectionState;
use crate::actors::collection::{CollectionActor, Writing, sent};
use crate::actors::work::Work;
use crate::actors::{Error, news};
use crate::cache::RenewLocator;
use crate::dirty::Part;
use crate::journal::Sent;
use crate::keep::manifest::Piece;
use crate::keep::{BlockHash, Locator};
use crate::tree::commit::{Depth, Touched};
use crate::tree::path::split;
use crate::tree::{Change, Conflict, Merge, NodeId, Snapshot, diff, merge, same_content};
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// What becomes of a path that both sides have changed (`--on-conflict`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Ours keeps its name, theirs goes beside it.
    #[default]
    KeepBoth,
    /// The writer gets an error, and his data stay here.
    Error,
    /// Ours takes the place of theirs.
    Overwrite,
}

/// Files up to this size are compared byte by byte before two of the same size count as a conflict.
const MOST_COMPARED: u64 = 64 << 20;

/// How often a merge is begun anew because names have changed here meanwhile.
const MOST_MERGES: u32 = 3;

/// A merge that was worked out from a state; it holds if that is still the state.
pub(super) struct Merged {
    pub(super) from: Arc<CollectionState>,
    snapshot: Snapshot,
    /// Where that differs from what is shown.
    differences: Vec<Change>,
    conflicts: Vec<Conflict>,
    /// Open files that have lost their place, with its path.
    displaced: Vec<(u32, Vec<u8>)>,
    /// Files here that have nothing but what the server had, and are not open.
    outdated: Vec<u32>,
}

/// Works out what `state` becomes when the server has `theirs`, of which `sent` is ours. `compares`: files that are not saved are
/// compared byte by byte, which may take its time.
pub(super) async fn work_out(
    writing: Arc<Writing>,
    state: Arc<CollectionState>,
    (theirs, sent): (Snapshot, Vec<Sent>),
    compares: bool,
) -> Result<Merged, Error> {
    let failed = |error| Error::Failed(format!("a merge: {error}"));
    let known = state.clone();
    let mine = tokio::task::spawn_blocking(move || mine(&known)).await.map_err(failed)??;
    let equal = match compares {
        true => equal_files(&writing, &state, &mine, &theirs).await,
        false => HashSet::new(),
    };
    let work = tokio::task::spawn_blocking(move || {
        merge_now(&state, &mine, (&theirs, &sent), Utc::now(), &equal, writing.on_conflict)
    });
    work.await.map_err(failed)?
}

/// What is here, as a merge is to see it.
fn mine(state: &CollectionState) -> Result<Snapshot, Error> {
    let mut editor = state.snapshot.edit();
    for (node, draft) in changed_files(state) {
        if let Some(pieces) = draft.file.stored() {
            editor.set_content(node, &pieces)?;
            if !draft.is_written() || !is_as_before(state, editor.snapshot(), node) {
                continue;
            }
        }
        editor.set_content(node, &unlike_any_other(draft))?;
    }
    Ok(editor.finish())
}

/// The files that have a name here and were changed in any way.
fn changed_files(state: &CollectionState) -> impl Iterator<Item = (NodeId, &Draft)> {
    state.drafts.iter().filter(|(_, draft)| draft.is_changed()).filter_map(|(number, draft)| {
        let node = state.node(*number).filter(|node| state.snapshot.is_linked(*node))?;
        Some((node, &**draft))
    })
}

/// Is the file what the server had at its path?
fn is_as_before(state: &CollectionState, mine: &Snapshot, node: NodeId) -> bool {
    let base = &state.base.snapshot;
    base.find(&mine.path(node)).is_some_and(|before| same_content(base, before, mine, node))
}

/// A block that nothing is equal to, as large as the file, or of one byte: an empty one would be equal to any other.
fn unlike_any_other(draft: &Draft) -> [Piece<Locator>; 1] {
    let size = draft.file.size().max(1);
    let block = Locator::new(BlockHash(rand::random()), size);
    [Piece { block, block_size: size, offset: 0, length: size }]
}

fn merge_now(
    state: &Arc<CollectionState>,
    mine: &Snapshot,
    (theirs, sent): (&Snapshot, &[Sent]),
    time: DateTime<Utc>,
    equal: &HashSet<NodeId>,
    on_conflict: OnConflict,
) -> Result<Merged, Error> {
    let base = known_base(&state.base.snapshot, theirs, sent)?;
    let Merge { snapshot, conflicts } = merge(&base, mine, theirs, time, |node, _| equal.contains(&node))?;
    let mut editor = snapshot.edit();
    if on_conflict != OnConflict::KeepBoth {
        for conflict in &conflicts {
            let (above, name) = split(&conflict.kept_as);
            if let Some(directory) = editor.snapshot().find(above) {
                editor.remove(directory, name)?;
            }
        }
    }
    // Who has a file open for writing goes on with the content that he has seen. Where that is not the server's any more, it must
    // not take its place unseen, also where theirs has only grown: the file is another one then.
    let mut outdated = Vec::new();
    let mut displaced = Vec::new();
    for (number, draft) in &state.drafts {
        let Some(node) = state.node(*number).filter(|node| state.snapshot.is_linked(*node)) else { continue };
        let merged = editor.snapshot();
        let is_there = merged.is_linked(node);
        let before: Vec<_> = state.snapshot.pieces(node).collect();
        if is_there && same_content(mine, node, merged, node) {
            // What the merge has seen of it goes to the server with a save, not before.
            editor.set_content(node, &before)?;
            continue;
        }
        if !draft.is_open() {
            outdated.push(*number);
            continue;
        }
        let theirs: Vec<_> = merged.pieces(node).collect();
        let place = is_there.then(|| (merged.parent(node), merged.name(node).to_vec()));
        editor.set_content(node, &before)?;
        if let Some((parent, name)) = place {
            editor.remove(parent, &name)?;
            editor.set_file(parent, &name, &theirs)?;
        }
        displaced.push((*number, state.snapshot.path(node)));
    }
    let snapshot = editor.finish();
    let differences = diff(&state.snapshot, &snapshot);
    Ok(Merged { from: state.clone(), snapshot, differences, conflicts, displaced, outdated })
}

/// The unsaved files here that are, byte by byte, what the server has at their path.
async fn equal_files(
    writing: &Arc<Writing>,
    state: &CollectionState,
    mine: &Snapshot,
    theirs: &Snapshot,
) -> HashSet<NodeId> {
    let base = &state.base.snapshot;
    let mut equal = HashSet::new();
    for (node, draft) in changed_files(state) {
        let path = state.snapshot.path(node);
        let Some(other) = theirs.find(&path).filter(|node| !theirs.is_directory(*node)) else { continue };
        let before = base.find(&path).filter(|before| !base.is_directory(*before));
        let is_kept = |by: &Snapshot, node| before.is_some_and(|before| same_content(base, before, by, node));
        if is_kept(theirs, other) || is_kept(mine, node) {
            // Only one side has changed something here.
            continue;
        }
        let size = draft.file.size();
        if size != theirs.size(other) || size > MOST_COMPARED {
            continue;
        }
        let Ok(parts) = draft.file.read(0, size).await else { continue };
        let Some(ours) = collect(writing, parts).await else { continue };
        let pieces = theirs.pieces(other).map(|piece| Part::Stored {
            locator: piece.block,
            offset: piece.offset,
            length: piece.length,
        });
        if collect(writing, pieces.collect()).await.is_some_and(|theirs| theirs == ours) {
            equal.insert(node);
        }
    }
    equal
}

/// The bytes of a file; `None` if they cannot be had now.
async fn collect(writing: &Arc<Writing>, parts: Vec<Part>) -> Option<Vec<u8>> {
    let nothing: Arc<dyn RenewLocator> = Arc::new(NoRenewal);
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Bytes(piece) => bytes.extend_from_slice(&piece),
            Part::Zeros(count) => bytes.resize(bytes.len() + count as usize, 0),
            Part::Stored { locator, offset, length } => {
                let block = writing.cache.get(&locator, &nothing).await.ok()?;
                let (start, end) = (offset as usize, (offset + length) as usize);
                bytes.extend_from_slice(&block.slice(start..end));
            }
        }
    }
    Some(bytes)
}

/// What is compared was signed a moment ago.
struct NoRenewal;

#[async_trait]
impl RenewLocator for NoRenewal {
    async fn renew(&self, _: &Locator) -> Result<Locator, String> {
        Err("the signature is as new as can be".to_owned())
    }
}

impl CollectionActor {
    /// Works out the merge of what is here with what the server has, and begins anew if anything changes here meanwhile. `tries`: how
    /// often that has happened.
    pub(super) fn merge(&mut self, next: CollectionState, theirs: Snapshot, tries: u32, context: &mut Context<Self>) {
        let (Some(current), Some(writing)) = (self.cell.load(), self.environment.writing.clone()) else { return };
        self.is_merging = true;
        // Programs that make and remove names all the time would put it off, and all saves with it. So in the end nothing else is
        // done here until it is there, and it waits for no network.
        let is_last = tries >= MOST_MERGES;
        let work = work_out(writing, current, (theirs.clone(), self.may_have_arrived()), !is_last);
        let work = Work::start(&self.environment.network, format!("merging {}", self.cell.key()), work);
        let work = work.into_actor(self).map(move |result, actor, context: &mut Context<Self>| {
            actor.is_merging = false;
            actor.was_merged(result, next, theirs, tries, context);
        });
        if is_last {
            context.wait(work);
        } else {
            context.spawn(work);
        }
    }

    fn was_merged(
        &mut self,
        result: Result<Merged, Error>,
        next: CollectionState,
        theirs: Snapshot,
        tries: u32,
        context: &mut Context<Self>,
    ) {
        match result {
            Ok(merged) => {
                if !self.adopt_merge(merged, next.clone(), context) {
                    self.merge(next, theirs, tries + 1, context);
                    return;
                }
                let state = self.cell.load().ok_or(Error::Gone);
                self.was_refreshed(state, context);
            }
            Err(error) => {
                tracing::error!(collection = self.cell.key(), %error, "cannot merge what others have saved");
                self.save_failed(error.clone(), context);
                self.was_refreshed(self.cell.load().ok_or(error), context);
            }
        }
    }

    /// Takes a merge over: the published state becomes that, with `base` as what the server has. `false`: the state is another
    /// one meanwhile, and nothing was done.
    pub(super) fn adopt_merge(&mut self, merged: Merged, next: CollectionState, context: &mut Context<Self>) -> bool {
        let Some(current) = self.cell.load().filter(|current| Arc::ptr_eq(current, &merged.from)) else { return false };
        let policy = self.environment.writing.as_ref().map(|writing| writing.on_conflict).unwrap_or_default();
        if policy == OnConflict::Error {
            for conflict in &merged.conflicts {
                let error = self.set_conflict_aside(&current, &conflict.path, current.base.snapshot.clone());
                let paths: Touched = [(&conflict.path[..], Depth::Tree)].into_iter().collect();
                self.fail_waiters_of(&paths, u64::MAX, &error, context);
            }
        }
        for conflict in merged.conflicts.iter().filter(|_| policy != OnConflict::Error) {
            let path = String::from_utf8_lossy(&conflict.path);
            let kept_as = String::from_utf8_lossy(&conflict.kept_as);
            match policy {
                OnConflict::Overwrite => {
                    tracing::warn!(collection = self.cell.key(), %path, "changed here and by another client: ours replaces it");
                }
                _ => tracing::warn!(
                    collection = self.cell.key(),
                    %path,
                    %kept_as,
                    "changed here and by another client: both are kept"
                ),
            }
            self.local.touch(&conflict.path, Depth::Tree);
            if policy == OnConflict::KeepBoth {
                self.local.touch(&conflict.kept_as, Depth::Tree);
            }
        }
        for (path, _) in self.may_have_arrived().into_iter().flat_map(|save| save.paths) {
            // What has arrived too late is put right; a conflict stands until somebody writes to the path or around it.
            if !self.local.aside.has_conflict_around(&path) {
                self.local.touch(&path, Depth::Entry);
            }
        }
        sent::forget_lost(&mut self.local.sent, Instant::now());
        let displaced: Vec<u32> = merged.displaced.iter().map(|(number, _)| *number).collect();
        self.local.displaced.extend(merged.displaced);
        let mut state = next;
        state.numbers = current.numbers.clone();
        state.drafts = current.drafts.clone();
        for number in merged.outdated {
            if let Some(draft) = state.drafts.remove(&number) {
                self.finish(draft.file.clone());
            }
        }
        let modified = state.record.modified_at;
        let mut changes = Vec::new();
        let mut brought = Vec::new();
        for change in merged.differences {
            let (above, name) = split(&change.path);
            let parent = current.snapshot.find(above).map(|node| current.number(node));
            if let Some(node) = change.new {
                let number = state.numbers.number(node);
                brought.push(number);
                let is_same_node = change.old == Some(node);
                if is_same_node {
                    state.numbers.set_grown(number, modified);
                    changes.push(news::Change::Node(number));
                } else {
                    stamp_below(&mut state, &merged.snapshot, node, modified);
                }
            }
            if let Some(parent) = parent {
                if parent != 0 {
                    state.numbers.set_modified(parent, modified);
                }
                changes.push(news::Change::Entry { parent, name: name.to_vec() });
                changes.push(news::Change::Node(parent));
            }
        }
        self.cell.shared().unseen.brought(brought.into_iter());
        state.snapshot = merged.snapshot;
        state.is_unsaved = !self.local.is_clean();
        let state = self.publish(state);
        self.environment.news.tell(self.cell.key(), changes);
        for number in displaced {
            self.watch_displaced(&state, number);
        }
        true
    }

    /// `--on-conflict=error`: what both sides have changed since they knew `known` is not saved. Who has it open for writing is
    /// told when he closes it; for all others the next write counts, also one that the actor was told of before.
    pub(super) fn set_conflict_aside(&mut self, state: &CollectionState, path: &[u8], known: Snapshot) -> Error {
        let error = Error::Conflict { path: String::from_utf8_lossy(path).into_owned() };
        tracing::error!(
            collection = self.cell.key(),
            path = %String::from_utf8_lossy(path),
            "changed here and by another client: ours stays here and is not saved until somebody who opens it from now on writes \
             to it"
        );
        let paths: Touched = [(path, Depth::Tree)].into_iter().collect();
        self.local.set_aside(paths.clone(), Reason::Conflict(known), error.clone());
        self.local.keep(&self.cell);
        for node in state.snapshot.find(path).into_iter().flat_map(|top| nodes_below(&state.snapshot, top)) {
            let number = state.number(node);
            let Some(draft) = state.draft(number) else { continue };
            draft.take_announcement();
            if draft.is_open() {
                self.local.aside.hold(&state.snapshot.path(node), number);
            }
        }
        error
    }

    /// Whoever writes to a file that has lost its place has to tell again, or nobody would give it a new one; and what was written
    /// since the merge was worked out gets that now.
    fn watch_displaced(&mut self, state: &CollectionState, number: u32) {
        let Some(draft) = state.draft(number) else { return };
        draft.take_announcement();
        if draft.is_written()
            && let Err(error) = self.apply(Operation::Written { number })
        {
            tracing::error!(collection = self.cell.key(), number, %error, "a file that is open here has lost its place");
        }
    }
}

/// A node and all that is in it.
pub(super) fn nodes_below(snapshot: &Snapshot, top: NodeId) -> Vec<NodeId> {
    let mut nodes = vec![top];
    let mut next = 0;
    while let Some(node) = nodes.get(next).copied() {
        nodes.extend(snapshot.children(node));
        next += 1;
    }
    nodes
}

/// What is new has the time of the collection.
fn stamp_below(state: &mut CollectionState, snapshot: &Snapshot, top: NodeId, modified: Option<DateTime<Utc>>) {
    for node in nodes_below(snapshot, top) {
        let number = state.numbers.number(node);
        state.numbers.set_modified(number, modified);
    }
}

#[cfg(test)]
pub(in crate::actors::collection) mod tests;
