//! What can be asked of a list, what comes back, and what can be changed of a collection.

use crate::remote::api::records::Object;
use crate::remote::retry::Repeat;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// One condition of a list: `[attribute, operator, operand]`, or the text form `(a < b)` (protocol.md 3.6).
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Value);

impl Filter {
    /// The usual form.
    pub fn new(attribute: &str, operator: &str, operand: impl Into<Value>) -> Filter {
        Filter(json!([attribute, operator, operand.into()]))
    }

    /// A condition that somebody else wrote (`--filters`), sent as it is.
    pub fn raw(value: Value) -> Filter {
        Filter(value)
    }
}

/// The parameters of a list request (protocol.md 3.5). The default asks for everything there is, in the server's
/// default order and page size, and does not count.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// All must hold.
    pub filters: Vec<Filter>,
    /// `attribute asc` or `attribute desc`.
    pub order: Vec<String>,
    /// Attributes to send; empty is all (but manifests).
    pub select: Vec<String>,
    /// Items of a page; the server takes 100 by default and at most 1000.
    pub limit: Option<u32>,
    /// Items to leave out at the start.
    pub offset: u32,
    /// Count all that match (`items_available`): dear on large lists.
    pub count: bool,
    /// Only differing rows of the selected attributes.
    pub distinct: bool,
    /// Kinds of referenced records to send along, `owner_uuid` above all (`contents` and `shared`).
    pub include: Vec<String>,
    /// Trashed records too.
    pub include_trash: bool,
    /// Old versions of collections too.
    pub include_old_versions: bool,
    /// `contents`: also what is in the projects inside.
    pub recursive: bool,
}

impl Query {
    /// As query parameters.
    pub(super) fn parameters(&self) -> Vec<(&'static str, String)> {
        let list = |values: &[String]| json!(values).to_string();
        let mut result = Vec::new();
        if !self.filters.is_empty() {
            let filters = self.filters.iter().map(|filter| filter.0.clone()).collect();
            result.push(("filters", Value::Array(filters).to_string()));
        }
        let lists = [("order", &self.order), ("select", &self.select), ("include", &self.include)];
        result.extend(
            lists.into_iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| (name, list(values))),
        );
        result.extend(self.limit.map(|limit| ("limit", limit.to_string())));
        if self.offset > 0 {
            result.push(("offset", self.offset.to_string()));
        }
        result.push(("count", if self.count { "exact" } else { "none" }.to_owned()));
        let flags = [
            ("distinct", self.distinct),
            ("include_trash", self.include_trash),
            ("include_old_versions", self.include_old_versions),
            ("recursive", self.recursive),
        ];
        result.extend(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name, "true".to_owned())));
        result
    }
}

/// One page of a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Referenced records, where the query asked for them.
    #[serde(default = "Vec::new", deserialize_with = "nullable")]
    pub included: Vec<Object>,
    /// The number of items that the server would have sent at most; what was asked for, cut to its own limits.
    #[serde(default)]
    pub limit: Option<u64>,
    /// All that match; only where the query counts.
    #[serde(default)]
    pub items_available: Option<u64>,
}

impl<T> Page<T> {
    /// Whether there cannot be a further page: the server would have sent more if it had had more.
    pub fn is_last(&self) -> bool {
        let count = self.items.len() as u64;
        count == 0 || self.limit.is_some_and(|limit| count < limit)
    }
}

fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Object>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A change of a collection, or a new one.
#[derive(Clone, Debug)]
pub struct CollectionUpdate {
    /// Attributes to set; others stay as they are.
    pub attributes: Map<String, Value>,
    /// The whole manifest, or what `manifest_text/…` sources refer to. Beside the attributes because of its size.
    pub manifest: Option<String>,
    /// Target to source (protocol.md 4.6); empty is none.
    pub replace_files: BTreeMap<String, String>,
    /// Create only: change the name when it is taken.
    pub ensure_unique_name: bool,
    /// Attributes of the answer; empty is all.
    pub select: Vec<String>,
    /// When it may be sent again. Anything with a `current/…` source: [`Repeat::Unapplied`] only (protocol.md 4.12).
    pub repeat: Repeat,
}

impl Default for CollectionUpdate {
    fn default() -> CollectionUpdate {
        CollectionUpdate {
            attributes: Map::new(),
            manifest: None,
            replace_files: BTreeMap::new(),
            ensure_unique_name: false,
            select: Vec::new(),
            repeat: Repeat::Unapplied,
        }
    }
}

impl CollectionUpdate {
    /// The JSON body. The attributes stand under their key even when there are none: without it the server takes the
    /// options for attributes (protocol.md 3.3).
    pub(super) fn body(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(serde::Serialize)]
        struct Attributes<'a> {
            #[serde(flatten)]
            attributes: &'a Map<String, Value>,
            #[serde(skip_serializing_if = "Option::is_none")]
            manifest_text: Option<&'a str>,
        }
        #[derive(serde::Serialize)]
        struct Body<'a> {
            collection: Attributes<'a>,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            replace_files: &'a BTreeMap<String, String>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            ensure_unique_name: bool,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            select: &'a [String],
        }
        serde_json::to_vec(&Body {
            collection: Attributes { attributes: &self.attributes, manifest_text: self.manifest.as_deref() },
            replace_files: &self.replace_files,
            ensure_unique_name: self.ensure_unique_name,
            select: &self.select,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_the_parameters_of_the_protocol() {
        let query = Query {
            filters: vec![Filter::new("uuid", "is_a", "arvados#group"), Filter::raw(json!("(a < b)"))],
            order: vec!["uuid asc".to_owned()],
            limit: Some(1000),
            include_trash: true,
            ..Query::default()
        };
        let expected = [
            ("filters", r#"[["uuid","is_a","arvados#group"],"(a < b)"]"#),
            ("order", r#"["uuid asc"]"#),
            ("limit", "1000"),
            ("count", "none"),
            ("include_trash", "true"),
        ];
        assert_eq!(query.parameters(), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn an_update_always_has_the_key_of_the_resource() {
        let update = CollectionUpdate {
            replace_files: [("/a".to_owned(), String::new())].into(),
            ..CollectionUpdate::default()
        };
        assert_eq!(update.body().unwrap(), br#"{"collection":{},"replace_files":{"/a":""}}"#);
        let update = CollectionUpdate {
            attributes: [("name".to_owned(), json!("x"))].into_iter().collect(),
            manifest: Some(". \"\n".to_owned()),
            select: vec!["uuid".to_owned()],
            ..CollectionUpdate::default()
        };
        assert_eq!(
            update.body().unwrap(),
            br#"{"collection":{"name":"x","manifest_text":". \"\n"},"select":["uuid"]}"#
        );
    }

    #[test]
    fn a_page_shorter_than_its_limit_is_the_last() {
        let page = |text: &str| serde_json::from_str::<Page<Value>>(text).unwrap().is_last();
        assert!(page(r#"{"items":[1],"limit":2,"included":null}"#));
        assert!(!page(r#"{"items":[1,2],"limit":2}"#));
        assert!(!page(r#"{"items":[1]}"#), "without a limit only an empty page is the last");
        assert!(page(r#"{"items":[]}"#));
    }
}
