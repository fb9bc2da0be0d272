//! Receiving a block: into one buffer of its size, watched for speed, checked before anybody sees a byte.
//!
//! A 200 does not mean right data (protocol.md 7): bodies are short, empty or damaged without any other sign. So the
//! length must be that of the locator and the MD5 its hash.
//!
//! MD5 is slower than a fast network (0.6 GB/s against 1 GB/s and more), so large blocks are hashed on another thread
//! while the rest arrives. The buffer is cut into pieces that travel to that thread and are joined again without a copy:
//! they are parts of one allocation, in order.

use crate::keep::BlockHash;
use crate::remote::keep::answer::Problem;
use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};
use reqwest::Response;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// The longest pause within a body.
const SILENCE: Duration = Duration::from_secs(32);
/// Slower than 32 KiB/s on the average of a minute is as good as dead: the limit of the Python client, which waits four
/// minutes to see it.
const LOWEST_SPEED: usize = 32 << 10;
const SPEED_WINDOW: Duration = Duration::from_secs(64);
/// What is hashed at a time on the other thread; smaller blocks are hashed here.
const PIECE: usize = 1 << 20;

/// Aborts transfers that are too slow.
struct Speed {
    since: Instant,
    bytes: usize,
}

impl Speed {
    /// Counts `bytes` more; an error when the window that has passed had too few.
    fn count(&mut self, bytes: usize) -> Result<(), Problem> {
        self.bytes += bytes;
        let elapsed = self.since.elapsed();
        if elapsed < SPEED_WINDOW {
            return Ok(());
        }
        let speed = self.bytes as f64 / elapsed.as_secs_f64();
        *self = Speed { since: Instant::now(), bytes: 0 };
        match speed < LOWEST_SPEED as f64 {
            true => Err(Problem::Slow { problem: format!("only {speed:.0} bytes a second") }),
            false => Ok(()),
        }
    }
}

/// Reads the body of `response`, which must be the block `hash` of `size` bytes.
pub(super) async fn receive(mut response: Response, hash: BlockHash, size: usize) -> Result<Bytes, Problem> {
    let damaged = |problem: String| Problem::Damaged { problem };
    if let Some(length) = response.content_length().filter(|length| *length != size as u64) {
        return Err(damaged(format!("{length} bytes announced instead of {size}")));
    }
    let mut hasher = Hasher::new(size);
    let mut buffer = BytesMut::with_capacity(size);
    use_huge_pages(&mut buffer);
    let mut received = 0;
    let mut speed = Speed { since: Instant::now(), bytes: 0 };
    loop {
        let chunk = match timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                let problem =
                    format!("broke off after {received} of {size} bytes: {}", crate::remote::network::explain(&error));
                return Err(Problem::Unreachable { problem });
            }
            Err(_) => {
                let problem = format!("silent for {} s after {received} of {size} bytes", SILENCE.as_secs());
                return Err(Problem::Slow { problem });
            }
        };
        received += chunk.len();
        if received > size {
            return Err(damaged(format!("more than the {size} bytes of the block")));
        }
        speed.count(chunk.len())?;
        buffer.extend_from_slice(&chunk);
        if buffer.len() >= PIECE {
            hasher.take(buffer.split());
        }
    }
    if received < size {
        return Err(damaged(format!("{received} bytes instead of {size}")));
    }
    hasher.take(buffer);
    let (found, block) = hasher.finish().await.map_err(damaged)?;
    match found == hash.0 {
        true => Ok(block),
        false => Err(damaged(format!("checksum mismatch: the data have {}", BlockHash(found)))),
    }
}

/// Asks for the memory of a large block in pages of 2 MiB: touching 16,384 small ones for the first time costs a third of
/// what hashing them does. A kernel that cannot, or may not, ignores it.
fn use_huge_pages(buffer: &mut BytesMut) {
    const PAGE: usize = 4096;
    let memory = buffer.spare_capacity_mut();
    if memory.len() < 2 * PIECE {
        return;
    }
    let offset = memory.as_ptr().align_offset(PAGE).min(memory.len());
    let whole_pages = (memory.len() - offset) / PAGE * PAGE;
    // SAFETY: the range lies in an allocation that is ours, begins at a page and consists of whole ones. The advice
    // changes neither content nor access rights, so nothing that others can observe.
    unsafe { libc::madvise(memory.as_mut_ptr().add(offset).cast(), whole_pages, libc::MADV_HUGEPAGE) };
}

/// Hashes pieces in order and joins them.
enum Hasher {
    Here {
        hash: Md5,
        joined: BytesMut,
    },
    /// The channel is unbounded, but holds at most one block, which is in memory anyway.
    Elsewhere {
        pieces: mpsc::UnboundedSender<BytesMut>,
        result: JoinHandle<([u8; 16], Bytes)>,
    },
}

impl Hasher {
    fn new(size: usize) -> Hasher {
        if size < 2 * PIECE {
            return Hasher::Here { hash: Md5::new(), joined: BytesMut::new() };
        }
        let (pieces, mut arriving) = mpsc::unbounded_channel::<BytesMut>();
        let result = tokio::task::spawn_blocking(move || {
            let mut hash = Md5::new();
            let mut joined = BytesMut::new();
            while let Some(piece) = arriving.blocking_recv() {
                hash.update(&piece);
                join(&mut joined, piece);
            }
            (hash.finalize().into(), joined.freeze())
        });
        Hasher::Elsewhere { pieces, result }
    }

    fn take(&mut self, piece: BytesMut) {
        match self {
            Hasher::Here { hash, joined } => {
                hash.update(&piece);
                join(joined, piece);
            }
            // Fails only when the thread is gone, which `finish` reports.
            Hasher::Elsewhere { pieces, .. } => drop(pieces.send(piece)),
        }
    }

    async fn finish(self) -> Result<([u8; 16], Bytes), String> {
        match self {
            Hasher::Here { hash, joined } => Ok((hash.finalize().into(), joined.freeze())),
            Hasher::Elsewhere { pieces, result } => {
                drop(pieces);
                result.await.map_err(|error| format!("cannot be hashed: {error}"))
            }
        }
    }
}

/// Puts the next part of an allocation back to the parts before it; no copy.
fn join(joined: &mut BytesMut, piece: BytesMut) {
    if joined.is_empty() {
        *joined = piece;
    } else {
        joined.unsplit(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_are_joined_without_a_copy_and_hashed_in_order() {
        for size in [0, 1, PIECE, 5 * PIECE / 2, 4 * PIECE] {
            let data: Vec<u8> = (0..size).map(|index| (index / 7) as u8).collect();
            let mut buffer = BytesMut::with_capacity(size);
            let start = buffer.as_ptr();
            let mut hasher = Hasher::new(size);
            for chunk in data.chunks(300_001) {
                buffer.extend_from_slice(chunk);
                hasher.take(buffer.split());
            }
            let (hash, block) = timeout(Duration::from_secs(30), hasher.finish()).await.unwrap().unwrap();
            assert_eq!(BlockHash(hash), BlockHash::of(&data));
            assert_eq!(block, data);
            assert!(size == 0 || block.as_ptr() == start, "copied at {size}");
        }
    }

    #[tokio::test]
    async fn a_trickle_is_noticed() {
        let long_ago = |bytes| Speed { since: Instant::now() - SPEED_WINDOW, bytes };
        assert!(matches!(long_ago(0).count(1000), Err(Problem::Slow { .. })));
        assert_eq!(long_ago(LOWEST_SPEED * 70).count(1000), Ok(()));
        assert_eq!(Speed { since: Instant::now(), bytes: 0 }.count(1), Ok(()));
    }
}
