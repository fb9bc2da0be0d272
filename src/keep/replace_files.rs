//! What the server makes of `replace_files` and `replace_segments` (`protocol.md` 4.6), as pure functions of texts.
//!
//! Two users, one code. The embedded cluster executes requests with it; the write engine predicts with it what a real
//! server will store, because the portable data hash of that text can be sent as a condition (4.12, A). So the order of
//! steps, the normal form and the oddities are the Go controller's, as recorded, and not what one would wish for:
//! * Any edit rewrites the whole text in the Go form, whatever form it had.
//! * With `/` as a target the starting tree is empty, and so is `current/`.
//! * Pieces keep their locators as they are, signature included, and two neighbours are one block only if their locators
//!   are identical. So it matters where a signature comes from, see [`Replaced::ambiguous`].
//!
//! One thing is decided here that the controller leaves to chance: a source without slash (`<PDH>`) is sorted behind the
//! deletions, where the controller may apply it before them.
//!
//! | file | owns |
//! |---|---|
//! | `pieces` | what files are made of, and where it comes from |
//! | `directory` | trees of files made of pieces, and writing them |
//! | `kept` | a text that is edited again and again: the same, without reading and writing it all each time |
//! | `reader` | the Go reader: from text to tree, with its refusals |
//! | `error` | every refusal, with its status and wording |
//! | `segments` | `replace_segments` |

mod directory;
mod error;
mod kept;
mod pieces;
mod reader;
mod segments;
#[cfg(test)]
mod tests;

pub use error::{Error, Refusal};
pub use kept::{Edited, Kept};
pub use segments::{SegmentSpec, SegmentSpecError, replace_segments};

use super::{PortableDataHash, signature};
use directory::{Directory, Node};
use pieces::Origin;
use std::collections::BTreeMap;

/// The text after `replace_files`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// In the Go form, with the signatures of the texts it was made of.
    pub manifest_text: String,
    /// Whether two neighbouring pieces of one block came from different places, so that it depends on the second in which
    /// their signatures are made whether the server lists the block once or twice (`protocol.md` 5.5). Then a client must
    /// not send its prediction as a condition.
    pub ambiguous: bool,
}

impl Replaced {
    /// The portable data hash of the text that the server will store.
    pub fn portable_data_hash(&self) -> PortableDataHash {
        PortableDataHash::of_manifest(&self.manifest_text)
    }

    /// The text without signatures: what the server stores.
    pub fn stored_text(&self) -> String {
        signature::strip_signatures(&self.manifest_text).into_owned()
    }
}

/// Applies `replace_files`.
///
/// * `current`: the collection's text as the server gives it to the caller now (signed where it signs); `None` on create.
/// * `edits`: target → source.
/// * `manifest_text`: the attribute sent along, or nothing.
/// * `resolve`: the text of a portable data hash as the server gives it to the caller. Called once for each.
///
/// Without edits the text stays as it is: `manifest_text` if there is one, else `current`. A client that predicts passes
/// `current` and the sources without signatures, and `manifest_text` as it will send it: then a block is listed twice
/// where the server would find two different signatures.
pub fn replace_files<E>(
    current: Option<&str>,
    edits: &BTreeMap<String, String>,
    manifest_text: &str,
    resolve: impl FnMut(PortableDataHash) -> Result<String, E>,
) -> Result<Replaced, Error<E>> {
    if edits.is_empty() {
        let text = if manifest_text.is_empty() { current.unwrap_or("") } else { manifest_text };
        return Ok(Replaced { manifest_text: text.to_owned(), ambiguous: false });
    }
    check_use(edits, manifest_text)?;
    let mut tree = match current {
        Some(text) if !edits.contains_key("/") => {
            reader::read(text, Origin::Current).map_err(|error| Refusal::MalformedCurrent { error })?
        }
        _ => Directory::default(),
    };
    apply(&mut tree, edits, manifest_text, resolve)?;
    Ok(Replaced { ambiguous: tree.is_ambiguous(), manifest_text: tree.to_manifest() })
}

/// A text that is sent along must be used.
fn check_use(edits: &BTreeMap<String, String>, manifest_text: &str) -> Result<(), Refusal> {
    if !manifest_text.is_empty() && !edits.values().any(|source| source.starts_with("manifest_text/")) {
        return Err(Refusal::UnusedManifestText);
    }
    Ok(())
}

/// Edits the tree of the current content.
fn apply<E>(
    tree: &mut Directory,
    edits: &BTreeMap<String, String>,
    manifest_text: &str,
    mut resolve: impl FnMut(PortableDataHash) -> Result<String, E>,
) -> Result<(), Error<E>> {
    let mut order: Vec<(&str, &str)> =
        edits.iter().map(|(target, source)| (target.as_str(), source.as_str())).collect();
    order.sort_by_key(|(_, source)| source.split('/').next());
    for (target, _) in &order {
        check_target(target, edits)?;
    }
    // Before anything changes, so that swaps and copies into itself see the tree as it was.
    let mut snapshots = BTreeMap::new();
    for source in edits.values() {
        if let Some(path) = source.strip_prefix("current/") {
            snapshots.insert(source.as_str(), take_current(tree, source, path)?);
        }
    }
    let mut loaded: BTreeMap<&str, Directory> = BTreeMap::new();
    for (target, source) in order {
        let (id, path) = source.split_once('/').unwrap_or((source, ""));
        if source.is_empty() {
            tree.remove(target)?;
        } else if id == "current" {
            let snapshot = snapshots.get(source).cloned().ok_or(Refusal::CurrentWithoutSlash)?;
            tree.put(target, snapshot)?;
        } else {
            let origins = loaded.len() as u32;
            if !loaded.contains_key(id) {
                loaded.insert(id, load(id, source, target, manifest_text, origins, &mut resolve)?);
            }
            let snapshot = loaded.get(id).map(|tree| tree.find(path));
            let snapshot = snapshot
                .unwrap_or(Err("file does not exist"))
                .map_err(|reason| Refusal::MissingInSource { path: path.to_owned(), from: id.to_owned(), reason })?;
            tree.put(target, snapshot)?;
        }
    }
    Ok(())
}

fn check_target(target: &str, edits: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if target == "/" {
        return Ok(());
    }
    let clean = target.strip_prefix('/').is_some_and(|path| {
        path.split('/').all(|name| !matches!(name, "" | "." | "..")) && path.split('/').count() <= directory::MAX_DEPTH
    });
    if !clean {
        return Err(Refusal::InvalidTarget { target: target.to_owned() });
    }
    for (slash, _) in target.match_indices('/') {
        let outer = if slash == 0 { "/" } else { &target[..slash] };
        if edits.get(outer).is_some_and(|source| !source.is_empty()) {
            return Err(Refusal::TargetInsideTarget { target: target.to_owned(), outer: outer.to_owned() });
        }
    }
    Ok(())
}

fn take_current(tree: &Directory, source: &str, path: &str) -> Result<Node, Refusal> {
    tree.find(path).map_err(|reason| match reason {
        directory::NOT_FOUND => Refusal::MissingInCurrent { from: source.to_owned() },
        reason => Refusal::BadCurrentPath { from: source.to_owned(), reason },
    })
}

/// The tree of a source that is not `current`.
fn load<E>(
    id: &str,
    source: &str,
    target: &str,
    manifest_text: &str,
    number: u32,
    resolve: &mut impl FnMut(PortableDataHash) -> Result<String, E>,
) -> Result<Directory, Error<E>> {
    if id == "manifest_text" {
        let tree = reader::read(manifest_text, Origin::ManifestText);
        return tree.map_err(|error| Refusal::MalformedManifestText { error }.into());
    }
    let lower_case = !id.bytes().any(|byte| byte.is_ascii_uppercase());
    let Some(hash) = id.parse::<PortableDataHash>().ok().filter(|_| lower_case) else {
        return Err(Refusal::InvalidSource { from: source.to_owned(), target: target.to_owned() }.into());
    };
    let text = resolve(hash).map_err(Error::Source)?;
    reader::read(&text, Origin::Source(number)).map_err(|error| Refusal::MalformedCurrent { error }.into())
}
