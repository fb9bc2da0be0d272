//! SQL functions that SQLite lacks: who may see what, PostgreSQL's patterns and its containment of JSON.

use std::sync::Arc;

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error};
use serde_json::Value;

use crate::cluster::record::collection::content::file_names;
use crate::cluster::store::Eyes;

/// Registers:
/// * `readable(uuid, owner_uuid)`: the caller may read it,
/// * `level(uuid, owner_uuid)`: 0 nothing, 1 read, 2 write, 3 manage,
/// * `in_trash(uuid)`: it is a group in the trash, or below one,
/// * `file_names(text)`: the names in a manifest,
/// * `matches(text, pattern, fold)`: SQL's `LIKE` as PostgreSQL has it, `fold` for `ILIKE`,
/// * `json_holds(json, other)`: `json @> other`,
/// * `json_order(json, other)`: -1, 0 or 1 as the two sort, null if they are no comparable scalars,
/// * `json_names(json, name)`: `name` is a key of the object or an element of the array,
/// * `json_value(json, key)`: the value of a key, as JSON,
/// * `json_text(json, key)`: the value of a key, as text.
///
/// # Errors
/// When SQLite refuses.
pub fn register(sql: &Connection, eyes: &Eyes) -> Result<(), Error> {
    let pure = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    let eye = Arc::clone(eyes);
    sql.create_scalar_function("readable", 2, FunctionFlags::SQLITE_UTF8, move |context| {
        let (uuid, owner) = (text(context, 0), text(context, 1));
        Ok(eye.load().as_ref().is_some_and(|who| who.can_read(uuid.unwrap_or(""), owner.unwrap_or(""))))
    })?;
    let eye = Arc::clone(eyes);
    sql.create_scalar_function("level", 2, FunctionFlags::SQLITE_UTF8, move |context| {
        let (uuid, owner) = (text(context, 0), text(context, 1));
        Ok(eye.load().as_ref().map_or(0, |who| who.level(uuid.unwrap_or(""), owner.unwrap_or("")) as i64))
    })?;
    let eye = Arc::clone(eyes);
    sql.create_scalar_function("in_trash", 1, FunctionFlags::SQLITE_UTF8, move |context| {
        Ok(eye.load().as_ref().is_some_and(|who| who.graph.is_trashed(text(context, 0).unwrap_or(""))))
    })?;
    sql.create_scalar_function("file_names", 1, pure, |context| Ok(text(context, 0).map(file_names)))?;
    sql.create_scalar_function("matches", 3, pure, |context| {
        let (Some(value), Some(pattern)) = (text(context, 0), text(context, 1)) else { return Ok(None) };
        Ok(Some(like(value, pattern, context.get(2)?)))
    })?;
    sql.create_scalar_function("json_holds", 2, pure, |context| {
        let (Some(whole), Some(part)) = (json(context, 0), json(context, 1)) else { return Ok(None) };
        Ok(Some(holds(&whole, &part, true)))
    })?;
    sql.create_scalar_function("json_order", 2, pure, |context| {
        let (Some(one), Some(other)) = (json(context, 0), json(context, 1)) else { return Ok(None) };
        Ok(order(&one, &other).map(|order| order as i64))
    })?;
    sql.create_scalar_function("json_value", 2, pure, |context| {
        Ok(json(context, 0).zip(text(context, 1)).and_then(|(whole, key)| whole.get(key).map(Value::to_string)))
    })?;
    sql.create_scalar_function("json_text", 2, pure, |context| {
        Ok(json(context, 0).zip(text(context, 1)).and_then(|(whole, key)| match whole.get(key)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }))
    })?;
    sql.create_scalar_function("json_names", 2, pure, |context| {
        let (Some(whole), Some(name)) = (json(context, 0), text(context, 1)) else { return Ok(None) };
        Ok(Some(match whole {
            Value::Object(map) => map.contains_key(name),
            Value::Array(list) => list.iter().any(|element| element == name),
            Value::String(text) => text == name,
            _ => false,
        }))
    })
}

fn text<'a>(context: &'a Context<'_>, at: usize) -> Option<&'a str> {
    match context.get_raw(at) {
        ValueRef::Text(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn json(context: &Context<'_>, at: usize) -> Option<Value> {
    text(context, at).and_then(|text| serde_json::from_str(text).ok())
}

/// Whether a text matches a pattern of `%` (anything), `_` (one character) and `\` (the next character itself).
fn like(text: &str, pattern: &str, fold: bool) -> bool {
    let lower =
        |text: &str| if fold { text.to_lowercase().chars().collect() } else { text.chars().collect::<Vec<_>>() };
    let (text, pattern) = (lower(text), lower(pattern));
    let (mut at, mut step) = (0, 0);
    // Where to resume when the characters after the last `%` do not fit: one character further on. Going back to the
    // last `%` is enough, so the time is bounded by the product of the lengths.
    let mut resume: Option<(usize, usize)> = None;
    while at < text.len() {
        let escaped = pattern.get(step) == Some(&'\\') && step + 1 < pattern.len();
        let wanted = pattern.get(step + usize::from(escaped));
        match wanted {
            Some('%') if !escaped => {
                step += 1;
                resume = Some((step, at));
            }
            Some(&one) if one == text[at] || (one == '_' && !escaped) => {
                step += 1 + usize::from(escaped);
                at += 1;
            }
            _ => match resume {
                Some((after, from)) => {
                    resume = Some((after, from + 1));
                    (step, at) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[step..].iter().all(|rest| *rest == '%')
}

/// PostgreSQL's `@>`: objects by their keys, arrays as sets; at the top an array also holds a scalar that is one of
/// its elements.
fn holds(whole: &Value, part: &Value, top: bool) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|found| holds(found, value, false)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|value| whole.iter().any(|found| holds(found, value, false)))
        }
        (Value::Array(whole), part) if top => whole.contains(part),
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (one, other) => one == other,
    }
}

/// How two JSON values of one type sort.
fn order(one: &Value, other: &Value) -> Option<std::cmp::Ordering> {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64()?.partial_cmp(&other.as_f64()?),
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_match_as_in_postgresql() {
        for (text, pattern, want) in [
            ("set one", "set%", true),
            ("set one", "%one", true),
            ("set one", "s_t o__", true),
            ("set one", "SET%", false),
            ("100%", "100\\%", true),
            ("1000", "100\\%", false),
            ("", "", true),
            ("", "%", true),
            ("a", "", false),
            ("aXbXc", "a%X%c", true),
            ("aaa", "%a_a%", true),
        ] {
            assert_eq!(like(text, pattern, false), want, "{text} like {pattern}");
        }
        assert!(like("Ünder", "üN%", true));
    }

    #[test]
    fn containment_is_typed() {
        assert!(holds(&json!({"a": 1, "b": [1, 2]}), &json!({"b": [2]}), true));
        assert!(!holds(&json!({"n": 1}), &json!({"n": "1"}), true));
        assert!(!holds(&json!({"a": [1]}), &json!({"a": 1}), true));
        assert!(holds(&json!([1, "x"]), &json!("x"), true));
        assert!(holds(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"c": 2}}), true));
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_escaped_and_any_infix_of_it(text in "[a-c%_\\\\]{0,12}", from in 0usize..12, to in 0usize..12) {
            let escape = |part: &[char]| part.iter().flat_map(|c| ['\\', *c]).collect::<String>();
            let characters: Vec<char> = text.chars().collect();
            prop_assert!(like(&text, &escape(&characters), false));
            let (from, to) = (from.min(characters.len()), to.min(characters.len()));
            if from <= to {
                let pattern = format!("%{}%", escape(&characters[from..to]));
                prop_assert!(like(&text, &pattern, false));
            }
        }
    }
}
