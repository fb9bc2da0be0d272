//! Blocks that the server must take from us with a save: whether their signatures are good, and what is done if not.
//!
//! Every block that a request names must be signed for our token and for now, or the whole request is refused (403, without a word
//! of which block, protocol.md 4.2). What the base has is signed anew by reading it again. What was written here no collection
//! names yet: it is renewed before its signatures end ([`DirtyStore::renew`](crate::dirty::DirtyStore::renew)), and when a save is refused
//! for want of permission, Keep is asked which blocks it would give us. Those that it refuses are stored anew from what is at
//! hand. A file whose bytes are not, since an earlier mount with another token had brought them to Keep, holds back itself and no
//! other.
//!
//! Where the permission to write is lost for good, each try ends that way. So Keep is asked about blocks of the base, which were signed
//! with it, only if none of the others explains the refusal, and about no block again that it has given us ([`Asked`]).

use crate::actors::Error;
use crate::actors::collection::commit::{Commit, unix_now};
use crate::actors::collection::state::Base;
use crate::dirty::{self, DirtyFile};
use crate::keep::Locator;
use crate::tree::commit::{Depth, Touched};
use crate::tree::{NodeId, Snapshot};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Blocks of ours are stored anew when less than this share of the life of a signature is left: early enough that it is done some
/// times over before that ends, however seldom a server that refuses saves is tried.
const RENEWED_WITHIN: u64 = 4;

/// For so long it is believed that Keep gives us a block: signatures become void before their time only when an administrator changes
/// something, and a save that is refused is tried a dozen times in an hour.
const BELIEVED: Duration = Duration::from_secs(3600);

/// The blocks that Keep has given us, of those about which it was asked since a save succeeded.
#[derive(Default)]
pub(super) struct Asked {
    since: Option<Instant>,
    given: HashSet<Locator>,
}

impl Asked {
    /// Forgets what is too old to be believed.
    fn begin(&mut self, now: Instant) {
        if self.since.is_none_or(|since| now.duration_since(since) >= BELIEVED) {
            *self = Asked { since: Some(now), given: HashSet::new() };
        }
    }
}

impl Commit {
    /// Stores anew what was stored so long ago that its signatures end before long.
    pub(super) async fn renew_own(&self, files: &[Arc<DirtyFile>]) -> Result<(), Error> {
        let life = self.environment.api.discovery().await?.blob_signature_ttl;
        self.writing.store.renew(files, end_of_old(life)).await;
        Ok(())
    }

    /// A save was refused, maybe for the blocks in it. `true`: it was, and the next one will be without them.
    pub(super) async fn has_given_up_blocks(&mut self, base: &Base, target: &Snapshot) -> Result<bool, Error> {
        let files = files_at(target, &self.touched);
        let locators: HashSet<Locator> =
            files.iter().flat_map(|(_, node)| target.pieces(*node)).map(|piece| piece.block).collect();
        let refused = self.refused(locators, &base.snapshot).await;
        if refused.is_empty() {
            return Ok(false);
        }
        tracing::warn!(
            collection = self.cell.key(),
            blocks = refused.len(),
            "blocks that were brought to Keep earlier are not signed for this token and time: they are stored anew where their bytes \
             are at hand"
        );
        // What the server has it signs for us. If it has something else now, the next save finds that.
        let Some(newer) = self.signed_anew(base).await? else { return Ok(true) };
        let refused: HashSet<_> = refused.iter().map(Locator::hash).collect();
        let of_base = |locator: &Locator| newer.find_locator(locator.hash());
        for (path, node) in files {
            if !target.pieces(node).any(|piece| refused.contains(&piece.block.hash())) {
                continue;
            }
            let is_lost = |locator: &Locator| refused.contains(&locator.hash()) && of_base(locator).is_none();
            let shown = self.state.snapshot.find(&path).map(|node| self.state.number(node));
            let bytes = match shown.and_then(|number| self.state.draft(number)) {
                Some(draft) => {
                    draft.file.sign(|locator| of_base(locator).filter(|_| refused.contains(&locator.hash())));
                    draft.file.forget(is_lost).await
                }
                None if target.pieces(node).any(|piece| is_lost(&piece.block)) => target.size(node),
                None => 0,
            };
            if bytes > 0 {
                self.lost.insert(path, dirty::Error::Unsigned { bytes });
            }
        }
        Ok(true)
    }

    /// Those of these blocks that Keep refuses to this mount, or does not have: of the base's only if there are no others.
    async fn refused(&mut self, locators: HashSet<Locator>, base: &Snapshot) -> HashSet<Locator> {
        self.asked.begin(Instant::now());
        let unknown = locators.into_iter().filter(|locator| !self.asked.given.contains(locator));
        let (of_base, own): (HashSet<_>, HashSet<_>) =
            unknown.partition(|locator| base.find_locator(locator.hash()).is_some());
        for locators in [own, of_base] {
            let answers = self.writing.store.ask(locators).await;
            self.asked.given.extend(answers.given);
            if !answers.refused.is_empty() {
                return answers.refused;
            }
        }
        HashSet::new()
    }
}

/// Blocks whose signatures end before this time (seconds since 1970) are to be stored anew. `life`: that of a signature.
pub(super) fn end_of_old(life: u64) -> u64 {
    unix_now() + life / RENEWED_WITHIN
}

/// The files at or below the paths that were touched.
fn files_at(tree: &Snapshot, touched: &Touched) -> Vec<(Vec<u8>, NodeId)> {
    let mut files = Vec::new();
    for (path, depth) in touched.iter() {
        let mut pending: Vec<(NodeId, bool)> =
            tree.find(path).map(|node| (node, depth == Depth::Tree)).into_iter().collect();
        while let Some((node, is_whole)) = pending.pop() {
            if !tree.is_directory(node) {
                files.push((tree.path(node), node));
            } else if is_whole {
                pending.extend(tree.children(node).map(|child| (child, true)));
            }
        }
    }
    files
}
