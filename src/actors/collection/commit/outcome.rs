//! What has come of a save, for the actor and for the saves that follow.

use crate::actors::Error;
use crate::actors::collection::signing::Asked;
use crate::actors::collection::state::Base;
use crate::dirty::Settled;
use crate::journal::Sent;
use crate::tree::NodeId;
use crate::tree::commit::{GoText, Touched};
use std::sync::Arc;

/// What is left of a save for those that follow.
pub(in crate::actors::collection) struct Ended {
    pub(in crate::actors::collection) text: Option<GoText>,
    pub(in crate::actors::collection) asked: Asked,
    pub(in crate::actors::collection) sent: Vec<Sent>,
    /// See [`Commit::predicted`].
    pub(in crate::actors::collection) predicted: u32,
    /// What has been saved, if anything has or nothing had to be.
    pub(in crate::actors::collection) saved: Option<Saved>,
    /// What the server refuses for good, though it takes the rest.
    pub(in crate::actors::collection) blamed: Vec<Blamed>,
    pub(in crate::actors::collection) outcome: Outcome,
}

impl Ended {
    /// Nothing came of it.
    pub(in crate::actors::collection) fn failed(error: Error) -> Ended {
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
pub(in crate::actors::collection) struct Blamed {
    pub(in crate::actors::collection) paths: Touched,
    /// The files that were there when the save began, by number: they may have other names by now.
    pub(in crate::actors::collection) files: Vec<u32>,
    pub(in crate::actors::collection) error: Error,
}

impl Blamed {
    pub(super) fn new(paths: Touched, error: impl Into<Error>) -> Blamed {
        Blamed { paths, files: Vec::new(), error: error.into() }
    }
}

/// How it ended.
pub(in crate::actors::collection) enum Outcome {
    /// All is saved but what is to blame.
    Done,
    /// Somebody else has changed the collection: merge, and try again.
    Refused,
    /// The server writes another text than we thought.
    Mispredicted,
    Failed(Error),
}

/// What the server has now.
pub(in crate::actors::collection) struct Saved {
    pub(in crate::actors::collection) base: Arc<Base>,
    pub(in crate::actors::collection) files: Vec<SavedFile>,
    /// What was touched and not taken along: half-written files.
    pub(in crate::actors::collection) left: Touched,
    pub(in crate::actors::collection) reach: Reach,
}

/// What the server's answer says of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::actors::collection) enum Reach {
    /// The server had it all already.
    NotSent,
    /// It has nothing but what we think.
    Complete,
    /// Others have changed something, too.
    Mixed,
}

pub(in crate::actors::collection) struct SavedFile {
    pub(in crate::actors::collection) number: u32,
    pub(in crate::actors::collection) node: NodeId,
    pub(in crate::actors::collection) settled: Settled,
}
