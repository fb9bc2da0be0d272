//! What can be done to the names of a collection, and opening its files for writing: one message each, carried out whole or not
//! at all, without an await. After it the new state is published, and the answer goes out as soon as what the mount
//! promises for such a change ([`Need`]) has come about.

use crate::actors::Error;
use crate::actors::collection::draft::Draft;
use crate::actors::collection::merging::OnConflict;
use crate::actors::collection::numbers::Time;
use crate::actors::collection::opened::OpenFiles;
use crate::actors::collection::placing::Moved;
use crate::actors::collection::replaying::{put, remove};
use crate::actors::collection::saving::Need;
use crate::actors::collection::state::{CollectionState, Kind};
use crate::actors::collection::waiting::Waits;
use crate::actors::collection::{CollectionActor, Writing};
use crate::actors::refresh::Reply;
use crate::dirty::DirtyFile;
use crate::remote::keep::PutRequest;
use crate::tree::commit::Depth;
use crate::tree::path::split;
use crate::tree::{Editor, NodeId, Snapshot, conflict_name, same_content};
use actix::{Context, Handler, Message};
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;

/// A change. Directories and files are named by their numbers, which stay the same whatever happens to their names.
#[derive(Clone)]
pub enum Operation {
    /// Makes an empty file or directory; a file can be opened for writing in the same step.
    Make { parent: u32, name: Vec<u8>, is_directory: bool, open: bool },
    /// Removes a file, or an empty directory.
    Remove { parent: u32, name: Vec<u8>, is_directory: bool },
    /// `keep`: do not replace what has the new name.
    Rename { from: u32, name: Vec<u8>, to: u32, new_name: Vec<u8>, keep: bool },
    /// One more handle that may write to a file. `empties`: and it will be empty first.
    Open { number: u32, empties: bool },
    /// One handle less.
    Close { number: u32 },
    /// Nobody has a file open any more that was removed before.
    Closed { number: u32 },
    /// Something was written to a file that is open for writing.
    Written { number: u32 },
    /// Somebody set a time.
    SetModified { number: u32, time: DateTime<Utc> },
    /// Puts a file or a directory from another collection here. `placed`: in the place of what was put there before, with its number.
    Place { parent: u32, name: Vec<u8>, moved: Moved, keep: bool, placed: Option<(u32, Moved)> },
    /// Takes away what was placed elsewhere, unless it is not that any more or somebody writes to it.
    Take { parent: u32, name: Vec<u8>, moved: Moved },
}

/// What came of it.
#[derive(Clone)]
pub struct Applied {
    /// Of the node that was made, moved or opened.
    pub number: u32,
    pub draft: Option<Arc<Draft>>,
    pub state: Arc<CollectionState>,
}

#[derive(Message)]
#[rtype(result = "()")]
pub struct Apply {
    pub operation: Operation,
    /// What has to be true before the answer.
    pub need: Need,
    pub reply: Reply<Applied, Error>,
}

/// Edits under way, and what else changes with them.
pub(super) struct Edit {
    pub(super) state: CollectionState,
    pub(super) editor: Editor,
    touched: Vec<(Vec<u8>, Depth)>,
    /// Files that nobody needs any more, but the journal perhaps.
    finished: Vec<Arc<DirtyFile>>,
    /// Files that the journal has to have under the name that they have now, though they may be open.
    moved: Vec<u32>,
}

impl Edit {
    fn of(state: &Arc<CollectionState>) -> Edit {
        Edit {
            state: (**state).clone(),
            editor: state.snapshot.edit(),
            touched: Vec::new(),
            finished: Vec::new(),
            moved: Vec::new(),
        }
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        self.editor.snapshot()
    }

    /// A directory that something is to be changed in.
    pub(super) fn directory(&self, number: u32) -> Result<NodeId, Error> {
        let node = self.state.node(number).ok_or(Error::Gone)?;
        if !self.snapshot().is_directory(node) {
            return Err(Error::NotADirectory);
        }
        // The kernel does not ask for anything in what it knows to be removed. What another client removed, or what was moved to
        // another collection, it looks for once more after this error.
        if self.snapshot().is_linked(node) { Ok(node) } else { Err(Error::Gone) }
    }

    pub(super) fn path(&self, directory: NodeId, name: &[u8]) -> Vec<u8> {
        let mut path = self.snapshot().path(directory);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    pub(super) fn touch(&mut self, path: Vec<u8>, depth: Depth) {
        self.touched.push((path, depth));
    }

    pub(super) fn stamp(&mut self, node: NodeId, now: DateTime<Utc>) {
        let number = self.state.number(node);
        if number != 0 {
            self.state.numbers.set_modified(number, Some(now));
        }
    }

    /// Is the file promised to be on the disk of the journal?
    pub(super) fn is_durable(&self, node: NodeId) -> bool {
        self.state.draft(self.state.number(node)).is_some_and(|draft| draft.file.is_durable())
    }

    /// What takes the place of such a file has to be there as surely.
    pub(super) fn be_as_durable(&self, node: NodeId, was_durable: bool) {
        if let Some(draft) = self.state.draft(self.state.number(node)).filter(|_| was_durable) {
            draft.file.be_durable();
        }
    }

    /// Forgets the drafts of what is not linked any more, unless somebody still has them open.
    pub(super) fn drop_drafts_of(&mut self, node: NodeId, open: &OpenFiles) {
        let number = self.state.number(node);
        if open.contains(number) {
            return;
        }
        if let Some(draft) = self.state.drafts.get(&number).filter(|draft| !draft.is_open()) {
            self.finished.push(draft.file.clone());
            self.state.drafts.remove(&number);
        }
    }

    /// A name beside `name` for what another client has saved.
    fn free_conflict_name(&self, directory: NodeId, name: &[u8], now: DateTime<Utc>) -> Vec<u8> {
        let mut time = now;
        loop {
            let kept_as = conflict_name(name, time);
            if self.snapshot().lookup(directory, &kept_as).is_none() {
                return kept_as;
            }
            time += TimeDelta::seconds(1);
        }
    }

    fn is_empty(&self, directory: NodeId) -> bool {
        self.snapshot().children(directory).next().is_none()
    }

    /// May what is at `target` be replaced by something that is a directory or not (`rename(2)`)?
    pub(super) fn check_replace(&self, target: NodeId, by_directory: bool) -> Result<(), Error> {
        match (by_directory, self.snapshot().is_directory(target)) {
            (true, false) => Err(Error::NotADirectory),
            (false, true) => Err(Error::IsADirectory),
            (true, true) if !self.is_empty(target) => Err(Error::NotEmpty),
            _ => Ok(()),
        }
    }
}

impl CollectionActor {
    /// Returns also the paths that it touched.
    pub(super) fn apply(&mut self, operation: Operation) -> Result<(Applied, Vec<Vec<u8>>), Error> {
        let state = self.cell.load().ok_or(Error::Gone)?;
        let writing = self.environment.writing.clone().ok_or(Error::ReadOnly)?;
        if state.kind() == Kind::Immutable {
            return Err(Error::ReadOnly);
        }
        let now = Utc::now();
        let mut edit = Edit::of(&state);
        let mut draft = None;
        let (mut placed, mut taken) = (None, None);
        let node = match operation {
            Operation::Make { parent, name, is_directory, open } => {
                let directory = edit.directory(parent)?;
                if edit.snapshot().lookup(directory, &name).is_some() {
                    return Err(Error::Exists);
                }
                let path = edit.path(directory, &name);
                self.check_not_held(&path)?;
                let node = match is_directory {
                    true => edit.editor.make_directory(directory, &name)?,
                    false => edit.editor.set_file(directory, &name, &[])?,
                };
                edit.touch(path, Depth::Entry);
                edit.stamp(directory, now);
                edit.stamp(node, now);
                if open {
                    let number = edit.state.number(node);
                    let made = Arc::new(Draft::unsaved(new_file(&writing, &edit.state, node, Some(now))));
                    made.add_writer();
                    edit.state.drafts.insert(number, made.clone());
                    draft = Some(made);
                }
                node
            }
            Operation::Remove { parent, name, is_directory } => {
                let directory = edit.directory(parent)?;
                let node = edit.snapshot().lookup(directory, &name).ok_or(Error::NotFound)?;
                match (is_directory, edit.snapshot().is_directory(node)) {
                    (true, false) => return Err(Error::NotADirectory),
                    (false, true) => return Err(Error::IsADirectory),
                    (true, true) if !edit.is_empty(node) => return Err(Error::NotEmpty),
                    _ => {}
                }
                let path = edit.path(directory, &name);
                self.check_not_held(&path)?;
                edit.editor.remove(directory, &name)?;
                edit.touch(path, Depth::Entry);
                edit.stamp(directory, now);
                edit.drop_drafts_of(node, &self.cell.shared().open);
                node
            }
            Operation::Rename { from, name, to, new_name, keep } => {
                for (directory, name) in [(from, &name), (to, &new_name)] {
                    self.check_not_held(&edit.path(edit.directory(directory)?, name))?;
                }
                let open = &self.cell.shared().open;
                rename(&mut edit, open, (from, &name), (to, &new_name), keep, now)?
            }
            Operation::Open { number, empties } => {
                let node = edit.state.node(number).ok_or(Error::Gone)?;
                if edit.snapshot().is_directory(node) {
                    return Err(Error::IsADirectory);
                }
                let known = edit.state.draft(number).cloned();
                if empties && known.is_none() && edit.snapshot().size(node) == 0 {
                    // Nothing is to be saved for it; the time is set all the same, as on any file system.
                    edit.state.numbers.set_modified(number, Some(now));
                }
                let is_unseen = self.cell.shared().unseen.take(number) && empties && known.is_none();
                let hides = is_unseen && edit.snapshot().is_linked(node) && edit.snapshot().size(node) > 0;
                if hides && writing.on_conflict == OnConflict::KeepBoth {
                    self.keep_unseen(&mut edit, node, now)?;
                }
                let known = match known {
                    Some(known) if known.is_handed_over() => return Err(Error::Gone),
                    Some(known) => known,
                    None if edit.snapshot().is_linked(node) => {
                        let modified = edit.state.modified(number);
                        let made = Arc::new(Draft::new(new_file(&writing, &edit.state, node, modified)));
                        edit.state.drafts.insert(number, made.clone());
                        made
                    }
                    None => return Err(Error::Gone),
                };
                if !known.is_open() && !self.is_aside(&edit, node) && !is_on_server(&edit, node) {
                    // Its old name, if it was moved here, goes with the next save and the next record. Both leave out what is half
                    // written, unless it was promised.
                    known.promise();
                    edit.moved.push(number);
                }
                known.add_writer();
                draft = Some(known);
                if hides && writing.on_conflict == OnConflict::Error {
                    let path = edit.snapshot().path(node);
                    // Whatever was there before, it was not this.
                    let mut known = edit.state.base.snapshot.edit();
                    remove(&mut known, &path)?;
                    self.set_conflict_aside(&edit.state, &path, known.finish());
                    edit.state.is_unsaved = true;
                }
                node
            }
            Operation::Close { number } => {
                let node = edit.state.node(number).ok_or(Error::Gone)?;
                let is_linked = edit.snapshot().is_linked(node);
                let known = edit.state.drafts.get(&number).cloned().filter(|known| known.remove_writer());
                if known.is_some() && self.local.aside.release(number) {
                    // Whatever is written from now on has to be told.
                    edit.state.drafts.values().for_each(|draft| draft.take_announcement());
                }
                if let Some(known) = known.filter(|_| is_linked || !self.cell.shared().open.contains(number)) {
                    if !is_linked {
                        edit.finished.push(known.file.clone());
                        edit.state.drafts.remove(&number);
                        self.local.displaced.remove(&number);
                    } else if known.is_over() {
                        edit.state.numbers.set_modified(number, Some(known.file.modified()));
                        edit.finished.push(known.file.clone());
                        edit.state.drafts.remove(&number);
                    } else {
                        let path = edit.snapshot().path(node);
                        // What was set aside waits for a change, and this is none.
                        if !self.local.aside.covers(&path) {
                            edit.touch(path, Depth::Entry);
                        }
                    }
                }
                node
            }
            Operation::Closed { number } => {
                let node = edit.state.node(number).ok_or(Error::Gone)?;
                if !edit.snapshot().is_linked(node) {
                    edit.drop_drafts_of(node, &self.cell.shared().open);
                }
                node
            }
            Operation::Written { number } => {
                let node = edit.state.node(number).ok_or(Error::Gone)?;
                // Without its draft nothing that is written would ever be saved.
                edit.state.draft(number).ok_or(Error::Gone)?;
                if let Some(path) = self.local.displaced.get(&number).cloned() {
                    self.resolve_displaced(&mut edit, &writing, number, node, path, now)?;
                } else if edit.snapshot().is_linked(node) {
                    let path = edit.snapshot().path(node);
                    if self.local.aside.held(&path).is_none() {
                        edit.touch(path, Depth::Entry);
                    }
                }
                node
            }
            Operation::SetModified { number, time } => {
                let node = edit.state.node(number).ok_or(Error::Gone)?;
                match edit.state.draft(number) {
                    Some(draft) => draft.file.set_modified(time),
                    None => edit.state.numbers.set_modified(number, Some(time)),
                }
                edit.state.numbers.set_altered(number, now);
                node
            }
            Operation::Place { parent, name, moved, keep, placed: before } => {
                let node = self.place(&mut edit, (parent, &name), &moved, (keep, before), now)?;
                placed = Some(moved.transit);
                node
            }
            Operation::Take { parent, name, moved } => {
                let (node, path) = self.take(&mut edit, (parent, &name), &moved, now)?;
                taken = Some((path, moved.transit));
                node
            }
        };
        let is_change = !edit.touched.is_empty();
        edit.finished.into_iter().for_each(|file| self.finish(file));
        if edit.state.kind() == Kind::Mutable {
            self.local.journal.files.extend(edit.moved);
            for (path, depth) in &edit.touched {
                self.local.touch(path, *depth);
            }
        }
        let paths = edit.touched.into_iter().map(|(path, _)| path).collect();
        let mut changed = edit.state;
        changed.snapshot = edit.editor.finish();
        changed.is_unsaved |= is_change && changed.kind() == Kind::Mutable;
        let number = changed.number(node);
        let before = state;
        let state = self.publish(changed);
        if let Some(transit) = placed {
            self.expect_arrival(number, transit);
        }
        if let Some((path, transit)) = taken {
            self.hold_back(&before, &path, &transit);
        }
        Ok((Applied { number, draft, state }, paths))
    }

    /// Is it not saved for now? Then what is half written is not, either.
    fn is_aside(&self, edit: &Edit, node: NodeId) -> bool {
        edit.snapshot().is_linked(node) && self.local.aside.covers(&edit.snapshot().path(node))
    }

    /// What somebody writes to who does not know yet that another client has changed it stays where it is.
    pub(super) fn check_not_held(&self, path: &[u8]) -> Result<(), Error> {
        self.local.aside.held(path).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// A file is written anew that another client has changed in this moment, and nobody here has seen that: both are kept.
    fn keep_unseen(&self, edit: &mut Edit, node: NodeId, now: DateTime<Utc>) -> Result<(), Error> {
        let theirs = edit.snapshot().clone();
        let (directory, name) = (theirs.parent(node), theirs.name(node));
        let kept_as = edit.free_conflict_name(directory, name, now);
        edit.editor.copy(&theirs, node, directory, &kept_as)?;
        let path = edit.path(directory, &kept_as);
        tracing::warn!(
            collection = self.cell.key(),
            path = %String::from_utf8_lossy(&theirs.path(node)),
            kept_as = %String::from_utf8_lossy(&path),
            "another client changed a file in the moment in which it is written anew here: both are kept"
        );
        edit.touch(path, Depth::Entry);
        Ok(())
    }

    /// Somebody writes to a file that another client has replaced since it was opened: he did not see that, so it is a conflict.
    /// What he writes to has the name, as always; what the other wrote goes beside it, or stays on the server.
    fn resolve_displaced(
        &mut self,
        edit: &mut Edit,
        writing: &Writing,
        number: u32,
        node: NodeId,
        path: Vec<u8>,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let (above, name) = split(&path);
        let Some(directory) = edit.snapshot().find(above).filter(|node| edit.snapshot().is_directory(*node)) else {
            return Err(Error::Gone);
        };
        let is_taken = edit.snapshot().lookup(directory, name).is_some();
        match writing.on_conflict {
            OnConflict::KeepBoth if is_taken => {
                let kept_as = edit.free_conflict_name(directory, name, now);
                edit.editor.rename(directory, name, directory, &kept_as)?;
                let kept_path = edit.path(directory, &kept_as);
                tracing::warn!(
                    collection = self.cell.key(),
                    path = %String::from_utf8_lossy(&path),
                    kept_as = %String::from_utf8_lossy(&kept_path),
                    "another client changed a file while it was open for writing here: both are kept"
                );
                edit.touch(kept_path, Depth::Tree);
            }
            _ if is_taken => drop(edit.editor.remove(directory, name)?),
            _ => {}
        }
        edit.editor.restore(node, directory, name)?;
        self.local.displaced.remove(&number);
        if is_taken && writing.on_conflict == OnConflict::Error {
            let mut known = edit.state.base.snapshot.edit();
            put(&mut known, &path, &edit.snapshot().pieces(node).collect::<Vec<_>>())?;
            let mut state = edit.state.clone();
            state.snapshot = edit.snapshot().clone();
            self.set_conflict_aside(&state, &path, known.finish());
            edit.state.is_unsaved = true;
        } else {
            edit.touch(path, Depth::Entry);
        }
        Ok(())
    }
}

/// A file with the content that a node has.
fn new_file(writing: &Writing, state: &CollectionState, node: NodeId, modified: Time) -> Arc<DirtyFile> {
    let file = writing.store.file(state.snapshot.pieces(node), put_request(writing, state));
    file.set_modified(modified.unwrap_or_default());
    file
}

/// Has the server, at the path of a file, what the file had before it was opened?
fn is_on_server(edit: &Edit, node: NodeId) -> bool {
    let (base, mine) = (&edit.state.base.snapshot, edit.snapshot());
    let there = if mine.is_linked(node) { base.find(&mine.path(node)) } else { None };
    there.is_some_and(|there| !base.is_directory(there) && same_content(base, there, mine, node))
}

/// How new data of a collection are to be stored (arv-mount.md 3.2: as its record asks, else as the mount was told to).
pub(super) fn put_request(writing: &Writing, state: &CollectionState) -> PutRequest {
    let classes = match state.record.storage_classes_desired.is_empty() {
        true => writing.storage_classes.clone(),
        false => state.record.storage_classes_desired.clone(),
    };
    PutRequest { replicas: state.record.replication_desired, storage_classes: classes }
}

fn rename(
    edit: &mut Edit,
    open: &OpenFiles,
    (from, name): (u32, &[u8]),
    (to, new_name): (u32, &[u8]),
    keep: bool,
    now: DateTime<Utc>,
) -> Result<NodeId, Error> {
    let (source, target) = (edit.directory(from)?, edit.directory(to)?);
    let node = edit.snapshot().lookup(source, name).ok_or(Error::NotFound)?;
    let is_directory = edit.snapshot().is_directory(node);
    let replaced = edit.snapshot().lookup(target, new_name);
    if let Some(replaced) = replaced {
        if keep {
            return Err(Error::Exists);
        }
        if replaced == node {
            return Ok(node);
        }
        edit.check_replace(replaced, is_directory)?;
    }
    let (old_path, new_path) = (edit.path(source, name), edit.path(target, new_name));
    edit.editor.rename(source, name, target, new_name)?;
    let depth = if is_directory { Depth::Tree } else { Depth::Entry };
    edit.touch(old_path, depth);
    edit.touch(new_path, depth);
    edit.stamp(source, now);
    edit.stamp(target, now);
    edit.state.numbers.set_altered(edit.state.number(node), now);
    if let Some(replaced) = replaced {
        edit.be_as_durable(node, edit.is_durable(replaced));
        edit.drop_drafts_of(replaced, open);
    }
    // The old name goes with the next save and the next record, so what is behind the new one has to go with it, half written or
    // not.
    let snapshot = edit.editor.snapshot();
    let is_moved = |number: u32| {
        let file = edit.state.numbers.node(snapshot, number);
        file.is_some_and(|file| is_below(snapshot, file, node))
    };
    let moved: Vec<u32> = match snapshot.is_directory(node) {
        true => edit.state.drafts.keys().copied().filter(|number| is_moved(*number)).collect(),
        false => vec![edit.state.number(node)],
    };
    for number in moved {
        if let Some(draft) = edit.state.drafts.get(&number) {
            edit.moved.push(number);
            // Also one that is not changed yet: it may be by the time the save looks at it, and half-written files are left out.
            draft.promise();
        }
    }
    Ok(node)
}

fn is_below(snapshot: &Snapshot, mut node: NodeId, top: NodeId) -> bool {
    while node != top {
        if node == NodeId::ROOT {
            return false;
        }
        node = snapshot.parent(node);
    }
    true
}

impl Handler<Apply> for CollectionActor {
    type Result = ();

    fn handle(&mut self, Apply { operation, need, reply }: Apply, context: &mut Context<Self>) {
        match self.apply(operation) {
            Err(error) => drop(reply.send(Err(error))),
            Ok((applied, paths)) => {
                self.answer_when((need, Waits::Paths(paths)), context, move |result| {
                    let _ = reply.send(result.map(|()| applied));
                });
                self.sweep_finished();
                self.renew_in_time(context);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::collection::merging::tests::Rig;

    /// Or a power failure could leave neither: the record of the rename, and not the bytes.
    #[tokio::test]
    async fn file_that_is_renamed_over_one_that_was_brought_to_the_disk_is_brought_there_too() {
        for is_durable in [true, false] {
            let rig = Rig::new();
            let mut state = (*rig.state).clone();
            let other = state.snapshot.find(b"b").map(|node| state.number(node)).expect("it is there");
            let draft = Draft::unsaved(rig.store.file(std::iter::empty(), PutRequest::default()));
            state.drafts.insert(other, Arc::new(draft));
            if is_durable {
                state.draft(rig.number).expect("it is open").file.be_durable();
            }
            let mut edit = Edit::of(&Arc::new(state));
            rename(&mut edit, &OpenFiles::default(), (0, b"b"), (0, b"a"), false, Utc::now()).expect("no error");
            let node = edit.state.node(other).expect("it is there");
            assert_eq!((edit.snapshot().path(node), edit.is_durable(node)), (b"a".to_vec(), is_durable));
        }
    }
}
