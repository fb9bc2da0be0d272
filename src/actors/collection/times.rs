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
use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Paths whose times are kept, over all collections; some hundred bytes each. What was noted first goes first, and of a collection
/// that has more alone the oldest times. The log says so once.
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
    /// The log says already that there are too many.
    has_told: bool,
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
        let mut noted: Vec<Noted> = state
            .special_times()
            .filter_map(|(number, time)| {
                let node = state.node(number).filter(|node| state.snapshot.is_linked(*node))?;
                Some(Noted { path: state.snapshot.path(node), content: content(&state.snapshot, node), time })
            })
            .collect();
        if noted.is_empty() {
            return;
        }
        let mut forgotten = noted.len().saturating_sub(MOST);
        if forgotten > 0 {
            noted.select_nth_unstable_by_key(MOST, |it| Reverse(it.time));
            noted.truncate(MOST);
        }
        let mut inner = self.inner();
        drop(inner.take(collection));
        inner.count += noted.len();
        inner.collections.insert(collection.to_owned(), noted);
        inner.order.push_back(collection.to_owned());
        while inner.count > MOST
            && let Some(oldest) = inner.order.pop_front()
        {
            forgotten += inner.take(&oldest).len();
        }
        let is_news = forgotten > 0 && !std::mem::replace(&mut inner.has_told, true);
        drop(inner);
        if is_news {
            tracing::warn!(
                collection,
                forgotten,
                kept = MOST,
                "more times of files than are kept while nobody looks at their collections: some files will have the time of their \
                 collection"
            );
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::collection::numbers::Numbers;
    use crate::actors::collection::state::{Base, Kind};
    use crate::remote::api::{Collection, Record};
    use chrono::DateTime;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
    const BAR: &str = "37b51d194a7513e45b56f6524f2d51f2+3";

    fn time(second: i64) -> Time {
        DateTime::from_timestamp(second, 0)
    }

    /// A state in which all files have a time of their own: that of their place in the list.
    fn state(text: &str) -> CollectionState {
        let record = Arc::new(Record { fields: Collection::default(), raw: Default::default() });
        let snapshot = Snapshot::parse(text).unwrap();
        let mut numbers = Numbers::first(time(0));
        for (second, node) in (1..).zip(snapshot.children(NodeId::ROOT)) {
            numbers.set_modified(numbers.number(node), time(second));
        }
        let base =
            Base { record: record.clone(), snapshot: snapshot.clone(), is_whole: true, is_own: true, is_sound: true };
        CollectionState {
            record,
            snapshot,
            numbers,
            drafts: Default::default(),
            base: Arc::new(base),
            is_unsaved: false,
            kind: Kind::Mutable,
            fetched: Instant::now(),
            interval: Duration::from_secs(1),
            marks: 0,
            expiry: None,
        }
    }

    #[test]
    fn time_of_a_path_is_kept_as_long_as_it_has_its_content() {
        let times = Times::default();
        times.note("one", &state(&format!(". {FOO} 0:3:kept 0:3:replaced 0:3:removed\n./folder {FOO} 0:3:x\n")));
        let now = Snapshot::parse(&format!(". {FOO} {BAR} 0:3:kept 3:3:replaced\n./folder {BAR} 0:3:y\n")).unwrap();
        assert!(times.take("other", &now).is_empty());
        let mut taken: Vec<_> =
            times.take("one", &now).into_iter().map(|(node, time)| (now.path(node), time)).collect();
        taken.sort();
        assert_eq!(taken, [(b"folder".to_vec(), time(1)), (b"kept".to_vec(), time(2))]);
        assert!(times.take("one", &now).is_empty(), "the collection has them again");
        let inner = times.inner();
        assert_eq!((inner.count, inner.order.len()), (0, 0));
    }

    #[test]
    fn what_was_noted_first_is_forgotten_when_there_is_too_much() {
        let names: Vec<String> = (0..MOST / 2 + 1).map(|number| format!("0:3:{number:06}")).collect();
        let text = format!(". {FOO} {}\n", names.join(" "));
        let (times, state) = (Times::default(), state(&text));
        times.note("first", &state);
        times.note("second", &state);
        assert!(times.inner().count <= MOST);
        assert!(times.take("first", &state.snapshot).is_empty());
        assert_eq!(times.take("second", &state.snapshot).len(), names.len());
    }

    #[test]
    fn of_a_collection_with_too_many_times_the_oldest_are_forgotten() {
        let names: Vec<String> = (0..MOST + 10).map(|number| format!("0:3:{number:06}")).collect();
        let (times, state) = (Times::default(), state(&format!(". {FOO} {}\n", names.join(" "))));
        times.note("large", &state);
        assert!(times.inner().has_told);
        let taken = times.take("large", &state.snapshot);
        let oldest = taken.iter().map(|(_, time)| *time).min().unwrap();
        assert_eq!((taken.len(), oldest), (MOST, time(11)));
    }
}
