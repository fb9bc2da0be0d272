//! What is in a journal's folder, read without touching anything: for a list, and as the first step of taking it over.

use super::error::Error;
use super::replay::Pending;
use super::{Info, log, place, record};
use std::io;
use std::ops::Range;
use std::path::Path;

/// Beginning of the names of logs with damage that were put aside; the time follows.
pub(super) const DAMAGED: &str = "log.damaged-";

/// The state of a journal.
#[derive(Debug, Default)]
pub struct Contents {
    pub pending: Pending,
    /// Bytes of the log.
    pub length: u64,
    /// Parts of the log that are no records, in bytes from its beginning.
    pub damage: Vec<Range<usize>>,
    /// The log is not there at all.
    pub is_missing: bool,
    /// The log does not begin as every log does.
    pub is_beheaded: bool,
    /// Names of logs that were put aside earlier because of damage.
    pub put_aside: Vec<String>,
}

impl Contents {
    /// Reads a journal. What a mount that runs is writing at this moment may look like damage.
    ///
    /// Errors: [`Error::NotOurs`], [`Error::Disk`], [`Error::Format`].
    pub fn read(folder: &Path) -> Result<Contents, Error> {
        place::check(folder)?;
        // What it says of the mount is no concern here, but whether we know what we read.
        Info::of(folder)?;
        let path = folder.join(log::FILE);
        let mut contents = Contents::default();
        let bytes = match place::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                contents.is_missing = true;
                Vec::new()
            }
            Err(error) => return Err(Error::disk("read", &path, error)),
        };
        contents.length = bytes.len() as u64;
        contents.is_beheaded = !bytes.starts_with(record::BEGINNING);
        let decoded = record::decode(&bytes);
        contents.damage = decoded.damage;
        decoded.records.into_iter().for_each(|(record, _)| contents.pending.apply(record));
        contents.pending.thin();
        let entries = std::fs::read_dir(folder).map_err(Error::at("read", folder))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        contents.put_aside = names.filter(|name| name.starts_with(DAMAGED)).collect();
        contents.put_aside.sort();
        Ok(contents)
    }

    /// The log is there, and all of it can be read.
    pub fn is_whole(&self) -> bool {
        !self.is_missing && !self.is_beheaded && self.damage.is_empty()
    }

    /// What is wrong with it, for people. `None`: nothing.
    pub fn problem(&self) -> Option<String> {
        let mut problems = Vec::new();
        if self.is_missing {
            problems.push("the log is missing".to_owned());
        } else if self.length == 0 {
            problems.push("the log is empty: all that was in it is lost".to_owned());
        } else if self.is_beheaded {
            problems.push("the beginning of the log is missing".to_owned());
        }
        if let Some(first) = self.damage.first() {
            let bytes: usize = self.damage.iter().map(Range::len).sum();
            let is_tail = self.damage.len() == 1 && first.end as u64 == self.length;
            problems.push(if is_tail {
                format!("the last {bytes} bytes of the log (from {} on) are not a whole record", first.start)
            } else {
                let parts = self.damage.len();
                format!(
                    "{parts} part(s) of the log with {bytes} bytes in all, the first at {}, cannot be read",
                    first.start
                )
            });
        }
        if !self.put_aside.is_empty() {
            problems.push(format!("logs with unreadable parts are kept: {}", self.put_aside.join(", ")));
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}
