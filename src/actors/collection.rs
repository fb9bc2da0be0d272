//! The actor of one collection: its record, its tree, the signatures of its blocks.
//!
//! What it publishes is a [`CollectionState`], which never changes. A collection by uuid is looked at again when it has become
//! old, when an event spoke of it, or when somebody asks: first the record without the manifest, and the whole only if the portable
//! data hash is another one. A collection by portable data hash never changes, only the signatures in it grow old; they
//! are renewed ahead of time for as long as somebody uses the collection, and at once when Keep refuses one.
//!
//! Manifests are parsed on the network runtime's blocking threads, never on an arbiter: a million files take a second.

use crate::actors::cell::{Cell, Keeper, Marked};
use crate::actors::client::Age;
use crate::actors::refresh::{Refresh, Reply};
use crate::actors::supervisor::Stop;
use crate::actors::work::Work;
use crate::actors::{Environment, Error, MAILBOX};
use crate::remote::api::{Collection, Record};
use crate::tree::{NodeId, Snapshot};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, StreamHandler, WrapFuture};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub mod numbers;

use numbers::{Numbers, Time};

/// What a look at the record without the manifest asks for.
const SUMMARY: [&str; 9] = [
    "uuid",
    "owner_uuid",
    "name",
    "portable_data_hash",
    "created_at",
    "modified_at",
    "modified_by_user_uuid",
    "version",
    "current_version_uuid",
];

/// Longest random delay of a refresh that an event asked for, so that a hundred mounts do not all ask at once.
const JITTER: Duration = Duration::from_millis(300);

/// Signatures are renewed after this share of the time that they have left.
const RENEW_AFTER: f64 = 0.75;
/// But not more often than this, however short they live.
const RENEW_PAUSE: Duration = Duration::from_secs(2);
/// And a timer does not run for longer: clocks are set, machines sleep.
const LONGEST_TIMER: Duration = Duration::from_secs(3600);

/// What took long to fetch is looked at less often: at most a tenth of the time goes into it.
const RELUCTANCE: u32 = 10;

pub type CollectionCell = Cell<CollectionActor>;

/// A collection at one moment.
pub struct CollectionState {
    pub record: Record<Collection>,
    pub snapshot: Snapshot,
    numbers: Arc<Numbers>,
    is_immutable: bool,
    fetched: Instant,
    interval: Duration,
    marks: u64,
    /// When the first signature ends; `None` without signatures.
    expiry: Option<SystemTime>,
}

impl CollectionState {
    pub fn portable_data_hash(&self) -> &str {
        &self.record.portable_data_hash
    }

    /// Asked for by portable data hash: neither names nor contents will ever change.
    pub fn is_immutable(&self) -> bool {
        self.is_immutable
    }

    /// See [`Numbers`].
    pub fn number(&self, node: NodeId) -> u32 {
        self.numbers.number(node)
    }

    pub fn node(&self, number: u32) -> Option<NodeId> {
        self.numbers.node(&self.snapshot, number)
    }

    pub fn modified(&self, number: u32) -> Time {
        self.numbers.modified(number)
    }

    pub fn version(&self, number: u32) -> u32 {
        self.numbers.version(number)
    }

    pub(super) fn age(&self, cell: &CollectionCell) -> Age {
        if self.is_immutable { Age::Fresh } else { Age::of(self.fetched, self.interval, cell.marks() != self.marks) }
    }
}

/// The collection. `fresh`: as it is now, not only as it was published.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Load {
    pub fresh: bool,
    pub reply: Reply<Arc<CollectionState>, Error>,
}

/// The collection with new signatures.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Renew {
    pub reply: Reply<Arc<CollectionState>, Error>,
}

pub struct CollectionActor {
    environment: Arc<Environment>,
    cell: Arc<CollectionCell>,
    refresh: Refresh<Arc<CollectionState>, Error>,
    /// The next fetch must bring new signatures, not only a look at the record.
    needs_signatures: bool,
    timer: Option<actix::SpawnHandle>,
}

impl Keeper for CollectionActor {
    type State = CollectionState;
    /// Uuid or portable data hash.
    type Key = String;

    fn new(environment: Arc<Environment>, cell: Arc<CollectionCell>) -> CollectionActor {
        CollectionActor { environment, cell, refresh: Refresh::default(), needs_signatures: false, timer: None }
    }
}

impl CollectionActor {
    /// Begins a fetch, unless one is under way.
    fn fetch(&mut self, context: &mut Context<Self>) {
        if self.refresh.is_running() {
            return;
        }
        let epoch = self.refresh.begin(Instant::now());
        self.cell.begin();
        let whole = std::mem::take(&mut self.needs_signatures);
        let fetch = Fetch {
            environment: self.environment.clone(),
            id: self.cell.key().clone(),
            marks: self.cell.marks(),
            known: self.cell.load(),
            whole,
        };
        let work = Work::start(&self.environment.network, format!("collection {}", fetch.id), fetch.run());
        context
            .spawn(work.into_actor(self).map(move |result, actor, context| actor.was_fetched(epoch, result, context)));
    }

    fn was_fetched(&mut self, epoch: u64, result: Result<CollectionState, Error>, context: &mut Context<Self>) {
        if !self.refresh.end(epoch, result.is_ok(), Instant::now()) {
            return;
        }
        let result = match result {
            Ok(state) => {
                let state = Arc::new(state);
                self.cell.publish(state.clone());
                self.set_timer(context);
                Ok(state)
            }
            Err(error) if error.is_not_found() => {
                self.cell.withdraw();
                Err(error)
            }
            Err(error) => match self.cell.load() {
                Some(old) => {
                    tracing::warn!(collection = self.cell.key(), %error, "cannot refresh: showing what it was");
                    Ok(old)
                }
                None => Err(error),
            },
        };
        let is_marked = result.as_ref().is_ok_and(|state| self.cell.marks() != state.marks);
        let is_waited_for = self.refresh.tell(&result);
        if is_waited_for || (is_marked && !self.refresh.has_failed() && self.cell.is_used()) {
            self.fetch(context);
        }
    }

    /// Renews signatures ahead of time, if somebody uses the collection then. If nobody does, the next one who does gets a
    /// refusal from Keep, and then they are renewed.
    fn set_timer(&mut self, context: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
        }
        let Some(expiry) = self.cell.load().and_then(|state| state.expiry) else { return };
        let left = expiry.duration_since(SystemTime::now()).unwrap_or_default();
        let pause = left.mul_f64(RENEW_AFTER).max(RENEW_PAUSE);
        let is_due = pause <= LONGEST_TIMER;
        self.timer = Some(context.run_later(pause.min(LONGEST_TIMER), move |actor, context| {
            actor.timer = None;
            if is_due && actor.cell.is_used() {
                actor.needs_signatures = true;
                actor.fetch(context);
            } else if !is_due {
                actor.set_timer(context);
            }
        }));
    }

    /// Somebody said that the state may be old: an event (a mark), or a reader who found it so (`want`).
    fn was_marked(&mut self, context: &mut Context<Self>) {
        let Some(state) = self.cell.load() else { return };
        if self.refresh.is_running() || !self.refresh.may_try(Instant::now()) {
            self.cell.begin();
            return;
        }
        if self.cell.is_wanted() {
            self.fetch(context);
        } else if self.cell.marks() != state.marks && self.cell.is_used() {
            context.run_later(JITTER.mul_f64(rand::random()), |actor, context| {
                if actor.cell.load().is_some_and(|state| actor.cell.marks() != state.marks) {
                    actor.fetch(context);
                }
            });
        }
    }
}

/// One look at the server.
struct Fetch {
    environment: Arc<Environment>,
    id: String,
    marks: u64,
    known: Option<Arc<CollectionState>>,
    /// The manifest too, whatever the record says.
    whole: bool,
}

impl Fetch {
    async fn run(self) -> Result<CollectionState, Error> {
        let fetched = Instant::now();
        if let Some(known) = self.known.as_ref().filter(|_| !self.whole) {
            let record = self.environment.api.collection(&self.id, &SUMMARY, None).await?;
            if record.portable_data_hash == known.portable_data_hash() {
                return Ok(CollectionState {
                    record,
                    snapshot: known.snapshot.clone(),
                    numbers: known.numbers.clone(),
                    is_immutable: known.is_immutable,
                    interval: known.interval,
                    expiry: known.expiry,
                    fetched,
                    marks: self.marks,
                });
            }
        }
        let mut manifest = Vec::new();
        let record = self.environment.api.collection(&self.id, &[], Some(&mut manifest)).await?;
        let parse = tokio::task::spawn_blocking(move || self.parse(record, manifest, fetched));
        parse.await.map_err(|error| Error::Failed(format!("parsing a manifest: {error}")))?
    }

    fn parse(self, record: Record<Collection>, manifest: Vec<u8>, fetched: Instant) -> Result<CollectionState, Error> {
        let wrong = |problem: String| Error::Manifest { collection: self.id.clone(), problem };
        let text = String::from_utf8(manifest).map_err(|error| wrong(format!("the manifest is not UTF-8: {error}")))?;
        let snapshot = Snapshot::parse(&text).map_err(|error| wrong(error.to_string()))?;
        let expiry = first_expiry(&text);
        drop(text);
        let modified = record.modified_at;
        let numbers = match &self.known {
            None => Arc::new(Numbers::first(&snapshot, modified)),
            // The same text but for its signatures: the nodes are the same too.
            Some(known) if known.portable_data_hash() == record.portable_data_hash => known.numbers.clone(),
            Some(known) => Arc::new(known.numbers.carry(&known.snapshot, &snapshot, modified)),
        };
        Ok(CollectionState {
            // A uuid has no `+`, a portable data hash has one.
            is_immutable: self.id.contains('+'),
            record,
            snapshot,
            numbers,
            interval: self.environment.refresh.max(fetched.elapsed() * RELUCTANCE),
            fetched,
            marks: self.marks,
            expiry,
        })
    }
}

/// The end of the first signature in a manifest. The server signs all blocks of an answer at once, with one time.
fn first_expiry(manifest: &str) -> Option<SystemTime> {
    let hint = manifest.split([' ', '\n']).find_map(|token| token.split('+').find(|hint| hint.starts_with('A')))?;
    let seconds = u64::from_str_radix(hint.split_once('@')?.1, 16).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

impl Actor for CollectionActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        context.add_stream(self.cell.wake_ups());
        self.set_timer(context);
    }
}

impl StreamHandler<Marked> for CollectionActor {
    fn handle(&mut self, _: Marked, context: &mut Self::Context) {
        self.was_marked(context);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Load> for CollectionActor {
    type Result = ();

    fn handle(&mut self, Load { fresh, reply }: Load, context: &mut Self::Context) {
        match self.cell.load() {
            // A refresh that failed a moment ago, or that already takes long, is not waited for again.
            Some(state) if !fresh || self.refresh.is_hopeless(Instant::now()) => {
                let _ = reply.send(Ok(state));
            }
            _ => {
                if fresh {
                    self.refresh.join_fresh(reply)
                } else {
                    self.refresh.join(reply)
                }
                self.fetch(context);
            }
        }
    }
}

impl Handler<Renew> for CollectionActor {
    type Result = ();

    fn handle(&mut self, Renew { reply }: Renew, context: &mut Self::Context) {
        self.needs_signatures = true;
        self.refresh.join_fresh(reply);
        self.fetch(context);
    }
}

impl Handler<Stop> for CollectionActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Self::Context) {
        context.stop();
    }
}
