//! The vocabulary of Keep: block hashes, locators, manifests, portable data hashes and permission signatures.
//!
//! Everything here is a pure function of its arguments: no I/O, no clock, no async. Clients (`tree`, `remote`, `cache`)
//! and the embedded cluster use the same code, which is what makes a client's prediction of what the server will store
//! (`protocol.md` 4.12, condition A) more than a guess: it is the server's own code that predicts.
//!
//! | file | owns |
//! |---|---|
//! | [`hash`] | the MD5 of a block |
//! | [`locator`] | `hash+size+hints`, with its signature kept out of logs |
//! | [`portable_data_hash`] | the name of a collection's content |
//! | [`quote`] | texts in messages, as the controller quotes them |
//! | [`signature`] | permission signatures: making, checking, stripping, for a locator and for a manifest |
//! | [`manifest`] | the text of a collection: lines, names, what the API server accepts, the two normal forms |
//! | [`replace_files`] | what the server makes of `replace_files` and `replace_segments` |
//!
//! Two rules. What a server gave out is read as it is, however odd (`protocol.md` 5.3, last paragraph), and kept verbatim
//! where it may be sent back. And a signature is a password: no `Debug` and no error of these modules shows one.

pub mod hash;
pub mod locator;
pub mod manifest;
pub mod portable_data_hash;
pub mod quote;
pub mod replace_files;
pub mod signature;

pub use hash::BlockHash;
pub use locator::Locator;
pub use portable_data_hash::PortableDataHash;

/// The most bytes a block may have, 2^26 (`protocol.md` 5.1).
pub const MAX_BLOCK_SIZE: u64 = 1 << 26;
