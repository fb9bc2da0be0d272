//! One change to a collection, as the journal keeps it.
//!
//! Paths are bytes relative to the collection's root, without a slash in front. Locators have signatures, which are
//! permissions to read: `Debug` of what is defined here shows none.

use super::text;
use crate::dirty::Content;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The place of a change in the one order of all changes of a journal. Counts from 1; never used twice in one journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

/// What was done, and what the server had before at the paths that were touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub operation: Operation,
    /// What the server had at each touched path when the first change to it was made that it has not got yet: with this, a
    /// replay is a three-way merge. Where changes of one collection contradict each other, the later one is right (the
    /// server has taken a change in between).
    #[serde(with = "text::keys", default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<(Vec<u8>, Base)>,
    /// When it was done.
    pub time: DateTime<Utc>,
    /// Which state of the collection it tells of, counted by the mount.
    #[serde(default)]
    pub state: u64,
    /// Journals of earlier mounts that were taken over and not saved yet when it was made: it comes after what they have. All
    /// other journals are of mounts that ran at the same time, and know nothing of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// The collection that what is removed was moved to, where that was not saved: the removal must not be before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_to: Option<String>,
}

/// A save that was about to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Which state of the collection it brings to the server, counted as in [`Change::state`]: what a change of the same or an
    /// earlier state says of its paths is in it.
    pub state: u64,
    /// What it puts at the paths that it names.
    #[serde(with = "text::keys")]
    pub paths: Vec<(Vec<u8>, Base)>,
    /// The server has taken it. Otherwise nobody knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_arrived: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The file is there and has this content. `modified`: when, if somebody said so.
    File {
        #[serde(with = "text")]
        path: Vec<u8>,
        content: Content,
        modified: Option<DateTime<Utc>>,
    },
    MakeDirectory {
        #[serde(with = "text")]
        path: Vec<u8>,
    },
    /// A file, or a folder with all that is in it.
    Remove {
        #[serde(with = "text")]
        path: Vec<u8>,
    },
    /// A file, or a folder with all that is in it; what had the new name is replaced.
    Rename {
        #[serde(with = "text")]
        from: Vec<u8>,
        #[serde(with = "text")]
        to: Vec<u8>,
    },
    /// Only the time.
    Modified {
        #[serde(with = "text")]
        path: Vec<u8>,
        time: DateTime<Utc>,
    },
}

/// What the server had at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    Absent,
    Directory,
    File { pieces: Vec<Piece> },
}

/// A run of bytes of a file on the server: `length` bytes from `offset` of a block with `block_size` bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// As it came from the server, signature included.
    pub locator: String,
    pub block_size: u64,
    pub offset: u64,
    pub length: u64,
}

impl fmt::Debug for Piece {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = self.locator.split('+').next().unwrap_or_default();
        write!(formatter, "{hash}+{}:{}+{}", self.block_size, self.offset, self.length)
    }
}

impl Operation {
    /// The path that it is about (of a rename: the old one).
    pub fn path(&self) -> &[u8] {
        match self {
            Operation::File { path, .. }
            | Operation::MakeDirectory { path }
            | Operation::Remove { path }
            | Operation::Rename { from: path, .. }
            | Operation::Modified { path, .. } => path,
        }
    }
}
