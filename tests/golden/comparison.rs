//! Whether an answer is the recorded one, as the README of the recordings defines it.
//!
//! Equal must be: the status, the fields and their JSON types, and every value but those that differ from run to run.
//! Of these, uuids must be the counterparts of the recorded ones ([`Names`]), times must lie within
//! [`TOLERANCE_SECONDS`] of the recorded ones (the clock is set to them), signatures must fit the token and expire when
//! the recorded ones do. `etag`s and request ids only have to be there.
//!
//! Listings that contain objects nobody recorded (flag L) are compared in spirit when they are not equal: the envelope,
//! the fields and types of the items, and completely those items that both sides know, in the same order.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use regex::Regex;
use serde_json::{Map, Value};

use super::names::Names;
use super::recording::{Recording, Response};
use super::signature;
use super::wire::{Answer, header};

/// The recorded times are known to a second, and the script took a moment between them.
const TOLERANCE_SECONDS: f64 = 2.0;

/// Texts of the discovery document for humans.
const PROSE: [&str; 4] = ["description", "title", "documentationLink", "enumDescriptions"];
/// Addresses, versions and times of a cluster in its discovery document.
const SURROUNDINGS: [&str; 11] = [
    "baseUrl",
    "rootUrl",
    "websocketUrl",
    "keepWebServiceUrl",
    "keepWebInlineServiceUrl",
    "generatedAt",
    "packageVersion",
    "revision",
    "source_version",
    "sourceVersion",
    "id",
];

/// One thing that is not as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// As recorded.
    pub expected: String,
    /// As answered.
    pub got: String,
}

/// How closely an answer was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closeness {
    /// Every value.
    Exact,
    /// Listings of other objects: form, and the items that both sides know.
    Spirit,
}

/// A comparison in progress.
#[derive(Debug)]
pub struct Comparison<'a> {
    names: &'a mut Names,
    /// Token of the request, for which signatures are made.
    token: String,
    rules: Rules,
    patterns: Patterns,
    differences: Vec<Difference>,
}

/// What is special about a recording.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Values are of the recorded cluster and mean nothing here: fields and types only.
    pub types_only: bool,
    /// Texts for humans may differ: descriptions and titles.
    pub prose: bool,
    /// Times are those at which the cluster was set up: only their form counts.
    pub any_time: bool,
    /// Which objects are listed depends on their uuids: as if flagged L.
    pub spirit: bool,
    /// Wording of an error that comes from Rails or its database, which differs between versions.
    pub wording: bool,
}

#[derive(Debug)]
struct Patterns {
    nine_digits: Regex,
    short_time: Regex,
    request_id: Regex,
    rails_prefix: Regex,
    nanoseconds: Regex,
    error_token: Regex,
}

/// Compares a whole answer with the recorded one; binds names on the way.
pub fn answers(
    recording: &Recording,
    answer: &Answer,
    names: &mut Names,
    token: &str,
    rules: Rules,
) -> (Vec<Difference>, Closeness) {
    let Some(expected) = &recording.response else { return (Vec::new(), Closeness::Exact) };
    let before = names.clone();
    let mut comparison = Comparison::new(names, token, rules);
    comparison.answer(recording, expected, answer, false);
    let differences = comparison.differences;
    if differences.is_empty() || !(recording.flagged('L') || rules.spirit) {
        return (differences, Closeness::Exact);
    }
    *names = before;
    let mut comparison = Comparison::new(names, token, rules);
    comparison.answer(recording, expected, answer, true);
    (comparison.differences, Closeness::Spirit)
}

/// Compares two values, as in event frames.
pub fn values(path: &str, expected: &Value, actual: &Value, names: &mut Names, token: &str) -> Vec<Difference> {
    let mut comparison = Comparison::new(names, token, Rules::default());
    comparison.bind(expected, actual);
    comparison.value(path, "", expected, actual);
    comparison.differences
}

impl<'a> Comparison<'a> {
    fn new(names: &'a mut Names, token: &str, rules: Rules) -> Self {
        let pattern = |text| Regex::new(text).expect("a good pattern");
        let patterns = Patterns {
            nine_digits: pattern(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$"),
            short_time: pattern(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,5}[1-9])?Z$"),
            request_id: pattern(r" ?\(req-[0-9a-z]{20}\)"),
            error_token: pattern(r"^\d{10}\+[0-9a-f]{8}$"),
            nanoseconds: pattern(r"\b\d{19}\b"),
            rails_prefix: pattern(r"^//railsapi\.internal/\S*: (\d{3}) [A-Za-z ]+: "),
        };
        Self { names, token: token.to_owned(), rules, patterns, differences: Vec::new() }
    }

    fn differ(&mut self, path: &str, expected: impl ToString, got: impl ToString) {
        let (expected, got) = (expected.to_string(), got.to_string());
        self.differences.push(Difference { path: path.to_owned(), expected, got });
    }

    fn answer(&mut self, recording: &Recording, expected: &Response, answer: &Answer, spirit: bool) {
        if answer.status != expected.status {
            let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
            self.differ("status", expected.status, format!("{} {body}", answer.status));
            return;
        }
        self.headers(recording, expected, answer);
        if answer.cut != expected.read_error.is_some() {
            self.differ("body", expected.read_error.as_deref().unwrap_or("complete"), format!("cut: {}", answer.cut));
        }
        match &expected.body {
            Value::Null if answer.body.is_empty() => {}
            Value::Null => self.differ("body", "none", String::from_utf8_lossy(&answer.body)),
            Value::String(text) => match std::str::from_utf8(&answer.body) {
                Ok(actual) => self.text("body", "", text, actual),
                Err(_) => self.differ("body", text, "bytes that are no text"),
            },
            json => match serde_json::from_slice(&answer.body) {
                Ok(actual) if spirit => self.listing(json, &actual),
                Ok(actual) => {
                    self.bind(json, &actual);
                    self.value("", "", json, &actual);
                }
                Err(error) => self.differ("body", "JSON", error),
            },
        }
    }

    fn headers(&mut self, recording: &Recording, expected: &Response, answer: &Answer) {
        let request = recording.request.as_ref();
        // Blocks and what is said about them; of JSON answers, nobody reads the length.
        let keep = request.is_some_and(|request| request.url.starts_with("http")) && !is_json(&expected.body);
        let options = request.is_some_and(|request| request.method == "OPTIONS");
        let mut read = vec!["Content-Type", "Location", "X-Keep-Locator", "Content-Disposition"];
        if keep {
            read.extend(["Content-Length", "X-Keep-Replicas-Stored", "X-Keep-Storage-Classes-Confirmed"]);
        }
        if options {
            read.extend([
                "Access-Control-Allow-Methods",
                "Access-Control-Allow-Headers",
                "Access-Control-Allow-Origin",
            ]);
        }
        if keep && expected.status == 200 {
            // Go's guess from the first bytes of a block, which nobody asks for.
            read.retain(|name| *name != "Content-Type");
        }
        for name in read {
            let (recorded, actual) = (header(&expected.headers, name), answer.header(name));
            let same = match (recorded, actual) {
                (Some(recorded), Some(actual)) => {
                    let recorded = signature::strip(&self.names.translate(recorded));
                    // Lists are in no order.
                    let parts = |value: &str| {
                        value.split(',').map(|part| part.trim().to_ascii_lowercase()).collect::<BTreeSet<_>>()
                    };
                    parts(&recorded) == parts(&signature::strip(actual))
                }
                // A length may be left to the end of the connection where nothing reads it.
                (None, Some(_)) if matches!(name, "Content-Type" | "Content-Length") => true,
                (Some(_), None) if name == "Content-Length" && answer.header("Transfer-Encoding").is_some() => true,
                (recorded, actual) => recorded == actual,
            };
            if !same {
                self.differ(name, recorded.unwrap_or("absent"), actual.unwrap_or("absent"));
            }
        }
        let sent = request.and_then(|request| request.headers.get("X-Request-Id"));
        let (recorded, actual) = (header(&expected.headers, "X-Request-Id"), answer.header("X-Request-Id"));
        let same = match recorded {
            Some(recorded) if sent.is_some_and(|sent| sent == recorded) => actual == Some(recorded),
            Some(_) => actual.is_some_and(|actual| actual.starts_with("req-")),
            None => true,
        };
        if !same {
            self.differ("X-Request-Id", recorded.unwrap_or("absent"), actual.unwrap_or("absent"));
        }
    }

    /// Binds the uuids of objects to each other before their other fields, which may mention them, are looked at.
    fn bind(&mut self, expected: &Value, actual: &Value) {
        match (expected, actual) {
            (Value::Object(expected), Value::Object(actual)) => {
                // Uuids of services have a length of their own, and ports are chosen anew.
                if expected.get("kind") == Some(&Value::from("arvados#keepService"))
                    && expected.get("service_port").map(|port| self.names.translate(&format!("port {port}")))
                        == actual.get("service_port").map(|port| format!("port {port}"))
                    && let (Some(Value::String(expected)), Some(Value::String(actual))) =
                        (expected.get("uuid"), actual.get("uuid"))
                {
                    self.names.replace(expected, actual);
                }
                for name in ["uuid", "current_version_uuid", "object_uuid"] {
                    if let (Some(Value::String(expected)), Some(Value::String(actual))) =
                        (expected.get(name), actual.get(name))
                    {
                        self.bind_uuid(expected, actual);
                    }
                }
                for (name, expected) in expected {
                    if let Some(actual) = actual.get(name) {
                        self.bind(expected, actual);
                    }
                }
            }
            (Value::Array(expected), Value::Array(actual)) => {
                expected.iter().zip(actual).for_each(|(expected, actual)| self.bind(expected, actual));
            }
            _ => {}
        }
    }

    fn bind_uuid(&mut self, expected: &str, actual: &str) {
        let both = self.names.is_uuid(expected) && self.names.is_uuid(actual);
        if both && expected[..12] == actual[..12] && self.names.here(expected).is_none() && !self.names.is_taken(actual)
        {
            self.names.bind(expected, actual);
        }
    }

    fn value(&mut self, path: &str, key: &str, expected: &Value, actual: &Value) {
        match (expected, actual) {
            (Value::Object(expected), Value::Object(actual)) => self.object(path, expected, actual),
            (Value::Array(expected), Value::Array(actual)) => self.array(path, key, expected, actual),
            (Value::String(expected), Value::String(actual)) => self.text(path, key, expected, actual),
            // Row numbers depend on what else was created.
            (Value::Number(_), Value::Number(_)) if key == "id" || self.rules.types_only => {}
            (Value::Number(expected), Value::Number(actual)) if key == "service_port" => {
                let wanted = self.names.translate(&format!("port {expected}"));
                if wanted != format!("port {actual}") {
                    self.differ(path, wanted, actual);
                }
            }
            (Value::Bool(_), Value::Bool(_)) if self.rules.types_only => {}
            (expected, actual) if expected == actual => {}
            (expected, actual) => self.differ(path, expected, actual),
        }
    }

    fn object(&mut self, path: &str, expected: &Map<String, Value>, actual: &Map<String, Value>) {
        if self.rules.types_only && (expected.is_empty() || actual.is_empty()) {
            return;
        }
        // Uuids and addresses can be names of fields, too.
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(name, value)| (self.names.translate(name), (name, value))).collect();
        for (here, (name, value)) in &expected {
            let path = format!("{path}.{here}");
            match actual.get(here) {
                Some(actual) => self.value(&path, name, value, actual),
                None => self.differ(&path, value, "absent"),
            }
        }
        for (name, value) in actual.iter().filter(|(name, _)| !expected.contains_key(*name)) {
            self.differ(&format!("{path}.{name}"), "absent", value);
        }
    }

    fn array(&mut self, path: &str, key: &str, expected: &[Value], actual: &[Value]) {
        if expected.len() != actual.len() && !self.rules.types_only {
            let show = |list: &[Value]| format!("{} elements {}", list.len(), Value::from(list.to_vec()));
            self.differ(path, show(expected), show(actual));
            return;
        }
        for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
            self.value(&format!("{path}[{index}]"), key, expected, actual);
        }
    }

    fn text(&mut self, path: &str, key: &str, expected: &str, actual: &str) {
        if expected == actual || self.rules.types_only {
            return;
        }
        if matches!(key, "etag" | "old_etag" | "new_etag") && expected.is_empty() == actual.is_empty() {
            return;
        }
        if self.rules.prose && (PROSE.contains(&key) || SURROUNDINGS.contains(&key)) {
            return;
        }
        if key == "api_token" && expected.len() == actual.len() {
            return self.names.replace(expected, actual);
        }
        if self.names.is_uuid(expected) {
            self.bind_uuid(expected, actual);
        }
        if self.times(expected, actual) {
            if self.patterns.nine_digits.is_match(expected) {
                self.names.replace(expected, actual);
            }
            return;
        }
        let (plain, wrong) = signature::check_and_strip(actual, &self.token, expected);
        for wrong in wrong {
            self.differ(path, "a good signature", wrong);
        }
        let (recorded, made) = (signature::expiries(expected), signature::expiries(actual));
        if recorded.len() == made.len() {
            for (recorded, made) in recorded.iter().zip(&made) {
                if (recorded - made).abs() > TOLERANCE_SECONDS as i64 {
                    self.differ(path, format!("expiry {recorded}"), format!("{made}, {} s later", made - recorded));
                }
            }
        }
        let error_token = key == "error_token" && self.patterns.error_token.is_match(actual);
        if error_token || key == "device_id" {
            return;
        }
        let wanted = signature::strip(&self.names.translate(expected));
        let ((wanted, recorded_times), (plain, times)) = (self.file_times(&wanted), self.file_times(&plain));
        for (recorded, time) in recorded_times.iter().zip(&times) {
            if (recorded - time).abs() > TOLERANCE_SECONDS {
                self.differ(path, recorded, time);
            }
        }
        if path.starts_with(".errors") {
            let brief = |text: &str| {
                let text = self.patterns.request_id.replace_all(text, "").into_owned();
                self.patterns.rails_prefix.replace(&text, "$1 ").into_owned()
            };
            let (wanted, plain) = (brief(&wanted), brief(&plain));
            if wanted != plain && !self.rules.wording {
                self.differ(path, wanted, plain);
            }
            return;
        }
        if wanted != plain {
            self.differ(path, wanted, plain);
        } else if recorded.len() != made.len() {
            self.differ(path, format!("{} signatures", recorded.len()), format!("{} signatures", made.len()));
        }
    }

    /// Whether both are times of the same form, not far from each other.
    fn times(&self, expected: &str, actual: &str) -> bool {
        let form = if self.patterns.nine_digits.is_match(expected) {
            &self.patterns.nine_digits
        } else if self.patterns.short_time.is_match(expected) {
            &self.patterns.short_time
        } else {
            return false;
        };
        let seconds = |text| DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros() as f64 / 1e6);
        match (seconds(expected), seconds(actual)) {
            (Some(expected), Some(actual_time)) => {
                let near = self.rules.any_time || (expected - actual_time).abs() <= TOLERANCE_SECONDS;
                form.is_match(actual) && near
            }
            _ => false,
        }
    }

    /// A text without times in nanoseconds, and those times in seconds.
    fn file_times(&self, text: &str) -> (String, Vec<f64>) {
        let times = self.patterns.nanoseconds.find_iter(text).filter_map(|found| found.as_str().parse::<f64>().ok());
        let times = times.map(|time| time / 1e9).collect();
        (self.patterns.nanoseconds.replace_all(text, "TIME").into_owned(), times)
    }

    /// A listing that contains other objects.
    fn listing(&mut self, expected: &Value, actual: &Value) {
        let (Value::Object(expected), Value::Object(actual)) = (expected, actual) else {
            return self.value("", "", expected, actual);
        };
        let lists = ["items", "included"];
        let without = |object: &Map<String, Value>| {
            let other = |name: &str| !lists.contains(&name) && name != "items_available";
            object.iter().filter(|(name, _)| other(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        self.object("", &without(expected), &without(actual));
        for name in ["items_available", "items", "included"] {
            match (expected.get(name), actual.get(name)) {
                (Some(Value::Array(expected)), Some(Value::Array(actual))) => {
                    self.items(&format!(".{name}"), expected, actual);
                }
                (Some(Value::Number(_)), Some(Value::Number(_))) | (None, None) => {}
                (expected, actual) => {
                    let show = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
                    self.differ(name, show(expected), show(actual));
                }
            }
        }
    }

    fn items(&mut self, path: &str, expected: &[Value], actual: &[Value]) {
        let expected: Vec<_> = expected.iter().filter_map(Value::as_object).collect();
        if expected.is_empty() != actual.is_empty() {
            self.differ(path, format!("{} items", expected.len()), format!("{} items", actual.len()));
            return;
        }
        let kind = |item: &Map<String, Value>| item.get("kind").cloned().unwrap_or_default();
        let mut forms: BTreeMap<String, Form> = BTreeMap::new();
        for item in &expected {
            forms.entry(kind(item).to_string()).or_default().learn(item);
        }
        let uuid = |item: &Map<String, Value>| item.get("uuid").and_then(Value::as_str).map(str::to_owned);
        let known: Vec<_> = expected
            .iter()
            .filter_map(|item| {
                uuid(item).and_then(|uuid| self.names.here(&uuid).map(str::to_owned)).map(|here| (here, item))
            })
            .collect();
        let places: Vec<_> = actual
            .iter()
            .filter_map(|item| {
                uuid(item.as_object()?).and_then(|uuid| known.iter().position(|(here, _)| *here == uuid))
            })
            .collect();
        let uuids = |items: &[&Map<String, Value>]| items.iter().filter_map(|item| uuid(item)).collect::<Vec<_>>();
        let got: Vec<_> = actual.iter().filter_map(Value::as_object).collect();
        // Uuids are random, so an order by uuid is another one here.
        let by_uuid = is_same_order_by_uuid(&uuids(&expected), &uuids(&got));
        if !places.is_sorted() && !by_uuid {
            self.differ(path, "the recorded order", format!("{places:?} of the items that both sides know"));
        }
        for (index, item) in actual.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(item) = item.as_object() else {
                self.differ(&path, "an object", item);
                continue;
            };
            if let Some(form) = forms.get(&kind(item).to_string()) {
                for (field, expected, got) in form.check(item) {
                    self.differ(&format!("{path}.{field}"), expected, got);
                }
            }
            let Some(place) = uuid(item).and_then(|uuid| known.iter().position(|(here, _)| *here == uuid)) else {
                continue;
            };
            self.object(&path, known[place].1, item);
        }
    }
}

/// Whether both are ordered by uuid, in the same direction: all of them, or those of each kind, as in the contents of a
/// project, with the kinds one after the other.
fn is_same_order_by_uuid(expected: &[String], got: &[String]) -> bool {
    let same = |expected: &[String], got: &[String]| {
        let recorded = direction(expected);
        recorded.is_some() && recorded == direction(got)
    };
    let kinds = |uuids: &[String]| -> Vec<Vec<String>> {
        uuids.chunk_by(|one, next| kind_of(one) == kind_of(next)).map(<[String]>::to_vec).collect()
    };
    let (recorded, found) = (kinds(expected), kinds(got));
    let each = || {
        recorded.len() == found.len()
            && recorded.iter().zip(&found).all(|(recorded, found)| {
                let is_alone = recorded.len() == 1 && found.len() == 1;
                kind_of(&recorded[0]) == kind_of(&found[0]) && (is_alone || same(recorded, found))
            })
    };
    same(expected, got) || each()
}

/// The part of a uuid that says what it is.
fn kind_of(uuid: &str) -> &str {
    uuid.get(6..11).unwrap_or(uuid)
}

/// Whether uuids ascend or descend; `None` if neither, or if there are too few to tell.
fn direction(uuids: &[String]) -> Option<std::cmp::Ordering> {
    use std::cmp::Ordering;
    let ascending = uuids.is_sorted();
    let descending = uuids.is_sorted_by(|one, next| one >= next);
    match (uuids.len() > 1, ascending, descending) {
        (true, true, false) => Some(Ordering::Less),
        (true, false, true) => Some(Ordering::Greater),
        _ => None,
    }
}

/// Fields of a kind of item, and the types seen in them.
#[derive(Debug, Default)]
struct Form {
    fields: BTreeMap<String, BTreeSet<&'static str>>,
}

impl Form {
    fn learn(&mut self, item: &Map<String, Value>) {
        for (name, value) in item {
            self.fields.entry(name.clone()).or_default().insert(type_of(value));
        }
    }

    fn check(&self, item: &Map<String, Value>) -> Vec<(String, String, String)> {
        let mut wrong = Vec::new();
        for (name, types) in &self.fields {
            match item.get(name).map(type_of) {
                None => wrong.push((name.clone(), format!("{types:?}"), "absent".to_owned())),
                // Null where something was recorded, or the other way round, may be due to the object.
                Some(got) if got == "null" || types.contains(got) || *types == BTreeSet::from(["null"]) => {}
                Some(got) => wrong.push((name.clone(), format!("{types:?}"), got.to_owned())),
            }
        }
        for name in item.keys().filter(|name| !self.fields.contains_key(*name)) {
            wrong.push((name.clone(), "absent".to_owned(), item[name].to_string()));
        }
        wrong
    }
}

fn is_json(body: &Value) -> bool {
    body.is_object() || body.is_array()
}

const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
