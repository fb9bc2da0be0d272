//! From rows to [`Record`]s and back.

use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Connection, Row};
use serde_json::Value;

use crate::cluster::answer::Failure;
use crate::cluster::record::attribute::Kind;
use crate::cluster::record::{Model, Record};

/// Column names of a kind in the order in which [`read`] expects them, each with a prefix.
pub fn columns(model: &Model, prefix: &str) -> String {
    let mut text = format!("{prefix}id");
    for name in names(model) {
        text.push_str(", ");
        text.push_str(prefix);
        text.push_str(name);
    }
    text
}

fn names(model: &Model) -> impl Iterator<Item = &'static str> {
    model.columns().map(|column| column.name).filter(|name| *name != "id").chain(model.internal.iter().copied())
}

/// Reads a row that was selected by [`columns`].
///
/// # Errors
/// When the row has another shape.
pub fn read(model: &'static Model, row: &Row<'_>) -> Result<Record, rusqlite::Error> {
    let mut record = Record::new(model);
    record.id = row.get(0)?;
    if model.attribute("id").is_some() {
        record.set("id", record.id);
    }
    let mut at = 1;
    for column in model.columns().filter(|column| column.name != "id") {
        let value = value(column.kind, row.get_ref(at)?);
        record.values.insert(column.name.to_owned(), value);
        at += 1;
    }
    for column in model.internal {
        record.values.insert((*column).to_owned(), value(Kind::Text, row.get_ref(at)?));
        at += 1;
    }
    Ok(record)
}

/// A value of a column in wire form.
pub fn value(kind: Kind, value: ValueRef<'_>) -> Value {
    match (kind, value) {
        (_, ValueRef::Null | ValueRef::Blob(_)) => Value::Null,
        (Kind::Boolean, ValueRef::Integer(number)) => (number != 0).into(),
        (_, ValueRef::Integer(number)) => number.into(),
        (_, ValueRef::Real(number)) => number.into(),
        (Kind::Object | Kind::Array, ValueRef::Text(text)) => serde_json::from_slice(text).unwrap_or(Value::Null),
        (_, ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned().into(),
    }
}

/// A value as SQLite stores it.
pub fn to_sql(value: &Value) -> Sql {
    match value {
        Value::Null => Sql::Null,
        Value::Bool(flag) => Sql::Integer(i64::from(*flag)),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Sql::Real(number.as_f64().unwrap_or_default()), Sql::Integer)
        }
        Value::String(text) => Sql::Text(text.clone()),
        Value::Array(_) | Value::Object(_) => Sql::Text(value.to_string()),
    }
}

/// Inserts a record and tells it its row number.
///
/// # Errors
/// 422 when the uuid or the name is taken.
pub fn insert(sql: &Connection, record: &mut Record) -> Result<(), Failure> {
    let names: Vec<_> = names(record.model).collect();
    let marks = vec!["?"; names.len()].join(", ");
    let text = format!("INSERT INTO {} ({}) VALUES ({marks})", record.model.table, names.join(", "));
    let values = names.iter().map(|name| to_sql(record.get(name)));
    sql.prepare_cached(&text)?.execute(rusqlite::params_from_iter(values)).map_err(|error| refusal(record, error))?;
    record.id = sql.last_insert_rowid();
    if record.model.attribute("id").is_some() {
        record.set("id", record.id);
    }
    Ok(())
}

/// Stores what has changed in a record that is there already.
///
/// # Errors
/// 422 when the name is taken.
pub fn update(sql: &Connection, old: &Record, new: &Record) -> Result<(), Failure> {
    let changed: Vec<_> = names(new.model).filter(|name| old.get(name) != new.get(name)).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let text = format!("UPDATE {} SET {} = ? WHERE id = ?", new.model.table, changed.join(" = ?, "));
    let values = changed.iter().map(|name| to_sql(new.get(name))).chain([Sql::Integer(old.id)]);
    sql.prepare_cached(&text)?.execute(rusqlite::params_from_iter(values)).map_err(|error| refusal(new, error))?;
    Ok(())
}

/// The text of the real database for a uniqueness that SQLite has found violated.
fn refusal(record: &Record, error: rusqlite::Error) -> Failure {
    let rusqlite::Error::SqliteFailure(code, Some(text)) = &error else { return error.into() };
    if code.code != rusqlite::ErrorCode::ConstraintViolation {
        return error.into();
    }
    let table = record.model.table;
    let (index, key, value) = if text.contains(".name") {
        ("owner_uuid_and_name", "owner_uuid, name", format!("{}, {}", record.owner(), record.text("name")))
    } else if text.contains(".username") {
        ("username", "username", record.text("username").to_owned())
    } else if text.contains(".api_token") {
        ("api_token", "api_token", "…".to_owned())
    } else {
        ("uuid", "uuid", record.uuid().to_owned())
    };
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    Failure::unprocessable(format!(
        "#<ActiveRecord::RecordNotUnique:\"PG::UniqueViolation: ERROR:  duplicate key value violates unique constraint \
         \\\"index_{table}_on_{index}\\\"\\nDETAIL:  Key ({key})=({value}) already exists.\\n\">"
    ))
}

/// Whether a failure says that a name is taken.
pub fn is_name_clash(failure: &Failure) -> bool {
    failure.status == 422 && failure.text().contains("_on_owner_uuid_and_name")
}
