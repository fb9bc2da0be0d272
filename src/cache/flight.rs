//! One fetch per block, however many wait for it.
//!
//! Who misses a block looks into the table of fetches under way and joins the one it finds, or starts one. A fetch is a
//! task; those who wait share its result through a [`Shared`] future, and the table only knows a weak one. So when the last
//! who waits gives up, the future is dropped, and with it the task, its charge and its place in the table.
//!
//! A fetch puts its block into memory before it leaves the table, and who finds no fetch looks into memory once more
//! while holding the table's shard: so there is no moment in which a block is in neither and fetched twice.
//!
//! The signature is renewed by the fetch, with the means of whoever started it. If those fail, each of the others
//! tries again with its own: the same block may stand in several collections, of which one was deleted.

use crate::cache::block::Block;
use crate::cache::budget::Budget;
use crate::cache::counters::{Counters, Figures};
use crate::cache::memory::Memory;
use crate::cache::{Error, OVERHEAD, RenewLocator};
use crate::keep::{BlockHash, Locator};
use crate::remote::keep::Keep;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

type Outcome = Result<Block, Error>;
type Fetch = Shared<BoxFuture<'static, Outcome>>;

/// The fetches under way.
pub(super) struct Flights {
    shared: Arc<Common>,
    runtime: Handle,
}

struct Common {
    table: DashMap<BlockHash, (u64, WeakShared<BoxFuture<'static, Outcome>>)>,
    number: AtomicU64,
    fetching_bytes: AtomicU64,
    source: Arc<dyn Keep>,
    budget: Arc<Budget>,
    memory: Arc<Memory>,
    counters: Arc<Counters>,
}

/// What somebody who missed a block gets.
enum Joined {
    /// It has arrived in the meantime.
    There(Block),
    /// A fetch; whether it is one's own.
    Fetch(Fetch, bool),
}

/// Ends a fetch when nobody waits any more.
struct Abandon {
    task: JoinHandle<Outcome>,
    common: Arc<Common>,
    hash: BlockHash,
    number: u64,
}

impl Drop for Abandon {
    fn drop(&mut self) {
        if !self.task.is_finished() {
            self.task.abort();
            Counters::count(&self.common.counters.abandoned, 1);
        }
        self.common.leave(self.hash, self.number);
    }
}

impl Common {
    /// Takes fetch `number` out of the table, unless another one has its place.
    fn leave(&self, hash: BlockHash, number: u64) {
        self.table.remove_if(&hash, |_, (present, _)| *present == number);
    }

    async fn fetch(&self, locator: Locator, renew: Arc<dyn RenewLocator>) -> Outcome {
        let first = match self.load(&locator).await {
            Err(Error::Remote(error)) if error.is_refused_signature() => error,
            outcome => return outcome,
        };
        // The charge has been given back: renewing may need memory of the same budget.
        let hash = locator.hash();
        Counters::count(&self.counters.renewals, 1);
        tracing::info!(block = %hash, reason = %first, "asking for a fresh signature");
        let not_renewed = |problem: String| match first.is_unauthorized() {
            true => Error::Remote(first.clone()),
            false => Error::NotRenewed { hash, problem },
        };
        let fresh = renew.renew(&locator).await.map_err(not_renewed)?;
        if fresh.hash() != hash {
            return Err(not_renewed("a locator of another block came back".to_owned()));
        }
        match self.load(&fresh).await {
            Err(Error::Remote(error)) if error.is_refused_signature() => Err(not_renewed(error.to_string())),
            outcome => outcome,
        }
    }

    async fn load(&self, locator: &Locator) -> Outcome {
        let size = locator.size().unwrap_or(0);
        let charge = self.budget.charge((size as usize).saturating_add(OVERHEAD)).await?;
        let _under_way = UnderWay::new(&self.fetching_bytes, size);
        let bytes = self.source.get(locator).await?;
        Counters::count(&self.counters.fetched_bytes, bytes.len() as u64);
        Ok(Block::new(bytes, charge))
    }
}

/// Counts the bytes of a fetch while it lasts.
struct UnderWay<'a>(&'a AtomicU64, u64);

impl<'a> UnderWay<'a> {
    fn new(counter: &'a AtomicU64, bytes: u64) -> UnderWay<'a> {
        counter.fetch_add(bytes, Ordering::Relaxed);
        UnderWay(counter, bytes)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Flights {
    pub(super) fn new(
        source: Arc<dyn Keep>,
        budget: Arc<Budget>,
        memory: Arc<Memory>,
        counters: Arc<Counters>,
        runtime: Handle,
    ) -> Flights {
        let common = Common {
            table: DashMap::new(),
            number: AtomicU64::new(0),
            fetching_bytes: AtomicU64::new(0),
            source,
            budget,
            memory,
            counters,
        };
        Flights { shared: Arc::new(common), runtime }
    }

    /// The block, by the fetch that is under way or by a new one.
    pub(super) async fn fetch(&self, locator: &Locator, renew: &Arc<dyn RenewLocator>) -> Outcome {
        Counters::count(&self.shared.counters.misses, 1);
        let mut own = false;
        loop {
            let (fetch, started) = match self.join(locator, renew) {
                Joined::There(block) => return Ok(block),
                Joined::Fetch(fetch, started) => (fetch, started),
            };
            match fetch.await {
                // Somebody else's means to renew the signature failed. Ours may not; but only once.
                Err(Error::NotRenewed { .. }) if !started && !own => own = true,
                outcome => return outcome,
            }
        }
    }

    fn join(&self, locator: &Locator, renew: &Arc<dyn RenewLocator>) -> Joined {
        let hash = locator.hash();
        let entry = self.shared.table.entry(hash);
        if let Entry::Occupied(present) = &entry
            && let Some(fetch) = present.get().1.upgrade()
        {
            return Joined::Fetch(fetch, false);
        }
        if let Some(block) = self.shared.memory.peek(&hash) {
            return Joined::There(block);
        }
        let number = self.shared.number.fetch_add(1, Ordering::Relaxed);
        let fetch = self.start(locator, renew, number);
        if let Some(weak) = fetch.downgrade() {
            entry.insert((number, weak));
        }
        Joined::Fetch(fetch, true)
    }

    fn start(&self, locator: &Locator, renew: &Arc<dyn RenewLocator>, number: u64) -> Fetch {
        let (common, hash) = (self.shared.clone(), locator.hash());
        let (locator, renew) = (locator.clone(), renew.clone());
        Counters::count(&common.counters.fetches, 1);
        let task = self.runtime.spawn(async move {
            let outcome = common.fetch(locator, renew).await;
            match &outcome {
                Ok(block) => common.memory.insert(hash, block.clone()),
                Err(_) => Counters::count(&common.counters.failures, 1),
            }
            common.leave(hash, number);
            outcome
        });
        let mut abandon = Abandon { task, common: self.shared.clone(), hash, number };
        let wait = async move {
            let broken_off = |error: tokio::task::JoinError| Error::BrokenOff { hash, problem: error.to_string() };
            (&mut abandon.task).await.map_err(broken_off)?
        };
        wait.boxed().shared()
    }

    pub(super) fn figures(&self) -> Figures {
        let common = &*self.shared;
        Figures {
            fetching: common.table.len() as u64,
            fetching_bytes: common.fetching_bytes.load(Ordering::Relaxed),
            blocks: common.memory.len() as u64,
            budget_used: common.budget.used() as u64,
            budget_highest: common.budget.highest() as u64,
            budget_capacity: common.budget.capacity() as u64,
            budget_waiting: common.budget.waiting() as u64,
            ..common.counters.figures()
        }
    }
}
