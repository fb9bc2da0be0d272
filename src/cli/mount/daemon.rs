//! Going into the background: the parent starts the program again, waits for its word, and exits.
//!
//! The daemon is a new process from the start (`exec`, not a fork of one that may have threads). It has the terminal's
//! stderr until the file system is mounted, so that whatever goes wrong is seen where the command was typed; then it
//! says so on a pipe and lets go of the terminal. If it ends without that word, its exit status is the command's. If the parent ends
//! without having heard it, by Ctrl-C or a closed terminal, neither of which reaches the daemon, it does not mount any more.
//!
//! From then on nobody sees its stderr nor its exit status: unless it has a log file it logs where daemons do ([`log_place`]),
//! also how it ends, and why, should it panic.

use crate::journal::place;
use crate::telemetry::{self, Background};
use nix::sys::signal::SigSet;
use std::ffi::OsString;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The word on the pipe.
const MOUNTED: u8 = b'm';

/// The option that carries the number of the pipe.
const READY: &str = "--ready-descriptor=";

/// Why a daemon ends that nobody waits for.
pub const BROKEN_OFF: &str = "not mounted: the command was broken off";

/// Runs this command line again as a daemon. Returns the exit status of the command.
pub fn start() -> std::io::Result<ExitCode> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = command(&mut std::env::args_os(), &writer);
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    drop(writer);
    if is_mounted(reader) {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)))
}

/// A mount's command line as that of a daemon, which says on `pipe` when it has mounted.
pub(super) fn command(words: &mut dyn Iterator<Item = OsString>, pipe: &PipeWriter) -> Command {
    let descriptor = pipe.as_raw_fd();
    let name = words.next().unwrap_or_else(|| "arvados".into());
    // The link of the running program, not its path: it may have been replaced or deleted meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(&name);
    // Options may not follow `--exec`'s words or `--`, so ours stands right at the beginning, after the subcommand.
    let is_subcommand = std::path::Path::new(&name).file_name().is_none_or(|name| name != "arv-mount");
    if is_subcommand {
        command.args(words.next());
    }
    command.arg("--foreground").arg(format!("{READY}{descriptor}"));
    // Where the line was a daemon's before, it has the number of a pipe that is gone, at the same place.
    let mut at = 0;
    command.args(words.filter(|word| {
        at += 1;
        at > 2 || !word.as_encoded_bytes().starts_with(READY.as_bytes())
    }));
    // SAFETY: between fork and exec only async-signal-safe calls are made (setsid, sigprocmask, fcntl).
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            // The mask survives `exec`: a guardian, which blocks what would end it, would start mounts that no signal ends.
            SigSet::empty().thread_set_mask()?;
            match libc::fcntl(descriptor, libc::F_SETFD, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    command
}

/// Waits for the daemon's word that it has mounted, or for its end.
pub(super) fn is_mounted(mut pipe: PipeReader) -> bool {
    let mut word = [0];
    matches!(pipe.read(&mut word), Ok(1)) && word[0] == MOUNTED
}

/// Where a mount process without a log file logs that nobody watches: the system's log, or where there is none `mount.log` in
/// the folder of our state.
pub(super) fn log_place(tag: &'static str) -> Background {
    Background::new(tag, place::root().ok().map(|journals| journals.with_file_name("mount.log")))
}

/// In the daemon, before it lets go of the terminal: sees to its log, and says there what is not as usual.
pub fn move_log(has_logfile: bool) {
    if !has_logfile {
        let background = log_place("arvados-mount");
        let program = super::program();
        match background.prepare() {
            Ok(None) => {}
            Ok(Some(file)) => say(&format!("{program}: there is no system log: this mount logs to {}", file.display())),
            Err(error) => say(&format!(
                "{program}: this mount logs nowhere: there is no system log, and no log file can be made ({error}); \
                 name one with --logfile"
            )),
        }
        telemetry::go_to_background(background);
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "this is a defect of the program")));
}

/// Says something on stderr. Whoever started us may be gone, and nobody reading: no reason to end.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// In the daemon: comes when nobody waits any more for the word that is to be said on this pipe.
pub async fn starter_is_gone(descriptor: Option<i32>) {
    let watched = descriptor.and_then(|descriptor| {
        // SAFETY: the parent made this descriptor for us alone; nobody closes it before [`is_ready`].
        let own = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned().ok()?;
        // SAFETY: it has the descriptor to itself, and closes it when it is dropped.
        unsafe { AsyncFd::register_with_interest(own, Interest::ERROR) }.ok()
    });
    match watched {
        // It has no other error than that its other end is closed.
        Some(pipe) => drop(pipe.ready(Interest::ERROR).await),
        None => std::future::pending().await,
    }
}

/// In the daemon: tells the parent that the file system is mounted, and lets go of the terminal and the current directory.
pub fn is_ready(descriptor: i32) -> std::io::Result<()> {
    if nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(descriptor) }).is_err() {
        return Err(std::io::Error::other("--ready-descriptor is for the program's own use"));
    }
    // SAFETY: the parent made this descriptor for us alone; nobody else closes it.
    let mut pipe = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    std::env::set_current_dir("/")?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for standard in 0..=2 {
        // SAFETY: dup2 onto a standard descriptor; both are valid, and the standard library does not own these three.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } == -1 {
            return Err(std::io::Error::last_os_error());
        }
    }
    pipe.write_all(&[MOUNTED])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Vec<String> {
        let (_reader, writer) = std::io::pipe().expect("a pipe");
        let command = command(&mut words.iter().map(OsString::from), &writer);
        let own = format!("{READY}{}", writer.as_raw_fd());
        let words = command.get_args().map(|word| word.to_string_lossy().replace(&own, "READY"));
        words.collect()
    }

    #[tokio::test]
    async fn daemon_sees_that_nobody_waits_for_it() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut gone = std::pin::pin!(starter_is_gone(Some(writer.as_raw_fd())));
        tokio::select! {
            biased;
            () = &mut gone => panic!("somebody waits"),
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
        }
        drop(reader);
        gone.await;
        starter_is_gone(Some(writer.as_raw_fd())).await;
    }

    #[test]
    fn command_line_of_a_daemon_can_be_made_twice() {
        let once = line(&["arvados", "mount", "--home", "m"]);
        assert_eq!(once, ["mount", "--foreground", "READY", "--home", "m"]);
        let twice = line(&["arvados", "mount", "--foreground", "--ready-descriptor=77", "--home", "m"]);
        assert_eq!(twice, ["mount", "--foreground", "READY", "--foreground", "--home", "m"]);
        assert_eq!(line(&["/bin/arv-mount", "m"]), ["--foreground", "READY", "m"]);
    }
}
