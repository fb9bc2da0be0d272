//! What was asked of a service, for tests that count requests.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

/// Entries that are kept; a test looks at far fewer.
const CAPACITY: usize = 50_000;

/// A numbered log of requests. The lock is held to add or copy entries, and nothing is called under it.
#[derive(Default)]
pub struct Journal(Mutex<State>);

#[derive(Default)]
struct State {
    last: u64,
    active: u64,
    most_active: u64,
    entries: VecDeque<Map<String, Value>>,
}

impl Journal {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request has begun; returns its number. `entry` must be an object.
    pub fn begin(&self, entry: Value, time: f64) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        state.active += 1;
        state.most_active = state.most_active.max(state.active);
        let number = state.last;
        let mut fields = match entry {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("seq".to_owned(), json!(number));
        fields.insert("t".to_owned(), json!(time));
        if state.entries.len() >= CAPACITY {
            state.entries.pop_front();
        }
        state.entries.push_back(fields);
        number
    }

    /// Adds to the entry of a request that is still running.
    pub fn note(&self, number: u64, name: &str, value: Value) {
        let mut state = self.lock();
        let first = state.last + 1 - state.entries.len() as u64;
        let index = number.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| state.entries.get_mut(index)) {
            entry.insert(name.to_owned(), value);
        }
    }

    /// Notes that a request has ended.
    pub fn end(&self) {
        let mut state = self.lock();
        state.active = state.active.saturating_sub(1);
    }

    /// Everything after request `since`.
    pub fn since(&self, since: u64) -> Vec<Value> {
        let state = self.lock();
        let after =
            |entry: &&Map<String, Value>| entry.get("seq").and_then(Value::as_u64).is_some_and(|seq| seq > since);
        state.entries.iter().filter(after).map(|entry| Value::Object(entry.clone())).collect()
    }

    /// The number of the last request.
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// The largest number of requests at one time, since the start or the last reset.
    pub fn most_active(&self) -> u64 {
        self.lock().most_active
    }

    /// Begins to look for the largest number anew.
    pub fn reset_most_active(&self) {
        let mut state = self.lock();
        state.most_active = state.active;
    }

    /// Forgets the entries, not the numbers.
    pub fn clear(&self) {
        self.lock().entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_numbered_and_found_by_number() {
        let journal = Journal::default();
        let first = journal.begin(json!({"m": "GET"}), 1.0);
        let second = journal.begin(json!({"m": "PUT"}), 2.0);
        journal.note(first, "status", json!(200));
        journal.end();
        assert_eq!(journal.since(0)[0], json!({"m": "GET", "seq": 1, "t": 1.0, "status": 200}));
        assert_eq!(journal.since(first), [json!({"m": "PUT", "seq": 2, "t": 2.0})]);
        assert_eq!((journal.last(), journal.most_active()), (second, 2));
        journal.reset_most_active();
        assert_eq!(journal.most_active(), 1);
        journal.clear();
        journal.note(second, "status", json!(200));
        assert_eq!((journal.since(0).len(), journal.last()), (0, 2));
    }
}
