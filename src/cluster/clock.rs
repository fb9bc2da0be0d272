//! What time it is for the cluster, and how Arvados writes times down.
//!
//! The time is a trait because tests must be able to let a token expire, a collection become idle or a trash period
//! pass without waiting for it. Every part of the cluster asks this clock and never the system.
//!
//! A [`Timestamp`] has the precision of the real server's database, microseconds, and is written with exactly nine
//! fractional digits (protocol.md 3.2). Text written so sorts like the times themselves, which is why the store keeps
//! the text: an index on it is an index on the time, and what a client sends back in a filter compares exactly.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};

/// A source of the current time.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The clock of the machine, shifted by an offset that can be changed while the cluster runs.
#[derive(Debug, Default)]
pub struct ShiftedClock {
    offset_micros: AtomicI64,
}

impl ShiftedClock {
    /// Makes the clock show `now` at this moment; from there it runs on at normal speed.
    pub fn set(&self, now: Timestamp) {
        self.offset_micros.store(now.micros() - SystemClock.now().micros(), Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.offset_micros.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().micros() + self.offset_micros.load(Ordering::SeqCst))
    }
}

/// A moment, in whole microseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since 1970.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This moment and a duration later; stays at the end of time instead of overflowing.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This moment and a duration earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Reads what clients send: ISO 8601 with or without fraction, zone (absent: UTC) or time of day. `None` when the
    /// text is no time. Digits beyond the microsecond are dropped, as the real server's database does.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Some(Self(time.timestamp_micros()));
        }
        for format in
            ["%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f %z", "%Y-%m-%dT%H:%M%z"]
        {
            if let Ok(time) = DateTime::parse_from_str(text, format) {
                return Some(Self(time.timestamp_micros()));
            }
        }
        let plain = text.strip_suffix(" UTC").or_else(|| text.strip_suffix('Z')).unwrap_or(text);
        for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"] {
            if let Ok(time) = NaiveDateTime::parse_from_str(plain, format) {
                return Some(Self(Utc.from_utc_datetime(&time).timestamp_micros()));
            }
        }
        let date = NaiveDate::parse_from_str(plain, "%Y-%m-%d").ok()?;
        Some(Self(Utc.from_utc_datetime(&date.and_time(NaiveTime::MIN)).timestamp_micros()))
    }

    fn date_time(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// With a fraction of as many digits as it needs and no more: how websocket frames write `event_at` (protocol.md
    /// 9.3).
    pub fn short(self) -> String {
        let whole = self.date_time().format("%Y-%m-%dT%H:%M:%S").to_string();
        let fraction = format!("{:06}", self.0.rem_euclid(1_000_000));
        match fraction.trim_end_matches('0') {
            "" => format!("{whole}Z"),
            digits => format!("{whole}.{digits}Z"),
        }
    }
}

impl fmt::Display for Timestamp {
    /// As in every API answer: UTC, nine fractional digits, the last three of them zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.date_time().format("%Y-%m-%dT%H:%M:%S%.6f000Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_nine_digits_and_read_back_exactly() {
        let text = "2026-11-22T14:01:10.130740000Z";
        let time = Timestamp::parse(text).unwrap();
        assert_eq!(time.to_string(), text);
        assert_eq!(time.short(), "2026-11-22T14:01:10.13074Z");
        assert_eq!(Timestamp::from_micros(0).short(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn every_form_that_clients_send_is_read() {
        let want = "2027-01-01T00:00:00.123456000Z";
        for text in [
            "2027-01-01T00:00:00.123456Z",
            "2027-01-01T00:00:00.123456789Z",
            "2027-01-01 00:00:00.123456",
            "2027-01-01T02:00:00.123456+02:00",
            "2027-01-01T02:00:00.123456+0200",
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), want, "{text}");
        }
        assert_eq!(Timestamp::parse("2027-01-01").unwrap().to_string(), "2027-01-01T00:00:00.000000000Z");
        for text in ["nonsense", "", "2027", "2027-13-01"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_shifted_clock_runs_on_from_where_it_was_set() {
        let clock = ShiftedClock::default();
        let then = Timestamp::parse("2030-05-05T05:05:05Z").unwrap();
        clock.set(then);
        assert!(clock.now() >= then && clock.now() < then.plus(Duration::from_secs(60)));
        clock.advance(Duration::from_secs(3600));
        assert!(clock.now() >= then.plus(Duration::from_secs(3600)));
    }
}
