//! The short last pieces of files that were stored here a while ago, so that what is appended to such a file is stored with them.
//!
//! A file remembers its own short end for as long as somebody has it ([`super::file`]). But logs are mostly written by programs that
//! open them for each line, and each line would stay a block of its own. So the last ends are kept here, by what they are made of:
//! who opens a file for writing that still ends like that goes on from there. Only what this program has stored itself is known
//! here, and only the path that is written to is changed by it.
//!
//! The lock is a leaf.

use super::lease::Lease;
use crate::keep::Locator;
use crate::keep::signature::strip_signature;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Some hundred logs that are written in turn. Each end has at most 64 KiB, which are leased from the budget.
const MOST: usize = 256;

/// A short last piece, and permission to have it in memory.
#[derive(Clone)]
pub(super) struct OwnEnd {
    /// Where it begins in the file.
    pub start: u64,
    pub bytes: Bytes,
    pub _lease: Arc<Lease>,
}

/// Where it is in Keep: block without signature, and offset.
type Key = (String, u64);

#[derive(Default)]
pub(super) struct OwnEnds {
    /// The latest last.
    known: Mutex<VecDeque<(Key, OwnEnd)>>,
}

impl OwnEnds {
    fn key(locator: &Locator, offset: u64) -> Key {
        (strip_signature(locator.as_str()), offset)
    }

    pub fn put(&self, locator: &Locator, offset: u64, end: OwnEnd) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == MOST {
            known.pop_front();
        }
        known.push_back((Self::key(locator, offset), end));
    }

    /// The bytes of a file's last piece, which starts at `start` and has `length` bytes, if they are known.
    pub fn take(&self, locator: &Locator, offset: u64, (start, length): (u64, u64)) -> Option<OwnEnd> {
        let key = Self::key(locator, offset);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |(other, end): &(Key, OwnEnd)| *other == key && end.bytes.len() as u64 == length;
        let position = known.iter().rposition(is_it)?;
        let (_, end) = known.remove(position)?;
        Some(OwnEnd { start, ..end })
    }

    /// Gives their memory back, for somebody who needs it. Whether there was any.
    pub fn clear(&self) -> bool {
        let all = std::mem::take(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner));
        !all.is_empty()
    }
}
