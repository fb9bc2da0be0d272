//! One save: from what was touched to what the server has.
//!
//! The order is what keeps data safe. First the bytes go to Keep. Then one request names the changed paths, and only those,
//! under the conditions that [`guard`](super::guard) chose; the result is predicted before it is sent. An answer that was lost is looked
//! for before anything is sent again. A refusal because somebody else was faster ends this save; the actor fetches, merges and
//! begins another.
//!
//! It works on the state that was published when it began and changes nothing itself: what came of it goes back to the actor.

use crate::actors::collection::draft::Draft;
use crate::actors::collection::guard::{self, Conditions, Plan};
use crate::actors::collection::state::{Base, CollectionState};
use crate::actors::collection::{CollectionCell, SUMMARY, Writing, sent};
use crate::actors::{Environment, Error};
use crate::dirty::Settled;
use crate::journal::Sent;
use crate::keep::PortableDataHash;
use crate::keep::manifest::Form;
use crate::remote::api::{Collection, CollectionUpdate, Record};
use crate::remote::retry;
use crate::tree::commit::{Depth, Edits, GoText, Prediction, Touched, edits};
use crate::tree::{NodeId, Snapshot};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Signatures that end sooner than this are renewed before they are sent: a request may have to wait its turn.
const SIGNATURE_MARGIN: u64 = 60;

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
    /// What was sent, as long as it is not known whether it arrived.
    pub(super) sent: Vec<Sent>,
}

/// What is left of a save for those that follow.
pub(super) struct Ended {
    pub(super) text: Option<GoText>,
    pub(super) sent: Vec<Sent>,
    pub(super) outcome: Outcome,
}

/// How it ended.
pub(super) enum Outcome {
    Saved(Saved),
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

/// What is to be on the server.
struct Target {
    snapshot: Snapshot,
    files: Vec<SavedFile>,
    left: Touched,
}

impl Commit {
    pub(super) async fn run(mut self) -> Ended {
        let outcome = self.try_run().await.unwrap_or_else(Outcome::Failed);
        Ended { text: self.text, sent: self.sent, outcome }
    }

    async fn try_run(&mut self) -> Result<Outcome, Error> {
        let mut target = self.target().await?;
        let base = self.state.base.clone();
        let mut edits = match self.edits(&base, &target).await? {
            Some(edits) if edits.is_empty() => {
                let Base { record, is_own, is_sound, .. } = &*base;
                let (record, is_own, is_sound) = (record.clone(), *is_own, *is_sound);
                let base = Base { record, snapshot: target.snapshot.clone(), is_own, is_sound };
                return Ok(saved(base, target, Reach::NotSent));
            }
            edits => edits,
        };
        if let Some(found) = &edits
            && found.manifest_text.as_deref().is_some_and(has_old_signatures)
        {
            match self.renew(&base, &target).await? {
                Some(renewed) => target.snapshot = renewed,
                None => return Ok(Outcome::Refused),
            }
            edits = self.edits(&base, &target).await?;
        }
        let mut record = base.record.clone();
        let mut attempts = 0;
        loop {
            let mut request = self.request(&base, &record, &target, edits.as_ref()).await?;
            if request.conditions.prepare {
                record = Arc::new(self.prepare().await?);
                if record.portable_data_hash != base.record.portable_data_hash {
                    return Ok(Outcome::Refused);
                }
                request.update.attributes.insert("version".into(), json!(record.version));
            }
            self.note(&target, edits.as_ref());
            self.cell.shared().expect(&request.hash.to_string(), &base.record.portable_data_hash);
            let api = &self.environment.api;
            let error = match api.update_collection(self.cell.key(), &request.update, None).await {
                Ok(answer) => return Ok(self.was_accepted(answer, request, target)),
                Err(error) => error,
            };
            if error.is_failed_condition() {
                if !request.conditions.hash {
                    return Ok(Outcome::Refused);
                }
                let now = api.collection(self.cell.key(), &SUMMARY, None).await?;
                let is_same = is_same(&now, &record);
                return Ok(if is_same { Outcome::Mispredicted } else { Outcome::Refused });
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
            if !error.is_temporary() {
                return Err(error.into());
            }
            // The answer was lost, or the server failed: look what became of it.
            let now = api.collection(self.cell.key(), &SUMMARY, None).await?;
            if now.portable_data_hash == request.hash.to_string() {
                return Ok(self.was_accepted(now, request, target));
            }
            if !is_same(&now, &record) {
                return Ok(Outcome::Refused);
            }
            attempts += 1;
            if attempts > self.writing.retries {
                return Err(error.into());
            }
            tracing::info!(collection = self.cell.key(), %error, attempts, "the save did not arrive: trying again");
            tokio::time::sleep(retry::pause(attempts)).await;
        }
    }

    /// Remembers what is about to be sent.
    fn note(&mut self, target: &Target, edits: Option<&Edits>) {
        let sent = match edits {
            Some(edits) => sent::at_paths(&target.snapshot, edits.paths()),
            None => sent::at_paths(&target.snapshot, self.touched.iter().map(|(path, _)| path)),
        };
        if self.sent.last() == Some(&sent) {
            return;
        }
        if let Some(journal) = &self.writing.journal
            && let Err(error) = journal.sent(self.cell.key(), sent.clone())
        {
            tracing::debug!(collection = self.cell.key(), %error, "cannot note in the journal what is sent");
        }
        self.sent.push(sent);
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
            let is_aside = self.aside.iter().any(|(aside, _)| aside == path);
            if !is_aside && (!draft.is_open() || self.promised.contains(number)) {
                due.push((path, *number, node, draft));
                continue;
            }
            // Half written: the server keeps what it has there.
            match state.base.snapshot.find(&path).filter(|node| !state.base.snapshot.is_directory(*node)) {
                Some(before) => {
                    let pieces: Vec<_> = state.base.snapshot.pieces(before).collect();
                    editor.set_content(node, &pieces)?;
                }
                None => drop(editor.remove(state.snapshot.parent(node), state.snapshot.name(node))?),
            }
            if !is_aside {
                left.touch(&path, Depth::Entry);
            }
        }
        due.sort_by(|one, other| one.0.cmp(&other.0));
        let files: Vec<_> = due.iter().map(|(_, _, _, draft)| draft.file.clone()).collect();
        let results = self.writing.store.settle(&files).await;
        let mut saved = Vec::with_capacity(due.len());
        for ((_, number, node, _), result) in due.iter().zip(results) {
            let settled = result?;
            editor.set_content(*node, &settled.pieces)?;
            saved.push(SavedFile { number: *number, node: *node, settled });
        }
        Ok(Target { snapshot: editor.finish(), files: saved, left })
    }

    /// The changed paths; `None` if only a whole manifest can say it.
    async fn edits(&self, base: &Base, target: &Target) -> Result<Option<Edits>, Error> {
        if !self.writing.knows_replace_files.load(Ordering::Relaxed) {
            return Ok(None);
        }
        Ok(tokio::task::block_in_place(|| edits(&base.snapshot, &target.snapshot, &self.touched)).ok())
    }

    async fn request(
        &mut self,
        base: &Base,
        record: &Record<Collection>,
        target: &Target,
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
                    let prediction = text.predict(&target.snapshot, edits, Some(now_expiry));
                    (prediction.hash, Some(prediction))
                })
            }
            None => {
                let text = tokio::task::block_in_place(|| target.snapshot.to_manifest(Form::Python));
                let hash = PortableDataHash::of_manifest(&text);
                update.manifest = Some(text);
                (hash, None)
            }
        };
        let is_ambiguous = prediction.as_ref().is_some_and(|prediction| prediction.ambiguous);
        let kind = (edits.is_none(), is_ambiguous, versioned);
        let conditions = guard::conditions(self.writing.guard, self.guard, base, kind);
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

    /// From now on no change of others goes without a new version. The answer tells how things are under that condition.
    async fn prepare(&self) -> Result<Record<Collection>, Error> {
        let mut update = summarised();
        update.attributes.insert("preserve_version".into(), json!(true));
        update.repeat = retry::Repeat::Harmless;
        Ok(self.environment.api.update_collection(self.cell.key(), &update, None).await?)
    }

    /// The target with new signatures; `None` if the collection is not what it was.
    async fn renew(&self, base: &Base, target: &Target) -> Result<Option<Snapshot>, Error> {
        let mut manifest = Vec::new();
        let record = self.environment.api.collection(self.cell.key(), &[], Some(&mut manifest)).await?;
        if record.portable_data_hash != base.record.portable_data_hash {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&manifest).into_owned();
        let newer = tokio::task::block_in_place(|| Snapshot::parse(&text))
            .map_err(|error| Error::Manifest { collection: self.cell.key().clone(), problem: error.to_string() })?;
        let mut editor = target.snapshot.edit();
        editor.renew_signatures(&newer);
        Ok(Some(editor.finish()))
    }

    fn was_accepted(&mut self, answer: Record<Collection>, request: Request, target: Target) -> Outcome {
        let mut as_predicted = answer.portable_data_hash == request.hash.to_string();
        let is_ambiguous = request.prediction.as_ref().is_some_and(|prediction| prediction.ambiguous);
        match (request.prediction, &mut self.text) {
            (Some(prediction), Some(text)) if as_predicted => text.commit(prediction),
            _ => self.text = None,
        }
        if is_ambiguous && !as_predicted {
            // The other way in which it may come out: all blocks signed in the same second.
            let other = tokio::task::block_in_place(|| GoText::of(&target.snapshot));
            as_predicted = answer.portable_data_hash == other.hash().to_string();
            self.text = as_predicted.then_some(other);
        }
        // Under the version with old ones kept nothing of others can be in it, whatever the text looks like.
        let reach = if as_predicted || request.conditions.preserve { Reach::Complete } else { Reach::Mixed };
        let is_sound = answer.preserve_version;
        let base = Base { record: Arc::new(answer), snapshot: target.snapshot.clone(), is_own: true, is_sound };
        saved(base, target, reach)
    }
}

/// A change that is answered without the manifest.
fn summarised() -> CollectionUpdate {
    let select = SUMMARY.iter().map(|name| (*name).to_owned()).collect();
    CollectionUpdate { select, ..CollectionUpdate::default() }
}

fn saved(base: Base, target: Target, reach: Reach) -> Outcome {
    let Target { files, left, .. } = target;
    Outcome::Saved(Saved { base: Arc::new(base), files, left, reach })
}

/// Has nobody changed the collection since? (A preparation of ours changes neither.)
fn is_same(now: &Record<Collection>, before: &Record<Collection>) -> bool {
    now.portable_data_hash == before.portable_data_hash && now.version == before.version
}

fn unix_now() -> u64 {
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
