use super::super::{Replaced, replace_files};
use super::*;
use crate::keep::manifest::tests::expand;
use crate::keep::manifest::{self, validate};
use crate::keep::signature::strip_signatures;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Two signatures of one block, as they are made in two seconds.
const SIGNATURES: [&str; 2] =
    ["+A89118b78732c33104a4d6231e8b5a5fa1e4301e3@7ffffffe", "+A0123456789012345678901234567890123456789@7fffffff"];

fn edits(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(target, source)| ((*target).to_owned(), (*source).to_owned())).collect()
}

fn plainly(before: &str, edits: &BTreeMap<String, String>, given: &str) -> Option<Replaced> {
    replace_files(Some(before), edits, given, |_| Err(())).ok()
}

fn hinted(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    manifest::hinted_locators(text, |locator| {
        found.insert(locator.as_str().to_owned());
    });
    found
}

/// Edits in both ways, and compares all that comes out. `None`: the plain algorithm has to say.
fn edit(kept: &Kept, before: &str, edits: &BTreeMap<String, String>, given: &str) -> Option<Edited> {
    let edited = kept.edit(edits, given)?;
    let plain = plainly(before, edits, given).expect("the plain algorithm takes it too");
    assert!(!plain.ambiguous);
    assert_eq!(edited.text, strip_signatures(&plain.manifest_text));
    assert_eq!(edited.text, manifest::portable_text(&edited.text), "nothing is stored but hash and size");
    assert_eq!(validate(&edited.text), Ok(()));
    let summary = manifest::file_count_and_size(&edited.text).unwrap();
    assert_eq!((edited.file_count, edited.file_size_total), (summary.file_count, summary.file_size_total));
    let signed: BTreeSet<String> = edited.signed.iter().map(|locator| locator.to_string()).collect();
    assert_eq!(signed, hinted(&plain.manifest_text));
    if let Some(kept) = &edited.kept {
        let read = reader::read(&edited.text, Origin::Current).unwrap();
        assert_eq!(kept.0.to_manifest(), read.to_manifest());
        let anew = Kept::read(&edited.text).unwrap();
        assert_eq!(
            kept.0.totals().map(|totals| (totals.text, totals.levels)),
            anew.0.totals().map(|it| (it.text, it.levels))
        );
    }
    Some(edited)
}

#[test]
fn one_edit_after_the_other_gives_what_reading_the_text_each_time_gives() {
    let mut text = expand(". F 0:3:top\n./d F B 0:3:a 3:3:b\n./d/e Z 0:3:c\n");
    let mut kept = Kept::read(&text).unwrap();
    let given = format!(". 73feffa4b7f6bb68e44cf984c85f6e88+3{} 0:3:x 0:0:y\n", SIGNATURES[0]);
    let steps: [&[(&str, &str)]; 7] = [
        &[("/d/new", "manifest_text/x")],
        &[("/d/e/c", "")],
        &[("/top", "manifest_text/y"), ("/d/a", "")],
        &[("/d/e", ""), ("/f/g/h", "manifest_text/x")],
        &[("/one", "manifest_text/"), ("/other", "manifest_text/")],
        &[("/one/x", "")],
        &[("/d", ""), ("/f", ""), ("/one", ""), ("/other", ""), ("/top", "")],
    ];
    for step in steps {
        let given = if step.iter().all(|(_, source)| source.is_empty()) { "" } else { given.as_str() };
        let edited = edit(&kept, &text, &edits(step), given).expect("nothing here is uncertain");
        (text, kept) = (edited.text, edited.kept.expect("it can be kept"));
    }
    assert_eq!(text, "");
}

#[test]
fn only_what_has_changed_is_written_again() {
    let kept = Kept::read(&expand("./a F 0:3:x\n./b F 0:3:x\n./b/c F 0:3:x\n")).unwrap();
    let line = |kept: &Kept, path: &str| match kept.0.find(path) {
        Ok(Node::Directory(directory)) => directory.line().unwrap().text.clone(),
        other => panic!("{other:?}"),
    };
    let after = kept.edit(&edits(&[("/b/c/x", "")]), "").unwrap().kept.unwrap();
    assert!(Arc::ptr_eq(&line(&kept, "a"), &line(&after, "a")));
    assert!(Arc::ptr_eq(&line(&kept, "b"), &line(&after, "b")));
    assert!(!Arc::ptr_eq(&line(&kept, "b/c"), &line(&after, "b/c")));
}

#[test]
fn what_is_uncertain_is_left_to_the_plain_algorithm() {
    let kept = Kept::read(&expand("./d F 0:3:a\n")).unwrap();
    let one = |source: &str| edits(&[("/d/b", source)]);
    let given = |locator: &str| format!(". {locator} 0:3:x\n");
    let uncertain = |edits: &BTreeMap<String, String>, given: &str| kept.edit(edits, given).is_none();
    let bar = "37b51d194a7513e45b56f6524f2d51f2+3";
    assert!(!uncertain(&one("manifest_text/x"), &given(bar)));
    for locator in [
        format!("{bar}+Kzzzzz"),
        "37B51d194a7513e45b56f6524f2d51f2+3".to_owned(),
        "nonsense+3".to_owned(),
        format!("acbd18db4cc2f85cedef654fccc4a4d8+3{}", SIGNATURES[0]),
    ] {
        assert!(uncertain(&one("manifest_text/x"), &given(&locator)), "{locator}");
    }
    assert!(uncertain(&one("manifest_text/nothing"), &given(bar)));
    assert!(uncertain(&one("current/a"), ""));
    assert!(uncertain(&one("1f4b0bc7583c2a7f9102c395f4ffc5e3+45/foo"), ""));
    assert!(uncertain(&one(""), &given(bar)));
    assert!(uncertain(&edits(&[("/", "manifest_text/")]), &given(bar)));
    for text in [". F+Kzzzzz 0:3:x\n", ". x+3 0:3:x\n", ". F 0:4:x\n", ". F 0:3:x"] {
        assert!(Kept::read(&expand(text).replace("F+K", "acbd18db4cc2f85cedef654fccc4a4d8+3+K")).is_none(), "{text}");
    }
}

#[test]
fn a_block_signed_twice_is_stored_twice_and_nothing_is_kept() {
    let [one, two] = SIGNATURES.map(|signature| format!("acbd18db4cc2f85cedef654fccc4a4d8+3{signature}"));
    let edited = edit(
        &Kept::read("").unwrap(),
        "",
        &edits(&[("/d", "manifest_text/")]),
        &format!(". {one} {two} 0:3:a 3:3:b\n"),
    )
    .unwrap();
    assert_eq!(edited.text, expand("./d F F 0:3:a 3:3:b\n"));
    assert!(edited.kept.is_none());
}

#[test]
fn a_tree_too_deep_to_be_read_is_not_kept() {
    let deep = "/d".repeat(MAX_DEPTH - 1);
    let kept = Kept::read("").unwrap();
    let edited = |source: &str| kept.edit(&edits(&[(&deep, source)]), &expand("./x/y F 0:3:a\n")).unwrap();
    assert!(edited("manifest_text/x/y").kept.is_some());
    assert!(edited("manifest_text/x").kept.is_some());
    let too_deep = edited("manifest_text/");
    assert!(too_deep.kept.is_none());
    assert!(reader::read(&too_deep.text, Origin::Current).is_err());
    assert!(reader::read(&edited("manifest_text/x").text, Origin::Current).is_ok());
}

#[test]
fn memory_grows_with_what_is_held() {
    let bytes = |files: usize| {
        let files: String = (0..files).map(|file| format!(" 0:3:file-{file:05}")).collect();
        Kept::read(&expand(&format!(". F{files}\n"))).unwrap().bytes()
    };
    // An entry alone has a name, a counter, and a piece of 24 bytes.
    assert!(bytes(2000) - bytes(1000) > 1000 * 100);
}

fn target() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c d", "é"]), 1..4)
        .prop_map(|names| format!("/{}", names.join("/")))
}

/// A line of a text that is sent: blocks signed in one of two seconds or not at all, files that are some range of them.
fn line() -> impl Strategy<Value = String> {
    let hashes =
        ["acbd18db4cc2f85cedef654fccc4a4d8", "37b51d194a7513e45b56f6524f2d51f2", "73feffa4b7f6bb68e44cf984c85f6e88"];
    let block = (prop::sample::select(hashes.to_vec()), 0usize..5)
        .prop_map(|(hash, signature)| format!("{hash}+3{}", SIGNATURES.get(signature % 3).unwrap_or(&"")));
    let names = ["x", "y", "z", "s/x", "\\141", "é\\040", "."];
    let file = (0u64..7, 0u64..4, prop::sample::select(names.to_vec()));
    let stream = prop::sample::select(vec![".", "./s", "./s/t"]);
    (stream, prop::collection::vec(block, 1..4), prop::collection::vec(file, 1..5)).prop_map(
        |(stream, blocks, files)| {
            let files = files.iter().map(|(position, length, name)| {
                let end = blocks.len() as u64 * 3;
                let position = *position.min(&end);
                let length = if *name == "." { 0 } else { (*length).min(end - position) };
                format!("{position}:{length}:{name}")
            });
            format!("{stream} {} {}\n", blocks.join(" "), files.collect::<Vec<_>>().join(" "))
        },
    )
}

fn source() -> impl Strategy<Value = String> {
    let sources =
        ["", "", "manifest_text/", "manifest_text/x", "manifest_text/y", "manifest_text/s", "manifest_text/s/x"];
    prop::sample::select(sources.to_vec()).prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is kept from edit to edit, the text is the one that the plain algorithm makes of the text before.
    #[test]
    fn random_edits_in_a_row_agree_with_the_plain_algorithm(
        first in prop::collection::vec(line(), 0..4),
        steps in prop::collection::vec(
            (prop::collection::btree_map(target(), source(), 1..4), prop::collection::vec(line(), 1..4)), 1..8),
    ) {
        let mut text = strip_signatures(&first.concat()).into_owned();
        let Some(mut kept) = Kept::read(&text) else { return Ok(()) };
        for (edits, given) in steps {
            let given = given.concat();
            let given = if edits.values().all(String::is_empty) { "" } else { given.as_str() };
            match edit(&kept, &text, &edits, given) {
                Some(edited) => {
                    kept = edited.kept.unwrap_or_else(|| Kept::read(&edited.text).expect("it was made of plain blocks"));
                    text = edited.text;
                }
                None => {
                    let Some(plain) = plainly(&text, &edits, given) else { continue };
                    prop_assert!(plain.ambiguous, "all else here can be kept");
                    text = strip_signatures(&plain.manifest_text).into_owned();
                    kept = Kept::read(&text).expect("it was made of plain blocks");
                }
            }
        }
    }
}
