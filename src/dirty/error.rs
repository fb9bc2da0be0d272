//! Why written data cannot be taken, kept or stored, and the errno for it.

use crate::remote;
use std::io;

/// What a disk or a process has too little of for a while.
const PASSING: [i32; 5] = [libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE, libc::ENOMEM];

/// A failure of a dirty file. Clone, because one failed block is told to every file with bytes in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The scratch folder may not become larger.
    #[error("{wanted} bytes do not fit into the {limit} bytes of scratch space, of which {used} are used")]
    NoSpace { wanted: u64, used: u64, limit: u64 },
    /// A file in the scratch folder cannot be made, read or written.
    #[error("{what}: {problem}")]
    Backing { what: String, problem: String, errno: i32 },
    /// A file larger than there can be.
    #[error("a file of {size} bytes is too large")]
    TooLarge { size: u64 },
    /// Blocks of the file that no commit has named yet are signed for another token, or were signed too long ago.
    #[error(
        "{bytes} bytes of the file were brought to Keep with another token, or too long ago, to be saved now, and there is no copy \
         of them here"
    )]
    Unsigned { bytes: u64 },
    /// Keep did not take a block.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// The work ended without a result: the program is ending, or there is an error in it.
    #[error("storing written data was broken off")]
    BrokenOff,
}

impl Error {
    /// What to tell the kernel.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NoSpace { .. } => libc::ENOSPC,
            // Anything else it says is of a path of ours, and would be taken for one of the caller's.
            Error::Backing { errno: libc::EDQUOT, .. } => libc::EDQUOT,
            Error::Backing { errno: libc::ENOSPC | libc::EFBIG, .. } => libc::ENOSPC,
            Error::Backing { .. } => libc::EIO,
            Error::TooLarge { .. } => libc::EFBIG,
            Error::Unsigned { .. } | Error::Remote(_) | Error::BrokenOff => libc::EIO,
        }
    }

    /// It is the file's own trouble, and stays: the file is too large, or what was written cannot be had any more.
    pub fn is_of_the_file(&self) -> bool {
        match self {
            Error::Backing { errno, .. } => !PASSING.contains(errno),
            Error::TooLarge { .. } | Error::Unsigned { .. } => true,
            Error::NoSpace { .. } | Error::Remote(_) | Error::BrokenOff => false,
        }
    }

    pub(super) fn backing(what: impl Into<String>, error: &io::Error) -> Error {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Error::Backing { what: what.into(), problem: error.to_string(), errno }
    }

    pub(super) fn content(problem: impl Into<String>) -> Error {
        Error::Backing { what: "restoring a file".to_owned(), problem: problem.into(), errno: libc::EIO }
    }
}
