//! What saves of ours have put at their paths of which we do not know whether they arrived.
//!
//! An answer can be lost, and a mount can die before it has one. What such a save brought looks afterwards like the work of another
//! client, and would be kept beside what was changed here since: a file that was written, saved and removed would come back
//! under a conflict's name. So before a save is sent it is noted, here and in the journal, what it puts at its
//! paths; and a merge counts whatever the server has of that as known to us.
//!
//! The next save that arrives ends it: on the state that it leads to, the conditions of all earlier ones fail. So does a look at the
//! server that takes in what it has, long after the save was sent; until then no time is too long, for what has arrived long ago is
//! seen when an outage ends.

use crate::actors::Error;
use crate::actors::collection::recording::bases;
use crate::actors::collection::replaying::{directories, piece, put, remove};
use crate::journal::{Base, Sent};
use crate::tree::commit::{Depth, Touched};
use crate::tree::{Editor, Snapshot, consists_of};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A request that was sent so long ago does not arrive any more: longer than proxies and servers let one wait.
pub(super) const LOST: Duration = Duration::from_secs(600);

/// Saves of which it is not known whether they arrived, with the moment when that was seen.
pub(super) type Unknown = Vec<(Instant, Sent)>;

/// May any of it be on its way still?
pub(super) fn may_arrive(unknown: &Unknown, now: Instant) -> bool {
    unknown.iter().any(|(at, _)| now.saturating_duration_since(*at) < LOST)
}

/// Forgets what does not arrive any more. To be called when what has arrived was taken in.
pub(super) fn forget_lost(unknown: &mut Unknown, now: Instant) {
    unknown.retain(|(at, _)| now.saturating_duration_since(*at) < LOST);
}

/// Puts some to the others. What is tried again and again is there once.
pub(super) fn add(unknown: &mut Unknown, saves: Vec<Sent>, now: Instant) {
    for save in saves {
        let known: HashMap<&[u8], &Base> = save.paths.iter().map(|(path, base)| (&path[..], base)).collect();
        for (_, earlier) in unknown.iter_mut() {
            earlier.paths.retain(|(path, base)| known.get(&path[..]) != Some(&base));
        }
        unknown.retain(|(_, earlier)| !earlier.paths.is_empty());
        unknown.push((now, save));
    }
}

type Paths = Vec<(Vec<u8>, Base)>;

/// What a save that makes `target` puts at these paths.
pub(super) fn of_paths<'p>(target: &Snapshot, paths: impl Iterator<Item = &'p [u8]>) -> Paths {
    paths.flat_map(|path| bases(target, path, target.find(path))).collect()
}

/// What there is after the save at the paths that were touched, also where it has nothing to send because the server has that
/// already: the journal may have a record of something else that was there in between. Not where it leaves something out, be it by
/// path, be it that `mine`, the state that is saved, is something else.
pub(super) fn of_touched(
    target: &Snapshot,
    mine: &Snapshot,
    touched: &Touched,
    is_left_out: impl Fn(&[u8]) -> bool,
) -> Paths {
    let is_as_here = |path: &[u8], there: &Base| match there {
        Base::Absent => mine.find(path).is_none(),
        Base::Directory => mine.find(path).is_some_and(|node| mine.is_directory(node)),
        Base::File { .. } => mine.find(path).is_some_and(|node| !mine.is_directory(node)),
    };
    let of_path = |(path, depth): (&[u8], Depth)| match target.find(path) {
        // What is in it was not touched.
        Some(node) if depth == Depth::Entry && target.is_directory(node) => vec![(path.to_vec(), Base::Directory)],
        node => bases(target, path, node),
    };
    let paths = touched.iter().flat_map(of_path);
    paths.filter(|(path, there)| !path.is_empty() && !is_left_out(path) && is_as_here(path, there)).collect()
}

/// Has the server at the path what was put there?
pub(super) fn is_there(theirs: &Snapshot, path: &[u8], put_there: &Base) -> Result<bool, Error> {
    Ok(match (put_there, theirs.find(path)) {
        (Base::Absent, found) => found.is_none(),
        (Base::Directory, Some(node)) => theirs.is_directory(node),
        (Base::File { pieces }, Some(node)) => {
            let pieces = pieces.iter().map(piece).collect::<Result<Vec<_>, Error>>()?;
            consists_of(theirs, node, &pieces)
        }
        (_, None) => false,
    })
}

/// Makes what was put at the path.
pub(super) fn make(editor: &mut Editor, path: &[u8], put_there: &Base) -> Result<(), Error> {
    match put_there {
        Base::Absent => remove(editor, path),
        Base::Directory => directories(editor, path).map(drop),
        Base::File { pieces } => {
            let pieces = pieces.iter().map(piece).collect::<Result<Vec<_>, Error>>()?;
            put(editor, path, &pieces)
        }
    }
}

/// What both sides know, given that the server has `theirs`: `base`, and what has arrived of what was sent.
pub(super) fn known_base(base: &Snapshot, theirs: &Snapshot, sent: &[Sent]) -> Result<Snapshot, Error> {
    let mut known = base.edit();
    for (path, put_there) in sent.iter().flat_map(|save| &save.paths) {
        if is_there(theirs, path, put_there)? {
            make(&mut known, path, put_there)?;
        }
    }
    Ok(known.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
    const Y: &str = "37b51d194a7513e45b56f6524f2d51f2+3";

    fn tree(text: &str) -> Snapshot {
        Snapshot::parse(text).unwrap()
    }

    fn paths(snapshot: &Snapshot) -> String {
        snapshot.to_manifest(crate::keep::manifest::Form::Python)
    }

    fn sent(target: &Snapshot, names: &[&[u8]]) -> Vec<Sent> {
        vec![Sent { state: 1, paths: of_paths(target, names.iter().copied()), has_arrived: false }]
    }

    #[test]
    fn what_arrived_is_known_and_what_did_not_is_not() {
        let before = tree(&format!(". {X} 0:3:removed\n"));
        let target = tree(&format!(". {X} 0:3:made\n./d {X} 0:3:inside\n"));
        let sent = sent(&target, &[b"made", b"removed", b"d"]);
        assert_eq!(paths(&known_base(&before, &target, &sent).unwrap()), paths(&target), "all of it");
        assert_eq!(paths(&known_base(&before, &before, &sent).unwrap()), paths(&before), "nothing of it");
    }

    #[test]
    fn save_that_is_tried_again_for_days_is_remembered_once() {
        let (x, y) = (tree(&format!(". {X} 0:3:a 0:3:b\n")), tree(&format!(". {Y} 0:3:a 0:3:b\n")));
        let (mut unknown, now) = (Unknown::new(), Instant::now());
        add(&mut unknown, sent(&x, &[b"a"]), now);
        for _ in 0..3 {
            add(&mut unknown, sent(&x, &[b"a", b"b"]), now);
        }
        assert_eq!(unknown.len(), 1);
        add(&mut unknown, sent(&y, &[b"a"]), now);
        assert_eq!(unknown.len(), 2, "either may arrive");
        assert!(may_arrive(&unknown, now) && !may_arrive(&unknown, now + LOST));
        forget_lost(&mut unknown, now + LOST);
        assert!(unknown.is_empty());
    }

    #[test]
    fn what_somebody_else_put_at_the_path_since_is_not_ours() {
        let before = tree("");
        let sent = sent(&tree(&format!(". {X} 0:3:a 0:3:b\n")), &[b"a", b"b"]);
        let theirs = tree(&format!(". {X} {Y} 3:3:a 0:3:b 0:3:c\n"));
        assert_eq!(paths(&known_base(&before, &theirs, &sent).unwrap()), format!(". {X} 0:3:b\n"));
    }

    #[test]
    fn any_of_several_that_may_have_arrived_is_known() {
        let before = tree("");
        let (first, second) = (tree(&format!(". {X} 0:3:a\n")), tree(&format!(". {Y} 0:3:a\n")));
        let sent = [sent(&first, &[b"a"]), sent(&second, &[b"a"])].concat();
        for theirs in [first, second] {
            assert_eq!(paths(&known_base(&before, &theirs, &sent).unwrap()), paths(&theirs));
        }
    }

    #[test]
    fn touched_paths_are_told_as_they_are_but_not_what_is_left_out() {
        let mine = tree(&format!(". {X} 0:3:back 0:3:half 0:3:new\n./d {X} 0:3:inside\n./t {X} 0:3:f\n"));
        let target = tree(&format!(". {X} {Y} 0:3:back 3:3:half 0:3:held\n./d {X} 0:3:inside\n./t {X} 0:3:f\n"));
        let entries = [b"back", b"half", b"held", b"gone"].map(|path| (&path[..], Depth::Entry));
        let others = [(&b"new"[..], Depth::Entry), (b"d", Depth::Entry), (b"t", Depth::Tree)];
        let touched = entries.into_iter().chain(others).collect();
        let told = of_touched(&target, &mine, &touched, |path| path == b"half");
        let told: Vec<_> = told.iter().map(|(path, _)| std::str::from_utf8(path).unwrap()).collect();
        assert_eq!(told, ["back", "d", "gone", "t", "t/f"]);
    }

    /// It may have arrived long ago, though nobody could look for it.
    #[test]
    fn what_was_sent_before_an_outage_of_hours_is_known_after_it() {
        let (before, theirs) = (tree(&format!(". {X} 0:3:a\n")), tree(&format!(". {Y} 0:3:a\n")));
        let (mut unknown, now) = (Unknown::new(), Instant::now());
        add(&mut unknown, sent(&theirs, &[b"a"]), now);
        add(&mut unknown, sent(&before, &[b"b"]), now + 20 * LOST);
        let sent: Vec<Sent> = unknown.into_iter().map(|(_, sent)| sent).collect();
        assert_eq!(paths(&known_base(&before, &theirs, &sent).unwrap()), paths(&theirs));
    }
}
