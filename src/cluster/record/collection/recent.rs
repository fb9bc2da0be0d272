//! Collections that were edited a moment ago: what makes the next edit cheap.
//!
//! A mount that saves small files sends one `replace_files` after the other to one collection, each of which changes a line
//! of a text of megabytes. Two things are kept for that: the tree of the text with its lines ([`Kept`]), and the state of
//! the hash at every [`STEP`], so that what stands before the first change is not hashed again.
//!
//! What must stay true: all of this follows from the stored text, by whose key it is found; a collection whose content is
//! another one than the last edit's finds nothing, and its text is read. Signatures, callers and settings have no part in
//! it. Memory: [`Edits::BYTES`] for all collections together, counted by [`Recent::bytes`] from above, as successive trees
//! of a collection share nearly everything and only the last is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use md5::{Digest, Md5};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::cluster::record::collection::content::Content;
use crate::keep::BlockHash;
use crate::keep::replace_files::{Edited, Kept};

/// The content that a collection had after its last edit.
#[derive(Debug)]
pub struct Recent {
    key: String,
    kept: Kept,
    hashed: Option<Hashed>,
}

/// What an edit leads to.
#[derive(Debug)]
pub struct After {
    /// To be stored, if the signatures are good.
    pub content: Content,
    /// The signed locators that the edit brought in.
    pub signed: Vec<Arc<str>>,
}

impl Recent {
    /// Reads a stored text. `None`: it is not of the kind that is kept.
    pub fn read(key: &str, text: &str) -> Option<Self> {
        Some(Self { key: key.to_owned(), kept: Kept::read(text)?, hashed: None })
    }

    /// Applies edits with sources in `given` alone. `None`: the plain algorithm has to say.
    pub fn edit(&self, edits: &BTreeMap<String, String>, given: &str) -> Option<After> {
        let Edited { text, file_count, file_size_total, signed, kept } = self.kept.edit(edits, given)?;
        let text: Arc<str> = text.into();
        let (hash, hashed) = Hashed::new(Arc::clone(&text), self.hashed.as_ref());
        // There are no hints in it, so its portable text is the text itself.
        let key = hash.to_string();
        let recent = kept.map(|kept| Arc::new(Self { key: key.clone(), kept, hashed: Some(hashed) }));
        let content = Content {
            hash: format!("{key}+{}", text.len()),
            key,
            text,
            file_count: i64::try_from(file_count).unwrap_or(i64::MAX),
            file_size_total: i64::try_from(file_size_total).unwrap_or(i64::MAX),
            recent,
        };
        Some(After { content, signed })
    }

    /// Memory that is held, about.
    fn bytes(&self) -> usize {
        let hashed = self.hashed.as_ref().map_or(0, |hashed| hashed.text.len() + size_of_val(&*hashed.states));
        self.kept.bytes() + hashed + size_of::<Self>()
    }
}

/// Bytes between two states that are kept. What is hashed twice is half of it on average: 32 KiB, 65 microseconds.
const STEP: usize = 64 << 10;

/// A text, and the state of its hash at every step.
struct Hashed {
    text: Arc<str>,
    states: Vec<Md5>,
}

impl std::fmt::Debug for Hashed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Hashed({} bytes)", self.text.len())
    }
}

impl Hashed {
    /// The hash of a text, which mostly begins like the one before.
    fn new(text: Arc<str>, before: Option<&Self>) -> (BlockHash, Self) {
        let steps = text.as_bytes().chunks_exact(STEP);
        let equal = before.map_or(0, |before| {
            let known = before.text.as_bytes().chunks_exact(STEP);
            steps.clone().zip(known).take_while(|(step, known)| step == known).count()
        });
        let mut states: Vec<Md5> = before.map(|before| before.states[..equal].to_vec()).unwrap_or_default();
        let mut state = states.last().cloned().unwrap_or_default();
        for step in steps.skip(equal) {
            state.update(step);
            states.push(state.clone());
        }
        let rest = text.len() / STEP * STEP;
        state.update(&text.as_bytes()[rest..]);
        (BlockHash(state.finalize().into()), Self { text, states })
    }
}

#[derive(Clone)]
struct ByMemory;

impl Weighter<String, Arc<Recent>> for ByMemory {
    fn weight(&self, uuid: &String, recent: &Arc<Recent>) -> u64 {
        (uuid.len() + recent.bytes()) as u64
    }
}

/// The last edits, by collection.
pub struct Edits(Cache<String, Arc<Recent>, ByMemory>);

impl Default for Edits {
    fn default() -> Self {
        // As few as these are not spread over several shards, each of which would take a part of the memory only.
        Self(Cache::with_weighter(16, Self::BYTES, ByMemory))
    }
}

impl Edits {
    /// Memory for all. A file takes some 200 bytes: a dozen collections of 100,000 files, or one of a million.
    const BYTES: u64 = 256 << 20;

    /// What the last edit of a collection has left, if it is still what the collection holds.
    pub fn get(&self, uuid: &str, key: &str) -> Option<Arc<Recent>> {
        self.0.get(uuid).filter(|recent| recent.key == key)
    }

    /// Remembers an edit in the place of the one before.
    pub fn put(&self, uuid: &str, recent: Arc<Recent>) {
        self.0.insert(uuid.to_owned(), recent);
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::api::Api;
    use crate::cluster::clock::SystemClock;
    use crate::cluster::configuration::{Configuration, Secret};
    use crate::cluster::request::Head;
    use crate::cluster::router;
    use crate::keep::replace_files::replace_files;

    /// A text in which a line here and there is another one.
    fn text(lines: usize, other: &[usize]) -> Arc<str> {
        let line = |line: usize| if other.contains(&line) { "another line\n" } else { "a line like all others\n" };
        (0..lines).map(line).collect::<String>().into()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_hash_that_goes_on_from_the_text_before_is_the_hash(
            lengths in prop::collection::vec((0usize..12_000, prop::collection::vec(0usize..12_000, 0..3)), 1..5),
        ) {
            let mut before: Option<Hashed> = None;
            for (lines, other) in lengths {
                let text = text(lines, &other);
                let (hash, hashed) = Hashed::new(Arc::clone(&text), before.as_ref());
                prop_assert_eq!(hash, BlockHash::of(text.as_bytes()));
                before = Some(hashed);
            }
        }
    }

    #[test]
    fn an_edit_leads_to_the_content_of_its_text() {
        let text = ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:a\n";
        let recent = Recent::read("key", text).unwrap();
        let edits = BTreeMap::from([("/d/b".to_owned(), "manifest_text/x".to_owned())]);
        let content = recent.edit(&edits, ". d41d8cd98f00b204e9800998ecf8427e+0 0:0:x\n").unwrap().content;
        let same = Content::of_unsigned(&content.text);
        assert_eq!(&*content.text, format!("{text}./d d41d8cd98f00b204e9800998ecf8427e+0 0:0:b\n"));
        assert_eq!((content.key, content.hash), (same.key, same.hash));
        assert_eq!((content.file_count, content.file_size_total), (same.file_count, same.file_size_total));
    }

    #[test]
    fn a_collection_with_another_content_finds_nothing() {
        let edits = Edits::default();
        edits.put("uuid", Arc::new(Recent::read("key", "").unwrap()));
        assert!(edits.get("uuid", "key").is_some());
        assert!(edits.get("uuid", "other").is_none());
        assert!(edits.get("other", "key").is_none());
    }

    #[test]
    fn a_collection_of_half_a_million_files_is_kept() {
        let edits = Edits::default();
        let files: String = (0..500_000).map(|file| format!(" 0:0:file-{file:06}")).collect();
        let text = format!("./d d41d8cd98f00b204e9800998ecf8427e+0{files}\n");
        edits.put("uuid", Arc::new(Recent::read("key", &text).unwrap()));
        assert!(edits.get("uuid", "key").is_some());
    }

    fn ask(api: &Api, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let head = Head {
            method: method.to_owned(),
            raw_path: format!("/arvados/v1/collections{path}"),
            authorization: Some("Bearer token".to_owned()),
            ..Head::default()
        };
        let answer = router::answer(api, &head, &Bytes::from(body.to_string()));
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    #[test]
    fn whatever_happens_between_two_edits_the_second_starts_from_what_is_stored() {
        const GIVEN: &str = ". d41d8cd98f00b204e9800998ecf8427e+0 0:0:x\n";
        let folder = tempfile::tempdir().unwrap();
        let configuration = Configuration { system_root_token: Secret::new("token"), ..Configuration::default() };
        let configuration = Arc::new(ArcSwap::from_pointee(configuration));
        let api = Api::open(&folder.path().join("records.sqlite"), configuration, Arc::new(SystemClock)).unwrap();
        let text = ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:a\n./d 37b51d194a7513e45b56f6524f2d51f2+3 0:3:b\n";
        let (_, made) = ask(&api, "POST", "", &json!({"collection": {"manifest_text": text}}));
        let path = format!("/{}", made["uuid"].as_str().unwrap());
        let mut stored = text.to_owned();

        let edit = |stored: &mut String, target: &str, condition: Option<&str>| {
            let edits = BTreeMap::from([(target.to_owned(), "manifest_text/x".to_owned())]);
            let body = json!({
                "collection": {"manifest_text": GIVEN, "portable_data_hash": condition},
                "replace_files": edits, "select": ["unsigned_manifest_text", "portable_data_hash", "file_count"],
            });
            let (status, shown) = ask(&api, "PUT", &path, &body);
            if status == 200 {
                *stored = replace_files(Some(stored), &edits, GIVEN, |_| Err(())).unwrap().manifest_text;
                let content = Content::of_unsigned(stored);
                assert_eq!(shown["unsigned_manifest_text"], *stored);
                assert_eq!(shown["portable_data_hash"], content.hash);
                assert_eq!(shown["file_count"], content.file_count);
            }
            status
        };
        assert_eq!(edit(&mut stored, "/d/new", None), 200);
        assert_eq!(edit(&mut stored, "/other/new", None), 200);
        assert_eq!(edit(&mut stored, "/refused", Some("1f4b0bc7583c2a7f9102c395f4ffc5e3+45")), 422);
        assert_eq!(edit(&mut stored, "/after", None), 200);
        let (status, _) = ask(&api, "PUT", &path, &json!({"collection": {"manifest_text": text}}));
        assert_eq!(status, 200);
        text.clone_into(&mut stored);
        assert_eq!(edit(&mut stored, "/d/last", None), 200);
    }
}
