//! Where journals are, and how a folder or a file is made or opened that nobody else may read or put in our way.
//!
//! `$XDG_STATE_HOME/arvados/journal/<cluster>-<user>/<mount>/`. The folder of the account and all below it are ours alone
//! (0700, 0600) and are never reached through a symbolic link; what is above them is the user's business.

use super::error::Error;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Folder of all journals of this user. Errors: [`Error::NoPlace`].
pub fn root() -> Result<PathBuf, Error> {
    root_of(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
}

/// [`root`] for given values of the two variables. Relative ones do not count (XDG base directories).
pub fn root_of(state: Option<OsString>, home: Option<OsString>) -> Result<PathBuf, Error> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute(state).or_else(|| absolute(home).map(|home| home.join(".local/state")));
    state.map(|state| state.join("arvados/journal")).ok_or(Error::NoPlace)
}

/// Folder of the journals of one account. Errors: [`Error::Name`].
pub fn account_folder(root: &Path, cluster: &str, user: &str) -> Result<PathBuf, Error> {
    let name = format!("{}-{}", component(cluster)?, component(user)?);
    Ok(root.join(name))
}

/// An identifier that is one component of a path and not hidden. Errors: [`Error::Name`].
pub fn component(name: &str) -> Result<&str, Error> {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_+".contains(character);
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(Error::Name { name: name.to_owned() });
    }
    Ok(name)
}

/// Makes the folder, 0700, with all above it, unless it is there; checks that it is ours and takes rights from others.
pub(super) fn make(folder: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Error::at("make", folder))?;
    check(folder)?;
    let metadata = folder.symlink_metadata().map_err(Error::at("look at", folder))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        let ours = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder, ours).map_err(Error::at("take rights of others from", folder))?;
    }
    Ok(())
}

/// A real folder, owned by us, in which nobody else can write.
pub(super) fn check(folder: &Path) -> Result<(), Error> {
    let metadata = folder.symlink_metadata().map_err(Error::at("look at", folder))?;
    let problem = if !metadata.is_dir() {
        "not a folder"
    } else if metadata.uid() != nix::unistd::geteuid().as_raw() {
        "another user's"
    } else if metadata.mode() & 0o022 != 0 {
        "others can write"
    } else {
        return Ok(());
    };
    Err(Error::NotOurs { path: folder.to_owned(), problem })
}

/// Opens a file, or makes it 0600; never through a link, and never handed down to a child.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK).open(path)
}

/// Reads a whole file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open(path, OpenOptions::new().read(true))?, &mut bytes)?;
    Ok(bytes)
}

/// Makes a file that is on the disk when this returns.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = open(path, OpenOptions::new().read(true).append(true).create_new(true))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Brings names that were made or changed in the folder to the disk.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Refuses a folder at or below the mount point: a journal there would wait for the mount that waits for it.
pub(super) fn refuse_below(folder: &Path, mount_point: &Path) -> Result<(), Error> {
    if resolved(folder).starts_with(resolved(mount_point)) {
        return Err(Error::BelowMount { folder: folder.to_owned(), mount_point: mount_point.to_owned() });
    }
    Ok(())
}

/// Without links, as far as the path exists. Folders on a mount that does not answer stay as they are written.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut rest: Vec<Component<'_>> = Vec::new();
    let mut existing = path.as_path();
    loop {
        if let Ok(found) = existing.canonicalize() {
            return rest.iter().rev().fold(found, |path, part| path.join(part));
        }
        match (existing.parent(), existing.components().next_back()) {
            (Some(parent), Some(last)) => {
                rest.push(last);
                existing = parent;
            }
            _ => return path,
        }
    }
}
