//! What saving one path of a large collection costs the embedded cluster.
//!
//! A mount that writes small files sends one `replace_files` after the other, so the cluster must not be what a benchmark of
//! the mount measures. The requests go to the API as a value: no TLS, no HTTP, but SQLite with all that makes a save last.
//! Beside each stands what cannot be had cheaper: one MD5 of the text. The processor's time is that of all threads; it
//! tells more than the clock where the machine does other things too.
//!
//! `cargo bench --bench cluster_saving [-- WORD]` runs the pieces whose name contains WORD.

mod common;

use arc_swap::ArcSwap;
use arvados::cluster::api::Api;
use arvados::cluster::clock::SystemClock;
use arvados::cluster::configuration::{Configuration, Secret};
use arvados::cluster::request::Head;
use arvados::cluster::router;
use bytes::Bytes;
use common::manifest;
use md5::{Digest, Md5};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 50;
const TOKEN: &str = "benchmarktoken";
/// Bytes of a file, where files have data.
const FILE: usize = 3 << 20;
/// Files that share a block: what goes into 64 MiB.
const FILES_PER_BLOCK: usize = (64 << 20) / FILE;

fn main() {
    let word = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    let pieces = [
        ("100 directories of 1,000 empty files", 100, manifest(100, 1_000)),
        ("100 directories of 1,000 files", 100, packed(100, 1_000)),
        ("1 directory of 2,000 files", 1, packed(1, 2_000)),
        ("1 directory of 20 files", 1, packed(1, 20)),
    ];
    println!("{:40} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "MB", "median", "worst", "processor", "MD5");
    for (name, directories, text) in pieces.iter().filter(|(name, ..)| name.contains(&word)) {
        piece(name, *directories, text);
    }
}

/// Files with data, packed into blocks.
fn packed(directories: usize, files: usize) -> String {
    let mut text = String::new();
    for directory in 0..directories {
        text += &format!("./d{directory}");
        for block in 0..files.div_ceil(FILES_PER_BLOCK) {
            text +=
                &format!(" {}+{}", hex::encode(Md5::digest(format!("{directory} {block}"))), FILES_PER_BLOCK * FILE);
        }
        for file in 0..files {
            text += &format!(" {}:{}:sample-{file:06}.fastq.gz", file * FILE, FILE);
        }
        text.push('\n');
    }
    text
}

fn piece(name: &str, directories: usize, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let configuration = Configuration { system_root_token: Secret::new(TOKEN), ..Configuration::default() };
    let configuration = Arc::new(ArcSwap::from_pointee(configuration));
    let api = Api::open(&folder.path().join("records.sqlite"), configuration, Arc::new(SystemClock)).unwrap();
    let made = ask(&api, "POST", "", &json!({"collection": {"name": "large", "manifest_text": text}}));
    let uuid = made["uuid"].as_str().unwrap().to_owned();

    let save = |round: usize| {
        // A step that is prime to the number of directories: each gets its turn, in an order that is none.
        let target = format!("/d{}/new-{round}", round * 37 % directories);
        let body = json!({
            "collection": {"manifest_text": ". d41d8cd98f00b204e9800998ecf8427e+0 0:0:x\n"},
            "replace_files": {target: "manifest_text/x"},
            "select": ["uuid", "portable_data_hash", "modified_at"],
        });
        ask(&api, "PUT", &format!("/{uuid}"), &body)
    };
    save(0);
    let (mut times, before) = (Vec::new(), processor());
    for round in 1..=ROUNDS {
        let began = Instant::now();
        save(round);
        times.push(began.elapsed());
    }
    let processor = (processor() - before) / ROUNDS as u32;
    let digest = || {
        let began = Instant::now();
        std::hint::black_box(Md5::digest(text));
        began.elapsed()
    };
    let digest = (0..5).map(|_| digest()).min().unwrap();
    times.sort();
    let shown = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let (median, worst) = (shown(times[ROUNDS / 2]), shown(times[ROUNDS - 1]));
    let megabytes = text.len() as f64 / 1e6;
    println!("{name:40} {megabytes:>9.1} {median:>9} {worst:>9} {:>9} {:>9}", shown(processor), shown(digest));
}

fn ask(api: &Api, method: &str, path: &str, body: &Value) -> Value {
    let head = Head {
        method: method.to_owned(),
        raw_path: format!("/arvados/v1/collections{path}"),
        authorization: Some(format!("Bearer {TOKEN}")),
        request_id: "req-benchmark".to_owned(),
        ..Head::default()
    };
    let answer = router::answer(api, &head, &Bytes::from(body.to_string()));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    serde_json::from_slice(&answer.body).unwrap()
}

/// What all threads of this process have used.
fn processor() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(microseconds.unsigned_abs())
}
