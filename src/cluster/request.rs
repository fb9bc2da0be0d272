//! What a request asks for, wherever it says so (protocol.md 3.3).
//!
//! The query string, a form body and the top level of a JSON body are one set of parameters; in forms and queries a
//! value that looks like JSON is JSON. A POST may be another method in disguise: a URL that would be too long travels
//! as a form with `X-HTTP-Method-Override: GET`. Oddities that clients meet on a real cluster are kept: a JSON body
//! without the resource's name *is* the attributes, all of it, options included.

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::cluster::answer::{Failure, quoted};

/// The parts of an HTTP request that matter.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// As sent.
    pub method: String,
    /// As sent, without the query.
    pub raw_path: String,
    /// After the `?`.
    pub query: String,
    /// `Content-Type`, if any.
    pub content_type: Option<String>,
    /// `X-HTTP-Method-Override`, if any.
    pub method_override: Option<String>,
    /// `Authorization`, if any.
    pub authorization: Option<String>,
    /// `Cookie` headers.
    pub cookies: Vec<String>,
    /// `X-Request-Id`, echoed or made.
    pub request_id: String,
    /// `X-External-Client: 1`: the caller cannot reach Keep services inside.
    pub external_client: bool,
}

/// A request, understood.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Effective method.
    pub method: String,
    /// Decoded path.
    pub path: String,
    /// Decoded components of the path.
    pub segments: Vec<String>,
    /// All parameters.
    pub parameters: Map<String, Value>,
    /// The JSON body, if it is one.
    body: Option<Map<String, Value>>,
}

/// Parameters that are numbers.
const NUMBERS: [&str; 2] = ["limit", "offset"];

/// Parameters that are truth values.
const FLAGS: [&str; 10] = [
    "distinct",
    "ensure_unique_name",
    "include_trash",
    "include_old_versions",
    "bypass_federation",
    "recursive",
    "exclude_home_project",
    "no_forward",
    "redirect_to_new_user",
    "send_notification_email",
];

/// Parameters that are text, whatever they look like.
const TEXTS: [&str; 2] = ["api_token", "_method"];

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// 400 for a body that is no JSON object, 500 for a parameter of a wrong type (both as recorded).
    pub fn parse(head: &Head, body: &Bytes) -> Result<Self, Failure> {
        let path = decode(&head.raw_path);
        let segments = head.raw_path.trim_start_matches('/').split('/').map(decode).collect();
        let mut request = Self { method: head.method.clone(), path, segments, ..Self::default() };
        for (name, value) in url::form_urlencoded::parse(head.query.as_bytes()) {
            request.put_text(&name, &value)?;
        }
        let content_type = head.content_type.as_deref().unwrap_or_default();
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/x-www-form-urlencoded" => {
                for (name, value) in url::form_urlencoded::parse(body) {
                    request.put_text(&name, &value)?;
                }
            }
            "" | "application/json" if !body.is_empty() => request.put_body(body)?,
            _ => {}
        }
        // A method in a JSON body is an attribute like any other (recorded: misc/12-json-post-method-get).
        let named = request.parameters.remove("_method").and_then(|method| method.as_str().map(str::to_uppercase));
        if head.method == "POST"
            && let Some(method) = named.or_else(|| head.method_override.as_ref().map(|method| method.to_uppercase()))
        {
            request.method = method;
        }
        Ok(request)
    }

    fn put_text(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let value = interpret(name, value)?;
        self.parameters.insert(name.to_owned(), value);
        Ok(())
    }

    fn put_body(&mut self, body: &[u8]) -> Result<(), Failure> {
        // Bytes that are no UTF-8 become U+FFFD (recorded: collections/03-create-nonutf8).
        let parsed = match std::str::from_utf8(body) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_str(&String::from_utf8_lossy(body)),
        };
        let map = match parsed {
            Ok(Value::Object(map)) => map,
            Ok(Value::Null) => return Ok(()),
            Ok(other) => {
                let kind = super::record::attribute::json_type(&other);
                return Err(Failure::controller(
                    400,
                    format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"),
                ));
            }
            Err(error) if error.is_eof() => return Err(Failure::controller(400, "unexpected EOF")),
            Err(error) => return Err(Failure::controller(400, format!("invalid JSON: {error}"))),
        };
        for (name, value) in &map {
            // The attributes of a large collection are not copied: they are taken from the body when needed.
            let value = match value {
                Value::String(text) if NUMBERS.contains(&name.as_str()) || FLAGS.contains(&name.as_str()) => {
                    interpret(name, text)?
                }
                Value::String(text) if is_option(name) => interpret(name, text)?,
                other if is_option(name) => other.clone(),
                _ => continue,
            };
            if name != "_method" {
                self.parameters.insert(name.clone(), value);
            }
        }
        self.body = Some(map);
        Ok(())
    }

    /// Takes the attributes of a record: the parameter of that name, or the whole JSON body.
    ///
    /// # Errors
    /// 400 when they are no object.
    pub fn take_attributes(&mut self, singular: &str) -> Result<Map<String, Value>, Failure> {
        let given = match self.body.as_mut().and_then(|body| body.remove(singular)) {
            Some(value) => Some(value),
            None => self.parameters.remove(singular),
        };
        match given {
            Some(Value::Object(map)) => Ok(map),
            Some(Value::String(text)) => match serde_json::from_str(&text) {
                Ok(Value::Object(map)) => Ok(map),
                _ => Err(Failure::controller(400, format!("{singular}: attributes must be a JSON object"))),
            },
            Some(Value::Null) => Ok(Map::new()),
            Some(other) => {
                let kind = super::record::attribute::json_type(&other);
                Err(Failure::controller(
                    400,
                    format!("cannot use {kind} as the attributes in parameter {}: send an object", quoted(singular)),
                ))
            }
            None => Ok(self.body.take().unwrap_or_default()),
        }
    }

    /// A parameter, unless it is absent or null.
    pub fn parameter(&self, name: &str) -> Option<&Value> {
        self.parameters.get(name).filter(|value| !value.is_null())
    }

    /// A parameter as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.parameter(name).and_then(Value::as_str)
    }

    /// A parameter as truth value.
    pub fn flag(&self, name: &str) -> bool {
        match self.parameter(name) {
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            _ => false,
        }
    }

    /// A parameter that is a list of texts, or one text with commas.
    ///
    /// # Errors
    /// 500 for anything else, as recorded for badly typed options.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        let wrong = |value: &Value| {
            let kind = super::record::attribute::json_type(value);
            let message = format!(
                "transcode: json: cannot unmarshal {kind} into Go struct field ListOptions.{name} of type []string"
            );
            Failure::controller(500, message)
        };
        match self.parameter(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.split(',').map(|part| part.trim().to_owned()).collect())),
            Some(Value::Array(list)) => {
                let texts = list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(|| wrong(one)));
                texts.collect::<Result<_, _>>().map(Some)
            }
            Some(other) => Err(wrong(other)),
        }
    }
}

/// Keys of a JSON body that are options as well as, in an unwrapped body, attributes.
fn is_option(name: &str) -> bool {
    const OPTIONS: [&str; 25] = [
        "select",
        "filters",
        "where",
        "order",
        "limit",
        "offset",
        "count",
        "distinct",
        "cluster_id",
        "bypass_federation",
        "include",
        "include_trash",
        "include_old_versions",
        "ensure_unique_name",
        "replace_files",
        "replace_segments",
        "recursive",
        "exclude_home_project",
        "uuid",
        "async",
        "scopes",
        "api_token",
        "email",
        "user",
        "reader_tokens",
    ];
    OPTIONS.contains(&name)
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A value of a form or query, or a string in a JSON body.
fn interpret(name: &str, text: &str) -> Result<Value, Failure> {
    if NUMBERS.contains(&name) {
        if text.is_empty() {
            return Ok(Value::Null);
        }
        return text.parse::<i64>().map(Value::from).map_err(|_| {
            Failure::controller(500, format!("strconv.ParseInt: parsing {}: invalid syntax", quoted(text)))
        });
    }
    if FLAGS.contains(&name) {
        return Ok(Value::Bool(!matches!(text, "" | "false" | "0")));
    }
    if TEXTS.contains(&name) {
        return Ok(text.into());
    }
    match text.as_bytes().first() {
        None => Ok(Value::Null),
        Some(b'[' | b'{' | b'"') => serde_json::from_str(text).map_err(|error| {
            let message = if error.is_eof() {
                "unexpected end of JSON input".to_owned()
            } else {
                format!("invalid JSON in {name}: {error}")
            };
            Failure::controller(500, message)
        }),
        Some(_) if text == "null" => Ok(Value::Null),
        Some(_) => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(method: &str, query: &str, content_type: Option<&str>, body: &str) -> Result<Request, Failure> {
        let head = Head {
            method: method.to_owned(),
            raw_path: "/arvados/v1/collections".to_owned(),
            query: query.to_owned(),
            content_type: content_type.map(str::to_owned),
            ..Head::default()
        };
        Request::parse(&head, &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn a_long_query_travels_as_a_form() {
        let form = Some("application/x-www-form-urlencoded");
        let request = parse("POST", "", form, "_method=get&limit=3&filters=[[\"uuid\",\"=\",\"x\"]]").unwrap();
        assert_eq!(request.method, "GET");
        assert_eq!(request.parameter("limit"), Some(&json!(3)));
        assert_eq!(request.parameter("filters"), Some(&json!([["uuid", "=", "x"]])));
    }

    #[test]
    fn attributes_come_wrapped_or_are_the_whole_body() {
        let mut request = parse("POST", "", None, r#"{"collection":{"name":"a"},"select":["uuid"]}"#).unwrap();
        assert_eq!(Value::Object(request.take_attributes("collection").unwrap()), json!({"name": "a"}));
        assert_eq!(request.texts("select").unwrap().unwrap(), ["uuid"]);
        let mut request = parse("POST", "ensure_unique_name=true", None, r#"{"name":"a","select":["uuid"]}"#).unwrap();
        assert_eq!(
            Value::Object(request.take_attributes("collection").unwrap()),
            json!({"name": "a", "select": ["uuid"]})
        );
        assert!(request.flag("ensure_unique_name"));
        let mut request = parse("POST", "", None, r#"{"collection":"{\"name\":\"a\"}"}"#).unwrap();
        assert_eq!(Value::Object(request.take_attributes("collection").unwrap()), json!({"name": "a"}));
    }

    #[test]
    fn malformed_requests_get_the_recorded_statuses() {
        let status = |result: Result<Request, Failure>| result.unwrap_err().status;
        assert_eq!(status(parse("POST", "", None, "{\"collection\": {")), 400);
        assert_eq!(status(parse("POST", "", None, "[1]")), 400);
        assert_eq!(status(parse("GET", "limit=abc", None, "")), 500);
        assert_eq!(status(parse("GET", "filters=[[", None, "")), 500);
    }

    #[test]
    fn a_method_in_a_json_body_is_an_attribute() {
        let mut request = parse("POST", "", None, r#"{"_method":"GET"}"#).unwrap();
        assert_eq!(request.method, "POST");
        assert!(request.take_attributes("collection").unwrap().contains_key("_method"));
    }
}
