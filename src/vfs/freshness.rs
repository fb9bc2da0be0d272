//! For how long a front end may believe what it was told. One place, because it is a promise to users.
//!
//! Changes made elsewhere must show: one second plus one request after an event told of them, and where no event tells, after the
//! time in which we look again ourselves (`--refresh-time`). Content under a portable data hash cannot change: there the limit is
//! practically none. For what can change:
//!
//! * **Two seconds** where nothing tells the front end. That is so without events (`--disable-event-listening`), while the
//!   websocket is down (a poll of the log comes 15 seconds late), and for what was looked up in a listing that is not complete:
//!   nothing is compared with it later. It is so in magic directories, where nobody watches over the names that were found,
//!   and inside of collections: how old the answer is that it was taken from does not come along with it yet.
//! * **Up to a minute** for names of a complete listing while events come over the websocket. An event marks the listing, a marked
//!   listing that is in use is read again within a second, and what is different is told ([`crate::actors::news`]). It is in use
//!   as long as the front end knows a name in it, so nothing that is remembered is without somebody who watches over it. An
//!   answer that was worked out before a change and arrives after it is no exception: the front end's notifier lets
//!   the requests of a directory finish before it speaks of its names.
//!   Not every change makes an event ([`crate::actors::event`] lists them), so the limit is never longer than the time after
//!   which we would look again ourselves: what no event tells is seen no later than without this rule.
//! * **Half a minute** at most for a name that is missing there. An object that nobody counts on is dropped after two sweeps,
//!   [`crate::vfs::site`], and a missing name is nothing to count on.
//!
//! When the websocket is lost, what the front end remembers already is remembered for no longer than we believe the listing that
//! it was taken from. After that there are two seconds again. Events that were missed are sent again when the connection is
//! back, or everything is marked.

use std::time::Duration;

/// For what cannot change.
pub const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// For what others may change while nothing tells of it: long enough for one `ls -l` or one run of `git status` to be answered
/// from the kernel's memory, short enough that a user who looks twice sees the change. Never more than the time after which
/// we look again ourselves.
const BRIEF: Duration = Duration::from_secs(2);

/// For a name that is missing where it may appear. Users create something and look for it at once.
const MISSING: Duration = Duration::from_secs(1);

/// For names whose changes are told: bounds what a notification that is lost may cost, on kernels that cannot let all names
/// expire at once.
const TOLD: Duration = Duration::from_secs(60);

/// For missing names that would be told when they appear: as long as the directory's object lives without a user.
const TOLD_MISSING: Duration = super::site::SWEEP;

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

    /// For names and attributes in a listing, `told`: for how long it is sure that changes are told or looked for.
    pub fn of_listed(self, told: Option<Duration>) -> Duration {
        told.map_or(self.brief, |told| told.clamp(self.brief, TOLD))
    }

    /// For names that are not in a listing.
    pub fn of_unlisted(self, told: Option<Duration>) -> Duration {
        let brief = self.brief.min(MISSING);
        told.map_or(brief, |told| told.clamp(brief, TOLD_MISSING))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_remembered_for_longer_than_somebody_watches_over_it() {
        let seconds = Duration::from_secs;
        let freshness = Freshness::new(seconds(15));
        assert_eq!((freshness.of_listed(None), freshness.of_unlisted(None)), (seconds(2), seconds(1)));
        assert_eq!(freshness.of_listed(Some(seconds(9))), seconds(9));
        assert_eq!(freshness.of_listed(Some(Duration::ZERO)), seconds(2));
        assert_eq!(freshness.of_listed(Some(seconds(3600))), seconds(60));
        assert_eq!(freshness.of_unlisted(Some(seconds(3600))), seconds(30));
        assert_eq!(Freshness::new(Duration::ZERO).of_listed(Some(Duration::ZERO)), Duration::ZERO);
    }
}
