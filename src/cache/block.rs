//! One block in memory, and what its use tells the cache.
//!
//! The bytes stand beside their [`Charge`], and every slice of them, wherever it travels, owns a share of both. Use is
//! recorded in atomics by those who read, without a lock, and looked at when something must go.

use crate::cache::budget::Charge;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// How long after its last read a block counts as being read, when it has been read a few times: a reader that works on
/// what it has read takes its time before the next read.
const PATIENCE: u64 = 2000;
/// The same for a block that was read a few times only: often that was all (a small file in a large block), and
/// holding on to each for long would let nobody else in.
const SHORT_PATIENCE: u64 = 250;
const FEW_READS: u32 = 4;
/// After this time others have their turn even if a reader is in the middle: it will have to fetch the block again, but a
/// few slow readers do not keep all others waiting for ever.
const TURN: u64 = 10_000;
/// How far back a read may start and still be the next of a series: requests of a read-ahead arrive in any order.
const DISORDER: u64 = 8 << 20;

/// Milliseconds on a clock of our own.
pub(super) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64
}

/// A whole, checked block. Cheap to clone.
#[derive(Clone)]
pub struct Block(Arc<Held>);

struct Held {
    bytes: Bytes,
    charge: Charge,
    loaded: u64,
    touched: AtomicU64,
    reads: AtomicU32,
    served: AtomicU64,
    /// The furthest position read.
    reach: AtomicU64,
    again: AtomicBool,
    visited: AtomicBool,
}

/// Part of a block, as the owner behind a `Bytes`.
struct Part {
    held: Arc<Held>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.held.bytes[self.range.clone()]
    }
}

impl Block {
    /// A block just fetched, with the charge that was taken for it.
    pub(super) fn new(bytes: Bytes, charge: Charge) -> Block {
        let now = now();
        Block(Arc::new(Held {
            bytes,
            charge,
            loaded: now,
            touched: AtomicU64::new(now),
            reads: AtomicU32::new(0),
            served: AtomicU64::new(0),
            reach: AtomicU64::new(0),
            again: AtomicBool::new(false),
            visited: AtomicBool::new(false),
        }))
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// Whether it is the empty block.
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    /// The part of the block in `range`, cut to its length. No copy; the whole block stays in memory as long as the slice.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        let held = &*self.0;
        let end = range.end.min(held.bytes.len());
        let start = range.start.min(end);
        held.read(start as u64, end as u64);
        Bytes::from_owner(Part { held: self.0.clone(), range: start..end })
    }

    /// Somebody found it in the cache.
    pub(super) fn touch(&self) {
        self.0.touched.store(now(), Ordering::Relaxed);
        self.0.visited.store(true, Ordering::Relaxed);
    }

    /// Whether it was found since the last call.
    pub(super) fn take_visited(&self) -> bool {
        self.0.visited.swap(false, Ordering::Relaxed)
    }

    /// What it is charged with.
    pub(super) fn charge(&self) -> usize {
        self.0.charge.bytes()
    }

    /// Some of it was read twice: it is worth more than what is read once and never again.
    pub(super) fn was_read_again(&self) -> bool {
        self.0.again.load(Ordering::Relaxed)
    }

    /// Letting go of it would free nothing now: somebody holds the block or a slice. The caller holds no clone itself.
    pub(super) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// A reader is in the middle of it and will be back in a moment.
    pub(super) fn is_being_read(&self, now: u64) -> bool {
        let held = &*self.0;
        if held.served.load(Ordering::Relaxed) >= held.bytes.len() as u64 {
            return false;
        }
        let patience = if held.reads.load(Ordering::Relaxed) < FEW_READS { SHORT_PATIENCE } else { PATIENCE };
        let idle = now.saturating_sub(held.touched.load(Ordering::Relaxed));
        idle < patience && now.saturating_sub(held.loaded) < TURN
    }
}

impl Held {
    fn read(&self, start: u64, end: u64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let served = self.served.fetch_add(end - start, Ordering::Relaxed) + (end - start);
        let reach = self.reach.fetch_max(end, Ordering::Relaxed);
        if served > self.bytes.len() as u64 || start + DISORDER < reach {
            self.again.store(true, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Block({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Budget;

    fn block(size: usize) -> Block {
        let budget = Budget::new(size);
        Block::new(vec![7; size].into(), budget.try_charge(size).unwrap())
    }

    #[test]
    fn slices_are_cut_to_the_block_and_keep_it_charged() {
        let budget = Budget::new(100);
        let block = Block::new(vec![1; 10].into(), budget.try_charge(10).unwrap());
        let slice = block.slice(8..20);
        assert_eq!(slice.len(), 2);
        assert!(block.slice(20..30).is_empty());
        assert!(block.is_held());
        drop(block);
        assert_eq!(budget.used(), 10);
        drop(slice);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_pass_is_no_reuse_and_a_second_is() {
        let block = block(64 << 20);
        for start in (0..64usize).rev().step_by(4).collect::<Vec<_>>().into_iter().rev() {
            // Four requests of a read-ahead, in the wrong order.
            for back in 0..4 {
                block.slice((start - back) << 20..(start - back + 1) << 20);
            }
        }
        assert!(!block.was_read_again() && !block.is_being_read(now()), "read once and whole");
        block.slice(0..1);
        assert!(block.was_read_again());
    }

    #[test]
    fn random_reads_are_reuse_long_before_the_block_is_through() {
        let block = block(64 << 20);
        block.slice(40 << 20..41 << 20);
        block.slice(0..4096);
        assert!(block.was_read_again());
    }

    #[test]
    fn a_block_in_the_middle_of_being_read_is_so_for_a_while_only() {
        let block = block(1 << 20);
        let start = now();
        assert!(block.is_being_read(start + SHORT_PATIENCE - 1) && !block.is_being_read(start + SHORT_PATIENCE + 5));
        for _ in 0..FEW_READS {
            block.slice(0..1);
        }
        assert!(block.is_being_read(start + PATIENCE - 1) && !block.is_being_read(start + PATIENCE + 5));
        block.0.touched.store(start + 2 * TURN, Ordering::Relaxed);
        assert!(!block.is_being_read(start + 2 * TURN), "its turn is over");
    }
}
