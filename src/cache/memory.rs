//! Blocks in memory, and which of them goes when room is needed.
//!
//! Two queues, first in first out, as in S3-FIFO: new blocks enter the *trial* queue, and only those of which something was
//! read twice move on to the *main* queue, where they get a second chance each time they were used since the last look. A
//! scan over terabytes passes through the trial queue, a tenth of the memory, and leaves the main queue alone. Hashes of
//! evicted blocks are remembered for a while (*ghosts*): a block that comes back soon goes to the main queue at once, and
//! many that come back say that the budget is too small.
//!
//! A block that somebody holds, or that a reader is in the middle of ([`Block::is_being_read`]), is passed over: evicting a
//! block of 64 MiB after each read of 1 MiB would fetch everything 64 times. When all are like that, nothing goes, and who
//! needs room waits; time makes them evictable.
//!
//! Readers see the map only. The queues are locked when a block comes or goes, for a time that is bounded by the number
//! of blocks, and never across an await.

use crate::cache::block::{self, Block};
use crate::cache::budget::Reclaim;
use crate::cache::counters::Counters;
use crate::keep::BlockHash;
use dashmap::DashMap;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The share of the memory, one in this many, beyond which blocks on trial go before all others.
const TRIAL_SHARE: usize = 10;
/// Ghosts are remembered until this many times the memory has been evicted after them.
const GHOST_SHARE: usize = 4;
/// And no more than this many, 56 bytes each.
const MOST_GHOSTS: usize = 1 << 16;

/// The blocks in memory.
pub(super) struct Memory {
    blocks: DashMap<BlockHash, Block>,
    queues: Mutex<Queues>,
    capacity: usize,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Queues {
    trial: VecDeque<BlockHash>,
    trial_bytes: usize,
    main: VecDeque<BlockHash>,
    ghosts: Ghosts,
    thrashing: Thrashing,
}

/// Which queue.
#[derive(Clone, Copy, PartialEq)]
enum Queue {
    Trial,
    Main,
}

impl Memory {
    pub(super) fn new(capacity: usize, counters: Arc<Counters>) -> Memory {
        Memory { blocks: DashMap::new(), queues: Mutex::default(), capacity, counters }
    }

    /// The block, for a reader.
    pub(super) fn get(&self, hash: &BlockHash) -> Option<Block> {
        let block = self.blocks.get(hash)?.value().clone();
        block.touch();
        Counters::count(&self.counters.hits, 1);
        Some(block)
    }

    /// The block, without counting it as a use.
    pub(super) fn peek(&self, hash: &BlockHash) -> Option<Block> {
        Some(self.blocks.get(hash)?.value().clone())
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Takes a block that was just fetched.
    pub(super) fn insert(&self, hash: BlockHash, block: Block) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let size = block.charge();
        if self.blocks.insert(hash, block).is_some() {
            return;
        }
        let again = queues.ghosts.forget(&hash);
        if again {
            Counters::count(&self.counters.refetches, 1);
            Counters::count(&self.counters.refetched_bytes, size as u64);
        }
        queues.thrashing.fetched(size, again, self.capacity);
        match again {
            true => queues.main.push_back(hash),
            false => {
                queues.trial.push_back(hash);
                queues.trial_bytes += size;
            }
        }
    }

    /// Looks at the next block of `queue`. Bytes freed, if it went.
    fn look(&self, queues: &mut Queues, queue: Queue, now: u64) -> Option<usize> {
        let hash = match queue {
            Queue::Trial => queues.trial.pop_front()?,
            Queue::Main => queues.main.pop_front()?,
        };
        let mut verdict = Verdict::Stay;
        let evicted = self.blocks.remove_if(&hash, |_, block| {
            verdict = judge(block, queue, now);
            verdict == Verdict::Go
        });
        let size = match &evicted {
            Some((_, block)) => block.charge(),
            None => self.blocks.get(&hash).map_or(0, |block| block.charge()),
        };
        match (verdict, queue) {
            (Verdict::Go, _) => {
                if queue == Queue::Trial {
                    queues.trial_bytes -= size;
                }
                queues.ghosts.remember(hash, size, self.capacity);
                Counters::count(&self.counters.evictions, 1);
                return Some(size);
            }
            (Verdict::Promote, _) => {
                queues.trial_bytes -= size;
                queues.main.push_back(hash);
            }
            (Verdict::Stay, Queue::Trial) => queues.trial.push_back(hash),
            (Verdict::Stay, Queue::Main) => queues.main.push_back(hash),
        }
        None
    }
}

/// What becomes of a block that is looked at.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Go,
    Stay,
    Promote,
}

fn judge(block: &Block, queue: Queue, now: u64) -> Verdict {
    let used = match queue {
        Queue::Trial if block.was_read_again() => return Verdict::Promote,
        Queue::Trial => false,
        Queue::Main => block.take_visited(),
    };
    match used || block.is_held() || block.is_being_read(now) {
        true => Verdict::Stay,
        false => Verdict::Go,
    }
}

impl Reclaim for Memory {
    fn reclaim(&self, bytes: usize) {
        let now = block::now();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Each block on trial is looked at once, each in the main queue twice: once to spend its second chance. Blocks
        // that are promoted meanwhile come on top.
        let mut trial_looks = queues.trial.len();
        let mut main_looks = 2 * (queues.main.len() + queues.trial.len());
        let mut freed = 0;
        while freed < bytes {
            let trial_first =
                queues.trial_bytes > self.capacity / TRIAL_SHARE || main_looks == 0 || queues.main.is_empty();
            let queue = match trial_looks > 0 && !queues.trial.is_empty() && trial_first {
                true => Queue::Trial,
                false if main_looks > 0 && !queues.main.is_empty() => Queue::Main,
                false if trial_looks > 0 && !queues.trial.is_empty() => Queue::Trial,
                false => return,
            };
            match queue {
                Queue::Trial => trial_looks -= 1,
                Queue::Main => main_looks -= 1,
            }
            freed += self.look(&mut queues, queue, now).unwrap_or(0);
        }
    }
}

/// Hashes of blocks that were evicted not long ago.
#[derive(Default)]
struct Ghosts {
    sizes: HashMap<BlockHash, usize>,
    order: VecDeque<BlockHash>,
    bytes: usize,
}

impl Ghosts {
    fn remember(&mut self, hash: BlockHash, size: usize, capacity: usize) {
        if self.sizes.insert(hash, size).is_none() {
            self.order.push_back(hash);
            self.bytes += size;
        }
        while self.bytes > capacity.saturating_mul(GHOST_SHARE) || self.order.len() > MOST_GHOSTS {
            let Some(oldest) = self.order.pop_front() else { return };
            self.forget(&oldest);
        }
    }

    /// Whether it was remembered. Its place in the order stays until it comes to the front.
    fn forget(&mut self, hash: &BlockHash) -> bool {
        let size = self.sizes.remove(hash);
        self.bytes -= size.unwrap_or(0);
        size.is_some()
    }
}

/// Notices that the same blocks are fetched again and again, and says so once.
#[derive(Default)]
struct Thrashing {
    since: Option<Instant>,
    fetched: usize,
    fetched_again: usize,
    blocks_again: usize,
    said: bool,
}

impl Thrashing {
    /// The window over which fetches are compared.
    const WINDOW: Duration = Duration::from_secs(60);
    /// Fewer than this are an accident.
    const FEWEST: usize = 16;

    fn fetched(&mut self, size: usize, again: bool, capacity: usize) {
        let now = Instant::now();
        if self.since.is_none_or(|since| now - since > Thrashing::WINDOW) {
            *self = Thrashing { since: Some(now), said: self.said, ..Thrashing::default() };
        }
        self.fetched += size;
        if !again {
            return;
        }
        self.fetched_again += size;
        self.blocks_again += 1;
        if !self.said && self.blocks_again >= Thrashing::FEWEST && self.fetched_again * 2 >= self.fetched {
            self.said = true;
            tracing::warn!(
                memory_limit_mib = capacity >> 20,
                fetched_mib = self.fetched >> 20,
                fetched_again_mib = self.fetched_again >> 20,
                blocks_again = self.blocks_again,
                within_s = self.since.map_or(0, |since| now.duration_since(since).as_secs()),
                "blocks are fetched again and again because they do not fit into memory together: raise --memory-limit"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Budget;

    const SIZE: usize = 1 << 10;

    struct Fixture {
        memory: Arc<Memory>,
        budget: Arc<Budget>,
    }

    fn hash(number: u32) -> BlockHash {
        BlockHash::of(&number.to_le_bytes())
    }

    impl Fixture {
        fn new(blocks: usize) -> Fixture {
            let memory = Arc::new(Memory::new(blocks * SIZE, Arc::default()));
            Fixture { memory, budget: Budget::new(blocks * SIZE) }
        }

        /// Fetches a block unless it is there; whether it was there.
        fn read(&self, number: u32) -> bool {
            if let Some(block) = self.memory.get(&hash(number)) {
                block.slice(0..SIZE);
                return true;
            }
            let charge = match self.budget.try_charge(SIZE) {
                Some(charge) => charge,
                None => {
                    self.memory.reclaim(SIZE);
                    self.budget.try_charge(SIZE).expect("something goes")
                }
            };
            let block = Block::new(vec![0; SIZE].into(), charge);
            block.slice(0..SIZE);
            self.memory.insert(hash(number), block);
            false
        }

        fn read_all(&self, numbers: std::ops::Range<u32>) {
            for number in numbers {
                self.read(number);
            }
        }

        fn has(&self, number: u32) -> bool {
            self.memory.peek(&hash(number)).is_some()
        }
    }

    #[test]
    fn a_long_scan_does_not_push_out_what_is_used_again() {
        let fixture = Fixture::new(100);
        for _ in 0..3 {
            fixture.read_all(0..50);
        }
        for number in 1000..3000 {
            fixture.read(number);
            fixture.read(number % 50);
        }
        assert!((0..50).all(|number| fixture.has(number)));
        assert!(fixture.budget.highest() <= 100 * SIZE);
    }

    #[test]
    fn what_is_not_used_any_more_goes_in_the_end() {
        let fixture = Fixture::new(10);
        for _ in 0..3 {
            fixture.read_all(0..10);
        }
        for _ in 0..3 {
            fixture.read_all(100..109);
        }
        for number in 200..300 {
            fixture.read(number);
        }
        assert!((0..10).filter(|number| fixture.has(*number)).count() < 5);
    }

    #[test]
    fn a_block_in_the_middle_of_being_read_or_held_stays() {
        let fixture = Fixture::new(4);
        fixture.read(1);
        let held = fixture.memory.get(&hash(1)).unwrap();
        let charge = fixture.budget.try_charge(SIZE).unwrap();
        let begun = Block::new(vec![0; SIZE].into(), charge);
        begun.slice(0..1);
        fixture.memory.insert(hash(2), begun);
        fixture.read_all(3..5);
        fixture.memory.reclaim(4 * SIZE);
        assert!(fixture.has(1) && fixture.has(2) && !fixture.has(3) && !fixture.has(4));
        drop(held);
        fixture.memory.reclaim(4 * SIZE);
        assert!(!fixture.has(1) && fixture.has(2));
        assert_eq!(fixture.budget.used(), SIZE);
    }

    #[test]
    fn blocks_that_come_back_are_counted() {
        let fixture = Fixture::new(4);
        for _ in 0..3 {
            fixture.read_all(0..8);
        }
        let figures = fixture.memory.counters.figures();
        assert!(figures.refetches >= 8 && figures.refetched_bytes == figures.refetches * SIZE as u64, "{figures:?}");
        assert!(figures.evictions >= figures.refetches);
        assert!(fixture.memory.queues.lock().unwrap().thrashing.said == (figures.refetches >= 16));
    }

    #[test]
    fn ghosts_are_bounded() {
        let mut ghosts = Ghosts::default();
        (0..1000).for_each(|number| ghosts.remember(hash(number), 10, 100));
        assert_eq!((ghosts.sizes.len(), ghosts.order.len(), ghosts.bytes), (40, 40, 400));
        assert!(ghosts.forget(&hash(999)) && !ghosts.forget(&hash(0)));
    }
}
