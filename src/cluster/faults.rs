//! Faults on demand, for tests: the control interface of the acceptance suite.
//!
//! Only there when the cluster was started with it. Without it the services hold `None` where their faults would be, and
//! one look at that is all it costs.

pub mod api;
pub mod control;
pub mod journal;
pub mod keep;
mod records;
pub mod rule;

/// Seconds since 1970, as the log of requests has them.
pub fn unix_time() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
