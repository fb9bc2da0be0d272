//! Creating, changing and deleting records: what all kinds have in common (protocol.md 4.2).
//!
//! The order in which things are refused is the real server's, as far as the recordings tell: what cannot be seen is
//! not found; unknown attributes come before permissions; of what is wrong with the values, all is said at once. A
//! change that changes nothing is none: no new time, no log, no event.

use serde_json::{Map, Value};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::permission::Level;
use crate::cluster::record::attribute::Use;
use crate::cluster::record::{Model, Record, group, infix, link, log, other, token, user};
use crate::cluster::store::rows;

/// Attributes that a client may send and that are dropped without a word.
const IGNORED: [&str; 2] = ["modified_by_client_uuid", "unsigned_manifest_text"];

/// Attributes that an update ignores and a create does not know (recorded: `collections/03-update-kind-etag-ignored`,
/// `collections/03-create-with-kind`).
const ECHOED: [&str; 3] = ["kind", "etag", "href"];

impl Call<'_> {
    /// Takes over what a client sent, value by value in wire form.
    ///
    /// # Errors
    /// 422 for unknown attributes and forbidden uuids, and those of casting.
    pub fn assign(&self, record: &mut Record, attributes: Map<String, Value>, creating: bool) -> Result<(), Failure> {
        let model = record.model;
        let is_unknown = |name: &&String| {
            let passed_over = IGNORED.contains(&name.as_str()) || (!creating && ECHOED.contains(&name.as_str()));
            !passed_over && model.attribute(name).is_none()
        };
        // Options of the controller that came without the attributes' own key are named only if nothing else is wrong
        // (recorded: replace_files/03-rf-json-body-without-collection-key).
        let unknown = attributes.keys().filter(is_unknown);
        if let Some(name) = unknown.min_by_key(|name| ["replace_files", "replace_segments"].contains(&name.as_str())) {
            return Err(Failure::unprocessable(format!(
                "#<ActiveModel::UnknownAttributeError: unknown attribute '{name}' for {}.>",
                model.class
            )));
        }
        for (name, value) in attributes {
            if IGNORED.contains(&name.as_str()) || (!creating && ECHOED.contains(&name.as_str())) {
                continue;
            }
            let Some(attribute) = model.attribute(&name) else { continue };
            if attribute.usage != Use::Plain {
                continue;
            }
            let value = attribute.cast(model, value)?;
            if name == "uuid" {
                self.assign_uuid(record, &value, creating)?;
            } else {
                record.values.insert(name, value);
            }
        }
        Ok(())
    }

    fn assign_uuid(&self, record: &mut Record, value: &Value, creating: bool) -> Result<(), Failure> {
        let uuid = value.as_str().unwrap_or_default();
        if !creating {
            return if uuid == record.uuid() {
                Ok(())
            } else {
                Err(Failure::unprocessable("Uuid change not permitted"))
            };
        }
        if uuid.is_empty() {
            return Ok(());
        }
        if !self.session.is_admin {
            return Err(Failure::unprocessable("Uuid assignment not permitted"));
        }
        if infix(uuid) != Some(record.model.infix) {
            let message = format!(
                "Uuid type field is '{}', expected '{}'",
                uuid.get(6..11).unwrap_or_default(),
                record.model.infix
            );
            return Err(Failure::unprocessable(message));
        }
        record.set("uuid", uuid);
        Ok(())
    }

    /// Makes a record of any kind but a collection out of what a client sent.
    ///
    /// # Errors
    /// 403, 422, as the kind demands.
    pub fn create(
        &self,
        model: &'static Model,
        attributes: Map<String, Value>,
        ensure_unique_name: bool,
    ) -> Result<Record, Failure> {
        if !self.session.is_active {
            return Err(Failure::denied());
        }
        let mut record = Record::new(model);
        self.assign(&mut record, attributes, true)?;
        self.identify(&mut record);
        match model.table {
            table if table == group::MODEL.table => {
                self.prepare_group(&mut record)?;
                self.apply_trash_times(None, &mut record)?;
                self.validate_group(None, &record)?;
                if record.text("group_class") != group::ROLE {
                    self.check_owner(None, &record)?;
                }
            }
            table if table == user::MODEL.table => self.prepare_user(&mut record)?,
            table if table == link::MODEL.table => {
                self.prepare_link(None, &mut record)?;
                if let Some(existing) = self.existing_permission(&record)? {
                    return self.raise_permission(existing, &record);
                }
            }
            table if table == token::MODEL.table => self.prepare_token(&mut record)?,
            table if table == log::MODEL.table => self.prepare_log(&mut record),
            table if table == other::WORKFLOW.table => self.check_owner(None, &record)?,
            _ => {
                return Err(Failure::unprocessable(format!(
                    "this cluster keeps no {}: it has no compute nodes and no shell nodes",
                    model.table
                )));
            }
        }
        self.insert_with_unique_name(&mut record, ensure_unique_name)?;
        self.created(&record)?;
        Ok(record)
    }

    /// Stores a record that the cluster itself makes, complete but for uuid and times.
    ///
    /// # Errors
    /// Those of the store.
    pub fn create_record(&self, mut record: Record) -> Result<Record, Failure> {
        self.identify(&mut record);
        self.insert(&mut record)?;
        self.created(&record)?;
        Ok(record)
    }

    /// Gives a new record its uuid, owner and times, unless it has them.
    pub fn identify(&self, record: &mut Record) {
        let defaults = [
            ("uuid", self.configuration.new_uuid(record.model.infix)),
            ("owner_uuid", self.session.user_uuid.clone()),
            ("created_at", self.now().to_string()),
            ("modified_at", self.now().to_string()),
            ("modified_by_user_uuid", self.session.user_uuid.clone()),
        ];
        for (name, value) in defaults {
            if record.text(name).is_empty() {
                record.set(name, value);
            }
        }
    }

    /// Stores a new record; on a clash of names with another name, if the client wants that: at most 237 characters
    /// of its own and the unique part of the uuid, which together fit into 255.
    ///
    /// # Errors
    /// 422 when the name is taken.
    pub fn insert_with_unique_name(&self, record: &mut Record, ensure_unique_name: bool) -> Result<(), Failure> {
        match self.insert(record) {
            Err(failure) if ensure_unique_name && rows::is_name_clash(&failure) => {
                record.set("name", unique_name(record));
                self.insert(record)
            }
            result => result,
        }
    }

    /// What follows a create: rights that come with it, and the log.
    ///
    /// # Errors
    /// Those of the store.
    pub fn created(&self, record: &Record) -> Result<(), Failure> {
        if record.model.table == log::MODEL.table {
            self.announce(log::LogRow::of(record));
            return Ok(());
        }
        self.log("create", None, Some(record))?;
        match record.model.table {
            table if table == group::MODEL.table => self.finish_group(record),
            table if table == user::MODEL.table => self.finish_user(record),
            _ => Ok(()),
        }
    }

    fn prepare_log(&self, log: &mut Record) {
        if log.get("event_at").is_null() {
            log.set("event_at", log.get("modified_at").clone());
        }
        if log.get("properties").is_null() {
            log.set("properties", Map::new());
        }
    }

    fn raise_permission(&self, existing: Record, wanted: &Record) -> Result<Record, Failure> {
        let (has, wants) = (Level::of_name(existing.text("name")), Level::of_name(wanted.text("name")));
        if wants <= has {
            return Ok(existing);
        }
        let mut raised = existing.clone();
        raised.set("name", wanted.text("name"));
        self.finish_update(&existing, raised)
    }

    /// Changes a record of any kind but a collection.
    ///
    /// # Errors
    /// 404, 403, 422, as the kind demands.
    pub fn update(&self, model: &'static Model, uuid: &str, attributes: Map<String, Value>) -> Result<Record, Failure> {
        let old = self.readable(model, uuid, false)?;
        let mut new = old.clone();
        self.assign(&mut new, attributes, false)?;
        self.require_writable(&old)?;
        match model.table {
            table if table == group::MODEL.table => {
                if new.get("name").is_null() {
                    new.set("name", old.get("name").clone());
                }
                if new.get("properties").is_null() {
                    new.set("properties", Map::new());
                }
                self.apply_trash_times(Some(&old), &mut new)?;
                self.check_freezing(&old, &new)?;
                self.validate_group(Some(&old), &new)?;
                self.check_owner(Some(&old), &new)?;
            }
            table if table == user::MODEL.table => self.check_user_change(&old, &new)?,
            table if table == link::MODEL.table => self.prepare_link(Some(&old), &mut new)?,
            table if table == token::MODEL.table => {
                if !self.session.is_admin
                    && (old.owner() != new.owner() || old.get("api_token") != new.get("api_token"))
                {
                    return Err(Failure::denied());
                }
            }
            table if table == log::MODEL.table => return Err(Failure::denied()),
            _ => self.check_owner(Some(&old), &new)?,
        }
        if old.values == new.values {
            return Ok(old);
        }
        let new = self.finish_update(&old, new)?;
        if model.table == user::MODEL.table && !old.flag("is_active") && new.flag("is_active") {
            self.finish_user(&new)?;
        }
        Ok(new)
    }

    /// Stores a change with its time, its author and its log.
    ///
    /// # Errors
    /// 422 when the name is taken.
    pub fn finish_update(&self, old: &Record, mut new: Record) -> Result<Record, Failure> {
        if new.model.table != token::MODEL.table {
            new.set("modified_at", self.now().to_string());
            new.set("modified_by_user_uuid", self.session.user_uuid.clone());
        }
        self.store(old, &new)?;
        self.log("update", Some(old), Some(&new))?;
        Ok(new)
    }

    /// Deletes a record that has no trash to go to.
    ///
    /// # Errors
    /// 404, 403.
    pub fn delete(&self, model: &'static Model, uuid: &str) -> Result<Record, Failure> {
        let record = self.readable(model, uuid, false)?;
        if model.table == user::MODEL.table {
            self.require_admin()?;
        }
        if model.table == log::MODEL.table {
            return Err(Failure::denied());
        }
        self.require_writable(&record)?;
        self.destroy(&record)?;
        Ok(record)
    }

    /// Takes a record out, with the links that point to it or come from it.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn destroy(&self, record: &Record) -> Result<(), Failure> {
        if record.model.table != link::MODEL.table {
            let text =
                format!("SELECT {} FROM links WHERE head_uuid = ?1 OR tail_uuid = ?1", rows::columns(&link::MODEL, ""));
            let links = self
                .sql
                .prepare_cached(&text)?
                .query_map([record.uuid()], |row| rows::read(&link::MODEL, row))?
                .collect::<Result<Vec<_>, _>>()?;
            for link in links {
                self.remove(&link)?;
                self.log("delete", Some(&link), None)?;
            }
        }
        self.remove(record)?;
        self.log("delete", Some(record), None)
    }

    /// Whether the owner is one that may be, for this caller.
    ///
    /// # Errors
    /// 403 and 422 with the recorded texts.
    pub fn check_owner(&self, old: Option<&Record>, new: &Record) -> Result<(), Failure> {
        let refused = |text: &str| Err(Failure::rails(403, format!("Owner uuid {text}")));
        if new.get("owner_uuid").is_null() {
            return refused("cannot be nil");
        }
        let owner = new.owner();
        let kind = infix(owner);
        if kind != Some(user::MODEL.infix) && kind != Some(group::MODEL.infix) {
            return refused("must be set to User or Group");
        }
        if old.is_some_and(|old| old.owner() == owner) {
            return Ok(());
        }
        let not_found = || Err(Failure::unprocessable(format!("Owner uuid '{owner}' not found")));
        let Some(place) = self.find_any(owner)? else { return not_found() };
        let level = self.level(&place)?;
        if level < Level::Read {
            return if kind == Some(user::MODEL.infix) {
                refused("cannot be set or changed without write permission on new owner")
            } else {
                not_found()
            };
        }
        if self.is_hidden(&place)? {
            return not_found();
        }
        let graph = self.graph()?;
        if graph.is_frozen(owner) {
            return refused("cannot be set or changed because new owner is frozen");
        }
        if let Some(old) = old
            && graph.is_frozen(old.owner())
        {
            return refused("cannot be set or changed because old owner is frozen");
        }
        // Another user's home is theirs: one needs to manage the user to put things there.
        let needed = if kind == Some(user::MODEL.infix) { Level::Manage } else { Level::Write };
        if level < needed {
            return refused("cannot be set or changed without write permission on new owner");
        }
        if let Some(old) = old {
            let left = self.find_any(old.owner())?;
            if left.is_some_and(|left| self.level(&left).is_ok_and(|level| level < Level::Write)) {
                return refused("cannot be set or changed without write permission on old owner");
            }
        }
        if place.model.table == group::MODEL.table && place.text("group_class") != group::PROJECT {
            return Err(Failure::unprocessable("Owner uuid must be set to User or Group (project)"));
        }
        if new.model.table == group::MODEL.table && graph.descendants(new.uuid()).contains(owner) {
            let problem = if owner == new.uuid() { "would create" } else { "has" };
            return Err(Failure::unprocessable(format!("Owner uuid {problem} an ownership cycle")));
        }
        Ok(())
    }
}

/// `coll one (fp1s4oluj0r5s62)`
pub fn unique_name(record: &Record) -> String {
    let name: String = record.text("name").chars().take(237).collect();
    let unique = record.uuid().get(12..).unwrap_or_default();
    format!("{name} ({unique})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::record::collection;

    #[test]
    fn a_unique_name_fits_into_its_column() {
        let mut record = Record::new(&collection::MODEL);
        record.set("uuid", "zzzzz-4zz18-fp1s4oluj0r5s62");
        record.set("name", "coll one");
        assert_eq!(unique_name(&record), "coll one (fp1s4oluj0r5s62)");
        record.set("name", "é".repeat(255));
        assert_eq!(unique_name(&record).chars().count(), 255);
    }
}
