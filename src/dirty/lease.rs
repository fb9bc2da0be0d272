//! Permission for dirty bytes in memory: a charge to the budget and a share of what dirty data may have of it.

use crate::cache::{Budget, Charge};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much dirty data there is in memory and may be.
pub(super) struct Allowance {
    pub budget: Arc<Budget>,
    pub limit: usize,
    used: AtomicUsize,
}

/// Given back when dropped.
pub(super) struct Lease {
    allowance: Arc<Allowance>,
    charge: Charge,
}

impl Allowance {
    pub fn new(budget: Arc<Budget>, limit: usize) -> Arc<Allowance> {
        Arc::new(Allowance { budget, limit, used: AtomicUsize::new(0) })
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Never waits.
    pub fn lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        match self.budget.try_charge_or_reclaim(bytes) {
            Some(charge) => Some(Lease { allowance: self.clone(), charge }),
            None => {
                self.used.fetch_sub(bytes, Ordering::AcqRel);
                None
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.allowance.used.fetch_sub(self.charge.bytes(), Ordering::AcqRel);
    }
}
