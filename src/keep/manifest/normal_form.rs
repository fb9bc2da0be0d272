//! Writing manifests in the two normal forms (`protocol.md` 5.5).
//!
//! A writer of a tree walks it in the order of the forms (a directory's own line, then its sub-directories by name) and
//! hands each directory to [`Writer::stream`]. The forms differ only in which blocks are listed again: Python's lists
//! every distinct locator once per line, Go's looks at the neighbour only. Go's form is what a server stores after
//! `replace_files`, byte for byte, and others hash what we predict; so nothing here may be "improved".

use super::EMPTY_BLOCK;
use super::name::push_escaped;
use std::collections::HashMap;
use std::hash::Hash;

/// Which writer's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// What `arv-put`, `arv-mount` and `Collection.save` send.
    Python,
    /// What the controller stores after `replace_files` or `replace_segments`.
    Go,
}

/// A run of bytes of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<B> {
    /// The block. Two pieces are of one block, for the form, if these are equal: the whole locator counts, signature
    /// included.
    pub block: B,
    /// Size of the block in bytes.
    pub block_size: u64,
    /// First byte in the block.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// Writes the lines of a manifest.
pub struct Writer<'o, B> {
    form: Form,
    out: &'o mut String,
    /// File tokens of the line that is being written: the blocks, which stand before them, become known only meanwhile.
    tokens: String,
    /// Stream positions of the blocks listed in the line, for the Python form.
    positions: HashMap<B, u64>,
}

impl<'o, B: Copy + Eq + Hash> Writer<'o, B> {
    /// A writer that appends to `out`.
    pub fn new(form: Form, out: &'o mut String) -> Writer<'o, B> {
        Writer { form, out, tokens: String::new(), positions: HashMap::new() }
    }

    /// Writes the line of a directory with files. `path` is `.` or starts with `./`, unescaped; `files` come by name in
    /// byte order, at least one; `push_locator` appends the text of a block.
    pub fn stream<'n, P: IntoIterator<Item = Piece<B>>>(
        &mut self,
        path: &[u8],
        files: impl IntoIterator<Item = (&'n [u8], P)>,
        mut push_locator: impl FnMut(&mut String, B),
    ) {
        push_escaped(self.out, path);
        self.tokens.clear();
        self.positions.clear();
        let mut end = 0u64;
        let mut last: Option<(B, u64)> = None;
        for (name, pieces) in files {
            let mut span: Option<(u64, u64)> = None;
            for piece in pieces {
                let known = match self.form {
                    Form::Go => last.filter(|(block, _)| *block == piece.block).map(|(_, start)| start),
                    Form::Python => self.positions.get(&piece.block).copied(),
                };
                let start = known.unwrap_or_else(|| {
                    self.out.push(' ');
                    push_locator(self.out, piece.block);
                    let start = end;
                    end = end.saturating_add(piece.block_size);
                    match self.form {
                        Form::Go => last = Some((piece.block, start)),
                        Form::Python => drop(self.positions.insert(piece.block, start)),
                    }
                    start
                });
                let position = start.saturating_add(piece.offset);
                span = Some(match span {
                    Some((from, to)) if to == position => (from, to.saturating_add(piece.length)),
                    previous => {
                        previous.into_iter().for_each(|span| push_token(&mut self.tokens, span, name));
                        (position, position.saturating_add(piece.length))
                    }
                });
            }
            push_token(&mut self.tokens, span.unwrap_or((0, 0)), name);
        }
        if end == 0 && last.is_none() && self.positions.is_empty() {
            self.out.push(' ');
            self.out.push_str(EMPTY_BLOCK);
        }
        self.out.push_str(&self.tokens);
        self.out.push('\n');
    }

    /// Writes the line of a directory without entries. The root has none.
    pub fn empty_directory(&mut self, path: &[u8]) {
        push_escaped(self.out, path);
        self.out.push(' ');
        self.out.push_str(EMPTY_BLOCK);
        self.out.push_str(" 0:0:\\056\n");
    }
}

fn push_token(tokens: &mut String, (from, to): (u64, u64), name: &[u8]) {
    let mut digits = itoa::Buffer::new();
    tokens.push(' ');
    tokens.push_str(digits.format(from));
    tokens.push(':');
    tokens.push_str(digits.format(to - from));
    tokens.push(':');
    push_escaped(tokens, name);
}
