//! Giving something another name, or another place: inside a collection that is one operation, between two of them it is one
//! for each, and a project does it by changing a record.

use super::Site;
use super::changing::{Spot, check_collection_name, gone_is_stale};
use super::telling::of_name;
use crate::actors;
use crate::actors::collection::CollectionCell;
use crate::actors::collection::moving::Transit;
use crate::actors::collection::operation::Operation;
use crate::actors::collection::placing::Moved;
use crate::actors::listing::Target;
use crate::actors::news;
use crate::keep::manifest::check_new_name;
use crate::tree::NodeId;
use crate::vfs::{Error, Inode};
use std::sync::Arc;
use std::time::Duration;

/// How often a move is tried while somebody may just be closing what is moved: for half a second.
const CLOSING: u32 = 50;
/// How often a move is tried while what is moved is being changed. Each time takes a save of the target or a record in its journal.
const CHANGING: u32 = 20;

impl Site {
    pub(super) async fn move_name(
        &self,
        from: Inode,
        name: &[u8],
        to: Inode,
        new_name: &[u8],
        keep: bool,
    ) -> Result<(), Error> {
        let (source, target) = (self.place(from).await?, self.place(to).await?);
        match (source, target) {
            (
                Spot::Collection { object, cell, state, node },
                Spot::Collection { object: to_object, cell: to_cell, state: to_state, node: to_node },
            ) => {
                check_new_name(new_name, to_node == NodeId::ROOT)?;
                let (to_inode, from, to) = (to, state.number(node), to_state.number(to_node));
                if Arc::ptr_eq(&cell, &to_cell) {
                    let moved = state.snapshot.lookup(node, name).map(|node| state.number(node));
                    let replaced = to_state.snapshot.lookup(to_node, new_name).map(|node| to_state.number(node));
                    let (name, new_name) = (name.to_vec(), new_name.to_vec());
                    let names = of_name(from, &name).into_iter().chain(of_name(to, &new_name));
                    let changes: Vec<_> =
                        names.chain(moved.into_iter().chain(replaced).map(news::Change::Node)).collect();
                    let operation = Operation::Rename { from, name, to, new_name, keep };
                    let result = self.supervisor.apply(&cell, operation, self.need_of_names()).await;
                    match object.slot == to_object.slot {
                        true => self.tell_others(&object, &changes).await,
                        // From one place of the collection to another: the front end takes what it moved for the node that it was.
                        false => self.tell_of(&self.objects.of_collection(cell.key()), &changes).await,
                    }
                    return result.map(drop).map_err(gone_is_stale);
                }
                let result = self.move_between((&cell, from, name), (&to_cell, to, to_inode, new_name), keep).await;
                self.tell_others(&object, &of_name(from, name)).await;
                self.tell_others(&to_object, &of_name(to, new_name)).await;
                result
            }
            (Spot::Project { cell, .. }, Spot::Project { cell: to_cell, uuid, .. }) => {
                let item = self.supervisor.find(&cell, name).await?.ok_or(Error::NotFound)?;
                if !matches!(item.target, Target::Collection(_)) {
                    return Err(Error::NotWritable);
                }
                if self.supervisor.find(&to_cell, new_name).await?.is_some() {
                    return Err(if keep { Error::Exists } else { Error::NotWritable });
                }
                let text = check_collection_name(new_name)?;
                Ok(self.supervisor.move_collection((&cell, &item), (&uuid, &to_cell), text).await?)
            }
            _ => Err(Error::CrossDevice),
        }
    }

    /// From one collection to another: first it is there, then it is not here any more, so that a crash in between leaves two
    /// and never none. Each is saved by itself: the collection that it leaves does not save that before the other has saved it
    /// ([`Transit`]). Bytes are not moved.
    async fn move_between(
        &self,
        (cell, from, name): (&Arc<CollectionCell>, u32, &[u8]),
        (to_cell, to, to_inode, new_name): (&Arc<CollectionCell>, u32, Inode, &[u8]),
        keep: bool,
    ) -> Result<(), Error> {
        let result = self.place_and_take((cell, from, name), (to_cell, to, new_name), keep).await;
        // The front end takes what it moved for the node that it was; and where it could not be taken away, the name is there all
        // the same.
        if let Some(front_end) = self.front_end.get() {
            front_end.invalidate_entry(to_inode, new_name);
        }
        result.map_err(gone_is_stale)
    }

    async fn place_and_take(
        &self,
        (cell, from, name): (&Arc<CollectionCell>, u32, &[u8]),
        (to_cell, to, new_name): (&Arc<CollectionCell>, u32, &[u8]),
        keep: bool,
    ) -> Result<(), actors::Error> {
        let (mut closing, mut changing) = (0, 0);
        let mut placed = None;
        loop {
            let state = self.supervisor.collection_state(cell, false).await?;
            // The kernel may take it for the folder that it was, see `move_between`.
            let is_linked = |node: &NodeId| state.snapshot.is_linked(*node);
            let directory = state.node(from).filter(is_linked).ok_or(actors::Error::Gone)?;
            let node = state.snapshot.lookup(directory, name).ok_or(actors::Error::NotFound)?;
            let moved = Moved::new(state.clone(), node, Transit::between(cell, to_cell));
            let place = Operation::Place {
                parent: to,
                name: new_name.to_vec(),
                moved: moved.clone(),
                keep,
                placed: placed.clone(),
            };
            match self.supervisor.apply(to_cell, place, self.need_of_names()).await {
                Ok(applied) => placed = Some((applied.number, moved.clone())),
                // The kernel tells that a file is not open any more some time after `close` has returned.
                Err(actors::Error::CrossDevice) if closing < CLOSING => {
                    closing += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let take = Operation::Take { parent: from, name: name.to_vec(), moved };
            match self.supervisor.apply(cell, take, self.need_of_names()).await {
                // Another client has changed it since, or somebody here.
                Err(actors::Error::Busy) if changing < CHANGING => changing += 1,
                result => return result.map(drop),
            }
        }
    }
}
