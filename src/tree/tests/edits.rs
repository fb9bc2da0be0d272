//! Edits against the obvious model: a map from path to content.

use super::*;
use crate::keep::Locator;
use crate::keep::manifest::Piece;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Paths without slash at the start; `None` is a directory.
pub(super) type Model = BTreeMap<String, Option<Vec<(BlockHashText, u64, u64)>>>;
type BlockHashText = String;

/// The tree as a model: files as their bytes' places, neighbouring bytes of a block joined.
pub(super) fn model_of(tree: &Snapshot) -> Model {
    let mut model = Model::new();
    let mut pending = vec![NodeId::ROOT];
    while let Some(directory) = pending.pop() {
        for child in tree.children(directory) {
            let path = String::from_utf8(tree.path(child)).unwrap();
            if tree.is_directory(child) {
                pending.push(child);
                model.insert(path, None);
                continue;
            }
            let mut content: Vec<(String, u64, u64)> = Vec::new();
            for segment in tree.segments(child, 0, u64::MAX) {
                let hash = tree.block_hash(segment.block).to_string();
                match content.last_mut() {
                    Some((last, offset, length)) if *last == hash && *offset + *length == segment.block_offset => {
                        *length += segment.length;
                    }
                    _ => content.push((hash, segment.block_offset, segment.length)),
                }
            }
            model.insert(path, Some(content));
        }
    }
    model
}

/// Content number `n`: none, or a piece of one of a few blocks, or two pieces.
pub(super) fn pieces(number: usize) -> Vec<Piece<Locator>> {
    let piece = |letter: u8, offset, length| {
        let block = Locator::new(crate::keep::BlockHash::of(&[letter; 8]), 8);
        Piece { block, block_size: 8, offset, length }
    };
    match number % 6 {
        0 => vec![],
        1 => vec![piece(b'a', 0, 8)],
        2 => vec![piece(b'a', 2, 3)],
        3 => vec![piece(b'b', 0, 8)],
        4 => vec![piece(b'a', 0, 4), piece(b'a', 4, 4)],
        _ => vec![piece(b'b', 1, 2), piece(b'a', 0, 8), piece(b'b', 0, 1)],
    }
}

pub(super) fn content(number: usize) -> Vec<(String, u64, u64)> {
    let mut joined: Vec<(String, u64, u64)> = Vec::new();
    for piece in pieces(number) {
        match joined.last_mut() {
            Some((hash, offset, length))
                if *hash == piece.block.hash().to_string() && *offset + *length == piece.offset =>
            {
                *length += piece.length;
            }
            _ => joined.push((piece.block.hash().to_string(), piece.offset, piece.length)),
        }
    }
    joined
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Set(String, usize),
    MakeDirectory(String),
    Remove(String),
    Rename(String, String),
    Fold,
    WriteAndRead(bool),
}

pub(super) fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[a-c]", Just("ä: \\".to_owned())], 1..4).prop_map(|names| names.join("/"))
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (path(), 0usize..6).prop_map(|(path, content)| Step::Set(path, content)),
        2 => path().prop_map(Step::MakeDirectory),
        2 => path().prop_map(Step::Remove),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => Just(Step::Fold),
        1 => any::<bool>().prop_map(Step::WriteAndRead),
    ]
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn is_directory(model: &Model, path: &str) -> bool {
    path.is_empty() || matches!(model.get(path), Some(None))
}

fn subtree(model: &Model, path: &str) -> Vec<String> {
    let inside = format!("{path}/");
    model.keys().filter(|key| *key == path || key.starts_with(&inside)).cloned().collect()
}

/// One step on tree and model; a step that cannot be done changes neither.
pub(super) fn apply(tree: &Snapshot, model: &mut Model, step: &Step) -> Snapshot {
    let mut editor = tree.edit();
    let parent_of = |path: &str| tree.find(split(path).0.as_bytes());
    match step {
        Step::Set(path, number) => {
            let name = split(path).1.as_bytes();
            let done = parent_of(path).map(|parent| editor.set_file(parent, name, &pieces(*number)));
            let possible = is_directory(model, split(path).0) && !is_directory(model, path);
            assert_eq!(matches!(done, Some(Ok(_))), possible, "{step:?}");
            if possible {
                model.insert(path.clone(), Some(content(*number)));
            }
        }
        Step::MakeDirectory(path) => {
            let done = parent_of(path).map(|parent| editor.make_directory(parent, split(path).1.as_bytes()));
            let possible = is_directory(model, split(path).0) && !model.contains_key(path);
            assert_eq!(matches!(done, Some(Ok(_))), possible, "{step:?}");
            if possible {
                model.insert(path.clone(), None);
            }
        }
        Step::Remove(path) => {
            let done = parent_of(path).map(|parent| editor.remove(parent, split(path).1.as_bytes()));
            assert_eq!(matches!(done, Some(Ok(_))), model.contains_key(path), "{step:?}");
            subtree(model, path).iter().for_each(|key| drop(model.remove(key)));
        }
        Step::Rename(from, to) => {
            let inside = to.starts_with(&format!("{from}/"));
            let possible = model.contains_key(from) && is_directory(model, split(to).0) && !inside;
            let done = match (parent_of(from), parent_of(to)) {
                (Some(a), Some(b)) => Some(editor.rename(a, split(from).1.as_bytes(), b, split(to).1.as_bytes())),
                _ => None,
            };
            assert_eq!(matches!(done, Some(Ok(_))), possible, "{step:?}");
            if possible && from != to {
                let moved: Vec<_> =
                    subtree(model, from).into_iter().map(|key| (key.clone(), model.remove(&key).unwrap())).collect();
                subtree(model, to).iter().for_each(|key| drop(model.remove(key)));
                model.extend(moved.into_iter().map(|(key, value)| (format!("{to}{}", &key[from.len()..]), value)));
            }
        }
        Step::Fold => {
            let fold = tree.fold();
            for path in model.keys() {
                let old = tree.find(path.as_bytes()).unwrap();
                assert_eq!(fold.node(old), fold.snapshot.find(path.as_bytes()));
            }
            return fold.snapshot;
        }
        Step::WriteAndRead(go) => {
            let form = if *go { Form::Go } else { Form::Python };
            let text = tree.to_manifest(form);
            assert_eq!(crate::keep::manifest::validate(&text), Ok(()));
            let read = Snapshot::parse(&text).unwrap();
            assert_eq!(read.to_manifest(form), text, "a normal form is its own normal form");
            return read;
        }
    }
    editor.finish()
}

/// Listing, resuming by index and by name, and looking up agree.
fn check_listings(tree: &Snapshot) {
    let mut pending = vec![NodeId::ROOT];
    while let Some(directory) = pending.pop() {
        let all: Vec<_> = tree.children(directory).collect();
        assert_eq!(tree.children(directory).count(), all.len());
        assert!(all.is_sorted_by(|&a, &b| tree.name(a) < tree.name(b)));
        for (index, &child) in all.iter().enumerate() {
            assert_eq!(tree.children(directory).nth(index), Some(child));
            assert_eq!(tree.children(directory).skip(index).collect::<Vec<_>>(), all[index..]);
            assert_eq!(tree.children_after(directory, tree.name(child)).collect::<Vec<_>>(), all[index + 1..]);
            assert_eq!(tree.lookup(directory, tree.name(child)), Some(child));
            assert_eq!(tree.parent(child), directory);
            assert!(tree.is_linked(child));
            if tree.is_directory(child) {
                pending.push(child);
            }
        }
        assert_eq!(tree.children(directory).nth(all.len()), None);
        assert_eq!(tree.children_after(directory, b"").collect::<Vec<_>>(), all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_behaves_as_a_map_under_random_edits(steps in proptest::collection::vec(step(), 1..40)) {
        let mut tree = Snapshot::empty();
        let mut model = Model::new();
        let mut history = Vec::new();
        for step in &steps {
            history.push((tree.clone(), model.clone()));
            tree = apply(&tree, &mut model, step);
            prop_assert_eq!(model_of(&tree), model.clone(), "after {:?}", step);
            check_listings(&tree);
        }
        // Older snapshots are what they were.
        for (tree, model) in history {
            prop_assert_eq!(model_of(&tree), model);
        }
    }
}

#[test]
fn an_open_file_is_followed_by_its_node() {
    let tree = read(". F 0:3:a\n./d B 0:3:b\n");
    let (file, directory) = (tree.find(b"a").unwrap(), tree.find(b"d").unwrap());
    let mut editor = tree.edit();
    editor.rename(NodeId::ROOT, b"a", directory, b"b").unwrap();
    let replaced = tree.find(b"d/b").unwrap();
    editor.set_content(file, &pieces(1)).unwrap();
    let moved = editor.finish();
    assert_eq!(moved.path(file), b"d/b");
    assert_eq!((moved.size(file), moved.size(replaced), tree.size(file)), (8, 3, 3));
    assert!(moved.is_linked(file) && !moved.is_linked(replaced));
    let mut editor = moved.edit();
    editor.remove(NodeId::ROOT, b"d").unwrap();
    editor.set_content(file, &pieces(3)).unwrap();
    let removed = editor.finish();
    assert!(!removed.is_linked(file));
    assert_eq!((removed.size(file), removed.path(file)), (8, b"d/b".to_vec()));
    assert_eq!(removed.fold().node(file), None);
}

#[test]
fn edits_that_make_no_sense_are_refused() {
    let tree = read(". F 0:3:a\n./d/e B 0:3:b\n");
    let (file, directory) = (tree.find(b"a").unwrap(), tree.find(b"d").unwrap());
    let inner = tree.find(b"d/e").unwrap();
    let mut editor = tree.edit();
    for name in [&b""[..], b".", b"..", b"a/b"] {
        assert_eq!(editor.make_directory(NodeId::ROOT, name), Err(EditError::InvalidName));
    }
    assert_eq!(editor.make_directory(file, b"x"), Err(EditError::NotADirectory));
    assert_eq!(editor.make_directory(NodeId::ROOT, b"a"), Err(EditError::Exists));
    assert_eq!(editor.set_file(NodeId::ROOT, b"d", &[]), Err(EditError::IsADirectory));
    assert_eq!(editor.set_content(NodeId(99), &[]), Err(EditError::NotFound));
    assert_eq!(editor.remove(NodeId::ROOT, b"x"), Err(EditError::NotFound));
    assert_eq!(editor.rename(NodeId::ROOT, b"d", inner, b"d"), Err(EditError::IntoItself));
    assert_eq!(editor.rename(NodeId::ROOT, b"d", directory, b"d"), Err(EditError::IntoItself));
    assert!(!editor.finish().is_edited());
}

#[test]
fn many_edits_in_a_large_directory_do_not_copy_it_each_time() {
    let names: String = (0..100_000).map(|number| format!(" 0:3:f{number:06}")).collect();
    let mut tree = read(&format!(". F{names}\n"));
    let before = std::time::Instant::now();
    for number in 0..10_000 {
        let mut editor = tree.edit();
        editor.set_file(NodeId::ROOT, format!("g{number}").as_bytes(), &pieces(1)).unwrap();
        tree = editor.finish();
    }
    assert_eq!(tree.children(NodeId::ROOT).count(), 110_000);
    // 10,000 copies of 100,000 numbers would take minutes.
    assert!(before.elapsed().as_secs() < 20, "{:?}", before.elapsed());
}
