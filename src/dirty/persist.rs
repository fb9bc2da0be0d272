//! A file as the journal has it: a content that outlives the process.
//!
//! What is in Keep and named by no commit yet is only half safe there: its blocks are signed for the token of this mount and for a
//! time, and whoever takes the journal over may have another token, or come later. So a record has the bytes themselves wherever they
//! are at hand, in itself or in the backing file, and a locator only where they are not ([`Content::is_bare`]).

use super::content::{self, Content};
use super::error::Error;
use super::extents::{Extent, Origin, Source};
use super::file::{DirtyFile, Part, Turn};
use super::state::State;
use bytes::BytesMut;

impl DirtyFile {
    /// The file in a form that outlives the process: up to `inline_limit` bytes that are at hand in the content itself, else in the
    /// backing file, which is kept from now on. `durable`: the backing file is on the disk when this returns. `saves_room`: of what is
    /// in Keep nothing is in the content itself.
    pub async fn persist(&self, inline_limit: u64, saves_room: bool, durable: bool) -> Result<Content, Error> {
        let turn = self.turn().await;
        let at_hand: u64 = {
            let state = self.state();
            let is_at_hand = |extent: &Extent| state.is_at_hand(extent, saves_room);
            state.extents.iter().filter(is_at_hand).map(|extent| extent.length).sum()
        };
        let inline = at_hand <= inline_limit;
        if !inline {
            self.flush(&turn).await?;
        }
        if !inline || saves_room {
            self.copy_end(&turn).await;
        }
        let durable = {
            let mut state = self.state();
            state.is_durable |= durable;
            state.is_durable
        };
        let renews = {
            let state = self.state();
            let is_distrusted = durable && state.backing.as_ref().is_some_and(|backing| backing.is_distrusted());
            // Once it is said that something is in the backing file it must stay the same file.
            let writes = |source: &Source| matches!(source, Source::Sealed { copied: false, .. });
            is_distrusted || (!inline && state.is_spoken_for && state.extents.any(writes))
        };
        if renews {
            self.renew_backing(&turn).await?;
        }
        let (size, found) = {
            let state = self.state();
            let found: Vec<_> =
                state.extents.iter().map(|extent| (state.is_at_hand(&extent, saves_room), extent)).collect();
            (state.extents.size(), found)
        };
        let mut content = Content { size, backing: None, extents: Vec::with_capacity(found.len()) };
        for (is_at_hand, Extent { start, length, source }) in found {
            let stored = match &source {
                Source::Sealed { block, offset, copied } => block.stored(*offset, *copied),
                _ => None,
            };
            let source = match stored.unwrap_or(source) {
                Source::Hole => content::Source::Hole,
                // Long holes are stored as blocks of zeros.
                Source::Stored { locator, origin, .. } if origin != Origin::Named && self.store.is_zeros(&locator) => {
                    content::Source::Hole
                }
                _ if inline && is_at_hand => self.inline(start, length).await?,
                source if source.is_in_backing() => content::Source::Backing,
                Source::Stored { locator, block_size, offset, origin } => content::Source::Stored {
                    locator: locator.as_str().to_owned(),
                    block_size,
                    offset,
                    own: origin != Origin::Named,
                },
                Source::Sealed { block, offset, .. } => match block.bytes() {
                    Some(bytes) => {
                        let low = usize::try_from(offset).map_err(|_| Error::BrokenOff)?;
                        let high = usize::try_from(offset + length).map_err(|_| Error::BrokenOff)?;
                        self.write_backing(&turn, start, bytes.slice(low..high)).await?;
                        self.state().mark_copied(start, length, true);
                        content::Source::Backing
                    }
                    // It has just come to Keep.
                    None => match block.stored(offset, false) {
                        Some(Source::Stored { locator, block_size, offset, .. }) => content::Source::Stored {
                            locator: locator.as_str().to_owned(),
                            block_size,
                            offset,
                            own: true,
                        },
                        _ => return Err(Error::BrokenOff),
                    },
                },
                Source::Memory | Source::Backing => content::Source::Backing,
            };
            content.extents.push(content::Extent { length, source });
        }
        let uses_backing = content.extents.iter().any(|extent| extent.source == content::Source::Backing);
        let backing = self.state().backing.clone().filter(|_| uses_backing);
        if let Some(backing) = backing {
            backing.keep();
            content.backing = Some(backing.number());
            if durable {
                self.blocking(move || backing.sync()).await?;
            }
        }
        Ok(content)
    }

    /// Puts the short last piece, which is in Keep and in memory, into the backing file, if there is room.
    async fn copy_end(&self, turn: &Turn) {
        let bare = {
            let state = self.state();
            let is_bare = |extent: &Extent| matches!(extent.source, Source::Stored { origin: Origin::Own, .. });
            let ends = state.extents.iter().filter(is_bare).filter_map(|it| Some((it.start, state.end_of(&it)?)));
            ends.collect::<Vec<_>>()
        };
        for (start, bytes) in bare {
            let length = bytes.len() as u64;
            if self.store.has_room_for_copies(length) && self.write_backing(turn, start, bytes).await.is_ok() {
                self.state().mark_copied(start, length, true);
            }
        }
    }

    async fn inline(&self, start: u64, length: u64) -> Result<content::Source, Error> {
        let mut bytes = BytesMut::new();
        let mut parts = self.read(start, length).await?;
        if let [Part::Stored { locator, offset, .. }] = parts.as_slice() {
            // Was sealed, has just come to Keep: all of it, for one extent is of one block.
            let block_size = locator.size().ok_or(Error::BrokenOff)?;
            let locator = locator.as_str().to_owned();
            return Ok(content::Source::Stored { locator, block_size, offset: *offset, own: true });
        }
        if let [Part::Bytes(_)] = parts.as_slice()
            && let Some(Part::Bytes(bytes)) = parts.pop()
        {
            return Ok(content::Source::Inline(bytes));
        }
        for part in parts {
            match part {
                Part::Bytes(more) => bytes.extend_from_slice(&more),
                Part::Stored { .. } | Part::Zeros(_) => return Err(Error::BrokenOff),
            }
        }
        Ok(content::Source::Inline(bytes.freeze()))
    }
}

impl State {
    /// Its bytes are here, and belong into a record.
    fn is_at_hand(&self, extent: &Extent, saves_room: bool) -> bool {
        match &extent.source {
            Source::Memory | Source::Backing | Source::Sealed { .. } => true,
            Source::Stored { origin: Origin::Copied, .. } => !saves_room,
            Source::Stored { origin: Origin::Own, .. } => !saves_room && self.end_of(extent).is_some(),
            Source::Stored { origin: Origin::Named, .. } | Source::Hole => false,
        }
    }
}
