//! A mount that writes, and that can be killed, started again and taken down in every way.
//!
//! It is `arvados mount --read-write`, or the program that `ARVADOS_TEST_MOUNT` names (the real `arv-mount`, to see that a
//! test finds what it is there to find): that one does not get the options which only ours has, all of them written
//! `--name=value`.
//!
//! Whatever happens the mount is taken down: when the value is dropped, and by a watchdog when a test hangs in a system
//! call, because then nothing else would end it.

use crate::support::{Cluster, LIMIT, arvados, until, wait};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Options that `arv-mount` does not have.
const OURS: [&str; 6] =
    ["--sync=", "--commit-guard=", "--on-conflict=", "--memory-limit=", "--journal-dir=", "--journal-size="];

/// After this a single test is taken for hanging.
const HANGING: Duration = Duration::from_secs(180);

pub struct Writer {
    directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
    options: Vec<String>,
    pub process: Option<Child>,
    /// Ends the watchdog when dropped.
    _watchdog: Sender<()>,
}

/// Whether the mount under test is this project's.
pub fn is_ours() -> bool {
    std::env::var_os("ARVADOS_TEST_MOUNT").is_none()
}

impl Writer {
    /// Mounts with `by_id`, read-write, and a journal of its own.
    pub fn start(cluster: &Cluster, options: &[&str]) -> Writer {
        Writer::start_for(cluster, options, HANGING)
    }

    /// As [`Writer::start`], with another token than the cluster's own.
    pub fn start_as(cluster: &Cluster, options: &[&str], token: &str) -> Writer {
        let mut environment = cluster.environment(None);
        environment.push(("ARVADOS_API_TOKEN".to_owned(), token.to_owned()));
        Writer::start_in(environment, options, HANGING)
    }

    /// As [`Writer::start`], for a test that may take longer.
    pub fn start_for(cluster: &Cluster, options: &[&str], hanging: Duration) -> Writer {
        Writer::start_in(cluster.environment(None), options, hanging)
    }

    fn start_in(mut environment: Vec<(String, String)>, options: &[&str], hanging: Duration) -> Writer {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        fs::create_dir(directory.path().join("cache")).unwrap();
        let (sender, receiver) = channel::<()>();
        let path = directory.path().join("mnt");
        std::thread::spawn(move || {
            if receiver.recv_timeout(hanging) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("the test took longer than {hanging:?}: {} is taken down", path.display());
                force_down(&path);
            }
        });
        // Mounts of one test must not share what they keep between runs.
        let state = directory.path().join("state").to_str().unwrap().to_owned();
        let cache = directory.path().join("cache").to_str().unwrap().to_owned();
        environment.extend([("XDG_STATE_HOME".into(), state), ("XDG_CACHE_HOME".into(), cache)]);
        let options = options.iter().map(|option| option.to_string()).collect();
        let mut writer = Writer { directory, environment, options, process: None, _watchdog: sender };
        writer.start_again();
        writer
    }

    /// The next mount has this token.
    pub fn use_token(&mut self, token: &str) {
        for (name, value) in &mut self.environment {
            if name == "ARVADOS_API_TOKEN" {
                token.clone_into(value);
            }
        }
    }

    /// The token of the next mount.
    pub fn token(&self) -> &str {
        let token = self.environment.iter().find(|(name, _)| name == "ARVADOS_API_TOKEN");
        token.map(|(_, value)| value.as_str()).expect("a cluster's environment has one")
    }

    /// The command, complete but for the descriptors.
    pub fn command(&self) -> Command {
        let mut options = vec!["--foreground".to_owned(), "--read-write".into(), "--mount-by-id=by_id".into()];
        options.push(format!("--journal-dir={}", self.journal().display()));
        options.extend(self.options.iter().cloned());
        let mut command = match std::env::var_os("ARVADOS_TEST_MOUNT") {
            Some(program) => {
                options.retain(|option| !OURS.iter().any(|ours| option.starts_with(ours)));
                Command::new(program)
            }
            None => {
                let mut command = arvados();
                command.arg("mount");
                command
            }
        };
        command.args(options).arg(self.path()).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Mounts after [`Writer::kill`], [`Writer::unmount`] or [`Writer::terminate`], with the same journal.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it is mounted");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command();
        self.process = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        until("the mount", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the mount ended with {ended:?}:\n{}", self.log());
            is_mounted(&self.path())
        });
        // The kernel mounts before the program answers.
        until("the first answer", || fs::metadata(self.path().join("by_id")).is_ok());
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// A collection or project in this mount.
    pub fn collection(&self, id: &str) -> PathBuf {
        self.path().join("by_id").join(id)
    }

    pub fn journal(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    /// How many mounts have a journal there.
    pub fn journals(&self) -> usize {
        let Ok(accounts) = fs::read_dir(self.journal()) else { return 0 };
        accounts.flatten().map(|account| fs::read_dir(account.path()).unwrap().count()).sum()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What it has logged, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it is mounted").id()
    }

    /// Peak memory of the process, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// `kill -9`, and nothing else: who uses the mount is on his own until [`Writer::clear`]. Whether it died by itself: a
    /// thread of it that waits in the kernel for an answer of its own (fuse.md, trap 9) has to be helped.
    pub fn kill(&mut self) -> bool {
        let mut process = self.process.take().expect("it is mounted");
        process.kill().unwrap();
        let died = wait(&mut process, Duration::from_secs(2)).is_some();
        if !died {
            force_down(&self.path());
            process.wait().unwrap();
        }
        died
    }

    /// After [`Writer::kill`]: makes the mount point usable, by force.
    pub fn clear(&self) {
        force_down(&self.path());
    }

    /// Dies, and is mounted again at the same place.
    pub fn start_after_kill(&mut self) {
        self.kill();
        self.clear();
        self.start_again();
    }

    /// `fusermount3 -u`, and how the program ended.
    pub fn unmount(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let output = Command::new("fusermount3").arg("-u").arg(self.path()).output().unwrap();
            if output.status.success() {
                break;
            }
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(Instant::now() < deadline, "cannot unmount: {text}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.end()
    }

    /// SIGTERM, and how the program ended.
    pub fn terminate(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.pid() as i32), Signal::SIGTERM).unwrap();
        self.end()
    }

    fn end(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it is mounted");
        let status = wait(&mut process, LIMIT);
        if status.is_none() {
            process.kill().unwrap();
            force_down(&self.path());
            process.wait().unwrap();
        }
        status.unwrap_or_else(|| panic!("it does not end:\n{}", self.log()))
    }

    /// Unmounts and asserts that everything was saved.
    pub fn unmount_well(&mut self) {
        let status = self.unmount();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.path()).output();
            let patience = if std::thread::panicking() { 2 } else { 20 };
            if wait(&mut process, Duration::from_secs(patience)).is_none() {
                let _ = process.kill();
                // The connection first: a thread of it may wait for that.
                force_down(&self.path());
                let _ = process.wait();
            }
        }
        force_down(&self.path());
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the mount's last log lines:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Whether something is mounted there. Does not touch the mount.
pub fn is_mounted(path: &Path) -> bool {
    let wanted = path.to_str().unwrap();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().any(|line| line.split(' ').nth(4) == Some(wanted))
}

/// Ends the connection, so that nobody waits for a program that is gone, and detaches the mount.
fn force_down(path: &Path) {
    for _ in 0..10 {
        if !is_mounted(path) {
            return;
        }
        // Root may; for others the way of every user remains.
        let _ = umount2(path, MntFlags::MNT_FORCE);
        if umount2(path, MntFlags::MNT_DETACH).is_err() {
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(path).output();
        }
    }
}
