//! What is made of the journal after a crash.
//!
//! A record says what a path was (a file with its content, a directory, nothing) and what the server had there
//! ([`recording`](super::recording)). So a replay needs no earlier state: it takes what the server has today, puts back at the recorded
//! paths what it had then, applies the records, and merges the three.
//!
//! Mounts that ran one after the other have each gone on with what those before them had left. Their journals are one replay, in that
//! order, so nothing that a later one has waits for the server to take what an earlier one has: it may never do that.

use crate::actors::Error;
use crate::actors::collection::Writing;
use crate::actors::collection::draft::Draft;
use crate::actors::collection::recording::bases;
use crate::actors::collection::{Left, sent};
use crate::dirty::content::{Extent, Source};
use crate::dirty::{Content, DirtyFile};
use crate::journal::{Around, Base, Change, Operation, Piece as RecordedPiece, Sequence};
use crate::keep::manifest::Piece;
use crate::keep::{BlockHash, Locator};
use crate::remote::keep::PutRequest;
use crate::tree::commit::{Depth, Touched};
use crate::tree::path::split;
use crate::tree::{Editor, NodeId, Snapshot, consists_of};
use chrono::Utc;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What journals say of one collection, on top of what the server has today.
pub(super) struct Replayed {
    /// What the server had when the changes were made.
    pub(super) base: Snapshot,
    pub(super) mine: Snapshot,
    pub(super) drafts: Vec<(NodeId, Arc<Draft>)>,
    pub(super) touched: Touched,
    /// Of each journal that was replayed: what could not be applied because the bytes are not to be had, with what was recorded
    /// together with it. There the server keeps what it has.
    pub(super) kept: Vec<Vec<Change>>,
}

/// Applies the changes of journals, each of which has gone on with what all before it have. `today`: what the server has; `sources`:
/// what it has where something came from. Where a file of a later one cannot be restored, that journal and those after it are left
/// out: they come when all before them is saved. A file of the first whose bytes cannot be had any more does not stop the others.
/// Blocking.
pub(super) fn replay(
    writing: &Writing,
    (today, sources): (&Snapshot, &[Snapshot]),
    journals: &[Arc<Left>],
    request: &PutRequest,
) -> Result<Replayed, Error> {
    let mut result = Stage { base: today.clone(), mine: None, files: BTreeMap::new(), touched: Touched::default() };
    let mut kept: Vec<Vec<Change>> = Vec::new();
    for left in journals {
        match result.followed_by(writing, (today, sources), left, request) {
            Ok((next, lost)) if kept.is_empty() || lost.is_empty() => {
                result = next;
                kept.push(lost);
            }
            Err(error) if kept.is_empty() => return Err(error),
            Ok(_) => break,
            Err(error) => {
                tracing::debug!(journal = left.journal.id(), %error, "a journal waits until what those before it have is saved");
                break;
            }
        }
    }
    let Stage { base, mine, files, touched } = result;
    let mine = mine.unwrap_or_else(|| base.clone());
    let mut drafts = Vec::new();
    for (path, file) in files {
        if let Some(node) = mine.find(&path) {
            let is_as_before = is_as_before(&base, &path, &file);
            drafts.push((node, Arc::new(if is_as_before { Draft::touched(file) } else { Draft::unsaved(file) })));
        }
    }
    Ok(Replayed { base, mine, drafts, touched, kept })
}

/// What has come of the first journals.
struct Stage {
    base: Snapshot,
    /// `None`: nothing was applied yet.
    mine: Option<Snapshot>,
    /// Files with content that is not on the server, by path.
    files: BTreeMap<Vec<u8>, Arc<DirtyFile>>,
    touched: Touched,
}

impl Stage {
    /// With the changes of another one, and what of them could not be applied. What a save of its mount has brought that is newer than
    /// some of the changes takes their place, or a file that was removed, and made again and saved, would be removed for good.
    fn followed_by(
        &self,
        writing: &Writing,
        (today, sources): (&Snapshot, &[Snapshot]),
        left: &Left,
        request: &PutRequest,
    ) -> Result<(Stage, Vec<Change>), Error> {
        let changes = &left.changes[..];
        let mut touched = self.touched.clone();
        let mut latest: BTreeMap<&[u8], &Base> = BTreeMap::new();
        for (_, change) in changes {
            latest.extend(change.bases.iter().map(|(path, base)| (&path[..], base)));
        }
        let mut base = self.base.edit();
        for (path, was) in &latest {
            match was {
                Base::Absent => remove(&mut base, path)?,
                Base::Directory => {
                    remove(&mut base, path)?;
                    directories(&mut base, path)?;
                }
                Base::File { pieces } => {
                    let pieces = pieces.iter().map(piece).collect::<Result<Vec<_>, Error>>()?;
                    put(&mut base, path, &pieces)?;
                }
            }
        }
        let base = base.finish();
        // What the server had where a later journal has changed something is not put back: there may be what an earlier one has made.
        let mut mine = self.mine.as_ref().unwrap_or(&base).edit();
        let mut files = self.files.clone();
        let mut contents: BTreeMap<Vec<u8>, (&Content, Option<chrono::DateTime<Utc>>)> = BTreeMap::new();
        for (_, change) in changes {
            let path = change.operation.path();
            match &change.operation {
                Operation::File { path, content, modified } => {
                    put(&mut mine, path, &[])?;
                    forget(&mut files, path);
                    contents.insert(path.clone(), (content, *modified));
                }
                Operation::MakeDirectory { path } => drop(directories(&mut mine, path)?),
                Operation::Remove { path } => {
                    remove(&mut mine, path)?;
                    forget(&mut files, path);
                    forget(&mut contents, path);
                }
                Operation::Rename { from, to } => {
                    touched.touch(to, Depth::Tree);
                    let Some(node) = mine.snapshot().find(from) else { continue };
                    let (source, name) = (mine.snapshot().parent(node), mine.snapshot().name(node).to_vec());
                    let (above, new_name) = split(to);
                    let target = directories(&mut mine, above)?;
                    mine.rename(source, &name, target, new_name)?;
                }
                Operation::Modified { .. } => {}
            }
            touched.touch(path, Depth::Tree);
        }
        let around = Around::of(changes.iter().map(|(_, change)| change));
        for save in &left.sent {
            for (path, put_there) in &save.paths {
                // Where no change is left it is the server that knows what came after it.
                let is_newer = around.states(path).is_some_and(|states| *states.end() <= save.state);
                if is_newer && (save.has_arrived || sent::is_there(today, path, put_there)?) {
                    if *put_there == Base::Directory {
                        // What the save has brought into it is told by itself, and something may have been left out.
                        files.remove(path);
                        contents.remove(path);
                    } else {
                        forget(&mut files, path);
                        forget(&mut contents, path);
                    }
                    sent::make(&mut mine, path, put_there)?;
                }
            }
        }
        for (path, was) in &latest {
            // It was saved, and is in a later record because something else of it was looked at.
            if let Base::File { pieces } = was
                && contents.get(*path).is_some_and(|(content, _)| is_inline_of(content, pieces))
            {
                contents.remove(*path);
                sent::make(&mut mine, path, was)?;
            }
        }
        let mut lost: Vec<(Vec<u8>, crate::dirty::Error)> = Vec::new();
        for (path, (content, modified)) in contents {
            match writing.store.restore(content, Some(&left.scratch), request.clone()) {
                Ok(file) => {
                    // What the server has today, here or where a file came from, it has signed for the token of today.
                    let signed = || [today].into_iter().chain(sources);
                    file.sign(|locator| signed().find_map(|snapshot| snapshot.find_locator(locator.hash())));
                    if let Some(modified) = modified {
                        file.set_modified(modified);
                    }
                    files.insert(path, file);
                }
                Err(error) if error.is_of_the_file() => lost.push((path, error)),
                Err(error) => return Err(error.into()),
            }
        }
        let kept = keep_back(changes, &lost, &base, &mut mine, &mut touched)?;
        for change in &kept {
            files.remove(change.operation.path());
        }
        let mine = mine.finish();
        files.retain(|path, _| mine.find(path).is_some_and(|node| !mine.is_directory(node)));
        Ok((Stage { base, mine: Some(mine), files, touched }, kept))
    }
}

/// Does it consist of what the server had at its path?
fn is_as_before(base: &Snapshot, path: &[u8], file: &DirtyFile) -> bool {
    base.find(path).zip(file.stored()).is_some_and(|(before, pieces)| consists_of(base, before, &pieces))
}

/// Whether the record itself has the bytes that these pieces, a whole block, have on the server.
fn is_inline_of(content: &Content, pieces: &[RecordedPiece]) -> bool {
    let ([Extent { source: Source::Inline(bytes), .. }], [piece]) = (&content.extents[..], pieces) else {
        return false;
    };
    let is_whole = piece.offset == 0 && piece.length == piece.block_size && piece.length == content.size;
    let hash = piece.locator.split('+').next().and_then(|hash| hash.parse().ok());
    is_whole && bytes.len() as u64 == content.size && hash == Some(BlockHash::of(bytes))
}

/// Leaves the server what it has where files are lost. What was removed together with such a file may have been moved there, so it is
/// not removed.
fn keep_back(
    changes: &[(Sequence, Change)],
    lost: &[(Vec<u8>, crate::dirty::Error)],
    base: &Snapshot,
    mine: &mut Editor,
    touched: &mut Touched,
) -> Result<Vec<Change>, Error> {
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    for (path, error) in lost {
        tracing::error!(
            path = %String::from_utf8_lossy(path),
            %error,
            "what an earlier mount had not saved of this file cannot be read: it stays in its journal, and all else is saved"
        );
    }
    let is_lost = |path: &[u8]| lost.iter().any(|(lost, _)| lost == path);
    let together: HashSet<u64> =
        changes.iter().filter(|(_, change)| is_lost(change.operation.path())).map(|(_, change)| change.state).collect();
    let is_kept = |change: &Change| {
        let is_removal = matches!(change.operation, Operation::Remove { .. }) && together.contains(&change.state);
        is_removal || is_lost(change.operation.path())
    };
    let kept: Vec<Change> = changes.iter().map(|(_, change)| change).filter(|it| is_kept(it)).cloned().collect();
    for path in kept.iter().map(|change| change.operation.path()) {
        let before = base.find(path);
        if before.is_none() && !is_lost(path) {
            continue;
        }
        for (path, was) in bases(base, path, before) {
            sent::make(mine, &path, &was)?;
        }
        touched.remove(path);
    }
    Ok(kept)
}

pub(super) fn piece(recorded: &RecordedPiece) -> Result<Piece<Locator>, Error> {
    let wrong =
        |error: crate::keep::locator::LocatorError| Error::Failed(format!("a journal with a bad locator: {error}"));
    let block = recorded.locator.parse().map_err(wrong)?;
    Ok(Piece { block, block_size: recorded.block_size, offset: recorded.offset, length: recorded.length })
}

/// Takes out the path and all that is in it.
fn forget<T>(paths: &mut BTreeMap<Vec<u8>, T>, path: &[u8]) {
    paths.remove(path);
    // Between "path/" and "path0", the byte after the slash.
    let inside = [path, b"/"].concat()..[path, b"0"].concat();
    let inside: Vec<Vec<u8>> = paths.range(inside).map(|(path, _)| path.clone()).collect();
    for path in inside {
        paths.remove(&path);
    }
}

pub(super) fn remove(editor: &mut Editor, path: &[u8]) -> Result<(), Error> {
    let (above, name) = split(path);
    if let Some(directory) = editor.snapshot().find(above)
        && editor.snapshot().lookup(directory, name).is_some()
    {
        editor.remove(directory, name)?;
    }
    Ok(())
}

/// The directory at a path, made with those above it; a file in the way is removed.
pub(super) fn directories(editor: &mut Editor, path: &[u8]) -> Result<NodeId, Error> {
    let mut directory = NodeId::ROOT;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        directory = match editor.snapshot().lookup(directory, name) {
            Some(found) if editor.snapshot().is_directory(found) => found,
            found => {
                if found.is_some() {
                    editor.remove(directory, name)?;
                }
                editor.make_directory(directory, name)?
            }
        };
    }
    Ok(directory)
}

pub(super) fn put(editor: &mut Editor, path: &[u8], pieces: &[Piece<Locator>]) -> Result<(), Error> {
    let (above, name) = split(path);
    let directory = directories(editor, above)?;
    if let Some(found) = editor.snapshot().lookup(directory, name)
        && editor.snapshot().is_directory(found)
    {
        editor.remove(directory, name)?;
    }
    editor.set_file(directory, name, pieces)?;
    Ok(())
}
