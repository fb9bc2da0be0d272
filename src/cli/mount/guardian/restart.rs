//! Mounting again what has died, as long as it does not die again and again.

use super::{Arguments, GONE, mounted_at, report};
use crate::cli::mount::daemon;
use crate::fuse::mountpoint;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Restarts within [`WINDOW`] before the guardian gives up: what dies that often needs a human.
const MOST_RESTARTS: usize = 5;

const WINDOW: Duration = Duration::from_secs(600);

/// Carries the times of earlier restarts, in seconds since 1970, from one guardian to the next.
const HISTORY: &str = "ARVADOS_MOUNT_RESTARTS";

/// Mounts again, up to [`MOST_RESTARTS`] times within [`WINDOW`], the later ones after a pause.
pub(super) fn restart(arguments: &Arguments, directory: &Path, id: u32) -> ExitCode {
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
pub(super) fn start_again(arguments: &Arguments, directory: &Path, history: &History) -> std::io::Result<bool> {
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

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// When the mount was restarted lately.
pub(super) struct History {
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
