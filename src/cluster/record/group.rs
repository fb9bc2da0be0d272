//! Groups: projects that own things, roles that people have, filters that gather what matches.

use serde_json::{Map, Value};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::permission::Level;
use crate::cluster::present::Shape;
use crate::cluster::record::attribute::{Kind, Use, plain};
use crate::cluster::record::{Layer, Model, Record};

/// Groups.
pub static MODEL: Model = Model {
    table: "groups",
    singular: "group",
    class: "Group",
    kind: "group",
    infix: "j7d0g",
    layer: Layer::Controller,
    internal: &[],
    attributes: &[
        plain("uuid", Kind::String, "Identifies the group; made by the server."),
        plain("owner_uuid", Kind::String, "User or project that owns the group."),
        plain("created_at", Kind::Time, "When the group was created.").used(Use::ReadOnly),
        plain("modified_by_user_uuid", Kind::String, "User who made the last change.").used(Use::ReadOnly),
        plain("modified_at", Kind::Time, "When the group was last changed.").used(Use::ReadOnly),
        plain("name", Kind::String, "Name given by a user; unique within the owner."),
        plain("description", Kind::Text, "Longer text given by a user."),
        plain("group_class", Kind::String, "project, role or filter."),
        plain("trash_at", Kind::Time, "When the group goes to the trash, or went."),
        plain("is_trashed", Kind::Boolean, "Whether it is in the trash."),
        plain("delete_at", Kind::Time, "When the trashed group is deleted."),
        plain("properties", Kind::Object, "Anything a user wants to note; of a filter group, the filters."),
        plain("frozen_by_uuid", Kind::String, "User who froze the project; null: it is not frozen.").nullable(),
        plain("can_write", Kind::Boolean, "Whether the caller may change it.").used(Use::Derived),
        plain("can_manage", Kind::Boolean, "Whether the caller may change who may.").used(Use::Derived),
        plain("writable_by", Kind::Array, "Who may change it, as far as the caller may know.").used(Use::Derived),
    ],
};

/// The class of groups that own things.
pub const PROJECT: &str = "project";
/// The class of groups that people belong to.
pub const ROLE: &str = "role";
/// The class of groups that gather what matches.
pub const FILTER: &str = "filter";

/// Operators that a filter group may use.
const FILTER_OPERATORS: [&str; 12] =
    ["=", "<", "<=", ">", ">=", "!=", "like", "ilike", "in", "not in", "is_a", "exists"];

impl Call<'_> {
    /// What the caller sees of a group.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn present_group(&self, record: &Record, shape: &Shape) -> Result<Value, Failure> {
        let derived = self.write_access(record)?;
        Ok(shape.present(record, derived))
    }

    /// `can_write`, `can_manage` and `writable_by`, as far as they are the caller's to know.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn write_access(&self, record: &Record) -> Result<Map<String, Value>, Failure> {
        let (graph, level) = (self.graph()?, self.level(record)?);
        let is_frozen = graph.is_frozen(record.uuid()) || graph.is_frozen(record.owner());
        let mut shown = Map::new();
        shown.insert("can_write".to_owned(), (level >= Level::Write && !is_frozen).into());
        shown.insert("can_manage".to_owned(), (level == Level::Manage).into());
        let mut writers: Vec<Value> = vec![record.owner().into()];
        if level >= Level::Write {
            writers.push(self.session.user_uuid.clone().into());
        }
        if level == Level::Manage {
            writers.extend(graph.writers(record.uuid()).iter().map(|tail| Value::from(tail.as_str())));
        }
        if !graph.is_frozen(record.owner()) {
            shown.insert("writable_by".to_owned(), writers.into());
        }
        Ok(shown)
    }

    /// Checks a new group and fills in what it lacks.
    ///
    /// # Errors
    /// 422 for a wrong class or wrong filters.
    pub fn prepare_group(&self, group: &mut Record) -> Result<(), Failure> {
        if group.get("name").is_null() {
            group.set("name", group.uuid().to_owned());
        }
        if group.get("properties").is_null() {
            group.set("properties", Map::new());
        }
        if group.text("group_class") == ROLE {
            if !self.configuration.can_create_role_groups && !self.session.is_admin {
                return Err(Failure::denied());
            }
            group.set("owner_uuid", self.configuration.system_user());
        }
        if !group.get("frozen_by_uuid").is_null() {
            return Err(Failure::unprocessable("Frozen by uuid must be null when the project is created"));
        }
        Ok(())
    }

    /// What is wrong with a group, all of it in one answer.
    ///
    /// # Errors
    /// 422.
    pub fn validate_group(&self, old: Option<&Record>, group: &Record) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        let class = group.text("group_class");
        match old {
            Some(old) if old.text("group_class") != class => {
                wrong.push("Group class cannot be modified after record is created".to_owned());
            }
            _ => {}
        }
        if ![PROJECT, ROLE, FILTER].contains(&class) {
            wrong.push(format!("Group class value must be one of 'project', 'role' or 'filter', was '{class}'"));
        }
        if class == FILTER {
            wrong.extend(filter_trouble(group.get("properties")));
        }
        if let Some(message) = self.name_trouble(group) {
            wrong.push(message);
        }
        Failure::unless_empty(wrong)
    }

    /// What is wrong with a name: `/` is refused unless the cluster says what clients shall put in its place.
    pub fn name_trouble(&self, record: &Record) -> Option<String> {
        if record.model.table == MODEL.table && record.text("group_class") == ROLE {
            return None;
        }
        match record.text("name") {
            "." | ".." => Some("Name cannot be '.' or '..'".to_owned()),
            name if name.contains('/')
                && !self.configuration.slash_in_names
                && matches!(self.configuration.forward_slash_name_substitution.as_str(), "" | "/") =>
            {
                Some("Name cannot contain a '/' character".to_owned())
            }
            _ => None,
        }
    }

    /// Whether a project may be frozen or thawed by the caller.
    ///
    /// # Errors
    /// 403 for who may not, 422 for what cannot be frozen.
    pub fn check_freezing(&self, old: &Record, new: &Record) -> Result<(), Failure> {
        let (was, is) = (old.get("frozen_by_uuid"), new.get("frozen_by_uuid"));
        if was == is {
            if !was.is_null() && old.values != new.values {
                return Err(Failure::rails(403, format!("{} is frozen and cannot be modified", old.uuid())));
            }
            return Ok(());
        }
        if self.level(old)? < Level::Manage {
            return Err(Failure::denied());
        }
        if is.is_null() {
            if self.configuration.unfreeze_project_requires_admin && !self.session.is_admin {
                return Err(Failure::denied());
            }
            return Ok(());
        }
        let refused = |text: &str| Err(Failure::unprocessable(format!("Frozen by uuid {text}")));
        if new.text("group_class") != PROJECT {
            return refused("cannot be modified: only projects can be frozen");
        }
        if new.text("frozen_by_uuid") != self.session.user_uuid {
            return refused("can only be set to the current user's UUID");
        }
        if new.flag("is_trashed") || !new.get("trash_at").is_null() {
            return refused("cannot be set on a trashed project");
        }
        Ok(())
    }

    /// A role group belongs to who made it: the creator may manage it.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn finish_group(&self, group: &Record) -> Result<(), Failure> {
        if group.text("group_class") != ROLE {
            return Ok(());
        }
        let system = self.as_system();
        system.add_permission(&self.session.user_uuid, "can_manage", group.uuid())?;
        self.absorb(&system);
        Ok(())
    }
}

fn filter_trouble(properties: &Value) -> Vec<String> {
    let Some(filters) = properties.get("filters") else {
        return vec![
            "Properties filters property missing, it must be an array of arrays, each with 3 elements".to_owned(),
        ];
    };
    let Some(filters) = filters.as_array() else {
        return vec!["Properties filters property must be an array of arrays, each with 3 elements".to_owned()];
    };
    let mut wrong = Vec::new();
    for filter in filters {
        let Some([attribute, operator, _]) = filter.as_array().map(Vec::as_slice) else {
            wrong.push("Properties filters property must be an array of arrays, each with 3 elements".to_owned());
            continue;
        };
        let (attribute, operator) = (attribute.as_str().unwrap_or_default(), operator.as_str().unwrap_or_default());
        if attribute != "uuid" && !attribute.contains('.') {
            wrong.push("Properties filter attribute must be 'uuid' or contain a dot (e.g. groups.name)".to_owned());
        }
        let operator = operator.to_lowercase();
        if !FILTER_OPERATORS.contains(&operator.as_str()) && operator != "contains" {
            wrong.push(format!("Properties filter operator is not valid (must be {})", FILTER_OPERATORS.join(", ")));
        }
        if operator == "is_a" && attribute != "uuid" {
            wrong.push("Properties filter operator 'is_a' can only be used with 'uuid'".to_owned());
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_of_a_filter_group_are_checked() {
        let trouble = |filters: Value| filter_trouble(&json!({"filters": filters})).len();
        assert_eq!(trouble(json!([["collections.name", "like", "set%"], ["uuid", "is_a", "arvados#collection"]])), 0);
        assert_eq!(trouble(json!([["name", "like", "set%"]])), 1);
        assert_eq!(trouble(json!([["groups.name", "~", "x"], ["groups.uuid", "is_a", "x"]])), 2);
        assert_eq!(trouble(json!("x")), 1);
        assert_eq!(filter_trouble(&json!({})).len(), 1);
    }
}
