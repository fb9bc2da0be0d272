//! The lists that keep-balance sends: blocks to fetch from other keepstores, blocks to trash.
//!
//! A new list replaces what is left of the old one (protocol.md 7). One worker per list goes through it, item by item, so
//! that balancing never takes more than one connection and one disk operation from the clients. An item that fails is
//! logged and skipped: the next list has it again.

use std::sync::Arc;
use std::time::Duration;

use md5::{Digest, Md5};
use serde::Deserialize;
use tokio::sync::watch;

use super::Keepstore;
use super::hash::{self, BlockHash};
use super::volume::BLOCK_SIZE;

/// A block to fetch.
#[derive(Clone, Debug, Deserialize)]
struct Pull {
    locator: String,
    #[serde(default)]
    servers: Vec<String>,
    #[serde(default)]
    mount_uuid: String,
}

/// A block to trash, as it was when the balancer saw it.
#[derive(Clone, Debug, Deserialize)]
struct Trash {
    locator: String,
    block_mtime: i128,
    #[serde(default)]
    mount_uuid: String,
}

/// The pending lists.
#[derive(Default)]
pub struct Lists {
    pull: watch::Sender<Vec<Pull>>,
    trash: watch::Sender<Vec<Trash>>,
}

/// Reads `null` as an empty list, as Go does.
fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, serde_json::Error> {
    serde_json::from_slice::<Option<Vec<T>>>(body).map(Option::unwrap_or_default)
}

impl Lists {
    /// Replaces the list of blocks to fetch.
    pub fn replace_pull(&self, body: &[u8]) -> Result<(), serde_json::Error> {
        self.pull.send_replace(parse(body)?);
        Ok(())
    }

    /// Replaces the list of blocks to trash.
    pub fn replace_trash(&self, body: &[u8]) -> Result<(), serde_json::Error> {
        self.trash.send_replace(parse(body)?);
        Ok(())
    }
}

/// Works on both lists for as long as the keepstore runs.
pub async fn work(keepstore: Arc<Keepstore>) {
    tokio::join!(
        each(keepstore.lists.pull.subscribe(), |item| pull(&keepstore, item)),
        each(keepstore.lists.trash.subscribe(), |item| trash(&keepstore, item)),
    );
}

async fn each<T: Clone, F: Future<Output = ()>>(mut lists: watch::Receiver<Vec<T>>, work: impl Fn(T) -> F) {
    while lists.changed().await.is_ok() {
        let list = lists.borrow_and_update().clone();
        for item in list {
            if lists.has_changed().unwrap_or(true) {
                break;
            }
            work(item).await;
        }
    }
}

async fn trash(keepstore: &Arc<Keepstore>, item: Trash) {
    let Some(hash) = hash::leading(&item.locator) else { return };
    let keepstore = Arc::clone(keepstore);
    let done = tokio::task::spawn_blocking(move || {
        let configuration = keepstore.configuration.load();
        for volume in
            keepstore.volumes.iter().filter(|volume| item.mount_uuid.is_empty() || volume.uuid == item.mount_uuid)
        {
            let (age, lifetime) = (configuration.blob_signing_ttl, configuration.blob_trash_lifetime);
            if let Err(error) = volume.trash(hash, age, lifetime, Some(item.block_mtime)) {
                tracing::warn!(service = keepstore.name, %hash, %error, "cannot trash a block of the list");
            }
        }
    });
    if let Err(error) = done.await {
        tracing::error!(%error, "the trash worker failed");
    }
}

async fn pull(keepstore: &Arc<Keepstore>, item: Pull) {
    let Some(hash) = hash::leading(&item.locator) else { return };
    for server in &item.servers {
        match fetch(keepstore, server, &item.locator, hash).await.and_then(|content| {
            let wanted = |uuid: &str| item.mount_uuid.is_empty() || uuid == item.mount_uuid;
            let Some(volume) = keepstore.volumes.iter().find(|volume| wanted(&volume.uuid)) else {
                return Err(format!("there is no mount {}", item.mount_uuid));
            };
            // A balancer pulls one block at a time, and writing one takes as long as receiving it did.
            tokio::task::block_in_place(|| {
                let mut block = volume.create(hash)?;
                block.write(&content)?;
                block.commit()
            })
            .map(|identity| keepstore.digests.remember(identity, hash))
            .map_err(|error| error.to_string())
        }) {
            Ok(()) => return,
            Err(error) => tracing::warn!(service = keepstore.name, %hash, server, error, "cannot pull a block"),
        }
    }
}

/// Other keepstores are believed if the system's authorities believe them.
pub fn trust() -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

async fn fetch(keepstore: &Keepstore, server: &str, locator: &str, hash: BlockHash) -> Result<Vec<u8>, String> {
    /// A block at 256 KiB/s.
    const LIMIT: Duration = Duration::from_secs(256);
    let configuration = keepstore.configuration.load_full();
    let token = configuration.system_root_token.expose();
    let size = locator.split('+').nth(1).and_then(|size| size.parse::<u64>().ok()).filter(|size| *size <= BLOCK_SIZE);
    let size = size.ok_or("the locator has no size")?;
    let url = format!("{}/{}", server.trim_end_matches('/'), keepstore.signed(hash, size, Some(token)));
    let client = reqwest::Client::builder().tls_backend_preconfigured(trust()?).timeout(LIMIT).build();
    let client = client.map_err(|error| error.to_string())?;
    let answer = client.get(url).bearer_auth(token).send().await.map_err(|error| error.without_url().to_string())?;
    if !answer.status().is_success() {
        return Err(format!("status {}", answer.status()));
    }
    let content = answer.bytes().await.map_err(|error| error.without_url().to_string())?;
    if content.len() as u64 != size || BlockHash(Md5::digest(&content).into()) != hash {
        return Err("the block that came is not the one that was asked for".to_owned());
    }
    Ok(content.to_vec())
}
