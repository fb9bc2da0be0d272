//! The event actor: hears of changes on the cluster and marks what they concern.
//!
//! Storms are flattened three times. What comes within a moment is collected in sets, so that a thousand updates of one
//! collection are one mark. A mark is a number in a `watch`: the actor concerned wakes up once. And it only fetches
//! when somebody uses what it keeps, after a random delay; what nobody uses is only marked, and looked at when next asked for.
//!
//! A version that the cluster keeps of a collection is no new collection, though it is told as one: see [`versions`].
//!
//! What is in a filter group may depend on any attribute of any object, so every event about an object marks them all.
//!
//! What events do not tell, measured on a real cluster: that somebody took away a permission (the link's `delete` reaches nobody),
//! what became readable or unreadable through a change further up, what went into the trash with its project. And the
//! websocket server remembers for five minutes to an hour that we may not read something: what we were refused an event of
//! and were then given access to, changes unheard for so long. Listings are therefore also read again by age.

use crate::actors::collection::echo::Heard;
use crate::actors::listing::Source;
use crate::actors::{MAILBOX, Supervisor};
use crate::remote::events::{Attributes, Event, EventType, Listener, Notice};
use actix::{Actor, AsyncContext, Context, StreamHandler};
use futures_util::stream;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

mod versions;

use versions::Created;

/// How long changes are collected before they are passed on. Well below what a user notices.
const COLLECT: Duration = Duration::from_millis(50);

pub struct EventActor {
    supervisor: Arc<Supervisor>,
    listener: Option<Listener>,
    /// Collections that changed, with the portable data hash that they have now, if the event told.
    collections: HashMap<String, Option<String>>,
    listings: HashSet<Source>,
    /// Collections that were created, or versions that were kept: which it is tells what comes next.
    created: Created,
    /// An object changed: it may be in other filter groups now.
    has_filtered: bool,
    is_waiting: bool,
}

impl EventActor {
    /// `listener` runs on the network runtime; this actor only hears what it says.
    pub fn new(supervisor: Arc<Supervisor>, listener: Listener) -> EventActor {
        EventActor {
            supervisor,
            listener: Some(listener),
            collections: HashMap::new(),
            listings: HashSet::new(),
            created: Created::default(),
            has_filtered: false,
            is_waiting: false,
        }
    }

    fn collect(&mut self, event: Event) {
        if event.event_type == EventType::Other {
            return;
        }
        let old = event.properties.old_attributes.clone().unwrap_or_default();
        let new = event.properties.new_attributes.clone().unwrap_or_default();
        let moved = event.event_type != EventType::Update || is_elsewhere(&old, &new);
        let kind = event.object_uuid.get(6..11).unwrap_or_default();
        match kind {
            "4zz18" => {
                self.created.explain(&event);
                if self.created.hold(&event) {
                    self.collections.insert(event.object_uuid, new.portable_data_hash);
                    return;
                }
                let (before, after) = (old.portable_data_hash.as_deref(), new.portable_data_hash.as_deref());
                let cell = self.supervisor.existing_collection(&event.object_uuid);
                let is_echo = new.is_trashed != Some(true)
                    && cell.as_ref().is_some_and(|cell| cell.shared().hear(before, after, event.id) == Heard::Echo);
                if is_echo {
                    // Nothing to look at, unless it tells that something was overwritten.
                    cell.inspect(|cell| cell.wake());
                } else {
                    let hash = if new.is_trashed == Some(true) { None } else { new.portable_data_hash.clone() };
                    self.has_filtered = true;
                    self.collections.insert(event.object_uuid.clone(), hash);
                }
            }
            "j7d0g" | "tpzed" => {
                self.listings.insert(Source::Project(event.object_uuid.clone()));
                self.listings.insert(Source::Shared);
                self.has_filtered = true;
            }
            "o0j2j" => {
                // A link may be a tag (then its name is the tag) or a permission (then it may share something).
                let names = [old.name, new.name].into_iter().flatten();
                self.listings.extend(names.map(Source::Tag));
                self.listings.extend([Source::Tags, Source::Shared]);
            }
            _ => return,
        }
        if moved && matches!(kind, "4zz18" | "j7d0g") {
            let owners = [Some(event.object_owner_uuid.as_str()), event.former_owner_uuid()];
            let owners = owners.into_iter().flatten().filter(|owner| !owner.is_empty());
            self.listings.extend(owners.map(|owner| Source::Project(owner.to_owned())));
        }
    }

    fn pass_on(&mut self) {
        self.is_waiting = false;
        for (uuid, hash) in self.collections.drain() {
            let Some(cell) = self.supervisor.existing_collection(&uuid) else { continue };
            // Who is looking just now may have seen what was before this change.
            let is_known = !cell.shared().is_looking()
                && cell.load().is_some_and(|state| hash.as_deref() == Some(state.portable_data_hash()));
            if !is_known {
                cell.mark();
            }
        }
        for owner in self.created.take() {
            self.listings.insert(Source::Project(owner));
            self.has_filtered = true;
        }
        for source in self.listings.drain() {
            if let Some(cell) = self.supervisor.existing_listing(&source) {
                cell.mark();
            }
        }
        if std::mem::take(&mut self.has_filtered) {
            self.supervisor.mark_filter_groups();
        }
    }
}

/// Does the change show in a listing? A change of content alone does not.
fn is_elsewhere(old: &Attributes, new: &Attributes) -> bool {
    old.name != new.name || old.owner_uuid != new.owner_uuid || old.is_trashed != new.is_trashed
}

impl Actor for EventActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
        if let Some(listener) = self.listener.take() {
            context.add_stream(stream::unfold(listener, |mut listener| async move {
                let notice = listener.next().await?;
                Some((notice, listener))
            }));
        }
    }
}

impl StreamHandler<Notice> for EventActor {
    fn handle(&mut self, notice: Notice, context: &mut Self::Context) {
        match notice {
            Notice::Event(event) => self.collect(event),
            Notice::Gap => {
                tracing::info!("changes may have been missed: everything is looked at again");
                self.supervisor.mark_all();
            }
        }
        if !self.is_waiting {
            self.is_waiting = true;
            context.run_later(COLLECT, |actor, _| actor.pass_on());
        }
    }
}
