//! The client's reader: a manifest line by line, without a copy.

use crate::keep::locator::{LocatorError, LocatorText};

/// What is wrong with a manifest, and in which line (counted from 1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("manifest line {line}: {reason}")]
pub struct ManifestError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What can be wrong with a line. Tokens are named by their position, as a token may hold a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The text was cut off, most likely.
    #[error("does not end with a newline: the text was cut off")]
    NoNewline,
    /// Blank line, or a line that starts with a space.
    #[error("no stream name")]
    NoStreamName,
    /// A stream name has to be `.` or start with `./`.
    #[error("stream name does not start with \".\"")]
    StreamName,
    /// No block.
    #[error("no locator")]
    NoLocator,
    /// No file.
    #[error("no file token")]
    NoFileToken,
    /// A token before the first file token is no locator.
    #[error("token {token}: {error}")]
    Locator {
        /// Counted from 1, the stream name not counted.
        token: usize,
        /// What is wrong with it.
        error: LocatorError,
    },
    /// A token is not `position:length:name` with decimal numbers and a name.
    #[error("file token {token} is not \"position:length:name\"")]
    FileToken {
        /// Counted from 1 among the file tokens.
        token: usize,
    },
    /// Where the following blocks start is unknown, so the files cannot be read.
    #[error("block {block} has no size and is not the last of its stream")]
    BlockWithoutSize {
        /// Counted from 1.
        block: usize,
    },
    /// Sizes that add up to more than 64 bits hold.
    #[error("sizes are too large")]
    TooLarge,
    /// A name with a component that cannot be a name (`..`, or nothing).
    #[error("file token {token}: the name has a component that is empty, \".\" or \"..\"")]
    Name {
        /// Counted from 1 among the file tokens; 0 is the stream name.
        token: usize,
    },
    /// More than a tree can count.
    #[error("more than 2^31 files, blocks or bytes of names")]
    TooMany,
}

/// The lines of a manifest. See [`Line`].
pub fn lines(text: &str) -> Lines<'_> {
    Lines { rest: text, number: 0 }
}

/// Iterator over the lines of a manifest; ends after the first error.
#[derive(Debug, Clone)]
pub struct Lines<'t> {
    rest: &'t str,
    number: usize,
}

impl<'t> Iterator for Lines<'t> {
    type Item = Result<Line<'t>, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let line = match self.rest.split_once('\n') {
            Some((line, rest)) => {
                self.rest = rest;
                Line::parse(line, self.number)
            }
            None => Err(ManifestError { line: self.number, reason: Reason::NoNewline }),
        };
        if line.is_err() {
            self.rest = "";
        }
        Some(line)
    }
}

/// One stream, taken apart so far that its locators and its file tokens are known to be there; each is checked when it is
/// reached.
#[derive(Debug, Clone, Copy)]
pub struct Line<'t> {
    /// Counted from 1.
    pub number: usize,
    /// The stream name, escaped: `.` or `./…`.
    pub name: &'t str,
    blocks: &'t str,
    files: &'t str,
}

/// A file, or a part of one: a range of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileToken<'t> {
    /// First byte in the stream.
    pub position: u64,
    /// Number of bytes.
    pub length: u64,
    /// The name, escaped; may contain `/`.
    pub name: &'t str,
}

impl<'t> Line<'t> {
    fn parse(text: &'t str, number: usize) -> Result<Line<'t>, ManifestError> {
        let fail = |reason| Err(ManifestError { line: number, reason });
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        if name.is_empty() {
            return fail(Reason::NoStreamName);
        }
        if name != "." && !name.starts_with("./") && !matches!(name.get(..4), Some("\\056")) {
            return fail(Reason::StreamName);
        }
        // A file token has a colon and a locator has none, so the first colon tells where the files start.
        let Some(colon) = rest.find(':') else {
            return fail(if rest.is_empty() { Reason::NoLocator } else { Reason::NoFileToken });
        };
        match rest[..colon].rfind(' ') {
            None => fail(Reason::NoLocator),
            Some(space) => Ok(Line { number, name, blocks: &rest[..space], files: &rest[space + 1..] }),
        }
    }

    /// The blocks in order.
    pub fn locators(&self) -> impl Iterator<Item = Result<LocatorText<'t>, ManifestError>> + use<'t> {
        let line = self.number;
        self.blocks.split(' ').enumerate().map(move |(index, token)| {
            let reason = |error| Reason::Locator { token: index + 1, error };
            LocatorText::parse(token).map_err(|error| ManifestError { line, reason: reason(error) })
        })
    }

    /// The file tokens in order.
    pub fn files(&self) -> impl Iterator<Item = Result<FileToken<'t>, ManifestError>> + use<'t> {
        let line = self.number;
        self.files.split(' ').enumerate().map(move |(index, token)| {
            FileToken::parse(token).ok_or(ManifestError { line, reason: Reason::FileToken { token: index + 1 } })
        })
    }
}

impl<'t> FileToken<'t> {
    fn parse(token: &'t str) -> Option<FileToken<'t>> {
        let (position, rest) = token.split_once(':')?;
        let (length, name) = rest.split_once(':')?;
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let token = FileToken { position: number(position)?, length: number(length)?, name };
        (!name.is_empty()).then_some(token)
    }

    /// Whether this is the mark of a directory without entries: a "file" of no bytes named `.` (`protocol.md` 5.1).
    pub fn marks_directory(&self) -> bool {
        self.length == 0 && matches!(self.name, "." | "\\056")
    }
}
