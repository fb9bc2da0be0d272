//! What clients were told: which versions of files they issued, which of them were acknowledged, and what each had seen.
//!
//! The law that is checked: a version that was acknowledged is still there, under whatever name, or a client that had
//! seen just it has replaced or deleted it. Every version has content of its own, so "still there" needs no paths.

use super::content::Files;
use crate::support::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Sent, and no answer yet, or an error after which it may have happened.
    Unknown,
    Acknowledged,
    /// Certainly not done.
    Refused,
}

#[derive(Debug)]
struct Issued {
    path: String,
    /// The version that this one replaces; its author has read it.
    seen: Option<String>,
    /// None for a deletion.
    new: Option<String>,
    status: Status,
}

#[derive(Default)]
pub struct Ledger(Mutex<Vec<Issued>>);

/// Number of an entry.
pub struct Entry(usize);

/// What came of a check.
#[derive(Debug, Default)]
pub struct Verdict {
    pub acknowledged: usize,
    pub unknown: usize,
    /// Acknowledged versions that nobody replaced who had seen them, and that are nowhere: path and version.
    pub lost: Vec<(String, String)>,
    /// Files that are no version as it was issued: path, and what is known of it.
    pub torn: Vec<(String, String)>,
}

impl Ledger {
    pub fn issue(&self, path: &str, seen: Option<String>, new: Option<String>) -> Entry {
        let mut entries = self.0.lock().unwrap();
        entries.push(Issued { path: path.to_owned(), seen, new, status: Status::Unknown });
        Entry(entries.len() - 1)
    }

    pub fn settle(&self, entry: Entry, status: Status) {
        self.0.lock().unwrap()[entry.0].status = status;
    }

    pub fn count(&self, status: Status) -> usize {
        self.0.lock().unwrap().iter().filter(|issued| issued.status == status).count()
    }

    /// Judges what is on the server when all is at rest.
    pub fn check(&self, files: &Files) -> Verdict {
        let entries = self.0.lock().unwrap();
        let mut verdict = Verdict::default();
        let mut present = BTreeSet::new();
        let status_of: BTreeMap<&str, Status> =
            entries.iter().filter_map(|issued| Some((issued.new.as_deref()?, issued.status))).collect();
        for (path, content) in files {
            match version_of(content) {
                Some(version) => drop(present.insert(version)),
                None => {
                    let claimed = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
                    let claimed = claimed.split_whitespace().next().unwrap_or("").to_owned();
                    // An interrupted write may leave a part of itself, or nothing; an acknowledged one may not.
                    let allowed = content.is_empty() || status_of.get(claimed.as_str()) == Some(&Status::Unknown);
                    if !allowed {
                        verdict.torn.push((path.clone(), claimed));
                    }
                }
            }
        }
        let replaced: BTreeSet<&str> = entries
            .iter()
            .filter(|issued| issued.status != Status::Refused)
            .filter_map(|issued| issued.seen.as_deref())
            .collect();
        for issued in entries.iter() {
            verdict.acknowledged += usize::from(issued.status == Status::Acknowledged);
            verdict.unknown += usize::from(issued.status == Status::Unknown);
            let Some(version) = issued.new.as_deref().filter(|_| issued.status == Status::Acknowledged) else {
                continue;
            };
            if !present.contains(version) && !replaced.contains(version) {
                verdict.lost.push((issued.path.clone(), version.to_owned()));
            }
        }
        verdict
    }
}

/// The content of a version: its name, its length, and noise that is its own.
pub fn content_of(version: &str, length: usize) -> Vec<u8> {
    let mut content = format!("{version} {length}\n").into_bytes();
    let seed = version.bytes().fold(length as u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    content.extend_from_slice(&Random::new(seed).bytes(length));
    content
}

/// The version whose content this is, byte for byte.
pub fn version_of(content: &[u8]) -> Option<String> {
    let line = content.split(|byte| *byte == b'\n').next()?;
    let (version, length) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    // A longer one has another first line than the file has bytes.
    let length = length.parse().ok().filter(|length| *length < content.len())?;
    (content == content_of(version, length)).then(|| version.to_owned())
}
