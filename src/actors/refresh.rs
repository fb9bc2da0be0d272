//! One fetch for many who wait: the bookkeeping that collection and listing actors share. Pure, no I/O, no clock of its own.
//!
//! A fetch is started with an epoch. Its result is taken only if that epoch is still the current one, so an answer that
//! was overtaken (an actor that was told something newer meanwhile) cannot bring back an old state.

use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The longest pause after failures in a row; they double from one second.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A fetch that takes longer is not waited for by those who have an old state to go on with.
const SLOW: Duration = Duration::from_secs(3);

/// Where the answer goes.
pub type Reply<T, E> = oneshot::Sender<Result<T, E>>;

pub struct Refresh<T, E> {
    epoch: u64,
    /// Since when a fetch is under way.
    running: Option<Instant>,
    /// Satisfied by the fetch that is running.
    waiters: Vec<Reply<T, E>>,
    /// Came too late for it: they want what holds after they asked.
    late: Vec<Reply<T, E>>,
    failures: u32,
    failed: Option<Instant>,
}

impl<T, E> Default for Refresh<T, E> {
    fn default() -> Self {
        Refresh { epoch: 0, running: None, waiters: Vec::new(), late: Vec::new(), failures: 0, failed: None }
    }
}

impl<T: Clone, E: Clone> Refresh<T, E> {
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Does anybody wait, while nothing is under way?
    pub fn is_waited_for(&self) -> bool {
        self.running.is_none() && !self.waiters.is_empty()
    }

    /// Somebody waits for a result; one of a fetch that is already under way will do.
    pub fn join(&mut self, reply: Reply<T, E>) {
        self.waiters.push(reply);
    }

    /// Somebody waits for a result of a fetch that starts after now.
    pub fn join_fresh(&mut self, reply: Reply<T, E>) {
        if self.running.is_some() { self.late.push(reply) } else { self.waiters.push(reply) }
    }

    /// Begins a fetch and returns its epoch. Only when none is running.
    pub fn begin(&mut self, now: Instant) -> u64 {
        debug_assert!(self.running.is_none());
        self.running = Some(now);
        self.epoch += 1;
        self.epoch
    }

    /// The fetch of `epoch` ended. `false`: it was given up meanwhile, and its result is to be dropped.
    pub fn end(&mut self, epoch: u64, is_success: bool, now: Instant) -> bool {
        if epoch != self.epoch || self.running.is_none() {
            return false;
        }
        self.running = None;
        (self.failures, self.failed) = if is_success { (0, None) } else { (self.failures + 1, Some(now)) };
        true
    }

    /// Tells everybody the result. Those who asked too late wait on; returns whether there are any.
    pub fn tell(&mut self, result: &Result<T, E>) -> bool {
        for reply in self.waiters.drain(..) {
            // An error means that the asker was cancelled: nobody to tell.
            let _ = reply.send(result.clone());
        }
        std::mem::swap(&mut self.waiters, &mut self.late);
        !self.waiters.is_empty()
    }

    /// May a refresh that nobody waits for start now? After failures they come further and further apart.
    pub fn may_try(&self, now: Instant) -> bool {
        let pause = Duration::from_secs(1 << self.failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
        self.failed.is_none_or(|failed| now.duration_since(failed) >= pause)
    }

    /// Is there no point in waiting for a newer state? The last fetch failed a moment ago, or one has been under way for so long
    /// that the server does not seem to answer.
    pub fn is_hopeless(&self, now: Instant) -> bool {
        !self.may_try(now) || self.running.is_some_and(|since| now.duration_since(since) >= SLOW)
    }

    /// Has the last fetch failed?
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = Refresh<u32, ()>;

    #[test]
    fn one_fetch_serves_all_who_wait_and_late_ones_get_the_next() {
        let mut refresh = Numbers::default();
        let (first, mut first_answer) = oneshot::channel();
        let (second, mut second_answer) = oneshot::channel();
        let (late, mut late_answer) = oneshot::channel();
        refresh.join(first);
        let epoch = refresh.begin(Instant::now());
        refresh.join(second);
        refresh.join_fresh(late);
        assert!(refresh.end(epoch, true, Instant::now()));
        assert!(refresh.tell(&Ok(1)), "somebody asked too late");
        assert_eq!((first_answer.try_recv(), second_answer.try_recv()), (Ok(Ok(1)), Ok(Ok(1))));
        assert!(late_answer.try_recv().is_err());
        let epoch = refresh.begin(Instant::now());
        assert!(refresh.end(epoch, true, Instant::now()));
        assert!(!refresh.tell(&Ok(2)));
        assert_eq!(late_answer.try_recv(), Ok(Ok(2)));
    }

    #[test]
    fn result_of_an_old_epoch_is_dropped() {
        let mut refresh = Numbers::default();
        let epoch = refresh.begin(Instant::now());
        assert!(!refresh.end(epoch + 1, true, Instant::now()));
        assert!(refresh.end(epoch, true, Instant::now()));
        assert!(!refresh.end(epoch, true, Instant::now()), "only once");
    }

    #[test]
    fn nobody_waits_long_for_a_server_that_does_not_answer() {
        let mut refresh = Numbers::default();
        let start = Instant::now();
        let epoch = refresh.begin(start);
        assert!(!refresh.is_hopeless(start));
        assert!(refresh.is_hopeless(start + SLOW));
        refresh.end(epoch, false, start + SLOW);
        assert!(refresh.is_hopeless(start + SLOW) && !refresh.is_hopeless(start + SLOW + Duration::from_secs(1)));
    }

    #[test]
    fn failures_in_a_row_come_further_apart() {
        let mut refresh = Numbers::default();
        let start = Instant::now();
        for (failures, pause) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
            let epoch = refresh.begin(Instant::now());
            refresh.end(epoch, false, start);
            assert!(!refresh.may_try(start + Duration::from_secs(pause) - Duration::from_millis(1)), "{failures}");
            assert!(refresh.may_try(start + Duration::from_secs(pause)), "{failures}");
        }
        let epoch = refresh.begin(Instant::now());
        refresh.end(epoch, true, start);
        assert!(refresh.may_try(start));
    }
}
