//! A mount that is killed leaves nobody hanging, and its guardian leaves nothing behind: outages named one by one.

mod mount_support;
mod support;

use mount_support::background::{Background, guardian, is_alive, mount_process, processes, send, status};
use mount_support::files::save;
use mount_support::writer::Writer;
use mount_support::{Client, control};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Cluster, LIMIT, Mount, arvados, run, until, wait};

/// Within this everybody who used a killed mount has an error, and the guardian is gone.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The guardian of a foreground mount, ready: the mount is in the list of mounts some milliseconds earlier.
fn ready_guardian(mount: u32) -> u32 {
    let ready = || {
        guardian(mount)
            .filter(|it| fs::read_link(format!("/proc/{it}/fd/1")).is_ok_and(|to| to == Path::new("/dev/null")))
    };
    until("the guardian", || ready().is_some());
    ready().unwrap()
}

/// `stat` by another process, which this test can do without when it hangs.
fn look(path: &Path) -> String {
    let output = run(Command::new("ls").env("LC_ALL", "C").arg("-l").arg(path), Duration::from_secs(5));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn failing_cluster() -> Cluster {
    Cluster::start_with(&["--faults", "--keepstores", "2"])
}

/// Eight readers that wait for Keep, eight who wait for the API, and some who use what is loaded.
fn load(cluster: &Cluster, mount: &Mount) -> Vec<Child> {
    let client = Client::new(cluster);
    let files: Vec<(String, Vec<u8>)> = (0..8).map(|number| (format!("f{number}"), vec![number; 200_000])).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    // Names must be new ones in each round.
    let round = mount.process.id();
    let made = client.collection(&format!("loaded {round}"), None, client.manifest(&files));
    let other = |number: u32| client.collection(&format!("other {round} {number}"), None, String::new()).uuid;
    let others: Vec<String> = (0..4).map(other).collect();
    let by_id = mount.path().join("by_id");
    let path = by_id.join(made.uuid);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 8);
    control(
        cluster,
        "faults",
        json!({"keep": [{"method": ["GET"], "delay": 300}], "api": [{"path": "/collections/", "delay": 300}]}),
    );
    let start = |words: &[&str], path: PathBuf| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let readers = (0..8).map(|number| start(&["cat"], path.join(format!("f{number}"))));
    let lookers = others
        .iter()
        .flat_map(|uuid| [start(&["ls", "-l"], by_id.join(uuid)), start(&["stat"], by_id.join(uuid).join("x"))]);
    let script = "while stat \"$0\" && ls \"$0\" && ! test -e \"$0/new\"; do touch \"$0/new\"; done";
    let busy = (0..4).map(|_| start(&["sh", "-c", script], path.clone()));
    let children: Vec<Child> = readers.chain(lookers).chain(busy).collect();
    std::thread::sleep(Duration::from_millis(800));
    children
}

/// Everybody has ended, with an error, within [`AT_ONCE`].
fn assert_all_fail_at_once(children: Vec<Child>) {
    let deadline = Instant::now() + AT_ONCE;
    for mut child in children {
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(20);
        let Some(ended) = wait(&mut child, left) else {
            let state = status(child.id(), 0);
            child.kill().unwrap();
            panic!("pid {} still hangs, in state {state:?}", child.id());
        };
        assert!(!ended.success(), "what was asked of a dead mount fails");
    }
}

fn mount_by_id(cluster: &Cluster, options: &[&str]) -> Mount {
    cluster.mount(&[options, &["--mount-by-id", "by_id"]].concat())
}

#[test]
fn mount_killed_under_load_leaves_nobody_hanging() {
    let cluster = failing_cluster();
    for _ in 0..3 {
        control(&cluster, "faults", json!({"keep": [], "api": []}));
        let mut mount = mount_by_id(&cluster, &[]);
        let guardian = ready_guardian(mount.process.id());
        let children = load(&cluster, &mount);
        send(mount.process.id(), Signal::SIGKILL);
        assert_all_fail_at_once(children);
        wait(&mut mount.process, AT_ONCE).expect("it is dead");
        let start = Instant::now();
        while is_alive(guardian) {
            assert!(start.elapsed() < AT_ONCE, "the guardian ends with its mount");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(look(&mount.path()).contains("Transport endpoint is not connected"), "as callers know a dead mount");
        // And the place can be used again at once.
        control(&cluster, "faults", json!({"keep": [], "api": []}));
        let mut command = arvados();
        command.args(["mount", "--replace", "--mount-by-id", "again"]).arg(mount.path());
        let output = run(command.envs(cluster.environment(None)), LIMIT);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(look(&mount.path().join("again")), "");
        let successor = mount_process(&mount.path()).expect("the new mount");
        // The guardian of the killed one is gone, so nothing of it can hit the new one, whose number may be the same.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(look(&mount.path().join("again")), "");
        kill(Pid::from_raw(successor as i32), Signal::SIGTERM).unwrap();
        until("the end of the new mount", || !is_alive(successor));
    }
}

#[test]
fn mount_takes_the_place_of_one_that_was_killed() {
    let cluster = Cluster::start();
    let mut mount = mount_by_id(&cluster, &[]);
    send(mount.process.id(), Signal::SIGKILL);
    wait(&mut mount.process, AT_ONCE).expect("it is dead");
    until("the dead mount", || look(&mount.path()).contains("Transport endpoint is not connected"));
    let mut command = arvados();
    command.args(["mount", "--mount-by-id", "again"]).arg(mount.path());
    let output = run(command.envs(cluster.environment(None)), LIMIT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("a mount that has died was still here"), "{said}");
    assert_eq!(look(&mount.path().join("again")), "");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = mount.path().to_str().unwrap().to_owned();
    assert_eq!(mounts.lines().filter(|line| line.contains(&path)).count(), 1, "the dead one is gone");
    let successor = mount_process(&mount.path()).expect("the new mount");
    kill(Pid::from_raw(successor as i32), Signal::SIGTERM).unwrap();
    until("the end of the new mount", || !is_alive(successor));
}

/// The guardian's reason to be: a thread of the mount that cannot die, here a FUSE device that somebody else still has open,
/// which is the same to everybody who waits.
#[test]
fn connection_that_outlives_its_mount_process_is_aborted() {
    let cluster = failing_cluster();
    let mut mount = mount_by_id(&cluster, &[]);
    ready_guardian(mount.process.id());
    let held = hold_device(mount.process.id());
    let children = load(&cluster, &mount);
    send(mount.process.id(), Signal::SIGKILL);
    assert_all_fail_at_once(children);
    wait(&mut mount.process, AT_ONCE).expect("it is dead");
    assert!(look(&mount.path()).contains("Transport endpoint is not connected"));
    drop(held);
}

/// A duplicate of another process's `/dev/fuse`.
fn hold_device(process: u32) -> OwnedFd {
    let number = fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten().find_map(|entry| {
        let is_fuse = fs::read_link(entry.path()).ok()? == Path::new("/dev/fuse");
        is_fuse.then(|| entry.file_name().to_str().unwrap().parse::<i32>().unwrap())
    });
    // SAFETY: both calls touch no memory; what they return is ours alone.
    unsafe {
        use std::os::fd::FromRawFd;
        let descriptor = libc::syscall(libc::SYS_pidfd_open, process, 0);
        assert!(descriptor >= 0);
        let process = OwnedFd::from_raw_fd(descriptor as i32);
        let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number.unwrap(), 0);
        assert!(copy >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(copy as i32)
    }
}

#[test]
fn guardian_holds_nothing_and_cannot_be_stopped_by_a_signal_meant_for_the_mount() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mnt");
    fs::create_dir(&path).unwrap();
    // A caller with a lock file and a pipe, both left open for its children.
    let lock = fs::File::create(directory.path().join("lock")).unwrap();
    let descriptor = lock.as_raw_fd();
    let mut command = arvados();
    command.args(["mount", "--foreground", "--mount-by-id", "by_id"]).arg(&path).envs(cluster.environment(None));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(directory.path());
    // SAFETY: fcntl and setpgid are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::setpgid(0, 0);
            libc::fcntl(descriptor, libc::F_SETFD, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let guardian = ready_guardian(child.id());
    let links = |process: u32| -> Vec<String> {
        let links = fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
        links.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned())).collect()
    };
    let allowed = |link: &String| link == "/dev/null" || link.starts_with("anon_inode:") || link.ends_with("/abort");
    let held: Vec<String> = links(guardian).into_iter().filter(|link| !allowed(link)).collect();
    assert!(held.is_empty(), "{held:?}");
    assert!(links(child.id()).iter().any(|link| link.ends_with("/lock")), "the mount itself does as it is told");
    assert_eq!(fs::read_link(format!("/proc/{guardian}/cwd")).unwrap(), Path::new("/"));
    assert_eq!(status(guardian, 3), Some(guardian.to_string()), "its own session");
    let words = fs::read_to_string(format!("/proc/{guardian}/cmdline")).unwrap();
    let token = cluster.environment(None).into_iter().find(|(name, _)| name == "ARVADOS_API_TOKEN").unwrap().1;
    assert!(!words.contains(&token));
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        kill(Pid::from_raw(guardian as i32), signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_alive(guardian));
    // Ctrl-C goes to the whole group of the mount: it ends as ever, and its guardian with it.
    kill(Pid::from_raw(-(child.id() as i32)), Signal::SIGINT).unwrap();
    let start = Instant::now();
    assert_eq!(wait(&mut child, LIMIT).and_then(|status| status.code()), Some(0));
    let mut text = Vec::new();
    output.read_to_end(&mut text).unwrap();
    until("the guardian's end", || !is_alive(guardian));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "it is unmounted");
}

#[test]
fn guardian_that_is_killed_is_replaced() {
    let cluster = Cluster::start();
    let mount = mount_by_id(&cluster, &[]);
    let first = ready_guardian(mount.process.id());
    send(first, Signal::SIGKILL);
    until("another guardian", || guardian(mount.process.id()).is_some_and(|next| next != first));
    assert!(mount.path().join("by_id").is_dir());
}

/// A mount that is taken away may have much to save yet. Meanwhile the number of its connection can be another mount's, and a
/// guardian that came late would take that one for its own.
#[test]
fn guardian_of_a_mount_that_was_taken_away_is_not_replaced_and_hits_nobody_else() {
    let cluster = failing_cluster();
    let client = Client::new(&cluster);
    let made = client.collection("unsaved", None, String::new());
    let mut mount = Writer::start(&cluster, &["--sync=exit"]);
    let first = ready_guardian(mount.pid());
    save(&mount.collection(&made.uuid).join("f"), b"unsaved").unwrap();
    control(&cluster, "faults", json!({"api": [{"method": ["PUT"], "path": "/collections/", "delay": 60}]}));
    until("the unmount", || run(Command::new("fusermount3").arg("-u").arg(mount.path()), LIMIT).status.success());
    send(first, Signal::SIGKILL);
    // As long as it takes until another one is started for a mount that is there, and some more.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(guardian(mount.pid()), None);
    let stranger = mount_by_id(&cluster, &[]);
    let process = mount.pid();
    mount.kill();
    until("whoever watched it", || guardian(process).is_none());
    assert_eq!(look(&stranger.path().join("by_id")), "", "another mount is well");
}

#[test]
fn background_mount_has_a_guardian_when_the_command_returns() {
    let cluster = Cluster::start();
    let directory = tempfile::tempdir().unwrap();
    let mut command = arvados();
    // As the drop-in.
    command.arg0("arv-mount").arg("--home").arg(directory.path()).envs(cluster.environment(None));
    assert!(run(&mut command, LIMIT).status.success());
    let process = mount_process(directory.path()).expect("the daemon");
    let guardian = guardian(process).expect("its guardian");
    let output = run(Command::new("fusermount3").arg("-u").arg(directory.path()), LIMIT);
    assert!(output.status.success());
    until("the end of both", || !is_alive(process) && !is_alive(guardian));
}

#[test]
fn killed_mount_is_started_again_where_asked_to() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("kept", None, client.manifest(&[("f", b"content")]));
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("mnt")).unwrap();
    let path = directory.path().join("mnt");
    let mut command = arvados();
    // Relative paths, because the new one must find the directory of the old one.
    command.args(["mount", "--restart", "--logfile", "log", "--mount-by-id", "by_id", "mnt"]);
    command.current_dir(directory.path()).envs(cluster.environment(None));
    assert!(run(&mut command, LIMIT).status.success());
    let log = || fs::read_to_string(directory.path().join("log")).unwrap();
    let file = path.join("by_id").join(&made.uuid).join("f");
    let own = |process: &u32| fs::read_link(format!("/proc/{process}/cwd")).is_ok() && guardian(*process).is_some();
    let find = || {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(text.lines().filter(|line| line.contains(path.to_str().unwrap())).count() <= 1, "no pile of mounts");
        processes().into_iter().filter(own).find(|process| {
            let words = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
            words.contains("--restart\0--logfile\0log") && !words.contains("mount-guardian")
        })
    };
    for _ in 0..2 {
        assert_eq!(fs::read(&file).unwrap(), b"content");
        let before = find().expect("the mount and its guardian");
        let old = guardian(before).unwrap();
        send(before, Signal::SIGKILL);
        until("a new mount with a new guardian", || find().is_some_and(|process| process != before));
        until("the end of the old guardian", || !is_alive(old));
        assert_eq!(fs::read(&file).unwrap(), b"content");
    }
    assert!(log().contains("the mount process died: its connection is aborted"), "{}", log());
    assert!(log().contains("the mount is started again"), "{}", log());
    // A mount that is unmounted stays so.
    let last = find().unwrap();
    let output = run(Command::new("fusermount3").arg("-u").arg(&path), LIMIT);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until("the end", || !is_alive(last) && guardian(last).is_none());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

/// Stops a guardian for as long as it lives, so that it sees nothing of what happens meanwhile.
struct Asleep(u32);

impl Asleep {
    fn new(guardian: u32) -> Asleep {
        send(guardian, Signal::SIGSTOP);
        until("the guardian's sleep", || status(guardian, 0).is_some_and(|state| state == "T"));
        Asleep(guardian)
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        send(self.0, Signal::SIGCONT);
    }
}

/// The successor has the same place, and the same numbers if nobody else has mounted anything meanwhile: by these alone a
/// mount that has saved what it had to and ended would look like one that died.
#[test]
fn mount_that_ends_after_another_has_taken_its_place_is_not_started_again() {
    let cluster = failing_cluster();
    let client = Client::new(&cluster);
    let made = client.collection("unsaved", None, String::new());
    let mount = Background::new(&cluster);
    mount.start(&["--restart", "--read-write", "--sync=exit", "--logfile=log", "--mount-by-id=by_id"]);
    let first = mount.process().expect("the mount");
    let watcher = guardian(first).expect("its guardian");
    save(&mount.path().join("by_id").join(&made.uuid).join("f"), b"unsaved").unwrap();
    control(&cluster, "faults", json!({"api": [{"method": ["PUT"], "path": "/collections/", "delay": 2}]}));
    let asleep = Asleep::new(watcher);
    until("the unmount", || run(Command::new("fusermount3").arg("-u").arg(mount.path()), LIMIT).status.success());
    mount.start(&["--logfile=log", "--mount-by-id=next"]);
    until("the end of the first", || !is_alive(first));
    drop(asleep);
    until("the end of its guardian", || !is_alive(watcher));
    assert!(mount.path().join("next").is_dir(), "the second is well");
    let log = fs::read_to_string(mount.directory.path().join("log")).unwrap();
    assert!(!log.contains("the mount process died"), "{log}");
    assert!(client.files(&made.uuid).contains_key("f"));
}

/// As service managers do that wait for a while and then kill what has not ended.
#[test]
fn mount_that_was_asked_to_end_and_is_killed_then_is_not_started_again() {
    let cluster = failing_cluster();
    let client = Client::new(&cluster);
    let made = client.collection("unsaved", None, String::new());
    let mount = Background::new(&cluster);
    mount.start(&["--restart", "--read-write", "--sync=exit", "--debug", "--logfile=log", "--mount-by-id=by_id"]);
    let log = || fs::read_to_string(mount.directory.path().join("log")).unwrap();
    let process = mount.process().expect("the mount");
    let watcher = guardian(process).expect("its guardian");
    save(&mount.path().join("by_id").join(&made.uuid).join("f"), b"unsaved").unwrap();
    control(&cluster, "faults", json!({"api": [{"method": ["PUT"], "path": "/collections/", "delay": 60}]}));
    send(process, Signal::SIGTERM);
    until("the signal", || log().contains("unmounting"));
    // From anybody else the guardian does not believe it.
    send(watcher, Signal::SIGUSR2);
    send(process, Signal::SIGKILL);
    until("the end of the guardian", || !is_alive(watcher));
    assert!(log().contains("the mount process died: its connection is aborted"), "{}", log());
    assert!(!log().contains("is started again"), "{}", log());
    assert!(look(&mount.path()).contains("Transport endpoint is not connected"));
}

/// What the guardian blocks for itself must not be blocked in what it starts, and what was promised to users of the killed mount
/// holds for those of its successor.
#[test]
fn mount_that_was_started_again_has_what_was_closed_and_ends_in_good_order() {
    let cluster = Cluster::start();
    let client = Client::new(&cluster);
    let made = client.collection("kept", None, client.manifest(&[("old", b"old")]));
    let mount = Background::new(&cluster);
    // Nothing is saved before the end.
    mount.start(&["--restart", "--read-write", "--sync=exit", "--logfile=log", "--mount-by-id=by_id"]);
    let log = || fs::read_to_string(mount.directory.path().join("log")).unwrap();
    let folder = mount.path().join("by_id").join(&made.uuid);
    let next = |before: u32| {
        let found = || mount.process().filter(|process| *process != before && guardian(*process).is_some());
        until("the next mount", || found().is_some());
        found().unwrap()
    };
    for (round, signal) in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().enumerate() {
        if round > 0 {
            mount.start(&["--restart", "--read-write", "--sync=exit", "--logfile=log", "--mount-by-id=by_id"]);
        }
        let (closed, later) = (format!("closed{round}"), format!("later{round}"));
        save(&folder.join(&closed), b"closed before the kill").unwrap();
        assert!(!client.files(&made.uuid).contains_key(&closed), "only in the journal");
        let first = mount.process().expect("the mount");
        send(first, Signal::SIGKILL);
        let second = next(first);
        assert_eq!(fs::read(folder.join(&closed)).unwrap(), b"closed before the kill");
        until("the save of what the killed mount left", || client.files(&made.uuid).contains_key(&closed));
        save(&folder.join(&later), b"written after it").unwrap();
        send(second, signal);
        until("the end", || !is_alive(second));
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0, "{signal}: it is unmounted");
        let files = client.files(&made.uuid);
        assert_eq!(files.get(&later).map(Vec::as_slice), Some(&b"written after it"[..]), "{signal}: {}", log());
    }
    let mut list = arvados();
    list.args(["journal", "list", "--json"]).env("XDG_STATE_HOME", mount.directory.path().join("state"));
    assert_eq!(String::from_utf8_lossy(&run(&mut list, LIMIT).stdout).trim(), "[]", "no journal is left");
}

#[test]
fn log_says_who_keeps_the_mount_busy_at_exit() {
    let cluster = Cluster::start();
    let mut mount = mount_by_id(&cluster, &[]);
    let mut child = Command::new("sleep").arg("60").current_dir(mount.path().join("by_id")).spawn().unwrap();
    kill(Pid::from_raw(mount.process.id() as i32), Signal::SIGTERM).unwrap();
    let ended = wait(&mut mount.process, LIMIT);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
    let line = format!("still in use by pid {} (sleep): working directory", child.id());
    assert!(mount.log().contains(&line), "{}", mount.log());
}
