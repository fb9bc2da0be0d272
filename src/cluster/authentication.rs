//! Who is calling: tokens in all their forms and places, and what they are good for (protocol.md 2.1 to 2.3).
//!
//! Two things are kept apart: the text of the token exactly as the caller presented it, because block signatures are
//! made for that text, and the session behind it. Right secret and wrong uuid is nobody.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;
use sha1::Sha1;

use crate::cluster::clock::Timestamp;
use crate::cluster::configuration::{Configuration, Secret};
use crate::cluster::record::{Record, token, user};
use crate::cluster::store::rows;

/// A caller whose token was found good.
#[derive(Clone, Debug)]
pub struct Session {
    /// The token as presented, trimmed: the key of the caller's block signatures.
    pub token: Secret,
    /// Uuid of the token.
    pub token_uuid: String,
    /// Whose token it is.
    pub user_uuid: String,
    /// Whether the account is in use.
    pub is_active: bool,
    /// Whether everything is allowed.
    pub is_admin: bool,
    /// What the token may be used for.
    pub scopes: Arc<[String]>,
}

impl Session {
    /// The cluster acting by itself: the trash sweep, the command line.
    pub fn system(configuration: &Configuration) -> Self {
        Self {
            token: configuration.system_root_token.clone(),
            token_uuid: configuration.reserved_uuid(token::MODEL.infix, "000000000000000"),
            user_uuid: configuration.system_user(),
            is_active: true,
            is_admin: true,
            scopes: Arc::new(["all".to_owned()]),
        }
    }

    /// Whether the token's scopes allow a method on a path.
    pub fn allows(&self, method: &str, path: &str) -> bool {
        /// Every token may ask what it is.
        const SELF: &str = "/arvados/v1/api_client_authorizations/current";
        let method = if method == "HEAD" { "GET" } else { method };
        (method == "GET" && path == SELF)
            || self.scopes.iter().any(|scope| {
                scope == "all"
                    || scope.split_once(' ').is_some_and(|(verb, prefix)| {
                        (verb == method || (verb == "HEAD" && method == "GET"))
                            && (path == prefix || (prefix.ends_with('/') && path.starts_with(prefix)))
                    })
            })
    }
}

/// Finds the tokens of a request: header, cookie, parameter, in that order. The first is the primary one.
pub fn presented(authorization: Option<&str>, cookies: &[&str], parameters: &[&str]) -> Vec<String> {
    let mut tokens = Vec::new();
    // The first word is case-sensitive: `bearer` is nobody (recorded: auth/12-lowercase-bearer).
    match authorization.and_then(|header| header.trim().split_once(' ')) {
        Some(("Bearer" | "OAuth2", token)) => tokens.push(token.trim().to_owned()),
        Some(("Basic", encoded)) => {
            let decoded = decode(encoded.trim()).and_then(|bytes| String::from_utf8(bytes).ok());
            tokens.extend(decoded.and_then(|pair| pair.split_once(':').map(|(_, token)| token.trim().to_owned())));
        }
        _ => {}
    }
    let cookie = cookies.iter().flat_map(|header| header.split(';')).filter_map(|pair| pair.trim().split_once('='));
    for (_, value) in cookie.filter(|(name, _)| *name == "arvados_api_token") {
        tokens
            .extend(decode(value).and_then(|bytes| String::from_utf8(bytes).ok()).map(|token| token.trim().to_owned()));
    }
    tokens.extend(parameters.iter().map(|token| token.trim().to_owned()));
    tokens.retain(|token| !token.is_empty());
    tokens
}

/// Base64 with either alphabet, padded or not: browsers and clients differ.
fn decode(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

/// The session of a token; `None` for one that is unknown, malformed, expired or of another cluster.
///
/// # Errors
/// Those of SQLite.
pub fn authenticate(
    sql: &Connection,
    configuration: &Configuration,
    presented: &str,
    now: Timestamp,
) -> Result<Option<Session>, rusqlite::Error> {
    let presented = presented.trim();
    let (uuid, secret) = match presented.strip_prefix("v2/") {
        Some(rest) => match rest.split('/').collect::<Vec<_>>()[..] {
            [uuid, secret] | [uuid, secret, _] => (Some(uuid), secret),
            _ => return Ok(None),
        },
        None => (None, presented),
    };
    if secret.is_empty() {
        return Ok(None);
    }
    let system = Session::system(configuration);
    if same(secret, configuration.system_root_token.expose()) && uuid.is_none_or(|uuid| uuid == system.token_uuid) {
        return Ok(Some(Session { token: Secret::new(presented), ..system }));
    }
    if let Some(anonymous) = &configuration.anonymous_user_token
        && same(secret, anonymous.expose().rsplit('/').next().unwrap_or_default())
    {
        return session(sql, presented, &anonymous_token(configuration));
    }
    let found = match uuid {
        Some(uuid) => find(sql, "uuid", uuid)?.filter(|record| {
            let stored = record.text("api_token");
            same(secret, stored) || salted(secret, stored, &configuration.cluster_id)
        }),
        None => find(sql, "api_token", secret)?,
    };
    match found {
        Some(record) if record.time("expires_at").is_none_or(|expiry| expiry > now) => session(sql, presented, &record),
        _ => Ok(None),
    }
}

/// The record of the anonymous token, which is in no table.
pub fn anonymous_token(configuration: &Configuration) -> Record {
    let mut record = Record::new(&token::MODEL);
    record.set("uuid", configuration.reserved_uuid(token::MODEL.infix, "anonymouspublic"));
    record.set("owner_uuid", configuration.anonymous_user());
    record.set("scopes", vec!["GET /"]);
    record
}

fn find(sql: &Connection, column: &str, value: &str) -> Result<Option<Record>, rusqlite::Error> {
    let columns = rows::columns(&token::MODEL, "");
    let text = format!("SELECT {columns} FROM {} WHERE {column} = ?", token::MODEL.table);
    sql.prepare_cached(&text)?.query_row([value], |row| rows::read(&token::MODEL, row)).optional()
}

fn session(sql: &Connection, presented: &str, token: &Record) -> Result<Option<Session>, rusqlite::Error> {
    let text = format!("SELECT is_active, is_admin FROM {} WHERE uuid = ?", user::MODEL.table);
    let flags = sql
        .prepare_cached(&text)?
        .query_row([token.owner()], |row| Ok((row.get::<_, Option<bool>>(0)?, row.get::<_, Option<bool>>(1)?)))
        .optional()?;
    Ok(flags.map(|(is_active, is_admin)| Session {
        token: Secret::new(presented),
        token_uuid: token.uuid().to_owned(),
        user_uuid: token.owner().to_owned(),
        is_active: is_active.unwrap_or_default(),
        is_admin: is_active.unwrap_or_default() && is_admin.unwrap_or_default(),
        scopes: scopes(token.get("scopes")),
    }))
}

fn scopes(stored: &Value) -> Arc<[String]> {
    stored.as_array().into_iter().flatten().filter_map(|scope| scope.as_str().map(str::to_owned)).collect()
}

/// A secret of 40 hexadecimal digits may be the real one, salted for this cluster by another one (protocol.md 2.1).
fn salted(secret: &str, stored: &str, cluster_id: &str) -> bool {
    secret.len() == 40 && same(secret, &salt(stored, cluster_id))
}

/// What a cluster sees of a token that belongs to another one.
pub fn salt(secret: &str, cluster_id: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(cluster_id.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// Comparison whose time does not tell how much of a guess was right.
pub fn same(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_wherever_clients_put_it() {
        assert_eq!(presented(Some("Bearer t1"), &[], &[]), ["t1"]);
        assert_eq!(presented(Some("OAuth2 t1 "), &[], &["t2"]), ["t1", "t2"]);
        assert!(presented(Some("bearer t1"), &[], &[]).is_empty());
        assert_eq!(presented(Some("Basic bm9ib2R5OnYyL2EvYg=="), &[], &[]), ["v2/a/b"]);
        assert_eq!(presented(None, &["x=1; arvados_api_token=djIvYS9i"], &[]), ["v2/a/b"]);
        assert!(presented(Some("Basic %%%"), &[], &[""]).is_empty());
    }

    #[test]
    fn a_salted_secret_is_that_of_the_published_vector() {
        let secret = "3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi";
        assert_eq!(salt(secret, "abcde"), "7c80aaf76f40ada29309edaa2003f96c7b011970");
    }

    #[test]
    fn scopes_allow_exact_paths_and_prefixes_and_nothing_else() {
        let mut session = Session::system(&Configuration::default());
        session.scopes = ["GET /arvados/v1/collections/", "GET /arvados/v1/users/current"].map(str::to_owned).into();
        assert!(session.allows("GET", "/arvados/v1/collections/zzzzz"));
        assert!(session.allows("HEAD", "/arvados/v1/users/current"));
        assert!(!session.allows("GET", "/arvados/v1/collections"));
        assert!(!session.allows("PUT", "/arvados/v1/collections/zzzzz"));
        assert!(!session.allows("GET", "/arvados/v1/users/currently"));
        assert!(session.allows("GET", "/arvados/v1/api_client_authorizations/current"));
    }
}
