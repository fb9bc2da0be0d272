//! When what was changed here is saved.
//!
//! Changes are counted. A save takes all that there is when it begins, so whoever waits for change 7 is served by the first save that
//! began after it, together with everybody else: closes that come while a save is under way share the next one. Where several
//! writers close at the same time, the next save waits a moment for the others ([`GROUP_SHARE`]); a lone writer never waits.
//!
//! Only one thing at a time is done for a collection: a save, a look at the server, or a merge. (Bytes may be on their way to Keep
//! besides: [`bringing`](super::bringing).) Each starts from the state that is published then and ends in a handler, so none can undo
//! what another did meanwhile. Readers notice nothing of it.
//!
//! Where others change the collection all the time and somebody always waits to see it, one look would follow the other; so after a
//! look it is a save's turn, if one is due, and after a save that of those who wait for a look.

use crate::actors::Error;
use crate::actors::collection::CollectionActor;
use crate::actors::collection::state::{CollectionState, Kind};
use crate::actors::collection::waiting::{Waiter, Waits};
use crate::actors::refresh::Reply;
use crate::tree::commit::Depth;
use actix::{AsyncContext, Context, Handler, Message};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When changes are saved (`--sync`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Before `close` returns.
    Close,
    /// Before `fsync` returns; otherwise some time later.
    Fsync,
    /// When nothing was changed for this long.
    Idle(Duration),
    /// Every so often.
    Periodic(Duration),
    /// When the mount ends, `.arvados#collection` is read, or the journal is half full.
    Exit,
}

/// What has to be true before somebody is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing more.
    Nothing,
    /// In the journal: it survives the death of the process.
    Journal,
    /// In the journal and on the disk: it survives the death of the machine.
    Disk,
    /// On the server.
    Server,
}

/// How long changes that nobody waits for (a `mkdir`, a `mknod`) wait for company under `--sync=close`. Short enough that others
/// soon see them, long enough that the files that mostly follow are saved with them.
const ALONE: Duration = Duration::from_secs(1);
/// The same under `--sync=fsync`, where closed files may wait: as long as the kernel lets dirty pages wait by default.
const LAZY: Duration = Duration::from_secs(30);
/// How often a series of changes that never pauses may put off a save that waits for a pause.
const MOST_PAUSES: u32 = 10;

/// When several writers close at once, the next save waits for this share of the time that the last one took, so that those
/// which were told that the last save has ended can join it with their next file.
const GROUP_SHARE: u32 = 2;
/// But at most this long: more than it takes some dozens of programs to write and close a small file each. When all who waited
/// for the last save are there again, it begins at once.
const LONGEST_GROUP: Duration = Duration::from_millis(60);
const SHORTEST_GROUP: Duration = Duration::from_millis(2);

/// The first pause after a save that failed, when nobody asks for it; they double up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// The first pause after somebody else was faster is between this and its double.
const SHORTEST_YIELD: Duration = Duration::from_millis(50);
/// The longest of them.
const LONGEST_YIELD: Duration = Duration::from_millis(1200);

/// How long the server is not asked about a collection that it has refused again and again.
const PATIENCE_OF_SERVER: Duration = Duration::from_secs(2);

/// Saves, or makes sure that nothing gets lost.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Save {
    /// Which half-written files are to be taken along, too.
    pub files: Files,
    pub need: Need,
    pub reply: Reply<Arc<CollectionState>, Error>,
}

/// Files that are still open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    None,
    One(u32),
    All,
}

impl CollectionActor {
    /// Tells `answer` as soon as what is `need`ed for everything up to now has come about.
    pub(super) fn answer_when(
        &mut self,
        (need, waits): (Need, Waits),
        context: &mut Context<Self>,
        answer: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let is_temporary = self.cell.kind() == Kind::Temporary;
        match need {
            _ if is_temporary => {
                self.sweep_finished();
                self.fold_when_worth(context);
                answer(Ok(()));
            }
            Need::Server if self.local.saved == self.local.changes && !self.has_due_drafts() => answer(Ok(())),
            Need::Server => {
                let change = self.local.changes;
                self.local.waiters.push(Waiter { change, waits, answer: Box::new(answer) });
            }
            Need::Journal | Need::Disk => {
                self.local.journal.waiters.push(Box::new(answer));
                self.local.journal.is_durable |= need == Need::Disk;
                self.write_journal(context);
            }
            Need::Nothing => answer(Ok(())),
        }
        self.after_change(context);
    }

    fn has_due_drafts(&self) -> bool {
        self.cell.load().is_some_and(|state| state.drafts.values().any(|draft| draft.is_due()))
    }

    /// Is there anything that a save could take along now?
    pub(super) fn has_work(&self) -> bool {
        !self.local.touched.is_empty()
    }

    /// Sees to it that what was changed is saved when it should be.
    pub(super) fn after_change(&mut self, context: &mut Context<Self>) {
        if self.cell.kind() != Kind::Mutable {
            return;
        }
        if self.has_work() && self.local.keeps.is_none() {
            self.local.keeps = Some(self.cell.clone());
        }
        if !self.local.waiters.is_empty() {
            self.save_soon(context);
        } else if self.has_work() {
            self.save_later(context);
        }
    }

    /// Somebody waits.
    pub(super) fn save_soon(&mut self, context: &mut Context<Self>) {
        if self.is_busy() || (self.yields() && self.local.timer.is_some()) {
            return;
        }
        if let Some((_, error)) = self.refusal() {
            let error = error.clone();
            let everybody = std::mem::take(&mut self.local.waiters);
            self.fail_when_safe(everybody, error, context);
            return self.save_later(context);
        }
        let company = self.local.last.filter(|(_, waiting)| *waiting > 1 || self.local.waiters.len() > 1);
        match company {
            // Those who waited for the last save come back within moments.
            Some((took, waiting)) if self.local.waiters.len() < waiting => {
                self.save_in((took / GROUP_SHARE).clamp(SHORTEST_GROUP, LONGEST_GROUP), context);
            }
            _ => self.save(context),
        }
    }

    /// Would a save do more than the last one, which left half-written files where they are?
    fn has_more_than_half_written(&self) -> bool {
        !self.local.touched.iter().all(|(path, _)| self.local.journal.left.covers(path))
    }

    /// How long the server is not asked about the collection, and why.
    fn refusal(&self) -> Option<(Duration, &Error)> {
        let (at, error) = self.local.refused.as_ref()?;
        let left = PATIENCE_OF_SERVER.saturating_sub(at.elapsed());
        (!left.is_zero()).then_some((left, error))
    }

    /// Nobody waits.
    fn save_later(&mut self, context: &mut Context<Self>) {
        if let Some((pause, _)) = self.refusal() {
            if self.saves_by_itself() {
                self.save_in(pause, context);
            }
            return;
        }
        let Some(writing) = self.environment.writing.as_ref() else { return };
        let is_closed = |state: Arc<CollectionState>| state.drafts.values().any(|it| it.is_changed() && !it.is_open());
        let is_due = self.cell.load().is_some_and(is_closed);
        match writing.sync {
            SyncMode::Close if is_due => self.save_in(SHORTEST_GROUP, context),
            // What would wait has no room to wait in.
            _ if self.local.failures == 0 && self.has_more_than_half_written() && writing.is_filling() => {
                self.save_in(SHORTEST_GROUP, context);
            }
            SyncMode::Close => self.save_in(ALONE, context),
            SyncMode::Fsync => self.save_in(LAZY, context),
            SyncMode::Periodic(pause) => self.save_in(pause, context),
            SyncMode::Idle(pause) => {
                if self.local.pauses < MOST_PAUSES
                    && let Some((timer, at)) = self.local.timer
                    && self.local.failures == 0
                    && at.saturating_duration_since(Instant::now()) < pause / 2
                {
                    context.cancel_future(timer);
                    self.local.timer = None;
                    self.local.pauses += 1;
                }
                self.save_in(pause, context);
            }
            SyncMode::Exit => {}
        }
    }

    /// After a look. Whoever waits has waited for its end, so there is no pause for company: in that the next one could begin.
    pub(super) fn save_in_turn(&mut self, context: &mut Context<Self>) {
        let is_due = !self.local.waiters.is_empty() || self.local.is_overdue || self.local.refusals > 0;
        let is_possible = self.cell.load().is_some_and(|state| state.base.is_whole) && self.refusal().is_none();
        if is_due && is_possible && !self.yields() {
            self.save(context);
        }
    }

    /// Saves after `pause`, or earlier if that is planned already.
    pub(super) fn save_in(&mut self, pause: Duration, context: &mut Context<Self>) {
        let at = Instant::now() + pause;
        if let Some((timer, planned)) = self.local.timer {
            if planned <= at {
                return;
            }
            context.cancel_future(timer);
        }
        let timer = context.run_later(pause, |actor, context| {
            actor.local.timer = None;
            actor.local.pauses = 0;
            actor.local.is_overdue = actor.is_looking();
            actor.save(context);
        });
        self.local.timer = Some((timer, at));
    }

    /// Somebody else was faster than our last save: after a pause we look what he did, and save again at once.
    pub(super) fn yields(&self) -> bool {
        self.local.refusals > 0 && self.needs_whole
    }

    /// Goes on with what waits, after something has ended.
    pub(super) fn advance(&mut self, context: &mut Context<Self>) {
        if self.is_busy() {
            return;
        }
        let refusals = self.local.refusals;
        if self.refresh.is_waited_for() || (self.needs_whole && !self.yields()) {
            self.fetch(context);
            return;
        }
        if self.yields() {
            // Somebody was faster, and will be again if we come back in step. The pause is before the look at what they did: what
            // lies between that and our next save is what decides who is faster then.
            let longest = SHORTEST_YIELD.saturating_mul(1 << refusals.min(10)).min(LONGEST_YIELD);
            self.save_in(longest.mul_f64(rand::random_range(0.5..1.0)), context);
            return;
        }
        if refusals > 0 {
            self.save(context);
            return;
        }
        if self.local.failures == 0 || !self.local.waiters.is_empty() {
            self.after_change(context);
        } else if self.local.timer.is_none() && self.has_work() && self.saves_by_itself() {
            // The timer of the next try came while something else was under way.
            self.save_in(self.retry_pause(), context);
        }
    }

    /// Changes are saved sooner or later though nobody asks.
    pub(super) fn saves_by_itself(&self) -> bool {
        self.environment.writing.as_ref().is_some_and(|writing| writing.sync != SyncMode::Exit)
    }

    pub(super) fn retry_pause(&self) -> Duration {
        FIRST_RETRY.saturating_mul(1 << self.local.failures.saturating_sub(1).min(10)).min(LONGEST_RETRY)
    }
}

impl Handler<Save> for CollectionActor {
    type Result = ();

    fn handle(&mut self, Save { files, need, reply }: Save, context: &mut Context<Self>) {
        let Some(state) = self.cell.load() else {
            let _ = reply.send(Err(Error::Gone));
            return;
        };
        if need == Need::Server && !matches!(files, Files::One(_)) {
            self.look_at_moves(context);
            let refused = self.local.aside.take_refused();
            self.local.bring_back(&refused);
        }
        let promised: Vec<(u32, _)> = match files {
            Files::None => Vec::new(),
            Files::One(number) => state.draft(number).map(|draft| (number, draft.clone())).into_iter().collect(),
            Files::All => state.drafts.iter().map(|(number, draft)| (*number, draft.clone())).collect(),
        };
        // Theirs must not be replaced before somebody writes again.
        let mut conflict = self.local.aside.conflict(None).filter(|_| files == Files::All);
        for (number, draft) in promised {
            if draft.is_changed()
                && let Some(node) = state.node(number).filter(|node| state.snapshot.is_linked(*node))
            {
                self.local.journal.files.insert(number);
                let path = state.snapshot.path(node);
                if let Some(error) = self.local.aside.conflict(Some(&path)) {
                    self.local.journal.touched.touch(&path, Depth::Entry);
                    conflict = Some(error);
                    continue;
                }
                draft.promise();
                self.local.touch(&path, Depth::Entry);
            }
        }
        // Who has written to one file hears of its conflict whatever he asked for. It is not going to be saved, so that the journal
        // has it is all there is to wait for.
        let conflict = conflict.filter(|_| need == Need::Server || matches!(files, Files::One(_)));
        let need = match (need, files) {
            (Need::Server, Files::One(_)) if conflict.is_some() => Need::Journal,
            _ => need,
        };
        if conflict.is_some() && need == Need::Server {
            self.local.journal.waiters.push(Box::new(|_| {}));
            self.write_journal(context);
        }
        let waits = if let Files::One(number) = files { Waits::File(number) } else { Waits::Everything };
        let cell = self.cell.clone();
        self.answer_when((need, waits), context, move |result| {
            let state = cell.load().unwrap_or(state);
            let _ = reply.send(result.and(conflict.map_or(Ok(state), Err)));
        });
    }
}
