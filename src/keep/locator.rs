//! Locators: `hash+size+hints` (`protocol.md` 5.6), owned or borrowed.
//!
//! A locator is kept as the text it came as, because hints we do not know must be sent back as they were, and because
//! the server compares whole texts when it decides whether two neighbouring blocks are one (`protocol.md` 5.5). What we
//! need often (hash and size) is taken out once; hints are found when somebody asks.
//!
//! The signature in a locator is a permission to read, so `Debug` shows hash and size only, and errors show at most the
//! hash. `Display` is the full text: it is what goes into a manifest or a URL, and never into a log.

use super::hash::BlockHash;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is no locator. Hints may hold signatures, so they are named by their position only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocatorError {
    /// The text does not start with a hash.
    #[error("not a locator: expected 32 hexadecimal digits, then \"+\" or the end")]
    Hash,
    /// The size does not fit in 64 bits.
    #[error("locator {hash}: the size is too large")]
    Size {
        /// The block.
        hash: BlockHash,
    },
    /// A hint is not an upper-case letter followed by letters, digits, `@`, `_` or `-`.
    #[error("locator {hash}: hint {number} is malformed")]
    Hint {
        /// The block.
        hash: BlockHash,
        /// Counted from 1, the size not counted.
        number: usize,
    },
}

/// A locator inside a longer text, such as a manifest: no copy is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LocatorText<'t> {
    text: &'t str,
    hash: BlockHash,
    size: Option<u64>,
}

/// A locator of its own. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Locator {
    text: Arc<str>,
    hash: BlockHash,
    size: Option<u64>,
}

/// A permission signature as it stands in a `+A` hint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignatureHint<'t> {
    /// The 40 hexadecimal digits.
    pub signature: &'t str,
    /// Seconds since 1970 at which it stops being valid.
    pub expiry: u64,
}

impl fmt::Debug for SignatureHint<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[hidden], expires {}", self.expiry)
    }
}

impl<'t> LocatorText<'t> {
    /// Reads what the API server accepts as a locator (`protocol.md` 5.3): size optional, digits of either case, any hint
    /// that is an upper-case letter and `[A-Za-z0-9@_-]*`.
    pub fn parse(text: &'t str) -> Result<LocatorText<'t>, LocatorError> {
        let bytes = text.as_bytes();
        let digits = bytes.get(..BlockHash::TEXT_LENGTH).ok_or(LocatorError::Hash)?;
        let hash = BlockHash::parse(digits).map_err(|_| LocatorError::Hash)?;
        let rest = &text[BlockHash::TEXT_LENGTH..];
        let Some(rest) = rest.strip_prefix('+') else {
            return if rest.is_empty() { Ok(LocatorText { text, hash, size: None }) } else { Err(LocatorError::Hash) };
        };
        let mut size = None;
        let mut number = 0;
        for (index, part) in rest.split('+').enumerate() {
            let first = part.bytes().next();
            if index == 0 && first.is_some_and(|byte| byte.is_ascii_digit()) {
                if !part.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(LocatorError::Size { hash });
                }
                size = Some(part.parse().map_err(|_| LocatorError::Size { hash })?);
                continue;
            }
            number += 1;
            let letter = first.is_some_and(|byte| byte.is_ascii_uppercase());
            if !letter || !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"@_-".contains(&byte)) {
                return Err(LocatorError::Hint { hash, number });
            }
        }
        Ok(LocatorText { text, hash, size })
    }

    /// The whole text, signature included.
    pub fn as_str(&self) -> &'t str {
        self.text
    }

    /// The block's name.
    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The block's size in bytes as far as the locator tells; nobody has checked it.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The hints in order, without their `+`, the size left out.
    pub fn hints(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        let text = self.text.get(BlockHash::TEXT_LENGTH + 1..).unwrap_or("");
        text.split('+').filter(|part| part.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase()))
    }

    /// The first hint of the form `A<40 hex>@<hex>`.
    pub fn signature(&self) -> Option<SignatureHint<'t>> {
        self.hints().filter_map(|hint| hint.strip_prefix('A')).find_map(|hint| {
            let (signature, expiry) = hint.split_once('@')?;
            let whole = signature.len() == 40 && signature.bytes().all(|byte| byte.is_ascii_hexdigit());
            let expiry = u64::from_str_radix(expiry, 16).ok()?;
            whole.then_some(SignatureHint { signature, expiry })
        })
    }

    /// The remote cluster (five characters) and its signature, of the first hint `R<cluster>-<signature>@<expiry>`.
    pub fn remote(&self) -> Option<(&'t str, &'t str)> {
        self.hints().filter_map(|hint| hint.strip_prefix('R')).find_map(|hint| hint.split_once('-'))
    }

    /// Where `+K@…` hints say the block is: a cluster (five characters) or the uuid of a keep service.
    pub fn keep_services(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        self.hints().filter_map(|hint| hint.strip_prefix("K@"))
    }

    /// `hash` or `hash+size`, in the spelling of the text: what a portable data hash is computed from.
    pub fn portable(&self) -> &'t str {
        let rest = &self.text.as_bytes()[BlockHash::TEXT_LENGTH..];
        let size = match rest {
            [b'+', digit, ..] if digit.is_ascii_digit() => {
                1 + rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count()
            }
            _ => 0,
        };
        &self.text[..BlockHash::TEXT_LENGTH + size]
    }

    /// A copy that owns its text.
    pub fn to_locator(&self) -> Locator {
        Locator { text: Arc::from(self.text), hash: self.hash, size: self.size }
    }
}

impl fmt::Debug for LocatorText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.portable())
    }
}

impl Locator {
    /// The locator of a block we know, without any hint.
    pub fn new(hash: BlockHash, size: u64) -> Locator {
        Locator { text: Arc::from(format!("{hash}+{size}")), hash, size: Some(size) }
    }

    /// The same locator, borrowed: hints and signature are found through it.
    pub fn as_text(&self) -> LocatorText<'_> {
        LocatorText { text: &self.text, hash: self.hash, size: self.size }
    }

    /// The whole text, signature included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The block's name.
    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    /// The block's size in bytes as far as the locator tells; nobody has checked it.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// See [`LocatorText::signature`].
    pub fn signature(&self) -> Option<SignatureHint<'_>> {
        self.as_text().signature()
    }

    /// `hash` or `hash+size` and nothing else.
    pub fn portable(&self) -> Locator {
        Locator { text: Arc::from(self.as_text().portable()), hash: self.hash, size: self.size }
    }
}

impl FromStr for Locator {
    type Err = LocatorError;

    fn from_str(text: &str) -> Result<Locator, LocatorError> {
        LocatorText::parse(text).map(|locator| locator.to_locator())
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for Locator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_text(), formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOO: &str = "acbd18db4cc2f85cedef654fccc4a4d8";
    const SIGNED: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3+Ad93590fd78db663df1c6ea9474686f221dc9e5f8@6b49d200";

    #[test]
    fn what_a_locator_says_can_be_asked() {
        let locator: Locator =
            format!("{FOO}+3+Zabc+K@zzzzz+Rabcde-1234@5+A{}@6b49d200+K@u", "ab".repeat(20)).parse().unwrap();
        assert_eq!(locator.hash(), BlockHash::of(b"foo"));
        assert_eq!(locator.size(), Some(3));
        assert_eq!(locator.signature().unwrap().expiry, 1_800_000_000);
        assert_eq!(locator.as_text().remote(), Some(("abcde", "1234@5")));
        assert_eq!(locator.as_text().keep_services().collect::<Vec<_>>(), ["zzzzz", "u"]);
        assert_eq!(locator.portable().as_str(), format!("{FOO}+3"));
    }

    #[test]
    fn what_servers_store_is_tolerated_and_kept_verbatim() {
        for text in [
            FOO,
            "ACBD18DB4CC2F85CEDEF654FCCC4A4D8+3",
            &format!("{FOO}+Z"),
            &format!("{FOO}+99+Zabc+K@zzzzz"),
            &format!("{FOO}+003"),
        ] {
            let locator: Locator = text.parse().unwrap();
            assert_eq!(locator.hash(), BlockHash::of(b"foo"));
            assert_eq!(locator.to_string(), text);
        }
        assert_eq!(FOO.parse::<Locator>().unwrap().size(), None);
    }

    #[test]
    fn malformed_locators_are_refused() {
        for tail in ["+K@x+3", "+3+3", "+3+z", "+3+Zfoo*bar", "++3", "+3+", "+", "3", "+3x", "+99999999999999999999"] {
            assert!(format!("{FOO}{tail}").parse::<Locator>().is_err(), "{tail}");
        }
        assert_eq!("".parse::<Locator>(), Err(LocatorError::Hash));
        assert_eq!("é".repeat(20).parse::<Locator>(), Err(LocatorError::Hash));
    }

    #[test]
    fn no_debug_or_error_shows_a_signature() {
        let locator: Locator = SIGNED.parse().unwrap();
        assert_eq!(format!("{locator:?}"), format!("{FOO}+3"));
        assert!(!format!("{:?}", locator.signature()).contains("d93590"));
        let error = format!("{SIGNED}+*").parse::<Locator>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("d93590"));
    }
}
