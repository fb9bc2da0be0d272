//! Mount points as the kernel lists them, and taking one away by force.
//!
//! What has to be unmounted is often broken: its process is dead, stopped, or waits for a network that does not answer.
//! So nothing here touches the mounted file system (no `stat`, no `realpath` through it), nothing needs the API, and the
//! order is always: abort the connection, which ends every request that hangs in it, then detach the mount.
//! Upstream's behaviour: arv-mount.md 1.6 ("force unmount algorithm"); its [BUG]s (paths with spaces, API needed) are not here.

use nix::mount::{MntFlags, umount2};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the kernel keeps its switches for FUSE connections, where `fusectl` is mounted.
pub const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// How long to wait between two looks at the mount table: an unmount is done by another process within milliseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(30);

/// Why an unmount did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the list of mounts: {0}")]
    List(#[source] std::io::Error),
    #[error("cannot unmount {path}: mount type is {kind}", path = .path.display())]
    OtherType { path: PathBuf, kind: String },
    #[error("cannot unmount {path} within {seconds} s: {reason}", path = .path.display())]
    TimedOut { path: PathBuf, seconds: f64, reason: String },
    #[error(
        "the mount that was here has died and cannot be taken away ({reason}): its owner can, with `arvados mount --unmount`"
    )]
    Dead { reason: String },
}

/// One line of `/proc/self/mountinfo`, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Number of the mount, as `fdinfo` has it.
    pub id: u32,
    /// Number of the mount that it is mounted on.
    pub parent: u32,
    /// Minor device number: the name of the FUSE connection.
    pub minor: u32,
    pub path: PathBuf,
    /// `fuse`, `fuse.SUBTYPE`, or that of another file system.
    pub kind: String,
}

impl MountPoint {
    /// Is this a FUSE mount, and of `subtype` if one is asked for (`Some("")`: only one without subtype)?
    pub fn matches(&self, subtype: Option<&str>) -> bool {
        match subtype {
            None => self.kind == "fuse" || self.kind.starts_with("fuse."),
            Some("") => self.kind == "fuse",
            Some(subtype) => self.kind.strip_prefix("fuse.") == Some(subtype),
        }
    }
}

/// All mounts of this mount namespace, more or less in the order of mounting: what was mounted beneath another comes after it.
pub fn list() -> Result<Vec<MountPoint>, Error> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(Error::List)?;
    Ok(parse_list(&text))
}

/// The mounts in a text of the form of `/proc/self/mountinfo`.
pub fn parse_list(text: &[u8]) -> Vec<MountPoint> {
    text.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// `36 35 0:53 / /mnt/a\040b rw,… shared:1 - fuse.s source rw,…`; `None` for what is not of this form.
fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let minor = device.split_once(':')?.1.parse().ok()?;
    let path = PathBuf::from(unescape(fields.by_ref().nth(1)?));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let kind = String::from_utf8_lossy(&unescape_bytes(kind)).into_owned();
    Some(MountPoint { id, parent, minor, path, kind })
}

fn unescape(field: &[u8]) -> OsString {
    OsString::from_vec(unescape_bytes(field))
}

/// The kernel writes space, tab, newline and backslash as three octal digits after a backslash.
fn unescape_bytes(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code =
            tail.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match code {
            Some(digits) => {
                bytes.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The absolute path that the mount table would have for `path`, found without touching what is mounted there.
///
/// A path that the table lists is taken as it is. Otherwise its parent is resolved, and the last component if it is a
/// symbolic link: neither can be a broken mount of ours, for that would have been listed.
pub fn resolve(path: &Path) -> PathBuf {
    let plain = normalize(path);
    let listed = list().unwrap_or_default();
    let is_listed = |candidate: &Path| listed.iter().any(|mount| mount.path == candidate);
    if is_listed(&plain) {
        return plain;
    }
    let (Some(parent), Some(name)) = (plain.parent(), plain.file_name()) else { return plain };
    let resolved = std::fs::canonicalize(parent).map(|parent| parent.join(name)).unwrap_or(plain.clone());
    if is_listed(&resolved) {
        return resolved;
    }
    match std::fs::read_link(&resolved) {
        Ok(target) => {
            let target = normalize(&resolved.parent().unwrap_or(Path::new("/")).join(target));
            if is_listed(&target) { target } else { std::fs::canonicalize(&resolved).unwrap_or(resolved) }
        }
        Err(_) => resolved,
    }
}

/// Makes a path absolute and takes `.`, `..` and double slashes out of it, by its text alone.
fn normalize(path: &Path) -> PathBuf {
    let mut result = if path.is_absolute() { PathBuf::new() } else { std::env::current_dir().unwrap_or_default() };
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => {
                result.pop();
            }
            std::path::Component::CurDir => {}
            other => result.push(other),
        }
    }
    result
}

/// Takes away the FUSE mounts at `path` (of `subtype`, if one is given), also several on top of each other.
/// Returns whether there was any. Errors: [`Error::TimedOut`] when one is still there after `limit`.
pub fn unmount(path: &Path, subtype: Option<&str>, limit: Duration) -> Result<bool, Error> {
    let deadline = Instant::now() + limit;
    let mut found = false;
    let mut reason = String::from("it is still mounted");
    loop {
        let mounts = list()?;
        let Some(mount) = uppermost(&mounts, path) else { return Ok(found) };
        if !mount.matches(subtype) {
            return Ok(found);
        }
        if found && Instant::now() >= deadline {
            return Err(Error::TimedOut { path: path.to_owned(), seconds: limit.as_secs_f64(), reason });
        }
        found = true;
        let is_aborted = abort(mount.minor);
        match detach(path, is_aborted) {
            Ok(()) => continue,
            Err(text) => reason = text,
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Takes away the uppermost mount at `path` if it is `dead`, of which the caller has seen that nobody serves it any more. Returns
/// whether it was there. Errors: [`Error::Dead`].
pub(super) fn unmount_dead(path: &Path, dead: &MountPoint) -> Result<bool, Error> {
    let is_there = uppermost(&list()?, path) == Some(dead);
    if is_there {
        detach(path, true).map_err(|reason| Error::Dead { reason })?;
    }
    Ok(is_there)
}

/// Takes away all FUSE mounts at and below `path`, the deepest first.
///
/// Errors: [`Error::OtherType`] if any mount there is of another type or subtype; then nothing is unmounted.
pub fn unmount_all(path: &Path, subtype: Option<&str>, limit: Duration) -> Result<bool, Error> {
    let mut mounts: Vec<MountPoint> = list()?.into_iter().filter(|mount| mount.path.starts_with(path)).collect();
    if let Some(other) = mounts.iter().find(|mount| !mount.matches(subtype)) {
        return Err(Error::OtherType { path: other.path.clone(), kind: other.kind.clone() });
    }
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.as_os_str().len()));
    let mut found = false;
    for mount in mounts {
        found |= unmount(&mount.path, None, limit)?;
    }
    Ok(found)
}

/// Ends every request of the connection, so that nobody hangs in it and nothing keeps the mount busy; returns whether it
/// could. Without `fusectl` (or the right to write there) a forced unmount does the same for root. `minor`: the connection's
/// number.
pub(super) fn abort(minor: u32) -> bool {
    let switch = format!("{CONNECTIONS}/{minor}/abort");
    let result = std::fs::write(&switch, "1");
    if let Err(error) = &result {
        tracing::debug!(%switch, %error, "cannot abort the connection");
    }
    result.is_ok()
}

/// Detaches the mount: with the right of root, which takes no time, or as the user who made it with `fusermount3`.
fn detach(path: &Path, is_aborted: bool) -> Result<(), String> {
    let forced = || umount2(path, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW);
    let lazily = || umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    if !is_aborted && forced().is_ok() || lazily().is_ok() {
        return Ok(());
    }
    let (status, text) = fusermount([OsStr::new("-u"), OsStr::new("-z"), path.as_os_str()]);
    if status { Ok(()) } else { Err(text) }
}

/// Runs `fusermount3` and returns whether it succeeded and what it said.
pub fn fusermount<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> (bool, String) {
    let output = Command::new("fusermount3").args(arguments).stdin(Stdio::null()).output();
    match output {
        Ok(output) => (output.status.success(), String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => (false, format!("cannot run fusermount3: {error} (install the package fuse3)")),
    }
}

/// The uppermost mount at `path`.
pub fn find(path: &Path) -> Option<MountPoint> {
    uppermost(&list().ok()?, path).cloned()
}

/// The one at `path` on which none of the others there is mounted. If there are several, as beneath a mount over a folder
/// on the way to `path`, the latest.
fn uppermost<'a>(mounts: &'a [MountPoint], path: &Path) -> Option<&'a MountPoint> {
    let here = || mounts.iter().filter(|mount| mount.path == path);
    here().rev().find(|mount| here().all(|other| other.parent != mount.id))
}

/// The number of the mount that an open file is in.
pub fn number(file: BorrowedFd) -> std::io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    number.ok_or_else(|| std::io::Error::other("the kernel does not tell the mount of an open file"))
}

/// Raises the read-ahead of a mount to `kibibytes`, where we may: the kernel's default of 128 KiB costs a single
/// sequential reader a third of its speed (fuse.md). Only root can; for others it stays as it is.
pub fn set_read_ahead(minor: u32, kibibytes: u32) {
    let switch = format!("/sys/class/bdi/0:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&switch, kibibytes.to_string()) {
        tracing::debug!(%switch, %error, "read-ahead stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_mountinfo_with_spaces_in_the_path_is_understood() {
        let line = br"36 35 0:53 / /mnt/a\040b\134c rw,nosuid shared:1 - fuse.sub\040type source rw";
        let mount = parse(line).expect("a well-formed line");
        assert_eq!(
            mount,
            MountPoint { id: 36, parent: 35, minor: 53, path: "/mnt/a b\\c".into(), kind: "fuse.sub type".into() }
        );
        assert_eq!(parse(b"not a line"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn subtype_selects() {
        let mount = |kind: &str| MountPoint { id: 1, parent: 0, minor: 1, path: "/x".into(), kind: kind.into() };
        assert!(mount("fuse").matches(None) && mount("fuse.a").matches(None) && !mount("ext4").matches(None));
        assert!(mount("fuse").matches(Some("")) && !mount("fuse.a").matches(Some("")));
        assert!(mount("fuse.a").matches(Some("a")) && !mount("fuse").matches(Some("a")));
        assert!(!mount("fuseblk").matches(None), "a block device behind FUSE is not ours to abort");
    }

    #[test]
    fn uppermost_mount_is_the_one_on_which_no_other_is_mounted() {
        let mount =
            |id, parent, path: &str| MountPoint { id, parent, minor: id, path: path.into(), kind: "fuse".into() };
        let find = |mounts: &[MountPoint]| uppermost(mounts, Path::new("/x")).map(|mount| mount.id);
        assert_eq!(find(&[mount(5, 1, "/x"), mount(6, 5, "/x"), mount(7, 6, "/x/y")]), Some(6));
        assert_eq!(find(&[mount(5, 8, "/x"), mount(8, 1, "/x")]), Some(5), "the later one was mounted beneath");
        assert_eq!(find(&[mount(5, 1, "/x"), mount(8, 7, "/x")]), Some(8), "the first is hidden");
        assert_eq!(find(&[mount(7, 6, "/x/y")]), None);
    }

    #[test]
    fn path_is_normalized_by_its_text() {
        assert_eq!(normalize(Path::new("/a/./b//c/../d")), Path::new("/a/b/d"));
        assert_eq!(normalize(Path::new("/../x")), Path::new("/x"));
    }

    #[test]
    fn nothing_mounted_is_no_error() {
        let directory = tempfile::tempdir().expect("a scratch directory");
        assert!(!unmount(directory.path(), None, Duration::from_secs(1)).expect("the mount table is readable"));
        assert!(!unmount_all(directory.path(), None, Duration::from_secs(1)).expect("the mount table is readable"));
    }
}
