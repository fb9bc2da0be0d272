//! What the cluster counts, in Prometheus' text format at `/metrics` of every listener, for the management token.
//!
//! Names follow `arvados_cluster_<what>_<unit>`. Labels come from fixed sets, never from a request: a client must not be
//! able to fill the memory with label values.

use std::fmt::Write;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    service: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: String,
}

/// All counters of one cluster.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    seconds: Family<Service, Histogram>,
    sent: Family<Service, Counter>,
    received: Family<Service, Counter>,
    /// Open websocket connections.
    pub websockets: Gauge,
    /// Events sent over all websockets.
    pub events: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("arvados_cluster");
        let requests = Family::<Request, Counter>::default();
        // From 0.1 ms (a cached block) to 100 s (a block over a slow link).
        let seconds =
            Family::<Service, Histogram>::new_with_constructor(|| Histogram::new(exponential_buckets(1e-4, 4.0, 11)));
        let sent = Family::<Service, Counter>::default();
        let received = Family::<Service, Counter>::default();
        let (websockets, events) = (Gauge::default(), Counter::default());
        registry.register("requests", "Requests answered, by service, method and status", requests.clone());
        registry.register(
            "request_seconds",
            "Time from the head of a request to the end of its answer",
            seconds.clone(),
        );
        registry.register("sent_bytes", "Bytes of bodies sent", sent.clone());
        registry.register("received_bytes", "Bytes of bodies received", received.clone());
        registry.register("websockets", "Open websocket connections", websockets.clone());
        registry.register("events", "Events sent over websockets", events.clone());
        Self { registry, requests, seconds, sent, received, websockets, events }
    }
}

impl Metrics {
    /// Counts one request. Status 0: the connection broke before there was an answer.
    pub fn request(&self, service: &str, method: &str, status: u16, took: Duration, sent: u64, received: u64) {
        const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TOUCH", "WS"];
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        self.requests.get_or_create(&Request { service: service.to_owned(), method, status }).inc();
        let service = Service { service: service.to_owned() };
        self.seconds.get_or_create(&service).observe(took.as_secs_f64());
        self.sent.get_or_create(&service).inc_by(sent);
        self.received.get_or_create(&service).inc_by(received);
    }

    /// All of it as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            // Writing to a `String` cannot fail; should an encoder ever, say so where it is read.
            let _ = writeln!(text, "# encoding failed");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_odd_methods_do_not_make_labels() {
        let metrics = Metrics::default();
        metrics.request("keep0", "GET", 200, Duration::from_millis(3), 100, 0);
        metrics.request("keep0", "X-MADE-UP", 400, Duration::from_millis(3), 0, 7);
        let text = metrics.text();
        assert!(
            text.contains(r#"arvados_cluster_requests_total{service="keep0",method="GET",status="200"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"method="other",status="400"} 1"#) && !text.contains("MADE"), "{text}");
        assert!(text.contains(r#"arvados_cluster_sent_bytes_total{service="keep0"} 100"#), "{text}");
    }
}
