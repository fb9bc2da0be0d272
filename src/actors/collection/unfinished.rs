//! Moves of which mounts that were killed had not saved the new place.
//!
//! The record of what was taken away names the collection that it was moved to ([`Change::moved_to`]). The next mount holds the removal
//! back as the one before it did ([`moving`](super::moving)), until everything that the journals have of that collection is saved:
//! which of it came by the move they do not say. Where it was moved on from there, that is waited for, too, unless the collections
//! have moved something to each other; then the last place of what was moved back and forth is not known, and none of them waits
//! for more than the next one.
//!
//! Journals of one collection are taken over one after the other, and none may wait for what comes after it: where a later one has
//! something of the collection, too, the removal is not made at all. Then what was moved is in both collections, never in none.

use crate::actors::Supervisor;
use crate::actors::collection::moving::Transit;
use crate::journal::{Change, Sequence};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What one journal says of the moves from and to one collection.
#[derive(Default, Clone)]
pub struct Unfinished {
    /// What was taken away, by its path.
    pub(super) leaving: Vec<(Vec<u8>, Arc<Transit>)>,
    /// What was moved here, with what was moved on.
    pub(super) arriving: Vec<(Arc<Transit>, Vec<Arc<Transit>>)>,
    /// Where that came from. They name its blocks, and the server signs those for whoever may read them.
    pub(super) sources: Vec<String>,
    /// What was moved away and stays here as well.
    stays: BTreeSet<Vec<u8>>,
}

impl Unfinished {
    /// Without the removals that are not made.
    pub fn without_what_stays(&self, changes: Vec<(Sequence, Change)>) -> Vec<(Sequence, Change)> {
        let is_made = |change: &Change| change.moved_to.is_none() || !self.stays.contains(change.operation.path());
        changes.into_iter().filter(|(_, change)| is_made(change)).collect()
    }
}

/// The changes of one journal, by collection.
pub type Collections = BTreeMap<String, Vec<(Sequence, Change)>>;

/// See the module's essay. By journal and collection.
#[derive(Default)]
pub struct UnfinishedMoves(HashMap<(usize, String), Unfinished>);

impl UnfinishedMoves {
    /// In the order of the journals.
    pub fn of(supervisor: &Supervisor, journals: &[&Collections]) -> UnfinishedMoves {
        let mut moves = UnfinishedMoves::default();
        let all = moves_of(journals);
        let ways: BTreeSet<_> = all.iter().map(|edge| (edge.journal, edge.target, edge.source)).collect();
        for (journal, target, source) in ways {
            moves.0.entry((journal, target.to_owned())).or_default().sources.push(source.to_owned());
        }
        let (later, edges): (Vec<_>, Vec<_>) = all.into_iter().partition(|edge| {
            journals.iter().skip(edge.journal + 1).any(|collections| collections.contains_key(edge.source))
        });
        for edge in later {
            let stays = &mut moves.0.entry((edge.journal, edge.source.to_owned())).or_default().stays;
            stays.insert(edge.path.to_vec());
        }
        let graph: BTreeSet<(&str, &str)> = edges.iter().map(|edge| (edge.source, edge.target)).collect();
        let cell = |uuid: &str| supervisor.collection(uuid);
        let transits: Vec<_> =
            edges.iter().map(|edge| Transit::between(&cell(edge.source), &cell(edge.target))).collect();
        for (edge, transit) in edges.iter().zip(&transits) {
            let leaving = &mut moves.0.entry((edge.journal, edge.source.to_owned())).or_default().leaving;
            leaving.push((edge.path.to_vec(), transit.clone()));
            let onward = edges.iter().zip(&transits).filter(|(other, _)| is_onward(&graph, edge, other));
            let onward = onward.map(|(_, transit)| transit.clone()).collect();
            // What the last journal has of it is saved last.
            let last = journals.iter().rposition(|collections| collections.contains_key(edge.target));
            let arriving = &mut moves.0.entry((last.unwrap_or_default(), edge.target.to_owned())).or_default().arriving;
            arriving.push((transit.clone(), onward));
        }
        moves
    }

    pub fn take(&mut self, journal: usize, uuid: &str) -> Unfinished {
        self.0.remove(&(journal, uuid.to_owned())).unwrap_or_default()
    }
}

/// Something was moved from one collection to another, of which a journal has something.
#[derive(Debug, PartialEq, Eq)]
struct Edge<'c> {
    journal: usize,
    source: &'c str,
    path: &'c [u8],
    target: &'c str,
}

fn moves_of<'c>(journals: &[&'c Collections]) -> Vec<Edge<'c>> {
    let mut edges = Vec::new();
    for (journal, collections) in journals.iter().enumerate() {
        for (source, changes) in collections.iter() {
            // What was done to a path last decides.
            let last: BTreeMap<&[u8], Option<&str>> =
                changes.iter().map(|(_, change)| (change.operation.path(), change.moved_to.as_deref())).collect();
            let moved = last.into_iter().filter_map(|(path, target)| Some((path, target?)));
            let is_left = |target: &str| journals.iter().any(|collections| collections.contains_key(target));
            let moved = moved.filter(|(_, target)| is_left(target) && target != source);
            edges.extend(moved.map(|(path, target)| Edge { journal, source, path, target }));
        }
    }
    edges
}

/// Is the other move one from where the first one went, and not to where that leads back?
fn is_onward(graph: &BTreeSet<(&str, &str)>, first: &Edge<'_>, other: &Edge<'_>) -> bool {
    other.source == first.target && !leads_to(graph, other.target, other.source)
}

fn leads_to(graph: &BTreeSet<(&str, &str)>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        open.extend(
            graph.iter().filter(|(source, _)| *source == at).map(|(_, next)| *next).filter(|it| seen.insert(it)),
        );
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Operation;
    use chrono::Utc;

    fn removed(path: &str, moved_to: Option<&str>) -> Change {
        Change {
            operation: Operation::Remove { path: path.into() },
            bases: Vec::new(),
            time: Utc::now(),
            state: 0,
            after: Vec::new(),
            moved_to: moved_to.map(str::to_owned),
        }
    }

    fn collections<const N: usize>(changes: [(&str, Change); N]) -> Collections {
        let mut collections = Collections::new();
        for (number, (uuid, change)) in changes.into_iter().enumerate() {
            collections.entry(uuid.to_owned()).or_default().push((Sequence(number as u64), change));
        }
        collections
    }

    #[test]
    fn last_record_of_a_path_decides_whether_it_waits_for_a_collection_that_something_is_left_of() {
        let first = collections([
            ("a", removed("x", Some("b"))),
            ("a", removed("y", Some("b"))),
            ("a", removed("x", None)),
            ("a", removed("z", Some("saved"))),
        ]);
        let second = collections([("b", removed("other", None))]);
        let expected = [Edge { journal: 0, source: "a", path: b"y", target: "b" }];
        assert_eq!(moves_of(&[&first, &second]), expected);
        assert_eq!(moves_of(&[&first]), []);
    }

    #[test]
    fn what_was_moved_away_stays_where_a_later_journal_has_something_of_the_collection() {
        let mine = [("a", removed("x", Some("b"))), ("b", removed("other", None))];
        let unfinished = Unfinished { stays: [b"x".to_vec()].into(), ..Unfinished::default() };
        let [(_, moved), (_, other)] = mine;
        let changes = vec![(Sequence(1), moved), (Sequence(2), removed("x", None)), (Sequence(3), other)];
        let left: Vec<_> = unfinished.without_what_stays(changes).iter().map(|(sequence, _)| sequence.0).collect();
        assert_eq!(left, [2, 3]);
    }

    #[test]
    fn moves_wait_for_those_that_come_after_them_and_never_in_a_circle() {
        let journal = collections([
            ("a", removed("1", Some("b"))),
            ("b", removed("2", Some("c"))),
            ("c", removed("3", Some("d"))),
            ("d", removed("4", Some("c"))),
        ]);
        let edges = moves_of(&[&journal]);
        let graph = edges.iter().map(|edge| (edge.source, edge.target)).collect();
        let waits = |first: usize, other: usize| is_onward(&graph, &edges[first], &edges[other]);
        let circles = [(0, 1), (1, 2), (2, 3), (3, 2), (0, 2)].map(|(first, other)| waits(first, other));
        assert_eq!(circles, [true, false, false, false, false]);
    }
}
