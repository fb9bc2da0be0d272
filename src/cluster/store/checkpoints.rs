//! Taking what was committed from the write-ahead log over into the database, beside the work.
//!
//! SQLite does that in the commit that makes the log long, so every save of a large collection would write its text twice and
//! wait for the disk twice. Here a thread of its own does it; a commit waits for its own bytes in the log, which are what
//! makes it last. When the log has been taken over it is written again from its start, into space that the disk has given
//! already, which is several times faster than to append.
//!
//! What must stay true: the thread asks for nothing of ours while it works, so it holds nobody up and nobody can hold it up:
//! a passive checkpoint takes what it gets and waits for no reader and no writer. If it does not keep up, the writer's own
//! connection does it, at [`WRITERS_PAGES`], and the log stays bounded.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// Bytes in the log that are worth a checkpoint: SQLite's own measure, a thousand pages of 4 KiB.
const BYTES: u64 = 4 << 20;

/// Bytes that a commit adds besides texts, about: a page of each of some twenty tables and indexes.
const BYTES_OF_COMMIT: u64 = 20 * super::PAGE as u64;

/// Pages in the log at which the writer checkpoints by itself: 128 MiB.
pub const WRITERS_PAGES: u32 = (128 << 20) / super::PAGE;

/// The thread, and what has been written since its last turn.
pub struct Checkpoints {
    bytes: AtomicU64,
    /// None while it is dropped.
    turn: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Starts the thread.
    pub fn start(sql: Connection, path: &Path) -> std::io::Result<Self> {
        // One turn that waits stands for any number.
        let (turn, turns) = sync_channel(1);
        let shown = path.display().to_string();
        let thread = std::thread::Builder::new().name("checkpoints".to_owned());
        let thread = thread.spawn(move || run(&sql, &turns, &shown))?;
        Ok(Self { bytes: AtomicU64::new(0), turn: Some(turn), thread: Some(thread) })
    }

    /// Notes that a text is being written.
    pub fn grown(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes a commit.
    pub fn committed(&self) {
        let before = self.bytes.fetch_add(BYTES_OF_COMMIT, Ordering::Relaxed);
        if before >= BYTES
            && let Some(turn) = &self.turn
        {
            self.bytes.store(0, Ordering::Relaxed);
            // It is full when a turn waits already.
            let _ = turn.try_send(());
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.turn = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been shown by then, and there is nothing to save.
            drop(thread.join());
        }
    }
}

fn run(sql: &Connection, turns: &Receiver<()>, path: &str) {
    while turns.recv().is_ok() {
        if let Err(error) = sql.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())) {
            tracing::warn!(%error, path, "the log of the database could not be taken over; the next commits will try");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use crate::cluster::store::Store;

    #[test]
    fn what_is_committed_reaches_the_database_without_a_commit_that_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.sqlite");
        let store = Store::open(&path).unwrap();
        let size = || std::fs::metadata(&path).unwrap().len();
        let text = "x".repeat(super::BYTES as usize);
        let insert = |hash: &str| {
            let work = |sql: &rusqlite::Connection, _: &_| {
                sql.execute("INSERT INTO manifests VALUES (?, ?)", [hash, &text])?;
                store.grown(text.len());
                Ok::<_, rusqlite::Error>(())
            };
            store.write(work, |()| {}).unwrap();
        };
        insert("one");
        let deadline = Instant::now() + Duration::from_secs(60);
        while size() < super::BYTES {
            assert!(Instant::now() < deadline, "the log was not taken over");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
