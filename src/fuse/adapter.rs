//! Each FUSE request as an operation of [`FileSystem`], each result as a reply.
//!
//! Requests arrive as independent tasks without an order, also those of one file; the file system below copes with that.

use crate::fuse::interrupt::{Interrupted, Waiting};
use crate::fuse::statistics::{Operation, Statistics};
use crate::vfs::{Access, Attributes, DirectoryEntry, Entry, Error, FileSystem, Found, Handle, Inode, Kind, PageCache};
use bytes::Bytes;
use fuse3::raw::Request;
use fuse3::raw::reply::{
    DirectoryEntryPlus, FileAttr, ReplyAttr, ReplyCreated, ReplyData, ReplyDirectoryPlus, ReplyEntry, ReplyInit,
    ReplyOpen, ReplyStatFs,
};
use fuse3::{Errno, FileType, Result, SetAttr, Timestamp};
use futures_util::stream;
use futures_util::{FutureExt, Stream};
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// Requests that the kernel may have under way in the background (read-ahead above all); the crate's 12 starve
/// parallel readers. Memory stays bounded because a block is only fetched within the cache's budget.
const MAX_BACKGROUND: u16 = 128;
/// Where the kernel starts to slow writers and read-ahead down: three quarters, as the kernel's own default.
const CONGESTION: u16 = MAX_BACKGROUND / 4 * 3;
/// Largest WRITE, and with it the size of the crate's receive buffer.
const MAX_WRITE: NonZeroU32 = NonZeroU32::new(1 << 20).unwrap();

/// Flags of the reply to OPEN (`fuse_kernel.h`).
const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_KEEP_CACHE: u32 = 1 << 1;

/// Preferred block size that `stat` shows.
const BLOCK_SIZE: u32 = 1 << 17;

/// Offsets of a listing: 1 after `.`, 2 after `..`, then those of the directory moved up by this.
const DOTS: u64 = 2;

/// Attributes where the protocol has room for some and there is no node.
const NOTHING: Entry = Entry {
    attributes: Attributes {
        inode: Inode(0),
        kind: Kind::Directory,
        permissions: 0,
        size: 0,
        modified: crate::vfs::Timestamp { seconds: 0, nanoseconds: 0 },
    },
    valid: Duration::ZERO,
};

pub struct Adapter<F> {
    files: Arc<F>,
    waiting: Waiting,
    statistics: Arc<Statistics>,
    user: u32,
    group: u32,
}

impl<F: FileSystem> Adapter<F> {
    pub fn new(files: Arc<F>, statistics: Arc<Statistics>) -> Adapter<F> {
        let (user, group) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        Adapter { files, waiting: Waiting::default(), statistics, user, group }
    }

    /// Runs an operation that may have to wait; reports a failure and turns it into its errno.
    async fn run<T>(
        &self,
        request: Request,
        operation: &'static str,
        inode: Inode,
        future: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        // A request without an answer would keep its process waiting for ever, so a panic becomes an answer too.
        let future = AssertUnwindSafe(future).catch_unwind();
        let error = match self.waiting.run(request.unique, request.pid, future).await {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(error))) => error,
            Ok(Err(_)) => Error::Panicked,
            Err(Interrupted) => Error::Interrupted,
        };
        Err(refuse(operation, inode, &error))
    }

    fn attributes(&self, entry: &Entry) -> FileAttr {
        let attributes = &entry.attributes;
        let time = Timestamp::new(attributes.modified.seconds, attributes.modified.nanoseconds);
        FileAttr {
            ino: attributes.inode.0,
            size: attributes.size,
            blocks: attributes.size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            kind: kind(attributes.kind),
            perm: attributes.permissions,
            nlink: 1,
            uid: self.user,
            gid: self.group,
            rdev: 0,
            blksize: BLOCK_SIZE,
        }
    }

    /// The answer to everything that would change the directory `parent`.
    fn refuse_change(&self, operation: &'static str, parent: u64) -> Errno {
        match self.files.modify(Inode(parent)) {
            Ok(never) => match never {},
            Err(error) => refuse(operation, Inode(parent), &error),
        }
    }

    /// The two entries that the kernel leaves to the file system. They get no look-up count, so they have no node; the number
    /// that is shown for both is the directory's own, since the kernel resolves `..` by itself.
    fn dots(offset: u64) -> impl Iterator<Item = (OsString, u64)> + Send + use<F> {
        let dots = [(".", 1), ("..", 2)].into_iter().filter(move |(_, next)| *next > offset);
        dots.map(|(name, next)| (OsString::from(name), next))
    }
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
    }
}

fn refuse(operation: &'static str, inode: Inode, error: &Error) -> Errno {
    error.report(operation, inode);
    Errno::from(error.errno())
}

/// A node that the kernel gets to know by a listing with attributes is counted when it is handed to the crate, and taken
/// back when the crate found no room for it: then it asks for no further one and drops the stream.
struct Counted<F: FileSystem> {
    files: Arc<F>,
    names: F::Names,
    unconfirmed: Option<Inode>,
}

impl<F: FileSystem> Iterator for Counted<F> {
    type Item = DirectoryEntry;

    fn next(&mut self) -> Option<DirectoryEntry> {
        self.unconfirmed = None;
        let entry = self.names.next()?;
        self.files.remember(entry.entry.attributes.inode);
        self.unconfirmed = Some(entry.entry.attributes.inode);
        Some(entry)
    }
}

impl<F: FileSystem> Drop for Counted<F> {
    fn drop(&mut self) {
        if let Some(inode) = self.unconfirmed {
            self.files.forget(inode, 1);
        }
    }
}

impl<F: FileSystem> fuse3::raw::Filesystem for Adapter<F> {
    async fn init(&self, _request: Request) -> Result<ReplyInit> {
        let mut reply = ReplyInit::new(MAX_WRITE);
        reply.max_background = Some(MAX_BACKGROUND);
        reply.congestion_threshold = Some(CONGESTION);
        Ok(reply)
    }

    async fn destroy(&self, _request: Request) {
        drop(self.statistics.start(Operation::Destroy));
    }

    async fn lookup(&self, request: Request, parent: u64, name: &OsStr) -> Result<ReplyEntry> {
        let _running = self.statistics.start(Operation::Lookup);
        let parent = Inode(parent);
        match self.run(request, "lookup", parent, self.files.lookup(parent, name.as_bytes())).await? {
            Found::Entry(entry) => Ok(ReplyEntry { ttl: entry.valid, attr: self.attributes(&entry), generation: 0 }),
            Found::Missing { valid } if valid.is_zero() => Err(libc::ENOENT.into()),
            Found::Missing { valid } => {
                // An entry with inode 0 says that the name is missing, and for how long the kernel need not ask again.
                Ok(ReplyEntry { ttl: valid, attr: self.attributes(&NOTHING), generation: 0 })
            }
        }
    }

    async fn forget(&self, _request: Request, inode: u64, count: u64) {
        let _running = self.statistics.start(Operation::Forget);
        self.files.forget(Inode(inode), count);
    }

    async fn batch_forget(&self, _request: Request, inodes: &[(u64, u64)]) {
        let _running = self.statistics.start(Operation::Forget);
        for (inode, count) in inodes {
            self.files.forget(Inode(*inode), *count);
        }
    }

    async fn getattr(&self, request: Request, inode: u64, handle: Option<u64>, _flags: u32) -> Result<ReplyAttr> {
        let _running = self.statistics.start(Operation::Getattr);
        let inode = Inode(inode);
        let entry = self.run(request, "getattr", inode, self.files.getattr(inode, handle.map(Handle))).await?;
        Ok(ReplyAttr { ttl: entry.valid, attr: self.attributes(&entry) })
    }

    async fn setattr(&self, request: Request, inode: u64, _handle: Option<u64>, change: SetAttr) -> Result<ReplyAttr> {
        let _running = self.statistics.start(Operation::Setattr);
        let inode = Inode(inode);
        let entry = self.run(request, "setattr", inode, self.files.setattr(inode, change.size)).await?;
        Ok(ReplyAttr { ttl: entry.valid, attr: self.attributes(&entry) })
    }

    async fn open(&self, request: Request, inode: u64, flags: u32) -> Result<ReplyOpen> {
        let _running = self.statistics.start(Operation::Open);
        let inode = Inode(inode);
        // O_TRUNC alone would make the kernel believe that the file is empty now.
        let changes = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 || flags & libc::O_TRUNC as u32 != 0;
        let access = Access { write: changes };
        let opened = self.run(request, "open", inode, self.files.open(inode, access)).await?;
        let flags = match opened.pages {
            PageCache::Keep => FOPEN_KEEP_CACHE,
            PageCache::Drop => 0,
            PageCache::Bypass => FOPEN_DIRECT_IO,
        };
        Ok(ReplyOpen { fh: opened.handle.0, flags })
    }

    async fn read(&self, request: Request, inode: u64, handle: u64, offset: u64, size: u32) -> Result<ReplyData> {
        let _running = self.statistics.start(Operation::Read);
        let read = self.files.read(Handle(handle), offset, size);
        let data: Bytes = self.run(request, "read", Inode(inode), read).await?;
        self.statistics.add_bytes_read(data.len());
        Ok(ReplyData { data })
    }

    async fn release(
        &self,
        _: Request,
        _inode: u64,
        handle: u64,
        _flags: u32,
        _owner: u64,
        _flush: bool,
    ) -> Result<()> {
        let _running = self.statistics.start(Operation::Release);
        self.files.release(Handle(handle));
        Ok(())
    }

    async fn opendir(&self, request: Request, inode: u64, _flags: u32) -> Result<ReplyOpen> {
        let _running = self.statistics.start(Operation::Opendir);
        let inode = Inode(inode);
        let handle = self.run(request, "opendir", inode, self.files.opendir(inode)).await?;
        Ok(ReplyOpen { fh: handle.0, flags: 0 })
    }

    async fn readdirplus<'a>(
        &'a self,
        _request: Request,
        parent: u64,
        handle: u64,
        offset: u64,
        _lock_owner: u64,
    ) -> Result<ReplyDirectoryPlus<impl Stream<Item = Result<DirectoryEntryPlus>> + Send + 'a>> {
        let _running = self.statistics.start(Operation::Readdir);
        let names = self.files.readdir(Handle(handle), offset.saturating_sub(DOTS));
        let names = names.map_err(|error| refuse("readdir", Inode(parent), &error))?;
        let counted = Counted { files: self.files.clone(), names, unconfirmed: None };
        let dots = Self::dots(offset).map(move |(name, next)| DirectoryEntryPlus {
            inode: parent,
            generation: 0,
            kind: FileType::Directory,
            name,
            offset: next as i64,
            attr: self.attributes(&NOTHING),
            entry_ttl: Duration::ZERO,
            attr_ttl: Duration::ZERO,
        });
        let names = counted.map(|entry| DirectoryEntryPlus {
            inode: entry.entry.attributes.inode.0,
            generation: 0,
            kind: kind(entry.entry.attributes.kind),
            name: OsString::from_vec(entry.name),
            offset: (entry.offset + DOTS) as i64,
            attr: self.attributes(&entry.entry),
            entry_ttl: entry.entry.valid,
            attr_ttl: entry.entry.valid,
        });
        Ok(ReplyDirectoryPlus { entries: stream::iter(dots.chain(names).map(Ok)) })
    }

    async fn releasedir(&self, _request: Request, _inode: u64, handle: u64, _flags: u32) -> Result<()> {
        self.files.releasedir(Handle(handle));
        Ok(())
    }

    async fn statfs(&self, _request: Request, _inode: u64) -> Result<ReplyStatFs> {
        let _running = self.statistics.start(Operation::Statfs);
        let totals = self.files.statfs();
        Ok(ReplyStatFs {
            blocks: 0,
            bfree: 0,
            bavail: 0,
            files: 0,
            ffree: 0,
            bsize: totals.block_size,
            namelen: totals.longest_name,
            frsize: totals.block_size,
        })
    }

    async fn interrupt(&self, _request: Request, unique: u64) -> Result<()> {
        self.waiting.interrupt(unique);
        Ok(())
    }

    async fn mknod(&self, _: Request, parent: u64, _name: &OsStr, _mode: u32, _device: u32) -> Result<ReplyEntry> {
        Err(self.refuse_change("mknod", parent))
    }

    async fn mkdir(&self, _: Request, parent: u64, _name: &OsStr, _mode: u32, _umask: u32) -> Result<ReplyEntry> {
        let _running = self.statistics.start(Operation::Mkdir);
        Err(self.refuse_change("mkdir", parent))
    }

    async fn create(&self, _: Request, parent: u64, _name: &OsStr, _mode: u32, _flags: u32) -> Result<ReplyCreated> {
        let _running = self.statistics.start(Operation::Create);
        Err(self.refuse_change("create", parent))
    }

    async fn unlink(&self, _: Request, parent: u64, _name: &OsStr) -> Result<()> {
        let _running = self.statistics.start(Operation::Unlink);
        Err(self.refuse_change("unlink", parent))
    }

    async fn rmdir(&self, _: Request, parent: u64, _name: &OsStr) -> Result<()> {
        let _running = self.statistics.start(Operation::Rmdir);
        Err(self.refuse_change("rmdir", parent))
    }

    async fn rename(&self, _: Request, parent: u64, _: &OsStr, _new_parent: u64, _: &OsStr) -> Result<()> {
        let _running = self.statistics.start(Operation::Rename);
        Err(self.refuse_change("rename", parent))
    }

    async fn rename2(
        &self,
        _: Request,
        parent: u64,
        _: &OsStr,
        _new_parent: u64,
        _: &OsStr,
        _flags: u32,
    ) -> Result<()> {
        let _running = self.statistics.start(Operation::Rename);
        Err(self.refuse_change("rename", parent))
    }
}
