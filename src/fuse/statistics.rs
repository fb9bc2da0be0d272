//! Counters of the FUSE operations, for `crunchstat` lines (arv-mount.md section 5) and, later, metrics.
//!
//! Plain atomics: every request touches them. The time of an operation runs from the moment its request is taken up to
//! its answer, waiting for the network included.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Operations in the order in which `crunchstat` lines show them. Those that a read-only mount never sees stay 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Destroy,
    OnEvent,
    Getattr,
    Setattr,
    Lookup,
    Forget,
    Open,
    Release,
    Opendir,
    Readdir,
    Statfs,
    Create,
    Mkdir,
    Unlink,
    Rmdir,
    Rename,
    Flush,
}

impl Operation {
    pub const ALL: [(Operation, &str); 19] = [
        (Operation::Read, "read"),
        (Operation::Write, "write"),
        (Operation::Destroy, "destroy"),
        (Operation::OnEvent, "on_event"),
        (Operation::Getattr, "getattr"),
        (Operation::Setattr, "setattr"),
        (Operation::Lookup, "lookup"),
        (Operation::Forget, "forget"),
        (Operation::Open, "open"),
        (Operation::Release, "release"),
        (Operation::Opendir, "opendir"),
        (Operation::Readdir, "readdir"),
        (Operation::Statfs, "statfs"),
        (Operation::Create, "create"),
        (Operation::Mkdir, "mkdir"),
        (Operation::Unlink, "unlink"),
        (Operation::Rmdir, "rmdir"),
        (Operation::Rename, "rename"),
        (Operation::Flush, "flush"),
    ];
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

/// All counters of one mount.
#[derive(Debug, Default)]
pub struct Statistics {
    operations: [Counter; Operation::ALL.len()],
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Statistics {
    /// Counts an operation from now until the returned guard is dropped.
    pub fn start(&self, operation: Operation) -> Running<'_> {
        Running { counter: &self.operations[operation as usize], since: Instant::now() }
    }

    pub fn add_bytes_read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn add_bytes_written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How often an operation ended, and the time it took in sum.
    pub fn operation(&self, operation: Operation) -> (u64, Duration) {
        let counter = &self.operations[operation as usize];
        (counter.count.load(Ordering::Relaxed), Duration::from_nanos(counter.nanoseconds.load(Ordering::Relaxed)))
    }

    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }
}

/// See [`Statistics::start`].
pub struct Running<'a> {
    counter: &'a Counter,
    since: Instant,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.counter.count.fetch_add(1, Ordering::Relaxed);
        self.counter.nanoseconds.fetch_add(self.since.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for (index, (operation, _)) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, index);
        }
    }

    #[test]
    fn operation_is_counted_when_it_ends() {
        let statistics = Statistics::default();
        let running = statistics.start(Operation::Lookup);
        assert_eq!(statistics.operation(Operation::Lookup).0, 0);
        drop(running);
        assert_eq!(statistics.operation(Operation::Lookup).0, 1);
        assert_eq!(statistics.operation(Operation::Flush).0, 0);
    }
}
