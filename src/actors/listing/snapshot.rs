//! A published listing: immutable, sorted by name, with a number for each object that stays the same over refreshes.

use chrono::{DateTime, Utc};
use std::collections::HashMap;
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
    /// When it was last seen on the server; `None` once something may have changed since.
    pub checked: Option<Instant>,
}

/// An object found by a source, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub name: Vec<u8>,
    pub target: Target,
    pub modified: Option<DateTime<Utc>>,
}

#[derive(Debug, Default)]
pub struct Listing {
    /// Sorted by name; names are unique.
    items: Vec<Item>,
    /// Positions in `items`, sorted by number.
    by_number: Vec<u32>,
    /// When everything was asked for; `None`: it holds only what was looked up so far.
    pub fetched: Option<Instant>,
    /// After how long it is old.
    pub interval: Duration,
    /// The marks of the cell that it accounts for.
    pub marks: u64,
}

impl Listing {
    fn new(mut items: Vec<Item>, fetched: Option<Instant>, interval: Duration, marks: u64) -> Listing {
        items.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut by_number: Vec<u32> = (0..items.len() as u32).collect();
        by_number.sort_unstable_by_key(|position| items[*position as usize].number);
        Listing { items, by_number, fetched, interval, marks }
    }

    /// Does it hold everything there is?
    pub fn is_complete(&self) -> bool {
        self.fetched.is_some()
    }

    /// All items, sorted by name.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    pub fn by_name(&self, name: &[u8]) -> Option<&Item> {
        let position = self.items.binary_search_by(|item| item.name.as_ref().cmp(name)).ok()?;
        Some(&self.items[position])
    }

    pub fn by_number(&self, number: u32) -> Option<&Item> {
        let position = self.by_number.binary_search_by_key(&number, |position| self.items[*position as usize].number);
        Some(&self.items[self.by_number[position.ok()?] as usize])
    }
}

impl Listing {
    /// The same without the objects that `keep` refuses.
    pub fn filtered(&self, keep: impl Fn(&Item) -> bool) -> Listing {
        let items = self.items.iter().filter(|item| keep(item)).cloned().collect();
        Listing::new(items, self.fetched, self.interval, self.marks)
    }

    /// The same with nothing in it counting as checked.
    pub fn unchecked(&self) -> Listing {
        let items = self.items.iter().map(|item| Item { checked: None, ..item.clone() }).collect();
        Listing::new(items, self.fetched, self.interval, self.marks)
    }
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
        let items: Vec<Item> = chosen.into_iter().map(|candidate| self.item(candidate, fetched)).collect();
        if self.numbers.len() > 2 * items.len() + 1000 {
            // Numbers are never given twice, so forgetting those of objects that are long gone does no harm.
            self.numbers = items.iter().map(|item| (item.target.clone(), item.number)).collect();
        }
        Listing::new(items, Some(fetched), Duration::ZERO, 0)
    }

    /// `listing` with one more object, which replaces one of the same name.
    pub fn with(&mut self, listing: Option<&Listing>, candidate: Candidate) -> (Listing, Item) {
        let item = self.item(candidate, Instant::now());
        let others = listing.map(Listing::items).unwrap_or_default().iter();
        let keep = others.filter(|other| other.name != item.name && other.number != item.number).cloned();
        let items = keep.chain([item.clone()]).collect();
        let (fetched, interval, marks) = listing.map(|it| (it.fetched, it.interval, it.marks)).unwrap_or_default();
        (Listing::new(items, fetched, interval, marks), item)
    }

    fn item(&mut self, candidate: Candidate, checked: Instant) -> Item {
        let number = self.number(&candidate.target);
        let Candidate { name, target, modified } = candidate;
        Item { number, name: name.into_boxed_slice(), target, modified, checked: Some(checked) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(name: &str, uuid: &str) -> Candidate {
        Candidate { name: name.into(), target: Target::Collection(uuid.into()), modified: None }
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

    proptest! {
        #[test]
        fn every_item_is_found_by_name_and_number(objects in prop::collection::vec(("[a-e]{1,3}", "[0-9]"), 0..40)) {
            let mut numbering = Numbering::default();
            let mut listing = None;
            for (name, uuid) in &objects {
                let (next, item) = numbering.with(listing.as_ref(), candidate(name, uuid));
                prop_assert_eq!(next.by_name(name.as_bytes()), Some(&item));
                listing = Some(next);
            }
            let listing = listing.unwrap_or_default();
            for item in listing.items() {
                prop_assert_eq!(listing.by_name(&item.name), Some(item));
                prop_assert_eq!(listing.by_number(item.number), Some(item));
            }
            prop_assert_eq!(listing.by_number(u32::MAX), None);
        }
    }
}
