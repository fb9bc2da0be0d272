//! Which file has which MD5: a block is hashed once and then served unread.
//!
//! Hashing 64 MiB takes ten times as long as sending it, so the result is remembered under what the file was at that
//! moment ([`Identity`]: inode, size, mtime and ctime). Any change of the content changes that, and the block is hashed
//! again; so damage on the disk is found as soon as the kernel knows of it. The table is bounded, forgets what nobody
//! reads, and lets only one reader hash a file while the others wait for it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;

use super::hash::BlockHash;
use super::volume::{self, Identity};

/// Entries: about 100 bytes each, so some 25 MB when full; enough for 16 TiB of full blocks.
const CAPACITY: usize = 1 << 18;
/// File times advance with the kernel's tick, 10 ms at worst. A file changed less than this before it was hashed may
/// change again without looking different, so its hash is good for once only.
const TICK: Duration = Duration::from_millis(20);

/// Hashes of files that were read before.
pub struct Digests {
    known: Cache<Identity, BlockHash>,
}

impl Default for Digests {
    fn default() -> Self {
        Self { known: Cache::new(CAPACITY) }
    }
}

impl Digests {
    /// The MD5 of a file that is in the state `identity`, hashed now if it was not before.
    pub async fn of(&self, file: &Arc<File>, identity: Identity) -> io::Result<BlockHash> {
        if identity.age() < TICK {
            // Our own uploads are remembered at once, see `remember`.
            if let Some(hash) = self.known.get(&identity) {
                return Ok(hash);
            }
            return hash(file).await;
        }
        self.known.get_or_insert_async(&identity, hash(file)).await
    }

    /// Remembers what a file has that we have just written, or touched without changing its content. Nobody else writes
    /// into a folder that we hold the lock of, so this needs no waiting for the clock.
    pub fn remember(&self, identity: Identity, hash: BlockHash) {
        self.known.insert(identity, hash);
    }

    /// What is known without looking.
    pub fn known(&self, identity: &Identity) -> Option<BlockHash> {
        self.known.get(identity)
    }
}

async fn hash(file: &Arc<File>) -> io::Result<BlockHash> {
    let file = Arc::clone(file);
    tokio::task::spawn_blocking(move || volume::digest(&file)).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[tokio::test]
    async fn a_file_that_is_changed_in_place_is_hashed_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("block");
        std::fs::write(&path, "foo").unwrap();
        let file = Arc::new(File::options().read(true).write(true).open(&path).unwrap());
        let digests = Digests::default();
        tokio::time::sleep(TICK * 2).await;
        let before = Identity::of(&file).unwrap();
        let first = digests.of(&file, before).await.unwrap();
        assert_eq!(first.to_string(), "acbd18db4cc2f85cedef654fccc4a4d8");
        assert_eq!(digests.known(&before), Some(first));

        file.write_at(b"bar", 0).unwrap();
        let after = Identity::of(&file).unwrap();
        assert_ne!(before, after);
        let second = digests.of(&file, after).await.unwrap();
        assert_eq!(second.to_string(), "37b51d194a7513e45b56f6524f2d51f2");
        assert_eq!(digests.known(&after), None, "a hash taken within a tick of the change is not to be trusted later");
    }
}
