//! Taking over what mounts that were killed have left of a collection: one, or several of which each has gone on with what those before
//! it had left.
//!
//! What their journals say is worked out beside the actor ([`replaying`]), from what is shown, and holds if that is still the state: whoever
//! has begun to use the collection meanwhile goes first, and it is tried again. What it makes of the collection is published with
//! what the server had *then* as base, and merged at once with what it has today, before anything is saved. Removals of what was moved
//! to a collection that is not saved yet are held back ([`unfinished`](super::unfinished)).

use crate::actors::collection::replaying::{self, Replayed};
use crate::actors::collection::state::{Base, CollectionState};
use crate::actors::collection::unfinished::Unfinished;
use crate::actors::collection::{CollectionActor, operation, sent};
use crate::actors::refresh::Reply;
use crate::actors::work::Work;
use crate::actors::{Environment, Error};
use crate::dirty::Scratch;
use crate::journal::{Change, Journal, Sent, Sequence};
use crate::tree::Snapshot;
use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// What a mount that was killed has left of a collection.
pub struct Left {
    pub changes: Vec<(Sequence, Change)>,
    /// Saves of which it did not learn whether they arrived.
    pub sent: Vec<Sent>,
    /// Where its backing files are.
    pub scratch: Arc<Scratch>,
    pub journal: Arc<Journal>,
    pub moves: Unfinished,
}

/// Takes over what mounts that were killed had not saved, one after the other. The answer is, of each that was taken over, what could
/// not be: it has to stay in the journal. Those that were not come when all of the others is saved.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Recover {
    pub left: Arc<[Arc<Left>]>,
    pub reply: Reply<Vec<Vec<Change>>, Error>,
}

impl CollectionActor {
    /// Takes over what was worked out of journals, on top of what is shown.
    fn recover(
        &mut self,
        state: &Arc<CollectionState>,
        replayed: Replayed,
        taken: &[Arc<Left>],
    ) -> Arc<CollectionState> {
        let mut next = (**state).clone();
        // What the last of the mounts had, as if it had gone on to this moment: the next look at the server merges.
        let mut numbers = state.numbers.carry(&state.snapshot, &replayed.mine, Some(chrono::Utc::now()));
        for (node, draft) in replayed.drafts {
            let number = numbers.number(node);
            numbers.set_modified(number, Some(draft.file.modified()));
            next.drafts.insert(number, draft);
        }
        next.numbers = numbers;
        next.snapshot = replayed.mine;
        let was = &state.base;
        // Not what the server has today, but what it had then; today's is merged with it before anything is saved.
        next.base = Arc::new(Base {
            record: was.record.clone(),
            snapshot: replayed.base,
            is_whole: false,
            is_own: false,
            is_sound: was.is_sound,
        });
        next.is_unsaved = true;
        self.local.adopt(replayed.touched);
        let is_whole = replayed.kept.iter().all(Vec::is_empty);
        for left in taken {
            self.go_on_with_moves(&left.moves, is_whole);
            let open = left.sent.iter().filter(|save| !save.has_arrived).cloned().collect();
            sent::add(&mut self.local.sent, open, Instant::now());
        }
        self.local.text = None;
        self.publish(next)
    }

    fn was_replayed(
        &mut self,
        state: &Arc<CollectionState>,
        replayed: Replayed,
        left: &[Arc<Left>],
        context: &mut Context<Self>,
    ) -> Result<Vec<Vec<Change>>, Error> {
        let is_same = self.cell.load().is_some_and(|current| Arc::ptr_eq(&current, state));
        if !is_same || self.is_busy() {
            return Err(Error::Busy);
        }
        let taken = &left[..replayed.kept.len()];
        if let Some(writing) = &self.environment.writing {
            // Before anything of it can be saved or written down.
            taken.iter().for_each(|left| writing.earlier.was_adopted(&left.journal, self.cell.key()));
        }
        let theirs = state.base.snapshot.clone();
        let kept = replayed.kept.clone();
        let state = self.recover(state, replayed, taken);
        let mut next = (*state).clone();
        next.base = Arc::new(Base {
            record: state.base.record.clone(),
            snapshot: theirs.clone(),
            is_whole: true,
            is_own: false,
            is_sound: state.base.is_sound,
        });
        self.merge(next, theirs, 0, context);
        Ok(kept)
    }
}

/// The manifests of the collections from which something was moved here, as they are today.
async fn signed_sources(environment: &Environment, left: &[Arc<Left>]) -> Vec<String> {
    let mut texts = Vec::new();
    let sources: BTreeSet<&String> = left.iter().flat_map(|left| &left.moves.sources).collect();
    for source in sources {
        let mut manifest = Vec::new();
        match environment.api.collection(source, &[], Some(&mut manifest)).await {
            Ok(_) => texts.push(String::from_utf8_lossy(&manifest).into_owned()),
            Err(error) => tracing::debug!(collection = source, %error, "cannot look at where something was moved from"),
        }
    }
    texts
}

impl Handler<Recover> for CollectionActor {
    type Result = ();

    fn handle(&mut self, Recover { left, reply }: Recover, context: &mut Context<Self>) {
        let is_free = |state: &Arc<CollectionState>| !state.is_unsaved() && state.drafts.is_empty();
        let state = self.cell.load().filter(is_free).filter(|_| !self.is_busy());
        let Some((state, writing)) = state.zip(self.environment.writing.clone()) else {
            // It is loaded before. Whoever has begun to use it meanwhile goes first, and this is tried again.
            let _ = reply.send(Err(Error::Busy));
            return;
        };
        let (known, journaled) = (state.clone(), left.clone());
        let environment = self.environment.clone();
        let replay = async move {
            let sources = signed_sources(&environment, &journaled).await;
            let work = tokio::task::spawn_blocking(move || {
                let request = operation::put_request(&writing, &known);
                let sources: Vec<_> = sources.iter().filter_map(|text| Snapshot::parse(text).ok()).collect();
                replaying::replay(&writing, (&known.base.snapshot, &sources), &journaled, &request)
            });
            work.await.map_err(|error| Error::Failed(format!("reading a journal: {error}")))?
        };
        let work = Work::start(&self.environment.network, format!("journal of {}", self.cell.key()), replay);
        context.spawn(work.into_actor(self).map(move |replayed, actor, context| {
            let result = replayed.and_then(|replayed| actor.was_replayed(&state, replayed, &left, context));
            actor.renew_in_time(context);
            let _ = reply.send(result);
        }));
    }
}
