//! Reading directories. A handle has the names as they were when it was last read from the beginning (for the first time: as they
//! were when it was opened, unless something new has been published since, for programs list what they opened long ago); an
//! offset is a position in them, so that seeking and reading in pieces give each name once, whatever changes meanwhile.
//!
//! To count to a position in a directory that was filled here costs as much as what is before it. So who reads on goes on
//! after the name that he read last ([`Mark`]), which is found like any name; only who seeks has to count.

use super::attributes::{of_door, of_node, timestamp, told};
use super::{Directory, Site};
use crate::actors::Supervisor;
use crate::actors::listing::Listing;
use crate::tree::{NodeId, Snapshot};
use crate::vfs::freshness::Freshness;
use crate::vfs::handle::{Mark, Open, OpenDirectory, OpenNames};
use crate::vfs::object::{Behind, Content, Object, Pinned};
use crate::vfs::{DirectoryEntry, Entry, Error, Handle, Inode, is_showable};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

impl Site {
    /// What a handle on this directory shows.
    pub(super) async fn names(&self, directory: Directory) -> Result<(Pinned, OpenNames), Error> {
        let object = match directory {
            Directory::Inside { object, state, node } => return Ok((object, OpenNames::Collection { state, node })),
            Directory::Top(object) => object,
        };
        let names = match &object.content {
            Content::Listing { cell, .. } => OpenNames::Listing(self.supervisor.list(cell).await?),
            Content::Collection { .. } => return Err(Error::Stale),
            Content::Fixed(items) => OpenNames::Ready(self.fixed_names(&object, items)),
            Content::Magic { fixed, items, .. } => {
                let mut names = self.fixed_names(&object, fixed);
                let first = fixed.len() as u32;
                let found = Object::lock(items);
                let found = found.iter().map(|(number, item)| {
                    let inode = Inode::new(object.slot, first + number);
                    (item.name.as_bytes().to_vec(), self.magic(inode, item))
                });
                names.extend(found);
                OpenNames::Ready(names)
            }
        };
        Ok((object, names))
    }

    /// What a handle shows that is read from the beginning again: the names of now (POSIX, `rewinddir`). `None`: those cannot be
    /// had, or it was closed; the old ones are better than nothing.
    pub(super) async fn rewound(&self, handle: Handle, inode: Inode) -> Option<Arc<Open>> {
        let names = async { self.names(self.directory(inode, true).await?).await };
        match names.await {
            Ok((object, names)) => {
                let directory = OpenDirectory::new(inode, object, names);
                directory.was_read.store(true, Ordering::Relaxed);
                self.handles.replace(handle, Open::Directory(directory))
            }
            Err(error) => {
                tracing::debug!(?inode, %error, "cannot read a directory again: showing what it was");
                None
            }
        }
    }

    fn fixed_names(&self, object: &Object, items: &[crate::vfs::object::FixedItem]) -> Vec<(Vec<u8>, Entry)> {
        let items = items.iter().enumerate().filter(|(_, item)| !item.name.is_empty());
        let entry = |position: usize, item| self.fixed(Inode::new(object.slot, position as u32), item);
        items.map(|(position, item)| (item.name.clone().into_bytes(), entry(position, item))).collect()
    }
}

/// The names of an open directory from some position on.
pub struct Names {
    supervisor: Arc<Supervisor>,
    freshness: Freshness,
    /// Always a directory: see [`Names::new`].
    open: Arc<Open>,
    position: u64,
    marks: [Option<Mark>; 2],
}

impl Names {
    /// `None` if the handle is not one of a directory.
    pub(super) fn new(
        supervisor: Arc<Supervisor>,
        freshness: Freshness,
        open: Arc<Open>,
        position: u64,
    ) -> Option<Names> {
        let Open::Directory(directory) = open.as_ref() else { return None };
        let marks = *directory.marks.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Names { supervisor, freshness, open, position, marks })
    }

    /// The name at the current position.
    fn current(&mut self, directory: &OpenDirectory) -> Option<(Vec<u8>, Entry)> {
        let position = usize::try_from(self.position).ok()?;
        let slot = directory.object.slot;
        match &directory.names {
            OpenNames::Ready(names) => names.get(position).cloned(),
            OpenNames::Listing(listing) => {
                let item = listing.items().get(position)?;
                let (inode, behind) = (Inode::new(slot, item.number), Behind::of(&item.target));
                // As below: what the name means now is told of the newest listing.
                let newest = match &directory.object.content {
                    Content::Listing { cell, .. } => cell.load().map(|newest| (cell, newest)),
                    _ => None,
                };
                let is_same = |newest: &Listing| {
                    std::ptr::eq(newest, listing.as_ref())
                        || newest.by_name(&item.name).is_some_and(|it| it.number == item.number)
                };
                let valid = match newest.filter(|(_, newest)| is_same(newest)) {
                    Some((cell, newest)) => self.freshness.of_listed(told(&self.supervisor, cell, &newest)),
                    None => Duration::ZERO,
                };
                let said = (timestamp(item.modified), item.can_write);
                let entry = of_door(&self.supervisor, inode, &behind, said, valid);
                Some((item.name.to_vec(), entry))
            }
            OpenNames::Collection { state, node } => {
                let child = child(&state.snapshot, *node, position, self.marks)?;
                self.marks = [Some(Mark { count: position + 1, last: child }), self.marks[0]];
                let name = state.snapshot.name(child).to_vec();
                let can_change = self.supervisor.environment().writing.is_some();
                // The names are those of the handle; how they are now is told from the newest state.
                let newest = match &directory.object.content {
                    Content::Collection { cell, .. } => cell.load(),
                    _ => None,
                };
                let number = state.number(child);
                let (now, node) = match &newest {
                    Some(newest) => (newest, newest.node(number)),
                    None => (state, Some(child)),
                };
                let is_there =
                    node.is_some_and(|node| now.snapshot.lookup(now.snapshot.parent(node), &name) == Some(node));
                let (now, node, valid) = match node.filter(|_| is_there) {
                    Some(node) => (now, node, self.freshness.of(state.is_immutable())),
                    None => (state, child, Duration::ZERO),
                };
                Some((name, Entry { attributes: of_node(slot, now, node, can_change), valid }))
            }
        }
    }
}

/// The child of a directory at a position, counted from the nearest mark before it.
fn child(snapshot: &Snapshot, directory: NodeId, position: usize, marks: [Option<Mark>; 2]) -> Option<NodeId> {
    let before = marks.into_iter().flatten().filter(|mark| mark.count <= position).max_by_key(|mark| mark.count);
    match before {
        Some(mark) => snapshot.children_after(directory, snapshot.name(mark.last)).nth(position - mark.count),
        None => snapshot.children(directory).nth(position),
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Open::Directory(directory) = self.open.as_ref() {
            *directory.marks.lock().unwrap_or_else(PoisonError::into_inner) = self.marks;
        }
    }
}

impl Iterator for Names {
    type Item = DirectoryEntry;

    fn next(&mut self) -> Option<DirectoryEntry> {
        let open = self.open.clone();
        let Open::Directory(directory) = open.as_ref() else { return None };
        loop {
            let (name, entry) = self.current(directory)?;
            self.position += 1;
            if is_showable(&name) {
                return Some(DirectoryEntry { name, offset: self.position, entry });
            }
            tracing::warn!(name = %name.escape_ascii(), "left out of a directory: the kernel does not accept this name");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_goes_on_after_any_mark_as_if_it_had_counted_from_the_beginning() {
        let manifest = ". d41d8cd98f00b204e9800998ecf8427e+0 0:0:b 0:0:d 0:0:f 0:0:h\n";
        let mut editor = Snapshot::parse(manifest).expect("a manifest").edit();
        for name in ["a", "c", "d2", "z"] {
            editor.make_directory(NodeId::ROOT, name.as_bytes()).expect("a directory");
        }
        editor.remove(NodeId::ROOT, b"f").expect("a file");
        let snapshot = editor.finish();
        let all: Vec<NodeId> = snapshot.children(NodeId::ROOT).collect();
        assert_eq!(all.len(), 7);
        let mark = |count: usize| count.checked_sub(1).map(|last| Mark { count, last: all[last] });
        for one in 0..=all.len() {
            for other in 0..=all.len() {
                for position in 0..=all.len() {
                    let child = child(&snapshot, NodeId::ROOT, position, [mark(one), mark(other)]);
                    assert_eq!(child, all.get(position).copied(), "{position} from {one} or {other}");
                }
            }
        }
    }
}
