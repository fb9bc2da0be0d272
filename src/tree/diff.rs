//! What two trees do not have in common.
//!
//! Files are compared by content, not by text: two layouts are the same if the same bytes of the same blocks follow each
//! other, however they are cut, and whatever the signatures. The same bytes in *different* blocks cannot be told from
//! hashes; who has the bytes can find out.

use super::{Kind, NodeId, Segment, Snapshot};
use crate::keep::Locator;
use crate::keep::manifest::Piece;
use std::cmp::Ordering;

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// From the root, without a slash at the start.
    pub path: Vec<u8>,
    /// The node in the first tree, if the path is there.
    pub old: Option<NodeId>,
    /// The node in the second tree, if the path is there.
    pub new: Option<NodeId>,
}

/// The paths at which `new` differs from `old`. A directory that only one of them has is one change, with all that is in it;
/// a directory that both have is none, but what differs in it is. Directories come before what is in them.
pub fn diff(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut pending = vec![(NodeId::ROOT, NodeId::ROOT)];
    while let Some((in_old, in_new)) = pending.pop() {
        for (left, right) in pair_children(old, Some(in_old), new, Some(in_new)) {
            match (left, right) {
                (Some(left), Some(right)) if old.is_directory(left) && new.is_directory(right) => {
                    pending.push((left, right));
                }
                (Some(left), Some(right)) if same_file(old, left, new, right) => {}
                (old_node, new_node) => {
                    let path = match (old_node, new_node) {
                        (Some(node), _) => old.path(node),
                        (None, Some(node)) => new.path(node),
                        (None, None) => continue,
                    };
                    changes.push(Change { path, old: old_node, new: new_node });
                }
            }
        }
    }
    changes
}

/// The children of two directories by name, in one list; a directory that is missing has none.
pub(super) fn pair_children<'s>(
    left: &'s Snapshot,
    left_directory: Option<NodeId>,
    right: &'s Snapshot,
    right_directory: Option<NodeId>,
) -> impl Iterator<Item = (Option<NodeId>, Option<NodeId>)> {
    let mut lefts = left_directory.map(|node| left.children(node)).into_iter().flatten().peekable();
    let mut rights = right_directory.map(|node| right.children(node)).into_iter().flatten().peekable();
    std::iter::from_fn(move || {
        let order = match (lefts.peek(), rights.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(&a), Some(&b)) => left.name(a).cmp(right.name(b)),
        };
        Some(match order {
            Ordering::Less => (lefts.next(), None),
            Ordering::Greater => (None, rights.next()),
            Ordering::Equal => (lefts.next(), rights.next()),
        })
    })
}

/// Whether two nodes have the same content as far as hashes tell: files the same data, directories the same names with the
/// same content.
pub fn same_content(left: &Snapshot, left_node: NodeId, right: &Snapshot, right_node: NodeId) -> bool {
    let mut pending = vec![(left_node, right_node)];
    while let Some((a, b)) = pending.pop() {
        match (left.entry(a), right.entry(b)) {
            (Some(in_left), Some(in_right)) if in_left.kind == in_right.kind => {
                if in_left.kind == Kind::File && !same_file(left, a, right, b) {
                    return false;
                }
            }
            _ => return false,
        }
        for pair in pair_children(left, Some(a), right, Some(b)) {
            match pair {
                (Some(a), Some(b)) => pending.push((a, b)),
                _ => return false,
            }
        }
    }
    true
}

/// Whether a node is a file that consists of these pieces, as far as hashes tell.
pub fn consists_of(snapshot: &Snapshot, file: NodeId, pieces: &[Piece<Locator>]) -> bool {
    let mut alone = Snapshot::empty().edit();
    let made = alone.set_file(NodeId::ROOT, b"file", pieces);
    let alone = alone.finish();
    made.is_ok_and(|made| same_file(snapshot, file, &alone, made))
}

/// Whether two nodes are files with the same data as far as hashes tell.
fn same_file(left: &Snapshot, left_file: NodeId, right: &Snapshot, right_file: NodeId) -> bool {
    let (a, b) = (left.entry(left_file), right.entry(right_file));
    let files = a.is_some_and(|entry| entry.kind == Kind::File);
    files && a == b && starts_with(left, left_file, right, right_file)
}

/// Whether a file starts with the whole of another: the same bytes of the same blocks, however they are cut. Directories
/// start with nothing.
pub fn starts_with(long: &Snapshot, long_file: NodeId, short: &Snapshot, short_file: NodeId) -> bool {
    if long.is_directory(long_file) || short.is_directory(short_file) {
        return false;
    }
    let mut longs = long.segments(long_file, 0, u64::MAX);
    let mut shorts = short.segments(short_file, 0, u64::MAX);
    let (mut a, mut b) = (longs.next(), shorts.next());
    loop {
        match (&mut a, &mut b) {
            (_, None) => return true,
            (None, Some(_)) => return false,
            (Some(x), Some(y)) => {
                if x.block_offset != y.block_offset || long.block_hash(x.block) != short.block_hash(y.block) {
                    return false;
                }
                let length = x.length.min(y.length);
                if drop_front(x, length) {
                    a = longs.next();
                }
                if drop_front(y, length) {
                    b = shorts.next();
                }
            }
        }
    }
}

/// Takes bytes from the front of a segment; whether nothing is left.
fn drop_front(segment: &mut Segment, length: u64) -> bool {
    segment.block_offset += length;
    segment.file_offset += length;
    segment.length -= length;
    segment.length == 0
}
