//! Which changes decide over what a save has put at a path.

use super::change::{Change, Operation};
use crate::tree::path::ancestors;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The changes that are pending, by path.
#[derive(Default)]
pub struct Around<'c>(BTreeMap<&'c [u8], At>);

struct At {
    /// Of the first and of the last change, in the order of states.
    states: RangeInclusive<u64>,
    removes: bool,
}

impl<'c> Around<'c> {
    pub fn of(changes: impl Iterator<Item = &'c Change>) -> Around<'c> {
        let mut around: BTreeMap<&[u8], At> = BTreeMap::new();
        for change in changes {
            let (state, removes) = (change.state, matches!(change.operation, Operation::Remove { .. }));
            let at = around.entry(change.operation.path()).or_insert(At { states: state..=state, removes });
            at.states = both(&at.states, &(state..=state));
            at.removes |= removes;
        }
        Around(around)
    }

    /// The states of the first and the last change to the path, to a directory above it that was removed, or to anything in it. `None`:
    /// there is none.
    pub fn states(&self, path: &[u8]) -> Option<RangeInclusive<u64>> {
        let above = ancestors(path).chain([&b""[..]]).filter_map(|above| self.0.get(above)).filter(|at| at.removes);
        let inside = [path, b"/"].concat();
        let below = self.0.range(&inside[..]..).take_while(|(other, _)| other.starts_with(&inside));
        let all = self.0.get(path).into_iter().chain(above).chain(below.map(|(_, at)| at));
        all.map(|at| at.states.clone()).reduce(|one, other| both(&one, &other))
    }
}

fn both(one: &RangeInclusive<u64>, other: &RangeInclusive<u64>) -> RangeInclusive<u64> {
    *one.start().min(other.start())..=*one.end().max(other.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: u64, operation: Operation) -> Change {
        let (bases, after) = (Vec::new(), Vec::new());
        Change { operation, bases, time: chrono::Utc::now(), state, after, moved_to: None }
    }

    #[test]
    fn removed_directory_decides_over_what_is_in_it_and_a_made_one_does_not() {
        let changes = [
            at(3, Operation::Remove { path: b"gone".to_vec() }),
            at(4, Operation::MakeDirectory { path: b"made".to_vec() }),
            at(1, Operation::Remove { path: b"made/old".to_vec() }),
            at(2, Operation::Remove { path: b"made/old".to_vec() }),
        ];
        let around = Around::of(changes.iter());
        let states = ["gone", "gone/x", "made", "made/old", "made/other", "made-not", "other"]
            .map(|path| around.states(path.as_bytes()));
        assert_eq!(states, [Some(3..=3), Some(3..=3), Some(1..=4), Some(1..=2), None, None, None]);
    }
}
