//! What can go wrong on the network, in one type.
//!
//! Every variant says what was done, where, and what to do about it where the user can do something. All of them are
//! `Clone`, because one failed fetch is told to everybody who waited for it. What callers decide on (is it gone, is it
//! worth a fresh signature, may it pass) are methods, so that nobody matches on texts.

use crate::remote::retry;
use crate::remote::token::Token;
use std::path::PathBuf;
use std::time::Duration;

/// Short for results of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure on the way to, or the refusal of, an Arvados cluster.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A line of `settings.conf` that is no `NAME=value`.
    #[error("{}:{line}: {problem}", file.display())]
    SettingsLine { file: PathBuf, line: usize, problem: String },
    /// A setting that must be there is nowhere.
    #[error("{name} is not set: put it into the environment, or as {name}=… into {searched}")]
    SettingMissing { name: &'static str, searched: String },
    /// A setting whose value makes no sense. `place` is the file with its line, or `environment`.
    #[error("{name} ({place}): {problem}")]
    SettingInvalid { name: String, place: String, problem: String },
    /// A file that is needed cannot be read.
    #[error("cannot read {}: {problem}", file.display())]
    Unreadable { file: PathBuf, problem: String },
    /// No certificate authority to check servers with.
    #[error(
        "no usable certificates in {place}: {problem}; set SSL_CERT_FILE to a file with the authority of the cluster"
    )]
    Certificates { place: String, problem: String },
    /// The API server refused a request or failed at it.
    #[error(transparent)]
    Api(Box<Refusal>),
    /// No connection, or it broke: refused, reset, unreachable, TLS, name not found.
    #[error("{what}: {problem}")]
    Network { what: String, problem: String },
    /// Nothing came in time.
    #[error("{what}: no answer within {:.1} s", after.as_secs_f64())]
    Deadline { what: String, after: Duration },
    /// An answer that the protocol does not allow.
    #[error("{what}: not an answer of an Arvados server: {problem}")]
    Answer { what: String, problem: String },
    /// A request larger than the cluster takes (discovery `maxRequestSize`); it was not sent.
    #[error("{what}: the request has {size} bytes, the cluster takes {limit}")]
    TooLarge { what: String, size: u64, limit: u64 },
    /// All Keep services say that they have no such block (403, 404 or 410 from each: protocol.md 8.4).
    #[error("Block not found error: {hash} ({detail})")]
    BlockNotFound { hash: String, detail: String },
    /// Keep refused the signature of the locator (400, 401, or 422 from a keepproxy): a fresh one may help.
    #[error("block {hash} refused: {detail}; its signature has expired or is not valid for this token")]
    BlockRefused { hash: String, detail: String },
    /// No service delivered the block whole and undamaged. `temporary`: another try later may.
    #[error("Keep read error: block {hash}: {detail}")]
    BlockUnreadable { hash: String, detail: String, temporary: bool },
    /// The block could not be stored often enough. `full`: because a service has no room.
    #[error("Keep write error: block {hash}: {detail}")]
    BlockUnwritable { hash: String, detail: String, temporary: bool, full: bool },
    /// A keepproxy does not accept our token, and nobody else could help. `what`: the phrase for this kind of failure.
    #[error(
        "{what}: block {hash}: {detail}; the token has expired or may not do this: have it prolonged, or mount again with another"
    )]
    TokenRefused { what: &'static str, hash: String, detail: String },
    /// A locator that cannot be fetched whatever the servers say.
    #[error("block locator {locator}: {problem}")]
    Locator { locator: String, problem: String },
    /// The cluster names no Keep service for us.
    #[error(
        "the cluster lists no Keep service that can be used from here (keep_services/accessible); set ARVADOS_KEEP_SERVICES to name them"
    )]
    NoKeepServices,
    /// Who was to take a manifest piece by piece did not like it.
    #[error("{what}: {problem}")]
    Manifest { what: String, problem: String },
}

/// An answer of the API server that is an error (protocol.md 10).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {status} {}{}", self.text(), self.trace())]
pub struct Refusal {
    /// Method and path, without query.
    pub what: String,
    /// The HTTP status.
    pub status: u16,
    /// The `errors` of the body, cleared of secrets. Empty when the answer was not Arvados' JSON.
    pub messages: Vec<String>,
    /// Our `X-Request-Id`: what an administrator looks for in the server's log.
    pub request_id: String,
}

impl Refusal {
    /// Makes sense of the body of an error answer; whatever it is, the result is an error and nothing panics.
    pub fn new(what: &str, status: u16, body: &[u8], request_id: &str, token: &Token) -> Refusal {
        #[derive(serde::Deserialize)]
        struct Body {
            errors: Vec<serde_json::Value>,
        }
        let messages = serde_json::from_slice::<Body>(body).map(|body| body.errors).unwrap_or_default();
        let messages = messages.iter().map(|message| match message {
            serde_json::Value::String(text) => token.redact(text),
            other => token.redact(&other.to_string()),
        });
        Refusal { what: what.to_owned(), status, messages: messages.collect(), request_id: request_id.to_owned() }
    }

    fn text(&self) -> String {
        if self.messages.is_empty() {
            let status = reqwest::StatusCode::from_u16(self.status).ok();
            return status.and_then(|status| status.canonical_reason()).unwrap_or("without a message").to_owned();
        }
        self.messages.join("; ")
    }

    fn trace(&self) -> String {
        let told = self.messages.iter().any(|message| message.contains(&self.request_id));
        if told { String::new() } else { format!(" ({})", self.request_id) }
    }
}

impl Error {
    /// The status with which the API server refused, if it is that.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Api(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// The object does not exist or may not be read (404), or the block is nowhere.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404) || matches!(self, Error::BlockNotFound { .. })
    }

    /// A fresh locator of the same block may succeed.
    pub fn is_refused_signature(&self) -> bool {
        matches!(self, Error::BlockRefused { .. } | Error::TokenRefused { .. })
    }

    /// The token is not valid (any more): 401, or 403 from a keepproxy.
    pub fn is_unauthorized(&self) -> bool {
        self.status() == Some(401) || matches!(self, Error::TokenRefused { .. })
    }

    /// The token may not do this: 403.
    pub fn is_forbidden(&self) -> bool {
        self.status() == Some(403)
    }

    /// A condition that the request carried does not hold: the record has another version, or another content came out than
    /// was said (protocol.md 4.12).
    pub fn is_failed_condition(&self) -> bool {
        self.status() == Some(422)
            && (self.says("Version cannot be updated") || self.says("does not match computed hash"))
    }

    /// The server does not know this attribute or option (protocol.md 4.6: a server from before it).
    pub fn is_unknown_attribute(&self, name: &str) -> bool {
        matches!(self.status(), Some(400 | 422 | 500)) && self.says("unknown attribute") && self.says(name)
    }

    /// The name is taken where it was to be used (protocol.md 4.2, item 11).
    pub fn is_name_taken(&self) -> bool {
        self.status() == Some(422) && (self.says("UniqueViolation") || self.says("already exists"))
    }

    /// The server's reader refuses the text that the server itself has stored (protocol.md 4.6).
    pub fn is_malformed_manifest(&self) -> bool {
        matches!(self.status(), Some(400 | 500)) && self.says("malformed manifest_text")
    }

    /// The server will never take this request, and may take another one with less in it: something in it is wrong (400) or
    /// breaks a rule (422), or it is too large (413, or found so before it was sent).
    pub fn is_unacceptable(&self) -> bool {
        match self {
            Error::TooLarge { .. } => true,
            error => matches!(error.status(), Some(400 | 413 | 422)) && !error.is_failed_condition(),
        }
    }

    fn says(&self, words: &str) -> bool {
        matches!(self, Error::Api(refusal) if refusal.messages.iter().any(|message| message.contains(words)))
    }

    /// The same request may succeed later without anybody changing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Api(refusal) => retry::is_temporary(refusal.status),
            Error::Network { .. } | Error::Deadline { .. } => true,
            Error::BlockUnreadable { temporary, .. } | Error::BlockUnwritable { temporary, .. } => *temporary,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refusal_names_request_status_messages_and_request_id_once() {
        let token = Token::new("secret0000000000").unwrap();
        let body = br#"{"errors":["Path not found (req-aaa)"],"error_token":"1+2"}"#;
        let error = Refusal::new("GET collections/x", 404, body, "req-aaa", &token);
        assert_eq!(error.to_string(), "GET collections/x: 404 Path not found (req-aaa)");
        let error = Refusal::new("GET collections/x", 404, br#"{"errors":["not found"]}"#, "req-aaa", &token);
        assert_eq!(error.to_string(), "GET collections/x: 404 not found (req-aaa)");
        let error = Refusal::new("GET x", 503, b"", "req-aaa", &token);
        assert_eq!(error.to_string(), "GET x: 503 Service Unavailable (req-aaa)");
        let error = Refusal::new("GET x", 422, br#"{"errors":["bad token secret0000000000"]}"#, "r", &token);
        assert!(!error.to_string().contains("secret0"));
    }

    #[test]
    fn failed_condition_and_passing_failure_are_no_refusal_of_the_content() {
        let api = |status, text: &str| {
            let body = serde_json::json!({"errors": [text]}).to_string();
            Error::Api(Box::new(Refusal::new(
                "PUT x",
                status,
                body.as_bytes(),
                "r",
                &Token::new("secret0000000000").unwrap(),
            )))
        };
        for status in [400, 413, 422] {
            assert!(api(status, "invalid name").is_unacceptable(), "{status}");
        }
        for status in [401, 403, 404, 429, 500, 503] {
            assert!(!api(status, "invalid name").is_unacceptable(), "{status}");
        }
        assert!(!api(422, "Version cannot be updated").is_unacceptable());
        assert!(!api(422, "Portable data hash 'x' does not match computed hash 'y'").is_unacceptable());
        assert!(Error::TooLarge { what: "PUT x".into(), size: 2, limit: 1 }.is_unacceptable());
    }

    proptest! {
        #[test]
        fn any_body_becomes_an_error(body in prop::collection::vec(any::<u8>(), 0..200), status in any::<u16>()) {
            Refusal::new("GET x", status, &body, "r", &Token::new("t").unwrap()).to_string();
        }
    }
}
