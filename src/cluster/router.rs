//! From a path and a method to the code that answers, and from its result to an answer.
//!
//! Reads run on a snapshot, everything else in the writer's transaction. Updates of a collection first work out the
//! new content under the collection's lock (see `record/collection/save.rs`).
//!
//! Paths are a controller's: a double slash is redirected, a slash at the end is no endpoint, a known path with
//! another method is 405, an unknown one 404 (recorded: `misc/02-path-*`, `misc/12-double-slash`,
//! `misc/12-trailing-slash`).

use bytes::Bytes;
use serde_json::{Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::api::Api;
use crate::cluster::authentication::{self, Session};
use crate::cluster::call::Call;
use crate::cluster::discovery;
use crate::cluster::permission::Level;
use crate::cluster::present::{Place, Shape};
use crate::cluster::public_config;
use crate::cluster::record::collection::{self, Name};
use crate::cluster::record::{Layer, MODELS, Model, Record, group, keep_service, link, token, user};
use crate::cluster::request::{Head, Request};
use crate::cluster::store::hold;
use crate::cluster::vocabulary;

/// What goes back to the client.
#[derive(Debug, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON, or text for a redirect.
    pub body: Bytes,
    /// Type of the body.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

/// A successful result.
enum Outcome {
    /// 200 with JSON.
    Found(Value),
    /// 204.
    Done,
}

type Result<T> = std::result::Result<T, Failure>;

/// Answers a request. Blocking: runs on the blocking pool.
pub fn answer(api: &Api, head: &Head, body: &Bytes) -> Answer {
    if head.raw_path.contains("//") {
        return redirect(head);
    }
    if head.method == "OPTIONS" {
        return Answer { status: 200, ..Answer::default() };
    }
    let layer = layer(&head.raw_path);
    match route(api, head, body) {
        Ok((Outcome::Found(value), headers)) => json_answer(200, &value, layer, headers),
        Ok((Outcome::Done, headers)) => Answer { status: 204, headers, ..Answer::default() },
        Err(failure) => refusal(api, head, &failure),
    }
}

/// The answer to a request that is refused.
pub fn refusal(api: &Api, head: &Head, failure: &Failure) -> Answer {
    let (layer, seconds) = (layer(&head.raw_path), api.now().seconds());
    let path = percent_encoding::percent_decode_str(&head.raw_path).decode_utf8_lossy();
    match failure.body(layer, &path, &head.request_id, seconds) {
        None => Answer { status: failure.status, ..Answer::default() },
        Some(body) => {
            let headers = vec![("X-Content-Type-Options", "nosniff".to_owned())];
            json_answer(failure.status, &body, layer, headers)
        }
    }
}

fn json_answer(status: u16, value: &Value, layer: Layer, headers: Vec<(&'static str, String)>) -> Answer {
    // Values made here always serialize: their keys are texts.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    let content_type = match layer {
        Layer::Controller => "application/json",
        Layer::Rails => "application/json; charset=utf-8",
    };
    Answer { status, body: body.into(), content_type, headers }
}

fn redirect(head: &Head) -> Answer {
    let mut path = String::with_capacity(head.raw_path.len());
    for character in head.raw_path.chars() {
        if character != '/' || !path.ends_with('/') {
            path.push(character);
        }
    }
    let location = if head.query.is_empty() { path } else { format!("{path}?{}", head.query) };
    let shown = location.replace('&', "&amp;").replace('"', "&#34;").replace('<', "&lt;");
    Answer {
        status: 307,
        body: format!("<a href=\"{shown}\">Temporary Redirect</a>.\n\n").into(),
        content_type: "text/html; charset=utf-8",
        headers: vec![("Location", location)],
    }
}

/// Which server answers for a path.
fn layer(raw_path: &str) -> Layer {
    let Some(rest) = raw_path.strip_prefix("/arvados/v1/") else {
        return if raw_path.starts_with("/_health/") { Layer::Controller } else { Layer::Rails };
    };
    let name = rest.split('/').next().unwrap_or_default();
    match MODELS.into_iter().find(|model| model.table == name) {
        Some(model) => model.layer,
        None if matches!(name, "config" | "vocabulary") => Layer::Controller,
        None => Layer::Rails,
    }
}

type Routed = (Outcome, Vec<(&'static str, String)>);

fn route(api: &Api, head: &Head, body: &Bytes) -> Result<Routed> {
    let mut request = Request::parse(head, body)?;
    let segments: Vec<String> = request.segments.clone();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let configuration = api.configuration();
    let found = |value| Ok((Outcome::Found(value), Vec::new()));
    match segments.as_slice() {
        ["discovery", "v1", "apis", "arvados", "v1", "rest"] => {
            let document = discovery::document(&configuration, api.started());
            // Ports and cluster ids are used again, and clients would keep the document for a day (protocol.md 1.4).
            Ok((Outcome::Found(document), vec![("Cache-Control", "no-store".to_owned())]))
        }
        ["_health", "ping"] => {
            let given = authentication::presented(head.authorization.as_deref(), &[], &[]);
            match given.first() {
                None => Err(Failure::controller(401, "authorization required")),
                Some(token) if authentication::same(token, configuration.management_token.expose()) => {
                    found(json!({"health": "OK"}))
                }
                Some(_) => Err(Failure::controller(403, "authorization error")),
            }
        }
        ["sys", "trash_sweep"] if request.method == "POST" => {
            let session = session(api, head, &request)?;
            if !session.is_admin {
                return Err(Failure::forbidden());
            }
            api.sweep_now()?;
            Ok((Outcome::Done, Vec::new()))
        }
        ["arvados", "v1", "config"] => found(public_config::document(&configuration)),
        ["arvados", "v1", "vocabulary"] => found(vocabulary::document(&configuration)),
        ["arvados", "v1", "keep_services", "accessible"] => found(keep_services(api, Some(head.external_client))),
        ["arvados", "v1", path @ ..] => {
            let session = session(api, head, &request)?;
            if !session.allows(&request.method, &request.path) {
                return Err(Failure::forbidden());
            }
            resource(api, session, path, &mut request)
                .map(|value| (value.map_or(Outcome::Done, Outcome::Found), Vec::new()))
        }
        _ => Err(Failure::not_found()),
    }
}

/// The caller, or 401.
fn session(api: &Api, head: &Head, request: &Request) -> Result<Session> {
    let cookies: Vec<&str> = head.cookies.iter().map(String::as_str).collect();
    let parameters: Vec<&str> = request.text("api_token").into_iter().collect();
    let tokens = authentication::presented(head.authorization.as_deref(), &cookies, &parameters);
    let token = tokens.first().ok_or_else(Failure::not_logged_in)?;
    api.session_of(token)?.ok_or_else(Failure::not_logged_in)
}

fn keep_services(api: &Api, external: Option<bool>) -> Value {
    let configuration = api.configuration();
    let services: Vec<Value> = match external {
        Some(external) => keep_service::accessible(&configuration, external)
            .map(|service| keep_service::present(service, &configuration, api.started()))
            .collect(),
        None => configuration
            .services
            .keep
            .iter()
            .map(|service| keep_service::present(service, &configuration, api.started()))
            .collect(),
    };
    let page = if external.is_some() { (Value::Null, Value::Null) } else { (json!(0), json!(100)) };
    json!({
        "kind": "arvados#keepServiceList", "etag": "", "self_link": "", "offset": page.0, "limit": page.1,
        "items_available": services.len(), "items": services,
    })
}

/// Everything below `/arvados/v1/` that needs a caller.
fn resource(api: &Api, session: Session, path: &[&str], request: &mut Request) -> Result<Option<Value>> {
    let model = path.first().and_then(|name| MODELS.into_iter().find(|model| model.table == *name));
    let method = match request.method.as_str() {
        "HEAD" => "GET",
        "PATCH" => "PUT",
        other => other,
    }
    .to_owned();
    let method = method.as_str();
    match (model, path, method) {
        (None, ["permissions", uuid], "GET") => read(api, session, |call| permissions(call, uuid)),
        (None, ["keep_services"], "GET") => Ok(Some(keep_services(api, None))),
        (None, ["keep_services", uuid], "GET") => {
            let all = keep_services(api, None);
            let found = all["items"].as_array().into_iter().flatten().find(|service| service["uuid"] == *uuid);
            found.cloned().map(Some).ok_or_else(Failure::not_found)
        }
        (None, ["computed_permissions"], "GET") => read(api, session, |call| call.computed_permissions(request)),
        (None, ["credentials" | "user_agreements"], "GET") => Ok(Some(empty_list(path[0]))),
        (None, ["user_agreements", "signatures"], "GET") => Ok(Some(empty_list(path[0]))),
        (Some(model), [_, rest @ ..], _) if rest.contains(&"") => {
            Err(if model.layer == Layer::Rails { Failure::not_found() } else { Failure::no_endpoint(404) })
        }
        (Some(model), [_], "GET") => read(api, session, |call| call.list(model, request, None)),
        (Some(model), [_], "POST") => create(api, session, model, request),
        (Some(model), [_], _) if model.layer == Layer::Controller => Err(Failure::no_endpoint(405)),
        (Some(_), ["users", "current"], "GET") => {
            read(api, session, |call| account(call, &call.session.user_uuid, request))
        }
        (Some(_), ["users", "system"], "GET") => {
            read(api, session, |call| account(call, &call.configuration.system_user(), request))
        }
        (Some(_), ["users", "setup"], "POST") => write(api, session, |call| setup(call, request)),
        (Some(_), ["users", uuid, action @ ("activate" | "unsetup")], "POST") => {
            write(api, session, |call| set_active(call, uuid, *action == "activate"))
        }
        (Some(_), ["api_client_authorizations", "current"], "GET") => read(api, session, |call| call.current_token()),
        (Some(_), ["api_client_authorizations", "create_system_auth"], "POST") => {
            write(api, session, |call| create_system_auth(call, request))
        }
        (Some(_), ["groups", "contents"], "GET") => {
            read(api, session, |call| call.contents(request.text("uuid"), request))
        }
        (Some(_), ["groups", "shared"], "GET") => read(api, session, |call| call.shared(request)),
        (Some(_), ["groups", uuid, "contents"], "GET") => read(api, session, |call| call.contents(Some(uuid), request)),
        (Some(_), ["collections", name, rest @ ..], _) => collection(api, session, name, rest, method, request),
        (Some(model), [_, uuid], _) => single(api, session, model, uuid, method, request),
        (Some(model), ["groups", uuid, action @ ("trash" | "untrash")], "POST") => {
            write(api, session, |call| trash(call, model, uuid, action, request))
        }
        (Some(model), ..) if model.layer == Layer::Controller => Err(Failure::no_endpoint(404)),
        _ => Err(Failure::not_found()),
    }
}

fn read(api: &Api, session: Session, work: impl FnOnce(&Call<'_>) -> Result<Value>) -> Result<Option<Value>> {
    api.read(session, work).map(Some)
}

fn write(api: &Api, session: Session, work: impl FnOnce(&Call<'_>) -> Result<Value>) -> Result<Option<Value>> {
    api.write(session, work).map(Some)
}

fn create(api: &Api, session: Session, model: &'static Model, request: &mut Request) -> Result<Option<Value>> {
    let mut attributes = request.take_attributes(model.singular)?;
    let unique = request.flag("ensure_unique_name");
    let shape = Shape::of_request(request, model, Place::Create)?;
    vocabulary::check(&api.configuration(), attributes.get("properties"))?;
    if model.table != collection::MODEL.table {
        return write(api, session, |call| {
            let record = call.create(model, attributes, unique)?;
            // A create that found a permission link answers with that link, as it is.
            call.present(&record, &shape)
        });
    }
    let (files, segments) = (request.parameters.remove("replace_files"), request.parameters.remove("replace_segments"));
    let prepared = api.read(session.clone(), |call| {
        call.prepare_collection(None, &mut attributes, files.as_ref(), segments.as_ref())
    })?;
    write(api, session, |call| {
        let record = call.create_collection(attributes, prepared, unique)?;
        call.present(&record, &shape)
    })
}

/// `/collections/{uuid or hash}` and below.
fn collection(
    api: &Api,
    session: Session,
    name: &str,
    rest: &[&str],
    method: &str,
    request: &mut Request,
) -> Result<Option<Value>> {
    let uuid = match (Name::parse(name)?, rest, method) {
        (Name::Uuid(uuid), ..) => uuid,
        (Name::Hash(hash), [], "GET") => {
            let shape = Shape::of_request(request, &collection::MODEL, Place::Single)?;
            return read(api, session, |call| call.present_by_hash(&hash, request.flag("include_trash"), &shape));
        }
        (Name::Hash(_), ..) => {
            return Err(Failure::unprocessable(
                "#<NoMethodError: undefined method `readonly?' for an instance of Hash>",
            ));
        }
    };
    match (rest, method) {
        ([], "PUT") => update_collection(api, session, &uuid, request),
        ([], _) => single(api, session, &collection::MODEL, &uuid, method, request),
        (["provenance"], "GET") => read(api, session, |call| call.provenance(&uuid)),
        (["used_by"], "GET") => read(api, session, |call| call.used_by(&uuid)),
        ([action @ ("trash" | "untrash")], "POST") => {
            write(api, session, |call| trash(call, &collection::MODEL, &uuid, action, request))
        }
        (["provenance" | "used_by" | "trash" | "untrash"], _) => Err(Failure::no_endpoint(405)),
        _ => Err(Failure::no_endpoint(404)),
    }
}

fn update_collection(api: &Api, session: Session, uuid: &str, request: &mut Request) -> Result<Option<Value>> {
    let mut attributes = request.take_attributes(collection::MODEL.singular)?;
    let shape = Shape::of_request(request, &collection::MODEL, Place::Single)?;
    vocabulary::check(&api.configuration(), attributes.get("properties"))?;
    let (files, segments) = (request.parameters.remove("replace_files"), request.parameters.remove("replace_segments"));
    let lock = api.store().lock(uuid);
    let held = hold(&lock);
    let prepared = if attributes.contains_key("manifest_text") || files.is_some() || segments.is_some() {
        api.read(session.clone(), |call| {
            let current = call.readable(&collection::MODEL, uuid, false)?;
            call.prepare_collection(Some(&current), &mut attributes, files.as_ref(), segments.as_ref())
        })?
    } else {
        None
    };
    let record = api.write(session.clone(), |call| call.update_collection(uuid, attributes, prepared))?;
    drop(held);
    // The signed manifest of a large collection takes its time; neither lock is held for it.
    read(api, session, |call| call.present(&record, &shape))
}

/// `/{resource}/{uuid}`
fn single(
    api: &Api,
    session: Session,
    model: &'static Model,
    uuid: &str,
    method: &str,
    request: &mut Request,
) -> Result<Option<Value>> {
    let has_trash = model.table == collection::MODEL.table || model.table == group::MODEL.table;
    match method {
        "GET" => {
            let shape = Shape::of_request(request, model, Place::Single)?;
            read(api, session, |call| {
                let record = call.readable(model, uuid, request.flag("include_trash"))?;
                call.present(&record, &shape)
            })
        }
        "PUT" => {
            let attributes = request.take_attributes(model.singular)?;
            let shape = Shape::of_request(request, model, Place::Single)?;
            vocabulary::check(&api.configuration(), attributes.get("properties"))?;
            write(api, session, |call| {
                let record = call.update(model, uuid, attributes)?;
                call.present(&record, &shape)
            })
        }
        "DELETE" => {
            let shape = Shape::of_request(request, model, Place::Single)?;
            write(api, session, |call| {
                let record = if has_trash { call.trash(model, uuid, true)? } else { call.delete(model, uuid)? };
                call.present(&record, &shape)
            })
        }
        _ if model.layer == Layer::Controller => Err(Failure::no_endpoint(405)),
        _ => Err(Failure::not_found()),
    }
}

fn trash(call: &Call<'_>, model: &'static Model, uuid: &str, action: &str, request: &Request) -> Result<Value> {
    let shape = Shape::of_request(request, model, Place::Single)?;
    if action == "trash" {
        return call.present(&call.trash(model, uuid, false)?, &shape);
    }
    let record = call.untrash(model, uuid, request.flag("ensure_unique_name"))?;
    let mut shown = call.present(&record, &shape)?;
    // The real server decides about signatures before it takes the record out of the trash (recorded:
    // collections/03-untrash-after-delete).
    if shown.get("manifest_text").is_some() {
        shown["manifest_text"] = call.manifest_text(record.text("manifest"))?.as_ref().into();
    }
    Ok(shown)
}

fn account(call: &Call<'_>, uuid: &str, request: &Request) -> Result<Value> {
    let shape = Shape::of_request(request, &user::MODEL, Place::Single)?;
    let record = call.find(&user::MODEL, uuid)?.ok_or_else(Failure::not_found)?;
    call.present(&record, &shape)
}

/// Makes an account usable: by uuid, or a new one from its attributes.
fn setup(call: &Call<'_>, request: &Request) -> Result<Value> {
    call.require_admin()?;
    let attributes = request.parameter("user").and_then(Value::as_object).cloned().unwrap_or_default();
    let record = match request.text("uuid") {
        Some(uuid) => call.readable(&user::MODEL, uuid, false)?,
        None => call.create(&user::MODEL, attributes, false)?,
    };
    call.finish_user(&record)?;
    let shown = call.present(&record, &Shape::whole(Place::Single))?;
    Ok(json!({"kind": "arvados#HashList", "items": [shown]}))
}

/// Takes an account into use or out of it.
fn set_active(call: &Call<'_>, uuid: &str, active: bool) -> Result<Value> {
    let old = call.readable(&user::MODEL, uuid, false)?;
    if !(call.session.is_admin || (active && old.flag("is_active"))) {
        return Err(Failure::forbidden());
    }
    let mut new = old.clone();
    new.set("is_active", active);
    let new = if old.values == new.values { old } else { call.finish_update(&old, new)? };
    if active {
        call.finish_user(&new)?;
    }
    call.present(&new, &Shape::whole(Place::Single))
}

/// A token of the system user.
fn create_system_auth(call: &Call<'_>, request: &Request) -> Result<Value> {
    call.require_admin()?;
    let mut record = Record::new(&token::MODEL);
    record.set("owner_uuid", call.configuration.system_user());
    record.set("scopes", request.parameter("scopes").cloned().unwrap_or_else(|| json!(["all"])));
    call.identify(&mut record);
    call.prepare_token(&mut record)?;
    let record = call.create_record(record)?;
    call.present(&record, &Shape::whole(Place::Create))
}

/// The permission links on something, for who may manage it.
fn permissions(call: &Call<'_>, uuid: &str) -> Result<Value> {
    let found = call.find_any(uuid)?.ok_or_else(Failure::not_found)?;
    match call.level(&found)? {
        Level::None => return Err(Failure::not_found()),
        Level::Manage => {}
        _ => return Err(Failure::forbidden()),
    }
    let condition = crate::cluster::filter::Condition::with(
        "link_class = 'permission' AND head_uuid = ?",
        [rusqlite::types::Value::Text(uuid.to_owned())],
    );
    let links = call.rows(&link::MODEL, &condition, "id", 1000, 0)?;
    let items = links.iter().map(|link| call.present(link, &Shape::whole(Place::List))).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "kind": "arvados#linkList", "etag": "", "self_link": "", "offset": 0, "limit": items.len(),
        "items_available": items.len(), "items": items,
    }))
}

/// A list of what this cluster does not keep.
fn empty_list(path: &str) -> Value {
    let kind = if path == "credentials" { "arvados#credentialList" } else { "arvados#userAgreementList" };
    json!({"kind": kind, "etag": "", "self_link": "", "offset": 0, "limit": 100, "items": [], "items_available": 0})
}
