//! The event stream before a websocket server that breaks, and the log as its stand-in.

#[path = "support/scripted.rs"]
mod scripted;

use arvados::remote::api::HttpApi;
use arvados::remote::events::{Listener, Notice, Options, Status, listen};
use arvados::remote::retry::Retries;
use arvados::remote::{Network, Settings, Token};
use futures_util::{SinkExt, StreamExt};
use scripted::{Reply, Server};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

const TOKEN: &str = "v2/zzzzz-gj3su-0123456789abcde/3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi";

/// A websocket server (without TLS: loopback), whose side of each connection the test drives.
struct Socket {
    port: u16,
    accepted: mpsc::Receiver<(String, WebSocketStream<TcpStream>)>,
}

impl Socket {
    async fn start() -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, accepted) = mpsc::channel(10);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut target = String::new();
                #[expect(clippy::result_large_err, reason = "the form of the callback")]
                let note = |request: &Request, response: Response| {
                    target = request.uri().to_string();
                    Ok(response)
                };
                if let Ok(socket) = accept_hdr_async(stream, note).await
                    && sender.send((target, socket)).await.is_err()
                {
                    return;
                }
            }
        });
        Socket { port, accepted }
    }

    /// The next connection, subscribed; with it the subscription and the URL.
    async fn next(&mut self) -> (WebSocketStream<TcpStream>, Value, String) {
        let (target, mut socket) = within(self.accepted.recv()).await.unwrap();
        let request = match within(socket.next()).await.unwrap().unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} instead of a subscription"),
        };
        socket.send(Message::text(r#"{"status":200}"#)).await.unwrap();
        (socket, request, target)
    }
}

async fn within<F: std::future::Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("does not hang")
}

type Logs = Arc<Mutex<Vec<Value>>>;

/// An API with a discovery document and a log.
async fn api(websocket: String, logs: Logs) -> Server {
    Server::tls(move |request| {
        if request.target.starts_with("/discovery") {
            return Reply::json(&json!({"websocketUrl": websocket}));
        }
        let target = percent_encoding::percent_decode_str(&request.target).decode_utf8_lossy().replace('+', " ");
        let logs = logs.lock().unwrap();
        let after = target.split(r#""id",">",""#).nth(1).and_then(|rest| rest.split('"').next()?.parse::<u64>().ok());
        let items: Vec<_> = match after {
            Some(after) => logs.iter().filter(|log| log["id"].as_u64() > Some(after)).cloned().collect(),
            None => logs.last().cloned().into_iter().collect(),
        };
        Reply::json(&json!({"items": items, "limit": 50}))
    })
    .await
}

fn start(server: &Server, options: Options) -> Listener {
    let mut settings = Settings::new(&format!("localhost:{}", server.address.port()), Token::new(TOKEN).unwrap());
    settings.certificate_file = server.certificate.clone();
    let network = Network::new(settings).unwrap();
    let retries = Retries { count: 0, deadline: Duration::from_secs(5) };
    let api = Arc::new(HttpApi::new(network.clone(), retries).unwrap());
    listen(network, api, options)
}

fn event(id: u64) -> Value {
    json!({"id": id, "event_type": "update", "object_uuid": format!("u{id}"), "object_owner_uuid": "o"})
}

async fn ids(listener: &mut Listener, count: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        match within(listener.next()).await.unwrap() {
            Notice::Event(event) => ids.push(event.id),
            Notice::Gap => {}
        }
    }
    ids
}

async fn status(listener: &Listener, wanted: Status) {
    let mut status = listener.status();
    within(status.wait_for(|status| *status == wanted)).await.unwrap();
}

fn fast() -> Options {
    Options { poll_interval: Duration::from_millis(300), ping_interval: Duration::from_millis(300) }
}

#[tokio::test]
async fn events_come_through_and_after_a_break_the_stream_goes_on_where_it_was() {
    let mut socket = Socket::start().await;
    let logs = Logs::default();
    let server = api(format!("ws://127.0.0.1:{}/websocket", socket.port), logs.clone()).await;
    let mut listener = start(&server, Options::default());
    let (mut connection, request, target) = socket.next().await;
    assert_eq!(target, format!("/websocket?api_token={TOKEN}"), "as it is, not encoded");
    assert_eq!(request["method"], "subscribe");
    assert_eq!(request["filters"], json!([["event_type", "in", ["create", "update", "delete"]]]));
    assert!(request.get("last_log_id").is_none());
    for message in
        ["{}".to_owned(), event(100).to_string(), "no json".to_owned(), event(102).to_string(), event(101).to_string()]
    {
        connection.send(Message::text(message)).await.unwrap();
    }
    assert_eq!(ids(&mut listener, 3).await, [100, 102, 101], "also those that come late");
    status(&listener, Status::Live).await;
    drop(connection);

    let (mut connection, request, _) = socket.next().await;
    assert_eq!(request["last_log_id"], 102 - 16);
    for id in [101, 102, 103] {
        connection.send(Message::text(event(id).to_string())).await.unwrap();
    }
    assert_eq!(ids(&mut listener, 1).await, [103], "what is known is not told again");
}

#[tokio::test]
async fn the_first_connection_says_that_what_was_before_is_not_told() {
    let mut socket = Socket::start().await;
    let server = api(format!("ws://127.0.0.1:{}/websocket", socket.port), Logs::default()).await;
    let mut listener = start(&server, Options::default());
    let (mut connection, ..) = socket.next().await;
    connection.send(Message::text(event(100).to_string())).await.unwrap();
    assert_eq!(within(listener.next()).await, Some(Notice::Gap));
    assert_eq!(ids(&mut listener, 1).await, [100], "and what comes after it is told");
}

#[tokio::test]
async fn a_connection_that_was_lost_before_any_event_leaves_a_gap() {
    let mut socket = Socket::start().await;
    let server = api(format!("ws://127.0.0.1:{}/websocket", socket.port), Logs::default()).await;
    let mut listener = start(&server, Options::default());
    for _ in 0..2 {
        let (connection, ..) = socket.next().await;
        assert_eq!(within(listener.next()).await, Some(Notice::Gap));
        drop(connection);
    }
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_a_pong_keeps_it() {
    let mut socket = Socket::start().await;
    let server = api(format!("ws://127.0.0.1:{}/websocket", socket.port), Logs::default()).await;
    let listener = start(&server, fast());
    let (mut connection, ..) = socket.next().await;
    // Reading answers pings. For a second all is well.
    assert!(timeout(Duration::from_secs(1), async { while connection.next().await.is_some() {} }).await.is_err());
    assert_eq!(*listener.status().borrow(), Status::Live);
    // Not read any more, but not closed either: as if the network had died.
    let (_again, ..) = socket.next().await;
    drop(connection);
}

#[tokio::test]
async fn without_a_websocket_the_log_is_asked() {
    let logs: Logs = Arc::new(Mutex::new(vec![event(5)]));
    let server = api(String::new(), logs.clone()).await;
    let mut listener = start(&server, fast());
    assert_eq!(within(listener.next()).await, Some(Notice::Gap), "what was before is not told");
    status(&listener, Status::Polling).await;
    logs.lock().unwrap().extend([event(6), event(7)]);
    assert_eq!(ids(&mut listener, 3).await, [5, 6, 7]);
    logs.lock().unwrap().push(event(8));
    assert_eq!(ids(&mut listener, 1).await, [8]);
}

#[tokio::test]
async fn while_the_websocket_is_down_the_log_fills_the_gap() {
    let mut socket = Socket::start().await;
    let logs = Logs::default();
    let server = api(format!("ws://127.0.0.1:{}/websocket", socket.port), logs.clone()).await;
    let mut listener = start(&server, fast());
    let (mut connection, ..) = socket.next().await;
    connection.send(Message::text(event(40).to_string())).await.unwrap();
    assert_eq!(ids(&mut listener, 1).await, [40]);
    logs.lock().unwrap().extend([event(40), event(41)]);
    // From here on nobody accepts connections.
    drop((connection, socket));
    assert_eq!(ids(&mut listener, 1).await, [41]);
    status(&listener, Status::Polling).await;
}

#[tokio::test]
async fn the_token_does_not_go_over_the_network_in_clear_text() {
    let logs = Logs::default();
    let server = api("ws://192.0.2.1/websocket".to_owned(), logs).await;
    let listener = start(&server, fast());
    // It polls instead, without trying: a connection there would take longer than this.
    timeout(Duration::from_secs(3), status(&listener, Status::Polling)).await.unwrap();
}

#[tokio::test]
async fn a_listener_that_is_dropped_stops() {
    let mut socket = Socket::start().await;
    let server = api(format!("ws://127.0.0.1:{}/websocket", socket.port), Logs::default()).await;
    let listener = start(&server, Options::default());
    let (mut connection, ..) = socket.next().await;
    let status = listener.status();
    drop(listener);
    assert!(!matches!(within(connection.next()).await, Some(Ok(Message::Text(_)))));
    assert!(
        within(async {
            let mut status = status;
            while status.changed().await.is_ok() {}
            true
        })
        .await
    );
}
