//! A tree with some of the changes of another: what a half of a refused group is committed from.

use super::touched::{Depth, Touched};
use crate::tree::path::{ancestors, split};
use crate::tree::{EditError, Editor, Kind, NodeId, Snapshot, same_content};

/// `base` with what `target` has at the touched paths. Directories that those need are made, in the place of a file if
/// one is in the way.
pub fn graft(base: &Snapshot, target: &Snapshot, touched: &Touched) -> Result<Snapshot, EditError> {
    let mut editor = base.edit();
    for (path, depth) in touched.iter() {
        graft_path(&mut editor, target, path, depth)?;
    }
    Ok(editor.finish())
}

fn graft_path(editor: &mut Editor, target: &Snapshot, path: &[u8], depth: Depth) -> Result<(), EditError> {
    if path.is_empty() {
        if depth == Depth::Tree {
            let all: Vec<_> = [editor.snapshot(), target]
                .iter()
                .flat_map(|tree| tree.children(NodeId::ROOT).map(|child| tree.name(child).to_vec()))
                .collect();
            all.iter().try_for_each(|name| graft_path(editor, target, name, depth))?;
        }
        return Ok(());
    }
    let Some(node) = target.find(path) else {
        if let Some(old) = editor.snapshot().find(path) {
            let parent = editor.snapshot().parent(old);
            editor.remove(parent, split(path).1)?;
        }
        return Ok(());
    };
    let mut parent = NodeId::ROOT;
    for directory in ancestors(path) {
        parent = directory_at(editor, parent, split(directory).1)?;
    }
    let name = split(path).1;
    let old = editor.snapshot().lookup(parent, name);
    if old.is_some_and(|old| is_equal(editor.snapshot(), old, target, node, depth)) {
        return Ok(());
    }
    let kinds = (old.and_then(|old| editor.snapshot().entry(old)), target.entry(node));
    match (kinds.0.map(|entry| entry.kind), kinds.1.map(|entry| entry.kind)) {
        (Some(Kind::File), Some(Kind::File)) => {
            let pieces: Vec<_> = target.pieces(node).collect();
            editor.set_file(parent, name, &pieces).map(|_| ())
        }
        (_, Some(Kind::Directory)) if depth == Depth::Entry => directory_at(editor, parent, name).map(|_| ()),
        _ => {
            if old.is_some() {
                editor.remove(parent, name)?;
            }
            editor.copy(target, node, parent, name).map(|_| ())
        }
    }
}

/// Whether the two are equal as far as `depth` looks.
fn is_equal(left: &Snapshot, old: NodeId, right: &Snapshot, new: NodeId, depth: Depth) -> bool {
    let directories = left.is_directory(old) && right.is_directory(new);
    directories && depth == Depth::Entry || same_content(left, old, right, new)
}

/// The directory with this name, made if there is none or a file.
fn directory_at(editor: &mut Editor, parent: NodeId, name: &[u8]) -> Result<NodeId, EditError> {
    match editor.snapshot().lookup(parent, name) {
        Some(node) if editor.snapshot().is_directory(node) => Ok(node),
        found => {
            if found.is_some() {
                editor.remove(parent, name)?;
            }
            editor.make_directory(parent, name)
        }
    }
}
