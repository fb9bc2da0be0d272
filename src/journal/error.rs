//! What can go wrong with a journal, and which errno a caller of the file system gets for it.

use super::change::Sequence;
use std::io;
use std::path::{Path, PathBuf};

/// Everything that this module fails with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment does not say where state belongs.
    #[error("no place for the journal: neither XDG_STATE_HOME nor HOME is an absolute path; set one of them")]
    NoPlace,
    /// A cluster id, user or collection that would lead out of its folder.
    #[error("{name:?} cannot be part of a path; the server gave a malformed identifier")]
    Name { name: String },
    /// The journal would lie on what it is to make safe.
    #[error("the journal's folder {folder} is below the mount point {mount_point}: it has to be on a local disk")]
    BelowMount { folder: PathBuf, mount_point: PathBuf },
    /// Somebody else could read or change the journal.
    #[error("{path} is not a folder of our own ({problem}): take it away, or use another place")]
    NotOurs { path: PathBuf, problem: &'static str },
    /// Somebody has taken the log away from the mount that writes to it.
    #[error(
        "the journal {folder} was removed while the mount uses it: what is not saved yet is lost if the mount is killed; \
         unmount, which saves everything, and mount again"
    )]
    Removed { folder: PathBuf },
    /// A mount holds it.
    #[error("the journal {folder} belongs to a mount that runs")]
    Running { folder: PathBuf },
    /// Made by a version of the program that writes something we do not know.
    #[error(
        "the journal {folder} has format {format}, this program knows up to {known}; use the program that wrote it"
    )]
    Format { folder: PathBuf, format: u32, known: u32 },
    /// The log has as many bytes as it may.
    #[error("the journal {folder} is full: its limit is {limit} bytes; save or wait until the server takes changes")]
    Full { folder: PathBuf, limit: u64 },
    /// The disk of the journal, which is not the cluster, has no room.
    #[error("no room for the journal on the disk of {path}; make room there, nothing is lost so far: {source}")]
    NoRoom { path: PathBuf, source: io::Error },
    /// The record is written, but may not survive the death of the machine. It counts, and is settled like any other.
    #[error("the disk of {path} does not confirm that the journal is on it: {source}")]
    NotDurable { path: PathBuf, sequence: Option<Sequence>, source: io::Error },
    /// A record has more bytes than its length can tell.
    #[error("a change of {length} bytes does not fit into one record of the journal")]
    TooLarge { length: usize },
    /// A record that cannot be written as JSON.
    #[error("a change cannot be written down: {0}")]
    Json(#[from] serde_json::Error),
    /// What was written is not what is read back.
    #[error("the journal {path} reads back other than it was written ({problem}); it is left as it is")]
    Changed { path: PathBuf, problem: &'static str },
    /// Anything else that the disk says.
    #[error("cannot {action} {path}: {source}")]
    Disk { action: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// Makes of an error of the disk what a user can act on.
    pub(super) fn disk(action: &'static str, path: &Path, source: io::Error) -> Error {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Error::NoRoom { path, source },
            _ => Error::Disk { action, path, source },
        }
    }

    /// For `map_err`.
    pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::disk(action, path, source)
    }

    /// What the caller of the file system gets: ENOSPC or EDQUOT where room is what is missing, else EIO.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NoRoom { source, .. } if source.raw_os_error() == Some(libc::EDQUOT) => libc::EDQUOT,
            Error::Full { .. } | Error::NoRoom { .. } | Error::TooLarge { .. } => libc::ENOSPC,
            _ => libc::EIO,
        }
    }
}
