//! `arvados`: Arvados Keep as a file system, and a small Arvados cluster to go with it.
//!
//! The map of the house. Imports point downward in this table; `keep` and `tree` do no I/O.
//!
//! | module | owns | may use |
//! |---|---|---|
//! | [`cli`] | one file per subcommand: parsing, help, exit codes, progress bars | all |
//! | [`fuse`] | `fuse3` requests ⇄ `vfs`; mounting, unmounting, the daemon. No Arvados knowledge | `vfs` |
//! | [`vfs`] | what a front end sees: nodes, handles, the site tree (`by_id`, `home`, …), errno | `actors`, `cache` |
//! | [`actors`] | who changes what: supervisor, one actor per collection, one per listing | all below |
//! | [`dirty`] | what was written and is not in Keep yet: memory, backing files, uploads | `cache`, `remote`, `keep` |
//! | [`cache`] | blocks by hash: memory budget, table of fetches in flight | `keep`, `remote` |
//! | [`journal`] | the log on disk that makes a crash of the mount harmless | `dirty::content` |
//! | [`remote`] | the network: API, Keep, events, settings | `keep` |
//! | [`tree`] | the file tree of a collection: compact base, overlay of edits, three-way merge. Pure | `keep` |
//! | [`keep`] | locators, manifests, portable data hashes, permission signatures. Pure | – |
//! | [`cluster`] | the embedded cluster: API, Keep and websocket in one process | `keep` |
//! | [`telemetry`] | tracing set-up and metric names | – |
//!
//! Two rules hold everywhere. State that changes belongs to an actor, and a reader never waits for one: it works on an
//! immutable snapshot that the actor has published. And nothing that came from outside (a manifest, a server's answer,
//! a setting) is trusted: it is parsed into a type of ours or refused with a message that says what, where and what to do.

pub mod actors;
pub mod cache;
pub mod cli;
pub mod cluster;
pub mod dirty;
pub mod fuse;
pub mod journal;
pub mod keep;
pub mod remote;
pub mod telemetry;
pub mod tree;
pub mod vfs;
