//! The actor of one listing: a project, the shared directory, the tags, or one tag.
//!
//! A listing is complete after somebody has read the directory. Before that (a path into a large project) names are asked
//! for one by one and added as they are found; names that do not exist are remembered for a moment, because programs
//! ask for the same missing names again and again. A complete listing that has become old goes on being shown
//! while it is read again; only what nobody has looked at for long, or what an event has spoken of, is waited for, and
//! not for long. A failure to list is an error to those who wait, never an empty directory; an old listing is better.
//!
//! Whatever is published is compared with what was published before, and the difference is told ([`crate::actors::news`]): so
//! those who remember names of a complete listing need not ask again as long as nothing is told. A listing that an event has
//! spoken of is read again soon if somebody uses it; what nobody uses is only marked.

use crate::actors::cell::{Cell, Keeper, Marked};
use crate::actors::client::Age;
use crate::actors::news::Change;
use crate::actors::refresh::{Refresh, Reply};
use crate::actors::supervisor::Stop;
use crate::actors::work::Work;
use crate::actors::{Environment, Error, MAILBOX};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, StreamHandler, WrapFuture};
use actix::{ActorFutureExt, Message};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub mod names;
pub mod snapshot;
pub mod source;

pub use snapshot::{Item, Listing, Target};
pub use source::Source;

use snapshot::Numbering;

/// How long a name that is missing stays so without asking again. Short: nothing tells us when it appears
/// unless events are on, and then the memory is cleared by them.
const MISSING: Duration = Duration::from_secs(2);
/// Missing names remembered at a time; a program that tries out names must not fill the memory.
const MOST_MISSING: usize = 1000;
/// A listing that took long to get is read again less often: at most a tenth of the time goes into it.
const RELUCTANCE: u32 = 10;
/// Longest random delay of a refresh that an event asked for, so that a hundred mounts do not all ask at once.
const JITTER: Duration = Duration::from_millis(300);
/// A change that an event told of is to be seen after this, plus the time of one reading.
const PROMPT: Duration = Duration::from_secs(1);
/// Between two looks at whether a reading that failed may be tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

pub type ListingCell = Cell<ListingActor>;

impl Listing {
    /// How old it is; `None` if it is not complete.
    pub(super) fn age(&self, cell: &ListingCell) -> Option<Age> {
        Some(Age::of(self.fetched?, self.interval, cell.marks() != self.marks))
    }

    /// For how long it may be believed if changes are told as they happen: until it is due to be looked at again, because there
    /// are changes of which no event tells. `None`: not at all. A part of a listing is not compared with what comes later, what
    /// is marked is known to be old, and what takes long to read is read too late after an event.
    pub fn believable(&self, cell: &ListingCell) -> Option<Duration> {
        let is_told = cell.marks() == self.marks && self.pace <= PROMPT;
        let age = self.fetched.filter(|_| is_told)?.elapsed();
        Some(self.interval.saturating_sub(age))
    }
}

/// What others need to know of a listing besides its content.
#[derive(Debug, Default)]
pub struct Shared {
    is_filter_group: AtomicBool,
    /// Of the objects in it. Not the actor's own: the kernel knows the numbers, and a successor of an actor that has failed must not
    /// give them to others.
    numbering: Mutex<Numbering>,
}

impl Shared {
    /// Is it a filter group? Any change to any object may concern it.
    pub fn is_filter_group(&self) -> bool {
        self.is_filter_group.load(Ordering::Relaxed)
    }

    /// For the actor only. What is there after a panic is sound: a number counts as given before anything is told of it.
    fn numbering(&self) -> MutexGuard<'_, Numbering> {
        self.numbering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that is in the listing. `fresh`: as it is now, not only as it was published.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Load {
    pub fresh: bool,
    pub reply: Reply<Arc<Listing>, Error>,
}

/// The object shown under a name, complete listing or not.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Find {
    pub name: Vec<u8>,
    pub reply: Reply<Option<Item>, Error>,
}

/// An object that was made or moved here by this mount.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Add {
    pub candidate: snapshot::Candidate,
    pub reply: Reply<Item, Error>,
}

/// The object of this number turned out to be gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Remove {
    pub number: u32,
}

pub struct ListingActor {
    source: Source,
    environment: Arc<Environment>,
    cell: Arc<ListingCell>,
    refresh: Refresh<Arc<Listing>, Error>,
    /// Look-ups under way, with those who wait for each.
    searches: HashMap<Vec<u8>, Vec<Reply<Option<Item>, Error>>>,
    missing: HashMap<Vec<u8>, Instant>,
    /// The marks that the listing accounts for.
    seen: u64,
    /// The marks of which we know, and since when we know of the last of them.
    noticed: (u64, Instant),
    /// A reading that an event asked for is about to begin.
    is_planned: bool,
    /// When the last reading ended, and how long to wait after it.
    paced: Option<(Instant, Duration)>,
    /// As far as it is known.
    is_filter_group: Option<bool>,
}

impl Keeper for ListingActor {
    type State = Listing;
    type Key = Source;
    type Shared = Shared;

    fn new(environment: Arc<Environment>, cell: Arc<ListingCell>) -> ListingActor {
        ListingActor {
            source: cell.key().clone(),
            environment,
            cell,
            refresh: Refresh::default(),
            searches: HashMap::new(),
            missing: HashMap::new(),
            seen: 0,
            noticed: (0, Instant::now()),
            is_planned: false,
            paced: None,
            is_filter_group: None,
        }
    }
}

impl ListingActor {
    /// We know of a change that an answer on its way may not show: what it says counts as out of date when it comes.
    fn overtake(&self) {
        if self.refresh.is_running() || !self.searches.is_empty() {
            self.cell.mark();
        }
    }

    /// Begins to read everything, unless that is under way.
    fn read(&mut self, context: &mut Context<Self>) {
        if self.refresh.is_running() {
            return;
        }
        let epoch = self.refresh.begin(Instant::now());
        let marks = self.cell.marks();
        self.cell.begin();
        let (source, environment) = (self.source.clone(), self.environment.clone());
        let started = Instant::now();
        let is_known = self.is_filter_group.is_some();
        let work = async move { source.list_and_tell_kind(&environment, is_known).await };
        let work = Work::start(&self.environment.network, self.source.describe(), work);
        context.spawn(work.into_actor(self).map(move |result, actor, context| {
            actor.was_read(epoch, marks, started, result, context);
        }));
    }

    fn was_read(
        &mut self,
        epoch: u64,
        marks: u64,
        started: Instant,
        result: Result<source::Contents, Error>,
        context: &mut Context<Self>,
    ) {
        if !self.refresh.end(epoch, result.is_ok(), Instant::now()) {
            return;
        }
        let took = started.elapsed();
        let result = match result {
            Ok(contents) => {
                self.is_filter_group = contents.is_filter_group.or(self.is_filter_group);
                let is_filter_group = self.is_filter_group == Some(true);
                self.cell.shared().is_filter_group.store(is_filter_group, Ordering::Relaxed);
                let precedence = self.source.precedence();
                let mut listing = self.cell.shared().numbering().complete(contents.candidates, precedence, started);
                listing.marks = marks;
                listing.interval = self.environment.refresh.max(took * RELUCTANCE);
                // Events that concern a filter group may come at any rate.
                listing.pace = if is_filter_group { took * RELUCTANCE } else { took };
                let pace = listing.pace;
                self.seen = marks;
                let listing = self.publish(listing);
                self.paced = Some((Instant::now(), pace));
                self.missing.clear();
                Ok(listing)
            }
            Err(error) => {
                let old = self.cell.load().filter(|listing| listing.is_complete());
                if error.is_not_found() {
                    let changes = self.changes_to(&Listing::default());
                    self.cell.withdraw();
                    self.environment.news.tell_listing(&self.source, changes);
                } else if old.is_some() {
                    tracing::warn!(listing = self.source.describe(), %error, "cannot refresh: showing what it was");
                }
                match old {
                    Some(old) if !error.is_not_found() => Ok(old),
                    _ => Err(error),
                }
            }
        };
        if self.refresh.tell(&result) {
            self.read(context);
        } else if self.cell.marks() != self.seen && result.is_ok() {
            self.look_soon(context);
        }
    }

    /// Publishes a listing, and tells in what it differs from the one before.
    fn publish(&mut self, listing: Listing) -> Arc<Listing> {
        let listing = Arc::new(listing);
        let changes = self.changes_to(&listing);
        self.cell.publish(listing.clone());
        // Not before: who is told asks, and is to get the new answer.
        self.environment.news.tell_listing(&self.source, changes);
        listing
    }

    fn changes_to(&self, new: &Listing) -> Vec<Change> {
        let was_missed = |name: &[u8]| self.missing.contains_key(name);
        // One that was withdrawn has been complete: every name may be remembered as missing.
        let mut nothing = Listing::default();
        nothing.fetched = self.paced.map(|(ended, _)| ended);
        snapshot::changes_between(self.cell.load().as_deref().unwrap_or(&nothing), new, was_missed)
    }

    /// Reads again soon because an event spoke of the listing, if somebody uses it then.
    fn look_soon(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_planned, true) {
            return;
        }
        let rest = self.paced.map_or(Duration::ZERO, |(ended, pace)| pace.saturating_sub(ended.elapsed()));
        let retry = if self.refresh.may_try(Instant::now()) { Duration::ZERO } else { TRY_AGAIN };
        let pause = rest.max(retry).max(JITTER.mul_f64(rand::random()));
        context.run_later(pause, |actor, context| {
            actor.is_planned = false;
            // A reading that is under way looks at the marks when it ends.
            let is_complete = actor.cell.load().is_some_and(|listing| listing.is_complete());
            let is_pointless = actor.cell.marks() == actor.seen || !actor.cell.is_used() || !is_complete;
            if is_pointless || actor.refresh.is_running() {
                return;
            }
            if actor.refresh.may_try(Instant::now()) { actor.read(context) } else { actor.look_soon(context) }
        });
    }

    fn search(&mut self, name: Vec<u8>, reply: Reply<Option<Item>, Error>, context: &mut Context<Self>) {
        let text = match std::str::from_utf8(&name) {
            Ok(text) => text.to_owned(),
            // Names of objects are text: no object has this one.
            Err(_) => {
                let _ = reply.send(Ok(None));
                return;
            }
        };
        let waiting = self.searches.entry(name.clone()).or_default();
        waiting.push(reply);
        if waiting.len() > 1 {
            return;
        }
        let (source, environment) = (self.source.clone(), self.environment.clone());
        let (marks, started) = (self.cell.marks(), Instant::now());
        let work = async move { source.find(&environment, &text).await };
        let work = Work::start(&self.environment.network, self.source.describe(), work);
        context.spawn(work.into_actor(self).map(move |result, actor, _| {
            actor.was_searched(name, (marks, started), result);
        }));
    }

    fn was_searched(
        &mut self,
        name: Vec<u8>,
        (marks, started): (u64, Instant),
        result: Result<Option<snapshot::Candidate>, Error>,
    ) {
        let result = result.map(|candidate| match candidate {
            Some(candidate) => {
                let old = self.cell.load();
                let (listing, item) = self.cell.shared().numbering().with(old.as_deref(), candidate, started);
                self.publish(listing);
                Some(item)
            }
            None => {
                if let Some(old) = self.cell.load().filter(|listing| listing.by_name(&name).is_some()) {
                    self.publish(old.filtered(|item| item.name.as_ref() != name.as_slice()));
                }
                if self.missing.len() >= MOST_MISSING {
                    self.missing.clear();
                }
                if marks == self.cell.marks() {
                    self.missing.insert(name.clone(), Instant::now());
                }
                None
            }
        });
        let known = self.cell.load().and_then(|listing| listing.by_name(&name).cloned());
        let result = match (result, known) {
            (Err(error), Some(item)) if !error.is_not_found() => {
                tracing::warn!(listing = self.source.describe(), %error, "cannot check a name: showing what it was");
                Ok(Some(item))
            }
            (result, _) => result,
        };
        for reply in self.searches.remove(&name).unwrap_or_default() {
            let _ = reply.send(result.clone());
        }
    }

    fn notice_marks(&mut self) {
        let marks = self.cell.marks();
        if marks != self.noticed.0 {
            self.noticed = (marks, Instant::now());
            self.missing.clear();
        }
    }

    /// Need a name that is known not be asked for again? What an event has spoken of since it was asked for need.
    fn is_recent(&self, item: &Item) -> bool {
        let (marks, since) = self.noticed;
        let is_newer = self.seen == marks || item.checked > since;
        marks == self.cell.marks() && is_newer && item.checked.elapsed() < self.environment.refresh
    }

    /// Somebody said that the listing may be old: an event (a mark), or a reader who found it so (`want`).
    fn was_marked(&mut self, context: &mut Context<Self>) {
        self.notice_marks();
        let is_marked = self.noticed.0 != self.seen;
        let is_wanted = self.cell.is_wanted();
        if !(is_marked || is_wanted) {
            return;
        }
        if self.refresh.is_running() || !self.refresh.may_try(Instant::now()) {
            // Whoever wants something newer says so again when he next comes; marks stay.
            self.cell.begin();
            if is_marked {
                self.look_soon(context);
            }
            return;
        }
        let Some(listing) = self.cell.load() else { return };
        if !listing.is_complete() {
            // Only look-ups so far: each is made again when its name is next used ([`ListingActor::is_recent`]).
            return;
        }
        if is_wanted {
            self.read(context);
        } else {
            self.look_soon(context);
        }
    }
}

impl Actor for ListingActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        self.seen = self.cell.marks();
        self.noticed = (self.seen, Instant::now());
        context.add_stream(self.cell.wake_ups());
    }
}

impl StreamHandler<Marked> for ListingActor {
    fn handle(&mut self, _: Marked, context: &mut Self::Context) {
        self.was_marked(context);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Load> for ListingActor {
    type Result = ();

    fn handle(&mut self, Load { fresh, reply }: Load, context: &mut Self::Context) {
        match self.cell.load().filter(|listing| listing.is_complete()) {
            // A refresh that failed a moment ago, or that already takes long, is not waited for again.
            Some(listing) if !fresh || self.refresh.is_hopeless(Instant::now()) => {
                let _ = reply.send(Ok(listing));
            }
            _ => {
                if fresh {
                    self.refresh.join_fresh(reply)
                } else {
                    self.refresh.join(reply)
                }
                self.read(context);
            }
        }
    }
}

impl Handler<Find> for ListingActor {
    type Result = ();

    fn handle(&mut self, Find { name, reply }: Find, context: &mut Self::Context) {
        let known = self.cell.load().and_then(|listing| listing.by_name(&name).cloned());
        if let Some(item) = known.filter(|item| self.is_recent(item)) {
            let _ = reply.send(Ok(Some(item)));
        } else if self.missing.get(&name).is_some_and(|since| since.elapsed() < MISSING) {
            let _ = reply.send(Ok(None));
        } else {
            self.missing.remove(&name);
            self.search(name, reply, context);
        }
    }
}

impl Handler<Add> for ListingActor {
    type Result = ();

    fn handle(&mut self, Add { candidate, reply }: Add, _: &mut Self::Context) {
        self.missing.remove(&candidate.name);
        let old = self.cell.load();
        let (listing, item) = self.cell.shared().numbering().with(old.as_deref(), candidate, Instant::now());
        self.publish(listing);
        self.overtake();
        let _ = reply.send(Ok(item));
    }
}

impl Handler<Remove> for ListingActor {
    type Result = ();

    fn handle(&mut self, Remove { number }: Remove, _: &mut Self::Context) {
        if let Some(listing) = self.cell.load().filter(|listing| listing.by_number(number).is_some()) {
            self.publish(listing.filtered(|item| item.number != number));
        }
        self.overtake();
    }
}

impl Handler<Stop> for ListingActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Self::Context) {
        context.stop();
    }
}

#[cfg(test)]
pub(in crate::actors) mod tests;
