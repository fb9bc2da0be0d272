//! `groups/contents` and `groups/shared`: what is in a project, and what others share (protocol.md 4.7).
//!
//! Contents are several tables one after the other: groups, container requests, workflows, collections. A page may
//! begin in one and end in the next.

use std::collections::BTreeSet;

use rusqlite::types::Value as Sql;
use serde_json::{Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::filter::{self, Condition, Filter};
use crate::cluster::list::{Page, TieBreak, filters, order};
use crate::cluster::present::{Place, Shape, is_selectable};
use crate::cluster::record::{Model, Record, collection, group, infix, other, user};
use crate::cluster::request::Request;

/// What a project contains, in this order.
static CLASSES: [&Model; 4] = [&group::MODEL, &other::CONTAINER_REQUEST, &other::WORKFLOW, &collection::MODEL];

/// Which things are meant.
enum Parent {
    /// All that the caller can read.
    Everything,
    /// All that is owned by one of these.
    Owned(Vec<String>),
    /// All that the caller can read and that meets these filters.
    Filtered(Vec<Filter>),
    /// What others share with the caller.
    Shared,
}

impl Call<'_> {
    /// The contents of a project, of a user's home, of a filter group, or of everything.
    ///
    /// # Errors
    /// 404 for a parent that is not to be seen, 422 for parameters that make no sense.
    pub fn contents(&self, uuid: Option<&str>, request: &Request) -> Result<Value, Failure> {
        let page = Page::of_request(request, self.configuration.max_items_per_response)?;
        let parent = self.parent(uuid, request)?;
        let mut all = filters(request)?;
        if let Parent::Filtered(filters) = &parent {
            all.extend(filters.iter().cloned());
        }
        let shape = contents_shape(request)?;
        check_tables(&all)?;
        let (mut items, mut available, mut skip) = (Vec::new(), 0, page.offset);
        for model in CLASSES {
            let Some(filters) = filters_of(model, &all) else { continue };
            let wanted = page.limit - items.len() as u64;
            if wanted == 0 && !page.count {
                break;
            }
            let mut conditions =
                vec![self.scope(model, request)?, filter::compile(model, &filters)?, self.owned_by(&parent, model)];
            if model.table == group::MODEL.table {
                conditions.push(Condition::plain("group_class IN ('project', 'filter')"));
            }
            let condition = Condition::join(conditions, " AND ", "1");
            let records = self.rows(model, &condition, &order(request, model, TieBreak::Latest)?, wanted, skip)?;
            if page.count || (skip > 0 && records.is_empty()) {
                let count = self.count(model, &condition)?;
                available += count;
                skip = skip.saturating_sub(count);
            } else if !records.is_empty() {
                skip = 0;
            }
            items.extend(records);
        }
        let shown = items.iter().map(|record| self.present(record, &shape)).collect::<Result<Vec<_>, _>>()?;
        let mut envelope = json!({
            "kind": "arvados#objectList",
            "offset": page.offset,
            "limit": page.limit,
            "items": shown,
            "included": self.included(&items, request)?,
        });
        if page.count {
            envelope["items_available"] = available.into();
        }
        Ok(envelope)
    }

    fn parent(&self, uuid: Option<&str>, request: &Request) -> Result<Parent, Failure> {
        let Some(uuid) = uuid else {
            return Ok(if request.flag("exclude_home_project") { Parent::Shared } else { Parent::Everything });
        };
        if request.flag("exclude_home_project") {
            return Err(Failure::argument("Cannot use 'exclude_home_project' with a parent object"));
        }
        let graph = self.graph()?;
        match infix(uuid) {
            Some(kind) if kind == user::MODEL.infix => {
                if !graph.users.contains_key(uuid) {
                    return Err(Failure::not_found());
                }
                let mut owners = BTreeSet::from([uuid.to_owned()]);
                if request.flag("recursive") {
                    for (group, _) in graph.groups.iter().filter(|(_, group)| group.owner == uuid) {
                        owners.extend(graph.descendants(group));
                    }
                }
                Ok(Parent::Owned(owners.into_iter().collect()))
            }
            Some(kind) if kind == group::MODEL.infix => {
                // The controller looks the project up first, without the trash (recorded:
                // groups/04-contents-trashed-project-include).
                let found = self
                    .readable(&group::MODEL, uuid, false)
                    .map_err(|failure| failure.about(format!("/arvados/v1/groups/{uuid}")))?;
                if found.text("group_class") == group::FILTER {
                    return Ok(Parent::Filtered(filter::parse(found.get("properties").get("filters"))?));
                }
                if request.flag("recursive") {
                    let owners: BTreeSet<_> = graph.descendants(uuid).into_iter().collect();
                    return Ok(Parent::Owned(owners.into_iter().collect()));
                }
                Ok(Parent::Owned(vec![uuid.to_owned()]))
            }
            // In the path it is looked up as a project; as a parameter it goes to the server as it is.
            _ if request.text("uuid").is_none() => {
                Err(Failure::not_found().about(format!("/arvados/v1/groups/{uuid}")))
            }
            _ => Err(Failure::not_found()),
        }
    }

    fn owned_by(&self, parent: &Parent, model: &Model) -> Condition {
        match parent {
            Parent::Everything | Parent::Filtered(_) => Condition::plain("1"),
            Parent::Owned(owners) => {
                let marks = vec!["?"; owners.len()].join(", ");
                let text = format!("{}.owner_uuid IN ({marks})", model.table);
                Condition::with(text, owners.iter().cloned().map(Sql::Text))
            }
            Parent::Shared => self.shared_condition(model),
        }
    }

    /// What others share: owned by another user, by a group that cannot be read, or by one that is no project.
    fn shared_condition(&self, model: &Model) -> Condition {
        let owner = format!("{}.owner_uuid", model.table);
        Condition::with(
            format!(
                "(substr({owner}, 7, 5) = 'tpzed' AND {owner} != ?) OR (substr({owner}, 7, 5) = 'j7d0g' \
                 AND (NOT readable({owner}, '') \
                 OR (SELECT parent.group_class FROM groups AS parent WHERE parent.uuid = {owner}) != 'project'))"
            ),
            [Sql::Text(self.session.user_uuid.clone())],
        )
    }

    /// Projects that others share with the caller; `included` is always there, because clients index it.
    ///
    /// # Errors
    /// As a list.
    pub fn shared(&self, request: &Request) -> Result<Value, Failure> {
        let mut list = self.list(&group::MODEL, request, Some(self.shared_condition(&group::MODEL)))?;
        let includes = request.texts("include")?.unwrap_or_default();
        if includes.iter().any(|name| name == "owner_uuid") {
            let owners = list["items"].as_array().into_iter().flatten().filter_map(|item| item["owner_uuid"].as_str());
            let owners: Vec<_> = owners.map(str::to_owned).collect();
            list["included"] = self.show_included(owners)?.into();
        }
        Ok(list)
    }

    fn included(&self, items: &[Record], request: &Request) -> Result<Vec<Value>, Failure> {
        let includes = request.texts("include")?.unwrap_or_default();
        let known = ["owner_uuid", "container_uuid", "collection_uuid"];
        let wanted = includes.iter().filter(|name| known.contains(&name.as_str()));
        let uuids = wanted.flat_map(|name| items.iter().map(move |item| item.text(name).to_owned()));
        self.show_included(uuids.collect())
    }

    /// Records that others refer to, each once, as far as the caller can see them.
    fn show_included(&self, uuids: Vec<String>) -> Result<Vec<Value>, Failure> {
        let (mut seen, mut shown) = (BTreeSet::new(), Vec::new());
        for uuid in uuids {
            if !seen.insert(uuid.clone()) {
                continue;
            }
            let Some(model) = Model::of_uuid(&uuid) else { continue };
            match self.readable(model, &uuid, false) {
                Ok(record) => shown.push(self.present(&record, &Shape::whole(Place::Included))?),
                Err(failure) if failure.status == 404 => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(shown)
    }
}

/// Manifests are never among contents; other names must be known to at least one class.
fn contents_shape(request: &Request) -> Result<Shape, Failure> {
    let mut select = request.texts("select")?;
    if let Some(names) = &mut select {
        for name in names.iter() {
            if !CLASSES.iter().any(|model| is_selectable(model, name)) {
                return Err(Failure::argument(format!("Invalid attribute '{name}' in select parameter")));
            }
        }
        names.retain(|name| !name.ends_with("manifest_text"));
    }
    Ok(Shape { place: Place::Contents, select })
}

/// Tables that filters may be about.
fn check_tables(filters: &[Filter]) -> Result<(), Failure> {
    for filter in filters {
        let Filter::Triple(name, ..) = filter else { continue };
        let Some((table, _)) = name.split_once('.') else { continue };
        let known = CLASSES.iter().any(|model| model.table == table);
        if !known && !["properties", "container", "collection"].contains(&table) {
            return Err(Failure::argument(format!("Invalid attribute '{name}' in filter")));
        }
    }
    Ok(())
}

/// The filters that concern a class; `None` when the class is excluded.
fn filters_of(model: &'static Model, all: &[Filter]) -> Option<Vec<Filter>> {
    let mut own = Vec::new();
    for filter in all {
        let Filter::Triple(name, operator, operand) = filter else {
            own.push(filter.clone());
            continue;
        };
        if name == "uuid" && operator == "is_a" {
            let kind = model.full_kind();
            let named = match operand {
                Value::Array(list) => list.iter().any(|one| *one == *kind),
                one => *one == *kind,
            };
            if !named {
                return None;
            }
            continue;
        }
        match name.split_once('.') {
            None => own.push(filter.clone()),
            Some(("properties", _)) => {
                model.attribute("properties")?;
                own.push(filter.clone());
            }
            Some((table, _)) if table == model.table => own.push(filter.clone()),
            // There are no containers, and workflows are not kept in collections here.
            Some(("container", _)) if model.table == other::CONTAINER_REQUEST.table => return None,
            Some(("collection", _)) if model.table == other::WORKFLOW.table => return None,
            Some(_) => {}
        }
    }
    Some(own)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_on_one_class_leaves_the_others_alone() {
        let filters = filter::parse(Some(&json!([["collections.name", "=", "a"], ["name", "like", "%"]]))).unwrap();
        assert_eq!(filters_of(&group::MODEL, &filters).unwrap().len(), 1);
        assert_eq!(filters_of(&collection::MODEL, &filters).unwrap().len(), 2);
        let filters = filter::parse(Some(&json!([["uuid", "is_a", ["arvados#collection"]]]))).unwrap();
        assert!(filters_of(&group::MODEL, &filters).is_none());
        assert!(filters_of(&collection::MODEL, &filters).unwrap().is_empty());
        let filters = filter::parse(Some(&json!([["nosuch.name", "=", "a"]]))).unwrap();
        assert_eq!(
            check_tables(&filters).unwrap_err().text(),
            "#<ArgumentError: Invalid attribute 'nosuch.name' in filter>"
        );
    }
}
