use super::*;
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
