//! Folding: what was changed becomes part of a new base of the tree.
//!
//! Each save adds blocks to what lies on top of the tree that was read, and each file that comes and goes leaves a node there. As
//! long as others change the collection now and then it is read anew; of a lone writer's it would only grow, and a mount lives for
//! months. So now and then, when nothing is unsaved, the tree is copied without what nobody needs any more. Files keep
//! their numbers; whoever has a removed one open reads it from the state in which he opened it.
//!
//! It is worked out beside the actor, from a published state, and holds if that is still the state: a mount that is written to
//! all the time tries again after the next save.

use crate::actors::Error;
use crate::actors::collection::CollectionActor;
use crate::actors::collection::state::{Base, CollectionState, Kind};
use crate::actors::work::Work;
use crate::tree::{Fold, diff};
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use std::sync::Arc;

/// Edits that are not worth a copy, which takes a millisecond for some thousand files. What lies on top of the tree is looked up in
/// maps, what was folded in arrays, so that a save of a directory in which all files are new is several times faster after it.
const FEW: u32 = 512;

/// A copy costs in proportion to the tree, so there have to be edits in proportion to it: a quarter makes a few microseconds for each.
const SHARE: u32 = 4;

impl CollectionActor {
    pub(super) fn fold_when_worth(&mut self, context: &mut Context<Self>) {
        if self.is_folding || self.is_busy() || !self.local.is_quiet() {
            return;
        }
        let Some(state) = self.cell.load().filter(|state| is_worth_it(state)) else { return };
        self.is_folding = true;
        let known = state.clone();
        let work = async move {
            let fold = tokio::task::spawn_blocking(move || {
                let fold = known.snapshot.fold();
                // They are the same when everything is saved, but what is not known to be so must not be taken for it.
                let is_base = diff(&known.base.snapshot, &fold.snapshot).is_empty();
                (fold, is_base)
            });
            fold.await.map_err(|error| Error::Failed(format!("folding a tree: {error}")))
        };
        let work = Work::start(&self.environment.network, format!("folding {}", self.cell.key()), work);
        context.spawn(work.into_actor(self).map(move |result, actor, _| {
            actor.is_folding = false;
            if let Ok((fold, is_base)) = result {
                actor.was_folded(&state, fold, is_base);
            }
        }));
    }

    fn was_folded(&mut self, state: &Arc<CollectionState>, fold: Fold, is_base: bool) {
        let is_temporary = self.cell.kind() == Kind::Temporary;
        let is_same = self.cell.load().is_some_and(|current| Arc::ptr_eq(&current, state));
        if !is_same || self.is_busy() || !(is_base || is_temporary) {
            return;
        }
        let mut next = (**state).clone();
        next.numbers = state.numbers.fold(&state.snapshot, &fold);
        next.snapshot = fold.snapshot.clone();
        if !is_temporary {
            next.base = Arc::new(Base { snapshot: fold.snapshot, ..(*state.base).clone() });
        }
        self.publish(next);
    }
}

fn is_worth_it(state: &CollectionState) -> bool {
    let is_linked = |number: u32| state.node(number).is_some_and(|node| state.snapshot.is_linked(node));
    // Whoever writes to a removed file finds it by its node.
    let is_quiet = match state.kind() {
        Kind::Mutable => state.drafts.is_empty() && !state.is_unsaved(),
        Kind::Temporary => state.drafts.keys().all(|number| is_linked(*number)),
        Kind::Immutable => false,
    };
    let edits = state.snapshot.edit_count();
    is_quiet && edits > FEW && edits > state.snapshot.node_limit() / SHARE
}
