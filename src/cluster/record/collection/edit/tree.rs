//! The controller's view of a manifest: a tree of files made of segments, read and written as it does.
//!
//! This is not the reader for clients ([`crate::keep::manifest::lines`]): it refuses what the Go reader refuses, in its
//! words, and takes what it takes, such as a block size of 2^31 or `..` in a stream name. Locators are told apart by
//! their whole text, signature included (protocol.md 5.5, item 6).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;

use crate::cluster::answer::{Failure, quoted};
use crate::keep::manifest::{EMPTY_BLOCK, Form, Piece, Writer};

/// A piece of a block that is a piece of a file.
pub type Segment = Piece<u32>;

/// Locators by number. Equal numbers are equal texts.
#[derive(Debug, Default)]
pub struct Blocks {
    numbers: HashMap<Rc<str>, u32>,
    locators: Vec<Rc<str>>,
}

impl Blocks {
    /// The number of a locator.
    pub fn intern(&mut self, locator: &str, _size: u64) -> u32 {
        if let Some(number) = self.numbers.get(locator) {
            return *number;
        }
        let (locator, number) = (Rc::<str>::from(locator), u32::try_from(self.locators.len()).unwrap_or(u32::MAX));
        self.locators.push(Rc::clone(&locator));
        self.numbers.insert(locator, number);
        number
    }

    fn text(&self, number: u32) -> &str {
        self.locators.get(number as usize).map_or(EMPTY_BLOCK, |locator| locator)
    }

    /// The 32 digits of a locator.
    pub fn hash(&self, number: u32) -> &str {
        self.text(number).split('+').next().unwrap_or_default()
    }
}

/// A file or a directory.
#[derive(Clone, Debug)]
pub enum Node {
    /// Its bytes, in order.
    File(Vec<Segment>),
    /// Its entries.
    Directory(Directory),
}

/// Entries by name, in the order of bytes.
#[derive(Clone, Debug, Default)]
pub struct Directory(BTreeMap<Vec<u8>, Node>);

/// Why a path leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub enum LookupError {
    /// There is nothing of that name.
    Missing,
    /// Something else.
    Other(&'static str),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "file does not exist",
            Self::Other(text) => text,
        })
    }
}

/// A name that the controller's file systems keep for themselves at the top.
const SPECIAL: &[u8] = b".arvados#collection";

impl Directory {
    /// What a source path names. `..` takes back the component before it, a slash at the end wants a directory.
    ///
    /// # Errors
    /// When it names nothing, or a file where a directory must be.
    pub fn lookup(&self, path: &str) -> Result<Node, LookupError> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut components: Vec<&str> = Vec::new();
        for component in above.split('/').chain((name == "..").then_some("..")) {
            match component {
                "" | "." => {}
                ".." => drop(components.pop()),
                other => components.push(other),
            }
        }
        let wants_directory = matches!(name, "" | "." | "..");
        if !wants_directory {
            components.push(name);
        }
        let mut directory = self;
        for (at, component) in components.iter().enumerate() {
            let component = component.as_bytes();
            match directory.0.get(component) {
                Some(Node::Directory(next)) => directory = next,
                Some(Node::File(_)) if wants_directory || at + 1 < components.len() => {
                    return Err(LookupError::Other("not a directory"));
                }
                Some(file) => return Ok(file.clone()),
                None if at == 0 && component == SPECIAL => return Err(LookupError::Other("invalid operation")),
                None => return Err(LookupError::Missing),
            }
        }
        Ok(Node::Directory(directory.clone()))
    }

    /// Deletes what is at a target; what is not there need not be deleted.
    ///
    /// # Errors
    /// When the path runs into a file.
    pub fn remove(&mut self, target: &str) -> Result<(), &'static str> {
        if target == "/" {
            return Ok(());
        }
        let mut components: Vec<_> = target[1..].split('/').collect();
        let last = components.pop().unwrap_or_default();
        let mut directory = self;
        for component in components {
            match directory.0.get_mut(component.as_bytes()) {
                Some(Node::Directory(next)) => directory = next,
                Some(Node::File(_)) => return Err("not a directory"),
                None => return Ok(()),
            }
        }
        directory.0.remove(last.as_bytes());
        Ok(())
    }

    /// Puts something at a target in place of whatever is there; missing directories are made.
    ///
    /// # Errors
    /// 500 when the path runs into a file or a file should become the root (recorded: `replace_files/03-rf-err-*`).
    pub fn splice(&mut self, target: &str, node: Node) -> Result<(), Failure> {
        let shown = quoted(target);
        if target == "/" {
            let Node::Directory(root) = node else {
                let why = "cannot use Splice to replace a top-level directory with a file: invalid operation";
                return Err(Failure::controller(500, format!("error splicing snapshot onto path {shown}: {why}")));
            };
            *self = root;
            return Ok(());
        }
        let components: Vec<_> = target[1..].split('/').collect();
        let (last, above) = components.split_last().unwrap_or((&"", &[]));
        let mut directory = self;
        for (at, component) in above.iter().enumerate() {
            let next =
                directory.0.entry(component.as_bytes().to_vec()).or_insert_with(|| Node::Directory(Self::default()));
            match next {
                Node::Directory(next) => directory = next,
                Node::File(_) if at + 1 < above.len() => {
                    return Err(Failure::controller(
                        400,
                        format!("error creating parent dirs for {shown}: not a directory"),
                    ));
                }
                Node::File(_) => {
                    let why = format!("open {target}: not a directory");
                    return Err(Failure::controller(500, format!("error splicing snapshot onto path {shown}: {why}")));
                }
            }
        }
        if above.is_empty() && last.as_bytes() == SPECIAL {
            return Err(Failure::controller(
                500,
                format!("error splicing snapshot onto path {shown}: invalid operation"),
            ));
        }
        directory.0.insert(last.as_bytes().to_vec(), node);
        Ok(())
    }

    /// Visits all segments of all files.
    pub fn each_segment(&mut self, visit: &mut impl FnMut(&mut Segment)) {
        for node in self.0.values_mut() {
            match node {
                Node::File(segments) => segments.iter_mut().for_each(&mut *visit),
                Node::Directory(directory) => directory.each_segment(visit),
            }
        }
    }

    /// The text that the server stores.
    pub fn write(&self, blocks: &Blocks) -> String {
        let mut out = String::new();
        let mut writer = Writer::new(Form::Go, &mut out);
        self.write_into(&mut writer, &mut b".".to_vec(), blocks);
        out
    }

    fn write_into(&self, writer: &mut Writer<'_, u32>, path: &mut Vec<u8>, blocks: &Blocks) {
        let files = self.0.iter().filter_map(|(name, node)| match node {
            Node::File(segments) => Some((name.as_slice(), segments.iter().copied())),
            Node::Directory(_) => None,
        });
        let mut files = files.peekable();
        if files.peek().is_some() {
            writer.stream(path, files, |out, block| out.push_str(blocks.text(block)));
        } else if self.0.is_empty() && path.as_slice() != b"." {
            writer.empty_directory(path);
        }
        for (name, node) in &self.0 {
            if let Node::Directory(directory) = node {
                let length = path.len();
                path.push(b'/');
                path.extend_from_slice(name);
                directory.write_into(writer, path, blocks);
                path.truncate(length);
            }
        }
    }
}

/// Reads a manifest as the controller does.
///
/// # Errors
/// What it refuses, in its words.
pub fn read(text: &str, blocks: &mut Blocks) -> Result<Directory, String> {
    let mut root = Directory::default();
    let mut rest = text;
    let mut number = 1;
    while let Some((line, tail)) = rest.split_once('\n') {
        read_line(&mut root, line, blocks).map_err(|why| format!("malformed manifest_text: line {number}: {why}"))?;
        rest = tail;
        number += 1;
    }
    if rest.is_empty() {
        return Ok(root);
    }
    Err(format!("malformed manifest_text: line {number}: no trailing newline"))
}

/// Largest number of 63 bits: the controller's positions are signed.
const MAX_POSITION: u64 = (1 << 63) - 1;
/// Largest block size the controller's reader takes, though no block is larger than 2^26.
const MAX_BLOCK: u64 = (1 << 31) - 1;

fn number(text: &str, max: u64) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Go also reads "-0".
    if text == "-0" {
        return Some(0);
    }
    digits.parse().ok().filter(|value| all_digits && *value <= max)
}

fn read_line(root: &mut Directory, line: &str, blocks: &mut Blocks) -> Result<(), String> {
    let mut tokens = line.split(' ');
    let stream = unescape(tokens.next().unwrap_or_default());
    let mut listed: Vec<(u32, u64)> = Vec::new();
    let mut starts = vec![0_u64];
    let mut has_files = false;
    for token in tokens {
        if !token.contains(':') {
            if has_files {
                return Err(format!("bad file segment {}", quoted(token)));
            }
            let size = token.splitn(3, '+').nth(1).and_then(|size| number(size, MAX_BLOCK));
            let size = size.ok_or_else(|| format!("bad locator {}", quoted(token)))?;
            listed.push((blocks.intern(token, size), size));
            starts.push(starts[starts.len() - 1] + size);
            continue;
        }
        if listed.is_empty() {
            return Err(format!("bad locator {}", quoted(token)));
        }
        let bad = || format!("bad file segment {}", quoted(token));
        let mut parts = token.splitn(3, ':');
        let (offset, length, name) = match (parts.next(), parts.next(), parts.next()) {
            (Some(offset), Some(length), Some(name)) => (offset, length, name),
            _ => return Err(bad()),
        };
        has_files = true;
        let (offset, length) = number(offset, MAX_POSITION).zip(number(length, MAX_POSITION)).ok_or_else(bad)?;
        let unusable = |why: &str| format!("cannot use name {} with length {length}: {why}", quoted(name));
        let Some(file) = make(root, &stream, &unescape(name)).map_err(|why| unusable(&why))? else {
            if length > 0 {
                return Err(unusable("is a directory"));
            }
            continue;
        };
        let end = offset.saturating_add(length);
        // The last block that starts at or before the offset; several can start there when some are empty.
        let first = starts.partition_point(|start| *start <= offset).saturating_sub(1);
        for (at, (block, size)) in listed.iter().enumerate().skip(first) {
            if starts[at] >= end {
                break;
            }
            if *size == 0 {
                continue;
            }
            let inside = offset.saturating_sub(starts[at]);
            let take = size.saturating_sub(inside).min(end - starts[at] - inside);
            // A range without length inside a block still lists the block.
            file.push(Segment { block: *block, block_size: *size, offset: inside, length: take });
        }
        let total = starts[starts.len() - 1];
        if end > total {
            return Err(format!("invalid segment in {total}-byte stream: {}", quoted(token)));
        }
    }
    if has_files { Ok(()) } else { Err("no file segments".to_owned()) }
}

/// The file of a name, made if need be; `None` when the name only marks a directory.
fn make<'t>(root: &'t mut Directory, stream: &[u8], name: &[u8]) -> Result<Option<&'t mut Vec<Segment>>, String> {
    let parts: Vec<&[u8]> = stream.split(|byte| *byte == b'/').chain(name.split(|byte| *byte == b'/')).collect();
    let (last, above): (&[u8], &[&[u8]]) = parts.split_last().map_or((b"", &[]), |(last, above)| (last, above));
    // The way down, without `.` and nothing; `..` goes back up, but not beyond the root.
    let mut way: Vec<&[u8]> = Vec::new();
    let mut directory_exists = |way: &[&[u8]]| -> Result<(), String> {
        let mut directory = &mut *root;
        for component in way {
            let next = directory.0.entry(component.to_vec()).or_insert_with(|| Node::Directory(Directory::default()));
            match next {
                Node::Directory(next) => directory = next,
                Node::File(_) => return Err("file already exists".to_owned()),
            }
        }
        Ok(())
    };
    for component in above {
        match *component {
            b"" | b"." => {}
            b".." if way.pop().is_none() => return Err("invalid argument".to_owned()),
            b".." => {}
            other => {
                way.push(other);
                directory_exists(&way)?;
            }
        }
    }
    match last {
        b"." => return Ok(None),
        b"" | b".." => {
            let shown: Vec<_> = parts.iter().map(|part| format!("\"{}\"", String::from_utf8_lossy(part))).collect();
            let last = quoted(&String::from_utf8_lossy(last));
            return Err(format!("invalid file part {last} in path [{}]", shown.join(" ")));
        }
        _ => {}
    }
    let mut directory = root;
    for component in way {
        match directory.0.get_mut(component) {
            Some(Node::Directory(next)) => directory = next,
            _ => return Err("file already exists".to_owned()),
        }
    }
    match directory.0.entry(last.to_vec()).or_insert_with(|| Node::File(Vec::new())) {
        Node::File(segments) => Ok(Some(segments)),
        Node::Directory(_) => Err("cannot rename file to overwrite existing directory".to_owned()),
    }
}

/// Decodes `\ooo` up to `\377` and `\\`; anything else stays.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                out.push(b'\\');
                tail
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                tail
            }
            _ => {
                out.push(*byte);
                tail
            }
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: &str = "acbd18db4cc2f85cedef654fccc4a4d8+3";
    const B: &str = "37b51d194a7513e45b56f6524f2d51f2+3";

    fn rewritten(text: &str) -> Result<String, String> {
        let mut blocks = Blocks::default();
        let text = text.replace("{F}", F).replace("{B}", B);
        read(&text, &mut blocks).map(|tree| tree.write(&blocks).replace(F, "{F}").replace(B, "{B}"))
    }

    #[test]
    fn a_manifest_is_written_in_the_controllers_form() {
        // protocol.md 5.5, worked examples and the two forms of V3.
        for (text, want) in [
            (". {F} {B} 0:3:foo 3:3:bar 2:2:span\n", ". {B} {F} {B} 0:3:bar 3:3:foo 5:2:span\n"),
            (". {F} {B} {F} 0:9:foobarfoo\n", ". {F} {B} {F} 0:9:foobarfoo\n"),
            ("./s {F} 1:1:f 0:1:f\n", "./s {F} 1:1:f 0:1:f\n"),
            (
                "./d d41d8cd98f00b204e9800998ecf8427e+0 0:0:\\056\n",
                "./d d41d8cd98f00b204e9800998ecf8427e+0 0:0:\\056\n",
            ),
            (". {F} 0:3:caf\\303\\251\n", ". {F} 0:3:café\n"),
            ("", ""),
        ] {
            assert_eq!(rewritten(text).unwrap(), want);
        }
    }

    #[test]
    fn what_the_controller_cannot_read_is_refused_in_its_words() {
        for (text, want) in [
            (". {F} 0:9:a\n", "line 1: invalid segment in 3-byte stream: \"0:9:a\""),
            (". {F} 0:3:x 0:3:x/y\n", "line 1: cannot use name \"x/y\" with length 3: file already exists"),
            (". acbd18db4cc2f85cedef654fccc4a4d8 0:3:a\n", "line 1: bad locator \"acbd18db4cc2f85cedef654fccc4a4d8\""),
            ("nonsense", "line 1: no trailing newline"),
            (". {F} 0:3:a\n. {F}\n", "line 2: no file segments"),
        ] {
            assert_eq!(rewritten(text).unwrap_err(), format!("malformed manifest_text: {want}"));
        }
    }

    #[test]
    fn a_path_is_looked_up_with_dots_taken_out_of_the_text() {
        let mut blocks = Blocks::default();
        let tree = read(&format!(". {F} 0:3:foo.txt\n./sub {F} 0:3:baz\n"), &mut blocks).unwrap();
        assert!(matches!(tree.lookup("sub/../foo.txt"), Ok(Node::File(_))));
        assert!(matches!(tree.lookup("sub//baz"), Ok(Node::File(_))));
        assert!(matches!(tree.lookup(""), Ok(Node::Directory(_))));
        assert_eq!(tree.lookup("foo.txt/").unwrap_err(), LookupError::Other("not a directory"));
        assert_eq!(tree.lookup("foo.txt/z").unwrap_err(), LookupError::Other("not a directory"));
        assert_eq!(tree.lookup("none").unwrap_err(), LookupError::Missing);
    }
}
