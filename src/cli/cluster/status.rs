//! `arvados cluster status`: does it run, where, and what is in it.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use super::Data;
use super::client::Client;
use crate::cluster::clock::SystemClock;
use crate::cluster::directory;
use crate::cluster::keepstore::volume::{Usage, Volume};

/// Exit status for a cluster that does not run, as for a service's `status`.
const NOT_RUNNING: u8 = 3;

/// Say whether the cluster runs, where, and how much is in it.
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 it runs and answers, 1 something is wrong, 3 it does not run.

Example:
  arvados cluster status --data ~/arvados-data")]
pub struct Arguments {
    #[command(flatten)]
    data: Data,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the state.
pub fn run(arguments: &Arguments) -> ExitCode {
    match state(arguments) {
        Ok((state, running)) => {
            if arguments.json {
                println!("{state}");
            } else {
                print(&state);
            }
            if running { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUNNING) }
        }
        Err(message) => {
            eprintln!("arvados cluster: {message}");
            ExitCode::FAILURE
        }
    }
}

fn state(arguments: &Arguments) -> Result<(Value, bool), String> {
    let data = &arguments.data.folder;
    let (settings, note) = directory::look(data).map_err(|error| error.to_string())?;
    let mut usage = Usage::default();
    for volume in settings.keepstores.iter().flat_map(|keepstore| &keepstore.volumes) {
        let root = data.join(&volume.folder);
        if root.is_dir() {
            let clock = std::sync::Arc::new(SystemClock);
            let one = Volume::open(&root, volume.uuid.clone(), volume.replication, Vec::new(), clock);
            let one = one
                .and_then(|volume| volume.usage())
                .map_err(|error| format!("cannot read {}: {error}", root.display()))?;
            usage.blocks += one.blocks;
            usage.bytes += one.bytes;
        }
    }
    let mut state = json!({
        "running": note.is_some(),
        "cluster_id": settings.configuration.cluster_id,
        "keepstores": settings.keepstores.len(),
        "blocks": usage.blocks,
        "bytes": usage.bytes,
    });
    let Some(note) = note else { return Ok((state, false)) };
    state["pid"] = json!(note.pid);
    state["api"] = json!(note.api);
    state["keep"] = json!(note.keep);
    if let Some(faults) = note.faults {
        state["faults"] = json!(faults);
    }
    let client = Client::open(data)?;
    for table in ["users", "groups", "collections", "links"] {
        let query = [("limit", "0".to_owned()), ("filters", "[]".to_owned())];
        let page = client.call(Method::GET, table, &query, &Value::Null)?;
        state[table] = page["items_available"].clone();
    }
    Ok((state, true))
}

fn print(state: &Value) {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        other => other.to_string(),
    };
    for name in [
        "running",
        "pid",
        "cluster_id",
        "api",
        "keep",
        "faults",
        "keepstores",
        "blocks",
        "bytes",
        "users",
        "groups",
        "collections",
        "links",
    ] {
        if let Some(value) = state.get(name) {
            println!("{:<12} {}", name.replace('_', " "), shown(value));
        }
    }
}
