//! Changes on the cluster, as they happen.
//!
//! One task per mount listens: over the websocket while it can, by asking for log records while it cannot, and again
//! over the websocket as soon as that works. It hands out [`Notice`]s in the order of the log and says through a `watch`
//! how fresh they are ([`Status`]), so that those who cache know how long to trust what they have.
//!
//! Every event carries its number in the log. After a break the server is asked for what came after the last number
//! seen. It only goes back ten minutes, and may have nothing to go back from when nothing was ever seen; where that
//! leaves a gap, [`Notice::Gap`] says so: anything may have changed. The first connection always leaves one: whoever listens may
//! have looked at something before. The gap is told after the server has confirmed the subscription, so that
//! everything is either before the gap or among the events that follow it.
//!
//! Deadlock: the task is the only sender and waits for nobody but the network and a full channel. A consumer that is
//! slow makes it stop reading; the server then drops the connection (protocol.md 9.3), and it comes back later with its
//! number. Nothing is lost and nothing grows. Dropping the [`Listener`] ends the task.
//!
//! The websocket's URL contains the token. It is never logged and never part of an error.

use crate::remote::api::Api;
use crate::remote::error::Result;
use crate::remote::network::Network;
use nix::time::{ClockId, clock_gettime};
use rand::RngExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

pub mod event;
mod polling;
mod socket;

pub use event::{Attributes, Event, EventType, Properties};

/// Notices that may wait for a slow consumer: as many as the server keeps for a slow client
/// (`WebsocketClientEventQueue`, protocol.md 2.6).
const WAITING: usize = 64;
/// First pause before connecting again; doubles up to the longest (arv-mount.md 4.2).
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A connection that lasted this long was a good one: the next pause is the first again.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// The server goes back ten minutes (protocol.md 9.3); a minute less, for clocks and time on the way.
const BACKLOG: Duration = Duration::from_secs(9 * 60);
/// How many numbers an event may come late: more changes than one cluster commits at once.
const OVERLAP: u64 = 16;
/// Remembered numbers: enough to know all of an overlap again.
const RECENT: usize = 64;

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are events")]
pub enum Notice {
    /// Something changed.
    Event(Event),
    /// Events may have been missed: whatever was known may be out of date.
    Gap,
}

/// How changes reach us at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not at all yet, or not any more: nothing is fresh.
    Disconnected,
    /// By asking every few seconds ([`Options::poll_interval`]).
    Polling,
    /// At once.
    Live,
}

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time between two questions while there is no websocket. The SDK's 15 s by default.
    pub poll_interval: Duration,
    /// When to send a ping, and how long to wait for any answer to it. The SDK's 20 s by default.
    pub ping_interval: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { poll_interval: Duration::from_secs(15), ping_interval: Duration::from_secs(20) }
    }
}

/// The receiving end. Dropping it stops listening.
pub struct Listener {
    notices: mpsc::Receiver<Notice>,
    status: watch::Receiver<Status>,
    task: AbortHandle,
}

impl Listener {
    /// The next notice; waits for it. `None` only when the runtime that listens is shutting down.
    pub async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// How changes reach us; can be cloned and outlives the listener.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts listening, on the current runtime, to the creation, change and deletion of everything that the token can
/// read. Never fails: what goes wrong is logged, shows in the status, and is tried again.
pub fn listen(network: Arc<Network>, api: Arc<dyn Api>, options: Options) -> Listener {
    let (sender, notices) = mpsc::channel(WAITING);
    let (status_sender, status) = watch::channel(Status::Disconnected);
    let source = Source { network, api, options, feed: Feed::new(sender), status: status_sender };
    let task = tokio::spawn(source.run()).abort_handle();
    Listener { notices, status, task }
}

/// A point in time on a clock that goes on while the machine is suspended, as the server's does.
#[derive(Clone, Copy)]
struct Moment(Duration);

impl Moment {
    fn now() -> Moment {
        // Every Linux has this clock; without it each break would be taken for a short one.
        Moment(clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default())
    }

    fn elapsed(self) -> Duration {
        Moment::now().0.saturating_sub(self.0)
    }
}

/// Nobody listens any more.
struct Gone;

/// Where events go, and how far we are.
struct Feed {
    notices: mpsc::Sender<Notice>,
    /// The highest number of an event seen, or the end of the log when we asked.
    position: Option<u64>,
    /// Numbers of the latest events, oldest first: what comes again in an overlap is no news.
    recent: VecDeque<u64>,
    /// When we last knew that nothing was missed.
    contact: Moment,
}

impl Feed {
    fn new(notices: mpsc::Sender<Notice>) -> Feed {
        Feed { notices, position: None, recent: VecDeque::with_capacity(RECENT), contact: Moment::now() }
    }

    /// Where to go on after a break. Numbers are given when a change is made and events are sent when it is committed,
    /// so a lower number may come after a higher one: go back a little.
    fn resume(&self) -> Option<u64> {
        self.position.map(|position| position.saturating_sub(OVERLAP))
    }

    /// Whether the server cannot tell everything that we have not heard of. From number 0 on it tells nothing old
    /// (protocol.md 9.3).
    fn has_gap(&self) -> bool {
        self.resume().is_none_or(|position| position == 0) || self.contact.elapsed() > BACKLOG
    }

    async fn event(&mut self, event: Event) -> Result<(), Gone> {
        if self.recent.contains(&event.id) {
            return Ok(());
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(event.id);
        self.position = self.position.max(Some(event.id));
        self.notices.send(Notice::Event(event)).await.map_err(|_| Gone)
    }

    async fn gap(&mut self) -> Result<(), Gone> {
        self.notices.send(Notice::Gap).await.map_err(|_| Gone)
    }
}

struct Source {
    network: Arc<Network>,
    api: Arc<dyn Api>,
    options: Options,
    feed: Feed,
    status: watch::Sender<Status>,
}

impl Source {
    async fn run(mut self) {
        let Gone = match self.listen().await {
            Ok(never) => match never {},
            Err(gone) => gone,
        };
        self.status.send_replace(Status::Disconnected);
    }

    async fn listen(&mut self) -> Result<std::convert::Infallible, Gone> {
        let mut pause = FIRST_PAUSE;
        let mut polled: Option<Instant> = None;
        loop {
            let url = self.url().await;
            if let Some(url) = &url {
                let start = Instant::now();
                let problem = self.session(url).await?;
                if start.elapsed() > GOOD_CONNECTION {
                    pause = FIRST_PAUSE;
                }
                tracing::warn!(
                    problem,
                    retry_ms = pause.as_millis() as u64,
                    "event stream lost, asking for changes meanwhile"
                );
                if *self.status.borrow() == Status::Live {
                    self.status.send_replace(Status::Disconnected);
                }
            }
            if polled.is_none_or(|polled| polled.elapsed() >= self.options.poll_interval) {
                self.poll().await?;
                polled = Some(Instant::now());
            }
            let wait = match url {
                Some(_) => pause.mul_f64(rand::rng().random_range(0.5..=1.0)),
                None => self.options.poll_interval,
            };
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Where the websocket is; `None` when there is none or it is not wanted, or while the API cannot be asked.
    async fn url(&self) -> Option<String> {
        if self.network.settings().disable_websockets {
            return None;
        }
        let discovery = self.api.discovery().await.ok()?;
        (!discovery.websocket_url.is_empty()).then(|| discovery.websocket_url.clone())
    }

    /// Connects and passes events on until the connection ends. The answer says why it ended.
    async fn session(&mut self, url: &str) -> Result<String, Gone> {
        let mut stream = match socket::Stream::open(&self.network, url, self.feed.resume(), self.options).await {
            Ok(stream) => stream,
            Err(error) => return Ok(error.to_string()),
        };
        if self.feed.has_gap() {
            self.feed.gap().await?;
        }
        self.status.send_replace(Status::Live);
        tracing::info!(after = self.feed.position, "listening to the event stream");
        loop {
            self.feed.contact = Moment::now();
            match stream.next().await {
                Ok(event) => self.feed.event(event).await?,
                Err(error) => return Ok(error.to_string()),
            }
        }
    }

    async fn poll(&mut self) -> Result<(), Gone> {
        match polling::poll(&*self.api, &mut self.feed).await? {
            Ok(()) => {
                self.feed.contact = Moment::now();
                self.status.send_replace(Status::Polling);
            }
            Err(error) => {
                self.status.send_replace(Status::Disconnected);
                tracing::warn!(%error, "cannot ask for changes");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_gap_where_the_server_does_not_go_back_to() {
        let has_gap = |position: Option<u64>| Feed { position, ..Feed::new(mpsc::channel(1).0) }.has_gap();
        assert!(has_gap(None), "nothing was heard before");
        assert!(has_gap(Some(0)), "the log was empty");
        assert!(has_gap(Some(OVERLAP)));
        assert!(!has_gap(Some(OVERLAP + 1)));
    }
}
