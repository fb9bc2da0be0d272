//! Paths at which something was moved away and whose removal is held back ([`moving`](super::moving)).
//!
//! There may be tens of thousands, and each change of the collection asks about its own path, so they are found by it.

use crate::actors::collection::moving::Transit;
use crate::tree::commit::{Depth, Touched};
use crate::tree::path::ancestors;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Held {
    /// What was moved away and something else that was put in its place and moved, too, in the order of the moves. None is empty.
    paths: BTreeMap<Vec<u8>, Vec<Arc<Transit>>>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    pub(super) fn add(&mut self, path: &[u8], transit: &Arc<Transit>) {
        self.paths.entry(path.to_vec()).or_default().push(transit.clone());
    }

    /// Is this one of the paths, or in one?
    pub(super) fn covers(&self, path: &[u8]) -> bool {
        self.paths.contains_key(path) || ancestors(path).any(|above| self.paths.contains_key(above))
    }

    /// All paths, with all that was in them.
    pub(super) fn paths(&self) -> Touched {
        self.paths.keys().map(|path| (&path[..], Depth::Tree)).collect()
    }

    /// Are all paths among these? A record of a directory above does not say where what was in it has gone.
    pub(super) fn is_within(&self, touched: &Touched) -> bool {
        self.paths.keys().all(|path| touched.contains(path))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<Transit>)> {
        self.paths.iter().flat_map(|(path, transits)| transits.iter().map(move |transit| (&path[..], transit)))
    }

    /// The moves, each once.
    pub(super) fn transits(&self) -> Vec<Arc<Transit>> {
        let mut seen = HashSet::new();
        let is_first = |transit: &&Arc<Transit>| seen.insert(Arc::as_ptr(transit).addr());
        self.paths.values().flatten().filter(is_first).cloned().collect()
    }

    /// What was moved away at exactly this path, in the order of the moves.
    pub(super) fn at(&self, path: &[u8]) -> &[Arc<Transit>] {
        self.paths.get(path).map_or(&[], Vec::as_slice)
    }

    /// Takes out what need not be held back any more.
    pub(super) fn take(&mut self, is_over: impl Fn(&[u8], &Arc<Transit>) -> bool) -> Vec<(Vec<u8>, Arc<Transit>)> {
        let mut taken = Vec::new();
        self.paths.retain(|path, transits| {
            let over = transits.extract_if(.., |transit| is_over(path, transit));
            taken.extend(over.map(|transit| (path.clone(), transit)));
            !transits.is_empty()
        });
        taken
    }

    /// Takes out one move from a path. It may be that of other paths, too.
    pub(super) fn remove(&mut self, path: &[u8], transit: &Arc<Transit>) {
        if let Some(transits) = self.paths.get_mut(path) {
            transits.retain(|other| !Arc::ptr_eq(other, transit));
            if transits.is_empty() {
                self.paths.remove(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(taken: &[(Vec<u8>, Arc<Transit>)]) -> Vec<&[u8]> {
        taken.iter().map(|(path, _)| &path[..]).collect()
    }

    #[test]
    fn path_is_held_back_until_all_that_was_moved_away_from_it_is_over() {
        let (first, second) = (Transit::nowhere(), Transit::nowhere());
        let mut held = Held::default();
        held.add(b"d/x", &first);
        held.add(b"d/x", &second);
        held.add(b"d/y", &first);
        assert!(held.covers(b"d/x") && held.covers(b"d/x/below") && !held.covers(b"d") && !held.covers(b"d/xy"));
        assert_eq!((held.transits().len(), held.at(b"d/x").len(), held.at(b"d").len()), (2, 2, 0));
        let is_first = |_: &[u8], transit: &Arc<Transit>| Arc::ptr_eq(transit, &first);
        assert_eq!(paths(&held.take(is_first)), [b"d/x", b"d/y"]);
        assert!(held.covers(b"d/x") && !held.covers(b"d/y"));
        held.remove(b"d/x", &first);
        assert!(held.covers(b"d/x"), "of which there is nothing there any more");
        held.remove(b"d/x", &second);
        assert!(held.is_empty() && held.iter().next().is_none());
    }

    #[test]
    fn end_of_one_path_of_a_move_of_many_does_not_end_the_others() {
        let transit = Transit::nowhere();
        let mut held = Held::default();
        held.add(b"x", &transit);
        held.add(b"y", &transit);
        held.remove(b"x", &transit);
        let within = |path: &[u8]| held.is_within(&[(path, Depth::Tree)].into_iter().collect());
        assert!(within(b"y") && !within(b"") && !within(b"x"));
        assert_eq!(held.paths(), [(&b"y"[..], Depth::Tree)].into_iter().collect());
    }
}
