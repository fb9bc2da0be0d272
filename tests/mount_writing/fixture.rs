//! A cluster, a collection in it, and a mount that may change it.

use crate::mount_support::files::{errno, save};
use crate::mount_support::writer::Writer;
use crate::mount_support::{Client, Made, control};
use crate::support::Cluster;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Dropped from top to bottom: the mount first.
pub struct Fixture {
    pub writer: Writer,
    pub client: Client,
    pub made: Made,
    pub cluster: Cluster,
}

/// Options of a mount that hears nothing of others and does not look by itself.
pub const QUIET: [&str; 2] = ["--disable-event-listening", "--refresh-time=3600"];

impl Fixture {
    /// With the files `a` (`"first"`) and `d/b` (`"second"`).
    pub fn new(options: &[&str]) -> Fixture {
        let cluster = Cluster::start_with(&["--faults"]);
        let client = Client::new(&cluster);
        let made = client.collection("work", None, client.manifest(&[("a", b"first"), ("d/b", b"second")]));
        let writer = Writer::start(&cluster, options);
        Fixture { writer, client, made, cluster }
    }

    /// As [`Fixture::new`], with a collection that nobody has changed for an hour: a mount has no reason to think of others.
    pub fn old(options: &[&str]) -> Fixture {
        let fixture = Fixture::new(options);
        let past = (chrono::Utc::now() - chrono::TimeDelta::hours(1)).to_rfc3339();
        fixture.control("raw", json!({"uuid": fixture.made.uuid, "set": {"modified_at": past}}));
        fixture
    }

    /// Mounts again, as the same user.
    pub fn start_with_another_token(&mut self) {
        let token = self.cluster.new_token();
        assert_ne!(token, self.writer.token());
        self.writer.use_token(&token);
        self.writer.start_again();
    }

    pub fn path(&self) -> PathBuf {
        self.writer.collection(&self.made.uuid)
    }

    pub fn control(&self, word: &str, parameters: Value) -> Value {
        control(&self.cluster, word, parameters)
    }

    /// Makes saves of the collection fail with this status, or work again with 0.
    pub fn refuse_saves(&self, status: u16) {
        let rule = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "status": status});
        self.control("faults", json!({"api": if status == 0 { json!([]) } else { json!([rule]) }}));
    }

    /// Makes saves fail for good that have this text in them; the next save of any kind takes a while, so that those that come
    /// meanwhile share the one after it.
    pub fn refuse_text(&self, text: &str, status: u16) {
        let refused = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "body": text, "status": status,
                             "message": "this name is not allowed here"});
        let slow = json!({"method": ["PUT", "PATCH"], "path": "/collections/", "delay": 0.5, "times": 1});
        self.control("faults", json!({"api": [refused, slow]}));
    }

    /// Carries out all of these at the same time, while a save is under way.
    pub fn together(&self, changes: Vec<Box<dyn FnOnce() -> i32 + Send + '_>>) -> Vec<i32> {
        std::thread::scope(|scope| {
            let first = self.path().join("under way");
            let first = scope.spawn(move || errno(save(&first, b"x")));
            std::thread::sleep(std::time::Duration::from_millis(150));
            let changes: Vec<_> = changes.into_iter().map(|change| scope.spawn(change)).collect();
            let results = changes.into_iter().map(|change| change.join().unwrap()).collect();
            assert_eq!(first.join().unwrap(), 0);
            results
        })
    }

    /// The number of the last request to the API.
    pub fn sequence(&self) -> u64 {
        self.control("seq", json!({}))["api"].as_u64().unwrap()
    }

    /// Method and path of the requests to the API after number `since`, but for the harness' own (`cluster status`).
    pub fn requests(&self, since: u64) -> Vec<String> {
        let log = self.control("log", json!({"since": since}));
        let counts = ["users", "groups", "collections", "links"].map(|name| format!("GET /arvados/v1/{name}"));
        let is_no_harness = |request: &String| !request.contains("/discovery/") && !counts.contains(request);
        let text = |entry: &Value| format!("{} {}", entry["m"].as_str().unwrap(), entry["path"].as_str().unwrap());
        log.as_array().unwrap().iter().map(text).filter(is_no_harness).collect()
    }

    /// How many versions the server keeps, the current one included.
    pub fn versions(&self) -> usize {
        self.control("versions", json!({"uuid": self.made.uuid})).as_array().unwrap().len()
    }

    pub fn server_has(&self, path: &str, data: &[u8]) -> bool {
        self.client.has(&self.made.uuid, path, data)
    }

    /// Names of the files on the server.
    pub fn server_names(&self) -> Vec<String> {
        self.client.manifest_of(&self.made.uuid).files.into_keys().collect()
    }
}

pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// With a quiet mount that has seen the collection, and `a` changed by another client since.
pub fn changed_behind_its_back(options: &[&str], theirs: &[u8]) -> Fixture {
    let fixture = Fixture::new(&[&QUIET, options].concat());
    assert_eq!(std::fs::read(fixture.path().join("a")).unwrap(), b"first");
    fixture.client.put_files(&fixture.made.uuid, &[("a", theirs)]);
    fixture
}
