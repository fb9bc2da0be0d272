//! One rule of the fault interface, and the list of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drop {
    /// Before the request has any effect.
    Before,
    /// When all is done, instead of the answer.
    After,
    /// In the middle of the body of the answer.
    Mid,
}

/// What happens to requests that match. Keys as in the acceptance suite's README; unknown ones are ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Methods it applies to; none: all.
    pub method: Option<Vec<String>>,
    /// Regular expression that is searched in the path; none: all paths.
    pub path: Option<Pattern>,
    /// Text that must be in the body, byte for byte; none: all bodies.
    pub body: Option<String>,
    /// Requests that match and are let through first.
    pub skip: u64,
    /// How often it applies; none: for ever.
    pub times: Option<u64>,
    /// Seconds to wait first.
    pub delay: Option<f64>,
    /// Status to answer instead.
    pub status: Option<u16>,
    /// Text of that answer.
    pub message: Option<String>,
    /// That answer has no body at all.
    pub empty: bool,
    /// The request takes effect before it is answered with `status`.
    pub apply_first: bool,
    /// Cut the connection.
    pub drop: Option<Drop>,
    /// Bytes a second of the body, for all connections together.
    pub bandwidth: Option<f64>,
    /// `flip` or `truncate` the block.
    pub corrupt: Option<String>,
    /// Number of the keepstore that it is for; none: all.
    pub only: Option<usize>,
    /// How often it has applied.
    pub hits: u64,
}

impl Rule {
    /// The time to wait first.
    pub fn delay(&self) -> Option<Duration> {
        self.delay.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    fn matches(&self, method: &str, path: &str, body: &[u8]) -> bool {
        self.method.as_ref().is_none_or(|methods| methods.is_empty() || methods.iter().any(|wanted| wanted == method))
            && self.path.as_ref().is_none_or(|pattern| pattern.0.is_match(path))
            && self.body.as_ref().is_none_or(|text| contains(body, text.as_bytes()))
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text)
}

/// A regular expression that travels as its text.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Regex::new(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The rules in force. The lock is held to look through them, and nothing is called under it.
#[derive(Debug, Default)]
pub struct Rules(Mutex<Vec<Rule>>);

impl Rules {
    /// Replaces all rules.
    pub fn replace(&self, rules: Vec<Rule>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// The rules and how often they have applied.
    pub fn list(&self) -> Vec<Rule> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first rule that applies to a request, counted as applied.
    pub fn take(&self, method: &str, path: &str, body: &[u8]) -> Option<Rule> {
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for rule in rules.iter_mut().filter(|rule| rule.matches(method, path, body)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            match &mut rule.times {
                Some(0) => continue,
                Some(times) => *times -= 1,
                None => {}
            }
            rule.hits += 1;
            return Some(rule.clone());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Rules {
        let rules = Rules::default();
        rules.replace(serde_json::from_str(json).unwrap());
        rules
    }

    #[test]
    fn a_rule_applies_after_its_skips_and_as_often_as_it_says() {
        let rules = rules(r#"[{"method": ["GET"], "path": "users/c", "skip": 1, "times": 2, "status": 503}]"#);
        let statuses: Vec<_> =
            (0..5).map(|_| rules.take("GET", "/arvados/v1/users/current", b"").and_then(|rule| rule.status)).collect();
        assert_eq!(statuses, [None, Some(503), Some(503), None, None]);
        assert!(rules.take("PUT", "/arvados/v1/users/current", b"").is_none());
        assert_eq!(rules.list()[0].hits, 2);
    }

    #[test]
    fn the_first_rule_that_still_applies_wins() {
        let rules = rules(r#"[{"times": 1, "drop": "before"}, {"delay": 0.5}, {"status": 500}]"#);
        assert_eq!(rules.take("GET", "/", b"").unwrap().drop, Some(Drop::Before));
        assert_eq!(rules.take("GET", "/", b"").unwrap().delay(), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_rule_for_a_text_leaves_bodies_without_it_alone() {
        let rules = rules(r#"[{"body": "/bad", "status": 400}]"#);
        let put = |body: &[u8]| rules.take("PUT", "/", body).and_then(|rule| rule.status);
        assert_eq!((put(b"{\"/good\": 1}"), put(b"{\"/bad\": 1}"), put(b"")), (None, Some(400), None));
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        assert!(serde_json::from_str::<Rule>(r#"{"path": "("}"#).is_err());
    }
}
