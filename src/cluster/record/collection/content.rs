//! A manifest that has been looked at: checked, unsigned, hashed, counted.
//!
//! For a collection of 100,000 files that takes a good part of a second, so it is done before the writer's transaction
//! begins (`save.rs`), once for each new content. What an edit makes of a content that was edited before needs none of it,
//! see `recent`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::answer::Failure;
use crate::cluster::authentication::Session;
use crate::cluster::call::Call;
use crate::cluster::clock::Timestamp;
use crate::cluster::configuration::Configuration;
use crate::cluster::record::collection::recent::Recent;
use crate::keep::manifest;
use crate::keep::signature::{Signer, strip_signatures};
use crate::keep::{BlockHash, PortableDataHash};

/// What a collection holds.
#[derive(Clone, Debug)]
pub struct Content {
    /// The manifest as it is stored: without signatures, otherwise as it was sent.
    pub text: Arc<str>,
    /// The MD5 of the text as it is stored, by which it is found.
    pub key: String,
    /// Its portable data hash.
    pub hash: String,
    /// Files in it.
    pub file_count: i64,
    /// Sum of their sizes, bytes.
    pub file_size_total: i64,
    /// What makes the next edit cheap, if this one was an edit.
    pub recent: Option<Arc<Recent>>,
}

impl Content {
    /// Checks a manifest that a client has sent or an edit has made.
    ///
    /// # Errors
    /// 422 for a text that is no manifest, 403 without a reason when a block is not signed for the caller: missing,
    /// expired, wrong, and made for another token are all the same (protocol.md 4.2).
    pub fn check(
        text: &str,
        session: &Session,
        configuration: &Configuration,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        manifest::validate(text).map_err(|error| Failure::unprocessable(format!("Manifest text {error}")))?;
        if configuration.blob_signing && !session.is_admin {
            check_signatures(text, session, configuration, now)?;
        }
        Ok(Self::of_unsigned(strip_signatures(text).as_ref()))
    }

    /// What follows from a text that needs no check.
    pub fn of_unsigned(text: &str) -> Self {
        // Only a text that `validate` accepts gets here; sizes that add up to more than fits count as none.
        let summary = manifest::file_count_and_size(text).unwrap_or_default();
        let hash = PortableDataHash::of_manifest(text);
        // The same text unless hints were left out, and most texts have none.
        let is_whole = hash.size == text.len() as u64 && text.ends_with('\n');
        let key = if is_whole { hash.hash } else { BlockHash::of(text.as_bytes()) };
        Self {
            key: key.to_string(),
            hash: hash.to_string(),
            file_count: i64::try_from(summary.file_count).unwrap_or(i64::MAX),
            file_size_total: i64::try_from(summary.file_size_total).unwrap_or(i64::MAX),
            text: text.into(),
            recent: None,
        }
    }

    /// Whether it has a block that another manifest lacks.
    pub fn has_blocks_beyond(&self, other: &str) -> bool {
        let known: HashSet<_> = block_hashes(other).collect();
        block_hashes(&self.text).any(|hash| !known.contains(hash))
    }
}

fn block_hashes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split(' ').skip(1)).filter(|token| is_locator(token)).map(|token| &token[..32])
}

fn is_locator(token: &str) -> bool {
    let bytes = token.as_bytes();
    bytes.len() >= 32 && bytes[..32].iter().all(u8::is_ascii_hexdigit) && matches!(bytes.get(32), None | Some(b'+'))
}

/// Whether every block of a text, but the empty one, has a signature of whatever worth.
pub(super) fn is_signed_throughout(text: &str) -> bool {
    let mut tokens = text.lines().flat_map(|line| line.split(' ').skip(1)).filter(|token| is_locator(token));
    tokens.all(|token| token.contains("+A") || token.starts_with(&manifest::EMPTY_BLOCK[..32]))
}

fn check_signatures(
    text: &str,
    session: &Session,
    configuration: &Configuration,
    now: Timestamp,
) -> Result<(), Failure> {
    let signer = signer(configuration);
    let now = u64::try_from(now.seconds()).unwrap_or_default();
    // A large collection names few blocks often or many once; a locator that was found good is not checked again.
    let mut good = HashSet::new();
    for token in text.lines().flat_map(|line| line.split(' ').skip(1)) {
        if !is_locator(token) || (token.starts_with(&manifest::EMPTY_BLOCK[..32]) && !token.contains("+A")) {
            continue;
        }
        if good.insert(token) && signer.verify(token, session.token.expose(), now).is_err() {
            return Err(Failure::denied());
        }
    }
    Ok(())
}

/// Checks locators that carry a signature.
///
/// # Errors
/// 403 without a reason, as [`Content::check`].
pub fn check_each(
    signed: &[Arc<str>],
    session: &Session,
    configuration: &Configuration,
    now: Timestamp,
) -> Result<(), Failure> {
    let (signer, now) = (signer(configuration), u64::try_from(now.seconds()).unwrap_or_default());
    let is_good = |locator: &Arc<str>| signer.verify(locator, session.token.expose(), now).is_ok();
    if signed.iter().all(is_good) { Ok(()) } else { Err(Failure::denied()) }
}

/// The signer of a configuration.
pub fn signer(configuration: &Configuration) -> Signer {
    Signer::new(configuration.blob_signing_key.expose().as_bytes(), configuration.blob_signing_ttl)
}

/// Names of files, then of streams, one on a line, as the `file_names` filter and substring search see them.
pub fn file_names(text: &str) -> String {
    let (mut names, mut streams, mut last) = (String::new(), String::new(), None);
    for line in manifest::lines(text).map_while(Result::ok) {
        for token in line.files().map_while(Result::ok).filter(|token| !token.marks_directory()) {
            // A file in several pieces has several tokens in a row and one name.
            if last != Some(token.name) {
                names.push_str(&String::from_utf8_lossy(&manifest::unescape(token.name)));
                names.push('\n');
            }
            last = Some(token.name);
        }
        if let Some(path) = line.name.strip_prefix("./") {
            streams.push_str(&String::from_utf8_lossy(&manifest::unescape(path)));
            streams.push('\n');
        }
    }
    names + &streams
}

impl Call<'_> {
    /// A manifest signed for the caller; not longer than until `limit`, if there is one.
    pub fn sign(&self, text: &str, limit: Option<Timestamp>) -> String {
        sign(text, &self.session, &self.configuration, self.now(), limit)
    }
}

/// A manifest signed for a session, valid for the cluster's time but not beyond `limit`.
pub fn sign(
    text: &str,
    session: &Session,
    configuration: &Configuration,
    now: Timestamp,
    limit: Option<Timestamp>,
) -> String {
    if !configuration.blob_signing || text.is_empty() || session.token.expose().is_empty() {
        return text.to_owned();
    }
    let validity: Duration = configuration.signature_validity();
    let expiry = now.plus(validity);
    let expiry = limit.map_or(expiry, |limit| expiry.min(limit));
    let seconds = u64::try_from(expiry.seconds()).unwrap_or_default();
    signer(configuration).sign_manifest(text, session.token.expose(), seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";

    fn session(configuration: &Configuration) -> Session {
        Session { is_admin: false, ..Session::system(configuration) }
    }

    #[test]
    fn only_blocks_signed_for_the_caller_are_accepted() {
        let configuration = Configuration::default();
        let (session, now) = (session(&configuration), Timestamp::from_micros(1_795_380_000_000_000));
        let plain = format!(". {FOO} 0:3:foo\n./sub d41d8cd98f00b204e9800998ecf8427e+0 0:0:empty\n");
        let signed = sign(&plain, &session, &configuration, now, None);
        let content = Content::check(&signed, &session, &configuration, now).unwrap();
        assert_eq!(&*content.text, plain);
        assert_eq!((content.file_count, content.file_size_total), (2, 3));
        assert_eq!(file_names(&content.text), "foo\nempty\nsub\n");
        let later = now.plus(configuration.blob_signing_ttl).plus(Duration::from_secs(1));
        let other =
            Session { token: super::super::super::super::configuration::Secret::new("other"), ..session.clone() };
        assert_eq!(Content::check(&plain, &session, &configuration, now).unwrap_err().status, 403);
        assert_eq!(Content::check(&signed, &session, &configuration, later).unwrap_err().status, 403);
        assert_eq!(Content::check(&signed, &other, &configuration, now).unwrap_err().status, 403);
        let admin = Session { is_admin: true, ..other };
        assert!(Content::check(&plain, &admin, &configuration, now).is_ok());
        assert_eq!(Content::check("nonsense", &admin, &configuration, now).unwrap_err().status, 422);
    }

    #[test]
    fn a_signature_ends_when_the_trash_takes_the_collection() {
        let configuration = Configuration::default();
        let now = Timestamp::from_micros(1_795_380_000_000_000);
        let limit = now.plus(Duration::from_secs(60));
        let signed = sign(&format!(". {FOO} 0:3:foo\n"), &session(&configuration), &configuration, now, Some(limit));
        assert!(signed.contains(&format!("@{:08x} ", limit.seconds())));
    }

    #[test]
    fn a_new_block_is_noticed() {
        let content = Content::of_unsigned(&format!(". {FOO} 0:3:foo\n"));
        assert!(!content.has_blocks_beyond(&format!("./a {FOO}+Kzzzzz 0:3:b\n")));
        assert!(content.has_blocks_beyond(". 37b51d194a7513e45b56f6524f2d51f2+3 0:3:bar\n"));
    }
}
