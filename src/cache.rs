//! Blocks by their hash: in memory, on the way, or fetched when somebody wants them.
//!
//! [`BlockCache::get`] is the way of every read, so most of what is here serves to keep it short:
//!
//! * A **hit** is one look into a sharded map and a few atomic stores. No queue is touched, nobody is asked, and
//!   no lock is held while anything is copied or awaited.
//! * A **miss** joins the one fetch of that block, or starts it ([`flight`]). The fetch runs as a task of its own: a reader
//!   that gives up does not stop it for the others, and it stops when the last one gives up.
//! * All bytes are charged to a [`Budget`] before they are fetched, until the last slice of them is dropped. Who finds it
//!   used up makes the cache let go of something ([`memory`]), or waits.
//! * A refused signature is no failure yet: the reader's [`RenewLocator`] is asked for a fresh one, once per fetch.
//!
//! Behind the memory stands a [`Keep`], which is the network, or a store on disk that has the network behind it: whatever
//! can bring a whole checked block for a locator. The disk store joins as another `Keep`, and nothing here changes.
//!
//! Locks, and the argument against deadlock: a shard of the map of flights may be held while a shard of the map of
//! blocks is read, and the queues of the memory while a shard of the map of blocks is; never the other way round, and
//! none of them across an await. What is dropped under a lock never runs code of ours that takes one.

use crate::keep::{BlockHash, Locator, MAX_BLOCK_SIZE};
use crate::remote::keep::Keep;
use async_trait::async_trait;
use std::sync::Arc;

pub mod block;
pub mod budget;
pub mod counters;
mod flight;
mod memory;

pub use block::Block;
pub use budget::{Budget, Charge};
pub use counters::{Counters, Figures};

use flight::Flights;
use memory::Memory;

/// What one cached block costs beside its bytes: its entries in map and queue, the block's own record and the
/// allocator's share. Counted so that a million blocks of one byte are not free.
pub const OVERHEAD: usize = 512;

/// The smallest budget that can read every block there may be.
pub const SMALLEST_LIMIT: usize = MAX_BLOCK_SIZE as usize + OVERHEAD;

/// Why a block cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Keep does not deliver it.
    #[error(transparent)]
    Remote(#[from] crate::remote::Error),
    /// It does not fit into memory at all.
    #[error(transparent)]
    TooLarge(#[from] budget::TooLarge),
    /// The locator was refused, and so was the fresh one, or there is none.
    #[error("block {hash}: no valid signature can be had: {problem}")]
    NotRenewed { hash: BlockHash, problem: String },
    /// The fetch ended without a result: the program is ending, or there is an error in it.
    #[error("block {hash}: the fetch was broken off: {problem}")]
    BrokenOff { hash: BlockHash, problem: String },
}

impl Error {
    /// No Keep service has the block.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Remote(error) if error.is_not_found())
    }

    /// Another try later may succeed.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Error::Remote(error) if error.is_temporary())
    }
}

/// Where a fresh locator of a block comes from when the signature of the one at hand is refused: the collection, asked
/// for again. Many readers may ask at once for different blocks of one collection; who implements this fetches it once.
#[async_trait]
pub trait RenewLocator: Send + Sync {
    /// A locator of the same block with a new signature. The error says, for the log, why there is none.
    async fn renew(&self, refused: &Locator) -> Result<Locator, String>;
}

/// The cache. Cloning it is cheap and gives the same cache.
#[derive(Clone)]
pub struct BlockCache {
    memory: Arc<Memory>,
    flights: Arc<Flights>,
}

impl BlockCache {
    /// A cache within `budget` (at least [`SMALLEST_LIMIT`], or large blocks cannot be read) before `source`. Must be called
    /// on the runtime on which fetches are to run, which must live as long as the cache.
    pub fn new(source: Arc<dyn Keep>, budget: Arc<Budget>) -> BlockCache {
        let counters = Arc::new(Counters::default());
        let memory = Arc::new(Memory::new(budget.capacity(), counters.clone()));
        let reclaim: Arc<dyn budget::Reclaim> = memory.clone();
        budget.set_reclaim(Arc::downgrade(&reclaim));
        let flights = Flights::new(source, budget, memory.clone(), counters, tokio::runtime::Handle::current());
        BlockCache { memory, flights: Arc::new(flights) }
    }

    /// The block, if it is in memory.
    pub fn cached(&self, hash: &BlockHash) -> Option<Block> {
        self.memory.get(hash)
    }

    /// The block that `locator` names, from memory or fetched. Waits for room in the budget and for Keep; dropping the
    /// future gives up without harm to others. `renew` is asked when the signature is refused.
    ///
    /// Take slices of what comes back and let go of it: as long as a `Block` or a slice of it lives, its bytes stay
    /// charged to the budget and others may wait for them.
    pub async fn get(&self, locator: &Locator, renew: &Arc<dyn RenewLocator>) -> Result<Block, Error> {
        match self.memory.get(&locator.hash()) {
            Some(block) => Ok(block),
            None => self.flights.fetch(locator, renew).await,
        }
    }

    /// What it has done, and what it holds now.
    pub fn figures(&self) -> Figures {
        self.flights.figures()
    }
}

#[cfg(test)]
mod tests;
