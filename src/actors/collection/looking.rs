//! When the server is looked at, and what becomes of what it has.
//!
//! Somebody asks, an event speaks of the collection, its signatures grow old, or a save needs to know what others have saved. All of
//! them share one look ([`fetch`](super::fetch)), which is not begun while a save or a merge is under way
//! ([`saving`](super::saving)). What it brings is published as it is where nothing was changed here, and merged otherwise.

use crate::actors::collection::fetch::{Fetch, Fetched};
use crate::actors::collection::numbers::Numbers;
use crate::actors::collection::state::{Base, CollectionState};
use crate::actors::collection::{CollectionActor, sent};
use crate::actors::work::Work;
use crate::actors::{Error, news};
use crate::remote::api::{Collection, Record};
use crate::tree::path::split;
use crate::tree::{Change, Snapshot, diff};
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

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
/// Clocks differ. A record counts as left alone when it is older than the server's idle time by this.
const CLOCKS: Duration = Duration::from_secs(5);

impl CollectionActor {
    /// Begins a fetch, unless something else is under way; then it comes after that.
    pub(super) fn fetch(&mut self, context: &mut Context<Self>) {
        if self.is_busy() {
            return;
        }
        self.fetched = Instant::now();
        self.local.has_heard = false;
        self.cell.shared().set_looking(true);
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

    /// What was asked for is there. If others have asked too late for it, the next look follows, but a save that is due comes first.
    pub(super) fn was_refreshed(&mut self, result: Result<Arc<CollectionState>, Error>, context: &mut Context<Self>) {
        self.cell.shared().set_looking(false);
        self.set_timer(context);
        let is_marked = result.as_ref().is_ok_and(|state| self.is_behind(state));
        let is_waited_for = self.refresh.tell(&result);
        self.save_in_turn(context);
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
        if is_known {
            sent::forget_lost(&mut self.local.sent, Instant::now());
        }
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
        // What may have arrived of ours is nothing that somebody else has changed.
        let is_clean = self.local.is_clean() && self.local.sent.is_empty() && current.drafts.is_empty();
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

    /// Had the record, when it was asked for at `asked`, been left alone for so long that whatever others do makes a new version?
    fn has_been_left_alone(&self, record: &Record<Collection>, asked: Instant) -> bool {
        let idle = self.environment.writing.as_ref().map_or(Duration::MAX, |writing| writing.idle);
        let Some(modified) = record.modified_at else { return false };
        let age = SystemTime::now().duration_since(modified.into()).unwrap_or_default();
        age.saturating_sub(asked.elapsed()) > idle.saturating_add(CLOCKS)
    }

    /// Looks at the server again soon, because an event spoke of the collection.
    pub(super) fn look_soon(&mut self, context: &mut Context<Self>) {
        let pause = PACE.saturating_sub(self.fetched.elapsed()).max(JITTER.mul_f64(rand::random()));
        context.run_later(pause, |actor, context| {
            if !actor.yields() && actor.cell.load().is_some_and(|state| actor.is_behind(&state)) {
                actor.fetch(context);
            }
        });
    }

    /// Renews signatures ahead of time, if somebody uses the collection then. If nobody does, the next one who does gets a
    /// refusal from Keep, and then they are renewed.
    pub(super) fn set_timer(&mut self, context: &mut Context<Self>) {
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
    pub(super) fn was_marked(&mut self, context: &mut Context<Self>) {
        let overwritten = self.cell.shared().take_overwritten();
        if !overwritten.is_empty() {
            self.report_overwritten(overwritten, context);
        }
        self.look_at_moves(context);
        let Some(state) = self.cell.load() else { return };
        // The event of a save of ours tells nothing new, but where its answer was lost.
        self.local.has_heard |= !self.local.sent.is_empty();
        if self.is_busy() || !self.refresh.may_try(Instant::now()) {
            self.cell.begin();
            return;
        }
        if self.cell.is_wanted() {
            self.fetch(context);
        } else if self.is_behind(&state) && self.cell.is_used() {
            self.look_soon(context);
        }
    }

    /// Has anything been told that nobody has looked at?
    pub(super) fn is_behind(&self, state: &CollectionState) -> bool {
        self.local.has_heard || state.is_marked(&self.cell)
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
    differences: Vec<Change>,
) -> (Vec<news::Change>, Vec<u32>) {
    let (mut changes, mut brought) = (Vec::new(), Vec::new());
    for change in differences {
        let (above, name) = split(&change.path);
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
