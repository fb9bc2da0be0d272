//! Copies, on the journal's disk, of what is in Keep and named by no commit yet.
//!
//! Large files are on their way to Keep while they are written, and their records have locators instead of bytes. Those are signed
//! for this mount's token: should it die before the save, a mount with another one could not save the file. To fetch the blocks
//! back for each record would double the work of every writer, and nearly always the save follows soon. So it is done when a
//! save has failed, or when what was written down is not saved after [`UNSAVED`]; then the files are written down once more. It is
//! done beside the actor and beside the pump of the journal, so nobody waits for it.
//!
//! Where Keep does not answer or there is no room, the record stays as it is until the next time that something is to be copied. A
//! mount that ends without having saved everything waits for copies that are being made ([`Copies::made`]): the next one may
//! have another token.

use crate::actors::collection::CollectionActor;
use crate::actors::work::Work;
use crate::tree::commit::Depth;
use actix::{ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;

/// How long a record with locators may wait for its save before the blocks are fetched: twice as long as changes wait under
/// `--sync=fsync`, so that it is not done for what is saved as planned there.
const UNSAVED: Duration = Duration::from_secs(60);

/// Copies that are being made, of all collections.
#[derive(Clone)]
pub struct Copies(watch::Sender<usize>);

impl Default for Copies {
    fn default() -> Copies {
        Copies(watch::Sender::new(0))
    }
}

impl Copies {
    fn begin(&self) -> Begun {
        self.0.send_modify(|count| *count += 1);
        Begun(self.clone())
    }

    /// Waits until none is being made. Keep answers some time or other, and its client gives up.
    pub async fn made(&self) {
        // It ends with an error only with the last sender, which is this one.
        drop(self.0.subscribe().wait_for(|count| *count == 0).await);
    }
}

/// Copies are being made until this is dropped.
struct Begun(Copies);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// What is to be copied, and when.
#[derive(Default)]
pub(super) struct Copying {
    /// Files, by number.
    due: BTreeSet<u32>,
    planned: Option<SpawnHandle>,
    is_running: bool,
    /// Files with blocks that Keep does not give us.
    hopeless: BTreeSet<u32>,
}

impl CollectionActor {
    /// Records have locators instead of the bytes of these files, and maybe of others.
    pub(super) fn copy_soon(&mut self, bare: Vec<u32>, context: &mut Context<Self>) {
        let copying = &mut self.local.copying;
        copying.due.extend(bare.into_iter().filter(|number| !copying.hopeless.contains(number)));
        let has_failed = self.local.failures > 0 || self.local.aside.has_content();
        if has_failed && let Some(planned) = self.local.copying.planned.take() {
            context.cancel_future(planned);
        }
        let copying = &mut self.local.copying;
        if copying.due.is_empty() || copying.is_running || copying.planned.is_some() {
            return;
        }
        if has_failed {
            return self.copy(context);
        }
        copying.planned = Some(context.run_later(UNSAVED, |actor, context| {
            actor.local.copying.planned = None;
            actor.copy(context);
        }));
    }

    fn copy(&mut self, context: &mut Context<Self>) {
        let due = std::mem::take(&mut self.local.copying.due);
        let Some((state, writing)) = self.cell.load().zip(self.environment.writing.as_ref()) else { return };
        let unsaved = |number: &u32| state.draft(*number).filter(|draft| draft.is_changed()).map(|it| it.file.clone());
        let (numbers, files): (Vec<u32>, Vec<_>) =
            due.iter().filter_map(|number| Some((*number, unsaved(number)?))).unzip();
        if files.is_empty() {
            return;
        }
        self.local.copying.is_running = true;
        let begun = writing.copies.begin();
        let (key, store) = (self.cell.key().clone(), writing.store.clone());
        let work = async move {
            let (copied, error) = store.copy(&files).await;
            if let Some(error) = error {
                tracing::info!(
                    collection = key,
                    %error,
                    "what is not saved yet cannot be fetched from Keep for the journal: until it is saved, only a mount with the same \
                     token can do so"
                );
            }
            Ok(numbers.into_iter().zip(copied).collect::<Vec<_>>())
        };
        let work = Work::start(&self.environment.network, format!("copies of {}", self.cell.key()), work);
        context.spawn(work.into_actor(self).map(|result, actor, context| {
            actor.local.copying.is_running = false;
            let copied = result.unwrap_or_default();
            actor.were_copied(
                copied.iter().filter(|(_, copied)| copied.any).map(|(number, _)| *number),
                begun,
                context,
            );
            // What came meanwhile.
            actor.copy_soon(Vec::new(), context);
            for (number, copied) in copied.into_iter().filter(|(_, copied)| !copied.all) {
                let again =
                    if copied.is_lost { &mut actor.local.copying.hopeless } else { &mut actor.local.copying.due };
                again.insert(number);
            }
        }));
    }

    /// Writes files down once more.
    fn were_copied(&mut self, copied: impl Iterator<Item = u32>, begun: Begun, context: &mut Context<Self>) {
        let Some(state) = self.cell.load() else { return };
        let mut is_any = false;
        for number in copied {
            let node = state.node(number).filter(|node| state.snapshot.is_linked(*node));
            let is_unsaved = state.draft(number).is_some_and(|draft| draft.is_changed());
            if let Some(node) = node.filter(|_| is_unsaved) {
                self.local.journal.touched.touch(&state.snapshot.path(node), Depth::Entry);
                self.local.journal.files.insert(number);
                is_any = true;
            }
        }
        if is_any {
            self.local.journal.waiters.push(Box::new(move |_| drop(begun)));
            self.write_journal(context);
        }
    }
}
