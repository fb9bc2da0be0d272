//! The Go reader: what the controller takes a text for when it edits it (`protocol.md` 5.5, item 1), and what it refuses.
//!
//! It is stricter than the API server, which stores what the reader then refuses, and it knows nothing of the hash of a
//! block: whatever stands before the size will do. That is why this is not built on [`crate::keep::manifest::lines`].

use super::directory::{Directory, MAX_DEPTH};
use super::pieces::{self, FilePiece, Origin, Pieces};
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

/// The blocks of the line that is being read.
struct Blocks<'t> {
    list: Vec<Block<'t>>,
    end: u64,
    origin: Origin,
}

struct Block<'t> {
    text: &'t str,
    /// Made when the first piece needs it.
    made: Option<Arc<pieces::Block>>,
    start: u64,
    size: u64,
}

impl<'t> Blocks<'t> {
    fn add(&mut self, text: &'t str, size: u64) {
        self.list.push(Block { text, made: None, start: self.end, size });
        self.end += size;
    }

    /// Appends the pieces that a token stands for.
    fn cut(&mut self, token: &FileToken<'_>, file: &mut Pieces) -> Result<(), Reason> {
        let &FileToken { text, position, length, .. } = token;
        let stop = position.checked_add(length).filter(|&stop| length == 0 || stop <= self.end);
        let stop = stop.ok_or_else(|| Reason::Beyond { size: self.end, token: text.to_owned() })?;
        // A range without length that begins inside a block is still a piece of it: the controller keeps the block listed and
        // the position (found by comparing random manifests with the reference server). At the border of a block it is none.
        let first = self.list.partition_point(|block| block.start + block.size <= position);
        let blocks = self.list[first..].iter_mut().take_while(|block| block.start < stop);
        for block in blocks.filter(|block| block.size > 0) {
            let (from, to) = (position.max(block.start), stop.min(block.start + block.size));
            file.push(FilePiece {
                block: block
                    .made
                    .get_or_insert_with(|| pieces::Block::new(block.text, block.size, self.origin))
                    .clone(),
                offset: from - block.start,
                length: to - from,
            });
        }
        Ok(())
    }
}

/// `position:length:name`.
struct FileToken<'t> {
    text: &'t str,
    position: u64,
    length: u64,
    name: &'t str,
}

impl<'t> FileToken<'t> {
    fn parse(text: &'t str) -> Result<FileToken<'t>, Reason> {
        if !text.contains(':') {
            return Err(Reason::FileToken(hide_signature(text)));
        }
        let mut parts = text.splitn(3, ':');
        let (position, length, name) = (parts.next().and_then(number), parts.next().and_then(number), parts.next());
        let (Some(position), Some(length), Some(name)) = (position, length, name) else {
            return Err(Reason::FileToken(text.to_owned()));
        };
        Ok(FileToken { text, position, length, name })
    }

    fn refuse(&self, reason: &'static str) -> Reason {
        Reason::Name { name: self.name.to_owned(), length: self.length, reason }
    }
}

/// Whether the name of a token stands for itself: a file in the directory of its line, with nothing escaped.
fn is_plain(token: &str) -> bool {
    let name = token.splitn(3, ':').nth(2).unwrap_or_default();
    !matches!(name, "" | "." | "..") && !name.bytes().any(|byte| matches!(byte, b'/' | b'\\'))
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
    let mut blocks = Blocks { list: Vec::new(), end: 0, origin };
    let mut tokens = tokens.peekable();
    while let Some(token) = tokens.next_if(|token| !token.contains(':')) {
        let size = token.split('+').nth(1).and_then(number).filter(|&size| size <= i32::MAX as u64);
        blocks.add(token, size.ok_or_else(|| Reason::Locator(hide_signature(token)))?);
    }
    let files: Vec<&str> = tokens.collect();
    if let (Some(first), true) = (files.first(), blocks.list.is_empty()) {
        return Err(Reason::Locator(hide_signature(first)));
    }
    for run in files.chunk_by(|one, next| is_plain(one) == is_plain(next)) {
        if is_plain(run[0]) {
            read_plain(tree, &stream, run, &mut blocks)?;
        } else {
            run.iter().try_for_each(|token| read_file(tree, &stream, token, &mut blocks))?;
        }
    }
    match (files.is_empty(), blocks.list.is_empty(), stream.is_empty()) {
        (true, _, _) => Err(Reason::NoFiles),
        (_, true, _) => Err(Reason::NoLocators),
        (_, _, true) => Err(Reason::NoStreamName),
        _ => Ok(()),
    }
}

/// Files of one directory. A large one is a line of names in order, so it is found once, and filled at once.
fn read_plain(tree: &mut Directory, stream: &[u8], mut tokens: &[&str], blocks: &mut Blocks<'_>) -> Result<(), Reason> {
    let first = FileToken::parse(tokens[0])?;
    let directory = stream_at(tree, stream).map_err(|reason| first.refuse(reason))?;
    if directory.is_empty() {
        let mut sorted: Vec<(&str, Pieces)> = Vec::with_capacity(tokens.len());
        while let [token, rest @ ..] = tokens {
            let token = FileToken::parse(token)?;
            match sorted.last_mut() {
                Some((last, pieces)) if *last == token.name => blocks.cut(&token, pieces)?,
                Some((last, _)) if *last > token.name => break,
                _ => {
                    let mut pieces = Pieces::None;
                    blocks.cut(&token, &mut pieces)?;
                    sorted.push((token.name, pieces));
                }
            }
            tokens = rest;
        }
        directory.fill(sorted.into_iter().map(|(name, pieces)| (name.as_bytes(), pieces)));
    }
    for token in tokens {
        let token = FileToken::parse(token)?;
        let file = directory.file(token.name.as_bytes()).ok_or_else(|| token.refuse(IS_DIRECTORY))?;
        blocks.cut(&token, file)?;
    }
    Ok(())
}

fn read_file(tree: &mut Directory, stream: &[u8], token: &str, blocks: &mut Blocks<'_>) -> Result<(), Reason> {
    let token = FileToken::parse(token)?;
    match file_at(tree, stream, &unescape(token.name)).map_err(|reason| token.refuse(reason))? {
        Some(file) => blocks.cut(&token, file),
        None if token.length == 0 => Ok(()),
        None => Err(token.refuse("%!s(<nil>)")),
    }
}

const IS_DIRECTORY: &str = "cannot rename file to overwrite existing directory";

/// The file at a path, made with its directories; `None` if the path ends in `.`, which only makes the directory.
fn file_at<'d>(tree: &'d mut Directory, stream: &[u8], name: &[u8]) -> Result<Option<&'d mut Pieces>, &'static str> {
    let (parents, last) = match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (&b""[..], name),
    };
    let directory = named_at(tree, stream.split(|&byte| byte == b'/').chain(parents.split(|&byte| byte == b'/')))?;
    match last {
        b"." => Ok(None),
        b"" | b".." => Err("invalid file part in path"),
        last => directory.file(last).map(Some).ok_or(IS_DIRECTORY),
    }
}

/// The directory of a stream, made with those above it.
fn stream_at<'d>(tree: &'d mut Directory, stream: &[u8]) -> Result<&'d mut Directory, &'static str> {
    named_at(tree, stream.split(|&byte| byte == b'/'))
}

/// The directory to which names lead, made with those above it.
fn named_at<'d, 'n>(
    tree: &'d mut Directory,
    names: impl Iterator<Item = &'n [u8]>,
) -> Result<&'d mut Directory, &'static str> {
    let mut path: Vec<&[u8]> = Vec::new();
    for name in names {
        match name {
            b"" | b"." => {}
            b".." => {
                // A directory that is left again has been made all the same.
                directory_at(tree, &path)?;
                path.pop().ok_or("invalid argument")?;
            }
            name => path.push(name),
        }
    }
    if path.len() > MAX_DEPTH {
        return Err("path too deep");
    }
    directory_at(tree, &path)
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
