//! Old versions of collections (protocol.md 4.5).
//!
//! A version that is kept becomes a row of its own with a new uuid, the old version number and the old times; the
//! current record keeps its uuid and counts on. The flag `preserve_version` stands for "the next change must keep what
//! is there now"; a write that does not repeat it takes it away. A client that reads a set flag can use `version` as
//! a condition (4.12 B), so the flag's comings and goings are part of the protocol.

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::record::Record;

/// What a change of makes a new version.
const VERSIONED: [&str; 4] = ["manifest", "name", "description", "properties"];

/// What old versions share with the current one.
const SHARED: [&str; 6] =
    ["owner_uuid", "trash_at", "delete_at", "is_trashed", "replication_desired", "storage_classes_desired"];

impl Call<'_> {
    /// Works out what a change does to the versions: counts `new` up and sets its flag, and returns the old version to
    /// keep, if one is to be kept. `flag` is what the request says about `preserve_version`.
    pub fn turn_version(&self, old: &Record, new: &mut Record, flag: Option<bool>) -> Option<Record> {
        let changed = |names: &[&str]| names.iter().any(|name| old.get(name) != new.get(name));
        let keep = self.configuration.collection_versioning
            && changed(&VERSIONED)
            && !new.flag("is_trashed")
            && (old.flag("preserve_version") || flag == Some(true) || self.is_idle(old));
        let wanted = if keep || !changed(&SHARED) {
            flag == Some(true)
        } else {
            old.flag("preserve_version") || flag == Some(true)
        };
        new.set("preserve_version", wanted);
        if !keep {
            return None;
        }
        new.set("version", old.number("version") + 1);
        let mut kept = old.clone();
        kept.set("uuid", self.configuration.new_uuid(old.model.infix));
        kept.set("current_version_uuid", old.uuid());
        Some(kept)
    }

    /// Whether nobody has changed the collection for long enough that the next change keeps what is there.
    fn is_idle(&self, old: &Record) -> bool {
        match self.configuration.preserve_version_if_idle {
            None => false,
            Some(idle) => idle.is_zero() || old.time("modified_at").is_some_and(|time| time <= self.now().minus(idle)),
        }
    }

    /// Carries over to the old versions what they share with the current one.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn share_with_versions(&self, old: &Record, new: &Record) -> Result<(), Failure> {
        let changed: Vec<_> = SHARED.iter().copied().filter(|name| old.get(name) != new.get(name)).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let text = format!(
            "UPDATE collections SET {} = ? WHERE current_version_uuid = ? AND uuid != current_version_uuid",
            changed.join(" = ?, ")
        );
        let values = changed.iter().map(|name| crate::cluster::store::rows::to_sql(new.get(name)));
        let uuid = rusqlite::types::Value::Text(old.uuid().to_owned());
        self.sql.prepare_cached(&text)?.execute(rusqlite::params_from_iter(values.chain([uuid])))?;
        Ok(())
    }

    /// Stores an old version. It announces itself with a `create` of its own, whose time is that of the original
    /// creation (protocol.md 9.3).
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn keep_version(&self, mut kept: Record, new: &Record) -> Result<(), Failure> {
        for name in SHARED {
            kept.set(name, new.get(name).clone());
        }
        let system = self.as_system();
        system.insert(&mut kept)?;
        system.log("create", None, Some(&kept))?;
        self.absorb(&system);
        Ok(())
    }
}
