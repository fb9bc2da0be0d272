//! What the cache has done, for metrics and for the lines that callers of `arv-mount` read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start. Relaxed: each is right by itself, and they need not agree with each other at any moment.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads that found the block in memory.
    pub hits: AtomicU64,
    /// Reads that did not, whether they started a fetch or joined one.
    pub misses: AtomicU64,
    /// Fetches that were started.
    pub fetches: AtomicU64,
    /// Fetches that failed.
    pub failures: AtomicU64,
    /// Fetches that nobody waited for any more.
    pub abandoned: AtomicU64,
    /// Bytes that were fetched.
    pub fetched_bytes: AtomicU64,
    /// Blocks that were let go to make room.
    pub evictions: AtomicU64,
    /// Blocks fetched again not long after they were let go: the budget is too small for what is read.
    pub refetches: AtomicU64,
    /// Bytes of the above.
    pub refetched_bytes: AtomicU64,
    /// Fresh signatures asked for.
    pub renewals: AtomicU64,
}

/// The counters and the state at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub hits: u64,
    pub misses: u64,
    pub fetches: u64,
    pub failures: u64,
    pub abandoned: u64,
    pub fetched_bytes: u64,
    pub evictions: u64,
    pub refetches: u64,
    pub refetched_bytes: u64,
    pub renewals: u64,
    /// Fetches under way, those that wait for room included.
    pub fetching: u64,
    /// Bytes of blocks being fetched now.
    pub fetching_bytes: u64,
    /// Blocks in memory.
    pub blocks: u64,
    /// Bytes charged to the budget, by the cache and by everybody else.
    pub budget_used: u64,
    /// The most that ever was charged.
    pub budget_highest: u64,
    /// The budget.
    pub budget_capacity: u64,
    /// Who waits for room in it.
    pub budget_waiting: u64,
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn figures(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            hits: read(&self.hits),
            misses: read(&self.misses),
            fetches: read(&self.fetches),
            failures: read(&self.failures),
            abandoned: read(&self.abandoned),
            fetched_bytes: read(&self.fetched_bytes),
            evictions: read(&self.evictions),
            refetches: read(&self.refetches),
            refetched_bytes: read(&self.refetched_bytes),
            renewals: read(&self.renewals),
            ..Figures::default()
        }
    }
}
