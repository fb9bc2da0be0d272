//! Whether we may change what is in a project: asked once for all who want to know, and remembered.
//!
//! Rights change rarely, and the server checks them anyway. So what is merely shown (the mode of a directory) waits for
//! nobody where there is an answer, however old: it is asked for again in the background. Where there is none, it waits for a
//! moment. A failure counts for a while, and so does a wait in vain, for all projects: an `ls -l` during an outage must not
//! wait for each of its lines. Who wants to change something waits for an answer that is not old.
//!
//! An entry of the table is held to look at it or to change it, never over an await.

use crate::actors::{Error, Supervisor};
use dashmap::DashMap;
use serde_json::Value;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long an answer is relied upon before it is asked for again.
const RELIABLE: Duration = Duration::from_secs(60);

/// How long somebody waits who only wants to be shown it: several times what a server under load takes.
const PATIENCE: Duration = Duration::from_secs(3);

/// For how long a failure or a wait in vain stands for the next ones: whoever goes on looking during an outage spends a quarter
/// of the time waiting, and sees the end of it soon.
const DISCOURAGED: Duration = Duration::from_secs(10);

/// What is known of one project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Fresh(bool),
    Old(bool),
}

/// The table. See the module's essay.
#[derive(Default)]
pub struct Rights {
    table: DashMap<String, Right>,
    /// When somebody last waited in vain, if nobody has been answered since.
    in_vain: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Right {
    answered: Option<(bool, Instant)>,
    failed: Option<Instant>,
    question: Option<Question>,
}

type Answer = Option<Result<bool, Error>>;

/// A request that is under way.
#[derive(Clone)]
struct Question {
    since: Instant,
    answer: watch::Receiver<Answer>,
}

impl Question {
    /// Ended without an answer: its task panicked.
    fn is_lost(&self) -> bool {
        self.answer.has_changed().is_err()
    }

    async fn answer(mut self) -> Result<bool, Error> {
        let answer = self.answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err(Error::Failed("rights to a project".to_owned())))
    }
}

impl Rights {
    fn known(&self, uuid: &str, now: Instant) -> Known {
        let Some(right) = self.table.get(uuid) else { return Known::Nothing };
        match right.answered {
            Some((can_write, since)) if now.saturating_duration_since(since) < RELIABLE => Known::Fresh(can_write),
            Some((can_write, _)) => Known::Old(can_write),
            None => Known::Nothing,
        }
    }

    /// Has it been asked without success a moment ago?
    fn is_discouraged(&self, uuid: &str, now: Instant) -> bool {
        self.table.get(uuid).and_then(|right| right.failed).is_some_and(|failed| is_recent(failed, now))
    }

    fn in_vain(&self) -> MutexGuard<'_, Option<Instant>> {
        self.in_vain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The question that is under way, or a new one if that has been for longer than `limit`.
    fn ask(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Handle,
        uuid: &str,
        limit: Duration,
        request: impl Future<Output = Result<bool, Error>> + Send + 'static,
    ) -> Question {
        let mut right = self.table.entry(uuid.to_owned()).or_default();
        if let Some(question) = right.question.as_ref().filter(|it| !it.is_lost() && it.since.elapsed() < limit) {
            return question.clone();
        }
        let (sender, answer) = watch::channel(None);
        let since = Instant::now();
        let question = Question { since, answer };
        right.question = Some(question.clone());
        drop(right);
        let (rights, uuid) = (self.clone(), uuid.to_owned());
        runtime.spawn(async move {
            let answer = request.await;
            rights.was_answered(&uuid, since, &answer, Instant::now());
            sender.send_replace(Some(answer));
        });
        question
    }

    fn was_answered(&self, uuid: &str, asked: Instant, answer: &Result<bool, Error>, now: Instant) {
        let Some(mut right) = self.table.get_mut(uuid) else { return };
        right.question.take_if(|question| question.since == asked);
        match answer {
            Ok(can_write) => {
                (right.answered, right.failed) = (Some((*can_write, now)), None);
                drop(right);
                *self.in_vain() = None;
            }
            Err(_) => right.failed = Some(now),
        }
    }

    /// Finds out what is to be shown, if that can be done soon. Then [`Rights::known`] says it.
    async fn look(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Handle,
        uuid: &str,
        request: impl Future<Output = Result<bool, Error>> + Send + 'static,
    ) {
        let now = Instant::now();
        match self.known(uuid, now) {
            Known::Fresh(_) => {}
            _ if self.is_discouraged(uuid, now) => {}
            Known::Old(_) => drop(self.ask(runtime, uuid, Duration::MAX, request)),
            Known::Nothing => {
                let question = self.ask(runtime, uuid, Duration::MAX, request);
                // Of a question that others have waited for already only the rest is waited for.
                let rest = PATIENCE.saturating_sub(question.since.elapsed());
                if rest.is_zero() || self.in_vain().is_some_and(|failed| is_recent(failed, now)) {
                    return;
                }
                match tokio::time::timeout(rest, question.answer()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(project = uuid, %error, "cannot find out whether a project can be written to");
                    }
                    Err(_) => *self.in_vain() = Some(Instant::now()),
                }
            }
        }
    }
}

fn is_recent(failed: Instant, now: Instant) -> bool {
    now.saturating_duration_since(failed) < DISCOURAGED
}

impl Supervisor {
    /// May we change what is in a project? Users' homes are projects as well. Waits for an answer that is not old.
    pub async fn can_write(&self, uuid: &str) -> Result<bool, Error> {
        if let Known::Fresh(can_write) = self.rights.known(uuid, Instant::now()) {
            return Ok(can_write);
        }
        // A question that hangs need not hold up those who come when the server is well again.
        self.rights.ask(&self.environment().network, uuid, PATIENCE, self.question(uuid)).answer().await
    }

    /// The same as far as it is known, be it old.
    pub fn known_to_be_writable(&self, uuid: &str) -> Option<bool> {
        match self.rights.known(uuid, Instant::now()) {
            Known::Fresh(can_write) | Known::Old(can_write) => Some(can_write),
            Known::Nothing => None,
        }
    }

    /// Finds out whether a project is to be shown as writable, unless that takes long.
    pub async fn look_at_rights(&self, uuid: &str) {
        self.rights.look(&self.environment().network, uuid, self.question(uuid)).await;
    }

    fn question(&self, uuid: &str) -> impl Future<Output = Result<bool, Error>> + Send + 'static {
        let record = super::client::project_record(self.environment().api.clone(), uuid.to_owned());
        async move {
            let (record, _) = record.await?;
            // Without the attribute (an old server) only trying can tell.
            Ok(record.get("can_write").and_then(Value::as_bool).unwrap_or(true))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::{pending, ready};

    async fn never() -> Result<bool, Error> {
        unreachable!("there is nothing to ask")
    }

    #[tokio::test]
    async fn old_answer_is_shown_without_waiting_while_it_is_asked_for_again() {
        let (rights, runtime) = (Arc::new(Rights::default()), tokio::runtime::Handle::current());
        rights.look(&runtime, "p", ready(Ok(true))).await;
        let now = Instant::now();
        assert_eq!(rights.known("p", now), Known::Fresh(true));
        let later = now + RELIABLE;
        assert_eq!(rights.known("p", later), Known::Old(true));
        let Some(past) = now.checked_sub(RELIABLE) else { return };
        rights.was_answered("p", past, &Ok(true), past);
        assert!(rights.look(&runtime, "p", ready(Ok(false))).now_or_never().is_some());
        assert_eq!(rights.known("p", Instant::now()), Known::Old(true));
        assert!(!rights.ask(&runtime, "p", PATIENCE, never()).answer().await.expect("an answer"));
        assert_eq!(rights.known("p", Instant::now()), Known::Fresh(false));
    }

    #[tokio::test]
    async fn failure_is_remembered_for_a_while_and_does_not_hide_what_was_known() {
        let (rights, runtime) = (Arc::new(Rights::default()), tokio::runtime::Handle::current());
        rights.look(&runtime, "p", ready(Err(Error::NotFound))).await;
        assert!(rights.is_discouraged("p", Instant::now()));
        assert!(rights.look(&runtime, "p", never()).now_or_never().is_some());
        assert!(!rights.is_discouraged("p", Instant::now() + DISCOURAGED));
        assert!(
            rights.ask(&runtime, "p", PATIENCE, ready(Ok(true))).answer().await.expect("an answer"),
            "who wants to write"
        );
        rights.was_answered("p", Instant::now(), &Err(Error::NotFound), Instant::now());
        assert_eq!(rights.known("p", Instant::now()), Known::Fresh(true));
    }

    #[tokio::test]
    async fn question_without_an_answer_is_one_for_all_and_waited_for_once() {
        let (rights, runtime) = (Arc::new(Rights::default()), tokio::runtime::Handle::current());
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, rights.look(&runtime, "p", pending())).await.expect("it gives up");
        assert!(rights.look(&runtime, "p", never()).now_or_never().is_some());
        assert_eq!(rights.known("p", Instant::now()), Known::Nothing);
        let another = rights.ask(&runtime, "p", PATIENCE, ready(Ok(true)));
        assert!(rights.look(&runtime, "q", pending()).now_or_never().is_some(), "nor for another project");
        assert!(another.answer().await.expect("an answer"), "to who wants to write");
        assert!(rights.look(&runtime, "r", ready(Ok(true))).now_or_never().is_none(), "the server is well again");
    }

    #[tokio::test]
    async fn question_whose_task_failed_is_asked_again() {
        let (rights, runtime) = (Arc::new(Rights::default()), tokio::runtime::Handle::current());
        let failing = async { panic!("this is what is tested") };
        assert!(rights.ask(&runtime, "p", PATIENCE, failing).answer().await.is_err());
        assert!(rights.ask(&runtime, "p", PATIENCE, ready(Ok(true))).answer().await.is_ok());
    }
}
