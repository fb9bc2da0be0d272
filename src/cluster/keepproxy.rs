//! A keepproxy: the keepstores of this cluster behind one TLS address (protocol.md 7.4).
//!
//! It is for clients that cannot reach the keepstores one by one: through a tunnel, a load balancer, from outside the
//! machine. It speaks the keepstores' protocol on both sides and has no way in that a client would not have: it asks
//! them over HTTP, in the order that every client computes (protocol.md 8.3). What it adds: a token is checked before
//! anything else, and an upload is one request however many copies are wanted.
//!
//! An upload is held in memory until all copies are made, at most [`MAX_BLOCK_SIZE`]; a download passes through.
//!
//! A difference to the real one, on purpose: content that does not match its hash is refused at once, without the
//! retries that make a client of the real one wait for three seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::http::header::{self, HeaderMap};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use md5::{Digest, Md5};

use super::configuration::{KeepService, Shared};
use crate::keep::MAX_BLOCK_SIZE;

/// What a token must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read blocks. A token of limited scope may, if it can ask where the blocks are.
    Read,
    /// To write blocks.
    Write,
}

/// Tells whether a token is good. May block: it is called on a thread for that.
pub type Authorize = dyn Fn(&str, Access) -> bool + Send + Sync;

/// How the proxy calls itself in `Via`, by which it knows its own requests.
const VIA: &str = "HTTP/1.1 keepproxy";
/// The real one's words for every refusal of a token.
const FORBIDDEN: &str = "Missing or invalid Authorization header, or method not allowed";
/// A keepstore on this machine that does not accept a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// A keepstore that says nothing for so long is stuck. Above what writing 64 MiB to a slow disk takes.
const STALLED: Duration = Duration::from_secs(60);

/// A proxy for the keepstores in the configuration.
pub struct Keepproxy {
    configuration: Shared,
    authorize: Box<Authorize>,
    client: reqwest::Client,
}

/// Why a keepstore did not do what it was asked.
struct Refusal {
    status: u16,
    text: String,
}

impl Keepproxy {
    /// A proxy that asks `authorize` about each token, and trusts keepstores that speak TLS as `tls` says.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(
        configuration: Shared,
        authorize: Box<Authorize>,
        tls: rustls::ClientConfig,
    ) -> Result<Self, reqwest::Error> {
        // The keepstores are on this machine: whatever proxy the environment names is for others.
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(STALLED)
            .build()?;
        Ok(Self { configuration, authorize, client })
    }

    /// Keepstores in the order in which they are asked for a block.
    fn services(&self, hash: &str) -> Vec<KeepService> {
        let mut services: Vec<_> = self
            .configuration
            .load()
            .services
            .keep
            .iter()
            .filter(|service| service.service_type == "disk")
            .cloned()
            .collect();
        services.sort_by_cached_key(|service| {
            let name = &service.uuid[service.uuid.len().saturating_sub(15)..];
            std::cmp::Reverse(<[u8; 16]>::from(Md5::digest(format!("{hash}{name}"))))
        });
        services
    }

    async fn allows(self: &Arc<Self>, token: &str, access: Access) -> bool {
        let (proxy, token) = (Arc::clone(self), token.to_owned());
        web::block(move || (proxy.authorize)(&token, access)).await.unwrap_or(false)
    }

    /// Asks one keepstore. Errors: what it, or the network, said instead of 200.
    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Refusal> {
        match request.send().await {
            Ok(response) if response.status() == reqwest::StatusCode::OK => Ok(response),
            Ok(response) => {
                let status = response.status().as_u16();
                let text = response.text().await.unwrap_or_default().trim_end().to_owned();
                Err(Refusal { status, text })
            }
            Err(error) => Err(Refusal { status: 0, text: error.without_url().to_string() }),
        }
    }
}

fn url(service: &KeepService, path: &str) -> String {
    let scheme = if service.ssl { "https" } else { "http" };
    format!("{scheme}://{}:{}/{path}", service.host, service.port)
}

/// The handlers, for a server of its own.
pub fn routes(proxy: Arc<Keepproxy>) -> impl FnOnce(&mut web::ServiceConfig) + Clone {
    move |config| {
        config.app_data(web::Data::from(proxy)).default_service(web::to(answer));
    }
}

async fn answer(request: HttpRequest, payload: web::Payload, proxy: web::Data<Keepproxy>) -> HttpResponse {
    let proxy = proxy.into_inner();
    let began = std::time::Instant::now();
    let request_id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let request_id = request_id.unwrap_or_else(|| format!("req-{}", super::configuration::random_base36(20)));
    let mut response = route(&request, payload, &proxy, &request_id).await;
    let headers = response.headers_mut();
    headers.insert(header::VIA, header::HeaderValue::from_static(VIA));
    if let Ok(id) = header::HeaderValue::from_str(&request_id) {
        headers.insert(header::HeaderName::from_static("x-request-id"), id);
    }
    tracing::info!(
        target: "arvados::cluster::requests",
        service = "keepproxy", method = %request.method(), status = response.status().as_u16(), request_id,
        milliseconds = began.elapsed().as_secs_f64() * 1e3, "request"
    );
    response
}

async fn route(request: &HttpRequest, payload: web::Payload, proxy: &Arc<Keepproxy>, id: &str) -> HttpResponse {
    let path = percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy();
    let locator = path.trim_start_matches('/');
    let method = request.method();
    if *method == Method::OPTIONS {
        return HttpResponse::Ok()
            .insert_header(("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, OPTIONS"))
            .insert_header(("Access-Control-Allow-Origin", "*"))
            .insert_header((
                "Access-Control-Allow-Headers",
                "Authorization, Content-Length, Content-Type, X-Keep-Desired-Replicas",
            ))
            .insert_header(("Access-Control-Max-Age", "86486400"))
            .finish();
    }
    if request.headers().get_all(header::VIA).any(|via| via.to_str().is_ok_and(|via| via.contains(VIA))) {
        return refusal(500, "this proxy was asked by itself: remove it from the list of keepstores");
    }
    let access = if matches!(*method, Method::GET | Method::HEAD) { Access::Read } else { Access::Write };
    let token = token(request.headers());
    match (token, hash(locator), method.as_str()) {
        (None, ..) => refusal(403, FORBIDDEN),
        (Some(token), ..) if !proxy.allows(&token, access).await => refusal(403, FORBIDDEN),
        (Some(token), Some(hash), "GET" | "HEAD") => get(proxy, method, hash, locator, &token, id).await,
        (Some(token), Some(_), "PUT") => put(proxy, request.headers(), payload, Some(locator), &token, id).await,
        (Some(token), _, "POST") if locator.is_empty() => {
            put(proxy, request.headers(), payload, None, &token, id).await
        }
        _ => refusal(400, "Bad request"),
    }
}

/// The token of a request. Only in the header: the real one looks nowhere else.
fn token(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (matches!(scheme, "Bearer" | "OAuth2") && !token.is_empty()).then(|| token.to_owned())
}

/// The hash at the start of a locator.
fn hash(locator: &str) -> Option<&str> {
    let hash = locator.split('+').next()?;
    let good = hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    good.then_some(hash)
}

/// The size hint of a locator.
fn size(locator: &str) -> Option<u64> {
    locator.split('+').nth(1)?.parse().ok()
}

/// An error as Go's `http.Error` writes it.
fn refusal(status: u16, text: &str) -> HttpResponse {
    refusing(status).body(format!("{text}\n"))
}

fn refusing(status: u16) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    response.content_type("text/plain; charset=utf-8").insert_header(("X-Content-Type-Options", "nosniff"));
    response
}

/// `+K@` hints say where else to ask. Here everything is in one place.
fn without_service_hints(locator: &str) -> String {
    locator.split('+').filter(|hint| !hint.starts_with("K@")).collect::<Vec<_>>().join("+")
}

async fn get(proxy: &Keepproxy, method: &Method, hash: &str, locator: &str, token: &str, id: &str) -> HttpResponse {
    let locator = without_service_hints(locator);
    let mut refusals = Vec::new();
    for service in proxy.services(hash) {
        let url = url(&service, &locator);
        let client = &proxy.client;
        let asked = if *method == Method::HEAD { client.head(&url) } else { client.get(&url) };
        match proxy.ask(asked.bearer_auth(token).header("X-Request-Id", id)).await {
            Ok(response) => return pass_on(method, response),
            Err(refusal) => refusals.push((url, refusal)),
        }
    }
    if refusals.iter().all(|(_, refusal)| refusal.status == 404) {
        return refusal(404, "Block not found");
    }
    let temporary = |status: u16| matches!(status, 0 | 408 | 429 | 500..);
    let status = if refusals.iter().any(|(_, refusal)| temporary(refusal.status)) { 502 } else { 422 };
    let reason = |(url, Refusal { status, text }): &(String, Refusal)| match status {
        0 => format!("{url}: {text}"),
        _ => format!("{url}: HTTP {status} {text:?}"),
    };
    let reasons: Vec<_> = refusals.iter().map(reason).collect();
    refusal(status, &format!("{method} {locator} failed: [{}]", reasons.join(" ")))
}

fn pass_on(method: &Method, response: reqwest::Response) -> HttpResponse {
    let announced = response.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let mut answer = HttpResponse::Ok();
    if *method == Method::HEAD {
        // Announces the length that a GET would have; the framework sends no body to a HEAD.
        let nothing = futures_util::stream::empty::<Result<Bytes, std::convert::Infallible>>();
        return answer.body(SizedStream::new(announced.unwrap_or(0), nothing));
    }
    answer.content_type("application/octet-stream");
    match announced {
        Some(length) => answer.body(SizedStream::new(length, response.bytes_stream())),
        None => answer.streaming(response.bytes_stream()),
    }
}

/// Reads an upload. Errors: the answer to one that is too large, or cut short.
async fn receive(mut payload: web::Payload) -> Result<Bytes, HttpResponse> {
    let mut content = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|error| refusal(400, &format!("cannot read the block: {error}")))?;
        if (content.len() + piece.len()) as u64 > MAX_BLOCK_SIZE {
            return Err(refusal(413, "block is larger than 64 MiB"));
        }
        content.extend_from_slice(&piece);
    }
    Ok(content.freeze())
}

/// Copies made so far: how many, and of which class.
#[derive(Default)]
struct Copies {
    replicas: u64,
    classes: BTreeMap<String, u64>,
}

impl Copies {
    /// Whether enough copies of each wanted class exist, or of any if none is named.
    fn suffice(&self, wanted: u64, classes: &[String]) -> bool {
        let enough = |class: &String| self.classes.get(class).is_some_and(|copies| *copies >= wanted);
        if classes.is_empty() { self.replicas >= wanted } else { classes.iter().all(enough) }
    }

    fn count(&mut self, headers: &reqwest::header::HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.replicas += text("x-keep-replicas-stored").parse::<u64>().unwrap_or(1);
        for (class, copies) in
            text("x-keep-storage-classes-confirmed").split(',').filter_map(|pair| pair.split_once('='))
        {
            *self.classes.entry(class.trim().to_owned()).or_default() += copies.trim().parse::<u64>().unwrap_or(0);
        }
    }

    fn confirmed(&self, classes: &[String]) -> String {
        let counts =
            classes.iter().filter_map(|class| self.classes.get(class).map(|copies| format!("{class}={copies}")));
        counts.collect::<Vec<_>>().join(", ")
    }
}

async fn put(
    proxy: &Keepproxy,
    headers: &HeaderMap,
    payload: web::Payload,
    locator: Option<&str>,
    token: &str,
    id: &str,
) -> HttpResponse {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let Some(length) = text("content-length").and_then(|length| length.parse::<u64>().ok()) else {
        return refusal(411, "Content-Length is missing");
    };
    if length > MAX_BLOCK_SIZE {
        return refusal(413, "block is larger than 64 MiB");
    }
    if locator.and_then(size).is_some_and(|size| size != length) {
        return refusal(400, "the size in the locator is not the length of the block");
    }
    let classes: Vec<String> = text("x-keep-storage-classes")
        .map(|classes| {
            classes.split(',').map(|class| class.trim().to_owned()).filter(|class| !class.is_empty()).collect()
        })
        .unwrap_or_default();
    let replication = u64::try_from(proxy.configuration.load().default_replication).unwrap_or(1);
    let wanted = text("x-keep-desired-replicas").and_then(|count| count.parse().ok()).unwrap_or(replication);
    let content = match receive(payload).await {
        Ok(content) => content,
        Err(refusal) => return refusal,
    };
    let computed = hex::encode(Md5::digest(&content));
    if let Some(given) = locator.and_then(hash).filter(|given| *given != computed) {
        return refusing(502)
            .insert_header(("X-Keep-Replicas-Stored", "0"))
            .body(format!("block hash {computed} did not match provided hash {given}\n"));
    }

    let (mut copies, mut stored, mut refused) = (Copies::default(), None, Vec::new());
    for service in proxy.services(&computed).into_iter().filter(|service| !service.read_only) {
        let mut upload = proxy.client.put(url(&service, &computed)).bearer_auth(token).header("X-Request-Id", id);
        if !classes.is_empty() {
            upload = upload.header("X-Keep-Storage-Classes", classes.join(", "));
        }
        match proxy.ask(upload.body(content.clone())).await {
            Ok(response) => {
                copies.count(response.headers());
                // Signed by the keepstore, for the client's token.
                stored = response.text().await.ok().map(|locator| locator.trim_end().to_owned()).or(stored);
            }
            Err(refusal) => refused.push(refusal.status),
        }
        if copies.suffice(wanted, &classes) {
            break;
        }
    }
    let mut answer = match stored.as_deref() {
        Some(_) if copies.suffice(wanted, &classes) => HttpResponse::Ok(),
        // Keepstores that were asked and could not are another matter than too few of them.
        None if refused.iter().any(|status| !matches!(status, 0 | 503 | 507)) => refusing(502),
        _ => refusing(503),
    };
    answer
        .content_type("text/plain; charset=utf-8")
        .insert_header(("X-Keep-Replicas-Stored", copies.replicas.to_string()));
    if !classes.is_empty() {
        answer.insert_header(("X-Keep-Storage-Classes-Confirmed", copies.confirmed(&classes)));
    }
    match stored {
        Some(locator) if copies.suffice(wanted, &classes) => answer.body(locator),
        _ => answer.body("Could not write sufficient replicas\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_per_class_when_classes_are_asked_for() {
        let mut copies = Copies::default();
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("x-keep-replicas-stored", "1".parse().unwrap());
        headers.insert("x-keep-storage-classes-confirmed", "special=1, default=1".parse().unwrap());
        copies.count(&headers);
        let classes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(copies.suffice(1, &[]) && !copies.suffice(2, &[]));
        assert!(copies.suffice(1, &classes(&["special", "default"])));
        assert!(!copies.suffice(1, &classes(&["special", "archive"])));
        copies.count(&headers);
        assert!(copies.suffice(2, &[]));
        assert_eq!(copies.confirmed(&classes(&["special"])), "special=2");
    }

    #[test]
    fn a_locator_tells_hash_and_size_and_loses_hints_about_places() {
        let locator = "acbd18db4cc2f85cedef654fccc4a4d8+3+K@zzzzz+Aff@12";
        assert_eq!(hash(locator), Some("acbd18db4cc2f85cedef654fccc4a4d8"));
        assert_eq!(size(locator), Some(3));
        assert_eq!(without_service_hints(locator), "acbd18db4cc2f85cedef654fccc4a4d8+3+Aff@12");
        for odd in ["", "nosuch", "ACBD18DB4CC2F85CEDEF654FCCC4A4D8+3", "acbd18db+3"] {
            assert_eq!(hash(odd), None, "{odd}");
        }
    }
}
