//! Telling the front end what changed without its doing: names, attributes and pages that it remembers.
//!
//! Actors leave news ([`crate::actors::news`]); here they are translated into the numbers of every place in the tree where the
//! collection or listing shows. The front end's queue takes what it is told and returns at once.
//!
//! What the front end does itself it knows, but not that a collection may show at several places of the tree: what is changed
//! through one of them is told for the others ([`Site::tell_others`]). That is done by the request that makes the change, and
//! waited for, because who closes a file at one place and then opens it at the other must read what he wrote. The wait is one of a
//! request for a notification, which may need a lock of another request (fuse.md, traps 2 and 9), so it has a limit. A write is
//! told when the file is closed or synchronised.

use super::Site;
use crate::actors::news::{Change, Subject};
use crate::vfs::object::Object;
use crate::vfs::{FrontEnd, Inode};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a request waits for the front end to take in what it has changed at other places. It mostly takes a tenth of a
/// millisecond; who waits in vain sees it later, as where nothing is told.
const PATIENCE: Duration = Duration::from_millis(250);

/// Passes news on as long as there is a site.
pub(super) async fn run(site: Weak<Site>) {
    let Some(mut watch) = site.upgrade().map(|site| site.supervisor.environment().news.watch()) else { return };
    while watch.changed().await.is_ok() {
        let Some(site) = site.upgrade() else { return };
        let news = site.supervisor.environment().news.take();
        let Some(front_end) = site.front_end.get() else { continue };
        for (subject, changes) in news {
            tell(&site, front_end.as_ref(), &subject, &changes);
        }
    }
}

/// What is told of a name that was made, removed or moved in a directory.
pub(super) fn of_name(parent: u32, name: &[u8]) -> [Change; 2] {
    [Change::Entry { parent, name: name.to_vec() }, Change::Node(parent)]
}

impl Site {
    /// Tells of what was changed through `object` wherever else its collection shows.
    pub(super) async fn tell_others(&self, object: &Object, changes: &[Change]) {
        self.tell_of(&self.objects.others(object), changes).await;
    }

    /// The same of the content of a file.
    pub(super) async fn tell_written(&self, object: &Object, number: u32) {
        let others = self.objects.others(object);
        others.iter().for_each(|other| other.was_rewritten(number));
        self.tell_of(&others, &[Change::Node(number)]).await;
    }

    pub(super) async fn tell_of(&self, objects: &[Arc<Object>], changes: &[Change]) {
        let Some(front_end) = self.front_end.get().filter(|_| !objects.is_empty()) else { return };
        for object in objects {
            changes.iter().for_each(|change| tell_change(front_end.as_ref(), object, change));
        }
        if tokio::time::timeout(PATIENCE, front_end.caught_up()).await.is_err() {
            tracing::debug!("the kernel takes its time to hear of a change at another place of the tree");
        }
    }
}

fn tell(site: &Site, front_end: &dyn FrontEnd, subject: &Subject, changes: &[Change]) {
    match subject {
        Subject::Collection(key) => {
            for object in site.objects.of_collection(key) {
                for change in changes {
                    tell_change(front_end, &object, change);
                }
            }
            // Its time shows in listings, also where nobody has entered it.
            for door in site.objects.listed_doors_to(key) {
                front_end.invalidate_node(door);
            }
        }
        // More names than anybody would speak of one by one.
        Subject::Listing(_) if changes.contains(&Change::Everything) => front_end.invalidate_names(),
        Subject::Listing(source) => {
            for object in site.objects.of_listing(source) {
                for change in changes {
                    tell_change(front_end, &object, change);
                }
            }
        }
    }
}

fn tell_change(front_end: &dyn FrontEnd, object: &Object, change: &Change) {
    // The top directory of an object is a node of the object that its door is in.
    let inode = |number: u32| if number == 0 { object.door } else { Inode::new(object.slot, number) };
    match change {
        Change::Entry { parent, name } => front_end.invalidate_entry(inode(*parent), name),
        Change::Node(number) => front_end.invalidate_node(inode(*number)),
        Change::Everything => front_end.invalidate_node(object.door),
    }
}
