//! Telling our own saves from those of others in what the cluster says of changes.
//!
//! The event of a save usually arrives before the answer to its request (protocol.md 9.3). So the hash that a save will
//! lead to is entered here before it is sent, with the hash that it starts from. An event with that hash is an echo. And it
//! tells what stood there just before: if that is not what we started from, somebody wrote in between, unseen by the conditions
//! that the save carried, at the very paths that it wrote (design, section 5).

use crate::actors::collection::moving::Moves;
use crate::actors::collection::opened::{OpenFiles, Unseen};
use crate::actors::collection::remains::Remains;
use crate::tree::Snapshot;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Saves that are remembered. Their events come within seconds, and a collection is saved a few times a second.
const MOST: usize = 64;

/// Trees that saves started from, kept to tell what was overwritten. Those of a lone writer share most of what they are made of, but
/// after a change of somebody else each is a tree of its own; events come within seconds.
const MOST_BASES: usize = 3;

/// What an event was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Our own save.
    Echo,
    /// Somebody else's.
    Foreign,
}

/// A save of ours that hit what somebody else had saved in that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overwritten {
    /// Number of the log record of our save, which has the text that stood there before.
    pub log: u64,
    /// What we thought stood there.
    pub base: String,
    /// What did.
    pub found: String,
}

/// Shared by the actor, which enters its saves, and the event actor, which asks. The lock is a leaf.
#[derive(Default)]
pub struct Echoes {
    inner: Mutex<Inner>,
    pub open: OpenFiles,
    pub unseen: Unseen,
    pub moves: Moves,
    pub remains: Remains,
    is_looking: AtomicBool,
}

struct Save {
    result: String,
    base: String,
    /// It has arrived, so that the same once more is another one.
    is_answered: bool,
    /// Its event has come. Whatever leads to the same content after that is somebody else's.
    is_heard: bool,
}

#[derive(Default)]
struct Inner {
    saves: VecDeque<Save>,
    /// Hash and tree of the bases of the last saves.
    bases: VecDeque<(String, Snapshot)>,
    overwritten: Vec<Overwritten>,
    /// The hash of the last foreign change.
    foreign: Option<String>,
    /// The hash of the last change, ours or not.
    last: Option<String>,
}

impl Inner {
    fn enter(&mut self, result: &str, base: &str, is_answered: bool, is_heard: bool) {
        if self.saves.len() == MOST {
            self.saves.pop_front();
        }
        self.saves.push_back(Save { result: result.to_owned(), base: base.to_owned(), is_answered, is_heard });
    }

    /// The save that an event tells of which has led from `old` to `new`. Several may lead to the same (a lock file that comes and
    /// goes); if none of them started from there, one of them has hit something.
    fn heard(&mut self, old: Option<&str>, new: &str) -> Option<&mut Save> {
        let is_meant = |save: &Save| !save.is_heard && save.result == new;
        let exact = self.saves.iter().position(|save| is_meant(save) && Some(&*save.base) == old);
        let index = exact.or_else(|| self.saves.iter().rposition(is_meant))?;
        self.saves.get_mut(index)
    }
}

impl Echoes {
    /// Is the actor finding out what the server has? What it publishes then may be older than what is told meanwhile.
    pub fn is_looking(&self) -> bool {
        self.is_looking.load(Ordering::Acquire)
    }

    /// Before the server is asked, and after what came of it was published.
    pub(super) fn set_looking(&self, is_looking: bool) {
        self.is_looking.store(is_looking, Ordering::Release);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A save that leads from `base` to `result` is about to be sent.
    pub(super) fn expect(&self, result: &str, base: &str) {
        let mut inner = self.inner();
        let is_same = |save: &Save| save.result == result && save.base == base;
        if inner.saves.iter().any(|save| !save.is_heard && !save.is_answered && is_same(save)) {
            // Sent before, and perhaps in vain.
            return;
        }
        inner.enter(result, base, false, false);
    }

    /// A save has led from `base` to `result`.
    pub(super) fn was_answered(&self, result: &str, base: &str) {
        let mut inner = self.inner();
        let mut saves = inner.saves.iter_mut();
        let sent = saves.find(|save| !save.is_answered && save.result == result && save.base == base);
        sent.into_iter().for_each(|save| save.is_answered = true);
    }

    /// A save has led to another text than was thought, which is ours all the same.
    pub(super) fn confirm(&self, result: &str, base: &str) {
        let mut inner = self.inner();
        // Its event may have come before the answer.
        let is_heard = inner.foreign.as_deref() == Some(result);
        inner.enter(result, base, true, is_heard);
    }

    /// Is the last change that was taken for somebody else's really none of ours?
    pub(super) fn is_foreign(&self) -> bool {
        let inner = self.inner();
        inner.foreign.as_ref().is_some_and(|hash| !inner.saves.iter().any(|save| save.result == *hash))
    }

    /// What a save starts from, in case it overwrites something unseen.
    pub(super) fn remember(&self, base: &str, snapshot: &Snapshot) {
        let mut inner = self.inner();
        if inner.bases.iter().any(|(known, _)| known == base) {
            return;
        }
        if inner.bases.len() == MOST_BASES {
            inner.bases.pop_front();
        }
        inner.bases.push_back((base.to_owned(), snapshot.clone()));
    }

    /// What stood in a base, if that is still known.
    pub(super) fn base(&self, hash: &str) -> Option<Snapshot> {
        self.inner().bases.iter().find(|(known, _)| known == hash).map(|(_, snapshot)| snapshot.clone())
    }

    /// An event says that the collection went from `old` to `new`.
    pub fn hear(&self, old: Option<&str>, new: Option<&str>, log: u64) -> Heard {
        let Some(new) = new else { return Heard::Foreign };
        let mut inner = self.inner();
        inner.last = Some(new.to_owned());
        let Some(save) = inner.heard(old, new) else {
            inner.foreign = Some(new.to_owned());
            return Heard::Foreign;
        };
        save.is_heard = true;
        let base = save.base.clone();
        if let Some(old) = old.filter(|old| *old != base && *old != new) {
            let is_ours = inner.saves.iter().any(|save| !save.is_heard && save.result == old);
            if !is_ours {
                inner.overwritten.push(Overwritten { log, base, found: old.to_owned() });
            }
        }
        Heard::Echo
    }

    /// Have others changed what a save of ours has led to? Their event may have come before the answer to our request, and the
    /// hash that it told of may be the one that the save started from.
    pub(super) fn is_overtaken(&self, result: &str) -> bool {
        let inner = self.inner();
        let save = inner.saves.iter().rev().find(|save| save.result == result);
        // What was told of before the save's own event came before it.
        save.is_some_and(|save| save.is_heard) && inner.last.as_deref() != Some(result)
    }

    /// What was overwritten and not reported yet.
    pub(super) fn take_overwritten(&self) -> Vec<Overwritten> {
        std::mem::take(&mut self.inner().overwritten)
    }

    /// The hash that the last foreign event spoke of.
    pub(super) fn foreign(&self) -> Option<String> {
        self.inner().foreign.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_save_is_known_before_its_answer() {
        let echoes = Echoes::default();
        echoes.expect("b", "a");
        assert_eq!(echoes.hear(Some("a"), Some("b"), 1), Heard::Echo);
        assert_eq!(echoes.hear(Some("b"), Some("c"), 2), Heard::Foreign);
        assert_eq!(echoes.foreign().as_deref(), Some("c"));
        assert!(echoes.take_overwritten().is_empty());
    }

    #[test]
    fn what_our_save_hit_is_noticed_afterwards() {
        let echoes = Echoes::default();
        echoes.expect("b", "a");
        assert_eq!(echoes.hear(Some("x"), Some("b"), 7), Heard::Echo);
        let found = Overwritten { log: 7, base: "a".into(), found: "x".into() };
        assert_eq!(echoes.take_overwritten(), [found]);
    }

    /// Another client takes back what we did: the content is one that a save of ours had led to.
    #[test]
    fn change_of_others_to_what_we_had_saved_is_no_echo() {
        let echoes = Echoes::default();
        echoes.expect("b", "a");
        echoes.expect("c", "b");
        assert_eq!(echoes.hear(Some("a"), Some("b"), 1), Heard::Echo);
        assert_eq!(echoes.hear(Some("b"), Some("c"), 2), Heard::Echo);
        assert_eq!(echoes.hear(Some("c"), Some("b"), 3), Heard::Foreign);
        echoes.expect("d", "c");
        assert_eq!(echoes.hear(Some("b"), Some("d"), 4), Heard::Echo);
        let found = Overwritten { log: 4, base: "c".into(), found: "b".into() };
        assert_eq!(echoes.take_overwritten(), [found]);
    }

    /// The text can come out in two ways, and the event tells before the answer in which it did.
    #[test]
    fn save_with_another_result_than_expected_is_ours_once_it_is_confirmed() {
        let echoes = Echoes::default();
        echoes.expect("b", "a");
        assert_eq!(echoes.hear(Some("a"), Some("b'"), 1), Heard::Foreign);
        assert!(echoes.is_foreign());
        echoes.confirm("b'", "a");
        assert!(!echoes.is_foreign());
        assert_eq!(echoes.hear(Some("c"), Some("b'"), 2), Heard::Foreign, "its own event has come");
        echoes.confirm("d'", "b'");
        assert_eq!(echoes.hear(Some("b'"), Some("d'"), 3), Heard::Echo, "its event comes after the answer");
    }

    #[test]
    fn save_that_is_sent_twice_is_heard_once() {
        let echoes = Echoes::default();
        echoes.expect("b", "a");
        echoes.expect("b", "a");
        assert_eq!(echoes.hear(Some("a"), Some("b"), 1), Heard::Echo);
        assert_eq!(echoes.hear(Some("x"), Some("b"), 2), Heard::Foreign);
    }

    /// The events of several saves come after all of them were answered.
    #[test]
    fn own_saves_that_lead_to_the_same_again_and_again_hit_nothing() {
        let echoes = Echoes::default();
        let saves = [("a", "x"), ("x", "a"), ("a", "y"), ("y", "a"), ("a", "x"), ("x", "a")];
        for (base, result) in saves {
            echoes.expect(result, base);
            echoes.was_answered(result, base);
        }
        for (log, (base, result)) in saves.into_iter().enumerate() {
            assert_eq!(echoes.hear(Some(base), Some(result), log as u64), Heard::Echo, "{log}");
        }
        assert_eq!(echoes.take_overwritten(), []);
        assert_eq!(echoes.hear(Some("x"), Some("a"), 7), Heard::Foreign, "all were heard");
    }

    #[test]
    fn save_is_overtaken_by_what_is_told_after_it_only() {
        let echoes = Echoes::default();
        assert_eq!(echoes.hear(Some("a"), Some("b"), 1), Heard::Foreign);
        echoes.expect("c", "b");
        assert!(!echoes.is_overtaken("c"), "the event of what it started from was late");
        assert_eq!(echoes.hear(Some("b"), Some("c"), 2), Heard::Echo);
        assert!(!echoes.is_overtaken("c"));
        assert_eq!(echoes.hear(Some("c"), Some("b"), 3), Heard::Foreign);
        assert!(echoes.is_overtaken("c") && !echoes.is_overtaken("b"));
    }

    #[test]
    fn own_saves_in_a_row_hit_nothing() {
        let echoes = Echoes::default();
        echoes.expect("b", "a");
        echoes.expect("c", "b");
        assert_eq!(echoes.hear(Some("a"), Some("b"), 1), Heard::Echo);
        assert_eq!(echoes.hear(Some("b"), Some("c"), 2), Heard::Echo);
        assert!(echoes.take_overwritten().is_empty());
    }
}
