//! Filters on one key of a JSON column: `properties.KEY`.
//!
//! Equality is PostgreSQL's containment, so it is typed (`"1"` is not `1`) and an operand that is a list or an object
//! need only be a part of what is stored (protocol.md 3.6).

use rusqlite::types::Value as Sql;
use serde_json::{Value, json};

use crate::cluster::answer::Failure;
use crate::cluster::filter::{Condition, invalid_operand, invalid_operator};

/// The condition on a key of a column. `<…>` around the key is for keys that look like addresses.
///
/// # Errors
/// 422 for operators and operands that do not fit.
pub fn condition(column: &str, key: &str, operator: &str, operand: &Value) -> Result<Condition, Failure> {
    let key = key.strip_prefix('<').and_then(|key| key.strip_suffix('>')).unwrap_or(key);
    let name = Sql::Text(key.to_owned());
    let holds = |value: &Value| {
        Condition::with(format!("json_holds({column}, ?)"), [Sql::Text(json!({ key: value }).to_string())])
    };
    match operator {
        "=" => Ok(holds(operand)),
        "!=" | "<>" => {
            let Condition { text, parameters } = holds(operand);
            Ok(Condition::with(format!("NOT coalesce({text}, 0)"), parameters))
        }
        "in" => {
            let Value::Array(list) = operand else { return Err(invalid_operand(operand, operator)) };
            Ok(Condition::join(list.iter().map(holds).collect(), " OR ", "0"))
        }
        "not in" => {
            let Value::Array(list) = operand else { return Err(invalid_operand(operand, operator)) };
            let texts =
                list.iter().map(|value| Sql::Text(value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
            let marks = vec!["?"; list.len()].join(", ");
            let text = format!("coalesce(json_text({column}, ?) NOT IN ({marks}), 1)");
            Ok(Condition::with(text, [name].into_iter().chain(texts)))
        }
        "<" | "<=" | ">" | ">=" => {
            let text = format!("json_order(json_value({column}, ?), ?) {operator} 0");
            Ok(Condition::with(text, [name, Sql::Text(operand.to_string())]))
        }
        "like" | "ilike" => {
            let Value::String(pattern) = operand else { return Err(invalid_operand(operand, operator)) };
            let fold = Sql::Integer(i64::from(operator == "ilike"));
            Ok(Condition::with(
                format!("matches(json_text({column}, ?), ?, ?)"),
                [name, Sql::Text(pattern.clone()), fold],
            ))
        }
        "exists" => match operand {
            Value::Bool(true) => Ok(Condition::with(format!("json_names({column}, ?)"), [name])),
            Value::Bool(false) => Ok(Condition::with(format!("NOT coalesce(json_names({column}, ?), 0)"), [name])),
            _ => Err(invalid_operand(operand, operator)),
        },
        "contains" => {
            let text = format!("json_holds(json_value({column}, ?), ?)");
            Ok(Condition::with(text, [name, Sql::Text(operand.to_string())]))
        }
        _ => Err(invalid_operator(operator)),
    }
}
