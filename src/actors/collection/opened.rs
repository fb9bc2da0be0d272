//! Which files somebody here has opened: what the front end knows and the actor has to.
//!
//! The front counts handles and says what it opens, without asking the actor; the actor looks, and enters what other clients have
//! brought. Sharded maps, of which each operation takes one lock for a look-up: leaves.

use dashmap::DashMap;
use std::time::{Duration, Instant};

/// Which files have handles, of whatever kind: what is unlinked stays as long as somebody has it open. Counted by the front,
/// looked at by the actor; a sharded map, and a leaf.
#[derive(Debug, Default)]
pub struct OpenFiles {
    counts: DashMap<u32, usize>,
}

impl OpenFiles {
    pub fn add(&self, number: u32) {
        *self.counts.entry(number).or_default() += 1;
    }

    /// Returns whether that was the last one.
    pub fn remove(&self, number: u32) -> bool {
        if let Some(mut count) = self.counts.get_mut(&number) {
            *count = count.saturating_sub(1);
        }
        self.counts.remove_if(&number, |_, count| *count == 0).is_some()
    }

    pub fn contains(&self, number: u32) -> bool {
        self.counts.contains_key(&number)
    }
}

/// For so long what another client has brought counts as something that a program here need not know of. Programs that read a file
/// and then write it anew do so within moments.
const JUST_NOW: Duration = Duration::from_secs(1);

/// More is no file that somebody is about to write anew.
const MOST_UNSEEN: usize = 1_000;

/// Files whose content came from another client just now and which nobody here has opened since. Who empties such a file may have
/// read what it had before. A sharded map, and a leaf.
#[derive(Debug, Default)]
pub struct Unseen {
    since: DashMap<u32, Instant>,
}

impl Unseen {
    pub(super) fn brought(&self, numbers: impl Iterator<Item = u32>) {
        self.since.retain(|_, since| since.elapsed() < JUST_NOW);
        let now = Instant::now();
        for number in numbers.take(MOST_UNSEEN) {
            self.since.insert(number, now);
        }
    }

    /// Somebody has opened it, and can know what is in it.
    pub fn see(&self, number: u32) {
        if !self.since.is_empty() {
            self.since.remove(&number);
        }
    }

    pub(super) fn take(&self, number: u32) -> bool {
        self.since.remove(&number).is_some_and(|(_, since)| since.elapsed() < JUST_NOW)
    }
}
