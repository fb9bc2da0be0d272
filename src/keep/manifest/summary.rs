//! `file_count` and `file_size_total` as the API server computes them (`protocol.md` 4.2, item 9).

use super::lines::{ManifestError, lines};
use super::name::unescape;
use std::borrow::Cow;
use std::collections::HashSet;

/// What the server stores beside a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Number of distinct paths, marks of empty directories left out.
    pub file_count: u64,
    /// Sum of the lengths of all file tokens in bytes, whether they lie in their stream or not.
    pub file_size_total: u64,
}

/// Counts the files of a manifest. One path may have several tokens, also in several lines.
pub fn file_count_and_size(text: &str) -> Result<Summary, ManifestError> {
    let mut paths: HashSet<Cow<'_, [u8]>> = HashSet::new();
    let mut file_size_total = 0u64;
    for line in lines(text) {
        let line = line?;
        let stream = unescape(line.name);
        for token in line.files() {
            let token = token?;
            file_size_total = file_size_total.saturating_add(token.length);
            if token.marks_directory() {
                continue;
            }
            let name = unescape(token.name);
            paths.insert(match stream.strip_prefix(b"./") {
                Some(directory) => Cow::Owned([directory, b"/", &*name].concat()),
                None => name,
            });
        }
    }
    Ok(Summary { file_count: paths.len() as u64, file_size_total })
}
