//! A save that is under way: what it has taken along, and what becomes of that when it ends.
//!
//! What was taken along is in one of three places afterwards: on the server, among what is to be saved (with what was changed
//! meanwhile), or aside, if the server refuses just that. Whoever waits hears of it when the state that says so is published and,
//! if it failed, when the journal has his change.

use crate::actors::Error;
use crate::actors::collection::aside::Reason;
use crate::actors::collection::commit::{Blamed, Commit, Ended, Outcome, Reach, Saved};
use crate::actors::collection::state::Kind;
use crate::actors::collection::waiting::Waiter;
use crate::actors::collection::{CollectionActor, sent};
use crate::actors::work::Work;
use crate::journal::Sent;
use crate::tree::commit::{Depth, Touched};
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use std::collections::BTreeMap;
use std::time::Instant;

/// Refusals in a row because somebody else was faster. Each is followed by a merge and a pause that grows, so this is minutes of
/// others saving all the time.
const MOST_REFUSALS: u32 = 40;
/// After so many failures in a row, a collection that the server refuses is not asked about again for each file that is closed, but
/// now and then: whoever writes a thousand files to it gets the same answer a thousand times, and each request would name
/// all of them.
const MANY_FAILURES: u32 = 8;

/// A save that is under way, with what it has taken along.
pub(super) struct Running {
    touched: Touched,
    promised: Vec<u32>,
    /// What events had told when it began: what they tell later, its result may not have.
    pub(super) marks: u64,
    change: u64,
    began: Instant,
    waiting: usize,
}

impl CollectionActor {
    /// Begins a save, unless something else is under way: then it comes after that.
    pub(super) fn save(&mut self, context: &mut Context<Self>) {
        if self.is_busy() || self.cell.kind() != Kind::Mutable {
            return;
        }
        if let Some((timer, _)) = self.local.timer.take() {
            context.cancel_future(timer);
        }
        self.let_go();
        let (Some(state), Some(writing)) = (self.cell.load(), self.environment.writing.clone()) else { return };
        if !state.base.is_whole || self.yields() {
            self.needs_whole = true;
            self.fetch(context);
            return;
        }
        self.local.is_overdue = false;
        if self.local.touched.is_empty() {
            self.local.refusals = 0;
            self.was_saved_up_to(self.local.changes, context);
            return;
        }
        if self.brings_first(&state, &writing, context) {
            return;
        }
        let mut promised = Vec::new();
        for (number, draft) in &state.drafts {
            draft.take_announcement();
            if draft.keep_promise() {
                promised.push(*number);
            }
        }
        let touched = std::mem::take(&mut self.local.touched);
        let mut guard = self.local.guard.plan(Instant::now(), writing.idle);
        // A request without an answer may arrive still, and others may have come in since it was sent.
        guard.others |= sent::may_arrive(&self.local.sent, Instant::now());
        let change = self.local.changes;
        let waiting = self.local.waiters.len();
        let commit = Commit {
            environment: self.environment.clone(),
            writing,
            cell: self.cell.clone(),
            state,
            touched: touched.clone(),
            aside: self.local.aside.paths(),
            promised: promised.clone(),
            text: self.local.text.take(),
            guard,
            change,
            is_unsure: !self.local.sent.is_empty(),
            left_out: Touched::default(),
            lost: BTreeMap::new(),
            asked: std::mem::take(&mut self.local.asked),
            landed: self.local.landed.clone(),
            sent: Vec::new(),
            is_noted: false,
            is_noted_earlier: false,
            prepared: None,
            predicted: 0,
        };
        let marks = self.cell.marks();
        self.local.running = Some(Running { touched, promised, marks, change, began: Instant::now(), waiting });
        let work = Work::start(&self.environment.network, format!("saving {}", self.cell.key()), async move {
            Ok(commit.run().await)
        });
        context.spawn(work.into_actor(self).map(|result, actor, context| {
            actor.save_ended(result.unwrap_or_else(Ended::failed), context);
        }));
    }

    fn save_ended(&mut self, ended: Ended, context: &mut Context<Self>) {
        let Ended { text, asked, sent, predicted, saved, blamed, outcome } = ended;
        let Some(running) = self.local.running.take() else { return };
        self.local.text = text;
        self.local.guard.was_predicted(predicted);
        let (change, took, waiting) = (running.change, running.began.elapsed(), running.waiting);
        let (taken, marks) = (running.touched.clone(), running.marks);
        if !matches!(outcome, Outcome::Done) {
            self.local.asked = asked;
            self.take_back(running);
        }
        for Blamed { paths, error, .. } in &blamed {
            self.blame(paths, error);
        }
        let mut problem = None;
        if let Some(saved) = saved {
            let reach = saved.reach;
            if reach != Reach::NotSent {
                if saved.base.record.preserve_version {
                    self.local.guard.has_kept(Instant::now());
                }
                self.local.sent.clear();
            }
            // What was taken along and written to again is not among these: what was promised of it has arrived.
            self.local.journal.left = saved.left.clone();
            let (left, error) = self.adopt_saved(saved, &taken, marks);
            problem = error;
            self.local.touched.extend(&left);
            if reach == Reach::Mixed {
                // Others are in what the server has now: it must be fetched before the next save.
                self.local.text = None;
                self.local.guard.saw_others(Instant::now());
                self.fetch(context);
            }
        }
        self.local.landed.was_taken_in();
        sent::add(&mut self.local.sent, sent, Instant::now());
        for Blamed { paths, files, error } in &blamed {
            self.fail_waiters_of(paths, change, error, context);
            self.put_off_waiters_of(files);
        }
        match outcome {
            Outcome::Done => {
                self.local.failures = 0;
                self.local.refused = None;
                self.local.refusals = 0;
                self.local.last = Some((took, waiting));
                match problem {
                    None => self.was_saved_up_to(change, context),
                    Some(error) => self.fail_waiters(change, &error),
                }
            }
            Outcome::Refused => {
                self.local.text = None;
                self.local.refusals += 1;
                self.local.guard.saw_others(Instant::now());
                if self.local.refusals > MOST_REFUSALS {
                    self.local.refusals = 0;
                    let uuid = self.cell.key().clone();
                    self.save_failed(Error::Contended { collection: uuid }, context);
                } else {
                    self.needs_whole = true;
                }
            }
            Outcome::Mispredicted => {
                self.local.text = None;
                self.local.guard.was_mispredicted();
                self.save(context);
            }
            Outcome::Failed(error) => self.save_failed(error, context),
        }
        self.advance(context);
        self.fold_when_worth(context);
        // What events told meanwhile was not looked at.
        if self.cell.is_used() && self.cell.load().is_some_and(|state| self.is_behind(&state)) {
            self.look_soon(context);
        }
    }

    /// Takes over what a save has brought to the server. Returns what was written again meanwhile.
    fn adopt_saved(&mut self, saved: Saved, taken: &Touched, marks: u64) -> (Touched, Option<Error>) {
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
        let has_seen = saved.reach != Reach::NotSent;
        if has_seen {
            state.fetched = Instant::now();
        }
        if has_seen && self.cell.shared().foreign().as_deref().is_none_or(|hash| hash == state.portable_data_hash()) {
            state.marks = if self.cell.shared().foreign().is_some() { self.cell.marks() } else { marks };
        }
        state.is_unsaved = !left.is_empty() || !self.local.is_clean();
        let state = self.publish(state);
        if has_seen && self.cell.shared().is_overtaken(state.portable_data_hash()) {
            // When others undo a save before it is answered, they lead to what was published until now: that looked like no news.
            self.cell.mark();
        }
        (left, None)
    }

    /// Everything can be saved but this.
    fn blame(&mut self, paths: &Touched, error: &Error) {
        let names: Vec<_> = paths.iter().map(|(path, _)| String::from_utf8_lossy(path)).collect();
        tracing::error!(
            collection = self.cell.key(),
            path = names.join(", "),
            cause = %error,
            remedy = error.remedy_of_path(),
            "this path cannot be saved, and all others are: it stays in the mount and in the journal, and is tried again when it \
             is changed, when its folder is synchronised and when the mount ends"
        );
        if paths.iter().any(|(path, _)| self.local.touched.covers(path)) {
            // Changed meanwhile.
            self.local.journal.expendable = None;
            self.local.bring_back(paths);
        } else {
            self.local.set_aside(paths.clone(), Reason::Refused, error.clone());
        }
    }

    /// Saves whose answer was lost.
    pub(super) fn may_have_arrived(&self) -> Vec<Sent> {
        self.local.sent.iter().map(|(_, sent)| sent.clone()).collect()
    }

    /// What a save that came to nothing had taken along is still to be saved. The journal has it, or is still to get it: saves take
    /// nothing from what waits for that.
    fn take_back(&mut self, running: Running) {
        self.local.touched.extend(&running.touched);
        if let Some(state) = self.cell.load() {
            for draft in running.promised.iter().filter_map(|number| state.draft(*number)) {
                draft.promise();
            }
        }
    }

    pub(super) fn save_failed(&mut self, error: Error, context: &mut Context<Self>) {
        self.local.failures += 1;
        // Nobody was faster than this one: the next comes when it is time to try again.
        self.local.refusals = 0;
        let is_refused = error.is_refusal() && self.local.failures >= MANY_FAILURES;
        self.local.refused = is_refused.then(|| (Instant::now(), error.clone()));
        let pause = self.retry_pause();
        tracing::error!(
            collection = self.cell.key(),
            cause = %error,
            remedy = error.remedy(),
            retry_s = pause.as_secs(),
            "cannot save the collection: what was written here is kept, and saving it is tried again"
        );
        self.copy_soon(Vec::new(), context);
        let everybody = std::mem::take(&mut self.local.waiters);
        self.fail_when_safe(everybody, error, context);
        if self.saves_by_itself() {
            self.save_in(pause, context);
        }
    }

    fn was_saved_up_to(&mut self, change: u64, context: &mut Context<Self>) {
        self.local.saved = self.local.saved.max(change);
        // Before anybody is answered: who has waited for this takes it away at its old place next, or ends the mount.
        self.tell_arrivals();
        self.settle_journal();
        let (now, later): (Vec<Waiter>, Vec<Waiter>) =
            std::mem::take(&mut self.local.waiters).into_iter().partition(|waiter| waiter.change <= change);
        self.local.waiters = later;
        for waiter in now {
            (waiter.answer)(Ok(()));
        }
        self.sweep_finished();
        if !self.local.journal.is_running && self.local.journal.waiters.is_empty() {
            self.local.journal.touched = self.local.touched.clone();
            if self.local.touched.is_empty() {
                self.local.journal.files.clear();
            }
        }
        if !self.local.aside.is_empty() {
            let paths = self.local.aside.paths();
            self.local.journal.touched.extend(&paths);
            if let Some(state) = self.cell.load() {
                self.write_down_drafts(&state, &paths);
            }
            self.local.journal.waiters.push(Box::new(|_| {}));
            self.write_journal(context);
        }
        self.rest_when_done(context);
    }

    /// Nothing here needs the actor any more, unless it does: what was moved here may still wait for what was moved on.
    pub(super) fn rest_when_done(&mut self, context: &mut Context<Self>) {
        if !self.local.is_quiet() || self.cell.shared().moves.expects_any() || self.local.keeps.is_none() {
            return;
        }
        if !sent::may_arrive(&self.local.sent, Instant::now()) {
            self.local.keeps = None;
        } else if !self.local.rests_later {
            // What arrives after what it brings was changed back has to be put right.
            self.local.rests_later = true;
            context.run_later(sent::LOST, |actor, context| {
                actor.local.rests_later = false;
                actor.rest_when_done(context);
            });
        }
    }
}
