//! The file with the records: appending, settling, and keeping it short.
//!
//! What must stay true:
//!
//! * An append that fails leaves the log as it was. Where even that fails, the rest of the broken record stays, and
//!   readers find the next one by its mark.
//! * What is settled may be forgotten late (a replay of it finds the server equal and does nothing), what is not settled
//!   never: a rewrite goes on only if it reads back every record that must be there.
//! * After an `fdatasync` that failed, the kernel may have forgotten which pages are not on the disk, and the next one
//!   succeeds without having written them. So the next durable append writes the log anew.
//! * A log is never without its [`BEGINNING`], or it would look as if its records had been lost.
//! * What is written to a file that has no name any more goes with the process: it is refused.

use super::change::{Change, Operation, Sent, Sequence};
use super::error::Error;
use super::place;
use super::record::{BEGINNING, Record, decode, encode, encode_together};
use super::replay::{Files, Pending};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the log, and of the one that is to replace it.
pub(super) const FILE: &str = "log";
pub(super) const NEW: &str = "log.new";

/// Bytes of a log without records.
pub(super) const LEAST: u64 = BEGINNING.len() as u64;

/// The log is not rewritten for less than this, in bytes: a rewrite costs an `fsync`, some ten milliseconds, in which a
/// disk writes about as much.
const WORTH: u64 = 1 << 20;

/// An open log. Not shared: [`super::Journal`] has the lock.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    file: Arc<File>,
    /// Bytes, and the most there may be.
    length: u64,
    limit: u64,
    last: Sequence,
    /// Bytes of records that are settled or superseded.
    dead: u64,
    collections: BTreeMap<String, Collection>,
    /// How many of the records that are neither settled nor superseded name each backing file.
    backings: BTreeMap<u64, usize>,
    /// What was settled and could not be written down.
    owed: Vec<Record<'static>>,
    /// The file is longer than `length`: the rest of a record that could not be written.
    ragged: bool,
    /// An `fdatasync` has failed.
    distrusted: bool,
    /// How often something was written to the file, and what of that is on the disk.
    writes: u64,
    synced: u64,
    /// The collections of which the disk has records. It may not know that they are settled.
    on_disk: BTreeSet<String>,
    /// Nothing may be taken away: something in the log could not be read, nor kept in another place.
    frozen: bool,
    /// After a rewrite that failed: not again before the log has this length.
    rewrite_at: u64,
}

#[derive(Debug, Default)]
struct Collection {
    /// Each record that is neither settled nor superseded.
    records: BTreeMap<Sequence, Entry>,
    files: Files,
    /// Size in the log of the saves that matter, and of the last one.
    sent: u64,
    last_sent: u64,
    /// Saves of which it is not known whether they arrived.
    open: usize,
    /// The last state of the collection that a record tells of.
    state: u64,
}

/// A record in the log.
#[derive(Debug)]
struct Entry {
    /// Bytes.
    size: u64,
    /// The backing file that it names.
    backing: Option<u64>,
    /// See [`Change::after`].
    after: Vec<String>,
}

impl Entry {
    fn of(change: &Change, size: u64) -> Entry {
        let backing = match &change.operation {
            Operation::File { content, .. } => content.backing,
            _ => None,
        };
        Entry { size, backing, after: change.after.clone() }
    }
}

impl Collection {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.open == 0
    }
}

impl Log {
    /// Makes a log in a folder that has none.
    pub(super) fn create(folder: &Path, limit: u64) -> Result<Log, Error> {
        let path = folder.join(FILE);
        let file = place::write(&path, BEGINNING).map_err(Error::at("make", &path))?;
        Ok(Log::of(folder, file, LEAST, limit, &Pending::default(), LEAST))
    }

    /// Goes on with a log of `length` bytes, which is there: one that is missing is not made, or nobody would see that it was missing.
    /// `kept` says that it may be rewritten.
    pub(super) fn resume(folder: &Path, length: u64, pending: &Pending, kept: bool) -> Result<Log, Error> {
        let path = folder.join(FILE);
        let file = place::open(&path, OpenOptions::new().read(true).append(true));
        let mut log = Log::of(folder, file.map_err(Error::at("open", &path))?, length, u64::MAX, pending, 0);
        log.frozen = !kept;
        Ok(log)
    }

    fn of(folder: &Path, file: File, length: u64, limit: u64, pending: &Pending, live: u64) -> Log {
        let mut collections: BTreeMap<String, Collection> = BTreeMap::new();
        let mut backings = BTreeMap::new();
        let each = pending.collections.iter().flat_map(|(uuid, changes)| changes.iter().map(move |pair| (uuid, pair)));
        for (uuid, (sequence, change)) in each {
            let collection = collections.entry(uuid.clone()).or_default();
            // Sizes are not told here; they only serve to judge when a rewrite pays, and the caller's sum does for that.
            let entry = Entry::of(change, 0);
            entry.backing.into_iter().for_each(|number| *backings.entry(number).or_default() += 1);
            collection.records.insert(*sequence, entry);
            collection.state = collection.state.max(change.state);
            collection.files.supersedes(*sequence, &change.operation);
        }
        for (uuid, sent) in &pending.sent {
            let collection = collections.entry(uuid.clone()).or_default();
            collection.open = sent.iter().filter(|save| !save.has_arrived).count();
            collection.state = sent.iter().map(|save| save.state).fold(collection.state, u64::max);
        }
        let on_disk = pending.collections.keys().cloned().collect();
        Log {
            folder: folder.to_owned(),
            file: Arc::new(file),
            length,
            limit,
            last: pending.last,
            dead: length - live.min(length),
            collections,
            backings,
            owed: Vec::new(),
            ragged: false,
            distrusted: false,
            writes: 0,
            synced: 0,
            on_disk,
            frozen: false,
            rewrite_at: 0,
        }
    }

    /// Everything is on the disk.
    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.writes && !self.distrusted
    }

    /// How often the file was written to, for [`Log::was_synced`].
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// So many writes of the file are on the disk.
    pub(super) fn has_synced(&self, file: &File, writes: u64) -> bool {
        std::ptr::eq(file, &*self.file) && self.synced >= writes && !self.distrusted
    }

    /// The file was brought to the disk after so many writes, if it is still the log. `before`: the collections that had records
    /// then. Others' may have come with them.
    pub(super) fn was_synced(&mut self, file: &File, writes: u64, before: Vec<String>) {
        if std::ptr::eq(file, &*self.file) {
            self.synced = self.synced.max(writes);
            self.on_disk = before.into_iter().chain(self.collections()).collect();
        }
    }

    /// May the disk have records of the collection?
    pub(super) fn is_on_disk(&self, collection: &str) -> bool {
        self.on_disk.contains(collection)
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn is_filling(&self) -> bool {
        self.length.saturating_sub(self.dead) > self.limit / 2
    }

    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen
    }

    pub(super) fn is_empty(&self) -> bool {
        self.collections.is_empty()
    }

    pub(super) fn pending(&self, collection: &str) -> usize {
        self.collections.get(collection).map_or(0, |collection| collection.records.len())
    }

    /// Nothing that counts, but for saves that may not have arrived: those matter to nobody without changes that come later.
    pub(super) fn is_settled(&self) -> bool {
        self.collections.values().all(|collection| collection.records.is_empty())
    }

    /// The last state of the collection that is told of, and the last change that is not settled.
    pub(super) fn reach(&self, collection: &str) -> (u64, Option<Sequence>) {
        let Some(collection) = self.collections.get(collection) else { return (0, None) };
        (collection.state, collection.records.keys().next_back().copied())
    }

    /// Does all that it has of the collection come after what that other journal has?
    pub(super) fn follows(&self, collection: &str, other: &str) -> bool {
        let records = self.collections.get(collection).map(|collection| &collection.records);
        records.is_some_and(|records| records.values().all(|entry| entry.after.iter().any(|id| id == other)))
    }

    pub(super) fn collections(&self) -> Vec<String> {
        let pending = self.collections.iter().filter(|(_, collection)| !collection.records.is_empty());
        pending.map(|(uuid, _)| uuid.clone()).collect()
    }

    /// Does a record that counts name this backing file, or one that will count for whoever reads the log as it is?
    pub(super) fn names(&self, backing: u64) -> bool {
        !self.owed.is_empty() || self.backings.contains_key(&backing)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Writes changes down, all or none. Returns the sequence of the last one.
    pub(super) fn append(&mut self, collection: &str, changes: &[Change]) -> Result<Sequence, Error> {
        if changes.is_empty() {
            return Ok(self.last);
        }
        let sequences = (self.last.0 + 1..).map(Sequence);
        let records: Vec<_> = sequences
            .zip(changes)
            .map(|(sequence, change)| Record::Change {
                sequence,
                collection: collection.into(),
                change: Cow::Borrowed(change),
            })
            .collect();
        let bytes = encode_together(&records)?;
        let size = bytes.len() as u64;
        let fits = |length: u64| length.saturating_add(size) <= self.limit;
        // Only where that makes enough room: else a full log would be written anew for each change that is refused.
        if !fits(self.length) && fits(self.length.saturating_sub(self.dead)) && !self.frozen {
            self.rewrite()?;
        }
        if self.length.saturating_add(size) > self.limit {
            return Err(Error::Full { folder: self.folder.clone(), limit: self.limit });
        }
        // Also a failed append uses its numbers up: a rest of it may be in the file.
        let first = self.last.0 + 1;
        self.last = Sequence(self.last.0 + changes.len() as u64);
        self.pay();
        self.write(&bytes)?;
        let entry = self.collections.entry(collection.to_owned()).or_default();
        for (sequence, change) in (first..).map(Sequence).zip(changes) {
            let written = Entry::of(change, size / changes.len() as u64);
            written.backing.into_iter().for_each(|number| *self.backings.entry(number).or_default() += 1);
            for earlier in entry.files.supersedes(sequence, &change.operation) {
                if let Some(earlier) = entry.records.remove(&earlier) {
                    self.dead += earlier.size;
                    forget(&mut self.backings, &earlier);
                }
            }
            entry.records.insert(sequence, written);
            entry.state = entry.state.max(change.state);
        }
        self.tidy();
        Ok(self.last)
    }

    /// Takes note that the server has all up to this sequence.
    pub(super) fn settle(&mut self, collection: &str, up_to: Sequence) -> Result<(), Error> {
        let Some(entry) = self.collections.get_mut(collection) else { return Ok(()) };
        let before = entry.records.len();
        let (dead, backings) = (&mut self.dead, &mut self.backings);
        entry.records.retain(|sequence, record| {
            let stays = *sequence > up_to;
            if !stays {
                *dead += record.size;
                forget(backings, record);
            }
            stays
        });
        entry.files.settle(up_to);
        if entry.records.len() == before {
            return Ok(());
        }
        if entry.is_empty() {
            *dead += entry.sent;
            self.collections.remove(collection);
        }
        // Before the log is made short: a rewrite goes by what it says, and by what is owed to it.
        self.owed.push(Record::Settled { collection: collection.to_owned().into(), up_to });
        self.tidy();
        self.pay_all()
    }

    /// Notes what a save is about to put at its paths.
    pub(super) fn send(&mut self, collection: &str, save: &Sent) -> Result<(), Error> {
        let bytes = encode(&Record::Sent { collection: collection.into(), save: Cow::Borrowed(save) })?;
        if self.length.saturating_add(bytes.len() as u64) > self.limit {
            return Err(Error::Full { folder: self.folder.clone(), limit: self.limit });
        }
        // That an earlier one has arrived must not come to stand behind this one.
        self.pay_all()?;
        self.write(&bytes)?;
        let entry = self.collections.entry(collection.to_owned()).or_default();
        if entry.open > 0 {
            // Mostly it was the same: that is seen when the log is written anew.
            self.dead += entry.last_sent;
            entry.sent -= entry.last_sent;
        }
        entry.last_sent = bytes.len() as u64;
        entry.sent += entry.last_sent;
        entry.open += 1;
        entry.state = entry.state.max(save.state);
        self.tidy();
        Ok(())
    }

    /// Notes that the last save that was sent was refused. Where others may still arrive it stays, for they may have put the same at
    /// their paths, and only the last one that did so is kept.
    pub(super) fn withdraw(&mut self, collection: &str) -> Result<(), Error> {
        let Some(entry) = self.collections.get_mut(collection).filter(|entry| entry.open == 1) else { return Ok(()) };
        entry.open = 0;
        self.dead += entry.last_sent;
        entry.sent -= entry.last_sent;
        entry.last_sent = 0;
        if entry.is_empty() {
            self.dead += entry.sent;
            self.collections.remove(collection);
        }
        self.owed.push(Record::Withdrawn { collection: collection.to_owned().into() });
        self.tidy();
        self.pay_all()
    }

    /// Notes that the last save that was sent is what the server has.
    pub(super) fn arrive(&mut self, collection: &str) -> Result<(), Error> {
        let Some(entry) = self.collections.get_mut(collection).filter(|entry| entry.open > 0) else { return Ok(()) };
        entry.open = 0;
        let matters = if entry.is_empty() { 0 } else { entry.last_sent };
        self.dead += entry.sent - matters;
        entry.sent = matters;
        if entry.is_empty() {
            self.collections.remove(collection);
        }
        self.owed.push(Record::Arrived { collection: collection.to_owned().into() });
        self.tidy();
        self.pay_all()
    }

    /// As [`Log::pay_all`]; what cannot be paid now is tried again with the next record.
    fn pay(&mut self) {
        if let Err(error) = self.pay_all() {
            tracing::debug!(%error, "what is settled could not be noted in the journal yet");
        }
    }

    /// Writes down what was settled. The limit does not hold for this: it is what makes room.
    pub(super) fn pay_all(&mut self) -> Result<(), Error> {
        while let Some(record) = self.owed.first() {
            let bytes = encode(record)?;
            self.write(&bytes)?;
            self.dead += bytes.len() as u64;
            self.owed.remove(0);
        }
        Ok(())
    }

    /// Errors: [`Error::Removed`].
    pub(super) fn check_named(&self) -> Result<(), Error> {
        let path = self.path();
        let held = self.file.metadata().map_err(Error::at("look at", &path))?;
        // There are file systems that count no names at all.
        let is_there = || path.symlink_metadata().is_ok_and(|it| (it.dev(), it.ino()) == (held.dev(), held.ino()));
        if held.nlink() > 0 || is_there() { Ok(()) } else { Err(Error::Removed { folder: self.folder.clone() }) }
    }

    /// Appends whole or not at all.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.check_named()?;
        if self.ragged {
            self.ragged = self.file.set_len(self.length).is_err();
            if self.ragged {
                // The rest stays, and the record goes behind it, where its mark is found.
                let metadata = self.file.metadata().map_err(Error::at("look at", &self.path()))?;
                self.length = metadata.len();
                self.ragged = false;
            }
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&*self.file).write(rest) {
                Ok(0) => return Err(self.revert(io::ErrorKind::WriteZero.into())),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.revert(error)),
            }
        }
        self.length += bytes.len() as u64;
        self.writes += 1;
        Ok(())
    }

    fn revert(&mut self, source: io::Error) -> Error {
        self.ragged = self.file.set_len(self.length).is_err();
        Error::disk("write to", &self.path(), source)
    }

    /// An `fdatasync` has failed, see the module's essay.
    pub(super) fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// Makes good for an `fdatasync` that failed earlier.
    pub(super) fn regain_trust(&mut self) -> Result<(), Error> {
        if self.distrusted && !self.frozen { self.rewrite() } else { Ok(()) }
    }

    /// Makes the log short where that pays. What is owed is paid by it.
    fn tidy(&mut self) {
        if self.frozen {
            return;
        }
        if self.is_empty() {
            match self.file.set_len(LEAST) {
                Ok(()) => {
                    self.length = LEAST;
                    self.writes += 1;
                    self.dead = 0;
                    self.rewrite_at = 0;
                    self.ragged = false;
                    self.distrusted = false;
                    self.owed.clear();
                }
                Err(error) => tracing::warn!(path = %self.path().display(), %error, "cannot empty the journal"),
            }
        } else if self.dead > WORTH
            && self.dead > self.length / 2
            && self.length >= self.rewrite_at
            && let Err(error) = self.rewrite()
        {
            self.rewrite_at = self.length + WORTH;
            tracing::warn!(path = %self.path().display(), %error, "cannot shorten the journal");
        }
    }

    /// Writes what is pending to a new file and puts it in the place of the old one.
    pub(super) fn rewrite(&mut self) -> Result<(), Error> {
        self.check_named()?;
        let path = self.path();
        let bytes = place::read(&path).map_err(Error::at("read", &path))?;
        let mut pending = Pending::default();
        decode(&bytes).records.into_iter().for_each(|(record, _)| pending.apply(record));
        self.owed.iter().cloned().for_each(|record| pending.apply(record));
        drop(bytes);
        for (uuid, collection) in &self.collections {
            let found = pending.collections.get(uuid);
            let is_there = |sequence| found.is_some_and(|found| found.contains_key(sequence));
            if !collection.records.keys().all(is_there) {
                return Err(Error::Changed { path, problem: "records are missing" });
            }
        }
        pending.thin();
        pending.last = pending.last.max(self.last);
        let mut new = Log::replace(&self.folder, &pending)?;
        new.limit = self.limit;
        for (uuid, collection) in &self.collections {
            // Of two that put the same one note is left, and it is that of either.
            if let Some(kept) = new.collections.get_mut(uuid).filter(|kept| kept.open > 0) {
                kept.open = kept.open.max(collection.open);
            }
        }
        *self = new;
        Ok(())
    }

    /// A log of nothing but what is pending, on the disk when this returns, in the place of what there was.
    pub(super) fn replace(folder: &Path, pending: &Pending) -> Result<Log, Error> {
        let (path, new) = (folder.join(FILE), folder.join(NEW));
        let mut bytes = BEGINNING.to_vec();
        let mut sizes = BTreeMap::new();
        for (uuid, changes) in &pending.collections {
            for (sequence, change) in changes {
                let change = Cow::Borrowed(change);
                let record = encode(&Record::Change { sequence: *sequence, collection: uuid.into(), change })?;
                sizes.insert(*sequence, record.len() as u64);
                bytes.extend_from_slice(&record);
            }
        }
        for (uuid, saves) in &pending.sent {
            for save in saves {
                // That it has arrived is said in the record itself: a record of its own would be taken to tell what the server had
                // at the paths of all changes, also of those that came after it.
                bytes.extend(encode(&Record::Sent { collection: uuid.into(), save: Cow::Borrowed(save) })?);
            }
        }
        let made = remove_if_there(&new)
            .and_then(|()| place::write(&new, &bytes))
            .and_then(|file| std::fs::rename(&new, &path).map(|()| file));
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // It is of no use, and its room may be what is missing.
                let _ = remove_if_there(&new);
                return Err(Error::disk("write", &new, error));
            }
        };
        let length = bytes.len() as u64;
        let mut log = Log::of(folder, file, length, u64::MAX, pending, length);
        // The old log has no name any more, so there is no way back. After a crash of the machine it may have one again:
        // then what was written since is missing, which the next durable append mends.
        log.distrusted = place::sync(folder).is_err();
        for (sequence, entry) in log.collections.values_mut().flat_map(|collection| &mut collection.records) {
            entry.size = sizes.get(sequence).copied().unwrap_or(0);
        }
        Ok(log)
    }
}

/// A record does not count any more.
fn forget(backings: &mut BTreeMap<u64, usize>, entry: &Entry) {
    let Some(number) = entry.backing else { return };
    if let Some(count) = backings.get_mut(&number) {
        *count -= 1;
        if *count == 0 {
            backings.remove(&number);
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
