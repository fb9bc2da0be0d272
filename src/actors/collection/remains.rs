//! What an actor that fails leaves to the one that takes its place, beside what is published.
//!
//! What was changed is found again by comparing everything with what the server had. Not so that a path must not be saved,
//! because another client has changed it and the writer has not decided yet; nor that a file has lost its place to another client's,
//! so that what is written to it has to go beside that; nor what was sent without an answer. That is left here as the actor
//! goes, however it does. Numbers of files stay what they are as long as the cell has its state.
//!
//! The lock is a leaf, held to put one in or take it out.

use crate::actors::collection::CollectionActor;
use crate::actors::collection::aside::Group;
use crate::actors::collection::local::Local;
use crate::actors::collection::sent::Unknown;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// See the module's essay.
#[derive(Default)]
pub struct Remains(Mutex<Option<Left>>);

struct Left {
    aside: Vec<Group>,
    displaced: HashMap<u32, Vec<u8>>,
    sent: Unknown,
}

impl Remains {
    pub(super) fn leave(&self, local: &mut Local) {
        let left = Left {
            aside: local.aside.take_groups(),
            displaced: std::mem::take(&mut local.displaced),
            sent: std::mem::take(&mut local.sent),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }

    pub(super) fn take(&self, local: &mut Local) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Left { aside, displaced, sent }) = left else { return };
        local.aside.put_groups(aside);
        local.displaced = displaced;
        local.sent = sent;
    }
}

impl Drop for CollectionActor {
    fn drop(&mut self) {
        self.cell.shared().remains.leave(&mut self.local);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::cell::{Cell, Keeper};
    use crate::actors::collection::Writing;
    use crate::actors::collection::aside::Reason;
    use crate::actors::collection::copying::Copies;
    use crate::actors::collection::earlier::Earlier;
    use crate::actors::collection::guard::CommitGuard;
    use crate::actors::collection::housekeeper::Housekeeper;
    use crate::actors::collection::merging::OnConflict;
    use crate::actors::collection::merging::tests::{Rig, TakingKeep};
    use crate::actors::collection::saving::SyncMode;
    use crate::actors::listing::tests::environment;
    use crate::actors::{Environment, Error};
    use crate::cache::{BlockCache, Budget};
    use crate::journal::{Base, Info, Journal, Sent};
    use crate::tree::Snapshot;
    use crate::tree::commit::Depth;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// What is told of a collection that nobody has used for long is compared with notes of saves from before that.
    #[tokio::test]
    async fn actor_of_a_collection_that_was_left_alone_counts_on_from_what_the_journal_tells() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::create(&folder.path().join("account"), &Info::of_process("/m".as_ref()), 1 << 20);
        let journal = Arc::new(journal.expect("a journal"));
        let uuid = "zzzzz-4zz18-000000000000000";
        let cell = Cell::new(uuid.to_owned());
        let paths = vec![(b"x".to_vec(), Base::Absent)];
        journal.sent(uuid, &Sent { state: 7, paths, has_arrived: false }).expect("room");
        let store = Rig::new().store;
        let runtime = tokio::runtime::Handle::current();
        let writing = Writing {
            housekeeper: Housekeeper::start(&runtime, store.clone(), Some(journal.clone())),
            store,
            journal: Some(journal),
            cache: BlockCache::new(Arc::new(TakingKeep), Budget::new(1 << 20)),
            sync: SyncMode::Exit,
            guard: CommitGuard::Strict,
            on_conflict: OnConflict::KeepBoth,
            storage_classes: Vec::new(),
            hears: true,
            retries: 0,
            idle: Duration::ZERO,
            knows_replace_files: true.into(),
            earlier: Earlier::default(),
            copies: Copies::default(),
        };
        let environment = Arc::into_inner(environment()).expect("nobody else has it");
        let environment = Environment { writing: Some(Arc::new(writing)), ..environment };
        let actor = CollectionActor::new(Arc::new(environment), cell);
        assert_eq!((actor.local.changes, actor.local.saved), (7, 7));
    }

    #[tokio::test]
    async fn successor_of_an_actor_that_failed_knows_of_conflicts_lost_places_and_lost_answers() {
        let cell = Cell::new("zzzzz-4zz18-000000000000000".to_owned());
        let mut actor = CollectionActor::new(environment(), cell.clone());
        let conflict = Reason::Conflict(Snapshot::empty());
        let paths = [(&b"a"[..], Depth::Tree)].into_iter().collect();
        actor.local.set_aside(paths, conflict, Error::Conflict { path: "a".to_owned() });
        actor.local.aside.hold(b"a", 7);
        actor.local.displaced.insert(8, b"b".to_vec());
        actor.local.sent.push((Instant::now(), Sent { state: 1, paths: Vec::new(), has_arrived: false }));
        drop(actor);
        let next = CollectionActor::new(environment(), cell);
        assert!(next.local.aside.held(b"a").is_some() && next.local.aside.covers(b"a"));
        assert_eq!(next.local.displaced[&8], b"b");
        assert_eq!(next.local.sent.len(), 1);
        assert!(!next.local.is_clean());
    }
}
