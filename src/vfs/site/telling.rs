//! Telling the front end what changed without its doing: names, attributes and pages that it remembers.
//!
//! Actors leave news ([`crate::actors::news`]); here they are translated into the numbers of every place in the tree where the
//! collection or listing shows. Never from inside a request: the front end's queue takes what it is told and returns at once.

use super::Site;
use crate::actors::news::{Change, Subject};
use crate::vfs::object::Object;
use crate::vfs::{FrontEnd, Inode};
use std::sync::Weak;

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
