//! For how long a front end may believe what it was told. One place, because it is a promise to users.
//!
//! Changes made elsewhere must show within seconds. As long as nothing tells the kernel of a change (invalidation comes
//! with the write engine), only the time limit does, so it is short for everything that has a uuid. Content under a
//! portable data hash cannot change: there the limit is practically none.

use std::time::Duration;

/// For what cannot change.
pub const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// For what others may change: long enough for one `ls -l` or one run of `git status` to be answered from the kernel's
/// memory, short enough that a user who looks twice sees the change. Never more than the time after which we look
/// again ourselves.
const BRIEF: Duration = Duration::from_secs(2);

/// For a name that is missing where it may appear. Users create something and look for it at once.
const MISSING: Duration = Duration::from_secs(1);

/// The limits of one mount.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    brief: Duration,
}

impl Freshness {
    /// `refresh`: after how long what can change is looked at again.
    pub fn new(refresh: Duration) -> Freshness {
        Freshness { brief: BRIEF.min(refresh) }
    }

    /// For names and attributes that are there.
    pub fn of(self, is_immutable: bool) -> Duration {
        if is_immutable { FOR_EVER } else { self.brief }
    }

    /// For names that are not there.
    pub fn of_missing(self, is_immutable: bool) -> Duration {
        if is_immutable { FOR_EVER } else { self.brief.min(MISSING) }
    }
}
