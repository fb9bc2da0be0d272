//! Which processes keep a mount busy, for the message that says why it cannot be unmounted.
//!
//! Everything is read from `/proc`, and nothing through the mount: the file system may be dead or waiting for a network, and
//! who asks here is often the one who should answer for it. The links of a process tell where its directory and files
//! are; since the same path may also mean what the mount hides, a hit is confirmed by the mount that the link leads to
//! (`O_PATH` asks the file system nothing, and `fdinfo` has the number of the mount). Processes in other mount
//! namespaces, such as containers with the mount bound into them, have their own list of mounts, which is used for them.
//!
//! Of other users' processes only root sees the links; what cannot be seen is not reported.

use crate::fuse::mountpoint::{self, MountPoint};
use std::collections::HashMap;
use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A process that uses a mount, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub process: u32,
    /// Name of its program, at most 15 bytes of it.
    pub command: String,
    pub what: Use,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    WorkingDirectory,
    Root,
    Program,
    OpenFile(PathBuf),
    MappedFile(PathBuf),
}

impl fmt::Display for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pid {} ({}): ", self.process, self.command)?;
        match &self.what {
            Use::WorkingDirectory => write!(formatter, "working directory"),
            Use::Root => write!(formatter, "root directory"),
            Use::Program => write!(formatter, "its program"),
            Use::OpenFile(path) => write!(formatter, "open file {}", path.display()),
            Use::MappedFile(path) => write!(formatter, "mapped file {}", path.display()),
        }
    }
}

/// The other processes that use the FUSE mount with this minor device number, at most one use of each kind for a process and
/// path. May take as long as `/proc` takes: not for the session's thread.
pub fn find(minor: u32) -> Vec<User> {
    let mut namespaces: HashMap<Option<PathBuf>, Option<Vec<MountPoint>>> = HashMap::new();
    let mut users = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return users };
    let processes = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for process in processes.filter(|process| *process != std::process::id()) {
        let folder = PathBuf::from(format!("/proc/{process}"));
        let namespace = std::fs::read_link(folder.join("ns/mnt")).ok();
        let known = namespaces.entry(namespace).or_default();
        if known.is_none() {
            *known = points(&folder, minor);
        }
        if let Some(points) = known.as_deref().filter(|points| !points.is_empty()) {
            look(&folder, process, minor, points, &mut users);
        }
    }
    users
}

/// Where the mount is in the eyes of a process; `None` if it has just ended, which says nothing of others in its namespace.
fn points(folder: &Path, minor: u32) -> Option<Vec<MountPoint>> {
    let text = std::fs::read(folder.join("mountinfo")).ok().filter(|text| !text.is_empty())?;
    let mounts = mountpoint::parse_list(&text).into_iter();
    Some(mounts.filter(|mount| mount.minor == minor && mount.matches(None)).collect())
}

fn look(folder: &Path, process: u32, minor: u32, points: &[MountPoint], users: &mut Vec<User>) {
    let mut uses = Vec::new();
    for (link, what) in [("cwd", Use::WorkingDirectory), ("root", Use::Root), ("exe", Use::Program)] {
        if leads_into(&folder.join(link), points).is_some() {
            uses.push(what);
        }
    }
    for entry in std::fs::read_dir(folder.join("fd")).into_iter().flatten().flatten() {
        uses.extend(leads_into(&entry.path(), points).map(Use::OpenFile));
    }
    let maps = std::fs::read(folder.join("maps")).unwrap_or_default();
    uses.extend(maps.split(|byte| *byte == b'\n').filter_map(|line| mapped(line, minor)).map(Use::MappedFile));
    let command = std::fs::read_to_string(folder.join("comm")).unwrap_or_default().trim_end().to_owned();
    let mut known: Vec<User> = Vec::new();
    for what in uses {
        let user = User { process, command: command.clone(), what };
        if !known.contains(&user) {
            known.push(user);
        }
    }
    users.append(&mut known);
}

/// The path behind a link of `/proc`, if it is in one of these mounts.
fn leads_into(link: &Path, points: &[MountPoint]) -> Option<PathBuf> {
    let target = std::fs::read_link(link).ok()?;
    if !points.iter().any(|point| target.starts_with(&point.path)) {
        return None;
    }
    let is_here = mount_of(link).is_none_or(|id| points.iter().any(|point| point.id == id));
    is_here.then_some(target)
}

/// The number of the mount that a link of `/proc` leads to; `None` if we may not follow it.
fn mount_of(link: &Path) -> Option<u32> {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(link).ok()?;
    mountpoint::number(file.as_fd()).ok()
}

/// `7f00-7f01 r--p 00000000 00:2b 42   /mnt/f`: the file of a line of `maps` if it is on this device.
fn mapped(line: &[u8], minor: u32) -> Option<PathBuf> {
    let line = String::from_utf8_lossy(line);
    let mut fields = line.split_ascii_whitespace();
    let (major, device) = fields.by_ref().nth(3)?.split_once(':')?;
    if u32::from_str_radix(major, 16) != Ok(0) || u32::from_str_radix(device, 16) != Ok(minor) {
        return None;
    }
    Some(PathBuf::from(line.get(line.find('/')?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn mapped_file_is_told_by_its_device() {
        let line = b"7f0000000000-7f0000001000 r--p 00000000 00:2b 42                 /mnt/a b";
        assert_eq!(mapped(line, 0x2b), Some("/mnt/a b".into()));
        assert_eq!(mapped(line, 0x2c), None);
        assert_eq!(mapped(b"7f0000000000-7f0000001000 rw-p 00000000 00:00 0", 0), None, "memory without a file");
        assert_eq!(mapped(b"", 0), None);
    }

    #[test]
    fn same_path_on_another_mount_is_no_use() {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let file = std::fs::File::create(directory.path().join("f")).expect("a file");
        let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let id = mount_of(&link).expect("our own file");
        let point = |id| MountPoint { id, parent: 0, minor: 1, path: directory.path().to_owned(), kind: "fuse".into() };
        assert_eq!(leads_into(&link, &[point(id)]), Some(directory.path().join("f")));
        assert_eq!(leads_into(&link, &[point(id + 1)]), None, "it lies below the mount point, hidden by the mount");
    }

    #[test]
    fn use_is_said_in_words() {
        let user = |what| User { process: 123, command: "bash".into(), what }.to_string();
        assert_eq!(user(Use::WorkingDirectory), "pid 123 (bash): working directory");
        assert_eq!(user(Use::OpenFile("/m/f".into())), "pid 123 (bash): open file /m/f");
    }
}
