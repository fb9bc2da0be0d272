//! The manifest: the text of a collection (`protocol.md` section 5).
//!
//! One line is one stream: a directory name, blocks that form one sequence of bytes, and files that are ranges of that
//! sequence. The text may have 100 MB and a million files, so everything here borrows from it: [`lines`] yields lines,
//! a [`Line`] yields its locators and file tokens, and no file costs an allocation.
//!
//! There are two readers, on purpose. [`lines`] is the client's: it takes what servers have stored, and refuses only what
//! has no meaning. [`validate`] is the API server's gate: exactly its rules, with its wording, because the embedded
//! cluster must refuse what the real one refuses, and a client that saves wants to know beforehand.
//!
//! Names are bytes. A manifest is UTF-8, but `\377` in a name is a byte that is not.

mod lines;
mod name;
mod normal_form;
mod rewrite;
mod summary;
#[cfg(test)]
pub(crate) mod tests;
mod validate;

pub use lines::{FileToken, Line, Lines, ManifestError, Reason, lines};
pub use name::{MAX_NAME_LENGTH, NameProblem, RESERVED_NAME, check_new_name, escape, push_escaped, unescape};
pub use normal_form::{Form, Piece, Writer};
pub use rewrite::{hinted_locators, portable_parts, portable_text, rewrite_hinted_locators, rewrite_locators};
pub use summary::{Summary, file_count_and_size};
pub use validate::{ValidationError, validate};

/// The locator of a stream that has no data (`protocol.md` 5.1). It needs no signature.
pub const EMPTY_BLOCK: &str = "d41d8cd98f00b204e9800998ecf8427e+0";
