//! Which files a series of changes leaves behind, and how many of their bytes are where. Pure.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::dirty::Content;
use crate::dirty::content::Source;
use crate::journal::{Change, Operation};

/// A file whose content is in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub content: Content,
    pub modified: DateTime<Utc>,
}

/// Files by path, as they are after all changes. Files that were only renamed or touched have no content in the journal and
/// are not here.
pub fn files<'c>(changes: impl IntoIterator<Item = &'c Change>) -> BTreeMap<Vec<u8>, File> {
    let mut files: BTreeMap<Vec<u8>, File> = BTreeMap::new();
    for change in changes {
        match &change.operation {
            Operation::File { path, content, modified } => {
                let modified = modified.unwrap_or(change.time);
                files.insert(path.clone(), File { content: content.clone(), modified });
            }
            Operation::MakeDirectory { .. } => {}
            Operation::Remove { path } => files.retain(|file, _| below(file, path).is_none()),
            Operation::Rename { from, to } => {
                let moved: Vec<(Vec<u8>, File)> = files
                    .iter()
                    .filter_map(|(path, file)| Some(([to, below(path, from)?].concat(), file.clone())))
                    .collect();
                files.retain(|path, _| below(path, from).is_none() && below(path, to).is_none());
                files.extend(moved);
            }
            Operation::Modified { path, time } => {
                if let Some(file) = files.get_mut(path) {
                    file.modified = *time;
                }
            }
        }
    }
    files
}

/// Folders that were made and are still there.
pub fn folders<'c>(changes: impl IntoIterator<Item = &'c Change>) -> BTreeSet<Vec<u8>> {
    let mut folders: BTreeSet<Vec<u8>> = BTreeSet::new();
    for change in changes {
        match &change.operation {
            Operation::MakeDirectory { path } => drop(folders.insert(path.clone())),
            Operation::Remove { path } => folders.retain(|folder| below(folder, path).is_none()),
            Operation::Rename { from, to } => {
                folders = std::mem::take(&mut folders)
                    .into_iter()
                    .map(|folder| below(&folder, from).map(|rest| [to, rest].concat()).unwrap_or(folder))
                    .collect();
            }
            Operation::File { .. } | Operation::Modified { .. } => {}
        }
    }
    folders
}

/// What follows `folder` in `path`: nothing, or a slash and the rest. `None` where the path is neither it nor below it.
fn below<'p>(path: &'p [u8], folder: &[u8]) -> Option<&'p [u8]> {
    path.strip_prefix(folder).filter(|rest| rest.first().is_none_or(|first| *first == b'/'))
}

/// Bytes by place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// In the journal or its backing files, nowhere else.
    pub local: u64,
    /// In Keep.
    pub stored: u64,
    /// Zeros that nobody wrote.
    pub holes: u64,
}

impl Amount {
    pub fn add(&mut self, content: &Content) {
        for extent in &content.extents {
            let sum = match extent.source {
                Source::Backing | Source::Inline(_) => &mut self.local,
                Source::Stored { .. } => &mut self.stored,
                Source::Hole => &mut self.holes,
            };
            *sum = sum.saturating_add(extent.length);
        }
    }

    pub fn total(&self) -> u64 {
        self.local.saturating_add(self.stored).saturating_add(self.holes)
    }
}
