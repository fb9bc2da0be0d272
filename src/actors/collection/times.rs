//! Times that writers have set or caused, kept while nobody looks at their collection.
//!
//! The server has no time for a single file: what is read from it has the time of the collection (arv-mount.md 2.8). What was
//! written through the mount has the time of the write, but only as long as the collection's state lives, and an actor that nobody uses
//! is stopped after minutes. `cp -p`, `make` and `rsync` look at times hours later. So what is special about a
//! collection's times is noted here when its actor is stopped, and taken back when it is loaded again: for each path that still has
//! the content that it had.
//!
//! The lock is a leaf.

use crate::actors::collection::numbers::Time;
use crate::actors::collection::state::CollectionState;
use crate::tree::{NodeId, Snapshot};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Paths whose times are kept, over all collections; some hundred bytes each. What was noted first goes first.
const MOST: usize = 200_000;

struct Noted {
    path: Vec<u8>,
    content: u64,
    time: Time,
}

#[derive(Default)]
struct Inner {
    collections: HashMap<String, Vec<Noted>>,
    /// The oldest first.
    order: VecDeque<String>,
    count: usize,
}

impl Inner {
    fn take(&mut self, collection: &str) -> Vec<Noted> {
        let Some(noted) = self.collections.remove(collection) else { return Vec::new() };
        self.count -= noted.len();
        self.order.retain(|known| known != collection);
        noted
    }
}

#[derive(Default)]
pub struct Times(Mutex<Inner>);

impl Times {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The actor of the collection is about to be stopped.
    pub(in crate::actors) fn note(&self, collection: &str, state: &CollectionState) {
        let noted: Vec<Noted> = state
            .special_times()
            .filter_map(|(number, time)| {
                let node = state.node(number).filter(|node| state.snapshot.is_linked(*node))?;
                Some(Noted { path: state.snapshot.path(node), content: content(&state.snapshot, node), time })
            })
            .collect();
        if noted.is_empty() || noted.len() > MOST {
            return;
        }
        let mut inner = self.inner();
        drop(inner.take(collection));
        inner.count += noted.len();
        inner.collections.insert(collection.to_owned(), noted);
        inner.order.push_back(collection.to_owned());
        while inner.count > MOST
            && let Some(oldest) = inner.order.pop_front()
        {
            drop(inner.take(&oldest));
        }
    }

    /// The collection was loaded: the nodes whose times are known.
    pub(super) fn take(&self, collection: &str, snapshot: &Snapshot) -> Vec<(NodeId, Time)> {
        let noted = self.inner().take(collection);
        let find =
            |it: Noted| Some((snapshot.find(&it.path).filter(|node| content(snapshot, *node) == it.content)?, it.time));
        noted.into_iter().filter_map(find).collect()
    }
}

/// What a file consists of; a directory is one whatever is in it.
fn content(snapshot: &Snapshot, node: NodeId) -> u64 {
    let mut hasher = DefaultHasher::new();
    if snapshot.is_directory(node) {
        return 0;
    }
    for segment in snapshot.segments(node, 0, u64::MAX) {
        (snapshot.block_hash(segment.block), segment.block_offset, segment.length).hash(&mut hasher);
    }
    hasher.finish() | 1
}
