//! From the files of a sample collection to blocks in Keep and a manifest.
//!
//! All files of a collection are one run of bytes, cut into blocks of 64 MiB: so ten thousand notes are one block and not
//! ten thousand. A folder becomes one line of the manifest, which lists only the blocks that its files touch. No more
//! than one block is in memory.

use super::sample::{Collection, File};
use crate::keep::manifest;
use crate::remote::error::Result;
use crate::remote::keep::{Keep, PutRequest};
use bytes::{Bytes, BytesMut};
use std::fmt::Write;

/// The largest block that Keep takes, 2^26 bytes (protocol.md 5.1).
const BLOCK: u64 = 1 << 26;

/// Uploads the files and returns the manifest, its blocks signed. `progress` hears how many bytes are safe.
pub async fn upload(collection: &Collection, keep: &dyn Keep, progress: impl Fn(u64)) -> Result<String> {
    let mut locators = Vec::new();
    let mut pending = BytesMut::new();
    for piece in collection.files.iter().flat_map(|file| file.content.pieces()) {
        let mut bytes = &piece[..];
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK as usize - pending.len()));
            pending.extend_from_slice(now);
            bytes = later;
            if pending.len() as u64 == BLOCK {
                locators.push(store(pending.split().freeze(), keep, &progress).await?);
            }
        }
    }
    if !pending.is_empty() {
        locators.push(store(pending.freeze(), keep, &progress).await?);
    }
    Ok(manifest_of(&collection.files, &locators))
}

async fn store(block: Bytes, keep: &dyn Keep, progress: &impl Fn(u64)) -> Result<String> {
    let size = block.len() as u64;
    let stored = keep.put(block, &PutRequest::default()).await?;
    progress(size);
    Ok(stored.locator.to_string())
}

/// One line per folder, in the order of the files, which stand together by folder.
fn manifest_of(files: &[File], locators: &[String]) -> String {
    let mut text = String::new();
    let mut start = 0;
    for folder in files.chunk_by(|one, next| one.folder == next.folder) {
        let size: u64 = folder.iter().map(|file| file.content.size()).sum();
        let first = start / BLOCK;
        let last = (start + size).div_ceil(BLOCK).max(first + 1);
        let name = &folder[0].folder;
        text.push_str(&if name.is_empty() {
            ".".to_owned()
        } else {
            format!("./{}", manifest::escape(name.as_bytes()))
        });
        for locator in locators.iter().take(last as usize).skip(first as usize) {
            let _ = write!(text, " {locator}");
        }
        let mut position = start - first * BLOCK;
        for file in folder {
            let size = file.content.size();
            let _ = write!(text, " {position}:{size}:{}", manifest::escape(file.name.as_bytes()));
            position += size;
        }
        text.push('\n');
        start += size;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::sample::Content;

    #[test]
    fn a_line_lists_only_the_blocks_that_its_files_touch() {
        let file = |folder: &str, name: &str, size| File {
            folder: folder.into(),
            name: name.into(),
            content: Content::Reads(size),
        };
        let files = [file("", "a b", BLOCK - 1), file("d", "over", 2), file("e", "rest", 1)];
        let text = manifest_of(&files, &["one".to_owned(), "two".to_owned()]);
        let edge = BLOCK - 1;
        assert_eq!(text, format!(". one 0:{edge}:a\\040b\n./d one two {edge}:2:over\n./e two 1:1:rest\n"));
    }
}
