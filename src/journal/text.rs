//! Bytes of any kind in JSON: a string where they are UTF-8, so that a journal can be read by eye, else an object with
//! base64. For `#[serde(with = "text")]`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

/// The two forms.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form<'t> {
    Text(Cow<'t, str>),
    Bytes { base64: String },
}

/// Writes either form.
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Form::Text(text.into()),
        Err(_) => Form::Bytes { base64: STANDARD.encode(bytes) },
    }
    .serialize(serializer)
}

/// Reads either form.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Form::deserialize(deserializer)? {
        Form::Text(text) => Ok(text.into_owned().into_bytes()),
        Form::Bytes { base64 } => STANDARD.decode(base64).map_err(serde::de::Error::custom),
    }
}

/// The same for pairs of a path and something.
pub mod keys {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize)]
    struct Pair<'p, V>(#[serde(with = "super")] &'p [u8], &'p V);

    #[derive(Deserialize)]
    struct OwnedPair<V>(#[serde(with = "super")] Vec<u8>, V);

    /// Writes a list of pairs.
    pub fn serialize<V: Serialize, S: Serializer>(pairs: &[(Vec<u8>, V)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(pairs.iter().map(|(path, value)| Pair(path, value)))
    }

    /// Reads a list of pairs.
    pub fn deserialize<'de, V: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(Vec<u8>, V)>, D::Error> {
        let pairs = Vec::<OwnedPair<V>>::deserialize(deserializer)?;
        Ok(pairs.into_iter().map(|OwnedPair(path, value)| (path, value)).collect())
    }
}
