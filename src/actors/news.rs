//! What changed behind the back of the front ends: from the actors to whoever shows the tree.
//!
//! Actors never wait for those above them, so news are left here and a `watch` says that there are some. Any number of changes
//! to one collection are one list; when it gets longer than anybody would act on one by one, it becomes "everything".

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Changes to one collection beyond which they are told as one: a front end would be busy for seconds with each of them.
const MOST: usize = 20_000;

/// One thing that is not as it was. Numbers are those of the collection's nodes; 0 is its top directory.
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
    lists: Mutex<HashMap<String, Vec<Change>>>,
    told: watch::Sender<u64>,
}

impl Default for News {
    fn default() -> News {
        News { lists: Mutex::default(), told: watch::Sender::new(0) }
    }
}

impl News {
    /// Adds to what is to be told of `key`.
    pub fn tell(&self, key: &str, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        {
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            let list = lists.entry(key.to_owned()).or_default();
            if list.len() + changes.len() > MOST {
                *list = vec![Change::Everything];
            } else {
                list.extend(changes);
            }
        }
        self.told.send_modify(|count| *count += 1);
    }

    /// Takes all there is.
    pub fn take(&self) -> HashMap<String, Vec<Change>> {
        std::mem::take(&mut self.lists.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes whenever there is something to take.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }
}
