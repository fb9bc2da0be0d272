//! Saving collections of which something was moved to others: those first.
//!
//! A collection does not save the removal of what another one has not saved yet
//! ([`moving`](crate::actors::collection::moving)). Who asks for everything to be on the server asks for that too, so the targets of its moves are
//! saved before it, and the targets of theirs before them. Where collections have moved files to each other the removals of the
//! one wait for the other and the other way round, so they are saved in turn until no move comes any further.

use crate::actors::collection::moving::Transit;
use crate::actors::collection::saving::{Files, Need};
use crate::actors::collection::{CollectionCell, CollectionState};
use crate::actors::{Error, Supervisor};
use std::collections::HashSet;
use std::sync::Arc;

/// Moves that are not over, with the collections that they go to.
struct Pending {
    transits: Vec<Arc<Transit>>,
    /// Each after those that something was moved to from it.
    targets: Vec<Arc<CollectionCell>>,
}

impl Pending {
    /// Of a collection, and of all that something was moved to from it.
    fn of(cell: &Arc<CollectionCell>) -> Pending {
        let mut pending = Pending { transits: Vec::new(), targets: Vec::new() };
        let mut seen = HashSet::from([Arc::as_ptr(cell)]);
        let mut open = vec![(cell.clone(), cell.shared().moves.leaving())];
        while let Some((cell, transits)) = open.last_mut() {
            match transits.pop() {
                Some(transit) => {
                    let target = transit.target().filter(|target| seen.insert(Arc::as_ptr(target)));
                    pending.transits.push(transit);
                    if let Some(target) = target {
                        // Also where something was moved on to from it, though it need not hold that back any more.
                        let awaited = target.shared().moves.awaited();
                        open.push((target, awaited));
                    }
                }
                None => {
                    pending.targets.push(cell.clone());
                    open.pop();
                }
            }
        }
        // The last one is the collection itself.
        pending.targets.pop();
        pending
    }

    /// Takes note of how things are now. Whether one of the moves has ended: those that others have begun meanwhile do not count, or
    /// this would go on for as long as they do.
    fn has_come_further(&mut self, now: Pending) -> bool {
        let pending: HashSet<_> = now.transits.iter().map(Arc::as_ptr).collect();
        let before = self.transits.len();
        self.transits.retain(|transit| pending.contains(&Arc::as_ptr(transit)));
        self.targets = now.targets;
        self.transits.len() < before
    }
}

impl Supervisor {
    /// Saves a collection, and before it what was moved from there to others.
    pub(super) async fn save_with_targets(
        &self,
        cell: &Arc<CollectionCell>,
        files: Files,
    ) -> Result<Arc<CollectionState>, Error> {
        // What is moved from now on, others ask for.
        let asked = cell.shared().moves.leaving();
        let mut before = Pending::of(cell);
        loop {
            let mut refused = None;
            for target in &before.targets {
                // Of what an earlier mount has left it may be loaded only now.
                let saved = match self.collection_state(target, false).await {
                    Ok(_) => self.save_alone(target, files, Need::Server).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(error) = saved {
                    refused = Some((target.clone(), error));
                }
            }
            let state = self.save_alone(cell, files, Need::Server).await?;
            if asked.is_empty() {
                return Ok(state);
            }
            if !has_any(&cell.shared().moves.leaving(), &asked) {
                // A move can have ended while the save was under way that was to go before it: then the removal is not in that.
                return self.save_alone(cell, files, Need::Server).await;
            }
            if before.has_come_further(Pending::of(cell)) {
                continue;
            }
            return match refused {
                Some((target, error)) => {
                    tracing::warn!(
                        collection = cell.key(),
                        target = target.key(),
                        cause = %error,
                        "what was moved away from this collection stays in it on the server, for its new one cannot be saved"
                    );
                    Err(error)
                }
                // Somebody goes on writing to what was moved, and nobody has asked for it.
                None if files == Files::None => Ok(state),
                None => Err(Error::Busy),
            };
        }
    }
}

/// Is any of the wanted ones among these?
fn has_any(transits: &[Arc<Transit>], wanted: &[Arc<Transit>]) -> bool {
    let known: HashSet<_> = transits.iter().map(Arc::as_ptr).collect();
    wanted.iter().any(|transit| known.contains(&Arc::as_ptr(transit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_of_others_that_come_and_go_are_no_progress() {
        let (refused, ended) = (Transit::nowhere(), Transit::nowhere());
        let pending = |transits: &[&Arc<Transit>]| Pending {
            transits: transits.iter().map(|transit| (*transit).clone()).collect(),
            targets: Vec::new(),
        };
        let mut before = pending(&[&refused, &ended]);
        assert!(before.has_come_further(pending(&[&refused, &Transit::nowhere()])));
        assert!(!before.has_come_further(pending(&[&refused, &Transit::nowhere()])), "the one that came has gone");
        assert!(!before.has_come_further(pending(&[&refused])));
        assert!(before.has_come_further(pending(&[])));
    }
}
