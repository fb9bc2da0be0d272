//! A real mount of a tiny file system in memory: changes pass through the kernel, and what changes behind its back is seen
//! at once although the kernel may remember everything for an hour.
//!
//! The file system is served by threads of this test, so a hang would be for ever: every mount has a watchdog that aborts its
//! connection, after which all operations fail and the test with them.

#[path = "fuse_notifications/memory.rs"]
mod memory;

use arvados::fuse::statistics::{Operation, Statistics};
use arvados::fuse::{self, Options};
use arvados::vfs::{FrontEnd, Inode};
use memory::Memory;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longer than any test here takes, by far.
const LIMIT: Duration = Duration::from_secs(60);

/// The mount, on a thread of its own as in the real program.
struct Mount {
    directory: tempfile::TempDir,
    memory: Arc<Memory>,
    statistics: Arc<Statistics>,
    front_end: Arc<dyn FrontEnd>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    is_done: Arc<AtomicBool>,
    was_aborted: Arc<AtomicBool>,
}

impl Mount {
    fn new(memory: Arc<Memory>, writable: bool) -> Mount {
        Mount::at(tempfile::tempdir().unwrap(), memory, writable)
    }

    fn at(directory: tempfile::TempDir, memory: Arc<Memory>, writable: bool) -> Mount {
        let path = directory.path().to_owned();
        let statistics = Arc::new(Statistics::default());
        let (send, receive) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (served, counted) = (memory.clone(), statistics.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let options = Options { writable, ..Options::default() };
                let mut mounted = fuse::mount(served, &path, &options, counted).await.unwrap();
                send.send((mounted.front_end(), mounted.minor().unwrap())).unwrap();
                let _ = stopped.await;
                if !mounted.unmount().await {
                    mounted.detach().await;
                }
                let _ = tokio::time::timeout(Duration::from_secs(5), mounted.ended()).await;
            });
            runtime.shutdown_background();
        });
        let (front_end, minor) = receive.recv().unwrap();
        let (is_done, was_aborted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        watch(minor, directory.path().to_owned(), is_done.clone(), was_aborted.clone());
        let (stop, thread) = (Some(stop), Some(thread));
        Mount { directory, memory, statistics, front_end, stop, thread, is_done, was_aborted }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn count(&self, operation: Operation) -> u64 {
        self.statistics.operation(operation).0
    }
}

/// Aborts the connection if the test is not done in time.
fn watch(minor: u32, path: PathBuf, is_done: Arc<AtomicBool>, was_aborted: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if is_done.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        was_aborted.store(true, Ordering::SeqCst);
        if fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1").is_err() {
            let flags = nix::mount::MntFlags::MNT_FORCE | nix::mount::MntFlags::MNT_DETACH;
            let _ = nix::mount::umount2(&path, flags);
        }
    });
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.stop.take());
        let joined = self.thread.take().map(|thread| thread.join());
        self.is_done.store(true, Ordering::SeqCst);
        if !std::thread::panicking() {
            assert!(joined.is_some_and(|result| result.is_ok()), "the session's thread failed");
            assert!(!self.was_aborted.load(Ordering::SeqCst), "it hung");
        }
    }
}

/// Where the process that is to be killed is to mount; the test that is such a process does nothing without it.
const VICTIM: &str = "FUSE_TEST_VICTIM";

/// Run by the next test in a process of its own: a mount that breaks the rules, so that one of its threads waits in the kernel
/// for ever. It is not killed by itself.
#[test]
fn victim() {
    let Some(folder) = std::env::var_os(VICTIM).map(PathBuf::from) else { return };
    let memory = Memory::new();
    let file = memory.put(1, "f", Some(b"x"));
    let mount = Mount::at(tempfile::tempdir_in(&folder).unwrap(), memory, true);
    assert!(mount.path().join("f").exists());
    *mount.memory.delay.lock().unwrap() = Duration::from_secs(300);
    let reader = std::process::Command::new("cat").arg(mount.path().join("f")).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let device = fs::read_dir("/proc/self/fd").unwrap().flatten().find_map(|entry| {
        let is_device = fs::read_link(entry.path()).ok()? == Path::new("/dev/fuse");
        is_device.then(|| entry.file_name().to_str().unwrap().parse::<i32>().unwrap())
    });
    // What the notifier never does: drop pages that a READ fills.
    let message = [40u32.to_ne_bytes(), 2u32.to_ne_bytes()].concat();
    let message = [message, [0u64, file, 0, 0].map(u64::to_ne_bytes).concat()].concat();
    // SAFETY: the buffer outlives the call.
    std::thread::spawn(move || unsafe { libc::write(device.unwrap(), message.as_ptr().cast(), message.len()) });
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let began = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned();
    let minor = fuse::mountpoint::find(mount.path()).unwrap().minor;
    let mut guardian = std::process::Command::new(env!("CARGO_BIN_EXE_arvados"));
    guardian.arg("mount-guardian").arg(format!("--process={}", std::process::id())).arg(format!("--began={began}"));
    guardian.arg(format!("--minor={minor}")).arg("--path").arg(mount.path()).stdout(std::process::Stdio::piped());
    guardian.env("XDG_STATE_HOME", &folder);
    let mut guardian = guardian.spawn().unwrap();
    guardian.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let line = format!("{} {} {}", reader.id(), guardian.id(), mount.path().display());
    fs::write(folder.join("part"), line).unwrap();
    fs::rename(folder.join("part"), folder.join("ready")).unwrap();
    std::thread::sleep(LIMIT);
    for mut child in [reader, guardian] {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Frees everybody, if the guardian did not.
struct Freed(PathBuf);

impl Drop for Freed {
    fn drop(&mut self) {
        if let Some(mount) = fuse::mountpoint::find(&self.0) {
            let _ = fs::write(format!("/sys/fs/fuse/connections/{}/abort", mount.minor), "1");
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_FORCE);
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn state(process: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1[..1].to_owned())
}

#[test]
fn killed_mount_with_a_thread_that_cannot_die_is_ended_by_its_guardian() {
    use nix::sys::signal::{Signal, kill};
    let folder = tempfile::tempdir().unwrap();
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap());
    victim.args(["victim", "--exact"]).env(VICTIM, folder.path()).stdout(std::process::Stdio::null());
    let mut victim = victim.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !folder.path().join("ready").exists() {
        assert!(Instant::now() < deadline, "the victim does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let line = fs::read_to_string(folder.path().join("ready")).unwrap();
    let [reader, guardian, path] = line.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let _freed = Freed(path.into());
    let guardian = nix::unistd::Pid::from_raw(guardian.parse().unwrap());
    // Without the guardian they would stay for ever: that is what this test is about.
    kill(guardian, Signal::SIGSTOP).unwrap();
    victim.kill().unwrap();
    kill(nix::unistd::Pid::from_raw(reader.parse().unwrap()), Signal::SIGKILL).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(state(reader).as_deref(), Some("D"), "the reader hangs");
    assert!(victim.try_wait().unwrap().is_none(), "the victim cannot die");
    kill(guardian, Signal::SIGCONT).unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    while victim.try_wait().unwrap().is_none() || state(reader).is_some_and(|state| state != "Z") {
        assert!(Instant::now() < deadline, "they still hang");
        std::thread::sleep(Duration::from_millis(5));
    }
    soon("the guardian ends", || state(&guardian.to_string()).is_none_or(|state| state == "Z"));
    let error = fs::read_dir(path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
}

/// Asks until it is true: the notifier is a thread, "at once" is some milliseconds.
fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn content_changed_behind_the_kernels_back_is_seen_when_it_is_told() {
    let memory = Memory::new();
    let file = memory.put(1, "f", Some(b"old"));
    let mount = Mount::new(memory, true);
    let path = mount.path().join("f");
    let open = fs::File::open(&path).unwrap();
    // Not with `fs::read`, which asks for the size: a read makes the kernel ask for the attributes again (for the time of
    // access), and then it would see the change by itself.
    let read = || {
        let mut data = [0; 3];
        open.read_exact_at(&mut data, 0).unwrap();
        data
    };
    assert_eq!(&read(), b"old");
    mount.memory.overwrite(file, b"new");
    assert_eq!(&read(), b"old", "the kernel may remember for an hour");
    mount.front_end.invalidate_node(Inode(file));
    soon("the new content", || &read() == b"new");
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn names_that_come_go_and_change_are_seen_when_the_kernel_is_told() {
    let memory = Memory::new();
    memory.put(1, "f", Some(b"one"));
    let mount = Mount::new(memory, true);
    let root = mount.path();
    assert_eq!(fs::read(root.join("f")).unwrap(), b"one");
    assert!(!root.join("later").exists());
    mount.memory.put(1, "f", Some(b"two"));
    mount.memory.put(1, "later", Some(b"here"));
    assert_eq!(fs::read(root.join("f")).unwrap(), b"one");
    assert!(!root.join("later").exists(), "that it is missing is remembered");
    mount.front_end.invalidate_entry(Inode::ROOT, b"f");
    mount.front_end.invalidate_entry(Inode::ROOT, b"later");
    soon("the other file", || fs::read(root.join("f")).unwrap() == b"two");
    soon("the new file", || root.join("later").exists());
    mount.memory.remove(Inode::ROOT, b"f").unwrap();
    mount.front_end.invalidate_entry(Inode::ROOT, b"f");
    soon("the file is gone", || !root.join("f").exists());
    // What the kernel does not know is no error.
    mount.front_end.invalidate_entry(Inode(99), b"x");
    mount.front_end.invalidate_node(Inode(99));
    assert_eq!(fs::read(root.join("later")).unwrap(), b"here");
}

#[test]
fn working_directory_survives_the_expiry_of_its_name() {
    let memory = Memory::new();
    let directory = memory.put(1, "d", None);
    memory.put(directory, "f", Some(b"x"));
    let mount = Mount::new(memory, true);
    let path = mount.path().join("d");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "read line; /bin/pwd && cat f"]).current_dir(&path);
    shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let before = mount.count(Operation::Lookup);
    mount.front_end.invalidate_entry(Inode::ROOT, b"d");
    soon("it is looked up again", || {
        assert!(path.is_dir());
        mount.count(Operation::Lookup) > before
    });
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\nx", path.display()));
}

#[test]
fn storm_of_notifications_under_sixteen_readers_hangs_nobody() {
    let memory = Memory::new();
    let files: Vec<u64> = (0..4).map(|number| memory.put(1, &format!("f{number}"), Some(&[7; 300_000]))).collect();
    *memory.delay.lock().unwrap() = Duration::from_millis(1);
    let mount = Mount::new(memory, true);
    let deadline = Instant::now() + Duration::from_secs(5);
    let root = mount.path();
    std::thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || {
                while Instant::now() < deadline {
                    let path = root.join(format!("f{}", number % 4));
                    let mut data = Vec::new();
                    fs::File::open(&path).unwrap().read_to_end(&mut data).unwrap();
                    assert!(!data.is_empty());
                    let own = root.join(format!("w{number}"));
                    fs::write(&own, b"something").unwrap();
                    assert!(fs::read_dir(root).unwrap().count() >= 4);
                    fs::remove_file(&own).unwrap();
                }
            });
        }
        let mut value = 0u8;
        while Instant::now() < deadline {
            value = value.wrapping_add(1);
            for (number, file) in files.iter().enumerate() {
                mount.memory.overwrite(*file, &vec![value; 300_000 + usize::from(value)]);
                mount.front_end.invalidate_node(Inode(*file));
                mount.front_end.invalidate_entry(Inode::ROOT, format!("f{number}").as_bytes());
                mount.front_end.invalidate_entry(Inode::ROOT, format!("w{number}").as_bytes());
            }
            mount.front_end.invalidate_node(Inode::ROOT);
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    for (number, file) in files.iter().enumerate() {
        mount.memory.overwrite(*file, b"the end");
        mount.front_end.invalidate_node(Inode(*file));
        soon("the last change", || fs::read(root.join(format!("f{number}"))).unwrap() == b"the end");
    }
}

#[test]
fn names_of_a_directory_that_is_never_idle_are_looked_up_again_after_a_while() {
    let memory = Memory::new();
    memory.put(1, "f", Some(b"one"));
    let mount = Mount::new(memory, true);
    let path = mount.path().join("f");
    assert_eq!(fs::read(&path).unwrap(), b"one");
    // Somebody looks for names that take long, over and over, so that always one look-up is under way.
    *mount.memory.delay.lock().unwrap() = Duration::from_millis(30);
    let root = mount.path();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let is_done = &is_done;
            scope.spawn(move || {
                for number in 0.. {
                    if is_done.load(Ordering::SeqCst) {
                        return;
                    }
                    assert!(!root.join(format!("missing {thread} {number}")).exists());
                }
            });
        }
        std::thread::sleep(Duration::from_millis(100));
        mount.memory.put(1, "f", Some(b"two"));
        mount.front_end.invalidate_entry(Inode::ROOT, b"f");
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::read(&path).unwrap() != b"two" && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        is_done.store(true, Ordering::SeqCst);
    });
    assert_eq!(fs::read(&path).unwrap(), b"two");
}

/// Does what others change of a file still show while `change` waits for its answer and a name in `directory` has changed?
fn changes_show_during(mount: &Mount, directory: u64, change: impl FnOnce() + Send) {
    let file = mount.memory.find(Inode::ROOT, b"f").unwrap();
    let path = mount.path().join("f");
    let open = fs::File::open(&path).unwrap();
    mount.memory.is_held.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(change);
        soon("the change is under way", || mount.memory.waiting.load(Ordering::SeqCst) == 1);
        mount.front_end.invalidate_entry(Inode(directory), b"x");
        // Time for the notifier to do what it must not.
        std::thread::sleep(Duration::from_millis(200));
        let size = open.metadata().unwrap().len() as usize + 1;
        mount.memory.overwrite(file, &vec![b'.'; size]);
        mount.front_end.invalidate_node(Inode(file));
        let deadline = Instant::now() + Duration::from_secs(5);
        let has_size = || open.metadata().unwrap().len() == size as u64;
        while !has_size() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let is_seen = has_size();
        mount.memory.is_held.store(false, Ordering::SeqCst);
        assert!(is_seen, "the notifier waits for the change");
    });
}

#[test]
fn change_of_a_name_in_a_directory_that_is_being_moved_or_removed_holds_up_no_other() {
    let memory = Memory::new();
    memory.put(1, "f", Some(b"one"));
    let (moved, into) = (memory.put(1, "d", None), memory.put(1, "e", None));
    memory.put(moved, "x", Some(b""));
    let replaced = memory.put(into, "r", None);
    let mount = Mount::new(memory, true);
    let root = mount.path();
    assert!(root.join("d/x").exists() && root.join("e/r").exists());
    changes_show_during(&mount, moved, || fs::rename(root.join("d"), root.join("e/d")).unwrap());
    changes_show_during(&mount, replaced, || fs::rename(root.join("e/d"), root.join("e/r")).unwrap());
    changes_show_during(&mount, moved, || fs::remove_dir(root.join("e/r")).unwrap());
}

#[test]
fn reader_that_is_killed_while_its_open_empties_the_file_leaves_nothing_open() {
    let memory = Memory::new();
    memory.put(1, "f", Some(b"one"));
    let mount = Mount::new(memory, true);
    mount.memory.is_held.store(true, Ordering::SeqCst);
    let mut command = std::process::Command::new("python3");
    command.args(["-c", "import os; os.open('f', os.O_RDONLY | os.O_TRUNC)"]).current_dir(mount.path());
    let mut child = command.spawn().unwrap();
    soon("the open is under way", || mount.memory.waiting.load(Ordering::SeqCst) == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    mount.memory.is_held.store(false, Ordering::SeqCst);
    soon("nobody has it open", || mount.memory.released.load(Ordering::SeqCst) == 1);
    assert_eq!(mount.memory.opened.load(Ordering::SeqCst), 1);
}

#[test]
fn every_change_passes_through() {
    let mount = Mount::new(Memory::new(), true);
    let root = mount.path();
    fs::write(root.join("f"), b"hello").unwrap();
    let mut options = fs::OpenOptions::new();
    options.append(true).open(root.join("f")).unwrap().write_all(b" world").unwrap();
    assert_eq!(fs::read(root.join("f")).unwrap(), b"hello world");
    let file = options.open(root.join("f")).unwrap();
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    let metadata = fs::metadata(root.join("f")).unwrap();
    assert_eq!((metadata.len(), metadata.modified().unwrap()), (5, time));
    fs::create_dir(root.join("d")).unwrap();
    fs::File::open(root.join("d")).unwrap().sync_all().unwrap();
    fs::rename(root.join("f"), root.join("d/g")).unwrap();
    assert_eq!(fs::read(root.join("d/g")).unwrap(), b"hello");
    // Emptied by opening it; made for appending; refused when it is there.
    fs::File::create(root.join("d/g")).unwrap();
    assert_eq!(fs::metadata(root.join("d/g")).unwrap().len(), 0);
    fs::OpenOptions::new().append(true).create(true).open(root.join("a")).unwrap();
    assert_eq!(mount.memory.appends.load(Ordering::SeqCst), 1);
    let again = fs::OpenOptions::new().write(true).create_new(true).open(root.join("a"));
    assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    fs::remove_file(root.join("d/g")).unwrap();
    fs::remove_dir(root.join("d")).unwrap();
    assert_eq!(fs::read_dir(root).unwrap().count(), 1);
    assert!(mount.count(Operation::Flush) > 0 && mount.count(Operation::Create) == 2);
    assert_eq!(mount.statistics.bytes_written(), 11);
    let totals = nix::sys::statvfs::statvfs(root).unwrap();
    assert_eq!((totals.blocks(), totals.blocks_free(), totals.files_free()), (1000, 900, 40));
}

fn c_string(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

#[test]
fn renames_and_nodes_that_cannot_be_are_refused_with_their_errno() {
    let mount = Mount::new(Memory::new(), true);
    let (one, two) = (mount.path().join("one"), mount.path().join("two"));
    fs::write(&one, b"1").unwrap();
    fs::write(&two, b"2").unwrap();
    let rename = |flags: u32| {
        let (one, two) = (c_string(&one), c_string(&two));
        let here = libc::AT_FDCWD;
        // SAFETY: both strings end with NUL and outlive the call.
        let result = unsafe { libc::renameat2(here, one.as_ptr(), here, two.as_ptr(), flags) };
        if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() }
    };
    assert_eq!(rename(libc::RENAME_NOREPLACE), libc::EEXIST);
    assert_eq!(rename(libc::RENAME_EXCHANGE), libc::EINVAL);
    fs::remove_file(&two).unwrap();
    assert_eq!(rename(libc::RENAME_NOREPLACE), 0);
    let make = |kind: u32| {
        let path = c_string(&one);
        // SAFETY: the string ends with NUL and outlives the call.
        let result = unsafe { libc::mknod(path.as_ptr(), kind | 0o600, 0) };
        if result == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() }
    };
    assert_eq!(make(libc::S_IFIFO), libc::ENOTSUP);
    assert_eq!(make(libc::S_IFREG), 0);
    let link = fs::hard_link(&one, mount.path().join("three")).unwrap_err().raw_os_error();
    assert_eq!(link, Some(libc::EPERM));
}

#[test]
fn mount_that_cannot_write_is_not_asked_to_flush() {
    let memory = Memory::new();
    memory.put(1, "f", Some(b"x"));
    let mount = Mount::new(memory, false);
    for _ in 0..3 {
        assert_eq!(fs::read(mount.path().join("f")).unwrap(), b"x");
    }
    fs::File::open(mount.path().join("f")).unwrap().sync_all().unwrap();
    fs::File::open(mount.path()).unwrap().sync_all().unwrap();
    assert_eq!(mount.count(Operation::Flush), 0);
}

#[test]
fn change_of_a_killed_process_goes_on_to_its_end_and_leaks_nothing() {
    let mount = Mount::new(Memory::new(), true);
    *mount.memory.delay.lock().unwrap() = Duration::from_millis(1500);
    let mut child = std::process::Command::new("sh");
    let mut child = child.args(["-c", "exec 3>made"]).current_dir(mount.path()).spawn().unwrap();
    // The name is looked up, then the file is made.
    std::thread::sleep(Duration::from_millis(2000));
    let start = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    assert_eq!(mount.memory.find(Inode::ROOT, b"made"), None, "not yet");
    soon("it is made all the same", || mount.memory.find(Inode::ROOT, b"made").is_some());
    let made = mount.memory.find(Inode::ROOT, b"made").unwrap();
    soon("nobody counts on it", || mount.memory.known.lock().unwrap().get(&made) == Some(&0));
    soon("nobody has it open", || {
        mount.memory.released.load(Ordering::SeqCst) == mount.memory.opened.load(Ordering::SeqCst)
    });
    *mount.memory.delay.lock().unwrap() = Duration::ZERO;
    fs::OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(mount.path().join("made")).ok();
}

#[test]
fn users_of_a_busy_mount_are_found_and_its_mount_point_is_none() {
    let memory = Memory::new();
    memory.put(1, "f", Some(b"x"));
    let mount = Mount::new(memory, true);
    let minor = arvados::fuse::mountpoint::find(mount.path()).unwrap().minor;
    assert_eq!(arvados::fuse::users::find(minor), []);
    let file = fs::File::open(mount.path().join("f")).unwrap();
    let mut child = std::process::Command::new("sleep");
    let mut child = child.arg("60").current_dir(mount.path()).stdin(file).spawn().unwrap();
    soon("the user", || {
        let users = arvados::fuse::users::find(minor);
        users.len() == 2 && users[0].command == "sleep"
    });
    let users: Vec<String> = arvados::fuse::users::find(minor).iter().map(ToString::to_string).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let who = format!("pid {} (sleep): ", child.id());
    let open = format!("{who}open file {}", mount.path().join("f").display());
    assert_eq!(users, [format!("{who}working directory"), open]);
    soon("nobody", || arvados::fuse::users::find(minor).is_empty());
}
