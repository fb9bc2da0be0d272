//! What goes over the websocket: requests of clients, and events as they see them (protocol.md 9.2, 9.3).

use serde_json::{Map, Value, json};

use super::subscription::Subscription;
use crate::cluster::record::log::LogRow;

/// Attributes that an event shows of an object; everything else would have to be fetched.
const SHOWN: [&str; 6] =
    ["is_trashed", "name", "owner_uuid", "portable_data_hash", "requesting_container_uuid", "state"];

/// A request that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Send events from now on, and before that those after `last_log_id`.
    Subscribe {
        /// Which.
        subscription: Subscription,
        /// The last event that the client has; 0: no old ones are wanted.
        last_log_id: i64,
    },
    /// Forget one subscription.
    Unsubscribe(Subscription),
}

impl Request {
    /// Reads a frame. `None` for what is answered with status 400: no JSON, no known method, a `last_log_id` that is no
    /// number (`websocket/07-last-log-id-string`).
    pub fn parse(text: &[u8]) -> Option<Self> {
        let message: Value = serde_json::from_slice(text).ok()?;
        let subscription = Subscription::new(message.get("filters"))?;
        match message.get("method")?.as_str()? {
            "subscribe" => {
                let last_log_id = match message.get("last_log_id") {
                    None | Some(Value::Null) => 0,
                    Some(number) => number.as_i64()?,
                };
                Some(Self::Subscribe { subscription, last_log_id })
            }
            "unsubscribe" => Some(Self::Unsubscribe(subscription)),
            _ => None,
        }
    }
}

/// An event as text; `number` counts the events of this connection from 1.
pub fn event(row: &LogRow, number: u64) -> String {
    let mut message = json!({
        "msgID": number,
        "id": row.id,
        "uuid": row.uuid,
        "object_uuid": row.object_uuid,
        "object_owner_uuid": row.object_owner_uuid,
        "object_kind": row.object_kind,
        "event_type": row.event_type,
        "event_at": row.event_at.short(),
    });
    message["properties"] =
        if row.properties.get("text").is_some() { row.properties.clone() } else { shown(&row.properties) };
    message.to_string()
}

fn shown(properties: &Value) -> Value {
    let mut sides = Map::new();
    for side in ["old_attributes", "new_attributes"] {
        if let Some(attributes) = properties.get(side).and_then(Value::as_object) {
            let kept = attributes.iter().filter(|(name, _)| SHOWN.contains(&name.as_str()));
            sides.insert(
                side.to_owned(),
                Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect()),
            );
        }
    }
    Value::Object(sides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::clock::Timestamp;

    fn row(properties: Value) -> LogRow {
        LogRow {
            id: 177,
            uuid: "zzzzz-57u5n-4hnktjif6hdpkhu".to_owned(),
            object_uuid: "zzzzz-4zz18-slicyv6kf37wznd".to_owned(),
            object_owner_uuid: String::new(),
            object_kind: "arvados#collection".to_owned(),
            event_type: "update".to_owned(),
            event_at: Timestamp::parse("2026-11-22T20:49:45.58086Z").unwrap(),
            created_at: Timestamp::parse("2026-11-22T20:49:45.58086Z").unwrap(),
            properties,
        }
    }

    fn properties(of: Value) -> Value {
        serde_json::from_str::<Value>(&event(&row(of), 1)).unwrap()["properties"].clone()
    }

    #[test]
    fn an_event_shows_six_attributes_of_each_side_that_there_is() {
        let all = json!({"old_etag": "x", "old_attributes": null,
                         "new_attributes": {"name": null, "is_trashed": false, "manifest_text": ". x\n", "id": 5}});
        assert_eq!(properties(all), json!({"new_attributes": {"name": null, "is_trashed": false}}));
        assert_eq!(properties(json!({"foo": 1})), json!({}));
        assert_eq!(properties(json!({"text": "hello", "extra": 1})), json!({"text": "hello", "extra": 1}));
    }

    #[test]
    fn times_have_no_trailing_zeros_and_numbers_are_numbers() {
        let message: Value = serde_json::from_str(&event(&row(json!({})), 3)).unwrap();
        assert_eq!(message["event_at"], "2026-11-22T20:49:45.58086Z");
        assert_eq!((message["msgID"].as_u64(), message["id"].as_i64()), (Some(3), Some(177)));
    }

    #[test]
    fn requests_are_read_and_nonsense_is_refused() {
        let everything = Subscription::new(None).unwrap();
        let subscribe = |last_log_id| Some(Request::Subscribe { subscription: everything.clone(), last_log_id });
        assert_eq!(Request::parse(br#"{"method":"subscribe"}"#), subscribe(0));
        assert_eq!(Request::parse(br#"{"method":"subscribe","filters":[],"last_log_id":195}"#), subscribe(195));
        assert_eq!(Request::parse(br#"{"method":"subscribe","last_log_id":null}"#), subscribe(0));
        assert_eq!(Request::parse(br#"{"method":"unsubscribe"}"#), Some(Request::Unsubscribe(everything.clone())));
        for bad in [
            "",
            "nonsense",
            "[]",
            "3",
            "null",
            r#"{"method":"nosuch"}"#,
            r#"{"filters":[]}"#,
            r#"{"method":"subscribe","last_log_id":"195"}"#,
            r#"{"method":"subscribe","filters":"x"}"#,
        ] {
            assert_eq!(Request::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
