//! System calls that the standard library hides, or whose errors it swallows.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The number of the error, 0 for success.
pub fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

fn outcome(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `close(2)` with its error: dropping a [`File`] loses it, and the error of a save arrives just there.
pub fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours and nobody uses it afterwards.
    outcome(unsafe { libc::close(file.into_raw_fd()) })
}

/// Creates or empties the file, writes and closes it.
pub fn save(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    close(file)
}

/// Opens for appending, writes and closes.
pub fn append(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(data)?;
    close(file)
}

/// Replaces what is in the file through one handle: what it shows is what gets replaced. Returns what it showed before.
pub fn rewrite(path: &Path, new: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let file = File::options().read(true).write(true).open(path)?;
    let mut before = Vec::new();
    io::Read::read_to_end(&mut (&file), &mut before)?;
    let data = new(&before);
    file.set_len(0)?;
    file.write_all_at(&data, 0)?;
    close(file)?;
    Ok(before)
}

/// Creates a file that is not there yet.
pub fn create_new(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(data)?;
    close(file)
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// `truncate(2)`, by name.
pub fn truncate(path: &Path, size: i64) -> io::Result<()> {
    let path = c_string(path);
    // SAFETY: the string outlives the call.
    outcome(unsafe { libc::truncate(path.as_ptr(), size) })
}

/// `renameat2(2)`.
pub fn rename_with(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c_string(from), c_string(to));
    // SAFETY: the strings outlive the call.
    outcome(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) })
}

/// `mknod(2)` of a regular file.
pub fn make_node(path: &Path) -> io::Result<()> {
    let path = c_string(path);
    // SAFETY: the string outlives the call.
    outcome(unsafe { libc::mknod(path.as_ptr(), libc::S_IFREG | 0o644, 0) })
}

/// Opens with any flags.
pub fn open(path: &Path, flags: i32) -> io::Result<File> {
    let access = flags & libc::O_ACCMODE;
    let mut options = File::options();
    options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY);
    // The standard library checks combinations of its own flags; what goes through here is the kernel's to judge.
    options.custom_flags(flags & !libc::O_ACCMODE).mode(0o644).open(path)
}

/// The names that an open directory shows, read from the beginning through this very descriptor.
pub fn listed(directory: &File) -> io::Result<Vec<String>> {
    // SAFETY: `fdopendir` owns the duplicate, which `closedir` closes.
    let stream = unsafe { libc::fdopendir(libc::dup(directory.as_raw_fd())) };
    if stream.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    // SAFETY: the stream is open; duplicates share their position, so it is read from its beginning; an entry is valid until the
    // next one is read.
    unsafe {
        libc::rewinddir(stream);
        while let Some(entry) = libc::readdir(stream).as_ref() {
            names.push(CStr::from_ptr(entry.d_name.as_ptr()).to_string_lossy().into_owned());
        }
        libc::closedir(stream);
    }
    names.retain(|name| name != "." && name != "..");
    names.sort();
    Ok(names)
}

/// A shared mapping of the first `length` bytes of a file.
pub struct Mapping {
    address: *mut u8,
    length: usize,
}

impl Mapping {
    pub fn new(file: &File, length: usize) -> io::Result<Mapping> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { address: address.cast(), length })
    }

    /// The mapped bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping lives as long as `self`, and whoever else changes the file is another process' business.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.length) }
    }

    /// `msync(2)`: the kernel writes what was changed.
    pub fn synchronise(&self) -> io::Result<()> {
        // SAFETY: the range is the mapping's.
        outcome(unsafe { libc::msync(self.address.cast(), self.length, libc::MS_SYNC) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping's, and nobody uses it afterwards.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}
