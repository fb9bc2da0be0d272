//! The API server: records of collections, projects, users, links and logs.
//!
//! [`Api`] is what the rest of the program sees; [`HttpApi`] is the one that talks to a cluster. Records are typed by
//! what a mount needs ([`records`]); where a user sees the record itself (`.arvados#collection`) the whole of it comes
//! along as JSON. Lists come a page at a time ([`query`]); [`paging`] walks all pages of the lists that a mount shows.
//!
//! A manifest can be larger than everything else together, and it arrives as one JSON string. It is therefore never
//! part of a record: [`document`] takes it out of the answer while it arrives and hands it to a [`ManifestSink`].

use crate::remote::error::Result;
use async_trait::async_trait;
use std::sync::Arc;

pub mod client;
pub mod document;
pub mod paging;
pub mod query;
pub mod records;

pub use client::HttpApi;
pub use document::ManifestSink;
pub use query::{CollectionUpdate, Filter, Page, Query};
pub use records::{
    Collection, Discovery, Group, KeepService, Link, LoggedManifests, Object, PublicConfig, Record, User,
};

use crate::remote::events::Event;

/// What a client of a cluster can ask of its API server. Object-safe, so that tests can put another in its place.
///
/// Every method fails with [`crate::remote::Error`]: `Api` with the server's status and messages, `Network` or
/// `Deadline` when there is no answer. All wait at most as long as the implementation was told to; dropping the future
/// cancels the request.
#[async_trait]
pub trait Api: Send + Sync {
    /// The discovery document (protocol.md 1.1); fetched once and kept.
    async fn discovery(&self) -> Result<Arc<Discovery>>;
    /// The public configuration (protocol.md 2.6); fetched once and kept.
    async fn config(&self) -> Result<Arc<PublicConfig>>;
    /// The user that the token belongs to.
    async fn current_user(&self) -> Result<Record<User>>;
    /// A user by uuid.
    async fn user(&self, uuid: &str) -> Result<Record<User>>;
    /// A collection by uuid or portable data hash (`uuid` of the answer is then the hash, and most fields are empty:
    /// protocol.md 4.3). `select` limits the attributes, empty means all. The manifest, signed for our token, goes to
    /// `manifest` while it arrives; without a sink it is dropped (better not select it then).
    async fn collection(
        &self,
        id: &str,
        select: &[&str],
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Record<Collection>>;
    /// One page of collections, without their manifests.
    async fn collections(&self, query: &Query) -> Result<Page<Collection>>;
    /// A project, filter group or role by uuid.
    async fn group(&self, uuid: &str) -> Result<Record<Group>>;
    /// One page of groups.
    async fn groups(&self, query: &Query) -> Result<Page<Group>>;
    /// One page of what is in a project, filter group or a user's home; of everything readable without `uuid`.
    async fn contents(&self, uuid: Option<&str>, query: &Query) -> Result<Page<Object>>;
    /// One page of the groups that others share with us; their owners, as far as readable, in `included` when the
    /// query asks for it.
    async fn shared(&self, query: &Query) -> Result<Page<Group>>;
    /// One page of links.
    async fn links(&self, query: &Query) -> Result<Page<Link>>;
    /// One page of log records, as the events that they are.
    async fn logs(&self, query: &Query) -> Result<Page<Event>>;
    /// What a log record says of a collection's content; `None` if we cannot see such a record.
    async fn logged_manifests(&self, log: u64) -> Result<Option<LoggedManifests>>;
    /// The Keep services that can be reached from here (protocol.md 8.1).
    async fn keep_services(&self) -> Result<Vec<KeepService>>;
    /// Makes a collection. The answer's manifest is dropped unless there is a sink for it.
    async fn create_collection(
        &self,
        update: &CollectionUpdate,
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Record<Collection>>;
    /// Changes a collection (protocol.md 4.2, 4.6, 4.12).
    async fn update_collection(
        &self,
        uuid: &str,
        update: &CollectionUpdate,
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Record<Collection>>;
    /// Puts a collection into the trash (protocol.md 4.4); repeating it does no harm.
    async fn delete_collection(&self, uuid: &str) -> Result<()>;
}
