//! One request, and what became of it.
//!
//! What it puts at its paths is noted before it is sent, here and in the journals, and what comes of it after: whoever finds that on
//! the server knows that it is ours. The note of a request that was refused is taken back; one whose answer was lost stays, and what
//! became of it is looked for before anything is sent again.

use super::keeping::keep_and_read;
use super::outcome::{Outcome, Reach};
use super::{Commit, unix_now};
use crate::actors::Error;
use crate::actors::collection::guard::{self, Conditions, Nature, Plan};
use crate::actors::collection::state::Base;
use crate::actors::collection::{SUMMARY, sent};
use crate::journal::{self, Journal, Sent};
use crate::keep::PortableDataHash;
use crate::keep::manifest::Form;
use crate::remote;
use crate::remote::api::{Collection, CollectionUpdate, Record};
use crate::remote::retry;
use crate::tree::Snapshot;
use crate::tree::commit::{Edits, GoText, Prediction, Touched};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The request, and what will come of it.
struct Request {
    update: CollectionUpdate,
    conditions: Conditions,
    /// The hash of the result, if everything is as we think.
    hash: PortableDataHash,
    prediction: Option<Prediction>,
}

/// What became of one request.
pub(super) enum Step {
    Accepted(Base, Reach),
    /// The server will never take it.
    Unacceptable(remote::Error),
    Ended(Outcome),
}

impl Commit {
    /// Sends one request that makes what the server has into `goal`, until it is known what became of it.
    pub(super) async fn send(
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

    /// Remembers what is about to be sent. Journals of earlier mounts hear only of what is sent: what they have of a path can be
    /// kept back there, or still be ahead of its mount.
    pub(super) fn note(&mut self, goal: &Snapshot, touched: &Touched, edits: Option<&Edits>) {
        let mut paths = edits.map(|edits| sent::of_paths(goal, edits.paths())).unwrap_or_default();
        let edited: HashSet<Vec<u8>> = paths.iter().map(|(path, _)| path.clone()).collect();
        let is_left_out = |path: &[u8]| self.left_out.covers(path) || self.aside.covers(path) || edited.contains(path);
        let others = sent::of_touched(goal, &self.state.snapshot, touched, is_left_out);
        let of_earlier = if edits.is_some() { paths.clone() } else { others.clone() };
        paths.extend(others);
        let of = |paths| Sent { state: self.change, paths, has_arrived: false };
        let (sent, of_earlier) = (of(paths), of(of_earlier));
        if !sent.paths.is_empty() && self.sent.last() == Some(&sent) {
            return;
        }
        self.is_noted = false;
        self.is_noted_earlier = !of_earlier.paths.is_empty();
        if self.is_noted_earlier {
            self.writing.earlier.note(self.cell.key(), &of_earlier);
        }
        if sent.paths.is_empty() {
            return;
        }
        if let Some(journal) = &self.writing.journal {
            let noted = journal.sent(self.cell.key(), &sent);
            self.is_noted = noted.is_ok();
            let secure = || tokio::task::block_in_place(|| journal.secure_sent(self.cell.key()));
            if let Err(error) = noted.and_then(|()| secure()) {
                tracing::debug!(collection = self.cell.key(), %error, "cannot note in the journal what is sent");
            }
        }
        self.sent.push(sent);
    }

    /// Nothing came of what was sent after the first `noted`.
    fn take_back(&mut self, noted: usize) {
        if self.sent.len() > noted {
            self.sent.truncate(noted);
            self.end_note(Journal::withdrawn);
        }
    }

    /// What was noted last is what the server has.
    pub(super) fn note_arrival(&mut self, goal: &Snapshot) {
        self.sent.clear();
        self.landed.arrived(goal.clone());
        // After this note the log may be written anew.
        self.end_note(Journal::arrived);
    }

    /// Tells the journals that have the last note what became of that.
    fn end_note(&self, how: fn(&Journal, &str) -> Result<(), journal::Error>) {
        tokio::task::block_in_place(|| {
            if let Some(journal) = self.writing.journal.as_ref().filter(|_| self.is_noted)
                && let Err(error) = how(journal, self.cell.key())
            {
                tracing::debug!(collection = self.cell.key(), %error, "cannot note in the journal what became of a save");
            }
            if self.is_noted_earlier {
                self.writing.earlier.end(self.cell.key(), how);
            }
        });
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

    fn was_accepted(&mut self, answer: Record<Collection>, request: Request, base: &Base, goal: &Snapshot) -> Step {
        let mut as_predicted = answer.portable_data_hash == request.hash.to_string();
        self.cell.shared().was_answered(&request.hash.to_string(), &base.record.portable_data_hash);
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
        self.note_arrival(goal);
        let (record, snapshot, is_whole) = (Arc::new(answer), goal.clone(), reach == Reach::Complete);
        Step::Accepted(Base { record, snapshot, is_whole, is_own: true, is_sound }, reach)
    }
}

/// A change that is answered without the manifest.
fn summarised() -> CollectionUpdate {
    let select = SUMMARY.iter().map(|name| (*name).to_owned()).collect();
    CollectionUpdate { select, ..CollectionUpdate::default() }
}

/// Has nobody changed the collection since? (A preparation of ours changes neither.)
pub(super) fn is_same(now: &Record<Collection>, before: &Record<Collection>) -> bool {
    now.portable_data_hash == before.portable_data_hash && now.version == before.version
}
