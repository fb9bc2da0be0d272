//! What the journal is told: what a path is now (a file with its content, a directory, nothing) and what the server has there. What
//! is made of that after a crash is [`replaying`](super::replaying)'s.

use crate::actors::Error;
use crate::actors::collection::Writing;
use crate::actors::collection::draft::Draft;
use crate::actors::collection::landed::Landed;
use crate::actors::collection::state::CollectionState;
use crate::dirty::content::{Extent, Source};
use crate::dirty::{Backing, Content, DirtyFile};
use crate::journal::{Base, Change, Journal, Operation, Piece as RecordedPiece, Sequence};
use crate::keep::Locator;
use crate::keep::manifest::Piece;
use crate::tree::commit::{Depth, Touched};
use crate::tree::{NodeId, Snapshot};
use chrono::Utc;
use std::collections::{HashMap, HashSet};
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
    /// Nothing was: a save has arrived since, and what was to be said of the server is not so any more.
    pub(super) is_outdated: bool,
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
/// of what is being written to them. `number`: that of the state. `after`, `moved_to`: see [`Change`]. `arrivals`: how many saves
/// the state knows of.
pub(super) async fn record(
    (journal, landed, arrivals): (&Arc<Journal>, &Landed, u64),
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
    let (journal, landed, uuid) = (journal.clone(), landed.clone(), uuid.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let mut last = None;
        let mut is_outdated = false;
        if !changes.is_empty() {
            last = journal.append_if(&uuid, &changes, || landed.is_still(arrivals))?;
            is_outdated = last.is_none();
        }
        drop(held);
        // What is in the journal has to be settled there one day, whether it is on the disk or not.
        let synced = if durable && !is_outdated { journal.sync().map_err(Error::from) } else { Ok(()) };
        Ok(Recorded { last, is_outdated, synced, bare, left_out })
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
