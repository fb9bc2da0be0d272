//! What the parsers of `keep` and `tree` promise, for any input. Used by `tests/soak.rs` and by the targets in `fuzz/`.

use arvados::keep::manifest::{self, Form};
use arvados::keep::replace_files::replace_files as replace;
use arvados::keep::signature::{Signer, strip_signatures};
use arvados::keep::{Locator, PortableDataHash};
use arvados::tree::{NodeId, Snapshot, diff};
use std::collections::BTreeMap;
use std::time::Duration;

pub const MANIFESTS: &[&str] = &[
    "",
    ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:foo\n",
    ". acbd18db4cc2f85cedef654fccc4a4d8+3 37b51d194a7513e45b56f6524f2d51f2+3 3:3:z 0:3:a 1:4:m 0:0:e\n./d d41d8cd98f00b204e9800998ecf8427e+0 0:0:\\056\n",
    "./a\\040b acbd18db4cc2f85cedef654fccc4a4d8+3+Ad93590fd78db663df1c6ea9474686f221dc9e5f8@6b49d200+Zx 0:3:d/x 0:3:caf\\303\\251\n./a\\040b/d 37b51d194a7513e45b56f6524f2d51f2+3 0:3:x\n",
    ". acbd18db4cc2f85cedef654fccc4a4d8 0:3:x\n./x ACBD18DB4CC2F85CEDEF654FCCC4A4D8+3 0:9:y\n",
];

pub const LOCATORS: &[&str] = &[
    "acbd18db4cc2f85cedef654fccc4a4d8",
    "acbd18db4cc2f85cedef654fccc4a4d8+3+Ad93590fd78db663df1c6ea9474686f221dc9e5f8@6b49d200",
    "acbd18db4cc2f85cedef654fccc4a4d8+3+Rzzzzz-89118b78732c33104a4d6231e8b5a5fa1e4301e3@7fffffff+K@zzzzz",
];

pub const PORTABLE_DATA_HASHES: &[&str] =
    &["1f4b0bc7583c2a7f9102c395f4ffc5e3+45", "d41d8cd98f00b204e9800998ecf8427e+0+Zx"];

const TOKEN: &str = "v2/zzzzz-gj3su-0123456789abcde/3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi";

fn signer() -> Signer {
    Signer::new(b"key", Duration::from_secs(60))
}

/// Whatever can be read as a tree comes out in both normal forms, and these are read as the same tree and accepted by the
/// server; signing and stripping do not touch what is signed.
pub fn manifest(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let accepted = manifest::validate(text).is_ok();
    let hash = PortableDataHash::of_manifest(text);
    assert_eq!(PortableDataHash::of_manifest(&manifest::portable_text(text)), hash);
    let signed = signer().sign_manifest(text, TOKEN, 1_800_000_000);
    assert_eq!(PortableDataHash::of_manifest(&signed), hash);
    assert_eq!(strip_signatures(&signed), strip_signatures(text));
    assert_eq!(manifest::validate(&signed).is_ok(), accepted);
    let counted = manifest::file_count_and_size(text);
    let Ok(tree) = Snapshot::parse(text) else { return };
    if accepted {
        counted.expect("what the server accepts can be counted");
    }
    check_tree(&tree);
    for form in [Form::Python, Form::Go] {
        let normal = tree.to_manifest(form);
        assert_eq!(manifest::validate(&normal), Ok(()), "{normal:?}");
        let again = Snapshot::parse(&normal).expect("what we write can be read");
        assert_eq!(again.to_manifest(form), normal);
        assert_eq!(diff(&tree, &again), []);
    }
    let fold = tree.fold().snapshot;
    assert_eq!(diff(&tree, &fold), []);
    assert_eq!(fold.to_manifest(Form::Go), tree.to_manifest(Form::Go));
}

fn check_tree(tree: &Snapshot) {
    let mut pending = vec![NodeId::ROOT];
    while let Some(directory) = pending.pop() {
        let mut last: Option<&[u8]> = None;
        for child in tree.children(directory) {
            let name = tree.name(child);
            assert!(last < Some(name) && !matches!(name, b"" | b"." | b".."));
            last = Some(name);
            assert_eq!(tree.lookup(directory, name), Some(child));
            let size: u64 = tree.segments(child, 0, u64::MAX).map(|segment| segment.length).sum();
            assert_eq!(size, tree.size(child));
            let middle: u64 = tree.segments(child, size / 3, size / 3).map(|segment| segment.length).sum();
            assert_eq!(middle, size / 3);
            if tree.is_directory(child) {
                pending.push(child);
            }
        }
    }
}

/// A locator is kept verbatim, and a signature is found only where verification would look for it.
pub fn locator(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let verified = signer().verify(text, TOKEN, 1).is_ok();
    assert!(!verified, "a signature out of nowhere");
    let Ok(locator) = text.parse::<Locator>() else { return };
    assert_eq!(locator.as_str(), text);
    assert!(text.starts_with(locator.portable().as_str()));
    let hints: usize = locator.as_text().hints().map(|hint| hint.len() + 1).sum();
    assert_eq!(locator.portable().as_str().len() + hints, text.len());
    if !text.contains("+A") {
        let signed = signer().sign_locator(text, TOKEN, 100);
        assert_eq!(signer().verify(&signed, TOKEN, 100), Ok(()));
    }
    if let Some(hint) = locator.signature() {
        assert!(!format!("{locator:?}").contains(hint.signature));
    }
}

/// What is read is written the same, but for zeros before the size and the case of the hash.
pub fn portable_data_hash(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(hash) = PortableDataHash::parse_with_hints(text) {
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!(text[..32].eq_ignore_ascii_case(&hash.hash.to_string()));
    }
}

/// The input before the first NUL is the current text, behind it the text sent along; whatever comes out can be edited again
/// and is its own normal form.
pub fn replace_files(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (current, sent) = text.split_once('\0').unwrap_or((text, text));
    let edits = |edits: &[(&str, &str)]| -> BTreeMap<String, String> {
        edits.iter().map(|(target, source)| (target.to_string(), source.to_string())).collect()
    };
    let moved = edits(&[("/a", ""), ("/b/c", "current/a"), ("/new", "manifest_text/"), ("/d", "current/d/")]);
    let same = edits(&[("/not there", "")]);
    for request in [moved, edits(&[("/x", "manifest_text/x")]), same.clone()] {
        let Ok(done) = replace(Some(current), &request, if request == same { "" } else { sent }, |_| Err(())) else {
            continue;
        };
        let again = replace(Some(&done.manifest_text), &same, "", |_| Err(())).expect("what was written can be read");
        assert_eq!(again.manifest_text, done.manifest_text);
    }
}
