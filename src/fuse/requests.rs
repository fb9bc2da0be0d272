//! Which inodes have a request under way whose sender may hold a lock that a notification needs.
//!
//! A notification waits in the kernel, uninterruptibly, for that lock (fuse.md, traps 2 and 9). So the notifier asks here first.
//! What counts, by the kernel's locking (`fs/fuse`, `Documentation/filesystems/locking.rst`):
//!
//! * READ and WRITE hold the locks of the pages that they fill or send; dropping a file's pages needs those locks.
//! * LOOKUP, READDIR, CREATE, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, FSYNCDIR and SETATTR hold the lock of the directory;
//!   letting one of its names expire needs it. RMDIR holds that of the directory that goes as well, and RENAME those of a
//!   directory that is moved and of one that is replaced.
//! * GETATTR, OPEN, FLUSH, FSYNC, RELEASE, OPENDIR and STATFS hold nothing that a notification needs. They are not counted,
//!   because a FLUSH may take as long as a commit and would hold up everything that other clients change.
//!
//! A request counts until its answer has been written, and that is a moment after our function returned: the crate writes it
//! in the same turn of the session's runtime. So a guard that is dropped only marks the request; a task that runs in a later
//! turn takes it out.
//!
//! The lock of `ended` is held for a push or a swap only, and no other is taken meanwhile.

use crate::vfs::Inode;
use dashmap::DashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Most inodes that one request holds: RENAME has two parents, and what is moved and replaced.
const MOST: usize = 4;

/// Stands for no inode at all.
const NONE: Inode = Inode(0);

/// The table of requests under way, shared by the adapter and the notifier.
#[derive(Debug, Default)]
pub struct Requests {
    running: DashMap<u64, u32>,
    /// Requests whose answer is about to be written.
    ended: Mutex<Vec<[Inode; MOST]>>,
    /// Does the notifier wait for one of them?
    is_awaited: AtomicBool,
    became_idle: Condvar,
    /// Guards nothing but the condition variable.
    idle: Mutex<()>,
}

impl Requests {
    /// Enters a request that holds the locks of some inodes, until the guard is dropped.
    pub fn start(self: &Arc<Self>, inodes: &[Inode]) -> Busy {
        debug_assert!(inodes.len() <= MOST);
        let mut held = [NONE; MOST];
        for (place, inode) in held.iter_mut().zip(inodes) {
            *place = *inode;
            *self.running.entry(inode.0).or_default() += 1;
        }
        Busy { requests: self.clone(), inodes: held }
    }

    pub fn is_busy(&self, inode: Inode) -> bool {
        self.running.contains_key(&inode.0)
    }

    /// Waits until some inode becomes idle, at most `limit`; may return early for no reason.
    pub fn wait(&self, limit: Duration) {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_awaited.store(true, Ordering::SeqCst);
        // A request that ends between the caller's look and here is seen `limit` later.
        drop(self.became_idle.wait_timeout(idle, limit));
        self.is_awaited.store(false, Ordering::SeqCst);
    }

    fn settle(&self) {
        let ended = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        let mut is_idle = false;
        for inode in ended.into_iter().flatten().filter(|inode| *inode != NONE) {
            if let dashmap::Entry::Occupied(mut count) = self.running.entry(inode.0) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                    is_idle = true;
                }
            }
        }
        if is_idle && self.is_awaited.load(Ordering::SeqCst) {
            self.became_idle.notify_all();
        }
    }
}

/// See [`Requests::start`].
#[derive(Debug)]
pub struct Busy {
    requests: Arc<Requests>,
    inodes: [Inode; MOST],
}

impl Drop for Busy {
    fn drop(&mut self) {
        let is_first = {
            let mut ended = self.requests.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.push(self.inodes);
            ended.len() == 1
        };
        if !is_first {
            return;
        }
        let requests = self.requests.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { requests.settle() })),
            Err(_) => requests.settle(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn inode_is_busy_until_the_turn_after_the_last_answer() {
        let requests = Arc::new(Requests::default());
        let one = requests.start(&[Inode(5)]);
        let two = requests.start(&[Inode(5), Inode(6)]);
        drop(one);
        tokio::task::yield_now().await;
        assert!(requests.is_busy(Inode(5)) && requests.is_busy(Inode(6)));
        drop(two);
        assert!(requests.is_busy(Inode(5)), "its answer is not written yet");
        tokio::task::yield_now().await;
        assert!(!requests.is_busy(Inode(5)) && !requests.is_busy(Inode(6)));
        assert!(requests.running.is_empty());
    }

    #[test]
    fn rename_within_one_directory_counts_twice_and_ends_twice() {
        let requests = Arc::new(Requests::default());
        drop(requests.start(&[Inode(5), Inode(5)]));
        assert!(requests.running.is_empty());
    }
}
