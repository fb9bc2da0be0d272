//! Logs: what happened to which record, and the source of every event.
//!
//! A change of a record writes its log row in the same transaction, so the rows are the history: `id` grows in commit
//! order, because there is one writer at a time. The old and new attributes are complete, manifest included; the
//! manifests are stored once by content and put back when the row is read, or a large collection with many small
//! edits would fill the disk with copies of its own text.

use md5::{Digest, Md5};
use serde_json::{Map, Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::clock::Timestamp;
use crate::cluster::record::attribute::{Kind, Use, plain};
use crate::cluster::record::collection::content;
use crate::cluster::record::{Layer, Model, Record};

/// Logs.
pub static MODEL: Model = Model {
    table: "logs",
    singular: "log",
    class: "Log",
    kind: "log",
    infix: "57u5n",
    layer: Layer::Rails,
    internal: &["old_manifest", "new_manifest"],
    attributes: &[
        plain("id", Kind::Integer, "Grows with every log.").used(Use::ReadOnly),
        plain("uuid", Kind::String, "Identifies the log; made by the server."),
        plain("owner_uuid", Kind::String, "User who made the change."),
        plain("modified_by_user_uuid", Kind::String, "User who made the change.").used(Use::ReadOnly),
        plain("object_uuid", Kind::String, "What was changed."),
        plain("event_at", Kind::Time, "When it happened."),
        plain("event_type", Kind::String, "create, update, delete, or what a client called it."),
        plain("summary", Kind::Text, "One line about it."),
        plain("properties", Kind::Object, "Attributes before and after."),
        plain("created_at", Kind::Time, "When the log was written.").used(Use::ReadOnly),
        plain("modified_at", Kind::Time, "When the log was written.").used(Use::ReadOnly),
        plain("object_owner_uuid", Kind::String, "Owner of what was changed."),
        plain("object_kind", Kind::String, "Kind of what was changed.").used(Use::Derived),
    ],
};

/// A log as the websocket needs it: one event.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// Grows with every log; the order of events.
    pub id: i64,
    /// The log's own uuid.
    pub uuid: String,
    /// What was changed.
    pub object_uuid: String,
    /// Its owner after the change; empty for logs that clients write.
    pub object_owner_uuid: String,
    /// `arvados#collection` and the like.
    pub object_kind: String,
    /// `create`, `update`, `delete`, or what a client called it.
    pub event_type: String,
    /// When it happened; for a stored old version the time of the original creation.
    pub event_at: Timestamp,
    /// When the log was written.
    pub created_at: Timestamp,
    /// Old and new attributes, without manifests.
    pub properties: Value,
}

impl LogRow {
    /// The event of a row of the table.
    pub fn of(record: &Record) -> Self {
        let epoch = Timestamp::from_micros(0);
        Self {
            id: record.id,
            uuid: record.uuid().to_owned(),
            object_uuid: record.text("object_uuid").to_owned(),
            object_owner_uuid: record.text("object_owner_uuid").to_owned(),
            object_kind: super::kind_of_uuid(record.text("object_uuid")),
            event_type: record.text("event_type").to_owned(),
            event_at: record.time("event_at").unwrap_or(epoch),
            created_at: record.time("created_at").unwrap_or(epoch),
            properties: record.get("properties").clone(),
        }
    }
}

/// An etag: base 36, at most 25 characters, of whatever it is computed over (protocol.md 3.2: the columns loaded for
/// this answer, so it tells nothing about change).
pub fn etag(over: &Value) -> String {
    let mut hash = Md5::new();
    hash.update(over.to_string());
    let mut number = u128::from_be_bytes(hash.finalize().into());
    let mut digits = Vec::with_capacity(25);
    while number > 0 {
        digits.push(char::from_digit((number % 36) as u32, 36).unwrap_or('0'));
        number /= 36;
    }
    digits.iter().rev().collect()
}

/// Attributes of a record as they stand in a log: every column and `id`; the manifest is referred to (see
/// [`Call::log`]) and not contained.
fn attributes(record: &Record) -> Value {
    let mut map = Map::new();
    map.insert("id".to_owned(), record.id.into());
    for attribute in record.model.columns() {
        map.insert(attribute.name.to_owned(), record.get(attribute.name).clone());
    }
    map.insert("modified_by_client_uuid".to_owned(), Value::Null);
    map.insert("updated_at".to_owned(), record.get("modified_at").clone());
    if record.model.table == super::token::MODEL.table {
        map.remove("api_token");
    }
    Value::Object(map)
}

impl Call<'_> {
    /// Writes the log of a change; `old` is absent for a create, `new` for a delete.
    ///
    /// # Errors
    /// Those of the store.
    pub fn log(&self, event: &str, old: Option<&Record>, new: Option<&Record>) -> Result<(), Failure> {
        let Some(object) = new.or(old) else { return Ok(()) };
        let event_at = match event {
            "create" => object.get("created_at").clone(),
            "update" => object.get("modified_at").clone(),
            _ => self.now().to_string().into(),
        };
        let side = |record: Option<&Record>| match record {
            Some(record) => {
                let attributes = attributes(record);
                (Value::from(etag(&attributes)), attributes)
            }
            None => (Value::Null, Value::Null),
        };
        let ((old_etag, old_attributes), (new_etag, new_attributes)) = (side(old), side(new));
        let mut log = Record::new(&MODEL);
        log.set("uuid", self.configuration.new_uuid(MODEL.infix));
        log.set("owner_uuid", self.session.user_uuid.clone());
        log.set("modified_by_user_uuid", self.session.user_uuid.clone());
        log.set("object_uuid", object.uuid());
        log.set("object_owner_uuid", object.get("owner_uuid").clone());
        log.set("event_at", event_at);
        log.set("event_type", event);
        log.set("summary", format!("{event} of {}", object.uuid()));
        log.set(
            "properties",
            json!({"old_etag": old_etag, "old_attributes": old_attributes,
                   "new_etag": new_etag, "new_attributes": new_attributes}),
        );
        let now = self.now().to_string();
        log.set("created_at", now.clone());
        log.set("modified_at", now);
        let manifest = |record: Option<&Record>| record.map_or(Value::Null, |record| record.get("manifest").clone());
        log.set("old_manifest", manifest(old));
        log.set("new_manifest", manifest(new));
        self.insert(&mut log)?;
        self.announce(LogRow::of(&log));
        Ok(())
    }

    /// Puts the manifests back into the attributes of a log that was read.
    ///
    /// # Errors
    /// Those of the store.
    pub fn complete_log(&self, log: &mut Record) -> Result<(), Failure> {
        for (side, column) in [("old_attributes", "old_manifest"), ("new_attributes", "new_manifest")] {
            let Some(hash) = log.optional_text(column) else { continue };
            let text = self.manifest_text(hash)?;
            let names = content::file_names(&text);
            if let Some(Value::Object(attributes)) = log.values.get_mut("properties").and_then(|all| all.get_mut(side))
            {
                attributes.insert("manifest_text".to_owned(), text.as_ref().into());
                attributes.insert("file_names".to_owned(), names.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_short_base_36_and_depends_on_the_content() {
        let (one, other) = (etag(&json!([1])), etag(&json!([2])));
        assert_ne!(one, other);
        assert!(one.len() <= 25 && one.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()));
        assert_eq!(one, etag(&json!([1])));
    }
}
