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
use crate::actors::collection::guard::{self, CommitGuard, Conditions, Nature, Plan};
use crate::actors::collection::signing::Asked;
use crate::actors::collection::state::{Base, CollectionState};
use crate::actors::collection::{CollectionCell, SUMMARY, Writing, sent};
use crate::actors::{Environment, Error};
use crate::dirty::{self, Settled};
use crate::journal::Sent;
use crate::keep::PortableDataHash;
use crate::keep::manifest::Form;
use crate::remote;
use crate::remote::api::{Collection, CollectionUpdate, ManifestSink, Record};
use crate::remote::retry;
use crate::tree::commit::{Depth, Edits, GoText, Parts, Prediction, Touched, edits, graft};
use crate::tree::{Editor, NodeId, Snapshot, same_content};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    /// Files with blocks that the server does not take from us and that cannot be stored anew.
    pub(super) lost: BTreeMap<Vec<u8>, dirty::Error>,
    pub(super) asked: Asked,
    /// What was sent, as long as it is not known whether it arrived.
    pub(super) sent: Vec<Sent>,
    /// The journal has a note of the last of them, and not only of others.
    pub(super) is_noted: bool,
    /// The record as it is since it was told to keep old versions.
    pub(super) prepared: Option<Arc<Record<Collection>>>,
    /// How many texts came out as predicted, of those that could come out in one way only.
    pub(super) predicted: u32,
}

/// What is left of a save for those that follow.
pub(super) struct Ended {
    pub(super) text: Option<GoText>,
    pub(super) asked: Asked,
    pub(super) sent: Vec<Sent>,
    /// See [`Commit::predicted`].
    pub(super) predicted: u32,
    /// What has been saved, if anything has or nothing had to be.
    pub(super) saved: Option<Saved>,
    /// What the server refuses for good, though it takes the rest.
    pub(super) blamed: Vec<Blamed>,
    pub(super) outcome: Outcome,
}

impl Ended {
    /// Nothing came of it.
    pub(super) fn failed(error: Error) -> Ended {
        Ended {
            text: None,
            asked: Asked::default(),
            sent: Vec::new(),
            predicted: 0,
            saved: None,
            blamed: Vec::new(),
            outcome: Outcome::Failed(error),
        }
    }
}

/// Paths that the server refuses, and what has to stay because of them.
pub(super) struct Blamed {
    pub(super) paths: Touched,
    pub(super) error: Error,
}

/// How it ended.
pub(super) enum Outcome {
    /// All is saved but what is to blame.
    Done,
    /// Somebody else has changed the collection: merge, and try again.
    Refused,
    /// The server writes another text than we thought.
    Mispredicted,
    Failed(Error),
}

/// What the server has now.
pub(super) struct Saved {
    pub(super) base: Arc<Base>,
    pub(super) files: Vec<SavedFile>,
    /// What was touched and not taken along: half-written files.
    pub(super) left: Touched,
    pub(super) reach: Reach,
}

/// What the server's answer says of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The server had it all already.
    NotSent,
    /// It has nothing but what we think.
    Complete,
    /// Others have changed something, too.
    Mixed,
}

pub(super) struct SavedFile {
    pub(super) number: u32,
    pub(super) node: NodeId,
    pub(super) settled: Settled,
}

/// The request, and what will come of it.
struct Request {
    update: CollectionUpdate,
    conditions: Conditions,
    /// The hash of the result, if everything is as we think.
    hash: PortableDataHash,
    prediction: Option<Prediction>,
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

/// What became of one request.
enum Step {
    Accepted(Base, Reach),
    /// The server will never take it.
    Unacceptable(remote::Error),
    Ended(Outcome),
}

impl Commit {
    pub(super) async fn run(mut self) -> Ended {
        let mut progress = Progress::default();
        let outcome = self.try_run(&mut progress).await.unwrap_or_else(Outcome::Failed);
        let Progress { saved, blamed } = progress;
        Ended { text: self.text, asked: self.asked, sent: self.sent, predicted: self.predicted, saved, blamed, outcome }
    }

    async fn try_run(&mut self, progress: &mut Progress) -> Result<Outcome, Error> {
        let mut renewals = 0;
        loop {
            let mut target = self.target().await?;
            progress.blamed = std::mem::take(&mut target.unfit);
            let base = self.state.base.clone();
            let touched = self.touched.clone();
            let mut edits = match self.edits(&base, &target.snapshot, &touched) {
                Some(edits) if edits.is_empty() => {
                    if self.is_unsure {
                        // What was changed back is on the server only if the change is not.
                        let now = self.environment.api.collection(self.cell.key(), &SUMMARY, None).await?;
                        if !is_same(&now, &base.record) {
                            return Ok(Outcome::Refused);
                        }
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
        progress.blamed.extend(blamed.map(|(paths, error)| Blamed { paths, error }));
        outcome
    }

    /// Sends one request that makes what the server has into `goal`, until it is known what became of it.
    async fn send(
        &mut self,
        base: &Base,
        goal: &Snapshot,
        touched: &Touched,
        mut edits: Option<Edits>,
    ) -> Result<Step, Error> {
        let mut record = self.prepared.clone().unwrap_or_else(|| base.record.clone());
        let mut attempts = 0;
        loop {
            let mut request = self.request(base, &record, goal, edits.as_ref()).await?;
            if request.conditions.prepare && self.prepared.is_none() {
                record = Arc::new(keep_and_read(&self.environment, self.cell.key(), &SUMMARY, None).await?);
                if record.portable_data_hash != base.record.portable_data_hash || !record.preserve_version {
                    return Ok(Step::Ended(Outcome::Refused));
                }
                self.prepared = Some(record.clone());
                request.update.attributes.insert("version".into(), json!(record.version));
            }
            if edits.is_none() && !request.conditions.version {
                // Nothing guards what others have saved, anywhere in the collection: at least what they did up to now is seen.
                let now = self.environment.api.collection(self.cell.key(), &SUMMARY, None).await?;
                if !is_same(&now, &record) {
                    return Ok(Step::Ended(Outcome::Refused));
                }
            }
            let noted = self.sent.len();
            self.note(goal, touched, edits.as_ref());
            self.cell.shared().expect(&request.hash.to_string(), &base.record.portable_data_hash);
            self.cell.shared().remember(&base.record.portable_data_hash, &base.snapshot);
            let environment = self.environment.clone();
            let api = &environment.api;
            let error = match api.update_collection(self.cell.key(), &request.update, None).await {
                Ok(answer) => return Ok(self.was_accepted(answer, request, base, goal)),
                Err(error) => error,
            };
            let is_unreadable = matches!(error, remote::Error::Answer { .. });
            if attempts == 0 && !error.is_temporary() && !is_unreadable {
                // Refused with an answer, so it has not arrived.
                self.take_back(noted);
            }
            if error.is_failed_condition() {
                if !request.conditions.hash {
                    return Ok(Step::Ended(Outcome::Refused));
                }
                let now = api.collection(self.cell.key(), &SUMMARY, None).await?;
                let is_same = is_same(&now, &record);
                return Ok(Step::Ended(if is_same { Outcome::Mispredicted } else { Outcome::Refused }));
            }
            if error.is_unknown_attribute("replace_files") && edits.is_some() {
                self.writing.knows_replace_files.store(false, Ordering::Relaxed);
                tracing::warn!(
                    "this cluster does not know replace_files: whole manifests are sent, guarded by the version"
                );
                edits = None;
                continue;
            }
            if error.is_malformed_manifest() && edits.is_some() {
                tracing::warn!(collection = self.cell.key(), %error, "the server cannot edit what it has: sending the whole");
                edits = None;
                continue;
            }
            if error.is_unacceptable() {
                return Ok(Step::Unacceptable(error));
            }
            if !error.is_temporary() && !is_unreadable {
                return Err(error.into());
            }
            // The answer was lost, or the server failed: look what became of it.
            let now = api.collection(self.cell.key(), &SUMMARY, None).await?;
            if now.portable_data_hash == request.hash.to_string() {
                return Ok(self.was_accepted(now, request, base, goal));
            }
            if !is_same(&now, &record) {
                return Ok(Step::Ended(Outcome::Refused));
            }
            attempts += 1;
            if attempts > self.writing.retries {
                return Err(error.into());
            }
            // It may arrive still, and others may come in before the next attempt.
            self.guard.others = true;
            tracing::info!(collection = self.cell.key(), %error, attempts, "the save did not arrive: trying again");
            tokio::time::sleep(retry::pause(attempts)).await;
        }
    }

    /// Remembers what is about to be sent.
    fn note(&mut self, goal: &Snapshot, touched: &Touched, edits: Option<&Edits>) {
        let sent = match edits {
            Some(edits) => sent::of_paths(goal, edits.paths(), self.change),
            None => sent::of_paths(goal, touched.iter().map(|(path, _)| path), self.change),
        };
        if self.sent.last() == Some(&sent) {
            return;
        }
        if let Some(journal) = &self.writing.journal {
            let noted = journal.sent(self.cell.key(), &sent);
            self.is_noted = noted.is_ok();
            if let Err(error) = noted {
                tracing::debug!(collection = self.cell.key(), %error, "cannot note in the journal what is sent");
            }
        }
        self.writing.earlier.note(self.cell.key(), &sent);
        self.sent.push(sent);
    }

    /// Nothing came of what was sent after the first `noted`.
    fn take_back(&mut self, noted: usize) {
        if self.sent.len() <= noted {
            return;
        }
        self.sent.truncate(noted);
        tokio::task::block_in_place(|| {
            if let Some(journal) = self.writing.journal.as_ref().filter(|_| self.is_noted)
                && let Err(error) = journal.withdrawn(self.cell.key())
            {
                tracing::debug!(collection = self.cell.key(), %error, "cannot note in the journal that a save was refused");
            }
            self.writing.earlier.was_refused(self.cell.key());
        });
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
                    unfit.push(Blamed { paths, error: error.into() });
                    continue;
                }
                result => result?,
            };
            editor.set_content(*node, &settled.pieces)?;
            saved.push(SavedFile { number: *number, node: *node, settled });
        }
        for (path, error) in &self.lost {
            is_new |= state.base.snapshot.find(path).is_none();
            unfit.push(Blamed { paths: [(&path[..], Depth::Tree)].into_iter().collect(), error: error.clone().into() });
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

    /// The changed paths; `None` if only a whole manifest can say it.
    fn edits(&self, base: &Base, target: &Snapshot, touched: &Touched) -> Option<Edits> {
        if !self.writing.knows_replace_files.load(Ordering::Relaxed) {
            return None;
        }
        tokio::task::block_in_place(|| edits(&base.snapshot, target, touched)).ok()
    }

    async fn request(
        &mut self,
        base: &Base,
        record: &Record<Collection>,
        goal: &Snapshot,
        edits: Option<&Edits>,
    ) -> Result<Request, Error> {
        let config = self.environment.api.config().await?;
        let versioned = config.collections.collection_versioning.unwrap_or(true);
        let mut update = summarised();
        let (hash, prediction) = match edits {
            Some(edits) => {
                let ttl = self.environment.api.discovery().await?.blob_signature_ttl;
                let now_expiry = unix_now() + ttl;
                update.replace_files = edits.replace_files.clone();
                update.manifest = edits.manifest_text.clone();
                let text = &mut self.text;
                tokio::task::block_in_place(|| {
                    let text = text.get_or_insert_with(|| GoText::of(&base.snapshot));
                    let prediction = text.predict(goal, edits, Some(now_expiry));
                    (prediction.hash, Some(prediction))
                })
            }
            None => {
                let text = tokio::task::block_in_place(|| goal.to_manifest(Form::Python));
                let hash = PortableDataHash::of_manifest(&text);
                update.manifest = Some(text);
                (hash, None)
            }
        };
        let is_ambiguous = prediction.as_ref().is_some_and(|prediction| prediction.ambiguous);
        // What an event has told since the save began counts, too: the bytes may have taken their time.
        let has_heard = || self.cell.marks() != self.state.marks && self.cell.shared().is_foreign();
        let others = self.guard.others || !self.writing.hears || has_heard();
        let (plan, nature) = (Plan { others, ..self.guard }, Nature::of(edits, is_ambiguous));
        let conditions = guard::conditions(self.writing.guard, plan, base, nature, versioned);
        if conditions.version {
            update.attributes.insert("version".into(), json!(record.version));
        }
        if conditions.preserve {
            update.attributes.insert("preserve_version".into(), json!(true));
        }
        if conditions.hash {
            update.attributes.insert("portable_data_hash".into(), json!(hash.to_string()));
        }
        Ok(Request { update, conditions, hash, prediction })
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

    fn was_accepted(&mut self, answer: Record<Collection>, request: Request, base: &Base, goal: &Snapshot) -> Step {
        let mut as_predicted = answer.portable_data_hash == request.hash.to_string();
        let is_ambiguous = request.prediction.as_ref().is_some_and(|prediction| prediction.ambiguous);
        match (request.prediction, &mut self.text) {
            (Some(prediction), Some(text)) if as_predicted => {
                self.predicted += u32::from(!is_ambiguous);
                text.commit(prediction);
            }
            _ => self.text = None,
        }
        if is_ambiguous && !as_predicted {
            // The other way in which it may come out: all blocks signed in the same second.
            let other = tokio::task::block_in_place(|| GoText::of(goal));
            as_predicted = answer.portable_data_hash == other.hash().to_string();
            self.text = as_predicted.then_some(other);
            if as_predicted {
                self.cell.shared().confirm(&answer.portable_data_hash, &base.record.portable_data_hash);
            }
        }
        // Where the text cannot be predicted one has to rely on the version with old ones kept.
        let is_seen = (request.conditions.preserve || request.conditions.prepare) && !self.guard.predict;
        let reach = if as_predicted || is_seen { Reach::Complete } else { Reach::Mixed };
        let is_sound = answer.preserve_version;
        self.prepared = None;
        // On what it has led to the conditions of all that was sent before fail.
        self.sent.clear();
        // After this note the log may be written anew.
        tokio::task::block_in_place(|| {
            if let Some(journal) = self.writing.journal.as_ref().filter(|_| self.is_noted)
                && let Err(error) = journal.arrived(self.cell.key())
            {
                tracing::debug!(collection = self.cell.key(), %error, "cannot note in the journal that a save arrived");
            }
            self.writing.earlier.has_arrived(self.cell.key());
        });
        let (record, snapshot, is_whole) = (Arc::new(answer), goal.clone(), reach == Reach::Complete);
        Step::Accepted(Base { record, snapshot, is_whole, is_own: true, is_sound }, reach)
    }
}

/// How things are under the condition that no change of others goes without a new version (protocol.md 4.12): asks for that, where
/// it is wanted and the cluster keeps versions. `select` nothing and a sink to have the manifest too.
pub(super) async fn read_kept(
    environment: &Environment,
    uuid: &str,
    select: &[&str],
    manifest: Option<&mut dyn ManifestSink>,
) -> Result<Record<Collection>, Error> {
    let api = &environment.api;
    let guard = environment.writing.as_ref().map_or(CommitGuard::None, |writing| writing.guard);
    let is_versioned = api.config().await?.collections.collection_versioning.unwrap_or(true);
    if guard == CommitGuard::None || !is_versioned {
        return Ok(api.collection(uuid, select, manifest).await?);
    }
    keep_and_read(environment, uuid, select, manifest).await
}

/// Asks for old versions to be kept, whatever the guard, and says how things are.
///
/// The server reads a record without a lock, so its answer can be older than the change of somebody who came in that moment. Under
/// `strict` the record is read again therefore. Otherwise it is not: what would be overwritten is kept as a version
/// then, and the event of our save tells of it.
async fn keep_and_read(
    environment: &Environment,
    uuid: &str,
    select: &[&str],
    manifest: Option<&mut dyn ManifestSink>,
) -> Result<Record<Collection>, Error> {
    let api = &environment.api;
    let is_strict = environment.writing.as_ref().is_some_and(|writing| writing.guard == CommitGuard::Strict);
    let mut update =
        CollectionUpdate { select: select.iter().map(|name| (*name).to_owned()).collect(), ..Default::default() };
    update.attributes.insert("preserve_version".into(), json!(true));
    update.repeat = retry::Repeat::Harmless;
    if is_strict {
        update.select = vec!["uuid".to_owned()];
        api.update_collection(uuid, &update, None).await?;
        return Ok(api.collection(uuid, select, manifest).await?);
    }
    Ok(api.update_collection(uuid, &update, manifest).await?)
}

/// A change that is answered without the manifest.
fn summarised() -> CollectionUpdate {
    let select = SUMMARY.iter().map(|name| (*name).to_owned()).collect();
    CollectionUpdate { select, ..CollectionUpdate::default() }
}

fn saved(base: Base, target: Target, reach: Reach) -> Saved {
    let Target { files, left, .. } = target;
    Saved { base: Arc::new(base), files, left, reach }
}

/// Has nobody changed the collection since? (A preparation of ours changes neither.)
fn is_same(now: &Record<Collection>, before: &Record<Collection>) -> bool {
    now.portable_data_hash == before.portable_data_hash && now.version == before.version
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
