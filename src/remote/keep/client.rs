//! Keep over HTTP: rounds over the services until one has the block.
//!
//! A round asks every service that may still have the block, in its order. After a round without success the list of
//! services is fetched again (it may have changed, and a read that fails is worth a request, but no long wait for an API
//! server that is down as well), and there is another round of those that failed for a passing reason or are new, after a
//! pause if any of them was asked before. The number of rounds is bounded by [`Retries`], and none starts after its deadline; a transfer under way is bounded by its speed.

use crate::keep::{Locator, MAX_BLOCK_SIZE};
use crate::remote::api::Api;
use crate::remote::error::{Error, Result};
use crate::remote::keep::answer::{Problem, Verdict};
use crate::remote::keep::known::KnownServices;
use crate::remote::keep::send::Patience;
use crate::remote::keep::services::{Health, Service, ServiceKind, ServiceList};
use crate::remote::keep::{Keep, PutRequest, Stored, receive, upload};
use crate::remote::network::{self, Network};
use crate::remote::retry::{self, Retries};
use async_trait::async_trait;
use bytes::Bytes;
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, RequestBuilder, Response};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Connect timeouts: 2 s, for proxies 20 s, doubling each round (protocol.md 7.3), up to a minute.
const CONNECT: Duration = Duration::from_secs(2);
const CONNECT_PROXY: Duration = Duration::from_secs(20);
pub(super) const CONNECT_LONGEST: Duration = Duration::from_secs(60);
/// Doublings that differ: 2, 4, 8, 16, 32, 60 s and 20, 40, 60 s.
const CONNECT_STEPS: usize = 6;
/// From the request to the first byte of the answer. A service may queue requests, and a proxy tries its own servers.
const FIRST_BYTE: Duration = Duration::from_secs(60);
/// After a round without success the list of services is fetched again. The API server answers that within milliseconds; if
/// it does not in this time, the next round goes on with the list that there is.
const REFRESH: Duration = Duration::from_secs(2);
/// How much of an error text is read.
const LARGEST_TEXT: usize = 2000;

/// Blocks and bytes that went over the wire.
#[derive(Debug, Default)]
pub struct Traffic {
    pub gets: AtomicU64,
    pub puts: AtomicU64,
    pub received_bytes: AtomicU64,
    pub sent_bytes: AtomicU64,
    /// Bytes that connections have taken so far to send them, whatever became of them.
    pub offered_bytes: AtomicU64,
    /// Copies that were thrown away because length or hash were wrong.
    pub damaged: AtomicU64,
}

/// A client of the Keep services of one cluster.
pub struct HttpKeep {
    pub(super) network: Arc<Network>,
    pub(super) api: Arc<dyn Api>,
    pub(super) retries: Retries,
    pub(super) health: Health,
    /// One client per connect timeout, made when first needed.
    clients: [OnceLock<reqwest::Client>; 2 * CONNECT_STEPS],
    services: Arc<KnownServices>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) patience: Patience,
}

/// What the services said about one block so far.
#[derive(Default)]
struct Findings {
    /// By uuid of the service: the last problem, and how often it sent damaged data.
    problems: HashMap<String, (String, Problem, u32)>,
}

impl Findings {
    fn add(&mut self, service: &Service, problem: Problem) {
        let damaged = self.problems.get(&service.uuid).map_or(0, |(_, _, damaged)| *damaged);
        let damaged = damaged + u32::from(problem.verdict() == Verdict::Damaged);
        self.problems.insert(service.uuid.clone(), (service.address(), problem, damaged));
    }

    fn may_ask(&self, service: &Service) -> bool {
        match self.problems.get(&service.uuid) {
            None => true,
            Some((_, problem, damaged)) => match problem.verdict() {
                Verdict::Temporary => true,
                Verdict::Damaged => *damaged < 2,
                Verdict::Missing | Verdict::Refused | Verdict::Permanent => false,
            },
        }
    }

    fn was_asked(&self, service: &Service) -> bool {
        self.problems.contains_key(&service.uuid)
    }

    fn any(&self, verdict: Verdict) -> bool {
        self.problems.values().any(|(_, problem, _)| problem.verdict() == verdict)
    }

    fn detail(&self) -> String {
        let mut lines: Vec<_> =
            self.problems.values().map(|(address, problem, _)| format!("{address}: {problem}")).collect();
        lines.sort();
        lines.join("; ")
    }

    /// Whether a fresh signature is worth more than another round: somebody refused it, and who says that the block is
    /// missing did accept it.
    fn is_refused(&self) -> bool {
        self.any(Verdict::Refused) && !self.any(Verdict::Missing)
    }

    fn error(&self, locator: &Locator) -> Error {
        let (hash, detail) = (locator.hash().to_string(), self.detail());
        if self.is_refused() {
            let is_for_token = self.problems.values().any(|(_, problem, _)| matches!(problem, Problem::Token { .. }));
            return match is_for_token {
                true => Error::TokenRefused { what: "Keep read error", hash, detail },
                false => Error::BlockRefused { hash, detail },
            };
        }
        let nowhere = self
            .problems
            .values()
            .all(|(_, problem, _)| matches!(problem, Problem::Status { status: 403 | 404 | 410, .. }));
        match nowhere {
            true => Error::BlockNotFound { hash, detail },
            false => Error::BlockUnreadable { hash, detail, temporary: self.any(Verdict::Temporary) },
        }
    }
}

impl HttpKeep {
    /// A client for the cluster of `network`, which asks `api` for the list of services unless the settings name them.
    pub fn new(network: Arc<Network>, api: Arc<dyn Api>, retries: Retries) -> HttpKeep {
        HttpKeep {
            network,
            api,
            retries,
            health: Health::default(),
            clients: Default::default(),
            services: Arc::default(),
            traffic: Arc::default(),
            patience: Patience::default(),
        }
    }

    /// What went over the wire.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The services, as they were last listed.
    pub(super) async fn services(&self) -> Result<Arc<ServiceList>> {
        let named = &self.network.settings().keep_services;
        if !named.is_empty() {
            return self.services.get(None, async { Ok(ServiceList::from_urls(named)) }).await;
        }
        self.services.get(None, fetch(&*self.api)).await
    }

    /// The services after those of `list` have failed. Fetched again since `since`, if that can be had at once; if not, it goes
    /// on for whoever comes later.
    pub(super) async fn services_after(&self, list: Arc<ServiceList>, since: Instant) -> Arc<ServiceList> {
        if !self.network.settings().keep_services.is_empty() {
            return list;
        }
        let (services, api) = (self.services.clone(), self.api.clone());
        let refresh = tokio::spawn(async move { services.get(Some(since), fetch(&*api)).await });
        match timeout(REFRESH, refresh).await {
            Ok(Ok(Ok(fresh))) => fresh,
            _ => list,
        }
    }

    /// A request to `service` in round number `round` (0, 1, …).
    pub(super) fn request(
        &self,
        method: Method,
        service: &Service,
        path: &str,
        round: u32,
    ) -> Result<RequestBuilder, Problem> {
        let step = (round as usize).min(CONNECT_STEPS - 1);
        let (first, index) = match service.kind {
            ServiceKind::Proxy => (CONNECT_PROXY, CONNECT_STEPS + step),
            ServiceKind::Disk | ServiceKind::Gateway => (CONNECT, step),
        };
        let unusable = |problem: String| Problem::Unreachable { problem };
        let client = match self.clients[index].get() {
            Some(client) => client,
            None => {
                let limit = first.saturating_mul(1 << step).min(CONNECT_LONGEST);
                let client = self.network.client(limit).map_err(|error| unusable(error.to_string()))?;
                self.clients[index].get_or_init(|| client)
            }
        };
        let mut url = service.root.clone();
        let path = format!("{}{path}", url.path());
        url.set_path(&path);
        let request = client.request(method, url).header(AUTHORIZATION, self.network.token().authorization());
        Ok(request.header("X-Request-Id", network::request_id()))
    }

    /// Sends a request and waits for the head of the answer, `within` the given time. Everything but 200 is a problem.
    pub(super) async fn exchange(
        &self,
        service: &Service,
        request: RequestBuilder,
        within: Duration,
    ) -> Result<Response, Problem> {
        let mut response = match timeout(within, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                self.health.failed(service);
                return Err(Problem::Unreachable { problem: network::explain(&error) });
            }
            Err(_) => {
                self.health.failed(service);
                return Err(Problem::Slow { problem: format!("no answer within {} s", within.as_secs()) });
            }
        };
        self.health.answered(service);
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(response);
        }
        let mut text = Vec::new();
        while let Ok(Ok(Some(chunk))) = timeout(FIRST_BYTE, response.chunk()).await {
            text.extend_from_slice(&chunk);
            if text.len() > LARGEST_TEXT {
                break;
            }
        }
        let text = self.network.token().redact(String::from_utf8_lossy(&text).trim());
        match (status, service.kind) {
            (403, ServiceKind::Proxy) => Err(Problem::Token { text }),
            _ => Err(Problem::Status { status, text }),
        }
    }

    /// Asks a service for a block, and waits for the head of its answer.
    async fn ask(&self, method: Method, service: &Service, locator: &Locator, round: u32) -> Result<Response, Problem> {
        // The hash in lower case: keepstore knows no other (protocol.md 7), manifests may have it.
        let hints = locator.as_str().get(32..).unwrap_or_default();
        let request = self.request(method, service, &format!("{}{hints}", locator.hash()), round)?;
        self.exchange(service, request, FIRST_BYTE).await
    }

    async fn fetch(&self, service: &Service, locator: &Locator, size: usize, round: u32) -> Result<Bytes, Problem> {
        let _permit = self.network.keep_permit().await;
        let response = self.ask(Method::GET, service, locator, round).await?;
        let block = receive::receive(response, locator.hash(), size).await.inspect_err(|problem| {
            if problem.verdict() == Verdict::Damaged {
                self.traffic.damaged.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        self.traffic.gets.fetch_add(1, Ordering::Relaxed);
        self.traffic.received_bytes.fetch_add(size as u64, Ordering::Relaxed);
        Ok(block)
    }

    pub(super) fn count_put(&self, bytes: usize) {
        self.traffic.puts.fetch_add(1, Ordering::Relaxed);
        self.traffic.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

async fn fetch(api: &dyn Api) -> Result<ServiceList> {
    Ok(ServiceList::from_records(&api.keep_services().await?))
}

#[async_trait]
impl Keep for HttpKeep {
    async fn get(&self, locator: &Locator) -> Result<Bytes> {
        let hash = locator.hash();
        let wrong = |problem: &str| Error::Locator { locator: hash.to_string(), problem: problem.to_owned() };
        let size = locator.size().ok_or_else(|| wrong("it has no size, and Keep serves no block without"))?;
        if size > MAX_BLOCK_SIZE {
            return Err(wrong(&format!("{size} bytes are more than a block can have")));
        }
        if size == 0 && hash == crate::keep::BlockHash::of(b"") {
            return Ok(Bytes::new());
        }
        let start = Instant::now();
        let mut findings = Findings::default();
        let mut list = self.services().await?;
        for round in 0..=self.retries.count {
            let round_start = Instant::now();
            let text = hash.to_string();
            let mut order = list.reading(&text, locator.as_text().keep_services());
            order.retain(|service| findings.may_ask(service));
            self.health.sort(&mut order);
            for service in &order {
                match self.fetch(service, locator, size as usize, round).await {
                    Ok(block) => return Ok(block),
                    Err(problem) => {
                        let service_name = service.address();
                        tracing::info!(block = %hash, service = service_name, %problem, round, "block not read from this service");
                        findings.add(service, problem);
                    }
                }
            }
            if findings.is_refused() {
                break;
            }
            list = self.services_after(list, round_start).await;
            let mut next = list.reading(&text, locator.as_text().keep_services());
            next.retain(|service| findings.may_ask(service));
            if next.is_empty() {
                break;
            }
            let pause = match next.iter().all(|service| findings.was_asked(service)) {
                true => retry::pause(round + 1),
                false => Duration::ZERO,
            };
            if round == self.retries.count || start.elapsed() + pause > self.retries.deadline {
                break;
            }
            sleep(pause).await;
        }
        match findings.problems.is_empty() {
            true => Err(Error::NoKeepServices),
            false => Err(findings.error(locator)),
        }
    }

    /// One round: who asks has other ways if there is no answer.
    async fn check(&self, locator: &Locator) -> Result<()> {
        let list = self.services().await?;
        let mut order = list.reading(&locator.hash().to_string(), locator.as_text().keep_services());
        self.health.sort(&mut order);
        let mut findings = Findings::default();
        for service in &order {
            let _permit = self.network.keep_permit().await;
            match self.ask(Method::HEAD, service, locator, 0).await {
                Ok(_) => return Ok(()),
                Err(problem) => findings.add(service, problem),
            }
        }
        match findings.problems.is_empty() {
            true => Err(Error::NoKeepServices),
            false => Err(findings.error(locator)),
        }
    }

    async fn put(&self, block: Bytes, request: &PutRequest) -> Result<Stored> {
        upload::upload(self, block, request).await
    }
}
