//! Faults of the API, as a layer around it: every request passes here when the cluster was started with faults.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::body::{BodyStream, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use serde_json::{Map, Value, json};

use super::journal::Journal;
use super::rule::{Drop, Rule, Rules};
use super::unix_time;
use crate::cluster::api::Api;

/// Longest text of an attribute that the log keeps.
const NOTED: usize = 2000;
/// A real cluster's events arrive this much before the answer, mostly (protocol.md 9.3).
const EVENT_LEAD: Duration = Duration::from_millis(4);

/// Behaviour that is no single fault.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// Refuse `replace_files` and `replace_segments`, as servers did before they had them.
    pub without_replace_files: bool,
    /// More requests at a time than this are refused with 503; 0: no limit.
    pub most_requests: u64,
    /// How long answers wait for their events to arrive.
    pub event_lead: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { without_replace_files: false, most_requests: 0, event_lead: EVENT_LEAD }
    }
}

/// The faults of the API.
#[derive(Default)]
pub struct ApiFaults {
    /// Rules for requests.
    pub rules: Rules,
    /// Requests so far.
    pub journal: Arc<Journal>,
    behaviour: Mutex<Behaviour>,
    active: AtomicU64,
}

impl ApiFaults {
    /// How the API behaves now.
    pub fn behaviour(&self) -> Behaviour {
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how the API behaves.
    pub fn change_behaviour(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Counts a request for as long as it lives, however it ends.
struct Active<'a>(&'a ApiFaults);

impl std::ops::Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0.journal.end();
    }
}

/// Passes a request on, with whatever the rules do to it.
pub async fn disturb(
    faults: web::Data<Option<Arc<ApiFaults>>>,
    api: web::Data<Api>,
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(faults) = faults.as_ref().as_ref() else {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    };
    if is_websocket(request.path()) {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    }
    let began = Instant::now();
    let path = percent_encoding::percent_decode_str(request.path()).decode_utf8_lossy().into_owned();
    let body = whole_body(&mut request).await?;
    let parameters = parameters(&request, &body);
    let method = method(&request, &parameters);
    let entry = json!({"m": method, "path": path, "srv": "api", "q": query(&request), "attrs": noted(&parameters)});
    let number = faults.journal.begin(entry, unix_time());
    let active = Active(faults);
    let at_work = faults.active.fetch_add(1, Ordering::Relaxed) + 1;
    let asked = Asked { method: &method, path: &path, parameters: &parameters, body: &body, at_work };
    let answered = answer(faults, &api, &asked, request, next).await;
    let response = answered.map(|answered| match answered {
        Answered::Whole(response) => {
            faults.journal.note(number, "status", json!(response.status().as_u16()));
            response
        }
        Answered::Cut(response) => {
            faults.journal.note(number, "status", json!("dropped"));
            response
        }
    });
    faults.journal.note(number, "dt", json!(began.elapsed().as_secs_f64()));
    drop(active);
    response
}

/// What a rule looks at.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    parameters: &'a Map<String, Value>,
    body: &'a [u8],
    /// Requests at this moment.
    at_work: u64,
}

/// An answer, or what is left of one when the connection is cut.
enum Answered {
    Whole(ServiceResponse<BoxBody>),
    Cut(ServiceResponse<BoxBody>),
}

async fn answer(
    faults: &ApiFaults,
    api: &Api,
    asked: &Asked<'_>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<Answered, Error> {
    let behaviour = faults.behaviour();
    if behaviour.most_requests > 0 && asked.at_work > behaviour.most_requests {
        return Ok(Answered::Whole(request.into_response(HttpResponse::ServiceUnavailable().finish())));
    }
    let rule = faults.rules.take(asked.method, asked.path, asked.body).unwrap_or_default();
    if let Some(delay) = rule.delay() {
        tokio::time::sleep(delay).await;
    }
    if rule.drop == Some(Drop::Before) {
        return Ok(Answered::Cut(request.into_response(broken_off(Bytes::new()))));
    }
    if let Some(status) = rule.status {
        // What it would have been is what the test wants to be unknown.
        let response = match rule.apply_first {
            true => next.call(request).await?.into_response(refusal(&rule, status)),
            false => request.into_response(refusal(&rule, status)),
        };
        return Ok(Answered::Whole(response));
    }
    let used = |name: &&str| asked.parameters.contains_key(*name);
    if let Some(name) = ["replace_files", "replace_segments"].into_iter().find(used)
        && behaviour.without_replace_files
    {
        let text = format!("#<ActiveModel::UnknownAttributeError: unknown attribute '{name}' for Collection.>");
        let refusal = HttpResponse::UnprocessableEntity().json(json!({"errors": [text]}));
        return Ok(Answered::Whole(request.into_response(refusal)));
    }
    let events = api.subscribe();
    let response = next.call(request).await?.map_into_boxed_body();
    if !events.is_empty() {
        tokio::time::sleep(behaviour.event_lead).await;
    }
    match rule.drop {
        Some(Drop::After) => Ok(Answered::Cut(response.into_response(broken_off(Bytes::new())))),
        Some(Drop::Mid) => {
            let (http, response) = response.into_parts();
            let (response, body) = response.into_parts();
            let body = actix_web::body::to_bytes(body).await.unwrap_or_default();
            let mut half = broken_off(body.slice(..body.len() / 2));
            *half.status_mut() = response.status();
            Ok(Answered::Cut(ServiceResponse::new(http, half)))
        }
        _ => Ok(Answered::Whole(response)),
    }
}

/// Websocket connections have faults of their own.
fn is_websocket(path: &str) -> bool {
    matches!(path, "/websocket" | "/arvados/v1/events.ws")
}

fn refusal(rule: &Rule, status: u16) -> HttpResponse {
    let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    if rule.empty {
        return response.finish();
    }
    response.json(json!({"errors": [rule.message.as_deref().unwrap_or("injected fault")]}))
}

/// An answer that ends after `begin` with a cut connection. With nothing in it not even the head goes out: the server
/// gives up the connection before it has flushed anything.
fn broken_off(begin: Bytes) -> HttpResponse {
    let cut = || Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
    if begin.is_empty() {
        return HttpResponse::Ok().body(BodyStream::new(stream::iter([cut()])));
    }
    // Once through the event loop in between, so that the first half is flushed.
    let rest = stream::once(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cut()
    });
    HttpResponse::Ok().body(BodyStream::new(Box::pin(stream::iter([Ok(begin)]).chain(rest))))
}

/// Reads the body, and leaves it in the request.
async fn whole_body(request: &mut ServiceRequest) -> Result<Bytes, Error> {
    let mut payload = request.take_payload();
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        body.extend_from_slice(&piece?);
    }
    let body = body.freeze();
    request.set_payload(Payload::from(body.clone()));
    Ok(body)
}

fn query(request: &ServiceRequest) -> HashMap<String, String> {
    let mut query: HashMap<_, _> =
        url::form_urlencoded::parse(request.query_string().as_bytes()).into_owned().collect();
    query.remove("api_token");
    query
}

/// Parameters of query, form or JSON body, whichever the client uses.
fn parameters(request: &ServiceRequest, body: &[u8]) -> Map<String, Value> {
    let text = |(name, value): (String, String)| (name, Value::String(value));
    let mut parameters: Map<_, _> = query(request).into_iter().map(text).collect();
    let form = request.headers().get("content-type").and_then(|value| value.to_str().ok());
    if form.is_some_and(|value| value.starts_with("application/x-www-form-urlencoded")) {
        parameters.extend(url::form_urlencoded::parse(body).into_owned().map(text));
    } else if let Ok(Value::Object(body)) = serde_json::from_slice(body) {
        parameters.extend(body);
    }
    parameters.remove("api_token");
    parameters
}

fn noted(parameters: &Map<String, Value>) -> Value {
    let short = |value: &Value| match value {
        Value::String(text) => Value::String(text.chars().take(NOTED).collect()),
        other => other.clone(),
    };
    parameters.iter().map(|(name, value)| (name.clone(), short(value))).collect()
}

/// The method that is meant: a POST may be another one in disguise (protocol.md 1.2).
fn method(request: &ServiceRequest, parameters: &Map<String, Value>) -> String {
    let method = request.method().as_str();
    if method != "POST" {
        return method.to_owned();
    }
    let header = request.headers().get("x-http-method-override").and_then(|value| value.to_str().ok());
    let meant = parameters.get("_method").and_then(Value::as_str).or(header).unwrap_or(method);
    meant.to_ascii_uppercase()
}
