//! Paths that are not saved although they were changed, while all others are.
//!
//! There are three reasons. Another client has changed the path too, and `--on-conflict=error` leaves it to the writer; or the
//! server refuses the path for good; or it was moved to another collection that is not saved yet ([`moving`](super::moving), which also
//! says when that ends; [`Held`]). What is set aside stays in the mount and in the journal, and is tried again when it is changed
//! again. What the server refused is also tried when somebody asks for everything to be saved (`fsync` of a directory, the end
//! of the mount), as the server may have learnt; a conflict is not, for that would replace what the other client saved.
//!
//! Who is in the middle of writing to a file when theirs arrives does not know of it. So a conflict is *held* by the files that
//! are open then: no write brings it back before the last handle is closed, each `close` and `fsync` is answered with it, and
//! nobody can move or remove the path meanwhile, or make anything in it. Whoever opens the file afterwards and writes to it means it.
//!
//! Paths that were set aside together come back together: what was moved belongs to where it was moved to.

use crate::actors::Error;
use crate::actors::collection::held::Held;
use crate::tree::Snapshot;
use crate::tree::commit::{Touched, graft};
use std::collections::HashSet;

/// Why a path is set aside at which something is here.
pub(super) enum Reason {
    /// With the last state of the server that both sides knew.
    Conflict(Snapshot),
    Refused,
}

pub(super) struct Group {
    paths: Touched,
    reason: Reason,
    error: Error,
    /// The files that hold a conflict, by number.
    holders: HashSet<u32>,
}

/// See the module's essay.
#[derive(Default)]
pub(super) struct Aside {
    /// At which the server does not have what is here.
    groups: Vec<Group>,
    /// At which it still has what is in another collection here.
    pub(super) moved: Held,
}

impl Aside {
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.moved.is_empty()
    }

    pub(super) fn covers(&self, path: &[u8]) -> bool {
        self.moved.covers(path) || self.groups.iter().any(|group| group.paths.covers(path))
    }

    /// All paths.
    pub(super) fn paths(&self) -> Touched {
        let mut paths = self.moved.paths();
        self.groups.iter().for_each(|group| paths.extend(&group.paths));
        paths
    }

    /// Are all paths among these?
    pub(super) fn is_within(&self, touched: &Touched) -> bool {
        let is_within = |group: &Group| group.paths.iter().all(|(path, _)| touched.covers(path));
        self.moved.is_within(touched) && self.groups.iter().all(is_within)
    }

    /// All paths at which something is here that the server does not have.
    pub(super) fn paths_with_content(&self) -> Touched {
        let mut paths = Touched::default();
        self.groups.iter().for_each(|group| paths.extend(&group.paths));
        paths
    }

    /// Are there any of those?
    pub(super) fn has_content(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Takes out what is set aside for a reason.
    pub(super) fn take_groups(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.groups)
    }

    pub(super) fn put_groups(&mut self, groups: Vec<Group>) {
        self.groups.extend(groups);
    }

    pub(super) fn put(&mut self, paths: Touched, reason: Reason, error: Error) {
        if matches!(reason, Reason::Conflict(_)) && paths.iter().all(|(path, _)| self.conflict(Some(path)).is_some()) {
            // It was one before, and what both sides knew is what they knew then.
            return;
        }
        self.groups.push(Group { paths, reason, error, holders: HashSet::new() });
    }

    /// The file at this path is open for writing and holds the conflict there.
    pub(super) fn hold(&mut self, path: &[u8], number: u32) {
        for group in &mut self.groups {
            if matches!(group.reason, Reason::Conflict(_)) && group.paths.covers(path) {
                group.holders.insert(number);
            }
        }
    }

    /// Nobody has the file open for writing any more. Returns whether that lets go of a conflict.
    pub(super) fn release(&mut self, number: u32) -> bool {
        let let_go = self.groups.iter_mut().filter_map(|group| {
            let is_holder = group.holders.remove(&number);
            (is_holder && group.holders.is_empty()).then_some(())
        });
        let_go.count() > 0
    }

    /// The error of a conflict at this path, in it or above it that some file holds.
    pub(super) fn held(&self, path: &[u8]) -> Option<&Error> {
        self.groups
            .iter()
            .find(|group| !group.holders.is_empty() && group.paths.is_around(path))
            .map(|group| &group.error)
    }

    /// Is there a conflict at this path, in it or above it?
    pub(super) fn has_conflict_around(&self, path: &[u8]) -> bool {
        self.groups.iter().any(|group| matches!(group.reason, Reason::Conflict(_)) && group.paths.is_around(path))
    }

    /// The path was changed: what is set aside there, below or above it is returned and is not set aside any more, unless it is
    /// held.
    pub(super) fn take_around(&mut self, path: &[u8]) -> Touched {
        self.take(|group| group.holders.is_empty() && group.paths.is_around(path))
    }

    /// What the server has refused is to be tried again.
    pub(super) fn take_refused(&mut self) -> Touched {
        self.take(|group| matches!(group.reason, Reason::Refused))
    }

    fn take(&mut self, is_meant: impl Fn(&Group) -> bool) -> Touched {
        let mut taken = Touched::default();
        for group in self.groups.extract_if(.., |group| is_meant(group)) {
            taken.extend(&group.paths);
        }
        taken
    }

    /// The error of a conflict at this path, or of any without one: it stands until the path is written to.
    pub(super) fn conflict(&self, path: Option<&[u8]>) -> Option<Error> {
        let is_meant = |group: &&Group| {
            matches!(group.reason, Reason::Conflict(_)) && path.is_none_or(|path| group.paths.covers(path))
        };
        self.groups.iter().find(is_meant).map(|group| group.error.clone())
    }

    /// What the journal is to say that the server had: where there is a conflict, what both sides knew before it, so that the
    /// next mount finds the conflict too. `None`: there is none, and it is `base`.
    pub(super) fn known(&self, base: &Snapshot) -> Option<Snapshot> {
        let conflicts = self.groups.iter().filter_map(|group| match &group.reason {
            Reason::Conflict(known) => Some((known, &group.paths)),
            Reason::Refused => None,
        });
        conflicts
            .fold(None, |result, (known, paths)| graft(result.as_ref().unwrap_or(base), known, paths).ok().or(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::commit::Depth;

    fn touched(paths: &[&str]) -> Touched {
        paths.iter().map(|path| (path.as_bytes(), Depth::Tree)).collect()
    }

    fn aside<const N: usize>(groups: [(&[&str], Reason); N]) -> Aside {
        let mut aside = Aside::default();
        for (paths, reason) in groups {
            aside.put(touched(paths), reason, Error::Conflict { path: paths.join(" ") });
        }
        aside
    }

    #[test]
    fn change_of_one_path_brings_back_what_was_set_aside_with_it_and_nothing_else() {
        let mut aside = aside([(&["bad", "moved/from"], Reason::Refused), (&["d/x"], Reason::Refused)]);
        assert!(aside.take_around(b"other").is_empty());
        assert_eq!(aside.take_around(b"bad"), touched(&["bad", "moved/from"]));
        assert_eq!(aside.paths(), touched(&["d/x"]));
        assert_eq!(aside.take_around(b"d"), touched(&["d/x"]), "the directory was moved or removed");
        assert!(aside.is_empty());
    }

    #[test]
    fn new_file_in_a_directory_that_is_set_aside_brings_it_back() {
        let mut aside = aside([(&["d"], Reason::Refused)]);
        assert_eq!(aside.take_around(b"d/new"), touched(&["d"]));
    }

    #[test]
    fn conflict_waits_for_its_path_and_a_refusal_for_any_wish() {
        let mut aside = aside([(&["a"], Reason::Conflict(Snapshot::empty())), (&["bad"], Reason::Refused)]);
        assert_eq!(aside.take_refused(), touched(&["bad"]));
        assert!(aside.conflict(Some(b"b")).is_none());
        assert!(aside.conflict(Some(b"a")).is_some() && aside.conflict(None).is_some());
        assert_eq!(aside.take_around(b"a"), touched(&["a"]));
        assert!(aside.conflict(None).is_none());
    }

    #[test]
    fn conflict_is_held_until_the_last_file_that_was_open_is_closed() {
        let mut aside = aside([(&["d"], Reason::Conflict(Snapshot::empty())), (&["bad"], Reason::Refused)]);
        assert!(aside.held(b"d/x").is_none() && !aside.release(1), "nobody had it open");
        aside.hold(b"d/x", 1);
        aside.hold(b"d/y", 2);
        aside.hold(b"bad", 3);
        for path in ["d", "d/x", "d/other", ""] {
            assert!(aside.held(path.as_bytes()).is_some(), "{path}");
        }
        assert!(aside.held(b"bad").is_none() && aside.held(b"e").is_none());
        assert!(aside.take_around(b"d/new").is_empty() && aside.has_conflict_around(b"d/new"));
        assert!(!aside.release(3) && !aside.release(1) && aside.held(b"d").is_some());
        assert!(aside.release(2) && aside.held(b"d").is_none());
        assert!(aside.conflict(Some(b"d")).is_some(), "it is one still");
    }

    #[test]
    fn journal_is_told_what_both_sides_knew_at_the_first_conflict() {
        let tree = |text: &str| Snapshot::parse(text).unwrap();
        let (x, y) = ("acbd18db4cc2f85cedef654fccc4a4d8+3", "37b51d194a7513e45b56f6524f2d51f2+3");
        let (first, theirs) = (tree(&format!(". {x} 0:3:a 0:3:b\n")), tree(&format!(". {x} {y} 3:3:a 3:3:b 0:3:c\n")));
        let mut aside = aside([(&["a"], Reason::Conflict(first)), (&["a"], Reason::Conflict(theirs.clone()))]);
        let known = aside.known(&theirs).unwrap();
        assert_eq!(known.to_manifest(crate::keep::manifest::Form::Python), format!(". {x} {y} 0:3:a 3:3:b 0:3:c\n"));
        aside.take_around(b"a");
        assert!(aside.is_empty() && aside.known(&theirs).is_none());
    }
}
