//! Blocks that this mount has brought to Keep and no commit has named yet, and what is done so that a commit can name them.
//!
//! Their locators are signed for one token and one time, and only who has the bytes can get new ones. Of what is at hand (in
//! the backing file, or in memory as the short last piece) that is simple: it counts as not stored, and is stored with the
//! next settling. Of the rest the bytes are fetched while the signature is good: to be stored anew before it ends, or into
//! the backing file, for the journal.
//!
//! Nothing here waits for a turn or for memory while it has the other: what is fetched into a file is leased first, as what
//! is written is, and settling finds its block beside that.

use super::error::Error;
use super::extents::{Extent, Origin, Source};
use super::file::DirtyFile;
use super::store::DirtyStore;
use crate::keep::Locator;
use crate::keep::manifest::Piece;
use crate::remote;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Questions to Keep at a time whether it takes a signature: each is a short request.
const QUESTIONS: usize = 8;

/// What was fetched of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    pub any: bool,
    pub all: bool,
    /// Keep refuses some of it, or does not have it: no other try will do better.
    pub is_lost: bool,
}

/// What Keep says of blocks; some may be in neither, since it did not answer.
#[derive(Default)]
pub struct Answers {
    pub given: HashSet<Locator>,
    /// It does not give them to this mount, or does not have them.
    pub refused: HashSet<Locator>,
}

impl DirtyFile {
    /// Blocks of which there is nothing but the locator, though no commit has named them yet.
    fn bare(&self) -> Vec<Locator> {
        let mut bare = Vec::new();
        let state = self.state();
        for extent in state.extents.iter() {
            if let Source::Stored { locator, origin: Origin::Own, .. } = &extent.source
                && state.end_of(&extent).is_none()
                && !self.store.is_zeros(locator)
                && bare.last() != Some(locator)
            {
                bare.push(locator.clone());
            }
        }
        bare
    }

    /// Some of it is in blocks that no commit has named yet and whose signatures end before this time (seconds since 1970).
    fn has_older(&self, end: u64) -> bool {
        let is_older = |source: &Source| match source {
            Source::Stored { locator, origin, .. } => *origin != Origin::Named && ends_before(locator, end),
            _ => false,
        };
        self.state().extents.any(is_older)
    }

    /// Puts the parts that are in this block into the backing file, if there is room. `false`: there was none for some.
    async fn copy_from(&self, locator: &Locator, block: &Bytes) -> Result<bool, Error> {
        let turn = self.turn().await;
        let is_of_it = |extent: &Extent| match &extent.source {
            Source::Stored { locator: other, origin: Origin::Own, .. } => other == locator,
            _ => false,
        };
        let extents: Vec<Extent> = self.state().extents.iter().filter(is_of_it).collect();
        for Extent { start, length, source } in extents {
            let Source::Stored { offset, .. } = source else { continue };
            let range = usize::try_from(offset).ok().zip(usize::try_from(offset + length).ok());
            let (low, high) = range.filter(|(_, high)| *high <= block.len()).ok_or(Error::BrokenOff)?;
            if !self.store.has_room_for_copies(length) {
                return Ok(false);
            }
            self.write_backing(&turn, start, block.slice(low..high)).await?;
            self.state().mark_copied(start, length, true);
        }
        Ok(true)
    }

    /// Puts other locators of the same blocks in the place of those for which `newer` has one.
    pub fn sign(&self, newer: impl Fn(&Locator) -> Option<Locator>) {
        self.state().extents.change(|extent| match &extent.source {
            Source::Stored { locator, block_size, offset, origin } => {
                let (block_size, offset, origin) = (*block_size, *offset, *origin);
                newer(locator).map(|locator| Source::Stored { locator, block_size, offset, origin })
            }
            _ => None,
        });
    }

    /// From now on these blocks count as not stored, where their bytes are at hand. Returns how many bytes are not.
    pub async fn forget(&self, is_meant: impl Fn(&Locator) -> bool) -> u64 {
        let turn = self.turn().await;
        let meant = |extent: &Extent| match &extent.source {
            Source::Stored { locator, .. } => is_meant(locator),
            _ => false,
        };
        let (mut lost, mut ends) = (0, Vec::new());
        {
            let mut state = self.state();
            let extents: Vec<Extent> = state.extents.iter().filter(meant).collect();
            for Extent { start, length, source } in extents {
                let is_zeros = matches!(&source, Source::Stored { locator, .. } if self.store.is_zeros(locator));
                let extent = Extent { start, length, source };
                if extent.source.is_in_backing() {
                    state.extents.replace(start, length, Source::Backing);
                } else if let Some(bytes) = state.end_of(&extent) {
                    ends.push((start, bytes));
                } else if is_zeros {
                    state.extents.replace(start, length, Source::Hole);
                } else {
                    lost += length;
                }
            }
        }
        for (start, bytes) in ends {
            let length = bytes.len() as u64;
            let tail = self.store.tail_of(start, &bytes);
            {
                let mut state = self.state();
                if let Some(tail) = tail.filter(|_| state.tail.is_none() && start + length == state.extents.size()) {
                    state.extents.replace(start, length, Source::Memory);
                    state.tail = Some(tail);
                    continue;
                }
            }
            match self.write_backing(&turn, start, bytes).await {
                Ok(()) => self.state().extents.replace(start, length, Source::Backing),
                Err(_) => lost += length,
            }
        }
        lost
    }

    /// A commit has named these blocks.
    pub fn was_saved(&self, pieces: &[Piece<Locator>]) {
        let blocks: HashSet<&Locator> = pieces.iter().map(|piece| &piece.block).collect();
        self.state().extents.change(|extent| match &extent.source {
            Source::Stored { locator, block_size, offset, origin }
                if *origin != Origin::Named && blocks.contains(locator) =>
            {
                let (locator, block_size, offset) = (locator.clone(), *block_size, *offset);
                Some(Source::Stored { locator, block_size, offset, origin: Origin::Named })
            }
            _ => None,
        });
        self.retire_unused_backing();
    }
}

/// Blocks of which there is nothing but the locator, in order, and which of the files need each: small files share blocks.
fn bare_of(files: &[Arc<DirtyFile>]) -> Vec<(Locator, Vec<usize>)> {
    let mut places: HashMap<Locator, usize> = HashMap::new();
    let mut bare: Vec<(Locator, Vec<usize>)> = Vec::new();
    for (number, file) in files.iter().enumerate() {
        for locator in file.bare() {
            let place = *places.entry(locator.clone()).or_insert(bare.len());
            match bare.get_mut(place) {
                Some((_, users)) => users.push(number),
                None => bare.push((locator, vec![number])),
            }
        }
    }
    bare
}

impl DirtyStore {
    /// Fetches what is in blocks that no commit has named yet into the backing files, as long as there is room for it there and in
    /// memory. What has become of each file, and the first error: Keep does not give a block, or the disk does not take it.
    pub async fn copy(&self, files: &[Arc<DirtyFile>]) -> (Vec<Copied>, Option<Error>) {
        let mut copied = vec![Copied { any: false, all: true, is_lost: false }; files.len()];
        let (mut first, mut is_over) = (None, false);
        for (locator, users) in bare_of(files) {
            let size = locator.size().and_then(|size| usize::try_from(size).ok());
            let lease = size.and_then(|size| self.allowance.lease(size));
            let has_room = lease.is_some() && self.has_room_for_copies(0) && !is_over;
            let block = if has_room { Some(self.keep.get(&locator).await.map_err(Error::from)) } else { None };
            for number in users {
                let (Some(file), Some(copied)) = (files.get(number), copied.get_mut(number)) else { continue };
                let result = match &block {
                    Some(Ok(block)) => file.copy_from(&locator, block).await,
                    Some(Err(error)) => Err(error.clone()),
                    None => Ok(false),
                };
                copied.any |= matches!(result, Ok(true));
                copied.all &= matches!(result, Ok(true));
                if let Err(error) = result {
                    copied.is_lost |= matches!(&error, Error::Remote(error) if is_lost(error));
                    // Others are as likely to fail, and each may take minutes for it.
                    is_over |= !copied.is_lost;
                    first.get_or_insert(error);
                }
            }
        }
        (copied, first)
    }

    /// Sees to it that blocks which no commit has named yet, and whose signatures end before `end` (seconds since 1970), are stored
    /// anew, now or with the next settling. What cannot be had stays as it is.
    pub async fn renew(&self, files: &[Arc<DirtyFile>], end: u64) {
        let older: Vec<_> = files.iter().filter(|file| file.has_older(end)).cloned().collect();
        for (locator, users) in bare_of(&older).into_iter().filter(|(locator, _)| ends_before(locator, end)) {
            let users: Vec<_> = users.iter().filter_map(|number| older.get(*number)).collect();
            if let Err(error) = self.renew_block(&users, &locator).await {
                tracing::debug!(block = %locator.hash(), %error, "a block whose signature is about to end cannot be stored anew");
            }
        }
        for file in older {
            file.forget(|locator| ends_before(locator, end)).await;
        }
    }

    async fn renew_block(&self, files: &[&Arc<DirtyFile>], locator: &Locator) -> Result<(), Error> {
        let Some(request) = files.first().map(|file| file.request()) else { return Ok(()) };
        let _permit = self.permits.acquire().await.map_err(|_| Error::BrokenOff)?;
        let size = locator.size().and_then(|size| usize::try_from(size).ok()).ok_or(Error::BrokenOff)?;
        let _charge = self.allowance.budget.charge(size).await.map_err(|_| Error::TooLarge { size: size as u64 })?;
        let block = self.keep.get(locator).await?;
        let newer = self.put(block, request).await?;
        files.iter().for_each(|file| file.sign(|other| (other == locator).then(|| newer.clone())));
        Ok(())
    }

    /// Asks Keep which of these blocks it gives to this mount.
    pub async fn ask(&self, locators: HashSet<Locator>) -> Answers {
        let questions = stream::iter(locators).map(|locator| async {
            let answer = self.keep.check(&locator).await;
            (locator, answer)
        });
        let mut questions = questions.buffer_unordered(QUESTIONS);
        let mut answers = Answers::default();
        while let Some((locator, answer)) = questions.next().await {
            match answer {
                Ok(()) => drop(answers.given.insert(locator)),
                Err(error) if is_lost(&error) => drop(answers.refused.insert(locator)),
                Err(_) => {}
            }
        }
        answers
    }
}

/// Keep does not give us the block, and will not.
fn is_lost(error: &remote::Error) -> bool {
    // A keepproxy that refuses the token says nothing of the block, and the token may be prolonged.
    (error.is_refused_signature() && !error.is_unauthorized()) || error.is_not_found()
}

/// Whether the signature ends before this time.
fn ends_before(locator: &Locator, end: u64) -> bool {
    locator.signature().is_some_and(|hint| hint.expiry < end)
}
