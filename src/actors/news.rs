//! What changed behind the back of the front ends: from the actors to whoever shows the tree.
//!
//! Actors never wait for those above them, so news are left here and a `watch` says that there are some. Any number of changes
//! to one collection or listing are one list; when it gets longer than anybody would act on one by one, it becomes
//! "everything". How changes reach us at all is known here too: whoever lets others remember something must know whether they
//! would be told.

use crate::actors::listing::Source;
use crate::remote::events::Status;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use tokio::sync::watch;

/// Changes to one collection or listing beyond which they are told as one: a front end would be busy for seconds with each
/// of them.
const MOST: usize = 20_000;

/// What the news are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A collection, by uuid or portable data hash.
    Collection(String),
    Listing(Source),
}

/// One thing that is not as it was. Numbers are those of the nodes of a collection or the items of a listing; 0 is its top
/// directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The name leads somewhere else now, or nowhere.
    Entry { parent: u32, name: Vec<u8> },
    /// Attributes and content.
    Node(u32),
    /// Anything may have changed.
    Everything,
}

/// See the module's essay. The lock is held to add to or take the lists, and nothing is called under it.
#[derive(Debug)]
pub struct News {
    lists: Mutex<HashMap<Subject, Vec<Change>>>,
    told: watch::Sender<u64>,
    /// How changes reach us; empty if nobody listens for them.
    status: OnceLock<watch::Receiver<Status>>,
}

impl Default for News {
    fn default() -> News {
        News { lists: Mutex::default(), told: watch::Sender::new(0), status: OnceLock::new() }
    }
}

impl News {
    /// Adds to what is to be told of a collection.
    pub fn tell(&self, key: &str, changes: Vec<Change>) {
        self.add(Subject::Collection(key.to_owned()), changes);
    }

    /// Adds to what is to be told of a listing.
    pub fn tell_listing(&self, source: &Source, changes: Vec<Change>) {
        self.add(Subject::Listing(source.clone()), changes);
    }

    fn add(&self, subject: Subject, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        {
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            let list = lists.entry(subject).or_default();
            if list.len() + changes.len() > MOST {
                *list = vec![Change::Everything];
            } else {
                list.extend(changes);
            }
        }
        self.told.send_modify(|count| *count += 1);
    }

    /// Takes all there is.
    pub fn take(&self) -> HashMap<Subject, Vec<Change>> {
        std::mem::take(&mut self.lists.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes whenever there is something to take.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// Somebody listens to the cluster's events. Only the first call counts.
    pub fn set_status(&self, status: watch::Receiver<Status>) {
        let _ = self.status.set(status);
    }

    /// Are we told of changes as they happen? A listener that has ended leaves its last word behind.
    pub fn is_live(&self) -> bool {
        let is_live = |it: &watch::Receiver<Status>| it.has_changed().is_ok() && *it.borrow() == Status::Live;
        self.status.get().is_some_and(is_live)
    }
}
