//! One directory of blocks, laid out exactly as a real keepstore's directory volume (protocol.md 7.1), so that the folder
//! can change hands between the two at any time.
//!
//! `<root>/<first 3 hex>/<hash>` is a block, its mtime the last write or touch. A block comes into being by rename only:
//! it is written to `tmp<hash>…` beside its place, flushed to the disk, renamed, and the directory is flushed too, before
//! anybody is told that it is stored. So what is found under a block's name is whole, whatever was killed when.
//! `<hash>.trash.<unix deadline>` is a block in the trash. `full` is a symbolic link to the time when the disk was found
//! full.
//!
//! Everything here blocks on the disk: call it from a thread that may.
//!
//! The stripe locks order *touch* against *trash* of one block: without them a block could pass the age check, be touched
//! by an upload that counts on it, and then be trashed all the same. One lock is held at a time and nothing is called
//! under it but the file system, so they cannot deadlock.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use md5::{Digest, Md5};

use super::hash::{self, BlockHash};
use crate::cluster::clock::Clock;
use crate::cluster::configuration::random_base36;

/// The largest block (protocol.md 7).
pub const BLOCK_SIZE: u64 = 64 << 20;
/// A disk found full is taken to be full for so long (protocol.md 7, status 507).
const FULL_REMEMBERED: Duration = Duration::from_secs(3600);
/// What an upload that nobody is working on any more may be at most: the slowest upload libcurl allows (32 KiB/s) takes
/// 34 minutes for a block.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
const STRIPES: usize = 64;
/// Bytes of an upload after which the disk is told to begin: an eighth of a block, large enough for any disk.
const WRITE_BEHIND: u64 = 8 << 20;

/// What a file was when it was looked at. When all of it is the same, nobody has changed the file since: a change of the
/// content changes the ctime, which nothing but the kernel can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// Length, bytes.
    pub size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// The identity of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// How long ago the file was last changed, by the machine's clock; zero for the future.
    pub fn age(&self) -> Duration {
        let changed = Duration::new(self.changed.0.try_into().unwrap_or(0), self.changed.1.try_into().unwrap_or(0));
        (UNIX_EPOCH + changed).elapsed().unwrap_or_default()
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What became of a request to trash a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trashed {
    /// It is in the trash, or deleted where there is no trash.
    Yes,
    /// It is too young, or was touched since the request was made: it stays.
    Kept,
    /// There is no such block.
    Missing,
}

/// Number and size of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks, without those in the trash.
    pub blocks: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// A directory of blocks.
pub struct Volume {
    root: PathBuf,
    /// Its name in `GET /mounts`: 27 characters, type `nyw5e`.
    pub uuid: String,
    /// Host and path: two mounts with the same are the same disk.
    pub device_id: String,
    /// How many copies a block stored here counts for.
    pub replication: u32,
    /// Storage classes that a block stored here has.
    pub storage_classes: Vec<String>,
    clock: Arc<dyn Clock>,
    stripes: [Mutex<()>; STRIPES],
}

impl Volume {
    /// Opens a volume, and creates its directory when there is none.
    pub fn open(
        root: &Path,
        uuid: String,
        replication: u32,
        storage_classes: Vec<String>,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let root = root.canonicalize()?;
        let host = nix::unistd::gethostname().map_err(io::Error::from)?;
        let device_id = format!("{}:{}", host.to_string_lossy(), root.display());
        let stripes = std::array::from_fn(|_| Mutex::new(()));
        Ok(Self { root, uuid, device_id, replication, storage_classes, clock, stripes })
    }

    /// Where the blocks are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn directory(&self, hash: BlockHash) -> PathBuf {
        self.root.join(&hash.to_string()[..3])
    }

    /// Where a block is or would be.
    pub fn path(&self, hash: BlockHash) -> PathBuf {
        self.directory(hash).join(hash.to_string())
    }

    fn stripe(&self, hash: BlockHash) -> MutexGuard<'_, ()> {
        // The lock guards no data, so a panic while it was held has broken nothing.
        self.stripes[usize::from(hash.0[15]) % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a block for reading; `None` when there is none.
    pub fn block(&self, hash: BlockHash) -> io::Result<Option<File>> {
        match File::open(self.path(hash)) {
            Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The cluster's time, as files have it.
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.clock.now().micros().try_into().unwrap_or(0))
    }

    /// How long ago a file was written or touched.
    fn age(&self, metadata: &fs::Metadata) -> Duration {
        metadata.modified().ok().and_then(|then| self.now().duration_since(then).ok()).unwrap_or_default()
    }

    /// Marks a block as just written, so that it is not trashed for another `BlobSigningTTL`. Returns the identity that
    /// it has now, `None` when there is no such block.
    pub fn touch(&self, hash: BlockHash) -> io::Result<Option<Identity>> {
        let _order = self.stripe(hash);
        let Some(file) = self.block(hash)? else { return Ok(None) };
        file.set_times(FileTimes::new().set_modified(self.now()).set_accessed(self.now()))?;
        Identity::of(&file).map(Some)
    }

    /// Begins to write a block.
    pub fn create(&self, hash: BlockHash) -> io::Result<NewBlock<'_>> {
        let directory = self.directory(hash);
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => File::open(&self.root)?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let temporary = directory.join(format!("tmp{hash}{}", random_base36(10)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        Ok(NewBlock { volume: self, hash, file, temporary: Some(temporary), written: 0, on_its_way: 0 })
    }

    /// Moves a block to the trash for `lifetime` (deletes it when that is zero), unless it was written or touched less
    /// than `minimum_age` ago, or is not the one that was `seen` (its mtime, nanoseconds since 1970).
    pub fn trash(
        &self,
        hash: BlockHash,
        minimum_age: Duration,
        lifetime: Duration,
        seen: Option<i128>,
    ) -> io::Result<Trashed> {
        let _order = self.stripe(hash);
        let Some(file) = self.block(hash)? else { return Ok(Trashed::Missing) };
        let metadata = file.metadata()?;
        if self.age(&metadata) < minimum_age || seen.is_some_and(|seen| seen != modified_nanoseconds(&metadata)) {
            return Ok(Trashed::Kept);
        }
        let path = self.path(hash);
        if lifetime.is_zero() {
            fs::remove_file(path)?;
        } else {
            let deadline = self.clock.now().plus(lifetime).seconds();
            fs::rename(&path, path.with_file_name(format!("{hash}.trash.{deadline}")))?;
        }
        Ok(Trashed::Yes)
    }

    /// Brings a block back from the trash. False when it is not there.
    pub fn untrash(&self, hash: BlockHash) -> io::Result<bool> {
        let _order = self.stripe(hash);
        let prefix = format!("{hash}.trash.");
        for entry in entries(&self.directory(hash))? {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                fs::rename(entry.path(), self.path(hash))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there is no room for another block. A disk found full is remembered for an hour in the link `full`, where
    /// a real keepstore looks for it too.
    pub fn is_full(&self) -> io::Result<bool> {
        if let Ok(target) = fs::read_link(self.root.join("full")) {
            let since = target.to_str().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
            let age = self.clock.now().seconds().saturating_sub(since);
            if u64::try_from(age).is_ok_and(|age| age < FULL_REMEMBERED.as_secs()) {
                return Ok(true);
            }
        }
        let free = nix::sys::statvfs::statvfs(&self.root)?;
        let full = free.blocks_available() as u64 * free.fragment_size() as u64 <= BLOCK_SIZE;
        if full {
            self.remember_full()?;
        }
        Ok(full)
    }

    /// Remembers that the disk is full.
    pub fn remember_full(&self) -> io::Result<()> {
        let link = self.root.join("full");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(self.clock.now().seconds().to_string(), link)
    }

    /// Calls `each` for every block whose hash begins with `prefix`, with its size and its mtime (nanoseconds since
    /// 1970), in no order, until it returns false.
    pub fn index(&self, prefix: &str, mut each: impl FnMut(BlockHash, u64, i128) -> bool) -> io::Result<()> {
        self.directories(prefix, |directory| {
            for entry in entries(directory)? {
                let Some(hash) = entry.file_name().to_str().and_then(hash::parse) else { continue };
                if !hash.to_string().starts_with(prefix) {
                    continue;
                }
                match entry.metadata() {
                    Ok(metadata) if metadata.is_file() => {
                        if !each(hash, metadata.size(), modified_nanoseconds(&metadata)) {
                            return Ok(false);
                        }
                    }
                    Ok(_) => {}
                    // Trashed since its directory was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(true)
        })
    }

    /// Counts the blocks.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage::default();
        self.index("", |_, size, _| {
            usage.blocks += 1;
            usage.bytes += size;
            true
        })?;
        Ok(usage)
    }

    /// Deletes blocks whose time in the trash is over, and what uploads that were cut off have left behind. Returns the
    /// number of files deleted.
    pub fn sweep(&self) -> io::Result<u64> {
        let now = self.clock.now().seconds();
        let mut deleted = 0;
        self.directories("", |directory| {
            for entry in entries(directory)? {
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                let deadline = name.split_once(".trash.").and_then(|(hash, deadline)| {
                    hash::parse(hash)?;
                    deadline.parse::<i64>().ok()
                });
                let over = match deadline {
                    Some(deadline) => deadline <= now,
                    None => {
                        name.strip_prefix("tmp").is_some_and(|rest| hash::leading(rest).is_some())
                            && entry.metadata().is_ok_and(|metadata| self.age(&metadata) > ABANDONED)
                    }
                };
                if over && fs::remove_file(entry.path()).is_ok() {
                    deleted += 1;
                }
            }
            Ok(true)
        })?;
        Ok(deleted)
    }

    /// Calls `each` for every directory of blocks that may have hashes beginning with `prefix`, until it returns false.
    fn directories(&self, prefix: &str, mut each: impl FnMut(&Path) -> io::Result<bool>) -> io::Result<()> {
        let wanted = &prefix[..prefix.len().min(3)];
        for entry in entries(&self.root)? {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let lower_hex = name.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
            if name.len() == 3 && lower_hex && name.starts_with(wanted) && !each(&entry.path())? {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The entries of a directory; none when there is no directory.
fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn modified_nanoseconds(metadata: &fs::Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// The MD5 of an open file.
pub fn digest(file: &File) -> io::Result<BlockHash> {
    /// Small enough to stay in the second-level cache between the copy and the hash.
    const STEP: usize = 128 << 10;
    let mut hasher = Md5::new();
    let mut piece = vec![0; STEP];
    let mut offset = 0;
    loop {
        match file.read_at(&mut piece, offset)? {
            0 => return Ok(BlockHash(hasher.finalize().into())),
            read => {
                hasher.update(&piece[..read]);
                offset += read as u64;
            }
        }
    }
}

/// A block that is being written. Dropped before [`NewBlock::commit`], it leaves nothing behind.
pub struct NewBlock<'volume> {
    volume: &'volume Volume,
    hash: BlockHash,
    file: File,
    temporary: Option<PathBuf>,
    /// Bytes so far, and how many of them the disk was told to write.
    written: u64,
    on_its_way: u64,
}

impl NewBlock<'_> {
    /// Appends to the block.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.written += piece.len() as u64;
        if self.written - self.on_its_way >= WRITE_BEHIND {
            self.start_writing_back();
        }
        Ok(())
    }

    /// Lets the disk begin with what has come so far, so that the flush at the end of an upload has little left to wait
    /// for. Only a hint: should it fail, the flush does it all, and reports what is wrong.
    fn start_writing_back(&mut self) {
        let range = (libc::off64_t::try_from(self.on_its_way), libc::off64_t::try_from(self.written - self.on_its_way));
        if let (Ok(offset), Ok(length)) = range {
            // SAFETY: takes numbers only, and the file is open.
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
        }
        self.on_its_way = self.written;
    }

    /// Puts the block into its place, on the disk and not only in memory. What was written must have the hash that the
    /// block was created for.
    pub fn commit(mut self) -> io::Result<Identity> {
        let now = self.volume.now();
        self.file.set_times(FileTimes::new().set_modified(now).set_accessed(now))?;
        self.file.sync_all()?;
        let Some(temporary) = self.temporary.take() else {
            return Err(io::Error::other("the block was committed before"));
        };
        let path = self.volume.path(self.hash);
        if let Err(error) = fs::rename(&temporary, &path) {
            self.temporary = Some(temporary);
            return Err(error);
        }
        File::open(self.volume.directory(self.hash))?.sync_all()?;
        Identity::of(&self.file)
    }
}

impl Drop for NewBlock<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Left behind at worst, and then swept.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Compares what arrives with a block that is stored, as it arrives.
pub struct Comparison {
    file: File,
    stored: Vec<u8>,
    equal: bool,
}

impl Comparison {
    /// Begins at the start of the block.
    pub fn new(file: File) -> Self {
        Self { file, stored: Vec::new(), equal: true }
    }

    /// Compares the next piece.
    pub fn update(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.equal {
            self.stored.resize(piece.len(), 0);
            match self.file.read_exact(&mut self.stored) {
                Ok(()) => self.equal = self.stored == piece,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.equal = false,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the stored block is what has arrived, no more and no less.
    pub fn finish(mut self) -> io::Result<bool> {
        Ok(self.equal && self.file.read(&mut [0])? == 0)
    }
}

#[cfg(test)]
mod tests;
