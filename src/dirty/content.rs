//! What a file consists of while some of it is not in Keep: the form in which the journal keeps it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A whole file, in a form that outlives the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Bytes.
    pub size: u64,
    /// Number of the backing file in the scratch folder, if some extent is there.
    pub backing: Option<u64>,
    /// In order, without gaps or overlaps, from 0 to `size`.
    pub extents: Vec<Extent>,
}

/// A run of bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub length: u64,
    pub source: Source,
}

/// Where the bytes are. `Debug` shows neither them nor a signature.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// In a block in Keep. `locator` has its size and, where the cluster signs, a signature; `offset` is in the block.
    Stored {
        locator: String,
        block_size: u64,
        offset: u64,
        /// No commit has named the block yet: its signature is the only way to it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        own: bool,
    },
    /// In the backing file, at the same offset as in the file.
    Backing,
    /// Here (in the journal: base64).
    Inline(#[serde(with = "base64_bytes")] bytes::Bytes),
    /// Zeros that nobody wrote.
    Hole,
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Stored { locator, block_size, offset, .. } => {
                let hash = locator.split('+').next().unwrap_or_default();
                write!(formatter, "{hash}+{block_size}:{offset}")
            }
            Source::Backing => formatter.write_str("Backing"),
            Source::Inline(bytes) => write!(formatter, "Inline({} bytes)", bytes.len()),
            Source::Hole => formatter.write_str("Hole"),
        }
    }
}

impl Content {
    /// Some of it can be had only with the signature of a block that no commit has named yet.
    pub fn is_bare(&self) -> bool {
        let is_bare = |extent: &Extent| matches!(extent.source, Source::Stored { own: true, .. });
        self.extents.iter().any(is_bare)
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &bytes::Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bytes::Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Into::into).map_err(serde::de::Error::custom)
    }
}
