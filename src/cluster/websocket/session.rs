//! One connection: see [`super`] for how its two tasks share the work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_ws::{AggregatedMessage, CloseCode, CloseReason, MessageStream, Session};
use futures_util::StreamExt;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use super::message::{self, Request};
use super::subscription::Subscription;
use super::{QUEUE, Websocket};
use crate::cluster::answer::Failure;
use crate::cluster::record::log::LogRow;

/// Longest message of a client: a filter with thousands of uuids.
const LONGEST_MESSAGE: usize = 1 << 20;
/// How far back old events can be asked for (protocol.md 9.3).
const BACKLOG: Duration = Duration::from_secs(600);
/// Old events that are read at a time.
const PAGE: u64 = 500;

/// What the sender has to do.
enum Task {
    Request(Option<Request>),
    Event(Arc<LogRow>),
    Pong(Vec<u8>),
}

/// Serves a connection until either side ends it.
pub async fn run(websocket: Arc<Websocket>, token: String, session: Session, stream: MessageStream) {
    websocket.metrics.websockets.inc();
    let (tasks, queue) = mpsc::channel(QUEUE);
    let sender = Sender {
        websocket: Arc::clone(&websocket),
        token,
        session: session.clone(),
        spoke: Instant::now(),
        number: 0,
        subscriptions: Vec::new(),
        sent: VecDeque::new(),
    };
    let reason = tokio::select! {
        reason = receive(&websocket, stream, tasks) => reason,
        // The connection is broken.
        () = sender.run(queue) => None,
    };
    // Whether the client still hears it does not matter.
    let _ = session.close(reason).await;
    websocket.metrics.websockets.dec();
}

/// Puts what comes from the client and from the API into the queue, until one of them ends or the queue is full.
async fn receive(websocket: &Websocket, stream: MessageStream, tasks: mpsc::Sender<Task>) -> Option<CloseReason> {
    let mut events = websocket.api.subscribe();
    let mut stream =
        stream.max_frame_size(LONGEST_MESSAGE).aggregate_continuations().max_continuation_size(LONGEST_MESSAGE);
    let mut cut = websocket.faults.as_ref().map(|faults| faults.disconnect.subscribe());
    let slow = || {
        tracing::info!("a websocket client is too slow: closing its connection");
        Some(CloseReason { code: CloseCode::Policy, description: Some("too slow".to_owned()) })
    };
    loop {
        let cut = async {
            match &mut cut {
                // The sender of the signal lives as long as the cluster.
                Some(signal) => signal.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        let task = tokio::select! {
            message = stream.next() => match message {
                Some(Ok(AggregatedMessage::Text(text))) => request(websocket, text.as_bytes()),
                Some(Ok(AggregatedMessage::Binary(bytes))) => request(websocket, &bytes),
                Some(Ok(AggregatedMessage::Ping(payload))) => Task::Pong(payload.to_vec()),
                Some(Ok(AggregatedMessage::Pong(_))) => continue,
                Some(Ok(AggregatedMessage::Close(reason))) => return reason,
                Some(Err(_)) | None => return None,
            },
            event = events.recv() => match event {
                Ok(event) => Task::Event(event),
                Err(broadcast::error::RecvError::Lagged(_)) => return slow(),
                Err(broadcast::error::RecvError::Closed) => return Some(CloseCode::Restart.into()),
            },
            _ = cut => return Some(CloseCode::Away.into()),
        };
        match tasks.try_send(task) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return slow(),
            Err(mpsc::error::TrySendError::Closed(_)) => return None,
        }
    }
}

fn request(websocket: &Websocket, text: &[u8]) -> Task {
    let request = Request::parse(text);
    if let Some(faults) = &websocket.faults {
        let method = match &request {
            Some(Request::Subscribe { .. }) => "subscribe",
            Some(Request::Unsubscribe(_)) => "unsubscribe",
            None => "",
        };
        faults.note("WSMSG", method, Some(&String::from_utf8_lossy(text)));
    }
    Task::Request(request)
}

/// The connection is broken.
struct Broken;

impl From<actix_ws::Closed> for Broken {
    fn from(_: actix_ws::Closed) -> Self {
        Self
    }
}

struct Sender {
    websocket: Arc<Websocket>,
    token: String,
    session: Session,
    /// When the client was last told something.
    spoke: Instant,
    /// Events so far.
    number: u64,
    subscriptions: Vec<Subscription>,
    /// Ids of events that were sent as old ones and may come again as new ones, because both were on their way when the
    /// client subscribed. No more than the queue can hold.
    sent: VecDeque<i64>,
}

impl Sender {
    async fn run(mut self, mut queue: mpsc::Receiver<Task>) {
        loop {
            let idle = self.websocket.configuration.load().send_timeout;
            let done = match tokio::time::timeout_at(self.spoke + idle, queue.recv()).await {
                Ok(Some(Task::Request(request))) => self.request(request).await,
                Ok(Some(Task::Event(event))) => self.live(&event).await,
                Ok(Some(Task::Pong(payload))) => self.session.pong(&payload).await.map_err(Broken::from),
                Ok(None) => return,
                // Nothing to say for a while: an empty object keeps proxies from closing the connection.
                Err(_) => self.say("{}".to_owned()).await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn say(&mut self, text: String) -> Result<(), Broken> {
        self.session.text(text).await?;
        self.spoke = Instant::now();
        Ok(())
    }

    async fn status(&mut self, status: u16) -> Result<(), Broken> {
        self.say(format!("{{\"status\":{status}}}")).await
    }

    async fn request(&mut self, request: Option<Request>) -> Result<(), Broken> {
        match request {
            None => self.status(400).await,
            Some(Request::Subscribe { subscription, last_log_id }) => {
                self.subscriptions.push(subscription.clone());
                self.status(200).await?;
                if last_log_id > 0 { self.backlog(&subscription, last_log_id).await } else { Ok(()) }
            }
            Some(Request::Unsubscribe(subscription)) => {
                match self.subscriptions.iter().position(|one| *one == subscription) {
                    Some(index) => {
                        self.subscriptions.remove(index);
                        self.status(200).await
                    }
                    None => self.status(400).await,
                }
            }
        }
    }

    /// The events after `last` of the last ten minutes.
    async fn backlog(&mut self, subscription: &Subscription, mut last: i64) -> Result<(), Broken> {
        let since = self.websocket.clock.now().minus(BACKLOG);
        loop {
            let page = match self.websocket.api.log_rows_since(last, since, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(error = error.text(), "cannot read old events");
                    return Err(Broken);
                }
            };
            for event in &page {
                last = event.id;
                if subscription.matches(event) {
                    self.send(event).await?;
                    self.sent.push_back(event.id);
                    if self.sent.len() > QUEUE {
                        self.sent.pop_front();
                    }
                }
            }
            if (page.len() as u64) < PAGE {
                return Ok(());
            }
        }
    }

    async fn live(&mut self, event: &LogRow) -> Result<(), Broken> {
        let muted = self.websocket.faults.as_ref().is_some_and(|faults| faults.mute.load(Ordering::Relaxed));
        if muted || self.sent.contains(&event.id) || !self.subscriptions.iter().any(|one| one.matches(event)) {
            return Ok(());
        }
        self.send(event).await
    }

    async fn may_see(&self, object: &str) -> Result<bool, Failure> {
        // Asked for each event: a token may have ended since the last one.
        match self.websocket.api.authenticate(&self.token).await? {
            Some(session) => self.websocket.api.can_read(&session, object).await,
            None => Ok(false),
        }
    }

    /// Sends an event if the token may see it: it can read the object, in the trash too, or, when there is none any more,
    /// what it belonged to.
    async fn send(&mut self, event: &LogRow) -> Result<(), Broken> {
        let object = if event.event_type == "delete" { &event.object_owner_uuid } else { &event.object_uuid };
        match self.may_see(object).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                // Better a client that reconnects and asks for old events than one that silently misses some.
                tracing::error!(error = error.text(), "cannot check who may see an event");
                return Err(Broken);
            }
        }
        self.number += 1;
        let text = message::event(event, self.number);
        self.say(text).await?;
        self.websocket.metrics.events.inc();
        Ok(())
    }
}
