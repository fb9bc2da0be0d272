//! The one place where failures become errno values and log lines.
//!
//! What a caller sees follows arv-mount.md 3.1, and where that is marked as a mistake, what POSIX says: something
//! that cannot be known at the moment (an outage) is EIO and never ENOENT, for a program would take that for a fact.
//! The container runner scans stderr for three phrases (arv-mount.md 6.1); they are written here and in `remote::Error`.

use crate::actors;
use crate::cache;
use crate::dirty;
use crate::keep::manifest::NameProblem;
use crate::remote;
use crate::vfs::Inode;

/// The phrase for a failure that is nobody's fault but ours or the server's.
const UNHANDLED: &str = "Unhandled exception during FUSE operation";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no such file or directory")]
    NotFound,
    #[error("not a directory")]
    NotADirectory,
    #[error("is a directory")]
    IsADirectory,
    /// The mount allows no changes.
    #[error("the file system is mounted read-only")]
    ReadOnly,
    /// This file allows no changes, or not to us.
    #[error("not writable")]
    NotWritable,
    #[error("the name is taken")]
    Exists,
    #[error("the directory is not empty")]
    NotEmpty,
    /// What the name stands for cannot be moved there; it has to be copied.
    #[error("cannot be moved there")]
    CrossDevice,
    /// Projects hold collections and projects only.
    #[error("not possible in a project")]
    NotSupported,
    /// A name that the cluster does not take.
    #[error("the name cannot be used: {0}")]
    Name(#[from] NameProblem),
    #[error("no such open file")]
    BadHandle,
    /// The node was known but is not there any more: look its name up again.
    #[error("the object behind this number is gone")]
    Stale,
    /// Given up because the process that asked is going to die.
    #[error("interrupted")]
    Interrupted,
    /// A mistake in this program; its message is in the log.
    #[error("the operation failed because of a bug: see the log, and report it")]
    Panicked,
    #[error(transparent)]
    Actor(#[from] actors::Error),
    #[error(transparent)]
    Remote(#[from] remote::Error),
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

impl Error {
    /// The value of `errno` for the caller.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NotFound => libc::ENOENT,
            Error::NotADirectory => libc::ENOTDIR,
            Error::IsADirectory => libc::EISDIR,
            Error::ReadOnly => libc::EROFS,
            Error::NotWritable => libc::EPERM,
            Error::Exists => libc::EEXIST,
            Error::NotEmpty => libc::ENOTEMPTY,
            Error::CrossDevice => libc::EXDEV,
            Error::NotSupported => libc::ENOTSUP,
            Error::Name(problem) => of_name(problem),
            Error::BadHandle => libc::EBADF,
            Error::Stale => libc::ESTALE,
            Error::Interrupted => libc::EINTR,
            Error::Remote(error) => of_remote(error),
            Error::Actor(error) => of_actor(error),
            Error::Cache(cache::Error::Remote(error)) => of_remote(error),
            Error::Cache(_) | Error::Panicked => libc::EIO,
        }
    }

    /// Logs the failure if it is one that somebody should hear of. The message of a failed block read begins with its phrase.
    pub fn report(&self, operation: &'static str, inode: Inode) {
        let remote = match self {
            Error::Actor(actors::Error::Remote(error)) | Error::Remote(error) => Some(error),
            Error::Cache(cache::Error::Remote(error)) => Some(error),
            Error::Cache(_) | Error::Panicked => None,
            Error::Actor(actors::Error::Manifest { .. } | actors::Error::Failed(_) | actors::Error::Journal(_)) => None,
            // Who asks for a size that cannot be has his answer; a file that cannot be saved is another matter.
            Error::Actor(actors::Error::Dirty(dirty::Error::TooLarge { .. }))
                if ["write", "setattr"].contains(&operation) =>
            {
                return;
            }
            Error::Actor(actors::Error::Dirty(error)) => {
                // Its message begins with the phrase that callers look for when it comes from Keep.
                tracing::error!("{error}: {operation} of inode {}", inode.0);
                return;
            }
            Error::Interrupted => {
                tracing::debug!(operation, inode = inode.0, "given up: the process that asked was killed");
                return;
            }
            _ => return,
        };
        match remote {
            Some(error) if matches!(error, remote::Error::BlockNotFound { .. }) => {
                tracing::error!("{error}: {operation} of inode {}", inode.0);
            }
            Some(error) if error.is_not_found() && operation == "lookup" => {
                tracing::debug!(operation, inode = inode.0, %error, "not found");
            }
            _ => tracing::error!("{UNHANDLED}: {operation} of inode {}: {self}", inode.0),
        }
    }
}

fn of_remote(error: &remote::Error) -> i32 {
    match error {
        remote::Error::BlockNotFound { .. } => libc::EIO,
        remote::Error::TooLarge { .. } => libc::EFBIG,
        error if error.status() == Some(413) => libc::EFBIG,
        remote::Error::BlockUnwritable { full: true, .. } => libc::ENOSPC,
        error if error.status() == Some(507) => libc::ENOSPC,
        error if error.is_not_found() => libc::ENOENT,
        error if error.is_forbidden() || error.is_unauthorized() => libc::EACCES,
        _ => libc::EIO,
    }
}

fn of_actor(error: &actors::Error) -> i32 {
    match error {
        // A collection that was there and is not any more is no missing file.
        actors::Error::Remote(error) => of_remote(error),
        actors::Error::Dirty(dirty::Error::Remote(error)) => of_remote(error),
        actors::Error::Dirty(error) => error.errno(),
        actors::Error::Journal(error) => error.errno(),
        actors::Error::ReadOnly => libc::EPERM,
        actors::Error::NotFound => libc::ENOENT,
        actors::Error::Exists => libc::EEXIST,
        actors::Error::NotEmpty => libc::ENOTEMPTY,
        actors::Error::NotADirectory => libc::ENOTDIR,
        actors::Error::IsADirectory => libc::EISDIR,
        actors::Error::IntoItself => libc::EINVAL,
        actors::Error::CrossDevice => libc::EXDEV,
        actors::Error::Gone => libc::ESTALE,
        actors::Error::Busy | actors::Error::Conflict { .. } => libc::EBUSY,
        actors::Error::TooLarge => libc::EFBIG,
        actors::Error::Manifest { .. } | actors::Error::Failed(_) | actors::Error::Contended { .. } => libc::EIO,
    }
}

fn of_name(problem: &NameProblem) -> i32 {
    match problem {
        NameProblem::TooLong => libc::ENAMETOOLONG,
        NameProblem::NotUtf8 => libc::EILSEQ,
        NameProblem::Reserved => libc::EPERM,
        _ => libc::EINVAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_that_keep_does_not_accept_is_a_lack_of_permission_in_reading_and_writing() {
        let refused = || remote::Error::TokenRefused { what: "Keep write error", hash: "h".into(), detail: "d".into() };
        assert_eq!(Error::Cache(refused().into()).errno(), libc::EACCES);
        let written = actors::Error::Dirty(dirty::Error::Remote(refused()));
        assert!(written.remedy().starts_with("the token is not valid any more"));
        assert_eq!(Error::Actor(written).errno(), libc::EACCES);
        let missing = remote::Error::BlockNotFound { hash: "h".into(), detail: "d".into() };
        assert_eq!(Error::Cache(missing.into()).errno(), libc::EIO, "the file is there, its data are not");
    }
}
