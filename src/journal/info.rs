//! What a journal's folder says of the mount that made it.

use super::error::Error;
use super::{place, text};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Name of the file.
pub(super) const FILE: &str = "info.json";

/// Of the records. Raised when an older program could misread them.
const FORMAT: u32 = 2;

/// Which mount, for people and for `arvados journal list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub mount_point: PathBuf,
    pub host: String,
    pub pid: u32,
    pub started: DateTime<Utc>,
    /// Of the program.
    pub version: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    #[serde(with = "text")]
    mount_point: Vec<u8>,
    host: String,
    pid: u32,
    started: DateTime<Utc>,
    version: String,
}

impl Info {
    /// Of this process, which is about to mount at `mount_point`.
    pub fn of_process(mount_point: &Path) -> Info {
        let host = nix::unistd::gethostname().unwrap_or_default();
        Info {
            mount_point: mount_point.to_owned(),
            host: host.to_string_lossy().into_owned(),
            pid: std::process::id(),
            started: Utc::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, Error> {
        let stored = Stored {
            format: FORMAT,
            mount_point: self.mount_point.as_os_str().as_bytes().to_owned(),
            host: self.host.clone(),
            pid: self.pid,
            started: self.started,
            version: self.version.clone(),
        };
        Ok(serde_json::to_vec(&stored)?)
    }

    /// What a journal's folder says. `None` where the file is missing or damaged. Errors: [`Error::Format`].
    pub fn of(folder: &Path) -> Result<Option<Info>, Error> {
        let Ok(bytes) = place::read(&folder.join(FILE)) else { return Ok(None) };
        let Ok(stored) = serde_json::from_slice::<Stored>(&bytes) else { return Ok(None) };
        if stored.format > FORMAT {
            return Err(Error::Format { folder: folder.to_owned(), format: stored.format, known: FORMAT });
        }
        Ok(Some(Info {
            mount_point: OsString::from_vec(stored.mount_point).into(),
            host: stored.host,
            pid: stored.pid,
            started: stored.started,
            version: stored.version,
        }))
    }
}
