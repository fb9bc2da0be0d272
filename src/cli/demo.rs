//! `arvados demo`: the embedded cluster, sample data in it, and a mount of it for reading and writing, all at once.
//!
//! The cluster runs in this process, the mount in a child, exactly as a user would start it: it gets the address of the
//! cluster and a token in its environment and knows nothing else. The child has a process group of its own, so that
//! Ctrl-C reaches this process alone and things end in the right order: first the mount, then the cluster. If this process
//! is killed, the kernel sends the child a SIGTERM.
//! Whatever the end was (a signal, an error, the mount gone), nothing stays behind but the data. The mount's journal is among
//! them: a demonstration that was killed saves at its next start what it had not saved yet.

use crate::cli::cluster::client::Client;
use crate::cli::cluster::env::ELSEWHERE;
use crate::cli::cluster::start::shell_words;
use crate::cli::signals;
use crate::cluster::{Cluster, FIRST_USER, Options, Running};
use crate::fuse::mountpoint;
use crate::telemetry;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::future::Future;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

mod filling;
mod packer;
mod sample;

/// Until the mount answers: connecting to a cluster on this machine takes a fraction of it.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);
/// For the mount to save everything and end after SIGTERM, before it is unmounted by force and the rest stays in the journal.
const SAVE_LIMIT: Duration = Duration::from_secs(60);
/// For an unmount by force.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(10);

/// Start an embedded cluster with sample data and mount it for reading and writing, until Ctrl-C.
///
/// The first start creates the folder with the cluster, fills it and says what to try; the data are kept for the next start.
/// Ctrl-C saves what was written, unmounts and stops everything.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  arvados demo
  arvados demo --dir ~/arvados-demo --mount ~/keep --port 4443
  arvados demo --no-mount        # only the cluster")]
pub struct Arguments {
    /// Folder for the cluster's data, the mount's journal and logs
    #[arg(long, value_name = "DIR", default_value = "demo")]
    dir: PathBuf,
    /// Where to mount (default: mnt in --dir). Created if missing, and then removed at the end
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Port of the cluster's API; 0: the one of the last start, or a free one on the first
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Do not mount, only run the cluster
    #[arg(long, conflicts_with = "mount")]
    no_mount: bool,
    /// Option for `arvados mount`, such as --mount-option=--debug or --mount-option=--read-only; may be repeated
    #[arg(long = "mount-option", value_name = "OPTION", allow_hyphen_values = true)]
    mount_options: Vec<String>,
}

/// Runs until a signal comes or the mount ends.
pub fn run(arguments: Arguments) -> ExitCode {
    signals::survive_the_limit_on_files();
    match demonstrate(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("arvados demo: {message}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(arguments: &Arguments) -> Result<(), String> {
    if !arguments.no_mount {
        check_fuse()?;
    }
    let folder = &arguments.dir;
    std::fs::create_dir_all(folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let log = folder.join("cluster.log");
    telemetry::start("info", Some(&log)).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
    let interruption = Interruption::watch()?;

    let mut options = Options::new(folder.join("cluster"));
    options.port = Some(arguments.port);
    let cluster = Cluster::start(options).map_err(|error| error.to_string())?;
    let done = with_cluster(arguments, &cluster, &interruption);
    cluster.stop();
    println!("Stopped. The data are in {} for the next time.", folder.display());
    done
}

fn with_cluster(arguments: &Arguments, cluster: &Running, interruption: &Interruption) -> Result<(), String> {
    let client = Client::open(cluster.data())?;
    if !filling::fill(&client, |future| interruption.run(future))? {
        return Ok(());
    }
    if arguments.no_mount {
        suggest(cluster, None, None);
        interruption.wait(|| false);
        return Ok(());
    }
    let directory = arguments.mount.clone().unwrap_or_else(|| arguments.dir.join("mnt"));
    let mut mount = Mount::start(arguments, &directory, &client)?;
    suggest(cluster, Some(&directory), filling::welcome(&client)?.as_deref());
    interruption.wait(|| mount.has_ended());
    println!();
    mount.stop()
}

/// Says before anything is built up what is missing on this machine.
fn check_fuse() -> Result<(), String> {
    if !Path::new("/dev/fuse").exists() {
        return Err("this machine has no /dev/fuse (a container needs `--device /dev/fuse --cap-add SYS_ADMIN`); \
                    --no-mount starts the cluster alone"
            .into());
    }
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("fusermount3").exists()));
    match found {
        true => Ok(()),
        false => Err("fusermount3 is missing: install it with `apt-get install fuse3`, or use --no-mount".into()),
    }
}

/// SIGINT, SIGTERM and SIGHUP, from the first moment on.
struct Interruption {
    runtime: tokio::runtime::Runtime,
    signalled: watch::Receiver<bool>,
}

impl Interruption {
    fn watch() -> Result<Interruption, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        let (sender, signalled) = watch::channel(false);
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let _guard = runtime.enter();
            let mut signals = signal(kind).map_err(|error| format!("cannot wait for signals: {error}"))?;
            let sender = sender.clone();
            runtime.spawn(async move {
                signals.recv().await;
                sender.send_replace(true);
            });
        }
        Ok(Interruption { runtime, signalled })
    }

    /// Waits for `future`; `None` if a signal came first.
    fn run<T>(&self, future: &mut (dyn Future<Output = T> + Unpin)) -> Option<T> {
        let mut signalled = self.signalled.clone();
        self.runtime.block_on(async {
            tokio::select! {
                done = future => Some(done),
                _ = signalled.wait_for(|&signalled| signalled) => None,
            }
        })
    }

    /// Waits for a signal, or for `ended`.
    fn wait(&self, mut ended: impl FnMut() -> bool) {
        while !*self.signalled.borrow() && !ended() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The child that serves the mount.
struct Mount {
    directory: PathBuf,
    created: bool,
    log: PathBuf,
    child: Child,
}

impl Mount {
    fn start(arguments: &Arguments, directory: &Path, client: &Client) -> Result<Mount, String> {
        let shown = directory.display();
        // A demonstration that was killed leaves a dead mount, on which even `stat` fails.
        mountpoint::unmount(&mountpoint::resolve(directory), None, UNMOUNT_LIMIT)
            .map_err(|error| format!("cannot take away the old mount at {shown}: {error}"))?;
        // The place of its own in --dir may be left over from a demonstration that was killed.
        let created = arguments.mount.is_none() || !directory.exists();
        std::fs::create_dir_all(directory).map_err(|error| format!("cannot create {shown}: {error}"))?;

        let log = arguments.dir.join("mount.log");
        let output = std::fs::File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let token = client.usable_token(&client.user(FIRST_USER)?)?;
        let mut command = Command::new(program);
        command
            .args(["mount", "--foreground", "--read-write", "--journal-dir"])
            .arg(arguments.dir.join("journal"))
            .args(&arguments.mount_options)
            .arg(directory)
            .env("ARVADOS_API_HOST", &client.note.api)
            .env("ARVADOS_API_TOKEN", token)
            .env("SSL_CERT_FILE", &client.certificate)
            .env_remove("ARVADOS_API_HOST_INSECURE")
            .envs(ELSEWHERE.map(|name| (name, "")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .process_group(0);
        // SAFETY: between fork and exec only one system call is made, which is safe to make there.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        let child = command.spawn().map_err(|error| format!("cannot start the mount: {error}"))?;
        let mut mount = Mount { directory: directory.to_owned(), created, log, child };
        mount.wait_until_ready()?;
        Ok(mount)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while !self.is_mounted() {
            if self.has_ended() {
                return Err(format!("the mount ended at once; {} says why", self.log.display()));
            }
            if start.elapsed() > MOUNT_LIMIT {
                return Err(format!("the mount is not ready after {MOUNT_LIMIT:?}; see {}", self.log.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn is_mounted(&self) -> bool {
        let path = mountpoint::resolve(&self.directory);
        mountpoint::list().is_ok_and(|mounts| mounts.iter().any(|mount| mount.path == path && mount.matches(None)))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it, first politely. An error when it had ended by itself and in failure.
    fn stop(mut self) -> Result<(), String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return match status.success() {
                true => Ok(()),
                false => Err(format!("the mount ended with {status}; see {}", self.log.display())),
            };
        }
        let pid = Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, Signal::SIGTERM).map_err(|error| format!("cannot end the mount: {error}"))?;
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < SAVE_LIMIT {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Mount {
    /// What did not end by itself is ended by force; the folder goes if it was made here.
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = mountpoint::unmount(&mountpoint::resolve(&self.directory), None, UNMOUNT_LIMIT);
        }
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if self.created {
            let _ = std::fs::remove_dir(&self.directory);
        }
    }
}

/// What to try, in lines that can be pasted and work from this folder. `welcome`: the uuid of the collection to write to.
fn suggest(cluster: &Running, mounted: Option<&Path>, welcome: Option<&str>) {
    let program = std::env::current_exe().map_or("arvados".into(), |path| relative(&path));
    let data = shell_words(&relative(cluster.data()));
    println!("The embedded cluster runs: https://{}", cluster.host());
    let root = mounted.map(|directory| shell_words(&relative(directory)));
    let project = root.as_ref().map(|root| format!("{root}/home/{}", filling::SAMPLE_PROJECT.replace(' ', "\\ ")));
    if let (Some(root), Some(project)) = (&root, &project) {
        println!("It is mounted at {root}. In another terminal, in this folder:\n");
        println!("  cat {project}/Welcome/README.txt");
        println!("  find {project}/Ten\\ thousand\\ notes | wc -l");
        println!("  grep -rl 'number 4711 ' {project}/Ten\\ thousand\\ notes");
        println!("  for reader in 1 2 3 4; do md5sum {project}/Sequencing\\ run/lane1/reads.fastq & done; wait");
        println!("  ls {root}/by_tag/weather {root}/shared/*");
    } else {
        println!("In another terminal, in this folder:");
    }
    println!();
    println!("  eval \"$({} cluster env --data {data})\"     # then any Arvados client works:", shell_words(&program));
    if !on_path("arv-put") {
        println!("  pip install arvados-python-client");
    }
    let seen = root.map_or(String::new(), |root| format!(" && ls {root}/home"));
    println!("  arv-put --name 'From me' /etc/services{seen}");
    if let (Some(project), Some(uuid)) = (project, welcome) {
        println!(
            "\nIt can be written to. What an editor saves is on the cluster; what others save is here a moment later:\n"
        );
        println!("  ${{EDITOR:-vi}} {project}/Welcome/mine.txt && arv-ls {uuid}");
        println!("  arv-put --update-collection {uuid} /etc/hostname && sleep 2 && ls {project}/Welcome");
    }
    println!("\nCtrl-C unmounts and stops everything.");
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
}

/// The path as seen from the current folder, when it is below it.
fn relative(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
