//! Answers and refusals, in the words of the real servers.
//!
//! An Arvados API answer comes from one of two servers, and the texts tell which: the controller answers itself
//! (`not found`), or relays what the Rails server said, with the inner address and the request id around it
//! (`//railsapi.internal/arvados/v1/…: 404 Not Found: Path not found (req-…)`). Some paths are passed through
//! unchanged (`Path not found (req-…)`, with an `error_token`). Clients match on these texts, so they are kept
//! (protocol.md 10); the status is what counts and is never 409, which the SDK would repeat for minutes.

use std::fmt;

use serde_json::{Value, json};

use crate::cluster::configuration::random_base36;
use crate::cluster::record::Layer;

pub use crate::keep::quote::quoted;

/// Who refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The controller itself: the bare text.
    Controller,
    /// The Rails server, relayed by the controller; a path when it is not the one of the request.
    Rails(Option<String>),
    /// Nobody: a status without a body.
    Silent,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {}", .messages.join("; "))]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// What is wrong.
    pub messages: Vec<String>,
    /// Who says so.
    pub origin: Origin,
}

impl Failure {
    /// The Rails server refuses.
    pub fn rails(status: u16, message: impl Into<String>) -> Self {
        Self { status, messages: vec![message.into()], origin: Origin::Rails(None) }
    }

    /// The controller refuses.
    pub fn controller(status: u16, message: impl Into<String>) -> Self {
        Self { status, messages: vec![message.into()], origin: Origin::Controller }
    }

    /// A value or a state that cannot be (422).
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::rails(422, message)
    }

    /// All that is wrong with a record (422); nothing wrong is no failure.
    ///
    /// # Errors
    /// When there is something.
    pub fn unless_empty(messages: Vec<String>) -> Result<(), Self> {
        if messages.is_empty() {
            return Ok(());
        }
        Err(Self { status: 422, messages, origin: Origin::Rails(None) })
    }

    /// A parameter that makes no sense (422).
    pub fn argument(message: impl fmt::Display) -> Self {
        Self::rails(422, format!("#<ArgumentError: {message}>"))
    }

    /// Nobody is logged in (401).
    pub fn not_logged_in() -> Self {
        Self::rails(401, "Not logged in")
    }

    /// Not there, or not to be seen by the caller (404).
    pub fn not_found() -> Self {
        Self::rails(404, "Path not found")
    }

    /// The method is for administrators, or the token's scopes do not reach so far (403).
    pub fn forbidden() -> Self {
        Self::rails(403, "Forbidden")
    }

    /// The model refuses the caller, without a reason (403).
    pub fn denied() -> Self {
        Self::rails(403, "#<ArvadosModel::PermissionDeniedError: ArvadosModel::PermissionDeniedError>")
    }

    /// No such path, or no such method there (404, 405).
    pub fn no_endpoint(status: u16) -> Self {
        Self::controller(status, "API endpoint not found")
    }

    /// Too much at once (503): no body, no `Retry-After` (recorded: `timing/11-overload-503`).
    pub fn overloaded() -> Self {
        Self { status: 503, messages: Vec::new(), origin: Origin::Silent }
    }

    /// The same, said by the Rails server about another path than the one of the request.
    #[must_use]
    pub fn about(self, path: String) -> Self {
        Self { origin: Origin::Rails(Some(path)), ..self }
    }

    /// The first message.
    pub fn text(&self) -> &str {
        self.messages.first().map(String::as_str).unwrap_or_default()
    }

    /// The body of the answer; `None`: no body.
    pub fn body(&self, layer: Layer, path: &str, request_id: &str, seconds: i64) -> Option<Value> {
        match &self.origin {
            Origin::Silent => None,
            Origin::Controller => Some(json!({"errors": self.messages})),
            Origin::Rails(other) if layer == Layer::Controller => {
                let (path, status) = (other.as_deref().unwrap_or(path), self.status);
                let reason = reason(status);
                let texts: Vec<_> = self.messages.iter().map(|text| format!("{text} ({request_id})")).collect();
                let text = texts.join("; ");
                Some(json!({"errors": [format!("//railsapi.internal{path}: {status} {reason}: {text}")]}))
            }
            Origin::Rails(_) => {
                let errors: Vec<_> = self.messages.iter().map(|text| format!("{text} ({request_id})")).collect();
                let token = u32::from_str_radix(&random_base36(5), 36).unwrap_or_default();
                Some(json!({"errors": errors, "error_token": format!("{seconds}+{token:08x}")}))
            }
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        tracing::error!(%error, "the database failed");
        Self::controller(500, format!("database: {error}"))
    }
}

/// Standard text of a status, as the recorded cluster (rack 3.1) writes it.
fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        422 => "Unprocessable Content",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_which_server_made_it() {
        let shown =
            |failure: Failure, layer| failure.body(layer, "/arvados/v1/logs", "req-1", 7).unwrap()["errors"][0].clone();
        assert_eq!(
            shown(Failure::not_found(), Layer::Controller),
            "//railsapi.internal/arvados/v1/logs: 404 Not Found: Path not found (req-1)"
        );
        assert_eq!(shown(Failure::not_found(), Layer::Rails), "Path not found (req-1)");
        assert_eq!(shown(Failure::controller(400, "bad"), Layer::Rails), "bad");
        assert_eq!(Failure::overloaded().body(Layer::Controller, "", "", 0), None);
    }
}
