//! Bringing much to Keep, before the save that names it begins.
//!
//! During a save nothing else is done for a collection ([`saving`](super::saving)), and what others have saved is not seen. Bytes need
//! nothing of what the server has, and may take their time. So what is much goes ahead: it is brought to Keep while looks and merges
//! go on as always, and then the save begins from what there is by then, with little left to bring. It is done once for each save,
//! so that those who go on writing do not put it off.

use crate::actors::collection::CollectionActor;
use crate::actors::collection::Writing;
use crate::actors::collection::state::CollectionState;
use crate::actors::work::Work;
use crate::dirty::DirtyFile;
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use std::sync::Arc;

/// What goes ahead, in bytes. Less is there in the time of a few requests, and needs no round of its own.
const MUCH: u64 = 4 << 20;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Bringing {
    #[default]
    Nothing,
    UnderWay,
    /// The next save begins at once.
    Done,
}

impl CollectionActor {
    /// Brings to Keep what a save would take along now, if that is much. `false`: the save may begin.
    pub(super) fn brings_first(
        &mut self,
        state: &Arc<CollectionState>,
        writing: &Arc<Writing>,
        context: &mut Context<Self>,
    ) -> bool {
        match self.local.bringing {
            Bringing::UnderWay => return true,
            Bringing::Done => {
                self.local.bringing = Bringing::Nothing;
                return false;
            }
            Bringing::Nothing => {}
        }
        let files = self.due_files(state);
        if files.iter().map(|file| file.local_bytes()).sum::<u64>() < MUCH {
            return false;
        }
        self.local.bringing = Bringing::UnderWay;
        let store = writing.store.clone();
        let work = Work::start(&self.environment.network, format!("data of {}", self.cell.key()), async move {
            // What can never be stored as it is, the save finds as well, and leaves out.
            let results = store.settle(&files).await;
            let failed = results.into_iter().filter_map(Result::err).find(|error| !error.is_of_the_file());
            failed.map_or(Ok(()), |error| Err(error.into()))
        });
        context.spawn(work.into_actor(self).map(|result, actor, context| match result {
            Ok(()) => {
                actor.local.bringing = Bringing::Done;
                actor.local.is_overdue = actor.is_looking();
                actor.save(context);
            }
            Err(error) => {
                actor.local.bringing = Bringing::Nothing;
                actor.save_failed(error, context);
            }
        }));
        true
    }

    fn due_files(&self, state: &CollectionState) -> Vec<Arc<DirtyFile>> {
        let aside = self.local.aside.paths();
        let is_taken = |number: u32| {
            let node = state.node(number).filter(|node| state.snapshot.is_linked(*node));
            let path = node.map(|node| state.snapshot.path(node));
            path.is_some_and(|path| self.local.touched.covers(&path) && !aside.covers(&path))
        };
        let due = state.drafts.iter().filter(|(number, draft)| draft.is_due() && is_taken(**number));
        due.map(|(_, draft)| draft.file.clone()).collect()
    }
}
