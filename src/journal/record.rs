//! What stands in the log: records, each of which can be found and checked without those before it.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the mark: `0xFF` and `JR1` |
//! | 4 | length of the text, little-endian |
//! | 4 | CRC-32 of these length bytes and the text, little-endian |
//! | length | the text: JSON, a record or a list of them |
//!
//! `0xFF` is never a byte of UTF-8, so the mark is not in any text: after damage, the next record is at the next mark
//! whose checksum holds. A log begins with a list of no records: one of no bytes at all has not been made so, and has lost what
//! was in it. A checksum is enough, because this is about accidents: who could forge a record owns the files anyway.

use super::change::{Change, Sent, Sequence};
use super::error::Error;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::Range;

const MARK: [u8; 4] = [0xFF, b'J', b'R', b'1'];

/// Mark, length, checksum.
const HEADER: usize = 12;

/// What every log begins with: the frame of a list without records. The checksum is that of the four bytes of the length, 2, and
/// `[]`.
pub const BEGINNING: &[u8; HEADER + 2] = b"\xFFJR1\x02\0\0\0\x7E\xA9\x9F\xB0[]";

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record<'r> {
    Change {
        sequence: Sequence,
        collection: Cow<'r, str>,
        change: Cow<'r, Change>,
    },
    /// All of the collection up to this sequence is on the server.
    Settled {
        collection: Cow<'r, str>,
        up_to: Sequence,
    },
    /// A save that puts this at these paths is about to be sent. Whoever finds no [`Record::Arrived`] behind it cannot know
    /// whether it reached the server.
    Sent {
        collection: Cow<'r, str>,
        save: Cow<'r, Sent>,
    },
    /// The last save that was sent has reached the server, and what was sent before and did not will never.
    Arrived {
        collection: Cow<'r, str>,
    },
    /// The last save that was sent was refused, and will never reach the server.
    Withdrawn {
        collection: Cow<'r, str>,
    },
}

/// What could be read of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// In order, with their size in the log, in bytes; those that were written together have the mean of theirs.
    pub records: Vec<(Record<'static>, u64)>,
    /// Parts that are no records, in bytes from the beginning, in order.
    pub damage: Vec<Range<usize>>,
}

/// The bytes of a record.
pub fn encode(record: &Record<'_>) -> Result<Vec<u8>, Error> {
    frame(record)
}

/// The bytes of records of which all are in the log or none, whenever the process dies: they share one checksum.
pub fn encode_together(records: &[Record<'_>]) -> Result<Vec<u8>, Error> {
    if let [record] = records { encode(record) } else { frame(records) }
}

fn frame(text: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, text)?;
    let length = bytes.len() - HEADER;
    let length = u32::try_from(length).map_err(|_| Error::TooLarge { length })?;
    bytes[..4].copy_from_slice(&MARK);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(&bytes[4..8], &bytes[HEADER..]);
    bytes[8..HEADER].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

fn checksum(length: &[u8], text: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(text);
    hasher.finalize()
}

/// Reads all that is whole.
pub fn decode(bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let mut at = 0;
    while at < bytes.len() {
        if let Some((records, size)) = first(&bytes[at..]) {
            let each = (size / records.len().max(1)) as u64;
            decoded.records.extend(records.into_iter().map(|record| (record, each)));
            at += size;
            continue;
        }
        // The bad header's own mark is skipped; its length is not believed.
        let next = (at + 1..bytes.len()).find(|&next| bytes[next..].starts_with(&MARK)).unwrap_or(bytes.len());
        match decoded.damage.last_mut() {
            Some(last) if last.end == at => last.end = next,
            _ => decoded.damage.push(at..next),
        }
        at = next;
    }
    decoded
}

/// The record that `bytes` begins with, or those that were written together, and their size.
fn first(bytes: &[u8]) -> Option<(Vec<Record<'static>>, usize)> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let length = header[4..8].try_into().ok().map(u32::from_le_bytes)?;
    let sum = header[8..].try_into().ok().map(u32::from_le_bytes)?;
    let length = usize::try_from(length).ok()?;
    let text = rest.get(..length)?;
    if header[..4] != MARK || checksum(&header[4..8], text) != sum {
        return None;
    }
    let records = match text.first() {
        Some(b'[') => serde_json::from_slice(text).ok()?,
        _ => vec![serde_json::from_slice(text).ok()?],
    };
    Some((records, HEADER + length))
}
