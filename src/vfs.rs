//! What a front end sees: nodes with numbers, handles, and operations on them in the words of FUSE.
//!
//! [`FileSystem`] is the border. Above it are front ends (FUSE, later WebDAV) that know nothing of Arvados; below it is
//! [`site::Site`], the tree of `by_id`, `home`, `shared`, `by_tag` and single objects, which knows nothing of the kernel.
//!
//! How it hangs together:
//!
//! * An **object** ([`object`]) is a directory whose content has one owner: a collection with all its files and folders,
//!   a project, the list of tags, a fixed directory. It has a number, its *slot*.
//! * A **node** is a name inside an object. Its [`Inode`] is the slot of the object in the upper half and the node's number
//!   within the object in the lower half. What the numbers mean is said by the object's published snapshot (the
//!   actors keep them stable over refreshes), so a node costs nothing here: a million files known to the kernel are a
//!   million numbers in arrays that the snapshot has anyway.
//! * A node may be the **door** to another object (a collection in a project). The object behind it is made when somebody
//!   first looks inside, and dropped when the kernel has forgotten all of its nodes.
//! * The same collection in two places of the tree is two objects on one published snapshot: Linux wants a directory
//!   to have one place. What the kernel remembers of one of them is not true any more when something is changed through the
//!   other: [`site`] tells it then.
//!
//! What must stay true: nothing here waits for an actor where a snapshot is published; only first looks and loads do.
//! No lock is held over an await. What the kernel may keep for how long is decided in one place, [`freshness`].

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::future::Future;
use std::time::Duration;

pub mod error;
pub mod freshness;
pub mod handle;
pub mod layout;
pub mod object;
pub mod site;

pub use error::Error;

/// Number of a node: see the module's essay. `0` is none, `1` is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(pub u64);

impl Inode {
    /// The root of the file system: node 1 of the object that only holds the root.
    pub const ROOT: Inode = Inode(1);

    pub fn new(slot: u32, number: u32) -> Inode {
        Inode((u64::from(slot) << 32) | u64::from(number))
    }

    /// The object that the node is in.
    pub fn slot(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The node's number within its object.
    pub fn number(self) -> u32 {
        self.0 as u32
    }
}

/// Number of an open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What `stat` shows (arv-mount.md 2.8). Owner and group are those of the process; a node has one link as long as it has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub inode: Inode,
    pub kind: Kind,
    pub permissions: u16,
    pub size: u64,
    /// When its content was changed, or what somebody said of that.
    pub modified: Timestamp,
    /// When its content, its name or its times were changed, whatever anybody says.
    pub changed: Timestamp,
    /// A name leads to it.
    pub is_linked: bool,
}

/// Attributes and how long the front end may believe them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub attributes: Attributes,
    pub valid: Duration,
}

/// Answer to a look-up: there, or known to be missing for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Entry(Entry),
    Missing { valid: Duration },
}

/// One name of a directory. `offset` is where to go on after it.
#[derive(Debug, Clone)]
pub struct DirectoryEntry {
    pub name: Vec<u8>,
    pub offset: u64,
    pub entry: Entry,
}

/// What the kernel may do with pages of a file that it has from earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageCache {
    /// The content is what it was: keep them.
    Keep,
    /// The content changed since the last open: drop them.
    Drop,
    /// The length is not known beforehand: do without.
    Bypass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub handle: Handle,
    pub pages: PageCache,
}

/// What came of a write that must not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtOnce {
    /// All is done.
    All,
    /// The data are written; a `write` without data has to follow, which makes the change known.
    Unannounced,
    /// Nothing is written: `write` has to do it.
    Nothing,
}

/// Where a write goes, and by which way it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    At(u64),
    /// Where the file ends, wherever the front end believes that to be.
    End,
    /// Pages of a mapped file: they come through any handle that may write, whoever has changed them.
    Pages(u64),
}

/// How a file is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Anything but `O_RDONLY`.
    pub write: bool,
    /// Empty the file first.
    pub truncate: bool,
}

/// What of a node's attributes is to change. Mode, owner and group are accepted by the front end and ignored (2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    pub size: Option<u64>,
    pub modified: Option<Timestamp>,
}

/// Totals for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Unit of the two below, in bytes.
    pub block_size: u32,
    pub blocks: u64,
    pub free_blocks: u64,
    pub files: u64,
    pub free_files: u64,
    pub longest_name: u32,
}

/// What the front end keeps in memory and has to be told of when it changes behind its back. Called from any thread; must
/// not block and must not wait for a request that is under way.
pub trait FrontEnd: Send + Sync {
    /// The name in this directory leads somewhere else now, or nowhere.
    fn invalidate_entry(&self, parent: Inode, name: &[u8]);

    /// Attributes and content of the node changed.
    fn invalidate_node(&self, inode: Inode);

    /// Any name may lead somewhere else now.
    fn invalidate_names(&self);

    /// Ends when what it was told up to this call is done, but for what a request under way holds up. It may be in difficulties: who
    /// waits for this sets himself a limit.
    fn caught_up(&self) -> BoxFuture<'static, ()>;
}

/// The operations of a front end. All errors are [`Error`], which knows its errno.
///
/// Dropping a future cancels the operation: nothing it started goes on for its sake alone. Changes that were made
/// stay made.
pub trait FileSystem: Send + Sync + 'static {
    type Names: Iterator<Item = DirectoryEntry> + Send;

    /// Finds `name` in a directory. A node that is found counts as known once more, see [`FileSystem::forget`].
    fn lookup(&self, parent: Inode, name: &[u8]) -> impl Future<Output = Result<Found, Error>> + Send;

    /// The directory that a name leads to, as far as that is known without waiting; `None` for files as well.
    fn directory_at(&self, parent: Inode, name: &[u8]) -> Option<Inode>;

    /// Says that the front end got to know a node by other means than `lookup` (a listing with attributes).
    fn remember(&self, inode: Inode);

    /// Takes back `count` times that a node became known. May come before what it takes back has been counted.
    fn forget(&self, inode: Inode, count: u64);

    fn getattr(&self, inode: Inode, handle: Option<Handle>) -> impl Future<Output = Result<Entry, Error>> + Send;

    /// Changes attributes. A change of size without a handle needs no open file.
    fn setattr(
        &self,
        inode: Inode,
        handle: Option<Handle>,
        change: Change,
    ) -> impl Future<Output = Result<Entry, Error>> + Send;

    fn open(&self, inode: Inode, access: Access) -> impl Future<Output = Result<Opened, Error>> + Send;

    /// Makes a file and opens it; one that is there is opened unless `exclusive`. The node counts as known once more.
    fn create(
        &self,
        parent: Inode,
        name: &[u8],
        access: Access,
        exclusive: bool,
    ) -> impl Future<Output = Result<(Entry, Opened), Error>> + Send;

    /// Reads up to `size` bytes at `offset`; fewer only at the end of the file.
    fn read(&self, handle: Handle, offset: u64, size: u32) -> impl Future<Output = Result<Bytes, Error>> + Send;

    /// Writes `data` if that can be done without waiting: the front end need not make a copy that outlives its buffer.
    fn write_at_once(&self, handle: Handle, destination: Destination, data: &[u8]) -> AtOnce {
        let _ = (handle, destination, data);
        AtOnce::Nothing
    }

    /// Writes all of `data`. Returns when the data are taken over, which may have to wait for room.
    fn write(
        &self,
        handle: Handle,
        destination: Destination,
        data: Bytes,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// A descriptor of the handle was closed: what was written through it, or may have been, is saved as the mount was told to do at
    /// `close`.
    fn flush(&self, handle: Handle) -> impl Future<Output = Result<(), Error>> + Send;

    /// What was written to the file of this handle is saved.
    fn sync(&self, handle: Handle) -> impl Future<Output = Result<(), Error>> + Send;

    /// What was changed in the collection of this directory is saved.
    fn sync_directory(&self, handle: Handle) -> impl Future<Output = Result<(), Error>> + Send;

    /// The last descriptor is gone. Nobody hears of an error any more; it is reported in the log.
    fn release(&self, handle: Handle) -> impl Future<Output = ()> + Send;

    /// Makes an empty regular file. The node counts as known once more.
    fn make_file(&self, parent: Inode, name: &[u8]) -> impl Future<Output = Result<Entry, Error>> + Send;

    /// Makes a directory, or a collection where the parent is a project. The node counts as known once more.
    fn make_directory(&self, parent: Inode, name: &[u8]) -> impl Future<Output = Result<Entry, Error>> + Send;

    fn unlink(&self, parent: Inode, name: &[u8]) -> impl Future<Output = Result<(), Error>> + Send;

    fn remove_directory(&self, parent: Inode, name: &[u8]) -> impl Future<Output = Result<(), Error>> + Send;

    /// `keep`: fail with EEXIST instead of replacing what has the new name (`RENAME_NOREPLACE`).
    fn rename(
        &self,
        from: Inode,
        name: &[u8],
        to: Inode,
        new_name: &[u8],
        keep: bool,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Opens a directory. The listing that its handle shows is that of when it was last read from the beginning, and does not change
    /// until it is closed or read from there again.
    fn opendir(&self, inode: Inode) -> impl Future<Output = Result<Handle, Error>> + Send;

    /// The names after `offset` (0: from the beginning), `.` and `..` not among them.
    fn readdir(&self, handle: Handle, offset: u64) -> impl Future<Output = Result<Self::Names, Error>> + Send;

    fn releasedir(&self, handle: Handle);

    fn statfs(&self) -> impl Future<Output = Totals> + Send;
}

/// Names that Linux accepts in a directory, and no longer than a FUSE reply may carry (`FUSE_NAME_MAX`; one name
/// beyond it and the kernel refuses the whole directory).
pub fn is_showable(name: &[u8]) -> bool {
    const LONGEST: usize = 1024;
    !name.is_empty()
        && name.len() <= LONGEST
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}
