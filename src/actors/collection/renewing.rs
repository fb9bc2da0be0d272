//! Files that are written for longer than a signature lives.
//!
//! Full blocks of a file are in Keep long before the save that names them: that comes when the file is closed, or somebody asks for it.
//! A save renews what it takes along ([`signing`](super::signing)), but when it comes only after two weeks it is too late, and
//! by then the blocks may be gone: Keep takes away what no collection has named for so long. So as long as there are files that are
//! open for writing or not saved, it is looked now and then what of them has to be stored anew.

use crate::actors::collection::CollectionActor;
use crate::actors::collection::signing::end_of_old;
use crate::actors::work::Work;
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use std::time::Duration;

/// Looks in the life of a signature: four of them in the quarter of it in which a block is renewed.
const LOOKS: u32 = 16;
/// But not more often than this, however short signatures live, and not less often: clocks are set, machines sleep.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

impl CollectionActor {
    /// There may be files that are written to. Goes on until there are none.
    pub(super) fn renew_in_time(&mut self, context: &mut Context<Self>) {
        if self.local.is_renewing || self.cell.load().is_none_or(|state| state.drafts.is_empty()) {
            return;
        }
        self.local.is_renewing = true;
        let api = self.environment.api.clone();
        let life = async move { Ok(api.discovery().await?.blob_signature_ttl) };
        let work = Work::start(&self.environment.network, format!("renewing blocks of {}", self.cell.key()), life);
        context.spawn(work.into_actor(self).map(|life, actor, context| match life {
            Ok(life) => actor.look_at_blocks_later(life, context),
            // With the next change.
            Err(_) => actor.local.is_renewing = false,
        }));
    }

    /// `life`: that of a signature, in seconds.
    fn look_at_blocks_later(&mut self, life: u64, context: &mut Context<Self>) {
        let pause = (Duration::from_secs(life) / LOOKS).clamp(SHORTEST, LONGEST);
        context.run_later(pause, move |actor, context| actor.look_at_blocks(life, context));
    }

    fn look_at_blocks(&mut self, life: u64, context: &mut Context<Self>) {
        let state = self.cell.load().filter(|state| !state.drafts.is_empty());
        let Some((state, writing)) = state.zip(self.environment.writing.clone()) else {
            self.local.is_renewing = false;
            return;
        };
        let files: Vec<_> =
            state.drafts.values().filter(|draft| draft.is_changed()).map(|draft| draft.file.clone()).collect();
        let work = async move {
            writing.store.renew(&files, end_of_old(life)).await;
            Ok(())
        };
        let work = Work::start(&self.environment.network, format!("renewing blocks of {}", self.cell.key()), work);
        context.spawn(work.into_actor(self).map(move |_, actor, context| actor.look_at_blocks_later(life, context)));
    }
}
