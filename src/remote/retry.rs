//! When a failed request is sent again, and how long after.
//!
//! Pauses grow exponentially and are drawn at random, so that a hundred mounts that lost the same server do not come
//! back in step. The number of repetitions is the user's (`--retries`); the deadline bounds the whole, however many
//! are left, because somebody waits in a system call for the outcome.

use rand::RngExt;
use std::time::{Duration, SystemTime};

/// How often and how long a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Repetitions after the first attempt.
    pub count: u32,
    /// From the start of the first attempt to the end of the last one.
    pub deadline: Duration,
}

impl Default for Retries {
    /// Ten repetitions (as the SDK, protocol.md 10) within five minutes (the SDK's limit for a single attempt).
    fn default() -> Retries {
        Retries { count: 10, deadline: Duration::from_secs(300) }
    }
}

/// Which failures of a request allow to send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The request may be applied twice without harm: repeated after every temporary failure.
    Harmless,
    /// Repeated only where the server cannot have applied it: no connection, or 429 and 503, which servers answer
    /// before they do anything (protocol.md 10). After a lost answer the caller looks what became of it.
    Unapplied,
}

impl Repeat {
    /// Whether a request that was answered with `status` may be sent again.
    pub fn after_status(self, status: u16) -> bool {
        match self {
            Repeat::Harmless => is_temporary(status),
            Repeat::Unapplied => matches!(status, 429 | 503),
        }
    }
}

/// Whether `status` says that the same request may succeed later: 5xx, 429, and the 408 and 423 of proxies. Not 409,
/// which the SDK repeats too: no part of Arvados sends it for a passing state (protocol.md 10).
pub fn is_temporary(status: u16) -> bool {
    matches!(status, 408 | 423 | 429 | 500..=599) && status != 501 && status != 507
}

/// The pause before repetition number `repetition` (1, 2, …): between half and the whole of 0.5 s · 2ⁿ⁻¹, at most 30 s.
/// Shorter at first than the SDK's (0 to 2 s, 0 to 4 s, …): most failures are a server that restarts, and somebody waits.
pub fn pause(repetition: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(30);
    let full = FIRST.saturating_mul(1 << repetition.saturating_sub(1).min(16)).min(LONGEST);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// The pause a server asked for in `Retry-After`: seconds, or an HTTP date. `None` for what is neither.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value.trim()).ok()?;
    Some(SystemTime::from(date).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_380_943);
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 22 Nov 2026 20:56:43 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Sun, 22 Nov 2020 20:56:43 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn what_may_have_been_applied_is_not_sent_again() {
        for status in [408, 500, 502, 504] {
            assert!(Repeat::Harmless.after_status(status) && !Repeat::Unapplied.after_status(status), "{status}");
        }
        for status in [429, 503] {
            assert!(Repeat::Harmless.after_status(status) && Repeat::Unapplied.after_status(status), "{status}");
        }
        for status in [400, 401, 403, 404, 409, 422, 501, 507] {
            assert!(!Repeat::Harmless.after_status(status) && !Repeat::Unapplied.after_status(status), "{status}");
        }
    }

    proptest! {
        #[test]
        fn pauses_grow_and_are_bounded(repetition in 0u32..) {
            let pause = pause(repetition);
            prop_assert!(pause >= Duration::from_millis(250) && pause <= Duration::from_secs(30));
        }

        #[test]
        fn no_header_makes_it_panic(value in ".*") {
            retry_after(&value, SystemTime::UNIX_EPOCH);
        }
    }
}
