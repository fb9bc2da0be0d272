//! What the journal is told, and what is made of it after a crash.
//!
//! A record says what a path is now (a file with its content, a directory, nothing) and what the server had there. So a replay
//! needs no earlier state: it takes what the server has today, puts back at the recorded paths what it had then, applies
//! the records, and merges the three.

use crate::actors::Error;
use crate::actors::collection::Writing;
use crate::actors::collection::draft::Draft;
use crate::actors::collection::sent;
use crate::actors::collection::state::CollectionState;
use crate::dirty::content::{Extent, Source};
use crate::dirty::{Backing, Content, DirtyFile, Scratch};
use crate::journal::{Base, Change, Journal, Operation, Piece as RecordedPiece, Sent, Sequence};
use crate::keep::manifest::Piece;
use crate::keep::{BlockHash, Locator};
use crate::remote::keep::PutRequest;
use crate::tree::commit::{Depth, Touched};
use crate::tree::{Editor, NodeId, Snapshot, same_content};
use chrono::Utc;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Files with at most so many bytes that no commit has named have them in the record itself: below this, a file of its own costs
/// more than the bytes.
const INLINE: u64 = 64 << 10;

/// How contents are written down.
#[derive(Clone, Copy)]
struct Form {
    /// The journal has little room left: of what is in Keep, nothing but locators.
    is_short: bool,
    is_durable: bool,
}

/// What there is to be written down.
#[derive(Default)]
struct Found {
    changes: Vec<Change>,
    /// See [`Recorded::bare`].
    bare: Vec<u32>,
    /// Backing files that the changes name: they must not go before that is written.
    held: Vec<Arc<Backing>>,
}

/// What was written down.
pub(super) struct Recorded {
    pub(super) last: Option<Sequence>,
    /// Whether it is on the disk, where that was asked for.
    pub(super) synced: Result<(), Error>,
    /// Files of which it has locators that no commit has named yet, instead of the bytes.
    pub(super) bare: Vec<u32>,
    /// Why a file is not in it: its bytes could not be brought to the disk, or read there. Whoever waits for the record may wait
    /// for that file.
    pub(super) left_out: Option<Error>,
}

/// Writes down what is at the touched paths, all together: of a file that was moved, one of its places is among them in any case.
/// `files` are written down although they are open for writing; others that are open are left out, for nobody was promised anything
/// of what is being written to them. `number`: that of the state. `after`, `moved_to`: see [`Change`].
pub(super) async fn record(
    journal: &Arc<Journal>,
    uuid: &str,
    (state, number, after): (&Arc<CollectionState>, u64, &[String]),
    moved_to: &HashMap<Vec<u8>, String>,
    touched: &Touched,
    files: &HashSet<u32>,
    durable: bool,
) -> Result<Recorded, Error> {
    let (mut found, mut left_out) = (Found::default(), None);
    let form = Form { is_short: journal.is_filling(), is_durable: durable };
    for (path, depth) in touched.iter() {
        let problem = of_path(state, path, depth, files, form, &mut found).await?;
        left_out = left_out.or(problem);
    }
    let Found { mut changes, bare, held } = found;
    if left_out.is_some() {
        // It may have come to where it is left out by a move: then its old name stays, or a replay would leave it neither.
        changes = without_removals(changes);
    }
    for change in &mut changes {
        change.state = number;
        change.after = after.to_vec();
        if let Operation::Remove { path } = &change.operation {
            change.moved_to = moved_to.get(path).cloned();
        }
    }
    let (journal, uuid) = (journal.clone(), uuid.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let last = if changes.is_empty() { None } else { Some(journal.append_together(&uuid, &changes, false)?) };
        drop(held);
        // What is in the journal has to be settled there one day, whether it is on the disk or not.
        let synced = if durable { journal.sync().map_err(Error::from) } else { Ok(()) };
        Ok(Recorded { last, synced, bare, left_out })
    });
    work.await.map_err(|error| Error::Failed(format!("writing to the journal: {error}")))?
}

/// Without the removals of what nothing takes the place of.
fn without_removals(changes: Vec<Change>) -> Vec<Change> {
    let made: HashSet<Vec<u8>> = changes
        .iter()
        .filter_map(|change| match &change.operation {
            Operation::File { path, .. } | Operation::MakeDirectory { path } => Some(path.clone()),
            _ => None,
        })
        .collect();
    let stays = |change: &Change| !matches!(&change.operation, Operation::Remove { path } if !made.contains(path));
    changes.into_iter().filter(stays).collect()
}

/// The problem of a file that is left out, because its bytes are not to be had.
async fn of_path(
    state: &CollectionState,
    path: &[u8],
    depth: Depth,
    files: &HashSet<u32>,
    form: Form,
    found: &mut Found,
) -> Result<Option<Error>, Error> {
    let mut left_out = None;
    let (base, mine) = (&state.base.snapshot, &state.snapshot);
    let (before, now) = (base.find(path), mine.find(path));
    // Also what the server never had: an earlier record may speak of it.
    let Some(now) = now else {
        found.changes.push(change(Operation::Remove { path: path.to_vec() }, bases(base, path, before)));
        return Ok(None);
    };
    let is_directory = mine.is_directory(now);
    let same_kind = before.is_some_and(|before| base.is_directory(before) == is_directory);
    let replaces = (before.is_some() && !same_kind) || depth == Depth::Tree;
    if replaces {
        found.changes.push(change(Operation::Remove { path: path.to_vec() }, bases(base, path, before)));
    }
    let mut pending = vec![(path.to_vec(), now)];
    while let Some((path, node)) = pending.pop() {
        let recorded = bases(base, &path, base.find(&path).filter(|before| !base.is_directory(*before)));
        if mine.is_directory(node) {
            if !path.is_empty() {
                found.changes.push(change(Operation::MakeDirectory { path: path.clone() }, recorded));
            }
            if depth == Depth::Tree {
                for child in mine.children(node) {
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(mine.name(child));
                    pending.push((below, child));
                }
            }
            continue;
        }
        let number = state.number(node);
        let content = match state.draft(number) {
            // Where it came to this name only now, no earlier record has what was promised of it.
            Some(draft) if draft.is_open() && !files.contains(&number) && !replaces => continue,
            Some(draft) => match persist(&draft.file, form, &mut found.held).await {
                // Earlier records may have more of it, and the others are not to suffer.
                Err(error) if error.is_of_the_file() => {
                    tracing::error!(path = %String::from_utf8_lossy(&path), %error, "a file cannot be written to the journal");
                    left_out.get_or_insert(error.into());
                    continue;
                }
                content => content?,
            },
            None => stored(mine, node),
        };
        if content.is_bare() {
            found.bare.push(number);
        }
        let modified = state.modified(number);
        found.changes.push(change(Operation::File { path, content, modified }, recorded));
    }
    Ok(left_out)
}

/// What a record says of a file. The backing file that it names, if it names one, is among those that are `held`.
async fn persist(file: &DirtyFile, form: Form, held: &mut Vec<Arc<Backing>>) -> Result<Content, crate::dirty::Error> {
    loop {
        let content = file.persist(INLINE, form.is_short, form.is_durable).await?;
        let Some(number) = content.backing else { return Ok(content) };
        // Otherwise somebody wrote on meanwhile, and it went to another.
        if let Some(backing) = file.hold(number) {
            held.push(backing);
            return Ok(content);
        }
    }
}

fn change(operation: Operation, bases: Vec<(Vec<u8>, Base)>) -> Change {
    Change { operation, bases, time: Utc::now(), state: 0, after: Vec::new(), moved_to: None }
}

/// What the server has at a path; of a directory everything in it.
pub(super) fn bases(base: &Snapshot, path: &[u8], node: Option<NodeId>) -> Vec<(Vec<u8>, Base)> {
    let Some(top) = node else {
        return if base.find(path).is_none() { vec![(path.to_vec(), Base::Absent)] } else { Vec::new() };
    };
    let mut result = Vec::new();
    let mut pending = vec![(path.to_vec(), top)];
    while let Some((path, node)) = pending.pop() {
        if base.is_directory(node) {
            for child in base.children(node) {
                let below = [&path[..], b"/", base.name(child)].concat();
                pending.push((below, child));
            }
            result.push((path, Base::Directory));
        } else {
            let pieces = base.pieces(node).map(|piece| RecordedPiece {
                locator: piece.block.as_str().to_owned(),
                block_size: piece.block_size,
                offset: piece.offset,
                length: piece.length,
            });
            result.push((path, Base::File { pieces: pieces.collect() }));
        }
    }
    result
}

fn stored(snapshot: &Snapshot, node: NodeId) -> Content {
    let extent = |piece: Piece<Locator>| Extent {
        length: piece.length,
        source: Source::Stored {
            locator: piece.block.as_str().to_owned(),
            block_size: piece.block_size,
            offset: piece.offset,
            own: false,
        },
    };
    Content { size: snapshot.size(node), backing: None, extents: snapshot.pieces(node).map(extent).collect() }
}

/// A journal's changes to one collection, on top of what the server has today.
pub(super) struct Replayed {
    /// What the server had when they were made.
    pub(super) base: Snapshot,
    pub(super) mine: Snapshot,
    pub(super) drafts: Vec<(NodeId, Arc<Draft>)>,
    pub(super) touched: Touched,
    /// What could not be applied because the bytes are not to be had, with what was recorded together with it: there the server
    /// keeps what it has.
    pub(super) kept: Vec<Change>,
}

/// Which change, in the order of states, was the last one to a path or to something that decides over it.
#[derive(Default)]
struct Newest<'c>(BTreeMap<&'c [u8], (u64, bool)>);

impl<'c> Newest<'c> {
    fn of(changes: &'c [(Sequence, Change)]) -> Newest<'c> {
        let mut newest = Newest::default();
        for (_, change) in changes {
            let removes = matches!(change.operation, Operation::Remove { .. });
            let known = newest.0.entry(change.operation.path()).or_default();
            *known = (known.0.max(change.state), known.1 || removes);
        }
        newest
    }

    /// The state of the last change to the path, to a directory above it that was removed, or to anything in it.
    fn around(&self, path: &[u8]) -> u64 {
        let own = self.0.get(path).map(|(state, _)| *state);
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
        let above = slashes.chain([&b""[..]]).filter_map(|above| self.0.get(above));
        let above = above.filter(|(_, removes)| *removes).map(|(state, _)| *state);
        let inside = [path, b"/"].concat();
        let below = self.0.range(&inside[..]..).take_while(|(other, _)| other.starts_with(&inside));
        own.into_iter().chain(above).chain(below.map(|(_, (state, _))| *state)).max().unwrap_or(0)
    }
}

/// Applies the changes. `sent`: saves of which the server may have something that is newer than some of the changes; these are left
/// out, or a file that was removed, and made again and saved, would be removed for good. A file whose bytes cannot be had any more
/// does not stop the others. Blocking.
pub(super) fn replay(
    writing: &Writing,
    (today, sources): (&Snapshot, &[Snapshot]),
    (changes, sent): (&[(Sequence, Change)], &[Sent]),
    scratch: &Arc<Scratch>,
    request: &PutRequest,
) -> Result<Replayed, Error> {
    let mut touched = Touched::default();
    let mut latest: BTreeMap<&[u8], &Base> = BTreeMap::new();
    for (_, change) in changes {
        latest.extend(change.bases.iter().map(|(path, base)| (&path[..], base)));
    }
    let mut base = today.edit();
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
    let mut mine = base.edit();
    let mut contents: BTreeMap<Vec<u8>, (&Content, Option<chrono::DateTime<Utc>>)> = BTreeMap::new();
    for (_, change) in changes {
        let path = change.operation.path();
        match &change.operation {
            Operation::File { path, content, modified } => {
                put(&mut mine, path, &[])?;
                contents.insert(path.clone(), (content, *modified));
            }
            Operation::MakeDirectory { path } => drop(directories(&mut mine, path)?),
            Operation::Remove { path } => {
                remove(&mut mine, path)?;
                contents.retain(|other, _| other != path && !is_inside(other, path));
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
    let newest = Newest::of(changes);
    for save in sent {
        for (path, put_there) in &save.paths {
            let is_there = save.has_arrived || sent::is_there(today, path, put_there)?;
            if is_there && newest.around(path) <= save.state {
                contents.retain(|other, _| other != path && !is_inside(other, path));
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
    let mut files = Vec::new();
    let mut lost: Vec<(Vec<u8>, crate::dirty::Error)> = Vec::new();
    for (path, (content, modified)) in contents {
        match writing.store.restore(content, Some(scratch), request.clone()) {
            Ok(file) => {
                // What the server has today, here or where a file came from, it has signed for the token of today.
                let signed = || [today].into_iter().chain(sources);
                file.sign(|locator| signed().find_map(|snapshot| snapshot.find_locator(locator.hash())));
                if let Some(modified) = modified {
                    file.set_modified(modified);
                }
                files.push((path, file));
            }
            Err(error) if error.is_of_the_file() => lost.push((path, error)),
            Err(error) => return Err(error.into()),
        }
    }
    let kept = keep_back(changes, &lost, &base, &mut mine, &mut touched)?;
    let is_kept = |path: &[u8]| kept.iter().any(|change: &Change| change.operation.path() == path);
    let mut drafts = Vec::new();
    for (path, file) in files {
        if let Some(node) = mine.snapshot().find(&path).filter(|_| !is_kept(&path)) {
            let is_as_before = is_as_before(&base, &path, &file)?;
            drafts.push((node, Arc::new(if is_as_before { Draft::touched(file) } else { Draft::unsaved(file) })));
        }
    }
    Ok(Replayed { base, mine: mine.finish(), drafts, touched, kept })
}

/// Does it consist of what the server had at its path?
fn is_as_before(base: &Snapshot, path: &[u8], file: &DirtyFile) -> Result<bool, Error> {
    let (Some(before), Some(pieces)) = (base.find(path), file.stored()) else { return Ok(false) };
    let mut alone = Snapshot::empty().edit();
    put(&mut alone, path, &pieces)?;
    let alone = alone.finish();
    Ok(alone.find(path).is_some_and(|node| same_content(base, before, &alone, node)))
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

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn is_inside(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
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

impl Writing {
    /// Brings everything that a state has to Keep and returns its manifest, with signatures: what `.arvados#collection` of a
    /// temporary collection says (arv-mount.md 2.6).
    pub async fn settled_manifest(&self, state: &Arc<CollectionState>) -> Result<String, Error> {
        let mut due: Vec<(Vec<u8>, NodeId, Arc<Draft>)> = Vec::new();
        for (number, draft) in &state.drafts {
            if let Some(node) = state.node(*number).filter(|node| state.snapshot.is_linked(*node)) {
                due.push((state.snapshot.path(node), node, draft.clone()));
            }
        }
        due.sort_by(|one, other| one.0.cmp(&other.0));
        let files: Vec<_> = due.iter().map(|(_, _, draft)| draft.file.clone()).collect();
        let mut editor = state.snapshot.edit();
        for ((_, node, draft), settled) in due.iter().zip(self.store.settle(&files).await) {
            let settled = settled?;
            // Whoever reads the manifest goes on from there, and no commit of ours will.
            draft.file.was_saved(&settled.pieces);
            editor.set_content(*node, &settled.pieces)?;
        }
        Ok(editor.finish().to_manifest(crate::keep::manifest::Form::Python))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: u64, operation: Operation) -> (Sequence, Change) {
        (Sequence(state), Change { state, ..change(operation, Vec::new()) })
    }

    #[test]
    fn removed_directory_decides_over_what_is_in_it_and_a_made_one_does_not() {
        let changes = [
            at(3, Operation::Remove { path: b"gone".to_vec() }),
            at(4, Operation::MakeDirectory { path: b"made".to_vec() }),
            at(1, Operation::Remove { path: b"made/old".to_vec() }),
            at(2, Operation::Remove { path: b"made/old".to_vec() }),
        ];
        let newest = Newest::of(&changes);
        let states = ["gone", "gone/x", "made", "made/old", "made/other", "made-not", "other"]
            .map(|path| newest.around(path.as_bytes()));
        assert_eq!(states, [3, 3, 4, 2, 0, 0, 0]);
    }
}
