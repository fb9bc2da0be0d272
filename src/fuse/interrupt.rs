//! Ending what a killed process waits for.
//!
//! The kernel tells by INTERRUPT that a signal arrived for a process which waits for one of our answers, and goes on
//! waiting for that answer. Without an answer a reader that was killed would stay until the network's deadlines. But not
//! every signal should end a request: programs in Go send themselves signals all the time, and an EINTR from `open`
//! or `read` of a plain file is an error that few programs expect. So a request ends early only if its thread is
//! going to die: the kernel then has SIGKILL pending for it, whatever the signal was.
//!
//! The kernel sends one INTERRUPT for a request, whatever comes after it: whoever catches SIGINT and is killed later is not
//! told of again. So a request that got a harmless signal is looked at again and again for as long as it waits.
//!
//! Only requests that have to wait are entered here; one that is answered at once costs nothing.

use dashmap::DashMap;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;

/// Between two looks at whether a thread that got a harmless signal is dying by now. Nobody notices a fifth of a second more
/// after a `kill -9`, and a look costs one small file of `/proc`.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Requests that wait, by their number in the FUSE protocol.
#[derive(Debug, Default)]
pub struct Waiting {
    requests: DashMap<u64, Arc<Notify>>,
}

/// The request was given up because its process dies.
#[derive(Debug, PartialEq, Eq)]
pub struct Interrupted;

impl Waiting {
    /// Runs `operation` for request `unique` of `thread` until it ends or is interrupted; then it is dropped, which cancels it.
    pub async fn run<T>(&self, unique: u64, thread: u32, operation: impl Future<Output = T>) -> Result<T, Interrupted> {
        let mut operation = std::pin::pin!(operation);
        if let Poll::Ready(result) = futures_util::poll!(operation.as_mut()) {
            return Ok(result);
        }
        let interrupted = Arc::new(Notify::new());
        self.requests.insert(unique, interrupted.clone());
        let _entered = Entered { waiting: self, unique };
        tokio::select! {
            biased;
            result = operation => Ok(result),
            () = death(&interrupted, thread) => Err(Interrupted),
        }
    }

    /// Called for INTERRUPT of request `unique`. A request that is not waiting any more has its answer on the way.
    pub fn interrupt(&self, unique: u64) {
        if let Some(interrupted) = self.requests.get(&unique) {
            interrupted.notify_one();
        }
    }
}

/// Ends when the thread got a signal and is dying.
async fn death(interrupted: &Notify, thread: u32) {
    interrupted.notified().await;
    while !is_dying(thread) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Takes the request out of the table, however its future ends.
struct Entered<'a> {
    waiting: &'a Waiting,
    unique: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.waiting.requests.remove(&self.unique);
    }
}

/// Is SIGKILL pending for this thread? A thread that is gone has nobody who waits; one that is only hidden from us (`hidepid`)
/// may be well.
pub fn is_dying(thread: u32) -> bool {
    if thread == 0 {
        // Of a process in another container the kernel does not tell us the number; it may be well.
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{thread}/status")) else {
        let thread = nix::unistd::Pid::from_raw(thread.cast_signed());
        return nix::sys::signal::kill(thread, None) != Err(nix::errno::Errno::EPERM);
    };
    let pending =
        status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    pending
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn request_of_a_dead_process_is_given_up() {
        let waiting = Waiting::default();
        // No thread has a number beyond the kernel's limit of 2^22.
        let request = waiting.run(7, u32::MAX, std::future::pending::<()>());
        let interrupt = async {
            while waiting.requests.is_empty() {
                tokio::task::yield_now().await;
            }
            waiting.interrupt(8);
            waiting.interrupt(7);
        };
        let both = async { tokio::join!(request, interrupt).0 };
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), both).await, Ok(Err(Interrupted)));
        assert!(waiting.requests.is_empty());
    }

    #[tokio::test]
    async fn process_that_first_got_a_harmless_signal_can_still_be_killed() {
        let waiting = Waiting::default();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("a process");
        let request = waiting.run(7, child.id(), std::future::pending::<()>());
        let signals = async {
            while waiting.requests.is_empty() {
                tokio::task::yield_now().await;
            }
            waiting.interrupt(7);
            tokio::task::yield_now().await;
            assert!(!waiting.requests.is_empty(), "nobody dies yet");
            // Of what comes next the kernel tells nothing.
            child.kill().and_then(|()| child.wait()).expect("a child");
        };
        let both = async { tokio::join!(request, signals).0 };
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), both).await, Ok(Err(Interrupted)));
        assert!(waiting.requests.is_empty());
    }

    #[tokio::test]
    async fn harmless_signal_does_not_end_a_request() {
        let waiting = Waiting::default();
        let me = nix::unistd::gettid().as_raw() as u32;
        let request = waiting.run(7, me, tokio::time::sleep(Duration::from_millis(50)));
        let interrupt = async { waiting.interrupt(7) };
        assert_eq!(tokio::join!(request, interrupt).0, Ok(()));
        assert!(waiting.requests.is_empty());
    }
}
