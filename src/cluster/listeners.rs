//! Where a cluster listens, and what answers there.
//!
//! A port is chosen on the first start, below the range from which the system takes the ports of outgoing connections
//! (so that none of those has it at the next start), and kept, because clients have been told about it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use rand::RngExt;

use super::api::Api;
use super::configuration::{self, KeepService, Services, Shared};
use super::directory::{Directory, KeepstoreSettings, Settings, VolumeSettings};
use super::faults::api::{ApiFaults, disturb};
use super::faults::control::{self, Control};
use super::faults::keep::KeepFaults;
use super::keepproxy::{self, Access, Keepproxy};
use super::keepstore::volume::Volume;
use super::keepstore::{Keepstore, Listener, lists};
use super::metrics::Metrics;
use super::options::Options;
use super::process::{GRACE, StartError};
use super::request_log;
use super::websocket::{self, Websocket};

/// Threads that drive the sockets of all keepstores. They only wait and call `sendfile`; hashing and disk work happen on
/// the blocking pool. Two saturate loopback.
const KEEP_THREADS: usize = 2;
/// Threads of the keepproxy, which mostly waits for the keepstores.
const PROXY_WORKERS: usize = 2;
/// How long clients may leave an API connection unused. The Python client closes its own after 30 s (protocol.md 0).
const KEEP_ALIVE: Duration = Duration::from_secs(300);
/// Ports that the system gives to nobody by itself: above the well-known ones, below Linux' range for outgoing
/// connections, which begins at 32768.
const FREE_PORTS: std::ops::Range<u16> = 10_000..32_768;
/// Ports that are tried before the system is asked for any.
const ATTEMPTS: usize = 20;

fn system(what: &str) -> impl Fn(io::Error) -> StartError + use<> {
    let what = what.to_owned();
    move |source| StartError::System { what: what.clone(), source }
}

/// The runtime of the keepstores.
pub fn keep_runtime() -> Result<tokio::runtime::Runtime, StartError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let built = builder.worker_threads(KEEP_THREADS).thread_name("keepstore").enable_all().build();
    built.map_err(system("a runtime for the keepstores"))
}

fn bind_any(address: IpAddr) -> io::Result<TcpListener> {
    for _ in 0..ATTEMPTS {
        let port = rand::rng().random_range(FREE_PORTS);
        if let Ok(listener) = TcpListener::bind(SocketAddr::new(address, port)) {
            return Ok(listener);
        }
    }
    TcpListener::bind(SocketAddr::new(address, 0))
}

fn bind(address: SocketAddr, what: &str, option: &'static str) -> Result<TcpListener, StartError> {
    let bound = if address.port() == 0 { bind_any(address.ip()) } else { TcpListener::bind(address) };
    bound.map_err(|source| StartError::Listen { address, what: what.to_owned(), source, option })
}

/// Ports that are ours but not served yet.
pub struct Ports {
    api: TcpListener,
    keepproxy: Option<TcpListener>,
    faults: Option<TcpListener>,
}

impl Ports {
    /// Takes the ports that settings and options want.
    pub fn bind(options: &Options, settings: &Settings) -> Result<Self, StartError> {
        let at = |port| SocketAddr::new(options.listen, port);
        let api = bind(at(settings.port), "API", "--port")?;
        let keepproxy = match options.keepproxy {
            true => Some(bind(at(settings.keepproxy_port), "keepproxy", "--listen")?),
            false => None,
        };
        let faults = match options.faults {
            // Whoever reaches it can do everything, so it never listens anywhere else.
            Some(port) => Some(bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), "faults", "--faults-port")?),
            None => None,
        };
        Ok(Self { api, keepproxy, faults })
    }

    /// Where the API listens.
    pub fn api_address(&self) -> Result<SocketAddr, StartError> {
        self.api.local_addr().map_err(system("the API's port"))
    }

    /// Where the fault interface listens.
    pub fn faults_address(&self) -> Option<SocketAddr> {
        self.faults.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Writes the ports into the settings, for the next start.
    pub fn note(&self, mut settings: Settings, keepstores: &[Listener]) -> Result<Settings, StartError> {
        settings.port = self.api_address()?.port();
        if let Some(listener) = &self.keepproxy {
            settings.keepproxy_port = listener.local_addr().map_err(system("the keepproxy's port"))?.port();
        }
        for (stored, running) in settings.keepstores.iter_mut().zip(keepstores) {
            stored.port = running.address().port();
        }
        Ok(settings)
    }
}

/// Opens a keepstore and its volumes.
pub fn open_keepstore(
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
pub fn listen_keepstore(
    keepstore: Arc<Keepstore>,
    port: u16,
    options: &Options,
    runtime: &tokio::runtime::Runtime,
) -> Result<Listener, StartError> {
    let address = |port| SocketAddr::new(options.listen, port);
    let bound = match TcpListener::bind(address(port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind_any(options.listen),
        Ok(listener) if port == 0 => bind_any(options.listen).or(Ok(listener)),
        other => other,
    };
    let failed = |source| StartError::Listen {
        address: address(port),
        what: keepstore.name.clone(),
        source,
        option: "--listen",
    };
    let bound = bound.map_err(failed)?;
    Listener::start(Arc::clone(&keepstore), bound, runtime.handle().clone()).map_err(failed)
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

fn volume(stored: &VolumeSettings) -> configuration::Volume {
    let (uuid, storage_classes) = (stored.uuid.clone(), stored.storage_classes.clone());
    configuration::Volume { uuid, replication: stored.replication, storage_classes }
}

/// The addresses that clients are told.
pub fn advertised(options: &Options, settings: &Settings, keepstores: &[Listener]) -> Services {
    let (name, address) = (advertised_host(options.listen, "localhost"), options.listen.to_string());
    let keep_host = advertised_host(options.listen, &address);
    let service = |uuid: String, host: &str, port: u16, service_type: &str| KeepService {
        uuid,
        host: host.to_owned(),
        port,
        ssl: service_type == "proxy",
        service_type: service_type.to_owned(),
        read_only: false,
        volumes: Vec::new(),
    };
    let disks = settings.keepstores.iter().zip(keepstores);
    let mut keep: Vec<_> = disks
        .map(|(stored, running)| KeepService {
            volumes: stored.volumes.iter().map(volume).collect(),
            ..service(stored.uuid.clone(), &keep_host, running.address().port(), "disk")
        })
        .collect();
    let mut keepproxy = String::new();
    if options.keepproxy {
        let uuid = settings.configuration.reserved_uuid("bi6l4", "0000000000proxy");
        keep.push(service(uuid, &name, settings.keepproxy_port, "proxy"));
        keepproxy = format!("https://{name}:{}/", settings.keepproxy_port);
    }
    let host = format!("{name}:{}", settings.port);
    Services {
        controller: format!("https://{host}/"),
        websocket: format!("wss://{host}/websocket"),
        keepproxy,
        keep,
        ..Services::default()
    }
}

/// What the workers of the API share.
#[derive(Clone)]
pub struct ApiServices {
    pub api: web::Data<Api>,
    pub metrics: web::Data<Metrics>,
    pub faults: web::Data<Option<Arc<ApiFaults>>>,
    pub websocket: web::Data<Websocket>,
    pub configuration: web::Data<Shared>,
}

/// A token may write blocks if it can ask who it belongs to, and read them also if it can only ask where they are
/// (protocol.md 7.4).
fn proxy(services: &ApiServices) -> Result<Arc<Keepproxy>, StartError> {
    let api = services.api.clone();
    let authorize = move |token: &str, access: Access| {
        let Ok(Some(session)) = api.session_of(token) else { return false };
        session.allows("GET", "/arvados/v1/users/current")
            || (access == Access::Read && session.allows("HEAD", "/arvados/v1/keep_services/accessible"))
    };
    let failed = |problem: String| system("the keepproxy")(io::Error::other(problem));
    let tls = lists::trust().map_err(failed)?;
    let proxy = Keepproxy::new(Shared::clone(&services.configuration), Box::new(authorize), tls);
    proxy.map(Arc::new).map_err(|error| failed(error.to_string()))
}

/// The thread of the API; ends with the server.
pub type ServerThread = std::thread::JoinHandle<io::Result<()>>;

/// Starts the API's thread, and the fault interface in it; returns when they take connections.
pub fn serve(
    ports: Ports,
    tls: rustls::ServerConfig,
    services: ApiServices,
    control: Option<web::Data<Control>>,
) -> Result<(ServerHandle, ServerThread), StartError> {
    let failed = |source| StartError::System { what: "the API server".to_owned(), source };
    let keepproxy = match ports.keepproxy {
        Some(listener) => Some((listener, proxy(&services)?)),
        None => None,
    };
    let (ready, started) = std::sync::mpsc::channel();
    let run = move || {
        actix_web::rt::System::new().block_on(async move {
            let application = move || {
                let api = services.api.get_ref().clone();
                App::new()
                    .app_data(services.api.clone())
                    .app_data(services.metrics.clone())
                    .app_data(services.faults.clone())
                    .app_data(services.websocket.clone())
                    .app_data(services.configuration.clone())
                    .wrap(from_fn(disturb))
                    .wrap(from_fn(request_log::observe))
                    .route("/websocket", web::get().to(websocket::connect))
                    .route("/arvados/v1/events.ws", web::get().to(websocket::connect))
                    .route("/metrics", web::get().to(request_log::metrics))
                    .configure(move |service| api.configure(service))
            };
            let server = HttpServer::new(application)
                .workers(std::thread::available_parallelism().map_or(2, usize::from))
                .keep_alive(KEEP_ALIVE)
                .shutdown_timeout(GRACE.as_secs())
                .disable_signals()
                .listen_rustls_0_23(ports.api, tls.clone())?
                .run();
            if let Some((listener, proxy)) = keepproxy {
                let application = move || App::new().configure(keepproxy::routes(Arc::clone(&proxy)));
                let server =
                    HttpServer::new(application).workers(PROXY_WORKERS).keep_alive(KEEP_ALIVE).disable_signals();
                actix_web::rt::spawn(server.listen_rustls_0_23(listener, tls)?.run());
            }
            if let (Some(listener), Some(control)) = (ports.faults, control) {
                let application = move || App::new().app_data(control.clone()).configure(control::configure);
                let control = HttpServer::new(application).workers(1).disable_signals().listen(listener)?.run();
                // It ends, like the proxy, with the system that it runs in.
                actix_web::rt::spawn(control);
            }
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
