//! One look at the server: the record, and the manifest where that is new or asked for.
//!
//! Manifests are parsed, and compared with what was known, on the network runtime's blocking threads, never on an arbiter: a million files take a second.

use crate::actors::collection::numbers::Numbers;
use crate::actors::collection::state::CollectionState;
use crate::actors::collection::{SUMMARY, commit};
use crate::actors::{Environment, Error};
use crate::remote::api::{Collection, Record};
use crate::tree::{Change, Snapshot, diff};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What took long to fetch is looked at less often: at most a tenth of the time goes into it.
const RELUCTANCE: u32 = 10;

/// See the module's essay.
pub(super) struct Fetch {
    pub(super) environment: Arc<Environment>,
    pub(super) id: String,
    pub(super) marks: u64,
    pub(super) known: Option<Arc<CollectionState>>,
    /// The manifest too, whatever the record says.
    pub(super) whole: bool,
    /// It is what the next save is based on, and others save here: ask for old versions to be kept, before it is read.
    pub(super) keep: bool,
}

/// What a look at the server has brought.
pub(super) struct Fetched {
    pub(super) record: Record<Collection>,
    pub(super) content: Option<FetchedContent>,
    pub(super) known: Option<Arc<CollectionState>>,
    pub(super) marks: u64,
    pub(super) at: Instant,
    pub(super) interval: Duration,
}

pub(super) struct FetchedContent {
    pub(super) snapshot: Snapshot,
    /// If it follows what was known: the numbers of its nodes, and the paths at which it differs.
    pub(super) following: Option<(Numbers, Vec<Change>)>,
    pub(super) expiry: Option<SystemTime>,
}

impl Fetch {
    pub(super) async fn run(self) -> Result<Fetched, Error> {
        let at = Instant::now();
        if let Some(known) = self.known.as_ref().filter(|_| !self.whole) {
            let record = self.environment.api.collection(&self.id, &SUMMARY, None).await?;
            if record.portable_data_hash == known.base.record.portable_data_hash {
                let interval = known.interval;
                return Ok(Fetched { record, content: None, known: self.known, marks: self.marks, at, interval });
            }
        }
        let mut manifest = Vec::new();
        let record = match self.keep {
            true => commit::read_kept(&self.environment, &self.id, &[], Some(&mut manifest)).await?,
            false => self.environment.api.collection(&self.id, &[], Some(&mut manifest)).await?,
        };
        let parse = tokio::task::spawn_blocking(move || self.parse(record, manifest, at));
        parse.await.map_err(|error| Error::Failed(format!("parsing a manifest: {error}")))?
    }

    fn parse(self, record: Record<Collection>, manifest: Vec<u8>, at: Instant) -> Result<Fetched, Error> {
        let wrong = |problem: String| Error::Manifest { collection: self.id.clone(), problem };
        let text = String::from_utf8(manifest).map_err(|error| wrong(format!("the manifest is not UTF-8: {error}")))?;
        let snapshot = Snapshot::parse(&text).map_err(|error| wrong(error.to_string()))?;
        let expiry = first_expiry(&text);
        drop(text);
        let is_other = |known: &&Arc<CollectionState>| known.portable_data_hash() != record.portable_data_hash;
        let following = self.known.as_ref().filter(is_other).map(|known| {
            let numbers = known.numbers.carry(&known.snapshot, &snapshot, record.modified_at);
            (numbers, diff(&known.snapshot, &snapshot))
        });
        let interval = self.environment.refresh.max(at.elapsed() * RELUCTANCE);
        let content = Some(FetchedContent { snapshot, following, expiry });
        Ok(Fetched { record, content, known: self.known, marks: self.marks, at, interval })
    }
}

/// The end of the first signature in a manifest. The server signs all blocks of an answer at once, with one time.
fn first_expiry(manifest: &str) -> Option<SystemTime> {
    let hint = manifest.split([' ', '\n']).find_map(|token| token.split('+').find(|hint| hint.starts_with('A')))?;
    let seconds = u64::from_str_radix(hint.split_once('@')?.1, 16).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
