//! The user's own filters on what projects, the shared directory and tags show (`--filters`, arv-mount.md 1.2).
//!
//! A filter may name the resource it is for (`collections.name`); without one it applies to every query. It never hides
//! what somebody asks for by uuid or portable data hash: only groups looked up by uuid are filtered, as upstream does.

use serde_json::{Value, json};

/// What is wrong with a list of filters.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("filters are a JSON list; this is {0}")]
    NotAList(&'static str),
    #[error("filter {0} is neither [\"attribute\", \"operator\", operand] nor \"(a < b)\"")]
    Malformed(Value),
}

/// Resources that an attribute may be qualified with.
const RESOURCES: [&str; 4] = ["groups", "collections", "links", "users"];

/// A checked list of filters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filters {
    filters: Vec<Filter>,
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    resource: Option<&'static str>,
    attribute: String,
    /// The filter as it was written.
    whole: Value,
}

impl Filters {
    /// Takes a parsed JSON value apart. Errors: it is not a list of filters.
    pub fn parse(value: Value) -> Result<Filters, Error> {
        let Value::Array(list) = value else { return Err(Error::NotAList(kind(&value))) };
        let filters = list.into_iter().map(filter).collect::<Result<_, _>>()?;
        Ok(Filters { filters })
    }

    /// The filters for a query of one resource: the unqualified ones, and its own without their prefix.
    pub fn of(&self, resource: &str) -> Vec<Value> {
        let mine = self.filters.iter().filter(|filter| filter.resource.is_none_or(|name| name == resource));
        mine.map(|filter| match filter.resource {
            None => filter.whole.clone(),
            Some(_) => json!([filter.attribute, filter.whole[1], filter.whole[2]]),
        })
        .collect()
    }

    /// The filters for `groups/contents`, which takes qualified attributes as they are.
    pub fn of_contents(&self) -> Vec<Value> {
        let mine =
            self.filters.iter().filter(|it| it.resource.is_none_or(|name| name == "groups" || name == "collections"));
        mine.map(|filter| filter.whole.clone()).collect()
    }
}

fn filter(whole: Value) -> Result<Filter, Error> {
    match &whole {
        Value::Array(parts) if parts.len() == 3 => match (&parts[0], &parts[1]) {
            (Value::String(name), Value::String(_)) => {
                let qualified = name.split_once('.').and_then(|(resource, attribute)| {
                    Some((*RESOURCES.iter().find(|known| **known == resource)?, attribute.to_owned()))
                });
                let (resource, attribute) = match qualified {
                    Some((resource, attribute)) => (Some(resource), attribute),
                    None => (None, name.clone()),
                };
                Ok(Filter { resource, attribute, whole })
            }
            _ => Err(Error::Malformed(whole)),
        },
        Value::String(text) if is_comparison(text) => Ok(Filter { resource: None, attribute: String::new(), whole }),
        _ => Err(Error::Malformed(whole)),
    }
}

/// `( a OP b )` with identifiers that do not begin with a digit and OP one of `< <= = >= >`.
fn is_comparison(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) else { return false };
    let Some(at) = inner.find(['<', '=', '>']) else { return false };
    let (left, rest) = inner.split_at(at);
    let operator = ["<=", ">=", "<", "=", ">"].into_iter().find(|operator| rest.starts_with(operator));
    let Some(operator) = operator else { return false };
    is_identifier(left.trim()) && is_identifier(rest[operator.len()..].trim())
}

fn is_identifier(text: &str) -> bool {
    text.chars().all(|character| character.is_alphanumeric() || character == '_')
        && text.chars().next().is_some_and(|first| !first.is_ascii_digit())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualified_filters_go_to_their_resource_only() {
        let filters = Filters::parse(json!([
            ["name", "like", "a%"],
            ["collections.properties.MainFile", "=", "x"],
            ["groups.group_class", "=", "project"],
            ["properties.x", "=", 1],
            "(created_at <= modified_at)"
        ]))
        .expect("well-formed");
        assert_eq!(
            filters.of("collections"),
            [
                json!(["name", "like", "a%"]),
                json!(["properties.MainFile", "=", "x"]),
                json!(["properties.x", "=", 1]),
                json!("(created_at <= modified_at)")
            ]
        );
        assert_eq!(filters.of("links").len(), 3);
        assert_eq!(filters.of_contents().len(), 5);
        assert_eq!(filters.of_contents()[1][0], "collections.properties.MainFile");
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for wrong in [
            json!({}),
            json!([[1, "=", 2]]),
            json!([["a", 1, 2]]),
            json!(["a = b"]),
            json!(["(1a = b)"]),
            json!(["(a ! b)"]),
            json!(["()"]),
            json!([["a", "="]]),
            json!(null),
        ] {
            assert!(Filters::parse(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
