//! Tokens (`api_client_authorizations`): who may act as whom, how far, how long.
//!
//! The record of the token in use shows its secret to its holder; nobody else ever sees it, and it is in no log.

use serde_json::{Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::call::Call;
use crate::cluster::configuration::Secret;
use crate::cluster::record::attribute::{Kind, Use, plain};
use crate::cluster::record::{Layer, Model, Record, log};

/// Tokens.
pub static MODEL: Model = Model {
    table: "api_client_authorizations",
    singular: "api_client_authorization",
    class: "ApiClientAuthorization",
    kind: "apiClientAuthorization",
    infix: "gj3su",
    layer: Layer::Controller,
    internal: &[],
    attributes: &[
        plain("api_token", Kind::String, "The secret part."),
        plain("created_by_ip_address", Kind::String, "Address that asked for it."),
        plain("last_used_by_ip_address", Kind::String, "Address that used it last."),
        plain("last_used_at", Kind::Time, "When it was used last."),
        plain("expires_at", Kind::Time, "When it stops working."),
        plain("created_at", Kind::Time, "When it was made.").used(Use::ReadOnly),
        plain("scopes", Kind::Array, "What it may be used for."),
        plain("uuid", Kind::String, "Identifies the token; made by the server."),
        plain("owner_uuid", Kind::String, "User it acts for."),
        plain("modified_at", Kind::Time, "Not kept.").used(Use::ReadOnly),
        plain("modified_by_user_uuid", Kind::String, "Not kept.").used(Use::ReadOnly),
    ],
};

impl Call<'_> {
    /// A token's attributes, checked: an ordinary user makes tokens for themselves, an administrator for anybody.
    ///
    /// # Errors
    /// 403 for a token for somebody else, 422 for an owner that is no user.
    pub fn prepare_token(&self, token: &mut Record) -> Result<(), Failure> {
        if token.get("api_token").is_null() {
            token.set("api_token", Secret::random().expose());
        }
        if token.get("scopes").is_null() {
            token.set("scopes", vec!["all"]);
        }
        if token.owner().is_empty() {
            token.set("owner_uuid", self.session.user_uuid.clone());
        }
        if token.owner() != self.session.user_uuid && !self.session.is_admin {
            return Err(Failure::denied());
        }
        if !self.graph()?.users.contains_key(token.owner()) {
            return Err(Failure::unprocessable("User must exist"));
        }
        token.set("modified_at", Value::Null);
        token.set("modified_by_user_uuid", Value::Null);
        Ok(())
    }

    /// What the holder of a token sees of it. The real server leaves out when it was made.
    pub fn current_token(&self) -> Result<Value, Failure> {
        let system = super::super::authentication::Session::system(&self.configuration);
        let uuid = &self.session.token_uuid;
        let record = match self.find(&MODEL, uuid)? {
            Some(record) => record,
            None => {
                let mut record = Record::new(&MODEL);
                record.set("uuid", uuid.clone());
                record.set("owner_uuid", self.session.user_uuid.clone());
                record.set("scopes", self.session.scopes.to_vec());
                if *uuid == system.token_uuid {
                    record.set("api_token", self.configuration.system_root_token.expose());
                } else if let Some(anonymous) = &self.configuration.anonymous_user_token {
                    record.set("api_token", anonymous.expose());
                }
                record
            }
        };
        let mut shown = present(&record);
        shown["created_at"] = Value::Null;
        Ok(shown)
    }
}

/// The wire form of a token.
pub fn present(record: &Record) -> Value {
    let mut shown = json!({"kind": MODEL.full_kind(), "etag": log::etag(&json!(record.uuid()))});
    for attribute in MODEL.attributes {
        let value = record.get(attribute.name);
        shown[attribute.name] = if value.is_null() && attribute.null_is_empty { "".into() } else { value.clone() };
    }
    shown
}
