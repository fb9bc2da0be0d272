//! The wire form of a record in the different places where it appears.
//!
//! The same record looks different in a single answer, in a list, in `groups/contents` and among `included`, because
//! on a real cluster it takes different ways there. What is common is here; what belongs to one kind is in its file.

use serde_json::{Map, Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::configuration::random_base36;
use crate::cluster::record::attribute::Use;
use crate::cluster::record::{Layer, Model, Record, collection, group, link, log, token, user};
use crate::cluster::request::Request;

/// Where a record is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The answer to a create.
    Create,
    /// The answer to a get, update, trash.
    Single,
    /// An item of a list.
    List,
    /// An item of `groups/contents`, which the controller passes on as Rails wrote it.
    Contents,
    /// Among `included`.
    Included,
}

/// How a record is shown.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Where.
    pub place: Place,
    /// Which attributes; `None`: all.
    pub select: Option<Vec<String>>,
}

impl Shape {
    /// All attributes.
    pub const fn whole(place: Place) -> Self {
        Self { place, select: None }
    }

    /// What the request selects, checked against a model.
    ///
    /// # Errors
    /// 422 for an unknown attribute and for an empty selection.
    pub fn of_request(request: &Request, model: &Model, place: Place) -> Result<Self, Failure> {
        let select = request.texts("select")?;
        if let Some(names) = &select {
            if names.is_empty() {
                return Err(Failure::argument("Attribute selection list cannot be empty"));
            }
            for name in names {
                if !is_selectable(model, name) {
                    return Err(Failure::argument(format!(
                        "Invalid attribute '{name}' of {} in select parameter",
                        model.class
                    )));
                }
            }
        }
        Ok(Self { place, select })
    }

    /// Whether the signed manifest belongs in the answer: by itself everywhere but in lists.
    pub fn wants_manifest(&self) -> bool {
        match &self.select {
            Some(names) => names.iter().any(|name| name == "manifest_text"),
            None => matches!(self.place, Place::Create | Place::Single),
        }
    }

    fn is_selected(&self, name: &str) -> bool {
        self.select.as_ref().is_none_or(|names| names.iter().any(|one| one == name))
    }

    /// A record with its stored attributes and the derived ones given.
    pub fn present(&self, record: &Record, derived: Map<String, Value>) -> Value {
        let model = record.model;
        let relayed = model.layer == Layer::Controller && !matches!(self.place, Place::Contents | Place::Included);
        let mut shown = derived;
        for attribute in model.columns() {
            let value = record.get(attribute.name);
            let empty = value.is_null() && attribute.null_is_empty && relayed;
            // A collection without a name shows an empty one wherever it stands.
            let nameless = value.is_null() && attribute.name == "name" && model.table == collection::MODEL.table;
            let value = if empty || nameless { "".into() } else { value.clone() };
            shown.insert(attribute.name.to_owned(), value);
        }
        if self.place == Place::Create
            && let Some(Value::String(time)) = shown.get_mut("created_at")
            && time.ends_with("000Z")
        {
            // The answer to a create has digits that are not stored (protocol.md 3.2).
            let digits = u32::from_str_radix(&random_base36(3), 36).unwrap_or_default() % 999 + 1;
            time.replace_range(time.len() - 4.., &format!("{digits:03}Z"));
        }
        shown.insert("kind".to_owned(), model.full_kind().into());
        // The etag is computed over the columns loaded for this answer, so it differs from place to place.
        let loaded =
            json!([record.uuid(), record.get("modified_at"), record.get("version"), self.place as i32, self.select]);
        shown.insert("etag".to_owned(), log::etag(&loaded).into());
        if relayed {
            self.select_from(Value::Object(shown))
        } else {
            shown.retain(|name, _| name == "kind" || self.is_selected(name));
            Value::Object(shown)
        }
    }

    /// Leaves what is selected; `kind` and `etag` always stay, the etag empty unless it is selected.
    pub fn select_from(&self, mut shown: Value) -> Value {
        if let (Some(_), Value::Object(map)) = (&self.select, &mut shown) {
            map.retain(|name, _| name == "kind" || name == "etag" || self.is_selected(name));
            if !self.is_selected("etag") {
                map.insert("etag".to_owned(), "".into());
            }
        }
        shown
    }
}

/// Whether `select` may name it.
pub fn is_selectable(model: &Model, name: &str) -> bool {
    matches!(name, "kind" | "etag" | "id" | "modified_by_client_uuid" | "href")
        || model.attribute(name).is_some_and(|attribute| attribute.usage != Use::Hidden)
}

impl Call<'_> {
    /// What the caller sees of a record.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn present(&self, record: &Record, shape: &Shape) -> Result<Value, Failure> {
        match record.model.table {
            table if table == collection::MODEL.table => self.present_collection(record, shape),
            table if table == group::MODEL.table => self.present_group(record, shape),
            table if table == user::MODEL.table => self.present_user(record, shape),
            table if table == link::MODEL.table => Ok(link::present(record, shape)),
            table if table == log::MODEL.table => self.present_log(record, shape),
            table if table == token::MODEL.table => Ok(shape.select_from(token::present(record))),
            _ => Ok(shape.present(record, Map::new())),
        }
    }

    fn present_log(&self, record: &Record, shape: &Shape) -> Result<Value, Failure> {
        let mut record = record.clone();
        if shape.is_selected("properties") {
            self.complete_log(&mut record)?;
        }
        let kind = crate::cluster::record::kind_of_uuid(record.text("object_uuid"));
        let kind = if kind.is_empty() { Value::Null } else { kind.into() };
        Ok(shape.present(&record, Map::from_iter([("object_kind".to_owned(), kind)])))
    }
}
