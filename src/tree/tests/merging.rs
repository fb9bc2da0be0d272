//! The table of `arv-mount.md` 3.4, row by row, and that nothing is ever lost.

use super::edits::{Model, Step, apply, model_of, step};
use super::*;
use chrono::{DateTime, Utc};
use proptest::prelude::*;

fn time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_380_943, 0).unwrap()
}

const SUFFIX: &str = "~20261122-205543~conflict~";

/// Merges three manifests; the listing of the result and the conflicts.
fn merged(base: &str, mine: &str, theirs: &str) -> (Vec<String>, Vec<String>) {
    let merge = merge(&read(base), &read(mine), &read(theirs), time(), |_, _| false).unwrap();
    let conflicts = merge.conflicts.iter().map(|conflict| String::from_utf8(conflict.kept_as.clone()).unwrap());
    let mut listed: Vec<String> = model_of(&merge.snapshot)
        .into_iter()
        .map(|(path, content)| match content {
            None => format!("{path}/"),
            Some(content) => {
                let letters = content.iter().map(|(hash, _, _)| match &hash[..2] {
                    "ac" => 'F',
                    "37" => 'B',
                    _ => 'Z',
                });
                format!("{path}={}", letters.collect::<String>())
            }
        })
        .collect();
    listed.sort();
    (listed, conflicts.collect())
}

fn quiet(base: &str, mine: &str, theirs: &str, expected: &[&str]) {
    assert_eq!(merged(base, mine, theirs), (expected.iter().map(|text| text.to_string()).collect(), vec![]));
}

fn conflict(base: &str, mine: &str, theirs: &str, expected: &[&str], kept_as: &str) {
    let expected: Vec<_> = expected.iter().map(|text| text.replace('@', SUFFIX)).collect();
    assert_eq!(merged(base, mine, theirs), (expected, vec![kept_as.replace('@', SUFFIX)]));
}

#[test]
fn added_by_them() {
    quiet("", "", ". F 0:3:n\n./d B 0:3:x\n", &["d/", "d/x=B", "n=F"]);
    quiet("", ". F 0:3:n\n", ". F 0:3:n\n", &["n=F"]);
    conflict("", ". F 0:3:n\n", ". B 0:3:n\n", &["n=F", "n@=B"], "n@");
    conflict("", ". F 0:3:n\n", "./n B 0:3:x\n", &["n=F", "n@/", "n@/x=B"], "n@");
    conflict("", "./n F 0:3:x\n", ". B 0:3:n\n", &["n/", "n/x=F", "n@=B"], "n@");
}

#[test]
fn a_directory_made_by_both_is_one_directory() {
    quiet("", "./d F 0:3:mine\n", "./d B 0:3:theirs\n", &["d/", "d/mine=F", "d/theirs=B"]);
    quiet("", "./d E 0:0:\\056\n", "./d B 0:3:theirs\n", &["d/", "d/theirs=B"]);
    conflict("", "./d F 0:3:x\n", "./d B 0:3:x\n", &["d/", "d/x=F", "d/x@=B"], "d/x@");
}

#[test]
fn changed_by_them() {
    quiet(". F 0:3:a\n", ". F 0:3:a\n", ". B 0:3:a\n", &["a=B"]);
    quiet(". F 0:3:a\n", ". F 0:3:a\n", "./a B 0:3:x\n", &["a/", "a/x=B"]);
    quiet("./a F 0:3:x\n", "./a F 0:3:x\n", ". B 0:3:a\n", &["a=B"]);
    quiet(". F 0:3:a\n", ". B 0:3:a\n", ". B 0:3:a\n", &["a=B"]);
    conflict(". F 0:3:a\n", ". B 0:3:a\n", ". Z 0:3:a\n", &["a=B", "a@=Z"], "a@");
    conflict(". F 0:3:a\n", "", ". Z 0:3:a\n", &["a@=Z"], "a@");
    conflict("./a F 0:3:x\n", "./a F B 0:3:x 3:3:y\n", ". Z 0:3:a\n", &["a/", "a/x=F", "a/y=B", "a@=Z"], "a@");
    conflict("./a F 0:3:x\n", ". B 0:3:a\n", "./a Z 0:3:x\n", &["a=B", "a@/", "a@/x=Z"], "a@");
}

#[test]
fn removed_by_them() {
    quiet(". F 0:3:a\n./d B 0:3:x\n", ". F 0:3:a\n./d B 0:3:x\n", "", &[]);
    quiet(". F 0:3:a\n", ". B 0:3:a\n", "", &["a=B"]);
    quiet(". F 0:3:a\n", "", "", &[]);
    quiet("./d F 0:3:x\n", "./d F B 0:3:x 3:3:y\n", "", &["d/", "d/y=B"]);
    quiet(
        "./d/e F 0:3:x 0:3:z\n./d/f F 0:3:x\n",
        "./d/e F B 0:3:x 3:3:z\n./d/f F 0:3:x\n",
        "",
        &["d/", "d/e/", "d/e/z=B"],
    );
    quiet("./d F 0:3:x 0:3:y\n", "./d F 0:3:x\n", "", &[]);
}

#[test]
fn left_alone_by_them() {
    quiet(". F 0:3:a\n", ". B 0:3:a\n", ". F 0:3:a\n", &["a=B"]);
    quiet("./d/e F 0:3:x\n", "", "./d/e F 0:3:x\n", &[]);
    quiet("./d F 0:3:x\n", ". B 0:3:d\n", "./d F 0:3:x\n", &["d=B"]);
}

#[test]
fn a_directory_that_we_removed_is_made_again_only_for_what_is_new() {
    quiet("./d/e F 0:3:x\n", "", "./d/e F B 0:3:x 3:3:new\n", &["d/", "d/e/", "d/e/new=B"]);
    conflict("./d/e F 0:3:x\n", "", "./d/e B 0:3:x\n", &["d/", "d/e/", "d/e/x@=B"], "d/e/x@");
}

#[test]
fn equal_bytes_are_no_conflict_however_they_are_laid_out() {
    quiet(". Z 0:3:a\n", ". F B 0:6:a\n", ". F 0:3:a\n. B 0:3:a\n", &["a=FB"]);
    let (base, mine, theirs) = (read(""), read(". F 0:3:a\n"), read(". B 0:3:a\n"));
    let merge = merge(&base, &mine, &theirs, time(), |a, b| {
        assert_eq!((mine.path(a), theirs.path(b)), (b"a".to_vec(), b"a".to_vec()));
        true
    });
    assert_eq!(merge.unwrap().conflicts, []);
}

#[test]
fn a_file_that_grew_stays_the_same_node_and_one_that_was_replaced_does_not() {
    let base = read(". F 0:3:log 0:3:other\n");
    let merge = merge(&base, &base, &read(". F B 0:6:log\n. Z 0:3:other\n"), time(), |_, _| false).unwrap();
    let node = |tree: &Snapshot, path: &[u8]| tree.find(path).unwrap();
    assert_eq!(node(&base, b"log"), node(&merge.snapshot, b"log"));
    assert_eq!(merge.snapshot.size(node(&base, b"log")), 6);
    assert_ne!(node(&base, b"other"), node(&merge.snapshot, b"other"));
    assert_eq!(merge.snapshot.size(node(&base, b"other")), 3);
}

#[test]
fn conflict_names_do_not_overwrite_each_other_or_grow_too_long() {
    let base = read("");
    let mine = read(&format!(". F 0:3:a 0:2:a{SUFFIX}\n"));
    let merge = merge(&base, &mine, &read(". B 0:3:a\n"), time(), |_, _| false).unwrap();
    assert_eq!(merge.conflicts[0].kept_as, b"a~20261122-205544~conflict~");
    let long = conflict_name("ä".repeat(127).as_bytes(), time());
    assert!(long.len() <= 255 && std::str::from_utf8(&long).is_ok());
}

#[test]
fn merging_again_changes_nothing_more() {
    let (base, mine, theirs) = (read(". F 0:3:a\n"), read(". B 0:3:a\n"), read(". Z 0:3:a\n"));
    let once = merge(&base, &mine, &theirs, time(), |_, _| false).unwrap().snapshot;
    let twice = merge(&base, &once, &theirs, time(), |_, _| false).unwrap().snapshot;
    assert_eq!(model_of(&once), model_of(&twice));
}

fn edited(tree: &Snapshot, model: &Model, steps: &[Step]) -> (Snapshot, Model) {
    let mut model = model.clone();
    let tree = steps.iter().fold(tree.clone(), |tree, step| apply(&tree, &mut model, step));
    (tree, model)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What either side has changed is in the result: ours under its path, theirs under its path or beside it.
    #[test]
    fn a_merge_loses_no_side(
        start in proptest::collection::vec(step(), 0..20),
        ours in proptest::collection::vec(step(), 0..8),
        others in proptest::collection::vec(step(), 0..8),
    ) {
        let (base, base_model) = edited(&Snapshot::empty(), &Model::new(), &start);
        let (mine, mine_model) = edited(&base, &base_model, &ours);
        let (theirs, theirs_model) = edited(&base, &base_model, &others);
        let merge = merge(&base, &mine, &theirs, time(), |_, _| false).unwrap();
        let result = model_of(&merge.snapshot);
        for (path, content) in mine_model.iter().filter(|(path, content)| base_model.get(*path) != Some(content)) {
            prop_assert_eq!(result.get(path), Some(content), "ours: {}", path);
        }
        for (path, content) in theirs_model.iter().filter(|(path, content)| base_model.get(*path) != Some(content)) {
            let beside = |key: &str| {
                let names = key.split('/').map(|name| name.split('~').next().unwrap_or(name));
                names.collect::<Vec<_>>().join("/") == *path
            };
            let there = result.iter().any(|(key, found)| beside(key) && found == content);
            prop_assert!(there, "theirs: {} is not in {:?}", path, result);
        }
        // Nothing comes from nowhere.
        for (path, content) in result.iter().filter(|(path, _)| !path.contains('~')) {
            prop_assert!(mine_model.get(path) == Some(content) || theirs_model.get(path) == Some(content), "{}", path);
        }
        // Who changed nothing gets the other's tree.
        if mine_model == base_model {
            prop_assert_eq!(&result, &theirs_model);
        }
        if theirs_model == base_model {
            prop_assert_eq!(&result, &mine_model);
        }
        prop_assert_eq!(diff(&mine, &mine.fold().snapshot), vec![]);
    }
}
