//! The interface itself: `POST /<word>` with a JSON object, on a loopback port of its own.
//!
//! Words and keys are those of the acceptance suite's reference server, so that its tests run on this cluster too. A
//! keepstore here is a listener and not a process; what `state` calls its process is a number that no process can have.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::ApiFaults;
use super::keep::KeepFaults;
use super::records;
use super::rule::Rule;
use crate::cluster::answer::Failure;
use crate::cluster::api::Api;
use crate::cluster::configuration::{Configuration, Shared};
use crate::cluster::keepstore::Listener;
use crate::cluster::keepstore::hash;
use crate::cluster::websocket::Websocket;

/// Above the largest process id that Linux can be configured to (`PID_MAX_LIMIT`), so that a signal sent there hits
/// nobody.
const NO_PROCESS: u32 = 1 << 22;

/// What can be made to fail.
pub struct Control {
    /// The records.
    pub api: Api,
    /// The settings.
    pub configuration: Shared,
    /// The keepstores.
    pub keepstores: Arc<Vec<Listener>>,
    /// Faults of the API.
    pub faults: Arc<ApiFaults>,
    /// The events.
    pub websocket: Arc<Websocket>,
}

/// Why a request makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not in the interface.
    #[error("unknown word {0}")]
    Word(String),
    /// The request is no JSON, or not of the right shape.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A key that the word needs.
    #[error("{0} is missing or of the wrong type")]
    Key(&'static str),
    /// A number too high.
    #[error("there is no keepstore {0}")]
    Keepstore(usize),
    /// The API refuses.
    #[error("{}", .0.text())]
    Records(#[from] Failure),
    /// The machine refuses.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Adds the interface to a server.
pub fn configure(service: &mut web::ServiceConfig) {
    /// Bodies hold rules, or the manifest of a large collection.
    const LIMIT: usize = 256 << 20;
    service.app_data(web::PayloadConfig::new(LIMIT)).route("/{word}", web::post().to(answer));
}

async fn answer(control: web::Data<Control>, word: web::Path<String>, body: web::Bytes) -> HttpResponse {
    let query = if body.is_empty() { Ok(Map::new()) } else { serde_json::from_slice(&body) };
    let answered = match query {
        Ok(query) => control.handle(&word, query).await,
        Err(error) => Err(Error::Json(error)),
    };
    match answered {
        Ok(answer) => HttpResponse::Ok().json(answer),
        Err(error @ Error::Word(_)) => HttpResponse::NotFound().json(json!({"error": error.to_string()})),
        Err(error) => HttpResponse::BadRequest().json(json!({"error": error.to_string()})),
    }
}

pub fn take<T: for<'de> Deserialize<'de>>(query: &mut Map<String, Value>, key: &str) -> Result<Option<T>, Error> {
    query.remove(key).map(serde_json::from_value).transpose().map_err(Error::Json)
}

fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}

impl Control {
    async fn handle(&self, word: &str, mut query: Map<String, Value>) -> Result<Value, Error> {
        match word {
            "state" => Ok(self.state()),
            "faults" => self.rules(&mut query),
            "keep" => self.keep(&mut query),
            "keepproc" => self.process(&mut query).await,
            "config" => self.configure(query),
            "ws" => Ok(self.events(&mut query)?),
            "seq" => Ok(json!({
                "api": self.faults.journal.last(),
                "keep": self.keep_faults().map(|faults| faults.journal.last()).collect::<Vec<_>>(),
                "max_active": self.faults.journal.most_active(),
            })),
            "log" => Ok(json!(self.faults.journal.since(take(&mut query, "since")?.unwrap_or(0)))),
            "keeplog" => {
                let since: Vec<u64> = take::<Option<_>>(&mut query, "since")?.flatten().unwrap_or_default();
                let since = since.into_iter().chain(std::iter::repeat(0));
                Ok(self.keep_faults().zip(since).map(|(faults, since)| json!(faults.journal.since(since))).collect())
            }
            "token" | "newtoken" | "manifest" | "versions" | "raw" | "bulk" => {
                let (api, word) = (self.api.clone(), word.to_owned());
                let done = tokio::task::spawn_blocking(move || records::answer(&api, &word, query));
                done.await.map_err(std::io::Error::other)?
            }
            _ => Err(Error::Word(word.to_owned())),
        }
    }

    fn keep_faults(&self) -> impl Iterator<Item = &Arc<KeepFaults>> {
        self.keepstores.iter().filter_map(|listener| listener.keepstore().faults())
    }

    fn state(&self) -> Value {
        let configuration = self.configuration.load();
        let process =
            |(index, listener): (usize, &Listener)| listener.is_running().then(|| NO_PROCESS as usize + index);
        let folders = |listener: &Listener| listener.keepstore().volumes[0].root().display().to_string();
        json!({
            "host": configuration.services.controller.trim_start_matches("https://").trim_end_matches('/'),
            "websocket": configuration.services.websocket,
            "keep": self.keepstores.iter().map(|listener| format!("http://{}", listener.address())).collect::<Vec<_>>(),
            "keep_pids": self.keepstores.iter().enumerate().map(process).collect::<Vec<_>>(),
            "keep_dirs": self.keepstores.iter().map(folders).collect::<Vec<_>>(),
            "pid": std::process::id(),
        })
    }

    fn rules(&self, query: &mut Map<String, Value>) -> Result<Value, Error> {
        if let Some(rules) = take(query, "api")? {
            self.faults.rules.replace(rules);
        }
        if let Some(rules) = take::<Vec<Rule>>(query, "keep")? {
            for (index, faults) in self.keep_faults().enumerate() {
                let meant = |rule: &&Rule| rule.only.is_none_or(|only| only == index);
                faults.rules.replace(rules.iter().filter(meant).cloned().collect());
            }
        }
        Ok(json!({"ok": true, "api": self.faults.rules.list()}))
    }

    fn keep(&self, query: &mut Map<String, Value>) -> Result<Value, Error> {
        let only: Option<usize> = take::<Option<_>>(query, "only")?.flatten();
        if let Some(index) = only.filter(|index| *index >= self.keepstores.len()) {
            return Err(Error::Keepstore(index));
        }
        let mut answers = Vec::new();
        for (index, listener) in self.keepstores.iter().enumerate() {
            if only.is_none_or(|only| only == index) {
                answers.push(one_keepstore(listener, query.clone())?);
            }
        }
        Ok(json!({"ok": true, "keep": answers}))
    }

    async fn process(&self, query: &mut Map<String, Value>) -> Result<Value, Error> {
        let index: usize = take(query, "index")?.ok_or(Error::Key("index"))?;
        let listener = self.keepstores.get(index).ok_or(Error::Keepstore(index))?;
        match take::<String>(query, "action")?.as_deref() {
            Some("stop") => listener.stop().await,
            Some("start") => listener.restart()?,
            _ => return Err(Error::Key("action")),
        }
        Ok(json!({"ok": true}))
    }

    fn configure(&self, query: Map<String, Value>) -> Result<Value, Error> {
        let mut configuration = Configuration::clone(&self.configuration.load());
        for (key, value) in query {
            let number = || value.as_f64();
            match key.as_str() {
                "ttl" => {
                    configuration.blob_signing_ttl = number().and_then(seconds).ok_or(Error::Key("ttl"))?;
                }
                "sign_expiry" => configuration.signature_lifetime = number().and_then(seconds),
                "signing" => configuration.blob_signing = value.as_bool().ok_or(Error::Key("signing"))?,
                "PreserveVersionIfIdle" => {
                    let idle = number().ok_or(Error::Key("PreserveVersionIfIdle"))?;
                    configuration.preserve_version_if_idle = seconds(idle);
                }
                "ForwardSlashNameSubstitution" => {
                    let text = value.as_str().ok_or(Error::Key("ForwardSlashNameSubstitution"))?;
                    configuration.forward_slash_name_substitution = text.to_owned();
                }
                "DefaultReplication" => {
                    configuration.default_replication = value.as_i64().ok_or(Error::Key("DefaultReplication"))?;
                }
                "allow_slash" => configuration.slash_in_names = value.as_bool().ok_or(Error::Key("allow_slash"))?,
                "no_replace_files" => {
                    let without = value.as_bool().ok_or(Error::Key("no_replace_files"))?;
                    self.faults.change_behaviour(|behaviour| behaviour.without_replace_files = without);
                }
                "max_requests" => {
                    let most = value.as_u64().ok_or(Error::Key("max_requests"))?;
                    self.faults.change_behaviour(|behaviour| behaviour.most_requests = most);
                }
                "event_lead" => {
                    let lead = number().and_then(seconds).ok_or(Error::Key("event_lead"))?;
                    self.faults.change_behaviour(|behaviour| behaviour.event_lead = lead);
                }
                _ => tracing::debug!(key, "no such setting"),
            }
        }
        self.configuration.store(Arc::new(configuration));
        Ok(json!({"ok": true}))
    }

    fn events(&self, query: &mut Map<String, Value>) -> Result<Value, Error> {
        if let Some(faults) = &self.websocket.faults {
            if let Some(refuse) = take(query, "refuse")? {
                faults.refuse.store(refuse, Ordering::Relaxed);
            }
            if let Some(mute) = take(query, "mute")? {
                faults.mute.store(mute, Ordering::Relaxed);
            }
            if take(query, "disconnect")?.unwrap_or(false) {
                faults.disconnect.send_modify(|number| *number += 1);
            }
        }
        Ok(json!({"ok": true, "connections": self.websocket.connections()}))
    }
}

fn one_keepstore(listener: &Listener, mut query: Map<String, Value>) -> Result<Value, Error> {
    let keepstore = listener.keepstore();
    let Some(faults) = keepstore.faults() else { return Ok(json!({})) };
    for (key, value) in &query {
        let duration = value.as_f64().and_then(seconds);
        match key.as_str() {
            "ttl" => faults.change_signing(|signing| signing.ttl = duration),
            "expiry" => faults.change_signing(|signing| signing.lifetime = duration),
            "signing" => faults.change_signing(|signing| signing.required = value.as_bool()),
            _ => {}
        }
    }
    if let Some(damaged) = take::<HashMap<String, String>>(&mut query, "corrupt")? {
        faults.replace_damaged(damaged);
    }
    if let Some(rules) = take(&mut query, "faults")? {
        faults.rules.replace(rules);
    }
    if take(&mut query, "clear_log")?.unwrap_or(false) {
        faults.journal.clear();
    }
    if take(&mut query, "reset_max_active")?.unwrap_or(false) {
        faults.journal.reset_most_active();
    }
    let paths = |name: &str| {
        let hash = hash::parse(name);
        keepstore.volumes.iter().filter_map(move |volume| Some(volume.path(hash?)))
    };
    for name in take::<Vec<String>>(&mut query, "delete")?.unwrap_or_default() {
        for path in paths(&name) {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
    let asked: Vec<String> = take(&mut query, "exists")?.unwrap_or_default();
    let exists: Vec<bool> = asked.iter().map(|name| paths(name).any(|path| path.exists())).collect();
    Ok(json!({
        "ok": true,
        "exists": exists,
        "faults": faults.rules.list(),
        "max_active": faults.journal.most_active(),
        "seq": faults.journal.last(),
    }))
}
