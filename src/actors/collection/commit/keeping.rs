//! Asking the server to keep the version that the next change replaces.

use crate::actors::collection::guard::CommitGuard;
use crate::actors::{Environment, Error};
use crate::remote::api::{Collection, CollectionUpdate, ManifestSink, Record};
use crate::remote::retry;
use serde_json::json;

/// How things are under the condition that no change of others goes without a new version (protocol.md 4.12): asks for that, where
/// it is wanted and the cluster keeps versions. `select` nothing and a sink to have the manifest too.
pub(in crate::actors::collection) async fn read_kept(
    environment: &Environment,
    uuid: &str,
    select: &[&str],
    manifest: Option<&mut dyn ManifestSink>,
) -> Result<Record<Collection>, Error> {
    let api = &environment.api;
    let guard = environment.writing.as_ref().map_or(CommitGuard::None, |writing| writing.guard);
    let is_versioned = api.config().await?.collections.collection_versioning.unwrap_or(true);
    if guard == CommitGuard::None || !is_versioned {
        return Ok(api.collection(uuid, select, manifest).await?);
    }
    keep_and_read(environment, uuid, select, manifest).await
}

/// Asks for old versions to be kept, whatever the guard, and says how things are.
///
/// The server reads a record without a lock, so its answer can be older than the change of somebody who came in that moment. Under
/// `strict` the record is read again therefore. Otherwise it is not: what would be overwritten is kept as a version
/// then, and the event of our save tells of it.
pub(super) async fn keep_and_read(
    environment: &Environment,
    uuid: &str,
    select: &[&str],
    manifest: Option<&mut dyn ManifestSink>,
) -> Result<Record<Collection>, Error> {
    let api = &environment.api;
    let is_strict = environment.writing.as_ref().is_some_and(|writing| writing.guard == CommitGuard::Strict);
    let mut update =
        CollectionUpdate { select: select.iter().map(|name| (*name).to_owned()).collect(), ..Default::default() };
    update.attributes.insert("preserve_version".into(), json!(true));
    update.repeat = retry::Repeat::Harmless;
    if is_strict {
        update.select = vec!["uuid".to_owned()];
        api.update_collection(uuid, &update, None).await?;
        return Ok(api.collection(uuid, select, manifest).await?);
    }
    Ok(api.update_collection(uuid, &update, manifest).await?)
}
