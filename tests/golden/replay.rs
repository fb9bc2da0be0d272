//! Replaying: everything in the order in which it was recorded, into one cluster, at the recorded times.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};

use super::cluster::{ALICE, Cluster};
use super::comparison::{self, Closeness, Difference, Rules};
use super::names::Names;
use super::preparation::{self, Action, Damage, Step};
use super::recording::{self, Recording, Request};
use super::signature;
use super::stream::Events;
use super::wire::{Answer, Service, exchange};

/// What became of one recording.
#[derive(Debug)]
pub struct Outcome {
    /// `folder/name`
    pub path: String,
    /// Folder alone.
    pub folder: &'static str,
    /// How closely it was compared.
    pub closeness: Closeness,
    /// What was not as recorded.
    pub differences: Vec<Difference>,
}

/// The state of a replay.
pub struct Replay<'a> {
    /// What answers.
    pub cluster: &'a Cluster,
    /// Recorded names and ours.
    pub names: Names,
    events: Events,
    time: DateTime<Utc>,
}

/// A difference that is not one between two values.
pub fn problem(path: &str, expected: &str, got: impl ToString) -> Difference {
    Difference { path: path.to_owned(), expected: expected.to_owned(), got: got.to_string() }
}

impl<'a> Replay<'a> {
    /// Ready to start.
    pub fn new(cluster: &'a Cluster) -> Self {
        let mut names = Names::new();
        for (recorded, service) in cluster.services() {
            names.replace(recorded, &service.address.to_string());
            if let Some((_, port)) = recorded.rsplit_once(':') {
                names.replace(&format!("port {port}"), &format!("port {}", service.address.port()));
            }
        }
        for (recorded, here) in cluster.volumes() {
            names.bind(&recorded, &here);
        }
        Self { cluster, names, events: Events::default(), time: DateTime::UNIX_EPOCH }
    }

    /// Replays everything.
    pub fn run(mut self) -> Vec<Outcome> {
        let mut steps = preparation::all().into_iter().peekable();
        let mut outcomes = Vec::new();
        let mut discovery = Value::Null;
        for mut recording in recording::all() {
            // Recorded once, and identical.
            match recording.response.as_mut() {
                Some(response) if recording.name == "01-discovery" => discovery = response.body.clone(),
                Some(response) if response.body == "(as in 01-discovery)" => response.body = discovery.clone(),
                _ => {}
            }
            let mut differences = Vec::new();
            while let Some(step) = steps.next_if(|step| step.before <= recording.seq) {
                differences.extend(self.prepare(&step).err());
            }
            let (found, closeness) = self.one(&recording);
            differences.extend(found);
            let (path, folder) = (recording.path(), recording.folder);
            outcomes.push(Outcome { path, folder, closeness, differences });
        }
        outcomes
    }

    fn one(&mut self, recording: &Recording) -> (Vec<Difference>, Closeness) {
        if recording.frames.is_empty() {
            self.set_time(moment(recording));
        }
        if let Some(request) = &recording.request {
            let mut request = request.clone();
            // A locator that is none to most eyes, so its signature was not made anew with the published key.
            if recording.name == "03-create-manifest-uppercase-hash"
                && let Some(Value::String(text)) = request.body.pointer_mut("/collection/manifest_text")
            {
                *text = signature::sign_all(&signature::strip(text), ALICE, self.expiry());
            }
            let request = &request;
            let token = self.token(request);
            return match self.send(request) {
                Ok(answer) => comparison::answers(recording, &answer, &mut self.names, &token, rules(recording)),
                Err(error) => (vec![problem("answer", "one", error)], Closeness::Exact),
            };
        }
        if recording.frames.is_empty() {
            return (super::race::run(self, recording), Closeness::Exact);
        }
        let mut events = std::mem::take(&mut self.events);
        let differences = events.replay(self, recording);
        self.events = events;
        (differences, Closeness::Exact)
    }

    /// When a signature made now expires.
    fn expiry(&self) -> i64 {
        self.time.timestamp() + signature::TTL
    }

    /// Time only goes on, but for preparations that happened long before.
    fn set_time(&mut self, time: DateTime<Utc>) {
        self.time = self.time.max(time);
        self.cluster.set_time(self.time);
    }

    /// Sets the clock to a moment that is known exactly.
    pub fn set_exact_time(&mut self, time: DateTime<Utc>) {
        self.set_time(time);
    }

    /// Sends a recorded request, in this run's names.
    fn send(&self, request: &Request) -> std::io::Result<Answer> {
        let (service, target) =
            self.cluster.locate(&request.url).ok_or_else(|| std::io::Error::other("no such service here"))?;
        let target = self.names.translate(&target);
        let headers: Vec<_> =
            request.headers.iter().map(|(name, value)| (name.clone(), self.names.translate(value))).collect();
        let body = self.body(&request.body).or_else(|| {
            // As Python's client does for methods that usually have one.
            matches!(request.method.as_str(), "PUT" | "POST" | "PATCH").then(Vec::new)
        });
        exchange(service, &request.method, &target, &headers, body.as_deref())
    }

    fn body(&self, body: &Value) -> Option<Vec<u8>> {
        match body {
            Value::Null => None,
            // Larger than the server takes: 128 MiB.
            Value::String(text) if text.ends_with("…[shortened]") => {
                let mut text = text.trim_end_matches("…[shortened]").to_owned();
                text.extend(std::iter::repeat_n('x', 128 << 20));
                Some(text.into_bytes())
            }
            Value::String(text) => Some(self.names.translate(text).into_bytes()),
            Value::Object(map) if map.contains_key("hex") => hex::decode(map["hex"].as_str()?).ok(),
            Value::Object(map) if map.contains_key("repeated") => {
                let (byte, times) = (map["repeated"].as_str()?.bytes().next()?, map["times"].as_u64()?);
                Some(vec![byte; usize::try_from(times).ok()?])
            }
            json => Some(self.names.translate(&json.to_string()).into_bytes()),
        }
    }

    /// The token for which signatures are made in the answer to a request.
    fn token(&self, request: &Request) -> String {
        let header = request.headers.get("Authorization");
        let token = header.and_then(|header| header.split_once(' ')).map_or("", |(_, token)| token.trim());
        let query =
            || request.url.split_once("api_token=").map_or("", |(_, rest)| rest.split('&').next().unwrap_or(""));
        let token = if token.is_empty() { query() } else { token };
        self.names.translate(&token.replace("%2F", "/"))
    }

    /// A request of the ordinary user to the API, in recorded names.
    pub fn request(&self, method: &str, path: &str, body: &Value, token: &str) -> std::io::Result<Answer> {
        let target = if path.starts_with('/') { path.to_owned() } else { format!("/arvados/v1/{path}") };
        let mut headers = BTreeMap::from([("Authorization".to_owned(), format!("Bearer {token}"))]);
        if !body.is_null() {
            headers.insert("Content-Type".to_owned(), "application/json".to_owned());
        }
        self.send(&Request { method: method.to_owned(), url: target, headers, body: body.clone() })
    }

    fn prepare(&mut self, step: &Step) -> Result<(), Difference> {
        let failed = |got: &dyn ToString| problem("preparation", &format!("{:?}", step.action), got.to_string());
        let at = time(&step.at);
        self.cluster.set_time(at);
        match &step.action {
            Action::Request { method, path, body, is } => {
                let mut body = body.clone();
                if let Some(Value::String(text)) = body.pointer_mut("/collection/manifest_text") {
                    *text = signature::sign_all(text, ALICE, (at + Duration::seconds(signature::TTL)).timestamp());
                }
                let answer = self.request(method, path, &body, ALICE).map_err(|error| failed(&error))?;
                let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                match (answer.status, is, json["uuid"].as_str()) {
                    (200, Some(recorded), Some(uuid)) => self.names.bind(recorded, uuid),
                    (200, None, _) => {}
                    _ => return Err(failed(&format!("{} {json}", answer.status))),
                }
            }
            Action::Damage { damage: Damage { block, was, becomes } } => {
                let headers = [("Authorization".to_owned(), format!("Bearer {ALICE}"))];
                let target = format!("/{block}");
                exchange(self.cluster.keepstore(), "PUT", &target, &headers, Some(was.as_bytes()))
                    .and_then(|_| self.cluster.damage(block, becomes.as_bytes()))
                    .map_err(|error| failed(&error))?;
            }
            Action::Full { full } => self.cluster.set_full(*full, at).map_err(|error| failed(&error))?,
        }
        Ok(())
    }
}

/// Reads a time of the recordings.
pub fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap_or_else(|error| panic!("{text}: {error}")).to_utc()
}

/// When a recording was made: to the microsecond if its answer tells, otherwise to the second.
fn moment(recording: &Recording) -> DateTime<Utc> {
    fn times(value: &Value, found: &mut Vec<DateTime<Utc>>) {
        match value {
            Value::String(text) if text.len() == 30 => {
                found.extend(DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()));
            }
            Value::Array(list) => list.iter().for_each(|value| times(value, found)),
            Value::Object(map) => map.values().for_each(|value| times(value, found)),
            _ => {}
        }
    }
    let about = time(&recording.recorded);
    let mut found = Vec::new();
    times(&recording.response.as_ref().map_or_else(|| json!(null), |response| response.body.clone()), &mut found);
    let near = |time: &DateTime<Utc>| (*time - about).abs() <= Duration::milliseconds(1200);
    found.into_iter().filter(near).max().unwrap_or(about)
}

/// Recordings that are compared in another way than most.
fn rules(recording: &Recording) -> Rules {
    match recording.name.as_str() {
        "01-config" => Rules { types_only: true, ..Rules::default() },
        "01-discovery" | "01-discovery-bad-token" => Rules { prose: true, ..Rules::default() },
        "02-keep-services-list" => Rules { spirit: true, any_time: true, ..Rules::default() },
        name if name.contains("keep-services") => Rules { any_time: true, ..Rules::default() },
        // Three of many, by their uuids.
        "03-list-filter-pdh" => Rules { spirit: true, ..Rules::default() },
        _ => Rules::default(),
    }
}

/// The service of a URL that is not the API's.
pub fn service_of(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    Some(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

/// Services by what the recordings call them.
pub type Services = Vec<(&'static str, Service)>;
