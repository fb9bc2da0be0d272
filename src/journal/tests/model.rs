//! The journal against a plain list, and what may be left out against a file tree.

use super::super::replay::{self, Changes};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PATHS: [&str; 8] = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "da"];

/// A file (content and time) or a folder.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    File(Content, DateTime<Utc>),
    Folder,
}

type Tree = BTreeMap<String, Node>;

fn is_in(path: &str, folder: &str) -> bool {
    path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// What a file system would do; `None` where it would refuse.
fn apply(tree: &Tree, change: &Change) -> Option<Tree> {
    let text = |path: &[u8]| String::from_utf8(path.to_owned()).unwrap();
    let has_parent =
        |path: &str| path.rsplit_once('/').is_none_or(|(parent, _)| tree.get(parent) == Some(&Node::Folder));
    let mut next = tree.clone();
    match &change.operation {
        Operation::File { path, content, modified } => {
            let path = text(path);
            if !has_parent(&path) || tree.get(&path) == Some(&Node::Folder) {
                return None;
            }
            let kept = match tree.get(&path) {
                // The hard reading of "nobody said when": as it was.
                Some(Node::File(_, time)) if *time != self::time(0) => *time,
                _ => self::time(0),
            };
            next.insert(path, Node::File(content.clone(), modified.unwrap_or(kept)));
        }
        Operation::MakeDirectory { path } => {
            let path = text(path);
            if !has_parent(&path) || tree.contains_key(&path) {
                return None;
            }
            next.insert(path, Node::Folder);
        }
        Operation::Remove { path } => {
            let path = text(path);
            tree.get(&path)?;
            next.retain(|other, _| !is_in(other, &path));
        }
        Operation::Rename { from, to } => {
            let (from, to) = (text(from), text(to));
            tree.get(&from)?;
            if !has_parent(&to) || is_in(&to, &from) || is_in(&from, &to) {
                return None;
            }
            next.retain(|other, _| !is_in(other, &from) && !is_in(other, &to));
            let moved = tree.iter().filter(|(other, _)| is_in(other, &from));
            next.extend(moved.map(|(other, node)| (format!("{to}{}", &other[from.len()..]), node.clone())));
        }
        Operation::Modified { path, time } => match next.get_mut(&text(path))? {
            Node::File(_, modified) => *modified = *time,
            Node::Folder => {}
        },
    }
    Some(next)
}

fn operation() -> impl Strategy<Value = Operation> {
    let path = || proptest::sample::select(&PATHS[..]).prop_map(|path| path.as_bytes().to_vec());
    let moment = || (1..9_i64).prop_map(time);
    prop_oneof![
        6 => (path(), vec(any::<u8>(), 0..4), proptest::option::weighted(0.3, moment())).prop_map(|(path, bytes, modified)| {
            let content = Content {
                size: bytes.len() as u64,
                backing: None,
                extents: vec![Extent { length: bytes.len() as u64, source: Source::Inline(bytes.into()) }],
            };
            Operation::File { path, content, modified }
        }),
        3 => path().prop_map(|path| Operation::MakeDirectory { path }),
        1 => path().prop_map(|path| Operation::Remove { path }),
        1 => (path(), path()).prop_map(|(from, to)| Operation::Rename { from, to }),
        1 => (path(), moment()).prop_map(|(path, time)| Operation::Modified { path, time }),
    ]
}

fn base() -> impl Strategy<Value = Base> {
    (0..4_u64).prop_map(|length| match length {
        0 => Base::Absent,
        1 => Base::Directory,
        length => Base::File { pieces: vec![Piece { locator: "x".into(), block_size: 9, offset: 0, length }] },
    })
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let bases = vec((proptest::sample::select(&PATHS[..]).prop_map(|path| path.as_bytes().to_vec()), base()), 0..2);
    vec(
        (operation(), bases).prop_map(|(operation, bases)| Change {
            operation,
            bases,
            time: time(1),
            state: 0,
            after: Vec::new(),
            moved_to: None,
        }),
        0..40,
    )
}

fn resolved(changes: &Changes) -> BTreeMap<Vec<u8>, Base> {
    replay::bases(changes.values()).into_iter().map(|(path, base)| (path.to_owned(), base.clone())).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize, Change, bool),
    /// Of the pending changes of the collection, how many.
    Settle(usize, usize),
    Rewrite,
    Distrust,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..2_usize, operation(), any::<bool>())
            .prop_map(|(which, operation, durable)| Step::Append(which, change(operation), durable)),
        4 => (0..2_usize, 0..6_usize).prop_map(|(which, count)| Step::Settle(which, count)),
        1 => Just(Step::Rewrite),
        1 => Just(Step::Distrust),
        1 => Just(Step::Kill),
    ]
}

fn expected(model: &[Vec<(Sequence, Change)>; 2]) -> BTreeMap<String, Changes> {
    [ONE, TWO]
        .iter()
        .zip(model)
        .filter(|(_, changes)| !changes.is_empty())
        .map(|(uuid, changes)| {
            let mut changes: Changes = changes.iter().cloned().collect();
            replay::thin(&mut changes);
            (uuid.to_string(), changes)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_left_out_makes_no_difference(wanted in changes()) {
        let (mut tree, mut changes) = (Tree::new(), Changes::new());
        for change in wanted {
            if let Some(next) = apply(&tree, &change) {
                tree = next;
                changes.insert(Sequence(changes.len() as u64 + 1), change);
            }
        }
        let mut thin = changes.clone();
        replay::thin(&mut thin);
        let replayed = thin.values().try_fold(Tree::new(), |tree, change| apply(&tree, change));
        prop_assert_eq!(replayed, Some(tree));
        prop_assert_eq!(resolved(&thin), resolved(&changes));
        let mut again = thin.clone();
        replay::thin(&mut again);
        prop_assert_eq!(again, thin);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_journal_remembers_what_a_list_does_through_rewrites_and_kills(steps in vec(step(), 0..60)) {
        let (_directory, account) = account();
        let mut journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
        let mut model: [Vec<(Sequence, Change)>; 2] = Default::default();
        for step in steps.into_iter().chain([Step::Kill]) {
            match step {
                Step::Append(which, change, durable) => {
                    let sequence = journal.append([ONE, TWO][which], &change, durable).unwrap();
                    model[which].push((sequence, change));
                }
                Step::Settle(which, count) => {
                    let count = count.min(model[which].len());
                    let Some((up_to, _)) = model[which][..count].last().cloned() else { continue };
                    journal.settled([ONE, TWO][which], up_to).unwrap();
                    model[which].drain(..count);
                }
                Step::Rewrite => journal.log().rewrite().unwrap(),
                Step::Distrust => journal.log().distrust(),
                Step::Kill => {
                    kill(journal);
                    let mut found = Journal::recover(&account).unwrap();
                    let wanted = expected(&model);
                    match found.pop() {
                        Some(found) => {
                            prop_assert_eq!(&found.damage, &None);
                            let found_changes: BTreeMap<String, Changes> = found.collections.iter()
                                .map(|(uuid, changes)| (uuid.clone(), changes.iter().cloned().collect())).collect();
                            prop_assert_eq!(found_changes, wanted);
                            journal = found.journal;
                        }
                        None => {
                            prop_assert!(wanted.is_empty());
                            journal = Journal::create(&account, &info(), NO_LIMIT).unwrap();
                        }
                    }
                }
            }
            for (uuid, changes) in [ONE, TWO].iter().zip(&model) {
                prop_assert_eq!(journal.pending(uuid), !changes.is_empty());
            }
            prop_assert_eq!(journal.size() == log::LEAST, model.iter().all(Vec::is_empty));
        }
    }
}
