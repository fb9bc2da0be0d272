//! What is on the server, read past every mount: the record, the manifest, and the blocks it names.

use super::Client;
use arvados::keep::Locator;
use arvados::keep::manifest::{lines, unescape};
use arvados::remote::api::{Collection, CollectionUpdate, Record};
use arvados::remote::keep::Keep;
use std::collections::{BTreeMap, HashMap};

/// The files of a collection, by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A manifest taken apart.
#[derive(Default)]
pub struct Manifest {
    /// Per file the pieces: locator, offset in the block, length.
    pub files: BTreeMap<String, Vec<(String, u64, u64)>>,
    /// Folders that are in it because they are empty.
    pub directories: Vec<String>,
}

impl Manifest {
    pub fn parse(text: &str) -> Manifest {
        let mut manifest = Manifest::default();
        let plain = |text: &str| String::from_utf8(unescape(text).into_owned()).unwrap();
        for line in lines(text) {
            let line = line.unwrap();
            let stream = plain(line.name).trim_start_matches('.').trim_start_matches('/').to_owned();
            let joined = |name: &str| if stream.is_empty() { name.to_owned() } else { format!("{stream}/{name}") };
            let blocks: Vec<(String, u64)> = line.locators().map(|locator| block(locator.unwrap().as_str())).collect();
            for token in line.files() {
                let token = token.unwrap();
                let name = plain(token.name);
                if name == "." {
                    manifest.directories.push(stream.clone());
                    continue;
                }
                let pieces = manifest.files.entry(joined(&name)).or_default();
                let (mut start, end) = (0, token.position + token.length);
                for (locator, size) in &blocks {
                    let (from, to) = (token.position.max(start), end.min(start + size));
                    if from < to {
                        pieces.push((locator.clone(), from - start, to - from));
                    }
                    start += size;
                }
            }
        }
        manifest
    }

    pub fn size(&self, path: &str) -> u64 {
        self.files[path].iter().map(|(_, _, length)| length).sum()
    }

    /// The different blocks that files refer to.
    pub fn blocks(&self) -> Vec<String> {
        let hash = |(locator, _, _): &(String, u64, u64)| locator.split('+').next().unwrap_or_default().to_owned();
        let mut blocks: Vec<String> = self.files.values().flatten().map(hash).collect();
        blocks.sort();
        blocks.dedup();
        blocks
    }
}

fn block(locator: &str) -> (String, u64) {
    (locator.to_owned(), locator.split('+').nth(1).unwrap().parse().unwrap())
}

impl Client {
    pub fn record(&self, uuid: &str) -> Record<Collection> {
        self.runtime.block_on(self.api.collection(uuid, &[], None)).unwrap()
    }

    /// The record with its manifest, signed for this client.
    pub fn fetch(&self, uuid: &str) -> Result<(Record<Collection>, String), arvados::remote::Error> {
        let mut text = Vec::new();
        let record = self.runtime.block_on(self.api.collection(uuid, &[], Some(&mut text)))?;
        Ok((record, String::from_utf8(text).unwrap()))
    }

    pub fn manifest_of(&self, uuid: &str) -> Manifest {
        Manifest::parse(&self.fetch(uuid).unwrap().1)
    }

    /// Changes a collection; what the server answers.
    pub fn update(&self, uuid: &str, update: &CollectionUpdate) -> Result<Record<Collection>, arvados::remote::Error> {
        self.runtime.block_on(self.api.update_collection(uuid, update, None))
    }

    /// All files with their content.
    pub fn files(&self, uuid: &str) -> Files {
        let mut blocks = HashMap::new();
        let manifest = self.manifest_of(uuid);
        manifest.files.iter().map(|(path, pieces)| (path.clone(), self.content(pieces, &mut blocks))).collect()
    }

    /// The bytes of one file; `blocks` keeps what was fetched.
    pub fn content(&self, pieces: &[(String, u64, u64)], blocks: &mut HashMap<String, bytes::Bytes>) -> Vec<u8> {
        let mut content = Vec::new();
        for (locator, offset, length) in pieces {
            let block = blocks.entry(locator.clone()).or_insert_with(|| {
                let parsed = locator.parse::<Locator>().unwrap();
                self.runtime.block_on(self.keep.get(&parsed)).unwrap()
            });
            content.extend_from_slice(&block[*offset as usize..(*offset + *length) as usize]);
        }
        content
    }

    /// Whether the server has exactly this under the path.
    pub fn has(&self, uuid: &str, path: &str, data: &[u8]) -> bool {
        self.files(uuid).get(path).is_some_and(|content| content == data)
    }

    /// Sets single files with `replace_files`, without any condition, as most clients do.
    pub fn put_files(&self, uuid: &str, files: &[(&str, &[u8])]) -> Record<Collection> {
        let replace_files =
            files.iter().map(|(path, _)| (format!("/{path}"), format!("manifest_text/{path}"))).collect();
        let manifest = Some(self.manifest(files));
        self.update(uuid, &CollectionUpdate { manifest, replace_files, ..CollectionUpdate::default() }).unwrap()
    }
}
