//! Data that was written through the mount and is not yet in Keep, bounded in memory and on disk.
//!
//! A [`DirtyFile`] is an interval map over `[0, size)` that says of each run of bytes where it is: in Keep, in a full block
//! on the way there, in the one buffer at which the file grows, in a sparse scratch file at the same offset, or nowhere
//! (a hole). Sequential writes go to the buffer and leave it as full blocks in the background; all others go to the scratch
//! file. What is left is packed, over files, into blocks when the owner wants to commit: [`DirtyStore::settle`].
//!
//! What this mount has stored and no commit has named yet may have to be stored again: its signature is for one token and one time.
//! What was in the backing file stays there until then, a short last piece in memory, and the rest can be fetched back
//! (`renew`); a record for the journal has bytes instead of locators wherever they are at hand (`persist`).
//!
//! A backing file of which a file needs nothing any more is no longer the file's, however long somebody has that open: it is left to
//! the records that speak of it, and goes when none does ([`DirtyStore::sweep`]). What is written next goes to another one.
//!
//! Locks: each file has a writer's turn (async; one write, truncate, persist or settle at a time) and a short lock over its
//! state, never held over I/O or an await. Settle takes the turns of its files in the order of their numbers. Nobody waits
//! for the memory budget while a lock of ours that a reader wants is held; what dirty data may hold of the budget is
//! limited so that a block for settling always fits beside it.
//!
//! Memory: what is in a tail or a sealed block is leased before it is there, and there is one copy of it, also while it grows, goes
//! to the scratch file (in small steps) or is on its way. Besides there is only the request that brings it, until it is answered.

pub mod content;
pub mod error;
mod extents;
pub mod file;
mod lease;
mod own_ends;
mod persist;
mod renew;
pub mod scratch;
mod sealed;
mod settle;
mod state;
pub mod store;
mod tail;

pub use content::Content;
pub use error::Error;
pub use file::{DirtyFile, Part, Place};
pub use renew::{Answers, Copied};
pub use scratch::{Backing, Scratch};
pub use settle::Settled;
pub use store::{DirtyStore, Figures, Options};

#[cfg(test)]
mod tests;
