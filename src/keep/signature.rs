//! Permission signatures (`protocol.md` section 6): a locator that carries one may be read by the bearer of one token.
//!
//! What is signed is the hash alone, with the token exactly as the client presents it, the expiry and the cluster's
//! signature lifetime. So a signature neither vouches for a size nor for the other hints, the v1 and v2 spellings of one
//! token are two tokens, and changing the lifetime invalidates every signature given out before.
//!
//! The hash is taken as it is spelled: the server signs lower case only, but checks what it gets (`protocol.md` 4.2).

use super::hash::BlockHash;
use super::locator::LocatorText;
use super::manifest;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Why a locator does not permit to read. The embedded cluster maps them to a status (`protocol.md` 6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no well-formed signature, or more than one: Keep answers 400.
    #[error("missing signature: fetch the collection again to get a signed locator")]
    Missing,
    /// It was not made for this block and token with this key and lifetime: Keep answers 400.
    #[error("invalid signature: it was made for another token, or with another key or lifetime")]
    Invalid,
    /// Its time is over: Keep answers 401.
    #[error("expired signature: fetch the collection again to get a new one")]
    Expired,
}

/// A cluster's key and signature lifetime, ready to sign.
#[derive(Clone)]
pub struct Signer {
    /// `None` for the empty key, with which nothing is signed.
    keyed: Option<Hmac<Sha1>>,
    ttl_text: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Signer([hidden])")
    }
}

impl Signer {
    /// `key` is `Collections.BlobSigningKey`, `ttl` is `Collections.BlobSigningTTL`, of which the whole seconds count.
    pub fn new(key: &[u8], ttl: Duration) -> Signer {
        let keyed = if key.is_empty() { None } else { Hmac::new_from_slice(key).ok() };
        Signer { keyed, ttl_text: format!("{:x}", ttl.as_secs()) }
    }

    /// Appends a signature to a locator, after all its hints. `expiry` is in seconds since 1970. With an empty key or
    /// token the locator comes back as it was, as upstream does.
    pub fn sign_locator(&self, locator: &str, token: &str, expiry: u64) -> String {
        let mut signed = String::with_capacity(locator.len() + SIGNATURE_LENGTH);
        signed.push_str(locator);
        self.append_signature(&mut signed, locator, token, expiry);
        signed
    }

    /// Signs every block of a manifest, replacing signatures that are there. Hashes in upper case stay unsigned, as the
    /// server leaves them (`protocol.md` 4.2, item 6).
    pub fn sign_manifest(&self, text: &str, token: &str, expiry: u64) -> String {
        let blocks = text.len() / 2 / BlockHash::TEXT_LENGTH;
        let mut signed = String::with_capacity(text.len() + blocks.min(1 << 16) * SIGNATURE_LENGTH);
        manifest::rewrite_locators(text, &mut signed, |signed, locator| {
            let start = signed.len();
            push_unsigned(signed, locator);
            if !locator.as_bytes()[..BlockHash::TEXT_LENGTH].iter().any(u8::is_ascii_uppercase) {
                let unsigned = signed[start..start + BlockHash::TEXT_LENGTH].to_owned();
                self.append_signature(signed, &unsigned, token, expiry);
            }
        });
        signed
    }

    /// Checks that `locator` may be read by the bearer of `token` at the time `now` (seconds since 1970).
    pub fn verify(&self, locator: &str, token: &str, now: u64) -> Result<(), SignatureError> {
        let parsed = LocatorText::parse(locator).map_err(|_| SignatureError::Missing)?;
        let mut signatures = parsed.hints().filter(|hint| hint.starts_with('A'));
        let hint = match (signatures.next(), signatures.next()) {
            (Some(hint), None) => hint,
            _ => return Err(SignatureError::Missing),
        };
        let found = parsed.signature().filter(|_| hint.len() == SIGNATURE_LENGTH - 1).ok_or(SignatureError::Missing)?;
        if found.expiry < now {
            return Err(SignatureError::Expired);
        }
        let mut expected = [0; 20];
        hex::decode_to_slice(found.signature, &mut expected).map_err(|_| SignatureError::Invalid)?;
        let expiry = &hint[hint.len() - 8..];
        let keyed = self.message(locator, token, expiry).ok_or(SignatureError::Invalid)?;
        keyed.verify_slice(&expected).map_err(|_| SignatureError::Invalid)
    }

    /// The authenticator, fed with the message of `protocol.md` 6.1; `None` where upstream does not sign.
    fn message(&self, locator: &str, token: &str, expiry: &str) -> Option<Hmac<Sha1>> {
        let mut keyed = self.keyed.clone().filter(|_| !token.is_empty())?;
        let hash = locator.as_bytes().get(..BlockHash::TEXT_LENGTH)?;
        for part in [hash, b"@", token.as_bytes(), b"@", expiry.as_bytes(), b"@", self.ttl_text.as_bytes()] {
            keyed.update(part);
        }
        Some(keyed)
    }

    fn append_signature(&self, signed: &mut String, locator: &str, token: &str, expiry: u64) {
        let expiry = format!("{expiry:08x}");
        if let Some(keyed) = self.message(locator, token, &expiry) {
            signed.push_str("+A");
            signed.push_str(&hex::encode(keyed.finalize().into_bytes()));
            signed.push('@');
            signed.push_str(&expiry);
        }
    }
}

/// `+A`, 40 digits, `@`, 8 digits.
const SIGNATURE_LENGTH: usize = 2 + 40 + 1 + 8;

/// Takes the `+A…` hints out of a manifest and leaves everything else as it is (`protocol.md` 4.2, item 7).
pub fn strip_signatures(text: &str) -> Cow<'_, str> {
    if !text.contains("+A") {
        return Cow::Borrowed(text);
    }
    let mut stripped = String::with_capacity(text.len());
    manifest::rewrite_hinted_locators(text, &mut stripped, push_unsigned);
    Cow::Owned(stripped)
}

/// One locator without its `+A…` hints.
pub fn strip_signature(locator: &str) -> String {
    let mut stripped = String::with_capacity(locator.len());
    push_unsigned(&mut stripped, locator);
    stripped
}

fn push_unsigned(out: &mut String, locator: &str) {
    for (index, part) in locator.split('+').enumerate() {
        if index == 0 || !part.starts_with('A') {
            if index > 0 {
                out.push('+');
            }
            out.push_str(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"test-blob-signing-key-0123456789abcdef0123456789";
    const T1: &str = "3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi";
    const T2: &str = "v2/zzzzz-gj3su-0123456789abcde/3kg6k6lzmp9kj5cpkcoxie963cmvjahbt2fod9zru30k1jqdmi";
    const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8";

    fn signer(ttl: u64) -> Signer {
        Signer::new(KEY, Duration::from_secs(ttl))
    }

    /// The table of `protocol.md` 6.2: locator, token, expiry, ttl, what is appended.
    #[test]
    fn the_published_vectors_hold() {
        let foo = format!("{FOO}+3");
        let cloud = format!("{FOO}+3+Kzzzzz");
        let vectors: [(&str, &str, u64, u64, &str); 8] = [
            (&foo, T2, 1_800_000_000, 1_209_600, "d93590fd78db663df1c6ea9474686f221dc9e5f8@6b49d200"),
            (&foo, T1, 1_800_000_000, 1_209_600, "9eaeec0fbb8bff9cec7abef16bd4ade2ebc697a2@6b49d200"),
            (&foo, T2, 1_800_000_000, 3600, "83a184154c4b337afe363277fd8a2238c1cc3c73@6b49d200"),
            (&foo, T2, 1_800_000_001, 1_209_600, "65e5bf8c6f39972b760df73b41dc1472857856e7@6b49d201"),
            (
                "d41d8cd98f00b204e9800998ecf8427e+0",
                T2,
                1_800_000_000,
                1_209_600,
                "72ba2ab70ebd61bf67429f379466b8bb73100f6c@6b49d200",
            ),
            (FOO, T2, 1_800_000_000, 1_209_600, "d93590fd78db663df1c6ea9474686f221dc9e5f8@6b49d200"),
            (&cloud, T2, 1_800_000_000, 1_209_600, "d93590fd78db663df1c6ea9474686f221dc9e5f8@6b49d200"),
            (
                "37b51d194a7513e45b56f6524f2d51f2+3",
                T2,
                16,
                1_209_600,
                "e5e23ede8d1523a129bece725f4ebd87e04f548f@00000010",
            ),
        ];
        for (locator, token, expiry, ttl, signature) in vectors {
            let signed = signer(ttl).sign_locator(locator, token, expiry);
            assert_eq!(signed, format!("{locator}+A{signature}"));
            assert_eq!(signer(ttl).verify(&signed, token, expiry), Ok(()));
        }
    }

    #[test]
    fn a_refused_locator_says_why() {
        let signer = signer(1_209_600);
        let signed = signer.sign_locator(&format!("{FOO}+3"), T2, 1000);
        assert_eq!(signer.verify(&signed, T2, 1000), Ok(()));
        assert_eq!(signer.verify(&signed, T2, 1001), Err(SignatureError::Expired));
        assert_eq!(signer.verify(&signed, T1, 1000), Err(SignatureError::Invalid));
        assert_eq!(signer.verify(&format!("{FOO}+3"), T2, 1000), Err(SignatureError::Missing));
        assert_eq!(signer.verify(&format!("{signed}+Abc"), T2, 1000), Err(SignatureError::Missing));
        assert_eq!(signer.verify(&signed.replace("@000003e8", "@3e8"), T2, 1000), Err(SignatureError::Missing));
        let other = Signer::new(KEY, Duration::from_secs(60));
        assert_eq!(other.verify(&signed, T2, 1000), Err(SignatureError::Invalid));
    }

    #[test]
    fn without_key_or_token_nothing_is_signed() {
        assert_eq!(Signer::new(b"", Duration::from_secs(1)).sign_locator(FOO, T1, 1), FOO);
        assert_eq!(signer(1).sign_locator(FOO, "", 1), FOO);
    }

    #[test]
    fn a_manifest_is_signed_again_and_everything_else_stays() {
        let text = format!(". {FOO}+3+Zabc 0:3:acbd18db4cc2f85cedef654fccc4a4d8+Ax\n./x+Ay {FOO} 0:0:z\n");
        let signer = signer(1_209_600);
        let once = signer.sign_manifest(&text, T2, 1_800_000_000);
        let part = "+Ad93590fd78db663df1c6ea9474686f221dc9e5f8@6b49d200";
        assert_eq!(
            once,
            text.replace("+Zabc ", &format!("+Zabc{part} "))
                .replace(&format!("{FOO} 0:0"), &format!("{FOO}{part} 0:0"))
        );
        assert_eq!(signer.sign_manifest(&once, T2, 1_800_000_000), once);
        assert_eq!(strip_signatures(&once), text);
        assert!(matches!(strip_signatures(". \n"), Cow::Borrowed(_)));
    }

    #[test]
    fn upper_case_is_left_unsigned() {
        let text = ". ACBD18DB4CC2F85CEDEF654FCCC4A4D8+3 0:3:a\n";
        assert_eq!(signer(1).sign_manifest(text, T2, 1), text);
    }

    #[test]
    fn a_signer_does_not_print_its_key() {
        assert!(!format!("{:?}", signer(1)).contains("test-blob"));
    }
}
