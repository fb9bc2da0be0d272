//! How a keepstore reads hashes: in lower case only (`keep/06-put-uppercase-hash`), although the rest of Arvados knows
//! both.

pub use crate::keep::hash::BlockHash;

/// Reads exactly 32 lower-case hexadecimal digits.
pub fn parse(text: &str) -> Option<BlockHash> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    BlockHash::parse(text.as_bytes()).ok()
}

/// Reads the hash that a locator or a path begins with.
pub fn leading(text: &str) -> Option<BlockHash> {
    parse(text.get(..BlockHash::TEXT_LENGTH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_is_no_hash_here() {
        assert_eq!(parse("d41d8cd98f00b204e9800998ecf8427e"), Some(BlockHash::EMPTY));
        assert_eq!(parse("D41D8CD98F00B204E9800998ECF8427E"), None);
        assert_eq!(leading("d41d8cd98f00b204e9800998ecf8427e+0"), Some(BlockHash::EMPTY));
        assert_eq!(leading("é41d8cd98f00b204e9800998ecf8427e+0"), None);
    }
}
