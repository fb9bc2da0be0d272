//! The API half of the cluster as a value: open it, mount it, ask it.
//!
//! An [`Api`] is cheap to clone and shared by all workers. It knows the database, the settings, the time, and who
//! listens for events; what a request means is [`router`](super::router)'s business. HTTP ends here: [`Api::configure`]
//! turns an `actix-web` request into a [`Head`] and a body, hands both to the blocking pool and writes the answer. So no
//! SQL and no manifest ever runs on a thread that drives connections.
//!
//! Overload is refused, not hidden: so many requests run, so many wait, one more gets 503 at once (protocol.md 10).

pub mod account;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, broadcast};

use crate::cluster::answer::Failure;
use crate::cluster::authentication::{self, Session};
use crate::cluster::call::Call;
use crate::cluster::clock::{Clock, Timestamp};
use crate::cluster::configuration::{Configuration, Shared, random_base36};
use crate::cluster::filter::Condition;
use crate::cluster::permission::Level;
use crate::cluster::record::log;
use crate::cluster::request::Head;
use crate::cluster::router::{self, Answer};
use crate::cluster::seed::Seed;
use crate::cluster::store::{OpenError, Store};

pub use crate::cluster::record::log::LogRow;

/// Why the API could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The first records could not be written, or seeded ones are wrong.
    #[error("cannot write the cluster's first records: {0}")]
    Seed(#[from] Failure),
}

/// The API of a cluster.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    store: Store,
    configuration: Shared,
    clock: Arc<dyn Clock>,
    events: broadcast::Sender<Arc<LogRow>>,
    started: Timestamp,
    admission: Admission,
}

/// Events that a slow subscriber may be behind before it loses some and has to read them from the logs. A real
/// websocket server drops a client at 64; ours decides that itself and must see more than that to do so.
const EVENTS_KEPT: usize = 1024;

impl Api {
    /// Opens the database, making it and the records that every cluster has if need be.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub fn open(database: &Path, configuration: Shared, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let limit = configuration.load().max_concurrent_requests;
        let api = Self(Arc::new(Inner {
            store: Store::open(database)?,
            started: clock.now(),
            configuration,
            clock,
            events: broadcast::channel(EVENTS_KEPT).0,
            admission: Admission::new(limit),
        }));
        api.write(api.system(), |call| call.bootstrap())?;
        Ok(api)
    }

    /// Imports records as they are, for tests and for moving a cluster's records here.
    ///
    /// # Errors
    /// When a record does not fit or is there already.
    pub fn import(&self, seed: &Seed) -> Result<(), Failure> {
        self.write(self.system(), |call| call.import(seed))
    }

    /// The settings of this moment.
    pub fn configuration(&self) -> Arc<Configuration> {
        self.0.configuration.load_full()
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// When this process began to serve.
    pub fn started(&self) -> Timestamp {
        self.0.started
    }

    /// The database, for its locks.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The session of the cluster itself.
    pub fn system(&self) -> Session {
        Session::system(&self.configuration())
    }

    /// Events from now on, in the order of their ids.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<LogRow>> {
        self.0.events.subscribe()
    }

    /// Runs `work` for a caller on a snapshot. Blocking.
    ///
    /// # Errors
    /// Those of `work`, and of SQLite.
    pub fn read<T>(&self, session: Session, work: impl FnOnce(&Call<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let inner = &*self.0;
        inner.store.read(|sql, eyes| {
            let call = Call::new(&inner.store, (sql, eyes), self.configuration(), session, &*inner.clock);
            work(&call)
        })
    }

    /// Runs `work` for a caller in a transaction and publishes its events after the commit. Blocking.
    ///
    /// # Errors
    /// Those of `work`, and of SQLite; then nothing has changed.
    pub fn write<T>(&self, session: Session, work: impl FnOnce(&Call<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let inner = &*self.0;
        let done = inner.store.write(
            |sql, eyes| {
                let call = Call::new(&inner.store, (sql, eyes), self.configuration(), session, &*inner.clock);
                let value = work(&call)?;
                Ok::<_, Failure>((value, std::cell::Cell::new(call.take_events())))
            },
            |(_, events)| {
                // Nobody listening is no error.
                for event in events.take() {
                    drop(inner.events.send(Arc::new(event)));
                }
            },
        )?;
        Ok(done.0)
    }

    /// The session of a token. Blocking; [`Api::authenticate`] is for async code.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn session_of(&self, token: &str) -> Result<Option<Session>, Failure> {
        let (configuration, now) = (self.configuration(), self.now());
        self.0.store.read(|sql, _| Ok(authentication::authenticate(sql, &configuration, token, now)?))
    }

    /// The session of a token; `None` for one that is good for nothing.
    ///
    /// # Errors
    /// Those of SQLite.
    pub async fn authenticate(&self, token: &str) -> Result<Option<Session>, Failure> {
        let (api, token) = (self.clone(), token.to_owned());
        blocking(move || api.session_of(&token)).await
    }

    /// Whether a caller can read what a uuid stands for, trash included.
    ///
    /// # Errors
    /// Those of SQLite.
    pub async fn can_read(&self, session: &Session, uuid: &str) -> Result<bool, Failure> {
        let (api, session, uuid) = (self.clone(), session.clone(), uuid.to_owned());
        blocking(move || {
            api.read(session, |call| match call.find_any(&uuid)? {
                Some(record) => Ok(call.level(&record)? >= Level::Read),
                None => Ok(call.visibility()?.level_of_uuid(&uuid) >= Level::Read),
            })
        })
        .await
    }

    /// Logs after an id that are not older than `oldest`, in the order of their ids, at most `limit`.
    ///
    /// # Errors
    /// Those of SQLite.
    pub async fn log_rows_since(&self, id: i64, oldest: Timestamp, limit: u64) -> Result<Vec<LogRow>, Failure> {
        let api = self.clone();
        blocking(move || {
            api.read(api.system(), |call| {
                let values = [rusqlite::types::Value::Integer(id), rusqlite::types::Value::Text(oldest.to_string())];
                let condition = Condition::with("id > ? AND created_at >= ?", values);
                let rows = call.rows(&log::MODEL, &condition, "id", limit, 0)?;
                Ok(rows.iter().map(LogRow::of).collect())
            })
        })
        .await
    }

    /// Sweeps the trash now. Blocking.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn sweep_now(&self) -> Result<(), Failure> {
        self.write(self.system(), |call| call.sweep())
    }

    /// Sweeps the trash again and again, at the interval of the settings. Runs until it is dropped.
    pub async fn sweep_forever(self) {
        loop {
            tokio::time::sleep(self.configuration().trash_sweep_interval).await;
            let api = self.clone();
            if let Err(error) = blocking(move || api.sweep_now()).await {
                tracing::error!(%error, "the trash could not be swept");
            }
        }
    }

    /// Mounts the API: everything that no other service of the application has taken.
    pub fn configure(&self, services: &mut web::ServiceConfig) {
        services.app_data(web::Data::new(self.clone())).default_service(web::to(serve));
    }

    async fn respond(&self, head: Head, payload: web::Payload) -> Answer {
        let configuration = self.configuration();
        let Some(_permit) = self.0.admission.enter(&configuration).await else {
            return router::refusal(self, &head, &Failure::overloaded());
        };
        let body = match collect(payload, configuration.max_request_size).await {
            Ok(body) => body,
            Err(failure) => return router::refusal(self, &head, &failure),
        };
        let (api, shown) = (self.clone(), head.clone());
        match tokio::task::spawn_blocking(move || router::answer(&api, &head, &body)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, path = shown.raw_path, "a request failed in an unforeseen way");
                router::refusal(self, &shown, &Failure::controller(500, "internal error, see the cluster's log"))
            }
        }
    }
}

/// Runs blocking work on the pool for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::controller(500, format!("internal error: {error}"))),
    }
}

/// How many requests run and wait.
struct Admission {
    running: Semaphore,
    limit: AtomicUsize,
    pending: AtomicUsize,
}

/// A request that was let in.
struct Admitted<'a> {
    admission: &'a Admission,
    _permit: Option<tokio::sync::SemaphorePermit<'a>>,
}

impl Admission {
    fn new(limit: usize) -> Self {
        Self { running: Semaphore::new(limit), limit: AtomicUsize::new(limit), pending: AtomicUsize::new(0) }
    }

    /// Lets a request in, when its turn comes; `None`: there are too many.
    async fn enter(&self, configuration: &Configuration) -> Option<Admitted<'_>> {
        self.adjust(configuration.max_concurrent_requests);
        let most = configuration.max_concurrent_requests.saturating_add(configuration.max_queued_requests);
        let before = self.pending.fetch_add(1, Ordering::SeqCst);
        let mut admitted = Admitted { admission: self, _permit: None };
        if before >= most {
            return None;
        }
        admitted._permit = self.running.acquire().await.ok();
        Some(admitted)
    }

    /// Follows a change of the settings. Fewer permits take effect as running requests end.
    fn adjust(&self, limit: usize) {
        let before = self.limit.swap(limit, Ordering::SeqCst);
        if limit > before {
            self.running.add_permits(limit - before);
        } else if limit < before {
            self.running.forget_permits(before - limit);
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.admission.pending.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(request: HttpRequest, payload: web::Payload, api: web::Data<Api>) -> HttpResponse {
    let head = head(&request);
    let request_id = head.request_id.clone();
    let answer = api.respond(head, payload).await;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    for (name, value) in CORS {
        response.insert_header((name, value));
    }
    for (name, value) in &answer.headers {
        response.insert_header((*name, value.as_str()));
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.insert_header((HeaderName::from_static("x-request-id"), value));
    }
    if answer.content_type.is_empty() {
        return response.body(answer.body);
    }
    response.content_type(answer.content_type).body(answer.body)
}

/// Sent with every answer (protocol.md 3.3).
const CORS: [(&str, &str); 5] = [
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, Range, X-Http-Method-Override"),
    ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS, PROPFIND, PUT, POST, PATCH, DELETE"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", "Content-Range"),
    ("Access-Control-Max-Age", "86486400"),
];

fn head(request: &HttpRequest) -> Head {
    let text = |name: &str| {
        let value = request.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Head {
        method: request.method().as_str().to_owned(),
        raw_path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        content_type: text("content-type"),
        method_override: text("x-http-method-override"),
        authorization: text("authorization"),
        cookies: request
            .headers()
            .get_all("cookie")
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect(),
        request_id: text("x-request-id")
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| format!("req-{}", random_base36(20))),
        external_client: text("x-external-client").as_deref() == Some("1"),
    }
}

/// Reads the body, up to a limit.
async fn collect(mut payload: web::Payload, limit: u64) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|error| Failure::controller(400, format!("cannot read the request's body: {error}")))?;
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(Failure::controller(400, "http: request body too large"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
