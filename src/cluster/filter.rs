//! Filters: from `[attribute, operator, operand]` to SQL (protocol.md 3.6).
//!
//! Everything that comes from outside goes into the statement as a parameter; names of columns only after they were
//! found among the attributes of the model.

pub mod subproperty;

use rusqlite::types::Value as Sql;
use serde_json::Value;

use crate::cluster::answer::{Failure, quoted};
use crate::cluster::clock::Timestamp;
use crate::cluster::record::attribute::{Attribute, Kind, json_type};
use crate::cluster::record::{MODELS, Model, keep_service, link, log};
use crate::cluster::store::rows::to_sql;

/// A piece of a WHERE clause with its parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    /// With `?` for each parameter.
    pub text: String,
    /// In order.
    pub parameters: Vec<Sql>,
}

impl Condition {
    /// A condition without parameters.
    pub fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), parameters: Vec::new() }
    }

    /// A condition with parameters.
    pub fn with(text: impl Into<String>, parameters: impl IntoIterator<Item = Sql>) -> Self {
        Self { text: text.into(), parameters: parameters.into_iter().collect() }
    }

    /// Joins conditions; without any, the result is `otherwise`.
    pub fn join(conditions: Vec<Self>, word: &str, otherwise: &str) -> Self {
        if conditions.is_empty() {
            return Self::plain(otherwise);
        }
        let texts: Vec<_> = conditions.iter().map(|condition| format!("({})", condition.text)).collect();
        let parameters = conditions.into_iter().flat_map(|condition| condition.parameters);
        Self::with(texts.join(word), parameters)
    }
}

/// One filter, its shape checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// `[attribute, operator, operand]`, the operator in lower case.
    Triple(String, String, Value),
    /// `(one operator other)` between two columns.
    Columns(String, String, String),
}

/// Checks the shape of the parameter `filters`, as the controller does.
///
/// # Errors
/// 500 for anything but an array of triples and expressions (recorded: `collections/03-list-filter-malformed` and
/// others).
pub fn parse(filters: Option<&Value>) -> Result<Vec<Filter>, Failure> {
    let list = match filters {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            let kind = json_type(other);
            return Err(Failure::controller(
                500,
                format!(
                    "transcode: json: cannot unmarshal {kind} into Go struct field ListOptions.filters of type []arvados.Filter"
                ),
            ));
        }
    };
    list.iter().map(one).collect()
}

fn one(filter: &Value) -> Result<Filter, Failure> {
    match filter {
        Value::String(text) => expression(text),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(attribute), Value::String(operator), operand] => {
                if attribute.starts_with('(') && operator == "=" && operand == &Value::Bool(true) {
                    return expression(attribute);
                }
                Ok(Filter::Triple(attribute.clone(), operator.to_lowercase(), operand.clone()))
            }
            _ => Err(malformed(filter)),
        },
        _ => Err(malformed(filter)),
    }
}

fn malformed(filter: &Value) -> Failure {
    Failure::controller(500, format!("transcode: invalid filter {}: must have 3 decoded", quoted(&filter.to_string())))
}

/// `(file_count > version)`: one operator, two names, one pair of parentheses.
fn expression(text: &str) -> Result<Filter, Failure> {
    let wrong = || Failure::argument(format!("Invalid expression in filter: {text}"));
    let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).ok_or_else(wrong)?;
    let at = inner.find(['<', '>', '=']).ok_or_else(wrong)?;
    let length = if inner[at..].starts_with("<=") || inner[at..].starts_with(">=") { 2 } else { 1 };
    let name = |part: &str| {
        let name = part.trim_matches(' ');
        let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        valid.then(|| name.to_owned()).ok_or_else(wrong)
    };
    Ok(Filter::Columns(name(&inner[..at])?, inner[at..at + length].to_owned(), name(&inner[at + length..])?))
}

/// The condition of a list of filters on a model.
///
/// # Errors
/// 422 for unknown attributes and operators and for operands that do not fit.
pub fn compile(model: &'static Model, filters: &[Filter]) -> Result<Condition, Failure> {
    let conditions = filters.iter().map(|filter| condition(model, filter)).collect::<Result<_, _>>()?;
    Ok(Condition::join(conditions, " AND ", "1"))
}

/// The legacy parameter `where`: attribute to value, array of values, or `["contains", text]`.
///
/// # Errors
/// As for filters.
pub fn from_where(parameter: Option<&Value>) -> Result<Vec<Filter>, Failure> {
    let Some(Value::Object(map)) = parameter else { return Ok(Vec::new()) };
    Ok(map
        .iter()
        .map(|(name, value)| match value {
            Value::Array(parts) => match parts.as_slice() {
                [Value::String(word), Value::String(text)] if word == "contains" => {
                    Filter::Triple(name.clone(), "ilike".to_owned(), format!("%{text}%").into())
                }
                _ => Filter::Triple(name.clone(), "in".to_owned(), value.clone()),
            },
            _ => Filter::Triple(name.clone(), "=".to_owned(), value.clone()),
        })
        .collect())
}

fn condition(model: &'static Model, filter: &Filter) -> Result<Condition, Failure> {
    let (name, operator, operand) = match filter {
        Filter::Triple(name, operator, operand) => (name.as_str(), operator.as_str(), operand),
        Filter::Columns(one, operator, other) => {
            for name in [one, other] {
                let attribute = model.attribute(name).filter(|attribute| attribute.is_column());
                if attribute.is_none_or(|attribute| attribute.kind != Kind::Integer) {
                    return Err(invalid_attribute(name));
                }
            }
            return Ok(Condition::plain(format!("{one} {operator} {other}")));
        }
    };
    if operator == "@@" {
        return Err(Failure::argument("Full text search operator is no longer supported"));
    }
    let (name, operator) = match (model.table, name, operator) {
        (table, "head_kind", "=") if table == link::MODEL.table => ("head_uuid", "is_a"),
        (table, "tail_kind", "=") if table == link::MODEL.table => ("tail_uuid", "is_a"),
        (table, "object_kind", "=") if table == log::MODEL.table => ("object_uuid", "is_a"),
        (_, name, operator) => (name, operator),
    };
    if name == "any" {
        return any(model, operator, operand);
    }
    let own = name.strip_prefix(model.table).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
    if let Some((column, key)) = own.split_once('.') {
        let attribute =
            model.attribute(column).filter(|attribute| attribute.kind == Kind::Object && attribute.is_column());
        if attribute.is_none() {
            return Err(invalid_attribute(name));
        }
        return subproperty::condition(column, key, operator, operand);
    }
    let attribute =
        model.attribute(own).filter(|attribute| attribute.is_filterable()).ok_or_else(|| invalid_attribute(name))?;
    on_attribute(model, attribute, operator, operand)
}

fn invalid_attribute(name: &str) -> Failure {
    Failure::argument(format!("Invalid attribute '{name}' in filter"))
}

/// An operator that is none, or none for this.
pub fn invalid_operator(operator: &str) -> Failure {
    Failure::argument(format!("Invalid operator '{operator}'"))
}

/// An operand that does not fit.
pub fn invalid_operand(operand: &Value, operator: &str) -> Failure {
    let class = match operand {
        Value::Null => "NilClass",
        Value::Bool(true) => "TrueClass",
        Value::Bool(false) => "FalseClass",
        Value::Number(number) if number.is_f64() => "Float",
        Value::Number(_) => "Integer",
        Value::String(_) => "String",
        Value::Array(_) => "Array",
        Value::Object(_) => "Hash",
    };
    Failure::argument(format!("Invalid operand type '{class}' for '{operator}' operator in filters"))
}

/// The column, or what stands for it.
fn expression_of(model: &Model, attribute: &Attribute) -> String {
    match attribute.usage {
        super::record::attribute::Use::Hidden => {
            format!("(SELECT {}(text) FROM manifests WHERE hash = {}.manifest)", attribute.name, model.table)
        }
        _ => format!("{}.{}", model.table, attribute.name),
    }
}

fn on_attribute(model: &Model, attribute: &Attribute, operator: &str, operand: &Value) -> Result<Condition, Failure> {
    let column = expression_of(model, attribute);
    match operator {
        "=" if operand.is_null() => Ok(Condition::plain(format!("{column} IS NULL"))),
        "!=" | "<>" if operand.is_null() => Ok(Condition::plain(format!("{column} IS NOT NULL"))),
        "=" | "<" | "<=" | ">" | ">=" => {
            let value = scalar(attribute, operator, operand)?;
            Ok(Condition::with(format!("{column} {operator} ?"), [value]))
        }
        "!=" | "<>" => {
            let value = scalar(attribute, operator, operand)?;
            Ok(Condition::with(format!("{column} != ? OR {column} IS NULL"), [value]))
        }
        "like" | "ilike" => {
            let Value::String(pattern) = operand else { return Err(invalid_operand(operand, operator)) };
            let fold = i64::from(operator == "ilike");
            let text = format!("matches(CAST({column} AS TEXT), ?, ?)");
            Ok(Condition::with(text, [Sql::Text(pattern.clone()), Sql::Integer(fold)]))
        }
        "in" | "not in" => {
            let Value::Array(list) = operand else { return Err(invalid_operand(operand, operator)) };
            let values: Vec<_> = list
                .iter()
                .filter(|value| !value.is_null())
                .map(|value| scalar(attribute, operator, value))
                .collect::<Result<_, _>>()?;
            let (marks, has_null) = (vec!["?"; values.len()].join(", "), values.len() < list.len());
            let text = match (operator, has_null) {
                ("in", false) => format!("{column} IN ({marks})"),
                ("in", true) => format!("{column} IN ({marks}) OR {column} IS NULL"),
                (_, false) => format!("{column} NOT IN ({marks}) OR {column} IS NULL"),
                (_, true) => format!("{column} NOT IN ({marks}) AND {column} IS NOT NULL"),
            };
            Ok(Condition::with(text, values))
        }
        "is_a" => {
            let kinds: Vec<&str> = match operand {
                Value::String(kind) => vec![kind],
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
                _ => return Err(invalid_operand(operand, operator)),
            };
            if !attribute.name.ends_with("uuid") {
                return Err(Failure::argument(format!("Invalid operator 'is_a' for '{}'", attribute.name)));
            }
            let infixes: Vec<_> =
                kinds.into_iter().filter_map(infix_of_kind).map(|infix| Sql::Text(infix.to_owned())).collect();
            let marks = vec!["?"; infixes.len()].join(", ");
            Ok(Condition::with(format!("substr({column}, 7, 5) IN ({marks})"), infixes))
        }
        "exists" if is_json(attribute) => {
            let Value::String(key) = operand else { return Err(invalid_operand(operand, operator)) };
            Ok(Condition::with(format!("json_names({column}, ?)"), [Sql::Text(key.clone())]))
        }
        "contains" if is_json(attribute) => {
            let names: Vec<&str> = match operand {
                Value::String(name) => vec![name],
                Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_string) => {
                    list.iter().filter_map(Value::as_str).collect()
                }
                _ => return Err(invalid_operand(operand, operator)),
            };
            let each = names
                .into_iter()
                .map(|name| Condition::with(format!("json_names({column}, ?)"), [Sql::Text(name.to_owned())]));
            Ok(Condition::join(each.collect(), " AND ", "1"))
        }
        "exists" | "contains" => Err(Failure::argument(format!(
            "Invalid attribute '{}' for operator '{operator}' in filter",
            attribute.name
        ))),
        _ => Err(invalid_operator(operator)),
    }
}

const fn is_json(attribute: &Attribute) -> bool {
    matches!(attribute.kind, Kind::Object | Kind::Array)
}

fn infix_of_kind(kind: &str) -> Option<&'static str> {
    if kind == "arvados#keepService" {
        return Some(keep_service::INFIX);
    }
    MODELS.into_iter().find(|model| kind.strip_prefix("arvados#") == Some(model.kind)).map(|model| model.infix)
}

/// Whether a word begins like the name of a month.
fn names_a_month(text: &str) -> bool {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let text = text.to_lowercase();
    text.split(|c: char| !c.is_alphanumeric()).any(|word| MONTHS.iter().any(|month| word.starts_with(month)))
}

/// An operand as the column stores it.
fn scalar(attribute: &Attribute, operator: &str, operand: &Value) -> Result<Sql, Failure> {
    match (attribute.kind, operand) {
        (_, Value::Null) => Ok(Sql::Null),
        (Kind::Time, Value::String(text)) => match Timestamp::parse(text) {
            Some(time) => Ok(Sql::Text(time.to_string())),
            // The real server finds a month in such words (`junk` is a June) and compares with that of this year. Here
            // they compare with nothing, which is no error either.
            None if names_a_month(text) => Ok(Sql::Null),
            None => Err(Failure::argument(format!("no time information in \"{text}\""))),
        },
        (Kind::Integer, Value::String(text)) => text.trim().parse().map(Sql::Integer).map_err(|_| {
            let shown = text.replace('\\', "\\\\").replace('"', "\\\"");
            Failure::unprocessable(format!(
                "#<ActiveRecord::StatementInvalid:\"PG::InvalidTextRepresentation: ERROR:  invalid input syntax for type \
                 integer: \\\"{shown}\\\"\\nCONTEXT:  unnamed portal parameter $3 = '...'\\n\">"
            ))
        }),
        (Kind::Integer | Kind::Float, Value::Number(_)) => Ok(to_sql(operand)),
        (Kind::Boolean, Value::Bool(flag)) => Ok(Sql::Integer(i64::from(*flag))),
        (Kind::Boolean, Value::String(text)) => match text.to_lowercase().as_str() {
            "1" | "t" | "true" | "y" | "yes" => Ok(Sql::Integer(1)),
            "0" | "f" | "false" | "n" | "no" => Ok(Sql::Integer(0)),
            _ => Err(Failure::argument(format!("Invalid operand '{text}' for boolean attribute '{}'", attribute.name))),
        },
        (Kind::Object | Kind::Array, Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(value) => Ok(Sql::Text(value.to_string())),
            Err(_) => Err(Failure::argument(format!("Invalid operand for '{}': no JSON text", attribute.name))),
        },
        (Kind::String | Kind::Text, Value::String(text)) => Ok(Sql::Text(text.clone())),
        (Kind::String | Kind::Text, Value::Number(number)) => Ok(Sql::Text(number.to_string())),
        (Kind::String | Kind::Text, Value::Bool(flag)) => Ok(Sql::Text(flag.to_string())),
        _ => Err(invalid_operand(operand, operator)),
    }
}

/// `any`: the same filter on all columns that can be searched so. A substring search looks through what a user would
/// search for, and not through hashes and uuids.
fn any(model: &Model, operator: &str, operand: &Value) -> Result<Condition, Failure> {
    let is_text = |attribute: &&Attribute| matches!(attribute.kind, Kind::String | Kind::Text) && attribute.is_column();
    if matches!(operator, "like" | "ilike") {
        let Value::String(pattern) = operand else { return Err(invalid_operand(operand, operator)) };
        if pattern.len() >= 2 && pattern.starts_with('%') && pattern.ends_with('%') {
            let searched = model.attributes.iter().filter(|attribute| {
                attribute.is_filterable()
                    && (attribute.kind == Kind::Object || matches!(attribute.kind, Kind::String | Kind::Text))
                    && !attribute.name.ends_with("uuid")
                    && !attribute.name.ends_with("hash")
            });
            let columns: Vec<_> =
                searched.map(|attribute| format!("coalesce({}, '')", expression_of(model, attribute))).collect();
            let text = format!("matches({}, ?, ?)", columns.join(" || ' ' || "));
            return Ok(Condition::with(
                text,
                [Sql::Text(pattern.clone()), Sql::Integer(i64::from(operator == "ilike"))],
            ));
        }
        let each =
            model.attributes.iter().filter(is_text).map(|attribute| on_attribute(model, attribute, operator, operand));
        return Ok(Condition::join(each.collect::<Result<_, _>>()?, " OR ", "0"));
    }
    if !matches!(operator, "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" | "in" | "not in") {
        return Err(invalid_operator(operator));
    }
    // A column to which the operand does not fit cannot match and is left out.
    let each = model
        .columns()
        .filter(|attribute| matches!(attribute.kind, Kind::String | Kind::Text | Kind::Integer | Kind::Boolean));
    let fitting = each.filter_map(|attribute| on_attribute(model, attribute, operator, operand).ok());
    Ok(Condition::join(fitting.collect(), " OR ", "0"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::record::collection::MODEL;

    fn text(filters: Value) -> Result<String, String> {
        let filters = parse(Some(&filters)).map_err(|failure| failure.to_string())?;
        compile(&MODEL, &filters).map(|condition| condition.text).map_err(|failure| failure.to_string())
    }

    #[test]
    fn names_from_outside_never_reach_the_statement() {
        assert_eq!(text(json!([["name", "=", "x'); DROP TABLE"]])).unwrap(), "(collections.name = ?)");
        for filter in
            [json!([["name; DROP", "=", "x"]]), json!([["manifest_text", "=", "x"]]), json!(["(name > version)"])]
        {
            assert!(text(filter).unwrap_err().starts_with("422"));
        }
        assert_eq!(text(json!(["(file_count > version)"])).unwrap(), "(file_count > version)");
    }

    #[test]
    fn wrong_filters_are_refused_with_the_recorded_texts() {
        for (filters, want) in [
            (
                json!({"name": "x"}),
                "500: transcode: json: cannot unmarshal object into Go struct field ListOptions.filters of type []arvados.Filter",
            ),
            (
                json!([["name", "="]]),
                "500: transcode: invalid filter \"[\\\"name\\\",\\\"=\\\"]\": must have 3 decoded",
            ),
            (json!([["nosuch", "=", "x"]]), "422: #<ArgumentError: Invalid attribute 'nosuch' in filter>"),
            (json!([["name", "~", "x"]]), "422: #<ArgumentError: Invalid operator '~'>"),
            (json!([["modified_at", "<", "nonsense"]]), "422: #<ArgumentError: no time information in \"nonsense\">"),
            (json!([["any", "@@", "set"]]), "422: #<ArgumentError: Full text search operator is no longer supported>"),
        ] {
            assert_eq!(text(filters).unwrap_err(), want);
        }
    }

    #[test]
    fn an_unequal_string_also_finds_what_has_none() {
        assert_eq!(text(json!([["name", "!=", "x"]])).unwrap(), "(collections.name != ? OR collections.name IS NULL)");
        assert_eq!(text(json!([["uuid", "in", []]])).unwrap(), "(collections.uuid IN ())");
    }
}
