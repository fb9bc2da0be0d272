//! `arvados journal list`: every journal, and what is in it, in numbers.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use indicatif::{HumanBytes, HumanDuration};
use serde_json::{Value, json};

use super::files::{self, Amount};
use super::{Found, Place};
use crate::journal::{self, Contents, Info};

/// List the journals: of which mount, whether it runs, and how much each collection has to get.
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 done (also if there is none), 1 a journal cannot be read.

Example:
  arvados journal list --json")]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    /// As a JSON array with an object for each journal
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let mut states = Vec::new();
    let mut is_readable = true;
    for found in arguments.place.all()? {
        match state(&found) {
            Ok(state) => states.push(state),
            Err(message) => {
                // It may have ended while we looked.
                if found.folder.exists() {
                    eprintln!("arvados journal: {message}");
                    is_readable = false;
                }
            }
        }
    }
    if arguments.json {
        println!("{}", Value::Array(states));
    } else {
        if states.is_empty() && is_readable {
            eprintln!("no journals");
        }
        states.iter().for_each(print);
    }
    Ok(if is_readable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn state(found: &Found) -> Result<Value, String> {
    let is_running = journal::is_running(&found.folder);
    let (contents, info, problem) = match Contents::read(&found.folder) {
        Ok(contents) => {
            let problem = contents.problem();
            (contents, Info::of(&found.folder).ok().flatten(), problem)
        }
        // That it is there is worth a line, and all that can be said of it.
        Err(error @ journal::Error::Format { .. }) => (Contents::default(), None, Some(error.to_string())),
        Err(error) => return Err(error.to_string()),
    };
    let collections: Vec<Value> = contents
        .pending
        .collections
        .iter()
        .map(|(uuid, changes)| {
            let files = files::files(changes.values());
            let mut amount = Amount::default();
            files.values().for_each(|file| amount.add(&file.content));
            json!({
                "uuid": uuid,
                "changes": changes.len(),
                "files": files.len(),
                "bytes": amount.total(),
                "local_bytes": amount.local,
                "oldest": changes.values().map(|change| change.time).min(),
            })
        })
        .collect();
    Ok(json!({
        "journal": found.id,
        "folder": found.folder.to_string_lossy(),
        "account": found.account,
        "mount_point": info.as_ref().map(|info| info.mount_point.to_string_lossy()),
        "host": info.as_ref().map(|info| &info.host),
        "pid": info.as_ref().map(|info| info.pid),
        "started": info.as_ref().map(|info| info.started),
        "version": info.as_ref().map(|info| &info.version),
        "running": is_running,
        "log_bytes": contents.length,
        // A mount that runs may just be writing.
        "damage": problem.filter(|_| !is_running),
        "collections": collections,
    }))
}

fn print(state: &Value) {
    let text = |name: &str| state[name].as_str().unwrap_or("?");
    let now = Utc::now();
    let running = if state["running"] == json!(true) { "running" } else { "dead" };
    // One file says all of this, or nothing.
    let is_known = state["pid"].is_number();
    println!(
        "{}  {running}  {}",
        text("journal"),
        if is_known { text("mount_point") } else { "mount point not known" }
    );
    println!("    account {}", text("account"));
    match is_known {
        true => println!("    process {} on {}, started {}", state["pid"], text("host"), text("started")),
        false => println!("    process not known: info.json is missing or cannot be read"),
    }
    for collection in state["collections"].as_array().into_iter().flatten() {
        let number = |name: &str| collection[name].as_u64().unwrap_or(0);
        let oldest = collection["oldest"].as_str().and_then(|time| time.parse::<DateTime<Utc>>().ok());
        let age = oldest.and_then(|oldest| (now - oldest).to_std().ok()).unwrap_or_default();
        println!(
            "    {}  {} change(s), {} file(s), {} ({} only here), oldest {} ago",
            collection["uuid"].as_str().unwrap_or("?"),
            number("changes"),
            number("files"),
            HumanBytes(number("bytes")),
            HumanBytes(number("local_bytes")),
            HumanDuration(age),
        );
    }
    if let Some(damage) = state["damage"].as_str() {
        println!("    damage: {damage}");
    }
}
