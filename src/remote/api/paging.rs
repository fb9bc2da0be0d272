//! All pages of the lists that a mount shows.
//!
//! Pages are cut by key, not by offset: each asks for what comes after the last key seen, in the order of that key
//! (`uuid`, or `name` for distinct tags). So nothing is left out or told twice because something was made or deleted
//! meanwhile, the server never counts or skips rows, and a list has no upper limit (the Python client's tag folders end
//! at 100 and 1000 entries, arv-mount.md 2.5). Keys differ within a list, so `>` is enough.
//!
//! A page is handed out before the next one is asked for: a list of 100,000 collections exists here 1000 at a time.

use crate::remote::api::Api;
use crate::remote::api::query::{Filter, Page, Query};
use crate::remote::api::records::{Group, Link, Object};
use crate::remote::error::{Error, Result};
use futures_util::Stream;
use futures_util::stream::try_unfold;
use std::future::Future;

/// Items of a page: the most that a server sends by default (`MaxItemsPerResponse`).
const PAGE: u32 = 1000;

/// What the list of a project needs to know of a collection. All else, descriptions and properties above all, makes an answer
/// three times as long (protocol.md 4.13). Of groups everything is asked for: there are few, and a server refuses a list that
/// selects what it does not know, which is so of `can_write` on old ones.
const OF_COLLECTIONS: [&str; 5] = ["uuid", "name", "owner_uuid", "modified_at", "current_version_uuid"];

/// What is in a project, filter group or home, a page at a time, in order of uuid within a page's kind: first the
/// projects and filter groups, then the current versions of collections (arv-mount.md 2.3). `groups` and `collections`
/// are further filters for either part. Of collections only [`OF_COLLECTIONS`] is known.
pub fn contents<'a>(
    api: &'a dyn Api,
    uuid: &'a str,
    groups: &[Filter],
    collections: &[Filter],
) -> impl Stream<Item = Result<Vec<Object>>> + 'a {
    use futures_util::StreamExt;
    let classes = serde_json::json!(["project", "filter"]);
    let mut group_filters =
        vec![Filter::new("uuid", "is_a", "arvados#group"), Filter::new("groups.group_class", "in", classes)];
    group_filters.extend_from_slice(groups);
    let mut collection_filters = vec![Filter::new("uuid", "is_a", "arvados#collection")];
    collection_filters.extend_from_slice(collections);
    let part = move |filters: Vec<Filter>, select: &[&str]| {
        let key = |object: &Object| object.uuid().to_owned();
        let select = select.iter().map(|attribute| (*attribute).to_owned()).collect();
        let query = Query { select, ..by_key("uuid", filters) };
        pages(query, "uuid", key, move |query| async move { api.contents(Some(uuid), &query).await })
    };
    let pages = part(group_filters, &[]).chain(part(collection_filters, &OF_COLLECTIONS));
    pages.map(|page| {
        page.map(|mut page| {
            page.items.retain(is_shown);
            page.items
        })
    })
}

/// Old versions come along in some lists; they are not part of the present.
fn is_shown(object: &Object) -> bool {
    match object {
        Object::Collection(collection) => {
            collection.current_version_uuid.is_empty() || collection.current_version_uuid == collection.uuid
        }
        Object::Group(_) => true,
        Object::User(_) | Object::Other => false,
    }
}

/// The projects and filter groups that others share with us, with their owners in `included` (arv-mount.md 2.4).
pub fn shared<'a>(api: &'a dyn Api, filters: &[Filter]) -> impl Stream<Item = Result<Page<Group>>> + 'a {
    let mut all = vec![Filter::new("group_class", "in", serde_json::json!(["project", "filter"]))];
    all.extend_from_slice(filters);
    let query = Query { include: vec!["owner_uuid".to_owned()], ..by_key("uuid", all) };
    pages(query, "uuid", |group: &Group| group.uuid.clone(), move |query| async move { api.shared(&query).await })
}

/// The texts of all tags that we can read, sorted as the server sorts.
pub fn tags<'a>(api: &'a dyn Api, filters: &[Filter]) -> impl Stream<Item = Result<Vec<String>>> + 'a {
    use futures_util::StreamExt;
    let mut all = vec![Filter::new("link_class", "=", "tag"), Filter::new("name", "!=", "")];
    all.extend_from_slice(filters);
    let query = Query { select: vec!["name".to_owned()], distinct: true, ..by_key("name", all) };
    let pages =
        pages(query, "name", |link: &Link| link.name.clone(), move |query| async move { api.links(&query).await });
    pages.map(|page| page.map(|page| page.items.into_iter().map(|link| link.name).collect()))
}

/// The uuids of the collections that carry `tag`. One that carries it twice comes twice.
pub fn tagged<'a>(api: &'a dyn Api, tag: &str, filters: &[Filter]) -> impl Stream<Item = Result<Vec<String>>> + 'a {
    use futures_util::StreamExt;
    let mut all = vec![
        Filter::new("link_class", "=", "tag"),
        Filter::new("name", "=", tag),
        Filter::new("head_uuid", "is_a", "arvados#collection"),
    ];
    all.extend_from_slice(filters);
    let query = Query { select: vec!["uuid".to_owned(), "head_uuid".to_owned()], ..by_key("uuid", all) };
    let pages =
        pages(query, "uuid", |link: &Link| link.uuid.clone(), move |query| async move { api.links(&query).await });
    pages.map(|page| page.map(|page| page.items.into_iter().map(|link| link.head_uuid).collect()))
}

fn by_key(key: &str, filters: Vec<Filter>) -> Query {
    Query { filters, order: vec![format!("{key} asc")], limit: Some(PAGE), ..Query::default() }
}

/// All pages of `query`, which must be ordered by `attribute`, a key that differs for all items.
fn pages<T, F: Future<Output = Result<Page<T>>>>(
    query: Query,
    attribute: &'static str,
    key: impl Fn(&T) -> String,
    fetch: impl Fn(Query) -> F,
) -> impl Stream<Item = Result<Page<T>>> {
    try_unfold((Some(None::<String>), (query, key, fetch)), move |(position, tools)| async move {
        let Some(last) = position else { return Ok(None) };
        let (query, key, fetch) = &tools;
        let mut page_query = query.clone();
        page_query.filters.extend(last.clone().map(|last| Filter::new(attribute, ">", last)));
        let page = fetch(page_query).await?;
        let next = page.items.iter().rev().map(key).find(|key| !key.is_empty());
        let position = match (page.is_last(), next) {
            (true, _) => None,
            (false, Some(next)) if last.as_ref() != Some(&next) => Some(Some(next)),
            (false, _) => {
                let problem = format!("a further page of the list brings nothing new (by {attribute})");
                return Err(Error::Answer { what: "list".to_owned(), problem });
            }
        };
        Ok(Some((page, (position, tools))))
    })
}
