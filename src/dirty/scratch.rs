//! The scratch folder: one sparse file per dirty file that needs one, bounded in their sum.
//!
//! What counts is which ranges of a file were written, each once. A backing file disappears with its [`Backing`] unless it
//! is kept for the journal.
//!
//! There can be far more of them than a process may have descriptors, which its connections need as well: one for each file
//! that a `tar` has written and nobody has saved yet. So only some are open, those that were opened last, and the others are
//! opened again by name when somebody needs them.
//!
//! Locks: `open` and each file's own are leaves, neither is taken under the other or held over I/O but an `open`.

use super::error::Error;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Descriptors for backing files: a small part of those that a process usually may have, and more than writers that take
/// turns.
const MOST_OPEN: usize = 256;

/// A folder of backing files.
pub struct Scratch {
    folder: PathBuf,
    limit: u64,
    used: AtomicU64,
    next: AtomicU64,
    /// Those that have a descriptor, the oldest first.
    open: Mutex<VecDeque<Weak<Backing>>>,
}

/// A file in it.
pub struct Backing {
    scratch: Arc<Scratch>,
    /// `None`: to be opened by its name.
    file: Mutex<Option<Arc<File>>>,
    number: u64,
    kept: AtomicBool,
    /// It was kept at some time, or is that of an earlier process.
    recorded: AtomicBool,
    /// Bringing it to the disk has failed once. Then the kernel may have forgotten what is not there, and the next try succeeds
    /// without having written it.
    distrusted: AtomicBool,
    allocated: AtomicU64,
    /// Start and end of what was written.
    written: Mutex<BTreeMap<u64, u64>>,
}

impl Scratch {
    /// The folder, created where missing, in which at most `limit` bytes may be.
    pub fn open(folder: PathBuf, limit: u64) -> io::Result<Arc<Scratch>> {
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut next = 1;
        for entry in fs::read_dir(&folder)? {
            let number: Option<u64> = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            next = next.max(number.map_or(0, |number| number.saturating_add(1)));
        }
        Ok(Arc::new(Scratch {
            folder,
            limit,
            used: AtomicU64::new(0),
            next: AtomicU64::new(next),
            open: Mutex::default(),
        }))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes in it, as far as files of this process are concerned.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that may be in it.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    fn backing(self: &Arc<Self>, file: File, number: u64, kept: bool) -> Arc<Backing> {
        let backing = Arc::new(Backing {
            scratch: self.clone(),
            file: Mutex::new(Some(Arc::new(file))),
            number,
            kept: AtomicBool::new(kept),
            recorded: AtomicBool::new(kept),
            distrusted: AtomicBool::new(false),
            allocated: AtomicU64::new(0),
            written: Mutex::default(),
        });
        self.was_opened(&backing);
        backing
    }

    /// Takes the descriptor of the one that was opened first, where there are too many.
    fn was_opened(&self, backing: &Arc<Backing>) {
        let closed = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.push_back(Arc::downgrade(backing));
            let excess = open.len().saturating_sub(MOST_OPEN);
            open.drain(..excess).collect::<Vec<_>>()
        };
        for backing in closed.iter().filter_map(Weak::upgrade) {
            let file = backing.file().take();
            drop(file);
        }
    }

    /// A new, empty backing file.
    pub fn create(self: &Arc<Self>) -> Result<Arc<Backing>, Error> {
        let number = self.next.fetch_add(1, Ordering::AcqRel);
        let path = self.path(number);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Error::backing(format!("creating {}", path.display()), &error))?;
        Ok(self.backing(file, number, false))
    }

    /// A backing file of another folder, with a name in this one besides; this name is not kept. Where there can be only one
    /// name (another file system) it is copied.
    pub fn adopt_from(self: &Arc<Self>, other: &Scratch, number: u64) -> Result<Arc<Backing>, Error> {
        let source = other.path(number);
        let number = self.next.fetch_add(1, Ordering::AcqRel);
        let path = self.path(number);
        let file = fs::hard_link(&source, &path)
            .or_else(|_| fs::copy(&source, &path).map(drop))
            .and_then(|()| OpenOptions::new().read(true).write(true).open(&path));
        match file {
            Ok(file) => {
                let backing = self.backing(file, number, false);
                backing.recorded.store(true, Ordering::Release);
                Ok(backing)
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(Error::backing(format!("taking over {}", source.display()), &error))
            }
        }
    }

    /// A backing file of an earlier process; it is kept.
    pub fn adopt(self: &Arc<Self>, number: u64) -> Result<Arc<Backing>, Error> {
        let path = self.path(number);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| Error::backing(format!("opening {}", path.display()), &error))?;
        self.next.fetch_max(number.saturating_add(1), Ordering::AcqRel);
        Ok(self.backing(file, number, true))
    }
}

impl Backing {
    fn file(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its descriptor, which stays open for as long as somebody has it.
    fn opened(self: &Arc<Self>) -> io::Result<Arc<File>> {
        let mut known = self.file();
        if let Some(file) = known.as_ref() {
            return Ok(file.clone());
        }
        let file = OpenOptions::new().read(true).write(true).open(self.scratch.path(self.number))?;
        let file = known.insert(Arc::new(file)).clone();
        drop(known);
        self.scratch.was_opened(self);
        Ok(file)
    }

    /// Its name in the folder.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The file outlives this.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Release);
        self.recorded.store(true, Ordering::Release);
    }

    /// A record of a journal may speak of what is in the file.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded.load(Ordering::Acquire)
    }

    /// The file goes when this is dropped.
    pub fn discard(&self) {
        self.kept.store(false, Ordering::Release);
    }

    /// Whether the file outlives this.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    fn what(&self, verb: &str) -> String {
        format!("{verb} {}", self.scratch.path(self.number).display())
    }

    /// Counts a range as written. Errors: `NoSpace`, unless `force`.
    pub(super) fn count(&self, start: u64, end: u64, force: bool) -> Result<(), Error> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let first =
            written.range(..=start).next_back().filter(|(_, to)| **to >= start).map_or(start, |(from, _)| *from);
        let touched: Vec<(u64, u64)> = written.range(first..=end).map(|(from, to)| (*from, *to)).collect();
        let before: u64 = touched.iter().map(|(from, to)| to - from).sum();
        let low = first.min(start);
        let high = touched.last().map_or(end, |(_, to)| (*to).max(end));
        let more = (high - low) - before;
        let limit = self.scratch.limit;
        let fits = |used: u64| Some(used.saturating_add(more)).filter(|sum| force || more == 0 || *sum <= limit);
        if let Err(used) = self.scratch.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            return Err(Error::NoSpace { wanted: more, used, limit });
        }
        self.allocated.fetch_add(more, Ordering::AcqRel);
        for (from, _) in touched {
            written.remove(&from);
        }
        written.insert(low, high);
        Ok(())
    }

    /// Blocking.
    pub(super) fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        self.count(offset, offset + data.len() as u64, false)?;
        let written = self.opened().and_then(|file| file.write_all_at(data, offset));
        written.map_err(|error| Error::backing(self.what("writing"), &error))
    }

    /// Fills `buffer`; what is beyond the end of the file is zeros. Blocking.
    pub(super) fn read(self: &Arc<Self>, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        let file = self.opened().map_err(|error| Error::backing(self.what("opening"), &error))?;
        while !buffer.is_empty() {
            match file.read_at(buffer, offset) {
                Ok(0) => {
                    buffer.fill(0);
                    return Ok(());
                }
                Ok(count) => {
                    offset += count as u64;
                    buffer = &mut buffer[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::backing(self.what("reading"), &error)),
            }
        }
        Ok(())
    }

    pub(super) fn length(self: &Arc<Self>) -> Result<u64, Error> {
        let metadata = self.opened().and_then(|file| file.metadata());
        let metadata = metadata.map_err(|error| Error::backing(self.what("looking at"), &error))?;
        Ok(metadata.len())
    }

    /// Until it is on the disk, its name included. Blocking.
    pub(super) fn sync(self: &Arc<Self>) -> Result<(), Error> {
        let synced =
            self.opened().and_then(|file| file.sync_all()).and_then(|()| File::open(&self.scratch.folder)?.sync_all());
        synced.map_err(|error| {
            self.distrusted.store(true, Ordering::Release);
            Error::backing(self.what("syncing"), &error)
        })
    }

    /// See the field.
    pub(super) fn is_distrusted(&self) -> bool {
        self.distrusted.load(Ordering::Acquire)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.scratch.used.fetch_sub(self.allocated.load(Ordering::Acquire), Ordering::AcqRel);
        if !self.is_kept()
            && let Err(error) = fs::remove_file(self.scratch.path(self.number))
            // The whole folder may have gone before, with its journal.
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{}: {error}", self.what("removing"));
        }
    }
}
