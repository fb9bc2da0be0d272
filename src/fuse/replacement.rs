//! Putting a new mount in the place of old ones, so that there is no moment without any.
//!
//! Unmounting first and mounting then would let the directory below show for as long as `fusermount3` takes to start: whoever
//! writes to the path in that moment writes into it, and whoever looks finds nothing. So the new file system is mounted
//! where nobody looks, taken from there as a tree without a place, and put beneath the uppermost of the old mounts (root's
//! right, since Linux 6.5). With the old one detached it is there.
//!
//! What is taken away is named by a descriptor and not by its path: an old mount that ends by itself in that moment has
//! the new one at its path. Opened with `O_PATH`, which asks a dead or hanging file system nothing; the same holds for everything
//! else here.
//!
//! Where the kernel refuses to mount beneath (older ones; who is to mount beneath a root), the old ones go first and the
//! new one, ready, follows at once. Where it does not give trees to us at all, the caller has to do without this module.

use super::mountpoint::{self, MountPoint};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use std::ffi::CStr;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Flags of open_tree(2) and move_mount(2), as in `linux/mount.h`.
const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const MOVE_MOUNT_BENEATH: u32 = 0x200;

/// Where to mount for a moment. Not the folder of `TMPDIR`: that may lie in the mount that is to be replaced.
const TEMPLATE: &str = "/tmp/arvados-mount-XXXXXX";

/// An empty directory to mount on where nobody looks; unmounted and removed when dropped.
pub(super) struct Aside {
    folder: PathBuf,
}

impl Aside {
    /// Errors: also that the kernel would not let us take anything from there.
    pub(super) fn new() -> Result<Aside> {
        let folder = nix::unistd::mkdtemp(TEMPLATE)?;
        // As the list of mounts will have it.
        let aside = Aside { folder: std::fs::canonicalize(folder)? };
        open_tree(&aside.folder)?;
        Ok(aside)
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Takes what is mounted there.
    pub(super) fn take(self) -> Result<Tree> {
        open_tree(&self.folder).map(Tree)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        while umount2(&self.folder, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
        if let Err(error) = std::fs::remove_dir(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot remove a temporary directory");
        }
    }
}

/// A mount without a place. Dropped before it got one it is gone, and its session ends.
pub(super) struct Tree(OwnedFd);

impl Tree {
    /// Puts it at `path`, in place of the FUSE mounts there. Errors: [`Tree`]'s mount is gone then, the old ones may be there.
    pub(super) fn replace(self, path: &Path) -> Result<()> {
        while let Some(top) = Uppermost::at(path)? {
            if top.is_last()? {
                let root = top.root.as_fd();
                match self.put(root, c"", MOVE_MOUNT_T_EMPTY_PATH | MOVE_MOUNT_BENEATH) {
                    Ok(()) => return top.take_away().inspect_err(|_| self.take_back()),
                    Err(error) => tracing::debug!(%error, "cannot mount beneath: the old mount goes first"),
                }
            }
            top.take_away()?;
        }
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(Error::other)?;
        // SAFETY: a constant that stands for the current directory, of no importance for an absolute path.
        let nowhere = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
        self.put(nowhere, &path, 0)
    }

    fn put(&self, directory: BorrowedFd, path: &CStr, flags: u32) -> Result<()> {
        // SAFETY: the strings end with NUL and outlive the call; the other arguments are numbers.
        let result = unsafe {
            let tree = self.0.as_raw_fd();
            let flags = MOVE_MOUNT_F_EMPTY_PATH | flags;
            libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), directory.as_raw_fd(), path.as_ptr(), flags)
        };
        if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    fn take_back(&self) {
        if let Err(error) = umount2(&link(self.0.as_fd()), MntFlags::MNT_DETACH) {
            tracing::warn!(%error, "a mount that should have replaced another stays beneath it");
        }
    }
}

/// The uppermost mount at a path, whatever comes on top of it or takes its place meanwhile.
pub(super) struct Uppermost {
    root: OwnedFd,
    mount: MountPoint,
}

impl Uppermost {
    /// `None`: what is there is no FUSE mount.
    pub(super) fn at(path: &Path) -> Result<Option<Uppermost>> {
        let root = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let id = mountpoint::number(root.as_fd())?;
        let listed = mountpoint::list().map_err(Error::other)?;
        let mount = listed.into_iter().find(|mount| mount.id == id && mount.path == path && mount.matches(None));
        Ok(mount.map(|mount| Uppermost { root, mount }))
    }

    pub(super) fn minor(&self) -> u32 {
        self.mount.minor
    }

    /// Is there no other FUSE mount directly below it?
    fn is_last(&self) -> Result<bool> {
        let listed = mountpoint::list().map_err(Error::other)?;
        let below = listed.into_iter().find(|mount| mount.id == self.mount.parent && mount.path == self.mount.path);
        Ok(below.is_none_or(|below| !below.matches(None)))
    }

    /// Ends every request of its connection and takes it out of the tree.
    pub(super) fn take_away(&self) -> Result<()> {
        let path = link(self.root.as_fd());
        if !mountpoint::abort(self.mount.minor) {
            // Aborts; and as long as our descriptor is open it cannot do more.
            let _ = umount2(&path, MntFlags::MNT_FORCE);
        }
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => Ok(()),
            Err(_) if !self.is_listed()? => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn is_listed(&self) -> Result<bool> {
        let listed = mountpoint::list().map_err(Error::other)?;
        Ok(listed.iter().any(|mount| mount.id == self.mount.id))
    }
}

/// A path that leads to what the descriptor has open, and not to what is mounted on top of it.
fn link(descriptor: BorrowedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn open_tree(path: &Path) -> Result<OwnedFd> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(Error::other)?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32;
    // SAFETY: the string ends with NUL and outlives the call; the other arguments are numbers.
    let descriptor = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    match i32::try_from(descriptor) {
        // SAFETY: a new descriptor that nobody else has.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(Error::last_os_error()),
    }
}
