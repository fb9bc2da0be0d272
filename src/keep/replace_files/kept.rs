//! A text that is edited again and again.
//!
//! What a save of one file costs must not depend on how many others there are. So the tree that a text was read into is kept,
//! and each of its directories keeps its own line, from which the next text is put together: only directories that have
//! changed are written. Written by our own writer from parts that have been looked at, the lines are what the API server
//! accepts, and counted; nobody needs to read the whole text for that.
//!
//! What must stay true: the text of an edit is that of [`super::replace_files`] applied to the stored text, without
//! signatures, and so is what is kept afterwards, or nothing is kept. Wherever that is not certain the answer is `None`,
//! and the plain algorithm has to say:
//! * A kept text has only blocks of which nothing but a hash in lower case and a size is stored. All others are the same
//!   to the writer only by their hints.
//! * Neighbouring pieces of one block from different places (`ambiguous`) depend on who signs when.
//! * Two signatures of one block in a row list it twice in this text, but once in the next: the text is right, and the
//!   tree is not what reading it gives. The same goes for a tree deeper than what is read.

#[cfg(test)]
mod tests;

use super::directory::{Directory, Line, MAX_DEPTH, Node, Totals};
use super::pieces::{Block, FilePiece, Named, Origin};
use super::{apply, check_use, reader};
use crate::keep::manifest::{EMPTY_BLOCK, Form, Writer, push_escaped};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The tree of a text without signatures, with every line at hand.
#[derive(Debug, Clone)]
pub struct Kept(Arc<Directory>);

/// What an edit leads to.
#[derive(Debug)]
pub struct Edited {
    /// In the Go form, without signatures.
    pub text: String,
    /// Number of files.
    pub file_count: u64,
    /// Sum of their sizes in bytes.
    pub file_size_total: u64,
    /// The signed locators that the edit brought in, each once.
    pub signed: Vec<Arc<str>>,
    /// The tree of the text, for the next edit.
    pub kept: Option<Kept>,
}

impl Kept {
    /// Reads a text without signatures. `None`: it is not of the kind that can be kept.
    pub fn read(text: &str) -> Option<Kept> {
        let mut tree = reader::read(text, Origin::Current).ok()?;
        settle(&mut tree, true, &mut Settling::default(), &mut Totals::default())?;
        Some(Kept(Arc::new(tree)))
    }

    /// Applies `replace_files` with sources in `manifest_text` alone. `None`: the plain algorithm has to say.
    pub fn edit(&self, edits: &BTreeMap<String, String>, manifest_text: &str) -> Option<Edited> {
        // With `/` as a target the content starts anew, and nothing of what is kept is of use.
        if edits.is_empty() || edits.contains_key("/") {
            return None;
        }
        check_use(edits, manifest_text).ok()?;
        let mut tree = (*self.0).clone();
        apply(&mut tree, edits, manifest_text, |_| Err(())).ok()?;
        if tree.is_ambiguous() {
            return None;
        }
        let mut settling = Settling::default();
        settle(&mut tree, true, &mut settling, &mut Totals::default())?;
        let totals = *tree.totals()?;
        // The paths are few beside the lines; where they are not, the text grows.
        let mut text = String::with_capacity(totals.text + totals.text / 64 + 4096);
        push_lines(&tree, &mut String::from("."), &mut text);
        let signed = settling.stored.iter().filter(|(_, (block, _))| block.is_signed());
        Some(Edited {
            text,
            file_count: totals.file_count,
            file_size_total: totals.file_size_total,
            signed: signed.map(|(locator, _)| locator.clone()).collect(),
            kept: (!settling.repeats && totals.levels <= MAX_DEPTH + 1).then(|| Kept(Arc::new(tree))),
        })
    }

    /// Memory that is held, about. What is shared with other trees counts in each of them.
    pub fn bytes(&self) -> usize {
        self.0.totals().map_or(0, |totals| totals.memory)
    }
}

/// What is found out while lines are worked out.
#[derive(Default)]
struct Settling {
    /// By the locator as it came: the block, and the same without signature, as a block of the current content.
    stored: HashMap<Arc<str>, (Arc<Block>, Arc<Block>)>,
    /// Some block is listed twice in a row.
    repeats: bool,
}

impl Settling {
    fn store(&mut self, piece: &mut FilePiece, last: &mut Option<(Arc<Block>, Arc<Block>)>) {
        if piece.block.origin == Origin::Current {
            return;
        }
        let pair = match last.take() {
            Some(pair) if Arc::ptr_eq(&pair.0, &piece.block) => pair,
            _ => self.pair(&piece.block),
        };
        piece.block = pair.1.clone();
        *last = Some(pair);
    }

    fn pair(&mut self, block: &Arc<Block>) -> (Arc<Block>, Arc<Block>) {
        if let Some((_, stored)) = self.stored.get(&*block.locator) {
            return (block.clone(), stored.clone());
        }
        let stored = Block::new(block.plain().unwrap_or(&block.locator), block.size, Origin::Current);
        let pair = (block.clone(), stored);
        self.stored.insert(Arc::from(&*block.locator), pair.clone());
        pair
    }
}

/// Works out what is not noted in a directory and below, makes every block one of the current content, and adds up. `None`:
/// some block is not plain.
///
/// It goes as deep as the tree, so what a level needs on the stack is little: the rest is in functions of its own.
fn settle(directory: &mut Directory, at_top: bool, settling: &mut Settling, above: &mut Totals) -> Option<()> {
    let mut totals = settle_own(directory, at_top, settling)?;
    for node in directory.descend().values_mut() {
        if let Node::Directory(below) = node {
            match below.totals() {
                Some(noted) => totals.add(noted),
                None => settle(Arc::make_mut(below), false, settling, &mut totals)?,
            }
        }
    }
    above.add(&totals);
    directory.note_totals(totals);
    Some(())
}

/// The same without what is below; what is there adds to the totals.
fn settle_own(directory: &mut Directory, at_top: bool, settling: &mut Settling) -> Option<Totals> {
    if let Some(line) = directory.line() {
        return Some(line.totals);
    }
    let line = line_of(directory, at_top, settling)?;
    let totals = line.totals;
    let mut last = None;
    directory.for_each_own_piece(|piece| settling.store(piece, &mut last));
    directory.note_line(line);
    Some(totals)
}

/// An entry of a directory in its B-tree, of which the nodes are two thirds full when they were filled at random.
const ENTRY: usize = size_of::<(Arc<[u8]>, Node)>() * 3 / 2;
/// What the allocator and the counters of an `Arc` add.
const ALLOCATION: usize = 32;

fn line_of(directory: &Directory, at_top: bool, settling: &mut Settling) -> Option<Line> {
    let mut text = String::new();
    let (mut plain, mut memory) = (true, ALLOCATION + size_of::<Directory>());
    let mut last = "";
    if directory.is_empty() && !at_top {
        text = format!(" {EMPTY_BLOCK} 0:0:\\056\n");
    }
    directory.write_files(&mut Writer::new(Form::Go, &mut text), b"", |text, Named(block)| match block.plain() {
        Some(locator) => {
            settling.repeats |= locator == last;
            memory += ALLOCATION * 2 + size_of::<Block>() + locator.len();
            last = locator;
            text.push_str(locator);
        }
        None => plain = false,
    });
    if !plain {
        return None;
    }
    let mut totals = Totals { text: text.len(), levels: 1, ..Totals::default() };
    for (_, pieces) in directory.files() {
        totals.file_count += 1;
        let size = pieces.iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.length));
        totals.file_size_total = totals.file_size_total.saturating_add(size);
        memory += if pieces.len() > 1 { ALLOCATION * 2 + size_of_val(pieces) } else { 0 };
    }
    memory += directory.entries().keys().map(|name| ENTRY + ALLOCATION + name.len()).sum::<usize>();
    totals.memory = memory + ALLOCATION + text.len();
    Some(Line { text: text.into(), totals })
}

fn push_lines(directory: &Directory, path: &mut String, text: &mut String) {
    if let Some(line) = directory.line().filter(|line| !line.text.is_empty()) {
        text.push_str(path);
        text.push_str(&line.text);
    }
    for (name, below) in directory.directories() {
        let length = path.len();
        path.push('/');
        push_escaped(path, name);
        push_lines(below, path, text);
        path.truncate(length);
    }
}
