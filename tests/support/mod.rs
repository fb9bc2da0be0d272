//! What the integration tests share: the real binary as a cluster and as a mount, and the real clients from PyPI.
//!
//! Nothing here may outlive its test: processes are killed by pid and mounts are taken down when their value is dropped,
//! also when the test panics. Every command has a time limit, because a test of a file system that hangs, hangs for ever.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub mod random;

/// Long enough for a loaded machine with two cores, short enough that a hang is noticed.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A number from the environment.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// The binary under test.
pub fn arvados() -> Command {
    Command::new(env!("CARGO_BIN_EXE_arvados"))
}

/// A command of the Python environment that `make test` sets up (`arv-put`, `python`, …).
pub fn client(name: &str) -> Command {
    let python = std::env::var_os("ARVADOS_TEST_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python"));
    let path = python.with_file_name(name);
    assert!(path.exists(), "{} is missing: `make test` installs the real clients", path.display());
    Command::new(path)
}

/// Runs `command` to its end, or panics when it takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Output {
    run_with_input(command, b"", limit)
}

/// As [`run`], with `input` on standard input.
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = drain(child.stdout.take().unwrap());
    let stderr = drain(child.stderr.take().unwrap());
    let Some(status) = wait(&mut child, limit) else {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("took longer than {limit:?}: {shown}\n{}", String::from_utf8_lossy(&stderr.join().unwrap()));
    };
    writer.join().unwrap();
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// As [`run`], and the command must succeed; its standard output.
pub fn succeed(command: &mut Command) -> String {
    succeed_with_input(command, b"")
}

/// As [`succeed`], with `input` on standard input.
pub fn succeed_with_input(command: &mut Command, input: &[u8]) -> String {
    let output = run_with_input(command, input, LIMIT);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {command:?}\nstdout: {text}\nstderr: {errors}", output.status);
    text
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits for a child to end by itself, up to `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks `condition` until it is true, or panics with `what` after [`LIMIT`].
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `arvados cluster start` as a process of its own.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    process: Child,
    options: Vec<String>,
}

impl Cluster {
    pub fn start() -> Cluster {
        Cluster::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|option| option.to_string()).collect();
        let process = Cluster::spawn(directory.path(), &options);
        let cluster = Cluster { directory, process, options };
        cluster.wait_until_ready();
        cluster
    }

    fn spawn(directory: &Path, options: &[String]) -> Child {
        let log = std::fs::File::create(directory.join("log")).unwrap();
        arvados()
            .args(["cluster", "start", "--data"])
            .arg(directory.join("data"))
            .args(["--port", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn wait_until_ready(&self) {
        until("the cluster", || {
            let status = run(arvados().args(["cluster", "status", "--data"]).arg(self.data()), LIMIT);
            status.status.success()
        });
    }

    /// The cluster's data folder.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// `kill -9`, and a new start on the same data.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// A new start on the same data.
    pub fn restart(&mut self) {
        self.process = Cluster::spawn(self.data().parent().unwrap(), &self.options);
        self.wait_until_ready();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        wait(&mut self.process, LIMIT).expect("it does not end on SIGTERM")
    }

    /// The variables that `arvados cluster env` prints, and folders of the test's own for caches and settings.
    pub fn environment(&self, user: Option<&str>) -> Vec<(String, String)> {
        let mut command = arvados();
        command.args(["cluster", "env", "--data"]).arg(self.data());
        if let Some(user) = user {
            command.args(["--user", user]);
        }
        // A shell reads the lines, as a user's would.
        let script = format!("{}\nenv -0", succeed(&mut command));
        let output = succeed(Command::new("bash").args(["-c", &script]));
        let mut variables: Vec<(String, String)> = output
            .split('\0')
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| name.starts_with("ARVADOS_") || *name == "SSL_CERT_FILE")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let home = self.directory.path().join("home");
        std::fs::create_dir_all(&home).unwrap();
        variables.push(("HOME".into(), home.to_str().unwrap().into()));
        variables.push(("XDG_CACHE_HOME".into(), home.join("cache").to_str().unwrap().into()));
        variables.push(("XDG_CONFIG_HOME".into(), home.join("config").to_str().unwrap().into()));
        variables
    }

    /// A new token of the user that [`Cluster::environment`] speaks for.
    pub fn new_token(&self) -> String {
        succeed(arvados().args(["cluster", "token", "create", "--data"]).arg(self.data())).trim().to_owned()
    }

    /// One of the real clients, ready to talk to this cluster.
    pub fn client(&self, name: &str) -> Command {
        let mut command = client(name);
        command.envs(self.environment(None));
        command
    }

    /// Mounts this cluster with `arvados mount` and the given options.
    pub fn mount<S: AsRef<OsStr>>(&self, options: &[S]) -> Mount {
        let mut command = arvados();
        command.args(["mount", "--foreground"]).args(options).envs(self.environment(None));
        Mount::start(command)
    }

    /// Mounts this cluster with the real `arv-mount` and the given options.
    pub fn arv_mount<S: AsRef<OsStr>>(&self, options: &[S]) -> Mount {
        let mut command = self.client("arv-mount");
        command.args(["--foreground"]).args(options);
        Mount::start(command)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the cluster's last log lines:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// A mounted file system; unmounted when dropped.
pub struct Mount {
    directory: tempfile::TempDir,
    pub process: Child,
}

impl Mount {
    /// Runs a mount command, which lacks only the mount point, and waits until it is mounted.
    pub fn start(mut command: Command) -> Mount {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("mnt")).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        command.arg(directory.path().join("mnt")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().unwrap();
        let mut mount = Mount { directory, process };
        until("the mount", || {
            let ended = mount.process.try_wait().unwrap();
            assert!(ended.is_none(), "the mount ended with {ended:?}:\n{}", mount.log());
            mount.is_mounted()
        });
        mount
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub fn is_mounted(&self) -> bool {
        self.connection().is_some()
    }

    /// The number of the FUSE connection, as in `/sys/fs/fuse/connections`.
    fn connection(&self) -> Option<u32> {
        let wanted = self.path();
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        text.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let number = fields.get(2)?.split_once(':')?.1.parse().ok()?;
            (fields.get(4) == Some(&wanted.to_str()?) && line.contains(" - fuse")).then_some(number)
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a file that the failing test still holds open must not keep the mount.
        let unmount = || Command::new("fusermount3").args(["-u", "-z"]).arg(self.path()).output();
        let connection = self.connection();
        let _ = unmount();
        if wait(&mut self.process, Duration::from_secs(10)).is_none() {
            if let Some(number) = connection {
                let _ = std::fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1");
            }
            let _ = self.process.kill();
            let _ = self.process.wait();
            let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(self.path()).output();
        }
        if std::thread::panicking() {
            eprintln!("the mount's log:\n{}", self.log());
        }
    }
}
