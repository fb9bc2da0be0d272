//! A record with its manifest taken out while it arrives.
//!
//! A collection of a million files has a manifest of a hundred megabytes and more, which arrives as one JSON string in
//! the middle of an ordinary record. Read with a JSON library it would exist three times at once: as received, unescaped,
//! and as text of its own. [`Splitter`] looks at every byte once instead: the text of `manifest_text` goes unescaped to a
//! [`ManifestSink`], all the rest is collected and is the same record with `"manifest_text": ""` in it.
//!
//! It must be right for every JSON text, and need not judge the wrong ones: what it collects is parsed by the JSON
//! library afterwards. Property test: splitting in any chunks gives what parsing the whole gives.

use crate::remote::error::{Error, Result};

/// Takes the text of a manifest piece by piece. Pieces may end anywhere, inside a line or a character too.
pub trait ManifestSink: Send {
    /// Forget what came so far: the request is sent (again) and the text starts from the beginning.
    fn restart(&mut self);
    /// The next bytes. The error says what is wrong with the text; the request then fails with it and is not repeated.
    fn piece(&mut self, bytes: &[u8]) -> std::result::Result<(), String>;
}

/// Collects the text whole.
impl ManifestSink for Vec<u8> {
    fn restart(&mut self) {
        self.clear();
    }

    fn piece(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

const KEY: &[u8] = b"manifest_text";

/// Largest record without manifest that is read; real ones have kilobytes (`description` 512 KiB, `properties`).
const LARGEST_RECORD: usize = 64 << 20;

/// Where in the text we are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Between the strings.
    Outside,
    /// In a string that is collected; `escaped` after a backslash.
    String { escaped: bool },
    /// In the manifest.
    Manifest(Escape),
}

/// Progress through an escape sequence of the manifest.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Escape {
    None,
    /// After a backslash.
    Start,
    /// After `\u` and some of the four digits.
    Digits {
        count: u8,
        value: u16,
    },
}

/// Splits one JSON object into its `manifest_text` and the rest.
pub(super) struct Splitter<'a> {
    sink: Option<&'a mut dyn ManifestSink>,
    rest: Vec<u8>,
    /// Unescaped text of the chunk at hand, so that the sink gets one piece per chunk.
    piece: Vec<u8>,
    state: State,
    depth: usize,
    /// The last string at depth 1 was this long key, ending where `rest` ends.
    key: Option<Vec<u8>>,
    /// `:` came after the key that matters: a string now is the manifest.
    expected: bool,
    /// The first half of a character outside of the basic plane.
    surrogate: Option<u16>,
}

impl<'a> Splitter<'a> {
    pub(super) fn new(mut sink: Option<&'a mut dyn ManifestSink>) -> Splitter<'a> {
        if let Some(sink) = sink.as_deref_mut() {
            sink.restart();
        }
        Splitter {
            sink,
            rest: Vec::new(),
            piece: Vec::new(),
            state: State::Outside,
            depth: 0,
            key: None,
            expected: false,
            surrogate: None,
        }
    }

    /// Takes the next chunk of the answer to `what`.
    pub(super) fn feed(&mut self, what: &str, chunk: &[u8]) -> Result<()> {
        let wrong = |problem: &str| Error::Answer { what: what.to_owned(), problem: problem.to_owned() };
        let mut at = 0;
        while at < chunk.len() {
            match self.state {
                State::Manifest(Escape::None) => {
                    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
                    let run = chunk[at..].iter().position(special).unwrap_or(chunk.len() - at);
                    if run > 0 {
                        self.flush_surrogate();
                        self.piece.extend_from_slice(&chunk[at..at + run]);
                        at += run;
                        continue;
                    }
                    match chunk[at] {
                        b'"' => {
                            self.flush_surrogate();
                            self.rest.push(b'"');
                            self.state = State::Outside;
                        }
                        b'\\' => self.state = State::Manifest(Escape::Start),
                        _ => return Err(wrong("control character in manifest_text")),
                    }
                }
                State::Manifest(escape) => {
                    let next = self.escape(escape, chunk[at]).ok_or_else(|| wrong("bad escape in manifest_text"))?;
                    self.state = State::Manifest(next);
                }
                State::String { escaped } => {
                    self.collect(chunk[at]);
                    self.state = match (escaped, chunk[at]) {
                        (false, b'"') => State::Outside,
                        (false, b'\\') => State::String { escaped: true },
                        _ => State::String { escaped: false },
                    };
                }
                State::Outside => self.outside(chunk[at]),
            }
            at += 1;
        }
        if self.rest.len() > LARGEST_RECORD {
            return Err(wrong("the record is too large"));
        }
        self.hand_over(what)
    }

    /// The record without the text of its manifest, complete or not.
    pub(super) fn finish(self) -> Vec<u8> {
        self.rest
    }

    fn hand_over(&mut self, what: &str) -> Result<()> {
        if let Some(sink) = self.sink.as_deref_mut()
            && !self.piece.is_empty()
        {
            sink.piece(&self.piece).map_err(|problem| Error::Manifest { what: what.to_owned(), problem })?;
        }
        self.piece.clear();
        Ok(())
    }

    /// A byte of a collected string. Its text is kept beside while it may be the key we look for.
    fn collect(&mut self, byte: u8) {
        self.rest.push(byte);
        if let Some(key) = &mut self.key {
            match byte {
                b'"' => {}
                _ if key.len() < KEY.len() => key.push(byte),
                _ => self.key = None,
            }
        }
    }

    fn outside(&mut self, byte: u8) {
        self.rest.push(byte);
        match byte {
            b'"' if self.expected => {
                self.expected = false;
                self.state = State::Manifest(Escape::None);
            }
            b'"' => {
                self.key = (self.depth == 1).then(Vec::new);
                self.state = State::String { escaped: false };
            }
            b':' => self.expected = self.depth == 1 && self.key.take().is_some_and(|key| key == KEY),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                self.key = None;
                self.expected = false;
                match byte {
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
    }

    fn escape(&mut self, escape: Escape, byte: u8) -> Option<Escape> {
        let plain = match (escape, byte) {
            (Escape::Start, b'u') => return Some(Escape::Digits { count: 0, value: 0 }),
            (Escape::Digits { count, value }, _) => {
                let digit = char::from(byte).to_digit(16)? as u16;
                let (count, value) = (count + 1, value << 4 | digit);
                if count < 4 {
                    return Some(Escape::Digits { count, value });
                }
                self.unit(value);
                return Some(Escape::None);
            }
            (_, b'n') => b'\n',
            (_, b't') => b'\t',
            (_, b'r') => b'\r',
            (_, b'b') => 8,
            (_, b'f') => 12,
            (_, b'"' | b'\\' | b'/') => byte,
            _ => return None,
        };
        self.flush_surrogate();
        self.piece.push(plain);
        Some(Escape::None)
    }

    /// One UTF-16 unit of a `\u` escape.
    fn unit(&mut self, unit: u16) {
        if let Some(first) = self.surrogate {
            if let Some(Ok(character)) = char::decode_utf16([first, unit]).next() {
                self.surrogate = None;
                self.character(character);
                return;
            }
            self.flush_surrogate();
        }
        match char::from_u32(u32::from(unit)) {
            Some(character) => self.character(character),
            None => self.surrogate = Some(unit),
        }
    }

    /// Half a character without its other half is none.
    fn flush_surrogate(&mut self) {
        if self.surrogate.take().is_some() {
            self.character(char::REPLACEMENT_CHARACTER);
        }
    }

    fn character(&mut self, character: char) {
        self.piece.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Splits `text`, cut into chunks of `size`.
    fn split(text: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut manifest = b"left over".to_vec();
        let mut splitter = Splitter::new(Some(&mut manifest));
        for chunk in text.chunks(size) {
            splitter.feed("x", chunk)?;
        }
        let rest = splitter.finish();
        Ok((manifest, rest))
    }

    #[test]
    fn the_manifest_is_taken_out_wherever_it_stands() {
        for text in [
            r#"{"manifest_text":". a\n","x":1}"#,
            r#"{"x":1, "manifest_text" : ". a\n"}"#,
            r#"{"x":1,"y":{"manifest_text":"not this"},"manifest_text":". \u0061\n"}"#,
            r#"{"x":1,"y":"manifest_text","z":["manifest_text"],"manifest_text":". a\n"}"#,
        ] {
            let (manifest, rest) = split(text.as_bytes(), 3).unwrap();
            assert_eq!(manifest, b". a\n", "{text}");
            let mut expected: Value = serde_json::from_str(text).unwrap();
            expected["manifest_text"] = json!("");
            assert_eq!(serde_json::from_slice::<Value>(&rest).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_manifest_stays() {
        for text in [r#"{"manifest_text":null}"#, r#"{"unsigned_manifest_text":"u"}"#, r#"["manifest_text","x"]"#] {
            let (manifest, rest) = split(text.as_bytes(), 2).unwrap();
            assert!(manifest.is_empty());
            assert_eq!(rest, text.as_bytes());
        }
    }

    #[test]
    fn broken_escapes_are_refused_and_lone_surrogates_replaced() {
        assert!(split(br#"{"manifest_text":"\x"}"#, 1).is_err());
        assert!(split(br#"{"manifest_text":"\u12g4"}"#, 1).is_err());
        assert!(split(b"{\"manifest_text\":\"\n\"}", 1).is_err());
        let (manifest, _) = split(br#"{"manifest_text":"\ud83dx\ud83d\n\ud83d\ude00\ud83d"}"#, 1).unwrap();
        assert_eq!(String::from_utf8(manifest).unwrap(), "\u{fffd}x\u{fffd}\n😀\u{fffd}");
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            Just(json!("manifest_text")),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            let key = prop_oneof![Just("manifest_text".to_owned()), ".*", "[\"\\\\:{}]*"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn splitting_gives_what_parsing_gives(record in value(), text in ".*", size in 1usize..40, pretty: bool) {
            let mut record = match record { Value::Object(map) => map, other => json!({ "x": other }).as_object().unwrap().clone() };
            record.insert("manifest_text".to_owned(), text.clone().into());
            let json = if pretty { serde_json::to_vec_pretty(&record) } else { serde_json::to_vec(&record) }.unwrap();
            let (manifest, rest) = split(&json, size).unwrap();
            prop_assert_eq!(String::from_utf8(manifest).unwrap(), text);
            record.insert("manifest_text".to_owned(), "".into());
            prop_assert_eq!(serde_json::from_slice::<Value>(&rest).unwrap(), Value::Object(record));
        }

        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..9) {
            drop(split(&text, size));
            let mut inside = br#"{"manifest_text":""#.to_vec();
            inside.extend(text);
            drop(split(&inside, size));
        }
    }
}
