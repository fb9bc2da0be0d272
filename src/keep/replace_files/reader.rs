//! The Go reader: what the controller takes a text for when it edits it (`protocol.md` 5.5, item 1), and what it refuses.
//!
//! It is stricter than the API server, which stores what the reader then refuses, and it knows nothing of the hash of a
//! block: whatever stands before the size will do. That is why this is not built on [`crate::keep::manifest::lines`].

use super::directory::{Directory, FilePiece, MAX_DEPTH, Origin};
use crate::keep::manifest::unescape;
use crate::keep::quote::quoted;
use std::sync::Arc;

/// Why the reader refuses a text. In the controller's words, but for signatures, which are not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ReadError {
    line: usize,
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("no trailing newline")]
    NoNewline,
    #[error("bad locator {}", quoted(.0))]
    Locator(String),
    #[error("bad file segment {}", quoted(.0))]
    FileToken(String),
    #[error("no file segments")]
    NoFiles,
    #[error("no locators")]
    NoLocators,
    #[error("no stream name")]
    NoStreamName,
    #[error("invalid segment in {size}-byte stream: {}", quoted(.token))]
    Beyond { size: u64, token: String },
    #[error("cannot use name {} with length {length}: {reason}", quoted(.name))]
    Name { name: String, length: u64, reason: &'static str },
}

/// A block of the line that is being read.
struct Block<'t> {
    text: &'t str,
    /// Made when the first piece needs it.
    locator: Option<Arc<str>>,
    start: u64,
    size: u64,
}

/// Reads a text into a tree whose pieces come from `origin`.
pub(super) fn read(text: &str, origin: Origin) -> Result<Directory, ReadError> {
    let mut tree = Directory::default();
    let Some(text) = text.strip_suffix('\n') else {
        let line = text.split('\n').count();
        return if text.is_empty() { Ok(tree) } else { Err(ReadError { line, reason: Reason::NoNewline }) };
    };
    for (index, line) in text.split('\n').enumerate() {
        read_line(&mut tree, line, origin).map_err(|reason| ReadError { line: index + 1, reason })?;
    }
    Ok(tree)
}

fn read_line(tree: &mut Directory, line: &str, origin: Origin) -> Result<(), Reason> {
    let mut tokens = line.split(' ');
    let stream = unescape(tokens.next().unwrap_or(""));
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut end = 0u64;
    let mut files = 0usize;
    for token in tokens {
        if !token.contains(':') {
            if files > 0 {
                return Err(Reason::FileToken(hide_signature(token)));
            }
            let size = token.split('+').nth(1).and_then(number).filter(|&size| size <= i32::MAX as u64);
            let size = size.ok_or_else(|| Reason::Locator(hide_signature(token)))?;
            blocks.push(Block { text: token, locator: None, start: end, size });
            end += size;
            continue;
        }
        if blocks.is_empty() {
            return Err(Reason::Locator(hide_signature(token)));
        }
        files += 1;
        read_file(tree, &stream, token, &mut blocks, end, origin)?;
    }
    match (files, blocks.is_empty(), stream.is_empty()) {
        (0, _, _) => Err(Reason::NoFiles),
        (_, true, _) => Err(Reason::NoLocators),
        (_, _, true) => Err(Reason::NoStreamName),
        _ => Ok(()),
    }
}

fn read_file(
    tree: &mut Directory,
    stream: &[u8],
    token: &str,
    blocks: &mut [Block<'_>],
    end: u64,
    origin: Origin,
) -> Result<(), Reason> {
    let mut parts = token.splitn(3, ':');
    let (position, length, name) = (parts.next().and_then(number), parts.next().and_then(number), parts.next());
    let (Some(position), Some(length), Some(name)) = (position, length, name) else {
        return Err(Reason::FileToken(token.to_owned()));
    };
    let refuse = |reason| Reason::Name { name: name.to_owned(), length, reason };
    let file = match file_at(tree, stream, &unescape(name)).map_err(refuse)? {
        Some(file) => file,
        None if length == 0 => return Ok(()),
        None => return Err(refuse("%!s(<nil>)")),
    };
    let stop = position.checked_add(length).filter(|&stop| length == 0 || stop <= end);
    let stop = stop.ok_or_else(|| Reason::Beyond { size: end, token: token.to_owned() })?;
    // A range without length that begins inside a block is still a piece of it: the controller keeps the block listed and
    // the position (found by comparing random manifests with the reference server). At the border of a block it is none.
    let first = blocks.partition_point(|block| block.start + block.size <= position);
    for block in blocks[first..].iter_mut().take_while(|block| block.start < stop).filter(|block| block.size > 0) {
        let (from, to) = (position.max(block.start), stop.min(block.start + block.size));
        file.push(FilePiece {
            locator: block.locator.get_or_insert_with(|| Arc::from(block.text)).clone(),
            origin,
            block_size: block.size,
            offset: from - block.start,
            length: to - from,
        });
    }
    Ok(())
}

/// The file at a path, made with its directories; `None` if the path ends in `.`, which only makes the directory.
fn file_at<'d>(
    tree: &'d mut Directory,
    stream: &[u8],
    name: &[u8],
) -> Result<Option<&'d mut Vec<FilePiece>>, &'static str> {
    let (parents, last) = match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (&b""[..], name),
    };
    let mut path: Vec<&[u8]> = Vec::new();
    for part in stream.split(|&byte| byte == b'/').chain(parents.split(|&byte| byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => {
                // A directory that is left again has been made all the same.
                directory_at(tree, &path)?;
                path.pop().ok_or("invalid argument")?;
            }
            part => path.push(part),
        }
    }
    if path.len() > MAX_DEPTH {
        return Err("path too deep");
    }
    let directory = directory_at(tree, &path)?;
    match last {
        b"." => Ok(None),
        b"" | b".." => Err("invalid file part in path"),
        last => directory.file(last).map(Some).ok_or("cannot rename file to overwrite existing directory"),
    }
}

/// The directory at a path, made with those above it.
fn directory_at<'d>(tree: &'d mut Directory, path: &[&[u8]]) -> Result<&'d mut Directory, &'static str> {
    path.iter().try_fold(tree, |directory, part| directory.subdirectory(part).ok_or("file already exists"))
}

/// A decimal number as Go's `ParseInt` takes it, if it is not negative.
fn number(text: &str) -> Option<u64> {
    text.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok())
}

/// A token up to its signature.
fn hide_signature(token: &str) -> String {
    token.split("+A").next().unwrap_or(token).to_owned()
}
