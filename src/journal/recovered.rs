//! The journal of a dead mount, taken over.
//!
//! It is a [`Journal`] again: what the new mount brings to the server it settles there, what fails stays pending there, and
//! its backing files stay where they are. Dropping it releases the lock and, when all is settled, removes the folder.

use super::contents::{Contents, DAMAGED};
use super::log::{self, Log};
use super::{Change, Error, Info, Journal, Sent, Sequence, acquire, place, remove};
use chrono::Utc;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// What a dead mount has left.
#[derive(Debug)]
pub struct Recovered {
    /// Holds the lock. Its limit is off; see [`Journal::set_limit`].
    pub journal: Journal,
    /// `None` if the file is damaged or missing.
    pub info: Option<Info>,
    /// By uuid, in order. What is said about the base of one path is the same in all changes of a collection.
    pub collections: BTreeMap<String, Vec<(Sequence, Change)>>,
    /// By uuid, in order: saves of which the dead mount did not learn whether they arrived.
    pub sent: BTreeMap<String, Vec<Sent>>,
    /// What could not be read, and where it is kept. Such a folder stays until somebody discards it.
    pub damage: Option<String>,
}

impl Recovered {
    /// Takes over a folder. `None`: it belongs to a mount that runs, is gone, or had nothing in it and was removed.
    pub(super) fn open(folder: &Path) -> Result<Option<Recovered>, Error> {
        place::check(folder)?;
        let Some(lock) = acquire(folder)? else { return Ok(None) };
        let info = Info::of(folder)?;
        let contents = Contents::read(folder)?;
        let mut damage = contents.problem();
        let collections = &contents.pending.collections;
        // What was sent tells nobody anything where no changes are left.
        if collections.is_empty() && damage.is_none() {
            return remove(folder, &lock).map(|()| None);
        }
        let mut log = None;
        if !contents.is_whole() {
            let note = match put_aside(folder, &contents) {
                Ok((shortened, name)) => {
                    log = Some(shortened);
                    match contents.is_missing {
                        true => format!("that it was missing is noted by {name}"),
                        false => format!("the log as it was is kept as {name}"),
                    }
                }
                Err(error) => format!("the log is used as it is, since it cannot be put aside: {error}"),
            };
            damage = damage.map(|damage| format!("{damage}; {note}"));
        }
        let log = match log {
            Some(log) => log,
            None => Log::resume(folder, contents.length, &contents.pending, contents.is_whole())?,
        };
        let listed = |changes: &BTreeMap<_, Change>| changes.iter().map(|(at, change)| (*at, change.clone())).collect();
        let collections = collections.iter().map(|(uuid, changes)| (uuid.clone(), listed(changes))).collect();
        let is_damaged = damage.is_some();
        let journal = Journal {
            folder: folder.to_owned(),
            log: Mutex::new(log),
            confirming: Mutex::default(),
            is_damaged,
            is_gone: Default::default(),
            lock,
        };
        let sent = contents.pending.sent;
        Ok(Some(Recovered { journal, info, collections, sent, damage }))
    }
}

/// Gives the damaged log a second name, and puts one of what could be read in its place. Takes room only for the latter. Of a log
/// that is missing an empty file tells: the next mount finds a whole log, and is not to take the folder for one with nothing in it.
fn put_aside(folder: &Path, contents: &Contents) -> Result<(Log, String), Error> {
    let name = format!("{DAMAGED}{}", Utc::now().format("%Y%m%dT%H%M%S%.6fZ"));
    let kept = folder.join(&name);
    let noted = match contents.is_missing {
        true => place::write(&kept, &[]).map(drop),
        false => std::fs::hard_link(folder.join(log::FILE), &kept),
    };
    noted.map_err(Error::at("put the damaged log aside as", &kept))?;
    let log = Log::replace(folder, &contents.pending).inspect_err(|_| {
        // The log still has its own name; tried again by the next mount.
        let _ = std::fs::remove_file(&kept);
    })?;
    Ok((log, name))
}
