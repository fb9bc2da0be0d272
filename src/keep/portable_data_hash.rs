//! The portable data hash: MD5 and length of a manifest without its hints, which names a content whoever may read it.
//!
//! It is computed over the text as it is stored, not over a normal form: two manifests that mean the same have two
//! hashes (`protocol.md` 5.4). A manifest may have 100 MB, so it is hashed in pieces, and nothing of it is copied.

use super::hash::BlockHash;
use super::manifest;
use md5::{Digest, Md5};
use std::fmt;
use std::str::FromStr;

/// MD5 and length in bytes of a manifest without hints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortableDataHash {
    /// MD5 of the text.
    pub hash: BlockHash,
    /// Length of the text in bytes.
    pub size: u64,
}

/// A text that should have been a portable data hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a portable data hash: expected 32 hexadecimal digits, \"+\" and a number")]
pub struct PortableDataHashError;

impl PortableDataHash {
    /// The hash of the collection without files, which exists on every cluster (`protocol.md` 4.3).
    pub const EMPTY: PortableDataHash = PortableDataHash { hash: BlockHash::EMPTY, size: 0 };

    /// The hash of a manifest, signed or not, in any form (`protocol.md` 5.4).
    pub fn of_manifest(text: &str) -> PortableDataHash {
        let mut hasher = Md5::new();
        let mut size = 0;
        manifest::portable_parts(text, |part| {
            hasher.update(part);
            size += part.len() as u64;
        });
        PortableDataHash { hash: BlockHash(hasher.finalize().into()), size }
    }

    /// Reads a hash that may be followed by hints, as the path of a request may have them (`protocol.md` 4.3). They are
    /// ignored.
    pub fn parse_with_hints(text: &str) -> Result<PortableDataHash, PortableDataHashError> {
        let end = text.match_indices('+').nth(1).map_or(text.len(), |(position, _)| position);
        text[..end].parse()
    }
}

impl FromStr for PortableDataHash {
    type Err = PortableDataHashError;

    fn from_str(text: &str) -> Result<PortableDataHash, PortableDataHashError> {
        let (hash, size) = text.split_once('+').ok_or(PortableDataHashError)?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PortableDataHashError);
        }
        let hash = hash.parse().map_err(|_| PortableDataHashError)?;
        let size = size.parse().map_err(|_| PortableDataHashError)?;
        Ok(PortableDataHash { hash, size })
    }
}

impl fmt::Display for PortableDataHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}+{}", self.hash, self.size)
    }
}

impl fmt::Debug for PortableDataHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_value_agree() {
        let text = "1f4b0bc7583c2a7f9102c395f4ffc5e3+45";
        assert_eq!(text.parse::<PortableDataHash>().unwrap().to_string(), text);
        assert_eq!(PortableDataHash::EMPTY.to_string(), "d41d8cd98f00b204e9800998ecf8427e+0");
    }

    #[test]
    fn hints_are_ignored_only_where_they_may_stand() {
        let text = "1f4b0bc7583c2a7f9102c395f4ffc5e3+45+Zfoo+K@zzzzz";
        assert_eq!(PortableDataHash::parse_with_hints(text).unwrap().size, 45);
        assert!(text.parse::<PortableDataHash>().is_err());
        for text in [
            "",
            "+45",
            "1f4b0bc7583c2a7f9102c395f4ffc5e3",
            "1f4b0bc7583c2a7f9102c395f4ffc5e3+",
            "1f4b0bc7583c2a7f9102c395f4ffc5e3++45",
        ] {
            assert!(PortableDataHash::parse_with_hints(text).is_err(), "{text}");
        }
    }
}
