//! What the recording scripts did without recording it: objects that existed before, writers that interfered, a block
//! damaged on the disk.
//!
//! `preparation.jsonl` lists these steps, each with the recording before which it is due and the time it happened. They
//! go through the API like everything else; only damage to a volume is done behind the servers' back, as it was then.

use serde::Deserialize;
use serde_json::Value;

/// One step.
#[derive(Debug, Deserialize)]
pub struct Step {
    /// `seq` of the recording that needs it.
    pub before: u32,
    /// When it happened, UTC.
    pub at: String,
    /// What is done.
    #[serde(flatten)]
    pub action: Action,
}

/// What is done in a step.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Action {
    /// A request by the ordinary user.
    Request {
        method: String,
        /// Below the root of the API.
        path: String,
        /// Manifests in it are without signatures: they are added.
        #[serde(default)]
        body: Value,
        /// What the recordings call the object that this creates.
        is: Option<String>,
    },
    /// A block's file on the first keepstore gets other content.
    Damage { damage: Damage },
    /// The first keepstore's volume is marked full, or no longer.
    Full { full: bool },
}

/// Damage to a block.
#[derive(Debug, Deserialize)]
pub struct Damage {
    /// Its hash.
    pub block: String,
    /// Its content, which is stored first.
    pub was: String,
    /// What its file holds afterwards.
    pub becomes: String,
}

/// All steps in order.
pub fn all() -> Vec<Step> {
    super::recording::lines("preparation.jsonl")
}
