//! The kernel's side: `fuse3` requests turned into operations of [`crate::vfs`], mounting and unmounting.
//! No Arvados knowledge here.
//!
//! Decisions that must stay (measurements and traps: `fuse.md`):
//!
//! * Mounted through `fusermount3` also as root: the crate's other path reads `/dev/fuse` on a blocking thread for each
//!   request and is several times slower for small reads.
//! * The session lives on a current-thread runtime of its own: as fast as a pool, and replies are not delayed by other
//!   work. So **nothing may block on it**, and work that takes CPU belongs elsewhere.
//! * A mount that replaces others is made aside and put beneath them, so that the place is never without one ([`replacement`]).
//! * The crate's `Notify` is not used: some of its messages end the session, the others can hang the process for ever.
//!   [`notifier`] writes them itself, to a duplicate of the session's descriptor.
//! * No `default_permissions` and no `ro` among the mount options, as upstream: with them the kernel would answer every
//!   attempt to write with EROFS, where callers of `arv-mount` know EPERM for opening and EROFS for creating, and a
//!   `touch` of a file that is there succeeds (arv-mount.md 2.8, 3.1). [`crate::vfs`] refuses what would change anything.
//! * Directories are always read with attributes (READDIRPLUS). Left to its own guess the kernel asks for names first and then
//!   for each file by itself as soon as a directory has more than a few hundred: `find -size` on 100,000 files then takes
//!   two to three times as long, and five times the CPU here; plain `ls` and `find` gain little from names alone.
//! * Operations that we leave to the crate's default answer ENOSYS. The kernel remembers that and does not ask
//!   again: no ACCESS, no extended attributes, and where nothing can be written no FLUSH at every `close` and no FSYNC.

use crate::vfs::{FileSystem, FrontEnd};
use fuse3::MountOptions;
use fuse3::raw::{MountHandle, Session};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub mod adapter;
pub mod interrupt;
pub mod mountpoint;
pub mod notifier;
mod replacement;
pub mod requests;
pub mod statistics;
pub mod users;

use notifier::Notifier;
use replacement::{Aside, Uppermost};
use requests::Requests;
use statistics::Statistics;
use tokio::task::JoinHandle;

/// Largest read: 1 MiB, the kernel's limit (256 pages). Fewer requests for the same bytes.
const MAX_READ: u32 = 1 << 20;

/// Read-ahead in KiB where we may set it: 512 to 1024 was best for one reader and for 16, more hurts (fuse.md).
const READ_AHEAD: u32 = 1024;

/// How the file system is to be mounted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Let other users in; needs `user_allow_other` in /etc/fuse.conf unless we are root.
    pub allow_other: bool,
    /// Type `fuse.SUBTYPE`, and the same as source.
    pub subtype: Option<String>,
    /// Can anything be changed through this mount? If not, the kernel need not ask us to flush.
    pub writable: bool,
    /// Takes the place of the FUSE mounts that are there, whosever they are. If they do not go in this time, there is no mount.
    pub replace: Option<Duration>,
}

/// A mounted file system. It ends by itself when it is unmounted; see [`Mounted::ended`].
pub struct Mounted {
    session: JoinHandle<std::io::Result<()>>,
    notifier: Notifier,
    path: PathBuf,
    /// Minor device number, which tells this mount from others at the same place.
    minor: Option<u32>,
    /// It was mounted elsewhere first: that is the place of which the crate's handle knows.
    was_moved: bool,
    has_ended: bool,
}

/// Mounts `file_system` at `path`, an existing directory, and serves it on the current runtime. The directory is empty, or
/// what is there is to be replaced.
///
/// Errors: those of the operating system, or that `fusermount3` failed (it says why on stderr).
pub async fn mount<F: FileSystem>(
    file_system: Arc<F>,
    path: &Path,
    options: &Options,
    statistics: Arc<Statistics>,
) -> std::io::Result<Mounted> {
    let requests = Arc::new(Requests::default());
    let begin = async |place: &Path| -> std::io::Result<Begun> {
        let adapter =
            adapter::Adapter::new(file_system.clone(), statistics.clone(), requests.clone(), options.writable);
        let _alone = MOUNTING.lock().await;
        let before = devices();
        let session = Session::new(mount_options(options)).mount_with_unprivileged(adapter, place).await?;
        keep_from_children();
        let minor = mountpoint::find(place).map(|mount| mount.minor);
        // An error from here on drops the session, which unmounts.
        Ok(Begun { session, minor, device: duplicate(device(minor, &before))? })
    };
    let mut begun = None;
    if let Some(limit) = options.replace
        && mountpoint::find(path).is_some_and(|mount| mount.matches(None))
    {
        let aside = async || {
            let aside = Aside::new()?;
            let begun = begin(aside.path()).await?;
            Ok((begun, Some(aside.take()?)))
        };
        match aside().await {
            Ok(made) => begun = Some(made),
            Err(error) => {
                let error: std::io::Error = error;
                tracing::debug!(%error, "the mount cannot be made aside: the old one goes first");
                mountpoint::unmount(path, None, limit).map_err(std::io::Error::other)?;
            }
        }
    }
    let (begun, tree) = match begun {
        Some(begun) => begun,
        None => (begin_at(path, options, &begin).await?, None),
    };
    let notifier = Notifier::start(begun.device, requests)?;
    let ending = notifier.clone();
    let session = tokio::spawn(async move {
        let result = begun.session.await;
        // At once, whoever asks for the result and when: as long as the duplicate is open, users of a mount whose session
        // failed would wait for answers.
        ending.close();
        result
    });
    let minor = begun.minor;
    if let Some(minor) = minor {
        mountpoint::set_read_ahead(minor, READ_AHEAD);
    }
    let was_moved = tree.is_some();
    let mounted = Mounted { session, notifier, path: path.to_owned(), minor, was_moved, has_ended: false };
    if let Some(tree) = tree {
        let path = path.to_owned();
        // What takes a mount away may wait for the last of its users.
        tokio::task::spawn_blocking(move || tree.replace(&path)).await??;
    }
    Ok(mounted)
}

/// Begins at a place where a mount whose process was killed may be in the way. Nobody can use that, so it goes; but not one of another
/// type, which may say the same while it waits for a network, nor one that came meanwhile.
async fn begin_at(
    path: &Path,
    options: &Options,
    begin: impl AsyncFn(&Path) -> std::io::Result<Begun>,
) -> std::io::Result<Begun> {
    let subtype = options.subtype.as_deref().unwrap_or_default();
    loop {
        let known = mountpoint::find(path).filter(|mount| mount.matches(Some(subtype)));
        match (begin(path).await, known) {
            (Err(error), Some(dead)) if is_dead(&error) => {
                if !mountpoint::unmount_dead(path, &dead).map_err(std::io::Error::other)? {
                    return Err(error);
                }
                tracing::warn!(mount = %path.display(), "a mount that has died was still here: it was taken away");
            }
            (result, _) => return result,
        }
    }
}

/// What the kernel says of a mount that nobody serves any more.
fn is_dead(error: &std::io::Error) -> bool {
    [Some(libc::ENOTCONN), Some(libc::ECONNABORTED)].contains(&error.raw_os_error())
}

/// A session with the kernel that has just begun.
struct Begun {
    session: MountHandle,
    minor: Option<u32>,
    device: OwnedFd,
}

fn mount_options(options: &Options) -> MountOptions {
    let mut mount_options = MountOptions::default();
    let mut custom = format!("max_read={MAX_READ}");
    match options.subtype.as_deref().filter(|subtype| !subtype.is_empty()) {
        Some(subtype) => {
            let escaped = escape(subtype);
            custom.push_str(&format!(",subtype={escaped}"));
            mount_options.fs_name(escaped);
        }
        None => {
            mount_options.fs_name("/dev/fuse");
        }
    }
    mount_options.allow_other(options.allow_other).force_readdir_plus(true).custom_options(custom);
    mount_options
}

impl Mounted {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the session with the kernel ends: the file system is unmounted, by whomever, and nobody uses it any more.
    pub async fn ended(&mut self) -> std::io::Result<()> {
        if self.has_ended {
            return Ok(());
        }
        let result = (&mut self.session).await;
        self.has_ended = true;
        result.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    /// Where to say that something changed which the kernel may have in memory.
    pub fn front_end(&self) -> Arc<dyn FrontEnd> {
        Arc::new(self.notifier.clone())
    }

    /// Minor device number, which is also the name of the connection.
    pub fn minor(&self) -> Option<u32> {
        self.minor
    }

    /// Is it still in the list of mounts?
    pub fn is_mounted(&self) -> bool {
        mountpoint::find(&self.path).is_some_and(|mount| Some(mount.minor) == self.minor)
    }

    /// Unmounts if nobody uses it; returns whether it is gone.
    ///
    /// What stands there may be the mount of one who has replaced us (`--replace`): that is not ours to take away. As long as
    /// our session runs nobody else can have our number.
    pub async fn unmount(&self) -> bool {
        !self.is_mounted() || self.fusermount(&["-u"]).await || !self.is_mounted()
    }

    /// Is the mount at our path one whose session is over? Without a session our number may already be another's, so that
    /// [`Mounted::is_mounted`] does not tell a successor from ourselves.
    pub async fn is_dead(&self) -> bool {
        let path = self.path.clone();
        // Opening asks who serves it; attributes the kernel may know from before.
        let look = tokio::task::spawn_blocking(move || std::fs::read_dir(path));
        let Ok(Ok(Err(error))) = tokio::time::timeout(Duration::from_secs(1), look).await else { return false };
        is_dead(&error)
    }

    /// Takes it out of the tree, whoever uses it.
    pub async fn detach(&self) {
        if self.is_mounted() && !self.fusermount(&["-u", "-z"]).await {
            tracing::error!(mount = %self.path.display(), "cannot unmount");
        }
    }

    /// Serves nobody any more: whoever still uses it gets an error, and nothing else is promised to anybody. `false`: the connection
    /// cannot be aborted (no fusectl, or it is not ours to use).
    ///
    /// The session ends by that. It must not be broken off: the crate would then unmount what is at the path, which may be a
    /// successor by now.
    pub async fn stop(&mut self) -> bool {
        let is_aborted = self.has_ended || self.minor.is_some_and(mountpoint::abort);
        is_aborted && tokio::time::timeout(ABORTED, self.ended()).await.is_ok()
    }

    async fn fusermount(&self, options: &'static [&'static str]) -> bool {
        let path = self.path.clone();
        let run = move || {
            let words = options.iter().map(|option| OsStr::new(*option)).chain([path.as_os_str()]);
            mountpoint::fusermount(words)
        };
        // Unmounting makes the kernel ask us (the root's attributes, FORGET): this thread must go on answering.
        match tokio::task::spawn_blocking(run).await {
            Ok((true, _)) => true,
            Ok((false, said)) => {
                tracing::debug!(said, "fusermount3 failed");
                false
            }
            Err(_) => false,
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.notifier.close();
        if self.was_moved && !self.session.is_finished() {
            let (path, minor) = (self.path.clone(), self.minor);
            // Not on this thread: it may have to write back what only we can take.
            std::thread::spawn(move || {
                let mount = Uppermost::at(&path).ok().flatten().filter(|mount| Some(mount.minor()) == minor);
                mount.map(|mount| mount.take_away())
            });
        }
        // Drops the crate's handle, which unmounts what is still mounted.
        self.session.abort();
    }
}

/// In a list of mount options a comma ends an option and a backslash takes a character as it is.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,")
}

/// How long a session may take to notice that its connection is aborted: it wakes up by that.
const ABORTED: Duration = Duration::from_secs(1);

/// Only one mount of a process is made at a time, because on older kernels a session's descriptor is known by being new. Held
/// over the start of `fusermount3`, which waits for nobody that could want this lock.
static MOUNTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The descriptors of this process that belong to a FUSE session.
fn devices() -> HashSet<RawFd> {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return HashSet::new() };
    let fuse = descriptors
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/dev/fuse")));
    fuse.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The descriptor of the connection with this number, which is the device's minor. Linux says so in `fdinfo` (seen in 6.18);
/// where it does not, it is the one that was not there before.
fn device(minor: Option<u32>, before: &HashSet<RawFd>) -> Option<RawFd> {
    let connection = |descriptor: &RawFd| -> Option<u32> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?.trim().parse().ok()
    };
    let all = devices();
    let told = minor.and_then(|minor| all.iter().copied().find(|descriptor| connection(descriptor) == Some(minor)));
    told.or_else(|| all.difference(before).copied().find(|descriptor| connection(descriptor).is_none()))
}

/// A duplicate of the session's descriptor, which no child inherits.
fn duplicate(device: Option<RawFd>) -> std::io::Result<OwnedFd> {
    let missing =
        || std::io::Error::other("cannot find the descriptor of /dev/fuse in /proc/self/fd (is /proc mounted?)");
    let device = device.ok_or_else(missing)?;
    // SAFETY: the session, which the caller has, keeps it open.
    unsafe { BorrowedFd::borrow_raw(device) }.try_clone_to_owned()
}

/// The connection lives as long as any process has its descriptor: a child that inherited it would keep every user of a
/// dead mount waiting. The crate receives it without close-on-exec.
fn keep_from_children() {
    for descriptor in devices() {
        // SAFETY: fcntl with F_SETFD touches no memory; on a descriptor closed meanwhile it fails with EBADF.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
