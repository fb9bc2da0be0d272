//! The event stream over a websocket (protocol.md 9.1 to 9.3).
//!
//! We open TCP and TLS ourselves, because trust is ours ([`crate::remote::trust`]), and keep the connection under watch:
//! a ping when nothing came for a while, and the end of it when nothing comes then either.

use crate::remote::error::{Error, Result};
use crate::remote::events::Options;
use crate::remote::events::event::{Event, EventType};
use crate::remote::network::Network;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use url::{Host, Url};

/// What messages call it: the URL must not be shown.
const WHAT: &str = "event stream";
/// For connection, handshake and the answer to the subscription (protocol.md 9.1).
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest message: events are small, but what programs log may come along as text.
const LARGEST_MESSAGE: usize = 64 << 20;

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// An open, subscribed event stream.
pub(super) struct Stream {
    socket: WebSocketStream<Box<dyn Connection>>,
    ping_interval: Duration,
}

/// What a message of the server says.
#[derive(Debug, PartialEq)]
enum Heard {
    /// Answer to a request of ours.
    Status(u64),
    Event(Box<Event>),
    /// A sign of life, or something we do not know.
    Nothing,
}

impl Stream {
    /// Connects to `url`, subscribes, and asks for what came after event `position`.
    pub(super) async fn open(network: &Network, url: &str, position: Option<u64>, options: Options) -> Result<Stream> {
        let open = async {
            let socket = connect(network, url).await?;
            let mut stream = Stream { socket, ping_interval: options.ping_interval };
            stream.subscribe(position).await?;
            Ok(stream)
        };
        timeout(HANDSHAKE, open).await.unwrap_or_else(|_| Err(late(HANDSHAKE)))
    }

    async fn subscribe(&mut self, position: Option<u64>) -> Result<()> {
        let mut request = json!({
            "method": "subscribe",
            "filters": [["event_type", "in", ["create", "update", "delete"]]],
        });
        if let Some(position) = position {
            request["last_log_id"] = position.into();
        }
        self.socket.send(Message::text(request.to_string())).await.map_err(|error| broken(&error))?;
        loop {
            match self.hear().await? {
                Heard::Status(200) => return Ok(()),
                Heard::Status(status) => return Err(refused(format!("subscription refused with status {status}"))),
                Heard::Event(_) | Heard::Nothing => {}
            }
        }
    }

    /// The next change. An error is the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Event> {
        loop {
            let heard = match timeout(self.ping_interval, self.hear()).await {
                Ok(heard) => heard?,
                Err(_) => {
                    let interval = self.ping_interval;
                    let pong = async {
                        let ping = self.socket.send(Message::Ping(Default::default())).await;
                        ping.map_err(|error| broken(&error))?;
                        self.hear().await
                    };
                    timeout(interval, pong).await.unwrap_or_else(|_| Err(late(interval)))?
                }
            };
            match heard {
                Heard::Event(event) if event.event_type != EventType::Other => return Ok(*event),
                _ => {}
            }
        }
    }

    /// The next message of any kind, pongs included.
    async fn hear(&mut self) -> Result<Heard> {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => Ok(decode(text.as_bytes())),
            Some(Ok(Message::Close(_))) | None => Err(refused("closed by the server".to_owned())),
            Some(Ok(_)) => Ok(Heard::Nothing),
            Some(Err(error)) => Err(broken(&error)),
        }
    }
}

fn decode(text: &[u8]) -> Heard {
    #[derive(serde::Deserialize)]
    struct Answer {
        status: u64,
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(text) {
        return Heard::Status(answer.status);
    }
    match serde_json::from_slice::<Event>(text) {
        Ok(event) if event.id > 0 => Heard::Event(Box::new(event)),
        Ok(_) => Heard::Nothing,
        Err(error) => {
            let form = serde_json::from_slice::<Value>(text).map_or("no JSON", |_| "JSON");
            tracing::debug!(%error, form, bytes = text.len(), "message of the event stream not understood");
            Heard::Nothing
        }
    }
}

async fn connect(network: &Network, url: &str) -> Result<WebSocketStream<Box<dyn Connection>>> {
    let address = Url::parse(url).map_err(|error| refused(format!("websocketUrl of the cluster: {error}")))?;
    let host = address.host().ok_or_else(|| refused("websocketUrl of the cluster has no host".to_owned()))?;
    let host_text = address.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = address.port_or_known_default().unwrap_or(443);
    let tcp = TcpStream::connect((host_text.as_str(), port)).await.map_err(|error| refused(error.to_string()))?;
    tcp.set_nodelay(true).map_err(|error| refused(error.to_string()))?;
    let connection: Box<dyn Connection> = match address.scheme() {
        "wss" => {
            let name = ServerName::try_from(host_text).map_err(|error| refused(error.to_string()))?;
            let connector = TlsConnector::from(network.tls());
            Box::new(connector.connect(name, tcp).await.map_err(|error| refused(error.to_string()))?)
        }
        // The token goes over it in clear text.
        "ws" if is_loopback(&host) => Box::new(tcp),
        scheme => return Err(refused(format!("websocketUrl of the cluster starts with {scheme}:, expected wss:"))),
    };
    // As it is: the server does not decode it (protocol.md 9.1).
    let joint = if address.query().is_some() { '&' } else { '?' };
    let url = format!("{url}{joint}api_token={}", network.token().expose());
    let request = url.into_client_request().map_err(|error| refused(network.token().redact(&error.to_string())))?;
    let mut configuration = WebSocketConfig::default();
    configuration.max_message_size = Some(LARGEST_MESSAGE);
    configuration.max_frame_size = Some(LARGEST_MESSAGE);
    let opened = client_async_with_config(request, connection, Some(configuration)).await;
    let (socket, _) = opened.map_err(|error| refused(network.token().redact(&error.to_string())))?;
    Ok(socket)
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

fn refused(problem: String) -> Error {
    Error::Network { what: WHAT.to_owned(), problem }
}

fn broken(error: &tungstenite::Error) -> Error {
    refused(error.to_string())
}

fn late(after: Duration) -> Error {
    Error::Deadline { what: WHAT.to_owned(), after }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_of_the_server() {
        assert_eq!(decode(br#"{"status":200}"#), Heard::Status(200));
        assert_eq!(decode(b"{}"), Heard::Nothing);
        assert_eq!(decode(b"[1"), Heard::Nothing);
        assert_eq!(decode(br#"{"id":"x"}"#), Heard::Nothing);
        let Heard::Event(event) = decode(br#"{"msgID":1,"id":6,"event_type":"create","object_uuid":"u"}"#) else {
            panic!("no event")
        };
        assert_eq!((event.id, event.object_uuid.as_str()), (6, "u"));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..100), json in "[\\[\\]{}:,\"a-z0-9]{0,60}") {
            decode(&text);
            decode(json.as_bytes());
        }
    }
}
