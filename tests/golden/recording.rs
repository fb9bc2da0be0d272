//! What was recorded: one request and its answer, or one stretch of an event stream, in the order of recording.
//!
//! The files under `tests/data/golden` are the recordings themselves, one line each, unchanged but for noise headers
//! (see the README there). Nothing here interprets them.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Folders that are replayed. The others of the collection (`webdav`, `timing`) are of services this cluster does not
/// have and of measurements.
pub const FOLDERS: [&str; 10] =
    ["auth", "cas", "collections", "discovery", "groups", "keep", "links", "misc", "replace_files", "websocket"];

/// One recording.
#[derive(Debug, Deserialize)]
pub struct Recording {
    /// Name within the folder.
    pub name: String,
    /// Place in the order of recording, unique over all folders.
    pub seq: u32,
    /// When, UTC, whole seconds.
    pub recorded: String,
    /// How it depends on its surroundings: letters explained in the README of the recordings.
    #[serde(default)]
    pub flags: String,
    /// A single request …
    pub request: Option<Request>,
    /// … and its answer.
    pub response: Option<Response>,
    /// Or what went over a websocket meanwhile.
    #[serde(default)]
    pub frames: Vec<Frame>,
    /// Set after reading: the folder.
    #[serde(skip)]
    pub folder: &'static str,
}

/// A recorded request.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// Method, also odd ones.
    pub method: String,
    /// A path of the API, or a whole URL of another service.
    pub url: String,
    /// Headers, in any order.
    #[serde(default)]
    pub headers: std::collections::BTreeMap<String, String>,
    /// Parsed JSON, text, or a description of bytes.
    #[serde(default)]
    pub body: Value,
}

/// A recorded answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in their order.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// As in requests.
    #[serde(default)]
    pub body: Value,
    /// Set when the connection ended before the announced length.
    pub read_error: Option<String>,
}

/// One thing that happened on or beside a websocket.
#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    /// Seconds since the start of the script.
    pub t: f64,
    /// `c->s`, `s->c`, or `api` for a request made meanwhile.
    pub dir: String,
    /// The frame.
    #[serde(default)]
    pub frame: Value,
    /// Of a request: method,
    #[serde(default)]
    pub method: String,
    /// path below the API's root,
    #[serde(default)]
    pub path: String,
    /// body,
    #[serde(default)]
    pub body: Value,
    /// and the status it was answered with.
    pub status: Option<u16>,
}

impl Recording {
    /// `folder/name`
    pub fn path(&self) -> String {
        format!("{}/{}", self.folder, self.name)
    }

    /// Whether a flag is set.
    pub fn flagged(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }
}

/// Where the recordings are kept.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

/// The lines of one file there.
pub fn lines<T: for<'de> Deserialize<'de>>(file: &str) -> Vec<T> {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parse = |(number, line)| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{}:{}: {error}", path.display(), number + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

/// All recordings in the order in which they were made.
pub fn all() -> Vec<Recording> {
    let mut all: Vec<Recording> = FOLDERS
        .into_iter()
        .flat_map(|folder| {
            lines(&format!("{folder}.jsonl")).into_iter().map(move |recording| Recording { folder, ..recording })
        })
        .collect();
    all.sort_by_key(|recording| recording.seq);
    all
}
