//! Which actors there are: started on demand, replaced when they failed, stopped when nobody uses them.
//!
//! Actors live on a few arbiters (threads with a runtime of their own), made by the thread that runs the actor system, because
//! `actix` cannot start an actor on a worker of a multi-thread runtime. The tables are sharded maps; an entry is held only
//! to look a cell up, put one in or take one out, never over an await, and nothing else is locked inside. An actor is told
//! to stop after its entry is gone, and the entry goes only while nobody but table and actor holds the cell: so nobody
//! is left with a cell that has no actor.

use crate::actors::cell::{Cell, Keeper};
use crate::actors::collection::CollectionActor;
use crate::actors::event::EventActor;
use crate::actors::listing::{ListingActor, Source};
use crate::actors::refresh::Reply;
use crate::actors::rights::Rights;
use crate::actors::{Environment, Error};
use crate::remote::events::Listener;
use actix::{Actor, ArbiterHandle, Handler, Message};
use dashmap::DashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// Threads for actors. Their handlers take microseconds, so more would only wait.
const ARBITERS: usize = 2;

/// Between two looks at who is idle; who was so at two looks in a row is stopped. Long enough for somebody who comes
/// back to the same directory.
const SWEEP: Duration = Duration::from_secs(60);

/// Tells an actor to stop: nobody can reach it any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop;

type Table<A> = DashMap<<A as Keeper>::Key, Arc<Cell<A>>>;

pub struct Supervisor {
    environment: Arc<Environment>,
    arbiters: Vec<ArbiterHandle>,
    next: AtomicUsize,
    collections: Table<CollectionActor>,
    listings: Table<ListingActor>,
    pub(super) rights: Arc<Rights>,
    /// Held while an actor that failed is replaced, so that two who notice it do not both do it. No await inside.
    replacing: Mutex<()>,
}

impl Supervisor {
    /// Starts the actor system on a thread of its own. Errors: no thread.
    pub fn start(environment: Arc<Environment>) -> std::io::Result<Arc<Supervisor>> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new().name("actors".into()).spawn(move || {
            let system = actix::System::new();
            let arbiters: Vec<ArbiterHandle> =
                system.block_on(async { (0..ARBITERS).map(|_| actix::Arbiter::new().handle()).collect() });
            if sender.send(arbiters).is_ok()
                && let Err(error) = system.run()
            {
                tracing::error!(%error, "the actor system ended");
            }
        })?;
        let arbiters = receiver.recv().map_err(|_| std::io::Error::other("the actor system did not start"))?;
        let supervisor = Arc::new(Supervisor {
            environment,
            arbiters,
            next: AtomicUsize::new(0),
            collections: DashMap::new(),
            listings: DashMap::new(),
            rights: Arc::default(),
            replacing: Mutex::new(()),
        });
        supervisor.environment.network.spawn(sweep(Arc::downgrade(&supervisor)));
        Ok(supervisor)
    }

    pub fn environment(&self) -> &Arc<Environment> {
        &self.environment
    }

    /// Starts to act on what the cluster says of changes.
    pub fn listen(self: &Arc<Self>, listener: Listener) {
        let supervisor = self.clone();
        self.environment.news.set_status(listener.status());
        EventActor::start_in_arbiter(self.arbiter(), move |_| EventActor::new(supervisor, listener));
    }

    fn arbiter(&self) -> &ArbiterHandle {
        &self.arbiters[self.next.fetch_add(1, Ordering::Relaxed) % self.arbiters.len()]
    }

    /// The cell of a collection, by uuid or portable data hash; starts its actor if there is none. Nothing is loaded yet.
    pub fn collection(&self, id: &str) -> Arc<Cell<CollectionActor>> {
        self.get(&self.collections, id.to_owned())
    }

    /// The cell of a listing; starts its actor if there is none. Nothing is loaded yet.
    pub fn listing(&self, source: &Source) -> Arc<Cell<ListingActor>> {
        self.get(&self.listings, source.clone())
    }

    /// The cell of a collection, if somebody has asked for it.
    pub fn existing_collection(&self, id: &str) -> Option<Arc<Cell<CollectionActor>>> {
        self.collections.get(id).map(|cell| cell.clone())
    }

    /// The cell of a listing, if somebody has asked for it.
    pub(super) fn existing_listing(&self, source: &Source) -> Option<Arc<Cell<ListingActor>>> {
        self.listings.get(source).map(|cell| cell.clone())
    }

    /// The collections in which something is not saved.
    pub fn unsaved_collections(&self) -> Vec<Arc<Cell<CollectionActor>>> {
        let is_unsaved = |cell: &Arc<Cell<CollectionActor>>| {
            cell.load().is_some_and(|state| state.is_unsaved() || state.has_changed_drafts())
        };
        self.collections.iter().filter(|cell| is_unsaved(cell)).map(|cell| cell.clone()).collect()
    }

    /// Everything that an event could have spoken of, when some may have been missed.
    pub(super) fn mark_all(&self) {
        self.collections.iter().for_each(|cell| cell.mark());
        self.listings.iter().for_each(|cell| cell.mark());
    }

    /// The filter groups: any object may have come into them or left them.
    pub(super) fn mark_filter_groups(&self) {
        self.listings.iter().filter(|cell| cell.shared().is_filter_group()).for_each(|cell| cell.mark());
    }

    fn get<A: Keeper>(&self, table: &Table<A>, key: A::Key) -> Arc<Cell<A>>
    where
        A::Key: Eq + Hash,
    {
        if let Some(cell) = table.get(&key) {
            cell.idle_sweeps.store(0, Ordering::Relaxed);
            return cell.clone();
        }
        let entry = table.entry(key.clone());
        entry
            .or_insert_with(|| {
                let cell = Cell::new(key);
                self.appoint(&cell);
                cell
            })
            .clone()
    }

    fn appoint<A: Keeper>(&self, cell: &Arc<Cell<A>>) {
        let arbiter = self.arbiter();
        let (environment, owned) = (self.environment.clone(), cell.clone());
        cell.appoint(A::start_in_arbiter(arbiter, move |_| A::new(environment, owned)));
    }

    /// Sends a message that carries its reply channel, and waits for the answer. If the actor has failed, another takes its
    /// place and is asked once more.
    pub async fn ask<A, M, T>(&self, cell: &Arc<Cell<A>>, message: impl Fn(Reply<T, Error>) -> M) -> Result<T, Error>
    where
        A: Keeper + Handler<M>,
        M: Message<Result = ()> + Send + 'static,
    {
        for _ in 0..2 {
            let (reply, answer) = oneshot::channel();
            if let Some(address) = cell.address()
                && address.send(message(reply)).await.is_ok()
                && let Ok(result) = answer.await
            {
                return result;
            }
            self.replace(cell);
        }
        Err(Error::Failed(format!("{:?}", cell.key())))
    }

    fn replace<A: Keeper>(&self, cell: &Arc<Cell<A>>) {
        let _held = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = cell.address();
        if current.is_none_or(|current| !current.connected()) {
            tracing::error!(key = ?cell.key(), "an actor failed: starting another in its place");
            self.appoint(cell);
        }
    }

    fn sweep(&self) {
        sweep_table(&self.collections, &self.environment);
        sweep_table(&self.listings, &self.environment);
    }
}

fn sweep_table<A: Keeper + Handler<Stop>>(table: &Table<A>, environment: &Environment)
where
    A::Key: Eq + Hash,
{
    let mut idle = Vec::new();
    for entry in table {
        if entry.is_used() {
            entry.idle_sweeps.store(0, Ordering::Relaxed);
        } else if entry.idle_sweeps.fetch_add(1, Ordering::Relaxed) > 0 {
            idle.push(entry.key().clone());
        }
    }
    for key in idle {
        let Some((_, cell)) = table.remove_if(&key, |_, cell| !cell.is_used()) else { continue };
        A::retire(environment, &cell);
        if let Some(address) = cell.address() {
            // Nobody else sends to it any more, so its mailbox has room; if it is gone already, all the better.
            let _ = address.try_send(Stop);
        }
    }
}

async fn sweep(supervisor: Weak<Supervisor>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        match supervisor.upgrade() {
            Some(supervisor) => supervisor.sweep(),
            None => return,
        }
    }
}
