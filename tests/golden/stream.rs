//! The recorded event streams: frames sent, API requests made meanwhile, frames that must come, and none besides.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

use super::cluster::{ALICE, BOB, Cluster, ROOT};
use super::comparison::{self, Difference};
use super::recording::{Frame, Recording};
use super::replay::{Replay, problem, time};
use super::wire::Stream;

/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long is waited for events that must not come.
const SILENCE: Duration = Duration::from_millis(300);
/// Keep-alive period while the idle stream is replayed, instead of 60 s, and how long it is idle: longer than one
/// period and shorter than two, as recorded.
const IDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(1600));

/// The open connection, and what is known about log ids.
#[derive(Debug, Default)]
pub struct Events {
    socket: Option<Socket>,
    /// Recorded log ids and ours.
    ids: BTreeMap<i64, i64>,
    /// When `t` was zero.
    origin: Option<DateTime<Utc>>,
}

#[derive(Debug)]
struct Socket(WebSocket<Stream>);

impl Events {
    /// Replays one recording.
    pub fn replay(&mut self, replay: &mut Replay<'_>, recording: &Recording) -> Vec<Difference> {
        let mut differences = Vec::new();
        self.origin = origin(recording).or(self.origin);
        let begins = recording.frames.first().is_some_and(|frame| frame.dir == "c->s");
        let idle = recording.name == "07-idle-75s";
        let sweep = recording.name == "07-trash-sweep-delete-events";
        if idle {
            replay.cluster.set_keep_alive(Some(IDLE.0));
        }
        if begins || idle || sweep {
            match connect(replay.cluster, &recording.name) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => return vec![problem("connection", "open", error)],
            }
        }
        let Some(mut socket) = self.socket.take() else { return vec![problem("connection", "still open", "closed")] };
        if sweep {
            differences.extend(socket.send(&json!({"method": "subscribe"})).err());
            differences.extend(socket.expect(&json!({"status": 200}), replay, "subscribe").1);
        }
        for (index, frame) in recording.frames.iter().enumerate() {
            let path = format!("frames[{index}]");
            if let Some(origin) = self.origin {
                replay.set_exact_time(origin + seconds(frame.t));
            }
            match frame.dir.as_str() {
                "c->s" => differences.extend(socket.send(&self.outgoing(replay, &frame.frame)).err()),
                "s->c" => {
                    let limit = if idle { IDLE.1 } else { PATIENCE };
                    socket.0.get_ref().socket().set_read_timeout(Some(limit)).ok();
                    let (got, found) = socket.expect(&frame.frame, replay, &path);
                    if let (Some(recorded), Some(got)) = (frame.frame["id"].as_i64(), got["id"].as_i64()) {
                        if self.ids.range(..recorded).next_back().is_some_and(|(_, before)| *before >= got) {
                            differences.push(problem(&format!("{path}.id"), "larger than those before", got));
                        }
                        self.ids.insert(recorded, got);
                    }
                    differences.extend(found);
                }
                _ => differences.extend(api(replay, frame, created(&recording.frames[index..]), &path).err()),
            }
        }
        differences.extend(socket.silence());
        if idle {
            replay.cluster.set_keep_alive(None);
        }
        self.socket = Some(socket);
        differences
    }

    /// A frame to send, with uuids and log ids of this run.
    fn outgoing(&self, replay: &Replay<'_>, frame: &Value) -> Value {
        let mut frame: Value = serde_json::from_str(&replay.names.translate(&frame.to_string())).unwrap_or_default();
        if let Some(recorded) = frame["last_log_id"].as_i64()
            && let Some((known, id)) = self.ids.range(..=recorded).next_back()
        {
            // Some logs caused no event on this stream.
            frame["last_log_id"] = json!(id + recorded - known);
        }
        frame
    }
}

impl Socket {
    fn send(&mut self, frame: &Value) -> Result<(), Difference> {
        self.0.send(Message::text(frame.to_string())).map_err(|error| problem("connection", "open", error))
    }

    /// The next frame, compared with the recorded one.
    fn expect(&mut self, expected: &Value, replay: &mut Replay<'_>, path: &str) -> (Value, Vec<Difference>) {
        match self.next() {
            Ok(Some(got)) => {
                let found = comparison::values(path, expected, &got, &mut replay.names, ALICE);
                (got, found)
            }
            Ok(None) => (Value::Null, vec![problem(path, &expected.to_string(), "nothing")]),
            Err(error) => (Value::Null, vec![problem(path, &expected.to_string(), error)]),
        }
    }

    /// Frames that were not recorded.
    fn silence(&mut self) -> Vec<Difference> {
        self.0.get_ref().socket().set_read_timeout(Some(SILENCE)).ok();
        let mut found = Vec::new();
        while let Ok(Some(frame)) = self.next() {
            found.push(problem("frames", "no more", frame));
        }
        self.0.get_ref().socket().set_read_timeout(Some(PATIENCE)).ok();
        found
    }

    /// The next text frame; `None` when none comes in time.
    fn next(&mut self) -> Result<Option<Value>, String> {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => {
                    return serde_json::from_str(&text).map(Some).map_err(|error| format!("{error} in {text}"));
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => return Err(format!("{other:?}")),
                Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn connect(cluster: &Cluster, name: &str) -> Result<Socket, String> {
    let (service, path) = cluster.websocket();
    let query = match name {
        "07-bad-token" => "?api_token=v2/zzzzz-gj3su-000000000000abc/badsecret".to_owned(),
        "07-no-token" | "07-token-in-header" => String::new(),
        "07-other-user-sees-nothing" => format!("?api_token={BOB}"),
        _ => format!("?api_token={ALICE}"),
    };
    let scheme = if service.tls { "wss" } else { "ws" };
    let url = format!("{scheme}://{}{path}{query}", service.address);
    let mut request = url.into_client_request().map_err(|error| error.to_string())?;
    if name == "07-token-in-header" {
        let header = HeaderValue::from_str(&format!("Bearer {ALICE}")).map_err(|error| error.to_string())?;
        request.headers_mut().insert("Authorization", header);
    }
    let stream = Stream::connect(service, PATIENCE).map_err(|error| error.to_string())?;
    let (socket, _) = client(request, stream).map_err(|error| error.to_string())?;
    Ok(Socket(socket))
}

/// What the recording calls the object that the first of these frames, a request, creates: the next event tells.
fn created(frames: &[Frame]) -> Option<&str> {
    let [request, later @ ..] = frames else { return None };
    let mut until_next = later.iter().take_while(|frame| frame.method != "POST");
    let event = until_next.find(|frame| frame.dir == "s->c" && frame.frame["event_type"] == "create")?;
    event.frame["object_uuid"].as_str().filter(|_| request.method == "POST")
}

/// A request made while the stream was recorded.
fn api(replay: &mut Replay<'_>, frame: &Frame, creates: Option<&str>, path: &str) -> Result<(), Difference> {
    let root = frame.path.ends_with("(root)");
    let target = frame.path.trim_end_matches(" (root)");
    let body = match &frame.body {
        // Described in words because of its size.
        Value::String(_) => json!({"collection": {"name": "x".repeat(255), "description": "y".repeat(100_000)}}),
        body => body.clone(),
    };
    let token = if root { ROOT } else { ALICE };
    let answer = replay
        .request(&frame.method, target, &body, token)
        .map_err(|error| problem(&format!("{path}.request"), "an answer", error))?;
    if Some(answer.status) == frame.status {
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if let (Some(recorded), Some(uuid)) = (creates, json["uuid"].as_str())
            && replay.names.here(recorded).is_none()
            && !replay.names.is_taken(uuid)
        {
            replay.names.bind(recorded, uuid);
        }
        return Ok(());
    }
    let got = format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body));
    Err(problem(&format!("{path}.status"), &frame.status.unwrap_or_default().to_string(), got))
}

/// When `t` was zero: an event carries the time of the request that caused it, or nearly so.
fn origin(recording: &Recording) -> Option<DateTime<Utc>> {
    let mut sent = None;
    for frame in &recording.frames {
        match frame.dir.as_str() {
            "api" => sent = Some(frame.t),
            "s->c" => {
                if let (Some(sent), Some(at)) = (sent, frame.frame["event_at"].as_str()) {
                    return Some(time(at) - seconds(sent));
                }
            }
            _ => {}
        }
    }
    None
}

fn seconds(t: f64) -> TimeDelta {
    TimeDelta::from_std(Duration::from_secs_f64(t)).unwrap_or_default()
}
