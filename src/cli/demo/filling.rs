//! Fills the demonstration cluster with the [`sample`], through the front door.
//!
//! Blocks go to Keep and collections to the API with the token of whom they belong to, as `arv-put` would do it; users,
//! projects and links are made with the root token of the data folder, as an administrator would. A property of the
//! project says that all of it is there; until then every start makes what is missing, so that an interrupted first
//! start is completed by the next one, and what a user has removed later stays removed.

use super::packer;
use super::sample::{self, Collection, Project};
use crate::cli::cluster::client::{Client, text};
use crate::cluster::FIRST_USER;
use crate::remote::api::{Api, CollectionUpdate, HttpApi};
use crate::remote::keep::{HttpKeep, Keep};
use crate::remote::retry::Retries;
use crate::remote::{Network, Settings, Token};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::future::Future;
use std::sync::Arc;

/// User name of the colleague who shares a project.
const COLLEAGUE: &str = "colleague";
/// Set on the sample project when everything is there.
const COMPLETE: &str = "demonstration_complete";
/// Name of the user's project, which `arvados demo` mentions in what it suggests.
pub const SAMPLE_PROJECT: &str = "Sample project";
/// Its collection that a user is told to write to.
const WELCOME: &str = "Welcome";

/// Somebody's own way to the cluster.
struct Session {
    api: Arc<dyn Api>,
    keep: HttpKeep,
}

impl Session {
    fn open(client: &Client, user: &Value) -> Result<Session, String> {
        let token = client.usable_token(user)?;
        let token = Token::new(&token).ok_or("the cluster made an empty token")?;
        let mut settings = Settings::new(&client.note.api, token);
        settings.certificate_file = Some(client.certificate.clone());
        let network = Network::new(settings).map_err(|error| error.to_string())?;
        let api: Arc<dyn Api> =
            Arc::new(HttpApi::new(network.clone(), Retries::default()).map_err(|error| error.to_string())?);
        let keep = HttpKeep::new(network, api.clone(), Retries::default());
        Ok(Session { api, keep })
    }
}

/// Makes what is missing. `run` waits for a future and gives `None` when the user wants to stop; then this function
/// returns `Ok(false)` and leaves the rest to the next start.
pub fn fill<R>(client: &Client, run: R) -> Result<bool, String>
where
    R: Fn(&mut (dyn Future<Output = Result<(), String>> + Unpin)) -> Option<Result<(), String>>,
{
    let user = client.user(FIRST_USER)?;
    let sample = find(client, "groups", &user, SAMPLE_PROJECT)?;
    if sample.as_ref().is_some_and(|project| project["properties"][COMPLETE] == json!(true)) {
        return Ok(true);
    }
    let colleague = match client.list("users", &json!([["username", "=", COLLEAGUE]]))?.pop() {
        Some(found) => found,
        None => create(
            client,
            "user",
            json!({"username": COLLEAGUE, "email": "colleague@example.com", "first_name": "Conny", "last_name": "Colleague",
                   "is_active": true}),
        )?,
    };
    let places = Places::prepare(client, &user, &colleague, sample)?;
    let sessions = (Session::open(client, &user)?, Session::open(client, &colleague)?);

    let collections = sample::collections();
    let bytes = collections.iter().flat_map(|collection| &collection.files).map(|file| file.content.size()).sum();
    let bar = progress_bar(bytes);
    for collection in &collections {
        bar.set_message(collection.name);
        let session = if collection.project == Project::Colleague { &sessions.1 } else { &sessions.0 };
        let project = places.of(collection.project);
        let made = find(client, "collections", project, collection.name)?;
        if made.is_none() {
            let mut upload = Box::pin(save(session, project, collection, &bar));
            match run(&mut upload) {
                Some(done) => done?,
                None => return Ok(false),
            }
        }
        let made = find(client, "collections", project, collection.name)?
            .ok_or_else(|| format!("the collection {:?} is not there after it was saved", collection.name))?;
        for tag in collection.tags {
            // Owned by the user: a link that an administrator owns is seen by administrators only.
            let tag = json!({"link_class": "tag", "name": tag, "head_uuid": made["uuid"], "owner_uuid": user["uuid"]});
            ensure_link(client, tag)?;
        }
    }
    bar.finish_and_clear();
    let complete = json!({"group": {"properties": {COMPLETE: true}}});
    client.call(Method::PATCH, &format!("groups/{}", text(&places.sample, "uuid")), &[], &complete)?;
    Ok(true)
}

/// The uuid of the collection that a user is told to write to; `None` if he has removed it.
pub fn welcome(client: &Client) -> Result<Option<String>, String> {
    let user = client.user(FIRST_USER)?;
    let Some(project) = find(client, "groups", &user, SAMPLE_PROJECT)? else { return Ok(None) };
    Ok(find(client, "collections", &project, WELCOME)?.map(|found| text(&found, "uuid").to_owned()))
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("filling the cluster {bar:30} {bytes}/{total_bytes} {msg}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The projects that exist now.
struct Places {
    sample: Value,
    results: Value,
    colleague: Value,
}

impl Places {
    fn prepare(client: &Client, user: &Value, colleague: &Value, sample: Option<Value>) -> Result<Places, String> {
        let sample = match sample {
            Some(found) => found,
            None => create(client, "group", project(user, SAMPLE_PROJECT))?,
        };
        let results = ensure_group(client, &sample, "Results", project(&sample, "Results"))?;
        let filters = json!([["collections.properties.topic", "=", "weather"], ["uuid", "is_a", "arvados#collection"]]);
        let filter = json!({"group_class": "filter", "name": "All about weather", "owner_uuid": sample["uuid"],
                            "properties": {"filters": filters}});
        ensure_group(client, &sample, "All about weather", filter)?;
        let name = "Shared by a colleague";
        let shared = ensure_group(client, colleague, name, project(colleague, name))?;
        let readable = json!({"link_class": "permission", "name": "can_read", "tail_uuid": user["uuid"],
                              "head_uuid": shared["uuid"]});
        ensure_link(client, readable)?;
        Ok(Places { sample, results, colleague: shared })
    }

    fn of(&self, project: Project) -> &Value {
        match project {
            Project::Sample => &self.sample,
            Project::Results => &self.results,
            Project::Colleague => &self.colleague,
        }
    }
}

fn project(owner: &Value, name: &str) -> Value {
    json!({"group_class": "project", "name": name, "owner_uuid": owner["uuid"]})
}

async fn save(session: &Session, project: &Value, collection: &Collection, bar: &ProgressBar) -> Result<(), String> {
    let name = collection.name;
    let failed = |error| format!("cannot store the sample collection {name:?}: {error}");
    let keep: &dyn Keep = &session.keep;
    let manifest = packer::upload(collection, keep, |bytes| bar.inc(bytes)).await.map_err(failed)?;
    let mut attributes = Map::new();
    attributes.insert("name".into(), json!(name));
    attributes.insert("description".into(), json!(collection.description));
    attributes.insert("owner_uuid".into(), project["uuid"].clone());
    if collection.tags.contains(&"weather") {
        attributes.insert("properties".into(), json!({"topic": "weather"}));
    }
    let update = CollectionUpdate { attributes, manifest: Some(manifest), ..CollectionUpdate::default() };
    session.api.create_collection(&update, None).await.map_err(failed)?;
    Ok(())
}

fn find(client: &Client, table: &str, owner: &Value, name: &str) -> Result<Option<Value>, String> {
    let filters = json!([["owner_uuid", "=", owner["uuid"]], ["name", "=", name]]);
    Ok(client.list(table, &filters)?.pop())
}

fn ensure_group(client: &Client, owner: &Value, name: &str, attributes: Value) -> Result<Value, String> {
    match find(client, "groups", owner, name)? {
        Some(found) => Ok(found),
        None => create(client, "group", attributes),
    }
}

fn ensure_link(client: &Client, attributes: Value) -> Result<(), String> {
    let same = |name: &str| json!([name, "=", attributes[name]]);
    if client.list("links", &json!([same("link_class"), same("name"), same("head_uuid")]))?.is_empty() {
        create(client, "link", attributes)?;
    }
    Ok(())
}

/// Creates a record of `kind`, whose table is its plural.
fn create(client: &Client, kind: &str, attributes: Value) -> Result<Value, String> {
    client.call(Method::POST, &format!("{kind}s"), &[], &json!({ kind: attributes }))
}
