//! When the journal is written, and what it is told that the server has.
//!
//! As with saves, one task at a time writes down, for the paths that were touched, what they are *now*, so any number of changes to
//! a path that wait for the journal are one record, and the order of records needs no further thought. What is in the
//! journal is marked as settled there when a save that began later has ended. What is set aside ([`aside`](super::aside)) is
//! written down again then, for its records would go with the others. What a record says is [`recording`]'s.

use crate::actors::Error;
use crate::actors::collection::CollectionActor;
use crate::actors::collection::recording::{self, Recorded};
use crate::actors::collection::state::{Base, CollectionState};
use crate::actors::collection::waiting::{Answer, Waiter, Waits};
use crate::actors::work::Work;
use crate::journal::Sequence;
use crate::tree::commit::Touched;
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use std::collections::HashSet;
use std::sync::Arc;

/// While saves fail for days, records are written all the same. Beyond this two that follow each other are settled together, which is
/// never too early.
const MOST_MARKS: usize = 1024;

type Mark = (u64, Sequence, Touched);

/// Puts a mark to the others.
fn mark(marks: &mut Vec<Mark>, mark: Mark) {
    marks.push(mark);
    if marks.len() > MOST_MARKS {
        let mut all = std::mem::take(marks).into_iter();
        while let Some(earlier) = all.next() {
            marks.push(match all.next() {
                Some((change, sequence, mut touched)) => {
                    touched.extend(&earlier.2);
                    (change, sequence, touched)
                }
                None => earlier,
            });
        }
    }
}

/// What the journal has, and who waits for it.
#[derive(Default)]
pub(super) struct Pump {
    pub(super) touched: Touched,
    pub(super) waiters: Vec<Answer>,
    /// Files that have to be written down as they are, though they may be open still.
    pub(super) files: HashSet<u32>,
    pub(super) is_durable: bool,
    pub(super) is_running: bool,
    /// Up to which change the records up to a sequence tell, in order. Never more than [`MOST_MARKS`].
    marks: Vec<Mark>,
    /// What the last save has left out because it was half written. A record of such a path may tell of what was promised before.
    pub(super) left: Touched,
    /// The last record.
    last: Option<Sequence>,
    /// The last record that may be settled while something is set aside: after it all of that was written down again.
    pub(super) expendable: Option<Sequence>,
}

impl Pump {
    /// The records up to this one tell of changes up to that one, at these paths.
    pub(super) fn was_written(&mut self, change: u64, sequence: Sequence, touched: Touched) {
        mark(&mut self.marks, (change, sequence, touched));
        self.last = Some(sequence);
    }
}

impl CollectionActor {
    /// The journal is to have unsaved files at these paths though they may be open still.
    pub(super) fn write_down_drafts(&mut self, state: &CollectionState, paths: &Touched) {
        for (number, _) in state.drafts.iter().filter(|(_, draft)| draft.is_changed()) {
            if let Some(node) = state.node(*number).filter(|node| state.snapshot.is_linked(*node))
                && paths.covers(&state.snapshot.path(node))
            {
                self.local.journal.files.insert(*number);
            }
        }
    }

    /// Writes down what was touched, unless that is under way: then it comes after that.
    pub(super) fn write_journal(&mut self, context: &mut Context<Self>) {
        let pump = &mut self.local.journal;
        if pump.is_running || (pump.waiters.is_empty() && !pump.is_durable) {
            return;
        }
        let journal = self.environment.writing.as_ref().and_then(|writing| writing.journal.clone());
        let (Some(journal), Some(mut state)) = (journal, self.cell.load()) else {
            // Without a journal there is nothing that could survive.
            for answer in pump.waiters.drain(..) {
                answer(Ok(()));
            }
            return;
        };
        pump.is_running = true;
        let touched = std::mem::take(&mut pump.touched);
        let waiters = std::mem::take(&mut pump.waiters);
        let is_durable = std::mem::take(&mut pump.is_durable);
        let change = self.local.changes;
        // What was brought back and is not saved yet may have its only record among the earlier ones.
        let is_all_here = self.local.brought_back <= self.local.saved;
        let (arrivals, there) = self.local.landed.now();
        let known = self.local.aside.known(there.as_ref().unwrap_or(&state.base.snapshot));
        if let Some(snapshot) = known.or(there) {
            let base = Base { snapshot, ..(*state.base).clone() };
            state = Arc::new(CollectionState { base: Arc::new(base), ..(*state).clone() });
        }
        let superseded = pump.last.filter(|_| is_all_here && self.local.aside.is_within(&touched));
        let aside = superseded.map(|_| self.local.aside.paths());
        let uuid = self.cell.key().clone();
        let (files, again) = (std::mem::take(&mut pump.files), touched.clone());
        let files_again = files.clone();
        let after = self.environment.writing.as_ref().map(|writing| writing.earlier.adopted(&uuid)).unwrap_or_default();
        let moved_to = self.cell.shared().moves.targets(&touched);
        let landed = self.local.landed.clone();
        let work = async move {
            let state = (&state, change, &after[..]);
            let journal = (&journal, &landed, arrivals);
            let result = recording::record(journal, &uuid, state, &moved_to, &touched, &files, is_durable).await;
            Ok((result, waiters))
        };
        let work = Work::start(&self.environment.network, format!("journal of {}", self.cell.key()), work);
        context.spawn(work.into_actor(self).map(move |result, actor, context| {
            actor.local.journal.is_running = false;
            let (result, waiters) = match result {
                Ok(ended) => ended,
                // Those who waited are told by their channels.
                Err(error) => (Err(error), Vec::new()),
            };
            let answer = match result {
                Ok(Recorded { is_outdated: true, .. }) => {
                    let pump = &mut actor.local.journal;
                    pump.touched.extend(&again);
                    pump.files.extend(files_again);
                    pump.is_durable |= is_durable;
                    pump.waiters.splice(0..0, waiters);
                    return actor.write_journal(context);
                }
                Ok(Recorded { last: sequence, synced, bare, left_out, .. }) => {
                    actor.copy_soon(bare, context);
                    if let Some(sequence) = sequence {
                        actor.local.journal.was_written(change, sequence, again);
                        let frees_others = left_out.is_none() && aside.is_some_and(|aside| actor.local.aside.paths() == aside);
                        if frees_others {
                            actor.local.journal.expendable = superseded;
                        }
                        // Otherwise nothing is settled that was not before.
                        if frees_others || change <= actor.local.saved {
                            actor.settle_journal();
                        }
                    }
                    if let Err(error) = &synced {
                        tracing::error!(collection = actor.cell.key(), %error, "the journal may not outlive the machine");
                    }
                    synced.and(left_out.map_or(Ok(()), Err))
                }
                Err(error) => {
                    actor.local.journal.touched.extend(&again);
                    actor.local.journal.files.extend(files_again);
                    // Where nothing is left to be saved that would make no room.
                    let may_help = !actor.local.touched.is_empty() || actor.local.is_saving();
                    if error.is_lack_of_room() && actor.local.failures == 0 && may_help && !waiters.is_empty() {
                        // What there is no room for is saved instead, which also makes room.
                        let change = actor.local.changes;
                        let waiting = |answer: Answer| {
                            let error = error.clone();
                            let answer = Box::new(move |saved: Result<(), Error>| answer(saved.map_err(|_| error)));
                            Waiter { change, waits: Waits::Everything, answer }
                        };
                        actor.local.waiters.extend(waiters.into_iter().map(waiting));
                        actor.save_soon(context);
                        // Others came while it was tried.
                        actor.write_journal(context);
                        return;
                    }
                    tracing::error!(collection = actor.cell.key(), %error, "cannot write to the journal");
                    Err(error)
                }
            };
            for waiter in waiters {
                waiter(answer.clone());
            }
            // What was replaced may be needed no longer.
            actor.sweep_finished();
            actor.write_journal(context);
        }));
    }

    /// Tells the journal what the server has.
    pub(super) fn settle_journal(&mut self) {
        let Some(writing) = self.environment.writing.clone().filter(|writing| writing.journal.is_some()) else {
            return;
        };
        let saved = self.local.saved;
        let is_all_saved = self.local.aside.is_empty() && self.local.brought_back <= saved;
        let expendable = self.local.journal.expendable;
        let Pump { marks, left, .. } = &mut self.local.journal;
        if marks.iter().all(|(change, _, _)| *change > saved) {
            // Asked with each record, and all marks together have all paths that wait for a save.
            return;
        }
        let is_left = |(_, _, touched): &&Mark| {
            touched.iter().any(|(path, _)| left.covers(path)) || left.iter().any(|(path, _)| touched.covers(path))
        };
        let kept = marks.iter().filter(is_left).map(|(_, sequence, _)| *sequence).min();
        let is_settled = |(change, sequence, _): &Mark| {
            *change <= saved
                && kept.is_none_or(|kept| *sequence < kept)
                && (is_all_saved || expendable.is_some_and(|expendable| *sequence <= expendable))
        };
        let reached = marks.iter().filter(|mark| is_settled(mark)).map(|(_, sequence, _)| *sequence).max();
        if let Some(sequence) = reached {
            marks.retain(|mark| !is_settled(mark));
            writing.housekeeper.settle(self.cell.key(), sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::commit::Depth;

    #[test]
    fn marks_of_days_of_failed_saves_are_few_and_settle_nothing_too_early() {
        let mut marks = Vec::new();
        let path = |number: u64| format!("file{}", number % 7).into_bytes();
        for number in 1..=100_000 {
            let touched = [(&path(number)[..], Depth::Entry)].into_iter().collect();
            mark(&mut marks, (number, Sequence(number), touched));
        }
        assert!(marks.len() <= MOST_MARKS);
        assert_eq!(marks.last().map(|(change, sequence, _)| (*change, *sequence)), Some((100_000, Sequence(100_000))));
        assert!(marks.is_sorted_by_key(|(_, sequence, _)| *sequence));
        assert!(marks.iter().all(|(change, sequence, _)| *change >= sequence.0), "what it tells of is in it");
        assert!(marks.iter().all(|(change, _, touched)| touched.covers(&path(*change))));
    }
}
