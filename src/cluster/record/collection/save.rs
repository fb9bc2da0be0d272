//! Creating and changing collections (protocol.md 4.2, 4.12).
//!
//! In two steps. [`Call::prepare_collection`] works out the new content on a snapshot, however long that takes, while
//! the caller holds the lock of the collection: nothing else can change its content meanwhile. Then
//! [`Call::create_collection`] or [`Call::update_collection`] runs in the writer's transaction, which is short.
//!
//! The two conditions a client can make are checked here, in the transaction. `portable_data_hash` is compared with
//! what is about to be stored, and only if it differs from what *is* stored: it is a condition on the result, and none
//! at all when it names the current content. `version` must be the current one.

use serde_json::{Map, Value};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::record::Record;
use crate::cluster::record::collection::content::Content;
use crate::cluster::record::collection::{EMPTY_HASH, MODEL, edit};
use crate::keep::locator::LocatorText;

/// Content worked out before the transaction; what is wrong with it is said when its turn comes.
pub type Prepared = Option<Result<Content, Failure>>;

/// Attributes with rules of their own, taken out before the others are assigned.
struct Special {
    portable_data_hash: Option<Value>,
    version: Option<Value>,
    current_version_uuid: Option<Value>,
    preserve_version: Option<bool>,
    storage_classes: Option<Value>,
}

impl Special {
    fn take(attributes: &mut Map<String, Value>) -> Self {
        Self {
            portable_data_hash: attributes.remove("portable_data_hash"),
            version: attributes.remove("version"),
            current_version_uuid: attributes.remove("current_version_uuid"),
            preserve_version: attributes.remove("preserve_version").map(|value| match value {
                Value::Bool(flag) => flag,
                Value::String(text) => !matches!(text.as_str(), "" | "f" | "false" | "0"),
                Value::Number(number) => number.as_f64() != Some(0.0),
                _ => false,
            }),
            storage_classes: attributes.remove("storage_classes_desired"),
        }
    }
}

impl Call<'_> {
    /// Works out the content that a request leads to: edits first, then segments, then all the checks. Takes the
    /// manifest out of the attributes. `current`: the collection to be changed.
    ///
    /// # Errors
    /// What the controller refuses: wrong options and edits that cannot be done (protocol.md 4.6).
    pub fn prepare_collection(
        &self,
        current: Option<&Record>,
        attributes: &mut Map<String, Value>,
        replace_files: Option<&Value>,
        replace_segments: Option<&Value>,
    ) -> Result<Prepared, Failure> {
        let given = match attributes.remove("manifest_text") {
            None => None,
            Some(Value::Null) => Some(String::new()),
            Some(Value::String(text)) => Some(text),
            Some(other) => Some(other.to_string()),
        };
        let mut text = given;
        if let Some(edits) = edit::Files::parse(replace_files)? {
            if replace_segments.is_none()
                && let Some(content) = self.content_after(current, &edits, text.as_deref().unwrap_or_default())?
            {
                return Ok(Some(Ok(content)));
            }
            text = Some(self.replace_files(current, &edits, &text.unwrap_or_default())?);
        }
        if let Some(edits) = edit::Segments::parse(replace_segments)? {
            text = self.replace_segments(current, &edits, text)?;
        }
        let Some(text) = text else { return Ok(None) };
        if let Some(current) = current
            && let stored = self.manifest_text(current.text("manifest"))?
            && *stored == *text
        {
            // A text without signatures that is what is stored counts as no change and is not checked.
            return Ok(Some(Ok(Content::of_unsigned(&stored))));
        }
        Ok(Some(Content::check(&text, &self.session, &self.configuration, self.now())))
    }

    /// Makes a collection.
    ///
    /// # Errors
    /// 403, 422.
    pub fn create_collection(
        &self,
        mut attributes: Map<String, Value>,
        prepared: Prepared,
        ensure_unique_name: bool,
    ) -> Result<Record, Failure> {
        if !self.session.is_active {
            return Err(Failure::denied());
        }
        let special = Special::take(&mut attributes);
        let mut record = Record::new(&MODEL);
        self.assign(&mut record, attributes, true)?;
        self.identify(&mut record);
        let content = match prepared {
            Some(content) => content?,
            None => Content::of_unsigned(""),
        };
        self.check_owner(None, &record)?;
        if record.get("properties").is_null() {
            record.set("properties", Map::new());
        }
        let classes = special.storage_classes.map(|value| self.cast_classes(value)).transpose()?.unwrap_or_default();
        let classes = if classes.is_empty() { self.configuration.default_storage_classes() } else { classes };
        record.set("storage_classes_desired", classes);
        record.set("storage_classes_confirmed", Vec::<Value>::new());
        record.set("version", 1);
        record.set("current_version_uuid", record.uuid().to_owned());
        record.set("preserve_version", special.preserve_version == Some(true));
        normalize_name(&mut record);
        self.set_content(&mut record, &content)?;
        self.apply_trash_times(None, &mut record)?;
        self.check_confirmations(None, &record)?;
        let mut wrong = Vec::new();
        wrong.extend(special.portable_data_hash.and_then(|wanted| hash_trouble(&wanted, None, &content.hash)));
        wrong.extend(self.name_trouble(&record));
        Failure::unless_empty(wrong)?;
        self.insert_with_unique_name(&mut record, ensure_unique_name)?;
        self.created(&record)?;
        Ok(record)
    }

    /// Changes a collection.
    ///
    /// # Errors
    /// 404, 403, 422.
    pub fn update_collection(
        &self,
        uuid: &str,
        mut attributes: Map<String, Value>,
        prepared: Prepared,
    ) -> Result<Record, Failure> {
        let old = self.readable(&MODEL, uuid, false)?;
        let special = Special::take(&mut attributes);
        let mut new = old.clone();
        self.assign(&mut new, attributes, false)?;
        self.require_writable(&old)?;
        if old.text("current_version_uuid") != uuid {
            return Err(Failure::unprocessable("past versions cannot be updated"));
        }
        let content = prepared.transpose()?;
        self.check_owner(Some(&old), &new)?;
        if new.get("properties").is_null() {
            new.set("properties", Map::new());
        }
        normalize_name(&mut new);
        if let Some(content) = &content {
            self.set_content(&mut new, content)?;
            self.forget_confirmations(&old, &mut new, content)?;
        }
        self.apply_trash_times(Some(&old), &mut new)?;
        self.check_confirmations(Some(&old), &new)?;

        let mut wrong = Vec::new();
        let hash = new.text("portable_data_hash").to_owned();
        let stored = old.text("portable_data_hash");
        wrong.extend(special.portable_data_hash.and_then(|wanted| hash_trouble(&wanted, Some(stored), &hash)));
        if let Some(version) = special.version
            && MODEL.attribute("version").map(|attribute| attribute.cast(&MODEL, version)).transpose()?.as_ref()
                != Some(old.get("version"))
        {
            wrong.push("Version cannot be updated".to_owned());
        }
        if special.current_version_uuid.is_some_and(|wanted| wanted != uuid) {
            wrong.push("Current version uuid cannot be updated".to_owned());
        }
        if let Some(classes) = special.storage_classes {
            let classes = self.cast_classes(classes)?;
            if classes.is_empty() {
                wrong.push("Storage classes desired must not be empty".to_owned());
            }
            new.set("storage_classes_desired", classes);
        }
        wrong.extend(self.name_trouble(&new));
        Failure::unless_empty(wrong)?;

        if old.values == new.values && special.preserve_version.is_none() && !old.flag("preserve_version") {
            return Ok(old);
        }
        let kept = self.turn_version(&old, &mut new, special.preserve_version);
        if differ_only_in_flag(&old, &new) {
            // The flag alone is no change: no new time, no log, no event.
            self.store(&old, &new)?;
            return Ok(new);
        }
        self.share_with_versions(&old, &new)?;
        new.set("modified_at", self.now().to_string());
        new.set("modified_by_user_uuid", self.session.user_uuid.clone());
        self.store(&old, &new)?;
        if let Some(kept) = kept {
            self.keep_version(kept, &new)?;
        }
        self.log("update", Some(&old), Some(&new))?;
        // Only what is about to be stored: what a refused edit was applied to is still there for the next one.
        if let Some(recent) = content.and_then(|content| content.recent) {
            self.store.recent.put(uuid, recent);
        }
        Ok(new)
    }

    fn set_content(&self, record: &mut Record, content: &Content) -> Result<(), Failure> {
        self.put_manifest(content)?;
        record.set("manifest", content.key.clone());
        record.set("portable_data_hash", content.hash.clone());
        record.set("file_count", content.file_count);
        record.set("file_size_total", content.file_size_total);
        Ok(())
    }

    /// What was confirmed about the old blocks says nothing about new ones.
    fn forget_confirmations(&self, old: &Record, new: &mut Record, content: &Content) -> Result<(), Failure> {
        if old.get("replication_confirmed").is_null() && old.get("storage_classes_confirmed_at").is_null() {
            return Ok(());
        }
        if content.has_blocks_beyond(&self.manifest_text(old.text("manifest"))?) {
            for name in ["replication_confirmed", "replication_confirmed_at", "storage_classes_confirmed_at"] {
                new.set(name, Value::Null);
            }
            new.set("storage_classes_confirmed", Vec::<Value>::new());
        }
        Ok(())
    }

    /// Only the cluster's own services, as administrators, say what they have confirmed; others may take it back.
    fn check_confirmations(&self, old: Option<&Record>, new: &Record) -> Result<(), Failure> {
        if self.session.is_admin {
            return Ok(());
        }
        let changed = |name: &str| match old {
            Some(old) => old.get(name) != new.get(name) && !is_blank(new.get(name)),
            None => !is_blank(new.get(name)),
        };
        let refused = |one: &str| {
            Err(Failure::rails(
                403,
                format!(
                    "#<ArvadosModel::PermissionDeniedError: {one}_confirmed and {one}_confirmed_at attributes cannot be \
                     changed, except by setting both to nil>"
                ),
            ))
        };
        for one in ["replication", "storage_classes"] {
            if changed(&format!("{one}_confirmed")) || changed(&format!("{one}_confirmed_at")) {
                return refused(one);
            }
        }
        Ok(())
    }

    fn cast_classes(&self, value: Value) -> Result<Vec<String>, Failure> {
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(list) => list
                .into_iter()
                .map(|one| match one {
                    Value::String(name) => Ok(name),
                    _ => Err(Failure::unprocessable("Storage classes desired must be an array of strings")),
                })
                .collect(),
            _ => Err(Failure::unprocessable("Storage classes desired must be an array of strings")),
        }
    }
}

fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// A collection without a name has none, not an empty one: two of them do not clash.
fn normalize_name(record: &mut Record) {
    if record.text("name").is_empty() {
        record.set("name", Value::Null);
    }
    if record.text("description").is_empty() {
        record.set("description", Value::Null);
    }
}

/// What is wrong with the hash a client expects, if it is to be compared at all. Only the 32 digits count.
fn hash_trouble(wanted: &Value, stored: Option<&str>, computed: &str) -> Option<String> {
    let wanted = match wanted {
        Value::Null => return None,
        Value::String(text) => text.as_str(),
        _ => return Some("Portable data hash is not a valid locator".to_owned()),
    };
    if Some(wanted) == stored {
        return None;
    }
    let digits = match LocatorText::parse(wanted) {
        Ok(locator) => &locator.as_str()[..32],
        Err(_) => return Some("Portable data hash is not a valid locator".to_owned()),
    };
    let computed_digits = computed.get(..32).unwrap_or(&EMPTY_HASH[..32]);
    (digits != computed_digits)
        .then(|| format!("Portable data hash '{wanted}' does not match computed hash '{computed}'"))
}

fn differ_only_in_flag(old: &Record, new: &Record) -> bool {
    old.values.iter().all(|(name, value)| name == "preserve_version" || new.get(name) == value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expected_hash_is_compared_with_the_result_and_not_with_the_base() {
        let (base, result) = ("268cc83f4af09adbd4408ed8bd3c21fe+71", "9060aeb864a5b6dd668ef0516c48349d+81");
        let trouble = |wanted: Value| hash_trouble(&wanted, Some(base), result);
        assert_eq!(trouble(json!(result)), None);
        assert_eq!(trouble(json!("9060aeb864a5b6dd668ef0516c48349d+1")), None, "only the digits count");
        assert_eq!(trouble(json!(base)), None, "the current hash is no condition");
        assert!(
            trouble(json!("63628d952763e016b008026cbc76a216+50")).unwrap().contains("does not match computed hash")
        );
        assert!(trouble(json!("nonsense")).unwrap().contains("not a valid locator"));
        assert!(trouble(json!("")).unwrap().contains("not a valid locator"));
        assert_eq!(trouble(Value::Null), None);
    }
}
