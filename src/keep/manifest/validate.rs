//! The API server's gate: what it accepts on create and update, and what it says when it does not (`protocol.md` 5.3).
//!
//! Much is *not* checked there and so not here either: whether ranges lie in their stream, whether one path is a file and
//! a directory, whether sizes are true or even present.

use super::name::unescape;
use crate::keep::locator::LocatorText;
use std::fmt::Write;

/// Why the API server refuses a manifest, in its words; it answers 422 with `Manifest text ` before them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidationError {
    /// The text does not end with a newline.
    #[error("Invalid manifest: does not end with newline")]
    NoNewline,
    /// A line is wrong.
    #[error("Manifest invalid for stream {stream}: {reason}")]
    Stream {
        /// The line, counted from 1.
        stream: usize,
        /// In the server's words. Tokens that could be locators are shown without their hints, unlike the server does.
        reason: String,
    },
}

/// Accepts exactly what the API server accepts.
pub fn validate(text: &str) -> Result<(), ValidationError> {
    if text.is_empty() {
        return Ok(());
    }
    let text = text.strip_suffix('\n').ok_or(ValidationError::NoNewline)?;
    for (index, line) in text.split('\n').enumerate() {
        stream(line).map_err(|reason| ValidationError::Stream { stream: index + 1, reason })?;
    }
    Ok(())
}

fn stream(line: &str) -> Result<(), String> {
    if line.trim_end_matches(' ').is_empty() {
        return Err("missing stream name".to_owned());
    }
    // Ruby's split drops empty tokens at the end; that there were some is checked last.
    let mut tokens = line.trim_end_matches(' ').split(' ').peekable();
    let name = tokens.next().unwrap_or("");
    if has_large_escape(name) {
        return Err(format!(">8-bit encoded chars not allowed on stream token {}", inspect(name)));
    }
    if !(is_escaped(name) && is_stream_name(&unescape(name))) {
        return Err(format!("missing or invalid stream name {}", inspect(name)));
    }
    let mut locators = 0;
    while tokens.next_if(|token| LocatorText::parse(token).is_ok() || is_locator_with_huge_size(token)).is_some() {
        locators += 1;
    }
    if locators == 0 {
        return Err(format!("missing or invalid locator {}", tokens.next().map(inspect).unwrap_or_default()));
    }
    // Only the first file token is looked at for these.
    if let Some(token) = tokens.peek().filter(|token| has_large_escape(token)) {
        return Err(format!(">8-bit encoded chars not allowed on file token {}", inspect(token)));
    }
    let mut files = 0;
    while tokens.next_if(|token| is_file_token(token)).is_some() {
        files += 1;
    }
    match tokens.next() {
        Some(token) => Err(format!("invalid file token {}", inspect(token))),
        None if files == 0 => Err("no file tokens".to_owned()),
        None if line.ends_with(' ') => Err("trailing space".to_owned()),
        None => Ok(()),
    }
}

/// Our locators hold sizes of 64 bits; the server's pattern takes any number of digits.
fn is_locator_with_huge_size(token: &str) -> bool {
    matches!(LocatorText::parse(token), Err(crate::keep::locator::LocatorError::Size { .. }))
        && token[33..].split('+').next().is_some_and(|size| size.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Non-empty, no byte up to 0x20, and a backslash only before three octal digits up to 377.
fn is_escaped(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (b'\\', [b'0'..=b'3', b'0'..=b'7', b'0'..=b'7', tail @ ..]) => tail,
            (b'\\' | 0..=b' ', _) => return false,
            _ => tail,
        };
    }
    !text.is_empty()
}

/// A backslash, not the first character and not behind another one, before an octal number above 377.
fn has_large_escape(text: &str) -> bool {
    text.as_bytes()
        .windows(5)
        .any(|window| matches!(window, [before, b'\\', b'4'..=b'7', b'0'..=b'7', b'0'..=b'7'] if *before != b'\\'))
}

fn is_stream_name(name: &[u8]) -> bool {
    match name.strip_prefix(b".") {
        Some([]) => true,
        Some([b'/', path @ ..]) => path.split(|&byte| byte == b'/').all(is_component),
        _ => false,
    }
}

fn is_component(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
}

fn is_file_token(token: &str) -> bool {
    if matches!(token, "0:0:." | "0:0:\\056") {
        return true;
    }
    let mut parts = token.splitn(3, ':');
    let mut number = || parts.next().is_some_and(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    let numbers = number() && number();
    numbers
        && parts.next().is_some_and(|name| is_escaped(name) && unescape(name).split(|&b| b == b'/').all(is_component))
}

/// A token in quotes as Ruby's `inspect` writes it, hints of locators left out.
fn inspect(token: &str) -> String {
    let shown = LocatorText::parse(token).map_or(token, |locator| locator.portable());
    let shown = crate::keep::signature::strip_signature(shown);
    let mut text = String::with_capacity(shown.len() + 2);
    text.push('"');
    for (index, character) in shown.char_indices() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '#' if shown[index + 1..].starts_with(['{', '$', '@']) => text.push_str("\\#"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\x07' => text.push_str("\\a"),
            '\x08' => text.push_str("\\b"),
            '\x0b' => text.push_str("\\v"),
            '\x0c' => text.push_str("\\f"),
            '\x1b' => text.push_str("\\e"),
            '\0'..' ' | '\x7f' => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\x{:02X}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
    text
}
