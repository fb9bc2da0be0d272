//! What all connections to one cluster share: settings, trust, and the limit on how many there are.
//!
//! A request holds one permit of its limit while it is on the wire and asks for nothing else meanwhile, so permits
//! cannot be waited for in a circle (a block that needs the list of services fetches it before it takes its own).

use crate::remote::error::{Error, Result};
use crate::remote::settings::Settings;
use crate::remote::token::Token;
use crate::remote::trust;
use rand::RngExt;
use rustls::ClientConfig;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Connections to the API server. With [`KEEP_CONNECTIONS`] at most 64 in all, the number of requests that an Arvados
/// controller works on at once by default (`MaxConcurrentRequests`, protocol.md 2.6): more only wait in its queue.
pub const API_CONNECTIONS: usize = 16;
/// Connections to Keep services: most of the 64, because this is where the data flow.
pub const KEEP_CONNECTIONS: usize = 48;

/// How long the peer's kernel may leave data of ours unacknowledged, and how long silent connections are probed, before
/// the connection counts as dead: 15 s idle, then three probes 5 s apart. Tells a dead network from a slow server.
const DEAD_PEER: Duration = Duration::from_secs(30);
const PROBE_AFTER: Duration = Duration::from_secs(15);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// Idle connections are closed by us before the usual 30 s of servers and proxies, so that a request does not meet a
/// connection that is just being closed.
const IDLE: Duration = Duration::from_secs(25);

/// The cluster that [`Settings`] name, as seen from here. Shared by `Arc`.
pub struct Network {
    settings: Settings,
    tls: Arc<ClientConfig>,
    api: Semaphore,
    keep: Semaphore,
}

impl Network {
    /// Prepares connections as `settings` say; opens none. Errors: no certificate authorities.
    pub fn new(settings: Settings) -> Result<Arc<Network>> {
        let tls = Arc::new(trust::client_configuration(&settings)?);
        Ok(Arc::new(Network {
            settings,
            tls,
            api: Semaphore::new(API_CONNECTIONS),
            keep: Semaphore::new(KEEP_CONNECTIONS),
        }))
    }

    /// The settings it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Who we are.
    pub fn token(&self) -> &Token {
        &self.settings.token
    }

    /// TLS as a client of this cluster does it.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// A client with a connection pool of its own, HTTP/1.1, proxies as in the environment, no redirects (no part of
    /// Arvados that we use sends any, and a token must not follow one).
    pub(super) fn client(&self, connect: Duration) -> Result<reqwest::Client> {
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured((*self.tls).clone())
            .user_agent(concat!("arvados/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(connect)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .tcp_user_timeout(DEAD_PEER)
            .tcp_keepalive(PROBE_AFTER)
            .tcp_keepalive_interval(PROBE_EVERY)
            .tcp_keepalive_retries(PROBES);
        builder.build().map_err(|error| Error::Network { what: "HTTP client".to_owned(), problem: explain(&error) })
    }

    pub(super) async fn api_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.api.acquire().await.ok()
    }

    pub(super) async fn keep_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.keep.acquire().await.ok()
    }
}

/// The causes of an HTTP error in one line, without the URL (it may hold a token).
pub(super) fn explain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    causes.dedup();
    match causes.is_empty() {
        false => causes.join(": "),
        true if error.is_timeout() => "timed out".to_owned(),
        true => "request failed".to_owned(),
    }
}

/// A fresh `X-Request-Id`: `req-` and 20 of `[0-9a-z]` (protocol.md 10).
pub(super) fn request_id() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut random = rand::rng();
    let digits = (0..20).map(|_| char::from(DIGITS[random.random_range(0..DIGITS.len())]));
    std::iter::once("req-".to_owned()).chain(digits.map(String::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_have_the_form_of_arvados_and_differ() {
        let (one, two) = (request_id(), request_id());
        assert!(one.len() == 24 && one.starts_with("req-") && one != two, "{one} {two}");
        assert!(one[4..].bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()));
    }
}
