//! Everything between a checked command line and the end of the mount.

use super::arguments::Arguments;
use super::ending::{self, Ending, Signals};
use super::guardian::Guardian;
use super::{Refusal, command, crunchstat, daemon, guardian, memory, writing};
use crate::actors::collection::times::Times;
use crate::actors::environment::Environment;
use crate::actors::filters::Filters;
use crate::actors::{self, Supervisor};
use crate::cache::{BlockCache, Budget};
use crate::cli::signals;
use crate::fuse::statistics::Statistics;
use crate::fuse::{self, Mounted};
use crate::journal::Journal;
use crate::remote::api::{Api, HttpApi};
use crate::remote::keep::HttpKeep;
use crate::remote::retry::Retries;
use crate::remote::{Network, Settings, events};
use crate::telemetry;
use crate::vfs::layout::{Layout, Place};
use crate::vfs::site::{Identity, Site};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Threads of the network runtime: TLS and hashing take CPU, more than this does not make them faster.
const MOST_WORKERS: usize = 8;

/// Open files that we want: connections, and what a disk cache will need. As upstream (arv-mount.md 1.3).
const FILES: u64 = 10_240;

/// Everything that serves the mount.
struct Service {
    site: Arc<Site>,
    cache: BlockCache,
    statistics: Arc<Statistics>,
    supervisor: Arc<Supervisor>,
    keep: Arc<HttpKeep>,
    /// Who saves what an earlier mount has left.
    recovering: tokio::sync::Mutex<Vec<tokio::task::JoinHandle<()>>>,
    _leaving: Leaving,
}

/// Takes the journal away when a mount ends or does not come about, unless something is pending in it. Others have it until the
/// process ends, so that it is not dropped by itself.
struct Leaving(Option<Arc<Journal>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(journal) = &self.0 {
            journal.leave();
        }
    }
}

/// Mounts, serves until the end, and returns the exit status.
pub(super) fn run(
    arguments: &Arguments,
    layout: Layout,
    filters: Filters,
    path: &Path,
    command: Option<Vec<OsString>>,
) -> Result<ExitCode, Refusal> {
    // What is wrong with the settings is said later, when there is a log.
    let of_settings = || Settings::load().is_ok_and(|settings| settings.debug);
    let is_debug = arguments.debug || of_settings();
    let level = if is_debug { "debug" } else { "warn" };
    telemetry::start_as_arv_mount(level, arguments.logfile.as_deref()).map_err(|error| {
        let file = arguments.logfile.as_deref().unwrap_or(Path::new("standard error"));
        Refusal::failure(format!("cannot log to {}: {error}", file.display()))
    })?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), mount = %path.display(), "started");
    raise_file_limit();
    signals::survive_the_limit_on_files();
    if arguments.read_write || !arguments.mount_tmp.is_empty() {
        flush_without_waiting_for_ourselves(true);
    }
    let network = network_runtime().map_err(|error| Refusal::failure(format!("cannot start threads: {error}")))?;
    let service = network.block_on(async {
        // As long as there is no mount, whoever breaks the command off breaks this off.
        tokio::select! {
            service = prepare(arguments, &layout, filters, path) => service,
            () = daemon::starter_is_gone(arguments.ready_descriptor) => Err(Refusal::failure(daemon::BROKEN_OFF)),
        }
    })?;
    let session = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let session = session.map_err(|error| Refusal::failure(format!("cannot start the session: {error}")))?;
    let code = session.block_on(serve(arguments, &service, &network, path, command));
    // What is still under way is of no use to anybody.
    session.shutdown_background();
    network.shutdown_background();
    code
}

fn network_runtime() -> std::io::Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(2, |count| count.get()).clamp(2, MOST_WORKERS);
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).thread_name("network").enable_all().build()
}

/// Tells the kernel that what is written back to this mount must not be waited for when we need memory ourselves: else the two wait
/// for each other (fuse.md, trap 12). Holds for threads and processes that are started afterwards. Needs
/// CAP_SYS_RESOURCE; without it a mount works as before.
pub(super) fn flush_without_waiting_for_ourselves(wanted: bool) {
    /// `linux/prctl.h`
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    let wanted = libc::c_ulong::from(wanted);
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, wanted, 0, 0, 0) };
}

/// Raises the soft limit on open files as far as it is useful and allowed.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = FILES.min(hard);
    if soft < wanted
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        tracing::warn!(%error, wanted, "cannot raise the limit on open files");
    }
}

/// Asks the cluster everything that must be known before there can be a mount.
async fn prepare(arguments: &Arguments, layout: &Layout, filters: Filters, path: &Path) -> Result<Service, Refusal> {
    let failure = |error: &dyn std::fmt::Display| Refusal::failure(error.to_string());
    let settings = Settings::load().map_err(|error| failure(&error))?;
    let host = settings.api_host.clone();
    let network = Network::new(settings).map_err(|error| failure(&error))?;
    let retries = Retries { count: arguments.retries, ..Retries::default() };
    let api: Arc<dyn Api> = Arc::new(HttpApi::new(network.clone(), retries).map_err(|error| failure(&error))?);
    let user = api.current_user().await.map_err(|error| failure(&error))?;
    let config = api.config().await.map_err(|error| failure(&error))?;
    let keep = Arc::new(HttpKeep::new(network.clone(), api.clone(), retries));
    let budget = Budget::new(memory::limit(arguments));
    let cache = BlockCache::new(keep.clone(), budget.clone());
    let prepared = match arguments.read_write {
        true => {
            Some(writing::prepare(arguments, path, &config, &user.uuid, keep.clone(), budget, cache.clone()).await?)
        }
        false => None,
    };
    let (writing, recovered) = prepared.map(|it| (it.writing, it.recovered)).unzip();
    let writing = writing.map(Arc::new);
    let leaving = Leaving(writing.as_ref().and_then(|writing| writing.journal.clone()));
    let environment = Environment {
        api: api.clone(),
        network: tokio::runtime::Handle::current(),
        refresh: Duration::from_secs(arguments.refresh_time),
        filters,
        substitution: substitution(arguments, config.collections.forward_slash_name_substitution.as_deref()),
        news: Arc::default(),
        times: Times::default(),
        writing,
    };
    let supervisor = Supervisor::start(Arc::new(environment)).map_err(|error| failure(&error))?;
    check(&supervisor, layout).await.map_err(|error| failure(&error))?;
    let recovering = writing::recover(&supervisor, recovered.unwrap_or_default()).await.into();
    if !arguments.disable_event_listening && layout.can_change() {
        supervisor.listen(events::listen(network, api, events::Options::default()));
    }
    let identity = Identity { host, email: user.email.clone(), user: user.uuid.clone() };
    let site = Site::new(supervisor.clone(), cache.clone(), layout, &identity);
    Ok(Service { site, cache, statistics: Arc::default(), supervisor, keep, recovering, _leaving: leaving })
}

/// What stands for a slash in names (arv-mount.md 2.7): `--fsns` as it is, or the cluster's setting.
fn substitution(arguments: &Arguments, cluster: Option<&str>) -> Option<String> {
    match (&arguments.fsns, cluster) {
        (Some(text), _) => Some(text.clone()),
        (None, None) => Some("_".to_owned()),
        (None, Some("" | "/")) => None,
        (None, Some(text)) => Some(text.to_owned()),
    }
}

/// A mount of one object is refused if there is no such object.
async fn check(supervisor: &Arc<Supervisor>, layout: &Layout) -> Result<(), actors::Error> {
    match layout {
        Layout::Single(Place::Collection(id)) => {
            let id = crate::vfs::layout::portable_data_hash(id).unwrap_or(id);
            supervisor.collection_state(&supervisor.collection(id), false).await.map(drop)
        }
        Layout::Single(Place::Project(uuid)) => supervisor.project_record(uuid).await.map(drop),
        _ => Ok(()),
    }
}

/// Mounts and waits for the end: an unmount by anybody, a signal, or the command of `--exec`.
async fn serve(
    arguments: &Arguments,
    service: &Service,
    network: &Runtime,
    path: &Path,
    command: Option<Vec<OsString>>,
) -> Result<ExitCode, Refusal> {
    let limit = Duration::from_secs_f64(arguments.unmount_timeout);
    let signals = Signals::new().map_err(|error| Refusal::failure(format!("cannot watch for signals: {error}")))?;
    let options = fuse::Options {
        allow_other: arguments.allow_other,
        subtype: arguments.subtype.clone(),
        writable: arguments.read_write,
        replace: arguments.replace.then_some(limit),
    };
    let mounted = fuse::mount(service.site.clone(), path, &options, service.statistics.clone()).await;
    let mut mounted = mounted.map_err(|error| Refusal::failure(format!("cannot mount {}: {error}", path.display())))?;
    service.site.set_front_end(mounted.front_end());
    let guardian = guard(arguments, &mounted).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "no guardian: if this mount is killed, its users may hang until it is unmounted by force");
        Guardian::default()
    });
    let mut is_wanted = true;
    if let Some(descriptor) = arguments.ready_descriptor {
        daemon::move_log(arguments.logfile.is_some());
        match daemon::is_ready(descriptor) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                tracing::warn!("the command was broken off just now: the mount is taken away again");
                is_wanted = false;
            }
            Err(error) => {
                mounted.detach().await;
                return Err(Refusal::failure(format!("cannot go into the background: {error}")));
            }
        }
    }
    if arguments.crunchstat_interval > 0.0 {
        let interval = Duration::from_secs_f64(arguments.crunchstat_interval);
        network.spawn(crunchstat::run(
            interval,
            service.statistics.clone(),
            service.cache.clone(),
            service.keep.clone(),
        ));
    }
    let mut ending = Ending {
        supervisor: &service.supervisor,
        keep: &service.keep,
        recovering: &service.recovering,
        signals,
        was_asked: false,
        has_logfile: arguments.logfile.is_some(),
        limit,
        given_up: None,
    };
    let code = match command {
        Some(words) => {
            let status = command::run(&words).await;
            // Passed on to the command, and meant for both.
            ending.was_asked = ending.signals.has_come();
            guardian.mount_ends();
            ending.leave(&mut mounted).await;
            Ok(ExitCode::from(status))
        }
        None if !is_wanted => {
            guardian.mount_ends();
            ending.leave(&mut mounted).await;
            Ok(ExitCode::FAILURE)
        }
        None => tokio::select! {
            ended = mounted.ended() => after(&mounted, ended).await,
            name = ending.signals.next() => {
                tracing::info!(signal = name, "unmounting");
                ending.was_asked = ending.signals.has_come() || ending::is_request(name);
                guardian.mount_ends();
                ending.leave(&mut mounted).await;
                Ok(ExitCode::SUCCESS)
            }
        },
    };
    guardian.mount_is_gone();
    // However the session has ended.
    let is_saved = ending.finish().await;
    code.map(|code| ending::status(code, is_saved))
}

/// Starts the process that watches over the mount. Before the daemon leaves the directory where it was started.
async fn guard(arguments: &Arguments, mounted: &Mounted) -> std::io::Result<Guardian> {
    let missing = || std::io::Error::other("the mount is not in the list of mounts");
    let minor = mounted.minor().ok_or_else(missing)?;
    let logfile = arguments.logfile.as_ref().map(std::path::absolute).transpose()?;
    let restart = arguments.restart.then(std::env::current_dir).transpose()?;
    Ok(guardian::start(guardian::Charge { path: mounted.path().to_owned(), minor, logfile, restart }).await)
}

/// The session ended by itself. That is how an unmount looks; if the mount is still there, something went wrong.
async fn after(mounted: &Mounted, ended: std::io::Result<()>) -> Result<ExitCode, Refusal> {
    // An aborted connection ends the session a moment before the mount is taken away.
    for _ in 0..20 {
        if !mounted.is_mounted() {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if mounted.is_dead().await {
        mounted.detach().await;
    }
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            // Nobody sees what a daemon says when it ends.
            tracing::error!(%error, "the session with the kernel ended");
            Err(Refusal::failure(format!("the session with the kernel ended: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::mount::arguments;

    fn parse(line: &str) -> Arguments {
        arguments::parse(&format!("{line} m")).expect("valid")
    }

    #[test]
    fn slash_is_replaced_as_the_cluster_says_unless_the_user_does() {
        assert_eq!(substitution(&parse("--fsns [S]"), Some("x")).as_deref(), Some("[S]"));
        assert_eq!(substitution(&parse(""), Some("x")).as_deref(), Some("x"));
        assert_eq!(substitution(&parse(""), Some("/")), None);
        assert_eq!(substitution(&parse(""), None).as_deref(), Some("_"));
    }
}
