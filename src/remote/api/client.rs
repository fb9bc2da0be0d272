//! The API over HTTP.
//!
//! One call is one [`Call`]: built by a method of [`Api`], sent by [`HttpApi::send`], which repeats it as its
//! [`Repeat`] allows, within the deadline of [`Retries`]. All attempts of a call carry the same `X-Request-Id`, so that
//! the server's log shows them together. GETs whose URL would be long go as POST with a form (protocol.md 1.2, 3.3):
//! proxies cut URLs at about 8 kB.

use crate::remote::api::Api;
use crate::remote::api::document::{ManifestSink, Splitter};
use crate::remote::api::query::{CollectionUpdate, Filter, Page, Query};
use crate::remote::api::records::{
    Collection, Discovery, Group, KeepService, Link, LoggedManifests, Object, PublicConfig, Record, User,
};
use crate::remote::error::{Error, Refusal, Result};
use crate::remote::events::Event;
use crate::remote::network::{self, Network};
use crate::remote::retry::{self, Repeat, Retries};
use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use url::Url;

/// Time for a TCP and TLS connection to the API server.
const CONNECT: Duration = Duration::from_secs(20);
/// The longest pause within an answer. Before it begins the server may think as long as the deadline allows: a list of
/// old versions or a large manifest can take a minute (protocol.md 4.13).
const SILENCE: Duration = Duration::from_secs(60);
/// From this repetition on, two to four seconds after the first attempt, the log says that the cluster is waited for: a restart of
/// the server is over by then. Not again within [`TELLING_PAUSE`], whatever the request.
const TELLING: u32 = 3;
const TELLING_PAUSE: Duration = Duration::from_secs(60);
/// URLs longer than this are sent as forms: the SDK's limit.
const LONGEST_URL: usize = 2048;
/// The largest answer that is read into memory: 1000 records with full descriptions (512 KiB each) and room.
const LARGEST_ANSWER: usize = 768 << 20;
/// The largest body of an error that is read.
const LARGEST_REFUSAL: usize = 1 << 20;
/// What of a path segment goes unencoded. `+` must not: it is a blank to some.
const SEGMENT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A client of the API of one cluster. Shared by reference or `Arc`; it has its own connection pool.
pub struct HttpApi {
    network: Arc<Network>,
    client: reqwest::Client,
    root: Url,
    retries: Retries,
    discovery: OnceCell<Arc<Discovery>>,
    config: OnceCell<Arc<PublicConfig>>,
    /// When the log has said last that the cluster is waited for. Held for a comparison.
    told: Mutex<Option<Instant>>,
}

/// One request of ours, however often it is sent.
struct Call {
    method: Method,
    path: String,
    parameters: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    repeat: Repeat,
}

impl Call {
    fn get(path: impl Into<String>) -> Call {
        Call { method: Method::GET, path: path.into(), parameters: Vec::new(), body: None, repeat: Repeat::Harmless }
    }

    fn list(path: &str, query: &Query) -> Call {
        Call { parameters: query.parameters(), ..Call::get(path) }
    }

    fn select(mut self, select: &[&str]) -> Call {
        if !select.is_empty() {
            self.parameters.push(("select", json!(select).to_string()));
        }
        self
    }

    /// What messages call it: method and path without the part that all paths share.
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path.trim_start_matches("arvados/v1/"))
    }
}

/// How an attempt failed.
struct Failure {
    error: Error,
    /// Whether the call may be sent again, by what is known of this failure.
    repeat: bool,
    retry_after: Option<Duration>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, repeat: false, retry_after: None }
    }
}

impl HttpApi {
    /// A client for the cluster of `network`. Sends nothing yet. Errors: a host that makes no URL.
    pub fn new(network: Arc<Network>, retries: Retries) -> Result<HttpApi> {
        let host = &network.settings().api_host;
        let root = Url::parse(&format!("https://{host}/")).map_err(|error| Error::SettingInvalid {
            name: "ARVADOS_API_HOST".to_owned(),
            place: host.clone(),
            problem: error.to_string(),
        })?;
        let client = network.client(CONNECT)?;
        let (discovery, config) = (OnceCell::new(), OnceCell::new());
        Ok(HttpApi { network, client, root, retries, discovery, config, told: Mutex::default() })
    }

    /// Sends `call` until it succeeds, fails for good, or may not be repeated any more.
    async fn send(&self, call: &Call, mut manifest: Option<&mut dyn ManifestSink>) -> Result<Vec<u8>> {
        let what = call.name();
        let request_id = network::request_id();
        let start = Instant::now();
        let deadline = start + self.retries.deadline;
        let late = || Error::Deadline { what: what.clone(), after: start.elapsed() };
        let mut repetition = 0;
        loop {
            let sink = manifest.as_mut().map(|sink| &mut **sink as &mut dyn ManifestSink);
            let attempt = timeout_at(deadline, self.attempt(call, &what, &request_id, sink)).await;
            let failure = match attempt {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => return Err(late()),
            };
            repetition += 1;
            let pause = failure.retry_after.unwrap_or_default().max(retry::pause(repetition));
            let next = Instant::now() + pause;
            if !failure.repeat || repetition > self.retries.count || next >= deadline {
                tracing::debug!(request_id, repetition, error = %failure.error, "api request failed");
                return Err(failure.error);
            }
            tracing::info!(
                request_id,
                repetition,
                of = self.retries.count,
                pause_ms = pause.as_millis() as u64,
                error = %failure.error,
                "api request is repeated"
            );
            if repetition >= TELLING && self.is_time_to_tell() {
                let waiting_s = deadline.saturating_duration_since(Instant::now()).as_secs();
                tracing::warn!(error = %failure.error, waiting_s, "the cluster does not answer as it should: trying again");
            }
            sleep_until(next).await;
        }
    }

    /// The address may be the mistake.
    fn unreachable(&self, what: &str, error: &reqwest::Error) -> Error {
        let host = &self.network.settings().api_host;
        let problem = format!("cannot connect to {host}: {}", network::explain(error));
        Error::Network { what: what.to_owned(), problem }
    }

    /// Whoever waits for the cluster is to know it; a thousand requests that wait are one outage.
    fn is_time_to_tell(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = told.is_none_or(|told| told.elapsed() >= TELLING_PAUSE);
        if is_time {
            *told = Some(Instant::now());
        }
        is_time
    }

    async fn attempt(
        &self,
        call: &Call,
        what: &str,
        request_id: &str,
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Vec<u8>, Failure> {
        let _permit = self.network.api_permit().await;
        let mut response = self.request(call, request_id)?.send().await.map_err(|error| Failure {
            repeat: call.repeat == Repeat::Harmless || error.is_connect(),
            error: if error.is_connect() { self.unreachable(what, &error) } else { broken(what, &error) },
            retry_after: None,
        })?;
        let status = response.status().as_u16();
        // From here on the server has acted: what fails now may be repeated only where that does no harm.
        let lost = |error| Failure { error, repeat: call.repeat == Repeat::Harmless, retry_after: None };
        if status != 200 {
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = retry_after.and_then(|value| retry::retry_after(value, SystemTime::now()));
            let mut body = Vec::new();
            while let Ok(Some(chunk)) = next_chunk(&mut response, what).await {
                body.extend_from_slice(&chunk);
                if body.len() > LARGEST_REFUSAL {
                    break;
                }
            }
            let refusal = Refusal::new(what, status, &body, request_id, self.network.token());
            let error = Error::Api(Box::new(refusal));
            return Err(Failure { error, repeat: call.repeat.after_status(status), retry_after });
        }
        if let Some(sink) = manifest {
            let mut splitter = Splitter::new(Some(sink));
            while let Some(chunk) = next_chunk(&mut response, what).await.map_err(lost)? {
                splitter.feed(what, &chunk)?;
            }
            return Ok(splitter.finish());
        }
        let mut body = Vec::with_capacity(response.content_length().unwrap_or(0).min(1 << 20) as usize);
        while let Some(chunk) = next_chunk(&mut response, what).await.map_err(lost)? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_ANSWER {
                return Err(answer(what, "it is too large").into());
            }
        }
        Ok(body)
    }

    fn request(&self, call: &Call, request_id: &str) -> Result<reqwest::RequestBuilder> {
        let mut url = self.root.join(&call.path).map_err(|error| answer(&call.name(), error))?;
        let mut method = call.method.clone();
        let mut form = None;
        if !call.parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.parameters);
            if url.as_str().len() > LONGEST_URL && method == Method::GET {
                form = url.query().map(str::to_owned);
                url.set_query(None);
                method = Method::POST;
            }
        }
        let mut request = self.client.request(method, url);
        request = request.header(AUTHORIZATION, self.network.token().authorization());
        request = request.header(ACCEPT, HeaderValue::from_static("application/json"));
        request = request.header("X-Request-Id", request_id);
        if let Some(form) = form {
            request = request.header("X-HTTP-Method-Override", call.method.as_str());
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        } else if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        Ok(request)
    }

    async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let body = self.send(&call, None).await?;
        serde_json::from_slice(&body).map_err(|error| answer(&call.name(), error))
    }

    async fn record<T: DeserializeOwned>(
        &self,
        call: Call,
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Record<T>> {
        let body = self.send(&call, manifest).await?;
        record(&call.name(), &body)
    }

    async fn change(
        &self,
        method: Method,
        path: String,
        update: &CollectionUpdate,
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Record<Collection>> {
        let mut call = Call { method, repeat: update.repeat, ..Call::get(path) };
        let body = update.body().map_err(|error| answer(&call.name(), error))?;
        let limit = self.discovery().await?.max_request_size;
        if limit > 0 && body.len() as u64 > limit {
            return Err(Error::TooLarge { what: call.name(), size: body.len() as u64, limit });
        }
        call.body = Some(body.into());
        let mut dropped = Dropped;
        self.record(call, Some(manifest.unwrap_or(&mut dropped))).await
    }
}

/// Makes a record of an answer whose manifest has been taken out.
pub(crate) fn record<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<Record<T>> {
    let mut raw: Map<String, Value> = serde_json::from_slice(body).map_err(|error| answer(what, error))?;
    raw.remove("manifest_text");
    let fields = T::deserialize(Value::Object(raw.clone())).map_err(|error| answer(what, error))?;
    Ok(Record { fields, raw })
}

/// A sink for manifests that nobody wants.
struct Dropped;

impl ManifestSink for Dropped {
    fn restart(&mut self) {}

    fn piece(&mut self, _bytes: &[u8]) -> std::result::Result<(), String> {
        Ok(())
    }
}

async fn next_chunk(response: &mut Response, what: &str) -> Result<Option<Bytes>> {
    match timeout(SILENCE, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| broken(what, &error)),
        Err(_) => Err(Error::Deadline { what: what.to_owned(), after: SILENCE }),
    }
}

fn broken(what: &str, error: &reqwest::Error) -> Error {
    Error::Network { what: what.to_owned(), problem: network::explain(error) }
}

fn answer(what: &str, problem: impl ToString) -> Error {
    Error::Answer { what: what.to_owned(), problem: problem.to_string() }
}

/// `resource/id` as a path. An id that would be another path (`..`) is encoded so that it is none.
fn object(resource: &str, id: &str) -> String {
    let encoded = utf8_percent_encode(id, &SEGMENT).to_string();
    let harmless = if matches!(id, "" | "." | "..") { "-".to_owned() } else { encoded };
    format!("arvados/v1/{resource}/{harmless}")
}

#[async_trait]
impl Api for HttpApi {
    async fn discovery(&self) -> Result<Arc<Discovery>> {
        let fetch = || async { self.fetch(Call::get("discovery/v1/apis/arvados/v1/rest")).await.map(Arc::new) };
        self.discovery.get_or_try_init(fetch).await.cloned()
    }

    async fn config(&self) -> Result<Arc<PublicConfig>> {
        let fetch = || async { self.fetch(Call::get("arvados/v1/config")).await.map(Arc::new) };
        self.config.get_or_try_init(fetch).await.cloned()
    }

    async fn current_user(&self) -> Result<Record<User>> {
        self.record(Call::get("arvados/v1/users/current"), None).await
    }

    async fn user(&self, uuid: &str) -> Result<Record<User>> {
        self.record(Call::get(object("users", uuid)), None).await
    }

    async fn collection(
        &self,
        id: &str,
        select: &[&str],
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Record<Collection>> {
        let mut dropped = Dropped;
        self.record(Call::get(object("collections", id)).select(select), Some(manifest.unwrap_or(&mut dropped))).await
    }

    async fn collections(&self, query: &Query) -> Result<Page<Collection>> {
        self.fetch(Call::list("arvados/v1/collections", query)).await
    }

    async fn group(&self, uuid: &str) -> Result<Record<Group>> {
        self.record(Call::get(object("groups", uuid)), None).await
    }

    async fn groups(&self, query: &Query) -> Result<Page<Group>> {
        self.fetch(Call::list("arvados/v1/groups", query)).await
    }

    async fn contents(&self, uuid: Option<&str>, query: &Query) -> Result<Page<Object>> {
        let mut call = Call::list("arvados/v1/groups/contents", query);
        call.parameters.extend(uuid.map(|uuid| ("uuid", uuid.to_owned())));
        self.fetch(call).await
    }

    async fn shared(&self, query: &Query) -> Result<Page<Group>> {
        self.fetch(Call::list("arvados/v1/groups/shared", query)).await
    }

    async fn links(&self, query: &Query) -> Result<Page<Link>> {
        self.fetch(Call::list("arvados/v1/links", query)).await
    }

    async fn logs(&self, query: &Query) -> Result<Page<Event>> {
        self.fetch(Call::list("arvados/v1/logs", query)).await
    }

    async fn logged_manifests(&self, log: u64) -> Result<Option<LoggedManifests>> {
        // As text: that is how clients write it, and all servers read it (protocol.md 12.10).
        let filters = vec![Filter::new("id", "=", log.to_string())];
        let query = Query { filters, limit: Some(1), ..Query::default() };
        let page: Page<LoggedManifests> = self.fetch(Call::list("arvados/v1/logs", &query)).await?;
        Ok(page.items.into_iter().next())
    }

    async fn keep_services(&self) -> Result<Vec<KeepService>> {
        let page: Page<KeepService> = self.fetch(Call::get("arvados/v1/keep_services/accessible")).await?;
        Ok(page.items)
    }

    async fn create_collection(
        &self,
        update: &CollectionUpdate,
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Record<Collection>> {
        self.change(Method::POST, "arvados/v1/collections".to_owned(), update, manifest).await
    }

    async fn update_collection(
        &self,
        uuid: &str,
        update: &CollectionUpdate,
        manifest: Option<&mut dyn ManifestSink>,
    ) -> Result<Record<Collection>> {
        self.change(Method::PUT, object("collections", uuid), update, manifest).await
    }

    async fn delete_collection(&self, uuid: &str) -> Result<()> {
        let call = Call { method: Method::DELETE, ..Call::get(object("collections", uuid)) };
        self.record::<Collection>(call, Some(&mut Dropped)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_segment_of_a_path_whatever_they_are() {
        assert_eq!(
            object("collections", "d41d8cd98f00b204e9800998ecf8427e+0"),
            "arvados/v1/collections/d41d8cd98f00b204e9800998ecf8427e%2B0"
        );
        let root = Url::parse("https://h/").unwrap();
        for id in ["", ".", "..", "%2e%2e", "a/../../b", "?x", "#", "a b\n"] {
            let url = root.join(&object("users", id)).unwrap();
            assert_eq!(url.path_segments().unwrap().count(), 4, "{id}: {url}");
            assert!(url.query().is_none() && url.fragment().is_none());
        }
    }
}
