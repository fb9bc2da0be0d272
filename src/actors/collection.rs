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
//! | [`fetch`] | a look at the server |
//! | [`numbers`] | numbers of nodes that stay the same |
//! | [`times`] | times of files while the actor is stopped |
//! | [`draft`] | files that are open for writing or not saved |
//! | [`operation`] | changes to names |
//! | [`local`] | what was changed and is not saved |
//! | [`saving`] | when it is saved |
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
//! | [`journaling`] | when the journal is written |
//! | [`copying`] | bytes of what is in Keep, for the journal |
//! | [`recording`] | what the journal is told |
//! | [`replaying`] | what is made of that after a crash |
//! | [`recovering`] | taking over what a killed mount has left |
//! | [`unfinished`] | moves that a killed mount had begun |

use crate::actors::cell::{Cell, Keeper, Marked};
use crate::actors::refresh::{Refresh, Reply};
use crate::actors::supervisor::Stop;
use crate::actors::work::Work;
use crate::actors::{Environment, Error, MAILBOX, news};
use crate::remote::api::{Collection, Record};
use crate::tree::commit::{Depth, Touched};
use crate::tree::{Snapshot, diff};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, StreamHandler, WrapFuture};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

mod aside;
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
pub mod merging;
pub mod moving;
pub mod numbers;
pub mod opened;
pub mod operation;
mod overwritten;
pub mod placing;
mod recording;
pub mod recovering;
mod renewing;
mod replaying;
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
use fetch::{Fetch, Fetched};
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

/// Longest random delay of a refresh that an event asked for, so that a hundred mounts do not all ask at once.
const JITTER: Duration = Duration::from_millis(300);

/// Signatures are renewed after this share of the time that they have left.
const RENEW_AFTER: f64 = 0.75;
/// But not more often than this, however short they live.
const RENEW_PAUSE: Duration = Duration::from_secs(2);
/// And a timer does not run for longer: clocks are set, machines sleep.
const LONGEST_TIMER: Duration = Duration::from_secs(3600);

/// Between two looks at a collection that events speak of all the time. A change shows one second plus one look later.
const PACE: Duration = Duration::from_millis(600);

/// How often a merge is begun anew because names have changed here meanwhile.
const MOST_MERGES: u32 = 3;

/// Clocks differ. A record counts as left alone when it is older than the server's idle time by this.
const CLOCKS: Duration = Duration::from_secs(5);

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
        if is_unsaved {
            // An actor before this one failed: what it had not saved is found by comparing everything.
            let everything: Touched = [(&b""[..], Depth::Tree)].into_iter().collect();
            if let Some(journal) = environment.writing.as_ref().and_then(|writing| writing.journal.as_ref()) {
                local.go_on(journal.reach(cell.key()), &everything);
            }
            local.adopt(everything);
        }
        let moves = &cell.shared().moves;
        moves.go_on(&mut local, !is_unsaved);
        if moves.expects_any() {
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
        self.local.is_saving() || self.refresh.is_running() || self.is_merging
    }

    /// Begins a fetch, unless something else is under way; then it comes after that.
    fn fetch(&mut self, context: &mut Context<Self>) {
        if self.is_busy() {
            return;
        }
        self.fetched = Instant::now();
        let epoch = self.refresh.begin(Instant::now());
        self.cell.begin();
        let known = self.cell.load();
        let foreign = self.cell.shared().foreign();
        let is_news = foreign.is_some()
            && known.as_ref().is_some_and(|known| {
                known.marks != self.cell.marks() && foreign.as_deref() != Some(known.portable_data_hash())
            });
        let is_partial = known.as_ref().is_some_and(|known| !known.base.is_whole);
        let whole = std::mem::take(&mut self.needs_whole) || is_news || is_partial;
        let fetch = Fetch {
            environment: self.environment.clone(),
            id: self.cell.key().clone(),
            marks: self.cell.marks(),
            known,
            whole,
            keep: self.local.refusals > 0,
        };
        let work = Work::start(&self.environment.network, format!("collection {}", fetch.id), fetch.run());
        context
            .spawn(work.into_actor(self).map(move |result, actor, context| actor.was_fetched(epoch, result, context)));
    }

    fn was_fetched(&mut self, epoch: u64, result: Result<Fetched, Error>, context: &mut Context<Self>) {
        if !self.refresh.end(epoch, result.is_ok(), Instant::now()) {
            return;
        }
        let result = match result {
            Ok(fetched) => match self.adopt(fetched, context) {
                Some(state) => Ok(state),
                // A merge has begun; those who wait are told when it has ended.
                None => return,
            },
            Err(error)
                if error.is_not_found()
                    && self.local.is_clean()
                    // Who has a file open for writing keeps what he writes to, in case the collection comes back.
                    && self.cell.load().is_none_or(|state| state.drafts.is_empty()) =>
            {
                if let Some(state) = self.cell.load() {
                    self.first_number = state.numbers.limit(&state.snapshot);
                }
                self.cell.withdraw();
                self.environment.news.tell(self.cell.key(), vec![news::Change::Everything]);
                Err(error)
            }
            Err(error) => match self.cell.load() {
                Some(old) => {
                    tracing::warn!(collection = self.cell.key(), %error, "cannot refresh: showing what it was");
                    if self.local.refusals > 0 || !old.base.is_whole {
                        self.local.refusals = 0;
                        self.save_failed(error, context);
                    }
                    Ok(old)
                }
                None => Err(error),
            },
        };
        self.was_refreshed(result, context);
    }

    /// What was asked for is there.
    fn was_refreshed(&mut self, result: Result<Arc<CollectionState>, Error>, context: &mut Context<Self>) {
        self.set_timer(context);
        let is_marked = result.as_ref().is_ok_and(|state| self.cell.marks() != state.marks);
        let is_waited_for = self.refresh.tell(&result);
        if is_waited_for {
            self.fetch(context);
        } else if is_marked && !self.refresh.has_failed() && self.cell.is_used() {
            self.look_soon(context);
        }
        self.advance(context);
    }

    /// Takes over what the server has. `None`: it has to be merged with what was changed here first.
    fn adopt(&mut self, fetched: Fetched, context: &mut Context<Self>) -> Option<Arc<CollectionState>> {
        let Fetched { record, content, known, marks, at, interval } = fetched;
        let is_sound = record.preserve_version || self.has_been_left_alone(&record, at);
        let record = Arc::new(record);
        let current = self.cell.load();
        let (current, content) = match (current, content) {
            (None, Some(content)) => {
                let base = Base {
                    record: record.clone(),
                    snapshot: content.snapshot.clone(),
                    is_whole: true,
                    is_own: false,
                    is_sound,
                };
                let mut numbers = Numbers::starting(self.first_number, record.modified_at);
                for (node, time) in self.environment.times.take(self.cell.key(), &content.snapshot) {
                    numbers.set_modified(numbers.number(node), time);
                }
                let state = CollectionState {
                    numbers,
                    record,
                    snapshot: content.snapshot,
                    drafts: Default::default(),
                    base: Arc::new(base),
                    is_unsaved: false,
                    kind: self.cell.kind(),
                    fetched: at,
                    interval,
                    marks,
                    expiry: content.expiry,
                };
                return Some(self.publish(state));
            }
            (current, content) => (current?, content),
        };
        let mut next = (*current).clone();
        (next.fetched, next.marks, next.interval) = (at, marks, interval);
        let was = &current.base;
        let is_same = was.is_whole && record.portable_data_hash == was.record.portable_data_hash;
        // The same content with another version is somebody else's: he has changed it and changed it back, or its properties.
        let is_known = is_same && record.version == was.record.version;
        let base = |snapshot: Snapshot| {
            let is_own = is_known && was.is_own;
            let is_sound = is_sound || (is_known && was.is_sound);
            Arc::new(Base { record: record.clone(), snapshot, is_whole: true, is_own, is_sound })
        };
        let Some(content) = content else {
            next.base = base(was.snapshot.clone());
            next.record = record;
            return Some(self.publish(next));
        };
        next.expiry = content.expiry;
        if is_same {
            // Nothing new but signatures.
            let mut editor = current.snapshot.edit();
            editor.renew_signatures(&content.snapshot);
            let mut of_base = was.snapshot.edit();
            of_base.renew_signatures(&content.snapshot);
            next.snapshot = editor.finish();
            next.base = base(of_base.finish());
            next.record = record;
            return Some(self.publish(next));
        }
        if !is_known_to_be_ours(&record, &current) {
            self.local.guard.saw_others(Instant::now());
        }
        if !was.is_whole
            && was.is_own
            && record.portable_data_hash == was.record.portable_data_hash
            && diff(&was.snapshot, &content.snapshot).is_empty()
        {
            // The text was another one than we thought, and nobody else is in it.
            self.local.guard.was_mispredicted();
        }
        self.local.text = None;
        next.base = base(content.snapshot.clone());
        next.record = record.clone();
        let is_clean = self.local.is_clean() && current.drafts.is_empty();
        let is_as_known = known.is_some_and(|known| Arc::ptr_eq(&known, &current));
        if is_clean
            && is_as_known
            && let Some((numbers, differences)) = content.following
        {
            next.numbers = numbers;
            next.snapshot = content.snapshot;
            let (changes, brought) = changes_between(&current, &next, differences);
            self.cell.shared().unseen.brought(brought.into_iter());
            let state = self.publish(next);
            self.environment.news.tell(self.cell.key(), changes);
            return Some(state);
        }
        self.merge(next, content.snapshot, 0, context);
        None
    }

    /// Works out the merge of what is here with what the server has, and begins anew if anything changes here meanwhile. `tries`: how
    /// often that has happened.
    fn merge(&mut self, next: CollectionState, theirs: Snapshot, tries: u32, context: &mut Context<Self>) {
        let (Some(current), Some(writing)) = (self.cell.load(), self.environment.writing.clone()) else { return };
        self.is_merging = true;
        // Programs that make and remove names all the time would put it off, and all saves with it. So in the end nothing else is
        // done here until it is there, and it waits for no network.
        let is_last = tries >= MOST_MERGES;
        let work = merging::work_out(writing, current, (theirs.clone(), self.may_have_arrived()), !is_last);
        let work = Work::start(&self.environment.network, format!("merging {}", self.cell.key()), work);
        let work = work.into_actor(self).map(move |result, actor, context: &mut Context<Self>| {
            actor.is_merging = false;
            actor.was_merged(result, next, theirs, tries, context);
        });
        if is_last {
            context.wait(work);
        } else {
            context.spawn(work);
        }
    }

    fn was_merged(
        &mut self,
        result: Result<merging::Merged, Error>,
        next: CollectionState,
        theirs: Snapshot,
        tries: u32,
        context: &mut Context<Self>,
    ) {
        match result {
            Ok(merged) => {
                if !self.adopt_merge(merged, next.clone(), context) {
                    self.merge(next, theirs, tries + 1, context);
                    return;
                }
                let state = self.cell.load().ok_or(Error::Gone);
                self.was_refreshed(state, context);
            }
            Err(error) => {
                tracing::error!(collection = self.cell.key(), %error, "cannot merge what others have saved");
                self.save_failed(error.clone(), context);
                self.was_refreshed(self.cell.load().ok_or(error), context);
            }
        }
    }

    /// Had the record, when it was asked for at `asked`, been left alone for so long that whatever others do makes a new version?
    fn has_been_left_alone(&self, record: &Record<Collection>, asked: Instant) -> bool {
        let idle = self.environment.writing.as_ref().map_or(Duration::MAX, |writing| writing.idle);
        let Some(modified) = record.modified_at else { return false };
        let age = SystemTime::now().duration_since(modified.into()).unwrap_or_default();
        age.saturating_sub(asked.elapsed()) > idle.saturating_add(CLOCKS)
    }

    /// Looks at the server again soon, because an event spoke of the collection.
    fn look_soon(&mut self, context: &mut Context<Self>) {
        let pause = PACE.saturating_sub(self.fetched.elapsed()).max(JITTER.mul_f64(rand::random()));
        context.run_later(pause, |actor, context| {
            if !actor.yields() && actor.cell.load().is_some_and(|state| actor.cell.marks() != state.marks) {
                actor.fetch(context);
            }
        });
    }

    /// Takes over what a save has brought to the server. Returns what was written again meanwhile.
    fn adopt_saved(
        &mut self,
        saved: commit::Saved,
        taken: &crate::tree::commit::Touched,
        marks: u64,
    ) -> (crate::tree::commit::Touched, Option<Error>) {
        let mut left = saved.left;
        let Some(current) = self.cell.load() else { return (taken.clone(), Some(Error::Gone)) };
        let mut state = (*current).clone();
        let mut editor = state.snapshot.edit();
        for file in saved.files {
            let Some(draft) = state.drafts.get(&file.number).cloned() else { continue };
            draft.set_saved(&file.settled);
            draft.file.was_saved(&file.settled.pieces);
            if editor.set_content(file.node, &file.settled.pieces).is_err() {
                continue;
            }
            let path = editor.snapshot().path(file.node);
            if draft.is_changed() {
                left.touch(&path, Depth::Entry);
            } else if draft.is_open() && self.local.touched.covers(&path) {
                // Written down since with a later number than the save's, which has taken along what came after that. Whoever asks
                // for it next finds it unchanged.
                self.local.journal.files.insert(file.number);
                self.local.journal.touched.touch(&path, Depth::Entry);
            } else if !draft.is_open() {
                state.numbers.set_modified(file.number, Some(file.settled.modified));
                state.drafts.remove(&file.number);
                self.finish(draft.file.clone());
            }
        }
        state.snapshot = editor.finish();
        state.record = saved.base.record.clone();
        state.base = saved.base;
        // What sent nothing has seen nothing of the server.
        let has_seen = saved.reach != commit::Reach::NotSent;
        if has_seen {
            state.fetched = Instant::now();
        }
        if has_seen && self.cell.shared().foreign().as_deref().is_none_or(|hash| hash == state.portable_data_hash()) {
            state.marks = if self.cell.shared().foreign().is_some() { self.cell.marks() } else { marks };
        }
        state.is_unsaved = !left.is_empty() || !self.local.is_clean();
        self.publish(state);
        (left, None)
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
                actor.needs_whole = true;
                actor.fetch(context);
            } else if !is_due {
                actor.set_timer(context);
            }
        }));
    }

    /// Somebody said that the state may be old: an event (a mark), or a reader who found it so (`want`).
    fn was_marked(&mut self, context: &mut Context<Self>) {
        let overwritten = self.cell.shared().take_overwritten();
        if !overwritten.is_empty() {
            self.report_overwritten(overwritten, context);
        }
        self.look_at_moves(context);
        let Some(state) = self.cell.load() else { return };
        if self.is_busy() || !self.refresh.may_try(Instant::now()) {
            self.cell.begin();
            return;
        }
        if self.cell.is_wanted() {
            self.fetch(context);
        } else if self.cell.marks() != state.marks && self.cell.is_used() {
            self.look_soon(context);
        }
    }
}

/// Did the record get its content by a save of ours?
fn is_known_to_be_ours(record: &Record<Collection>, state: &CollectionState) -> bool {
    record.portable_data_hash == state.base.record.portable_data_hash
}

/// What is not as it was, for front ends, and the numbers of what has come.
fn changes_between(
    old: &CollectionState,
    new: &CollectionState,
    differences: Vec<crate::tree::Change>,
) -> (Vec<news::Change>, Vec<u32>) {
    let (mut changes, mut brought) = (Vec::new(), Vec::new());
    for change in differences {
        let (above, name) = crate::tree::path::split(&change.path);
        let (before, after) = (change.old.map(|node| old.number(node)), change.new.map(|node| new.number(node)));
        brought.extend(after);
        changes.extend(before.filter(|number| after == Some(*number)).map(news::Change::Node));
        if let Some(parent) = old.snapshot.find(above) {
            let parent = old.number(parent);
            changes.push(news::Change::Node(parent));
            if before != after {
                changes.push(news::Change::Entry { parent, name: name.to_vec() });
            }
        }
    }
    (changes, brought)
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
