//! Making, moving and removing collections in projects (arv-mount.md 3.3, "Project dirs").
//!
//! One request each, at once: a collection that was made exists on the cluster when `mkdir` returns. The listings concerned are
//! told what came of it, so that it shows before the event of it arrives.

use crate::actors::collection::CollectionCell;
use crate::actors::collection::saving::{Files, Need};
use crate::actors::listing::snapshot::Candidate;
use crate::actors::listing::{self, Item, ListingCell, Target};
use crate::actors::work::Work;
use crate::actors::{Error, Supervisor};
use crate::keep::PortableDataHash;
use crate::remote;
use crate::remote::api::CollectionUpdate;
use serde_json::json;
use std::sync::Arc;

impl Supervisor {
    /// Makes an empty collection in a project. The name is taken as it is.
    pub async fn make_collection(
        &self,
        project: &str,
        cell: &Arc<ListingCell>,
        name: &str,
        storage_classes: &[String],
    ) -> Result<Item, Error> {
        let mut update = CollectionUpdate::default();
        update.attributes.insert("owner_uuid".into(), json!(project));
        update.attributes.insert("name".into(), json!(name));
        if !storage_classes.is_empty() {
            update.attributes.insert("storage_classes_desired".into(), json!(storage_classes));
        }
        update.manifest = Some(String::new());
        let api = self.environment().api.clone();
        let request = async move { Ok(api.create_collection(&update, None).await?) };
        let record = Work::start(&self.environment().network, "making a collection", request).await.map_err(taken)?;
        let target = Target::Collection(record.uuid.clone().into());
        let candidate =
            Candidate { name: name.as_bytes().to_vec(), target, modified: record.modified_at, can_write: None };
        self.ask(cell, |reply| listing::Add { candidate: candidate.clone(), reply }).await
    }

    /// Puts an empty collection into the trash.
    pub async fn remove_collection(
        &self,
        cell: &Arc<ListingCell>,
        item: &Item,
        collection: &Arc<CollectionCell>,
    ) -> Result<(), Error> {
        let state = self.collection_state(collection, true).await?;
        if state.snapshot.children(crate::tree::NodeId::ROOT).next().is_some() {
            return Err(Error::NotEmpty);
        }
        // What is not saved could not be saved later, and what others have put into it goes into the trash with it.
        self.save(collection, Files::All, Need::Server).await?;
        let (api, uuid) = (self.environment().api.clone(), collection.key().clone());
        let request = async move {
            let record = api.collection(&uuid, &["portable_data_hash"], None).await?;
            if record.portable_data_hash != PortableDataHash::EMPTY.to_string() {
                return Err(Error::NotEmpty);
            }
            Ok(api.delete_collection(&uuid).await?)
        };
        Work::start(&self.environment().network, "removing a collection", request).await?;
        self.tell_removed(cell, item.number).await;
        Ok(())
    }

    /// Gives a collection another name, another project, or both.
    pub async fn move_collection(
        &self,
        (from, item): (&Arc<ListingCell>, &Item),
        (project, to): (&str, &Arc<ListingCell>),
        new_name: &str,
    ) -> Result<(), Error> {
        let Target::Collection(uuid) = &item.target else { return Err(Error::ReadOnly) };
        let mut update = CollectionUpdate { select: vec!["uuid".into(), "modified_at".into()], ..Default::default() };
        update.attributes.insert("owner_uuid".into(), json!(project));
        update.attributes.insert("name".into(), json!(new_name));
        update.repeat = remote::retry::Repeat::Harmless;
        let (api, uuid) = (self.environment().api.clone(), uuid.to_string());
        let request = async move { Ok(api.update_collection(&uuid, &update, None).await?) };
        let record = Work::start(&self.environment().network, "moving a collection", request).await.map_err(taken)?;
        self.tell_removed(from, item.number).await;
        let target = item.target.clone();
        let candidate =
            Candidate { name: new_name.as_bytes().to_vec(), target, modified: record.modified_at, can_write: None };
        self.ask(to, |reply| listing::Add { candidate: candidate.clone(), reply }).await?;
        Ok(())
    }

    async fn tell_removed(&self, cell: &Arc<ListingCell>, number: u32) {
        if let Some(address) = cell.address() {
            // If its actor has failed, its successor reads the list anew.
            let _ = address.send(listing::Remove { number }).await;
        }
    }
}

/// A name that is taken is what it is, not a failure of the server.
fn taken(error: Error) -> Error {
    match error {
        Error::Remote(error) if error.is_name_taken() => Error::Exists,
        error => error,
    }
}
