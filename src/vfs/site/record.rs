//! The hidden files `.arvados#collection` and `.arvados#project`: the record as JSON (arv-mount.md 2.6).
//!
//! Programs read them to find out what a path is, and as a point of synchronisation: what they say is what the cluster
//! says now. The form is exactly that of Python's `json.dumps(indent=4, sort_keys=True)`, which callers have parsed line by line.

use super::Site;
use super::attributes::timestamp;
use crate::actors::collection::saving::{Files, Need};
use crate::actors::collection::{CollectionCell, Kind};
use crate::actors::listing::Source;
use crate::keep::PortableDataHash;
use crate::vfs::object::{Content, Object, RecordText};
use crate::vfs::{Error, Timestamp};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;

impl Site {
    /// The record of an object, asked for now.
    pub(super) async fn record(&self, object: &Object) -> Result<RecordText, Error> {
        let (record, modified) = match &object.content {
            Content::Collection { cell, .. } if cell.kind() == Kind::Temporary => self.temporary_record(cell).await?,
            Content::Collection { cell, .. } => {
                if self.can_change() && cell.kind() == Kind::Mutable {
                    // What it says is what was written, to the last byte.
                    self.supervisor.collection_state(cell, false).await?;
                    self.supervisor.save(cell, Files::All, Need::Server).await?;
                }
                let (record, manifest) = self.supervisor.collection_record(cell).await?;
                let modified = timestamp(record.fields.modified_at);
                return aside(move || RecordText::new(text_of_collection(record.raw, manifest), modified)).await;
            }
            Content::Listing { source: Source::Project(uuid), .. } => {
                let (record, modified) = self.supervisor.project_record(uuid).await?;
                (record, timestamp(modified))
            }
            _ => return Err(Error::NotFound),
        };
        aside(move || RecordText::new(text(&record), modified)).await
    }

    /// What a temporary collection would be if it were saved now: all its bytes are in Keep then.
    async fn temporary_record(&self, cell: &Arc<CollectionCell>) -> Result<(Map<String, Value>, Timestamp), Error> {
        let state = self.supervisor.collection_state(cell, false).await?;
        let Some(writing) = &self.supervisor.environment().writing else { return Err(Error::NotFound) };
        let manifest = writing.settled_manifest(&state).await?;
        let mut record = Map::new();
        let hash = PortableDataHash::of_manifest(&manifest).to_string();
        record.insert("uuid".into(), Value::Null);
        record.insert("portable_data_hash".into(), Value::String(hash));
        record.insert("manifest_text".into(), Value::String(manifest));
        record.insert("storage_classes_desired".into(), Value::from(writing.storage_classes.clone()));
        Ok((record, Timestamp::from(chrono::Utc::now())))
    }
}

/// Makes a text on a thread that may be busy with it: of a large collection it is hundreds of megabytes, and nobody else would
/// be served meanwhile.
async fn aside(make: impl FnOnce() -> RecordText + Send + 'static) -> Result<RecordText, Error> {
    tokio::task::spawn_blocking(make).await.map_err(|_| Error::Panicked)
}

fn text_of_collection(mut record: Map<String, Value>, manifest: Vec<u8>) -> Bytes {
    let manifest = String::from_utf8(manifest).map_err(|error| error.into_bytes());
    let manifest = manifest.unwrap_or_else(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    record.insert("manifest_text".into(), Value::String(manifest));
    let classes = record.entry("storage_classes_desired").or_insert(Value::Null);
    if classes.is_null() {
        *classes = Value::Array(Vec::new());
    }
    text(&record)
}

/// JSON with sorted keys (the map is), four spaces, ASCII only, and a newline at the end.
fn text(record: &Map<String, Value>) -> Bytes {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing a value of JSON's own types to memory cannot fail.
    let is_written = record.serialize(&mut serializer).is_ok();
    debug_assert!(is_written);
    let json = String::from_utf8_lossy(&bytes);
    let mut text = String::with_capacity(json.len() + 1);
    // Characters beyond ASCII, and DEL, only occur inside strings; everything between them is copied as it is.
    let is_special = |character: char| !character.is_ascii() || character == '\x7f';
    let mut copied = 0;
    for (position, special) in json.match_indices(is_special) {
        text.push_str(&json[copied..position]);
        for unit in special.encode_utf16() {
            text.push_str(&format!("\\u{unit:04x}"));
        }
        copied = position + special.len();
    }
    text.push_str(&json[copied..]);
    text.push('\n');
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn form_is_that_of_python() {
        let Value::Object(record) = json!({"b": ["ü", "\u{1F600}\x7f\n"], "a": {}, "c": [], "d": null, "e": 1.5})
        else {
            unreachable!("an object")
        };
        let expected = "{\n    \"a\": {},\n    \"b\": [\n        \"\\u00fc\",\n        \"\\ud83d\\ude00\\u007f\\n\"\n    ],\n    \
                        \"c\": [],\n    \"d\": null,\n    \"e\": 1.5\n}\n";
        assert_eq!(text(&record), expected);
    }

    proptest! {
        #[test]
        fn text_means_what_the_record_said(key in ".*", value in ".*") {
            let mut record = Map::new();
            record.insert(key, Value::String(value));
            let text = text(&record);
            prop_assert!(text.is_ascii());
            prop_assert_eq!(serde_json::from_slice::<Map<String, Value>>(&text).ok(), Some(record));
        }
    }
}
