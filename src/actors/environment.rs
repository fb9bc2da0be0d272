//! What all actors work with: the API, the runtime for I/O, and the user's choices.

use crate::actors::filters::Filters;
use crate::remote::api::Api;
use std::sync::Arc;
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
}
