//! Each FUSE request as an operation of [`FileSystem`], each result as a reply.
//!
//! Requests arrive as independent tasks without an order, also those of one file; the file system below copes with that.
//!
//! An operation that only looks is dropped when its process is killed. One that changes something is not: the process gets
//! its EINTR, while the operation goes on to its end in a task of its own, and what it would have handed to the kernel (a
//! node that counts as known, an open file) is given back ([`Given`]). So a signal never leaves half of a change.
//!
//! Each request that the kernel may have sent while it holds a lock which a notification needs is entered in [`Requests`]
//! (see there which those are), for the notifier.

mod given;

use crate::fuse::interrupt::{Interrupted, Waiting};
use crate::fuse::requests::Requests;
use crate::fuse::statistics::{Operation, Statistics};
use crate::vfs::{
    Access, AtOnce, Attributes, Change, Destination, Entry, Error, FileSystem, Found, Handle, Inode, Kind, Opened,
    PageCache,
};
use bytes::Bytes;
use fuse3::raw::Request;
use fuse3::raw::reply::{
    DirectoryEntryPlus, FileAttr, ReplyAttr, ReplyCreated, ReplyData, ReplyDirectoryPlus, ReplyEntry, ReplyInit,
    ReplyOpen, ReplyStatFs, ReplyWrite,
};
use fuse3::{Errno, FileType, Result, SetAttr, Timestamp};
use futures_util::stream;
use futures_util::{FutureExt, Stream};
use given::{Counted, Given};
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Requests that the kernel may have under way in the background (read-ahead above all); the crate's 12 starve
/// parallel readers. Memory stays bounded because a block is only fetched within the cache's budget.
const MAX_BACKGROUND: u16 = 128;
/// Where the kernel starts to slow writers and read-ahead down: three quarters, as the kernel's own default.
const CONGESTION: u16 = MAX_BACKGROUND / 4 * 3;
/// Largest WRITE, and with it the size of the crate's receive buffer.
const MAX_WRITE: NonZeroU32 = NonZeroU32::new(1 << 20).unwrap();

/// A WRITE of pages from the kernel's memory (`fuse_kernel.h`).
const WRITE_CACHE: u32 = 1 << 0;

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
        changed: crate::vfs::Timestamp { seconds: 0, nanoseconds: 0 },
        is_linked: true,
    },
    valid: Duration::ZERO,
};

pub struct Adapter<F> {
    files: Arc<F>,
    waiting: Waiting,
    statistics: Arc<Statistics>,
    requests: Arc<Requests>,
    writable: bool,
    user: u32,
    group: u32,
}

impl<F: FileSystem> Adapter<F> {
    /// `writable`: can this mount change anything at all? If not, the kernel is told that it need not ask us to flush.
    pub fn new(files: Arc<F>, statistics: Arc<Statistics>, requests: Arc<Requests>, writable: bool) -> Adapter<F> {
        let (user, group) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        Adapter { files, waiting: Waiting::default(), statistics, requests, writable, user, group }
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

    /// As [`Adapter::run`], for an operation that changes something: it is not dropped when its process is killed.
    async fn change<T: Send + 'static>(
        &self,
        request: Request,
        operation: &'static str,
        inode: Inode,
        future: impl Future<Output = std::result::Result<T, Error>> + Send + 'static,
    ) -> Result<T> {
        let future = async move {
            // Most changes are done without waiting: they need no task.
            let mut future = Box::pin(AssertUnwindSafe(future).catch_unwind());
            let result = match futures_util::poll!(future.as_mut()) {
                Poll::Ready(result) => result,
                Poll::Pending => tokio::spawn(future).await.map_err(|_| Error::Interrupted)?,
            };
            result.unwrap_or(Err(Error::Panicked))
        };
        self.run(request, operation, inode, future).await
    }

    /// The answer to what made a node, with its file open or not.
    fn entry(&self, given: Given<F>) -> ReplyEntry {
        let entry = given.take().0;
        ReplyEntry { ttl: entry.valid, attr: self.attributes(&entry), generation: 0 }
    }

    /// Makes an entry of a directory, known to the kernel from then on.
    async fn make(
        &self,
        request: Request,
        operation: &'static str,
        parent: Inode,
        making: impl Future<Output = std::result::Result<Entry, Error>> + Send + 'static,
    ) -> Result<ReplyEntry> {
        let _busy = self.requests.start(&[parent]);
        let files = self.files.clone();
        let future = async move { Ok(Given::node(files, making.await?)) };
        Ok(self.entry(self.change(request, operation, parent, future).await?))
    }

    async fn move_name(
        &self,
        request: Request,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        keep: bool,
    ) -> Result<()> {
        let _running = self.statistics.start(Operation::Rename);
        let (parent, new_parent) = (Inode(parent), Inode(new_parent));
        let moved = self.files.directory_at(parent, name.as_bytes());
        let replaced = self.files.directory_at(new_parent, new_name.as_bytes());
        let held: Vec<Inode> = [parent, new_parent].into_iter().chain(moved).chain(replaced).collect();
        let _busy = self.requests.start(&held);
        let (files, name, new_name) = (self.files.clone(), name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        let future = async move { files.rename(parent, &name, new_parent, &new_name, keep).await };
        self.change(request, "rename", parent, future).await
    }

    fn attributes(&self, entry: &Entry) -> FileAttr {
        let attributes = &entry.attributes;
        let time = |time: crate::vfs::Timestamp| Timestamp::new(time.seconds, time.nanoseconds);
        FileAttr {
            ino: attributes.inode.0,
            size: attributes.size,
            blocks: attributes.size.div_ceil(512),
            atime: time(attributes.modified),
            mtime: time(attributes.modified),
            ctime: time(attributes.changed),
            kind: kind(attributes.kind),
            perm: attributes.permissions,
            nlink: u32::from(attributes.is_linked),
            uid: self.user,
            gid: self.group,
            rdev: 0,
            blksize: BLOCK_SIZE,
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

/// Flags of OPEN and CREATE.
fn access(flags: u32) -> Access {
    let has = |flag: i32| flags & flag as u32 != 0;
    Access { write: flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32, truncate: has(libc::O_TRUNC) }
}

fn open_flags(opened: Opened) -> u32 {
    match opened.pages {
        PageCache::Keep => FOPEN_KEEP_CACHE,
        PageCache::Drop => 0,
        PageCache::Bypass => FOPEN_DIRECT_IO,
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
        let _busy = self.requests.start(&[parent]);
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

    async fn setattr(&self, request: Request, inode: u64, handle: Option<u64>, change: SetAttr) -> Result<ReplyAttr> {
        let _running = self.statistics.start(Operation::Setattr);
        let inode = Inode(inode);
        let _busy = self.requests.start(&[inode]);
        let modified = change.mtime.map(|time| crate::vfs::Timestamp { seconds: time.sec, nanoseconds: time.nsec });
        let change = Change { size: change.size, modified };
        let files = self.files.clone();
        let future = async move { files.setattr(inode, handle.map(Handle), change).await };
        let entry = self.change(request, "setattr", inode, future).await?;
        Ok(ReplyAttr { ttl: entry.valid, attr: self.attributes(&entry) })
    }

    async fn open(&self, request: Request, inode: u64, flags: u32) -> Result<ReplyOpen> {
        let _running = self.statistics.start(Operation::Open);
        let inode = Inode(inode);
        let access = access(flags);
        // Who opens to write or to empty a file is counted, so that must not be broken off in the middle.
        let opened = if access.write || access.truncate {
            let files = self.files.clone();
            let future = async move {
                let opened = files.open(inode, access).await?;
                Ok(Given::file(files, None, opened))
            };
            self.change(request, "open", inode, future).await?.take().1
        } else {
            Some(self.run(request, "open", inode, self.files.open(inode, access)).await?)
        };
        let opened = opened.ok_or(Errno::from(libc::EIO))?;
        Ok(ReplyOpen { fh: opened.handle.0, flags: open_flags(opened) })
    }

    async fn read(&self, request: Request, inode: u64, handle: u64, offset: u64, size: u32) -> Result<ReplyData> {
        let _running = self.statistics.start(Operation::Read);
        let _busy = self.requests.start(&[Inode(inode)]);
        let read = self.files.read(Handle(handle), offset, size);
        let data: Bytes = self.run(request, "read", Inode(inode), read).await?;
        self.statistics.add_bytes_read(data.len());
        Ok(ReplyData { data })
    }

    async fn write(
        &self,
        request: Request,
        inode: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        write_flags: u32,
        flags: u32,
    ) -> Result<ReplyWrite> {
        let _running = self.statistics.start(Operation::Write);
        let inode = Inode(inode);
        let _busy = self.requests.start(&[inode]);
        let (files, handle, written) = (self.files.clone(), Handle(handle), data.len());
        // As it is now: `fcntl` may have changed it since the file was opened. Pages of a mapped file know their place.
        let destination = match write_flags & WRITE_CACHE {
            0 if flags & libc::O_APPEND as u32 != 0 => Destination::End,
            0 => Destination::At(offset),
            _ => Destination::Pages(offset),
        };
        // Almost always it is done at once, and what is left has no data.
        let at_once = async { Ok(files.write_at_once(handle, destination, data)) };
        let left = match self.run(request, "write", inode, at_once).await? {
            AtOnce::All => None,
            AtOnce::Unannounced => Some(Bytes::new()),
            AtOnce::Nothing => Some(Bytes::copy_from_slice(data)),
        };
        if let Some(data) = left {
            let future = async move { files.write(handle, destination, data).await };
            self.change(request, "write", inode, future).await?;
        }
        self.statistics.add_bytes_written(written);
        // One request never carries more than MAX_WRITE.
        Ok(ReplyWrite { written: written as u32 })
    }

    async fn flush(&self, request: Request, inode: u64, handle: u64, _owner: u64) -> Result<()> {
        if !self.writable {
            return Err(libc::ENOSYS.into());
        }
        let _running = self.statistics.start(Operation::Flush);
        let files = self.files.clone();
        self.change(request, "flush", Inode(inode), async move { files.flush(Handle(handle)).await }).await
    }

    async fn fsync(&self, request: Request, inode: u64, handle: u64, _only_data: bool) -> Result<()> {
        if !self.writable {
            return Err(libc::ENOSYS.into());
        }
        let files = self.files.clone();
        self.change(request, "fsync", Inode(inode), async move { files.sync(Handle(handle)).await }).await
    }

    async fn fsyncdir(&self, request: Request, inode: u64, handle: u64, _only_data: bool) -> Result<()> {
        if !self.writable {
            return Err(libc::ENOSYS.into());
        }
        let _busy = self.requests.start(&[Inode(inode)]);
        let files = self.files.clone();
        let future = async move { files.sync_directory(Handle(handle)).await };
        self.change(request, "fsyncdir", Inode(inode), future).await
    }

    async fn release(
        &self,
        request: Request,
        inode: u64,
        handle: u64,
        _flags: u32,
        _owner: u64,
        _flush: bool,
    ) -> Result<()> {
        let _running = self.statistics.start(Operation::Release);
        let files = self.files.clone();
        let future = async move {
            files.release(Handle(handle)).await;
            Ok(())
        };
        self.change(request, "release", Inode(inode), future).await
    }

    async fn opendir(&self, request: Request, inode: u64, _flags: u32) -> Result<ReplyOpen> {
        let _running = self.statistics.start(Operation::Opendir);
        let inode = Inode(inode);
        let handle = self.run(request, "opendir", inode, self.files.opendir(inode)).await?;
        Ok(ReplyOpen { fh: handle.0, flags: 0 })
    }

    async fn readdirplus<'a>(
        &'a self,
        request: Request,
        parent: u64,
        handle: u64,
        offset: u64,
        _lock_owner: u64,
    ) -> Result<ReplyDirectoryPlus<impl Stream<Item = Result<DirectoryEntryPlus>> + Send + 'a>> {
        let _running = self.statistics.start(Operation::Readdir);
        let busy = self.requests.start(&[Inode(parent)]);
        let names = self.files.readdir(Handle(handle), offset.saturating_sub(DOTS));
        let names = self.run(request, "readdir", Inode(parent), names).await?;
        let counted = Counted::new(self.files.clone(), names);
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
        let names = counted.map(move |entry| DirectoryEntryPlus {
            inode: entry.entry.attributes.inode.0,
            generation: 0,
            kind: kind(entry.entry.attributes.kind),
            name: OsString::from_vec(entry.name),
            offset: (entry.offset + DOTS) as i64,
            attr: self.attributes(&entry.entry),
            entry_ttl: entry.entry.valid,
            attr_ttl: entry.entry.valid,
        });
        // The crate drops the stream when the answer is complete: the directory is busy until then.
        let names = names.inspect(move |_| {
            let _ = &busy;
        });
        Ok(ReplyDirectoryPlus { entries: stream::iter(dots.chain(names).map(Ok)) })
    }

    async fn releasedir(&self, _request: Request, _inode: u64, handle: u64, _flags: u32) -> Result<()> {
        self.files.releasedir(Handle(handle));
        Ok(())
    }

    async fn statfs(&self, request: Request, _inode: u64) -> Result<ReplyStatFs> {
        let _running = self.statistics.start(Operation::Statfs);
        let totals = async { Ok(self.files.statfs().await) };
        let totals = self.run(request, "statfs", Inode::ROOT, totals).await?;
        Ok(ReplyStatFs {
            blocks: totals.blocks,
            bfree: totals.free_blocks,
            bavail: totals.free_blocks,
            files: totals.files,
            ffree: totals.free_files,
            bsize: totals.block_size,
            namelen: totals.longest_name,
            frsize: totals.block_size,
        })
    }

    async fn interrupt(&self, _request: Request, unique: u64) -> Result<()> {
        self.waiting.interrupt(unique);
        Ok(())
    }

    async fn symlink(&self, _request: Request, _parent: u64, _name: &OsStr, _target: &OsStr) -> Result<ReplyEntry> {
        // A manifest has no links. What POSIX has for such a file system, and what the kernel says for hard links by itself.
        Err(if self.writable { libc::EPERM } else { libc::EROFS }.into())
    }

    async fn mknod(&self, request: Request, parent: u64, name: &OsStr, mode: u32, _: u32) -> Result<ReplyEntry> {
        let kind = mode & libc::S_IFMT;
        if self.writable && kind != 0 && kind != libc::S_IFREG {
            // Devices, sockets and pipes have no place in a collection (arv-mount.md 2.8).
            return Err(libc::ENOTSUP.into());
        }
        let (files, parent, name) = (self.files.clone(), Inode(parent), name.as_bytes().to_vec());
        let making = async move { files.make_file(parent, &name).await };
        self.make(request, "mknod", parent, making).await
    }

    async fn mkdir(&self, request: Request, parent: u64, name: &OsStr, _mode: u32, _umask: u32) -> Result<ReplyEntry> {
        let _running = self.statistics.start(Operation::Mkdir);
        let (files, parent, name) = (self.files.clone(), Inode(parent), name.as_bytes().to_vec());
        let making = async move { files.make_directory(parent, &name).await };
        self.make(request, "mkdir", parent, making).await
    }

    async fn create(
        &self,
        request: Request,
        parent: u64,
        name: &OsStr,
        _mode: u32,
        flags: u32,
    ) -> Result<ReplyCreated> {
        let _running = self.statistics.start(Operation::Create);
        let parent = Inode(parent);
        let _busy = self.requests.start(&[parent]);
        let (files, name) = (self.files.clone(), name.as_bytes().to_vec());
        let future = async move {
            let exclusive = flags & libc::O_EXCL as u32 != 0;
            let (entry, opened) = files.create(parent, &name, access(flags), exclusive).await?;
            Ok(Given::file(files, Some(entry), opened))
        };
        let (entry, opened) = self.change(request, "create", parent, future).await?.take();
        let opened = opened.ok_or(Errno::from(libc::EIO))?;
        Ok(ReplyCreated {
            ttl: entry.valid,
            attr: self.attributes(&entry),
            generation: 0,
            fh: opened.handle.0,
            flags: open_flags(opened),
        })
    }

    async fn unlink(&self, request: Request, parent: u64, name: &OsStr) -> Result<()> {
        let _running = self.statistics.start(Operation::Unlink);
        let parent = Inode(parent);
        let _busy = self.requests.start(&[parent]);
        let (files, name) = (self.files.clone(), name.as_bytes().to_vec());
        self.change(request, "unlink", parent, async move { files.unlink(parent, &name).await }).await
    }

    async fn rmdir(&self, request: Request, parent: u64, name: &OsStr) -> Result<()> {
        let _running = self.statistics.start(Operation::Rmdir);
        let parent = Inode(parent);
        let victim = self.files.directory_at(parent, name.as_bytes());
        let held: Vec<Inode> = [parent].into_iter().chain(victim).collect();
        let _busy = self.requests.start(&held);
        let (files, name) = (self.files.clone(), name.as_bytes().to_vec());
        self.change(request, "rmdir", parent, async move { files.remove_directory(parent, &name).await }).await
    }

    async fn rename(
        &self,
        request: Request,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
    ) -> Result<()> {
        self.move_name(request, (parent, name), (new_parent, new_name), false).await
    }

    async fn rename2(
        &self,
        request: Request,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        // An exchange or a whiteout cannot be told to a server.
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(libc::EINVAL.into());
        }
        self.move_name(request, (parent, name), (new_parent, new_name), flags & libc::RENAME_NOREPLACE != 0).await
    }
}
