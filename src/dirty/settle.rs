//! Bringing what is left of files to Keep: local runs of consecutive files are packed into common blocks.
//!
//! The turns of all files are held meanwhile, so nothing is written, and every block is charged to the budget while it is
//! put together. A file whose block fails keeps its data; the others do not notice.

use super::error::Error;
use super::extents::{Extent, Extents, Origin, Source};
use super::file::{DirtyFile, Part};
use super::own_ends::OwnEnd;
use super::store::DirtyStore;
use crate::keep::Locator;
use crate::keep::manifest::Piece;
use crate::remote::keep::PutRequest;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A hole up to this length is stored as zeros among the rest.
const SHORT_HOLE: u64 = 1 << 20;
/// A last piece up to this length is stored again with what is appended to it.
const SHORT_PIECE: u64 = 64 << 10;
/// Pieces of one hole: 64 TiB. Each takes some 80 bytes of a manifest, so more of them would be larger than what servers take. No
/// file can become so large any more ([`DirtyFile`] refuses it), but journals of earlier versions may have one.
pub(super) const MOST_ZEROS: u64 = 1 << 20;

/// A file that is in Keep as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub pieces: Vec<Piece<Locator>>,
    pub size: u64,
    /// Of the file when `pieces` was taken.
    pub generation: u64,
    /// [`DirtyFile::writes`] at that moment.
    pub writes: u64,
    pub modified: DateTime<Utc>,
}

/// A run of a file that goes into a block.
struct Segment {
    /// Which of the files.
    file: usize,
    start: u64,
    length: u64,
    /// The last one of its file.
    last: bool,
}

/// A block to be.
struct Job {
    request: PutRequest,
    segments: Vec<Segment>,
    length: u64,
}

/// The short last piece of a file, and where it begins.
struct End {
    file: usize,
    start: u64,
    bytes: Bytes,
}

/// What came of a job.
struct Outcome {
    job: Job,
    stored: Result<Locator, Error>,
    /// Short last pieces.
    ends: Vec<End>,
    /// Files that cannot be read, which have no part in the job any more.
    unreadable: Vec<(usize, Error)>,
}

/// Where a run is now.
struct Replacement {
    start: u64,
    length: u64,
    source: Source,
}

#[derive(Default)]
struct Work {
    failed: Option<Error>,
    replacements: Vec<Replacement>,
    end: Option<End>,
}

impl DirtyStore {
    /// Stores what is local of `files`, and says of each in order what it consists of. Waits for their writers, for Keep and
    /// for the budget; dropping the future leaves all as it is.
    pub async fn settle(self: &Arc<Self>, files: &[Arc<DirtyFile>]) -> Vec<Result<Settled, Error>> {
        let by_number: BTreeMap<u64, &Arc<DirtyFile>> = files.iter().map(|file| (file.number, file)).collect();
        let mut turns = Vec::with_capacity(by_number.len());
        for file in by_number.values() {
            turns.push(file.turn().await);
        }
        let mut distinct: Vec<Arc<DirtyFile>> = Vec::with_capacity(turns.len());
        let mut index: BTreeMap<u64, usize> = BTreeMap::new();
        for file in files {
            index.entry(file.number).or_insert_with(|| {
                distinct.push(file.clone());
                distinct.len() - 1
            });
        }
        let results = self.settle_distinct(&distinct).await;
        drop(turns);
        let result = |file: &Arc<DirtyFile>| index.get(&file.number).and_then(|index| results.get(*index)).cloned();
        files.iter().map(|file| result(file).unwrap_or(Err(Error::BrokenOff))).collect()
    }

    async fn settle_distinct(self: &Arc<Self>, files: &[Arc<DirtyFile>]) -> Vec<Result<Settled, Error>> {
        let mut works: Vec<Work> = files.iter().map(|_| Work::default()).collect();
        let sealed: Vec<_> = files.iter().map(|file| file.start_sealed()).collect();
        for ((file, blocks), work) in files.iter().zip(sealed).zip(&mut works) {
            for block in blocks {
                match block.finished().await {
                    Ok(()) => file.resolve(&block),
                    Err(error) => work.failed = Some(error),
                }
            }
        }
        let mut jobs: Vec<Job> = Vec::new();
        for (number, (file, work)) in files.iter().zip(&mut works).enumerate() {
            if work.failed.is_none()
                && let Err(error) = self.plan(number, file, work, &mut jobs).await
            {
                work.failed = Some(error);
            }
        }
        let outcomes = stream::iter(jobs).map(|job| self.run(files, job)).buffer_unordered(self.uploads);
        let outcomes: Vec<Outcome> = outcomes.collect().await;
        for Outcome { job, stored, ends, unreadable } in outcomes {
            for (file, error) in unreadable {
                if let Some(work) = works.get_mut(file) {
                    work.failed = Some(error);
                }
            }
            let mut offset = 0;
            for Segment { file, start, length, .. } in job.segments {
                let Some(work) = works.get_mut(file) else { continue };
                match &stored {
                    Ok(locator) => {
                        let (locator, block_size) = (locator.clone(), job.length);
                        let source = Source::Stored { locator, block_size, offset, origin: Origin::Own };
                        work.replacements.push(Replacement { start, length, source });
                    }
                    Err(error) => drop(work.failed.get_or_insert_with(|| error.clone())),
                }
                offset += length;
            }
            for end in ends {
                if let Some(work) = works.get_mut(end.file) {
                    work.end = Some(end);
                }
            }
        }
        files.iter().zip(works).map(|(file, work)| self.apply(file, work)).collect()
    }

    /// Adds the local runs of a file to the jobs. Long holes are dealt with here.
    async fn plan(&self, number: usize, file: &DirtyFile, work: &mut Work, jobs: &mut Vec<Job>) -> Result<(), Error> {
        let short_hole = SHORT_HOLE.min(self.block_size);
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut holes: Vec<Extent> = Vec::new();
        {
            let state = file.state();
            for extent in state.extents.iter() {
                match &extent.source {
                    Source::Hole if extent.length > short_hole => holes.push(extent),
                    Source::Memory | Source::Backing | Source::Hole => match runs.last_mut() {
                        Some((_, end)) if *end == extent.start => *end = extent.end(),
                        _ => runs.push((extent.start, extent.end())),
                    },
                    Source::Stored { .. } => {}
                    Source::Sealed { .. } => return Err(Error::BrokenOff),
                }
            }
            if let Some(own) = &state.last_own {
                let end = own.start + own.bytes.len() as u64;
                runs.iter_mut().filter(|(from, _)| *from == end).for_each(|(from, _)| *from = own.start);
            }
        }
        for hole in holes {
            if hole.length.div_ceil(self.block_size) > MOST_ZEROS {
                return Err(Error::TooLarge { size: hole.end() });
            }
            let locator = self.zeros(file.request()).await?;
            let mut start = hole.start;
            while start < hole.end() {
                let length = self.block_size.min(hole.end() - start);
                let (locator, block_size) = (locator.clone(), self.block_size);
                let source = Source::Stored { locator, block_size, offset: 0, origin: Origin::Own };
                work.replacements.push(Replacement { start, length, source });
                start += length;
            }
        }
        let last_end = runs.last().map(|(_, end)| *end);
        for (mut start, end) in runs {
            while start < end {
                let fits = |job: &&mut Job| job.length < self.pack_size && job.request == *file.request();
                let job = match jobs.last_mut().filter(fits) {
                    Some(_) => jobs.last_mut(),
                    None => {
                        jobs.push(Job { request: file.request().clone(), segments: Vec::new(), length: 0 });
                        jobs.last_mut()
                    }
                };
                let Some(job) = job else { return Err(Error::BrokenOff) };
                let length = (end - start).min(self.pack_size - job.length);
                let last = Some(start + length) == last_end;
                job.segments.push(Segment { file: number, start, length, last });
                job.length += length;
                start += length;
            }
        }
        Ok(())
    }

    /// Stores a block. A file that cannot be read goes without the others suffering for it.
    async fn run(&self, files: &[Arc<DirtyFile>], mut job: Job) -> Outcome {
        let mut unreadable = Vec::new();
        loop {
            let mut ends = Vec::new();
            let mut culprit = None;
            let stored = self.store_job(files, &job, &mut ends, &mut culprit).await;
            match (stored, culprit) {
                (Err(error), Some(file)) => {
                    unreadable.push((file, error));
                    job.segments.retain(|segment| segment.file != file);
                    job.length = job.segments.iter().map(|segment| segment.length).sum();
                }
                (stored, _) => return Outcome { job, stored, ends, unreadable },
            }
            if job.segments.is_empty() {
                return Outcome { job, stored: Err(Error::BrokenOff), ends: Vec::new(), unreadable };
            }
        }
    }

    /// `culprit`: the file that could not be read.
    async fn store_job(
        &self,
        files: &[Arc<DirtyFile>],
        job: &Job,
        ends: &mut Vec<End>,
        culprit: &mut Option<usize>,
    ) -> Result<Locator, Error> {
        let _permit = self.permits.acquire().await.map_err(|_| Error::BrokenOff)?;
        let size = usize::try_from(job.length).map_err(|_| Error::TooLarge { size: job.length })?;
        let _charge = self.allowance.budget.charge(size).await.map_err(|_| Error::TooLarge { size: job.length })?;
        let mut block = BytesMut::with_capacity(size);
        for segment in &job.segments {
            let file = files.get(segment.file).ok_or(Error::BrokenOff)?;
            let from = block.len();
            if let Err(error) = collect(file, segment, &mut block).await {
                *culprit = Some(segment.file);
                return Err(error);
            }
            if segment.last && segment.length <= SHORT_PIECE && segment.length < self.block_size {
                let bytes = Bytes::copy_from_slice(&block[from..]);
                ends.push(End { file: segment.file, start: segment.start, bytes });
            }
        }
        self.put(block.freeze(), &job.request).await
    }

    /// Enters into the map of a file what was stored.
    fn apply(&self, file: &DirtyFile, work: Work) -> Result<Settled, Error> {
        let mut state = file.state();
        let tail = state.tail.as_ref().map(|tail| (tail.start, tail.end()));
        let stored_any = !work.replacements.is_empty();
        let keeps_copies = self.has_room_for_copies(0);
        for Replacement { start, length, source } in work.replacements {
            // The tail is in memory as a whole or not at all.
            let in_tail = tail.is_some_and(|(from, to)| start < to && from < start + length);
            if work.failed.is_some() && in_tail {
                continue;
            }
            for part in state.extents.within(start, start + length) {
                // Until a commit has named it, it may have to be stored again.
                let is_copied = keeps_copies && part.source.is_in_backing();
                let source = source.skip(part.start - start).with_copy(is_copied);
                state.extents.replace(part.start, part.length, source);
            }
        }
        if let Some(error) = work.failed {
            state.last_own = None;
            let unused = state.take_unused_backing();
            drop(state);
            self.let_go(unused);
            return Err(error);
        }
        state.tail = None;
        if stored_any {
            state.last_own = None;
            // Behind it there may be a hole, which is stored apart.
            let size = state.extents.size();
            let last = work.end.filter(|end| end.start + end.bytes.len() as u64 == size);
            state.last_own = last.and_then(|End { start, bytes, .. }| {
                let lease = Arc::new(self.allowance.lease(bytes.len())?);
                Some(OwnEnd { start, bytes, _lease: lease })
            });
            if let Some(end) = &state.last_own
                && let Some(extent) = state.extents.within(end.start, size).first()
                && let Source::Stored { locator, offset, .. } = &extent.source
            {
                self.own_ends.put(locator, *offset, end.clone());
            }
        }
        let unused = state.take_unused_backing();
        let pieces = pieces_of(&state.extents);
        let (size, generation) = (state.extents.size(), state.generation);
        let (writes, modified) = (state.writes, state.modified);
        drop(state);
        self.let_go(unused);
        Ok(Settled { pieces: pieces?, size, generation, writes, modified })
    }
}

/// What a file consists of that is in Keep as a whole.
pub(super) fn pieces_of(extents: &Extents) -> Result<Vec<Piece<Locator>>, Error> {
    let mut pieces: Vec<Piece<Locator>> = Vec::new();
    for Extent { length, source, .. } in extents.iter() {
        let Source::Stored { locator, block_size, offset, .. } = source else { return Err(Error::BrokenOff) };
        match pieces.last_mut() {
            // Extents tell which of it is in the backing file, too.
            Some(last) if last.block == locator && last.offset + last.length == offset => last.length += length,
            _ => pieces.push(Piece { block: locator, block_size, offset, length }),
        }
    }
    Ok(pieces)
}

/// Appends the bytes of a segment. What is stored already can only be the short last piece.
async fn collect(file: &DirtyFile, segment: &Segment, block: &mut BytesMut) -> Result<(), Error> {
    let (mut start, end) = (segment.start, segment.start + segment.length);
    {
        let state = file.state();
        if let Some(own) = &state.last_own
            && let Some(skip) = start.checked_sub(own.start)
            && skip < own.bytes.len() as u64
        {
            let low = usize::try_from(skip).map_err(|_| Error::BrokenOff)?;
            let high = (end - own.start).min(own.bytes.len() as u64);
            let high = usize::try_from(high).map_err(|_| Error::BrokenOff)?;
            block.extend_from_slice(&own.bytes[low..high]);
            start += (high - low) as u64;
        }
    }
    // In steps, so that what is read beside the block stays small.
    while start < end {
        let length = (end - start).min(1 << 20);
        for part in file.read(start, length).await? {
            match part {
                Part::Bytes(bytes) => block.extend_from_slice(&bytes),
                Part::Zeros(zeros) => block.resize(block.len() + usize::try_from(zeros).unwrap_or(0), 0),
                Part::Stored { .. } => return Err(Error::BrokenOff),
            }
        }
        start += length;
    }
    Ok(())
}
