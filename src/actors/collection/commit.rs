//! One save: from what was touched to what the server has.
//!
//! The order is what keeps data safe. First the bytes go to Keep. Then one request names the changed paths, and only those,
//! under the conditions that [`guard`](super::guard) chose; the result is predicted before it is sent. An answer that was lost is looked
//! for before anything is sent again. A refusal because somebody else was faster ends this save; the actor fetches, merges and
//! begins another.
//!
//! A request that the server refuses for what is in it is taken apart ([`Parts`]): what can be saved is saved, and the paths to
//! blame are told to the actor. If nothing of it can be saved, the collection is refused and no path is to blame.
//!
//! A refusal for want of permission may be about blocks, of which the server does not say a word: [`signing`](super::signing).
//!
//! It works on the state that was published when it began and changes nothing itself: what came of it goes back to the actor.

use crate::actors::collection::draft::Draft;
use crate::actors::collection::guard::Plan;
use crate::actors::collection::landed::Landed;
use crate::actors::collection::signing::Asked;
use crate::actors::collection::state::{Base, CollectionState};
use crate::actors::collection::{CollectionCell, SUMMARY, Writing};
use crate::actors::{Environment, Error};
use crate::dirty;
use crate::journal::Sent;
use crate::keep::manifest::Form;
use crate::remote;
use crate::remote::api::{Collection, Record};
use crate::tree::commit::{Depth, Edits, GoText, Parts, Touched, edits, graft};
use crate::tree::{Editor, NodeId, Snapshot, same_content};
use sending::{Step, is_same};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

mod keeping;
mod outcome;
mod sending;

pub(super) use keeping::read_kept;
pub(super) use outcome::{Blamed, Ended, Outcome, Reach, Saved, SavedFile};

/// Signatures that end sooner than this are renewed before they are sent: a request may have to wait its turn.
const SIGNATURE_MARGIN: u64 = 60;

/// How often one save is put together anew because blocks in it were refused: once is enough, unless signatures end within moments.
const MOST_RENEWALS: u32 = 2;

/// Paths to blame in one save. Each costs some dozens of requests at most; the next save goes on with the others.
const MOST_BLAMED: usize = 8;

/// See the module's essay.
pub(super) struct Commit {
    pub(super) environment: Arc<Environment>,
    pub(super) writing: Arc<Writing>,
    pub(super) cell: Arc<CollectionCell>,
    pub(super) state: Arc<CollectionState>,
    pub(super) touched: Touched,
    /// Files that are not to be saved.
    pub(super) aside: Touched,
    /// Open files that are to be taken along.
    pub(super) promised: Vec<u32>,
    pub(super) text: Option<GoText>,
    pub(super) guard: Plan,
    /// Number of the last change in `state`.
    pub(super) change: u64,
    /// An earlier save may have arrived without our knowing.
    pub(super) is_unsure: bool,
    /// What is not to be on the server as it is here.
    pub(super) left_out: Touched,
    /// Files with blocks that the server does not take from us and that cannot be stored anew.
    pub(super) lost: BTreeMap<Vec<u8>, dirty::Error>,
    pub(super) asked: Asked,
    pub(super) landed: Landed,
    /// What was sent, as long as it is not known whether it arrived.
    pub(super) sent: Vec<Sent>,
    /// The journal has a note of the last of them, and not only of others.
    pub(super) is_noted: bool,
    /// The same of the journals of earlier mounts.
    pub(super) is_noted_earlier: bool,
    /// The record as it is since it was told to keep old versions.
    pub(super) prepared: Option<Arc<Record<Collection>>>,
    /// How many texts came out as predicted, of those that could come out in one way only.
    pub(super) predicted: u32,
}

/// What has come of the save so far.
#[derive(Default)]
struct Progress {
    saved: Option<Saved>,
    blamed: Vec<Blamed>,
}

/// What is to be on the server.
struct Target {
    snapshot: Snapshot,
    files: Vec<SavedFile>,
    left: Touched,
    /// Files that can never be stored as they are.
    unfit: Vec<Blamed>,
}

impl Commit {
    pub(super) async fn run(mut self) -> Ended {
        let mut progress = Progress::default();
        let outcome = self.try_run(&mut progress).await.unwrap_or_else(Outcome::Failed);
        let Progress { saved, mut blamed } = progress;
        blamed.iter_mut().for_each(|blamed| blamed.files = self.files_at(&blamed.paths));
        Ended { text: self.text, asked: self.asked, sent: self.sent, predicted: self.predicted, saved, blamed, outcome }
    }

    async fn try_run(&mut self, progress: &mut Progress) -> Result<Outcome, Error> {
        let mut renewals = 0;
        loop {
            let mut target = self.target().await?;
            progress.blamed = std::mem::take(&mut target.unfit);
            self.left_out = target.left.clone();
            progress.blamed.iter().for_each(|blamed| self.left_out.extend(&blamed.paths));
            let base = self.state.base.clone();
            let touched = self.touched.clone();
            let mut edits = match self.edits(&base, &target.snapshot, &touched) {
                Some(edits) if edits.is_empty() => {
                    // Records of what was changed back and never sent end with this, as with a save.
                    if self.is_unsure || target.files.iter().any(|file| self.is_written(file.number)) {
                        // What was changed back is on the server only if the change is not. And writing what was there before is
                        // a change as well, which nobody has seen who has saved something else meanwhile.
                        let now = self.environment.api.collection(self.cell.key(), &SUMMARY, None).await?;
                        if !is_same(&now, &base.record) {
                            return Ok(Outcome::Refused);
                        }
                    }
                    self.note(&target.snapshot, &touched, Some(&edits));
                    if !self.is_unsure {
                        self.note_arrival(&target.snapshot);
                    }
                    let base = Base { snapshot: target.snapshot.clone(), ..(*base).clone() };
                    progress.saved = Some(saved(base, target, Reach::NotSent));
                    return Ok(Outcome::Done);
                }
                edits => edits,
            };
            let has_old = match &edits {
                Some(edits) => edits.manifest_text.as_deref().is_some_and(has_old_signatures),
                None => tokio::task::block_in_place(|| has_old_signatures(&target.snapshot.to_manifest(Form::Python))),
            };
            if has_old || renewals > 0 {
                match self.renew(&base, &target).await? {
                    Some(renewed) => target.snapshot = renewed,
                    None => return Ok(Outcome::Refused),
                }
                edits = self.edits(&base, &target.snapshot, &touched);
            }
            match self.send(&base, &target.snapshot, &touched, edits).await {
                Ok(Step::Accepted(base, reach)) => {
                    progress.saved = Some(saved(base, target, reach));
                    return Ok(Outcome::Done);
                }
                Ok(Step::Ended(outcome)) => return Ok(outcome),
                Ok(Step::Unacceptable(error)) => {
                    let whole = target.snapshot.clone();
                    match self.save_parts(&base, target, error, progress).await {
                        // As below, of a part.
                        Err(Error::Remote(error)) if error.is_forbidden() && renewals < MOST_RENEWALS => {
                            let base = progress.saved.as_ref().map_or(&base, |saved| &saved.base).clone();
                            if !self.has_given_up_blocks(&base, &whole).await? {
                                return Err(error.into());
                            }
                            if progress.saved.is_some() {
                                // The rest goes on top of that, with the next save.
                                return Ok(Outcome::Refused);
                            }
                            renewals += 1;
                        }
                        ended => return ended,
                    }
                }
                // The server does not say whether it is for the blocks or for all.
                Err(Error::Remote(error)) if error.is_forbidden() && renewals < MOST_RENEWALS => {
                    if !self.has_given_up_blocks(&base, &target.snapshot).await? {
                        return Err(error.into());
                    }
                    renewals += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The unsaved files at these paths.
    fn files_at(&self, paths: &Touched) -> Vec<u32> {
        let is_there = |number: &u32| {
            let node = self.state.node(*number).filter(|node| self.state.snapshot.is_linked(*node));
            node.is_some_and(|node| paths.covers(&self.state.snapshot.path(node)))
        };
        self.state.drafts.keys().copied().filter(is_there).collect()
    }

    /// Saves what can be saved of something that the server refuses as a whole.
    async fn save_parts(
        &mut self,
        base: &Arc<Base>,
        target: Target,
        refusal: remote::Error,
        progress: &mut Progress,
    ) -> Result<Outcome, Error> {
        let plan = || edits(&base.snapshot, &target.snapshot, &self.touched);
        let Ok(all) = tokio::task::block_in_place(plan) else { return Err(refusal.into()) };
        let mut parts = Parts::of(&base.snapshot, &target.snapshot, &all);
        let count = all.paths().count();
        tracing::info!(collection = self.cell.key(), error = %refusal, count, "a save is refused: looking for the path to blame");
        let mut server: Option<(Arc<Base>, Reach)> = None;
        let mut errors = Vec::new();
        let outcome = loop {
            let Some(part) = tokio::task::block_in_place(|| parts.take()) else { break Ok(Outcome::Done) };
            let base = server.as_ref().map_or(base, |(base, _)| base).clone();
            let goal = match tokio::task::block_in_place(|| graft(&base.snapshot, &target.snapshot, &part.paths)) {
                Ok(goal) => goal,
                Err(error) => break Err(error.into()),
            };
            let edits = self.edits(&base, &goal, &part.paths);
            if edits.as_ref().is_some_and(Edits::is_empty) {
                continue;
            }
            match self.send(&base, &goal, &part.paths, edits).await {
                Ok(Step::Accepted(base, reach)) => {
                    server = Some((Arc::new(base), reach));
                    if reach == Reach::Mixed {
                        break Ok(Outcome::Refused);
                    }
                }
                Ok(Step::Unacceptable(error)) => {
                    if parts.was_refused(part) {
                        errors.push(Error::from(error));
                    }
                    if errors.len() == MOST_BLAMED {
                        break Err(refusal.clone().into());
                    }
                }
                Ok(Step::Ended(outcome)) => break Ok(outcome),
                Err(error) => break Err(error),
            }
        };
        let Some((base, reach)) = server else {
            // Nothing of it pleases the server: that is not because of a path, unless there is only one.
            let paths = all.paths().take(MOST_BLAMED).map(String::from_utf8_lossy).collect::<Vec<_>>().join(", ");
            tracing::warn!(collection = self.cell.key(), paths, "the server takes no part of what is to be saved");
            return match outcome {
                Ok(Outcome::Done) => Err(refusal.into()),
                outcome => outcome,
            };
        };
        let Target { snapshot, files, left, .. } = target;
        let is_there = |file: &SavedFile| {
            let there = base.snapshot.find(&snapshot.path(file.node));
            there.is_some_and(|there| same_content(&base.snapshot, there, &snapshot, file.node))
        };
        let files = files.into_iter().filter(is_there).collect();
        progress.saved = Some(Saved { base, files, left, reach });
        let blamed = parts.blamed().iter().cloned().zip(errors);
        progress.blamed.extend(blamed.map(|(paths, error)| Blamed::new(paths, error)));
        outcome
    }

    /// Brings the bytes to Keep, and puts together what the server is to have.
    async fn target(&self) -> Result<Target, Error> {
        let state = &self.state;
        let mut due: Vec<(Vec<u8>, u32, NodeId, &Arc<Draft>)> = Vec::new();
        let mut left = Touched::default();
        let mut editor = state.snapshot.edit();
        for (number, draft) in state.drafts.iter().filter(|(_, draft)| draft.is_changed()) {
            let Some(node) = state.node(*number).filter(|node| state.snapshot.is_linked(*node)) else { continue };
            let path = state.snapshot.path(node);
            if self.aside.covers(&path) || self.lost.contains_key(&path) {
                continue;
            }
            // What was written and closed since the save began is another save's: it is not among what is sent.
            let is_taken = self.touched.covers(&path);
            if is_taken && (!draft.is_open() || self.promised.contains(number)) {
                due.push((path, *number, node, draft));
                continue;
            }
            // Half written.
            self.leave_out(&mut editor, &path, node)?;
            left.touch(&path, Depth::Entry);
        }
        due.sort_by(|one, other| one.0.cmp(&other.0));
        let files: Vec<_> = due.iter().map(|(_, _, _, draft)| draft.file.clone()).collect();
        self.renew_own(&files).await?;
        let results = self.writing.store.settle(&files).await;
        let mut saved = Vec::with_capacity(due.len());
        let (mut unfit, mut is_new): (Vec<Blamed>, bool) = (Vec::new(), false);
        for ((path, number, node, _), result) in due.iter().zip(results) {
            let settled = match result {
                Err(error) if error.is_of_the_file() => {
                    self.leave_out(&mut editor, path, *node)?;
                    is_new |= state.base.snapshot.find(path).is_none();
                    let paths = [(&path[..], Depth::Entry)].into_iter().collect();
                    unfit.push(Blamed::new(paths, error));
                    continue;
                }
                result => result?,
            };
            editor.set_content(*node, &settled.pieces)?;
            saved.push(SavedFile { number: *number, node: *node, settled });
        }
        for (path, error) in &self.lost {
            is_new |= state.base.snapshot.find(path).is_none();
            unfit.push(Blamed::new([(&path[..], Depth::Tree)].into_iter().collect(), error.clone()));
        }
        let mut snapshot = editor.finish();
        if let Some(first) = unfit.first_mut().filter(|_| is_new) {
            // It may have been moved there, and the server would be left with neither.
            let base = &state.base.snapshot;
            let is_gone = |path: &[u8]| base.find(path).is_some() && snapshot.find(path).is_none();
            let gone: Touched = self.touched.iter().filter(|(path, _)| is_gone(path)).collect();
            snapshot = graft(&snapshot, base, &gone)?;
            first.paths.extend(&gone);
        }
        let mut aside = self.aside.clone();
        self.lost.keys().for_each(|path| aside.touch(path, Depth::Tree));
        if !aside.is_empty() {
            // There the server keeps what it has.
            snapshot = graft(&snapshot, &state.base.snapshot, &aside)?;
        }
        Ok(Target { snapshot, files: saved, left, unfit })
    }

    /// The server keeps what it has at the path of a file.
    fn leave_out(&self, editor: &mut Editor, path: &[u8], node: NodeId) -> Result<(), Error> {
        let (base, snapshot) = (&self.state.base.snapshot, &self.state.snapshot);
        match base.find(path).filter(|node| !base.is_directory(*node)) {
            Some(before) => {
                let pieces: Vec<_> = base.pieces(before).collect();
                editor.set_content(node, &pieces)?;
            }
            None => drop(editor.remove(snapshot.parent(node), snapshot.name(node))?),
        }
        Ok(())
    }

    fn is_written(&self, number: u32) -> bool {
        self.state.draft(number).is_some_and(|draft| draft.is_written())
    }

    /// The changed paths; `None` if only a whole manifest can say it.
    fn edits(&self, base: &Base, target: &Snapshot, touched: &Touched) -> Option<Edits> {
        if !self.writing.knows_replace_files.load(Ordering::Relaxed) {
            return None;
        }
        tokio::task::block_in_place(|| edits(&base.snapshot, target, touched)).ok()
    }

    /// The target with new signatures; `None` if the collection is not what it was.
    async fn renew(&self, base: &Base, target: &Target) -> Result<Option<Snapshot>, Error> {
        Ok(self.signed_anew(base).await?.map(|newer| {
            let mut editor = target.snapshot.edit();
            editor.renew_signatures(&newer);
            editor.finish()
        }))
    }

    /// The base with new signatures; `None` if the collection is not what it was.
    pub(super) async fn signed_anew(&self, base: &Base) -> Result<Option<Snapshot>, Error> {
        let mut manifest = Vec::new();
        let record = self.environment.api.collection(self.cell.key(), &[], Some(&mut manifest)).await?;
        if record.portable_data_hash != base.record.portable_data_hash {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&manifest).into_owned();
        let newer = tokio::task::block_in_place(|| Snapshot::parse(&text))
            .map_err(|error| Error::Manifest { collection: self.cell.key().clone(), problem: error.to_string() })?;
        Ok(Some(newer))
    }
}

fn saved(base: Base, target: Target, reach: Reach) -> Saved {
    let Target { files, left, .. } = target;
    Saved { base: Arc::new(base), files, left, reach }
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Does the text have a signature that ends soon?
fn has_old_signatures(manifest: &str) -> bool {
    let end = unix_now() + SIGNATURE_MARGIN;
    let expiries = manifest.split([' ', '\n']).filter_map(|token| {
        let hint = token.split('+').find(|hint| hint.starts_with('A'))?;
        u64::from_str_radix(hint.split_once('@')?.1, 16).ok()
    });
    expiries.min().is_some_and(|expiry| expiry < end)
}
