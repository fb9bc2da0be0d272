//! What a collection publishes: its tree as the mount shows it, with everything that was changed here and is not saved yet.
//!
//! A state never changes, and the next one shares nearly all of it: the tree is persistent, so are the numbers and the table
//! of drafts, and the record stands behind a counter. So each small change can be published at once.

use crate::actors::cell::Cell;
use crate::actors::client::Age;
use crate::actors::collection::draft::Draft;
use crate::actors::collection::numbers::{Numbers, Time};
use crate::actors::collection::{CollectionActor, CollectionCell};
use crate::remote::api::{Collection, Record};
use crate::tree::{NodeId, Snapshot};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How a collection may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asked for by portable data hash: neither names nor contents will ever change.
    Immutable,
    /// Asked for by uuid.
    Mutable,
    /// Exists in this mount only (`--mount-tmp`).
    Temporary,
}

impl Kind {
    /// Keys of temporary collections begin with this, which no uuid and no portable data hash does.
    pub const TEMPORARY: &str = "tmp/";

    pub fn of(key: &str) -> Kind {
        match key {
            key if key.starts_with(Kind::TEMPORARY) => Kind::Temporary,
            // A uuid has no `+`, a portable data hash has one.
            key if key.contains('+') => Kind::Immutable,
            _ => Kind::Mutable,
        }
    }
}

/// What the server has, as far as we know.
#[derive(Clone)]
pub struct Base {
    pub record: Arc<Record<Collection>>,
    pub snapshot: Snapshot,
    /// The snapshot is all of it. Otherwise others are in what the record's hash stands for, and it must be fetched before anything
    /// is saved.
    pub is_whole: bool,
    /// It came about by a commit of ours.
    pub is_own: bool,
    /// A request with the record's version as a condition sees every change of others: the record asked for old versions to be
    /// kept when it was read, or had been left alone for so long that the next change makes a new version (protocol.md 4.12).
    pub is_sound: bool,
}

/// A collection at one moment.
#[derive(Clone)]
pub struct CollectionState {
    pub record: Arc<Record<Collection>>,
    /// Names, and the content of all files that are not among the drafts.
    pub snapshot: Snapshot,
    pub(super) numbers: Numbers,
    /// Files that are open for writing, or changed and not saved, by number.
    pub(super) drafts: imbl::HashMap<u32, Arc<Draft>>,
    pub(super) base: Arc<Base>,
    /// Something in it is not on the server yet.
    pub(super) is_unsaved: bool,
    pub(super) kind: Kind,
    pub(super) fetched: Instant,
    pub(super) interval: Duration,
    pub(super) marks: u64,
    /// When the first signature ends; `None` without signatures.
    pub(super) expiry: Option<SystemTime>,
}

impl CollectionState {
    pub fn portable_data_hash(&self) -> &str {
        &self.record.portable_data_hash
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Neither names nor contents will ever change.
    pub fn is_immutable(&self) -> bool {
        self.kind == Kind::Immutable
    }

    /// See [`Numbers`].
    pub fn number(&self, node: NodeId) -> u32 {
        self.numbers.number(node)
    }

    /// The node of a number; 0 is the top directory. A node that was removed here is still found while the state knows it.
    pub fn node(&self, number: u32) -> Option<NodeId> {
        if number == 0 { Some(NodeId::ROOT) } else { self.numbers.node(&self.snapshot, number) }
    }

    /// The file of this number while it is open for writing or not saved.
    pub fn draft(&self, number: u32) -> Option<&Arc<Draft>> {
        if self.drafts.is_empty() { None } else { self.drafts.get(&number) }
    }

    /// Bytes of a file.
    pub fn size(&self, node: NodeId, number: u32) -> u64 {
        self.draft(number).map_or_else(|| self.snapshot.size(node), |draft| draft.file.size())
    }

    pub fn modified(&self, number: u32) -> Time {
        self.draft(number).map_or_else(|| self.numbers.modified(number), |draft| Some(draft.file.modified()))
    }

    /// When anything of it was changed: never before its content was, unless somebody said so of a time to come.
    pub fn changed(&self, number: u32) -> Time {
        self.modified(number).max(self.numbers.altered(number))
    }

    pub(super) fn special_times(&self) -> impl Iterator<Item = (u32, Time)> {
        self.numbers.special_times()
    }

    pub fn version(&self, number: u32) -> u32 {
        self.numbers.version(number)
    }

    /// Is any file written to and not saved, half written ones included? What has no name any more is never saved.
    pub fn has_changed_drafts(&self) -> bool {
        let is_linked = |number: u32| self.node(number).is_some_and(|node| self.snapshot.is_linked(node));
        let mut drafts = self.drafts.iter();
        self.kind == Kind::Mutable && drafts.any(|(number, draft)| draft.is_changed() && is_linked(*number))
    }

    /// Something in it is not on the server yet.
    pub fn is_unsaved(&self) -> bool {
        self.is_unsaved
    }

    /// Has anything been told of the collection that this state may not have?
    pub(in crate::actors) fn is_marked(&self, cell: &CollectionCell) -> bool {
        cell.marks() != self.marks
    }

    pub(in crate::actors) fn age(&self, cell: &CollectionCell) -> Age {
        match self.kind {
            Kind::Mutable => Age::of(self.fetched, self.interval, self.is_marked(cell)),
            Kind::Immutable | Kind::Temporary => Age::Fresh,
        }
    }
}

impl Cell<CollectionActor> {
    pub fn kind(&self) -> Kind {
        Kind::of(self.key())
    }
}
