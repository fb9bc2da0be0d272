//! How the commands reach a running cluster: through its API, with the root token of the data folder.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::certificate::Files;
use crate::cluster::configuration::Configuration;
use crate::cluster::directory::{self, Note};
use crate::remote::{Settings, Token, trust};

/// These requests touch a handful of records; a cluster that needs longer is not well.
const LIMIT: Duration = Duration::from_secs(30);

/// A running cluster, seen as the system user.
pub struct Client {
    /// Where it is.
    pub note: Note,
    /// Its certificate, which is also the file for `SSL_CERT_FILE`.
    pub certificate: PathBuf,
    configuration: Configuration,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Finds the cluster of a data folder. Errors: there is none, or it does not run.
    pub fn open(data: &Path) -> Result<Self, String> {
        let (settings, note) = directory::look(data).map_err(|error| error.to_string())?;
        let note = note.ok_or_else(|| directory::Error::NotRunning { path: data.to_owned() }.to_string())?;
        let folder = data.canonicalize().map_err(|error| format!("cannot use {}: {error}", data.display()))?;
        let certificate = Files::of(&folder).certificate;
        let token = Token::new(settings.configuration.system_root_token.expose());
        let mut trusted = Settings::new(&note.api, token.ok_or("the cluster has no root token")?);
        trusted.certificate_file = Some(certificate.clone());
        let tls = trust::client_configuration(&trusted).map_err(|error| error.to_string())?;
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().timeout(LIMIT);
        let http = builder.build().map_err(|error| format!("cannot make an HTTP client: {error}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        Ok(Self { note, certificate, configuration: settings.configuration, http, runtime })
    }

    /// One request; `path` is relative to `/arvados/v1/`. Errors are what the API says.
    pub fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        query: &[(&str, String)],
        body: &Value,
    ) -> Result<Value, String> {
        let url = format!("https://{}/arvados/v1/{path}", self.note.api);
        let mut request = self.http.request(method, url).query(query);
        request = request.bearer_auth(self.configuration.system_root_token.expose());
        if !body.is_null() {
            request = request.json(body);
        }
        self.runtime.block_on(async {
            let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = answer.status();
            let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
            let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
            if status.is_success() {
                return Ok(answer);
            }
            let errors = answer["errors"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let errors: Vec<_> = errors.collect();
            Err(format!("the cluster refused: {} {}", status.as_u16(), errors.join("; ")))
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> String {
        let mut message = format!("the cluster at {} does not answer", self.note.api);
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        message
    }

    /// Everything that a list has, page by page.
    pub fn list(&self, table: &str, filters: &Value) -> Result<Vec<Value>, String> {
        const PAGE: usize = 1000;
        let mut items: Vec<Value> = Vec::new();
        loop {
            let mut filters = filters.clone();
            if let (Some(filters), Some(last)) = (filters.as_array_mut(), items.last()) {
                filters.push(json!(["uuid", ">", last["uuid"]]));
            }
            let query = [
                ("filters", filters.to_string()),
                ("order", json!(["uuid asc"]).to_string()),
                ("limit", PAGE.to_string()),
                ("count", "none".to_owned()),
            ];
            let page = self.call(reqwest::Method::GET, table, &query, &Value::Null)?;
            let found = page["items"].as_array().map_or(&[][..], Vec::as_slice);
            items.extend_from_slice(found);
            if found.len() < PAGE {
                return Ok(items);
            }
        }
    }

    /// A user by name or uuid.
    pub fn user(&self, name: &str) -> Result<Value, String> {
        let column = if is_uuid(name) { "uuid" } else { "username" };
        let found = self.list("users", &json!([[column, "=", name]]))?;
        found.into_iter().next().ok_or_else(|| {
            format!("there is no user {name}: see `arvados cluster user list`, or create one with `arvados cluster user create {name}`")
        })
    }

    /// A token of a user that never expires and may do everything. One that is there already is as good as a new one, and
    /// the table does not grow with every shell.
    pub fn usable_token(&self, user: &Value) -> Result<String, String> {
        let usable = json!([["owner_uuid", "=", text(user, "uuid")], ["expires_at", "=", null]]);
        let mut tokens = self.list("api_client_authorizations", &usable)?;
        tokens.retain(|token| token["scopes"] == json!(["all"]));
        match tokens.iter().find_map(v2) {
            Some(token) => Ok(token),
            None => v2(&self.new_token(user, &json!(["all"]), None)?)
                .ok_or_else(|| "the cluster did not tell the new token".to_owned()),
        }
    }

    /// A new token of a user, complete with its uuid.
    pub fn new_token(&self, user: &Value, scopes: &Value, expires_at: Option<&str>) -> Result<Value, String> {
        let attributes = json!({"owner_uuid": user["uuid"], "scopes": scopes, "expires_at": expires_at});
        let body = json!({"api_client_authorization": attributes});
        self.call(reqwest::Method::POST, "api_client_authorizations", &[], &body)
    }
}

/// A record's attribute as text; empty when it has none.
pub fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name].as_str().unwrap_or_default()
}

/// A token as clients use it: `v2/<uuid>/<secret>`. `None` when the record does not tell the secret.
pub fn v2(token: &Value) -> Option<String> {
    let secret = token["api_token"].as_str().filter(|secret| !secret.is_empty())?;
    Some(format!("v2/{}/{secret}", text(token, "uuid")))
}

/// Whether the text has the form of a uuid.
pub fn is_uuid(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').map(str::len).collect();
    parts == [5, 5, 15]
}
