//! The process that watches over a mount, so that a mount that is killed leaves nobody hanging.
//!
//! When a mount process is killed, the kernel closes its `/dev/fuse`, and everybody who waits for an answer gets an error. But
//! if a thread of the process waits in the kernel for a lock that such a waiting user holds, it cannot die, nothing is
//! closed, and all of them wait for ever (fuse.md, trap 9). Somebody outside has to abort the connection. That is
//! the guardian's work; where asked to (`--restart`), it then mounts again.
//!
//! What must stay true:
//!
//! * It is started anew by `exec`, holds no descriptor of the mount or of the mount's callers (a caller's lock file, a pipe that
//!   somebody reads to its end), has no directory busy but `/`, and a session of its own, so that Ctrl-C does not reach it.
//! * Signals do not end it, since a service manager sends SIGTERM to all at once and the mount may have much to save.
//!   It ends with the mount.
//! * It never touches the mounted file system, only `/proc` and the switch of the connection. The switch is opened while the
//!   mount lives: the number of a connection is used again at once, the open switch belongs to this one. So a guardian that
//!   died is replaced only while the mount is in the list of mounts, and one that does not find it there ends.
//! * A process with a thread that cannot die does not count as dead for a pidfd. So three things are watched: the
//!   pidfd, the death of the mount's main thread (`PR_SET_PDEATHSIG`, which is why that thread has to start the guardian),
//!   and, should both fail, every [`LOOK_AGAIN`] whether SIGKILL has reached the main thread.
//! * What ends in good order, or after somebody has asked for its end, is not started again. The list of mounts does not tell that
//!   for sure: between two looks another mount can have taken the place, with the same numbers. So the mount says it, with
//!   signals that count from nobody else: one that it ends, one that it is unmounted.
//! * After a death it aborts and does not unmount: a dead mount says "Transport endpoint is not connected", as callers
//!   know it (only a restart takes it away). The one exception is where the switch cannot be had, see [`Switch`].
//!
//! The mount's words reach the guardian as arguments, the token only through the environment, as it reached the mount.

mod process;
mod restart;
mod switch;

use super::daemon;
use crate::fuse::mountpoint;
use crate::telemetry;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use process::{Process, began};
use restart::restart;
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;
use switch::Switch;

/// The word that all is set up.
const ARMED: u8 = b'g';

/// How long the mount waits for that word: starting a program takes some milliseconds, much more on a loaded machine.
const START: Duration = Duration::from_secs(5);

/// How soon a guardian that died is replaced; longer and longer while none can be started.
const REPLACE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The last resort notices a death after this; within a second everybody is to be free.
const LOOK_AGAIN: Duration = Duration::from_millis(400);

/// How long to wait after the abort for the rest of the process: its locks are free only then.
const GONE: Duration = Duration::from_secs(10);

/// Watch over a mount (started by the mount itself).
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The mount's process
    #[arg(long)]
    process: i32,
    /// When it started, as /proc/PID/stat says it: tells it from another process of that number
    #[arg(long)]
    began: u64,
    /// Where it is mounted
    #[arg(long)]
    path: PathBuf,
    /// Minor device number of the mount
    #[arg(long)]
    minor: u32,
    /// Where to append the log
    #[arg(long)]
    logfile: Option<PathBuf>,
    /// Mount again, in this directory, with the command line that follows
    #[arg(long)]
    restart: Option<PathBuf>,
    /// The mount's own words
    #[arg(last = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// What the mount tells its guardian.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    pub path: PathBuf,
    pub minor: u32,
    pub logfile: Option<PathBuf>,
    /// The directory in which the mount's command line was typed, if it is to be started again.
    pub restart: Option<PathBuf>,
}

/// By these signals the mount tells its guardian that it ends, and that it is not at its place any more.
const ENDING: Signal = Signal::SIGUSR2;
const UNMOUNTED: Signal = Signal::SIGURG;

/// The guardian that is there now, as the mount sees it. All that uses it runs on the mount's main thread: there nobody can see the
/// number of a guardian that is reaped already, and may be another process's.
#[derive(Clone, Default)]
pub(super) struct Guardian(Arc<State>);

#[derive(Default)]
struct State {
    /// 0: there is none.
    process: AtomicI32,
    is_ending: AtomicBool,
    is_unmounted: AtomicBool,
}

impl Guardian {
    /// Somebody has asked for the end of the mount: it is not to be started again, however it ends.
    pub(super) fn mount_ends(&self) {
        self.0.is_ending.store(true, Ordering::Relaxed);
        self.tell(ENDING);
    }

    /// The mount was taken away: what is at its place from now on is another.
    pub(super) fn mount_is_gone(&self) {
        self.0.is_unmounted.store(true, Ordering::Relaxed);
        self.tell(UNMOUNTED);
    }

    fn tell(&self, signal: Signal) {
        let process = self.0.process.load(Ordering::Relaxed);
        if process > 0 {
            // It may have died in this moment.
            let _ = nix::sys::signal::kill(Pid::from_raw(process), signal);
        }
    }

    fn is_now(&self, child: Option<&tokio::process::Child>) {
        let process = child.and_then(tokio::process::Child::id).and_then(|id| i32::try_from(id).ok());
        self.0.process.store(process.unwrap_or(0), Ordering::Relaxed);
        for (is_so, signal) in [(&self.0.is_ending, ENDING), (&self.0.is_unmounted, UNMOUNTED)] {
            if is_so.load(Ordering::Relaxed) {
                self.tell(signal);
            }
        }
    }
}

/// Starts a guardian and keeps one there until the process ends. Call it on the main thread.
///
/// Returns when the first one is ready, or has failed; then it is tried again in the background, and the log says so.
pub(super) async fn start(charge: Charge) -> Guardian {
    let id = mounted_at(&charge.path, charge.minor);
    let present = Guardian::default();
    let mut guardian = spawn(&charge).await;
    present.is_now(guardian.as_ref().ok());
    let kept = present.clone();
    tokio::spawn(async move {
        let mut pause = REPLACE;
        loop {
            match guardian {
                Ok(mut child) => {
                    pause = REPLACE;
                    let status = child.wait().await;
                    kept.is_now(None);
                    tracing::warn!(?status, "the guardian of the mount died: starting another");
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "no guardian: if this mount is killed now, its users may hang until it is unmounted by force"
                    );
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            tokio::time::sleep(pause).await;
            // What saves the rest after its unmount has no users that could hang.
            let is_gone = kept.0.is_unmounted.load(Ordering::Relaxed);
            if id.is_none() || is_gone || mounted_at(&charge.path, charge.minor) != id {
                return;
            }
            guardian = spawn(&charge).await;
            kept.is_now(guardian.as_ref().ok());
        }
    });
    present
}

async fn spawn(charge: &Charge) -> std::io::Result<tokio::process::Child> {
    let process = std::process::id();
    let began = began(process).ok_or_else(|| std::io::Error::other("cannot read /proc/self/stat"))?;
    // The link of the running program, not its path: it may have been replaced meanwhile.
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command.arg0("arvados").arg("mount-guardian");
    command.arg(format!("--process={process}")).arg(format!("--began={began}"));
    command.arg(format!("--minor={}", charge.minor)).arg("--path").arg(&charge.path);
    if let Some(file) = &charge.logfile {
        command.arg("--logfile").arg(file);
    }
    if let Some(directory) = &charge.restart {
        command.arg("--restart").arg(directory).arg("--").args(std::env::args_os());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
    // SAFETY: between fork and exec only async-signal-safe calls are made (setsid, close_range).
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            // Whatever our callers left open without close-on-exec. Kernels before 5.11 do not know this: then the guardian
            // closes what it finds.
            libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let mut word = [0];
    let said = match child.stdout.take() {
        Some(mut pipe) => tokio::time::timeout(START, tokio::io::AsyncReadExt::read(&mut pipe, &mut word)).await.ok(),
        None => None,
    };
    match said {
        Some(Ok(1)) if word == [ARMED] => Ok(child),
        _ => {
            let _ = child.start_kill();
            Err(std::io::Error::other("it did not say that it is ready"))
        }
    }
}

/// The guardian itself.
pub fn run(arguments: Arguments) -> ExitCode {
    close_inherited();
    // Nobody is there to whom an error could be said but the log.
    let _ = telemetry::start_as_arv_mount("info", arguments.logfile.as_deref());
    telemetry::go_to_background(daemon::log_place("arvados-mount-guardian"));
    let Ok(signals) = watch_signals() else { return ExitCode::FAILURE };
    let process = Process::open(arguments.process, arguments.began);
    let switch = Switch::open(arguments.minor);
    if matches!(switch, Switch::Missing) {
        report(
            &arguments,
            "cannot abort the connection if the mount is killed: no fusectl at /sys/fs/fuse/connections, \
             and only root can mount it or unmount by force",
        );
    }
    let here = || mounted_at(&arguments.path, arguments.minor);
    // Looked up after the switch was opened: if the mount is there now, it was there then, and the switch is its own.
    let Some(id) = here() else { return ExitCode::SUCCESS };
    arm();
    // Once it was taken away while its process was well, whatever is there later is another mount, with the same number perhaps.
    let seen = process.wait(&signals, || here() != Some(id));
    let was_mounted = !seen.away && here() == Some(id);
    let aborted = switch.abort(&arguments, was_mounted);
    if !was_mounted {
        return ExitCode::SUCCESS;
    }
    match aborted {
        Ok(()) => report(&arguments, "the mount process died: its connection is aborted"),
        Err(error) => report(&arguments, &format!("the mount process died, and its users may hang: {error}")),
    }
    match &arguments.restart {
        Some(directory) if !seen.ending => {
            process.wait_until_gone(GONE);
            restart(&arguments, directory, id)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Says what was done, in the log file or where daemons log.
fn report(arguments: &Arguments, text: &str) {
    tracing::warn!(mount = %arguments.path.display(), "{text}");
}

/// Closes what came by inheritance, but for the three standard streams, of which only the pipe to the mount is in use.
fn close_inherited() {
    // SAFETY: the process is new, and no part of it has opened a descriptor yet.
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) } == 0 {
        return;
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: as above; the listing's own descriptor is closed already, and closing it again fails with EBADF.
        unsafe { libc::close(number) };
    }
}

/// Makes the signals that would end us, and the one that tells of the main thread's death, into something to poll.
fn watch_signals() -> nix::Result<SignalFd> {
    let signals = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE, Signal::SIGUSR1];
    let signals: SigSet = signals.into_iter().chain([ENDING, UNMOUNTED]).collect();
    signals.thread_block()?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGUSR1)?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Tells the mount that we are there, and lets go of it.
fn arm() {
    let mut output = std::io::stdout();
    let _ = output.write_all(&[ARMED]);
    let _ = output.flush();
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        // SAFETY: dup2 onto a standard descriptor; both are valid, and the standard library does not own that one.
        unsafe { libc::dup2(null.as_raw_fd(), 1) };
    }
}

/// Number of the FUSE mount that is at `path`, if its connection has this number.
fn mounted_at(path: &Path, minor: u32) -> Option<u32> {
    mountpoint::find(path).filter(|mount| mount.minor == minor && mount.matches(None)).map(|mount| mount.id)
}
