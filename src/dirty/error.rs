//! Why data cannot be taken, kept, or brought to Keep.

use crate::remote;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The limit of the journal's folder is reached, or its disk is full.
    #[error("no room for unsaved data in {folder}: {problem}")]
    NoSpace { folder: String, problem: String },
    #[error("cannot {what} unsaved data in {folder}: {problem}")]
    Disk { what: &'static str, folder: String, problem: String },
    /// Beyond what a file can have, 2^63 - 1 bytes.
    #[error("a file cannot be that large")]
    TooLarge,
    /// Keep does not take a block.
    #[error(transparent)]
    Keep(#[from] remote::Error),
    /// A journal speaks of something that makes no sense.
    #[error("unsaved data from an earlier mount cannot be used: {0}")]
    Damaged(String),
    /// The program is ending, or there is an error in it.
    #[error("bringing data to Keep was broken off")]
    BrokenOff,
}

impl Error {
    /// The value of `errno` for the writer.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NoSpace { .. } => libc::ENOSPC,
            Error::TooLarge => libc::EFBIG,
            Error::Keep(remote::Error::BlockUnwritable { detail, .. }) if detail.contains("507") => libc::ENOSPC,
            Error::Disk { .. } | Error::Keep(_) | Error::Damaged(_) | Error::BrokenOff => libc::EIO,
        }
    }
}
