//! Saving a part of a tree: the request that makes a server's tree into ours, and the text that the server will then store.
//!
//! A collection is saved by the option `replace_files` (`protocol.md` 4.6), which names the paths that change and leaves all
//! others to whoever else writes them. Three things are worked out here, all of them pure:
//!
//! * **What to send** ([`edits`]): from the tree that the server has, the tree that it should have and the paths that were
//!   touched in between ([`Touched`]). The cost goes with the paths touched, never with the collection. Only two sources
//!   are used, nothing (delete) and `manifest_text/…`, so that a request that arrives twice does no harm, and none of the
//!   requests is one that the server answers with 500 for good: nothing is put or deleted below what is a file there.
//! * **What comes of it** ([`GoText`]): the server rewrites the whole text in its own form at every request, and can be told
//!   the hash that we expect, as a condition (4.12, A). So the text is kept line by line, only lines of directories that
//!   change are made anew, and the prediction is one MD5 pass. The oracle for this is [`crate::keep::replace_files`], which
//!   is the server's algorithm on whole texts; both must give the same hash (5.5).
//! * **A part of it** ([`graft`], [`Parts`]): when a server refuses a group of changes, halves of it are tried until the
//!   one to blame stands alone.
//!
//! | file | owns |
//! |---|---|
//! | `touched` | the paths that operations touched |
//! | `edits` | the request |
//! | `parts` | which halves to try |
//! | `graft` | a tree with some of the changes of another |
//! | `go_text` | the server's text, and its prediction |
//! | `line` | one directory's line, with the signatures that its locators will have |
//! | `path_key` | the order of directories in the Go form |

mod edits;
mod go_text;
mod graft;
mod line;
mod parts;
mod path_key;
#[cfg(test)]
mod tests;
mod touched;

pub use edits::{Edits, NotExpressible, Now, PathChange, edits};
pub use go_text::{GoText, Prediction, SAME_SECOND_MARGIN};
pub use graft::graft;
pub use parts::{Part, Parts};
pub use touched::{Depth, Touched};
