//! One event: what the websocket says of a change, and what a log record says of it (protocol.md 9.3, 4.11).
//!
//! Anybody may write a log record with any properties, so everything inside `properties` is read leniently: what has
//! another form than expected counts as absent, and never costs us the other events of the same answer.

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::marker::PhantomData;

/// A change of an object that we can read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Event {
    /// The log record's number, growing.
    pub id: u64,
    pub event_type: EventType,
    #[serde(deserialize_with = "lenient_text")]
    pub object_uuid: String,
    /// The owner after the change; empty for events that programs made up.
    #[serde(deserialize_with = "lenient_text")]
    pub object_owner_uuid: String,
    /// `arvados#collection`, `arvados#group`, …
    #[serde(deserialize_with = "lenient_text")]
    pub object_kind: String,
    #[serde(deserialize_with = "lenient")]
    pub properties: Properties,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    Create,
    Update,
    Delete,
    /// Messages of programs and whatever else is in the log.
    #[default]
    #[serde(other)]
    Other,
}

/// The object before and after, as far as the event tells.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Properties {
    /// Absent for `create`.
    #[serde(deserialize_with = "lenient")]
    pub old_attributes: Option<Attributes>,
    /// Absent for `delete`.
    #[serde(deserialize_with = "lenient")]
    pub new_attributes: Option<Attributes>,
}

/// The attributes that events carry, where the object has them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Attributes {
    #[serde(deserialize_with = "lenient")]
    pub is_trashed: Option<bool>,
    /// `None` for objects without a name.
    #[serde(deserialize_with = "lenient")]
    pub name: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub owner_uuid: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub portable_data_hash: Option<String>,
}

impl Event {
    /// The owner before the change, if it had another one.
    pub fn former_owner_uuid(&self) -> Option<&str> {
        let owner = self.properties.old_attributes.as_ref()?.owner_uuid.as_deref()?;
        (owner != self.object_owner_uuid).then_some(owner)
    }
}

/// A value in the form we expect, or the default.
fn lenient<'de, D: Deserializer<'de>, T: Expected>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Lenient(PhantomData))
}

fn lenient_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    lenient::<D, Option<String>>(deserializer).map(Option::unwrap_or_default)
}

/// How a type of ours is made of the JSON that it expects.
trait Expected: Default {
    fn from_text(_text: &str) -> Self {
        Self::default()
    }
    fn from_flag(_flag: bool) -> Self {
        Self::default()
    }
    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

impl Expected for Option<String> {
    fn from_text(text: &str) -> Self {
        Some(text.to_owned())
    }
}

impl Expected for Option<bool> {
    fn from_flag(flag: bool) -> Self {
        Some(flag)
    }
}

impl Expected for Option<Attributes> {
    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        from_map(map).map(Some)
    }
}

impl Expected for Properties {
    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        from_map(map)
    }
}

fn from_map<'de, A: MapAccess<'de>, T: DeserializeOwned>(map: A) -> Result<T, A::Error> {
    T::deserialize(serde::de::value::MapAccessDeserializer::new(map))
}

struct Lenient<T>(PhantomData<T>);

impl<'de, T: Expected> Visitor<'de> for Lenient<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::from_text(text))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<T, E> {
        Ok(T::from_flag(flag))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_of_the_websocket() {
        let event: Event = serde_json::from_value(json!({
            "msgID": 2, "id": 177, "uuid": "zzzzz-57u5n-3pjwoirsgyy73pa", "event_type": "update",
            "event_at": "2026-11-22T20:49:38.044479Z", "object_kind": "arvados#collection",
            "object_owner_uuid": "b", "object_uuid": "c",
            "properties": {"new_attributes": {"is_trashed": false, "name": null, "owner_uuid": "b", "portable_data_hash": "h"},
                           "old_attributes": {"is_trashed": false, "name": "n", "owner_uuid": "a", "state": "x"}}
        }))
        .unwrap();
        assert_eq!((event.id, event.event_type, event.former_owner_uuid()), (177, EventType::Update, Some("a")));
        let new = event.properties.new_attributes.unwrap();
        assert_eq!((new.name, new.portable_data_hash.as_deref(), new.is_trashed), (None, Some("h"), Some(false)));
    }

    #[test]
    fn odd_properties_do_not_lose_the_event() {
        for properties in [
            json!(null),
            json!("text"),
            json!([1]),
            json!({"old_attributes": [], "new_attributes": "x"}),
            json!({"old_attributes": {"name": {"a": [1, null]}, "owner_uuid": 7, "is_trashed": "no"}}),
        ] {
            let event: Event = serde_json::from_value(json!({"id": 1, "event_type": "stderr", "object_uuid": null,
                                                             "object_owner_uuid": 1.5, "properties": properties}))
            .unwrap();
            assert_eq!((event.id, event.event_type, event.former_owner_uuid()), (1, EventType::Other, None));
        }
    }
}
