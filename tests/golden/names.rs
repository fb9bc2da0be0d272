//! Recorded names and the names this run has for the same things.
//!
//! The cluster makes its own uuids, tokens and times. What a recording calls `zzzzz-4zz18-r1l4tmqy2k3g51g` is here
//! whatever the cluster called the collection made by the same request. A recorded name is bound the first time it
//! meets its counterpart, and from then on it must always meet the same one: this is how an answer about the wrong
//! object is found.

use std::collections::HashMap;

use regex::{Captures, Regex};

/// The two vocabularies.
#[derive(Clone, Debug)]
pub struct Names {
    here: HashMap<String, String>,
    taken: HashMap<String, String>,
    /// Secrets, addresses and exact times, replaced wherever they occur.
    words: Vec<(String, String)>,
    uuid: Regex,
    tail: Regex,
}

impl Names {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            here: HashMap::new(),
            taken: HashMap::new(),
            words: Vec::new(),
            // Also after a percent-encoding, whose digits look like a part of the word.
            uuid: Regex::new(r"(^|[^0-9a-z]|%[0-9A-F]{2})([0-9a-z]{5}-[0-9a-z]{5}-[0-9a-z]{15})\b")
                .expect("a good pattern"),
            tail: Regex::new(r"\(([0-9a-z]{15})\)").expect("a good pattern"),
        }
    }

    /// What a recorded uuid is called here, if that is known.
    pub fn here(&self, recorded: &str) -> Option<&str> {
        self.here.get(recorded).map(String::as_str)
    }

    /// Whether something else here already has a recorded name.
    pub fn is_taken(&self, actual: &str) -> bool {
        self.taken.contains_key(actual)
    }

    /// Binds a recorded uuid to one of this run.
    pub fn bind(&mut self, recorded: &str, actual: &str) {
        self.here.insert(recorded.to_owned(), actual.to_owned());
        self.taken.insert(actual.to_owned(), recorded.to_owned());
        self.here.insert(recorded[12..].to_owned(), actual[12..].to_owned());
    }

    /// Replaces a word wherever it occurs from now on, also percent-encoded.
    pub fn replace(&mut self, recorded: &str, actual: &str) {
        if recorded != actual && !self.words.iter().any(|(known, _)| known == recorded) {
            self.words.push((recorded.to_owned(), actual.to_owned()));
            let encoded = |text: &str| text.replace(':', "%3A");
            if recorded.contains(':') {
                self.words.push((encoded(recorded), encoded(actual)));
            }
        }
    }

    /// Whether a text is a uuid.
    pub fn is_uuid(&self, text: &str) -> bool {
        text.len() == 27 && self.uuid.is_match(text)
    }

    /// A recorded text with the names of this run.
    pub fn translate(&self, recorded: &str) -> String {
        let known = |found: &Captures<'_>| format!("{}{}", &found[1], self.here(&found[2]).unwrap_or(&found[2]));
        let mut text = self.uuid.replace_all(recorded, known).into_owned();
        let tail =
            |found: &Captures<'_>| self.here(&found[1]).map_or_else(|| found[0].to_owned(), |tail| format!("({tail})"));
        text = self.tail.replace_all(&text, tail).into_owned();
        for (word, actual) in &self.words {
            if text.contains(word) {
                text = text.replace(word, actual);
            }
        }
        text
    }
}
