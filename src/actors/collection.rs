//! The actor of one collection: its record, its tree, what was changed here and is not saved, the signatures of its blocks.
//!
//! What it publishes is a [`CollectionState`], which never changes. A collection by uuid is looked at again when it has become
//! old, when an event spoke of it, or when somebody asks: first the record without the manifest, and the whole only if the portable
//! data hash is another one. A collection by portable data hash never changes, only the signatures in it grow old; they
//! are renewed ahead of time for as long as somebody uses the collection, and at once when Keep refuses one.
//!
//! | file | owns |
//! |---|---|
//! | [`state`] | what is published |
//! | [`looking`] | when the server is looked at, and what becomes of what it has |
//! | [`fetch`] | one look |
//! | [`numbers`] | numbers of nodes that stay the same |
//! | [`times`] | times of files while the actor is stopped |
//! | [`draft`] | files that are open for writing or not saved |
//! | [`operation`] | changes to names |
//! | [`local`] | what was changed and is not saved |
//! | [`saving`] | when it is saved |
//! | [`bringing`] | bringing much to Keep before a save |
//! | [`running`] | a save that is under way |
//! | [`waiting`] | who waits for it |
//! | [`moving`] | what is moved to another collection, and when it may go |
//! | [`held`] | from where it was moved |
//! | [`commit`] | one save |
//! | [`signing`] | whether the server takes the blocks of a save from us |
//! | [`renewing`] | blocks of files that are written for long |
//! | [`aside`] | paths that are not saved while others are |
//! | [`guard`] | the conditions of a save |
//! | [`echo`] | telling our own saves from those of others |
//! | [`opened`] | which files have handles, and what nobody has opened yet |
//! | [`overwritten`] | saying what a save of ours has hit |
//! | [`merging`] | what others have saved |
//! | [`folding`] | the tree without what nobody needs any more |
//! | [`finished`] | backing files that wait to be let go |
//! | [`housekeeper`] | what is done on the journal's disk and nobody waits for |
//! | [`earlier`] | journals of earlier mounts |
//! | [`sent`] | saves of which it is not known whether they arrived |
//! | [`remains`] | what an actor that fails leaves to the next |
//! | [`journaling`] | when the journal is written |
//! | [`copying`] | bytes of what is in Keep, for the journal |
//! | [`recording`] | what the journal is told |
//! | [`replaying`] | what is made of that after a crash |
//! | [`recovering`] | taking over what a killed mount has left |
//! | [`unfinished`] | moves that a killed mount had begun |

use crate::actors::cell::{Cell, Keeper, Marked};
use crate::actors::refresh::{Refresh, Reply};
use crate::actors::supervisor::Stop;
use crate::actors::{Environment, Error, MAILBOX};
use crate::remote::api::{Collection, Record};
use crate::tree::Snapshot;
use crate::tree::commit::{Depth, Touched};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, StreamHandler};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod aside;
mod bringing;
mod commit;
pub mod copying;
pub mod draft;
pub mod earlier;
pub mod echo;
mod fetch;
pub mod finished;
mod folding;
pub mod guard;
mod held;
pub mod housekeeper;
mod journaling;
mod landed;
mod local;
mod looking;
pub mod merging;
pub mod moving;
pub mod numbers;
pub mod opened;
pub mod operation;
mod overwritten;
pub mod placing;
mod recording;
pub mod recovering;
mod remains;
mod renewing;
mod replaying;
mod running;
pub mod saving;
mod sent;
mod signing;
pub mod state;
pub mod times;
pub mod unfinished;
mod waiting;

pub use crate::actors::environment::Writing;
pub use recovering::{Left, Recover};
pub use state::{CollectionState, Kind};

use echo::Echoes;
use local::Local;
use numbers::Numbers;
use state::Base;

/// What a look at the record without the manifest asks for.
const SUMMARY: [&str; 12] = [
    "uuid",
    "owner_uuid",
    "name",
    "portable_data_hash",
    "created_at",
    "modified_at",
    "modified_by_user_uuid",
    "version",
    "current_version_uuid",
    "preserve_version",
    "replication_desired",
    "storage_classes_desired",
];

pub type CollectionCell = Cell<CollectionActor>;

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
    /// The next fetch must bring the manifest, not only a look at the record.
    needs_whole: bool,
    is_merging: bool,
    is_folding: bool,
    /// The first number that was never given when the collection was found to be gone: those who have its files open must not
    /// find others behind their numbers should it come back.
    first_number: u32,
    fetched: Instant,
    local: Local,
    timer: Option<actix::SpawnHandle>,
}

impl Keeper for CollectionActor {
    type State = CollectionState;
    /// Uuid or portable data hash, or that of a temporary collection.
    type Key = String;
    type Shared = Echoes;

    fn retire(environment: &Environment, cell: &CollectionCell) {
        if let Some(state) = cell.load() {
            environment.times.note(cell.key(), &state);
        }
    }

    fn new(environment: Arc<Environment>, cell: Arc<CollectionCell>) -> CollectionActor {
        let mut local = Local::default();
        let is_unsaved = cell.load().is_some_and(|state| state.is_unsaved());
        let journal = environment.writing.as_ref().and_then(|writing| writing.journal.as_ref());
        let (state, last) = journal.map(|journal| journal.reach(cell.key())).unwrap_or_default();
        local.count_from(state, !is_unsaved);
        if is_unsaved {
            // An actor before this one failed: what it had not saved is found by comparing everything.
            let everything: Touched = [(&b""[..], Depth::Tree)].into_iter().collect();
            local.go_on(last, &everything);
            local.adopt(everything);
        }
        let moves = &cell.shared().moves;
        moves.go_on(&mut local, !is_unsaved);
        cell.shared().remains.take(&mut local);
        if moves.expects_any() || !local.is_clean() {
            local.keep(&cell);
        }
        CollectionActor {
            environment,
            cell,
            refresh: Refresh::default(),
            needs_whole: false,
            is_merging: false,
            is_folding: false,
            first_number: 0,
            fetched: Instant::now(),
            local,
            timer: None,
        }
    }
}

impl CollectionActor {
    fn publish(&self, state: CollectionState) -> Arc<CollectionState> {
        let state = Arc::new(state);
        self.cell.publish(state.clone());
        state
    }

    /// Only one thing at a time: see [`saving`].
    fn is_busy(&self) -> bool {
        self.local.is_saving() || self.is_looking()
    }

    /// Is it being found out what others have saved?
    fn is_looking(&self) -> bool {
        self.refresh.is_running() || self.is_merging
    }
}

impl Actor for CollectionActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        context.add_stream(self.cell.wake_ups());
        if self.cell.kind() == Kind::Temporary && self.cell.load().is_none() {
            self.begin_temporary();
        }
        self.set_timer(context);
        self.advance(context);
        if self.cell.shared().moves.expects_any() {
            // Nobody heard of what has arrived while there was no actor.
            self.look_at_moves(context);
        }
    }
}

impl StreamHandler<Marked> for CollectionActor {
    fn handle(&mut self, _: Marked, context: &mut Self::Context) {
        self.was_marked(context);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl CollectionActor {
    /// A temporary collection begins empty, and lives as long as the mount.
    fn begin_temporary(&mut self) {
        let now = chrono::Utc::now();
        let fields = Collection { modified_at: Some(now), ..Collection::default() };
        let record = Arc::new(Record { fields, raw: Default::default() });
        let base =
            Base { record: record.clone(), snapshot: Snapshot::empty(), is_whole: true, is_own: true, is_sound: false };
        self.local.keep(&self.cell);
        self.publish(CollectionState {
            numbers: Numbers::first(Some(now)),
            record,
            snapshot: Snapshot::empty(),
            drafts: Default::default(),
            base: Arc::new(base),
            is_unsaved: false,
            kind: Kind::Temporary,
            fetched: Instant::now(),
            interval: Duration::MAX / 4,
            marks: 0,
            expiry: None,
        });
    }
}

impl Handler<Load> for CollectionActor {
    type Result = ();

    fn handle(&mut self, Load { fresh, reply }: Load, context: &mut Self::Context) {
        match self.cell.load() {
            // A refresh that failed a moment ago, or that already takes long, is not waited for again; nor is a save, which ends
            // in a state as new as can be.
            Some(state)
                if !fresh
                    || state.kind() == Kind::Temporary
                    || self.refresh.is_hopeless(Instant::now())
                    || self.local.is_saving() =>
            {
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
        self.needs_whole = true;
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
