//! The recorded races, of which only the outcome is known: four writers, one wins, the others are refused.

use std::sync::Barrier;

use md5::{Digest, Md5};
use serde_json::{Value, json};

use super::cluster::ALICE;
use super::comparison::Difference;
use super::recording::Recording;
use super::replay::{Replay, problem};
use super::signature;

const WRITERS: usize = 4;
/// Fewer than were recorded: each is as good as the next.
const TRIALS: usize = 5;
const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
const BAR: &str = "37b51d194a7513e45b56f6524f2d51f2+3";

/// Runs the race of a recording that has no request.
pub fn run(replay: &Replay<'_>, recording: &Recording) -> Vec<Difference> {
    let update: fn(usize) -> Value = match recording.name.as_str() {
        "10-cas-race" => by_version,
        "10-cas-pdh-result-race" => by_content,
        _ => return vec![problem("recording", "a request, frames or a known race", "none")],
    };
    (0..TRIALS).filter_map(|_| trial(replay, update).err()).collect()
}

/// Each with the version it read.
fn by_version(writer: usize) -> Value {
    json!({"collection": {"version": 1, "preserve_version": true, "name": format!("racer {writer} {}", rand::random::<u64>())}})
}

/// Each with a new file of its own, and the hash of what it expects afterwards.
fn by_content(writer: usize) -> Value {
    let expected = format!(". {FOO} {BAR} 0:3:a 3:3:w{writer}\n");
    let hash = format!("{}+{}", hex::encode(Md5::digest(expected.as_bytes())), expected.len());
    json!({
        "collection": {"manifest_text": signed(&format!(". {BAR} 0:3:w\n")), "portable_data_hash": hash},
        "replace_files": {format!("/w{writer}"): "manifest_text/w"},
    })
}

fn signed(text: &str) -> String {
    signature::sign_all(text, ALICE, super::replay::time("2026-12-06T00:00:00Z").timestamp())
}

fn trial(replay: &Replay<'_>, update: fn(usize) -> Value) -> Result<(), Difference> {
    let failed = |error: &dyn ToString| problem("race", "an answer", error.to_string());
    let base = json!({"collection": {"manifest_text": signed(&format!(". {FOO} 0:3:a\n"))}});
    let created = replay.request("POST", "collections", &base, ALICE).map_err(|error| failed(&error))?;
    let created: Value = serde_json::from_slice(&created.body).map_err(|error| failed(&error))?;
    let path = format!("collections/{}", created["uuid"].as_str().unwrap_or_default());
    let start = Barrier::new(WRITERS);
    let race = |writer: usize| {
        start.wait();
        replay.request("PUT", &path, &update(writer), ALICE).map_or(0, |answer| answer.status)
    };
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || race(writer))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap_or_default()).collect()
    });
    statuses.sort_unstable();
    if statuses != [200, 422, 422, 422] {
        return Err(problem("statuses", "[200, 422, 422, 422]", format!("{statuses:?}")));
    }
    Ok(())
}
