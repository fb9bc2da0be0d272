//! Copies, on the journal's disk, of what is in Keep and named by no commit yet.
//!
//! Large files are on their way to Keep while they are written, and their records have locators instead of bytes. Those are signed
//! for this mount's token: should it die before the save, a mount with another one could not save the file. To fetch the blocks
//! back for each record would double the work of every writer, and nearly always the save follows soon. So it is done when a
//! save has failed, or when what was written down is not saved after [`UNSAVED`]; then the files are written down once more. It is
//! done beside the actor and beside the pump of the journal, so nobody waits for it.
//!
//! Where Keep does not answer or there is no room, the record stays as it is, until the file is written down the next time.

use crate::actors::collection::CollectionActor;
use crate::actors::work::Work;
use crate::tree::commit::Depth;
use actix::{ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a record with locators may wait for its save before the blocks are fetched: twice as long as changes wait under
/// `--sync=fsync`, so that it is not done for what is saved as planned there.
const UNSAVED: Duration = Duration::from_secs(60);

/// What is to be copied, and when.
#[derive(Default)]
pub(super) struct Copying {
    /// Files, by number.
    due: BTreeSet<u32>,
    planned: Option<SpawnHandle>,
    is_running: bool,
}

impl CollectionActor {
    /// Records have locators instead of the bytes of these files.
    pub(super) fn copy_soon(&mut self, bare: Vec<u32>, context: &mut Context<Self>) {
        if bare.is_empty() {
            return;
        }
        let has_failed = self.local.failures > 0 || !self.local.aside.is_empty();
        self.local.copying.due.extend(bare);
        if has_failed && let Some(planned) = self.local.copying.planned.take() {
            context.cancel_future(planned);
        }
        if self.local.copying.is_running || self.local.copying.planned.is_some() {
            return;
        }
        if has_failed {
            return self.copy(context);
        }
        self.local.copying.planned = Some(context.run_later(UNSAVED, |actor, context| {
            actor.local.copying.planned = None;
            actor.copy(context);
        }));
    }

    fn copy(&mut self, context: &mut Context<Self>) {
        let due = std::mem::take(&mut self.local.copying.due);
        let Some(state) = self.cell.load() else { return };
        let unsaved = |number: &u32| state.draft(*number).filter(|draft| draft.is_changed()).map(|it| it.file.clone());
        let files: Vec<_> = due.iter().filter_map(|number| Some((*number, unsaved(number)?))).collect();
        if files.is_empty() {
            return;
        }
        self.local.copying.is_running = true;
        let key = self.cell.key().clone();
        let work = async move {
            let mut copied = Vec::new();
            for (number, file) in files {
                match file.copy().await {
                    Ok(true) => copied.push(number),
                    Ok(false) => {}
                    Err(error) => tracing::info!(
                        collection = key,
                        %error,
                        "what is not saved yet cannot be fetched from Keep for the journal: until it is saved, only a mount with the \
                         same token can do so"
                    ),
                }
            }
            Ok(copied)
        };
        let work = Work::start(&self.environment.network, format!("copies of {}", self.cell.key()), work);
        context.spawn(work.into_actor(self).map(|result, actor, context| {
            actor.local.copying.is_running = false;
            actor.were_copied(&result.unwrap_or_default(), context);
            let due = std::mem::take(&mut actor.local.copying.due);
            actor.copy_soon(due.into_iter().collect(), context);
        }));
    }

    /// Writes files down once more.
    fn were_copied(&mut self, copied: &[u32], context: &mut Context<Self>) {
        let Some(state) = self.cell.load() else { return };
        let mut is_any = false;
        for number in copied {
            let node = state.node(*number).filter(|node| state.snapshot.is_linked(*node));
            let is_unsaved = state.draft(*number).is_some_and(|draft| draft.is_changed());
            if let Some(node) = node.filter(|_| is_unsaved) {
                self.local.journal.touched.touch(&state.snapshot.path(node), Depth::Entry);
                self.local.journal.files.insert(*number);
                is_any = true;
            }
        }
        if is_any {
            self.local.journal.waiters.push(Box::new(|_| {}));
            self.write_journal(context);
        }
    }
}
