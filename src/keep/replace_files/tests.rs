use super::*;
use crate::keep::manifest::tests::expand;
use crate::keep::signature::Signer;
use proptest::prelude::*;
use serde::Deserialize;
use std::time::Duration;

/// Requests to a real cluster with `replace_files` or `replace_segments`, of `golden/replace_files` and `golden/cas`: those
/// whose starting content is known and whose outcome does not depend on who asks.
#[derive(Deserialize)]
struct Recordings {
    key: String,
    token: String,
    requests: Vec<Recording>,
}

#[derive(Deserialize)]
struct Recording {
    name: String,
    /// Stored text; none on create.
    before: Option<String>,
    edits: BTreeMap<String, String>,
    segments: BTreeMap<String, String>,
    manifest_text: String,
    /// Of the signatures that the controller made during the request; none where no block was left.
    expiry: Option<u64>,
    status: u16,
    /// The text answered, signed.
    text: Option<String>,
    error: Option<String>,
    /// The portable data hash answered.
    hash: Option<String>,
}

impl Recordings {
    fn load() -> Recordings {
        serde_json::from_str(include_str!("testdata/recorded.json")).unwrap()
    }

    fn signer(&self) -> Signer {
        Signer::new(self.key.as_bytes(), Duration::from_secs(1_209_600))
    }

    /// What the controller loads for a source, and when its signatures expire in relation to those of `current`.
    fn source(hash: PortableDataHash) -> Result<(String, u64), u16> {
        let trashed_in_an_hour = ". F 0:3:uniq1795382018086\n";
        match hash.to_string().as_str() {
            "2742fdbeb8ee759329927088a846dbdb+149" => {
                Ok((expand(". F B 0:3:foo.txt 3:3:bar.txt\n./sub Z 0:3:baz.txt\n"), 0))
            }
            "14ab16655eeec6a3c0c0541c9fecca5a+59" => Ok((expand(trashed_in_an_hour), 1_209_600 - 3600)),
            _ => Err(404),
        }
    }

    /// Executes a request as the controller does: status, message or signed text.
    fn execute(&self, request: &Recording) -> (u16, String) {
        let signer = self.signer();
        let expiry = request.expiry.unwrap_or(1_796_000_000);
        let sign = |text: &str, earlier: u64| signer.sign_manifest(text, &self.token, expiry - earlier);
        let before = request.before.as_deref().map(|text| sign(text, 0));
        let resolve = |hash| Recordings::source(hash).map(|(text, earlier)| sign(&text, earlier));
        let replaced = match replace_files(before.as_deref(), &request.edits, &request.manifest_text, resolve) {
            Ok(replaced) => replaced.manifest_text,
            Err(Error::Refused(refusal)) => return (refusal.status(), refusal.to_string()),
            Err(Error::Source(status)) => return (status, String::new()),
        };
        let mut segments = Vec::new();
        for (old, new) in &request.segments {
            match (old.parse(), new.parse()) {
                (Ok(old), Ok(new)) => segments.push((old, new)),
                (Err(error), _) | (_, Err(error)) => return (500, SegmentSpecError::to_string(&error)),
            }
        }
        let text = match replace_segments(&replaced, &segments) {
            Ok(text) => text.unwrap_or(replaced),
            Err(Error::Refused(refusal)) => return (refusal.status(), refusal.to_string()),
        };
        let now = expiry - 1_209_600;
        let unsigned = crate::keep::manifest::lines(&text).flatten().any(|line| {
            let refused = |text: &str| signer.verify(text, &self.token, now).is_err() && !text.starts_with("d41d8");
            line.locators().flatten().any(|locator| refused(locator.as_str()))
        });
        if unsigned { (403, String::new()) } else { (200, sign(&text, 0)) }
    }
}

#[test]
fn every_recorded_request_ends_as_it_did_on_the_real_cluster() {
    let recordings = Recordings::load();
    assert!(recordings.requests.len() > 100);
    for request in &recordings.requests {
        let name = &request.name;
        let (status, answer) = recordings.execute(request);
        // The conditions of 4.12 are checked behind this code, on the text that it made.
        if request.status == 422 {
            assert_eq!(status, 200, "{name}: {answer}");
            let computed = PortableDataHash::of_manifest(&answer).to_string();
            let error = request.error.as_deref().unwrap_or_default();
            assert!(error.contains(&computed) || error.contains("Version cannot be updated"), "{name}: {error}");
            continue;
        }
        assert_eq!(status, request.status, "{name}: {answer}");
        if let Some(text) = &request.text {
            assert_eq!(&answer, text, "{name}");
        }
        if let Some(hash) = &request.hash {
            assert_eq!(&PortableDataHash::of_manifest(&answer).to_string(), hash, "{name}");
        }
        if status == 400 || status == 500 {
            let error = request.error.as_deref().unwrap_or_default();
            assert_eq!(answer, hide_signatures(error), "{name}");
        }
    }
}

/// Where the controller shows a locator, our message leaves the signature out.
fn hide_signatures(message: &str) -> String {
    match message.split_once("+A") {
        Some((start, rest)) => format!("{start}{}", &rest[40 + 1 + 8..]),
        None => message.to_owned(),
    }
}

#[test]
fn a_client_without_the_key_predicts_the_same_hash_or_knows_that_it_cannot() {
    let recordings = Recordings::load();
    let mut ambiguous = Vec::new();
    for request in recordings.requests.iter().filter(|request| request.status == 200 && request.segments.is_empty()) {
        let resolve = |hash| Recordings::source(hash).map(|(text, _)| text);
        let predicted = replace_files(request.before.as_deref(), &request.edits, &request.manifest_text, resolve);
        let predicted = predicted.unwrap();
        if predicted.ambiguous {
            ambiguous.push(request.name.as_str());
        } else if let Some(hash) = &request.hash {
            assert_eq!(&predicted.portable_data_hash().to_string(), hash, "{}", request.name);
        }
    }
    let expected = [
        "03-rf-mixed",
        "03-rf-query-param-unwrapped-manifest",
        "03-rf-source-with-trash-at",
        "03-rf-same-second-signature",
        "03-rf-older-signature",
    ];
    for name in expected {
        assert!(ambiguous.contains(&name), "{name} is not known to be ambiguous");
    }
}

fn edited(before: &str, edits: &[(&str, &str)], manifest_text: &str) -> Result<String, Error<()>> {
    let edits = edits.iter().map(|&(target, source)| (target.to_owned(), source.to_owned())).collect();
    replace_files(Some(&expand(before)), &edits, &expand(manifest_text), |_| Err(())).map(|done| done.manifest_text)
}

#[test]
fn both_normal_forms_of_the_published_examples() {
    let same = |text: &str| edited(text, &[("/nothing", "")], "").unwrap();
    assert_eq!(same(". F B 0:3:foo 3:3:bar 2:2:span\n"), expand(". B F B 0:3:bar 3:3:foo 5:2:span\n"));
    assert_eq!(same(". F B F 0:9:foobarfoo\n"), expand(". F B F 0:9:foobarfoo\n"));
    assert_eq!(same(""), "");
}

#[test]
fn a_path_as_deep_as_a_stack_is_refused_and_not_walked() {
    let deep = format!(". E 0:0:{}x\n", "a/".repeat(200_000));
    assert!(matches!(
        edited("", &[("/x", "manifest_text/")], &deep),
        Err(Error::Refused(Refusal::MalformedManifestText { .. }))
    ));
    assert!(edited("", &[(&"/a".repeat(5000), "current/")], "").is_err());
}

#[test]
fn a_locator_shorter_than_a_hash_is_a_locator_like_any_other() {
    let given = ". x+3 0:3:b\n";
    assert_eq!(edited(". F 0:3:a\n", &[("/b", "manifest_text/b")], given).unwrap(), expand(". F x+3 0:3:a 3:3:b\n"));
    assert_eq!(edited(". x+3 0:3:a\n", &[("/b", "manifest_text/b")], given).unwrap(), ". x+3 0:3:a 0:3:b\n");
}

#[test]
fn the_published_vector_of_replace_segments() {
    let text = ". c4103f122d27677c9db144cae1394a66+2 693e9af84d3dfcc71e640e005bdc5e2e+3 0:2:file1.txt 2:3:file2.txt\n";
    let spec = |text: &str| text.parse::<SegmentSpec>().unwrap();
    let first = (spec("c4103f122d27677c9db144cae1394a66+2 0 2"), spec("ca9c491ac66b2c62500882e93f3719a8+5 0 2"));
    let second = (spec("693e9af84d3dfcc71e640e005bdc5e2e 0 3"), spec("ca9c491ac66b2c62500882e93f3719a8+5 2 3"));
    let replaced = replace_segments(text, &[first.clone(), second.clone()]).unwrap();
    let expected = ". ca9c491ac66b2c62500882e93f3719a8+5 0:2:file1.txt 2:3:file2.txt\n";
    assert_eq!(replaced.as_deref(), Some(expected));
    let missing = (spec("acbd18db4cc2f85cedef654fccc4a4d8+3 0 3"), spec("ca9c491ac66b2c62500882e93f3719a8+5 0 3"));
    assert_eq!(replace_segments(text, &[first.clone(), missing]), Ok(None), "all into one block, and one is missing");
    assert_eq!(replace_segments(text, &[]), Ok(None));
    let unsized_block = (first.0, spec("ca9c491ac66b2c62500882e93f3719a8 0 2"));
    assert_eq!(replace_segments(text, &[unsized_block]), Err(Refusal::SegmentWithoutSize.into()));
    for text in ["", "foo", "acbd18db4cc2f85cedef654fccc4a4d8 1", "acbd18db4cc2f85cedef654fccc4a4d8 1 2 3"] {
        assert_eq!(text.parse::<SegmentSpec>(), Err(SegmentSpecError));
    }
}

/// The reference: paths to contents, and directories; edits done the obvious way.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model(BTreeMap<String, Option<String>>);

impl Model {
    fn read(text: &str) -> Model {
        let mut model = Model::default();
        for line in crate::keep::manifest::lines(text) {
            let line = line.unwrap();
            let stream = line.name.trim_start_matches('.');
            let blocks: Vec<_> = line.locators().map(|locator| locator.unwrap().as_str()).collect();
            model.make_parents(&format!("{stream}/x"));
            for token in line.files().map(Result::unwrap).filter(|token| !token.marks_directory()) {
                model.make_parents(&format!("{stream}/{}", token.name));
                // Every block with data has three bytes, and every file with data is one of them.
                let content = if token.length == 0 { "" } else { blocks[token.position as usize / 3] };
                model.0.insert(format!("{stream}/{}", token.name), Some(content.to_owned()));
            }
        }
        model
    }

    fn make_parents(&mut self, path: &str) {
        for (slash, _) in path.match_indices('/').skip(1) {
            self.0.entry(path[..slash].to_owned()).or_insert(None);
        }
    }

    fn below(&self, path: &str) -> Vec<(String, Option<String>)> {
        let inside = format!("{path}/");
        let found = self.0.iter().filter(|(name, _)| *name == path || name.starts_with(&inside));
        found.map(|(name, content)| (name[path.len()..].to_owned(), content.clone())).collect()
    }

    fn remove(&mut self, path: &str) {
        for (name, _) in self.below(path) {
            self.0.remove(&format!("{path}{name}"));
        }
    }

    fn put(&mut self, path: &str, entries: Vec<(String, Option<String>)>) {
        self.remove(path);
        self.make_parents(path);
        for (name, content) in entries {
            self.0.insert(format!("{path}{name}"), content);
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|names| format!("/{}", names.join("/")))
}

/// Names that stand for themselves, in and out of order, and names that do not.
fn token() -> impl Strategy<Value = String> {
    let names = ["a", "b", "c", "d", "b/x", "c/y", ".", "..", "../b", "./d", "\\141", "e\\040", "b/.."];
    (0u64..7, 0u64..4, proptest::sample::select(names.to_vec()))
        .prop_map(|(position, length, name)| format!("{position}:{length}:{name}"))
}

proptest! {
    #[test]
    fn files_of_a_line_are_read_as_if_each_had_a_line_of_its_own(
        stream in proptest::sample::select(vec![".", "./s", "./s/b"]),
        tokens in proptest::collection::vec(token(), 1..12),
    ) {
        let head = expand(&format!("{stream} F B F"));
        let together = reader::read(&format!("{head} {}\n", tokens.join(" ")), Origin::Current);
        let apart: String = tokens.iter().map(|token| format!("{head} {token}\n")).collect();
        let apart = reader::read(&apart, Origin::Current);
        match (together, apart) {
            (Ok(together), Ok(apart)) => prop_assert_eq!(together.to_manifest(), apart.to_manifest()),
            (Err(together), Err(apart)) => {
                let reason = |error: reader::ReadError| error.to_string().split_once(": ").unwrap().1.to_owned();
                prop_assert_eq!(reason(together), reason(apart));
            }
            (together, apart) => prop_assert!(false, "{together:?} and {apart:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Random edits give what the obvious way of editing gives, or are refused.
    #[test]
    fn edits_agree_with_a_model(
        files in proptest::collection::btree_map(path(), 0usize..3, 0..6),
        edits in proptest::collection::btree_map(path(), prop_oneof![Just(None), path().prop_map(Some)], 1..4),
    ) {
        let blocks = [". E 0:0:", ". F 0:3:", ". B 0:3:"];
        let text: String = files.iter().map(|(path, block)| expand(&format!("{}{}\n", blocks[*block], &path[1..]))).collect();
        let requested: BTreeMap<String, String> = edits.iter()
            .map(|(target, source)| (target.clone(), source.as_ref().map_or(String::new(), |path| format!("current{path}"))))
            .collect();
        let done = replace_files(Some(&text), &requested, "", |_| Err(()));
        let before = Model::read(&text);
        if let Ok(done) = done {
            let mut after = before.clone();
            edits.iter().filter(|(_, source)| source.is_none()).for_each(|(target, _)| after.remove(target));
            for (target, source) in &edits {
                if let Some(source) = source {
                    let entries = before.below(source);
                    prop_assert!(!entries.is_empty(), "a source that is not there was accepted");
                    after.put(target, entries);
                }
            }
            let written = Model::read(&done.manifest_text);
            prop_assert_eq!(written, after);
        }
    }
}
