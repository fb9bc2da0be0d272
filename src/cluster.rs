//! The embedded cluster: a complete single-process Arvados for one machine, for demos and for tests.
//!
//! Two halves meet here. The API half ([`api`] and what it uses) keeps the records in SQLite and answers as the real
//! controller and Rails server do; the other half is the process around it: listeners, TLS, the Keep data plane, the
//! websocket, the command line. They share the [`configuration`] and the [`clock`], both replaceable at run time,
//! because tests must be able to make a signature expire or a second pass.
//!
//! What must stay true: nobody gets a private way in. The mount and the tests speak HTTP to this cluster as they would
//! to any other.

pub mod answer;
pub mod api;
pub mod authentication;
pub mod call;
pub mod certificate;
pub mod clock;
pub mod computed_permissions;
pub mod configuration;
pub mod contents;
pub mod directory;
pub mod discovery;
pub mod faults;
pub mod filter;
pub mod keepproxy;
pub mod keepstore;
pub mod list;
pub mod listeners;
pub mod metrics;
pub mod options;
pub mod permission;
pub mod present;
pub mod process;
pub mod public_config;
pub mod record;
pub mod request;
pub mod request_log;
pub mod router;
pub mod save;
pub mod seed;
pub mod store;
pub mod trash;
pub mod vocabulary;
pub mod websocket;

pub use options::{FIRST_ADMINISTRATOR, FIRST_USER, KeepstoreLayout, Options};
pub use process::{Cluster, Running, StartError};
