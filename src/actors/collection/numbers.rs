//! Numbers for the nodes of a collection that stay the same when the collection is read again.
//!
//! A snapshot has numbers of its own for its nodes, but those of the next snapshot are others. Programs and the kernel want the
//! same number for the same file as long as they know it. Here is the rule, and the table: a directory keeps its number
//! as long as there is a directory at its path; a file as long as its bytes are still there, alone or with more after them.
//! A file that another client replaced is another file: it gets a new number, and whoever has the old one open keeps the
//! old content. Numbers are never given twice.
//!
//! The first snapshot needs no table: there the numbers are those of the snapshot, and nodes that edits add to it go on
//! counting. After another snapshot took its place there are two arrays of four bytes a node, and what is added behind
//! them goes on counting from the first number that was never given. So what the kernel knows costs nothing beyond that,
//! however many files it knows, and a copy (there is one for each published change) costs a few counters.

use crate::tree::{Fold, NodeId, Snapshot};
use chrono::{DateTime, Utc};
use imbl::HashMap;
use std::sync::Arc;

/// A time, or none (a collection by portable data hash has none).
pub type Time = Option<DateTime<Utc>>;

/// What is special about a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Changed {
    modified: Time,
    /// How often its content grew in place.
    version: u32,
}

#[derive(Debug, Clone)]
pub struct Numbers {
    /// Number of each node; empty: the node's own.
    by_node: Arc<[u32]>,
    /// Nodes sorted by their numbers; empty with the above.
    sorted: Arc<[u32]>,
    /// The number of the first node behind those of `by_node`; the nodes that follow count on.
    next: u32,
    /// From which number on which time of modification holds.
    times: Arc<[(u32, Time)]>,
    changed: HashMap<u32, Changed>,
    /// When something of a node was changed here that its time of modification does not tell.
    altered: HashMap<u32, DateTime<Utc>>,
}

impl Numbers {
    /// For the first snapshot of a collection.
    pub fn first(modified: Time) -> Numbers {
        Numbers {
            by_node: Arc::default(),
            sorted: Arc::default(),
            next: 0,
            times: Arc::new([(0, modified)]),
            changed: HashMap::new(),
            altered: HashMap::new(),
        }
    }

    /// For the first snapshot after others, whose numbers were all below `first`.
    pub fn starting(first: u32, modified: Time) -> Numbers {
        match first {
            0 => Numbers::first(modified),
            // The root is 0 always; all that is in it counts on from there.
            _ => Numbers { by_node: Arc::new([0]), next: first, ..Numbers::first(modified) },
        }
    }

    /// The number of a node. The root has 0, which stands for no node of the collection: its directory is a node elsewhere.
    pub fn number(&self, node: NodeId) -> u32 {
        let known = self.by_node.len() as u32;
        self.by_node.get(node.index() as usize).copied().unwrap_or_else(|| self.next + (node.index() - known))
    }

    /// The node with this number in the snapshot; `None` if it is not there any more. A node that was removed by an edit is
    /// still found: it has its content, though nothing leads to it.
    pub fn node(&self, snapshot: &Snapshot, number: u32) -> Option<NodeId> {
        if number == 0 {
            return None;
        }
        if number >= self.next {
            let index = self.by_node.len() as u32 + (number - self.next);
            return (index < snapshot.node_limit()).then_some(NodeId(index));
        }
        let found = self.sorted.binary_search_by_key(&number, |node| self.by_node[*node as usize]).ok()?;
        Some(NodeId(self.sorted[found]))
    }

    /// The first number that was never given.
    pub fn limit(&self, snapshot: &Snapshot) -> u32 {
        self.number(NodeId(snapshot.node_limit().max(1)))
    }

    /// From now on the node has been modified at this time.
    pub fn set_modified(&mut self, number: u32, modified: Time) {
        let version = self.version(number);
        self.changed.insert(number, Changed { modified, version });
    }

    /// The node was given another time, or another name. Only while it is mounted: a cluster has no place for that.
    pub fn set_altered(&mut self, number: u32, now: DateTime<Utc>) {
        self.altered.insert(number, now);
    }

    /// When that was last done, if ever.
    pub fn altered(&self, number: u32) -> Time {
        self.altered.get(&number).copied()
    }

    /// The content behind this number became longer at this time, and what was there stayed.
    pub fn set_grown(&mut self, number: u32, modified: Time) {
        let version = self.version(number) + 1;
        self.changed.insert(number, Changed { modified, version });
    }

    /// When the node with this number was changed last: the time that the collection had when the number was given, so that what
    /// did not change keeps its time whatever changes beside it.
    pub fn modified(&self, number: u32) -> Time {
        if let Some(changed) = self.changed.get(&number) {
            return changed.modified;
        }
        let position = self.times.partition_point(|(first, _)| *first <= number);
        position.checked_sub(1).and_then(|position| self.times[position].1)
    }

    /// The numbers that have a time of their own.
    pub(super) fn special_times(&self) -> impl Iterator<Item = (u32, Time)> {
        self.changed.iter().map(|(number, changed)| (*number, changed.modified))
    }

    /// How often the content behind this number has grown. Other changes of content come with another number.
    pub fn version(&self, number: u32) -> u32 {
        self.changed.get(&number).map_or(0, |changed| changed.version)
    }

    /// The numbers for `new`, which follows `old` (whose numbers these are) and was made at `modified`.
    pub fn carry(&self, old: &Snapshot, new: &Snapshot, modified: Time) -> Numbers {
        let first = self.limit(old);
        let by_node = vec![0; new.node_limit() as usize];
        let mut carried = Carried { by_node, next: first, changed: HashMap::new(), altered: HashMap::new() };
        let mut directories = vec![(NodeId::ROOT, Some(NodeId::ROOT))];
        while let Some((directory, former)) = directories.pop() {
            let mut is_changed = former.is_none();
            let mut others = former.map(|former| old.children(former).peekable());
            for node in new.children(directory) {
                let name = new.name(node);
                let mut twin = None;
                if let Some(others) = &mut others {
                    while let Some(other) = others.next_if(|other| old.name(*other) <= name) {
                        if old.name(other) == name {
                            twin = Some(other);
                        } else {
                            is_changed = true;
                        }
                    }
                }
                let number = self.carry_node(&mut carried, (old, twin), (new, node), modified);
                is_changed |= number >= first;
                if new.is_directory(node) {
                    directories.push((node, twin.filter(|twin| old.is_directory(*twin))));
                }
            }
            is_changed |= others.is_some_and(|mut others| others.next().is_some());
            let number = carried.by_node[directory.index() as usize];
            if is_changed && directory != NodeId::ROOT && number < first {
                carried.changed.insert(number, Changed { modified, version: 0 });
            }
        }
        // Where nothing is new there is nothing to have the time.
        let newer = (carried.next > first).then_some((first, modified));
        let times: Vec<_> = self.times.iter().copied().chain(newer).collect();
        let sorted = sorted(&carried.by_node);
        let times = used_times(&times, &carried.by_node, &sorted);
        let Carried { by_node, next, changed, altered } = carried;
        Numbers { by_node: by_node.into(), sorted, next, times, changed, altered }
    }

    /// The same for the folded snapshot: nobody's number changes, and what was removed is forgotten.
    pub fn fold(&self, old: &Snapshot, fold: &Fold) -> Numbers {
        let mut by_node = vec![0; fold.snapshot.node_limit() as usize];
        let (mut changed, mut altered) = (HashMap::new(), HashMap::new());
        for old_node in (1..old.node_limit()).map(NodeId) {
            let Some(node) = fold.node(old_node) else { continue };
            let number = self.number(old_node);
            by_node[node.index() as usize] = number;
            if let Some(known) = self.changed.get(&number) {
                changed.insert(number, *known);
            }
            altered.extend(self.altered(number).map(|time| (number, time)));
        }
        let sorted = sorted(&by_node);
        let times = used_times(&self.times, &by_node, &sorted);
        Numbers { by_node: by_node.into(), sorted, next: self.limit(old), times, changed, altered }
    }

    /// Gives a node of the new snapshot its number: that of its twin, or a new one.
    fn carry_node(
        &self,
        carried: &mut Carried,
        (old, twin): (&Snapshot, Option<NodeId>),
        (new, node): (&Snapshot, NodeId),
        modified: Time,
    ) -> u32 {
        let kept = twin.and_then(|twin| match (old.is_directory(twin), new.is_directory(node)) {
            (true, true) => Some((twin, false)),
            (false, false) if continues(old, twin, new, node) => Some((twin, new.size(node) > old.size(twin))),
            _ => None,
        });
        let number = match kept {
            Some((twin, has_grown)) => {
                let number = self.number(twin);
                if has_grown {
                    carried.changed.insert(number, Changed { modified, version: self.version(number) + 1 });
                } else if let Some(before) = self.changed.get(&number) {
                    carried.changed.insert(number, *before);
                }
                carried.altered.extend(self.altered(number).map(|time| (number, time)));
                number
            }
            None => {
                carried.next += 1;
                carried.next - 1
            }
        };
        carried.by_node[node.index() as usize] = number;
        number
    }
}

/// Numbers in the making.
struct Carried {
    by_node: Vec<u32>,
    next: u32,
    changed: HashMap<u32, Changed>,
    altered: HashMap<u32, DateTime<Utc>>,
}

/// The nodes that have a number, sorted by it.
fn sorted(by_node: &[u32]) -> Arc<[u32]> {
    let mut sorted: Vec<u32> = (0..by_node.len() as u32).filter(|node| by_node[*node as usize] != 0).collect();
    sorted.sort_unstable_by_key(|node| by_node[*node as usize]);
    sorted.into()
}

/// Those of the times that some node still has. The first one is for all that has none, the last one for what is added behind.
fn used_times(times: &[(u32, Time)], by_node: &[u32], sorted: &[u32]) -> Arc<[(u32, Time)]> {
    let number = |node: &u32| by_node[*node as usize];
    let is_used = |index: usize| {
        let Some((end, _)) = times.get(index + 1).filter(|_| index > 0) else { return true };
        let from = sorted.partition_point(|node| number(node) < times[index].0);
        sorted.get(from).is_some_and(|node| number(node) < *end)
    };
    times.iter().enumerate().filter(|(index, _)| is_used(*index)).map(|(_, time)| *time).collect()
}

/// Does the new file begin with all the bytes of the old one? Judged by blocks and positions in them, as merges do: the same
/// bytes in other blocks count as replaced.
fn continues(old: &Snapshot, former: NodeId, new: &Snapshot, file: NodeId) -> bool {
    let size = old.size(former);
    if new.size(file) < size {
        return false;
    }
    let mut pieces = new.segments(file, 0, size);
    let mut rest = None;
    for wanted in old.segments(former, 0, size) {
        let mut at = wanted.block_offset;
        let end = wanted.block_offset + wanted.length;
        while at < end {
            let Some((block, offset, length)) = rest.take().or_else(|| {
                let piece = pieces.next()?;
                Some((new.block_hash(piece.block), piece.block_offset, piece.length))
            }) else {
                return false;
            };
            if block != old.block_hash(wanted.block) || offset != at {
                return false;
            }
            let used = length.min(end - at);
            at += used;
            if used < length {
                rest = Some((block, offset + used, length - used));
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
    const BAR: &str = "37b51d194a7513e45b56f6524f2d51f2+3";

    fn snapshot(manifest: &str) -> Snapshot {
        Snapshot::parse(&manifest.replace("FOO", FOO).replace("BAR", BAR)).expect("a valid manifest")
    }

    fn time(second: i64) -> Time {
        DateTime::from_timestamp(second, 0)
    }

    /// Numbers by path.
    fn all(snapshot: &Snapshot, numbers: &Numbers) -> BTreeMap<Vec<u8>, u32> {
        let mut result = BTreeMap::new();
        let mut directories = vec![NodeId::ROOT];
        while let Some(directory) = directories.pop() {
            for node in snapshot.children(directory) {
                result.insert(snapshot.path(node), numbers.number(node));
                assert_eq!(numbers.node(snapshot, numbers.number(node)), Some(node));
                if snapshot.is_directory(node) {
                    directories.push(node);
                }
            }
        }
        result
    }

    #[test]
    fn what_did_not_change_keeps_number_and_time_and_what_was_replaced_gets_new_ones() {
        let old = snapshot(". FOO BAR 0:3:kept 0:3:replaced 0:3:grown 3:3:gone\n./d FOO 0:3:x\n");
        let new = snapshot(". FOO BAR 0:3:kept 3:3:replaced 0:6:grown 0:3:new\n./d FOO 0:3:x\n");
        let mut before = Numbers::first(time(1));
        for number in all(&old, &before).into_values() {
            before.set_altered(number, time(9).expect("a time"));
        }
        let after = before.carry(&old, &new, time(2));
        let (former, now) = (all(&old, &before), all(&new, &after));
        for path in ["kept", "grown", "d", "d/x"] {
            assert_eq!(former[path.as_bytes()], now[path.as_bytes()], "{path}");
        }
        assert!(now[&b"replaced"[..]] >= before.limit(&old) && now[&b"new"[..]] >= before.limit(&old));
        assert_eq!(after.node(&new, former[&b"gone"[..]]), None);
        let modified = |path: &str| after.modified(now[path.as_bytes()]);
        assert_eq!((modified("kept"), modified("d/x"), modified("d")), (time(1), time(1), time(1)));
        assert_eq!((modified("replaced"), modified("grown"), modified("new")), (time(2), time(2), time(2)));
        assert_eq!((after.version(now[&b"grown"[..]]), after.version(now[&b"kept"[..]])), (1, 0));
        let altered = |path: &str| after.altered(now[path.as_bytes()]);
        assert_eq!((altered("kept"), altered("d"), altered("grown")), (time(9), time(9), time(9)));
        assert_eq!((altered("replaced"), altered("new")), (None, None));
        assert_eq!(after.altered.len(), 4, "what is gone is forgotten");
    }

    #[test]
    fn numbers_of_a_collection_that_came_back_are_none_of_those_from_before() {
        let old = snapshot(". FOO 0:3:a 0:3:b\n./d FOO 0:3:x\n");
        let limit = Numbers::first(time(1)).limit(&old);
        let back = Numbers::starting(limit, time(2));
        let now = all(&old, &back);
        assert!(now.values().all(|number| *number >= limit), "{now:?}");
        assert_eq!((back.number(NodeId::ROOT), back.node(&old, 1)), (0, None));
        assert_eq!(back.modified(now[&b"a"[..]]), time(2));
        let later = back.carry(&old, &old, time(3));
        assert_eq!(all(&old, &later), now, "and they stay");
    }

    #[test]
    fn folding_changes_no_number_and_no_time() {
        let first = snapshot(". FOO 0:3:gone 0:3:kept\n");
        let second = snapshot(". FOO BAR 0:3:kept 3:3:new\n./d FOO 0:3:x\n");
        let mut numbers = Numbers::first(time(1)).carry(&first, &second, time(2));
        let mut editor = second.edit();
        let made = editor.make_directory(NodeId::ROOT, b"made").unwrap();
        editor.remove(NodeId::ROOT, b"new").unwrap();
        let edited = editor.finish();
        numbers.set_modified(numbers.number(made), time(3));
        numbers.set_altered(numbers.number(made), time(4).expect("a time"));
        let before = all(&edited, &numbers);
        let fold = edited.fold();
        let folded = numbers.fold(&edited, &fold);
        assert_eq!(all(&fold.snapshot, &folded), before);
        for number in before.values() {
            assert_eq!(folded.modified(*number), numbers.modified(*number), "{number}");
            assert_eq!(folded.altered(*number), numbers.altered(*number), "{number}");
        }
        assert!(folded.limit(&fold.snapshot) >= numbers.limit(&edited), "no number is given twice");
    }

    /// Another client replaces one file for months.
    #[test]
    fn times_of_what_is_gone_are_forgotten() {
        let versions = [snapshot(". FOO 0:3:kept 0:3:x\n"), snapshot(". FOO BAR 0:3:kept 3:3:x\n")];
        let mut numbers = Numbers::first(time(0));
        for step in 1..1_000 {
            numbers = numbers.carry(&versions[(step - 1) % 2], &versions[step % 2], time(step as i64));
        }
        let now = all(&versions[1], &numbers);
        let modified = |path: &str| numbers.modified(now[path.as_bytes()]);
        assert_eq!((modified("kept"), modified("x")), (time(0), time(999)));
        assert!(numbers.times.len() <= 3, "{}", numbers.times.len());
    }

    #[test]
    fn directory_has_a_new_time_when_its_names_change() {
        let old = snapshot("./a FOO 0:3:x\n./b FOO 0:3:x\n");
        let new = snapshot("./a FOO 0:3:x\n./b FOO 0:3:x 0:3:y\n");
        let before = Numbers::first(time(1));
        let after = before.carry(&old, &new, time(2));
        let now = all(&new, &after);
        assert_eq!((after.modified(now[&b"a"[..]]), after.modified(now[&b"b"[..]])), (time(1), time(2)));
    }

    fn manifest(files: &BTreeMap<String, bool>) -> Snapshot {
        let mut text = String::new();
        for (path, is_foo) in files {
            let (directory, name) = path.split_once('/').unwrap_or((".", path));
            let directory = if directory == "." { ".".into() } else { format!("./{directory}") };
            text.push_str(&format!("{directory} {} 0:3:{name}\n", if *is_foo { "FOO" } else { "BAR" }));
        }
        snapshot(&text)
    }

    proptest! {
        /// Over any history: a file keeps its number exactly as long as its content stays, and no number means two things.
        #[test]
        fn numbers_follow_content(history in prop::collection::vec(
            prop::collection::btree_map("[ab]|d/[xy]", any::<bool>(), 0..5), 1..6)) {
            let mut state: Option<(Snapshot, Numbers)> = None;
            let mut meaning: BTreeMap<u32, (String, Option<bool>)> = BTreeMap::new();
            let mut former: BTreeMap<String, (u32, bool)> = BTreeMap::new();
            for (step, files) in history.iter().enumerate() {
                let new = manifest(files);
                let numbers = match &state {
                    None => Numbers::first(time(0)),
                    Some((old, numbers)) => numbers.carry(old, &new, time(step as i64)),
                };
                let mut current = BTreeMap::new();
                for (path, number) in all(&new, &numbers) {
                    let path = String::from_utf8(path).expect("ascii");
                    let content = files.get(&path).copied();
                    if let Some(before) = meaning.insert(number, (path.clone(), content)) {
                        prop_assert_eq!(before, (path.clone(), content));
                    }
                    if let Some(content) = content {
                        if let Some((before, same)) = former.get(&path) {
                            prop_assert_eq!(*before == number, *same == content);
                        }
                        current.insert(path, (number, content));
                    }
                }
                former = current;
                state = Some((new, numbers));
            }
        }
    }
}
