//! What the tests of the mount share: another client of the cluster, made of our own modules for the network, and the switches
//! by which the cluster is made to fail.

#![allow(dead_code, reason = "each test binary uses its part")]

use crate::support::{Cluster, LIMIT, run};
use arvados::remote::api::{Api, CollectionUpdate, HttpApi};
use arvados::remote::keep::{HttpKeep, Keep, PutRequest};
use arvados::remote::retry::Retries;
use arvados::remote::settings::Environment;
use arvados::remote::{Network, Settings};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::Arc;

pub mod background;
pub mod content;
pub mod files;
pub mod ledger;
pub mod writer;

/// Another client.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    pub api: Arc<dyn Api>,
    keep: HttpKeep,
}

/// What became of a collection that was made or changed.
pub struct Made {
    pub uuid: String,
    pub hash: String,
}

impl Client {
    pub fn new(cluster: &Cluster) -> Client {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let environment: Environment = cluster.environment(None).into_iter().collect();
        let network = Network::new(Settings::from_environment(&environment).unwrap()).unwrap();
        let api: Arc<dyn Api> = Arc::new(HttpApi::new(network.clone(), Retries::default()).unwrap());
        let keep = HttpKeep::new(network, api.clone(), Retries::default());
        Client { runtime, api, keep }
    }

    /// Stores a block and returns its signed locator.
    pub fn block(&self, data: &[u8]) -> String {
        let stored = self.runtime.block_on(self.keep.put(data.to_vec().into(), &PutRequest::default())).unwrap();
        stored.locator.as_str().to_owned()
    }

    /// A manifest with these files, each in a block of its own. Names must need no escapes.
    pub fn manifest(&self, files: &[(&str, &[u8])]) -> String {
        let line = |(path, data): &(&str, &[u8])| {
            let (directory, name) = path
                .rsplit_once('/')
                .map_or((".".to_owned(), *path), |(directory, name)| (format!("./{directory}"), name));
            format!("{directory} {} 0:{}:{name}\n", self.block(data), data.len())
        };
        files.iter().map(line).collect()
    }

    pub fn collection(&self, name: &str, owner: Option<&str>, manifest: String) -> Made {
        let mut attributes = serde_json::Map::new();
        attributes.insert("name".into(), json!(name));
        attributes.extend(owner.map(|owner| ("owner_uuid".to_owned(), json!(owner))));
        let update = CollectionUpdate { attributes, manifest: Some(manifest), ..CollectionUpdate::default() };
        let record = self.runtime.block_on(self.api.create_collection(&update, None)).unwrap();
        Made { uuid: record.uuid.clone(), hash: record.portable_data_hash.clone() }
    }

    /// Replaces the whole content.
    pub fn replace(&self, uuid: &str, manifest: String) {
        let update = CollectionUpdate { manifest: Some(manifest), ..CollectionUpdate::default() };
        self.runtime.block_on(self.api.update_collection(uuid, &update, None)).unwrap();
    }

    pub fn rename(&self, uuid: &str, name: &str) {
        let attributes = [("name".to_owned(), json!(name))].into_iter().collect();
        let update = CollectionUpdate { attributes, ..CollectionUpdate::default() };
        self.runtime.block_on(self.api.update_collection(uuid, &update, None)).unwrap();
    }

    pub fn delete(&self, uuid: &str) {
        self.runtime.block_on(self.api.delete_collection(uuid)).unwrap();
    }

    pub fn user(&self) -> String {
        self.runtime.block_on(self.api.current_user()).unwrap().uuid.clone()
    }
}

/// Tells a cluster that was started with `--faults` how to fail (its control interface).
pub fn control(cluster: &Cluster, word: &str, parameters: Value) -> Value {
    let mut status = crate::support::arvados();
    status.args(["cluster", "status", "--json", "--data"]).arg(cluster.data());
    let status: Value = serde_json::from_slice(&run(&mut status, LIMIT).stdout).unwrap();
    let address = status["faults"].as_str().expect("the cluster was started with --faults");
    let address = address.strip_prefix("http://").expect("plain HTTP").trim_end_matches('/');
    let body = parameters.to_string();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let head = format!("POST /{word} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{word}: {answer}");
    serde_json::from_str(body).unwrap()
}
