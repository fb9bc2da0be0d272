//! From a manifest text to a [`Base`], in one pass over the text and one sort.
//!
//! What is written down for each file token is its directory, its name and its range. A stable sort by directory and name
//! then brings together the tokens of one file, in their order of appearance, and puts the files into the order of the
//! arrays. Manifests come sorted nearly always, and the sort notices: it is one comparison per file then.
//!
//! Text that damaged clients have stored is read as `arv-mount` reads it, or refused with line and reason:
//! * A range that reaches beyond its stream is cut there (`protocol.md` 5.7, V20), as Python does.
//! * A block without size may only be the last of its stream: elsewhere nobody knows where the next one starts. It is taken
//!   to reach as far as the files do.
//! * One path as a file and as a directory: `arv-mount` refuses the whole collection. Here the directory has the name, and
//!   the file stands beside it under its name and [`CLASH_SUFFIX`], so that both can be read.
//! * Empty components and `.` in a path are skipped, `..` is refused.

use super::base::{Base, DIRECTORY, Node};
use super::block_table::BlockInterner;
use super::name_table::NameInterner;
use crate::keep::manifest::{self, FileToken, Line, ManifestError, Reason, unescape};
use hashbrown::HashTable;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// What is appended to the name of a file whose path is a directory too.
pub(super) const CLASH_SUFFIX: &[u8] = b"~file~";

/// The greatest size of a file or stream: what the kernel can count.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Nodes, ranges and stream blocks are counted in 32 bits, one of which marks directories.
const MAX_COUNT: usize = 1 << 31;

/// A directory while it is collected.
struct Directory {
    parent: u32,
    name: u32,
}

/// A file token.
#[derive(Clone, Copy)]
struct Token {
    directory: u32,
    name: u32,
    stream: u32,
    position: u64,
    length: u64,
}

struct Builder<'t> {
    names: NameInterner,
    blocks: BlockInterner<'t>,
    directories: Vec<Directory>,
    /// Directories by parent and name.
    index: HashTable<u32>,
    hasher: RandomState,
    tokens: Vec<Token>,
    base: Base,
}

/// Reads a manifest.
pub(super) fn parse(text: &str) -> Result<Base, ManifestError> {
    let mut builder = Builder {
        names: NameInterner::default(),
        blocks: BlockInterner::default(),
        directories: Vec::new(),
        index: HashTable::new(),
        hasher: RandomState::new(),
        tokens: Vec::new(),
        base: Base { streams: vec![0], ..Base::default() },
    };
    let root = builder.names.intern(b"").ok_or(ManifestError { line: 0, reason: Reason::TooMany })?;
    builder.directories.push(Directory { parent: 0, name: root });
    let mut number = 0;
    for line in manifest::lines(text) {
        let line = line?;
        number = line.number;
        builder.line(line)?;
    }
    builder.finish().map_err(|reason| ManifestError { line: number, reason })
}

impl<'t> Builder<'t> {
    fn line(&mut self, line: Line<'t>) -> Result<(), ManifestError> {
        let fail = |reason| ManifestError { line: line.number, reason };
        let stream = self.stream(line)?;
        let end = self.stream_end(stream);
        let name = unescape(line.name);
        let directory = self.path(0, &name).map_err(|reason| fail(reason.at(0)))?;
        for (index, token) in line.files().enumerate() {
            let FileToken { position, length, name } = token?;
            let name = unescape(name);
            let refuse = |reason: PathError| fail(reason.at(index + 1));
            let (parent, name) = match name.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => (self.path(directory, &name[..slash]).map_err(refuse)?, &name[slash + 1..]),
                None => (directory, &*name),
            };
            if name == b"." && length == 0 {
                continue;
            }
            if matches!(name, b"" | b"." | b"..") {
                return Err(refuse(PathError::Component));
            }
            let name = self.names.intern(name).ok_or(fail(Reason::TooMany))?;
            let length = length.min(end.saturating_sub(position));
            self.tokens.push(Token { directory: parent, name, stream, position, length });
        }
        if self.tokens.len() >= MAX_COUNT { Err(fail(Reason::TooMany)) } else { Ok(()) }
    }

    /// Enters the blocks of a line.
    fn stream(&mut self, line: Line<'t>) -> Result<u32, ManifestError> {
        let fail = |reason| ManifestError { line: line.number, reason };
        let mut end = 0u64;
        let mut unsized_block = None;
        for (index, locator) in line.locators().enumerate() {
            let locator = locator?;
            if let Some(block) = unsized_block {
                return Err(fail(Reason::BlockWithoutSize { block }));
            }
            let size = match locator.size() {
                Some(size) => size,
                None => {
                    unsized_block = Some(index + 1);
                    farthest_end(line)?.saturating_sub(end)
                }
            };
            end = end.checked_add(size).filter(|&end| end <= MAX_SIZE).ok_or(fail(Reason::TooLarge))?;
            let block = self.blocks.intern(locator, size).ok_or(fail(Reason::TooMany))?;
            self.base.stream_blocks.push(block);
            self.base.stream_ends.push(end);
        }
        if self.base.stream_blocks.len() >= MAX_COUNT {
            return Err(fail(Reason::TooMany));
        }
        self.base.streams.push(self.base.stream_blocks.len() as u32);
        Ok(self.base.streams.len() as u32 - 2)
    }

    fn stream_end(&self, stream: u32) -> u64 {
        self.base.stream(stream).1.last().copied().unwrap_or(0)
    }

    /// The directory at `path` below `directory`, made if it is new.
    fn path(&mut self, directory: u32, path: &[u8]) -> Result<u32, PathError> {
        let mut current = directory;
        for name in path.split(|&byte| byte == b'/') {
            current = match name {
                b"" | b"." => current,
                b".." => return Err(PathError::Component),
                _ => self.child(current, name).ok_or(PathError::TooMany)?,
            };
        }
        Ok(current)
    }

    fn child(&mut self, parent: u32, name: &[u8]) -> Option<u32> {
        let name = self.names.intern(name)?;
        let hash = self.hasher.hash_one((parent, name));
        let all = &self.directories;
        let same = |&number: &u32| all[number as usize].parent == parent && all[number as usize].name == name;
        if let Some(&number) = self.index.find(hash, same) {
            return Some(number);
        }
        let number = u32::try_from(all.len()).ok().filter(|&number| number < DIRECTORY)?;
        self.index.insert_unique(hash, number, |&number| {
            self.hasher.hash_one((all[number as usize].parent, all[number as usize].name))
        });
        self.directories.push(Directory { parent, name });
        Some(number)
    }

    /// Gives files that share their path with a directory another name, which neither a file nor a directory has.
    fn part_clashes(&mut self) -> Option<()> {
        if self.directories.len() == 1 {
            return Some(());
        }
        let clashes: HashSet<(u32, u32)> = (self.tokens.iter().map(|token| (token.directory, token.name)))
            .filter(|&(directory, name)| self.has_directory(directory, name))
            .collect();
        if clashes.is_empty() {
            return Some(());
        }
        let mut taken: HashSet<(u32, u32)> = self.tokens.iter().map(|token| (token.directory, token.name)).collect();
        let mut renamed = HashMap::with_capacity(clashes.len());
        // In the order of the text, so that the outcome does not depend on the seed of a table.
        for index in 0..self.tokens.len() {
            let Token { directory, name, .. } = self.tokens[index];
            if !clashes.contains(&(directory, name)) {
                continue;
            }
            let other = match renamed.get(&(directory, name)) {
                Some(&other) => other,
                None => {
                    let mut text = self.names.names.get(name).to_vec();
                    let other = loop {
                        text.extend_from_slice(CLASH_SUFFIX);
                        let other = self.names.intern(&text)?;
                        if !self.has_directory(directory, other) && taken.insert((directory, other)) {
                            break other;
                        }
                    };
                    renamed.insert((directory, name), other);
                    other
                }
            };
            self.tokens[index].name = other;
        }
        Some(())
    }

    fn has_directory(&self, parent: u32, name: u32) -> bool {
        let all = &self.directories;
        let same = |&number: &u32| all[number as usize].parent == parent && all[number as usize].name == name;
        self.index.find(self.hasher.hash_one((parent, name)), same).is_some()
    }

    fn compare_names(&self, left: u32, right: u32) -> Ordering {
        if left == right { Ordering::Equal } else { self.names.names.get(left).cmp(self.names.names.get(right)) }
    }

    /// Lays the nodes out, breadth first.
    fn finish(mut self) -> Result<Base, Reason> {
        self.part_clashes().ok_or(Reason::TooMany)?;
        let mut tokens = std::mem::take(&mut self.tokens);
        tokens.sort_by(|a, b| a.directory.cmp(&b.directory).then_with(|| self.compare_names(a.name, b.name)));
        let mut order: Vec<u32> = (1..self.directories.len() as u32).collect();
        order.sort_by(|&a, &b| {
            let (a, b) = (&self.directories[a as usize], &self.directories[b as usize]);
            a.parent.cmp(&b.parent).then_with(|| self.compare_names(a.name, b.name))
        });
        let mut base = std::mem::take(&mut self.base);
        base.range_streams.reserve_exact(tokens.len());
        base.range_positions.reserve_exact(tokens.len());
        base.range_ends.reserve_exact(tokens.len());
        base.nodes.push(Node { name: self.directories[0].name, parent: 0, first: 0, count: DIRECTORY });
        let mut next = 0;
        while next < base.nodes.len() {
            let node = base.nodes[next];
            if node.count & DIRECTORY != 0 {
                // Until its turn comes, a directory keeps its provisional number where its first child will stand.
                let first = base.nodes.len();
                self.lay_out(&mut base, next as u32, node.first, &tokens, &order)?;
                base.nodes[next].first = first as u32;
                base.nodes[next].count = DIRECTORY | (base.nodes.len() - first) as u32;
            }
            next += 1;
        }
        base.names = self.names.names;
        self.blocks.blocks.shrink();
        base.blocks = Arc::new(self.blocks.blocks);
        base.shrink();
        Ok(base)
    }

    /// Appends the children of a directory by name.
    fn lay_out(
        &self,
        base: &mut Base,
        parent: u32,
        directory: u32,
        tokens: &[Token],
        order: &[u32],
    ) -> Result<(), Reason> {
        let start = tokens.partition_point(|token| token.directory < directory);
        let length = tokens[start..].partition_point(|token| token.directory == directory);
        let mut files = &tokens[start..start + length];
        let start = order.partition_point(|&number| self.directories[number as usize].parent < directory);
        let length = order[start..].partition_point(|&number| self.directories[number as usize].parent == directory);
        let mut directories = &order[start..start + length];
        loop {
            let directory_name = directories.first().map(|&number| self.directories[number as usize].name);
            let node = match (files.first(), directory_name) {
                (None, None) => return Ok(()),
                (Some(token), other)
                    if other.is_none_or(|other| self.compare_names(token.name, other) == Ordering::Less) =>
                {
                    let length = files.iter().take_while(|other| other.name == token.name).count();
                    let first = base.range_ends.len() as u32;
                    push_ranges(base, &files[..length]).ok_or(Reason::TooLarge)?;
                    files = &files[length..];
                    Node { name: token.name, parent, first, count: base.range_ends.len() as u32 - first }
                }
                (_, Some(name)) => {
                    let number = directories[0];
                    directories = &directories[1..];
                    Node { name, parent, first: number, count: DIRECTORY }
                }
                // The guard above holds when there is no directory left.
                (Some(_), None) => return Err(Reason::TooMany),
            };
            base.nodes.push(node);
            if base.nodes.len() >= MAX_COUNT {
                return Err(Reason::TooMany);
            }
        }
    }
}

/// Appends the ranges of one file; those that continue each other become one.
fn push_ranges(base: &mut Base, tokens: &[Token]) -> Option<()> {
    let mut end = 0u64;
    let mut last: Option<(u32, u64)> = None;
    for token in tokens.iter().filter(|token| token.length > 0) {
        end = end.checked_add(token.length).filter(|&end| end <= MAX_SIZE)?;
        if last == Some((token.stream, token.position)) {
            *base.range_ends.last_mut()? = end;
        } else {
            base.range_streams.push(token.stream);
            base.range_positions.push(token.position);
            base.range_ends.push(end);
        }
        last = Some((token.stream, token.position + token.length));
    }
    Some(())
}

/// Where the last byte stands that a file of the line wants.
fn farthest_end(line: Line<'_>) -> Result<u64, ManifestError> {
    line.files().try_fold(0, |end: u64, token| {
        let token = token?;
        Ok(end.max(token.position.saturating_add(token.length)))
    })
}

/// What can be wrong with a path.
enum PathError {
    Component,
    TooMany,
}

impl PathError {
    fn at(self, token: usize) -> Reason {
        match self {
            PathError::Component => Reason::Name { token },
            PathError::TooMany => Reason::TooMany,
        }
    }
}
