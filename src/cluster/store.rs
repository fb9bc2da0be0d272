//! Where the records are: one SQLite file.
//!
//! One connection writes, any number read. Readers work on snapshots (write-ahead log) and never wait for the writer,
//! so a large update does not hold up a list. A commit is on disk before the request is answered (`synchronous=FULL`):
//! what a client was told survives `kill -9` and a power cut. What is on disk then is the log; a thread takes it over into
//! the database ([`checkpoints`]).
//!
//! Nothing here is async. Every call runs on a thread of the blocking pool (`api.rs` sees to that), never on one that
//! drives connections.
//!
//! Locks, always taken in this order, so that there is no circle: the lock of one collection ([`Store::lock`], held
//! while its new content is worked out), then the writer's connection. Nobody holds two collection locks, nobody asks
//! for a collection lock while writing, and the mutex around the idle readers is only held to push or pop.

mod checkpoints;
pub mod functions;
pub mod rows;
pub mod schema;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::cluster::permission::{Graph, Visibility};
use crate::cluster::record::collection::recent::Edits;
use checkpoints::Checkpoints;

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refused.
    #[error("cannot open the database {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file was made by a newer program.
    #[error("the database {} has schema {found}, this program knows schemas up to {known}: use the newer program", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The file system refused.
    #[error("cannot create the database {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Who is looking: read by the SQL functions of a connection while a call uses it.
pub type Eyes = Arc<ArcSwapOption<Visibility>>;

/// A connection and the slot through which its SQL functions know the caller.
#[derive(Debug)]
pub struct Link {
    sql: Connection,
    eyes: Eyes,
}

#[derive(Clone)]
struct ByLength;

impl Weighter<String, Arc<str>> for ByLength {
    fn weight(&self, key: &String, text: &Arc<str>) -> u64 {
        (key.len() + text.len()) as u64
    }
}

/// The database of a cluster.
pub struct Store {
    path: PathBuf,
    writer: Mutex<Link>,
    readers: Mutex<Vec<Link>>,
    locks: DashMap<String, Arc<Mutex<()>>>,
    /// Manifests by the MD5 of their text: what is read again and again by a mount is not read from disk each time.
    pub manifests: Manifests,
    /// What the last edits of collections have left for the next ones.
    pub recent: Edits,
    checkpoints: Checkpoints,
    /// The permission graph of the last committed state.
    pub graph: ArcSwapOption<Graph>,
}

/// Recently used manifests.
pub struct Manifests(Cache<String, Arc<str>, ByLength>);

impl Manifests {
    /// Memory for recently used manifests: some dozens of collections with 100,000 files.
    const BYTES: u64 = 256 << 20;

    /// A manifest that was used before.
    pub fn get(&self, hash: &str) -> Option<Arc<str>> {
        self.0.get(hash)
    }

    /// Remembers a manifest.
    pub fn put(&self, hash: &str, text: Arc<str>) {
        self.0.insert(hash.to_owned(), text);
    }
}

impl Store {
    /// Opens or creates the database, readable for its owner only, and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        if !path.exists() {
            use std::os::unix::fs::OpenOptionsExt;
            std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io)?;
        }
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let mut writer = connect(path).map_err(sqlite)?;
        writer.sql.pragma_update(None, "wal_autocheckpoint", checkpoints::WRITERS_PAGES).map_err(sqlite)?;
        schema::migrate(&mut writer.sql, path)?;
        let checkpoints = Checkpoints::start(connect(path).map_err(sqlite)?.sql, path).map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            readers: Mutex::new(Vec::new()),
            locks: DashMap::new(),
            manifests: Manifests(Cache::with_weighter(64, Manifests::BYTES, ByLength)),
            recent: Edits::default(),
            checkpoints,
            graph: ArcSwapOption::empty(),
        })
    }

    /// Runs `work` on a snapshot.
    ///
    /// # Errors
    /// Those of `work`, and of SQLite.
    pub fn read<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&Connection, &Eyes) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut link = match idle {
            Some(link) => link,
            None => connect(&self.path)?,
        };
        let result = {
            let transaction = link.sql.transaction_with_behavior(TransactionBehavior::Deferred)?;
            work(&transaction, &link.eyes)
        };
        link.eyes.store(None);
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(link);
        result
    }

    /// Runs `work` in a transaction that is committed when it succeeds and forgotten when it fails; `then` runs after
    /// the commit and before the next writer, so that what it publishes is in commit order.
    ///
    /// # Errors
    /// Those of `work`, and of SQLite.
    pub fn write<T, E: From<rusqlite::Error>>(
        &self,
        work: impl FnOnce(&Connection, &Eyes) -> Result<T, E>,
        then: impl FnOnce(&T),
    ) -> Result<T, E> {
        let mut link = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let Link { sql, eyes } = &mut *link;
        let transaction = sql.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&transaction, eyes);
        eyes.store(None);
        let value = result?;
        transaction.commit()?;
        self.checkpoints.committed();
        then(&value);
        Ok(value)
    }

    /// Notes that a text is written in the running transaction.
    pub fn grown(&self, bytes: usize) {
        self.checkpoints.grown(bytes);
    }

    /// The lock of a collection: updates of one collection happen one after the other, whatever they contain, while
    /// those of different collections work out their new content side by side (protocol.md 4.12).
    pub fn lock(&self, uuid: &str) -> Arc<Mutex<()>> {
        // Locks that nobody holds any more are dropped when there are many, so that the table does not grow for ever.
        if self.locks.len() > MANY_LOCKS {
            self.locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(&self.locks.entry(uuid.to_owned()).or_default())
    }
}

/// Bytes of a page of a new database. A text of megabytes is a chain of pages, so they should be large, but a small commit
/// writes some twenty of them whole. With 8 KiB a commit of 6 MB took a fifth less time than with 4 KiB, with 16 KiB
/// hardly less than that, and a small one no more.
const PAGE: u32 = 8 << 10;

/// When to look for locks that nobody holds any more.
const MANY_LOCKS: usize = 1024;

/// Takes a lock that protects no data of its own, so that a panic of an earlier holder is no reason to stop.
pub fn hold(lock: &Mutex<()>) -> MutexGuard<'_, ()> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path) -> Result<Link, rusqlite::Error> {
    let sql = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // Has effect before the first table is made only.
    sql.pragma_update(None, "page_size", PAGE)?;
    sql.pragma_update(None, "journal_mode", "wal")?;
    sql.pragma_update(None, "synchronous", "full")?;
    sql.pragma_update(None, "foreign_keys", "on")?;
    sql.busy_timeout(std::time::Duration::from_secs(60))?;
    sql.set_prepared_statement_cache_capacity(256);
    let eyes = Eyes::default();
    functions::register(&sql, &eyes)?;
    Ok(Link { sql, eyes })
}
