//! Which events a client wants.
//!
//! The real server implements `event_type in […]` and comparisons of `created_at`, and takes every other filter as
//! "everything" (protocol.md 9.3). `arv-ws -u UUID` expects more, so all columns of an event can be compared here; what
//! is unknown still matches everything and is never an error, because clients written against the real server send it.

use serde_json::Value;

use crate::cluster::clock::Timestamp;
use crate::cluster::record::log::LogRow;

/// One `subscribe` of a client. Compared as a whole by `unsubscribe`.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    filters: Vec<Value>,
}

impl Subscription {
    /// From the `filters` of a request: a list, or nothing at all. `None` when it is something else.
    pub fn new(filters: Option<&Value>) -> Option<Self> {
        match filters {
            None | Some(Value::Null) => Some(Self { filters: Vec::new() }),
            Some(Value::Array(filters)) => Some(Self { filters: filters.clone() }),
            Some(_) => None,
        }
    }

    /// Whether all filters match.
    pub fn matches(&self, event: &LogRow) -> bool {
        self.filters.iter().all(|filter| match filter.as_array().map(Vec::as_slice) {
            Some([Value::String(column), Value::String(operator), operand]) => {
                compare(event, column, operator, operand)
            }
            _ => true,
        })
    }
}

fn compare(event: &LogRow, column: &str, operator: &str, operand: &Value) -> bool {
    match column {
        "created_at" => time(event.created_at, operator, operand),
        "event_at" => time(event.event_at, operator, operand),
        "id" => ordered(&event.id, operator, as_integer(operand).as_ref()),
        "event_type" => text(&event.event_type, operator, operand),
        "uuid" => text(&event.uuid, operator, operand),
        "object_uuid" => text(&event.object_uuid, operator, operand),
        "object_owner_uuid" => text(&event.object_owner_uuid, operator, operand),
        "object_kind" => text(&event.object_kind, operator, operand),
        _ => true,
    }
}

fn as_integer(operand: &Value) -> Option<i64> {
    operand.as_i64().or_else(|| operand.as_str()?.parse().ok())
}

fn time(value: Timestamp, operator: &str, operand: &Value) -> bool {
    ordered(&value, operator, operand.as_str().and_then(Timestamp::parse).as_ref())
}

/// An operand that cannot be read matches everything, like an unknown filter.
fn ordered<T: Ord>(value: &T, operator: &str, operand: Option<&T>) -> bool {
    let Some(operand) = operand else { return true };
    match operator {
        "=" => value == operand,
        "!=" => value != operand,
        "<" => value < operand,
        "<=" => value <= operand,
        ">" => value > operand,
        ">=" => value >= operand,
        _ => true,
    }
}

fn text(value: &str, operator: &str, operand: &Value) -> bool {
    let among = || operand.as_array().map(|list| list.iter().any(|one| one.as_str() == Some(value)));
    match (operator, operand) {
        ("=", Value::String(operand)) => value == operand,
        ("!=", Value::String(operand)) => value != operand,
        ("in", _) => among().unwrap_or(true),
        ("not in", _) => among().is_none_or(|found| !found),
        ("is_a", Value::String(kind)) => is_a(value, kind),
        ("is_a", Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).any(|kind| is_a(value, kind)),
        _ => true,
    }
}

/// Whether a uuid belongs to an object of a kind such as `arvados#collection`.
fn is_a(uuid: &str, kind: &str) -> bool {
    crate::cluster::record::kind_of_uuid(uuid) == kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> LogRow {
        let time = Timestamp::parse("2026-11-22T20:49:37.304644Z").unwrap();
        LogRow {
            id: 176,
            uuid: "zzzzz-57u5n-kancbi01waixp9g".to_owned(),
            object_uuid: "zzzzz-4zz18-79hq9lk1q0dtdqx".to_owned(),
            object_owner_uuid: "zzzzz-tpzed-7w0agpip40gh795".to_owned(),
            object_kind: "arvados#collection".to_owned(),
            event_type: "create".to_owned(),
            event_at: time,
            created_at: time,
            properties: json!({}),
        }
    }

    fn matches(filters: Value) -> bool {
        Subscription::new(Some(&filters)).unwrap().matches(&event())
    }

    #[test]
    fn all_filters_must_match() {
        assert!(matches(json!([])));
        assert!(matches(json!([["event_type", "in", ["create", "update"]]])));
        assert!(!matches(json!([["event_type", "in", ["create", "update"]], ["event_type", "=", "update"]])));
        assert!(matches(json!([["object_uuid", "=", "zzzzz-4zz18-79hq9lk1q0dtdqx"]])));
        assert!(!matches(json!([["object_uuid", "=", "zzzzz-4zz18-0123456789abcde"]])));
        assert!(matches(json!([["object_uuid", "is_a", "arvados#collection"]])));
        assert!(!matches(json!([["object_uuid", "is_a", ["arvados#group", "arvados#link"]]])));
        assert!(matches(json!([["id", ">", "175"], ["id", "<", 177]])));
    }

    #[test]
    fn times_are_compared_as_times() {
        assert!(matches(json!([["created_at", ">=", "2026-11-22T20:49:37Z"]])));
        assert!(matches(json!([["created_at", "<", "2026-11-22T22:49:38+02:00"]])));
        assert!(!matches(json!([["created_at", "<=", "2026-11-22T20:49:37.304643Z"]])));
    }

    #[test]
    fn what_is_unknown_matches_everything() {
        for filters in [
            json!([["nosuch", "=", 1]]),
            json!([["event_type", "nosuch", "x"]]),
            json!([["event_type", "in", "create"]]),
            json!([["created_at", "<", "yesterday"]]),
            json!(["event_type", 3, null]),
        ] {
            assert!(matches(filters.clone()), "{filters}");
        }
        assert!(Subscription::new(Some(&json!({}))).is_none());
        assert_eq!(Subscription::new(None), Subscription::new(Some(&json!([]))));
    }
}
