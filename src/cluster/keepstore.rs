//! Keep's data plane: one keepstore of the cluster, speaking plain HTTP (protocol.md 7).
//!
//! A keepstore is a set of [`volume`]s and an address. It asks nobody: a block signature is the permission, checked with
//! the key that the API signs with, and an upload needs none. The rooms of the house:
//!
//! | file | owns |
//! |---|---|
//! | [`connection`] | one client: routing, `sendfile`, the request log. Why it is not a web framework is said there |
//! | [`request`], [`response`] | HTTP on the wire |
//! | [`read`], [`upload`] | `GET`/`HEAD` and `PUT` of blocks |
//! | [`administration`], [`lists`] | index, mounts, trash, pull, health, metrics |
//! | [`volume`] | blocks on disk, in a real keepstore's layout |
//! | [`digests`] | which file was hashed already |
//!
//! What must stay true: a byte is served under a block's name only if the whole file had the block's MD5 since it was
//! last changed; a block is acknowledged only when it is on the disk under its name.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use md5::{Digest, Md5};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::cluster::clock::Clock;
use crate::cluster::configuration::Shared;
use crate::cluster::faults::keep::KeepFaults;
use crate::cluster::metrics::Metrics;
use crate::keep::signature::{SignatureError, Signer};
use digests::Digests;
use hash::BlockHash;
use lists::Lists;
use volume::Volume;

pub mod administration;
pub mod connection;
pub mod digests;
pub mod hash;
pub mod lists;
pub mod read;
pub mod request;
pub mod response;
pub mod upload;
pub mod volume;

/// Connections at the same time; the next one waits to be accepted. Each may hold 2 MiB of an upload.
const CONNECTIONS: usize = 512;

/// One keepstore.
pub struct Keepstore {
    /// How it is called in logs and metrics: `keep0`, `keep1`, …
    pub name: String,
    /// Where its blocks are.
    pub volumes: Vec<Volume>,
    configuration: Shared,
    clock: Arc<dyn Clock>,
    digests: Digests,
    lists: Lists,
    metrics: Arc<Metrics>,
    faults: Option<Arc<KeepFaults>>,
}

impl Keepstore {
    /// A keepstore that does not listen yet.
    pub fn new(
        name: String,
        volumes: Vec<Volume>,
        configuration: Shared,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        faults: Option<Arc<KeepFaults>>,
    ) -> Self {
        let (digests, lists) = (Digests::default(), Lists::default());
        Self { name, volumes, configuration, clock, digests, lists, metrics, faults }
    }

    /// Its faults, if it was started with any.
    pub fn faults(&self) -> Option<&Arc<KeepFaults>> {
        self.faults.as_ref()
    }

    /// Volumes in the order in which a block is looked for and stored: by priority of their storage classes, then by
    /// the MD5 of hash and name (protocol.md 8.3, last line).
    fn rendezvous(&self, hash: BlockHash) -> Vec<usize> {
        let configuration = self.configuration.load();
        let mut order: Vec<_> = (0..self.volumes.len())
            .map(|index| {
                let volume = &self.volumes[index];
                let priorities =
                    volume.storage_classes.iter().filter_map(|class| configuration.storage_classes.get(class));
                let priority = priorities.map(|class| class.priority).max().unwrap_or(0);
                let name = &volume.uuid[volume.uuid.len().saturating_sub(15)..];
                let weight: [u8; 16] = Md5::digest(format!("{hash}{name}")).into();
                (std::cmp::Reverse(priority), weight, index)
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, _, index)| index).collect()
    }

    /// Whether `locator` may be read with `token` (protocol.md 6.4); if not, status and text.
    fn permits(&self, locator: &str, token: Option<&str>) -> Result<(), (u16, &'static str)> {
        let configuration = self.configuration.load();
        let signing = self.faults.as_ref().map(|faults| faults.signing()).unwrap_or_default();
        if !signing.required.unwrap_or(configuration.blob_signing) {
            return Ok(());
        }
        let token = token.ok_or((401, "no token provided in Authorization header"))?;
        let ttl = signing.ttl.unwrap_or(configuration.blob_signing_ttl);
        let signer = Signer::new(configuration.blob_signing_key.expose().as_bytes(), ttl);
        let now = u64::try_from(self.clock.now().seconds()).unwrap_or(0);
        signer.verify(locator, token, now).map_err(|error| match error {
            SignatureError::Missing | SignatureError::Invalid => (400, "invalid signature"),
            SignatureError::Expired => (401, "expired signature"),
        })
    }

    /// The locator of a block, signed for `token`; unsigned without one.
    fn signed(&self, hash: BlockHash, size: u64, token: Option<&str>) -> String {
        let configuration = self.configuration.load();
        let signing = self.faults.as_ref().map(|faults| faults.signing()).unwrap_or_default();
        let locator = format!("{hash}+{size}");
        let Some(token) = token.filter(|_| signing.required.unwrap_or(configuration.blob_signing)) else {
            return locator;
        };
        let ttl = signing.ttl.unwrap_or(configuration.blob_signing_ttl);
        let valid = signing.lifetime.or(configuration.signature_lifetime).unwrap_or(ttl);
        let expiry = u64::try_from(self.clock.now().plus(valid).seconds()).unwrap_or(0);
        Signer::new(configuration.blob_signing_key.expose().as_bytes(), ttl).sign_locator(&locator, token, expiry)
    }
}

/// A keepstore's address, which outlives its listener: it can be stopped and started again at the same port.
pub struct Listener {
    keepstore: Arc<Keepstore>,
    address: SocketAddr,
    runtime: tokio::runtime::Handle,
    /// The accept loop while it runs. Held only to look at or replace the handle.
    running: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Serves what `listener` accepts, on `runtime`.
    pub fn start(
        keepstore: Arc<Keepstore>,
        listener: std::net::TcpListener,
        runtime: tokio::runtime::Handle,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let task = listen(&keepstore, listener, &runtime)?;
        Ok(Self { keepstore, address, runtime, running: Mutex::new(Some(task)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The keepstore behind it.
    pub fn keepstore(&self) -> &Arc<Keepstore> {
        &self.keepstore
    }

    /// Whether it takes connections.
    pub fn is_running(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Takes no more connections and cuts those that are open, as if the process had been killed.
    pub async fn stop(&self) {
        let task = self.take();
        if let Some(task) = task {
            task.abort();
            // It ends with the abort; waiting for it makes sure that the port is free again.
            let _ = task.await;
        }
    }

    fn take(&self) -> Option<JoinHandle<()>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Listens again where it did before.
    pub fn restart(&self) -> std::io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            // Sets SO_REUSEADDR, so that connections that have just ended do not keep the port.
            let listener = std::net::TcpListener::bind(self.address)?;
            *running = Some(listen(&self.keepstore, listener, &self.runtime)?);
        }
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = self.take() {
            task.abort();
        }
    }
}

fn listen(
    keepstore: &Arc<Keepstore>,
    listener: std::net::TcpListener,
    runtime: &tokio::runtime::Handle,
) -> std::io::Result<JoinHandle<()>> {
    let _inside = runtime.enter();
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    Ok(runtime.spawn(accept(Arc::clone(keepstore), listener)))
}

/// Dropped (by `abort`), it drops the set of connections, which ends them.
async fn accept(keepstore: Arc<Keepstore>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    tasks.spawn(lists::work(Arc::clone(&keepstore)));
    loop {
        while tasks.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let keepstore = Arc::clone(&keepstore);
                tasks.spawn(async move {
                    connection::serve(keepstore, stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must end before it can go on.
                tracing::error!(service = keepstore.name, %error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
