//! The fault interface and the events of the embedded cluster, from outside: what a test of a client relies on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arvados::cli::cluster::client::Client;
use arvados::cluster::certificate::Files;
use arvados::cluster::{Cluster, KeepstoreLayout, Options, Running};
use arvados::keep::hash::BlockHash;
use arvados::remote::{Settings, Token, trust};
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const LIMIT: Duration = Duration::from_secs(30);

/// A cluster with faults, and what is needed to talk to it.
struct Fixture {
    cluster: Running,
    http: reqwest::Client,
    tls: Arc<rustls::ClientConfig>,
    token: String,
    _folder: tempfile::TempDir,
}

type Stream = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

impl Fixture {
    fn start() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path().join("data"));
        options.faults = Some(0);
        options.keepstores = Some(vec![KeepstoreLayout::single(&[]); 2]);
        let cluster = Cluster::start(options).unwrap();
        let root = cluster.configuration().load().system_root_token.expose().to_owned();
        let mut settings = Settings::new(cluster.host(), Token::new(root.as_str()).unwrap());
        settings.certificate_file = Some(Files::of(cluster.data()).certificate);
        let tls = trust::client_configuration(&settings).unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls.clone()).no_proxy().timeout(LIMIT).build();
        Fixture { http: http.unwrap(), tls: Arc::new(tls), token: root, cluster, _folder: folder }
    }

    async fn control(&self, word: &str, body: Value) -> Value {
        let url = format!("http://{}/{word}", self.cluster.faults_address().unwrap());
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{word} {body}: {}", answer.status());
        answer.json().await.unwrap()
    }

    /// Status and body; `None` when the connection was cut.
    async fn api(&self, method: Method, path: &str, body: Value) -> Option<(u16, Value)> {
        let url = format!("https://{}/arvados/v1/{path}", self.cluster.host());
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    async fn create(&self, name: &str) -> Value {
        let made = self.api(Method::POST, "collections", json!({"collection": {"name": name}})).await.unwrap();
        assert_eq!(made.0, 200, "{}", made.1);
        made.1
    }

    async fn names(&self) -> Vec<String> {
        let (_, list) = self.api(Method::GET, "collections", Value::Null).await.unwrap();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    fn keep(&self, index: usize) -> String {
        format!("http://{}", self.cluster.keepstores()[index].address())
    }

    async fn put(&self, data: &[u8]) -> String {
        let mut locator = String::new();
        for index in 0..2 {
            let url = format!("{}/{}", self.keep(index), BlockHash::of(data));
            let answer = self.http.put(url).bearer_auth(&self.token).body(data.to_vec()).send().await.unwrap();
            locator = answer.text().await.unwrap().trim().to_owned();
        }
        locator
    }

    /// Status and body; `None` when the connection was cut.
    async fn get(&self, index: usize, locator: &str) -> Option<(u16, Vec<u8>)> {
        let answer =
            self.http.get(format!("{}/{locator}", self.keep(index))).bearer_auth(&self.token).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.bytes().await.ok()?.to_vec()))
    }

    async fn events(&self) -> Stream {
        let stream = tokio::net::TcpStream::connect(self.cluster.address()).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.unwrap();
        let url = format!("wss://{}/websocket?api_token={}", self.cluster.host(), self.token);
        tokio_tungstenite::client_async(url, stream).await.unwrap().0
    }
}

async fn say(stream: &mut Stream, request: Value) {
    stream.send(Message::text(request.to_string())).await.unwrap();
}

/// The next message, `None` when the connection has ended.
async fn hear(stream: &mut Stream) -> Option<Value> {
    loop {
        match tokio::time::timeout(LIMIT, stream.next()).await.expect("a message in time") {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

#[actix_web::test]
async fn a_request_is_cut_before_and_after_it_takes_effect_and_in_the_middle_of_its_answer() {
    let fixture = Fixture::start();
    let body = |name: &str| json!({"collection": {"name": name}});
    for (when, applied) in [("before", false), ("after", true)] {
        let rule = json!({"api": [{"method": ["POST"], "path": "/collections$", "drop": when, "times": 1}]});
        fixture.control("faults", rule).await;
        assert_eq!(fixture.api(Method::POST, "collections", body(when)).await, None, "{when}");
        assert_eq!(fixture.names().await.contains(&when.to_owned()), applied, "{when}");
    }
    fixture.control("faults", json!({"api": [{"path": "users/current", "drop": "mid", "times": 1}]})).await;
    let url = format!("https://{}/arvados/v1/users/current", fixture.cluster.host());
    let answer = fixture.http.get(url).bearer_auth(&fixture.token).send().await.unwrap();
    assert!(answer.status().is_success() && answer.bytes().await.is_err(), "the whole answer came");
    assert_eq!(fixture.api(Method::GET, "users/current", Value::Null).await.unwrap().0, 200);
}

#[actix_web::test]
async fn a_status_is_answered_so_often_with_or_without_effect() {
    let fixture = Fixture::start();
    let rules = json!({"api": [
        {"method": ["POST"], "skip": 1, "times": 1, "status": 503, "message": "busy"},
        {"method": ["POST"], "skip": 1, "times": 1, "status": 502, "apply_first": true, "empty": true}
    ]});
    fixture.control("faults", rules).await;
    let mut statuses = Vec::new();
    for name in ["one", "two", "three", "four"] {
        statuses.push(fixture.api(Method::POST, "collections", json!({"collection": {"name": name}})).await.unwrap());
    }
    assert_eq!(statuses.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [200, 503, 502, 200]);
    assert_eq!((&statuses[1].1, &statuses[2].1), (&json!({"errors": ["busy"]}), &Value::Null));
    let names = fixture.names().await;
    let made = ["one", "two", "three", "four"].map(|name| names.contains(&name.to_owned()));
    assert_eq!(made, [true, false, true, true]);
    let log = fixture.control("log", json!({"since": 0})).await;
    let seen: Vec<_> = log.as_array().unwrap().iter().map(|entry| entry["status"].clone()).collect();
    assert_eq!(seen, [200, 503, 502, 200, 200]);
}

#[actix_web::test]
async fn blocks_are_damaged_cut_and_slowed_down_on_one_keepstore_or_all() {
    let fixture = Fixture::start();
    let data = vec![b'x'; 200_000];
    let locator = fixture.put(&data).await;
    let hash = &locator[..32];
    assert_eq!(fixture.get(0, &locator).await, Some((200, data.clone())));
    for (damage, seen) in [("flip", Some(200)), ("disk", Some(502)), ("truncate", None)] {
        fixture.control("keep", json!({"corrupt": {hash: damage}, "only": 0})).await;
        let got = fixture.get(0, &locator).await;
        assert_eq!(got.as_ref().map(|(status, _)| *status), seen, "{damage}");
        assert_ne!(got.map(|(_, body)| body), Some(data.clone()), "{damage}");
        assert_eq!(fixture.get(1, &locator).await, Some((200, data.clone())), "{damage}");
    }
    fixture.control("keep", json!({"corrupt": {}})).await;
    fixture.control("faults", json!({"keep": [{"drop": "mid", "times": 1, "only": 1}, {"bandwidth": 400_000}]})).await;
    assert_eq!(fixture.get(1, &locator).await, None);
    let began = Instant::now();
    assert_eq!(fixture.get(1, &locator).await, Some((200, data)));
    assert!(began.elapsed() > Duration::from_millis(400), "200 kB at 400 kB/s take half a second");
}

#[actix_web::test]
async fn a_keepstore_is_stopped_and_started_again_at_its_address() {
    let fixture = Fixture::start();
    let locator = fixture.put(b"foo").await;
    fixture.control("keepproc", json!({"index": 0, "action": "stop"})).await;
    assert_eq!(fixture.get(0, &locator).await, None);
    assert_eq!(fixture.get(1, &locator).await, Some((200, b"foo".to_vec())));
    assert!(fixture.control("state", json!({})).await["keep_pids"][0].is_null());
    fixture.control("keepproc", json!({"index": 0, "action": "start"})).await;
    assert_eq!(fixture.get(0, &locator).await, Some((200, b"foo".to_vec())));
}

#[actix_web::test]
async fn signatures_and_tokens_expire_when_told_to() {
    let fixture = Fixture::start();
    fixture.control("config", json!({"sign_expiry": 1})).await;
    let locator = fixture.put(b"foo").await;
    assert_eq!(fixture.get(0, &locator).await.unwrap().0, 200);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(fixture.get(0, &locator).await.unwrap().0, 401);
    fixture.control("config", json!({"sign_expiry": null, "signing": false})).await;
    assert_eq!(fixture.get(0, &locator).await.unwrap().0, 200);

    let (_, user) = fixture.api(Method::GET, "users/current", Value::Null).await.unwrap();
    let token = "v2/zzzzz-gj3su-0123456789abcde/secretsecretsecretsecretsecretsecretsecretsecretse";
    fixture.control("newtoken", json!({"token": token, "user": user["uuid"]})).await;
    let url = format!("https://{}/arvados/v1/users/current", fixture.cluster.host());
    let ask = || async { fixture.http.get(&url).bearer_auth(token).send().await.unwrap().status().as_u16() };
    assert_eq!(ask().await, 200);
    fixture.control("token", json!({"token": token, "expires_at": 1.5})).await;
    assert_eq!(ask().await, 401);
    fixture.control("token", json!({"token": token, "expires_at": null})).await;
    assert_eq!(ask().await, 200);
}

#[actix_web::test]
async fn events_are_cut_refused_lost_and_asked_for_again() {
    let fixture = Fixture::start();
    let mut stream = fixture.events().await;
    say(&mut stream, json!({"method": "subscribe"})).await;
    assert_eq!(hear(&mut stream).await.unwrap(), json!({"status": 200}));
    let seen = fixture.create("seen").await;
    let event = hear(&mut stream).await.unwrap();
    assert_eq!((&event["object_uuid"], &event["msgID"]), (&seen["uuid"], &json!(1)));

    fixture.control("ws", json!({"mute": true})).await;
    let missed = fixture.create("missed").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fixture.control("ws", json!({"mute": false, "disconnect": true})).await["ok"], true);
    assert_eq!(hear(&mut stream).await, None, "an event came that was to be lost");

    let mut stream = fixture.events().await;
    say(&mut stream, json!({"method": "subscribe", "last_log_id": event["id"]})).await;
    assert_eq!(hear(&mut stream).await.unwrap(), json!({"status": 200}));
    assert_eq!(hear(&mut stream).await.unwrap()["object_uuid"], missed["uuid"]);
    let later = fixture.create("later").await;
    assert_eq!(hear(&mut stream).await.unwrap()["object_uuid"], later["uuid"], "an old event came twice");

    fixture.control("ws", json!({"refuse": true})).await;
    let url = format!("https://{}/websocket", fixture.cluster.host());
    assert_eq!(fixture.http.get(url).send().await.unwrap().status().as_u16(), 503);
}

#[actix_web::test]
async fn a_client_that_does_not_read_its_events_is_cut_off_and_others_are_not() {
    let fixture = Fixture::start();
    let mut slow = fixture.events().await;
    let mut good = fixture.events().await;
    for stream in [&mut slow, &mut good] {
        say(stream, json!({"method": "subscribe"})).await;
        assert_eq!(hear(stream).await.unwrap(), json!({"status": 200}));
    }
    let object = fixture.create("object").await;
    assert!(hear(&mut good).await.is_some());
    // What sockets and TLS can hold on the way is some megabytes; the queue has 64 places.
    let text = "x".repeat(400_000);
    for number in 0..200 {
        let log = json!({"log": {"event_type": "custom", "object_uuid": object["uuid"], "properties": {"text": text}}});
        assert_eq!(fixture.api(Method::POST, "logs", log).await.unwrap().0, 200);
        assert!(hear(&mut good).await.is_some(), "{number}");
    }
    let mut received = 0;
    while hear(&mut slow).await.is_some() {
        received += 1;
    }
    assert!(received < 200, "a slow client holds {received} events in memory");
}

#[test]
fn a_cluster_without_faults_has_no_such_port() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(Options::new(folder.path().join("data"))).unwrap();
    assert_eq!(cluster.faults_address(), None);
    let client = Client::open(cluster.data()).unwrap();
    assert_eq!(client.note.faults, None);
    assert_eq!(client.call(Method::GET, "users/current", &[], &Value::Null).unwrap()["is_admin"], true);
}
