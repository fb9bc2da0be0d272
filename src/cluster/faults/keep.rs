//! Faults of one keepstore: damaged blocks, slow and cut transfers, refusals.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::journal::Journal;
use super::rule::{Drop, Rule, Rules};
use super::unix_time;
use crate::cluster::keepstore::hash::BlockHash;

/// How often a second a limited transfer sends: often enough to look even, rarely enough to cost nothing.
const STEPS_PER_SECOND: f64 = 50.0;
/// Smallest step of a limited transfer, bytes.
const SMALLEST_STEP: u64 = 4096;

/// How signatures differ from the cluster's configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signing {
    /// Whether blocks must be signed.
    pub required: Option<bool>,
    /// `BlobSigningTTL`.
    pub ttl: Option<Duration>,
    /// How long a signature made here is valid.
    pub lifetime: Option<Duration>,
}

/// The faults of one keepstore. The locks are held to copy something out or in, and nothing is called under them.
pub struct KeepFaults {
    name: String,
    /// Rules for requests.
    pub rules: Rules,
    /// Requests so far.
    pub journal: Journal,
    damaged: Mutex<HashMap<String, String>>,
    signing: Mutex<Signing>,
    /// When the next byte may go out, under a bandwidth limit that all connections share.
    free: Mutex<Option<Instant>>,
}

/// What a rule does to one request.
#[derive(Clone, Debug)]
pub struct Effect {
    number: u64,
    rule: Option<Rule>,
}

impl Effect {
    /// Waits as long as the rule says.
    pub async fn wait(&self) {
        if let Some(delay) = self.rule.as_ref().and_then(Rule::delay) {
            tokio::time::sleep(delay).await;
        }
    }

    /// Cut before anything happens?
    pub fn drops_before(&self) -> bool {
        self.drops(Drop::Before)
    }

    /// Cut instead of an answer?
    pub fn drops_after(&self) -> bool {
        self.drops(Drop::After)
    }

    /// Cut in the middle of the block?
    pub fn drops_midway(&self) -> bool {
        self.drops(Drop::Mid)
    }

    fn drops(&self, when: Drop) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.drop == Some(when))
    }

    /// A status to answer instead.
    pub fn status(&self) -> Option<u16> {
        self.rule.as_ref().and_then(|rule| rule.status)
    }
}

/// How a block is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One byte differs.
    Flip,
    /// The second half is missing.
    Truncate,
    /// The file is damaged, and the keepstore knows.
    Disk,
}

impl Damage {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "flip" => Some(Self::Flip),
            "truncate" => Some(Self::Truncate),
            "disk" => Some(Self::Disk),
            _ => None,
        }
    }

    /// Whether the keepstore answers with an error instead of data.
    pub fn refuses(self) -> bool {
        self == Self::Disk
    }

    /// The damaged content, and whether it is as long as announced.
    pub fn apply(self, mut content: Vec<u8>) -> (Vec<u8>, bool) {
        let middle = content.len() / 2;
        if self == Self::Truncate {
            content.truncate(middle);
            return (content, false);
        }
        if let Some(byte) = content.get_mut(middle) {
            *byte ^= 0x55;
        }
        (content, true)
    }
}

impl KeepFaults {
    /// No faults yet.
    pub fn new(name: String) -> Arc<Self> {
        Arc::new(Self {
            name,
            rules: Rules::default(),
            journal: Journal::default(),
            damaged: Mutex::default(),
            signing: Mutex::default(),
            free: Mutex::default(),
        })
    }

    /// Notes a request and finds the rule for it.
    pub fn begin(&self, method: &str, path: &str) -> Effect {
        let number = self.journal.begin(json!({"m": method, "path": path, "srv": self.name}), unix_time());
        Effect { number, rule: self.rules.take(method, path, &[]) }
    }

    /// Notes the storage classes that an upload asks for.
    pub fn uploading(&self, effect: &Effect, classes: &[String]) {
        let classes = if classes.is_empty() { json!(["default"]) } else { json!(classes) };
        self.journal.note(effect.number, "classes", classes);
    }

    /// Notes the end of a request; status 0 means that it was cut off.
    pub fn end(&self, effect: &Effect, status: u16, size: u64) {
        let status = if status == 0 { json!("dropped") } else { json!(status) };
        self.journal.note(effect.number, "status", status);
        self.journal.note(effect.number, "size", json!(size));
        self.journal.end();
    }

    /// Replaces the damaged blocks: hash (or `*`) to `flip`, `truncate` or `disk`.
    pub fn replace_damaged(&self, damaged: HashMap<String, String>) {
        *self.damaged.lock().unwrap_or_else(PoisonError::into_inner) = damaged;
    }

    /// The damage of a block, if there is any.
    pub fn damage(&self, effect: &Effect, hash: BlockHash) -> Option<Damage> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let by_rule = || effect.rule.as_ref().and_then(|rule| rule.corrupt.as_ref());
        damaged
            .get(&hash.to_string())
            .or_else(|| damaged.get("*"))
            .or_else(by_rule)
            .and_then(|text| Damage::parse(text))
    }

    /// The status with which an upload is refused: the rule's, or 500 because a stored block is damaged.
    pub fn refuses_upload(&self, effect: &Effect, hash: BlockHash) -> Option<u16> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let collides = damaged.get(&hash.to_string()).is_some_and(|text| text == "disk");
        effect.status().or(collides.then_some(500))
    }

    /// How signatures are checked and made here.
    pub fn signing(&self) -> Signing {
        *self.signing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how signatures are checked and made here.
    pub fn change_signing(&self, change: impl FnOnce(&mut Signing)) {
        change(&mut self.signing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until more may be sent; returns how much of `left`.
    pub async fn pace(&self, effect: &Effect, left: u64) -> u64 {
        let limit = effect.rule.as_ref().and_then(|rule| rule.bandwidth).filter(|limit| *limit > 0.0);
        let Some(limit) = limit else { return left };
        // Whole bytes of a positive number that fits: the limit is at most what a test asks for.
        let step = left.min(SMALLEST_STEP.max((limit / STEPS_PER_SECOND) as u64));
        let begins = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begins = free.map_or(now, |free| free.max(now));
            *free = Some(begins + Duration::try_from_secs_f64(step as f64 / limit).unwrap_or(Duration::MAX));
            begins
        };
        tokio::time::sleep_until(begins.into()).await;
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_what_its_name_says() {
        assert_eq!(Damage::Flip.apply(b"abcd".to_vec()), (vec![b'a', b'b', b'c' ^ 0x55, b'd'], true));
        assert_eq!(Damage::Truncate.apply(b"abcd".to_vec()), (b"ab".to_vec(), false));
        assert!(Damage::Disk.refuses() && !Damage::Flip.refuses());
    }

    #[tokio::test]
    async fn a_bandwidth_limit_is_shared_by_all_transfers() {
        let faults = KeepFaults::new("keep0".to_owned());
        faults.rules.replace(serde_json::from_str(r#"[{"bandwidth": 400000}]"#).unwrap());
        let effects = [faults.begin("GET", "/a"), faults.begin("GET", "/b")];
        let began = Instant::now();
        let mut sent = 0;
        while sent < 40_000 {
            for effect in &effects {
                sent += faults.pace(effect, 40_000).await;
            }
        }
        let next = faults.free.lock().unwrap().unwrap();
        assert!(next >= began + Duration::from_millis(100), "40 kB at 400 kB/s take 0.1 s");
    }
}
