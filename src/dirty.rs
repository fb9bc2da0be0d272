//! What was written through the mount and is not in Keep yet.
//!
//! A [`DirtyFile`] is the whole content of one file: runs of bytes that are in Keep, on the way there, in memory, in a backing
//! file on disk, or nowhere (holes). What is written one after the other collects in memory (the *tail*) and leaves for Keep as
//! soon as it makes a whole block, with one copy in memory from the write to the network. What is written here and there goes
//! straight to the backing file, at the place that it has in the file: overwriting costs nothing, and a file with a million
//! small writes is a few runs. So memory is bounded by the number of tails, and those by the [`DirtyStore`]'s limit; when
//! it is used up, writers wait for uploads that are under way, and if there are none, their data go to the disk.
//!
//! [`DirtyStore::settle`] brings files to Keep for good, small ones together in shared blocks.
//!
//! Locks: each file has a short mutex around its runs, never held over an await or over input and output, and a fair one that makes
//! writes, truncations and settling follow each other. Settling takes the latter of many files, always in the order of
//! their addresses, so that two who settle cannot wait for each other. Nobody who holds a charge of the memory budget
//! in a future waits for another; tails hold theirs at rest, and the store's limit leaves room for the largest block beside
//! all of them.

pub mod content;
mod error;
mod extents;
mod file;
mod scratch;
mod settling;
mod store;
#[cfg(test)]
mod tests;

pub use content::{Content, Extent, Source};
pub use error::Error;
pub use file::{DirtyFile, Part, Place};
pub use scratch::{Backing, Scratch};
pub use settling::Settled;
pub use store::{DirtyStore, Figures, Options};
