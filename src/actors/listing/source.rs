//! Where listings come from: the requests for each kind (arv-mount.md 2.3 to 2.5), in pages, with the user's filters.

use crate::actors::listing::names;
use crate::actors::listing::snapshot::{Candidate, Precedence, Target};
use crate::actors::{Environment, Error};
use crate::remote::api::{Filter, Object, Query, User, paging};
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The class of groups whose contents are the answer to a query.
const FILTER_GROUP: &str = "filter";
/// In the uuid of a user.
const USER: &str = "-tpzed-";

/// What is listed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A project, a filter group, or the home of a user: direct children only.
    Project(String),
    /// What others share with us.
    Shared,
    /// All tags.
    Tags,
    /// The collections with one tag.
    Tag(String),
}

/// What a source found.
pub(super) struct Contents {
    pub(super) candidates: Vec<Candidate>,
    /// `None`: that cannot be told from what is in it.
    pub(super) is_filter_group: Option<bool>,
}

impl Source {
    /// For messages and logs.
    pub fn describe(&self) -> String {
        match self {
            Source::Project(uuid) => format!("project {uuid}"),
            Source::Shared => "shared directory".to_owned(),
            Source::Tags => "list of tags".to_owned(),
            Source::Tag(tag) => format!("tag '{tag}'"),
        }
    }

    /// Which of several objects of one name is shown: in projects the first (groups before collections, then by uuid),
    /// in the shared directory the last.
    pub(super) fn precedence(&self) -> Precedence {
        match self {
            Source::Shared => Precedence::Last,
            _ => Precedence::First,
        }
    }

    /// Everything there is. A failure on any page is the failure of the whole: half a directory looks like deleted files.
    pub(super) async fn list(&self, environment: &Environment) -> Result<Vec<Candidate>, Error> {
        let api = environment.api.as_ref();
        match self {
            Source::Project(uuid) => Ok(contents(environment, uuid).await?.candidates),
            Source::Shared => shared(environment).await,
            Source::Tags => {
                let filters = raw(environment.filters.of("links"));
                let tags: Vec<Vec<String>> = paging::tags(api, &filters).try_collect().await?;
                let candidates = tags.into_iter().flatten().filter_map(|tag| of_tag(tag, environment));
                Ok(candidates.collect())
            }
            Source::Tag(tag) => {
                let filters = raw(environment.filters.of("links"));
                let pages: Vec<Vec<String>> = paging::tagged(api, tag, &filters).try_collect().await?;
                Ok(pages.into_iter().flatten().map(of_tagged).collect())
            }
        }
    }

    /// Everything there is, and whether this is a filter group; that is asked only if it is not known and does not show.
    pub(super) async fn list_and_tell_kind(
        &self,
        environment: &Environment,
        is_known: bool,
    ) -> Result<Contents, Error> {
        let Source::Project(uuid) = self else {
            return Ok(Contents { candidates: self.list(environment).await?, is_filter_group: Some(false) });
        };
        let mut contents = contents(environment, uuid).await?;
        if contents.is_filter_group.is_none() && !is_known {
            match environment.api.group(uuid).await {
                Ok(group) => contents.is_filter_group = Some(group.group_class == FILTER_GROUP),
                Err(error) => tracing::debug!(project = uuid, %error, "cannot find out whether it is a filter group"),
            }
        }
        Ok(contents)
    }

    /// The object that is shown as `name`, without listing everything. `None`: there is none.
    pub(super) async fn find(&self, environment: &Environment, name: &str) -> Result<Option<Candidate>, Error> {
        match self {
            Source::Project(uuid) => find_in_project(environment, uuid, name).await,
            Source::Tags => find_tag(environment, name).await,
            Source::Shared | Source::Tag(_) => {
                Ok(self.list(environment).await?.into_iter().rev().find(|candidate| candidate.name == name.as_bytes()))
            }
        }
    }
}

/// A filter group owns nothing, so whatever is in it belongs to others; a project or home has only what it owns.
async fn contents(environment: &Environment, uuid: &str) -> Result<Contents, Error> {
    let filters = raw(environment.filters.of_contents());
    let mut candidates = Vec::new();
    let mut is_filter_group = uuid.contains(USER).then_some(false);
    let mut pages = std::pin::pin!(paging::contents(environment.api.as_ref(), uuid, &filters, &filters));
    while let Some(page) = pages.try_next().await? {
        for object in page {
            let owner = match &object {
                Object::Collection(it) => it.owner_uuid.as_str(),
                Object::Group(it) => it.owner_uuid.as_str(),
                Object::User(_) | Object::Other => "",
            };
            if !owner.is_empty() {
                is_filter_group.get_or_insert(owner != uuid);
            }
            candidates.extend(of_object(object, environment));
        }
    }
    Ok(Contents { candidates, is_filter_group })
}

fn raw(filters: Vec<Value>) -> Vec<Filter> {
    filters.into_iter().map(Filter::raw).collect()
}

fn of_object(object: Object, environment: &Environment) -> Option<Candidate> {
    let (name, modified, target, can_write) = match object {
        Object::Collection(it) => (it.name, it.modified_at, Target::Collection(it.uuid.into()), None),
        Object::Group(it) => (it.name, it.modified_at, Target::Project(it.uuid.into()), it.can_write),
        Object::User(_) | Object::Other => return None,
    };
    Some(Candidate { can_write, ..candidate(&name, modified, target, environment)? })
}

fn candidate(
    name: &str,
    modified: Option<DateTime<Utc>>,
    target: Target,
    environment: &Environment,
) -> Option<Candidate> {
    let name = names::shown(name, environment.substitution.as_deref())?;
    Some(Candidate { name, target, modified, can_write: None })
}

fn of_tag(tag: String, environment: &Environment) -> Option<Candidate> {
    let target = Target::Tag(tag.as_str().into());
    candidate(&tag, None, target, environment)
}

fn of_tagged(uuid: String) -> Candidate {
    let target = Target::Collection(uuid.as_str().into());
    Candidate { name: uuid.into_bytes(), target, modified: None, can_write: None }
}

/// Each readable owner of something shared is a directory; what has no readable owner is shown itself.
async fn shared(environment: &Environment) -> Result<Vec<Candidate>, Error> {
    let filters = raw(environment.filters.of("groups"));
    let mut pages = std::pin::pin!(paging::shared(environment.api.as_ref(), &filters));
    let mut owners = HashMap::new();
    let mut groups = Vec::new();
    while let Some(page) = pages.try_next().await? {
        owners.extend(page.included.into_iter().map(|object| (object.uuid().to_owned(), object)));
        groups.extend(page.items);
    }
    let mut candidates = Vec::new();
    for group in &groups {
        let shown = match owners.get(&group.owner_uuid) {
            Some(Object::Group(owner)) => (owner.name.clone(), owner.modified_at, &owner.uuid, owner.can_write),
            Some(Object::User(owner)) => (name_of_user(owner), owner.modified_at, &owner.uuid, owner.can_write),
            _ => (group.name.clone(), group.modified_at, &group.uuid, group.can_write),
        };
        let (name, modified, uuid, can_write) = shown;
        let shown = candidate(&name, modified, Target::Project(uuid.as_str().into()), environment);
        candidates.extend(shown.map(|shown| Candidate { can_write, ..shown }));
    }
    Ok(candidates)
}

/// First and last name, as upstream, but without a space where one of them is missing; whoever has no name is shown by uuid.
fn name_of_user(user: &User) -> String {
    let name = format!("{} {}", user.first_name, user.last_name);
    if name.trim().is_empty() { user.uuid.clone() } else { name.trim().to_owned() }
}

/// One request for both kinds: a filter with the name of a table restricts only that table (protocol.md 4.7). It is asked
/// by `contents`, which works for filter groups too; they own nothing, so a search by owner finds nothing in them.
async fn find_in_project(environment: &Environment, uuid: &str, name: &str) -> Result<Option<Candidate>, Error> {
    let substitution = environment.substitution.as_deref();
    if let Some(pattern) = names::pattern(name, substitution) {
        return find_by_pattern(environment, uuid, name, &pattern).await;
    }
    let names = names::candidates(name, substitution);
    let mut filters = vec![
        Filter::new("uuid", "is_a", json!(["arvados#group", "arvados#collection"])),
        Filter::new("groups.group_class", "in", json!(["project", "filter"])),
        Filter::new("groups.name", "in", json!(names)),
        Filter::new("collections.name", "in", json!(names)),
    ];
    filters.extend(raw(environment.filters.of_contents()));
    let query = Query { filters, order: vec!["uuid asc".into()], ..Query::default() };
    let page = environment.api.contents(Some(uuid), &query).await?;
    let is_current = |object: &Object| match object {
        Object::Collection(it) => it.current_version_uuid.is_empty() || it.current_version_uuid == it.uuid,
        _ => true,
    };
    let objects: Vec<Object> = page.items.into_iter().filter(is_current).collect();
    // The one that is literally called so wins; the server lists groups before collections.
    for name in &names {
        if let Some(object) = objects.iter().find(|object| raw_name(object) == name) {
            return Ok(of_object(object.clone(), environment));
        }
    }
    Ok(None)
}

/// One request for each kind, and more only where a thousand names look alike.
async fn find_by_pattern(
    environment: &Environment,
    uuid: &str,
    name: &str,
    pattern: &str,
) -> Result<Option<Candidate>, Error> {
    let filters = |attribute: &str| {
        let mut filters = vec![Filter::new(attribute, "like", pattern)];
        filters.extend(raw(environment.filters.of_contents()));
        filters
    };
    let (groups, collections) = (filters("groups.name"), filters("collections.name"));
    let mut pages = std::pin::pin!(paging::contents(environment.api.as_ref(), uuid, &groups, &collections));
    let mut found = None;
    while let Some(page) = pages.try_next().await? {
        for object in page {
            let is_literal = raw_name(&object) == name;
            let candidate = of_object(object, environment).filter(|candidate| candidate.name == name.as_bytes());
            if is_literal && candidate.is_some() {
                return Ok(candidate);
            }
            found = found.or(candidate);
        }
    }
    Ok(found)
}

fn raw_name(object: &Object) -> &str {
    match object {
        Object::Collection(it) => &it.name,
        Object::Group(it) => &it.name,
        Object::User(_) | Object::Other => "",
    }
}

async fn find_tag(environment: &Environment, name: &str) -> Result<Option<Candidate>, Error> {
    let substitution = environment.substitution.as_deref();
    if let Some(pattern) = names::pattern(name, substitution) {
        let mut filters = vec![Filter::new("name", "like", pattern)];
        filters.extend(raw(environment.filters.of("links")));
        let tags: Vec<Vec<String>> = paging::tags(environment.api.as_ref(), &filters).try_collect().await?;
        let shown = tags.into_iter().flatten().filter_map(|tag| of_tag(tag, environment));
        return Ok(shown.into_iter().find(|candidate| candidate.name == name.as_bytes()));
    }
    let names = names::candidates(name, substitution);
    let mut filters = vec![Filter::new("link_class", "=", "tag"), Filter::new("name", "in", json!(names))];
    filters.extend(raw(environment.filters.of("links")));
    let page = environment.api.links(&Query { filters, limit: Some(2), ..Query::default() }).await?;
    let found = names.iter().find(|name| page.items.iter().any(|link| link.name == **name));
    Ok(found.and_then(|tag| of_tag(tag.clone(), environment)))
}
