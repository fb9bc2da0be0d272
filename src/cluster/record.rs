//! The kinds of records and what each of them may hold.
//!
//! A [`Model`] describes one kind: its table, its names on the wire and its [`Attribute`]s. Everything generic is
//! derived from that description and written once: the table's columns, reading rows, casting what clients send,
//! refusing unknown attributes, filters, `select`, and the schemas of the discovery document. What is special about a
//! kind (how a collection treats its manifest, who may make a permission link) is in the file of its noun.
//!
//! A [`Record`] is a row in wire form: times as nine-digit text, properties as JSON. It never leaves the cluster as
//! it is; `present` in each noun's file decides what a caller sees of it.

pub mod attribute;
pub mod collection;
pub mod group;
pub mod keep_service;
pub mod link;
pub mod log;
pub mod other;
pub mod token;
pub mod user;

use serde_json::{Map, Value};

use crate::cluster::clock::Timestamp;
use attribute::Attribute;

/// Which part of a real cluster answers for a kind. The two write lists, nulls and errors differently, and clients
/// have been seen to depend on it (protocol.md 3.5, 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The Go controller decodes the answer into a struct: every field present, no null strings.
    Controller,
    /// The Rails server's own answer: nulls, `etag` and `self_link` in lists.
    Rails,
}

/// One kind of record.
#[derive(Debug)]
pub struct Model {
    /// Table and path: `collections`.
    pub table: &'static str,
    /// Parameter that carries the attributes: `collection`.
    pub singular: &'static str,
    /// Name in messages and schemas: `Collection`.
    pub class: &'static str,
    /// `kind` without the prefix `arvados#`: `collection`.
    pub kind: &'static str,
    /// Five characters in the middle of a uuid: `4zz18`.
    pub infix: &'static str,
    /// What it holds.
    pub attributes: &'static [Attribute],
    /// Text columns that nobody outside sees: references to manifests.
    pub internal: &'static [&'static str],
    /// Who answers for it.
    pub layer: Layer,
}

/// All kinds that have a table.
pub static MODELS: [&Model; 11] = [
    &collection::MODEL,
    &group::MODEL,
    &user::MODEL,
    &link::MODEL,
    &log::MODEL,
    &token::MODEL,
    &other::CONTAINER_REQUEST,
    &other::CONTAINER,
    &other::WORKFLOW,
    &other::AUTHORIZED_KEY,
    &other::VIRTUAL_MACHINE,
];

impl Model {
    /// `arvados#collection`
    pub fn full_kind(&self) -> String {
        format!("arvados#{}", self.kind)
    }

    /// The attribute of a name.
    pub fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    /// Attributes with a column of their own.
    pub fn columns(&self) -> impl Iterator<Item = &'static Attribute> {
        self.attributes.iter().filter(|attribute| attribute.is_column())
    }

    /// The kind of a uuid, by its infix.
    pub fn of_uuid(uuid: &str) -> Option<&'static Self> {
        let infix = infix(uuid)?;
        MODELS.into_iter().find(|model| model.infix == infix)
    }
}

/// Characters 7 to 11 of something that looks like a uuid: `^[0-9a-z]{5}-[0-9a-z]{5}-[0-9a-z]{15}$`.
pub fn infix(uuid: &str) -> Option<&str> {
    let bytes = uuid.as_bytes();
    let well_formed = bytes.len() == 27
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            5 | 11 => *byte == b'-',
            _ => byte.is_ascii_digit() || byte.is_ascii_lowercase(),
        });
    well_formed.then(|| &uuid[6..11])
}

/// `arvados#collection` for a uuid of a collection; empty for anything else.
pub fn kind_of_uuid(uuid: &str) -> String {
    match infix(uuid) {
        Some(keep_service::INFIX) => "arvados#keepService".to_owned(),
        Some(_) => Model::of_uuid(uuid).map(Model::full_kind).unwrap_or_default(),
        None => String::new(),
    }
}

/// A row of a table.
#[derive(Clone, Debug)]
pub struct Record {
    /// What it is.
    pub model: &'static Model,
    /// Row number: the order of creation.
    pub id: i64,
    /// Stored attributes in wire form.
    pub values: Map<String, Value>,
}

impl Record {
    /// One without values.
    pub fn new(model: &'static Model) -> Self {
        Self { model, id: 0, values: Map::new() }
    }

    /// An attribute; null when it has none.
    pub fn get(&self, name: &str) -> &Value {
        self.values.get(name).unwrap_or(&Value::Null)
    }

    /// An attribute as text; empty when it is null or something else.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).as_str().unwrap_or_default()
    }

    /// An attribute as text, if it has one.
    pub fn optional_text(&self, name: &str) -> Option<&str> {
        self.get(name).as_str()
    }

    /// An attribute as truth value.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).as_bool().unwrap_or_default()
    }

    /// An attribute as number.
    pub fn number(&self, name: &str) -> i64 {
        self.get(name).as_i64().unwrap_or_default()
    }

    /// An attribute as time.
    pub fn time(&self, name: &str) -> Option<Timestamp> {
        self.optional_text(name).and_then(Timestamp::parse)
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// The uuid.
    pub fn uuid(&self) -> &str {
        self.text("uuid")
    }

    /// The owner's uuid.
    pub fn owner(&self) -> &str {
        self.text("owner_uuid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_tells_its_kind() {
        assert_eq!(kind_of_uuid("zzzzz-4zz18-fp1s4oluj0r5s62"), "arvados#collection");
        assert_eq!(kind_of_uuid("zzzzz-gj3su-000000000000000"), "arvados#apiClientAuthorization");
        for odd in
            ["", "nonsense", "zzzzz-4zz18-fp1s4oluj0r5s6", "zzzzz-4zz18-FP1s4oluj0r5s62", "zzzzz_4zz18-fp1s4oluj0r5s62"]
        {
            assert_eq!(kind_of_uuid(odd), "", "{odd}");
        }
    }

    #[test]
    fn every_model_has_what_each_record_has() {
        for model in MODELS {
            for name in ["uuid", "owner_uuid", "created_at", "modified_at", "modified_by_user_uuid"] {
                assert!(model.attribute(name).is_some(), "{} lacks {name}", model.table);
            }
        }
    }
}
