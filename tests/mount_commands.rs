//! The mount as a command: background, signals, exit status, unmounting, `--exec`, what it writes where.

mod mount_support;
mod support;

use arvados::fuse::mountpoint;
use mount_support::Client;
use mount_support::background::{Background, is_alive, send};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Cluster, LIMIT, Mount, arvados, run, until, wait};

fn is_mounted(path: &Path) -> bool {
    let path = path.to_str().unwrap().replace(' ', "\\040");
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.split(' ').nth(4) == Some(&path))
}

fn mount_command(cluster: &Cluster) -> Command {
    let mut command = arvados();
    command.arg("mount").envs(cluster.environment(None));
    command
}

#[test]
fn daemon_returns_when_mounted_and_unmount_needs_no_cluster() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    // A name with a space, which upstream does not find in the list of mounts.
    let path = directory.path().join("mount point");
    fs::create_dir(&path).unwrap();
    let output = run(mount_command(&cluster).args(["--home", "--subtype", "test"]).arg(&path), LIMIT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_mounted(&path));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    let unmount = |subtype: &str| {
        let mut command = arvados();
        command.args(["mount", "--unmount", "--subtype", subtype]).arg(&path);
        command.env_remove("ARVADOS_API_HOST").env_remove("ARVADOS_API_TOKEN");
        run(&mut command, LIMIT)
    };
    assert!(unmount("other").status.success() && is_mounted(&path), "another subtype is left alone");
    let output = unmount("test");
    assert!(output.status.success() && !is_mounted(&path), "{}", String::from_utf8_lossy(&output.stderr));
    let output = unmount("test");
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "nothing to do is no error"
    );
}

#[test]
fn what_goes_wrong_is_said_where_the_command_was_typed() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mnt");
    let output = run(mount_command(&cluster).arg(&path), LIMIT);
    assert_eq!(output.status.code(), Some(1), "no such directory");
    assert!(!output.stderr.is_empty());
    fs::create_dir(&path).unwrap();
    fs::write(path.join("x"), "").unwrap();
    let output = run(mount_command(&cluster).arg(&path), LIMIT);
    assert_eq!(output.status.code(), Some(1), "not empty");
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
    fs::remove_file(path.join("x")).unwrap();
    let wrong = "v2/zzzzz-gj3su-000000000000000/wrongwrongwrongwrongwrongwrongwrongwrongwrong";
    let output = run(mount_command(&cluster).env("ARVADOS_API_TOKEN", wrong).arg(&path), LIMIT);
    assert_eq!(output.status.code(), Some(1), "a token that is none");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("401") && !text.contains("wrongwrong"), "{text}");
    assert!(!is_mounted(&path));
}

/// It is tried for minutes, and whoever has typed the command is not to wonder.
#[test]
fn mount_that_waits_for_its_cluster_says_so() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let mut command = mount_command(&cluster);
    // Port 1 (tcpmux) is served nowhere.
    command.env("ARVADOS_API_HOST", "127.0.0.1:1").arg("--retries=3").arg(directory.path());
    let output = run(&mut command, LIMIT);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.matches("trying again").count(), 1, "{text}");
    assert!(text.lines().all(|line| line.contains("cannot connect to 127.0.0.1:1: ")), "{text}");
}

#[test]
fn signals_end_an_idle_mount_with_status_0() {
    let cluster = Cluster::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut mount = cluster.mount(&["--home"]);
        std::thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        kill(Pid::from_raw(mount.process.id() as i32), signal).unwrap();
        let status = wait(&mut mount.process, LIMIT).expect("it ends");
        assert_eq!(status.code(), Some(0), "{signal}: {}", mount.log());
        assert!(start.elapsed() < Duration::from_secs(5), "{signal}: {:?}", start.elapsed());
        assert!(!mount.is_mounted());
    }
}

#[test]
fn signal_ends_a_mount_that_is_in_use() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("used", None, client.manifest(&[("f", b"foo")]));
    let mut mount = cluster.mount(&["--collection", &made.hash, "--unmount-timeout=1"]);
    let open = fs::File::open(mount.path().join("f")).unwrap();
    kill(Pid::from_raw(mount.process.id() as i32), Signal::SIGTERM).unwrap();
    let status = wait(&mut mount.process, LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(!mount.is_mounted());
    let read = std::os::unix::fs::FileExt::read_at(&open, &mut [0; 3], 0);
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::ENOTCONN), "it is told that the file system is gone");
}

#[test]
fn killed_mount_leaves_nobody_hanging_and_is_replaced() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount(&["--all"]);
    let path = mount.path();
    // Somebody is always in the middle of a request.
    let walkers: Vec<_> = (0..4)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || while fs::read_dir(path.join("home")).is_ok() {})
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    mount.process.kill().unwrap();
    mount.process.wait().unwrap();
    until("the users of a dead mount", || walkers.iter().all(|walker| walker.is_finished()));
    assert_eq!(fs::read_dir(&path).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    let mut command = mount_command(&cluster);
    let mut next =
        command.args(["--foreground", "--replace", "--all"]).arg(&path).stderr(Stdio::null()).spawn().unwrap();
    until("the next mount", || fs::read_dir(path.join("home")).is_ok());
    assert!(run(arvados().args(["mount", "--unmount"]).arg(&path), LIMIT).status.success());
    assert_eq!(wait(&mut next, LIMIT).and_then(|status| status.code()), Some(0));
}

/// The mount that is replaced ends a moment later, and must not take the one that replaced it for its own.
#[test]
fn replaced_mount_leaves_its_successor_alone() {
    let cluster = Cluster::start();
    let mut mount = cluster.mount(&["--all"]);
    let path = mount.path().to_owned();
    fs::read_dir(path.join("home")).unwrap();
    let mut command = mount_command(&cluster);
    let mut next =
        command.args(["--foreground", "--replace", "--all"]).arg(&path).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait(&mut mount.process, LIMIT).is_some(), "the one that was replaced ends");
    std::thread::sleep(Duration::from_secs(2));
    assert!(fs::read_dir(path.join("home")).is_ok());
    assert!(next.try_wait().unwrap().is_none());
    assert!(run(arvados().args(["mount", "--unmount"]).arg(&path), LIMIT).status.success());
    assert_eq!(wait(&mut next, LIMIT).and_then(|status| status.code()), Some(0));
}

/// What somebody sees who asks for the file system at a path all the time, but for a mount, dead or alive.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Watcher {
    fn start(path: &Path) -> Watcher {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (path.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match statfs(&path) {
                    Ok(found) if found.filesystem_type() == FUSE_SUPER_MAGIC => {}
                    Err(Errno::ENOTCONN | Errno::ECONNABORTED) => {}
                    other => seen.push(format!("{:?}", other.map(|found| found.filesystem_type()))),
                }
            }
            seen
        });
        Watcher { stop, thread }
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Whether a mount can be put beneath another: root's right, since Linux 6.5.
fn can_mount_beneath() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    nix::unistd::geteuid().is_root() && version >= (6, 5)
}

/// What is written to the path in such a moment would land in the directory below.
#[test]
fn nobody_sees_the_directory_below_while_a_mount_is_replaced() {
    if !can_mount_beneath() {
        return;
    }
    let cluster = Cluster::start();
    let mut mount = cluster.mount(&["--subtype=before", "--mount-by-id=first"]);
    let path = mount.path();
    let number_of_mounts = || mountpoint::list().unwrap().iter().filter(|mount| mount.path == path).count();
    for round in 0..10 {
        if round % 2 == 0 {
            mount.process.kill().unwrap();
            mount.process.wait().unwrap();
        }
        let watcher = Watcher::start(&path);
        let mut command = mount_command(&cluster);
        command.args(["--foreground", "--replace", "--allow-other", "--subtype=new"]);
        command.arg(format!("--mount-by-id=round{round}")).arg(&path).stderr(Stdio::null());
        let before = std::mem::replace(&mut mount.process, command.spawn().unwrap());
        until("the next mount", || path.join(format!("round{round}")).is_dir());
        let seen = watcher.end();
        assert!(seen.is_empty(), "round {round}: {} looks at {:?}", seen.len(), seen.first());
        let mut before = before;
        assert!(wait(&mut before, LIMIT).is_some(), "the one that was replaced ends");
        assert_eq!(number_of_mounts(), 1, "nothing is left beneath");
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(1) == path.to_str()).expect("it is mounted");
    assert!(line.starts_with("new ") && line.contains(" fuse.new rw,nosuid,nodev,"), "{line}");
    assert!(line.contains("allow_other") && line.contains("max_read=1048576"), "{line}");
    assert!(run(Command::new("fusermount3").arg("-u").arg(&path), LIMIT).status.success());
    assert_eq!(wait(&mut mount.process, LIMIT).and_then(|status| status.code()), Some(0), "it notices the unmount");
}

/// Several mounts on top of each other go all, and what is no FUSE mount stays.
#[test]
fn all_mounts_on_top_of_each_other_are_replaced_but_not_what_is_no_fuse_mount() {
    if !can_mount_beneath() {
        return;
    }
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let tmpfs = Tmpfs::new(directory.path());
    let start = |options: &[&str]| {
        let mut command = mount_command(&cluster);
        command.arg("--foreground").args(options).arg(&tmpfs.0).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut children = vec![start(&["--mount-by-id=one"])];
    until("the first", || tmpfs.0.join("one").is_dir());
    // Our command mounts on no directory that has something in it.
    let beside = cluster.mount(&["--custom"]);
    nix::mount::mount(Some(&beside.path()), &tmpfs.0, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>)
        .unwrap();
    let watcher = Watcher::start(&tmpfs.0);
    children.push(start(&["--replace", "--mount-by-id=two"]));
    until("the second", || tmpfs.0.join("two").is_dir());
    assert_eq!(watcher.end(), Vec::<String>::new());
    let left: Vec<String> =
        mountpoint::list().unwrap().into_iter().filter(|it| it.path == tmpfs.0).map(|it| it.kind).collect();
    assert_eq!(left, ["tmpfs", "fuse"]);
    drop(tmpfs);
    for mut child in children {
        assert!(wait(&mut child, LIMIT).is_some(), "it ends with its mount");
    }
}

/// A file system of another type, with whatever is mounted on it; unmounted when dropped.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn new(directory: &Path) -> Tmpfs {
        let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
        nix::mount::mount(Some("tmpfs"), directory, Some("tmpfs"), flags, none).unwrap();
        Tmpfs(directory.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).is_ok() {}
    }
}

#[test]
fn exec_has_the_status_of_its_command_and_leaves_nothing_mounted() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    client.collection("seen", None, client.manifest(&[("f", b"foo")]));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let output = run(mount_command(&cluster).args(["--home", "--exec", "ls"]).arg(path).arg("--").arg(path), LIMIT);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"seen\n"[..]));
    for (script, status) in [("exit 7", 7), ("kill -TERM $$", 241)] {
        let output = run(mount_command(&cluster).arg("--home").arg(path).args(["--exec", "sh", "-c", script]), LIMIT);
        assert_eq!(output.status.code(), Some(status), "{script}");
        assert!(!is_mounted(path));
    }
    let output = run(mount_command(&cluster).arg("--home").arg(path).args(["--exec", "/no/such/program"]), LIMIT);
    assert_eq!(output.status.code(), Some(libc::ENOENT));
}

/// We ignore the signal of a file that becomes too large, and a command does not expect to be born so.
#[test]
fn exec_gets_signals_as_a_shell_gives_them() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let mut command = mount_command(&cluster);
    command.args(["--home", "--read-write", "--journal-dir"]).arg(directory.path().join("journal"));
    fs::create_dir(directory.path().join("mnt")).unwrap();
    command.arg(directory.path().join("mnt")).args(["--exec", "grep", "SigIgn", "/proc/self/status"]);
    let output = run(&mut command, LIMIT);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ignored = u64::from_str_radix(text.trim_start_matches("SigIgn:").trim(), 16).expect(&text);
    assert_eq!(ignored & 1 << (Signal::SIGXFSZ as u32 - 1), 0, "{text}");
}

/// Ctrl-C ends the process that was started in the terminal, and the one in the background has a session of its own.
#[test]
fn mount_whose_start_is_broken_off_does_not_come_later() {
    let cluster = Cluster::start();
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let background = Background::new(&cluster);
    let mut command = background.command(&["--home", "--read-write"]);
    command.env("ARVADOS_API_HOST", silent.local_addr().unwrap().to_string());
    let mut starter = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut connection = None;
    until("the cluster to be asked", || {
        connection = connection.take().or_else(|| silent.accept().ok());
        connection.is_some()
    });
    let process = background.process().expect("the process that is to mount");
    send(starter.id(), Signal::SIGINT);
    assert!(wait(&mut starter, LIMIT).is_some());
    until("the end of the process that was to mount", || !is_alive(process));
    assert!(!is_mounted(&background.path()));
}

#[test]
fn mount_that_is_refused_leaves_no_journal() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let [journals, full, empty, file] =
        ["journals", "full", "empty", "full/file"].map(|name| directory.path().join(name));
    fs::create_dir(&full).unwrap();
    fs::create_dir(&empty).unwrap();
    fs::write(&file, "").unwrap();
    let nothing = "--collection=zzzzz-4zz18-000000000000000";
    for (option, path) in [("--home", &full), ("--home", &file), (nothing, &empty)] {
        let mut command = mount_command(&cluster);
        command.args(["--foreground", "--read-write", option, "--journal-dir"]).arg(&journals).arg(path);
        let output = run(&mut command, LIMIT);
        assert_eq!(output.status.code(), Some(1), "{}", path.display());
        let accounts = fs::read_dir(&journals).into_iter().flatten().flatten();
        let left: Vec<_> = accounts.flat_map(|account| fs::read_dir(account.path()).unwrap().flatten()).collect();
        assert!(left.is_empty(), "{option} {}: {left:?}", path.display());
    }
}

#[test]
fn statistics_count_the_bytes_that_were_read() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("counted", None, client.manifest(&[("f", &[b'x'; 100_000])]));
    let mount = cluster.mount(&["--crunchstat-interval=0.2", "--collection", &made.hash]);
    assert_eq!(fs::read(mount.path().join("f")).unwrap().len(), 100_000);
    until("the lines", || {
        let log = mount.log();
        let has = |start: &str| {
            log.lines().any(|line| line.starts_with(start) && line.contains(" -- interval 0.2000 seconds "))
        };
        has("crunchstat: blkio:0:0 0 write 100000 read")
            && has("crunchstat: net:keep0 0 tx 100000 rx")
            && has("crunchstat: fuseop:read ")
    });
}

#[test]
fn log_lines_have_the_form_that_callers_know() {
    let cluster = Cluster::start();
    let mount = cluster.mount(&["--mount-by-id", "by_id"]);
    assert!(fs::metadata(mount.path().join("by_id/zzzzz-4zz18-aaaaaaaaaaaaaaa")).is_err());
    let marker = format!("[{}] WARNING: ", mount.process.id());
    until("the line", || mount.log().lines().any(|line| line.contains(&marker) && line[20..].starts_with("arvados.")));
}

#[test]
fn debug_lines_may_be_asked_for_in_settings_conf() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("arvados")).unwrap();
    fs::write(directory.path().join("arvados/settings.conf"), "ARVADOS_DEBUG=1\n").unwrap();
    let mut command = mount_command(&cluster);
    command.args(["--foreground", "--home"]).env("XDG_CONFIG_HOME", directory.path());
    let mount = Mount::start(command);
    let marker = format!("[{}] DEBUG: ", mount.process.id());
    until("the line", || mount.log().lines().any(|line| line.contains(&marker)));
}
