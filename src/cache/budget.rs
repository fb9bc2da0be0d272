//! The memory budget: how much all data in memory may be together, and who waits when it is used up.
//!
//! Everything large holds a [`Charge`] for its bytes, from before they are allocated until after they are freed. Blocks
//! are charged before their fetch starts, so hundreds of readers in hundreds of blocks wait for each other instead of
//! filling the memory, and a block is charged until the last slice of it is dropped, wherever it went.
//!
//! What is kept only because it may be useful again ([`Reclaim`]: the block cache) is asked to let go when somebody needs
//! room. Those who wait are served strictly in order, so a large request is not starved by small ones.
//!
//! Deadlock: the one at the head of the queue waits for charges to be dropped. Nobody may therefore hold a charge while
//! waiting for another one from the same budget. A fetch takes exactly one; a reader takes none and only holds slices
//! while its answer is on the way to the kernel.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

/// How often the head of the queue asks again for what may be let go: time alone makes more of it reclaimable.
const TICK: Duration = Duration::from_millis(50);

/// Somebody who keeps things in memory that can be had again.
pub trait Reclaim: Send + Sync {
    /// Lets go of `bytes` or more if possible. Must not block and must not wait for the budget.
    fn reclaim(&self, bytes: usize);
}

/// A number of bytes that must not be exceeded. Shared by `Arc`.
pub struct Budget {
    capacity: usize,
    used: AtomicUsize,
    highest: AtomicUsize,
    waiting: AtomicUsize,
    /// Whose turn it is. Fair: those who wait get it in the order in which they came.
    turn: Mutex<()>,
    released: Notify,
    reclaim: OnceLock<Weak<dyn Reclaim>>,
}

/// The budget cannot give that much, now or ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes do not fit into a memory limit of {capacity} bytes: raise --memory-limit")]
pub struct TooLarge {
    pub wanted: usize,
    pub capacity: usize,
}

/// Permission to hold a number of bytes, given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.released.notify_one();
    }
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Budget({} of {} bytes used)", self.used(), self.capacity)
    }
}

/// Somebody waits, for as long as this lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Waiting<'a> {
        count.fetch_add(1, Ordering::AcqRel);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Budget {
    /// A budget of `capacity` bytes.
    pub fn new(capacity: usize) -> Arc<Budget> {
        Arc::new(Budget {
            capacity,
            used: AtomicUsize::new(0),
            highest: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            turn: Mutex::new(()),
            released: Notify::new(),
            reclaim: OnceLock::new(),
        })
    }

    /// Names who lets go when there is no room. Only the first call counts.
    pub fn set_reclaim(&self, reclaim: Weak<dyn Reclaim>) {
        drop(self.reclaim.set(reclaim));
    }

    /// All there is, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes charged now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// The most that was ever charged at once.
    pub fn highest(&self) -> usize {
        self.highest.load(Ordering::Acquire)
    }

    /// How many wait for room now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Charges `bytes` if that is possible without waiting and without anybody letting go of something.
    pub fn try_charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if self.waiting() > 0 {
            return None;
        }
        self.take(bytes)
    }

    /// Charges `bytes` without waiting: who lets go is asked once, if there is no room.
    pub fn try_charge_or_reclaim(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if self.waiting() > 0 || bytes > self.capacity {
            return None;
        }
        if let Some(charge) = self.take(bytes) {
            return Some(charge);
        }
        let reclaim = self.reclaim.get().and_then(Weak::upgrade)?;
        reclaim.reclaim(bytes.saturating_sub(self.capacity.saturating_sub(self.used())));
        self.take(bytes)
    }

    /// Charges `bytes`, waiting for room as long as it takes. Dropping the future gives the place in the queue up.
    pub async fn charge(self: &Arc<Self>, bytes: usize) -> Result<Charge, TooLarge> {
        if bytes > self.capacity {
            return Err(TooLarge { wanted: bytes, capacity: self.capacity });
        }
        if let Some(charge) = self.try_charge(bytes) {
            return Ok(charge);
        }
        let _waiting = Waiting::new(&self.waiting);
        let _turn = self.turn.lock().await;
        loop {
            if let Some(charge) = self.take(bytes) {
                return Ok(charge);
            }
            if let Some(reclaim) = self.reclaim.get().and_then(Weak::upgrade) {
                let free = self.capacity.saturating_sub(self.used());
                reclaim.reclaim(bytes.saturating_sub(free));
            }
            if let Some(charge) = self.take(bytes) {
                return Ok(charge);
            }
            // A tick without a release is no failure: the loop looks again.
            drop(timeout(TICK, self.released.notified()).await);
        }
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.capacity);
        let before = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        self.highest.fetch_max(before + bytes, Ordering::AcqRel);
        Some(Charge { budget: self.clone(), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex as StdMutex;

    #[tokio::test]
    async fn more_than_everything_is_refused_at_once() {
        assert_eq!(Budget::new(10).charge(11).await.unwrap_err(), TooLarge { wanted: 11, capacity: 10 });
    }

    #[tokio::test]
    async fn who_waits_is_served_in_order_and_small_ones_do_not_overtake() {
        let budget = Budget::new(10);
        let held = budget.charge(8).await.unwrap();
        let order = Arc::new(StdMutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (number, bytes) in [(1, 10), (2, 1), (3, 1)] {
            let (budget, order) = (budget.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let charge = budget.charge(bytes).await.unwrap();
                order.lock().unwrap().push(number);
                drop(charge);
            }));
            tokio::task::yield_now().await;
        }
        assert!(budget.try_charge(1).is_none(), "nobody overtakes those who wait");
        assert_eq!(budget.waiting(), 3);
        drop(held);
        for task in tasks {
            timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
        assert_eq!((budget.used(), budget.highest(), budget.waiting()), (0, 10, 0));
    }

    #[tokio::test]
    async fn who_gives_up_waiting_does_not_block_the_others() {
        let budget = Budget::new(10);
        let held = budget.charge(10).await.unwrap();
        assert!(timeout(Duration::from_secs(1), budget.charge(10)).await.is_err());
        drop(held);
        timeout(Duration::from_secs(1), budget.charge(10)).await.unwrap().unwrap();
    }

    struct Hoard(StdMutex<Vec<Charge>>);

    impl Reclaim for Hoard {
        fn reclaim(&self, bytes: usize) {
            let mut hoard = self.0.lock().unwrap();
            let mut freed = 0;
            while freed < bytes
                && let Some(charge) = hoard.pop()
            {
                freed += charge.bytes();
            }
        }
    }

    #[tokio::test]
    async fn what_is_only_kept_makes_room_but_no_more_than_needed() {
        let budget = Budget::new(10);
        let hoard = Arc::new(Hoard(StdMutex::default()));
        let weak: Weak<Hoard> = Arc::downgrade(&hoard);
        budget.set_reclaim(weak);
        for _ in 0..5 {
            hoard.0.lock().unwrap().push(budget.try_charge(2).unwrap());
        }
        let charge = timeout(Duration::from_secs(1), budget.charge(3)).await.unwrap().unwrap();
        assert_eq!((hoard.0.lock().unwrap().len(), charge.bytes(), budget.used()), (3, 3, 9));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_budget_is_never_exceeded(sizes in prop::collection::vec(0usize..=100, 1..40), capacity in 100usize..200) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
            let budget = Budget::new(capacity);
            let held = Arc::new(AtomicUsize::new(0));
            runtime.block_on(async {
                let mut tasks = Vec::new();
                for bytes in sizes {
                    let (budget, held) = (budget.clone(), held.clone());
                    tasks.push(tokio::spawn(async move {
                        let charge = budget.charge(bytes).await.unwrap();
                        assert!(held.fetch_add(bytes, Ordering::SeqCst) + bytes <= capacity);
                        tokio::task::yield_now().await;
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        drop(charge);
                    }));
                }
                for task in tasks {
                    timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
                }
            });
            prop_assert_eq!(budget.used(), 0);
            prop_assert!(budget.highest() <= capacity);
        }
    }
}
