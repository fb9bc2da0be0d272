//! The data folder of a cluster: everything that must be there after a restart.
//!
//! | name | what |
//! |---|---|
//! | `cluster.json` | addresses, keepstores and the configuration with its keys and tokens; owner only |
//! | `certificate.pem`, `key.pem` | see [`certificate`](super::certificate) |
//! | `records.sqlite` | the API's records |
//! | `keep0`, `keep1`, … | blocks, each in a real keepstore's layout |
//! | `running.json` | addresses and process of the cluster that runs on it now; owner only |
//! | `lock` | locked by that cluster |
//!
//! The lock is the kernel's (`flock`), so it ends with the process however that ends, and two clusters never share a
//! folder. `running.json` is only a note for other commands: it counts as long as the lock is held.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::configuration::Configuration;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// What was to be read or written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is damaged, or of another version.
    #[error("cannot understand {}: {source}; restore it from a copy, its keys are needed to read the data", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The folder belongs to another process at the moment.
    #[error("{} is in use by another cluster process{}; stop it first, or choose another --data", path.display(),
        process.map(|id| format!(" (pid {id})")).unwrap_or_default())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process, if it has left a note.
        process: Option<u32>,
    },
    /// There is no cluster.
    #[error("there is no cluster in {}: create one with `arvados cluster start --data {}`", path.display(), path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// There is a cluster, but it does not run.
    #[error("the cluster in {} is not running: start it with `arvados cluster start --data {}`", path.display(), path.display())]
    NotRunning {
        /// The folder.
        path: PathBuf,
    },
}

/// Another command that looks whether the cluster runs holds the lock for a moment ([`look`]), and so does a process that
/// is being killed: it is asked for this often, with this pause, a third of a second in all.
const ATTEMPTS: u32 = 10;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(33);

/// One volume of a keepstore, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSettings {
    /// Name of its folder.
    pub folder: String,
    /// 27 characters, type `nyw5e`.
    pub uuid: String,
    /// How many copies a block here counts for.
    pub replication: u32,
    /// Storage classes of its blocks.
    pub storage_classes: Vec<String>,
}

/// One keepstore, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepstoreSettings {
    /// 27 characters, type `bi6l4`. Clients order keepstores by it, so it never changes.
    pub uuid: String,
    /// Port; 0: not chosen yet.
    pub port: u16,
    /// Its volumes.
    pub volumes: Vec<VolumeSettings>,
}

/// `cluster.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Port of API and websocket; 0: not chosen yet.
    pub port: u16,
    /// Port of the keepproxy; 0: not chosen yet.
    #[serde(default)]
    pub keepproxy_port: u16,
    /// The keepstores.
    pub keepstores: Vec<KeepstoreSettings>,
    /// The rest.
    pub configuration: Configuration,
}

/// `running.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The process.
    pub pid: u32,
    /// `host:port`, as in `ARVADOS_API_HOST`.
    pub api: String,
    /// `http://host:port` of each keepstore.
    pub keep: Vec<String>,
    /// `http://host:port` of the fault interface, when the cluster was started with it.
    pub faults: Option<String>,
}

/// A data folder that nobody else uses, for as long as this value lives.
pub struct Directory {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Directory {
    /// Takes possession of a folder, and creates it when there is none.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let path = path.canonicalize().map_err(failed(path))?;
        let lock = path.join("lock");
        let mut file = private(&lock, OpenOptions::new().write(true).create(true)).map_err(failed(&lock))?;
        for _ in 0..ATTEMPTS {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    let directory = Self { path, _lock: lock };
                    // One that was killed has left its note.
                    directory.forget();
                    return Ok(directory);
                }
                Err((unlocked, nix::errno::Errno::EWOULDBLOCK)) => file = unlocked,
                Err((_, error)) => return Err(Error::File { path: lock, source: error.into() }),
            }
            std::thread::sleep(PAUSE);
        }
        let process = read::<Note>(&path.join("running.json")).ok().flatten().map(|note| note.pid);
        Err(Error::InUse { path, process })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The stored settings; `None` on the first start.
    pub fn settings(&self) -> Result<Option<Settings>, Error> {
        read(&self.path.join("cluster.json"))
    }

    /// Stores the settings.
    pub fn store(&self, settings: &Settings) -> Result<(), Error> {
        write(&self.path.join("cluster.json"), settings)
    }

    fn forget(&self) {
        // Without the lock the note counts for nothing, so it does no harm if it stays.
        let _ = fs::remove_file(self.path.join("running.json"));
    }

    /// Tells other commands where the cluster is.
    pub fn announce(&self, note: &Note) -> Result<(), Error> {
        write(&self.path.join("running.json"), note)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.forget();
    }
}

/// What another command may know about a cluster: its settings, and where it runs if it does.
///
/// Errors: there is no cluster, or its files cannot be read (they are for its owner only).
pub fn look(path: &Path) -> Result<(Settings, Option<Note>), Error> {
    let missing = || Error::Missing { path: path.to_owned() };
    let settings = read(&path.join("cluster.json"))?.ok_or_else(missing)?;
    let lock = path.join("lock");
    let file = match File::open(&lock) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((settings, None)),
        Err(source) => return Err(Error::File { path: lock, source }),
    };
    // Whoever gets the lock, if only for a moment and shared with others who look, knows that nobody runs.
    let runs = matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, nix::errno::Errno::EWOULDBLOCK)));
    let note = if runs { read(&path.join("running.json"))? } else { None };
    Ok((settings, note))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let mut text = Vec::new();
    match File::open(path).and_then(|mut file| file.read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { path: path.to_owned(), source }),
    }
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Damaged { path: path.to_owned(), source })
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| Error::Damaged { path: path.to_owned(), source })?;
    write_private(path, &text).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).open(path)
}

/// Writes a file that only its owner may read: completely or not at all, whatever happens meanwhile.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // One that was left behind may have other permissions.
    let _ = fs::remove_file(&temporary);
    let mut file = private(&temporary, OpenOptions::new().write(true).create_new(true))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn settings() -> Settings {
        Settings { port: 1, keepproxy_port: 0, keepstores: Vec::new(), configuration: Configuration::default() }
    }

    #[test]
    fn a_folder_has_one_owner_at_a_time_and_the_next_is_told_who() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let directory = Directory::open(&path).unwrap();
        directory.store(&settings()).unwrap();
        let note = Note { pid: 4711, api: "localhost:1".to_owned(), keep: Vec::new(), faults: None };
        directory.announce(&note).unwrap();
        let error = Directory::open(&path).err().unwrap().to_string();
        assert!(error.contains("pid 4711") && error.contains("--data"), "{error}");
        assert_eq!(look(&path).unwrap().1, Some(note));
        drop(directory);
        assert_eq!(look(&path).unwrap().1, None);
        Directory::open(&path).unwrap();
    }

    #[test]
    fn settings_come_back_and_are_for_the_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let directory = Directory::open(&path).unwrap();
        assert_eq!(directory.settings().unwrap(), None);
        let settings = settings();
        directory.store(&settings).unwrap();
        directory.store(&settings).unwrap();
        assert_eq!(directory.settings().unwrap(), Some(settings));
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("cluster.json"), mode("lock")), (0o700, 0o600, 0o600));
    }

    #[test]
    fn a_missing_cluster_and_a_damaged_file_are_told_apart() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        assert!(look(&path).unwrap_err().to_string().contains("cluster start"));
        let directory = Directory::open(&path).unwrap();
        fs::write(path.join("cluster.json"), "{").unwrap();
        assert!(matches!(directory.settings(), Err(Error::Damaged { .. })));
    }
}
