//! Who changes what. State that changes over time belongs to one actor; everybody else sees what it has published.
//!
//! | actor | owns |
//! |---|---|
//! | [`collection`] | the record of one collection, its tree, what was changed here and is not saved, the signatures of its blocks |
//! | [`listing`] | what is in one project, in the shared directory, among the tags or under one tag |
//! | [`event`] | the connection to the cluster's event stream |
//!
//! [`supervisor`] starts them on demand on a small pool of arbiters, replaces one that failed and stops idle ones.
//!
//! The rules (design, section 3), and why nothing can wait in a circle:
//!
//! * What an actor knows it publishes in a *cell* ([`cell`]): an `ArcSwap` that readers load without asking anybody. Only a
//!   first load, a name that was never looked up, and fresh signatures are asked for by message.
//! * Mailboxes are bounded and senders wait (`send`). A handler changes state and returns without awaiting: I/O runs on
//!   the network runtime ([`work`]) and its result comes back to the actor together with the epoch in which it was
//!   started, so a handler never waits for a mailbox, and a full mailbox always drains.
//! * Messages go down only (`vfs` → actor). Upward there are one-shot replies and `watch` channels. No actor awaits another.
//!   Where collections have moved something to each other, `moves` asks one after the other.
//! * "Look again" is a `watch`: any number of reasons while a fetch is under way make one more fetch, not a queue.

pub mod cell;
mod client;
pub mod collection;
pub mod environment;
pub mod error;
pub mod event;
pub mod filters;
pub mod listing;
mod moves;
pub mod news;
mod project;
pub mod refresh;
pub mod rights;
pub mod supervisor;
pub mod work;

pub use environment::Environment;
pub use error::Error;
pub use supervisor::Supervisor;

/// Messages that may wait for an actor before its senders have to. Small: a handler takes microseconds, and what
/// waits in a mailbox for longer should wait at its sender, where it can be cancelled.
pub const MAILBOX: usize = 64;
