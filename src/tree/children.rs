//! Listing a directory, in the order of the bytes of the names.

use super::overlay::ChildEdits;
use super::{NodeId, Snapshot};
use std::ops::{Bound, Range};
use std::sync::Arc;

/// The children of a directory by name: those of the base and the edits, merged as they go.
pub struct Children<'s> {
    snapshot: &'s Snapshot,
    base: Range<u32>,
    edits: Edits<'s>,
}

type Edit<'s> = (&'s Arc<[u8]>, Option<NodeId>);

/// The edits that are still to come.
enum Edits<'s> {
    None,
    Some {
        next: Edit<'s>,
        rest: imbl::ordmap::RangedIter<'s, Arc<[u8]>, Option<NodeId>, imbl::shared_ptr::DefaultSharedPtr>,
    },
}

impl<'s> Edits<'s> {
    fn after(edits: Option<&'s ChildEdits>, from: Bound<&[u8]>) -> Edits<'s> {
        match edits {
            Some(edits) => Edits::pull(edits.range::<_, [u8]>((from, Bound::Unbounded))),
            None => Edits::None,
        }
    }

    fn pull(
        mut rest: imbl::ordmap::RangedIter<'s, Arc<[u8]>, Option<NodeId>, imbl::shared_ptr::DefaultSharedPtr>,
    ) -> Edits<'s> {
        match rest.next() {
            Some((name, node)) => Edits::Some { next: (name, *node), rest },
            None => Edits::None,
        }
    }

    fn peek(&self) -> Option<Edit<'s>> {
        match self {
            Edits::Some { next, .. } => Some(*next),
            Edits::None => None,
        }
    }

    fn advance(&mut self) {
        if let Edits::Some { rest, .. } = std::mem::replace(self, Edits::None) {
            *self = Edits::pull(rest);
        }
    }
}

impl<'s> Children<'s> {
    pub(super) fn new(snapshot: &'s Snapshot, base: Range<u32>, edits: Option<&'s ChildEdits>) -> Children<'s> {
        Children { snapshot, base, edits: Edits::after(edits, Bound::Unbounded) }
    }

    pub(super) fn after(
        snapshot: &'s Snapshot,
        mut base: Range<u32>,
        edits: Option<&'s ChildEdits>,
        name: &[u8],
    ) -> Children<'s> {
        base.start = snapshot.base.lower_bound(base.clone(), name);
        if base.start < base.end && snapshot.base.name(&snapshot.base.nodes[base.start as usize]) == name {
            base.start += 1;
        }
        Children { snapshot, base, edits: Edits::after(edits, Bound::Excluded(name)) }
    }

    /// How many children of the base stand before the next edit.
    fn undisturbed(&self) -> u32 {
        match self.edits.peek() {
            Some((name, _)) => self.snapshot.base.lower_bound(self.base.clone(), name) - self.base.start,
            None => self.base.len() as u32,
        }
    }

    /// Takes the next edit, and the child of the base that it replaces.
    fn take_edit(&mut self) -> Option<NodeId> {
        let (name, node) = self.edits.peek()?;
        let base = &self.snapshot.base;
        if self.base.start < self.base.end && base.name(&base.nodes[self.base.start as usize]) == &**name {
            self.base.start += 1;
        }
        self.edits.advance();
        node
    }
}

impl Iterator for Children<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        loop {
            let Some((name, _)) = self.edits.peek() else { return self.base.next().map(NodeId) };
            let base = &self.snapshot.base;
            if self.base.start < self.base.end && base.name(&base.nodes[self.base.start as usize]) < &**name {
                return self.base.next().map(NodeId);
            }
            if let Some(node) = self.take_edit() {
                return Some(node);
            }
        }
    }

    /// Costs a binary search for each edit that is passed over, and nothing for the rest.
    fn nth(&mut self, mut count: usize) -> Option<NodeId> {
        loop {
            let undisturbed = self.undisturbed() as usize;
            if count < undisturbed {
                self.base.start += count as u32;
                return self.base.next().map(NodeId);
            }
            count -= undisturbed;
            self.base.start += undisturbed as u32;
            if matches!(self.edits, Edits::None) {
                return None;
            }
            if let Some(node) = self.take_edit() {
                if count == 0 {
                    return Some(node);
                }
                count -= 1;
            }
        }
    }

    fn count(mut self) -> usize {
        let mut count = 0;
        loop {
            let undisturbed = self.undisturbed();
            count += undisturbed as usize;
            self.base.start += undisturbed;
            if matches!(self.edits, Edits::None) {
                return count;
            }
            count += usize::from(self.take_edit().is_some());
        }
    }
}
