//! Telling the front end what changed without its doing: names, attributes and pages that it remembers.
//!
//! Actors leave news ([`crate::actors::news`]); here they are translated into the numbers of every place in the tree where the
//! collection shows. Never from inside a request: the front end's queue takes what it is told and returns at once.

use super::Site;
use crate::actors::news::Change;
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
        for (key, changes) in news {
            for object in site.objects.of_collection(&key) {
                for change in &changes {
                    tell(front_end.as_ref(), &object, change);
                }
            }
        }
    }
}

fn tell(front_end: &dyn FrontEnd, object: &Object, change: &Change) {
    // The top directory of a collection is a node of the object that its door is in.
    let inode = |number: u32| if number == 0 { object.door } else { Inode::new(object.slot, number) };
    match change {
        Change::Entry { parent, name } => front_end.invalidate_entry(inode(*parent), name),
        Change::Node(number) => front_end.invalidate_node(inode(*number)),
        Change::Everything => front_end.invalidate_node(object.door),
    }
}
