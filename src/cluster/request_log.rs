//! One line a request, and its place in the metrics.
//!
//! The line has the request id that the client gave (or got), so that its own log can be matched with ours. It has neither
//! headers nor query: tokens and names of files are in there.

use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, web};

use super::configuration::Shared;
use super::metrics::{self, Metrics};

/// Name of the API in logs and metrics.
const SERVICE: &str = "api";

/// A duration as the request log has it: milliseconds, three digits after the point.
pub fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// Answers `GET /metrics`.
pub async fn metrics(
    request: HttpRequest,
    metrics: web::Data<Metrics>,
    configuration: web::Data<Shared>,
) -> HttpResponse {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim) {
        None => HttpResponse::Unauthorized().body("authorization required\n"),
        Some(token) if token == configuration.load().management_token.expose() => {
            HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(metrics.text())
        }
        Some(_) => HttpResponse::Forbidden().body("authorization error\n"),
    }
}

/// Passes a request on, and notes how it went.
pub async fn observe<B: MessageBody>(
    metrics: web::Data<Metrics>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let received = request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    let result = next.call(request).await;
    let took = began.elapsed();
    let (status, sent, request_id) = match &result {
        Ok(response) => {
            let sent = match response.response().body().size() {
                BodySize::Sized(bytes) => bytes,
                BodySize::None | BodySize::Stream => 0,
            };
            (response.status().as_u16(), sent, response.headers().get("x-request-id").cloned())
        }
        Err(error) => (error.as_response_error().status_code().as_u16(), 0, None),
    };
    let milliseconds = milliseconds(took);
    let (method, received) = (method.as_str(), received.unwrap_or(0));
    tracing::info!(
        target: "arvados::cluster::requests",
        service = SERVICE, method, path = ?path, status, sent, received, milliseconds, request_id = ?request_id,
        "request"
    );
    metrics.request(SERVICE, method, status, took, sent, received);
    result
}
