//! Telling the front end what changed without its doing: names, attributes and pages that it remembers.
//!
//! Actors leave news ([`crate::actors::news`]); here they are translated into the numbers of every place in the tree where the
//! collection or listing shows. Never from inside a request: the front end's queue takes what it is told and returns at once.
//! When events stop coming, the front end has to ask for every name again: it may have been promised to be told.

use super::Site;
use crate::actors::news::{Change, Subject};
use crate::remote::events::Status;
use crate::vfs::object::Object;
use crate::vfs::{FrontEnd, Inode};
use std::sync::Weak;
use tokio::sync::watch;

/// Passes news on as long as there is a site.
pub(super) async fn run(site: Weak<Site>) {
    let Some((mut watch, mut status)) = site.upgrade().map(|site| {
        let news = &site.supervisor.environment().news;
        (news.watch(), news.status())
    }) else {
        return;
    };
    let mut was_live = false;
    loop {
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { return },
            () = changed(&mut status) => {}
        }
        let Some(site) = site.upgrade() else { return };
        let news = &site.supervisor.environment().news;
        let told = news.take();
        let was_lost = was_live && !news.is_live();
        was_live = news.is_live();
        let Some(front_end) = site.front_end.get() else { continue };
        for (subject, changes) in told {
            tell(&site, front_end.as_ref(), &subject, &changes);
        }
        if was_lost {
            front_end.invalidate_names();
        }
    }
}

/// Waits until changes reach us in another way.
async fn changed(status: &mut Option<watch::Receiver<Status>>) {
    match status {
        Some(receiver) => {
            if receiver.changed().await.is_err() {
                // Nobody listens any more; that is the last change.
                *status = None;
            }
        }
        None => std::future::pending().await,
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
