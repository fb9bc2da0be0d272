//! Words of the interface that look into the records, or change them past all rules.

use serde_json::{Map, Value, json};

use super::control::{Error, take};
use crate::cluster::answer::Failure;
use crate::cluster::api::Api;
use crate::cluster::clock::Timestamp;
use crate::cluster::filter::Condition;
use crate::cluster::record::{collection, token};

/// More versions than any test makes.
const VERSIONS: u64 = 10_000;

/// Answers one request. Blocking.
pub fn answer(api: &Api, word: &str, mut query: Map<String, Value>) -> Result<Value, Error> {
    match word {
        "token" => {
            let token: String = take(&mut query, "token")?.ok_or(Error::Key("token"))?;
            let seconds: Option<f64> = take::<Option<_>>(&mut query, "expires_at")?.flatten();
            expire(api, &token, seconds)
        }
        "newtoken" => {
            let token: String = take(&mut query, "token")?.ok_or(Error::Key("token"))?;
            let user: String = take(&mut query, "user")?.ok_or(Error::Key("user"))?;
            let (uuid, secret) = parts(&token).ok_or(Error::Key("token"))?;
            let record = json!([{"uuid": uuid, "owner_uuid": user, "api_token": secret}]);
            api.import(&Map::from_iter([(token::MODEL.table.to_owned(), record)]))?;
            Ok(json!({"ok": true}))
        }
        "manifest" => manifest(api, &uuid(&mut query)?),
        "versions" => versions(api, &uuid(&mut query)?),
        "raw" => {
            let attributes: Map<String, Value> = take(&mut query, "set")?.ok_or(Error::Key("set"))?;
            overwrite(api, &uuid(&mut query)?, attributes)
        }
        _ => bulk(api, &mut query),
    }
}

fn uuid(query: &mut Map<String, Value>) -> Result<String, Error> {
    take(query, "uuid")?.ok_or(Error::Key("uuid"))
}

/// Uuid and secret of a v2 token.
fn parts(token: &str) -> Option<(&str, &str)> {
    token.strip_prefix("v2/")?.split_once('/')
}

fn expire(api: &Api, token: &str, seconds: Option<f64>) -> Result<Value, Error> {
    let (uuid, _) = parts(token).ok_or(Error::Key("token"))?;
    // Microseconds of a time in this century fit into both.
    let time = seconds.map(|seconds| Timestamp::from_micros((seconds * 1e6) as i64).to_string());
    let attributes = Map::from_iter([("expires_at".to_owned(), json!(time))]);
    api.write(api.system(), |call| call.update(&token::MODEL, uuid, attributes))?;
    Ok(json!({"ok": true}))
}

fn manifest(api: &Api, uuid: &str) -> Result<Value, Error> {
    let text = api.read(api.system(), |call| {
        let record = call.find(&collection::MODEL, uuid)?.ok_or_else(Failure::not_found)?;
        call.manifest_text(record.text("manifest"))
    })?;
    Ok(json!({"manifest_text": &*text}))
}

fn versions(api: &Api, uuid: &str) -> Result<Value, Error> {
    let versions = api.read(api.system(), |call| {
        let condition = Condition::with("current_version_uuid = ?", [rusqlite::types::Value::Text(uuid.to_owned())]);
        let rows = call.rows(&collection::MODEL, &condition, "version", VERSIONS, 0)?;
        let version = |record: &crate::cluster::record::Record| {
            Ok::<_, Failure>(json!({
                "version": record.get("version"),
                "manifest_text": &*call.manifest_text(record.text("manifest"))?,
                "modified_at": record.get("modified_at"),
                "uuid": record.uuid(),
            }))
        };
        rows.iter().map(version).collect::<Result<Vec<_>, _>>()
    })?;
    Ok(json!(versions))
}

fn overwrite(api: &Api, uuid: &str, attributes: Map<String, Value>) -> Result<Value, Error> {
    api.write(api.system(), |call| {
        let old = call.find_any(uuid)?.ok_or_else(Failure::not_found)?;
        let mut new = old.clone();
        for (name, value) in attributes {
            let attribute = old.model.attribute(&name).filter(|attribute| attribute.is_column());
            let attribute = attribute.ok_or_else(|| Failure::argument(format!("unknown attribute '{name}'")))?;
            new.set(&name, attribute.cast(old.model, value)?);
        }
        call.store(&old, &new)
    })?;
    Ok(json!({"ok": true}))
}

/// Many collections at once: `owner`, `n`, and optionally `prefix` of the names and `manifest`.
fn bulk(api: &Api, query: &mut Map<String, Value>) -> Result<Value, Error> {
    let owner: String = take(query, "owner")?.ok_or(Error::Key("owner"))?;
    let number: u64 = take(query, "n")?.ok_or(Error::Key("n"))?;
    let prefix: String = take(query, "prefix")?.unwrap_or_else(|| "c".to_owned());
    let manifest: String = take(query, "manifest")?.unwrap_or_default();
    let collection =
        |index: u64| json!({"owner_uuid": owner, "name": format!("{prefix}{index:06}"), "manifest_text": manifest});
    let collections: Vec<_> = (0..number).map(collection).collect();
    api.import(&Map::from_iter([(collection::MODEL.table.to_owned(), json!(collections))]))?;
    Ok(json!({"ok": true}))
}
