//! `arvados cluster start`: the cluster itself, in the foreground.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::Data;
use crate::cluster::configuration::Configuration;
use crate::cluster::seed::Seed;
use crate::cluster::{Cluster, KeepstoreLayout, Options, Running};
use crate::telemetry;

/// Run a cluster in the foreground, until SIGTERM or Ctrl-C.
///
/// The first start creates the folder, keys, a TLS certificate and two users (`user`, and the administrator `admin`).
/// Everything is kept for the next start; what the cluster has confirmed survives a crash of it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  arvados cluster start --data ~/arvados-data
  arvados cluster start --data ~/arvados-data --port 8443 --listen 0.0.0.0   # for other machines too
  arvados cluster start --data /tmp/test --keepstores 2 --faults             # for tests")]
pub struct Arguments {
    #[command(flatten)]
    data: Data,
    /// Port of API and websocket; 0: the one of the last start, or a free one on the first
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Address to listen at. Anything but loopback opens the cluster to other machines
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Number of keepstores (default: those of the last start; one on the first). It can grow, not shrink
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    keepstores: Option<u8>,
    /// Storage class that the new ones of --keepstores have beside `default`; may be repeated
    #[arg(long = "storage-class", value_name = "NAME", requires = "keepstores")]
    storage_classes: Vec<String>,
    /// Also offer Keep behind one more TLS address, for clients that cannot reach the keepstores
    #[arg(long)]
    keepproxy: bool,
    /// Import users, tokens, settings and objects with given uuids from a JSON file, on the first start only
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
    /// Open a loopback port through which tests can make the cluster fail. Whoever reaches it can do everything
    #[arg(long)]
    faults: bool,
    /// Port for --faults; 0: a free one
    #[arg(long, value_name = "PORT", default_value_t = 0, requires = "faults")]
    faults_port: u16,
    /// What to log to stderr: error, warn, info (one line a request), debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// Runs until a signal comes.
pub fn run(arguments: Arguments) -> Result<(), String> {
    telemetry::start(&arguments.log_level, None).map_err(|error| format!("cannot start the log: {error}"))?;
    let layout = KeepstoreLayout::single(&arguments.storage_classes);
    let mut options = Options::new(arguments.data.folder);
    options.port = Some(arguments.port);
    options.listen = arguments.listen;
    options.keepstores = arguments.keepstores.map(|number| vec![layout; usize::from(number)]);
    options.keepproxy = arguments.keepproxy;
    if let Some(path) = &arguments.seed {
        (options.seed, options.configuration) = read_seed(path)?;
    }
    options.faults = arguments.faults.then_some(arguments.faults_port);

    // Before the start, so that a signal during it is not lost.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
    let signals = || Ok::<_, std::io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
    let (mut terminate, mut interrupt) =
        runtime.block_on(async { signals() }).map_err(|error| format!("cannot wait for signals: {error}"))?;

    let cluster = Cluster::start(options).map_err(|error| error.to_string())?;
    // Whoever started us may have closed stdout; that is no reason to end.
    let _ = greet(&cluster);
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    cluster.stop();
    Ok(())
}

/// Reads a seed: tables with records, and optionally a `configuration`.
fn read_seed(path: &Path) -> Result<(Option<Seed>, Option<Configuration>), String> {
    let failed = |error: String| format!("cannot use the seed {}: {error}", path.display());
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut seed: Seed = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    let configuration = seed.remove("configuration").map(serde_json::from_value).transpose();
    Ok((Some(seed), configuration.map_err(|error| failed(error.to_string()))?))
}

fn greet(cluster: &Running) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let data = shell_words(&cluster.data().display().to_string());
    writeln!(out, "The cluster is running. API and events: https://{}", cluster.host())?;
    for keepstore in cluster.keepstores() {
        writeln!(out, "Keep: http://{}", keepstore.address())?;
    }
    if let Some(address) = cluster.faults_address() {
        writeln!(out, "Faults: http://{address}")?;
    }
    writeln!(out, "\nIn another terminal:")?;
    writeln!(out, "  eval \"$(arvados cluster env --data {data})\"")?;
    writeln!(out, "  arv-put FILE             # from PyPI: pip install arvados-python-client")?;
    writeln!(out, "  arvados mount DIRECTORY")?;
    writeln!(out, "\nCtrl-C stops it; the data stay in {data}.")?;
    out.flush()
}

/// Text as one word for a POSIX shell.
pub fn shell_words(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_safe_for_a_shell() {
        assert_eq!(shell_words("/tmp/a-b_c.d"), "/tmp/a-b_c.d");
        for text in ["", "a b", "it's", "$(rm)", "a;b", "`x`", "a\nb", "*"] {
            let script = format!("printf %s {}", shell_words(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
