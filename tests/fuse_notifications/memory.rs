//! A file system in memory: one table of nodes, changed through the kernel by its trait and behind the kernel's back by the
//! tests, which can also make it slow or hold its changes up.

use arvados::vfs::{
    Access, Attributes, Change, Destination, DirectoryEntry, Entry, Error, FileSystem, Found, Handle, Inode, Kind,
    Opened, PageCache, Timestamp, Totals,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// For how long the kernel may remember what it is told.
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub struct Node {
    /// `None`: a directory.
    pub data: Option<Vec<u8>>,
    pub names: BTreeMap<Vec<u8>, u64>,
    pub modified: i64,
}

/// Everything is one table of nodes; a handle is the number of its node.
#[derive(Default)]
pub struct Memory {
    pub nodes: Mutex<BTreeMap<u64, Node>>,
    pub next: AtomicU64,
    pub known: Mutex<BTreeMap<u64, i64>>,
    pub opened: AtomicU64,
    pub released: AtomicU64,
    /// How long a read and a change take.
    pub delay: Mutex<Duration>,
    pub appends: AtomicU64,
    /// Moving and removing directories, and emptying files, waits for as long as this is so.
    pub is_held: AtomicBool,
    pub waiting: AtomicU64,
}

impl Memory {
    pub fn new() -> Arc<Memory> {
        let memory = Memory { next: AtomicU64::new(2), ..Memory::default() };
        memory.nodes.lock().unwrap().insert(1, Node { data: None, names: BTreeMap::new(), modified: 1 });
        Arc::new(memory)
    }

    pub async fn pause(&self) {
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    pub async fn hold(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while self.is_held.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// What another client does: nobody tells the kernel.
    pub fn put(&self, parent: u64, name: &str, data: Option<&[u8]>) -> u64 {
        let mut nodes = self.nodes.lock().unwrap();
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        nodes.insert(number, Node { data: data.map(<[u8]>::to_vec), names: BTreeMap::new(), modified: 1 });
        let parent = nodes.get_mut(&parent).unwrap();
        parent.names.insert(name.as_bytes().to_vec(), number);
        parent.modified += 1;
        number
    }

    pub fn overwrite(&self, inode: u64, data: &[u8]) {
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.get_mut(&inode).unwrap();
        node.data = Some(data.to_vec());
        node.modified += 1;
    }

    pub fn entry(&self, inode: u64) -> Result<Entry, Error> {
        let nodes = self.nodes.lock().unwrap();
        let node = nodes.get(&inode).ok_or(Error::Stale)?;
        let kind = if node.data.is_some() { Kind::File } else { Kind::Directory };
        let size = node.data.as_ref().map_or(0, |data| data.len() as u64);
        let modified = Timestamp { seconds: node.modified, nanoseconds: 0 };
        let (inode, permissions, changed) = (Inode(inode), 0o777, modified);
        let attributes = Attributes { inode, kind, permissions, size, modified, changed, is_linked: true };
        Ok(Entry { attributes, valid: HOUR })
    }

    pub fn make(&self, parent: Inode, name: &[u8], data: Option<&[u8]>) -> Result<Entry, Error> {
        let inode = self.put(parent.0, std::str::from_utf8(name).unwrap(), data);
        self.remember(Inode(inode));
        self.entry(inode)
    }

    pub fn remove(&self, parent: Inode, name: &[u8]) -> Result<(), Error> {
        let mut nodes = self.nodes.lock().unwrap();
        nodes.get_mut(&parent.0).ok_or(Error::Stale)?.names.remove(name).map(drop).ok_or(Error::NotFound)
    }

    pub fn find(&self, parent: Inode, name: &[u8]) -> Option<u64> {
        self.nodes.lock().unwrap().get(&parent.0)?.names.get(name).copied()
    }
}

impl FileSystem for Memory {
    type Names = std::vec::IntoIter<DirectoryEntry>;

    async fn lookup(&self, parent: Inode, name: &[u8]) -> Result<Found, Error> {
        self.pause().await;
        match self.find(parent, name) {
            Some(inode) => {
                self.remember(Inode(inode));
                Ok(Found::Entry(self.entry(inode)?))
            }
            None => Ok(Found::Missing { valid: HOUR }),
        }
    }

    fn directory_at(&self, parent: Inode, name: &[u8]) -> Option<Inode> {
        let found = self.find(parent, name)?;
        self.nodes.lock().unwrap().get(&found)?.data.is_none().then_some(Inode(found))
    }

    fn remember(&self, inode: Inode) {
        *self.known.lock().unwrap().entry(inode.0).or_default() += 1;
    }

    fn forget(&self, inode: Inode, count: u64) {
        *self.known.lock().unwrap().entry(inode.0).or_default() -= count as i64;
    }

    async fn getattr(&self, inode: Inode, _handle: Option<Handle>) -> Result<Entry, Error> {
        self.entry(inode.0)
    }

    async fn setattr(&self, inode: Inode, _handle: Option<Handle>, change: Change) -> Result<Entry, Error> {
        if let Some(node) = self.nodes.lock().unwrap().get_mut(&inode.0) {
            if let (Some(size), Some(data)) = (change.size, node.data.as_mut()) {
                data.resize(size as usize, 0);
            }
            node.modified = change.modified.map_or(node.modified, |time| time.seconds);
        }
        self.entry(inode.0)
    }

    async fn open(&self, inode: Inode, access: Access) -> Result<Opened, Error> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        if access.truncate {
            self.hold().await;
            self.overwrite(inode.0, b"");
        }
        Ok(Opened { handle: Handle(inode.0), pages: PageCache::Keep })
    }

    async fn create(
        &self,
        parent: Inode,
        name: &[u8],
        _access: Access,
        exclusive: bool,
    ) -> Result<(Entry, Opened), Error> {
        self.pause().await;
        if exclusive && self.find(parent, name).is_some() {
            return Err(Error::NotWritable);
        }
        let entry = self.make(parent, name, Some(b""))?;
        let opened = self.open(entry.attributes.inode, Access::default()).await?;
        Ok((entry, opened))
    }

    async fn read(&self, handle: Handle, offset: u64, size: u32) -> Result<Bytes, Error> {
        self.pause().await;
        let nodes = self.nodes.lock().unwrap();
        let data = nodes.get(&handle.0).and_then(|node| node.data.as_ref()).ok_or(Error::BadHandle)?;
        let start = (offset as usize).min(data.len());
        let end = (start + size as usize).min(data.len());
        Ok(Bytes::copy_from_slice(&data[start..end]))
    }

    async fn write(&self, handle: Handle, destination: Destination, data: Bytes) -> Result<(), Error> {
        self.appends.fetch_add(u64::from(destination == Destination::End), Ordering::SeqCst);
        self.pause().await;
        let mut nodes = self.nodes.lock().unwrap();
        let node = nodes.get_mut(&handle.0).ok_or(Error::BadHandle)?;
        let content = node.data.as_mut().ok_or(Error::IsADirectory)?;
        let start = match destination {
            Destination::End => content.len(),
            Destination::At(offset) | Destination::Pages(offset) => offset as usize,
        };
        let end = start + data.len();
        content.resize(content.len().max(end), 0);
        content[start..end].copy_from_slice(&data);
        node.modified += 1;
        Ok(())
    }

    async fn flush(&self, _handle: Handle) -> Result<(), Error> {
        Ok(())
    }

    async fn sync(&self, _handle: Handle) -> Result<(), Error> {
        Ok(())
    }

    async fn sync_directory(&self, _handle: Handle) -> Result<(), Error> {
        Ok(())
    }

    async fn release(&self, _handle: Handle) {
        self.released.fetch_add(1, Ordering::SeqCst);
    }

    async fn make_file(&self, parent: Inode, name: &[u8]) -> Result<Entry, Error> {
        self.make(parent, name, Some(b""))
    }

    async fn make_directory(&self, parent: Inode, name: &[u8]) -> Result<Entry, Error> {
        self.make(parent, name, None)
    }

    async fn unlink(&self, parent: Inode, name: &[u8]) -> Result<(), Error> {
        self.pause().await;
        self.remove(parent, name)
    }

    async fn remove_directory(&self, parent: Inode, name: &[u8]) -> Result<(), Error> {
        self.hold().await;
        self.remove(parent, name)
    }

    async fn rename(&self, from: Inode, name: &[u8], to: Inode, new_name: &[u8], keep: bool) -> Result<(), Error> {
        self.hold().await;
        let inode = self.find(from, name).ok_or(Error::NotFound)?;
        if keep && self.find(to, new_name).is_some() {
            return Err(Error::NotWritable);
        }
        self.remove(from, name)?;
        self.nodes.lock().unwrap().get_mut(&to.0).unwrap().names.insert(new_name.to_vec(), inode);
        Ok(())
    }

    async fn opendir(&self, inode: Inode) -> Result<Handle, Error> {
        Ok(Handle(inode.0))
    }

    async fn readdir(&self, handle: Handle, offset: u64) -> Result<Self::Names, Error> {
        let names = self.nodes.lock().unwrap().get(&handle.0).ok_or(Error::BadHandle)?.names.clone();
        let entries = names.into_iter().enumerate().skip(offset as usize).filter_map(|(index, (name, inode))| {
            Some(DirectoryEntry { name, offset: index as u64 + 1, entry: self.entry(inode).ok()? })
        });
        Ok(entries.collect::<Vec<_>>().into_iter())
    }

    fn releasedir(&self, _handle: Handle) {}

    async fn statfs(&self) -> Totals {
        Totals { block_size: 4096, blocks: 1000, free_blocks: 900, files: 50, free_files: 40, longest_name: 255 }
    }
}
