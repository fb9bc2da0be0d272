//! The trash: what goes there, what comes back, what is swept out (protocol.md 4.4).
//!
//! `is_trashed` is stored and follows `trash_at` whenever a record is saved; for a `trash_at` in the future it is the
//! sweep that notices. What lies in a trashed project keeps its own state and is hidden by the project.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::clock::Timestamp;
use crate::cluster::permission::Level;
use crate::cluster::record::{Model, Record, collection, group, log};
use crate::cluster::save::unique_name;
use crate::cluster::store::rows;

impl Call<'_> {
    fn trash_lifetime(&self, record: &Record) -> Duration {
        if record.model.table == group::MODEL.table && record.text("group_class") == group::ROLE {
            Duration::ZERO
        } else {
            self.configuration.default_trash_lifetime
        }
    }

    /// Brings `trash_at`, `delete_at` and `is_trashed` of a record about to be saved into line with each other.
    ///
    /// # Errors
    /// 422 when they contradict each other.
    pub fn apply_trash_times(&self, old: Option<&Record>, new: &mut Record) -> Result<(), Failure> {
        let now = self.now();
        let was = |name: &str| old.map_or(&Value::Null, |old| old.get(name));
        if new.get("is_trashed").is_null() {
            new.set("is_trashed", false);
        }
        let mut trash_changed = was("trash_at") != new.get("trash_at");
        if trash_changed && let Some(time) = new.time("trash_at") {
            new.set("trash_at", time.max(now).to_string());
        }
        let was_trashed = was("is_trashed").as_bool().unwrap_or_default();
        if was_trashed != new.flag("is_trashed") && !trash_changed {
            if new.flag("is_trashed") {
                new.set("trash_at", now.to_string());
            } else {
                new.set("trash_at", Value::Null);
                new.set("delete_at", Value::Null);
            }
            trash_changed = was("trash_at") != new.get("trash_at");
        }
        new.set("is_trashed", new.time("trash_at").is_some_and(|time| time <= now));

        let delete_changed = was("delete_at") != new.get("delete_at");
        if trash_changed && !delete_changed {
            let delete_at = new.time("trash_at").map(|time| time.plus(self.trash_lifetime(new)).to_string());
            new.set("delete_at", delete_at.map_or(Value::Null, Value::from));
        } else if delete_changed
            && let (Some(trash_at), Some(delete_at)) = (new.time("trash_at"), new.time("delete_at"))
            && delete_at >= trash_at
        {
            // Signatures that were given out must not outlive the blocks. None was made after the old trash time.
            let last_signed = old.and_then(|old| old.time("trash_at")).map_or(now, |time| time.min(now));
            let mut earliest = last_signed.plus(self.configuration.blob_signing_ttl);
            if let Some(before) = old.and_then(|old| old.time("delete_at")) {
                earliest = earliest.min(before);
            }
            new.set("delete_at", delete_at.max(earliest).to_string());
        }
        match (new.time("trash_at"), new.time("delete_at")) {
            (None, None) => Ok(()),
            (Some(trash_at), Some(delete_at)) if delete_at >= trash_at => Ok(()),
            (Some(_), Some(_)) => Err(Failure::unprocessable("Delete at must not be earlier than trash_at")),
            _ => Err(Failure::unprocessable("Delete at must be set if trash_at is set, and must be nil otherwise")),
        }
    }

    /// Moves a collection or group to the trash. Again: nothing. With `delete`, the time of its deletion is brought
    /// forward to the end of the last signatures.
    ///
    /// # Errors
    /// 404, 403, 422.
    pub fn trash(&self, model: &'static Model, uuid: &str, delete: bool) -> Result<Record, Failure> {
        let old = self.readable(model, uuid, true)?;
        self.require_writable(&old)?;
        if model.table == collection::MODEL.table && old.text("current_version_uuid") != uuid {
            return Err(Failure::unprocessable("past versions cannot be updated"));
        }
        let mut record = old.clone();
        if !old.flag("is_trashed") {
            if model.table == group::MODEL.table {
                self.refuse_frozen_contents(&old)?;
            }
            record.set("trash_at", self.now().to_string());
            record = self.finish_trash(&old, record)?;
        }
        let earliest = record.time("trash_at").map(|time| time.plus(self.configuration.blob_signing_ttl));
        if delete
            && let (Some(delete_at), Some(earliest)) = (record.time("delete_at"), earliest)
            && delete_at > earliest
        {
            let before = record.clone();
            record.set("delete_at", earliest.to_string());
            record = self.finish_trash(&before, record)?;
        }
        Ok(record)
    }

    fn finish_trash(&self, old: &Record, mut new: Record) -> Result<Record, Failure> {
        self.apply_trash_times(Some(old), &mut new)?;
        if new.model.table == collection::MODEL.table {
            self.share_with_versions(old, &new)?;
        }
        self.finish_update(old, new)
    }

    fn refuse_frozen_contents(&self, project: &Record) -> Result<(), Failure> {
        let graph = self.graph()?;
        let inside = graph.descendants(project.uuid());
        let mut frozen: Vec<_> = inside.iter().filter(|uuid| graph.is_frozen(uuid)).collect();
        frozen.sort();
        match frozen.first() {
            Some(uuid) if graph.is_frozen(project.uuid()) => {
                Err(Failure::rails(403, format!("{uuid} is frozen and cannot be modified")))
            }
            Some(uuid) => Err(Failure::argument(format!("cannot trash project containing frozen project {uuid}"))),
            None => Ok(()),
        }
    }

    /// Brings a collection or group back.
    ///
    /// # Errors
    /// 422 when it is not in the trash, its time is over, or its name is taken.
    pub fn untrash(&self, model: &'static Model, uuid: &str, ensure_unique_name: bool) -> Result<Record, Failure> {
        let old = self.readable(model, uuid, true)?;
        let wrong =
            |text: &str| Err(Failure::unprocessable(format!("#<ArvadosModel::InvalidStateTransitionError: {text}>")));
        if !old.flag("is_trashed") {
            return wrong("Item is not trashed, cannot untrash");
        }
        if old.time("delete_at").is_some_and(|time| time <= self.now()) {
            return wrong("delete_at time has already passed, cannot untrash");
        }
        self.require_writable(&old)?;
        let mut new = old.clone();
        new.set("trash_at", Value::Null);
        match self.finish_trash(&old, new.clone()) {
            Err(failure) if ensure_unique_name && rows::is_name_clash(&failure) => {
                new.set("name", unique_name(&new));
                self.finish_trash(&old, new)
            }
            result => result,
        }
    }

    /// Notices what has come to its time: moves to the trash, deletes from it, and clears old logs and manifests that
    /// nothing refers to any more. The caller is the system user.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn sweep(&self) -> Result<(), Failure> {
        let now = self.now();
        for model in [&collection::MODEL, &group::MODEL] {
            for record in self.due(model, "delete_at <= ?", now)? {
                if model.table == group::MODEL.table {
                    self.delete_project(&record)?;
                } else {
                    self.destroy(&record)?;
                }
            }
            for old in self.due(model, "NOT is_trashed AND trash_at <= ?", now)? {
                let mut new = old.clone();
                new.set("is_trashed", true);
                self.store(&old, &new)?;
            }
        }
        let oldest = now.minus(self.configuration.max_log_age).to_string();
        self.sql.execute(&format!("DELETE FROM {} WHERE created_at < ?", log::MODEL.table), [&oldest])?;
        self.sql.execute("DELETE FROM api_client_authorizations WHERE expires_at < ?", [&oldest])?;
        self.sql.execute(
            "DELETE FROM manifests WHERE NOT EXISTS (SELECT 1 FROM collections WHERE manifest = hash) \
             AND NOT EXISTS (SELECT 1 FROM logs WHERE old_manifest = hash) \
             AND NOT EXISTS (SELECT 1 FROM logs WHERE new_manifest = hash)",
            (),
        )?;
        Ok(())
    }

    fn due(&self, model: &'static Model, condition: &str, now: Timestamp) -> Result<Vec<Record>, Failure> {
        // Old versions go before the one that replaced them (recorded: websocket/07-trash-sweep-delete-events).
        let order = if model.table == collection::MODEL.table { "uuid = current_version_uuid, id" } else { "id" };
        let text =
            format!("SELECT {} FROM {} WHERE {condition} ORDER BY {order}", rows::columns(model, ""), model.table);
        let mut statement = self.sql.prepare_cached(&text)?;
        let found = statement.query_map([now.to_string()], |row| rows::read(model, row))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Deletes a project with everything in it, innermost first.
    fn delete_project(&self, project: &Record) -> Result<(), Failure> {
        // A project that was deleted with the one around it is gone already.
        if self.find(&group::MODEL, project.uuid())?.is_none() {
            return Ok(());
        }
        for model in crate::cluster::record::MODELS {
            if model.table == log::MODEL.table {
                continue;
            }
            let text =
                format!("SELECT {} FROM {} WHERE owner_uuid = ? ORDER BY id", rows::columns(model, ""), model.table);
            let owned = self
                .sql
                .prepare_cached(&text)?
                .query_map([project.uuid()], |row| rows::read(model, row))?
                .collect::<Result<Vec<_>, _>>()?;
            for record in owned {
                if model.table == group::MODEL.table {
                    self.delete_project(&record)?;
                } else {
                    self.destroy(&record)?;
                }
            }
        }
        self.destroy(project)
    }

    /// Whether a user may see what happened to something that is gone: if its owner is theirs to see.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn can_see_owner(&self, owner: &str) -> Result<bool, Failure> {
        Ok(self.visibility()?.level("", owner) >= Level::Read)
    }
}
