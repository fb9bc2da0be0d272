//! Which condition a save carries, so that nothing is overwritten unseen (design, section 5; protocol.md 4.12).
//!
//! The server knows two. *A*, the hash of the result, costs nothing and sees every change of others but those at the very paths that
//! we write. *B*, the version together with the wish to keep the old one, sees everything and costs a stored version. A
//! version alone, without that wish, costs nothing and sees everything too, but only on a sound base ([`Base::is_sound`]).
//!
//! Here is who decides. Under `auto` a lone writer's quick saves on bases of its own are guarded by A and the version: they are
//! made in place, and the server stores no version for them beyond those that it stores anyway. Whatever says that somebody else
//! writes here (an event, a refusal) makes every save B, until that has been quiet for [`WATCH`]. On what somebody else has
//! just made, the first save asks for that to be kept, and no more.

use crate::actors::collection::state::Base;
use std::time::{Duration, Instant};

/// `--commit-guard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CommitGuard {
    /// As cheap as is safe.
    #[default]
    Auto,
    /// Every save is B.
    Strict,
    /// No conditions: the last one wins.
    None,
}

/// How long after a sign of other writers every save is B. People and programs that take turns do so within minutes.
const WATCH: Duration = Duration::from_secs(180);

/// What this collection has taught us.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    others: Option<Instant>,
    /// A prediction of ours was wrong though the base was right: this server writes another text.
    is_mispredicting: bool,
}

/// What one save needs to know of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Somebody else writes here.
    pub(super) others: bool,
    /// A can be used.
    pub(super) predict: bool,
}

/// What a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conditions {
    /// A: the hash of the result.
    pub(super) hash: bool,
    /// The version of the base.
    pub(super) version: bool,
    /// B: the version, and the wish to keep the old one.
    pub(super) preserve: bool,
    /// The base is not sound: ask for old versions to be kept, and read the record again, before anything is changed.
    pub(super) prepare: bool,
}

impl Guard {
    pub(super) fn plan(&self, now: Instant) -> Plan {
        let others = self.others.is_some_and(|seen| now.duration_since(seen) < WATCH);
        Plan { others, predict: !self.is_mispredicting }
    }

    /// There is a sign of somebody else.
    pub(super) fn saw_others(&mut self, now: Instant) {
        self.others = Some(now);
    }

    pub(super) fn was_mispredicted(&mut self) {
        self.is_mispredicting = true;
    }
}

/// The conditions for a save on `base`.
///
/// `plan.others` also stands for a mount that hears of nothing: there an overwritten change could not even be reported.
///
/// `whole`: the request replaces the whole text, not only paths: then everything others did is at stake. `ambiguous`: the text
/// may come out in two ways, as it depends on the second in which the server signs (protocol.md 5.5). `versioned`: the cluster keeps versions, without which there is no B.
pub(super) fn conditions(
    mode: CommitGuard,
    plan: Plan,
    base: &Base,
    (whole, ambiguous, versioned): (bool, bool, bool),
) -> Conditions {
    let nothing = Conditions { hash: false, version: false, preserve: false, prepare: false };
    let strictly = Conditions { preserve: true, version: true, prepare: !base.is_sound, ..nothing };
    let can_predict = plan.predict && !whole;
    let needs_all = whole
        || match mode {
            CommitGuard::None => false,
            CommitGuard::Strict => true,
            CommitGuard::Auto => plan.others || !can_predict,
        };
    match () {
        () if needs_all && versioned => strictly,
        () if mode == CommitGuard::None => nothing,
        // What somebody else has just made. Once it is sound the version sees everything, and the next save, on a base of our own,
        // need not keep this one's result.
        () if versioned && !base.is_own && !base.is_sound => {
            Conditions { hash: can_predict && !ambiguous, version: true, prepare: true, ..nothing }
        }
        // What may come out in two ways is compared with both afterwards.
        () => Conditions { hash: can_predict && !ambiguous, version: versioned, ..nothing },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::api::{Collection, Record};
    use crate::tree::Snapshot;
    use std::sync::Arc;

    fn base(is_own: bool, is_sound: bool) -> Base {
        let record = Arc::new(Record { fields: Collection::default(), raw: Default::default() });
        Base { record, snapshot: Snapshot::empty(), is_whole: true, is_own, is_sound }
    }

    const ALONE: Plan = Plan { others: false, predict: true };
    const USUAL: (bool, bool, bool) = (false, false, true);

    #[test]
    fn lone_writer_stores_no_versions() {
        for base in [base(true, false), base(false, true), base(true, true)] {
            let conditions = conditions(CommitGuard::Auto, ALONE, &base, USUAL);
            assert!(conditions.hash && conditions.version && !conditions.preserve && !conditions.prepare);
        }
    }

    #[test]
    fn every_sign_of_others_makes_a_save_see_everything() {
        let mut guard = Guard::default();
        let now = Instant::now();
        guard.saw_others(now);
        let watched = conditions(CommitGuard::Auto, guard.plan(now), &base(true, true), USUAL);
        assert!(watched.preserve && watched.version && !watched.prepare);
        assert!(!guard.plan(now + WATCH).others, "it passes");
        let young = conditions(CommitGuard::Auto, ALONE, &base(false, false), USUAL);
        assert!(young.version && young.prepare && !young.preserve, "a fresh base of somebody else");
    }

    #[test]
    fn what_cannot_be_predicted_is_guarded_by_the_version() {
        let ambiguous = conditions(CommitGuard::Auto, ALONE, &base(true, false), (false, true, true));
        assert!(ambiguous.version && !ambiguous.preserve && !ambiguous.hash);
        let mut guard = Guard::default();
        guard.was_mispredicted();
        assert!(conditions(CommitGuard::Auto, guard.plan(Instant::now()), &base(true, false), USUAL).preserve);
    }

    #[test]
    fn strict_is_strict_and_none_is_none_but_never_for_whole_manifests() {
        assert!(conditions(CommitGuard::Strict, ALONE, &base(true, true), USUAL).preserve);
        let none = conditions(CommitGuard::None, ALONE, &base(false, false), USUAL);
        assert!(!none.hash && !none.version && !none.preserve && !none.prepare);
        assert!(conditions(CommitGuard::None, ALONE, &base(true, true), (true, false, true)).preserve);
    }

    #[test]
    fn cluster_without_versions_is_guarded_as_well_as_it_can_be() {
        let conditions = conditions(CommitGuard::Strict, ALONE, &base(true, true), (false, false, false));
        assert!(conditions.hash && !conditions.version && !conditions.preserve);
    }
}
