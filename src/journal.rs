//! The log on disk that makes a crash of the mount harmless.
//!
//! A mount writes down here what it has promised and the server has not got: which file has which content ([`Content`]
//! says where its bytes are), and what was made, removed and renamed. When the server has it, it is *settled*. What is not
//! settled when a mount dies is *pending*, and the next mount of the same account takes it over ([`Journal::recover`]).
//!
//! ```text
//! ~/.local/state/arvados/journal/<cluster>-<user>/lock     flock, exclusive, while a mount takes over what is there
//! ~/.local/state/arvados/journal/<cluster>-<user>/<id>/
//!     lock        flock, exclusive, for the life of the mount: whoever can have it knows that the mount is dead
//!     info.json   which mount (for people)
//!     log         records, appended; see `record`
//!     log.damaged-…  a log with parts that could not be read, kept for whoever wants to look
//!     data/       bytes that are not in Keep: the backing files of `dirty`
//! ```
//!
//! What must stay true:
//!
//! * A record is there as soon as [`Journal::append`] returns, whatever happens to the process; with `durable` also
//!   whatever happens to the machine, if the backing files it speaks of were brought to the disk before.
//! * Nothing pending is ever taken away, and nothing that cannot be read either: damage is said and kept. A log that is missing or
//!   empty is damage; what is in `data` and in no record of a whole log was never promised to anybody, and goes.
//! * A folder belongs to whom holds its lock. It goes when its owner ends in good order with nothing pending.
//! * No file here is readable for others, or reached through a link: locators are permissions to read.
//!
//! Locks: the `Mutex` of the log is a leaf; nothing is called under it but the disk. `fdatasync` is waited for without it,
//! so that a writer who needs no durability does not wait for one who does; only a rewrite of the log (rare, and in
//! proportion to what was appended) holds it for an `fsync`. Those who need durability wait for each other under `confirming`, which
//! is taken before the log's and never the other way round.
//!
//! [`Content`]: crate::dirty::Content

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

mod around;
pub mod change;
pub mod contents;
pub mod error;
pub mod info;
mod log;
pub mod place;
pub mod record;
pub mod recovered;
pub mod replay;
mod takeover;
pub mod text;

pub use around::Around;
pub use change::{Base, Change, Operation, Piece, Sent, Sequence};
pub use contents::Contents;
pub use error::Error;
pub use info::Info;
pub use recovered::Recovered;

#[cfg(test)]
mod tests;

/// Names in a journal's folder.
const LOCK: &str = "lock";
const DATA: &str = "data";
const RESERVE: &str = "reserve";

/// Room that a journal holds for the next mount, in bytes: what that needs to have a journal of its own, so that it can save what is in
/// this one, should the disk be full then. A journal without anything in it is 20 KiB.
const RESERVED: i64 = 1 << 20;

/// Names in an account's folder of journals that are being made or taken away. They are nobody's journals.
const BEING_MADE: &str = ".new-";
const BEING_REMOVED: &str = ".gone-";

/// Making a journal takes milliseconds; one that has not become one after this never will.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The journal of a mount that runs. Blocking file operations of microseconds; `durable` ones take as long as the disk.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    log: Mutex<log::Log>,
    /// Held while the log is brought to the disk.
    confirming: Mutex<()>,
    /// Holds logs with parts that could not be read: the folder must stay.
    is_damaged: bool,
    /// The folder has been removed already.
    is_gone: AtomicBool,
    // Dropped last: the folder is ours until then.
    lock: Flock<File>,
}

impl Journal {
    /// Makes a journal of its own for a mount, in the folder of its account ([`place::account_folder`]). `limit`: the most
    /// bytes its log may have.
    ///
    /// Errors: [`Error::BelowMount`], [`Error::NotOurs`], [`Error::NoRoom`], [`Error::Disk`].
    pub fn create(account_folder: &Path, info: &Info, limit: u64) -> Result<Journal, Error> {
        // Before anything is made: making it could already wait for the mount.
        place::refuse_below(account_folder, &info.mount_point)?;
        place::make(account_folder)?;
        match Journal::make(account_folder, info, limit) {
            Err(Error::NoRoom { .. }) if release_reserves(account_folder) => Journal::make(account_folder, info, limit),
            made => made,
        }
    }

    fn make(account_folder: &Path, info: &Info, limit: u64) -> Result<Journal, Error> {
        let id = hex::encode(rand::random::<[u8; 6]>());
        let making = account_folder.join(format!("{BEING_MADE}{id}"));
        let folder = account_folder.join(id);
        let made = Journal::fill(&making, &folder, info, limit);
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&making);
        }
        made
    }

    fn fill(making: &Path, folder: &Path, info: &Info, limit: u64) -> Result<Journal, Error> {
        place::make(&making.join(DATA))?;
        let lock = acquire(making)?.ok_or_else(|| Error::Running { folder: making.to_owned() })?;
        let info_file = making.join(info::FILE);
        place::write(&info_file, &info.to_json()?).map_err(Error::at("write", &info_file))?;
        drop(log::Log::create(making, limit)?);
        reserve(&making.join(RESERVE));
        place::sync(making).map_err(Error::at("bring to the disk", making))?;
        // With its name, all at once: who sees the folder sees it locked and complete.
        std::fs::rename(making, folder).map_err(Error::at("name", folder))?;
        // The folders above may be new as well; a file system that cannot sync folders does not lose them either.
        for above in folder.ancestors().skip(1).take(4) {
            if let Err(error) = place::sync(above) {
                tracing::debug!(folder = %above.display(), %error, "cannot bring a folder to the disk");
            }
        }
        let mut log = log::Log::resume(folder, log::LEAST, &replay::Pending::default(), true)?;
        log.set_limit(limit);
        Ok(Journal {
            folder: folder.to_owned(),
            log: Mutex::new(log),
            confirming: Mutex::default(),
            is_damaged: false,
            is_gone: AtomicBool::new(false),
            lock,
        })
    }

    /// Takes over the journals of mounts of this account that are dead, wherever they were mounted, in the order in which they have
    /// gone on with each other. Those with nothing in them are removed. One that cannot be read is left as it is, with a warning in
    /// the log, and so are those that belong together with it or with one that a mount which runs has (see `takeover`). Waits for
    /// another mount that does the same.
    ///
    /// Errors: the account's folder is there and cannot be read.
    pub fn recover(account_folder: &Path) -> Result<Vec<Recovered>, Error> {
        takeover::take(account_folder, takeover::PATIENCE)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Name of its folder, by which `arvados journal` knows it.
    pub fn id(&self) -> String {
        id(&self.folder)
    }

    /// Where backing files belong.
    pub fn data_folder(&self) -> PathBuf {
        data_folder(&self.folder)
    }

    /// Writes a change down. When this returns the change survives the death of the process; with `durable` also that of
    /// the machine.
    ///
    /// Errors: [`Error::Full`], [`Error::NoRoom`], [`Error::Disk`]: nothing was written, what was before is untouched.
    /// [`Error::Removed`]: that is gone as well.
    /// [`Error::NotDurable`]: written, but the disk does not confirm it.
    pub fn append(&self, collection: &str, change: &Change, durable: bool) -> Result<Sequence, Error> {
        self.append_together(collection, std::slice::from_ref(change), durable)
    }

    /// As [`Journal::append`], for changes that belong together: after a crash all of them are there or none. Returns the last
    /// one's sequence.
    pub fn append_together(&self, collection: &str, changes: &[Change], durable: bool) -> Result<Sequence, Error> {
        let (sequence, file, writes) = {
            let mut log = self.log();
            if durable {
                log.regain_trust()?;
            }
            (log.append(collection, changes)?, log.file(), log.writes())
        };
        if durable {
            self.confirm((&file, writes), Some(sequence))?;
        }
        Ok(sequence)
    }

    /// As [`Journal::append_together`], not durable, if what the changes say still holds when nothing can come between them and
    /// what was noted before; otherwise `None`, and nothing is written.
    pub fn append_if(
        &self,
        collection: &str,
        changes: &[Change],
        still_holds: impl FnOnce() -> bool,
    ) -> Result<Option<Sequence>, Error> {
        let mut log = self.log();
        still_holds().then(|| log.append(collection, changes)).transpose()
    }

    /// Brings all that was appended so far to the disk. Errors: [`Error::NotDurable`], [`Error::Removed`], and those of a rewrite.
    pub fn sync(&self) -> Result<(), Error> {
        let (file, writes) = {
            let mut log = self.log();
            log.check_named()?;
            log.regain_trust()?;
            (log.file(), log.writes())
        };
        self.confirm((&file, writes), None)
    }

    /// Brings to the disk what was written since that was done last, if anything was. Errors: as [`Journal::sync`].
    pub fn sync_rest(&self) -> Result<(), Error> {
        let is_synced = {
            let log = self.log();
            log.check_named()?;
            log.is_synced()
        };
        if is_synced { Ok(()) } else { self.sync() }
    }

    /// Brings so many writes of the file to the disk, unless somebody else has just done so. A rewrite in the meantime does no harm: it
    /// has brought to the disk what was in this file.
    fn confirm(&self, (file, wanted): (&File, u64), sequence: Option<Sequence>) -> Result<(), Error> {
        // One after the other: the kernel tells of a page that it could not write only once, and whoever asks next must hear of it, too.
        let _alone = self.confirming.lock().unwrap_or_else(PoisonError::into_inner);
        let (writes, before) = {
            let log = self.log();
            if log.has_synced(file, wanted) {
                return Ok(());
            }
            (log.writes(), log.collections())
        };
        match file.sync_data() {
            Ok(()) => {
                let mut log = self.log();
                log.was_synced(file, writes, before);
                log.regain_trust()
            }
            Err(source) => {
                self.log().distrust();
                Err(Error::NotDurable { path: self.folder.clone(), sequence, source })
            }
        }
    }

    /// Everything of the collection up to this sequence is on the server.
    ///
    /// Errors say that this could not be written down yet. It counts all the same, and is written with the next record; should
    /// the process die before, the next mount finds that the server has it.
    pub fn settled(&self, collection: &str, up_to: Sequence) -> Result<(), Error> {
        self.log().settle(collection, up_to)
    }

    /// A save is about to be sent. Should the mount die before its answer comes, or before the changes that are in it are settled,
    /// a replay knows by this which of what the server has is ours, and which changes are older than that.
    ///
    /// Errors: as [`Journal::append`]; then such a replay may keep what is ours twice, and nothing is lost.
    pub fn sent(&self, collection: &str, save: &Sent) -> Result<(), Error> {
        self.log().send(collection, save)
    }

    /// Brings to the disk what was noted of saves, if the disk has records of the collection: after a power failure they would undo
    /// what saves have changed since. That is so where somebody has relied on the disk; others wait for nothing.
    ///
    /// Errors: as [`Journal::sync`].
    pub fn secure_sent(&self, collection: &str) -> Result<(), Error> {
        if self.log().is_on_disk(collection) { self.sync() } else { Ok(()) }
    }

    /// The last save of the collection that was sent has reached the server; what was sent before and did not will never.
    pub fn arrived(&self, collection: &str) -> Result<(), Error> {
        self.log().arrive(collection)
    }

    /// The last save of the collection that was sent was refused.
    pub fn withdrawn(&self, collection: &str) -> Result<(), Error> {
        self.log().withdraw(collection)
    }

    /// Does all that is not settled of the collection come after what the journal with this name has of it
    /// ([`Change::after`])? `false` if there is nothing.
    pub fn follows(&self, collection: &str, other: &str) -> bool {
        self.log().follows(collection, other)
    }

    /// Collections of which something is not settled.
    pub fn collections(&self) -> Vec<String> {
        self.log().collections()
    }

    /// Is there anything of the collection that is not settled?
    pub fn pending(&self, collection: &str) -> bool {
        self.log().pending(collection) > 0
    }

    /// The last state of the collection that is told of ([`Change::state`]), and the last change that is not settled. Whoever counts
    /// states anew goes on from there.
    pub fn reach(&self, collection: &str) -> (u64, Option<Sequence>) {
        self.log().reach(collection)
    }

    /// Does anything that is not settled name this file in [`Journal::data_folder`]?
    pub fn names(&self, backing: u64) -> bool {
        self.log().names(backing)
    }

    /// Collections of which something is not settled.
    pub fn pending_collections(&self) -> Vec<String> {
        self.log().collections()
    }

    /// Nothing is pending, of any collection.
    pub fn is_settled(&self) -> bool {
        self.log().is_settled()
    }

    /// Bytes of the log.
    pub fn size(&self) -> u64 {
        self.log().length()
    }

    /// It has half of what it may have, or more.
    pub fn is_filling(&self) -> bool {
        // Who writes the log anew holds it for as long as the disk takes, and it is short then.
        match self.log.try_lock() {
            Ok(log) => log.is_filling(),
            Err(TryLockError::Poisoned(log)) => log.into_inner().is_filling(),
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// Notes what was settled and could not be noted yet. On a disk that is full the room in reserve is for that: it is what lets go
    /// of backing files. Errors: it cannot be noted yet.
    pub fn pay(&self) -> Result<(), Error> {
        match self.log().pay_all() {
            Err(Error::NoRoom { .. }) if std::fs::remove_file(self.folder.join(RESERVE)).is_ok() => {
                self.log().pay_all()
            }
            paid => paid,
        }
    }

    /// The most bytes the log may have from now on.
    pub fn set_limit(&self, limit: u64) {
        self.log().set_limit(limit);
    }

    /// The mount ends in good order: without anything pending the folder is removed, though others may still hold the journal.
    pub fn leave(&self) {
        if self.is_disposable()
            && !self.is_gone.swap(true, Ordering::AcqRel)
            // Or somebody has removed it, and was told.
            && self.folder.exists()
            && let Err(error) = remove(&self.folder, &self.lock)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot remove the journal; it has nothing in it");
        }
    }

    /// Ends it, as dropping it does: without anything pending the folder is removed. True if it is gone.
    pub fn close(self) -> bool {
        self.is_disposable()
    }

    fn log(&self) -> MutexGuard<'_, log::Log> {
        // The log stays consistent at every step, also if something panics in between.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_disposable(&self) -> bool {
        let log = self.log();
        log.is_settled() && !log.is_frozen() && !self.is_damaged
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Where the backing files of a journal are.
pub fn data_folder(folder: &Path) -> PathBuf {
    folder.join(DATA)
}

/// Name of a journal's folder.
pub(crate) fn id(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Folders of the journals of an account, by name; none if there is no folder of the account.
pub fn folders(account_folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match std::fs::read_dir(account_folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::disk("read", account_folder, error)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::at("read", account_folder))?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !entry.file_name().to_string_lossy().starts_with('.') {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

/// Takes room that nobody uses. Where there is none the journal does without.
fn reserve(path: &Path) {
    let taken = place::open(path, OpenOptions::new().write(true).create_new(true))
        .and_then(|file| nix::fcntl::posix_fallocate(&file, 0, RESERVED).map_err(io::Error::from));
    if let Err(error) = taken {
        tracing::debug!(path = %path.display(), %error, "the journal has no room in reserve");
        let _ = std::fs::remove_file(path);
    }
}

/// Gives the room back that dead mounts' journals hold for this case. Whether there was any.
fn release_reserves(account_folder: &Path) -> bool {
    let dead = folders(account_folder).unwrap_or_default().into_iter().filter(|folder| !is_running(folder));
    dead.filter(|folder| std::fs::remove_file(folder.join(RESERVE)).is_ok()).count() > 0
}

/// Does a mount hold this journal? Asks for a moment only, and in a way that another who asks is not misled.
pub fn is_running(folder: &Path) -> bool {
    let file = place::open(&folder.join(LOCK), OpenOptions::new().read(true));
    file.is_ok_and(|file| matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK))))
}

/// Removes a dead mount's journal, whatever is in it. Errors: [`Error::Running`], [`Error::Disk`].
pub fn discard(folder: &Path) -> Result<(), Error> {
    place::check(folder)?;
    let lock = acquire(folder)?.ok_or_else(|| Error::Running { folder: folder.to_owned() })?;
    remove(folder, &lock)
}

/// How often, and how long apart, the lock is asked for: [`is_running`] of another process holds it for microseconds.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the lock of a folder. `None`: somebody has it, or the folder is gone.
fn acquire(folder: &Path) -> Result<Option<Flock<File>>, Error> {
    let path = folder.join(LOCK);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let file = match place::open(&path, OpenOptions::new().read(true).write(true).create(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::disk("open", &path, error)),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                // Its owner may have removed or renamed the folder between our two steps.
                let held = lock.metadata().map_err(Error::at("look at", &path))?;
                let named = path.symlink_metadata();
                let is_same = named.is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino()));
                return Ok(is_same.then_some(lock));
            }
            Err((_, Errno::EWOULDBLOCK)) => {}
            Err((_, errno)) => return Err(Error::disk("lock", &path, errno.into())),
        }
    }
    Ok(None)
}

/// Removes a folder whose lock we hold: first its name, so that a death in the middle leaves nothing half.
fn remove(folder: &Path, _lock: &Flock<File>) -> Result<(), Error> {
    let gone = folder.with_file_name(format!("{BEING_REMOVED}{}", id(folder)));
    std::fs::rename(folder, &gone).map_err(Error::at("remove", folder))?;
    std::fs::remove_dir_all(&gone).map_err(Error::at("remove", &gone))
}

/// Takes away what processes left that died while they made or removed a journal. Whoever is at it just now is not disturbed:
/// what is being removed may be removed by two, and what is being made is young.
fn sweep(account_folder: &Path) {
    let Ok(entries) = std::fs::read_dir(account_folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_old = || {
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            modified.and_then(|time| SystemTime::now().duration_since(time).ok()).is_some_and(|age| age > ABANDONED)
        };
        if name.starts_with(BEING_REMOVED) || (name.starts_with(BEING_MADE) && is_old()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
