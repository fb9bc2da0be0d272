//! Moves between collections of which only one half may be on the server.
//!
//! What is moved is placed in its new collection and taken out of its old one, and each of the two is saved on its own. Where the
//! journal promises both, the removal must not reach the server while the new collection has nothing: the file would be nowhere but
//! in our journal for as long as that cannot be saved. So what is taken away is set aside in its old collection ([`Held`])
//! and everything else is saved, until the new collection tells through what both share ([`Transit`]) that the server has it.
//! No actor waits for another: the one sets a flag and wakes the other. Who needs the removal on the server has both
//! collections saved, the new one first ([`moves`](crate::actors::moves)).
//!
//! Two collections cannot wait for each other for ever. What is held back is a path at which there is nothing here any more, so it never
//! keeps anything from being saved that was moved in; a move waits for itself, and for moves of the same files that came
//! later, never for earlier ones. As soon as something else is put where something was taken away, the removal is not held
//! back any more: what the server had there is replaced, or was moved back.
//!
//! The lists are part of what cell and actor share, so that they outlive an actor that fails. A program may move tens of thousands of
//! files before anything is saved, so what a move looks for is found by its path or node. The lock is a leaf.

use crate::actors::collection::held::Held;
use crate::actors::collection::local::Local;
use crate::actors::collection::merging::nodes_below;
use crate::actors::collection::state::{CollectionState, Kind};
use crate::actors::collection::unfinished::Unfinished;
use crate::actors::collection::{CollectionActor, CollectionCell};
use crate::tree::commit::{Depth, Touched};
use crate::tree::path::ancestors;
use crate::tree::{NodeId, Snapshot};
use actix::Context;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Something on its way from one collection to another.
pub struct Transit {
    source: Weak<CollectionCell>,
    target: Weak<CollectionCell>,
    /// The server has it in the target.
    has_arrived: AtomicBool,
}

impl Transit {
    pub fn between(source: &Arc<CollectionCell>, target: &Arc<CollectionCell>) -> Arc<Transit> {
        let (source, target) = (Arc::downgrade(source), Arc::downgrade(target));
        Arc::new(Transit { source, target, has_arrived: AtomicBool::new(false) })
    }

    #[cfg(test)]
    pub(in crate::actors) fn nowhere() -> Arc<Transit> {
        Arc::new(Transit { source: Weak::new(), target: Weak::new(), has_arrived: AtomicBool::new(false) })
    }

    pub(super) fn has_arrived(&self) -> bool {
        self.has_arrived.load(Ordering::Acquire)
    }

    fn arrive(&self) {
        self.has_arrived.store(true, Ordering::Release);
        if let Some(source) = self.source.upgrade() {
            source.wake();
        }
    }

    /// Where it is to arrive. `None`: nobody uses that collection any more.
    pub(in crate::actors) fn target(&self) -> Option<Arc<CollectionCell>> {
        self.target.upgrade()
    }
}

/// What was placed here and may not be on the server.
struct Arriving {
    transit: Arc<Transit>,
    /// The change that has placed it.
    change: u64,
    /// What was moved on from it, to other collections.
    onward: Vec<Arc<Transit>>,
}

impl Arriving {
    /// Does the server have it, now that it has the change? `path`: where it is, unless it was removed. `missing`: what was changed here and left out.
    fn is_over(&self, path: Option<&[u8]>, missing: &Touched) -> bool {
        self.onward.iter().all(|transit| transit.has_arrived()) && path.is_none_or(|path| !missing.is_around(path))
    }
}

#[derive(Default)]
struct Lists {
    /// By the number of the node that it is here, wherever that is moved to. None is empty.
    arriving: HashMap<u32, Vec<Arriving>>,
    leaving: Held,
}

impl Lists {
    fn all_arriving(&self) -> impl Iterator<Item = &Arriving> {
        self.arriving.values().flatten()
    }
}

/// See the module's essay.
#[derive(Default)]
pub struct Moves(Mutex<Lists>);

impl Moves {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moves away from here that are held back.
    pub(in crate::actors) fn leaving(&self) -> Vec<Arc<Transit>> {
        self.lists().leaving.transits()
    }

    /// The moves that what was moved here waits for, each once: those away from here that are held back, and those of what was moved on
    /// and has not arrived.
    pub(in crate::actors) fn awaited(&self) -> Vec<Arc<Transit>> {
        let lists = self.lists();
        let onward = lists.all_arriving().flat_map(|arriving| &arriving.onward).filter(|it| !it.has_arrived());
        let mut seen = HashSet::new();
        let held = lists.leaving.iter().map(|(_, transit)| transit);
        held.chain(onward).filter(|transit| seen.insert(Arc::as_ptr(transit))).cloned().collect()
    }

    /// Is anything on its way here?
    pub(super) fn expects_any(&self) -> bool {
        !self.lists().arriving.is_empty()
    }

    /// Where what was taken away at these paths has gone.
    pub(super) fn targets(&self, touched: &Touched) -> HashMap<Vec<u8>, String> {
        let lists = self.lists();
        let target = |path| lists.leaving.at(path).iter().rev().find_map(|transit| transit.target());
        touched.iter().filter_map(|(path, _)| Some((path.to_vec(), target(path)?.key().clone()))).collect()
    }

    /// Another actor goes on with what the last one has held back, and with its numbers. `is_saved`: the last one had saved everything.
    pub(super) fn go_on(&self, local: &mut Local, is_saved: bool) {
        let lists = self.lists();
        let last = lists.all_arriving().map(|arriving| arriving.change).max();
        local.changes = local.changes.max(last.unwrap_or(0));
        if is_saved {
            local.saved = local.changes;
        }
        for (path, transit) in lists.leaving.iter() {
            local.hold_back(path, transit);
        }
    }

    /// These are not held back any more.
    fn end(&self, over: &[(Vec<u8>, Arc<Transit>)]) {
        let mut lists = self.lists();
        over.iter().for_each(|(path, transit)| lists.leaving.remove(path, transit));
    }

    /// What was placed here at this path, in it or above it is moved on, or a part of it is.
    fn move_on(&self, state: &CollectionState, path: &[u8], transit: &Arc<Transit>) {
        let mut lists = self.lists();
        let Some(node) = state.snapshot.find(path).filter(|_| !lists.arriving.is_empty()) else { return };
        let above = ancestors(path).filter_map(|above| state.snapshot.find(above)).chain([NodeId::ROOT]);
        for node in nodes_below(&state.snapshot, node).into_iter().chain(above) {
            for arriving in lists.arriving.get_mut(&state.number(node)).into_iter().flatten() {
                arriving.onward.push(transit.clone());
            }
        }
    }
}

impl CollectionActor {
    /// Moves that began or end here may have come further.
    pub(super) fn look_at_moves(&mut self, context: &mut Context<Self>) {
        let is_any = self.let_go();
        self.tell_arrivals();
        self.rest_when_done(context);
        if is_any {
            self.after_change(context);
        }
    }

    /// Something from another collection was placed here.
    pub(super) fn expect_arrival(&self, number: u32, transit: Arc<Transit>) {
        if self.cell.kind() != Kind::Mutable {
            // It will never be on the server, and that is what was asked for.
            return transit.arrive();
        }
        let arriving = Arriving { transit, change: self.local.changes, onward: Vec::new() };
        self.cell.shared().moves.lists().arriving.entry(number).or_default().push(arriving);
    }

    /// What was at this path in the state `before` was taken away, because it was placed in another collection.
    pub(super) fn hold_back(&mut self, before: &CollectionState, path: &[u8], transit: &Arc<Transit>) {
        if self.cell.kind() != Kind::Mutable || transit.has_arrived() {
            return;
        }
        self.cell.shared().moves.move_on(before, path, transit);
        self.hold_back_for(path, transit);
    }

    fn hold_back_for(&mut self, path: &[u8], transit: &Arc<Transit>) {
        self.cell.shared().moves.lists().leaving.add(path, transit);
        self.local.hold_back(path, transit);
        self.local.keep(&self.cell);
    }

    /// The same of moves that an earlier mount had begun, now that what it has left was taken over, as a whole or not: what could not be
    /// read may have come by any of the moves, so then none has arrived.
    pub(super) fn go_on_with_moves(&mut self, Unfinished { leaving, arriving, .. }: &Unfinished, is_whole: bool) {
        let change = self.local.changes;
        let all_of_it = 0;
        let arriving = arriving.iter().filter(|_| is_whole).map(|(transit, onward)| Arriving {
            transit: transit.clone(),
            change,
            onward: onward.clone(),
        });
        let arriving: Vec<_> = arriving.collect();
        if !arriving.is_empty() {
            self.cell.shared().moves.lists().arriving.entry(all_of_it).or_default().extend(arriving);
        }
        for (path, transit) in leaving.iter().filter(|(_, transit)| !transit.has_arrived()) {
            self.hold_back_for(path, transit);
        }
    }

    /// Removals that need not be held back any longer are to be saved. Returns whether there are any.
    pub(super) fn let_go(&mut self) -> bool {
        if self.local.aside.moved.is_empty() {
            return false;
        }
        let Some(state) = self.cell.load() else { return false };
        let is_over = |path: &[u8], transit: &Arc<Transit>| transit.has_arrived() || is_replaced(&state.snapshot, path);
        let over = self.local.aside.moved.take(is_over);
        let mut paths = Touched::default();
        self.cell.shared().moves.end(&over);
        for (path, _) in over {
            paths.touch(outermost_missing(&state.snapshot, &path), Depth::Tree);
        }
        self.local.bring_back(&paths);
        !paths.is_empty()
    }

    /// Tells the collections from which something was moved here that the server has it.
    pub(super) fn tell_arrivals(&self) {
        let mut lists = self.cell.shared().moves.lists();
        let saved = self.local.saved;
        if lists.all_arriving().all(|arriving| arriving.change > saved) {
            return;
        }
        let Some(state) = self.cell.load() else { return };
        let mut missing = self.local.aside.paths_with_content();
        missing.extend(&self.local.journal.left);
        // What was left out under another name, too.
        missing.extend(&self.local.touched);
        let mut over = Vec::new();
        lists.arriving.retain(|number, arriving| {
            let path = path_of(&state, *number);
            let is_over = |it: &mut Arriving| it.change <= saved && it.is_over(path.as_deref(), &missing);
            over.extend(arriving.extract_if(.., is_over));
            !arriving.is_empty()
        });
        drop(lists);
        over.iter().for_each(|arriving| arriving.transit.arrive());
    }
}

/// Where a node is, unless it was removed.
fn path_of(state: &CollectionState, number: u32) -> Option<Vec<u8>> {
    let node = state.node(number).filter(|node| state.snapshot.is_linked(*node))?;
    Some(state.snapshot.path(node))
}

/// Is there something where something was taken away, or a file in the place of a directory above it?
fn is_replaced(snapshot: &Snapshot, path: &[u8]) -> bool {
    let is_file = |above: &[u8]| snapshot.find(above).is_some_and(|node| !snapshot.is_directory(node));
    snapshot.find(path).is_some() || ancestors(path).any(is_file)
}

/// The path, or the outermost directory above it that was removed since.
fn outermost_missing<'p>(snapshot: &Snapshot, path: &'p [u8]) -> &'p [u8] {
    ancestors(path).find(|above| snapshot.find(above).is_none()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transit() -> Arc<Transit> {
        Transit::nowhere()
    }

    fn touched(paths: &[&str]) -> Touched {
        paths.iter().map(|path| (path.as_bytes(), Depth::Entry)).collect()
    }

    #[test]
    fn move_is_over_when_the_server_has_all_of_it() {
        let onward = transit();
        let arriving = Arriving { transit: transit(), change: 5, onward: Vec::new() };
        let at = |missing: &[&str]| arriving.is_over(Some(b"d/x"), &touched(missing));
        assert!(at(&[]) && at(&["d", "d/y", "d/xy", "e"]));
        assert!(!at(&["d/x"]) && !at(&["d/x/half-written"]));
        let whole = |missing: &[&str]| arriving.is_over(Some(b""), &touched(missing));
        assert!(whole(&[]) && !whole(&["e"]), "all that a journal had");
        assert!(arriving.is_over(None, &touched(&["d/x"])), "it was removed there, which is what somebody wanted");
        let arriving = Arriving { onward: vec![onward.clone()], ..arriving };
        assert!(!arriving.is_over(None, &Touched::default()));
        onward.arrive();
        assert!(arriving.is_over(None, &Touched::default()));
    }

    #[test]
    fn actor_that_takes_the_place_of_another_goes_on_with_its_numbers() {
        let moves = Moves::default();
        let arriving = Arriving { transit: transit(), change: 5, onward: vec![transit()] };
        moves.lists().arriving.insert(7, vec![arriving]);
        for (is_saved, expected) in [(true, (5, 5)), (false, (5, 0))] {
            let mut local = Local::default();
            moves.go_on(&mut local, is_saved);
            assert_eq!((local.changes, local.saved), expected);
        }
        assert!(moves.expects_any() && moves.leaving().is_empty() && moves.awaited().len() == 1);
    }

    #[test]
    fn removal_goes_with_the_directories_that_were_removed_since_and_not_with_what_replaces_it() {
        let tree = Snapshot::parse("./d 37b51d194a7513e45b56f6524f2d51f2+3 0:3:x\n").unwrap();
        assert_eq!(outermost_missing(&tree, b"d/gone"), b"d/gone");
        assert_eq!(outermost_missing(&tree, b"d/sub/deep/gone"), b"d/sub");
        assert_eq!(outermost_missing(&tree, b"gone"), b"gone");
        assert!(is_replaced(&tree, b"d/x") && is_replaced(&tree, b"d") && is_replaced(&tree, b"d/x/below"));
        assert!(!is_replaced(&tree, b"d/gone") && !is_replaced(&tree, b"gone/below"));
    }
}
