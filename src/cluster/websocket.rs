//! Events for clients: `GET /websocket` (protocol.md 9).
//!
//! Each connection is two tasks. The *receiver* reads what the client sends and what the API announces and puts both, in
//! one order, into a queue; the *sender* works through the queue: it knows the subscriptions, asks for permissions and old
//! events, and writes. So a subscription begins exactly at its place between the events, and a slow client delays nobody
//! but itself. The queue holds [`QUEUE`] entries; a client that lets it fill is cut off, as on a real cluster, and comes
//! back with the id of the last event that it has. Nobody waits for a full queue, so the two tasks cannot wait for each
//! other.
//!
//! Whether a client may see an event is decided when it is sent, by the token in the query of the URL and nowhere else;
//! any token may connect, a bad one just sees nothing (`websocket/07-bad-token`, `07-token-in-header`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::api::Api;
use super::clock::Clock;
use super::configuration::Shared;
use super::faults::journal::Journal;
use super::faults::unix_time;
use super::metrics::Metrics;

pub mod message;
pub mod session;
pub mod subscription;

/// Entries that may wait for a client (`WebsocketClientEventQueue`, protocol.md 2.6).
pub const QUEUE: usize = 64;

/// What the connections share.
pub struct Websocket {
    api: Api,
    configuration: Shared,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Only there when tests may disturb the events.
    pub faults: Option<EventFaults>,
}

/// How tests disturb the events.
pub struct EventFaults {
    /// Refuse new connections.
    pub refuse: AtomicBool,
    /// Lose events instead of sending them.
    pub mute: AtomicBool,
    /// Each number sent here cuts all connections.
    pub disconnect: tokio::sync::watch::Sender<u64>,
    /// Connections and frames of clients are noted in the log of the API.
    pub journal: Arc<Journal>,
}

impl EventFaults {
    /// Undisturbed; notes go to `journal`.
    pub fn new(journal: Arc<Journal>) -> Self {
        let (refuse, mute) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { refuse, mute, disconnect: tokio::sync::watch::Sender::new(0), journal }
    }

    /// Notes a connection (`WS`) or a frame (`WSMSG`).
    fn note(&self, method: &str, path: &str, text: Option<&str>) {
        let mut entry = json!({"m": method, "path": path, "srv": "ws"});
        if let Some(text) = text {
            entry["attrs"] = json!(text);
        }
        self.journal.begin(entry, unix_time());
        self.journal.end();
    }
}

impl Websocket {
    /// Events of `api`.
    pub fn new(
        api: Api,
        configuration: Shared,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        faults: Option<EventFaults>,
    ) -> Self {
        Self { api, configuration, clock, metrics, faults }
    }
}

impl Websocket {
    /// Open connections.
    pub fn connections(&self) -> i64 {
        self.metrics.websockets.get()
    }
}

/// Answers `GET /websocket` and, for those who only look, `GET /arvados/v1/events.ws`.
pub async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    websocket: web::Data<Websocket>,
) -> actix_web::Result<HttpResponse> {
    if let Some(faults) = &websocket.faults {
        faults.note("WS", request.path(), None);
        if faults.refuse.load(Ordering::Relaxed) {
            return Ok(HttpResponse::ServiceUnavailable().finish());
        }
    }
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return Ok(HttpResponse::BadRequest().body("not websocket protocol"));
    }
    let (response, session, stream) = actix_ws::handle(&request, payload)?;
    actix_web::rt::spawn(session::run(websocket.into_inner(), token(request.query_string()), session, stream));
    Ok(response)
}

/// The token of a query. Clients put it there as it is (protocol.md 9.1); some encode it.
fn token(query: &str) -> String {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("api_token="));
    let decoded = percent_encoding::percent_decode_str(value.unwrap_or_default()).decode_utf8_lossy();
    decoded.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_and_encoded() {
        assert_eq!(token("api_token=v2/zzzzz-gj3su-x/y"), "v2/zzzzz-gj3su-x/y");
        assert_eq!(token("a=b&api_token=v2%2Fzzzzz-gj3su-x%2Fy"), "v2/zzzzz-gj3su-x/y");
        assert_eq!(token(""), "");
    }
}
