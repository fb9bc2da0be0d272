//! From records to what is pending, and what of it can be left out. Pure.
//!
//! A change is *superseded* when a later record says all of a file's content again and nothing in between has touched the
//! path or a folder above it: then nobody can tell whether the earlier one ever was. All other changes stay, in order.
//!
//! Of the saves that have arrived only what is near a change tells anybody anything ([`Around`]): one path that is refused for good keeps
//! all records of later saves otherwise.

use super::around::Around;
use super::change::{Base, Change, Operation, Sent, Sequence};
use super::record::Record;
use crate::tree::path::ancestors;
use std::collections::{BTreeMap, HashMap};

/// Changes of one collection that the server has not got, in order.
pub type Changes = BTreeMap<Sequence, Change>;

/// What a log comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// By collection; none is empty.
    pub collections: BTreeMap<String, Changes>,
    /// By collection, in order: saves that are newer than some of the changes. Those that have arrived come first; of each path
    /// only the last one of them tells.
    pub sent: BTreeMap<String, Vec<Sent>>,
    /// The highest sequence that was seen.
    pub last: Sequence,
}

impl Pending {
    /// Takes a record into account. Records must come in the order of the log.
    pub fn apply(&mut self, record: Record<'_>) {
        match record {
            Record::Change { sequence, collection, change } => {
                self.last = self.last.max(sequence);
                self.collections.entry(collection.into_owned()).or_default().insert(sequence, change.into_owned());
            }
            Record::Settled { collection, up_to } => {
                self.last = self.last.max(up_to);
                self.settle(&collection, up_to);
            }
            Record::Sent { collection, save } => {
                self.sent.entry(collection.into_owned()).or_default().push(save.into_owned());
            }
            Record::Arrived { collection } => self.arrived(&collection),
            Record::Withdrawn { collection } => self.withdrawn(&collection),
        }
    }

    fn settle(&mut self, collection: &str, up_to: Sequence) {
        let Some(changes) = self.collections.get_mut(collection) else { return };
        changes.retain(|sequence, _| *sequence > up_to);
        if changes.is_empty() {
            self.collections.remove(collection);
            self.forget_arrived(collection);
        }
    }

    /// Without changes only saves matter that may still arrive.
    fn forget_arrived(&mut self, collection: &str) {
        if let Some(sent) = self.sent.get_mut(collection) {
            sent.retain(|save| !save.has_arrived);
            if sent.is_empty() {
                self.sent.remove(collection);
            }
        }
    }

    /// The last save that was sent is what the server has.
    fn arrived(&mut self, collection: &str) {
        let Some(sent) = self.sent.get_mut(collection) else { return };
        let Some(mut last) = sent.pop() else { return };
        last.has_arrived = true;
        let known: HashMap<&[u8], &Base> = last.paths.iter().map(|(path, base)| (&**path, base)).collect();
        sent.retain_mut(|save| {
            save.paths.retain(|(path, _)| !known.contains_key(&**path));
            save.has_arrived && !save.paths.is_empty()
        });
        match self.collections.get_mut(collection) {
            Some(changes) => {
                let bases = changes.values_mut().flat_map(|change| &mut change.bases);
                for (path, base) in bases {
                    let is_gone = |above| known.get(above).is_some_and(|known| **known != Base::Directory);
                    if let Some(known) = known.get(&**path) {
                        base.clone_from(known);
                    } else if ancestors(path).any(is_gone) {
                        *base = Base::Absent;
                    }
                }
                sent.push(last);
            }
            None => self.forget_arrived(collection),
        }
    }

    /// The last save that was sent will never arrive.
    fn withdrawn(&mut self, collection: &str) {
        let Some(sent) = self.sent.get_mut(collection) else { return };
        if sent.last().is_some_and(|last| !last.has_arrived) {
            sent.pop();
        }
        if sent.is_empty() {
            self.sent.remove(collection);
        }
    }

    /// Makes all that is said of a path's base agree (the latest is right), and drops what is superseded, and what nobody needs
    /// to know of saves.
    pub fn thin(&mut self) {
        self.collections.values_mut().for_each(thin);
        for (collection, sent) in &mut self.sent {
            thin_sent(sent);
            thin_arrived(sent, self.collections.get(collection));
        }
        self.sent.retain(|_, sent| !sent.is_empty());
    }
}

/// Says what the server had at a path, in place of what the change said so far.
fn state(change: &mut Change, path: Vec<u8>, base: Base) {
    match change.bases.iter_mut().find(|(known, _)| *known == path) {
        Some((_, known)) => *known = base,
        None => change.bases.push((path, base)),
    }
}

/// What the server had at each path that was touched: the latest word of each.
pub fn bases<'c>(changes: impl IntoIterator<Item = &'c Change>) -> HashMap<&'c [u8], &'c Base> {
    changes.into_iter().flat_map(|change| &change.bases).map(|(path, base)| (path.as_slice(), base)).collect()
}

/// See [`Pending::thin`].
pub fn thin(changes: &mut Changes) {
    let latest: HashMap<Vec<u8>, Base> =
        bases(changes.values()).into_iter().map(|(path, base)| (path.to_owned(), base.clone())).collect();
    for change in changes.values_mut() {
        for (path, base) in &mut change.bases {
            if let Some(latest) = latest.get(path) {
                base.clone_from(latest);
            }
        }
    }
    let mut files = Files::default();
    let pairs: Vec<(Sequence, Sequence)> = changes
        .iter()
        .flat_map(|(sequence, change)| {
            let superseded = files.supersedes(*sequence, &change.operation);
            superseded.into_iter().map(|earlier| (earlier, *sequence))
        })
        .collect();
    for (earlier, later) in pairs {
        let Some(earlier) = changes.remove(&earlier) else { continue };
        let Some(later) = changes.get_mut(&later) else { continue };
        for (path, base) in earlier.bases {
            state(later, path, base);
        }
    }
}

/// Of saves of which nobody knows whether they arrived, the last one that puts something at a path says all that the earlier ones
/// say that put the same there. A save that fails for days is tried many times.
fn thin_sent(sent: &mut Vec<Sent>) {
    let mut later: HashMap<Vec<u8>, Vec<Base>> = HashMap::new();
    for save in sent.iter_mut().rev().filter(|save| !save.has_arrived) {
        save.paths.retain(|(path, base)| {
            let known = later.entry(path.clone()).or_default();
            let is_new = !known.contains(base);
            if is_new {
                known.push(base.clone());
            }
            is_new
        });
    }
    sent.retain(|save| !save.paths.is_empty());
}

/// A replay asks only of paths with a change near them whether a save has brought something newer. What is recorded from now on is of
/// later states, so nobody will ask of the others.
fn thin_arrived(sent: &mut Vec<Sent>, changes: Option<&Changes>) {
    let around = Around::of(changes.into_iter().flat_map(Changes::values));
    for save in sent.iter_mut().filter(|save| save.has_arrived) {
        save.paths.retain(|(path, _)| around.states(path).is_some_and(|states| *states.start() <= save.state));
    }
    sent.retain(|save| !save.paths.is_empty());
}

/// The last word on each file that nothing has touched since: the record that set its time, if a later one has only the
/// content, and that later one; each with whether it sets a time.
#[derive(Debug, Default)]
pub struct Files(BTreeMap<Vec<u8>, Vec<(Sequence, bool)>>);

impl Files {
    /// Takes a change into account, and tells which earlier ones it makes superfluous.
    pub fn supersedes(&mut self, sequence: Sequence, operation: &Operation) -> Vec<Sequence> {
        match operation {
            Operation::File { path, modified, .. } => {
                let has_time = modified.is_some();
                let earlier = self.0.entry(path.clone()).or_default();
                // A time that somebody set would be lost with its record, unless this one sets it again.
                let kept = earlier.iter().filter(|(_, had_time)| *had_time && !has_time).count();
                let superseded = earlier.split_off(kept);
                earlier.push((sequence, has_time));
                return superseded.into_iter().map(|(sequence, _)| sequence).collect();
            }
            Operation::MakeDirectory { path } | Operation::Remove { path } | Operation::Modified { path, .. } => {
                self.touch(path);
            }
            Operation::Rename { from, to } => {
                self.touch(from);
                self.touch(to);
            }
        }
        Vec::new()
    }

    /// Forgets the path and all below it.
    fn touch(&mut self, path: &[u8]) {
        if path.is_empty() {
            return self.0.clear();
        }
        self.0.remove(path);
        // Between "path/" and "path0", the byte after the slash.
        let range = [path, b"/"].concat()..[path, b"0"].concat();
        let below: Vec<Vec<u8>> = self.0.range(range).map(|(path, _)| path.clone()).collect();
        for path in &below {
            self.0.remove(path);
        }
    }

    /// Forgets what has come up to this sequence.
    pub fn settle(&mut self, up_to: Sequence) {
        self.0.retain(|_, records| {
            records.retain(|(sequence, _)| *sequence > up_to);
            !records.is_empty()
        });
    }
}
