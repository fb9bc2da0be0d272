//! `replace_files` and `replace_segments`: edits that the server applies to what it has now (protocol.md 4.6).
//!
//! What the edits do is [`crate::keep::replace_files`], shared with clients that predict the outcome. Here is what only
//! the server knows: the options as they come over the wire, and the texts the edits draw on. Blocks of the current
//! content and of sources named by hash are signed for the caller before they are read, as the controller does, so that
//! the result passes the same check as any other manifest; that is also why the same block can stand twice in a row,
//! once with the client's signature and once with ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::record::Record;
use crate::cluster::record::attribute::json_type;
use crate::cluster::record::collection::content::{self, Content};
use crate::cluster::record::collection::recent::Recent;
use crate::keep::replace_files::{self, Error, Refusal, SegmentSpec};

/// The option `replace_files`: sources by target.
#[derive(Debug)]
pub struct Files(BTreeMap<String, String>);

/// The option `replace_segments`: what replaces which piece of which block.
#[derive(Debug)]
pub struct Segments(Vec<(SegmentSpec, SegmentSpec)>);

impl Files {
    /// Reads the option; an empty one is none.
    ///
    /// # Errors
    /// 500 for badly typed ones (recorded: `replace_files/03-rf-err-not-object`).
    pub fn parse(option: Option<&Value>) -> Result<Option<Self>, Failure> {
        let mistyped = |value: &Value, wanted: &str| {
            let kind = json_type(value);
            let field = "Go struct field UpdateOptions.replace_files of type";
            Failure::controller(500, format!("transcode: json: cannot unmarshal {kind} into {field} {wanted}"))
        };
        let map = match option {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(mistyped(other, "map[string]string")),
        };
        let edits = map.iter().map(|(target, source)| match source {
            Value::String(source) => Ok((target.clone(), source.clone())),
            Value::Null => Ok((target.clone(), String::new())),
            other => Err(mistyped(other, "string")),
        });
        let edits = edits.collect::<Result<BTreeMap<_, _>, _>>()?;
        Ok((!edits.is_empty()).then_some(Self(edits)))
    }
}

impl Segments {
    /// Reads the option; an empty one is none.
    ///
    /// # Errors
    /// 500 for anything malformed (recorded: `replace_files/03-rs-err-syntax`).
    pub fn parse(option: Option<&Value>) -> Result<Option<Self>, Failure> {
        let wrong = || Failure::controller(500, "transcode: EOF");
        let map = match option {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(wrong()),
        };
        let (mut pairs, mut spoiled) = (Vec::new(), Vec::new());
        for (old, new) in map {
            let new = new.as_str().filter(|new| is_segment(new) && is_segment(old)).ok_or_else(wrong)?;
            match (old.parse::<SegmentSpec>(), new.parse::<SegmentSpec>()) {
                (Ok(old), Ok(new)) => pairs.push((old, new)),
                // What cannot name a block is in no collection, and spoils the other uses of its replacement.
                (Err(_), _) => spoiled.push(new.split(' ').next().unwrap_or_default()),
                (Ok(_), Err(_)) => {
                    return Err(Failure::controller(400, "replace_segments: invalid replacement: no locator"));
                }
            }
        }
        pairs.retain(|(_, new)| !spoiled.contains(&new.locator.as_str()));
        Ok((!pairs.is_empty()).then_some(Self(pairs)))
    }
}

/// Three words, the last two of them numbers: all that the option's reader looks at.
fn is_segment(text: &str) -> bool {
    let mut words = text.split(' ');
    let is_number = |word: Option<&str>| word.is_some_and(|word| word.parse::<u64>().is_ok());
    words.next().is_some_and(|word| !word.is_empty())
        && is_number(words.next())
        && is_number(words.next())
        && words.next().is_none()
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::controller(refusal.status(), refusal.to_string())
    }
}

impl Call<'_> {
    /// The content after edits of a collection, without a signature made for what stands there already, and in a time that
    /// depends on what changes and hardly on what does not (see `recent`). `None` where the result could be another one:
    /// then [`Call::replace_files`] and [`Content::check`] have to say.
    ///
    /// # Errors
    /// 403 for blocks of `given` that are not signed for the caller.
    pub fn content_after(
        &self,
        current: Option<&Record>,
        edits: &Files,
        given: &str,
    ) -> Result<Option<Content>, Failure> {
        let Some(current) = current.filter(|current| !current.flag("is_trashed")) else { return Ok(None) };
        if edits.0.values().any(|source| !source.is_empty() && !source.starts_with("manifest_text/")) {
            return Ok(None);
        }
        // Whatever is without a signature in the result must have come from the collection.
        if self.configuration.blob_signing && !content::is_signed_throughout(given) {
            return Ok(None);
        }
        let key = current.text("manifest");
        let recent = match self.store.recent.get(current.uuid(), key) {
            Some(recent) => Some(recent),
            None => Recent::read(key, &self.manifest_text(key)?).map(Arc::new),
        };
        let Some(after) = recent.and_then(|recent| recent.edit(&edits.0, given)) else { return Ok(None) };
        if self.configuration.blob_signing && !self.session.is_admin {
            content::check_each(&after.signed, &self.session, &self.configuration, self.now())?;
        }
        Ok(Some(after.content))
    }

    /// The text after the edits, signed for the caller.
    ///
    /// # Errors
    /// 400 for edits that make no sense, 404 for sources that cannot be read, 500 where the controller itself fails.
    pub fn replace_files(&self, current: Option<&Record>, edits: &Files, given: &str) -> Result<String, Failure> {
        let current = current.map(|current| self.signed_manifest(current)).transpose()?;
        let replaced = replace_files::replace_files(current.as_deref(), &edits.0, given, |hash| {
            let hash = hash.to_string();
            match self.find_by_hash(&hash, false) {
                Ok(Some(record)) => self.signed_manifest(&record),
                Ok(None) => Ok(String::new()),
                // The controller passes on what it was told about the source (recorded:
                // replace_files/03-rf-err-source-unknown-pdh).
                Err(failure) if failure.status == 404 => Err(failure.about(format!("/arvados/v1/collections/{hash}"))),
                Err(failure) => Err(failure),
            }
        });
        match replaced {
            Ok(replaced) => Ok(replaced.manifest_text),
            Err(Error::Refused(refusal)) => Err(refusal.into()),
            Err(Error::Source(failure)) => Err(failure),
        }
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
        match replace_files::replace_segments(&source, &edits.0) {
            Ok(replaced) => Ok(replaced.or(text)),
            Err(Error::Refused(refusal)) => Err(refusal.into()),
            Err(Error::Source(never)) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn badly_typed_edits_get_the_recorded_status() {
        assert_eq!(Files::parse(Some(&json!(["/x"]))).unwrap_err().status, 500);
        assert_eq!(Files::parse(Some(&json!({"/x": 1}))).unwrap_err().status, 500);
        assert!(Files::parse(Some(&json!({}))).unwrap().is_none());
        assert_eq!(Segments::parse(Some(&json!({"foo": "bar"}))).unwrap_err().text(), "transcode: EOF");
        assert!(Segments::parse(Some(&json!({"x+3 0 3": "y+3 0 3"}))).unwrap().is_none());
    }
}
