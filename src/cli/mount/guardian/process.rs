//! The process of a mount, and whether it lives.
//!
//! Its number alone says nothing: it may be another process's by now. So it is believed only with the time at which that started.

use super::{ENDING, LOOK_AGAIN, UNMOUNTED};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The mount's process.
pub(super) struct Process {
    number: i32,
    began: u64,
    descriptor: Option<OwnedFd>,
}

impl Process {
    pub(super) fn open(number: i32, began: u64) -> Process {
        // SAFETY: pidfd_open touches no memory; what it returns is ours alone.
        let descriptor = unsafe {
            let descriptor = libc::syscall(libc::SYS_pidfd_open, number, 0);
            (descriptor >= 0).then(|| OwnedFd::from_raw_fd(descriptor as i32))
        };
        Process { number, began, descriptor }
    }

    /// Is it gone, or as good as gone? The number is only believed with the time.
    pub(super) fn is_dead(&self) -> bool {
        let status = Status::read(self.number);
        status.is_none_or(|status| status.began != self.began || status.is_dead)
            || crate::fuse::interrupt::is_dying(self.number as u32)
    }

    /// Waits for its death.
    pub(super) fn wait(&self, signals: &SignalFd, is_away: impl Fn() -> bool) -> Seen {
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
    pub(super) fn wait_until_gone(&self, limit: Duration) {
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
pub(super) struct Seen {
    /// The mount was not at its place any more.
    pub(super) away: bool,
    /// Somebody has asked for its end.
    pub(super) ending: bool,
}

/// What `/proc/PID/stat` says of a main thread.
pub(super) struct Status {
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

pub(super) fn began(process: u32) -> Option<u64> {
    Some(Status::read(i32::try_from(process).ok()?)?.began)
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
}
