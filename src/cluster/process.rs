//! The running cluster: what is started, in which order, and how it ends.
//!
//! Two runtimes, so that a cluster can live in any process beside any other runtime: the API has a thread of its own with
//! an actix system (its workers are threads of that system), the keepstores share a small tokio runtime, because their
//! blocks must keep flowing while the API computes. Nothing here is global: a test may run several clusters at once.
//!
//! Order at the start: the folder is locked, ports are bound, records and volumes opened, and the keys stored, before the
//! first request is answered; an error on the way undoes all of it. The folder is announced last. At the end the reverse:
//! no new requests, running ones get [`GRACE`], then the lock goes.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web;
use arc_swap::ArcSwap;

use super::api::account::NewUser;
use super::api::{Api, Error as ApiError};
use super::certificate::{self, Files};
use super::configuration::{Configuration, Shared};
use super::directory::{self, Directory, Note};
use super::faults::api::ApiFaults;
use super::faults::control::Control;
use super::keepstore::volume::Volume;
use super::keepstore::{Keepstore, Listener};
use super::listeners::{
    ApiServices, Ports, ServerThread, advertised, keep_runtime, listen_keepstore, open_keepstore, serve,
};
use super::metrics::Metrics;
use super::options::{self, FIRST_ADMINISTRATOR, FIRST_USER, Options};
use super::seed::Seed;
use super::websocket::{EventFaults, Websocket};

/// Requests that run when the cluster is stopped may take this long to end. An update of a large collection takes a few
/// seconds; blocks can be uploaded again.
pub const GRACE: Duration = Duration::from_secs(5);
/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Directory(#[from] directory::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    /// An address is taken, or not ours.
    #[error("cannot listen at {address} ({what}): {source}; choose another with {option}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For whom.
        what: String,
        /// Why not.
        source: io::Error,
        /// The option to change.
        option: &'static str,
    },
    /// The options do not fit the data.
    #[error(transparent)]
    Options(#[from] options::Error),
    /// The records cannot be used.
    #[error(transparent)]
    Records(#[from] ApiError),
    /// The machine refused a folder, a thread, or the like.
    #[error("cannot start the cluster: {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// The embedded cluster.
pub struct Cluster;

/// A cluster that runs. Dropped, it stops.
pub struct Running {
    api: SocketAddr,
    host: String,
    faults: Option<SocketAddr>,
    configuration: Shared,
    keepstores: Arc<Vec<Listener>>,
    server: ServerHandle,
    thread: Option<ServerThread>,
    runtime: Option<tokio::runtime::Runtime>,
    directory: Option<Directory>,
}

impl Cluster {
    /// Starts a cluster and returns when it answers.
    pub fn start(options: Options) -> Result<Running, StartError> {
        let directory = Directory::open(&options.data)?;
        let stored = directory.settings()?;
        let first = stored.is_none();
        let settings = options::plan(&options, stored)?;
        let tls = Files::of(directory.path()).server_config(options.listen)?;
        let ports = Ports::bind(&options, &settings)?;

        let configuration: Shared = Arc::new(ArcSwap::from_pointee(settings.configuration.clone()));
        let metrics = Arc::new(Metrics::default());
        let clock = Arc::clone(&options.clock);
        let api = Api::open(&directory.path().join("records.sqlite"), Arc::clone(&configuration), Arc::clone(&clock))?;
        if first {
            first_records(&api, options.seed.as_ref())?;
        }
        let runtime = keep_runtime()?;
        let mut keepstores = Vec::new();
        for (index, stored) in settings.keepstores.iter().enumerate() {
            let keepstore = open_keepstore(&directory, index, stored, &options, &configuration, &metrics)?;
            keepstores.push(listen_keepstore(keepstore, stored.port, &options, &runtime)?);
        }
        let keepstores = Arc::new(keepstores);

        let settings = ports.note(settings, &keepstores)?;
        directory.store(&settings)?;
        let services = advertised(&options, &settings, &keepstores);
        let host = services.controller.trim_start_matches("https://").trim_end_matches('/').to_owned();
        configuration.store(Arc::new(Configuration { services, ..settings.configuration }));

        let faults = options.faults.map(|_| Arc::new(ApiFaults::default()));
        let event_faults = faults.as_ref().map(|faults| EventFaults::new(Arc::clone(&faults.journal)));
        let websocket =
            Websocket::new(api.clone(), Arc::clone(&configuration), clock, Arc::clone(&metrics), event_faults);
        let websocket = web::Data::new(websocket);
        let control = faults.as_ref().map(|faults| {
            web::Data::new(Control {
                api: api.clone(),
                configuration: Arc::clone(&configuration),
                keepstores: Arc::clone(&keepstores),
                faults: Arc::clone(faults),
                websocket: websocket.clone().into_inner(),
            })
        });
        let (address, faults_address) = (ports.api_address()?, ports.faults_address());
        let shared = ApiServices {
            api: web::Data::new(api.clone()),
            metrics: web::Data::from(metrics),
            faults: web::Data::new(faults),
            websocket,
            configuration: web::Data::new(Arc::clone(&configuration)),
        };
        for keepstore in keepstores.iter() {
            runtime.spawn(empty_trash(Arc::clone(keepstore.keepstore()), Arc::clone(&configuration)));
        }
        runtime.spawn(api.sweep_forever());
        let (server, thread) = serve(ports, tls, shared, control)?;
        let note = Note {
            pid: std::process::id(),
            api: host.clone(),
            keep: keepstores.iter().map(|keepstore| format!("http://{}", keepstore.address())).collect(),
            faults: faults_address.map(|address| format!("http://{address}")),
        };
        directory.announce(&note)?;
        tracing::info!(api = host, keepstores = keepstores.len(), data = %directory.path().display(), "the cluster is running");
        Ok(Running {
            api: address,
            host,
            faults: faults_address,
            configuration,
            keepstores,
            server,
            thread: Some(thread),
            runtime: Some(runtime),
            directory: Some(directory),
        })
    }
}

/// What a new cluster begins with, beside the records that every cluster has.
fn first_records(api: &Api, seed: Option<&Seed>) -> Result<(), StartError> {
    if let Some(seed) = seed {
        return Ok(api.import(seed).map_err(ApiError::Seed)?);
    }
    for (name, is_admin) in [(FIRST_USER, false), (FIRST_ADMINISTRATOR, true)] {
        // There already, if the first start was cut off after this.
        if api.user(name).map_err(ApiError::Seed)?.is_none() {
            let new = NewUser {
                username: name.to_owned(),
                email: format!("{name}@example.com"),
                first_name: "Embedded".to_owned(),
                last_name: if is_admin { "Administrator" } else { "User" }.to_owned(),
                is_admin,
            };
            api.create_user(&new).map_err(ApiError::Seed)?;
        }
    }
    Ok(())
}

impl Running {
    /// Where API and websocket listen.
    pub fn address(&self) -> SocketAddr {
        self.api
    }

    /// `host:port`, as in `ARVADOS_API_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The keepstores.
    pub fn keepstores(&self) -> &[Listener] {
        &self.keepstores
    }

    /// Where the fault interface listens, if there is one.
    pub fn faults_address(&self) -> Option<SocketAddr> {
        self.faults
    }

    /// The configuration, with its keys and tokens; replaceable while the cluster runs.
    pub fn configuration(&self) -> &Shared {
        &self.configuration
    }

    /// Where the data are. Empty after [`Running::stop`].
    pub fn data(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new(""), Directory::path)
    }

    /// Ends the cluster: no new requests, a few seconds for those that run. Blocks; not for an event loop.
    pub fn stop(mut self) {
        self.end();
    }

    /// Waits on a thread of its own: a runtime must neither be waited for nor dropped inside another one, and a test that
    /// fails drops its cluster wherever it is.
    fn end(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let (server, api, keepstores) = (self.server.clone(), self.thread.take(), Arc::clone(&self.keepstores));
        let ending = std::thread::spawn(move || {
            runtime.block_on(async {
                server.stop(true).await;
                for keepstore in keepstores.iter() {
                    keepstore.stop().await;
                }
            });
            match api.map(std::thread::JoinHandle::join) {
                Some(Ok(Err(error))) => tracing::error!(%error, "the API server failed"),
                Some(Err(_)) => tracing::error!("the API server panicked"),
                _ => {}
            }
            runtime.shutdown_timeout(GRACE);
        });
        if ending.join().is_err() {
            tracing::error!("the cluster did not end in order");
        }
        self.directory = None;
        tracing::info!("the cluster has stopped");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

async fn empty_trash(keepstore: Arc<Keepstore>, configuration: Shared) {
    loop {
        let swept = {
            let keepstore = Arc::clone(&keepstore);
            tokio::task::spawn_blocking(move || keepstore.volumes.iter().map(Volume::sweep).sum::<io::Result<u64>>())
        };
        match swept.await.map_err(io::Error::other).and_then(|swept| swept) {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(service = keepstore.name, deleted, "emptied the trash"),
            Err(error) => tracing::warn!(service = keepstore.name, %error, "cannot empty the trash"),
        }
        tokio::time::sleep(configuration.load().blob_trash_check_interval).await;
    }
}
