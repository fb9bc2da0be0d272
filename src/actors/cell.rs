//! Where an actor publishes what it knows, and where readers say that they want it looked at again.
//!
//! A cell outlives its actor: when an actor fails, its successor goes on with the same cell, and whoever holds it
//! notices nothing. Loading from a cell is a few nanoseconds and waits for nobody.

use crate::actors::Environment;
use actix::{Actor, Addr, Context};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::watch;

/// An actor that publishes what it keeps.
pub trait Keeper: Actor<Context = Context<Self>> {
    /// What is published.
    type State: Send + Sync + 'static;
    /// What there is one actor for each of.
    type Key: Clone + Send + Sync + std::fmt::Debug + 'static;
    /// What the actor shares with others besides.
    type Shared: Default + Send + Sync + 'static;

    fn new(environment: Arc<Environment>, cell: Arc<Cell<Self>>) -> Self;

    /// Nobody has used it for long: its actor is about to be stopped, and what was published goes with the cell.
    fn retire(_: &Environment, _: &Cell<Self>) {}
}

/// What readers and the event actor can do without asking the actor.
pub struct Cell<A: Keeper> {
    key: A::Key,
    published: ArcSwapOption<A::State>,
    shared: A::Shared,
    address: ArcSwapOption<Addr<A>>,
    /// How often somebody said that the state may be out of date. The actor watches it.
    marks: watch::Sender<u64>,
    /// A reader found the state old; cleared when a refresh starts, so that a thousand reads make one wake-up.
    wanted: AtomicBool,
    /// For how many sweeps of the supervisor nobody has used it.
    pub(super) idle_sweeps: AtomicU32,
}

/// The supervisor's table and the actor hold a cell; any further owner is somebody who uses it.
pub const OWNERS: usize = 2;

impl<A: Keeper> Cell<A> {
    /// A cell that nobody is in charge of yet.
    pub(super) fn new(key: A::Key) -> Arc<Cell<A>> {
        Arc::new(Cell {
            key,
            published: ArcSwapOption::empty(),
            shared: A::Shared::default(),
            address: ArcSwapOption::empty(),
            marks: watch::Sender::new(0),
            wanted: AtomicBool::new(false),
            idle_sweeps: AtomicU32::new(0),
        })
    }

    pub fn key(&self) -> &A::Key {
        &self.key
    }

    pub fn shared(&self) -> &A::Shared {
        &self.shared
    }

    /// Wakes the actor: there is something for it in what is shared.
    pub fn wake(&self) {
        self.marks.send_modify(|_| ());
    }

    /// The state as last published, if there was any.
    pub fn load(&self) -> Option<Arc<A::State>> {
        self.published.load_full()
    }

    /// Called by the actor only.
    pub(super) fn publish(&self, state: Arc<A::State>) {
        self.published.store(Some(state));
    }

    /// Called by the actor only: what was published is not so any more (deleted, not readable).
    pub(super) fn withdraw(&self) {
        self.published.store(None);
    }

    /// Says that the state is out of date. The actor decides when to look (a storm of marks makes one request).
    pub fn mark(&self) {
        self.marks.send_modify(|marks| *marks += 1);
    }

    pub fn marks(&self) -> u64 {
        *self.marks.borrow()
    }

    /// A reader would like a newer state, and goes on with the old one.
    pub fn want(&self) {
        if !self.wanted.swap(true, Ordering::Relaxed) {
            self.marks.send_modify(|_| ());
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Called by the actor when it has done something about [`Cell::want`].
    pub(super) fn begin(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// Does anybody use it?
    pub fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > OWNERS
    }

    pub(super) fn address(&self) -> Option<Arc<Addr<A>>> {
        self.address.load_full()
    }

    /// Puts an actor in charge.
    pub(super) fn appoint(&self, address: Addr<A>) {
        self.address.store(Some(Arc::new(address)));
    }

    /// The wake-ups of the cell as a stream: those that come while one is handled are one more.
    pub(super) fn wake_ups(&self) -> impl futures_util::Stream<Item = Marked> + use<A> {
        futures_util::stream::unfold(self.marks.subscribe(), |mut watch| async move {
            watch.changed().await.ok()?;
            Some((Marked, watch))
        })
    }
}

/// The actor's cell was marked, or a reader wants something newer.
pub(super) struct Marked;
