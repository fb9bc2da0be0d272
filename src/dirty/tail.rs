//! The buffer at which a file grows: a run of bytes in memory that takes more at its end, up to one block.
//!
//! Memory is leased before it is used, in steps. A small tail moves when it grows, a large one never: at [`SMALL`] it gets the
//! address space of a whole block, and what was not written to is no memory. So there are never two copies of a tail, which
//! nobody would have charged.

use super::lease::{Allowance, Lease};
use std::sync::Arc;

/// What the smallest file takes of the budget: a page.
const FIRST_STEP: usize = 4 << 10;
const LARGEST_STEP: usize = 4 << 20;
/// Up to this size a tail doubles. An allocation of a block is a mapping of its own for every allocator, so most small files
/// should get along without one.
const SMALL: usize = 1 << 20;

pub(super) struct Tail {
    pub start: u64,
    pub bytes: Vec<u8>,
    room: usize,
    leases: Vec<Lease>,
}

impl Tail {
    /// One with room for something but empty; `None` if there is no memory.
    pub fn new(start: u64, block_size: usize, allowance: &Arc<Allowance>) -> Option<Tail> {
        let mut tail = Tail { start, bytes: Vec::new(), room: 0, leases: Vec::new() };
        tail.grow(0, block_size, allowance).then_some(tail)
    }

    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Makes room, not more than a block and mostly for `wanted` bytes or more.
    fn grow(&mut self, wanted: usize, block_size: usize, allowance: &Arc<Allowance>) -> bool {
        let missing = wanted.saturating_sub(self.room);
        let step = self.room.max(missing).clamp(FIRST_STEP, LARGEST_STEP).min(block_size - self.room);
        let Some(lease) = allowance.lease(step) else { return false };
        let room = self.room + step;
        let capacity = if room <= SMALL { room } else { block_size };
        // Where address space is limited there may be none for a block, while there still is for what is needed.
        let mut reserve = |capacity: usize| self.bytes.try_reserve_exact(capacity - self.bytes.len()).is_ok();
        if !reserve(capacity) && !reserve(room) {
            return false;
        }
        self.leases.push(lease);
        self.room = room;
        true
    }

    /// Whether there is room for `count` bytes more, which is made if there is memory. False when the block would be too long.
    pub fn make_room(&mut self, count: usize, block_size: usize, allowance: &Arc<Allowance>) -> bool {
        let Some(needed) = self.bytes.len().checked_add(count).filter(|needed| *needed <= block_size) else {
            return false;
        };
        while self.room < needed {
            if !self.grow(needed, block_size, allowance) {
                return false;
            }
        }
        true
    }

    /// Appends some of `data`: how much; 0 when there is no memory. There must be less than a block in it.
    pub fn append(&mut self, data: &[u8], block_size: usize, allowance: &Arc<Allowance>) -> usize {
        let wanted = self.bytes.len().saturating_add(data.len());
        if self.bytes.len() == self.room && !self.grow(wanted, block_size, allowance) {
            return 0;
        }
        let count = data.len().min(self.room - self.bytes.len());
        self.bytes.extend_from_slice(&data[..count]);
        count
    }

    pub fn into_parts(self) -> (Vec<u8>, Vec<Lease>) {
        (self.bytes, self.leases)
    }
}
