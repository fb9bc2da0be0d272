//! The log of a process that has let go of its terminal: the system's log, or a file where there is none.
//!
//! Nobody reads the stderr of a daemon, but a refused save or data that stay in a journal must not be lost on anybody. Lines go
//! to `/dev/log` as datagrams, which every syslog service takes, systemd's journal included. A line that is not taken there, be it
//! that there is no service, that it starts again just now, or that it is too slow, goes to the file. Nothing is kept open but
//! that, so a service that is restarted or a file that is rotated does no harm, and nothing waits: those who log must not hang.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use tracing::Level;

/// Where a syslog service listens.
const SERVICE: &str = "/dev/log";

/// "daemon", as syslog(3) numbers it.
const FACILITY: u8 = 3 << 3;

/// Where lines go, and under which name.
#[derive(Clone, Debug)]
pub struct Background {
    /// The name in front of each line in the system's log.
    pub tag: &'static str,
    /// For what the system's log does not take.
    pub file: Option<PathBuf>,
    service: PathBuf,
}

impl Background {
    pub fn new(tag: &'static str, file: Option<PathBuf>) -> Background {
        Background { tag, file, service: SERVICE.into() }
    }

    /// Makes sure that lines arrive somewhere. `Some`: in this file, because there is no system log; it is there now.
    ///
    /// Errors: it cannot be made, or there is none.
    pub fn prepare(&self) -> io::Result<Option<&Path>> {
        if UnixDatagram::unbound()?.connect(&self.service).is_ok() {
            return Ok(None);
        }
        let file = self.file.as_deref().ok_or_else(|| io::Error::other("there is no folder for a log file"))?;
        open(file)?;
        Ok(Some(file))
    }

    /// Logs one line; `text` has the line's time at its beginning, of `time` bytes, which the system's log knows by itself.
    pub(super) fn log(&self, level: Level, text: &[u8], time: usize) -> io::Result<()> {
        if self.send(level, text.get(time..).unwrap_or(text)).is_ok() {
            return Ok(());
        }
        match &self.file {
            Some(file) => open(file)?.write_all(text),
            None => Ok(()),
        }
    }

    fn send(&self, level: Level, text: &[u8]) -> io::Result<()> {
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let mut line = format!("<{}>{}[{}]: ", FACILITY | severity, self.tag, std::process::id()).into_bytes();
        line.extend_from_slice(text.trim_ascii_end());
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to(&line, &self.service).map(drop)
    }
}

/// For us alone: paths and names of what is mounted are in it.
fn open(file: &Path) -> io::Result<std::fs::File> {
    if let Some(folder) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const LINE: &[u8] = b"12:00 something happened\n";

    #[test]
    fn a_system_log_gets_datagrams_without_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let service = directory.path().join("log");
        let socket = UnixDatagram::bind(&service).unwrap();
        let file = directory.path().join("file");
        let background = Background { tag: "arvados-mount", file: Some(file.clone()), service };
        assert_eq!(background.prepare().unwrap(), None);
        background.log(Level::WARN, LINE, 6).unwrap();
        let mut buffer = [0; 200];
        let length = socket.recv(&mut buffer).unwrap();
        let expected = format!("<28>arvados-mount[{}]: something happened", std::process::id());
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), expected);
        assert!(!file.exists());
        // The service goes away.
        drop(socket);
        background.log(Level::ERROR, LINE, 6).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), LINE);
    }

    #[test]
    fn without_a_system_log_a_file_of_our_own_is_there_before_the_first_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state/arvados/mount.log");
        let service = directory.path().join("nothing");
        let background = Background { tag: "arvados-mount", file: Some(file.clone()), service };
        assert_eq!(background.prepare().unwrap(), Some(file.as_path()));
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(file.parent().unwrap().metadata().unwrap().mode() & 0o7777, 0o700);
        background.log(Level::ERROR, LINE, 6).unwrap();
        background.log(Level::ERROR, LINE, 6).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), [LINE, LINE].concat());
        assert!(Background { file: None, ..background }.prepare().is_err(), "nowhere to go");
    }
}
