//! The clients of API, Keep and websocket before servers that fail in every way we know of.

#[path = "support/scripted.rs"]
mod scripted;

use arvados::keep::{BlockHash, Locator};
use arvados::remote::api::{Api, CollectionUpdate, Filter, HttpApi, Query, paging};
use arvados::remote::keep::{HttpKeep, Keep, PutRequest};
use arvados::remote::retry::{Repeat, Retries};
use arvados::remote::{Error, Network, Settings, Token};
use futures_util::StreamExt;
use scripted::{Reply, Request, Server};
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const TOKEN: &str = "v2/zzzzz-gj3su-0123456789abcde/3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi";

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), future).await.expect("has a deadline")
}

fn retries(count: u32) -> Retries {
    Retries { count, deadline: Duration::from_secs(20) }
}

fn network(api: Option<&Server>, keep: &[&Server]) -> Arc<Network> {
    let host = api.map_or("localhost:1".to_owned(), |server| format!("localhost:{}", server.address.port()));
    let mut settings = Settings::new(&host, Token::new(TOKEN).unwrap());
    settings.certificate_file = api.and_then(|server| server.certificate.clone());
    settings.insecure = api.is_none();
    settings.keep_services = keep.iter().map(|server| format!("http://{}/", server.address).parse().unwrap()).collect();
    Network::new(settings).unwrap()
}

fn api(server: &Server, retries: Retries) -> HttpApi {
    HttpApi::new(network(Some(server), &[]), retries).unwrap()
}

fn keep(servers: &[&Server], retries: Retries) -> HttpKeep {
    let network = network(None, servers);
    let api = Arc::new(HttpApi::new(network.clone(), retries).unwrap());
    HttpKeep::new(network, api, retries)
}

/// Answers the first requests with `first`, all later ones with `then`.
fn first_then(times: usize, first: Reply, then: Reply) -> impl Fn(&Request) -> Reply + Send + Sync {
    let count = AtomicUsize::new(0);
    move |_| if count.fetch_add(1, Ordering::SeqCst) < times { first.clone() } else { then.clone() }
}

fn user() -> Reply {
    Reply::json(&json!({"kind": "arvados#user", "uuid": "zzzzz-tpzed-000000000000000", "can_write": true}))
}

// ---- API

#[tokio::test]
async fn reading_is_repeated_after_503_and_after_a_lost_connection_with_one_request_id() {
    for first in
        [Reply::status(503, ""), Reply::status(500, r#"{"errors":["x"]}"#), Reply::status(429, ""), Reply::Close]
    {
        let server = Server::tls(first_then(1, first, user())).await;
        let user = within(api(&server, retries(2)).current_user()).await.unwrap();
        assert!(user.can_write == Some(true) && user.raw["kind"] == "arvados#user");
        let requests = server.requests.lock().unwrap().clone();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].headers["x-request-id"], requests[1].headers["x-request-id"]);
        assert_eq!(requests[0].headers["authorization"], format!("Bearer {TOKEN}"));
    }
}

#[tokio::test]
async fn the_number_of_repetitions_is_respected_and_permanent_refusals_are_not_repeated() {
    for (status, expected) in [(503, 3), (401, 1), (403, 1), (404, 1), (422, 1), (501, 1)] {
        let server = Server::tls(move |_| Reply::status(status, r#"{"errors":["no"]}"#)).await;
        let error = within(api(&server, retries(2)).current_user()).await.unwrap_err();
        assert_eq!((error.status(), server.lines().len()), (Some(status), expected), "{error}");
        assert!(error.to_string().contains("GET users/current") && error.to_string().contains("no"), "{error}");
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let busy = Reply::Answer { status: 503, headers: vec![("Retry-After", "2".to_owned())], body: Vec::new() };
    let server = Server::tls(first_then(1, busy, user())).await;
    let start = Instant::now();
    within(api(&server, retries(1)).current_user()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_silent_server_ends_in_a_deadline_and_the_token_is_not_in_the_message() {
    for reply in [Reply::Silence, Reply::Cut { length: 100, body: b"{".to_vec(), silent: true }] {
        let server = Server::tls(move |_| reply.clone()).await;
        let limit = Retries { count: 5, deadline: Duration::from_secs(2) };
        let start = Instant::now();
        let error = within(api(&server, limit).current_user()).await.unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(4));
        assert!(error.is_temporary() && !format!("{error:?}").contains("3kg6k6"));
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_that_names_it_as_refused() {
    let server = Server::tls(|_| user()).await;
    let client = api(&server, retries(1));
    drop(server);
    let error = within(client.current_user()).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }) && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let server = Server::tls(|_| user()).await;
    let other = Server::tls(|_| user()).await;
    let mut settings = Settings::new(&format!("localhost:{}", server.address.port()), Token::new(TOKEN).unwrap());
    settings.certificate_file = other.certificate.clone();
    let client = HttpApi::new(Network::new(settings).unwrap(), retries(0)).unwrap();
    let error = within(client.current_user()).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(server.lines().is_empty());
}

#[tokio::test]
async fn answers_that_are_none_are_errors() {
    for body in ["", "<html>", "[]", r#"{"uuid":7}"#, r#"{"uuid":"#] {
        let server = Server::tls(move |_| Reply::ok(body)).await;
        let error = within(api(&server, retries(3)).current_user()).await.unwrap_err();
        assert!(matches!(error, Error::Answer { .. }), "{body}: {error:?}");
        assert_eq!(server.lines().len(), 1, "what is wrong stays wrong");
    }
}

#[tokio::test]
async fn a_change_is_not_sent_again_when_the_server_may_have_applied_it() {
    let lost =
        [(Reply::Close, 1), (Reply::status(500, ""), 1), (Reply::status(502, ""), 1), (Reply::status(503, ""), 2)];
    for (repeat, extra) in [(Repeat::Unapplied, 0), (Repeat::Harmless, 1)] {
        for (reply, expected) in lost.clone() {
            let changes = Arc::new(AtomicUsize::new(0));
            let counted = changes.clone();
            let server = Server::tls(move |request| match request.method.as_str() {
                "PUT" if counted.fetch_add(1, Ordering::SeqCst) == 0 => reply.clone(),
                "PUT" => Reply::json(&json!({"uuid": "c", "manifest_text": ". x\n"})),
                _ => Reply::json(&json!({"uuidPrefix": "zzzzz"})),
            })
            .await;
            let update = CollectionUpdate { repeat, ..CollectionUpdate::default() };
            let outcome = within(api(&server, retries(3)).update_collection("c", &update, None)).await;
            let expected = usize::max(expected, 1 + extra);
            assert_eq!((changes.load(Ordering::SeqCst), outcome.is_ok()), (expected, expected == 2));
        }
    }
}

#[tokio::test]
async fn a_change_larger_than_the_cluster_takes_is_not_sent() {
    let server = Server::tls(|_| Reply::json(&json!({"maxRequestSize": 1000}))).await;
    let update = CollectionUpdate { manifest: Some("x".repeat(2000)), ..CollectionUpdate::default() };
    let error = within(api(&server, retries(0)).create_collection(&update, None)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1000, .. }), "{error:?}");
    assert_eq!(server.lines(), ["GET /discovery/v1/apis/arvados/v1/rest"]);
}

#[tokio::test]
async fn a_manifest_starts_from_the_beginning_when_the_answer_broke_off() {
    let whole = json!({"uuid": "c", "manifest_text": ". a\\n", "name": "n"}).to_string();
    let cut = Reply::Cut { length: whole.len(), body: whole.as_bytes()[..30].to_vec(), silent: false };
    let server = Server::tls(first_then(2, cut, Reply::ok(whole))).await;
    let mut manifest = Vec::new();
    let record = within(api(&server, retries(3)).collection("c", &[], Some(&mut manifest))).await.unwrap();
    assert_eq!((manifest, record.name.as_str()), (b". a\\n".to_vec(), "n"));
    assert!(!record.raw.contains_key("manifest_text"));
}

#[tokio::test]
async fn long_queries_go_as_forms() {
    let server = Server::tls(|_| Reply::json(&json!({"items": [], "limit": 0}))).await;
    let client = api(&server, retries(0));
    let uuids: Vec<_> = (0..200).map(|number| format!("zzzzz-4zz18-{number:015}")).collect();
    let query = Query { filters: vec![Filter::new("uuid", "in", json!(uuids))], ..Query::default() };
    within(client.collections(&query)).await.unwrap();
    within(client.collections(&Query::default())).await.unwrap();
    let requests = server.requests.lock().unwrap().clone();
    assert_eq!((requests[0].method.as_str(), requests[0].target.as_str()), ("POST", "/arvados/v1/collections"));
    assert_eq!(requests[0].headers["x-http-method-override"], "GET");
    assert_eq!(requests[0].headers["content-type"], "application/x-www-form-urlencoded");
    let body = String::from_utf8(requests[0].body.clone()).unwrap();
    assert!(body.starts_with("filters=%5B%5B%22uuid%22") && body.ends_with("&count=none"), "{body}");
    assert_eq!(requests[1].target, "/arvados/v1/collections?count=none");
}

#[tokio::test]
async fn all_pages_of_a_list_are_read_by_key() {
    let server = Server::tls(|request| {
        let first = !request.target.contains("%22%3E%22");
        let uuids: Vec<_> = if first { (0..3).collect() } else { (3..5).collect() };
        let items: Vec<_> = uuids
            .iter()
            .map(|number| json!({"kind": "arvados#link", "uuid": format!("l{number}"), "head_uuid": format!("c{number}")}))
            .collect();
        Reply::json(&json!({"items": items, "limit": 3}))
    })
    .await;
    let client = api(&server, retries(0));
    let pages: Vec<_> = within(paging::tagged(&client, "t", &[]).collect()).await;
    let heads: Vec<_> = pages.into_iter().flat_map(|page| page.unwrap()).collect();
    assert_eq!(heads, ["c0", "c1", "c2", "c3", "c4"]);
    assert_eq!(server.lines().len(), 2, "a page shorter than the limit is the last");
}

#[tokio::test]
async fn of_the_collections_in_a_project_only_what_a_listing_shows_is_asked_for() {
    let server = Server::tls(|request| {
        let items = match request.target.contains("arvados%23collection") {
            true => json!([{"kind": "arvados#collection", "uuid": "c", "name": "collection"}]),
            false => json!([{"kind": "arvados#group", "uuid": "g", "name": "group", "can_write": false}]),
        };
        Reply::json(&json!({"items": items, "limit": 1000}))
    })
    .await;
    let client = api(&server, retries(0));
    let pages: Vec<_> = within(paging::contents(&client, "p", &[], &[]).collect()).await;
    let uuids: Vec<_> = pages.into_iter().flat_map(|page| page.unwrap()).map(|it| it.uuid().to_owned()).collect();
    assert_eq!(uuids, ["g", "c"]);
    let selects: Vec<_> = server.lines().iter().map(|line| line.contains("select=")).collect();
    assert_eq!(selects, [false, true]);
}

#[tokio::test]
async fn a_server_that_sends_the_same_page_for_ever_is_found_out() {
    let server = Server::tls(|_| Reply::json(&json!({"items": [{"uuid": "a"}], "limit": 1}))).await;
    let client = api(&server, retries(0));
    let pages: Vec<_> = within(paging::tagged(&client, "t", &[]).collect()).await;
    assert!(pages.last().unwrap().is_err() && pages.len() == 2);
}

// ---- Keep

const DATA: &[u8] = b"what the block holds";

fn locator() -> Locator {
    let signature = "d93590fd78db663df1c6ea9474686f221dc9e5f8";
    format!("{}+A{signature}@7fffffff", Locator::new(BlockHash::of(DATA), DATA.len() as u64)).parse().unwrap()
}

#[tokio::test]
async fn a_bad_copy_is_never_returned_and_the_next_service_is_asked() {
    let mut flipped = DATA.to_vec();
    flipped[3] ^= 1;
    for bad in [
        Reply::ok(""),
        Reply::ok(&DATA[..5]),
        Reply::ok([DATA, b"x"].concat()),
        Reply::ok(flipped),
        Reply::Cut { length: DATA.len(), body: DATA[..5].to_vec(), silent: false },
        Reply::Close,
        Reply::status(404, "not found\n"),
        Reply::status(500, "x\n"),
        Reply::status(502, "checksum mismatch in stored data\n"),
        Reply::status(503, ""),
        Reply::status(507, ""),
    ] {
        // Whichever of the two is asked first.
        for wrong in 0..2 {
            let (good, bad) = (Reply::ok(DATA), bad.clone());
            let bad_server = Server::plain(move |_| bad.clone()).await;
            let good_server = Server::plain(move |_| good.clone()).await;
            let servers = if wrong == 0 { [&bad_server, &good_server] } else { [&good_server, &bad_server] };
            let block = within(keep(&servers, retries(0)).get(&locator())).await.unwrap();
            assert_eq!(block, DATA);
        }
    }
}

#[tokio::test]
async fn when_the_only_copy_is_damaged_the_read_fails_after_one_more_try() {
    let server = Server::plain(|_| Reply::ok(vec![b'x'; DATA.len()])).await;
    let client = keep(&[&server], retries(5));
    let error = within(client.get(&locator())).await.unwrap_err();
    assert!(matches!(&error, Error::BlockUnreadable { temporary: false, .. }), "{error:?}");
    assert!(error.to_string().contains("checksum mismatch") && !error.to_string().contains("d93590fd"), "{error}");
    assert_eq!((server.lines().len(), client.traffic().damaged.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn an_outage_that_passes_is_waited_for() {
    for first in [Reply::status(503, ""), Reply::Close, Reply::ok("")] {
        let server = Server::plain(first_then(1, first, Reply::ok(DATA))).await;
        assert_eq!(within(keep(&[&server], retries(2)).get(&locator())).await.unwrap(), DATA);
        assert_eq!(server.lines().len(), 2);
        let expected = format!("GET /{}", locator());
        assert_eq!(server.lines()[0], expected);
    }
}

#[tokio::test]
async fn the_kinds_of_failure_are_told_apart() {
    type Case = (&'static [u16], fn(&Error) -> bool);
    let cases: [Case; 7] = [
        (&[404, 404], |error| matches!(error, Error::BlockNotFound { .. })),
        (&[404, 410], |error| matches!(error, Error::BlockNotFound { .. })),
        (&[401, 503], |error| error.is_refused_signature()),
        (&[400, 400], |error| error.is_refused_signature()),
        (&[422, 422], |error| error.is_refused_signature()),
        (&[404, 503], |error| error.is_temporary()),
        (&[405, 405], |error| matches!(error, Error::BlockUnreadable { temporary: false, .. })),
    ];
    for (statuses, expected) in cases {
        let mut servers = Vec::new();
        for status in statuses {
            let status = *status;
            servers.push(Server::plain(move |_| Reply::status(status, "text of the server")).await);
        }
        let servers: Vec<_> = servers.iter().collect();
        let error = within(keep(&servers, retries(0)).get(&locator())).await.unwrap_err();
        assert!(expected(&error), "{statuses:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_dead_service_is_asked_last_for_a_while() {
    let dead = Server::plain(|_| Reply::Close).await;
    let good = Server::plain(|_| Reply::ok(DATA)).await;
    let client = keep(&[&dead, &good], retries(0));
    for _ in 0..10 {
        within(client.get(&locator())).await.unwrap();
    }
    assert!(dead.lines().len() <= 1 && good.lines().len() == 10);
}

#[tokio::test]
async fn locators_that_cannot_be_fetched_are_refused_without_asking() {
    let server = Server::plain(|_| Reply::ok("")).await;
    let client = keep(&[&server], retries(0));
    let hash = BlockHash::of(DATA);
    for text in [format!("{hash}"), format!("{hash}+67108865")] {
        let error = within(client.get(&text.parse().unwrap())).await.unwrap_err();
        assert!(matches!(error, Error::Locator { .. }), "{error:?}");
    }
    let empty = Locator::new(BlockHash::of(b""), 0);
    assert!(within(client.get(&empty)).await.unwrap().is_empty());
    assert!(server.lines().is_empty());
}

#[tokio::test]
async fn a_large_block_arrives_whole() {
    let data: Vec<u8> = (0..5_000_000u32).flat_map(|number| number.to_le_bytes()).collect();
    let hash = BlockHash::of(&data);
    let body = data.clone();
    let server = Server::plain(move |_| Reply::ok(body.clone())).await;
    let block = within(keep(&[&server], retries(0)).get(&Locator::new(hash, data.len() as u64))).await.unwrap();
    assert!(block == data);
}

#[tokio::test]
async fn a_fetch_in_the_middle_of_silence_can_be_cancelled() {
    let server = Server::plain(|_| Reply::Cut { length: DATA.len(), body: Vec::new(), silent: true }).await;
    let client = keep(&[&server], retries(0));
    assert!(timeout(Duration::from_millis(200), client.get(&locator())).await.is_err());
}

/// A Keep service that stores: answers with a signed locator and what it is told to confirm.
async fn store(replicas: &'static str, classes: &'static str) -> Server {
    Server::plain(move |request| {
        let hash = BlockHash::of(&request.body);
        let mut headers = vec![("X-Keep-Replicas-Stored", replicas.to_owned())];
        if !classes.is_empty() {
            headers.push(("X-Keep-Storage-Classes-Confirmed", classes.to_owned()));
        }
        Reply::Answer { status: 200, headers, body: format!("{hash}+{}+Zx\n", request.body.len()).into_bytes() }
    })
    .await
}

#[tokio::test]
async fn a_block_is_stored_as_often_as_asked_on_different_services() {
    let (one, two, three) = (store("1", "").await, store("1", "").await, store("1", "").await);
    let client = keep(&[&one, &two, &three], retries(0));
    let request = PutRequest { replicas: Some(2), ..PutRequest::default() };
    let stored = within(client.put(DATA.into(), &request)).await.unwrap();
    assert_eq!((stored.replicas, stored.locator.hash()), (2, BlockHash::of(DATA)));
    let servers = [&one, &two, &three];
    let used: Vec<_> = servers.iter().map(|server| server.lines().len()).collect();
    assert_eq!(used.iter().sum::<usize>(), 2);
    let request = servers.iter().find_map(|server| server.requests.lock().unwrap().first().cloned()).unwrap();
    assert_eq!((request.headers["x-keep-desired-replicas"].as_str(), request.body.as_slice()), ("2", DATA));
}

#[tokio::test]
async fn storing_goes_on_until_every_class_has_enough_copies() {
    let (one, two) = (store("2", "default=2").await, store("2", "default=2, special=2").await);
    let client = keep(&[&one, &two], retries(0));
    let request = PutRequest { replicas: Some(2), storage_classes: vec!["default".to_owned(), "special".to_owned()] };
    let stored = within(client.put(DATA.into(), &request)).await.unwrap();
    assert!(stored.storage_classes["special"] >= 2 && stored.storage_classes["default"] >= 2);
}

#[tokio::test]
async fn a_service_without_room_or_with_a_damaged_copy_is_passed_over_and_too_few_copies_are_an_error() {
    for bad in [Reply::status(507, ""), Reply::status(500, "hash collision"), Reply::ok("no locator"), Reply::Close] {
        let bad_server = Server::plain(move |_| bad.clone()).await;
        let good = store("1", "").await;
        let client = keep(&[&bad_server, &good], retries(0));
        let once = PutRequest { replicas: Some(1), ..PutRequest::default() };
        within(client.put(DATA.into(), &once)).await.unwrap();
        let twice = PutRequest { replicas: Some(2), ..PutRequest::default() };
        let error = within(client.put(DATA.into(), &twice)).await.unwrap_err();
        assert!(error.to_string().starts_with("Keep write error") && error.to_string().contains("stored 1"), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_a_proxy_does_not_accept_is_told_from_a_signature_and_from_an_outage() {
    // What the real one says: `keep/06-proxy-put-bad-token` among the recordings.
    let text = "Missing or invalid Authorization header, or method not allowed\n";
    let proxy = Server::plain(move |_| Reply::status(403, text)).await;
    let client = keep(&[&proxy], retries(3));
    let once = PutRequest { replicas: Some(1), ..PutRequest::default() };
    let error = within(client.put(DATA.into(), &once)).await.unwrap_err();
    assert!(error.is_unauthorized() && !error.is_temporary(), "{error:?}");
    assert!(error.to_string().starts_with("Keep write error") && error.to_string().contains("the token"), "{error}");
    let error = within(client.get(&locator())).await.unwrap_err();
    assert!(error.is_unauthorized() && error.is_refused_signature(), "{error:?}");
    assert_eq!(proxy.lines().len(), 2, "asking again is of no use");
    let full = Server::plain(|_| Reply::status(503, "")).await;
    let client = keep(&[&proxy, &full], retries(0));
    let error = within(client.put(DATA.into(), &once)).await.unwrap_err();
    assert!(error.is_temporary() && !error.is_unauthorized(), "{error:?}");
}

#[tokio::test]
async fn an_api_server_that_is_down_does_not_keep_a_transfer_from_the_services_that_are_known() {
    let failing = || Reply::status(503, "");
    let stored = Reply::ok(format!("{}+{}", BlockHash::of(DATA), DATA.len()));
    for (is_get, good) in [(true, Reply::ok(DATA)), (false, stored)] {
        let service = Server::plain(first_then(1, failing(), good)).await;
        let record = json!({
            "uuid": "zzzzz-bi6l4-000000000000000", "service_host": "127.0.0.1", "service_port": service.address.port(),
            "service_ssl_flag": false, "service_type": "disk", "read_only": false
        });
        let list = Reply::json(&json!({"items": [record], "items_available": 1}));
        let api = Server::tls(first_then(1, list, Reply::Silence)).await;
        let network = network(Some(&api), &[]);
        let client = HttpKeep::new(network.clone(), Arc::new(HttpApi::new(network, retries(2)).unwrap()), retries(2));
        if is_get {
            assert_eq!(within(client.get(&locator())).await.unwrap(), DATA);
        } else {
            let request = PutRequest { replicas: Some(1), storage_classes: vec!["default".to_owned()] };
            within(client.put(DATA.into(), &request)).await.unwrap();
        }
        assert_eq!((service.lines().len(), api.lines().len()), (2, 2));
    }
}
