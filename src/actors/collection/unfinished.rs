//! Moves of which mounts that were killed had not saved the new place.
//!
//! The record of what was taken away names the collection that it was moved to ([`Change::moved_to`]). The next mount holds the removal
//! back as the one before it did ([`moving`](super::moving)), until everything that the journals have of that collection is saved:
//! which of it came by the move they do not say. Where it was moved on from there, that is waited for, too, unless the collections
//! have moved something to each other; then the last place of what was moved back and forth is not known, and none of them waits
//! for more than the next one.
//!
//! Journals of one collection may be taken over one after the other, and none may wait for what comes after it. So a removal that is to be
//! held back is the business of the last journal that has something of the collection: it is written down there ([`carry`]) unless
//! that, or one in between, says itself what became of the path. Where it cannot be, or something was made since where it was
//! taken away, it is not held back.

use crate::actors::Supervisor;
use crate::actors::collection::aside::is_below;
use crate::actors::collection::moving::Transit;
use crate::journal::{Change, Operation, Recovered, Sequence};
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
    /// What was moved away and is a later journal's business.
    carried: BTreeSet<Vec<u8>>,
}

impl Unfinished {
    /// Without the removals that a later journal has.
    pub fn without_carried(&self, changes: Vec<(Sequence, Change)>) -> Vec<(Sequence, Change)> {
        let is_own = |change: &Change| change.moved_to.is_none() || !self.carried.contains(change.operation.path());
        changes.into_iter().filter(|(_, change)| is_own(change)).collect()
    }
}

/// The changes of one journal, by collection.
pub type Collections = BTreeMap<String, Vec<(Sequence, Change)>>;

/// See the module's essay. By journal and collection.
#[derive(Default)]
pub struct UnfinishedMoves(HashMap<(usize, String), Unfinished>);

impl UnfinishedMoves {
    /// In the order of the journals. Blocking, but short.
    pub fn of(supervisor: &Supervisor, recovered: &mut [Recovered]) -> UnfinishedMoves {
        let mut moves = UnfinishedMoves::default();
        for (journal, source, path) in carry(recovered) {
            moves.0.entry((journal, source)).or_default().carried.insert(path);
        }
        let journals: Vec<&Collections> = recovered.iter().map(|found| &found.collections).collect();
        let journals = &journals[..];
        let all = moves_of(journals);
        let ways: BTreeSet<_> = all.iter().map(|edge| (edge.journal, edge.target, edge.source)).collect();
        for (journal, target, source) in ways {
            moves.0.entry((journal, target.to_owned())).or_default().sources.push(source.to_owned());
        }
        let is_last = |edge: &Edge| last_of(journals, edge.source) == Some(edge.journal);
        let edges: Vec<_> = all.into_iter().filter(is_last).collect();
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
            let last = last_of(journals, edge.target);
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

fn last_of(journals: &[&Collections], uuid: &str) -> Option<usize> {
    journals.iter().rposition(|collections| collections.contains_key(uuid))
}

/// Makes removals that are to be held back the business of the last journal of their collection. Returns those which are now, with
/// the number of the journal that had them.
fn carry(recovered: &mut [Recovered]) -> Vec<(usize, String, Vec<u8>)> {
    let journals: Vec<&Collections> = recovered.iter().map(|found| &found.collections).collect();
    let ids: Vec<String> = recovered.iter().map(|found| found.journal.id()).collect();
    let mut wanted = Vec::new();
    for edge in moves_of(&journals) {
        let Some(last) = last_of(&journals, edge.source).filter(|last| *last > edge.journal) else { continue };
        let later = journals[edge.journal + 1..=last].iter().filter_map(|collections| collections.get(edge.source));
        let fate = Fate::of(edge.path, later.flatten().map(|(_, change)| change));
        let is_it =
            |(_, change): &&(Sequence, Change)| change.moved_to.is_some() && change.operation.path() == edge.path;
        let change = journals[edge.journal][edge.source].iter().rev().find(is_it).map(|(_, change)| change.clone());
        wanted.extend(change.map(|change| (edge.journal, last, edge.source.to_owned(), fate, change)));
    }
    let mut carried = Vec::new();
    for (from, last, source, fate, mut change) in wanted {
        let path = change.operation.path().to_vec();
        match fate {
            Fate::Occupied => continue,
            Fate::Told => {}
            Fate::Unknown => {
                let journal = &recovered[last].journal;
                change.state = journal.reach(&source).0;
                change.after.extend(ids[..last].iter().cloned());
                match journal.append(&source, &change, true) {
                    Ok(sequence) => {
                        recovered[last].collections.entry(source.clone()).or_default().push((sequence, change))
                    }
                    Err(error) => {
                        tracing::warn!(collection = source, %error, "cannot note in a journal what was moved away");
                        continue;
                    }
                }
            }
        }
        if let Some(changes) = recovered[from].collections.get_mut(&source) {
            changes.retain(|(_, change)| change.moved_to.is_none() || change.operation.path() != path);
        }
        carried.push((from, source, path));
    }
    carried
}

/// What later journals say of a path from which something was moved away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Unknown,
    /// What is there now, or that it, or what it was in, was removed.
    Told,
    /// Something was made below it.
    Occupied,
}

impl Fate {
    fn of<'c>(path: &[u8], later: impl Iterator<Item = &'c Change>) -> Fate {
        let mut fate = Fate::Unknown;
        for change in later {
            let other = change.operation.path();
            let is_removal = matches!(change.operation, Operation::Remove { .. });
            if is_below(other, path) && !is_removal {
                return Fate::Occupied;
            }
            if other == path || (is_removal && (other.is_empty() || is_below(path, other))) {
                fate = Fate::Told;
            }
        }
        fate
    }
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
    use crate::journal::{Info, Journal};
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

    fn made(path: &str) -> Change {
        Change { operation: Operation::MakeDirectory { path: path.into() }, ..removed(path, None) }
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
    fn removal_that_is_held_back_is_the_business_of_the_last_journal_of_its_collection() {
        let directory = tempfile::tempdir().unwrap();
        let account = directory.path().join("account");
        let info = Info::of_process(std::path::Path::new("/mnt"));
        let journals = [
            vec![("a", removed("x", Some("b"))), ("a", removed("y", Some("b"))), ("a", removed("z", Some("b")))],
            vec![("a", removed("y", Some("c"))), ("a", made("z/new")), ("b", removed("other", None))],
        ];
        for changes in journals {
            let journal = Journal::create(&account, &info, u64::MAX).unwrap();
            for (collection, change) in changes {
                journal.append(collection, &change, false).unwrap();
            }
        }
        let recover = || {
            let mut recovered = Journal::recover(&account).unwrap();
            recovered.sort_by_key(|found| found.collections.contains_key("b"));
            recovered
        };
        let paths = |found: &Recovered| {
            let paths = found.collections["a"].iter().map(|(_, change)| change.operation.path().to_vec());
            paths.map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
        };
        let mut recovered = recover();
        let carried = [(0, "a".to_owned(), b"x".to_vec()), (0, "a".to_owned(), b"y".to_vec())];
        assert_eq!(carry(&mut recovered), carried);
        assert_eq!(
            (paths(&recovered[0]), paths(&recovered[1])),
            (vec!["z".into()], vec!["y".into(), "z/new".into(), "x".into()])
        );
        drop(recovered);
        let mut again = recover();
        assert_eq!(carry(&mut again), carried, "it was written down");
        assert_eq!(paths(&again[1]).len(), 3, "once");
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
