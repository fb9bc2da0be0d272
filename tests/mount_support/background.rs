//! Mounts in the background and their guardians, found by their command lines.

use crate::support::{Cluster, LIMIT, arvados, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A field of `/proc/PID/stat` behind the name: 0 is the state, 3 the session.
pub fn status(process: u32, field: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(field).map(str::to_owned)
}

pub fn processes() -> Vec<u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn find(is_wanted: impl Fn(&str) -> bool) -> Option<u32> {
    processes()
        .into_iter()
        .find(|process| is_wanted(&fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default()))
}

/// The guardian of a mount process.
pub fn guardian(mount: u32) -> Option<u32> {
    find(|words| words.contains(&format!("mount-guardian\0--process={mount}\0")))
}

/// The mount process that serves `path` in the background.
pub fn mount_process(path: &Path) -> Option<u32> {
    let path = path.to_str().unwrap();
    find(|words| words.contains("--ready-descriptor=") && !words.contains("mount-guardian") && words.contains(path))
}

pub fn is_alive(process: u32) -> bool {
    status(process, 0).is_some_and(|state| state != "Z")
}

pub fn send(process: u32, signal: Signal) {
    kill(Pid::from_raw(process as i32), signal).unwrap();
}

/// A mount in the background; taken down when dropped, with all that serves it.
pub struct Background {
    pub directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Background {
    pub fn new(cluster: &Cluster) -> Background {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        let mut environment = cluster.environment(None);
        environment.push(("XDG_STATE_HOME".into(), directory.path().join("state").to_str().unwrap().into()));
        Background { directory, environment }
    }

    /// The command that mounts.
    pub fn command(&self, options: &[&str]) -> Command {
        let mut command = arvados();
        command.arg("mount").args(options).arg(self.path()).current_dir(self.directory.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Mounts, and returns what the command said.
    pub fn start(&self, options: &[&str]) -> Output {
        let output = run(&mut self.command(options), LIMIT);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    pub fn process(&self) -> Option<u32> {
        mount_process(&self.path())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // While it is mounted, killing it only makes its guardian start it again.
        let _ = arvados().args(["mount", "--unmount"]).arg(self.path()).output();
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(process) = self.process() {
            if Instant::now() > deadline {
                let _ = kill(Pid::from_raw(process as i32), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.path()).output();
    }
}
