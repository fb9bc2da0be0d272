//! What a mount that can write needs besides: where unsaved data are kept, what an earlier mount has left there, and saving
//! everything before the end.

use super::arguments::Arguments;
use super::{FAILURE, Refusal};
use crate::actors::collection::copying::Copies;
use crate::actors::collection::earlier::Earlier;
use crate::actors::collection::housekeeper::Housekeeper;
use crate::actors::collection::saving::{Files, Need};
use crate::actors::collection::unfinished::UnfinishedMoves;
use crate::actors::collection::{Left, Writing};
use crate::actors::{self, Supervisor};
use crate::cache::{BlockCache, Budget, OVERHEAD};
use crate::dirty::{DirtyStore, Options, Scratch};
use crate::journal::{self, Change, Contents, Info, Journal, Recovered, place};
use crate::keep::MAX_BLOCK_SIZE;
use crate::remote::api::PublicConfig;
use crate::remote::keep::Keep;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Blocks on their way to Keep at a time. Two keep a network busy while the next is written; more help with several writers.
const UPLOADS: usize = 4;

/// `PreserveVersionIfIdle` where the cluster does not tell: its default (protocol.md 4.5).
const USUAL_IDLE: Duration = Duration::from_secs(10);

/// The log of a journal is read into memory by the next mount, so it has a limit of its own.
const LONGEST_LOG: u64 = 256 << 20;

/// How long a mount is put off by what an earlier one has left. Long enough for a few collections, or a gigabyte on the way.
const RECOVERY: Duration = Duration::from_secs(20);

/// Collections that are taken over at a time. Each is a request, and a journal's worth of work.
const ADOPTIONS: usize = 8;

/// The longest pause before what an earlier mount has left is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often it is looked meanwhile whether that has been saved with something else.
const LOOK: Duration = Duration::from_millis(300);

/// How often collections are tried to be saved at the end before what is left stays in the journal.
const LAST_ATTEMPTS: u32 = 3;

pub(super) struct Prepared {
    pub(super) writing: Writing,
    /// Journals of mounts that were killed.
    pub(super) recovered: Vec<Recovered>,
}

/// Makes the place for unsaved data. Errors: it cannot be made; the message says what to do.
pub(super) async fn prepare(
    arguments: &Arguments,
    mount: &Path,
    config: &PublicConfig,
    user: &str,
    keep: Arc<dyn Keep>,
    budget: Arc<Budget>,
    cache: BlockCache,
) -> Result<Prepared, Refusal> {
    let (journal, recovered) = open_journal(arguments, mount, &config.cluster_id, user).map_err(|error| Refusal {
        status: FAILURE,
        message: format!(
            "{error}; another folder can be chosen with --journal-dir: what an earlier mount has left in this one then waits \
             until it is used again"
        ),
    })?;
    let scratch = Scratch::open(journal.data_folder(), arguments.journal_size)
        .map_err(|error| Refusal::failure(format!("cannot use {}: {error}", journal.data_folder().display())))?;
    let classes = arguments.storage_classes.as_deref().unwrap_or_default();
    let storage_classes: Vec<String> =
        classes.split(',').map(str::trim).filter(|class| !class.is_empty()).map(str::to_owned).collect();
    // A reader can always have the largest block, however much is waiting to be saved.
    let memory = budget.capacity().saturating_sub(MAX_BLOCK_SIZE as usize + OVERHEAD);
    let store = DirtyStore::new(Options {
        budget,
        memory,
        scratch,
        keep,
        runtime: tokio::runtime::Handle::current(),
        uploads: UPLOADS,
        block_size: MAX_BLOCK_SIZE,
    });
    let journal = Some(Arc::new(journal));
    let housekeeper = Housekeeper::start(&tokio::runtime::Handle::current(), store.clone(), journal.clone());
    let writing = Writing {
        store,
        journal,
        cache,
        sync: arguments.sync,
        guard: arguments.commit_guard,
        on_conflict: arguments.on_conflict,
        storage_classes,
        hears: !arguments.disable_event_listening,
        retries: arguments.retries,
        idle: config.collections.preserve_version_if_idle.unwrap_or(USUAL_IDLE),
        knows_replace_files: AtomicBool::new(true),
        housekeeper,
        earlier: Earlier::default(),
        copies: Copies::default(),
    };
    Ok(Prepared { writing, recovered })
}

fn open_journal(
    arguments: &Arguments,
    mount: &Path,
    cluster: &str,
    user: &str,
) -> Result<(Journal, Vec<Recovered>), journal::Error> {
    let root = match &arguments.journal_dir {
        Some(folder) => std::path::absolute(folder).unwrap_or_else(|_| folder.clone()),
        None => place::root()?,
    };
    let account = place::account_folder(&root, cluster, user)?;
    let journal = Journal::create(&account, &Info::of_process(mount), LONGEST_LOG.min(arguments.journal_size))?;
    let recovered = Journal::recover(&account)?;
    Ok((journal, recovered))
}

/// Takes over what mounts that were killed had not saved, and saves it before anybody can change it, as far as that can be done in
/// [`RECOVERY`]. What the cluster does not take shows all the same; what it does not even answer for shows when it does. Both are
/// saved in the background, and their journals stay until then. Returns who does that.
pub(super) async fn recover(supervisor: &Arc<Supervisor>, mut recovered: Vec<Recovered>) -> Vec<JoinHandle<()>> {
    let mut collections: BTreeMap<String, Vec<Arc<Left>>> = BTreeMap::new();
    let mut moves = tokio::task::block_in_place(|| UnfinishedMoves::of(supervisor, &mut recovered));
    for (number, mut found) in recovered.into_iter().enumerate() {
        let id = found.journal.id();
        if let Some(damage) = &found.damage {
            tracing::error!(
                journal = id,
                damage,
                "a journal of an earlier mount is damaged: what could be read is used"
            );
        }
        let scratch = match Scratch::open(found.journal.data_folder(), u64::MAX) {
            Ok(scratch) => scratch,
            Err(error) => {
                tracing::error!(journal = id, %error, "cannot read the unsaved data of an earlier mount: they stay there");
                continue;
            }
        };
        let journal = Arc::new(found.journal);
        for (uuid, changes) in found.collections {
            tracing::warn!(
                journal = id,
                collection = uuid,
                changes = changes.len(),
                "an earlier mount ended before it had saved everything: that is done now"
            );
            let sent = found.sent.remove(&uuid).unwrap_or_default();
            let moves = moves.take(number, &uuid);
            let changes = moves.without_carried(changes);
            let left = Arc::new(Left { changes, sent, scratch: scratch.clone(), journal: journal.clone(), moves });
            collections.entry(uuid).or_default().push(left);
        }
        if let Some(writing) = &supervisor.environment().writing {
            writing.earlier.add(&journal);
        }
    }
    let mut saving = Vec::new();
    let turns = Arc::new(tokio::sync::Semaphore::new(ADOPTIONS));
    for (uuid, mut waiting) in collections {
        let (supervisor, turns) = (supervisor.clone(), turns.clone());
        let (refused, is_refused) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut refused = Some(refused);
            let mut left = in_a_row(&uuid, &waiting);
            let mut adopted = {
                let _turn = turns.acquire().await;
                Some(supervisor.adopt_journals(&uuid, &left).await)
            };
            // What comes after it but does not go on with it has its turn when it is saved, however long that takes.
            loop {
                let taken = save_recovered(&supervisor, &uuid, &left, adopted.take(), &mut refused).await;
                waiting.drain(..taken);
                if waiting.is_empty() {
                    break;
                }
                waiting = waiting.into_iter().map(|left| reread(&uuid, left)).collect();
                left = in_a_row(&uuid, &waiting);
            }
        });
        saving.push((task, is_refused));
    }
    let deadline = tokio::time::Instant::now() + RECOVERY;
    let mut tasks = Vec::new();
    for (mut task, is_refused) in saving {
        tokio::select! {
            biased;
            _ = &mut task => continue,
            _ = is_refused => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
        tasks.push(task);
    }
    if let Some(writing) = &supervisor.environment().writing {
        writing.earlier.is_mounted();
    }
    tasks
}

/// Waits a moment for what is saved in the background: when everything is saved, its journals have to say so. What an earlier mount
/// has left and cannot be saved is no failure of this one, but somebody has to know.
pub(super) async fn wait_for(tasks: &mut Vec<JoinHandle<()>>) {
    let mut left = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
    for task in tasks.drain(..) {
        left += u32::from(tokio::time::timeout_at(deadline, task).await.is_err());
    }
    if left > 0 {
        tracing::error!(
            collections = left,
            "what an earlier mount had not saved is not saved yet: it stays in its journal (see `arvados journal list`)"
        );
    }
}

/// The first of these, and those after it each of which has gone on with what all before it have.
fn in_a_row(uuid: &str, left: &[Arc<Left>]) -> Arc<[Arc<Left>]> {
    let goes_on = |count: &usize| {
        let journal = &left[*count].journal;
        left[..*count].iter().all(|earlier| journal.follows(uuid, &earlier.journal.id()))
    };
    let others = (1..left.len()).take_while(goes_on).count();
    left.iter().take(1 + others).cloned().collect()
}

/// What a journal has, now that what the ones before it had is saved: that is noted in it (see [`Earlier`]).
fn reread(uuid: &str, left: Arc<Left>) -> Arc<Left> {
    match tokio::task::block_in_place(|| Contents::read(left.journal.folder())) {
        Ok(mut contents) => {
            let changes = contents.pending.collections.remove(uuid).unwrap_or_default().into_iter().collect();
            let sent = contents.pending.sent.remove(uuid).unwrap_or_default();
            let (scratch, journal, moves) = (left.scratch.clone(), left.journal.clone(), left.moves.clone());
            let changes = moves.without_carried(changes);
            Arc::new(Left { changes, sent, scratch, journal, moves })
        }
        Err(error) => {
            tracing::debug!(journal = left.journal.id(), %error, "cannot read a journal again: what was read before is used");
            left
        }
    }
}

/// Saves what these journals have, and does not end before that is done. They are taken over once, and settled only after that: whatever
/// else the collection has to save is not this. `adopted`: what came of a first try to take them over. `refused` is told when the
/// server does not want it: whoever waits would wait for somebody to change that. Returns how many were taken over.
async fn save_recovered(
    supervisor: &Supervisor,
    uuid: &str,
    left: &Arc<[Arc<Left>]>,
    adopted: Option<Result<Vec<Vec<Change>>, actors::Error>>,
    refused: &mut Option<oneshot::Sender<()>>,
) -> usize {
    let cell = supervisor.collection(uuid);
    let journals = left.iter().map(|left| left.journal.id()).collect::<Vec<_>>().join(", ");
    let mut adopted = match adopted {
        Some(adopted) => adopted,
        None => supervisor.adopt_journals(uuid, left).await,
    };
    let mut pause = Duration::from_secs(1);
    loop {
        let result = match &adopted {
            Ok(_) => supervisor.save(&cell, Files::All, Need::Server).await.map(drop),
            Err(error) => Err(error.clone()),
        };
        match result {
            Ok(()) => break,
            Err(actors::Error::Busy) => {
                let message = "what an earlier mount had not saved waits for others who use the collection, or for another to be saved";
                match pause < LONGEST_PAUSE {
                    true => tracing::info!(collection = uuid, journals, "{message}"),
                    false => tracing::warn!(collection = uuid, journals, "{message}"),
                }
            }
            Err(error) => {
                if error.is_refusal()
                    && let Some(refused) = refused.take()
                {
                    let _ = refused.send(());
                }
                tracing::error!(
                    collection = uuid,
                    journals,
                    %error,
                    "what an earlier mount had not saved cannot be saved yet: it stays in its journal (see `arvados journal list`)"
                );
            }
        }
        let again = tokio::time::Instant::now() + pause;
        let is_saved = || cell.load().is_some_and(|state| !state.is_unsaved());
        while tokio::time::Instant::now() < again && !(adopted.is_ok() && is_saved()) {
            tokio::time::sleep(LOOK).await;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        if adopted.is_err() {
            adopted = supervisor.adopt_journals(uuid, left).await;
        }
    }
    let kept = adopted.unwrap_or_default();
    // The first one first: what is left after a death in between has gone on with it.
    for (left, kept) in left.iter().zip(&kept) {
        let journal = &left.journal;
        let settled = tokio::task::block_in_place(|| {
            // First what stays is there once more: a death in between leaves too much and never too little.
            let (_, last) = journal.reach(uuid);
            journal.append_together(uuid, kept, true)?;
            last.map_or(Ok(()), |last| journal.settled(uuid, last))
        });
        if let Err(error) = settled {
            tracing::warn!(journal = journal.id(), %error, "cannot note that a journal was saved");
            break;
        }
    }
    kept.len()
}

/// Saves everything. `false`: something could not be saved; it is in the journal, and if this was the last time, the log says so.
pub(super) async fn flush(supervisor: &Arc<Supervisor>, is_last: bool) -> bool {
    if supervisor.environment().writing.is_none() {
        return true;
    }
    let mut attempt = 0;
    loop {
        let unsaved = supervisor.unsaved_collections();
        if unsaved.is_empty() {
            return true;
        }
        attempt += 1;
        let bar = progress(unsaved.len() as u64);
        let mut failed = Vec::new();
        let mut saves: Vec<_> = Vec::new();
        for cell in &unsaved {
            let (supervisor, cell) = (supervisor.clone(), cell.clone());
            saves.push(tokio::spawn(async move { supervisor.save(&cell, Files::All, Need::Server).await.map(drop) }));
        }
        for (cell, save) in unsaved.iter().zip(saves) {
            match save.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push((cell.key().clone(), error.to_string())),
                Err(error) => failed.push((cell.key().clone(), error.to_string())),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if failed.is_empty() && supervisor.unsaved_collections().is_empty() {
            return true;
        }
        if attempt >= LAST_ATTEMPTS && !is_last {
            return false;
        }
        if attempt >= LAST_ATTEMPTS {
            let journal = supervisor.environment().writing.as_ref().and_then(|writing| writing.journal.clone());
            let journal = journal.map_or_else(String::new, |journal| journal.folder().display().to_string());
            if failed.is_empty() {
                let left = supervisor.unsaved_collections();
                let left = left.iter().map(|cell| (cell.key().clone(), "it was changed all the time".to_owned()));
                failed.extend(left);
            }
            for (collection, error) in &failed {
                tracing::error!(
                    collection,
                    error,
                    journal,
                    "not saved: the data stay in the journal, and the next mount saves them"
                );
            }
            if let Some(writing) = &supervisor.environment().writing {
                // The next mount may have another token.
                writing.copies.made().await;
            }
            return failed.is_empty();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The mount has ended and everything is saved: its journal is not needed any more.
pub(super) async fn close(supervisor: &Supervisor) {
    let Some(writing) = &supervisor.environment().writing else { return };
    let Some(journal) = &writing.journal else { return };
    for uuid in journal.collections() {
        // That all is saved shows before it is noted: who answers this has done that.
        let answer = supervisor.save(&supervisor.collection(&uuid), Files::None, Need::Nothing).await;
        tracing::debug!(collection = uuid, is_noted = answer.is_ok(), "noted in the journal");
    }
    writing.housekeeper.finish().await;
    journal.leave();
}

fn progress(collections: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("saving {pos} of {len} collections {bar:30} {elapsed}");
    let bar = ProgressBar::new(collections);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
