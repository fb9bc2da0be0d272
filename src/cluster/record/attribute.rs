//! One attribute of a kind of record: its type, and what may be done with it.

use serde_json::Value;

use crate::cluster::answer::Failure;
use crate::cluster::clock::Timestamp;
use crate::cluster::record::Model;

/// What a value is, with the names of the discovery document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, compared and ordered as such; at most 255 characters.
    String,
    /// Text without that limit.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// True or false.
    Boolean,
    /// A time of microsecond precision.
    Time,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
}

/// What may be done with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Stored, shown, accepted.
    Plain,
    /// Stored and shown; what a client sends is dropped without a word.
    ReadOnly,
    /// Kept beside the manifest, filterable, never shown.
    Hidden,
    /// Shown, but worked out anew for each answer.
    Derived,
    /// Shown, but kept elsewhere and no good for filters: the manifest.
    Apart,
}

/// One attribute.
#[derive(Debug)]
pub struct Attribute {
    /// Name on the wire and in the table.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What may be done with it.
    pub usage: Use,
    /// Whether the controller writes a null of it as `""` (its Go struct has a plain string there).
    pub null_is_empty: bool,
    /// A line for the discovery document.
    pub about: &'static str,
}

/// A plain attribute.
pub const fn plain(name: &'static str, kind: Kind, about: &'static str) -> Attribute {
    Attribute { name, kind, usage: Use::Plain, null_is_empty: matches!(kind, Kind::String), about }
}

impl Attribute {
    /// The same, of another use.
    pub const fn used(self, usage: Use) -> Self {
        Self { usage, ..self }
    }

    /// The same, with nulls kept as they are.
    pub const fn nullable(self) -> Self {
        Self { null_is_empty: false, ..self }
    }

    /// Whether the table has a column of this name.
    pub const fn is_column(&self) -> bool {
        matches!(self.usage, Use::Plain | Use::ReadOnly)
    }

    /// Whether lists can be filtered by it.
    pub const fn is_filterable(&self) -> bool {
        self.is_column() || matches!(self.usage, Use::Hidden)
    }

    /// Whether answers may contain it.
    pub const fn is_shown(&self) -> bool {
        !matches!(self.usage, Use::Hidden)
    }

    /// Type name in the discovery document.
    pub const fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::String => "string",
            Kind::Text => "text",
            Kind::Integer => "integer",
            Kind::Float => "float",
            Kind::Boolean => "boolean",
            Kind::Time => "datetime",
            Kind::Object => "Hash",
            Kind::Array => "Array",
        }
    }

    /// Column type in the table.
    pub const fn column_type(&self) -> &'static str {
        match self.kind {
            Kind::Integer | Kind::Boolean => "INTEGER",
            Kind::Float => "REAL",
            _ => "TEXT",
        }
    }

    /// Brings what a client sent into wire form, as the real server's attribute types do: numbers become text where
    /// text is wanted, text becomes a number, a truth value or a time where that is wanted.
    ///
    /// # Errors
    /// 422 for text with a NUL and for text too long, 500 for `properties` of a wrong type (recorded:
    /// `collections/03-create-properties-not-hash`).
    pub fn cast(&self, model: &Model, value: Value) -> Result<Value, Failure> {
        Ok(match (self.kind, value) {
            (_, Value::Null) => Value::Null,
            (Kind::String | Kind::Text, Value::String(text)) => {
                if text.contains('\0') {
                    return Err(Failure::argument("string contains null byte"));
                }
                if self.kind == Kind::String && text.chars().count() > MAX_STRING {
                    return Err(Failure::unprocessable(
                        "#<ActiveRecord::ValueTooLong:\"PG::StringDataRightTruncation: ERROR:  value too long for type \
                         character varying(255)\\n\">",
                    ));
                }
                Value::String(text)
            }
            (Kind::String | Kind::Text, other) => Value::String(match other {
                Value::Bool(flag) => if flag { "t" } else { "f" }.to_owned(),
                other => other.to_string(),
            }),
            (Kind::Integer, Value::Number(number)) => match number.as_i64() {
                Some(number) => number.into(),
                #[expect(clippy::cast_possible_truncation, reason = "the real server drops the fraction, too")]
                None => (number.as_f64().unwrap_or_default() as i64).into(),
            },
            (Kind::Integer, Value::Bool(flag)) => i64::from(flag).into(),
            (Kind::Integer, Value::String(text)) => leading_number(&text).map_or(Value::Null, Value::from),
            (Kind::Float, Value::Number(number)) => Value::Number(number),
            (Kind::Float, Value::String(text)) => text.parse::<f64>().map_or(Value::Null, Value::from),
            (Kind::Boolean, Value::Bool(flag)) => flag.into(),
            (Kind::Boolean, Value::String(text)) => match text.as_str() {
                "" => Value::Null,
                "f" | "F" | "false" | "FALSE" | "off" | "OFF" | "0" => false.into(),
                _ => true.into(),
            },
            (Kind::Boolean, Value::Number(number)) => (number.as_f64() != Some(0.0)).into(),
            (Kind::Time, Value::String(text)) => {
                Timestamp::parse(&text).map_or(Value::Null, |time| time.to_string().into())
            }
            (Kind::Object, Value::Object(map)) => Value::Object(map),
            (Kind::Array, Value::Array(list)) => Value::Array(list),
            (Kind::Object, Value::Array(_)) => {
                return Err(Failure::controller(500, format!("unexpected {} type []interface {{}}", self.name)));
            }
            (Kind::Object, Value::String(text)) => {
                return Err(Failure::controller(
                    500,
                    format!("invalid character {} looking for beginning of value", first_character(&text)),
                ));
            }
            (Kind::Object, other) => {
                let name = if other.is_boolean() { "bool" } else { "float64" };
                return Err(Failure::controller(500, format!("unexpected {} type {name}", self.name)));
            }
            (_, other) => {
                return Err(Failure::unprocessable(format!(
                    "{} of {} cannot be {}: send a value of type {}",
                    self.name,
                    model.class,
                    json_type(&other),
                    self.type_name()
                )));
            }
        })
    }
}

/// Longest name and other short text, in characters: the real database's `varchar(255)`.
const MAX_STRING: usize = 255;

/// The type of a JSON value, as Go's decoder names it in messages.
pub const fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn first_character(text: &str) -> String {
    text.chars().next().map_or_else(|| "''".to_owned(), |first| format!("'{first}'"))
}

fn leading_number(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || (*at == 0 && *c == '-')))
        .map_or(text.len(), |(at, _)| at);
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::cluster::record::collection::MODEL;

    #[test]
    fn values_are_cast_as_the_real_server_casts_them() {
        let cast =
            |name: &str, value| MODEL.attribute(name).unwrap().cast(&MODEL, value).map_err(|failure| failure.status);
        assert_eq!(cast("description", json!(5)), Ok(json!("5")));
        assert_eq!(cast("replication_desired", json!("2")), Ok(json!(2)));
        assert_eq!(cast("trash_at", json!("2027-01-01T00:00:00.123456Z")), Ok(json!("2027-01-01T00:00:00.123456000Z")));
        assert_eq!(cast("preserve_version", json!("false")), Ok(json!(false)));
        assert_eq!(cast("name", json!("a\0b")), Err(422));
        assert_eq!(cast("name", json!("x".repeat(256))), Err(422));
        assert_eq!(cast("name", json!("é".repeat(255))), Ok(json!("é".repeat(255))));
        assert_eq!(cast("properties", json!(["a"])), Err(500));
        assert_eq!(cast("properties", json!("x")), Err(500));
    }
}
