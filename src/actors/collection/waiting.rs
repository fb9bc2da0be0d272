//! Who waits for what was changed here to be on the server.
//!
//! Each waits for a change, by its number, and is told once: that it is saved, or why it is not. Who waits for one file, or for some
//! paths, does not hear of trouble with others.

use crate::actors::Error;
use crate::actors::collection::CollectionActor;
use crate::actors::collection::state::CollectionState;
use crate::tree::commit::Touched;
use actix::Context;

/// Is told when what was needed has come about, or will not.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

pub(super) struct Waiter {
    pub(super) change: u64,
    pub(super) waits: Waits,
    pub(super) answer: Answer,
}

/// Of what somebody has to hear that it cannot be saved.
pub(super) enum Waits {
    Everything,
    /// A file, wherever it is by then.
    File(u32),
    Paths(Vec<Vec<u8>>),
}

impl Waits {
    fn concerns(&self, paths: &Touched, state: Option<&CollectionState>) -> bool {
        match self {
            Waits::Everything => true,
            Waits::File(number) => state.is_some_and(|state| {
                let node = state.node(*number).filter(|node| state.snapshot.is_linked(*node));
                node.is_some_and(|node| paths.covers(&state.snapshot.path(node)))
            }),
            Waits::Paths(waited) => waited.iter().any(|waited| paths.is_around(waited)),
        }
    }
}

impl CollectionActor {
    /// What could not be saved is made safe before its writers hear of it.
    pub(super) fn fail_when_safe(&mut self, waiters: Vec<Waiter>, error: Error, context: &mut Context<Self>) {
        self.local.journal.waiters.push(Box::new(move |_| {
            for waiter in waiters {
                (waiter.answer)(Err(error.clone()));
            }
        }));
        self.write_journal(context);
    }

    /// Those who wait for one of these paths to be saved, since this change or one before, hear why it is not.
    pub(super) fn fail_waiters_of(&mut self, paths: &Touched, change: u64, error: &Error, context: &mut Context<Self>) {
        let state = self.cell.load();
        let is_meant = |it: &Waiter| it.change <= change && it.waits.concerns(paths, state.as_deref());
        let (now, later) = std::mem::take(&mut self.local.waiters).into_iter().partition(is_meant);
        self.local.waiters = later;
        if let Some(state) = state {
            self.write_down_drafts(&state, paths);
        }
        self.fail_when_safe(now, error.clone(), context);
    }

    /// Those who wait for one of these files, which was not saved, and were not told why, wait for what was changed since: it has
    /// another name by now, or was changed once more.
    pub(super) fn put_off_waiters_of(&mut self, files: &[u32]) {
        for waiter in &mut self.local.waiters {
            if matches!(waiter.waits, Waits::File(number) if files.contains(&number)) {
                waiter.change = self.local.changes;
            }
        }
    }

    pub(super) fn fail_waiters(&mut self, change: u64, error: &Error) {
        let (now, later) =
            std::mem::take(&mut self.local.waiters).into_iter().partition(|it: &Waiter| it.change <= change);
        self.local.waiters = later;
        for waiter in now {
            (waiter.answer)(Err(error.clone()));
        }
    }
}
