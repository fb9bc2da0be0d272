//! The records of the API as far as a client here reads them.
//!
//! Unknown fields are ignored, absent and null ones take their default (a `select`, a record by portable data hash, an
//! older server), but a field of the wrong type is an error: better a refused answer than a wrong one. Times keep
//! microseconds; a time that cannot be parsed is as good as none.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

/// A single record: the typed fields, and the whole as the server sent it (but for a manifest, see [`super::document`]).
#[derive(Clone, Debug)]
pub struct Record<T> {
    /// What the program works with.
    pub fields: T,
    /// Everything, for those who want to see the record itself. `manifest_text` is not in it.
    pub raw: Map<String, Value>,
}

impl<T> Deref for Record<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.fields
    }
}

/// `null` as the default of the type.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A time in any ISO 8601 form; `None` for null, nonsense and absence.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    Ok(text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok()).map(|time| time.to_utc()))
}

/// `arvados#collection` (protocol.md 4.1).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Collection {
    #[serde(deserialize_with = "nullable")]
    pub uuid: String,
    #[serde(deserialize_with = "nullable")]
    pub owner_uuid: String,
    /// Empty for collections without a name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub portable_data_hash: String,
    #[serde(deserialize_with = "time")]
    pub created_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "time")]
    pub modified_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "nullable")]
    pub modified_by_user_uuid: String,
    #[serde(deserialize_with = "time")]
    pub trash_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "time")]
    pub delete_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "nullable")]
    pub is_trashed: bool,
    /// 1 and up; 0 in an answer by portable data hash.
    #[serde(deserialize_with = "nullable")]
    pub version: u64,
    /// Other than `uuid` in a stored old version.
    #[serde(deserialize_with = "nullable")]
    pub current_version_uuid: String,
    #[serde(deserialize_with = "nullable")]
    pub preserve_version: bool,
    /// `None`: as the cluster does by default.
    pub replication_desired: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub storage_classes_desired: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub file_count: u64,
    /// Bytes.
    #[serde(deserialize_with = "nullable")]
    pub file_size_total: u64,
}

/// `arvados#group` (protocol.md 4.7).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Group {
    #[serde(deserialize_with = "nullable")]
    pub uuid: String,
    #[serde(deserialize_with = "nullable")]
    pub owner_uuid: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `project`, `filter` or `role`.
    #[serde(deserialize_with = "nullable")]
    pub group_class: String,
    #[serde(deserialize_with = "time")]
    pub created_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "time")]
    pub modified_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "time")]
    pub trash_at: Option<DateTime<Utc>>,
    #[serde(deserialize_with = "nullable")]
    pub is_trashed: bool,
    /// What we may do with it; an old server does not say.
    pub can_write: Option<bool>,
    #[serde(deserialize_with = "nullable")]
    pub can_manage: bool,
    pub frozen_by_uuid: Option<String>,
}

/// `arvados#user` (protocol.md 2.4, 4.8).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct User {
    #[serde(deserialize_with = "nullable")]
    pub uuid: String,
    #[serde(deserialize_with = "nullable")]
    pub email: String,
    #[serde(deserialize_with = "nullable")]
    pub username: String,
    #[serde(deserialize_with = "nullable")]
    pub first_name: String,
    #[serde(deserialize_with = "nullable")]
    pub last_name: String,
    #[serde(deserialize_with = "nullable")]
    pub full_name: String,
    #[serde(deserialize_with = "nullable")]
    pub is_active: bool,
    #[serde(deserialize_with = "nullable")]
    pub is_admin: bool,
    pub can_write: Option<bool>,
    #[serde(deserialize_with = "nullable")]
    pub can_manage: bool,
    #[serde(deserialize_with = "time")]
    pub modified_at: Option<DateTime<Utc>>,
}

/// `arvados#link` (protocol.md 4.9). With `select` most of it is empty.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Link {
    #[serde(deserialize_with = "nullable")]
    pub uuid: String,
    #[serde(deserialize_with = "nullable")]
    pub owner_uuid: String,
    #[serde(deserialize_with = "nullable")]
    pub link_class: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub head_uuid: String,
    #[serde(deserialize_with = "nullable")]
    pub tail_uuid: String,
}

/// One thing of a list that holds things of several kinds (`groups/contents`, `included`).
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(tag = "kind")]
pub enum Object {
    #[serde(rename = "arvados#collection")]
    Collection(Collection),
    #[serde(rename = "arvados#group")]
    Group(Group),
    #[serde(rename = "arvados#user")]
    User(User),
    /// Workflows, container requests and whatever else: not shown in a mount.
    #[serde(other)]
    Other,
}

impl Object {
    /// The uuid; empty for kinds that we do not read.
    pub fn uuid(&self) -> &str {
        match self {
            Object::Collection(collection) => &collection.uuid,
            Object::Group(group) => &group.uuid,
            Object::User(user) => &user.uuid,
            Object::Other => "",
        }
    }
}

/// `arvados#keepService` (protocol.md 8.1).
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct KeepService {
    pub uuid: String,
    pub service_host: String,
    pub service_port: u16,
    #[serde(deserialize_with = "nullable")]
    pub service_ssl_flag: bool,
    /// `disk`, `blob`, `proxy` or `gateway:…`; empty counts as `disk`.
    #[serde(deserialize_with = "nullable")]
    pub service_type: String,
    #[serde(deserialize_with = "nullable")]
    pub read_only: bool,
}

/// The discovery document (protocol.md 1.1).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Discovery {
    /// The cluster's five characters.
    pub uuid_prefix: String,
    /// How long a block signature is valid, in seconds.
    pub blob_signature_ttl: u64,
    /// `wss://…/websocket`; empty where the cluster has none.
    #[serde(deserialize_with = "nullable")]
    pub websocket_url: String,
    pub default_collection_replication: u32,
    /// Largest body of a request in bytes; 0 is no limit.
    #[serde(deserialize_with = "nullable")]
    pub max_request_size: u64,
    #[serde(deserialize_with = "nullable")]
    pub max_items_per_response: u32,
    /// Date of the API as `YYYYMMDD`.
    #[serde(deserialize_with = "nullable")]
    pub revision: String,
}

impl Default for Discovery {
    /// What the SDK takes for fields that are absent.
    fn default() -> Discovery {
        Discovery {
            uuid_prefix: String::new(),
            blob_signature_ttl: 7200,
            websocket_url: String::new(),
            default_collection_replication: 2,
            max_request_size: 0,
            max_items_per_response: 1000,
            revision: String::new(),
        }
    }
}

/// The public configuration of the cluster (protocol.md 2.6); an empty object is a valid one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PublicConfig {
    #[serde(rename = "ClusterID", deserialize_with = "nullable")]
    pub cluster_id: String,
    #[serde(rename = "Collections", deserialize_with = "nullable")]
    pub collections: CollectionsConfig,
    #[serde(rename = "StorageClasses", deserialize_with = "nullable")]
    pub storage_classes: BTreeMap<String, StorageClass>,
}

impl PublicConfig {
    /// The classes that data get when nobody asks for others, in order of their names.
    pub fn default_storage_classes(&self) -> Vec<String> {
        let default = self.storage_classes.iter().filter(|(_, class)| class.default);
        default.map(|(name, _)| name.clone()).collect()
    }
}

/// A collection's texts in the log record of a change, without signatures (protocol.md 4.12). Both are absent where the
/// record has none, or has something else in their place: anybody may write log records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoggedManifests {
    /// Before the change.
    pub old: Option<String>,
    /// After it.
    pub new: Option<String>,
}

impl<'de> Deserialize<'de> for LoggedManifests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut record = Value::deserialize(deserializer)?;
        let mut text = |side: &str| match record.get_mut("properties")?.get_mut(side)?.get_mut("manifest_text")?.take()
        {
            Value::String(text) => Some(text),
            _ => None,
        };
        Ok(LoggedManifests { old: text("old_attributes"), new: text("new_attributes") })
    }
}

/// `Collections` of the public configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CollectionsConfig {
    /// What stands for `/` in names; `None` where the server does not know the setting, `Some("")` where it is off.
    pub forward_slash_name_substitution: Option<String>,
    pub collection_versioning: Option<bool>,
    /// How long a collection must have been left alone for a change to make a new version.
    #[serde(deserialize_with = "go_delay")]
    pub preserve_version_if_idle: Option<Duration>,
    pub default_replication: Option<u32>,
}

/// A storage class of the cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "PascalCase")]
pub struct StorageClass {
    pub default: bool,
    pub priority: i64,
}

/// A time after which something happens, or, if it is negative, never does.
fn go_delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let parse = |text: &str| match text.strip_prefix('-') {
        Some(rest) => parse_go_duration(rest).map(|_| Duration::MAX),
        None => parse_go_duration(text),
    };
    Ok(text.as_deref().and_then(parse))
}

/// Durations as Go prints them: `336h`, `1m30s`, `10s`, `1.5s`, `100ms`. `None` for anything else and for negative ones.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn nulls_and_absent_fields_are_defaults_and_wrong_types_are_errors() {
        let by_hash = json!({"uuid": "x", "name": "", "owner_uuid": null, "modified_at": null, "version": 0,
                             "storage_classes_desired": null, "properties": null});
        let collection: Collection = serde_json::from_value(by_hash).unwrap();
        assert_eq!((collection.uuid.as_str(), collection.version, collection.modified_at), ("x", 0, None));
        assert!(serde_json::from_value::<Collection>(json!({"uuid": 1})).is_err());
        assert!(serde_json::from_value::<Group>(json!({"can_write": "yes"})).is_err());
    }

    #[test]
    fn times_keep_their_microseconds_and_nonsense_is_none() {
        let record = json!({"modified_at": "2026-11-22T14:01:10.130740000Z", "trash_at": "tomorrow"});
        let collection: Collection = serde_json::from_value(record).unwrap();
        assert_eq!(collection.modified_at.unwrap().timestamp_micros(), 1_795_356_070_130_740);
        assert_eq!(collection.trash_at, None);
    }

    #[test]
    fn log_record_without_texts_is_one() {
        let read =
            |properties: Value| serde_json::from_value::<LoggedManifests>(json!({"properties": properties})).unwrap();
        let found =
            read(json!({"old_attributes": {"manifest_text": ". a\n"}, "new_attributes": {"manifest_text": null}}));
        assert_eq!(found, LoggedManifests { old: Some(". a\n".into()), new: None });
        for other in [json!(null), json!([]), json!("x"), json!({"old_attributes": 1})] {
            assert_eq!(read(other), LoggedManifests::default());
        }
    }

    #[test]
    fn objects_of_unknown_kinds_are_read_over() {
        let list = json!([{"kind": "arvados#workflow", "uuid": "w"}, {"kind": "arvados#group", "uuid": "g", "x": [1]}]);
        let list: Vec<Object> = serde_json::from_value(list).unwrap();
        assert_eq!((list[0].uuid(), list[1].uuid()), ("", "g"));
    }

    #[test]
    fn durations_of_go() {
        assert_eq!(parse_go_duration("336h"), Some(Duration::from_secs(1_209_600)));
        assert_eq!(parse_go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_go_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_go_duration("0"), Some(Duration::ZERO));
        for wrong in ["", "10", "h", "1x", "-1s", "1.2.3s"] {
            assert_eq!(parse_go_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_empty_configuration_is_one() {
        let config: PublicConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(config.collections.forward_slash_name_substitution, None);
        assert!(config.default_storage_classes().is_empty());
    }

    proptest! {
        #[test]
        fn no_duration_makes_it_panic(text in "([0-9.]{0,30}[a-zµ]{0,2}){0,3}|.*") {
            parse_go_duration(&text);
        }
    }
}
