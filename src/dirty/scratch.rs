//! Backing files: sparse files in a folder of our own, each with the bytes of one file of the mount at their places.

use crate::dirty::Error;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A folder of backing files, with a limit on what they take together.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    limit: u64,
    used: AtomicU64,
    next: AtomicU64,
}

/// One backing file. It goes with its last owner unless somebody wants to find it after a crash.
#[derive(Debug)]
pub struct Backing {
    scratch: Arc<Scratch>,
    file: File,
    number: u64,
    counted: AtomicU64,
    is_kept: AtomicBool,
}

impl Scratch {
    /// Opens a folder, made if it is not there; `limit` in bytes. Errors: those of the operating system.
    pub fn open(folder: PathBuf, limit: u64) -> io::Result<Arc<Scratch>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut last = 0;
        for entry in std::fs::read_dir(&folder)? {
            let number = entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            last = last.max(number.unwrap_or(0));
        }
        Ok(Arc::new(Scratch { folder, limit, used: AtomicU64::new(0), next: AtomicU64::new(last + 1) }))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// A new, empty file.
    pub fn create(self: &Arc<Self>) -> Result<Arc<Backing>, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(self.path(number));
        self.backing(number, file.map_err(|error| self.error("create", &error))?, false)
    }

    /// The file that an earlier process left. It stays where it is until it is [discarded](Backing::discard).
    pub fn adopt(self: &Arc<Self>, number: u64) -> Result<Arc<Backing>, Error> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(number));
        self.backing(number, file.map_err(|error| self.error("find", &error))?, true)
    }

    fn backing(self: &Arc<Self>, number: u64, file: File, is_kept: bool) -> Result<Arc<Backing>, Error> {
        let (counted, is_kept) = (AtomicU64::new(0), AtomicBool::new(is_kept));
        Ok(Arc::new(Backing { scratch: self.clone(), file, number, counted, is_kept }))
    }

    /// Bytes that were written to all its files and are still needed; overwritten ones count once more.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn error(&self, what: &'static str, error: &io::Error) -> Error {
        let folder = self.folder.display().to_string();
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace { folder, problem: error.to_string() },
            _ => Error::Disk { what, folder, problem: error.to_string() },
        }
    }
}

impl Backing {
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Writes bytes; `grown` of them at places that had none here before. Blocks as long as the disk does.
    pub(super) fn write(&self, offset: u64, bytes: &[u8], grown: u64) -> Result<(), Error> {
        let scratch = &self.scratch;
        let before = scratch.used.fetch_add(grown, Ordering::Relaxed);
        if before.saturating_add(grown) > scratch.limit {
            scratch.used.fetch_sub(grown, Ordering::Relaxed);
            let problem = format!("the limit of {} bytes is reached (--journal-size)", scratch.limit);
            return Err(Error::NoSpace { folder: scratch.folder.display().to_string(), problem });
        }
        self.counted.fetch_add(grown, Ordering::Relaxed);
        self.file.write_all_at(bytes, offset).map_err(|error| scratch.error("write", &error))
    }

    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| self.scratch.error("read", &error))?;
        Ok(bytes)
    }

    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|error| self.scratch.error("sync", &error))
    }

    /// It is to be found by the next mount if this one dies.
    pub(super) fn keep(&self) {
        self.is_kept.store(true, Ordering::Release);
    }

    pub(super) fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Acquire)
    }

    /// Nobody needs it any more: it goes with its last owner.
    pub(super) fn discard(&self) {
        self.is_kept.store(false, Ordering::Release);
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.scratch.used.fetch_sub(*self.counted.get_mut(), Ordering::Relaxed);
        if !*self.is_kept.get_mut()
            && let Err(error) = std::fs::remove_file(self.scratch.path(self.number))
        {
            tracing::warn!(number = self.number, %error, "cannot remove a file of unsaved data");
        }
    }
}
