//! Changes on the cluster, as they happen.

pub mod event;

pub use event::{Attributes, Event, EventType, Properties};
