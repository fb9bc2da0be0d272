//! The end of a mount: it is taken away, and everything is saved, or it is said what is not.
//!
//! Saving comes twice. First before the mount is taken away, so that those who look see it still there until everything is
//! saved; then again, because until it was gone somebody could write. Only what the second one cannot save is spoken of. Nobody is
//! served any more by then: what is promised to a program that goes on writing would be in no save.
//!
//! While the cluster does not answer, a save takes minutes, and a human at the terminal or a machine that goes down cannot wait
//! for it. So a second signal ends the wait at once, and so does [`PATIENCE`]. Nothing is lost by that, what is not saved is
//! in the journal; but somebody has to know. Whoever ends a mount by a first signal after it was unmounted, as a service manager
//! does that unmounts and then sends SIGTERM to all, wants the end that is under way. SIGHUP never counts as the second
//! one: such managers send it together with SIGTERM.

use super::{FAILURE, daemon, writing};
use crate::actors::Supervisor;
use crate::fuse::{Mounted, users};
use crate::remote::keep::HttpKeep;
use futures_util::FutureExt;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long saving may get nowhere before it is given up: a request that fails is repeated for five minutes, and a save is
/// two of them, so within this a collection has had its chance.
const PATIENCE: Duration = Duration::from_secs(600);

/// Between two looks whether it gets anywhere.
const LOOK: Duration = Duration::from_secs(1);

/// Users of a busy mount that the log names one by one.
const MOST_USERS: usize = 20;

/// Signals that end a mount, and one that upstream ignores.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    _ignored: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            _ignored: signal(SignalKind::user_defined1())?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }

    /// Whether somebody has asked for the end by now. All that have come are one request: who ends a group of processes may send
    /// them several.
    pub(super) fn has_come(&mut self) -> bool {
        let mut has_come = false;
        while let Some(name) = self.next().now_or_never() {
            has_come |= is_request(name);
        }
        has_come
    }

    async fn urgent(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Managers send a SIGHUP along, before or after: it is no first request of two.
pub(super) fn is_request(signal: &str) -> bool {
    signal != "SIGHUP"
}

/// What the end needs of the mount.
pub(super) struct Ending<'a> {
    pub(super) supervisor: &'a Arc<Supervisor>,
    pub(super) keep: &'a HttpKeep,
    /// Who saves what an earlier mount has left.
    pub(super) recovering: &'a tokio::sync::Mutex<Vec<JoinHandle<()>>>,
    pub(super) signals: Signals,
    /// A signal has asked for the end already: another one means that it must not take longer.
    pub(super) was_asked: bool,
    /// The log goes to a file: what is important is said on stderr, too.
    pub(super) has_logfile: bool,
    /// How long those who still use the mount are waited for.
    pub(super) limit: Duration,
    /// Why nothing is waited for any more.
    pub(super) given_up: Option<&'static str>,
}

impl Ending<'_> {
    /// Unmounts. Who still has something open keeps the session alive for the limit; then it ends, and they see that the file system
    /// is gone.
    pub(super) async fn leave(&mut self, mounted: &mut Mounted) {
        self.save(false).await;
        if !mounted.unmount().await {
            say_users(mounted, self.limit).await;
            tracing::warn!(mount = %mounted.path().display(), "still in use: detaching it");
            mounted.detach().await;
        }
        if tokio::time::timeout(self.limit, mounted.ended()).await.is_err() {
            tracing::warn!(mount = %mounted.path().display(), "still in use: ending it nevertheless");
            if !mounted.stop().await {
                tracing::warn!(mount = %mounted.path().display(), "its users go on until the process ends");
            }
        }
    }

    /// Saves what is left when nobody is served any more. `false`: something could not be saved.
    pub(super) async fn finish(mut self) -> bool {
        let is_saved =
            self.save(true).await || self.given_up.is_some() && self.supervisor.unsaved_collections().is_empty();
        if is_saved {
            writing::wait_for(&mut *self.recovering.lock().await).await;
            writing::close(self.supervisor).await;
        } else {
            self.say_what_stays();
        }
        is_saved
    }

    /// Saves everything, unless it was given up before or is now. `false`: not everything is saved. `is_last`: and nothing will be.
    async fn save(&mut self, is_last: bool) -> bool {
        if self.given_up.is_some() {
            return false;
        }
        if std::io::stderr().is_terminal() && !self.supervisor.unsaved_collections().is_empty() {
            let once_more = if self.was_asked { "once more" } else { "twice" };
            daemon::say(&format!(
                "saving what is not on the cluster yet; Ctrl-C {once_more} leaves it to the next mount"
            ));
        }
        let (supervisor, keep) = (self.supervisor, self.keep);
        let saving = writing::flush(supervisor, is_last);
        let stuck = stuck(|| {
            let offered = keep.traffic().offered_bytes.load(Ordering::Relaxed);
            (supervisor.unsaved_collections().len(), offered)
        });
        tokio::pin!(saving, stuck);
        loop {
            tokio::select! {
                is_saved = &mut saving => return is_saved,
                () = &mut stuck => self.given_up = Some("nothing could be saved for ten minutes"),
                signal = self.signals.urgent() => match self.was_asked {
                    true => self.given_up = Some("a second signal has ended the wait"),
                    false => {
                        self.was_asked = true;
                        tracing::warn!(signal, "everything is being saved before the end; a second signal ends that at once");
                    }
                },
            }
            if self.given_up.is_some() {
                return false;
            }
        }
    }

    fn say_what_stays(&self) {
        let journal = self.supervisor.environment().writing.as_ref().and_then(|writing| writing.journal.clone());
        let journal = journal.map_or_else(String::new, |journal| journal.folder().display().to_string());
        let unsaved = self.supervisor.unsaved_collections();
        if let Some(reason) = self.given_up {
            for cell in &unsaved {
                let collection = cell.key();
                tracing::error!(
                    collection,
                    reason,
                    journal,
                    "not saved: the data stay in the journal, and the next mount saves them"
                );
            }
        }
        let status = FAILURE;
        let count = unsaved.len();
        tracing::error!(status, journal, collections = count, "the mount ends, and not everything is saved");
        if self.has_logfile {
            let reason = self.given_up.map_or_else(String::new, |reason| format!("{reason}; "));
            daemon::say(&format!(
                "{}: {reason}{count} collection(s) are not saved: their data stay in the journal {journal}, and the next mount \
                 with --read-write saves them (see `arvados journal list`)",
                super::program()
            ));
        }
    }
}

/// The exit status of a mount that has ended with `code`.
pub(super) fn status(code: ExitCode, is_saved: bool) -> ExitCode {
    if is_saved || code != ExitCode::SUCCESS { code } else { ExitCode::from(FAILURE) }
}

/// Ends when what `look` tells has stayed the same for [`PATIENCE`].
async fn stuck<T: PartialEq>(look: impl Fn() -> T) {
    let mut progress = Progress { last: look(), since: Instant::now() };
    while !progress.is_stuck(look(), Instant::now()) {
        sleep(LOOK).await;
    }
}

/// Since when something is the same.
struct Progress<T> {
    last: T,
    since: Instant,
}

impl<T: PartialEq> Progress<T> {
    fn is_stuck(&mut self, state: T, now: Instant) -> bool {
        if state != self.last {
            *self = Progress { last: state, since: now };
        }
        now.duration_since(self.since) >= PATIENCE
    }
}

/// Says in the log who keeps the mount busy.
async fn say_users(mounted: &Mounted, limit: Duration) {
    let Some(minor) = mounted.minor() else { return };
    // Looking through /proc can wait for a process that waits for us.
    let users = tokio::task::spawn_blocking(move || users::find(minor));
    let Ok(Ok(users)) = tokio::time::timeout(limit, users).await else { return };
    for user in users.iter().take(MOST_USERS) {
        tracing::warn!(mount = %mounted.path().display(), "still in use by {user}");
    }
    if users.len() > MOST_USERS {
        tracing::warn!(mount = %mounted.path().display(), "still in use by {} more", users.len() - MOST_USERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn signals_that_come_together_are_one_request() {
        use tokio::signal::unix::signal;
        let mut signals = Signals::new().expect("signals can be watched");
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let mut others = kinds.map(|kind| signal(kind).expect("signals can be watched"));
        assert!(!signals.has_come());
        for name in ["SIGTERM", "SIGINT", "SIGHUP"] {
            let signal: nix::sys::signal::Signal = name.parse().expect("a signal's name");
            nix::sys::signal::raise(signal).expect("to ourselves");
        }
        for other in &mut others {
            other.recv().await;
        }
        assert!(signals.has_come());
        assert!(signals.urgent().now_or_never().is_none(), "no second one");
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).expect("to ourselves");
        others[2].recv().await;
        assert!(!signals.has_come(), "it only comes along");
    }

    #[test]
    fn saving_is_given_up_when_it_gets_nowhere_but_not_while_it_does() {
        let start = Instant::now();
        let mut progress = Progress { last: 0, since: start };
        let mut look = |seconds: u64, blocks: u64| progress.is_stuck(blocks, start + Duration::from_secs(seconds));
        let is_slow = |seconds: u64| seconds / (PATIENCE.as_secs() - 1);
        assert!((0..10_000).all(|seconds| !look(seconds, is_slow(seconds))), "a block now and then is enough");
        assert!(look(10_000 + PATIENCE.as_secs(), is_slow(9_999)));
    }
}
