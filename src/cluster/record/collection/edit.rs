//! `replace_files` and `replace_segments`: edits that the server applies to what it has now (protocol.md 4.6, 5.5).
//!
//! What comes out is a text, and clients predict its hash: reading, moving and writing follow the controller piece by
//! piece, its oddities included. Blocks of the current content and of sources named by hash are signed for the caller
//! before they are read, as the controller does, so that the result passes the same check as any other manifest; that
//! is also why the same block can stand twice in a row, once with the client's signature and once with ours.

pub mod tree;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::cluster::answer::{Failure, quoted};
use crate::cluster::call::Call;
use crate::cluster::record::Record;
use crate::cluster::record::attribute::json_type;
use tree::{Blocks, Directory, LookupError, Node, Segment};

/// The option `replace_files`: sources by target.
#[derive(Debug)]
pub struct Files(BTreeMap<String, String>);

/// The option `replace_segments`: what replaces which piece of which block.
#[derive(Debug)]
pub struct Segments(Vec<(Place, Place)>);

/// A piece of a block: `"<locator> <offset> <length>"`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    locator: String,
    offset: u64,
    length: u64,
}

fn mistyped(value: &Value, what: &str) -> Failure {
    let kind = json_type(value);
    Failure::controller(
        500,
        format!("transcode: json: cannot unmarshal {kind} into Go struct field UpdateOptions.{what}"),
    )
}

impl Files {
    /// Reads the option; an empty one is none.
    ///
    /// # Errors
    /// 500 for badly typed ones (recorded: `replace_files/03-rf-err-not-object`).
    pub fn parse(option: Option<&Value>) -> Result<Option<Self>, Failure> {
        let map = match option {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(mistyped(other, "replace_files of type map[string]string")),
        };
        let mut edits = BTreeMap::new();
        for (target, source) in map {
            let source = match source {
                Value::String(source) => source.clone(),
                Value::Null => String::new(),
                other => return Err(mistyped(other, "replace_files of type string")),
            };
            edits.insert(target.clone(), source);
        }
        Ok((!edits.is_empty()).then_some(Self(edits)))
    }

    /// Targets are plain names, cleanly written; nothing may be done inside something that is written as a whole.
    fn check_targets(&self) -> Result<(), Failure> {
        for target in self.0.keys() {
            let bad = target != "/"
                && (!target.starts_with('/')
                    || ["/", "/.", "/.."].iter().any(|end| target.ends_with(end))
                    || ["//", "/./", "/../"].iter().any(|part| target.contains(part)));
            if bad {
                return Err(Failure::controller(400, format!("invalid replace_files target: {}", quoted(target))));
            }
            for (at, _) in target.match_indices('/').filter(|(at, _)| at + 1 < target.len()) {
                let above = if at == 0 { "/" } else { &target[..at] };
                if self.0.get(above).is_some_and(|source| !source.is_empty()) {
                    return Err(Failure::controller(
                        400,
                        format!(
                            "replace_files: cannot operate on target {} inside non-empty target {}",
                            quoted(target),
                            quoted(above)
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Segments {
    /// Reads the option; an empty one is none.
    ///
    /// # Errors
    /// 500 for anything malformed (recorded: `replace_files/03-rs-err-syntax`).
    pub fn parse(option: Option<&Value>) -> Result<Option<Self>, Failure> {
        let map = match option {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(Failure::controller(500, "transcode: EOF")),
        };
        let wrong = || Failure::controller(500, "transcode: EOF");
        let pairs = map.iter().map(|(old, new)| {
            let new = new.as_str().and_then(Place::parse).ok_or_else(wrong)?;
            Ok((Place::parse(old).ok_or_else(wrong)?, new))
        });
        let pairs = pairs.collect::<Result<Vec<_>, Failure>>()?;
        Ok((!pairs.is_empty()).then_some(Self(pairs)))
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let place = Self {
            locator: parts.next()?.to_owned(),
            offset: parts.next()?.parse().ok()?,
            length: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }

    fn hash(&self) -> &str {
        self.locator.split('+').next().unwrap_or_default()
    }
}

/// Where something comes from.
fn origin(source: &str) -> &str {
    match source.find('/') {
        Some(at) if at > 0 => &source[..at],
        _ => "",
    }
}

fn is_hash(text: &str) -> bool {
    text.split_once('+').is_some_and(|(hash, size)| {
        hash.len() == 32
            && hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            && !size.is_empty()
            && size.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl Call<'_> {
    /// The text after the edits, signed for the caller.
    ///
    /// # Errors
    /// 400 for edits that make no sense, 404 for sources that cannot be read, 500 where the controller itself fails.
    pub fn replace_files(&self, current: Option<&Record>, edits: &Files, given: String) -> Result<String, Failure> {
        if !given.is_empty() && !edits.0.values().any(|source| source.starts_with("manifest_text/")) {
            return Err(Failure::controller(
                400,
                "invalid request: attrs['manifest_text'] was provided, but would not be used because it is not \
                 referenced by any 'replace_files' entry",
            ));
        }
        let mut blocks = Blocks::default();
        let mut base = match current {
            // With `/` as a target the tree starts empty, and so does what `current/` stands for.
            Some(current) if !edits.0.contains_key("/") => tree::read(&self.signed_manifest(current)?, &mut blocks)
                .map_err(|text| Failure::controller(500, text))?,
            _ => Directory::default(),
        };
        edits.check_targets()?;
        let mut snapshots: HashMap<&str, Node> = HashMap::new();
        for source in edits.0.values().filter(|source| source.starts_with("current/")) {
            let found = base.lookup(&source["current/".len()..]).map_err(|error| match error {
                LookupError::Missing => {
                    Failure::controller(400, format!("replace_files: nonexistent source {}", quoted(source)))
                }
                LookupError::Other(text) => Failure::controller(500, format!("{source}: {text}")),
            })?;
            snapshots.insert(source, found);
        }
        let mut order: Vec<_> = edits.0.iter().collect();
        order.sort_by_key(|(_, source)| origin(source));
        let mut loaded: HashMap<&str, Directory> = HashMap::new();
        for (target, source) in order {
            if source.is_empty() {
                base.remove(target).map_err(|text| Failure::controller(500, format!("RemoveAll({target}): {text}")))?;
                continue;
            }
            let (head, path) = source.split_once('/').unwrap_or((source, "/"));
            let found = if head == "current" {
                snapshots
                    .get(source.as_str())
                    .cloned()
                    .ok_or_else(|| Failure::controller(500, format!("internal error: current[{source}] == nil")))?
            } else {
                if !loaded.contains_key(head) {
                    loaded.insert(head, self.load_source(target, source, head, &given, &mut blocks)?);
                }
                let error = |error: LookupError| {
                    let (path, head) = (quoted(path), quoted(head));
                    Failure::controller(400, format!("error getting snapshot of {path} from {head}: {error}"))
                };
                loaded.get(head).map_or(Err(LookupError::Missing), |tree| tree.lookup(path)).map_err(error)?
            };
            base.splice(target, found)?;
        }
        Ok(base.write(&blocks))
    }

    fn load_source(
        &self,
        target: &str,
        source: &str,
        head: &str,
        given: &str,
        blocks: &mut Blocks,
    ) -> Result<Directory, Failure> {
        if head == "manifest_text" {
            return tree::read(given, blocks)
                .map_err(|text| Failure::controller(400, format!("replace_files: {text}")));
        }
        if !is_hash(head) {
            return Err(Failure::controller(
                400,
                format!(
                    "invalid source {} for replace_files[{}]: must be \"\" or \"SRC\" or \"SRC/path\" where SRC is \
                     \"current\", \"manifest_text\", or a portable data hash",
                    quoted(source),
                    quoted(target)
                ),
            ));
        }
        let about = |failure: Failure| match failure.status {
            404 => failure.about(format!("/arvados/v1/collections/{head}")),
            _ => failure,
        };
        let text = match self.find_by_hash(head, false).map_err(about)? {
            Some(record) => self.signed_manifest(&record)?,
            None => String::new(),
        };
        tree::read(&text, blocks).map_err(|text| Failure::controller(500, text))
    }

    /// The text with some pieces of blocks replaced by equal pieces of others; what was there if nothing fits.
    ///
    /// # Errors
    /// 400 for replacements that cannot be equal.
    pub fn replace_segments(
        &self,
        current: Option<&Record>,
        edits: &Segments,
        text: Option<String>,
    ) -> Result<Option<String>, Failure> {
        let source = match (&text, current) {
            (Some(text), _) => text.clone(),
            (None, Some(current)) => self.signed_manifest(current)?,
            (None, None) => String::new(),
        };
        let mut blocks = Blocks::default();
        let mut tree = tree::read(&source, &mut blocks).map_err(|text| Failure::controller(500, text))?;
        let key = |hash: &str, offset, length| (hash.to_owned(), offset, length);
        let mut present = HashSet::new();
        tree.each_segment(&mut |segment| {
            present.insert(key(blocks.hash(segment.block), segment.offset, segment.length));
        });
        // One key that is not there spoils all entries with the same replacement block.
        let spoiled: HashSet<&str> = edits
            .0
            .iter()
            .filter(|(old, _)| !present.contains(&key(old.hash(), old.offset, old.length)))
            .map(|(_, new)| new.locator.as_str())
            .collect();
        let mut replacements = HashMap::new();
        for (old, new) in edits.0.iter().filter(|(_, new)| !spoiled.contains(new.locator.as_str())) {
            let size = check_replacement(old, new)?;
            let block = blocks.intern(&new.locator, size);
            let segment = Segment { block, block_size: size, offset: new.offset, length: new.length };
            replacements.insert(key(old.hash(), old.offset, old.length), segment);
        }
        let mut replaced = false;
        tree.each_segment(&mut |segment| {
            let place = key(blocks.hash(segment.block), segment.offset, segment.length);
            if let Some(replacement) = replacements.get(&place) {
                *segment = *replacement;
                replaced = true;
            }
        });
        Ok(if replaced { Some(tree.write(&blocks)) } else { text })
    }
}

/// The size of the replacing block.
fn check_replacement(old: &Place, new: &Place) -> Result<u64, Failure> {
    let wrong = |text: String| Failure::controller(400, format!("replace_segments: {text}"));
    if old.length != new.length {
        return Err(wrong(format!(
            "mismatched length: replacing segment length {} with segment length {}",
            old.length, new.length
        )));
    }
    let size = new.locator.split('+').nth(1).and_then(|size| size.parse::<u64>().ok());
    let size = size.ok_or_else(|| wrong(format!("invalid replacement locator {}", quoted(&new.locator))))?;
    if new.offset.saturating_add(new.length) > size {
        return Err(wrong(format!(
            "invalid replacement: offset {} + length {} > block size {size}",
            new.offset, new.length
        )));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets_must_be_clean_and_not_inside_each_other() {
        let check = |edits: Value| {
            Files::parse(Some(&edits)).unwrap().unwrap().check_targets().map_err(|failure| failure.status)
        };
        for bad in ["q", "/q/", "/a/../q", "/a//q", "/x/.", "", "//"] {
            assert_eq!(check(json!({bad: ""})), Err(400), "{bad}");
        }
        assert_eq!(check(json!({"/foo": "current/a", "/foo/x": ""})), Err(400));
        assert_eq!(check(json!({"/foo": "", "/foo/x": "current/a"})), Ok(()));
        assert_eq!(check(json!({"/": "", "/..a/b.": "current/a"})), Ok(()));
    }

    #[test]
    fn badly_typed_edits_get_the_recorded_status() {
        assert_eq!(Files::parse(Some(&json!(["/x"]))).unwrap_err().status, 500);
        assert_eq!(Files::parse(Some(&json!({"/x": 1}))).unwrap_err().status, 500);
        assert!(Files::parse(Some(&json!({}))).unwrap().is_none());
        assert_eq!(Segments::parse(Some(&json!({"foo": "bar"}))).unwrap_err().text(), "transcode: EOF");
    }
}
