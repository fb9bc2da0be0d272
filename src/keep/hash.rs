//! The MD5 of a block, which is its name in Keep.
//!
//! Sixteen bytes, compared and copied as such: tables of blocks are large, and hexadecimal text would double them. Text
//! in upper case is read (servers store it, `protocol.md` 5.3) and names the same block, but is written in lower case.

use md5::{Digest, Md5};
use std::fmt;
use std::str::FromStr;

/// The MD5 of a block's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub [u8; 16]);

/// A text that should have been 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a block hash: expected 32 hexadecimal digits")]
pub struct HashError;

/// The value of each hexadecimal digit, of either case; of everything else 255.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value] as usize] = value as u8;
        values[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    values
};

impl BlockHash {
    /// The block of zero bytes. It exists without having been written (`protocol.md` 5.6).
    pub const EMPTY: BlockHash =
        BlockHash([0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42, 0x7e]);

    /// Length of the hexadecimal text.
    pub const TEXT_LENGTH: usize = 32;

    /// The hash of `content`.
    pub fn of(content: &[u8]) -> BlockHash {
        BlockHash(Md5::digest(content).into())
    }

    /// Reads exactly 32 hexadecimal digits of either case.
    pub fn parse(text: &[u8]) -> Result<BlockHash, HashError> {
        let text: &[u8; Self::TEXT_LENGTH] = text.try_into().map_err(|_| HashError)?;
        let mut bytes = [0; 16];
        // A manifest has a hash for every small file; without a branch for each digit this takes a tenth of the time.
        let mut wrong = 0;
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
            wrong |= high | low;
            *byte = high << 4 | low & 15;
        }
        if wrong > 15 { Err(HashError) } else { Ok(BlockHash(bytes)) }
    }

    /// The 32 hexadecimal digits, in lower case, without an allocation.
    pub fn to_hex(self) -> [u8; Self::TEXT_LENGTH] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; Self::TEXT_LENGTH];
        for (byte, pair) in self.0.iter().zip(text.chunks_exact_mut(2)) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        text
    }
}

impl FromStr for BlockHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<BlockHash, HashError> {
        BlockHash::parse(text.as_bytes())
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(std::str::from_utf8(&self.to_hex()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foo_has_the_hash_everybody_knows() {
        assert_eq!(BlockHash::of(b"foo").to_string(), "acbd18db4cc2f85cedef654fccc4a4d8");
        assert_eq!(BlockHash::of(b""), BlockHash::EMPTY);
    }

    #[test]
    fn upper_case_names_the_same_block() {
        let hash: BlockHash = "ACBD18DB4CC2F85CEDEF654FCCC4A4D8".parse().unwrap();
        assert_eq!(hash, BlockHash::of(b"foo"));
    }

    #[test]
    fn anything_but_32_digits_is_refused() {
        for text in [
            "",
            "acbd18db4cc2f85cedef654fccc4a4d",
            "acbd18db4cc2f85cedef654fccc4a4d80",
            "xcbd18db4cc2f85cedef654fccc4a4d8",
        ] {
            assert_eq!(text.parse::<BlockHash>(), Err(HashError), "{text}");
        }
    }
}
