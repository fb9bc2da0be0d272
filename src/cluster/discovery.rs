//! The discovery document: which methods there are, and with which parameters (protocol.md 1).
//!
//! Clients build their API from it, so it is complete, for resources that this cluster only lists as well, and every
//! schema that a method refers to is in it. Schemas come from the models; standard methods are the same for every
//! resource and are written once.

use serde_json::{Map, Value, json};

use crate::cluster::clock::Timestamp;
use crate::cluster::configuration::Configuration;
use crate::cluster::record::attribute::{Attribute, Use};
use crate::cluster::record::{Model, collection, group, keep_service, link, log, other, token, user};

/// Version of the API that this cluster speaks, a date.
const REVISION: &str = "20250402";

/// A resource: path, name of its attributes parameter, schema, standard parameters beyond the usual, further methods.
struct Resource {
    path: &'static str,
    singular: &'static str,
    class: &'static str,
    more: &'static [Method],
}

/// A method beyond get, list, create, update and delete: name, HTTP method, path, parameters as `name:type[=default]`,
/// `!` behind a required one, `@` before one in the path.
type Method = (&'static str, &'static str, &'static str, &'static str);

/// Parameters of every list.
const LIST: &str = "filters:array where:object order:array select:array distinct:boolean=false limit:integer=100 \
                    offset:integer=0 count:string=exact cluster_id:string bypass_federation:boolean=false";

const RESOURCES: [Resource; 15] = [
    Resource {
        path: "api_client_authorizations",
        singular: "api_client_authorization",
        class: "ApiClientAuthorization",
        more: &[
            ("create_system_auth", "POST", "api_client_authorizations/create_system_auth", "scopes:array=[\"all\"]"),
            ("current", "GET", "api_client_authorizations/current", ""),
        ],
    },
    Resource { path: "authorized_keys", singular: "authorized_key", class: "AuthorizedKey", more: &[] },
    Resource {
        path: "collections",
        singular: "collection",
        class: "Collection",
        more: &[
            ("provenance", "GET", "collections/{uuid}/provenance", "@uuid:string!"),
            ("used_by", "GET", "collections/{uuid}/used_by", "@uuid:string!"),
            ("trash", "POST", "collections/{uuid}/trash", "@uuid:string!"),
            ("untrash", "POST", "collections/{uuid}/untrash", "@uuid:string!"),
        ],
    },
    Resource {
        path: "containers",
        singular: "container",
        class: "Container",
        more: &[
            ("auth", "GET", "containers/{uuid}/auth", "@uuid:string!"),
            ("lock", "POST", "containers/{uuid}/lock", "@uuid:string!"),
            ("unlock", "POST", "containers/{uuid}/unlock", "@uuid:string!"),
            ("update_priority", "POST", "containers/{uuid}/update_priority", "@uuid:string!"),
            ("secret_mounts", "GET", "containers/{uuid}/secret_mounts", "@uuid:string!"),
            ("current", "GET", "containers/current", ""),
        ],
    },
    Resource {
        path: "container_requests",
        singular: "container_request",
        class: "ContainerRequest",
        more: &[("container_status", "GET", "container_requests/{uuid}/container_status", "uuid:string!")],
    },
    Resource {
        path: "credentials",
        singular: "credential",
        class: "Credential",
        more: &[("secret", "GET", "credentials/{uuid}/secret", "@uuid:string!")],
    },
    Resource {
        path: "groups",
        singular: "group",
        class: "Group",
        more: &[
            (
                "contents",
                "GET",
                "groups/contents",
                "LIST include_trash:boolean=false uuid:string= recursive:boolean=false include:array \
                 include_old_versions:boolean=false exclude_home_project:boolean=false",
            ),
            ("shared", "GET", "groups/shared", "LIST include_trash:boolean=false include:string"),
            ("trash", "POST", "groups/{uuid}/trash", "@uuid:string!"),
            ("untrash", "POST", "groups/{uuid}/untrash", "@uuid:string!"),
        ],
    },
    Resource {
        path: "keep_services",
        singular: "keep_service",
        class: "KeepService",
        more: &[("accessible", "GET", "keep_services/accessible", "")],
    },
    Resource {
        path: "links",
        singular: "link",
        class: "Link",
        more: &[("get_permissions", "GET", "permissions/{uuid}", "@uuid:string!")],
    },
    Resource { path: "logs", singular: "log", class: "Log", more: &[] },
    Resource {
        path: "users",
        singular: "user",
        class: "User",
        more: &[
            ("current", "GET", "users/current", ""),
            ("system", "GET", "users/system", ""),
            ("activate", "POST", "users/{uuid}/activate", "@uuid:string!"),
            (
                "setup",
                "POST",
                "users/setup",
                "uuid:string user:object repo_name:string vm_uuid:string send_notification_email:boolean=false",
            ),
            ("unsetup", "POST", "users/{uuid}/unsetup", "@uuid:string!"),
            (
                "merge",
                "POST",
                "users/merge",
                "new_owner_uuid:string! new_user_token:string redirect_to_new_user:boolean=false old_user_uuid:string \
                 new_user_uuid:string",
            ),
        ],
    },
    Resource {
        path: "user_agreements",
        singular: "user_agreement",
        class: "UserAgreement",
        more: &[("signatures", "GET", "user_agreements/signatures", ""), ("sign", "POST", "user_agreements/sign", "")],
    },
    Resource {
        path: "virtual_machines",
        singular: "virtual_machine",
        class: "VirtualMachine",
        more: &[
            ("logins", "GET", "virtual_machines/{uuid}/logins", "@uuid:string!"),
            ("get_all_logins", "GET", "virtual_machines/get_all_logins", ""),
        ],
    },
    Resource { path: "workflows", singular: "workflow", class: "Workflow", more: &[] },
    Resource { path: "computed_permissions", singular: "", class: "ComputedPermission", more: &[] },
];

/// Schemas without a table: name, infix, attributes as `name:type`.
const FURTHER_SCHEMAS: [(&str, Option<&str>, &str); 3] = [
    ("ComputedPermission", None, "user_uuid:string target_uuid:string perm_level:string"),
    (
        "Credential",
        Some("oss07"),
        "uuid:string owner_uuid:string created_at:datetime modified_at:datetime modified_by_user_uuid:string name:string \
         description:text credential_class:string scopes:Array external_id:string expires_at:datetime",
    ),
    (
        "KeepService",
        Some(keep_service::INFIX),
        "uuid:string owner_uuid:string modified_by_user_uuid:string modified_at:datetime service_host:string \
         service_port:integer service_ssl_flag:boolean service_type:string created_at:datetime read_only:boolean",
    ),
];

/// The document.
pub fn document(configuration: &Configuration, started: Timestamp) -> Value {
    let root = configuration.services.controller.as_str();
    let services = &configuration.services;
    let mut document = json!({
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "arvados:v1",
        "name": "arvados",
        "version": "v1",
        "revision": REVISION,
        "source_version": env!("CARGO_PKG_VERSION"),
        "sourceVersion": env!("CARGO_PKG_VERSION"),
        "packageVersion": env!("CARGO_PKG_VERSION"),
        "generatedAt": started.to_string().split('.').next().map(|time| format!("{time}Z")),
        "title": "Arvados API",
        "description": "The API to interact with Arvados.",
        "documentationLink": "http://doc.arvados.org/api/index.html",
        "defaultCollectionReplication": configuration.default_replication,
        "protocol": "rest",
        "schemas": schemas(),
        "resources": resources(),
    });
    let addresses = json!({
        "baseUrl": format!("{root}arvados/v1/"),
        "basePath": "/arvados/v1/",
        "rootUrl": root,
        "servicePath": "arvados/v1/",
        "batchPath": "batch",
        "uuidPrefix": configuration.cluster_id,
        "defaultTrashLifetime": configuration.default_trash_lifetime.as_secs(),
        "blobSignatureTtl": configuration.blob_signing_ttl.as_secs(),
        "maxRequestSize": configuration.max_request_size,
        "maxItemsPerResponse": configuration.max_items_per_response,
        "dockerImageFormats": ["v2"],
        "crunchLogUpdatePeriod": 1800,
        "crunchLogUpdateSize": 32 << 20,
        "remoteHosts": {},
        "remoteHostsViaDNS": false,
        "websocketUrl": services.websocket,
        "workbenchUrl": "",
        "workbench2Url": "",
        "keepWebServiceUrl": services.webdav,
        "parameters": {
            "alt": {
                "type": "string",
                "description": "Form of the answer.",
                "default": "json",
                "enum": ["json"],
                "enumDescriptions": ["JSON"],
                "location": "query",
            },
            "fields": {"type": "string", "description": "Not used.", "location": "query"},
            "key": {"type": "string", "description": "Not used.", "location": "query"},
            "oauth_token": {"type": "string", "description": "Token of the caller.", "location": "query"},
        },
        "auth": {"oauth2": {"scopes": {
            "https://api.arvados.org/auth/arvados": {"description": "View and manage objects"},
            "https://api.arvados.org/auth/arvados.readonly": {"description": "View objects"},
        }}},
    });
    for (name, value) in addresses.as_object().into_iter().flatten() {
        document[name] = value.clone();
    }
    document
}

fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    let models: [&Model; 11] = [
        &token::MODEL,
        &other::AUTHORIZED_KEY,
        &collection::MODEL,
        &other::CONTAINER,
        &other::CONTAINER_REQUEST,
        &group::MODEL,
        &link::MODEL,
        &log::MODEL,
        &user::MODEL,
        &other::VIRTUAL_MACHINE,
        &other::WORKFLOW,
    ];
    for model in models {
        let described = model.attributes.iter().filter(|attribute| is_described(model, attribute));
        let properties = described.map(|attribute| {
            (
                attribute.name.to_owned(),
                json!({"type": described_type(model, attribute), "description": attribute.about}),
            )
        });
        add_schema(&mut schemas, model.class, Some(model.infix), properties.collect());
    }
    // An agreement is a collection under another name.
    let agreement = schemas["Collection"]["properties"].as_object().cloned().unwrap_or_default();
    add_schema(&mut schemas, "UserAgreement", Some("gv0sa"), agreement);
    for (class, infix, attributes) in FURTHER_SCHEMAS {
        let properties = attributes.split_whitespace().filter_map(|text| text.split_once(':'));
        let properties = properties.map(|(name, kind)| {
            let about = format!("The {} of this {class}.", name.replace('_', " "));
            (name.to_owned(), json!({"type": kind, "description": about}))
        });
        add_schema(&mut schemas, class, infix, properties.collect());
    }
    schemas
}

/// What is worked out for each answer is not part of the schema, and neither is what a kind does not keep.
fn is_described(model: &Model, attribute: &Attribute) -> bool {
    let apart = attribute.usage == Use::Apart && attribute.name != "manifest_text";
    let unused = model.table == token::MODEL.table
        && ["owner_uuid", "modified_at", "modified_by_user_uuid"].contains(&attribute.name);
    !(apart || unused || matches!(attribute.usage, Use::Derived | Use::Hidden))
}

/// Descriptions have a limit of their own and are texts in the table; the schema calls the older ones strings.
fn described_type(model: &Model, attribute: &Attribute) -> &'static str {
    let old = model.table == collection::MODEL.table || model.table == group::MODEL.table;
    match attribute.name {
        "description" if old => "string",
        "published_ports" if model.table == other::CONTAINER.table => "jsonb",
        _ => attribute.type_name(),
    }
}

fn add_schema(schemas: &mut Map<String, Value>, class: &str, infix: Option<&str>, properties: Map<String, Value>) {
    let mut all = Map::new();
    // What is worked out from other records has no version of its own.
    if infix.is_some() {
        all.insert("etag".to_owned(), json!({"type": "string", "description": "Version of the answer."}));
    }
    all.extend(properties);
    let mut schema = json!({
        "id": class,
        "description": format!("{class}: a record of this cluster."),
        "type": "object",
        "properties": all,
    });
    if let Some(infix) = infix {
        schema["uuidPrefix"] = infix.into();
    }
    schemas.insert(class.to_owned(), schema);
    let kind = format!("arvados#{}List", class[..1].to_lowercase() + &class[1..]);
    let list = json!({
        "id": format!("{class}List"),
        "description": format!("A list of {class} records."),
        "type": "object",
        "properties": {
            "kind": {"type": "string", "description": format!("Always {kind}."), "default": kind},
            "etag": {"type": "string", "description": "Version of the list."},
            "items": {"type": "array", "description": "The records.", "items": {"$ref": class}},
        },
    });
    schemas.insert(format!("{class}List"), list);
}

fn resources() -> Map<String, Value> {
    let mut resources: Map<String, Value> =
        RESOURCES.iter().map(|resource| (resource.path.to_owned(), json!({"methods": methods(resource)}))).collect();
    for (name, method, verb, path, id) in [
        ("configs", "get", "GET", "config", "arvados.configs.get"),
        ("vocabularies", "get", "GET", "vocabulary", "arvados.vocabularies.get"),
        ("sys", "get", "POST", "sys/trash_sweep", "arvados.sys.trash_sweep"),
    ] {
        let description = json!({
            "id": id,
            "path": path,
            "httpMethod": verb,
            "description": format!("{verb} {path}"),
            "parameters": {},
            "parameterOrder": [],
            "response": {},
            "scopes": scopes(true),
        });
        resources.insert(name.to_owned(), json!({"methods": {method: description}}));
    }
    resources
}

fn methods(resource: &Resource) -> Map<String, Value> {
    let Resource { path, singular, class, more } = resource;
    let one = format!("{path}/{{uuid}}");
    let mut methods = Map::new();
    let mut add = |name: &str, verb: &str, path: &str, parameters: &str, has_body: bool| {
        let answer = if name == "list" { format!("{class}List") } else { (*class).to_owned() };
        let mut method = json!({
            "id": format!("arvados.{}.{name}", resource.path),
            "path": path,
            "httpMethod": verb,
            "description": format!("{verb} {path}"),
            "parameters": describe(parameters),
            "response": {"$ref": answer},
            "scopes": scopes(matches!(name, "get" | "list")),
        });
        if name == "get" {
            method["parameterOrder"] = json!(["uuid"]);
        }
        if has_body {
            method["request"] = json!({"required": true, "properties": {*singular: {"$ref": class}}});
        }
        methods.insert(name.to_owned(), method);
    };
    if singular.is_empty() {
        let parameters = LIST
            .split_whitespace()
            .filter(|one| !["offset", "cluster_id", "bypass_federation"].iter().any(|name| one.starts_with(name)));
        add("list", "GET", path, &parameters.collect::<Vec<_>>().join(" "), false);
        return methods;
    }
    let trash = match *path {
        "collections" | "groups" | "container_requests" => " include_trash:boolean=false",
        _ => "",
    };
    let versions = if *path == "collections" { " include_old_versions:boolean=false" } else { "" };
    let edits = match *path {
        "collections" => " replace_files:object replace_segments:object",
        "groups" => " async:boolean=false",
        _ => "",
    };
    let federation = if *path == "users" { " bypass_federation:boolean=false" } else { "" };
    add("get", "GET", &one, &format!("@uuid:string! select:array{trash}"), false);
    add("list", "GET", path, &format!("{LIST}{trash}{versions}"), false);
    let create = format!("select:array ensure_unique_name:boolean=false cluster_id:string{edits}");
    add("create", "POST", path, &create, true);
    add("update", "PUT", &one, &format!("@uuid:string! select:array{edits}{federation}"), true);
    add("delete", "DELETE", &one, "@uuid:string!", false);
    for (name, verb, path, parameters) in *more {
        add(name, verb, path, &parameters.replace("LIST", LIST), false);
    }
    methods
}

fn describe(parameters: &str) -> Map<String, Value> {
    let described = parameters.split_whitespace().map(|text| {
        let (text, location) = text.strip_prefix('@').map_or((text, "query"), |text| (text, "path"));
        let (text, default) = text.split_once('=').map_or((text, None), |(text, default)| (text, Some(default)));
        let (text, required) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
        let (name, kind) = text.split_once(':').unwrap_or((text, "string"));
        let mut parameter = json!({
            "type": kind,
            "required": required,
            "location": location,
            "description": format!("The parameter {name}; see the Arvados API documentation."),
        });
        if let Some(default) = default {
            parameter["default"] = default.into();
        }
        if name.starts_with("replace_") {
            parameter["properties"] = json!({});
            parameter["additionalProperties"] = json!({"type": "string"});
        }
        (name.to_owned(), parameter)
    });
    described.collect()
}

fn scopes(read_only: bool) -> Value {
    let mut scopes = vec!["https://api.arvados.org/auth/arvados"];
    if read_only {
        scopes.push("https://api.arvados.org/auth/arvados.readonly");
    }
    json!(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Python client fails with a KeyError when a schema is missing (protocol.md 1.1).
    #[test]
    fn every_schema_that_is_referred_to_is_there() {
        let document = document(&Configuration::default(), Timestamp::from_micros(0));
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 100);
        for reference in references {
            assert!(document["schemas"].get(&reference).is_some(), "{reference}");
        }
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                references.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| collect(value, references));
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }
}
