//! What a cluster begins with, and records brought from elsewhere.
//!
//! A new database gets the users and groups that every Arvados has, with the links between them. The import takes
//! records as they are (uuids, times and secrets included), for tests that play a recorded cluster and for moving a
//! cluster's records into this one; it makes no logs and asks for no permission.

use serde_json::{Map, Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::record::collection::content::Content;
use crate::cluster::record::{MODELS, Record, collection, group, token, user};

/// Records to import: by table, each an object of attributes; of collections with `manifest_text`.
///
/// ```json
/// {"users": [{"uuid": "zzzzz-tpzed-…", "username": "alice", "is_active": true}],
///  "api_client_authorizations": [{"uuid": "zzzzz-gj3su-…", "owner_uuid": "zzzzz-tpzed-…", "api_token": "…"}],
///  "collections": [{"uuid": "zzzzz-4zz18-…", "owner_uuid": "zzzzz-tpzed-…", "manifest_text": ". … 0:3:foo\n"}]}
/// ```
pub type Seed = Map<String, Value>;

impl Call<'_> {
    /// Makes the users and groups that every cluster has, if this one is new.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn bootstrap(&self) -> Result<(), Failure> {
        let system = self.configuration.system_user();
        if self.find(&user::MODEL, &system)?.is_some() {
            return Ok(());
        }
        let group_uuid = |tail: &str| self.configuration.reserved_uuid(group::MODEL.infix, tail);
        let (everybody, anonymous) = (group_uuid("fffffffffffffff"), group_uuid("anonymouspublic"));
        let favorites = group_uuid("publicfavorites");
        self.add_user(&system, "root", "root", true)?;
        let groups = [
            (group_uuid("000000000000000"), "System group", group::ROLE, json!("System group")),
            (everybody.clone(), "All users", group::ROLE, json!("All users")),
            (anonymous.clone(), "Anonymous users", group::ROLE, json!("Anonymous users")),
            (favorites.clone(), "Public favorites", group::PROJECT, json!("Public favorites")),
        ];
        for (uuid, name, class, description) in groups {
            let mut record = Record::new(&group::MODEL);
            record.set("uuid", uuid);
            record.set("name", name);
            record.set("group_class", class);
            record.set("description", description);
            record.set("properties", Map::new());
            record.set("is_trashed", false);
            self.identify(&mut record);
            self.insert(&mut record)?;
            self.log("create", None, Some(&record))?;
        }
        let nobody = self.configuration.anonymous_user();
        self.add_user(&nobody, "anonymous", "Anonymous", false)?;
        self.add_permission(&nobody, "can_read", &anonymous)?;
        self.add_permission(&everybody, "can_read", &anonymous)?;
        self.add_permission(&anonymous, "can_read", &favorites)?;
        // Everybody can read the empty collection (protocol.md 4.3).
        let mut empty = Record::new(&collection::MODEL);
        empty.set("name", "empty collection");
        self.import_record(&mut empty)?;
        self.add_permission(&anonymous, "can_read", empty.uuid())
    }

    fn add_user(&self, uuid: &str, email: &str, first_name: &str, is_root: bool) -> Result<(), Failure> {
        let mut record = Record::new(&user::MODEL);
        record.set("uuid", uuid);
        record.set("email", email);
        record.set("first_name", first_name);
        record.set("last_name", "");
        record.set("identity_url", "");
        record.set("prefs", Map::new());
        record.set("is_active", is_root);
        record.set("is_admin", is_root);
        self.identify(&mut record);
        self.insert(&mut record)?;
        self.log("create", None, Some(&record))?;
        let system_group = self.configuration.reserved_uuid(group::MODEL.infix, "000000000000000");
        self.add_permission(&system_group, "can_manage", uuid)
    }

    /// Imports records as they are.
    ///
    /// # Errors
    /// 422 for unknown tables and attributes and for uuids that are taken.
    pub fn import(&self, seed: &Seed) -> Result<(), Failure> {
        for (table, records) in seed {
            let model = MODELS.into_iter().find(|model| model.table == table);
            let model = model.ok_or_else(|| Failure::argument(format!("Unknown table '{table}' in the seed")))?;
            for attributes in records.as_array().into_iter().flatten() {
                let mut record = Record::new(model);
                for (name, value) in attributes.as_object().into_iter().flatten() {
                    if name == "manifest_text" {
                        record.set(name, value.clone());
                        continue;
                    }
                    let attribute = model.attribute(name).filter(|attribute| attribute.is_column());
                    let attribute = attribute.ok_or_else(|| {
                        Failure::argument(format!("Unknown attribute '{name}' of {} in the seed", model.class))
                    })?;
                    let value = attribute.cast(model, value.clone())?;
                    record.set(name, value);
                }
                self.import_record(&mut record)?;
            }
        }
        Ok(())
    }

    fn import_record(&self, record: &mut Record) -> Result<(), Failure> {
        self.identify(record);
        let mut defaults = vec![("properties", json!({})), ("is_trashed", json!(false))];
        match record.model.table {
            table if table == collection::MODEL.table => {
                let text = record.values.remove("manifest_text");
                let content = Content::of_unsigned(text.as_ref().and_then(Value::as_str).unwrap_or_default());
                self.put_manifest(&content)?;
                record.set("manifest", content.key);
                record.set("portable_data_hash", content.hash);
                record.set("file_count", content.file_count);
                record.set("file_size_total", content.file_size_total);
                let uuid = record.uuid().to_owned();
                defaults.extend([
                    ("storage_classes_desired", self.configuration.default_storage_classes().into()),
                    ("storage_classes_confirmed", json!([])),
                    ("version", json!(1)),
                    ("current_version_uuid", uuid.into()),
                    ("preserve_version", json!(false)),
                ]);
            }
            table if table == user::MODEL.table => {
                defaults.extend([
                    ("first_name", json!("")),
                    ("last_name", json!("")),
                    ("identity_url", json!("")),
                    ("prefs", json!({})),
                    ("is_admin", json!(false)),
                    ("is_active", json!(true)),
                ]);
            }
            table if table == token::MODEL.table => {
                record.set("modified_at", Value::Null);
                record.set("modified_by_user_uuid", Value::Null);
                defaults.push(("scopes", json!(["all"])));
            }
            _ => {}
        }
        for (name, value) in defaults {
            if record.get(name).is_null() && record.model.attribute(name).is_some() {
                record.set(name, value);
            }
        }
        self.insert(record)?;
        if record.model.table == user::MODEL.table {
            self.finish_user(record)?;
        }
        Ok(())
    }
}
