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
//! taken away, it is not held back. A mount that has taken over what earlier ones left writes such removals down with whatever else it
//! does to the collection. So where its journal does not speak of one, that is over: the removal was saved, or something was put there.

use crate::actors::Supervisor;
use crate::actors::collection::moving::Transit;
use crate::journal::{Base, Change, Operation, Recovered, Sent, Sequence};
use crate::tree::path::ancestors;
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
        // Which journal has what was moved, nobody can tell from where the removal is.
        let ways: BTreeSet<Way> = all.iter().map(Edge::way).collect();
        for (source, target) in ways {
            for journal in (0..journals.len()).filter(|journal| journals[*journal].contains_key(target)) {
                moves.0.entry((journal, target.to_owned())).or_default().sources.push(source.to_owned());
            }
        }
        let edges: Vec<_> = all.iter().filter(|edge| last_of(journals, edge.source) == Some(edge.journal)).collect();
        let graph: BTreeSet<Way> = edges.iter().map(|edge| edge.way()).collect();
        let cell = |uuid: &str| supervisor.collection(uuid);
        let transit = |way: &Way| Transit::between(&cell(way.0), &cell(way.1));
        // Which of the files came by which move is not known, so all that go the same way are one.
        let transits: BTreeMap<Way, _> = graph.iter().map(|way| (*way, transit(way))).collect();
        for edge in edges {
            let leaving = &mut moves.0.entry((edge.journal, edge.source.to_owned())).or_default().leaving;
            leaving.extend(transits.get(&edge.way()).map(|transit| (edge.path().to_vec(), transit.clone())));
        }
        for (way, transit) in &transits {
            let onward = transits.iter().filter(|(other, _)| is_onward(&graph, *way, **other));
            let onward = onward.map(|(_, transit)| transit.clone()).collect();
            let (_, target) = *way;
            // What the last journal has of it is saved last.
            let last = last_of(journals, target).unwrap_or_default();
            let arriving = &mut moves.0.entry((last, target.to_owned())).or_default().arriving;
            arriving.push((transit.clone(), onward));
        }
        moves
    }

    pub fn take(&mut self, journal: usize, uuid: &str) -> Unfinished {
        self.0.remove(&(journal, uuid.to_owned())).unwrap_or_default()
    }
}

/// From one collection to another.
type Way<'c> = (&'c str, &'c str);

/// Something was moved from one collection to another, of which a journal has something.
struct Edge<'c> {
    journal: usize,
    source: &'c str,
    target: &'c str,
    /// What the journal says of the place that it was taken away from.
    change: &'c Change,
}

impl<'c> Edge<'c> {
    fn path(&self) -> &'c [u8] {
        self.change.operation.path()
    }

    fn way(&self) -> Way<'c> {
        (self.source, self.target)
    }
}

fn last_of(journals: &[&Collections], uuid: &str) -> Option<usize> {
    journals.iter().rposition(|collections| collections.contains_key(uuid))
}

/// Makes removals that are to be held back the business of the last journal of their collection. Returns those which are now, with
/// the number of the journal that had them.
fn carry(recovered: &mut [Recovered]) -> Vec<(usize, String, Vec<u8>)> {
    let journals: Vec<&Collections> = recovered.iter().map(|found| &found.collections).collect();
    let ids: Vec<String> = recovered.iter().map(|found| found.journal.id()).collect();
    let mut later = BTreeMap::new();
    let mut wanted: BTreeMap<(usize, usize, String), Vec<(Fate, Change)>> = BTreeMap::new();
    for edge in moves_of(&journals) {
        let Some(last) = last_of(&journals, edge.source).filter(|last| *last > edge.journal) else { continue };
        let later = later.entry((edge.journal, edge.source)).or_insert_with(|| {
            let later = journals[edge.journal + 1..=last].iter().filter_map(|collections| collections.get(edge.source));
            Later::of(later.flatten().map(|(_, change)| change))
        });
        let saves = recovered[edge.journal].sent.get(edge.source);
        let fate = match later.fate(edge.path()) {
            Fate::Unknown if saves.is_some_and(|saves| is_made_again(saves, edge.change)) => Fate::Occupied,
            fate => fate,
        };
        let moved = wanted.entry((edge.journal, last, edge.source.to_owned())).or_default();
        moved.push((fate, edge.change.clone()));
    }
    let mut carried = Vec::new();
    for ((from, last, source), moved) in wanted {
        let journal = &recovered[last].journal;
        let (state, _) = journal.reach(&source);
        // A mount that has taken over a removal writes it down with whatever else it does, until it is over.
        let is_over = journal.follows(&source, &ids[from]);
        let is_untold = |(fate, _): &&(Fate, Change)| *fate == Fate::Unknown && !is_over;
        let untold = moved.iter().filter(is_untold).map(|(_, change)| {
            let after = change.after.iter().chain(&ids[..last]).cloned().collect();
            Change { state, after, ..change.clone() }
        });
        let untold: Vec<Change> = untold.collect();
        let noted = if untold.is_empty() { Ok(Sequence(0)) } else { journal.append_together(&source, &untold, true) };
        let is_noted = noted.is_ok();
        match noted {
            Ok(end) => {
                let sequences = (end.0.saturating_sub(untold.len() as u64) + 1..).map(Sequence);
                recovered[last].collections.entry(source.clone()).or_default().extend(sequences.zip(untold));
            }
            Err(error) => tracing::warn!(collection = source, %error, "cannot note in a journal what was moved away"),
        }
        let is_carried = |fate: &Fate| *fate == Fate::Told || (*fate == Fate::Unknown && is_noted);
        let moved = moved.into_iter().filter(|(fate, _)| is_carried(fate));
        let paths: BTreeSet<Vec<u8>> = moved.map(|(_, change)| change.operation.path().to_vec()).collect();
        if let Some(changes) = recovered[from].collections.get_mut(&source) {
            changes.retain(|(_, change)| change.moved_to.is_none() || !paths.contains(change.operation.path()));
        }
        carried.extend(paths.into_iter().map(|path| (from, source.clone(), path)));
    }
    carried
}

/// Has a save put something there since? The removal's own journal says so, and those that have nothing near it need not.
fn is_made_again(saves: &[Sent], removal: &Change) -> bool {
    let path = removal.operation.path();
    let is_there =
        |other: &[u8]| other.strip_prefix(path).is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/'));
    let puts = |save: &Sent| save.paths.iter().any(|(other, base)| *base != Base::Absent && is_there(other));
    saves.iter().any(|save| save.has_arrived && save.state > removal.state && puts(save))
}

/// What later journals say of a path from which something was moved away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Unknown,
    /// What is there now, or that it, or what it was in, was removed.
    Told,
    /// Something was made below it, or it was made again and saved.
    Occupied,
}

/// What later journals say of a collection.
#[derive(Default)]
struct Later<'c> {
    paths: BTreeSet<&'c [u8]>,
    removed: BTreeSet<&'c [u8]>,
    made: BTreeSet<&'c [u8]>,
}

impl<'c> Later<'c> {
    fn of(changes: impl Iterator<Item = &'c Change>) -> Later<'c> {
        let mut later = Later::default();
        for change in changes {
            let path = change.operation.path();
            later.paths.insert(path);
            match change.operation {
                Operation::Remove { .. } => later.removed.insert(path),
                _ => later.made.insert(path),
            };
        }
        later
    }

    fn fate(&self, path: &[u8]) -> Fate {
        // Between "path/" and "path0", the byte after the slash.
        let (inside, next) = ([path, b"/"].concat(), [path, b"0"].concat());
        let mut above = ancestors(path).chain([&b""[..]]);
        match () {
            () if self.made.range(&inside[..]..&next[..]).next().is_some() => Fate::Occupied,
            () if self.paths.contains(path) || above.any(|above| self.removed.contains(above)) => Fate::Told,
            () => Fate::Unknown,
        }
    }
}

fn moves_of<'c>(journals: &[&'c Collections]) -> Vec<Edge<'c>> {
    let mut edges = Vec::new();
    for (journal, collections) in journals.iter().enumerate() {
        for (source, changes) in collections.iter() {
            // What was done to a path last decides.
            let last: BTreeMap<&[u8], &Change> =
                changes.iter().map(|(_, change)| (change.operation.path(), change)).collect();
            let moved = last.into_values().filter_map(|change| Some((change, change.moved_to.as_deref()?)));
            let is_left = |target: &str| journals.iter().any(|collections| collections.contains_key(target));
            let moved = moved.filter(|(_, target)| is_left(target) && target != source);
            edges.extend(moved.map(|(change, target)| Edge { journal, source, target, change }));
        }
    }
    edges
}

/// Is the other way one from where the first one goes, and not to where that leads back?
fn is_onward(graph: &BTreeSet<Way>, first: Way, other: Way) -> bool {
    other.0 == first.1 && !leads_to(graph, other.1, other.0)
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
        let moves = moves_of(&[&first, &second]);
        let found: Vec<_> = moves.iter().map(|edge| (edge.journal, edge.way(), edge.path())).collect();
        assert_eq!(found, [(0, ("a", "b"), &b"y"[..])]);
        assert!(moves_of(&[&first]).is_empty());
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

    /// What a mount that had taken both over has saved since.
    #[test]
    fn removal_is_not_carried_to_where_nobody_knows_that_something_was_made_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let account = directory.path().join("account");
        let info = Info::of_process(std::path::Path::new("/mnt"));
        let moved = |path| vec![("a", removed(path, Some("b")))];
        let first = [moved("x"), moved("y"), moved("z"), moved("old")].concat();
        for changes in [first, vec![("a", made("other")), ("b", removed("other", None))]] {
            let journal = Journal::create(&account, &info, u64::MAX).unwrap();
            for (collection, change) in changes {
                journal.append(collection, &change, false).unwrap();
            }
            let file = || Base::File { pieces: Vec::new() };
            let note = |state, path: &str, base| Sent { state, paths: vec![(path.into(), base)], has_arrived: false };
            let saves = [(u64::MAX, "x", file()), (u64::MAX, "y/new", file()), (u64::MAX, "z", Base::Absent)];
            for (state, path, base) in saves.into_iter().chain([(0, "old", file())]) {
                journal.sent("a", &note(state, path, base)).unwrap();
                journal.arrived("a").unwrap();
            }
        }
        let mut recovered = Journal::recover(&account).unwrap();
        recovered.sort_by_key(|found| found.collections.contains_key("b"));
        let carried: Vec<_> = carry(&mut recovered).into_iter().map(|(_, _, path)| path).collect();
        assert_eq!(carried, [b"old".to_vec(), b"z".to_vec()]);
    }

    #[test]
    fn later_journals_tell_of_a_path_what_is_there_what_is_in_it_or_that_it_was_removed() {
        let changes = [removed("gone", None), made("new"), made("full/x"), removed("empty/x", None), made("deep")];
        let later = Later::of(changes.iter());
        let fate = |path: &str| later.fate(path.as_bytes());
        assert_eq!(["gone", "gone/x", "new", "empty/x"].map(fate), [Fate::Told; 4]);
        assert_eq!(["full", "full/x"].map(fate), [Fate::Occupied, Fate::Told]);
        assert_eq!(["deep/x", "empty", "empty/y", "gone-not", "fu"].map(fate), [Fate::Unknown; 5]);
        let all = [removed("", None)];
        assert_eq!(Later::of(all.iter()).fate(b"any"), Fate::Told);
    }

    #[test]
    fn moves_wait_for_those_that_come_after_them_and_never_in_a_circle() {
        let journal = collections([
            ("a", removed("1", Some("b"))),
            ("b", removed("2", Some("c"))),
            ("c", removed("3", Some("d"))),
            ("d", removed("4", Some("c"))),
        ]);
        let ways: Vec<Way> = moves_of(&[&journal]).iter().map(Edge::way).collect();
        let graph = ways.iter().copied().collect();
        let waits = |first: usize, other: usize| is_onward(&graph, ways[first], ways[other]);
        let circles = [(0, 1), (1, 2), (2, 3), (3, 2), (0, 2)].map(|(first, other)| waits(first, other));
        assert_eq!(circles, [true, false, false, false, false]);
    }
}
