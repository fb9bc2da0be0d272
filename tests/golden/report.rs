//! The verdict: what is covered, what is not and why, and a report that can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::comparison::Closeness;
use super::recording::{self, FOLDERS};
use super::replay::Outcome;

/// Of each folder, at least this part must answer as recorded.
const COVERED: f64 = 0.9;

/// Recordings that are not covered, with the reason: `folder/name: reason` per line of `uncovered.txt`.
pub fn uncovered() -> BTreeMap<String, String> {
    let path = recording::folder().join("uncovered.txt");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, reason) =
                line.split_once(": ").unwrap_or_else(|| panic!("{}: no reason in {line:?}", path.display()));
            (name.to_owned(), reason.to_owned())
        })
        .collect()
}

/// What is wrong, as text; empty when nothing is.
pub fn verdict(outcomes: &[Outcome], uncovered: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let known: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.path.as_str()).collect();
    for name in uncovered.keys().filter(|name| !known.contains(name.as_str())) {
        let _ = writeln!(text, "{name} is listed as uncovered, but there is no such recording");
    }
    for outcome in outcomes {
        match (outcome.differences.is_empty(), uncovered.contains_key(&outcome.path)) {
            (true, true) => {
                let _ = writeln!(text, "{} answers as recorded: take it off the list of uncovered ones", outcome.path);
            }
            (false, false) => text.push_str(&shown(outcome)),
            _ => {}
        }
    }
    for (folder, (covered, all)) in coverage(outcomes) {
        if f64::from(covered) < COVERED * f64::from(all) {
            let _ = writeln!(text, "{folder}: only {covered} of {all} answer as recorded");
        }
    }
    text
}

/// One line per folder.
pub fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for (folder, (covered, all)) in coverage(outcomes) {
        let spirit = |outcome: &&Outcome| {
            outcome.folder == folder && outcome.differences.is_empty() && outcome.closeness == Closeness::Spirit
        };
        let spirit = outcomes.iter().filter(spirit).count();
        let _ = writeln!(text, "{folder:14} {covered:3} of {all:3} as recorded, {spirit} of them in spirit");
    }
    text
}

/// All differences, for reading.
pub fn details(outcomes: &[Outcome]) -> String {
    outcomes.iter().filter(|outcome| !outcome.differences.is_empty()).map(shown).collect()
}

fn coverage(outcomes: &[Outcome]) -> BTreeMap<&'static str, (u32, u32)> {
    let mut folders: BTreeMap<_, _> = FOLDERS.into_iter().map(|folder| (folder, (0, 0))).collect();
    for outcome in outcomes {
        let entry = folders.entry(outcome.folder).or_default();
        entry.0 += u32::from(outcome.differences.is_empty());
        entry.1 += 1;
    }
    folders
}

/// Longest value that is shown in full, characters.
const SHOWN: usize = 260;
/// Most differences shown of one recording.
const MOST: usize = 12;

fn shown(outcome: &Outcome) -> String {
    let brief = |text: &str| match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    };
    let mut text = format!("{}\n", outcome.path);
    for difference in outcome.differences.iter().take(MOST) {
        let (expected, got) = (brief(&difference.expected), brief(&difference.got));
        let _ = writeln!(text, "    {}\n        expected {expected}\n        got      {got}", difference.path);
    }
    if outcome.differences.len() > MOST {
        let _ = writeln!(text, "    and {} more", outcome.differences.len() - MOST);
    }
    text
}
