//! Telling the old versions that a cluster keeps from new collections, in what it says of changes.
//!
//! A save that keeps what was there before makes two events (protocol.md 9.3): the `create` of the kept version, with a uuid of its
//! own and owner, name and content of the collection, and the `update` of the collection itself. No listing shows versions, so
//! none needs to be read again; in a project of many thousands that others save into, it would be read again and again. The
//! `create` alone does not tell: what names the collection that a version is of is left out of events.
//!
//! What tells is the `update`. If, by its old attributes, another collection had that owner and name until after the `create` was
//! logged, the created object is no collection that a listing shows under it: among those that are not in the trash names are unique
//! within an owner, and a version is exempt. Had it been one, and had it lost the name to the other in between, then by a
//! change with an event of its own, which has the listing read. So nothing is hidden that other events do not bring up,
//! and what those cannot (they may be lost on us like any other) shows at `--refresh-time`. Collections without a name may be many,
//! and what programs write into the log by themselves proves nothing; both count as new, and so does a `create` whose `update`
//! is not heard of within the moment in which events are collected: the two are committed, and sent, together.

use crate::remote::events::{Event, EventType};

/// Collections that were created a moment ago.
#[derive(Default)]
pub(super) struct Created {
    waiting: Vec<Creation>,
}

struct Creation {
    event: u64,
    uuid: String,
    state: State,
}

/// What a version has in common with the collection that it was of.
#[derive(PartialEq, Eq)]
struct State {
    owner: String,
    name: String,
    hash: String,
}

impl Created {
    /// Puts the creation aside if it may be one of a version. `false`: it is not.
    pub(super) fn hold(&mut self, event: &Event) -> bool {
        let Some(state) = State::after(event) else { return false };
        self.waiting.push(Creation { event: event.id, uuid: event.object_uuid.clone(), state });
        true
    }

    /// Forgets the version that an update has kept.
    pub(super) fn explain(&mut self, event: &Event) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(before) = State::before(event) else { return };
        self.waiting.retain(|creation| {
            let is_version =
                creation.state == before && creation.uuid != event.object_uuid && creation.event < event.id;
            !is_version
        });
    }

    /// Owners of the collections that are new.
    pub(super) fn take(&mut self) -> impl Iterator<Item = String> {
        self.waiting.drain(..).map(|creation| creation.state.owner)
    }
}

impl State {
    fn after(event: &Event) -> Option<State> {
        let attributes = event.properties.new_attributes.as_ref()?;
        let owner = attributes.owner_uuid.as_deref()?;
        (event.event_type == EventType::Create && owner == event.object_owner_uuid).then_some(())?;
        State::of(attributes)
    }

    fn before(event: &Event) -> Option<State> {
        // Events that programs make up have no owner.
        (event.event_type == EventType::Update && !event.object_owner_uuid.is_empty()).then_some(())?;
        State::of(event.properties.old_attributes.as_ref()?)
    }

    fn of(attributes: &crate::remote::events::Attributes) -> Option<State> {
        (attributes.is_trashed == Some(false)).then_some(())?;
        let text = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
        Some(State {
            owner: text(&attributes.owner_uuid)?,
            name: text(&attributes.name)?,
            hash: text(&attributes.portable_data_hash)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const OWNER: &str = "zzzzz-j7d0g-000000000000001";
    const ONE: &str = "zzzzz-4zz18-000000000000001";
    const TWO: &str = "zzzzz-4zz18-000000000000002";

    fn attributes(name: &str, hash: &str) -> Value {
        json!({"is_trashed": false, "name": name, "owner_uuid": OWNER, "portable_data_hash": hash})
    }

    fn create(id: u64, uuid: &str, new: &Value) -> Event {
        let event = json!({"id": id, "event_type": "create", "object_uuid": uuid, "object_owner_uuid": OWNER,
                           "object_kind": "arvados#collection", "properties": {"new_attributes": new}});
        serde_json::from_value(event).expect("an event")
    }

    fn update(id: u64, uuid: &str, old: &Value, new: &Value) -> Event {
        let event = json!({"id": id, "event_type": "update", "object_uuid": uuid, "object_owner_uuid": OWNER,
                           "properties": {"old_attributes": old, "new_attributes": new}});
        serde_json::from_value(event).expect("an event")
    }

    /// Are these taken for new collections?
    fn owners(events: &[Event]) -> Vec<String> {
        let mut created = Created::default();
        for event in events {
            match event.event_type {
                EventType::Create => assert!(created.hold(event)),
                _ => created.explain(event),
            }
        }
        created.take().collect()
    }

    #[test]
    fn version_that_an_update_keeps_is_no_new_collection() {
        let (old, new) = (attributes("a", "h1"), attributes("a", "h2"));
        assert!(owners(&[create(7, TWO, &old), update(8, ONE, &old, &new)]).is_empty());
        assert!(owners(&[create(7, TWO, &old), update(9, ONE, &old, &attributes("b", "h1"))]).is_empty(), "renamed");
        // Those of others may come in between, and several at a time.
        let (other, later) = (attributes("c", "h1"), attributes("c", "h3"));
        let third = "zzzzz-4zz18-000000000000003";
        let all = [
            create(7, TWO, &old),
            create(8, third, &other),
            update(9, third, &other, &later),
            update(10, ONE, &old, &new),
        ];
        assert_eq!(owners(&all), [OWNER], "only what is explained");
    }

    #[test]
    fn whatever_may_be_new_counts_as_new() {
        let (old, new) = (attributes("a", "h1"), attributes("a", "h2"));
        assert_eq!(owners(&[create(7, TWO, &old)]), [OWNER], "nobody has kept it");
        let of_itself = update(8, TWO, &old, &new);
        assert_eq!(owners(&[create(7, TWO, &old), of_itself]), [OWNER], "made and written at once");
        assert_eq!(
            owners(&[create(9, TWO, &old), update(8, ONE, &old, &new)]),
            [OWNER],
            "made after the name was free"
        );
        assert_eq!(owners(&[create(7, TWO, &old), update(8, ONE, &attributes("b", "h1"), &old)]), [OWNER]);
        assert_eq!(owners(&[create(7, TWO, &old), update(8, ONE, &attributes("a", "h3"), &old)]), [OWNER]);
        let mut trashed = old.clone();
        trashed["is_trashed"] = true.into();
        assert_eq!(owners(&[create(7, TWO, &old), update(8, ONE, &trashed, &new)]), [OWNER], "the name was free");
        let mut made_up = update(8, ONE, &old, &new);
        made_up.object_owner_uuid.clear();
        assert_eq!(owners(&[create(7, TWO, &old), made_up]), [OWNER]);
    }

    #[test]
    fn collections_without_a_name_and_what_is_not_understood_are_not_held_back() {
        let mut nameless = attributes("a", "h1");
        nameless["name"] = Value::Null;
        for new in [nameless, json!({}), json!(3)] {
            assert!(!Created::default().hold(&create(7, TWO, &new)), "{new}");
        }
    }

    /// `websocket/07-collection-events`, ids 179 and 180: what a real cluster sends.
    #[test]
    fn recorded_events_of_a_kept_version_are_understood() {
        let owner = "zzzzz-tpzed-7w0agpip40gh795";
        let hash = "1f4b0bc7583c2a7f9102c395f4ffc5e3+45";
        let of =
            |name: &str| json!({"is_trashed": false, "name": name, "owner_uuid": owner, "portable_data_hash": hash});
        let mut kept = create(179, "zzzzz-4zz18-5rf1uiwizu5enzz", &of("same"));
        let mut update = update(180, "zzzzz-4zz18-79hq9lk1q0dtdqx", &of("same"), &of("new version"));
        (kept.object_owner_uuid, update.object_owner_uuid) = (owner.into(), owner.into());
        assert!(owners(&[kept, update]).is_empty());
    }
}
