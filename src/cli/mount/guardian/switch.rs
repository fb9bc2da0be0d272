//! How the connection of a mount is aborted.

use super::Arguments;
use crate::fuse::mountpoint;
use nix::mount::{MntFlags, umount2};
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// How to abort the connection.
pub(super) enum Switch {
    /// The connection's own switch, open. Whatever happens to its number, this writes to no other connection.
    Open(File),
    /// A forced unmount aborts too. If nobody uses the mount in that moment, it also takes it away.
    Force,
    /// Neither can be had.
    Missing,
}

impl Switch {
    pub(super) fn open(minor: u32) -> Switch {
        let open = |path: String| std::fs::OpenOptions::new().write(true).open(path);
        match open(format!("{}/{minor}/abort", mountpoint::CONNECTIONS)).or_else(|_| open_unseen(minor)) {
            Ok(file) => Switch::Open(file),
            Err(_) if nix::unistd::geteuid().is_root() => Switch::Force,
            Err(_) => Switch::Missing,
        }
    }

    pub(super) fn abort(&self, arguments: &Arguments, is_mounted: bool) -> std::io::Result<()> {
        match self {
            Switch::Open(file) => {
                let mut file = file;
                file.write_all(b"1")
            }
            Switch::Force if is_mounted => {
                match umount2(&arguments.path, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
                    // Busy is what it says after the abort.
                    Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            Switch::Force => Ok(()),
            Switch::Missing => Err(std::io::Error::other("there is no way to abort the connection (see above)")),
        }
    }
}

/// Opens the switch where `fusectl` is mounted nowhere, as root: in a mount of it that has no place in any tree, so that
/// nothing is changed for others (fsopen(2), Linux 5.2).
pub(super) fn open_unseen(minor: u32) -> std::io::Result<File> {
    const CREATE: u32 = 6;
    let call = |result: libc::c_long| -> std::io::Result<OwnedFd> {
        match i32::try_from(result) {
            // SAFETY: a new descriptor that nobody else has.
            Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let kind: &CStr = c"fusectl";
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the strings end with NUL and outlive the calls; the other arguments are numbers.
    let tree = unsafe {
        let context = call(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1u32))?;
        if libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, none, none, 0) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        call(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1u32, 0u32))?
    };
    let path = std::ffi::CString::new(format!("{minor}/abort")).map_err(std::io::Error::other)?;
    // SAFETY: as above.
    let descriptor = unsafe { libc::openat(tree.as_raw_fd(), path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    call(descriptor.into()).map(File::from)
}
