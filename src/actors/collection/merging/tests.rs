//! What a merge takes for changed here.

use super::*;
use crate::actors::collection::numbers::Numbers;
use crate::actors::collection::state::{Base, Kind};
use crate::cache::Budget;
use crate::dirty::{DirtyStore, Options, Place, Scratch};
use crate::remote::api::{Collection, Record};
use crate::remote::keep::{Keep, PutRequest, Stored};
use bytes::Bytes;
use std::time::Duration;

const OLD: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
const NEW: &str = "37b51d194a7513e45b56f6524f2d51f2+3";

/// Takes everything, and is asked for nothing in these tests.
pub(in crate::actors::collection) struct TakingKeep;

#[async_trait]
impl Keep for TakingKeep {
    async fn get(&self, _: &Locator) -> crate::remote::error::Result<Bytes> {
        Err(crate::remote::Error::NoKeepServices)
    }

    async fn put(&self, data: Bytes, _: &PutRequest) -> crate::remote::error::Result<Stored> {
        let locator = Locator::new(BlockHash::of(&data), data.len() as u64);
        Ok(Stored { locator, replicas: 1, storage_classes: Default::default() })
    }
}

fn tree(text: &str) -> Snapshot {
    Snapshot::parse(&text.replace("OLD", OLD).replace("NEW", NEW)).unwrap()
}

/// A collection with the file `a` in it, which somebody has opened.
pub(in crate::actors::collection) struct Rig {
    pub(in crate::actors::collection) state: Arc<CollectionState>,
    pub(in crate::actors::collection) number: u32,
    pub(in crate::actors::collection) store: Arc<DirtyStore>,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub(in crate::actors::collection) fn new() -> Rig {
        Rig::of(". OLD 0:3:a 0:3:b\n")
    }

    fn of(base: &str) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let store = DirtyStore::new(Options {
            budget: Budget::new(1 << 20),
            memory: 1 << 19,
            scratch: Scratch::open(folder.path().join("scratch"), 1 << 20).unwrap(),
            keep: Arc::new(TakingKeep),
            runtime: tokio::runtime::Handle::current(),
            uploads: 1,
            block_size: 1 << 16,
        });
        let snapshot = tree(base);
        let record = Arc::new(Record { fields: Collection::default(), raw: Default::default() });
        let base =
            Base { record: record.clone(), snapshot: snapshot.clone(), is_whole: true, is_own: false, is_sound: true };
        let numbers = Numbers::first(None);
        let node = snapshot.find(b"a").unwrap();
        let number = numbers.number(node);
        let draft = Arc::new(Draft::new(store.file(snapshot.pieces(node), PutRequest::default())));
        draft.add_writer();
        let state = CollectionState {
            record,
            numbers,
            drafts: [(number, draft)].into_iter().collect(),
            snapshot,
            base: Arc::new(base),
            is_unsaved: true,
            kind: Kind::Mutable,
            fetched: Instant::now(),
            interval: Duration::from_secs(1),
            marks: 0,
            expiry: None,
        };
        Rig { state: Arc::new(state), number, store, _folder: folder }
    }

    fn draft(&self) -> &Arc<Draft> {
        self.state.draft(self.number).unwrap()
    }

    /// Sets its time and closes it.
    fn touch_and_close(&self) {
        self.draft().file.set_modified(Utc::now());
        assert!(self.draft().is_changed());
        self.draft().remove_writer();
    }

    fn merged(&self, theirs: &str) -> Merged {
        let mine = mine(&self.state).unwrap();
        let (theirs, time) = (tree(theirs), Utc::now());
        merge_now(&self.state, &mine, (&theirs, &[]), time, &HashSet::new(), OnConflict::KeepBoth).unwrap()
    }
}

fn has(merged: &Merged, text: &str) -> bool {
    diff(&merged.snapshot, &tree(text)).is_empty()
}

#[tokio::test]
async fn file_of_which_only_the_time_was_set_takes_what_others_have_saved() {
    let rig = Rig::new();
    rig.touch_and_close();
    let merged = rig.merged(". NEW OLD 0:3:a 3:3:b\n");
    assert!(merged.conflicts.is_empty() && has(&merged, ". NEW OLD 0:3:a 3:3:b\n"));
    assert_eq!((merged.outdated, merged.displaced), (vec![rig.number], vec![]));
}

#[tokio::test]
async fn file_that_was_written_with_nothing_and_grew_elsewhere_has_what_others_have_saved() {
    let rig = Rig::new();
    rig.draft().file.truncate(3).await.unwrap();
    assert!(rig.draft().is_changed());
    rig.draft().remove_writer();
    let merged = rig.merged(". OLD NEW 0:6:a 0:3:b\n");
    assert!(merged.conflicts.is_empty() && has(&merged, ". OLD NEW 0:6:a 0:3:b\n"));
    assert_eq!(merged.outdated, [rig.number]);
}

#[tokio::test]
async fn file_of_which_only_the_time_was_set_goes_when_others_have_removed_it() {
    let rig = Rig::new();
    rig.touch_and_close();
    let merged = rig.merged(". OLD 0:3:b\n");
    assert!(merged.conflicts.is_empty() && has(&merged, ". OLD 0:3:b\n"));
    assert_eq!(merged.outdated, [rig.number]);
}

/// Who has it open goes on with the content that he has seen.
#[tokio::test]
async fn open_file_of_which_only_the_time_was_set_loses_its_place_and_keeps_its_content() {
    for theirs in [". NEW OLD 0:3:a 3:3:b\n", ". OLD NEW 0:6:a 0:3:b\n", ". OLD 0:3:b\n"] {
        let rig = Rig::new();
        rig.draft().file.set_modified(Utc::now());
        let merged = rig.merged(theirs);
        assert!(merged.conflicts.is_empty() && has(&merged, theirs), "{theirs}");
        assert_eq!(merged.displaced, [(rig.number, b"a".to_vec())], "{theirs}");
        assert!(!rig.draft().is_written(), "{theirs}");
        rig.draft().file.write(Place::At(0), Bytes::from_static(b"mine")).await.unwrap();
        assert!(rig.draft().is_written(), "{theirs}");
    }
}

#[tokio::test]
async fn file_that_was_written_or_emptied_is_changed_here() {
    let rig = Rig::new();
    rig.draft().file.write(Place::At(0), Bytes::from_static(b"our")).await.unwrap();
    let merged = rig.merged(". NEW OLD 0:3:a 3:3:b\n");
    assert_eq!(merged.conflicts.len(), 1);
    let rig = Rig::new();
    rig.draft().file.truncate(0).await.unwrap();
    assert_eq!(rig.merged(". NEW OLD 0:3:a 3:3:b\n").conflicts.len(), 1, "emptied is written");
    let kept = rig.merged(". OLD 0:3:b\n");
    assert!(kept.snapshot.find(b"a").is_some(), "what was written stays though others have removed it");
}

/// A save that came to nothing has brought the bytes to Keep, and there they are the block that the server has.
#[tokio::test]
async fn file_that_was_written_with_the_bytes_it_had_is_changed_here() {
    let written = async || {
        let rig = Rig::new();
        rig.draft().file.write(Place::At(0), Bytes::from_static(b"bar")).await.unwrap();
        rig.draft().file.write(Place::At(0), Bytes::from_static(b"foo")).await.unwrap();
        rig.draft().remove_writer();
        let settled = rig.store.settle(&[rig.draft().file.clone()]).await.remove(0).unwrap();
        assert_eq!(settled.pieces[0].block.as_str(), OLD, "this proves nothing");
        rig
    };
    let rig = written().await;
    let merged = rig.merged(". NEW OLD 0:3:a 3:3:b\n");
    assert_eq!((merged.conflicts.len(), merged.outdated), (1, vec![]));
    let rig = written().await;
    let merged = rig.merged(". OLD 0:3:b\n");
    assert!(merged.snapshot.find(b"a").is_some() && merged.outdated.is_empty());
    let rig = Rig::of(". OLD 0:0:a 0:3:b\n");
    rig.draft().file.write(Place::At(0), Bytes::from_static(b"bar")).await.unwrap();
    rig.draft().file.truncate(0).await.unwrap();
    rig.draft().remove_writer();
    let merged = rig.merged(". NEW OLD 0:3:a 3:3:b\n");
    assert_eq!((merged.conflicts.len(), merged.outdated), (1, vec![]), "it was emptied again");
}
