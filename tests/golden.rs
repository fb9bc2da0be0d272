//! The embedded cluster answers as a real one did.

mod golden {
    pub mod cluster;
    pub mod comparison;
    pub mod names;
    pub mod preparation;
    pub mod race;
    pub mod recording;
    pub mod replay;
    pub mod report;
    pub mod signature;
    pub mod stream;
    pub mod wire;
}

use golden::cluster::Cluster;
use golden::comparison::{self, Rules};
use golden::names::Names;
use golden::replay::Replay;
use golden::wire::Answer;
use golden::{recording, report};
use serde_json::Value;

fn recorded_answer(recording: &recording::Recording) -> Option<Answer> {
    let response = recording.response.as_ref()?;
    let body = match &response.body {
        Value::Null => Vec::new(),
        Value::String(text) => text.clone().into_bytes(),
        json => json.to_string().into_bytes(),
    };
    let (status, headers, cut) = (response.status, response.headers.clone(), response.read_error.is_some());
    Some(Answer { status, headers, body, cut })
}

/// The token of a recorded request, or of whoever made most of them.
fn token(recording: &recording::Recording) -> String {
    let header = recording.request.as_ref().and_then(|request| request.headers.get("Authorization"));
    header.and_then(|header| header.split_once(' ')).map_or_else(String::new, |(_, token)| token.to_owned())
}

#[test]
fn every_recorded_answer_agrees_with_itself() {
    let mut compared = 0;
    for recording in recording::all() {
        let Some(answer) = recorded_answer(&recording) else { continue };
        let mut names = Names::new();
        let token = token(&recording);
        let (differences, _) = comparison::answers(&recording, &answer, &mut names, &token, Rules::default());
        assert!(differences.is_empty(), "{}: {differences:#?}", recording.path());
        compared += 1;
    }
    assert!(compared > 600, "only {compared}");
}

#[test]
fn an_answer_that_says_something_else_is_found_out() {
    let all = recording::all();
    let recording = all.iter().find(|recording| recording.name == "03-create-manifest").expect("it was recorded");
    let good = recorded_answer(recording).expect("it has an answer");
    let spoilt = |from: &str, to: &str| {
        let text = String::from_utf8(good.body.clone()).expect("JSON is text");
        assert!(text.contains(from), "{from}");
        let body = text.replacen(from, to, 1).into_bytes();
        let answer = Answer { status: good.status, headers: good.headers.clone(), body, cut: false };
        let mut names = Names::new();
        comparison::answers(recording, &answer, &mut names, &token(recording), Rules::default()).0
    };
    for (from, to) in [
        ("\"file_count\":3", "\"file_count\":4"),
        ("\"file_count\":3", "\"file_count\":\"3\""),
        ("\"description\":null,", ""),
        ("\"version\":1", "\"version\":1,\"extra\":null"),
        ("2742fdbeb8ee759329927088a846dbdb+149", "2742fdbeb8ee759329927088a846dbdb+148"),
        ("0:3:foo.txt", "0:3:fou.txt"),
        ("+A3a9d844b", "+A3a9d844c"),
        ("10.452512000Z", "10.452512Z"),
        ("20:42:10.452512000Z", "20:43:10.452512000Z"),
        ("\"owner_uuid\":\"zzzzz-tpzed", "\"owner_uuid\":\"zzzzz-j7d0g"),
        ("\"list\":[\"a\",\"b\"]", "\"list\":[\"b\",\"a\"]"),
    ] {
        assert!(!spoilt(from, to).is_empty(), "{from} as {to} was not noticed");
    }
}

/// Uuids are random: of what a project contains, each kind ordered by uuid, the recorded order is another run's in another order.
#[test]
fn an_order_by_uuid_is_that_of_this_run() {
    let all = recording::all();
    let recording = all.iter().find(|it| it.name == "04-contents-project-page1").expect("it was recorded");
    let good = recorded_answer(recording).expect("it has an answer");
    let recorded: Value = serde_json::from_slice(&good.body).expect("it is JSON");
    let uuid = |index: usize| recorded["items"][index]["uuid"].as_str().expect("it has one").to_owned();
    let (group, first, second) = (uuid(0), uuid(1), uuid(2));
    assert!(group.contains("-j7d0g-") && first.contains("-4zz18-") && first < second);
    let (low, high) = ("zzzzz-4zz18-aaaaaaaaaaaaaaa", "zzzzz-4zz18-bbbbbbbbbbbbbbb");
    let differences = |names_here: [&str; 2]| {
        let mut names = Names::new();
        let mut body = recorded.clone();
        for ((index, recorded), here) in [(1, &first), (2, &second)].into_iter().zip(names_here) {
            names.bind(recorded, here);
            body["items"][index]["uuid"] = here.into();
        }
        // What is asked for is the order of this run's uuids, or else nothing is.
        body["items"].as_array_mut().expect("a list").swap(1, 2);
        let body = body.to_string().into_bytes();
        let answer = Answer { status: good.status, headers: good.headers.clone(), body, cut: false };
        comparison::answers(recording, &answer, &mut names, &token(recording), Rules::default()).0
    };
    assert_eq!(differences([high, low]), [], "by uuid");
    assert_eq!(differences([low, high]).len(), 1, "by nothing");
}

#[test]
fn an_object_must_keep_its_name() {
    let mut names = Names::new();
    let recorded = Value::from("zzzzz-4zz18-r1l4tmqy2k3g51g");
    let (one, other) = (Value::from("zzzzz-4zz18-aaaaaaaaaaaaaaa"), Value::from("zzzzz-4zz18-bbbbbbbbbbbbbbb"));
    assert_eq!(comparison::values("", &recorded, &one, &mut names, ""), []);
    assert_eq!(comparison::values("", &recorded, &one, &mut names, ""), []);
    assert_eq!(comparison::values("", &recorded, &other, &mut names, "").len(), 1);
    let another = Value::from("zzzzz-4zz18-000000000000abc");
    assert_eq!(comparison::values("", &another, &one, &mut names, "").len(), 1);
}

#[test]
fn what_is_not_covered_is_listed_with_a_reason() {
    let all: Vec<_> = recording::all().iter().map(recording::Recording::path).collect();
    for (name, reason) in report::uncovered() {
        assert!(all.contains(&name), "{name} is no recording");
        assert!(reason.len() > 20, "{name}: {reason}");
    }
}

/// The proof itself. The details of a failure go to the standard output; with `GOLDEN_REPORT` they go to that file, those
/// of the recordings listed as uncovered too.
#[test]
fn the_embedded_cluster_answers_as_the_recorded_one_did() {
    let cluster = Cluster::start();
    let outcomes = Replay::new(&cluster).run();
    let summary = report::summary(&outcomes);
    if let Some(file) = std::env::var_os("GOLDEN_REPORT") {
        std::fs::write(file, format!("{summary}\n{}", report::details(&outcomes))).expect("a report file");
    }
    let verdict = report::verdict(&outcomes, &report::uncovered());
    assert!(verdict.is_empty(), "{summary}\n{verdict}");
    println!("{summary}");
}
