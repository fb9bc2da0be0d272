//! `--exec`: a command that runs while the file system is mounted (arv-mount.md 1.6).

use crate::cli::signals;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Exit status when the command could neither be started nor waited for, for a reason without errno.
const UNKNOWN: u8 = 255;

/// Runs the command in the current directory with our standard streams, passes signals on to it, and returns the status
/// that we are to exit with: its own; `-N` as a byte if signal N killed it; errno if it cannot be started.
pub async fn run(words: &[OsString]) -> u8 {
    let Some((program, arguments)) = words.split_first() else { return 0 };
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: between fork and exec there are two system calls, which take numbers only.
    unsafe {
        command.pre_exec(|| {
            super::serve::flush_without_waiting_for_ourselves(false);
            signals::end_at_the_limit_on_files();
            Ok(())
        });
    }
    match command.spawn() {
        Ok(child) => wait(child).await,
        Err(error) => {
            tracing::error!(program = %program.display(), %error, "cannot start the command");
            error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(UNKNOWN)
        }
    }
}

async fn wait(mut child: Child) -> u8 {
    let process = child.id().map(|id| nix::unistd::Pid::from_raw(id as i32));
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut quit, mut hang_up] = kinds.map(|kind| signal(kind).ok());
    loop {
        let forwarded = tokio::select! {
            status = child.wait() => return code(status),
            () = next(&mut interrupt) => nix::sys::signal::Signal::SIGINT,
            () = next(&mut terminate) => nix::sys::signal::Signal::SIGTERM,
            () = next(&mut quit) => nix::sys::signal::Signal::SIGQUIT,
            () = next(&mut hang_up) => nix::sys::signal::Signal::SIGHUP,
        };
        if let Some(process) = process {
            // It may have ended in this moment: then there is nobody to tell.
            let _ = nix::sys::signal::kill(process, forwarded);
        }
    }
}

async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn code(status: std::io::Result<std::process::ExitStatus>) -> u8 {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => code as u8,
            (None, Some(signal)) => (-signal) as u8,
            (None, None) => UNKNOWN,
        },
        Err(_) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn status_of_the_command_is_ours() {
        let run = async |script: &str| run(&["sh".into(), "-c".into(), script.into()]).await;
        assert_eq!(run("exit 3").await, 3);
        assert_eq!(run("kill -TERM $$").await, 241);
        assert_eq!(super::run(&["/no/such/program".into()]).await, libc::ENOENT as u8);
        assert_eq!(super::run(&["/etc/passwd".into()]).await, libc::EACCES as u8);
    }
}
