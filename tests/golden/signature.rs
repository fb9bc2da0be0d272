//! Block signatures, made and checked independently of the code under test (protocol.md 6.1).

use hmac::{Hmac, KeyInit, Mac};
use regex::{Captures, Regex};
use sha1::Sha1;

/// The published key of the recorded cluster.
pub const KEY: &str = "blobsigningkey00000000000000000000000000000000000000";
/// Validity of a signature, seconds: two weeks, as recorded.
pub const TTL: i64 = 14 * 24 * 3600;

fn signature(hash: &str, token: &str, expiry: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(KEY.as_bytes()).expect("a key of any length will do");
    mac.update(format!("{hash}@{token}@{expiry}@{TTL:x}").as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// Every unsigned locator in `text`, signed for `token` until `expiry`, in seconds since 1970.
pub fn sign_all(text: &str, token: &str, expiry: i64) -> String {
    let locator = Regex::new(r"(^|[ \n])([0-9a-fA-F]{32})((?:\+[^ \n]*)?)").expect("a good pattern");
    let expiry = format!("{expiry:08x}");
    locator
        .replace_all(text, |found: &Captures<'_>| {
            let (before, hash, hints) = (&found[1], &found[2], &found[3]);
            if hints.contains("+A") {
                return found[0].to_owned();
            }
            format!("{before}{hash}{hints}+A{}@{expiry}", signature(hash, token, &expiry))
        })
        .into_owned()
}

/// A text without its signatures, and which of them do not fit `token`. Those that are also in `known` are an echo of
/// what was sent, and not looked at.
pub fn check_and_strip(text: &str, token: &str, known: &str) -> (String, Vec<String>) {
    let signed = Regex::new(r"([0-9a-f]{32})([^ \n@]*?)\+A([0-9a-f]{40})@([0-9a-f]{8})").expect("a good pattern");
    let mut wrong = Vec::new();
    let text = signed
        .replace_all(text, |found: &Captures<'_>| {
            let (hash, hints, made, until) = (&found[1], &found[2], &found[3], &found[4]);
            if made != signature(hash, token, until) && !known.contains(made) {
                wrong.push(format!("{hash}{hints} with a signature that does not fit the token"));
            }
            format!("{hash}{hints}")
        })
        .into_owned();
    (text, wrong)
}

/// The text without signatures, unchecked: for what was recorded.
pub fn strip(text: &str) -> String {
    let signature = Regex::new(r"\+A[0-9a-f]{40}@[0-9a-f]{8}").expect("a good pattern");
    signature.replace_all(text, "").into_owned()
}

/// Expiries of the signatures in a text, seconds since 1970.
pub fn expiries(text: &str) -> Vec<i64> {
    let signature = Regex::new(r"\+A[0-9a-f]{40}@([0-9a-f]{8})").expect("a good pattern");
    signature.captures_iter(text).filter_map(|found| i64::from_str_radix(&found[1], 16).ok()).collect()
}
