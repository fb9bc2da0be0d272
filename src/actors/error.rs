//! What can go wrong in an actor. Clonable: one failed load is told to everybody who waited for it.

use crate::tree::EditError;
use crate::{dirty, journal, remote};
use std::sync::Arc;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The cluster refused, or could not be asked.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// The manifest of a collection is damaged.
    #[error("collection {collection}: {problem}")]
    Manifest { collection: String, problem: String },
    /// The actor ended while it was asked, twice. Its panic is in the log.
    #[error("{0}: the task in charge of it failed: see the log, and report it as a bug")]
    Failed(String),
    /// Data that were written cannot be kept or brought to Keep.
    #[error(transparent)]
    Dirty(#[from] dirty::Error),
    #[error("the journal: {0}")]
    Journal(Arc<journal::Error>),
    /// The mount allows no changes, or not to this object.
    #[error("not writable")]
    ReadOnly,
    #[error("no such file or directory")]
    NotFound,
    #[error("the name is taken")]
    Exists,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("not a directory")]
    NotADirectory,
    #[error("is a directory")]
    IsADirectory,
    #[error("a directory cannot be moved into itself")]
    IntoItself,
    /// It would have to be copied.
    #[error("cannot be moved there")]
    CrossDevice,
    /// The node was known but is not there any more.
    #[error("the object behind this number is gone")]
    Gone,
    /// It changed while it was moved.
    #[error("changed by somebody else at the same time")]
    Busy,
    /// `--on-conflict=error`.
    #[error("{path}: another client changed the file while it was open here")]
    Conflict { path: String },
    /// Others save all the time.
    #[error("collection {collection}: other clients change it faster than ours can be merged")]
    Contended { collection: String },
    #[error("too many or too large files in one collection")]
    TooLarge,
}

impl Error {
    /// The object is not there, or we may not know of it.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Remote(error) if error.is_not_found())
    }

    /// The disk of the journal is full, or what is allowed of it.
    pub fn is_lack_of_room(&self) -> bool {
        match self {
            Error::Journal(error) => matches!(**error, journal::Error::Full { .. } | journal::Error::NoRoom { .. }),
            Error::Dirty(error) => error.errno() == libc::ENOSPC,
            _ => false,
        }
    }

    /// The cluster does not want it, and will not until somebody changes something.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Remote(error) if !error.is_temporary())
    }

    /// What somebody can do about a save that failed.
    pub fn remedy(&self) -> &'static str {
        match self {
            Error::Remote(error) | Error::Dirty(dirty::Error::Remote(error)) if error.is_unauthorized() => {
                "the token is not valid any more: mount again with a new one, or have this one prolonged; the data are in the journal"
            }
            Error::Remote(error) if error.is_forbidden() => "ask for write permission on the collection",
            Error::Remote(error) if error.is_not_found() => {
                "the collection was deleted or put into the trash: untrash it, or export the data from the journal"
            }
            Error::Remote(error) if error.is_temporary() => "wait until the cluster answers again",
            Error::Remote(remote::Error::TooLarge { .. }) => "split the collection",
            Error::Dirty(dirty::Error::Unsigned { .. }) => {
                "mount with the token that wrote the file, which an administrator may have to prolong, or write the file again"
            }
            Error::Dirty(_) => "see that Keep has room and answers, and that the disk of the journal has room",
            Error::Contended { .. } => "let fewer clients write to the collection at a time",
            _ => "see the cause; the data stay in the journal",
        }
    }

    /// What somebody can do about a path that cannot be saved while all others are.
    pub fn remedy_of_path(&self) -> &'static str {
        match self {
            Error::Dirty(dirty::Error::Unsigned { .. }) => self.remedy(),
            _ => "rename it, or change what is in it",
        }
    }
}

impl From<EditError> for Error {
    fn from(error: EditError) -> Error {
        match error {
            EditError::NotADirectory => Error::NotADirectory,
            EditError::IsADirectory => Error::IsADirectory,
            EditError::NotFound | EditError::InvalidName => Error::NotFound,
            EditError::Exists => Error::Exists,
            EditError::IntoItself => Error::IntoItself,
            EditError::TooLarge => Error::TooLarge,
        }
    }
}

impl From<journal::Error> for Error {
    fn from(error: journal::Error) -> Error {
        Error::Journal(Arc::new(error))
    }
}
