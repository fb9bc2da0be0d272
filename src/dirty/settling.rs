//! Bringing files to Keep for good.
//!
//! What is not there yet is packed in the order of the files, small pieces together, into blocks of at most the full size, and
//! uploaded a few blocks at a time. While that goes on nobody changes these files; readers notice nothing.

use crate::dirty::extents::{Home, Run};
use crate::dirty::store::DirtyStore;
use crate::dirty::{DirtyFile, Error, Part};
use crate::keep::Locator;
use crate::keep::manifest::Piece;
use crate::remote::keep::PutRequest;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// Holes up to this size are stored as zeros: a block of zeros of its own costs more.
const SMALL_HOLE: u64 = 1 << 20;
/// A piece of this mount's own at the end of a file is stored again together with what was appended, if it is at most so large:
/// so a file that grows by a line at a time does not become a thousand blocks.
const SMALL_PIECE: usize = 64 << 10;

/// The whole content of a file, in Keep.
#[derive(Debug, Clone)]
pub struct Settled {
    pub pieces: Vec<Piece<Locator>>,
    pub size: u64,
    /// The file's generation that this is.
    pub generation: u64,
    pub modified: DateTime<Utc>,
}

/// A run of a file in a block that is being packed.
struct Packed {
    file: usize,
    start: u64,
    length: u64,
    /// In the block.
    offset: u64,
}

/// A block that is being packed.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    packed: Vec<Packed>,
}

impl DirtyStore {
    /// Brings files to Keep, each wholly or not at all; one result for each.
    pub async fn settle(self: &Arc<Self>, files: &[Arc<DirtyFile>]) -> Vec<Result<Settled, Error>> {
        let mut order: Vec<&Arc<DirtyFile>> = files.iter().collect();
        order.sort_by_key(|file| Arc::as_ptr(file) as usize);
        order.dedup_by_key(|file| Arc::as_ptr(file) as usize);
        let mut turns: Vec<OwnedMutexGuard<()>> = Vec::with_capacity(order.len());
        for file in order {
            turns.push(file.turn().await);
        }
        let mut problems: Vec<Option<Error>> = files.iter().map(|_| None).collect();
        for (file, problem) in files.iter().zip(&mut problems) {
            *problem = self.await_sealed(file).await.err();
        }
        self.pack(files, &mut problems).await;
        let mut results = Vec::with_capacity(files.len());
        for (file, problem) in files.iter().zip(problems) {
            results.push(match problem {
                Some(error) => Err(error),
                None => self.settled(file).await,
            });
        }
        results
    }

    /// Waits for the blocks of a file that are under way.
    async fn await_sealed(self: &Arc<Self>, file: &Arc<DirtyFile>) -> Result<(), Error> {
        let runs: Vec<Run> = file.inner().extents.all().collect();
        for run in runs {
            let Home::Sealed { block, offset } = run.home else { continue };
            let locator = block.arrive(self).await?;
            let size = locator.size().unwrap_or(offset + run.length);
            file.inner().extents.set(run.start, run.length, Home::Stored { locator, size, offset });
        }
        Ok(())
    }

    /// Uploads what is in tails and backing files.
    async fn pack(self: &Arc<Self>, files: &[Arc<DirtyFile>], problems: &mut [Option<Error>]) {
        let mut uploads = FuturesUnordered::new();
        let mut block = Block::default();
        let mut request: Option<&PutRequest> = None;
        for (index, file) in files.iter().enumerate() {
            if problems[index].is_some() {
                continue;
            }
            if request.is_some_and(|request| *request != file.request) && !block.bytes.is_empty() {
                let full = std::mem::take(&mut block);
                uploads.push(self.upload(full, request.cloned().unwrap_or_default()));
            }
            request = Some(&file.request);
            for run in local_runs(file) {
                let mut at = run.start;
                let end = run.start + run.length;
                while at < end {
                    let room = self.options.block_size - block.bytes.len() as u64;
                    // Read in parts, so that a large run is never in memory twice.
                    let length = (end - at).min(room).min(8 << 20);
                    match bytes_of(file, at, length).await {
                        Ok(bytes) => {
                            let offset = block.bytes.len() as u64;
                            block.bytes.extend_from_slice(&bytes);
                            match block.packed.last_mut() {
                                Some(last) if last.file == index && last.start + last.length == at => {
                                    last.length += length;
                                }
                                _ => block.packed.push(Packed { file: index, start: at, length, offset }),
                            }
                        }
                        Err(error) => {
                            problems[index] = Some(error);
                            break;
                        }
                    }
                    at += length;
                    if block.bytes.len() as u64 == self.options.block_size {
                        let full = std::mem::take(&mut block);
                        uploads.push(self.upload(full, file.request.clone()));
                        while uploads.len() >= self.options.uploads.max(1) {
                            if let Some(done) = uploads.next().await {
                                arrived(files, problems, done);
                            }
                        }
                    }
                }
            }
        }
        if !block.bytes.is_empty() {
            uploads.push(self.upload(block, request.cloned().unwrap_or_default()));
        }
        while let Some(done) = uploads.next().await {
            arrived(files, problems, done);
        }
    }

    async fn upload(
        self: &Arc<Self>,
        block: Block,
        request: PutRequest,
    ) -> (Vec<Packed>, Bytes, Result<Arc<Locator>, Error>) {
        let bytes = Bytes::from(block.bytes);
        let result = self.put(bytes.clone(), &request).await.map(Arc::new);
        (block.packed, bytes, result)
    }

    /// The content of a file all of which is in Keep.
    async fn settled(&self, file: &Arc<DirtyFile>) -> Result<Settled, Error> {
        let (runs, size, generation, modified) = {
            let mut inner = file.inner();
            inner.tail = None;
            let runs: Vec<Run> = inner.extents.all().collect();
            let needs_disk = runs.iter().any(|run| matches!(run.home, Home::Backing));
            if !needs_disk && inner.backing.as_ref().is_some_and(|backing| !backing.is_kept()) {
                inner.backing = None;
            }
            (runs, inner.extents.size(), 0, inner.modified)
        };
        let generation = generation + file.generation();
        let mut pieces = Vec::with_capacity(runs.len());
        for run in runs {
            match run.home {
                Home::Stored { locator, size, offset } => {
                    pieces.push(Piece { block: (*locator).clone(), block_size: size, offset, length: run.length });
                }
                Home::Hole => self.hole(run.length, &file.request, &mut pieces).await?,
                _ => return Err(Error::BrokenOff),
            }
        }
        Ok(Settled { pieces, size, generation, modified })
    }

    /// A large hole as pieces of a block of zeros.
    async fn hole(&self, length: u64, request: &PutRequest, pieces: &mut Vec<Piece<Locator>>) -> Result<(), Error> {
        let size = length.next_power_of_two().clamp(1, self.options.block_size);
        let locator = self.zeros(size, request).await?;
        let mut rest = length;
        while rest > 0 {
            let length = rest.min(size);
            pieces.push(Piece { block: (*locator).clone(), block_size: size, offset: 0, length });
            rest -= length;
        }
        Ok(())
    }
}

/// The runs of a file that have to be brought to Keep, neighbours together.
fn local_runs(file: &DirtyFile) -> Vec<Run> {
    let inner = file.inner();
    let mut runs: Vec<Run> = Vec::new();
    for run in inner.extents.all() {
        let is_local = match run.home {
            Home::Memory | Home::Backing => true,
            Home::Hole => run.length <= SMALL_HOLE.min(file.store.options.block_size),
            Home::Stored { .. } | Home::Sealed { .. } => false,
        };
        if !is_local {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.start + last.length == run.start => last.length += run.length,
            _ => runs.push(run),
        }
    }
    // The small piece that was stored last goes again with what follows it.
    if let Some((start, bytes)) = &inner.last_own {
        let end = start + bytes.len() as u64;
        if let Some(run) = runs.iter_mut().find(|run| run.start == end) {
            run.length += run.start - start;
            run.start = *start;
        }
    }
    runs
}

async fn bytes_of(file: &DirtyFile, start: u64, length: u64) -> Result<Vec<u8>, Error> {
    let own = file.inner().last_own.clone();
    let mut bytes = Vec::with_capacity(length as usize);
    for part in file.read(start, length).await? {
        match part {
            Part::Bytes(piece) => bytes.extend_from_slice(&piece),
            Part::Zeros(count) => bytes.resize(bytes.len() + count as usize, 0),
            Part::Stored { length, .. } => {
                let at = start + bytes.len() as u64;
                let (begin, kept) = own.as_ref().ok_or(Error::BrokenOff)?;
                let from = at.checked_sub(*begin).ok_or(Error::BrokenOff)? as usize;
                let piece = kept.get(from..from + length as usize).ok_or(Error::BrokenOff)?;
                bytes.extend_from_slice(piece);
            }
        }
    }
    Ok(bytes)
}

/// A block is in Keep, or not.
fn arrived(
    files: &[Arc<DirtyFile>],
    problems: &mut [Option<Error>],
    (packed, bytes, result): (Vec<Packed>, Bytes, Result<Arc<Locator>, Error>),
) {
    for run in packed {
        match &result {
            Ok(locator) => {
                let home =
                    Home::Stored { locator: locator.clone(), size: bytes.len() as u64, offset: run.offset };
                let mut inner = files[run.file].inner();
                inner.extents.set(run.start, run.length, home);
                let is_last = run.start + run.length == inner.extents.size();
                inner.last_own = (is_last && run.length as usize <= SMALL_PIECE).then(|| {
                    let piece = &bytes[run.offset as usize..(run.offset + run.length) as usize];
                    (run.start, Bytes::copy_from_slice(piece))
                });
            }
            Err(error) => {
                problems[run.file].get_or_insert(error.clone());
            }
        }
    }
}
