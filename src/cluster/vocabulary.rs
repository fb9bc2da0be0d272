//! The vocabulary: which property keys and values mean something (protocol.md 2.6).
//!
//! It is served as the administrator wrote it. With `strict_tags`, keys that are not in it are refused.

use serde_json::{Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::configuration::Configuration;

/// What `GET /arvados/v1/vocabulary` answers.
pub fn document(configuration: &Configuration) -> Value {
    let mut document = match &configuration.vocabulary {
        Value::Object(map) => Value::Object(map.clone()),
        _ => json!({"strict_tags": false, "tags": {}}),
    };
    document["kind"] = "arvados#vocabulary".into();
    document
}

/// Whether properties use the vocabulary as it wants to be used.
///
/// # Errors
/// 400, naming the key or value.
pub fn check(configuration: &Configuration, properties: Option<&Value>) -> Result<(), Failure> {
    let (Value::Object(vocabulary), Some(Value::Object(properties))) = (&configuration.vocabulary, properties) else {
        return Ok(());
    };
    let strict = vocabulary.get("strict_tags").and_then(Value::as_bool).unwrap_or_default();
    for (key, value) in properties {
        let Some(tag) = vocabulary.get("tags").and_then(|tags| tags.get(key)) else {
            // Keys of the system are never part of a vocabulary.
            if strict && !key.starts_with("arv:") && key != "type" {
                return Err(Failure::controller(
                    400,
                    format!("property key \"{key}\" is not defined in the vocabulary"),
                ));
            }
            continue;
        };
        if !tag.get("strict").and_then(Value::as_bool).unwrap_or_default() {
            continue;
        }
        let single = std::slice::from_ref(value);
        for value in value.as_array().map_or(single, Vec::as_slice) {
            let known =
                value.as_str().is_some_and(|value| tag.get("values").and_then(|values| values.get(value)).is_some());
            if !known {
                let message = format!("property value {value} for key \"{key}\" is not listed as a valid identifier");
                return Err(Failure::controller(400, message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_vocabulary_anything_goes_and_a_strict_one_is_obeyed() {
        let mut configuration = Configuration::default();
        assert_eq!(document(&configuration), json!({"kind": "arvados#vocabulary", "strict_tags": false, "tags": {}}));
        assert!(check(&configuration, Some(&json!({"a": 1}))).is_ok());
        configuration.vocabulary =
            json!({"strict_tags": true, "tags": {"IDX": {"strict": true, "values": {"IDV1": {}}}, "FREE": {}}});
        assert!(check(&configuration, Some(&json!({"IDX": ["IDV1"], "FREE": "x", "type": "output"}))).is_ok());
        assert_eq!(check(&configuration, Some(&json!({"IDX": "IDV2"}))).unwrap_err().status, 400);
        assert_eq!(check(&configuration, Some(&json!({"other": 1}))).unwrap_err().status, 400);
    }
}
