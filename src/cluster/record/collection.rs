//! Collections: a manifest and what is known about it.
//!
//! | file | owns |
//! |---|---|
//! | [`content`] | a manifest that has been checked: text, portable data hash, counts |
//! | [`edit`] | `replace_files` and `replace_segments` |
//! | [`recent`] | what makes the next edit of a collection cheap |
//! | [`save`] | create and update: what may change, in which order things are refused |
//! | [`version`] | old versions |
//!
//! The manifest is not in the record: the record has a reference to a text that is stored once per content.

pub mod content;
pub mod edit;
pub mod recent;
pub mod save;
pub mod version;

use serde_json::{Map, Value, json};

use crate::cluster::answer::{Failure, quoted};
use crate::cluster::call::Call;
use crate::cluster::permission::Level;
use crate::cluster::present::{Place, Shape};
use crate::cluster::record::attribute::{Kind, Use, plain};
use crate::cluster::record::{Layer, Model, Record};
use crate::cluster::store::rows;

/// Collections.
pub static MODEL: Model = Model {
    table: "collections",
    singular: "collection",
    class: "Collection",
    kind: "collection",
    infix: "4zz18",
    layer: Layer::Controller,
    internal: &["manifest"],
    attributes: &[
        plain("owner_uuid", Kind::String, "User or project that owns the collection."),
        plain("created_at", Kind::Time, "When the collection was created.").used(Use::ReadOnly),
        plain("modified_by_user_uuid", Kind::String, "User who made the last change.").used(Use::ReadOnly),
        plain("modified_at", Kind::Time, "When the collection was last changed.").used(Use::ReadOnly),
        plain("portable_data_hash", Kind::String, "Hash of the content, the same wherever the content is."),
        plain("replication_desired", Kind::Integer, "Copies to keep of each block; null: as many as the cluster does."),
        plain("replication_confirmed_at", Kind::Time, "When the copies were last counted."),
        plain("replication_confirmed", Kind::Integer, "Copies that were found then."),
        plain("uuid", Kind::String, "Identifies the collection; made by the server."),
        plain("manifest_text", Kind::Text, "The content: which bytes of which blocks make up which files.")
            .used(Use::Apart),
        plain("unsigned_manifest_text", Kind::Text, "The same without block signatures.").used(Use::Apart),
        plain("name", Kind::String, "Name given by a user; unique within the owner."),
        plain("description", Kind::Text, "Longer text given by a user."),
        plain("properties", Kind::Object, "Anything a user wants to note."),
        plain("delete_at", Kind::Time, "When the trashed collection is deleted."),
        plain("trash_at", Kind::Time, "When the collection goes to the trash, or went."),
        plain("is_trashed", Kind::Boolean, "Whether it is in the trash."),
        plain("storage_classes_desired", Kind::Array, "Storage classes that the blocks should be in."),
        plain("storage_classes_confirmed", Kind::Array, "Storage classes that the blocks were found in."),
        plain("storage_classes_confirmed_at", Kind::Time, "When that was last looked up."),
        plain("current_version_uuid", Kind::String, "The collection of which this is a version."),
        plain("version", Kind::Integer, "Grows with each kept version."),
        plain("preserve_version", Kind::Boolean, "Whether the next change must keep this version."),
        plain("file_count", Kind::Integer, "Number of files.").used(Use::ReadOnly),
        plain("file_size_total", Kind::Integer, "Sum of their sizes, bytes.").used(Use::ReadOnly),
        plain("file_names", Kind::Text, "Names of the files, for searching.").used(Use::Hidden),
    ],
};

/// The empty collection, which everybody can read and nobody has to make.
pub const EMPTY_HASH: &str = "d41d8cd98f00b204e9800998ecf8427e+0";

/// What a path says instead of a uuid.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// A uuid.
    Uuid(String),
    /// A portable data hash, its hints taken off.
    Hash(String),
}

impl Name {
    /// Reads the last component of `/collections/…`.
    ///
    /// # Errors
    /// 404 for what is neither (recorded: `collections/03-get-malformed-uuid`, `collections/03-get-by-pdh-nosize`).
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if text.len() == 27 {
            return Ok(Self::Uuid(text.to_owned()));
        }
        let is_hash = text.len() >= 34
            && text.as_bytes()[32] == b'+'
            && text.as_bytes()[..32].iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
        if !is_hash {
            return Err(Failure::controller(404, format!("invalid UUID or PDH {}", quoted(text))));
        }
        Ok(Self::Hash(text.split('+').take(2).collect::<Vec<_>>().join("+")))
    }
}

impl Call<'_> {
    /// The collection with this content that lives longest among those the caller can read; `None` for the empty
    /// collection if nobody has one.
    ///
    /// # Errors
    /// 404 when there is none.
    pub fn find_by_hash(&self, hash: &str, include_trash: bool) -> Result<Option<Record>, Failure> {
        self.visibility()?;
        let trash = if include_trash { "1" } else { "NOT is_trashed AND NOT in_trash(owner_uuid)" };
        let text = format!(
            "SELECT {} FROM collections WHERE portable_data_hash = ? AND readable(current_version_uuid, owner_uuid) \
             AND {trash} ORDER BY trash_at IS NOT NULL, trash_at DESC, id LIMIT 1",
            rows::columns(&MODEL, "")
        );
        let mut statement = self.sql.prepare_cached(&text)?;
        let mut found = statement.query_map([hash], |row| rows::read(&MODEL, row))?;
        match found.next().transpose()? {
            Some(record) => Ok(Some(record)),
            None if hash == EMPTY_HASH => Ok(None),
            None => Err(Failure::not_found()),
        }
    }

    /// The answer to a GET by portable data hash: the hash in place of the uuid, the manifest, and of everything else
    /// the zero value (recorded: `collections/03-get-by-pdh`).
    ///
    /// # Errors
    /// 404 when nothing readable has that content, in the words of the controller.
    pub fn present_by_hash(&self, hash: &str, include_trash: bool, shape: &Shape) -> Result<Value, Failure> {
        let not_found = |failure: Failure| match failure.status {
            404 => Failure::controller(404, "not found"),
            _ => failure,
        };
        let found = self.find_by_hash(hash, include_trash).map_err(not_found)?;
        let text = match &found {
            Some(record) if shape.wants_manifest() => self.signed_manifest(record)?,
            _ => String::new(),
        };
        let mut shown = json!({
            "kind": MODEL.full_kind(), "etag": "", "uuid": hash, "owner_uuid": "", "created_at": null,
            "modified_at": null, "modified_by_user_uuid": "", "name": "", "description": null, "properties": null,
            "portable_data_hash": hash, "unsigned_manifest_text": "",
            "replication_desired": null, "replication_confirmed": null, "replication_confirmed_at": null,
            "storage_classes_desired": null, "storage_classes_confirmed": null, "storage_classes_confirmed_at": null,
            "trash_at": found.as_ref().map_or(Value::Null, |record| record.get("trash_at").clone()),
            "delete_at": null, "is_trashed": false, "version": 0, "current_version_uuid": "",
            "preserve_version": false, "file_count": 0, "file_size_total": 0,
        });
        shown["manifest_text"] = text.into();
        Ok(shape.select_from(shown))
    }

    /// The manifest, signed for the caller until the signatures' time or the trash's, whichever comes first; what is
    /// in the trash is not signed (protocol.md 6.3).
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn signed_manifest(&self, record: &Record) -> Result<String, Failure> {
        let text = self.manifest_text(record.text("manifest"))?;
        if record.flag("is_trashed") {
            return Ok(text.to_string());
        }
        Ok(self.sign(&text, record.time("trash_at")))
    }

    /// What the caller sees of a collection.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn present_collection(&self, record: &Record, shape: &Shape) -> Result<Value, Failure> {
        let mut shown = Map::new();
        let selected = shape.select.as_deref();
        let wants = |name: &str| selected.is_some_and(|names| names.iter().any(|one| one == name));
        if shape.place != Place::Contents {
            let signed = if shape.wants_manifest() { self.signed_manifest(record)? } else { String::new() };
            shown.insert("manifest_text".to_owned(), signed.into());
            let unsigned = if wants("unsigned_manifest_text") {
                self.manifest_text(record.text("manifest"))?.to_string()
            } else {
                String::new()
            };
            shown.insert("unsigned_manifest_text".to_owned(), unsigned.into());
        }
        Ok(shape.present(record, shown))
    }

    /// Provenance: here only what the collection itself says, because nothing is computed on this cluster. The real
    /// server shows the unsigned manifest (recorded: `collections/03-provenance`).
    ///
    /// # Errors
    /// 404 when the caller cannot see the collection.
    pub fn provenance(&self, uuid: &str) -> Result<Value, Failure> {
        let record = self.readable(&MODEL, uuid, false)?;
        let mut shown = self.present_collection(&record, &Shape::whole(Place::List))?;
        let text = self.manifest_text(record.text("manifest"))?;
        shown["manifest_text"] = text.as_ref().into();
        shown["unsigned_manifest_text"] = text.as_ref().into();
        Ok(json!({ uuid: shown }))
    }

    /// Who uses the content of a collection: the collections that have it (recorded: `collections/03-used-by`).
    ///
    /// # Errors
    /// 404 when the caller cannot see the collection.
    pub fn used_by(&self, uuid: &str) -> Result<Value, Failure> {
        let record = self.readable(&MODEL, uuid, false)?;
        let hash = record.text("portable_data_hash");
        self.visibility()?;
        let (count, name): (i64, Option<String>) = self
            .sql
            .prepare_cached(
                "SELECT count(*), min(name) FILTER (WHERE uuid = ?2) FROM collections WHERE portable_data_hash = ?1 \
                 AND readable(uuid, owner_uuid) AND NOT is_trashed AND NOT in_trash(owner_uuid) \
                 AND current_version_uuid = uuid",
            )?
            .query_row([hash, uuid], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let name = name.unwrap_or_default();
        let name = if count > 1 { format!("{name} + {} more", count - 1) } else { name };
        Ok(json!({ hash: {"name": name, "portable_data_hash": hash} }))
    }

    /// Whether the caller may change a record.
    ///
    /// # Errors
    /// 403 otherwise, naming the record and the caller as the real server does, two blanks included.
    pub fn require_writable(&self, record: &Record) -> Result<(), Failure> {
        let graph = self.graph()?;
        if self.level(record)? >= Level::Write && !graph.is_frozen(record.owner()) {
            return Ok(());
        }
        Err(Failure::rails(403, format!("Uuid  {} is not writable by {}", record.uuid(), self.session.user_uuid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_uuid_or_a_hash_with_or_without_hints() {
        let hash = "2742fdbeb8ee759329927088a846dbdb+149";
        assert_eq!(Name::parse(hash).unwrap(), Name::Hash(hash.to_owned()));
        assert_eq!(Name::parse(&format!("{hash}+Kzzzzz")).unwrap(), Name::Hash(hash.to_owned()));
        assert_eq!(Name::parse("2742fdbeb8ee759329927088a846dbdb").unwrap_err().status, 404);
        assert_eq!(Name::parse("nonsense").unwrap_err().text(), "invalid UUID or PDH \"nonsense\"");
        assert!(matches!(Name::parse("zzzzz-4zz18-0123456789abcde"), Ok(Name::Uuid(_))));
    }
}
