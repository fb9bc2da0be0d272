//! What is changed in a collection here and not on the server.
//!
//! Only bookkeeping; what is done with it is [`saving`](super::saving)'s and [`journaling`](super::journaling)'s. The numbers of
//! changes only grow, and `saved` never passes `changes`.

use crate::actors::Error;
use crate::actors::collection::CollectionCell;
use crate::actors::collection::aside::{Aside, Reason};
use crate::actors::collection::bringing::Bringing;
use crate::actors::collection::copying::Copying;
use crate::actors::collection::guard::Guard;
use crate::actors::collection::journaling::Pump;
use crate::actors::collection::landed::Landed;
use crate::actors::collection::moving::Transit;
use crate::actors::collection::running::Running;
use crate::actors::collection::sent::Unknown;
use crate::actors::collection::signing::Asked;
use crate::actors::collection::waiting::Waiter;
use crate::journal::Sequence;
use crate::tree::commit::{Depth, GoText, Touched};
use actix::SpawnHandle;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is changed here and not saved yet.
#[derive(Default)]
pub(super) struct Local {
    /// Number of the last change.
    pub(super) changes: u64,
    /// The last change that the server has.
    pub(super) saved: u64,
    pub(super) touched: Touched,
    /// What is not saved although it was touched.
    pub(super) aside: Aside,
    /// The last change that brought back something that was set aside.
    pub(super) brought_back: u64,
    /// Open files whose place another client took, with the path they had.
    pub(super) displaced: HashMap<u32, Vec<u8>>,
    /// The server's text, when it was needed before.
    pub(super) text: Option<GoText>,
    pub(super) guard: Guard,
    pub(super) asked: Asked,
    pub(super) waiters: Vec<Waiter>,
    /// A save is under way, with what it has taken along.
    pub(super) running: Option<Running>,
    pub(super) bringing: Bringing,
    /// How long the last save took, and how many waited for it.
    pub(super) last: Option<(Duration, usize)>,
    pub(super) timer: Option<(SpawnHandle, Instant)>,
    pub(super) pauses: u32,
    /// The time of a save has come while it was being looked what others have saved.
    pub(super) is_overdue: bool,
    pub(super) failures: u32,
    pub(super) refusals: u32,
    /// When the server has refused the collection, and why, after it has done so many times.
    pub(super) refused: Option<(Instant, Error)>,
    /// Saves of which it is not known whether they arrived.
    pub(super) sent: Unknown,
    /// An event may be of one of them: since then nobody has looked.
    pub(super) has_heard: bool,
    /// A timer runs after which nobody waits for them any more.
    pub(super) rests_later: bool,
    /// What a save under way has brought to the server.
    pub(super) landed: Landed,
    /// Nobody stops the actor while it has something that is not saved.
    pub(super) keeps: Option<Arc<CollectionCell>>,
    pub(super) journal: Pump,
    pub(super) copying: Copying,
    /// It is looked now and then whether blocks of ours have to be renewed.
    pub(super) is_renewing: bool,
}

impl Local {
    pub(super) fn touch(&mut self, path: &[u8], depth: Depth) {
        self.touched.touch(path, depth);
        self.journal.touched.touch(path, depth);
        self.changes += 1;
        let back = self.aside.take_around(path);
        self.bring_back(&back);
    }

    /// Is to be saved again.
    pub(super) fn bring_back(&mut self, paths: &Touched) {
        if !paths.is_empty() {
            self.changes += 1;
            self.brought_back = self.changes;
            self.touched.extend(paths);
            self.journal.touched.extend(paths);
        }
    }

    /// Is there anything that the server does not have?
    pub(super) fn is_clean(&self) -> bool {
        self.touched.is_empty() && self.running.is_none() && self.aside.is_empty()
    }

    /// Nothing is to be saved, and nobody waits.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_clean() && self.waiters.is_empty()
    }

    pub(super) fn is_saving(&self) -> bool {
        self.running.is_some()
    }

    /// See [`Aside`].
    pub(super) fn set_aside(&mut self, paths: Touched, reason: Reason, error: Error) {
        self.leave_out(&paths);
        self.aside.put(paths, reason, error);
    }

    /// The removal of what was moved away is not saved for now.
    pub(super) fn hold_back(&mut self, path: &[u8], transit: &Arc<Transit>) {
        self.leave_out(&[(path, Depth::Tree)].into_iter().collect());
        self.aside.moved.add(path, transit);
    }

    /// Saves leave these paths out, and what the journal says of them must not go with what they have saved.
    fn leave_out(&mut self, paths: &Touched) {
        self.journal.expendable = None;
        self.journal.touched.extend(paths);
        for (path, _) in paths.iter() {
            self.touched.remove(path);
        }
    }

    /// From now on nobody stops the actor.
    pub(super) fn keep(&mut self, cell: &Arc<CollectionCell>) {
        self.keeps = Some(cell.clone());
    }

    /// The journal tells of changes up to this one, which another actor has counted, perhaps long ago: what is told from now on is
    /// newer. `is_saved`: all of them are on the server.
    pub(super) fn count_from(&mut self, state: u64, is_saved: bool) {
        self.changes = state;
        self.saved = if is_saved { state } else { 0 };
    }

    /// Another actor has written the journal up to here. What was told is settled when everything is saved.
    pub(super) fn go_on(&mut self, last: Option<Sequence>, everything: &Touched) {
        if let Some(last) = last {
            self.journal.was_written(self.changes + 1, last, everything.clone());
        }
    }

    /// A journal of an earlier mount was taken over: its changes are to be saved, and need not be written down again.
    pub(super) fn adopt(&mut self, touched: Touched) {
        self.touched.extend(&touched);
        self.changes += 1;
    }
}
