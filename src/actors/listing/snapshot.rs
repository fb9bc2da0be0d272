//! A published listing: immutable, sorted by name, with a number for each object that stays the same over refreshes.

use crate::actors::news::Change;
use chrono::{DateTime, Utc};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a name in a listing stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A collection, by uuid.
    Collection(Box<str>),
    /// A project, filter group, or the home of a user, by uuid.
    Project(Box<str>),
    /// A tag, by its text.
    Tag(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Stays the same as long as the object is in the listing, whatever its name becomes. From 1.
    pub number: u32,
    pub name: Box<[u8]>,
    pub target: Target,
    pub modified: Option<DateTime<Utc>>,
    /// May we change what is in it? As far as the list says so, which it does of projects only.
    pub can_write: Option<bool>,
    /// When it was last asked for. Whether something may have changed since is for those to know who hear of events.
    pub checked: Instant,
}

/// An object found by a source, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: Vec<u8>,
    pub target: Target,
    pub modified: Option<DateTime<Utc>>,
    /// As in [`Item`].
    pub can_write: Option<bool>,
}

#[derive(Debug, Default, Clone)]
pub struct Listing {
    /// Sorted by name; names are unique. Shared with the listings that were made from this one.
    items: Vec<Arc<Item>>,
    /// Positions in `items`, sorted by number.
    by_number: Vec<u32>,
    /// When everything was asked for; `None`: it holds only what was looked up so far.
    pub fetched: Option<Instant>,
    /// After how long it is old.
    pub interval: Duration,
    /// The marks of the cell that it accounts for.
    pub marks: u64,
    /// How long after it the next reading begins at the earliest.
    pub pace: Duration,
}

impl Listing {
    /// With these items, and otherwise as `like`.
    fn new(mut items: Vec<Arc<Item>>, like: &Listing) -> Listing {
        items.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut by_number: Vec<u32> = (0..items.len() as u32).collect();
        by_number.sort_unstable_by_key(|position| items[*position as usize].number);
        Listing { items, by_number, fetched: like.fetched, interval: like.interval, marks: like.marks, pace: like.pace }
    }

    /// Does it hold everything there is?
    pub fn is_complete(&self) -> bool {
        self.fetched.is_some()
    }

    /// All items, sorted by name.
    pub fn items(&self) -> &[Arc<Item>] {
        &self.items
    }

    pub fn by_name(&self, name: &[u8]) -> Option<&Item> {
        self.place_of(name).ok().map(|position| self.items[position].as_ref())
    }

    /// The position of the item with this name, or where it would have to be.
    fn place_of(&self, name: &[u8]) -> Result<usize, usize> {
        self.items.binary_search_by(|item| item.name.as_ref().cmp(name))
    }

    /// The position in `by_number` of the item with this number, or where it would have to be.
    fn place_of_number(&self, number: u32) -> Result<usize, usize> {
        self.by_number.binary_search_by_key(&number, |position| self.items[*position as usize].number)
    }

    pub fn by_number(&self, number: u32) -> Option<&Item> {
        let place = self.place_of_number(number).ok()?;
        Some(self.items[self.by_number[place] as usize].as_ref())
    }
}

impl Listing {
    /// The same without the objects that `keep` refuses.
    pub fn filtered(&self, keep: impl Fn(&Item) -> bool) -> Listing {
        Listing::new(self.items.iter().filter(|item| keep(item)).cloned().collect(), self)
    }

    /// The same with one more item, in place of those with its name or its number. Nothing is sorted, and of the others
    /// only pointers are copied: a program may look up one name after the other in a large project.
    fn with(&self, item: Item) -> Listing {
        let mut listing = self.clone();
        if let Ok(place) = listing.place_of_number(item.number) {
            listing.remove(listing.by_number[place] as usize);
        }
        if let Ok(position) = listing.place_of(&item.name) {
            listing.remove(position);
        }
        let (Ok(position) | Err(position)) = listing.place_of(&item.name);
        let (Ok(place) | Err(place)) = listing.place_of_number(item.number);
        listing.by_number.iter_mut().filter(|other| **other as usize >= position).for_each(|other| *other += 1);
        listing.by_number.insert(place, position as u32);
        listing.items.insert(position, Arc::new(item));
        listing
    }

    fn remove(&mut self, position: usize) {
        self.items.remove(position);
        self.by_number.retain(|other| *other as usize != position);
        self.by_number.iter_mut().filter(|other| **other as usize > position).for_each(|other| *other -= 1);
    }
}

/// What is different in `new`, by name: what came, went, or means another object. A name that came is told only if
/// somebody may have been told that it is missing: anybody, where everything was known; else whom `was_missed` knows of.
pub fn changes_between(old: &Listing, new: &Listing, was_missed: impl Fn(&[u8]) -> bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let entry = |item: &Item| Change::Entry { parent: 0, name: item.name.to_vec() };
    let (mut before, mut after) = (old.items.iter().peekable(), new.items.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (Some(one), Some(other)) if Arc::ptr_eq(one, other) => Ordering::Equal,
            (Some(one), Some(other)) => one.name.cmp(&other.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let gone = if order.is_le() { before.next() } else { None };
        let come = if order.is_ge() { after.next() } else { None };
        match (gone, come) {
            (Some(gone), Some(come)) if gone.number == come.number => {
                let is_same = (gone.modified, gone.can_write) == (come.modified, come.can_write);
                changes.extend((!is_same).then_some(Change::Node(come.number)));
            }
            (Some(gone), _) => changes.push(entry(gone)),
            (None, Some(come)) if old.is_complete() || was_missed(&come.name) => changes.push(entry(come)),
            _ => {}
        }
    }
    changes
}

/// Which of two objects of the same name is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precedence {
    First,
    Last,
}

/// Gives numbers to objects, and remembers them for as long as it lives.
#[derive(Debug, Default)]
pub struct Numbering {
    numbers: HashMap<Target, u32>,
    last: u32,
}

impl Numbering {
    fn number(&mut self, target: &Target) -> u32 {
        if let Some(number) = self.numbers.get(target) {
            return *number;
        }
        self.last += 1;
        self.numbers.insert(target.clone(), self.last);
        self.last
    }

    /// The complete listing of what a source found. Numbers of objects that are gone are not given again.
    pub fn complete(&mut self, candidates: Vec<Candidate>, precedence: Precedence, fetched: Instant) -> Listing {
        let mut positions: HashMap<Vec<u8>, usize> = HashMap::with_capacity(candidates.len());
        let mut chosen: Vec<Candidate> = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            match positions.get(&candidate.name) {
                None => {
                    positions.insert(candidate.name.clone(), chosen.len());
                    chosen.push(candidate);
                }
                Some(position) if precedence == Precedence::Last => chosen[*position] = candidate,
                Some(_) => {}
            }
        }
        let items: Vec<_> = chosen.into_iter().map(|candidate| Arc::new(self.item(candidate, fetched))).collect();
        if self.numbers.len() > 2 * items.len() + 1000 {
            // Numbers are never given twice, so forgetting those of objects that are long gone does no harm.
            self.numbers = items.iter().map(|item| (item.target.clone(), item.number)).collect();
        }
        Listing::new(items, &Listing { fetched: Some(fetched), ..Listing::default() })
    }

    /// `listing` with one more object, seen at `checked`, which replaces one of the same name.
    pub fn with(&mut self, listing: Option<&Listing>, candidate: Candidate, checked: Instant) -> (Listing, Item) {
        let item = self.item(candidate, checked);
        let nothing = Listing::default();
        (listing.unwrap_or(&nothing).with(item.clone()), item)
    }

    fn item(&mut self, candidate: Candidate, checked: Instant) -> Item {
        let number = self.number(&candidate.target);
        let Candidate { name, target, modified, can_write } = candidate;
        Item { number, name: name.into_boxed_slice(), target, modified, can_write, checked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(name: &str, uuid: &str) -> Candidate {
        Candidate { name: name.into(), target: Target::Collection(uuid.into()), modified: None, can_write: None }
    }

    #[test]
    fn object_keeps_its_number_when_it_is_renamed() {
        let mut numbering = Numbering::default();
        let now = Instant::now();
        let before = numbering.complete(vec![candidate("a", "1"), candidate("b", "2")], Precedence::First, now);
        let after = numbering.complete(vec![candidate("z", "1"), candidate("b", "3")], Precedence::First, now);
        let number = before.by_name(b"a").map(|item| item.number).expect("listed");
        assert_eq!(after.by_number(number).map(|item| item.name.as_ref()), Some(&b"z"[..]));
        assert_ne!(before.by_name(b"b").map(|item| item.number), after.by_name(b"b").map(|item| item.number));
        assert_eq!(after.by_name(b"a"), None);
    }

    #[test]
    fn of_two_objects_with_one_name_the_right_one_is_shown() {
        let two = || vec![candidate("same", "1"), candidate("same", "2")];
        let now = Instant::now();
        for (precedence, uuid) in [(Precedence::First, "1"), (Precedence::Last, "2")] {
            let listing = Numbering::default().complete(two(), precedence, now);
            assert_eq!(listing.items().len(), 1);
            assert_eq!(listing.items()[0].target, Target::Collection(uuid.into()));
        }
    }

    #[test]
    fn only_what_differs_is_told() {
        let mut numbering = Numbering::default();
        let now = Instant::now();
        let list = |candidates, numbering: &mut Numbering| numbering.complete(candidates, Precedence::First, now);
        let old = list(
            vec![candidate("gone", "1"), candidate("other", "2"), candidate("renamed", "3"), candidate("same", "4")],
            &mut numbering,
        );
        let new = list(
            vec![candidate("came", "5"), candidate("named", "3"), candidate("other", "6"), candidate("same", "4")],
            &mut numbering,
        );
        let entry = |name: &str| Change::Entry { parent: 0, name: name.into() };
        let names = ["came", "gone", "named", "other", "renamed"];
        assert_eq!(changes_between(&old, &new, |_| false), names.map(entry));
        assert_eq!(changes_between(&old, &old, |_| true), []);
        let (partial, _) = numbering.with(None, candidate("same", "4"), now);
        assert_eq!(changes_between(&partial, &new, |name| name == b"named"), [entry("named")]);
        let modified = Some(DateTime::from_timestamp_nanos(1));
        let later = list(vec![Candidate { modified, ..candidate("same", "4") }], &mut numbering);
        let number = later.by_name(b"same").map(|item| item.number).expect("listed");
        assert_eq!(changes_between(&partial, &later, |_| false), [Change::Node(number)]);
        let readable =
            list(vec![Candidate { modified, can_write: Some(false), ..candidate("same", "4") }], &mut numbering);
        assert_eq!(changes_between(&later, &readable, |_| false), [Change::Node(number)]);
    }

    proptest! {
        /// Whoever looks up again what he was told of, and nothing else, knows the new listing.
        #[test]
        fn what_is_not_told_is_as_it_was(
            before in prop::collection::vec(("[a-e]{1,2}", "[0-9]"), 0..20),
            after in prop::collection::vec(("[a-e]{1,2}", "[0-9]"), 0..20),
        ) {
            let mut numbering = Numbering::default();
            let mut list = |objects: &[(String, String)]| {
                let candidates = objects.iter().map(|(name, uuid)| candidate(name, uuid)).collect();
                numbering.complete(candidates, Precedence::First, Instant::now())
            };
            let (old, new) = (list(&before), list(&after));
            let told = changes_between(&old, &new, |_| false);
            let number = |listing: &Listing, name: &str| listing.by_name(name.as_bytes()).map(|item| item.number);
            for (name, _) in before.iter().chain(&after) {
                let is_told = told.contains(&Change::Entry { parent: 0, name: name.clone().into_bytes() });
                prop_assert_eq!(is_told, number(&old, name) != number(&new, name));
            }
        }

        #[test]
        fn every_item_is_found_by_name_and_number(objects in prop::collection::vec(("[a-e]{1,3}", "[0-9]"), 0..40)) {
            let mut numbering = Numbering::default();
            let mut listing = None;
            for (name, uuid) in &objects {
                let (next, item) = numbering.with(listing.as_ref(), candidate(name, uuid), Instant::now());
                prop_assert_eq!(next.by_name(name.as_bytes()), Some(&item));
                listing = Some(next);
            }
            let listing = listing.unwrap_or_default();
            prop_assert!(listing.items().is_sorted_by(|one, other| one.name < other.name));
            prop_assert_eq!(listing.by_number.len(), listing.items().len());
            for item in listing.items() {
                prop_assert_eq!(listing.by_name(&item.name), Some(item.as_ref()));
                prop_assert_eq!(listing.by_number(item.number), Some(item.as_ref()));
            }
            prop_assert_eq!(listing.by_number(u32::MAX), None);
        }
    }
}
