//! Which condition a save carries, so that nothing is overwritten unseen (design, section 5; protocol.md 4.12).
//!
//! The server knows two. *A*, the hash of the result, costs nothing and sees every change of others but those at the very paths that
//! we write, and in the directories that we take away or put there as a whole ([`edits`](crate::tree::commit::edits)): an empty one
//! can only be made in the place of whatever stands there. *B*, the version together with the wish to keep the old one, sees
//! everything and costs a stored version, if the record that it is based on had that wish in it already. A version alone, without
//! that wish, costs nothing and sees everything too, but only on a sound base ([`Base::is_sound`]). Whether a base is sound may be
//! judged by clocks, which B does not trust.
//!
//! Here is who decides. Under `auto` a lone writer's quick saves on bases of its own are guarded by A and the version: they are
//! made in place, and the server stores no version for them beyond those that it stores anyway. Whatever says that somebody else
//! writes here (an event, a refusal) makes every save B, until that has been quiet for [`WATCH`]. On what somebody else has
//! just made, the first save asks for that to be kept, and no more. A save that takes a directory away is B, but in a series of such
//! (`rm -r`) only one in each of the periods in which a lone writer makes the server store a version anyway; what another client
//! puts into a directory in the very moment in which one of the others takes it away is found afterwards, as changes at our own
//! paths are ([`overwritten`](super::overwritten)). So is what it puts into a directory that is new here and comes as a whole: B for
//! that would store a version for a lone writer's `mkdir`.

use crate::actors::collection::state::Base;
use crate::tree::Kind;
use crate::tree::commit::Edits;
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

/// After a wrong prediction each save stores a version until so many predictions in a row were right. A server that writes texts of
/// another form does so each time, as a save rewrites the whole text: then one would do. What made one wrong may not be in
/// every text, as where the result depends on the second in which the server signs: hence some more.
const CONVINCING: u32 = 4;

/// What this collection has taught us.
#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    others: Option<Instant>,
    /// A prediction of ours was wrong though the base was right: this server writes another text. So many right ones are wanted
    /// before that is taken for past.
    mispredicting: u32,
    /// When a save of ours last made the server keep a version.
    kept: Option<Instant>,
}

/// What a request is, as far as it matters for its conditions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Nature {
    /// It replaces the whole text, not only paths: then everything others did is at stake.
    pub(super) is_whole: bool,
    /// The text may come out in two ways, as it depends on the second in which the server signs (protocol.md 5.5).
    pub(super) is_ambiguous: bool,
    /// A directory of the server's goes, with whatever others have put into it.
    pub(super) takes_directory: bool,
}

impl Nature {
    /// Of a request with these edits, or with the whole text.
    pub(super) fn of(edits: Option<&Edits>, is_ambiguous: bool) -> Nature {
        let is_directory = |was: Option<Kind>| was == Some(Kind::Directory);
        let takes_directory = edits.is_some_and(|edits| edits.changes().any(|(_, change)| is_directory(change.was)));
        Nature { is_whole: edits.is_none(), is_ambiguous, takes_directory }
    }
}

/// What one save needs to know of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Somebody else writes here.
    pub(super) others: bool,
    /// A can be used.
    pub(super) predict: bool,
    /// The server has been made to keep a version so short a time ago that a lone writer's changes are to make no more.
    pub(super) has_kept: bool,
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
    /// `idle`: how long a collection must have been left alone for a change to make a version anyway.
    pub(super) fn plan(&self, now: Instant, idle: Duration) -> Plan {
        let has_kept = self.kept.is_some_and(|at| now.duration_since(at) < idle);
        let others = self.others.is_some_and(|seen| now.duration_since(seen) < WATCH);
        Plan { others, predict: self.mispredicting == 0, has_kept }
    }

    /// A save made the server keep a version.
    pub(super) fn has_kept(&mut self, now: Instant) {
        self.kept = Some(now);
    }

    /// There is a sign of somebody else.
    pub(super) fn saw_others(&mut self, now: Instant) {
        self.others = Some(now);
    }

    pub(super) fn was_mispredicted(&mut self) {
        self.mispredicting = CONVINCING;
    }

    /// So many texts came out as predicted.
    pub(super) fn was_predicted(&mut self, times: u32) {
        self.mispredicting = self.mispredicting.saturating_sub(times);
    }
}

/// The conditions for a save on `base`. `is_versioned`: the cluster keeps versions, without which there is no B.
///
/// `plan.others` also stands for a mount that hears of nothing: there an overwritten change could not even be reported.
pub(super) fn conditions(mode: CommitGuard, plan: Plan, base: &Base, nature: Nature, is_versioned: bool) -> Conditions {
    let nothing = Conditions { hash: false, version: false, preserve: false, prepare: false };
    let strictly = Conditions { preserve: true, version: true, prepare: !base.record.preserve_version, ..nothing };
    let can_predict = plan.predict && !nature.is_whole;
    let needs_all = nature.is_whole
        || match mode {
            CommitGuard::None => false,
            CommitGuard::Strict => true,
            CommitGuard::Auto => plan.others || !can_predict || (nature.takes_directory && !plan.has_kept),
        };
    // What may come out in two ways is compared with both afterwards.
    let hash = can_predict && !nature.is_ambiguous;
    match () {
        () if needs_all && is_versioned => strictly,
        () if mode == CommitGuard::None => nothing,
        // What somebody else has just made. Once it is sound the version sees everything, and the next save, on a base of our own,
        // need not keep this one's result.
        () if is_versioned && !base.is_own && !base.is_sound => {
            Conditions { hash, version: true, prepare: true, ..nothing }
        }
        () => Conditions { hash, version: is_versioned, ..nothing },
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

    /// One that asks for old versions to be kept.
    fn kept() -> Base {
        let fields = Collection { preserve_version: true, ..Collection::default() };
        Base { record: Arc::new(Record { fields, raw: Default::default() }), ..base(true, true) }
    }

    const ALONE: Plan = Plan { others: false, predict: true, has_kept: false };
    const IDLE: Duration = Duration::from_secs(10);
    const WHOLE: Nature = Nature { is_whole: true, is_ambiguous: false, takes_directory: false };

    fn usual(mode: CommitGuard, plan: Plan, base: &Base) -> Conditions {
        conditions(mode, plan, base, Nature::default(), true)
    }

    #[test]
    fn lone_writer_stores_no_versions() {
        for base in [base(true, false), base(false, true), base(true, true)] {
            let conditions = usual(CommitGuard::Auto, ALONE, &base);
            assert!(conditions.hash && conditions.version && !conditions.preserve && !conditions.prepare);
        }
    }

    #[test]
    fn every_sign_of_others_makes_a_save_see_everything() {
        let mut guard = Guard::default();
        let now = Instant::now();
        guard.saw_others(now);
        let watched = usual(CommitGuard::Auto, guard.plan(now, IDLE), &kept());
        assert!(watched.preserve && watched.version && !watched.prepare);
        assert!(!guard.plan(now + WATCH, IDLE).others, "it passes");
        let young = usual(CommitGuard::Auto, ALONE, &base(false, false));
        assert!(young.version && young.prepare && !young.preserve, "a fresh base of somebody else");
    }

    #[test]
    fn what_cannot_be_predicted_is_guarded_by_the_version() {
        let nature = Nature { is_ambiguous: true, ..Nature::default() };
        let ambiguous = conditions(CommitGuard::Auto, ALONE, &base(true, false), nature, true);
        assert!(ambiguous.version && !ambiguous.preserve && !ambiguous.hash);
        let mut guard = Guard::default();
        guard.was_mispredicted();
        assert!(usual(CommitGuard::Auto, guard.plan(Instant::now(), IDLE), &base(true, false)).preserve);
    }

    #[test]
    fn wrong_prediction_is_forgotten_after_some_right_ones_in_a_row() {
        let mut guard = Guard::default();
        let predicts = |guard: &Guard| guard.plan(Instant::now(), IDLE).predict;
        guard.was_mispredicted();
        guard.was_predicted(CONVINCING - 1);
        assert!(!predicts(&guard), "not yet");
        guard.was_mispredicted();
        guard.was_predicted(CONVINCING - 1);
        assert!(!predicts(&guard), "another wrong one counts anew");
        guard.was_predicted(1);
        assert!(predicts(&guard));
    }

    #[test]
    fn strict_is_strict_and_none_is_none_but_never_for_whole_manifests() {
        assert!(usual(CommitGuard::Strict, ALONE, &base(true, true)).preserve);
        let none = usual(CommitGuard::None, ALONE, &base(false, false));
        assert!(!none.hash && !none.version && !none.preserve && !none.prepare);
        assert!(conditions(CommitGuard::None, ALONE, &base(true, true), WHOLE, true).preserve);
    }

    #[test]
    fn cluster_without_versions_is_guarded_as_well_as_it_can_be() {
        let conditions = conditions(CommitGuard::Strict, ALONE, &base(true, true), Nature::default(), false);
        assert!(conditions.hash && !conditions.version && !conditions.preserve);
    }

    /// A clock that is ahead makes a record look old that somebody is just changing in place.
    #[test]
    fn what_has_to_see_everything_trusts_no_clock() {
        let (seems_old, watched) = (base(false, true), Plan { others: true, ..ALONE });
        assert!(usual(CommitGuard::Strict, ALONE, &seems_old).prepare);
        assert!(usual(CommitGuard::Auto, watched, &seems_old).prepare);
        assert!(conditions(CommitGuard::None, ALONE, &seems_old, WHOLE, true).prepare);
        assert!(!usual(CommitGuard::Strict, ALONE, &kept()).prepare, "the server's record says so");
        assert!(!usual(CommitGuard::Auto, ALONE, &seems_old).prepare, "a lone writer saves the request");
    }

    #[test]
    fn directory_that_goes_takes_nothing_of_others_along() {
        let takes = Nature { takes_directory: true, ..Nature::default() };
        let own = base(true, false);
        let auto = conditions(CommitGuard::Auto, ALONE, &own, takes, true);
        assert!(auto.version && auto.preserve && auto.prepare);
        let mut guard = Guard::default();
        let now = Instant::now();
        guard.has_kept(now);
        let series = |later| conditions(CommitGuard::Auto, guard.plan(now + later, IDLE), &own, takes, true);
        assert!(!series(IDLE / 2).preserve && !series(IDLE / 2).prepare, "no more versions than a lone writer makes");
        assert!(series(IDLE).preserve);
        assert!(!conditions(CommitGuard::None, ALONE, &own, takes, true).preserve);
    }
}
