//! The running cluster: what is started, in which order, and how it ends.
//!
//! Two runtimes, so that a cluster can live in any process beside any other runtime: the API has a thread of its own with
//! an actix system (its workers are threads of that system), the keepstores share a small tokio runtime, because their
//! blocks must keep flowing while the API computes. Nothing here is global: a test may run several clusters at once.
//!
//! Order at the start: the folder is locked first, then every port is bound, and only when all of that has worked anything
//! is started; so an error leaves nothing half-running. The folder is announced last. At the end the reverse: no new
//! requests, running ones get [`GRACE`], then the lock goes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use arc_swap::ArcSwap;

use super::certificate::{self, Files};
use super::clock::{Clock, SystemClock};
use super::configuration::{Configuration, KeepService, Services, Shared, StorageClass};
use super::directory::{self, Directory, KeepstoreSettings, Note, Settings, VolumeSettings};
use super::faults::keep::KeepFaults;
use super::keepstore::volume::{Usage, Volume};
use super::keepstore::{Keepstore, Listener};
use super::metrics::Metrics;

/// Requests that run when the cluster is stopped may take this long to end. An update of a large collection takes a few
/// seconds; blocks can be uploaded again.
const GRACE: Duration = Duration::from_secs(5);
/// Threads that drive the sockets of all keepstores. They only wait and call `sendfile`; hashing and disk work happen on
/// the blocking pool. Two saturate loopback.
const KEEP_THREADS: usize = 2;
/// How long clients may leave an API connection unused. The Python client closes its own after 30 s (protocol.md 0).
const KEEP_ALIVE: Duration = Duration::from_secs(300);

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
    /// Fewer keepstores are wanted than hold data.
    #[error("this cluster has {stored} keepstores with data, {wanted} are too few; leave --keepstores out")]
    TooFewKeepstores {
        /// How many there are.
        stored: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// The machine refused a folder, a thread, or the like.
    #[error("cannot start the cluster: {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// The storage classes of one keepstore's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepstoreLayout {
    /// One entry per volume: the storage classes of its blocks.
    pub volumes: Vec<Vec<String>>,
}

impl KeepstoreLayout {
    /// One volume with the class `default` and some more.
    pub fn single(more_classes: &[String]) -> Self {
        let mut classes = vec!["default".to_owned()];
        classes.extend(more_classes.iter().filter(|class| *class != "default").cloned());
        Self { volumes: vec![classes] }
    }
}

/// How to start a cluster.
#[derive(Clone)]
pub struct Options {
    /// Where its data are.
    pub data: PathBuf,
    /// Port of API and websocket. `None` or 0: the one of the last start; a free one on the first.
    pub port: Option<u16>,
    /// Where everything listens.
    pub listen: IpAddr,
    /// The keepstores; `None`: those of the last start, one on the first.
    pub keepstores: Option<Vec<KeepstoreLayout>>,
    /// Port of the fault interface (0: a free one); `None`: there is none.
    pub faults: Option<u16>,
    /// The configuration on the first start; `None`: defaults with fresh keys.
    pub configuration: Option<Configuration>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// One keepstore, loopback, the machine's clock, and a port that is chosen on the first start.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            port: None,
            listen: Ipv4Addr::LOCALHOST.into(),
            keepstores: None,
            faults: None,
            configuration: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// The embedded cluster.
pub struct Cluster;

/// A cluster that runs. Dropped, it stops.
pub struct Running {
    api: SocketAddr,
    host: String,
    configuration: Shared,
    keepstores: Arc<Vec<Listener>>,
    server: ServerHandle,
    thread: Option<std::thread::JoinHandle<io::Result<()>>>,
    runtime: Option<tokio::runtime::Runtime>,
    directory: Option<Directory>,
}

impl Cluster {
    /// Starts a cluster and returns when it answers.
    pub fn start(options: Options) -> Result<Running, StartError> {
        let directory = Directory::open(&options.data)?;
        let mut settings = directory.settings()?;
        let settings = plan(&options, settings.take())?;
        let files = Files::of(directory.path());
        let tls = files.server_config(options.listen)?;

        let api = bind(SocketAddr::new(options.listen, settings.port), "API", "--port")?;
        let configuration: Shared = Arc::new(ArcSwap::from_pointee(settings.configuration.clone()));
        let metrics = Arc::new(Metrics::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(KEEP_THREADS)
            .thread_name("keepstore")
            .enable_all()
            .build()
            .map_err(|source| StartError::System { what: "a runtime for the keepstores".to_owned(), source })?;
        let mut keepstores = Vec::new();
        for (index, stored) in settings.keepstores.iter().enumerate() {
            let keepstore = open_keepstore(&directory, index, stored, &options, &configuration, &metrics)?;
            keepstores.push(listen_keepstore(keepstore, stored.port, &options, &runtime)?);
        }
        let keepstores = Arc::new(keepstores);

        let address =
            api.local_addr().map_err(|source| StartError::System { what: "the API's port".to_owned(), source })?;
        let settings = with_ports(settings, address.port(), &keepstores);
        directory.store(&settings)?;
        let host = format!("{}:{}", advertised_host(options.listen, "localhost"), address.port());
        configuration.store(Arc::new(Configuration {
            services: services(&host, &settings, &keepstores, options.listen),
            ..settings.configuration
        }));

        for keepstore in keepstores.iter() {
            runtime.spawn(empty_trash(Arc::clone(keepstore.keepstore()), Arc::clone(&configuration)));
        }
        let (server, thread) = serve(api, tls)?;
        let note = Note {
            pid: std::process::id(),
            api: host.clone(),
            keep: keepstores.iter().map(|keepstore| format!("http://{}", keepstore.address())).collect(),
            faults: None,
        };
        directory.announce(&note)?;
        tracing::info!(api = host, keepstores = keepstores.len(), data = %directory.path().display(), "the cluster is running");
        let (thread, runtime, directory) = (Some(thread), Some(runtime), Some(directory));
        Ok(Running { api: address, host, configuration, keepstores, server, thread, runtime, directory })
    }
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

    fn end(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let stopping = self.server.stop(true);
        let server_thread = self.thread.take();
        runtime.block_on(async {
            stopping.await;
            for keepstore in self.keepstores.iter() {
                keepstore.stop().await;
            }
        });
        match server_thread.map(std::thread::JoinHandle::join) {
            Some(Ok(Err(error))) => tracing::error!(%error, "the API server failed"),
            Some(Err(_)) => tracing::error!("the API server panicked"),
            _ => {}
        }
        runtime.shutdown_timeout(GRACE);
        self.directory = None;
        tracing::info!("the cluster has stopped");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The settings for this start: those of the last one, with what the options change.
fn plan(options: &Options, stored: Option<Settings>) -> Result<Settings, StartError> {
    let first = stored.is_none();
    let mut settings = stored.unwrap_or_else(|| Settings {
        port: 0,
        keepstores: Vec::new(),
        configuration: options.configuration.clone().unwrap_or_default(),
    });
    if let Some(port) = options.port.filter(|port| *port != 0) {
        settings.port = port;
    }
    let wanted = match &options.keepstores {
        Some(wanted) => wanted.clone(),
        None if first => vec![KeepstoreLayout::single(&[])],
        None => Vec::new(),
    };
    if options.keepstores.is_some() && wanted.len() < settings.keepstores.len() {
        return Err(StartError::TooFewKeepstores { stored: settings.keepstores.len(), wanted: wanted.len() });
    }
    // A lone keepstore counts for two copies: many clients ask for two whatever the configuration says, and fail when
    // they cannot have them (protocol.md 7.2). With several keepstores the copies are real.
    let replication = if wanted.len() == 1 { 2 } else { 1 };
    if first && wanted.len() > 1 && options.configuration.is_none() {
        settings.configuration.default_replication = 2;
    }
    for (index, layout) in wanted.iter().enumerate().skip(settings.keepstores.len()) {
        let cluster = &settings.configuration;
        let mut volumes = Vec::new();
        for (number, classes) in layout.volumes.iter().enumerate() {
            let folder = if number == 0 { format!("keep{index}") } else { format!("keep{index}-{number}") };
            let uuid = cluster.reserved_uuid("nyw5e", &format!("{index:012}{number:03}"));
            volumes.push(VolumeSettings { folder, uuid, replication, storage_classes: classes.clone() });
        }
        let uuid = cluster.reserved_uuid("bi6l4", &format!("{index:015}"));
        settings.keepstores.push(KeepstoreSettings { uuid, port: 0, volumes });
    }
    for volume in settings.keepstores.iter().flat_map(|keepstore| &keepstore.volumes) {
        for class in &volume.storage_classes {
            let known = &mut settings.configuration.storage_classes;
            known.entry(class.clone()).or_insert(StorageClass { default: false, priority: 0 });
        }
    }
    Ok(settings)
}

fn bind(address: SocketAddr, what: &str, option: &'static str) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { address, what: what.to_owned(), source, option };
    TcpListener::bind(address).map_err(failed)
}

fn open_keepstore(
    directory: &Directory,
    index: usize,
    stored: &KeepstoreSettings,
    options: &Options,
    configuration: &Shared,
    metrics: &Arc<Metrics>,
) -> Result<Arc<Keepstore>, StartError> {
    let name = format!("keep{index}");
    let mut volumes = Vec::new();
    for volume in &stored.volumes {
        let root = directory.path().join(&volume.folder);
        let opened = Volume::open(
            &root,
            volume.uuid.clone(),
            volume.replication,
            volume.storage_classes.clone(),
            Arc::clone(&options.clock),
        );
        volumes
            .push(opened.map_err(|source| StartError::System { what: format!("volume {}", root.display()), source })?);
    }
    let faults = options.faults.map(|_| KeepFaults::new(name.clone()));
    let clock = Arc::clone(&options.clock);
    Ok(Arc::new(Keepstore::new(name, volumes, Arc::clone(configuration), clock, Arc::clone(metrics), faults)))
}

/// A keepstore's port is kept from start to start where that is possible. Clients ask for the addresses, so another one
/// does no harm.
fn listen_keepstore(
    keepstore: Arc<Keepstore>,
    port: u16,
    options: &Options,
    runtime: &tokio::runtime::Runtime,
) -> Result<Listener, StartError> {
    let address = |port| SocketAddr::new(options.listen, port);
    let listen = |port| Listener::start(Arc::clone(&keepstore), address(port), runtime.handle().clone());
    let listener = match listen(port) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => listen(0),
        other => other,
    };
    listener.map_err(|source| StartError::Listen {
        address: address(port),
        what: keepstore.name.clone(),
        source,
        option: "--listen",
    })
}

fn with_ports(mut settings: Settings, api: u16, keepstores: &[Listener]) -> Settings {
    settings.port = api;
    for (stored, running) in settings.keepstores.iter_mut().zip(keepstores) {
        stored.port = running.address().port();
    }
    settings
}

/// The name under which clients reach an address.
fn advertised_host(listen: IpAddr, on_loopback: &str) -> String {
    if listen.is_loopback() {
        return on_loopback.to_owned();
    }
    if !listen.is_unspecified() {
        return listen.to_string();
    }
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| on_loopback.to_owned())
}

fn services(host: &str, settings: &Settings, keepstores: &[Listener], listen: IpAddr) -> Services {
    let loopback = listen.to_string();
    let keep = settings.keepstores.iter().zip(keepstores).map(|(stored, running)| KeepService {
        uuid: stored.uuid.clone(),
        host: advertised_host(listen, &loopback),
        port: running.address().port(),
        ssl: false,
        service_type: "disk".to_owned(),
        read_only: false,
    });
    Services {
        controller: format!("https://{host}/"),
        websocket: format!("wss://{host}/websocket"),
        keep: keep.collect(),
        ..Services::default()
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

type ServerThread = std::thread::JoinHandle<io::Result<()>>;

/// Starts the API's thread; returns when it takes connections.
fn serve(listener: TcpListener, tls: rustls::ServerConfig) -> Result<(ServerHandle, ServerThread), StartError> {
    let failed = |source| StartError::System { what: "the API server".to_owned(), source };
    let (ready, started) = std::sync::mpsc::channel();
    let run = move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(|| App::new().default_service(web::to(actix_web::HttpResponse::NotFound)))
                .workers(std::thread::available_parallelism().map_or(2, usize::from))
                .keep_alive(KEEP_ALIVE)
                .shutdown_timeout(GRACE.as_secs())
                .disable_signals()
                .listen_rustls_0_23(listener, tls)?
                .run();
            // The receiver waits for exactly this.
            let _ = ready.send(server.handle());
            server.await
        })
    };
    let thread = std::thread::Builder::new().name("cluster".to_owned()).spawn(run).map_err(failed)?;
    match started.recv() {
        Ok(handle) => Ok((handle, thread)),
        Err(_) => Err(failed(match thread.join() {
            Ok(Err(error)) => error,
            _ => io::Error::other("its thread panicked"),
        })),
    }
}

impl Running {
    /// Counts the blocks on all keepstores. Reads every folder: seconds for millions of blocks.
    pub fn usage(&self) -> io::Result<Usage> {
        let mut usage = Usage::default();
        for volume in self.keepstores.iter().flat_map(|keepstore| &keepstore.keepstore().volumes) {
            let one = volume.usage()?;
            usage.blocks += one.blocks;
            usage.bytes += one.bytes;
        }
        Ok(usage)
    }
}
