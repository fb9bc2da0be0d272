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

use super::daemon;
use crate::fuse::mountpoint;
use crate::telemetry;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// Restarts within [`WINDOW`] before the guardian gives up: what dies that often needs a human.
const MOST_RESTARTS: usize = 5;
const WINDOW: Duration = Duration::from_secs(600);

/// Carries the times of earlier restarts, in seconds since 1970, from one guardian to the next.
const HISTORY: &str = "ARVADOS_MOUNT_RESTARTS";

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

/// The mount's process.
struct Process {
    number: i32,
    began: u64,
    descriptor: Option<OwnedFd>,
}

impl Process {
    fn open(number: i32, began: u64) -> Process {
        // SAFETY: pidfd_open touches no memory; what it returns is ours alone.
        let descriptor = unsafe {
            let descriptor = libc::syscall(libc::SYS_pidfd_open, number, 0);
            (descriptor >= 0).then(|| OwnedFd::from_raw_fd(descriptor as i32))
        };
        Process { number, began, descriptor }
    }

    /// Is it gone, or as good as gone? The number is only believed with the time.
    fn is_dead(&self) -> bool {
        let status = Status::read(self.number);
        status.is_none_or(|status| status.began != self.began || status.is_dead)
            || crate::fuse::interrupt::is_dying(self.number as u32)
    }

    /// Waits for its death.
    fn wait(&self, signals: &SignalFd, is_away: impl Fn() -> bool) -> Seen {
        let limit = PollTimeout::try_from(LOOK_AGAIN).unwrap_or(PollTimeout::MAX);
        let mut seen = Seen::default();
        loop {
            let away = is_away();
            let is_dead = self.is_dead();
            // After that look: what it has sent before its death is there. Any other signal is only a reason to look.
            while let Ok(Some(signal)) = signals.read_signal() {
                let is_from_mount = i32::try_from(signal.ssi_pid) == Ok(self.number);
                seen.ending |= is_from_mount && signal.ssi_signo == ENDING as u32;
                seen.away |= is_from_mount && signal.ssi_signo == UNMOUNTED as u32;
            }
            if is_dead {
                return seen;
            }
            seen.away |= away;
            let mut watched = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            watched.extend(self.descriptor.iter().map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
            let _ = poll(&mut watched, limit);
        }
    }

    /// Waits until all of it is gone, its locks and descriptors too.
    fn wait_until_gone(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Some(descriptor) = &self.descriptor else { return };
            let mut watched = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
            let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if poll(&mut watched, limit).is_ok_and(|ready| ready > 0) {
                return;
            }
        }
    }
}

/// What came about while the mount's process was well.
#[derive(Default)]
struct Seen {
    /// The mount was not at its place any more.
    away: bool,
    /// Somebody has asked for its end.
    ending: bool,
}

/// What `/proc/PID/stat` says of a main thread.
struct Status {
    began: u64,
    /// A zombie: other threads may still be there.
    is_dead: bool,
}

impl Status {
    fn read(process: i32) -> Option<Status> {
        Status::parse(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    /// The second field, the name, may contain anything: count from its end. Fields as in proc_pid_stat(5).
    fn parse(text: &str) -> Option<Status> {
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace();
        let is_dead = matches!(fields.next()?, "Z" | "X" | "x");
        Some(Status { is_dead, began: fields.nth(18)?.parse().ok()? })
    }
}

fn began(process: u32) -> Option<u64> {
    Some(Status::read(i32::try_from(process).ok()?)?.began)
}

/// How to abort the connection.
enum Switch {
    /// The connection's own switch, open. Whatever happens to its number, this writes to no other connection.
    Open(File),
    /// A forced unmount aborts too. If nobody uses the mount in that moment, it also takes it away.
    Force,
    /// Neither can be had.
    Missing,
}

impl Switch {
    fn open(minor: u32) -> Switch {
        let open = |path: String| std::fs::OpenOptions::new().write(true).open(path);
        match open(format!("{}/{minor}/abort", mountpoint::CONNECTIONS)).or_else(|_| open_unseen(minor)) {
            Ok(file) => Switch::Open(file),
            Err(_) if nix::unistd::geteuid().is_root() => Switch::Force,
            Err(_) => Switch::Missing,
        }
    }

    fn abort(&self, arguments: &Arguments, is_mounted: bool) -> std::io::Result<()> {
        match self {
            Switch::Open(file) => {
                let mut file = file;
                file.write_all(b"1")
            }
            Switch::Force if is_mounted => {
                match umount2(&arguments.path, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
                    // Busy is what it says after the abort.
                    Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            Switch::Force => Ok(()),
            Switch::Missing => Err(std::io::Error::other("there is no way to abort the connection (see above)")),
        }
    }
}

/// Opens the switch where `fusectl` is mounted nowhere, as root: in a mount of it that has no place in any tree, so that
/// nothing is changed for others (fsopen(2), Linux 5.2).
fn open_unseen(minor: u32) -> std::io::Result<File> {
    const CREATE: u32 = 6;
    let call = |result: libc::c_long| -> std::io::Result<OwnedFd> {
        match i32::try_from(result) {
            // SAFETY: a new descriptor that nobody else has.
            Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let kind: &CStr = c"fusectl";
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the strings end with NUL and outlive the calls; the other arguments are numbers.
    let tree = unsafe {
        let context = call(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1u32))?;
        if libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, none, none, 0) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        call(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1u32, 0u32))?
    };
    let path = std::ffi::CString::new(format!("{minor}/abort")).map_err(std::io::Error::other)?;
    // SAFETY: as above.
    let descriptor = unsafe { libc::openat(tree.as_raw_fd(), path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    call(descriptor.into()).map(File::from)
}

/// Mounts again, up to [`MOST_RESTARTS`] times within [`WINDOW`], the later ones after a pause.
fn restart(arguments: &Arguments, directory: &Path, id: u32) -> ExitCode {
    let mut history = History::read(std::env::var(HISTORY).unwrap_or_default().as_str(), now());
    loop {
        let Some(pause) = history.pause() else {
            report(arguments, "the mount died too often: it is not started again");
            return ExitCode::FAILURE;
        };
        std::thread::sleep(pause);
        // Somebody else may have taken it away, or put another mount there.
        if mounted_at(&arguments.path, arguments.minor) == Some(id) {
            if let Err(error) = mountpoint::unmount(&arguments.path, None, GONE) {
                report(arguments, &format!("cannot unmount what the dead mount left: {error}"));
                return ExitCode::FAILURE;
            }
        } else if mountpoint::find(&arguments.path).is_some() || history.is_fresh {
            report(arguments, "the mount point is in other hands now: the mount is not started again");
            return ExitCode::SUCCESS;
        }
        history.add(now());
        match start_again(arguments, directory, &history) {
            Ok(true) => {
                report(arguments, "the mount is started again");
                return ExitCode::SUCCESS;
            }
            Ok(false) => report(arguments, "the mount could not be started again"),
            Err(error) => report(arguments, &format!("the mount could not be started again: {error}")),
        }
    }
}

/// Runs the mount's command line once more; returns whether it mounted. From then on it has a guardian of its own.
fn start_again(arguments: &Arguments, directory: &Path, history: &History) -> std::io::Result<bool> {
    let (reader, writer) = std::io::pipe()?;
    let mut words = arguments.words.iter().cloned();
    let mut command = daemon::command(&mut words, &writer);
    command.current_dir(directory).env(HISTORY, history.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    drop(writer);
    if daemon::is_mounted(reader) {
        return Ok(true);
    }
    child.wait()?;
    Ok(false)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// When the mount was restarted lately.
struct History {
    times: Vec<u64>,
    /// No attempt of ours yet.
    is_fresh: bool,
}

impl History {
    fn read(text: &str, now: u64) -> History {
        let recent = |time: &u64| *time <= now && now - time < WINDOW.as_secs();
        let times = text.split(',').filter_map(|time| time.parse().ok()).filter(recent).collect();
        History { times, is_fresh: true }
    }

    fn add(&mut self, now: u64) {
        self.times.retain(|time| now.saturating_sub(*time) < WINDOW.as_secs());
        self.times.push(now);
        self.is_fresh = false;
    }

    /// How long to wait before the next one: nothing, then 1, 2, 4 and 8 seconds; `None`: no more.
    fn pause(&self) -> Option<Duration> {
        match self.times.len() {
            0 => Some(Duration::ZERO),
            count if count < MOST_RESTARTS => Some(Duration::from_secs(1 << (count - 1))),
            _ => None,
        }
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let times: Vec<String> = self.times.iter().map(u64::to_string).collect();
        formatter.write_str(&times.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_behind_a_name_with_anything_in_it() {
        let fields: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let status = Status::parse(&format!("12 (a) Z b) S {}", fields.join(" "))).expect("well-formed");
        assert_eq!((status.is_dead, status.began), (false, 22));
        let status = Status::parse(&format!("12 (x) Z {}", fields.join(" "))).expect("well-formed");
        assert!(status.is_dead);
        assert!(Status::parse("12 (x").is_none() && Status::parse("").is_none());
    }

    #[test]
    fn process_is_known_by_number_and_time() {
        let me = std::process::id();
        let time = began(me).expect("our own status");
        assert!(!Process::open(me as i32, time).is_dead());
        assert!(Process::open(me as i32, time + 1).is_dead(), "another process with our number");
    }

    #[test]
    fn restarts_come_later_and_later_and_then_no_more() {
        let mut history = History::read("nonsense,1,5000", 10_000);
        let mut pauses = Vec::new();
        while let Some(pause) = history.pause() {
            pauses.push(pause.as_secs());
            history.add(10_000);
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8]);
        assert_eq!(History::read(&history.to_string(), 10_599).pause(), None, "the next guardian knows");
        assert_eq!(History::read(&history.to_string(), 10_600).pause(), Some(Duration::ZERO));
    }
}
