//! What has to be done on the journal's disk and nobody waits for: noting what was saved, and letting go of backing files.
//!
//! Both can take as long as a disk takes: the note may be the one after which the log is written anew, and a save may have
//! brought a hundred thousand files. Actors share their threads, so they only say what is to be done, and one task of the
//! mount does it, in the order in which it was said: a backing file is looked at after the note that frees it. What is not done
//! yet when the process dies is found to be saved by the next mount, which is the journal's rule anyhow; a mount that ends in
//! good order waits for it ([`Housekeeper::finish`]), or its journal would stay.
//!
//! Deadlock: the task waits for the disk only. The queue has no bound, so no actor waits for the task; there is at most one note for
//! each record of the journal, and one look.

use crate::actors::collection::finished::{self, Finished};
use crate::dirty::DirtyStore;
use crate::journal::{Journal, Sequence};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// How long a backing file that is not needed may stay because somebody looked at its file just then.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

enum Task {
    /// Everything of the collection up to this sequence is on the server.
    Settle(String, Sequence),
    Sweep,
    Finish(oneshot::Sender<()>),
}

pub struct Housekeeper {
    tasks: mpsc::UnboundedSender<Task>,
    finished: Arc<Finished>,
    store: Arc<DirtyStore>,
    /// A look at the backing files is among the tasks, or will be.
    sweeps: Arc<AtomicBool>,
}

impl Housekeeper {
    pub fn start(runtime: &Handle, store: Arc<DirtyStore>, journal: Option<Arc<Journal>>) -> Housekeeper {
        let (tasks, queue) = mpsc::unbounded_channel();
        let (finished, sweeps) = (Arc::<Finished>::default(), Arc::<AtomicBool>::default());
        let worker = Worker {
            journal,
            finished: finished.clone(),
            store: store.clone(),
            sweeps: sweeps.clone(),
            tasks: tasks.downgrade(),
        };
        runtime.spawn(worker.run(queue));
        Housekeeper { tasks, finished, store, sweeps }
    }

    /// What backing files wait for it.
    pub(super) fn finished(&self) -> &Finished {
        &self.finished
    }

    pub(super) fn settle(&self, collection: &str, up_to: Sequence) {
        self.tell(Task::Settle(collection.to_owned(), up_to));
    }

    /// Looks whether there are backing files that nobody needs.
    pub(super) fn sweep(&self) {
        let has_any = !self.finished.is_empty() || !self.store.has_swept();
        if has_any && !self.sweeps.swap(true, Ordering::AcqRel) {
            self.tell(Task::Sweep);
        }
    }

    /// Waits until all is done that was said before.
    pub async fn finish(&self) {
        let (reply, done) = oneshot::channel();
        self.tell(Task::Finish(reply));
        let _ = done.await;
    }

    fn tell(&self, task: Task) {
        // The task ends after the last sender, or with its runtime, and then there is nothing to be kept in order.
        drop(self.tasks.send(task));
    }
}

struct Worker {
    journal: Option<Arc<Journal>>,
    finished: Arc<Finished>,
    store: Arc<DirtyStore>,
    sweeps: Arc<AtomicBool>,
    tasks: mpsc::WeakUnboundedSender<Task>,
}

impl Worker {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Task>) {
        let worker = Arc::new(self);
        let mut tasks = Vec::new();
        while queue.recv_many(&mut tasks, 1024).await > 0 {
            let (worker, some) = (worker.clone(), std::mem::take(&mut tasks));
            if let Err(error) = tokio::task::spawn_blocking(move || worker.work(some)).await {
                tracing::error!(%error, "keeping the journal's folder in order failed");
            }
        }
    }

    fn work(self: &Arc<Self>, tasks: Vec<Task>) {
        for task in tasks {
            match task {
                Task::Settle(collection, up_to) => {
                    if let Some(journal) = &self.journal
                        && let Err(error) = journal.settled(&collection, up_to)
                    {
                        tracing::warn!(collection, %error, "cannot note in the journal what was saved");
                    }
                }
                Task::Sweep => self.sweep(),
                Task::Finish(reply) => drop(reply.send(())),
            }
        }
    }

    fn sweep(self: &Arc<Self>) {
        // What comes from now on asks for another look.
        self.sweeps.store(false, Ordering::Release);
        let journal = self.journal.as_deref();
        if let Some(Err(error)) = journal.map(Journal::pay) {
            tracing::debug!(%error, "what is settled could not be noted in the journal yet");
        }
        let is_all = self.finished.sweep(journal)
            & self.store.sweep(
                |backing| journal.is_some_and(|journal| journal.names(backing)),
                || finished::is_certain(journal),
            );
        if !is_all && !self.sweeps.swap(true, Ordering::AcqRel) {
            let tasks = self.tasks.clone();
            Handle::current().spawn(async move {
                tokio::time::sleep(LOOK_AGAIN).await;
                if let Some(tasks) = tasks.upgrade() {
                    drop(tasks.send(Task::Sweep));
                }
            });
        }
    }
}
