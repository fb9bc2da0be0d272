//! Links: tags, stars, and above all permissions.
//!
//! A permission link belongs to the system user, so that its tail cannot give itself more; who may manage the head
//! decides over it. There is one link per tail and head: a second one with more rights raises the first.

use serde_json::{Map, Value};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::permission::Level;
use crate::cluster::present::Shape;
use crate::cluster::record::attribute::{Kind, Use, plain};
use crate::cluster::record::{Layer, Model, Record, group, infix, kind_of_uuid, user};
use crate::cluster::store::rows;

/// Links.
pub static MODEL: Model = Model {
    table: "links",
    singular: "link",
    class: "Link",
    kind: "link",
    infix: "o0j2j",
    layer: Layer::Controller,
    internal: &[],
    attributes: &[
        plain("uuid", Kind::String, "Identifies the link; made by the server."),
        plain("owner_uuid", Kind::String, "Owner of the link."),
        plain("created_at", Kind::Time, "When the link was created.").used(Use::ReadOnly),
        plain("modified_by_user_uuid", Kind::String, "User who made the last change.").used(Use::ReadOnly),
        plain("modified_at", Kind::Time, "When the link was last changed.").used(Use::ReadOnly),
        plain("tail_uuid", Kind::String, "Where the link begins."),
        plain("link_class", Kind::String, "permission, tag, star, or what a program calls it."),
        plain("name", Kind::String, "Of a permission the level, of a tag the tag."),
        plain("head_uuid", Kind::String, "Where the link points."),
        plain("properties", Kind::Object, "Anything a user wants to note."),
        plain("head_kind", Kind::String, "Kind of what the link points to.").used(Use::Derived),
        plain("tail_kind", Kind::String, "Kind of where the link begins.").used(Use::Derived),
    ],
};

/// The class of links that give rights.
pub const PERMISSION: &str = "permission";

/// What anybody sees of a link.
pub fn present(record: &Record, shape: &Shape) -> Value {
    let derived = [("head_kind", "head_uuid"), ("tail_kind", "tail_uuid")]
        .map(|(kind, uuid)| (kind.to_owned(), kind_of_uuid(record.text(uuid)).into()));
    shape.present(record, Map::from_iter(derived))
}

impl Call<'_> {
    /// Checks a new link or a change and fills in what it lacks.
    ///
    /// # Errors
    /// 403 when the caller may not give such rights, 422 when the ends do not fit.
    pub fn prepare_link(&self, old: Option<&Record>, link: &mut Record) -> Result<(), Failure> {
        if link.get("properties").is_null() {
            link.set("properties", Map::new());
        }
        for name in ["link_class", "name"] {
            if link.get(name).is_null() {
                link.set(name, "");
            }
        }
        if link.text("link_class") == PERMISSION {
            link.set("owner_uuid", self.configuration.system_user());
            return self.check_permission_link(old, link);
        }
        let mut wrong = Vec::new();
        if link.text("link_class") == "name" {
            wrong.push("Name Name links are obsolete".to_owned());
        }
        for (name, shown) in [("tail_uuid", "Tail uuid"), ("head_uuid", "Head uuid")] {
            let uuid = link.text(name);
            if old.is_some_and(|old| old.text(name) == uuid) || infix(uuid).is_none() {
                continue;
            }
            let visible = match self.find_any(uuid)? {
                Some(found) => self.level(&found)? >= Level::Read,
                None => false,
            };
            if !visible {
                wrong.push(format!("{shown} '{uuid}' not found"));
            }
        }
        Failure::unless_empty(wrong)
    }

    fn check_permission_link(&self, old: Option<&Record>, link: &Record) -> Result<(), Failure> {
        let (tail, head) = (link.text("tail_uuid"), link.text("head_uuid"));
        let mut wrong = Vec::new();
        if Level::of_name(link.text("name")).is_none() {
            wrong.push(
                "Name is invalid permission, must be one of 'can_read', 'can_write', 'can_manage', 'can_login'"
                    .to_owned(),
            );
        }
        if let Some(old) = old
            && ["link_class", "tail_uuid", "head_uuid"].iter().any(|name| old.get(name) != link.get(name))
        {
            wrong.push("Name of a permission link is all that can be changed".to_owned());
        }
        for (name, uuid) in [("Tail uuid", tail), ("Head uuid", head)] {
            if self.find_any(uuid)?.is_none() {
                wrong.push(format!("{name} '{uuid}' not found"));
            }
        }
        let graph = self.graph()?;
        let tail_fits = match infix(tail) {
            Some(kind) if kind == user::MODEL.infix => true,
            Some(kind) if kind == group::MODEL.infix => {
                graph.groups.get(tail).is_none_or(|found| found.class == group::ROLE)
            }
            _ => false,
        };
        if !tail_fits {
            wrong.push("Tail uuid of permission link must be a user or a role group".to_owned());
        }
        Failure::unless_empty(wrong)?;
        if !self.manages(head)? {
            return Err(Failure::denied());
        }
        if graph.is_frozen(head) {
            return Err(Failure::rails(403, format!("Head uuid {head} is frozen")));
        }
        Ok(())
    }

    /// The link that gives this tail rights on this head.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn existing_permission(&self, link: &Record) -> Result<Option<Record>, Failure> {
        if link.text("link_class") != PERMISSION {
            return Ok(None);
        }
        let text = format!(
            "SELECT {} FROM links WHERE link_class = 'permission' AND tail_uuid = ? AND head_uuid = ? \
             AND (name = 'can_login') = (? = 'can_login') ORDER BY id LIMIT 1",
            rows::columns(&MODEL, "")
        );
        let ends = [link.text("tail_uuid"), link.text("head_uuid"), link.text("name")];
        let mut statement = self.sql.prepare_cached(&text)?;
        let mut found = statement.query_map(ends, |row| rows::read(&MODEL, row))?;
        Ok(found.next().transpose()?)
    }

    /// Gives rights, unless they are there.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn add_permission(&self, tail: &str, name: &str, head: &str) -> Result<(), Failure> {
        let mut link = Record::new(&MODEL);
        link.set("link_class", PERMISSION);
        link.set("name", name);
        link.set("tail_uuid", tail);
        link.set("head_uuid", head);
        if self.existing_permission(&link)?.is_some() {
            return Ok(());
        }
        link.set("properties", Map::new());
        link.set("owner_uuid", self.configuration.system_user());
        self.create_record(link).map(|_| ())
    }
}
