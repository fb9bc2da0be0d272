use super::*;
use crate::keep::PortableDataHash;
use crate::keep::manifest::Form;
use crate::keep::manifest::tests::expand;

fn read(text: &str) -> Snapshot {
    Snapshot::parse(&expand(text)).unwrap()
}

/// Every path with its size, directories with a slash at the end.
fn listing(tree: &Snapshot) -> Vec<String> {
    let mut paths = Vec::new();
    let mut pending = vec![NodeId::ROOT];
    while let Some(directory) = pending.pop() {
        for child in tree.children(directory) {
            let path = String::from_utf8_lossy(&tree.path(child)).into_owned();
            match tree.entry(child).unwrap() {
                Entry { kind: Kind::Directory, .. } => {
                    paths.push(format!("{path}/"));
                    pending.push(child);
                }
                Entry { kind: Kind::File, size } => paths.push(format!("{path} {size}")),
            }
        }
    }
    paths.sort();
    paths
}

#[test]
fn the_published_vectors_have_the_published_files() {
    for (text, files) in [
        ("", &[][..]),
        (". F 0:3:foo\n", &["foo 3"]),
        (". F B 0:3:foo 3:3:bar 2:2:span\n", &["bar 3", "foo 3", "span 2"]),
        (
            ". F 0:3:foo\n./sub B 0:3:bar\n./sub/deep Z 0:3:baz\n",
            &["foo 3", "sub/", "sub/bar 3", "sub/deep/", "sub/deep/baz 3"],
        ),
        (". E 0:0:empty\n", &["empty 0"]),
        ("./emptydir E 0:0:\\056\n", &["emptydir/"]),
        (
            ". F 0:3:a\\040b 0:3:c\\134d 0:3:e\\072f\n./dir\\040x B 0:3:bar\n",
            &["a b 3", "c\\d 3", "dir x/", "dir x/bar 3", "e:f 3"],
        ),
        (". F 0:3:café.txt\n", &["café.txt 3"]),
        (". F B 0:3:foobar 3:3:foobar\n", &["foobar 6"]),
        (". F 0:3:d/x\n./d B 0:3:x\n", &["d/", "d/x 6"]),
        (". F 0:3:a/b/foo\n", &["a/", "a/b/", "a/b/foo 3"]),
        (". F E B 0:6:foobar\n", &["foobar 6"]),
        (". F B F 0:9:foobarfoo\n", &["foobarfoo 9"]),
        (". F B 3:3:z 0:3:a 1:4:m\n", &["a 3", "m 4", "z 3"]),
        (". F 0:3:foo\n. B 0:3:bar\n", &["bar 3", "foo 3"]),
        ("./d E 0:0:.\n", &["d/"]),
        (". F 0:9:foo\n", &["foo 3"]),
        (". E 0:0:d/\\056\n", &["d/"]),
        (". F 0:3:a\\\\b\n", &["a\\b 3"]),
        (". F 0:3:caf\\303\\251\n", &["café 3"]),
    ] {
        assert_eq!(listing(&read(text)), files, "{text}");
    }
}

mod edits;
mod merging;

/// Normal forms as the Python SDK (`protocol.md` 5.7, column N) and the Go writer (5.5, worked examples) have them.
#[test]
fn the_published_normal_forms_come_out() {
    for (text, python) in [
        (". F B 0:3:foo 3:3:bar 2:2:span\n", ". B F 0:3:bar 3:3:foo 5:1:span 0:1:span\n"),
        (". F B F 0:9:foobarfoo\n", ". F B 0:6:foobarfoo 0:3:foobarfoo\n"),
        (". F B 3:3:z 0:3:a 1:4:m\n", ". F B 0:3:a 1:4:m 3:3:z\n"),
        (". F E B 0:6:foobar\n", ". F E B 0:6:foobar\n"),
        (". F E 0:3:a\n", ". F 0:3:a\n"),
        ("./d E 0:0:.\n", "./d E 0:0:\\056\n"),
        (". F B 0:3:a 3:0:a 0:0:z 3:3:z\n./q E 0:0:\\056\n./q/r F 0:0:n\n", ". F B 0:3:a 3:3:z\n./q/r E 0:0:n\n"),
    ] {
        assert_eq!(read(text).to_manifest(Form::Python), expand(python), "{text}");
    }
    for (text, hash) in [
        (". F B 0:3:foobar 3:3:foobar\n", "b40040c2402314ff7f88d3a12e03396c+83"),
        (". F 0:3:d/x\n./d B 0:3:x\n", "46e7a9f71f187297beb257024f495400+80"),
        (". F 0:3:a/b/foo\n", "567109bffefb2aa9ab34c4cae1d71226+49"),
        (". F 0:3:foo\n. B 0:3:bar\n", "5d9a05ee71f4d07d802ad970530828b8+88"),
        ("./d E 0:0:.\n", "380a3f37bde45eeea19200845b8f5bec+48"),
    ] {
        let normal = read(text).to_manifest(Form::Python);
        assert_eq!(PortableDataHash::of_manifest(&normal).to_string(), hash, "{text}");
    }
    for (text, go) in [
        (". F B 0:3:foo 3:3:bar 2:2:span\n", ". B F B 0:3:bar 3:3:foo 5:2:span\n"),
        (". F B F 0:9:foobarfoo\n./s F 1:1:f 0:1:f\n", ". F B F 0:9:foobarfoo\n./s F 1:1:f 0:1:f\n"),
        (". F E B 0:6:foobar\n", ". F B 0:6:foobar\n"),
        ("./a-b F 0:3:f\n./a/x F 0:3:f\n./a\\040b F 0:3:f\n", "./a/x F 0:3:f\n./a\\040b F 0:3:f\n./a-b F 0:3:f\n"),
        ("", ""),
    ] {
        assert_eq!(read(text).to_manifest(Form::Go), expand(go), "{text}");
    }
}

#[test]
fn any_range_of_a_file_is_found() {
    let tree = read(". F E B Z 2:6:x 0:1:x\n. Z F 1:4:x\n");
    let file = tree.find(b"x").unwrap();
    let bytes: Vec<_> = tree
        .segments(file, 0, u64::MAX)
        .flat_map(|s| (0..s.length).map(move |i| (s.block, s.block_offset + i)))
        .collect();
    assert_eq!(bytes.len(), 11);
    for start in 0..12 {
        for length in 0..13 {
            let found: Vec<_> = tree.segments(file, start, length).collect();
            let mut offset = start;
            for segment in &found {
                assert_eq!(segment.file_offset, offset);
                for i in 0..segment.length {
                    assert_eq!(bytes[(offset + i) as usize], (segment.block, segment.block_offset + i));
                }
                offset += segment.length;
            }
            assert_eq!(offset, start.max((start + length).min(11)), "{start} {length}");
        }
    }
    let text: Vec<_> = tree.segments(file, 0, 3).map(|s| tree.locator(s.block).to_string()).collect();
    assert_eq!(text, [expand("F"), expand("B")]);
}

#[test]
fn a_block_without_size_is_read_where_that_has_a_meaning() {
    let bare = "acbd18db4cc2f85cedef654fccc4a4d8";
    let tree = Snapshot::parse(&expand(&format!(". B {bare} 0:3:bar 3:3:foo\n"))).unwrap();
    let foo: Vec<_> = tree.segments(tree.find(b"foo").unwrap(), 0, 9).collect();
    assert_eq!((foo[0].block_offset, foo[0].length), (0, 3));
    assert_eq!(tree.locator(foo[0].block).as_str(), bare);
    let twice = Snapshot::parse(&expand(&format!(". {bare} 0:2:foo\n. B 0:3:bar\n. {bare} 1:2:foo\n"))).unwrap();
    assert_eq!(twice.to_manifest(Form::Python), expand(". B F 0:3:bar 3:2:foo 4:2:foo\n"));
    let error = Snapshot::parse(&expand(&format!(". F 0:3:x\n. {bare} B 0:3:foo\n"))).err().unwrap();
    assert_eq!(error.to_string(), "manifest line 2: block 1 has no size and is not the last of its stream");
}

#[test]
fn a_path_that_is_file_and_directory_is_shown_as_both() {
    for text in [". F 0:3:x\n./x B 0:3:y\n", ". F 0:3:x 0:3:x/y\n", "./x B 0:3:y\n. F 0:2:x 2:1:x\n"] {
        assert_eq!(listing(&read(text)), ["x/", "x/y 3", "x~file~ 3"], "{text}");
    }
    let taken = ". F 0:3:x 0:1:x~file~ 0:2:x~file~~file~/q\n./x B 0:3:y\n";
    let shown = ["x/", "x/y 3", "x~file~ 1", "x~file~~file~/", "x~file~~file~/q 2", "x~file~~file~~file~ 3"];
    assert_eq!(listing(&read(taken)), shown);
}

#[test]
fn damaged_manifests_are_refused_with_line_and_reason() {
    let large = format!("acbd18db4cc2f85cedef654fccc4a4d8+{}", u64::MAX);
    for (text, reason) in [
        (". F 0:3:a/../b\n".to_owned(), "line 1: file token 1: the name has a component"),
        (". F 0:3:a\n./.. F 0:3:b\n".to_owned(), "line 2: file token 0: the name has a component"),
        (". F 0:3:d/\n".to_owned(), "line 1: file token 1: the name has a component"),
        (". F 0:3:.\n".to_owned(), "line 1: file token 1: the name has a component"),
        (format!(". {large} 0:3:a\n"), "line 1: sizes are too large"),
        (". F 0:3:a".to_owned(), "line 1: does not end with a newline"),
    ] {
        let error = Snapshot::parse(&expand(&text)).err().unwrap().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn names_that_are_not_utf8_survive() {
    let tree = read(". F 0:3:\\377\\376 0:3:caf\\351\n./d\\200 B 0:3:x\n");
    assert!(tree.lookup(NodeId::ROOT, b"\xff\xfe").is_some());
    assert_eq!(tree.path(tree.find(b"d\x80/x").unwrap()), b"d\x80/x");
    for form in [Form::Python, Form::Go] {
        assert_eq!(listing(&Snapshot::parse(&tree.to_manifest(form)).unwrap()), listing(&tree));
    }
}

#[test]
fn a_long_name_and_a_deep_path_are_no_trouble() {
    let long = "n".repeat(70_000);
    let deep = "d/".repeat(50_000);
    let tree = read(&format!(". F 0:3:{long} 0:3:{deep}f\n"));
    assert!(tree.lookup(NodeId::ROOT, long.as_bytes()).is_some());
    let file = tree.find(format!("{deep}f").as_bytes()).unwrap();
    assert!(tree.is_linked(file));
    assert_eq!(tree.to_manifest(Form::Go).matches("0:3:").count(), 2);
    assert!(diff(&tree, &tree.fold().snapshot).is_empty());
}

#[test]
fn the_newest_signature_is_used_and_found_by_hash() {
    let sign = |expiry: u32| format!(". acbd18db4cc2f85cedef654fccc4a4d8+3+A{}@{expiry:08x} 0:3:a\n", "ab".repeat(20));
    let (old, new) = (Snapshot::parse(&sign(100)).unwrap(), Snapshot::parse(&sign(200)).unwrap());
    let expiry = |tree: &Snapshot| {
        let block = tree.segments(tree.find(b"a").unwrap(), 0, 1).next().unwrap().block;
        let by_hash = tree.find_locator(tree.block_hash(block)).unwrap();
        assert_eq!(tree.locator(block), by_hash);
        by_hash.signature().unwrap().expiry
    };
    let renewed = |tree: &Snapshot, by: &Snapshot| {
        let mut editor = tree.edit();
        editor.renew_signatures(by);
        editor.finish()
    };
    assert_eq!((expiry(&old), expiry(&renewed(&old, &new)), expiry(&renewed(&new, &old))), (100, 200, 200));
    let folded = renewed(&old, &new).fold().snapshot;
    assert_eq!((expiry(&folded), folded.is_edited()), (200, false));
    assert_eq!(renewed(&old, &new).to_manifest(Form::Python), sign(200));
}
