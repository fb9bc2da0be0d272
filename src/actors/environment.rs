//! What all actors work with: the API, the runtime for I/O, and the user's choices.

use crate::actors::collection::copying::Copies;
use crate::actors::collection::earlier::Earlier;
use crate::actors::collection::guard::CommitGuard;
use crate::actors::collection::housekeeper::Housekeeper;
use crate::actors::collection::merging::OnConflict;
use crate::actors::collection::saving::SyncMode;
use crate::actors::collection::times::Times;
use crate::actors::filters::Filters;
use crate::actors::news::News;
use crate::cache::BlockCache;
use crate::dirty::DirtyStore;
use crate::journal::Journal;
use crate::remote::api::Api;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub struct Environment {
    pub api: Arc<dyn Api>,
    /// Where requests run and manifests are parsed: never on an arbiter.
    pub network: tokio::runtime::Handle,
    /// After how long what can change is looked at again (`--refresh-time`).
    pub refresh: Duration,
    pub filters: Filters,
    /// What stands for `/` in the names of objects; `None`: every slash becomes `_` (arv-mount.md 2.7).
    pub substitution: Option<String>,
    /// What changed, for those who show the tree.
    pub news: Arc<News>,
    pub times: Times,
    /// `None`: nothing can be changed.
    pub writing: Option<Arc<Writing>>,
}

/// What a mount that can write has besides.
pub struct Writing {
    pub store: Arc<DirtyStore>,
    /// `None`: nobody wanted one, or there is no place for it.
    pub journal: Option<Arc<Journal>>,
    /// To compare contents, and to read back.
    pub cache: BlockCache,
    pub sync: SyncMode,
    pub guard: CommitGuard,
    pub on_conflict: OnConflict,
    /// Of new data, where the collection does not say (`--storage-classes`).
    pub storage_classes: Vec<String>,
    /// Events tell of what others do. Where they do not, nothing could report what a save has overwritten unseen.
    pub hears: bool,
    /// How often a save whose answer was lost is sent again (`--retries`).
    pub retries: u32,
    /// How long a collection must have been left alone for a change to make a new version (`PreserveVersionIfIdle`).
    pub idle: Duration,
    /// Cleared when the cluster turns out to be from before that option.
    pub knows_replace_files: AtomicBool,
    pub housekeeper: Housekeeper,
    pub earlier: Earlier,
    pub copies: Copies,
}

impl Writing {
    /// There is so much that is not saved that it should be soon, whatever was asked for: half of what the journal's log or the
    /// space for data may hold.
    pub fn is_filling(&self) -> bool {
        let figures = self.store.figures();
        figures.scratch > figures.scratch_limit / 2 || self.journal.as_ref().is_some_and(|journal| journal.is_filling())
    }
}
