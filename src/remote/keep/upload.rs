//! Storing a block (protocol.md 7, 7.2, 8.4).
//!
//! Copies go to the best services for the block, as many at a time as are missing. What counts is what the services
//! confirm: copies, and copies per storage class. A service that has stored the block is not asked again; those that
//! failed for a passing reason are asked again in the next round.

use crate::keep::{BlockHash, Locator, MAX_BLOCK_SIZE};
use crate::remote::error::{Error, Result};
use crate::remote::keep::answer::Problem;
use crate::remote::keep::client::HttpKeep;
use crate::remote::keep::services::{Service, ServiceKind};
use crate::remote::keep::{PutRequest, Stored, send};
use crate::remote::retry;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, Response};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout};

/// The locator and a little more.
const LARGEST_ANSWER: usize = 4 << 10;

/// How far the storing of one block has come.
struct Progress {
    wanted: u32,
    classes: Vec<String>,
    stored: u32,
    confirmed: BTreeMap<String, u32>,
    /// A service answered without naming classes: then only copies count, as in all clients.
    classes_unknown: bool,
    locator: Option<Locator>,
}

/// What one service confirmed.
struct Confirmation {
    locator: Locator,
    replicas: u32,
    classes: Option<BTreeMap<String, u32>>,
}

impl Progress {
    fn add(&mut self, confirmation: Confirmation) {
        self.stored = self.stored.saturating_add(confirmation.replicas);
        match confirmation.classes {
            Some(classes) => {
                for (class, count) in classes {
                    let sum = self.confirmed.entry(class).or_default();
                    *sum = sum.saturating_add(count);
                }
            }
            None => self.classes_unknown = true,
        }
        self.locator = Some(confirmation.locator);
    }

    /// The classes that do not have enough copies yet.
    fn missing_classes(&self) -> Vec<&str> {
        if self.classes_unknown {
            return Vec::new();
        }
        let enough = |class: &&String| self.confirmed.get(*class).is_some_and(|count| *count >= self.wanted);
        self.classes.iter().filter(|class| !enough(class)).map(String::as_str).collect()
    }

    /// Copies that are still to be made: of the block, or of the class that has fewest.
    fn missing(&self) -> u32 {
        let copies = self.wanted.saturating_sub(self.stored);
        let of_class = |class: &&str| self.wanted.saturating_sub(self.confirmed.get(*class).copied().unwrap_or(0));
        self.missing_classes().iter().map(of_class).max().unwrap_or(0).max(copies)
    }
}

/// To hash this takes about as long (30 µs) as to have another thread do it.
const SMALL: usize = 16 << 10;

/// The hash of a block that is about to be stored.
async fn hash(block: &Bytes) -> std::result::Result<BlockHash, String> {
    if block.len() <= SMALL {
        return Ok(BlockHash::of(block));
    }
    let data = block.clone();
    tokio::task::spawn_blocking(move || BlockHash::of(&data)).await.map_err(|error| error.to_string())
}

/// Stores `block` as `request` wants it.
pub(super) async fn upload(keep: &HttpKeep, block: Bytes, request: &PutRequest) -> Result<Stored> {
    if block.len() as u64 > MAX_BLOCK_SIZE {
        let hash = format!("of {} bytes", block.len());
        return Err(Error::BlockUnwritable {
            hash,
            detail: "a block has at most 64 MiB".to_owned(),
            temporary: false,
            full: false,
        });
    }
    let hash = hash(&block).await.map_err(|detail| Error::BlockUnwritable {
        hash: String::new(),
        detail,
        temporary: true,
        full: false,
    })?;
    let mut progress = progress(keep, request).await?;
    if block.is_empty() {
        // Nobody stores the empty block (protocol.md 5.6).
        let classes = progress.classes.iter().map(|class| (class.clone(), progress.wanted)).collect();
        return Ok(Stored { locator: Locator::new(hash, 0), replicas: progress.wanted, storage_classes: classes });
    }
    let start = Instant::now();
    let mut list = keep.services().await?;
    let mut done: HashSet<String> = HashSet::new();
    let mut problems: HashMap<String, (String, Problem)> = HashMap::new();
    for round in 0..=keep.retries.count {
        let round_start = Instant::now();
        let mut order = list.writing(&hash.to_string());
        order.retain(|service| !done.contains(&service.uuid));
        order.retain(|service| problems.get(&service.uuid).is_none_or(|(_, problem)| problem.may_write_later()));
        if order.is_empty() && round == 0 {
            return Err(Error::NoKeepServices);
        }
        keep.health.sort(&mut order);
        one_round(keep, &block, hash, order, round, &mut progress, &mut done, &mut problems).await;
        if progress.missing() == 0
            && let Some(locator) = progress.locator
        {
            return Ok(Stored { locator, replicas: progress.stored, storage_classes: progress.confirmed });
        }
        list = keep.services_after(list, round_start).await;
        let may_later = |service: &Arc<Service>| {
            !done.contains(&service.uuid)
                && problems.get(&service.uuid).is_none_or(|(_, problem)| problem.may_write_later())
        };
        let pause = retry::pause(round + 1);
        let hopeless = !list.writing(&hash.to_string()).iter().any(may_later);
        if hopeless || round == keep.retries.count || start.elapsed() + pause > keep.retries.deadline {
            break;
        }
        sleep(pause).await;
    }
    let mut lines: Vec<_> = problems.values().map(|(address, problem)| format!("{address}: {problem}")).collect();
    lines.sort();
    let detail = format!(
        "wanted {} copies in [{}], stored {}{}{}",
        progress.wanted,
        progress.classes.join(", "),
        progress.stored,
        if lines.is_empty() { "" } else { "; " },
        lines.join("; ")
    );
    let temporary = problems.values().any(|(_, problem)| problem.may_write_later());
    if !temporary && problems.values().any(|(_, problem)| matches!(problem, Problem::Token { .. })) {
        return Err(Error::TokenRefused { what: "Keep write error", hash: hash.to_string(), detail });
    }
    let full = problems.values().any(|(_, problem)| matches!(problem, Problem::Status { status: 507, .. }));
    Err(Error::BlockUnwritable { hash: hash.to_string(), detail, temporary, full })
}

/// What is wanted, with the cluster's defaults for what the request leaves open. With services named by the user no
/// classes are asked for: these may be older than classes (protocol.md 8.2).
async fn progress(keep: &HttpKeep, request: &PutRequest) -> Result<Progress> {
    let wanted = match request.replicas {
        Some(replicas) => replicas,
        None => keep.api.discovery().await?.default_collection_replication,
    };
    let classes = match request.storage_classes.is_empty() {
        false => request.storage_classes.clone(),
        true if keep.network.settings().keep_services.is_empty() => keep.api.config().await?.default_storage_classes(),
        true => Vec::new(),
    };
    Ok(Progress {
        wanted: wanted.max(1),
        classes,
        stored: 0,
        confirmed: BTreeMap::new(),
        classes_unknown: false,
        locator: None,
    })
}

#[expect(clippy::too_many_arguments, reason = "the state of one upload, used in one place")]
async fn one_round(
    keep: &HttpKeep,
    block: &Bytes,
    hash: BlockHash,
    order: Vec<Arc<Service>>,
    round: u32,
    progress: &mut Progress,
    done: &mut HashSet<String>,
    problems: &mut HashMap<String, (String, Problem)>,
) {
    let mut waiting = order.into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < progress.missing() as usize {
            let Some(service) = waiting.next() else { break };
            // A proxy makes all copies itself; several at once would only make too many.
            let proxy = service.kind == ServiceKind::Proxy;
            let copies = progress.wanted;
            let classes = progress.missing_classes().join(", ");
            running.push(async move {
                let outcome = store(keep, &service, block, hash, copies, &classes, round).await;
                (service, outcome)
            });
            if proxy {
                break;
            }
        }
        let Some((service, outcome)) = running.next().await else { return };
        match outcome {
            Ok(confirmation) => {
                keep.count_put(block.len());
                problems.remove(&service.uuid);
                done.insert(service.uuid.clone());
                progress.add(confirmation);
            }
            Err(problem) => {
                tracing::info!(block = %hash, service = service.address(), %problem, round, "block not stored by this service");
                problems.insert(service.uuid.clone(), (service.address(), problem));
            }
        }
    }
}

async fn store(
    keep: &HttpKeep,
    service: &Service,
    block: &Bytes,
    hash: BlockHash,
    copies: u32,
    classes: &str,
    round: u32,
) -> Result<Confirmation, Problem> {
    let _permit = keep.network.keep_permit().await;
    let (body, sending) = send::body(block.clone(), keep.traffic.clone());
    let mut request = keep.request(Method::PUT, service, &hash.to_string(), round)?.body(body);
    request = request.header(CONTENT_LENGTH, block.len()).header("X-Keep-Desired-Replicas", copies);
    if !classes.is_empty() {
        request = request.header("X-Keep-Storage-Classes", classes);
    }
    let patience = keep.patience;
    let mut response = tokio::select! {
        response = keep.exchange(service, request, patience.in_all(block.len())) => response?,
        problem = sending.stall(patience) => {
            keep.health.failed(service);
            return Err(problem);
        }
    };
    let replicas = header(&response, "X-Keep-Replicas-Stored").and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    let classes = header(&response, "X-Keep-Storage-Classes-Confirmed").map(confirmed_classes);
    let unusable = |problem: &str| Problem::Damaged { problem: problem.to_owned() };
    let mut body = Vec::new();
    while let Some(chunk) =
        timeout(patience.silence, response.chunk()).await.ok().and_then(|chunk| chunk.ok().flatten())
    {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_ANSWER {
            return Err(unusable("the answer is no locator"));
        }
    }
    let text = std::str::from_utf8(&body).ok().map(str::trim);
    let locator: Option<Locator> = text.and_then(|text| text.parse().ok());
    let locator = locator.filter(|locator| locator.hash() == hash && locator.size() == Some(block.len() as u64));
    let locator = locator.ok_or_else(|| unusable("the answer is not the locator of what was sent"))?;
    Ok(Confirmation { locator, replicas, classes })
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// `default=2, special=1`, in any order; what has another form counts as nothing.
fn confirmed_classes(text: &str) -> BTreeMap<String, u32> {
    let entry = |part: &str| {
        let (class, count) = part.split_once('=')?;
        Some((class.trim().to_owned(), count.trim().parse().ok()?))
    };
    text.split(',').filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::api::HttpApi;
    use crate::remote::keep::send::Patience;
    use crate::remote::retry::Retries;
    use crate::remote::{Network, Settings, Token};
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use url::Url;

    #[test]
    fn classes_that_are_confirmed() {
        let expected = [("default".to_owned(), 2), ("special".to_owned(), 1)].into();
        assert_eq!(confirmed_classes("special=1, default=2"), expected);
        assert_eq!(confirmed_classes("x, y=z"), BTreeMap::new());
    }

    #[test]
    fn an_upload_is_done_when_copies_and_every_class_have_enough() {
        let locator = Locator::new(BlockHash::of(b"x"), 1);
        let confirm = |replicas, classes: &str| Confirmation {
            locator: locator.clone(),
            replicas,
            classes: (!classes.is_empty()).then(|| confirmed_classes(classes)),
        };
        let mut progress = Progress {
            wanted: 2,
            classes: vec!["a".to_owned(), "b".to_owned()],
            stored: 0,
            confirmed: BTreeMap::new(),
            classes_unknown: false,
            locator: None,
        };
        assert_eq!(progress.missing(), 2);
        progress.add(confirm(2, "a=2"));
        assert_eq!((progress.missing(), progress.missing_classes()), (2, vec!["b"]));
        progress.add(confirm(1, "b=1"));
        assert_eq!(progress.missing(), 1);
        progress.add(confirm(1, "b=1, c=9"));
        assert_eq!(progress.missing(), 0);
        let mut progress = Progress { stored: 1, confirmed: BTreeMap::new(), ..progress };
        progress.add(confirm(1, ""));
        assert_eq!(progress.missing(), 0, "a service that names no classes makes only copies count");
    }

    /// Takes `most` bytes of whatever comes and never answers.
    async fn silent_server(most: usize) -> (Url, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut data = vec![0; most];
                let _ = stream.read_exact(&mut data).await;
                open.push(stream);
            }
        });
        (format!("http://{address}/").parse().unwrap(), task)
    }

    /// A service that stores one copy of each block.
    async fn good_server() -> (Url, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut data = Vec::new();
                let block = loop {
                    stream.read_buf(&mut data).await.unwrap();
                    let Some(end) = data.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                    let head = String::from_utf8_lossy(&data[..end]).to_lowercase();
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let length: usize = length.expect("a keepproxy wants to know the length").parse().unwrap();
                    assert!(!head.contains("transfer-encoding"));
                    if data.len() == end + 4 + length {
                        break &data[end + 4..];
                    }
                };
                let answer = format!("{}+{}", BlockHash::of(block), block.len());
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (format!("http://{address}/").parse().unwrap(), task)
    }

    #[tokio::test]
    async fn a_service_that_takes_the_block_or_a_part_of_it_and_never_answers_is_passed_over() {
        // The larger one is more than the kernel takes off our hands on both sides.
        for (size, taken) in [(1000, 1 << 20), (24 << 20, 100_000)] {
            let block = Bytes::from(vec![7; size]);
            // Whichever of the two is asked first.
            for at in 0..2 {
                let (silent, one) = silent_server(taken).await;
                let (good, two) = good_server().await;
                let mut settings = Settings::new("localhost:1", Token::new("x").unwrap());
                settings.insecure = true;
                settings.keep_services = vec![good];
                settings.keep_services.insert(at, silent);
                let network = Network::new(settings).unwrap();
                let retries = Retries { count: 2, ..Retries::default() };
                let api = Arc::new(HttpApi::new(network.clone(), retries).unwrap());
                let mut keep = HttpKeep::new(network, api, retries);
                keep.patience = Patience { silence: Duration::from_secs(1), ..Patience::default() };
                let once = PutRequest { replicas: Some(1), ..PutRequest::default() };
                let put = timeout(Duration::from_secs(60), upload(&keep, block.clone(), &once));
                assert_eq!(put.await.expect("it gives up in time").expect("the other one has it").replicas, 1);
                one.abort();
                two.abort();
            }
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in ".*") {
            confirmed_classes(&text);
        }
    }
}
