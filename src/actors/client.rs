//! What the file system asks of the actors: published states where there are some, and when to wait for newer ones.
//!
//! The rule for waiting: what is published is used at once, and if it is old, looked at again in the background. Only who
//! enters a directory (`attentive`) waits, when an event has said that it changed or when nobody has looked for so
//! long that it counts as not loaded; and he waits for a few seconds at most, then gets what there is.

use crate::actors::cell::{Cell, Keeper};
use crate::actors::collection::operation::{Applied, Apply, Operation};
use crate::actors::collection::saving::{Files, Need, Save};
use crate::actors::collection::{self, CollectionCell, CollectionState, Left};
use crate::actors::listing::{self, Item, Listing, ListingCell};
use crate::actors::refresh::Reply;
use crate::actors::work::Work;
use crate::actors::{Error, Supervisor};
use crate::journal::Change;
use crate::remote::api::{Api, Collection, Filter, Query, Record};
use actix::{Handler, Message};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long somebody waits for a newer state when there is an old one.
const PATIENCE: Duration = Duration::from_secs(3);

/// How old a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Fresh,
    /// Time to look again; nobody needs to wait for that.
    Old,
    /// Known or likely to be wrong.
    Outdated,
}

impl Age {
    /// Of something fetched at `fetched` that is to be looked at again after `interval`.
    pub(super) fn of(fetched: Instant, interval: Duration, is_marked: bool) -> Age {
        let age = fetched.elapsed();
        match () {
            () if is_marked || age >= interval * 2 => Age::Outdated,
            () if age >= interval => Age::Old,
            () => Age::Fresh,
        }
    }
}

impl Supervisor {
    /// The state of a collection; loaded if it is not yet.
    pub async fn collection_state(
        &self,
        cell: &Arc<CollectionCell>,
        attentive: bool,
    ) -> Result<Arc<CollectionState>, Error> {
        let load = |fresh| move |reply| collection::Load { fresh, reply };
        let Some(state) = cell.load() else { return self.ask(cell, load(false)).await };
        match state.age(cell) {
            Age::Fresh => Ok(state),
            Age::Outdated if attentive => self.newer(cell, state, load(true)).await,
            Age::Old | Age::Outdated => {
                cell.want();
                Ok(state)
            }
        }
    }

    /// The state of a collection with signatures that were made after now.
    pub async fn renew_signatures(&self, cell: &Arc<CollectionCell>) -> Result<Arc<CollectionState>, Error> {
        self.ask(cell, |reply| collection::Renew { reply }).await
    }

    /// Changes names, or opens a file for writing; the answer comes when what is `need`ed has come about.
    pub async fn apply(&self, cell: &Arc<CollectionCell>, operation: Operation, need: Need) -> Result<Applied, Error> {
        self.ask(cell, |reply| Apply { operation: operation.clone(), need, reply }).await
    }

    /// Saves what was changed in a collection, or makes sure that it does not get lost. Who wants all of it on the server also
    /// wants there what was moved from it to others.
    pub async fn save(
        &self,
        cell: &Arc<CollectionCell>,
        files: Files,
        need: Need,
    ) -> Result<Arc<CollectionState>, Error> {
        match (need, files) {
            (Need::Server, Files::None | Files::All) => self.save_with_targets(cell, files).await,
            _ => self.save_alone(cell, files, need).await,
        }
    }

    /// The same of nothing but this collection.
    pub(super) async fn save_alone(
        &self,
        cell: &Arc<CollectionCell>,
        files: Files,
        need: Need,
    ) -> Result<Arc<CollectionState>, Error> {
        self.ask(cell, |reply| Save { files, need, reply }).await
    }

    /// Takes over what mounts that were killed had not saved of a collection, as [`collection::Recover`] says.
    pub async fn adopt_journals(&self, uuid: &str, left: &Arc<[Arc<Left>]>) -> Result<Vec<Vec<Change>>, Error> {
        let cell = self.collection(uuid);
        self.collection_state(&cell, false).await?;
        let message = |reply| collection::Recover { left: left.clone(), reply };
        self.ask(&cell, message).await
    }

    /// The record of a collection as it is now, with its manifest. If it says something new, that is published first.
    pub async fn collection_record(&self, cell: &Arc<CollectionCell>) -> Result<(Record<Collection>, Vec<u8>), Error> {
        let (api, id) = (self.environment().api.clone(), cell.key().clone());
        let request = async move {
            let mut manifest = Vec::new();
            let record = api.collection(&id, &[], Some(&mut manifest)).await?;
            Ok((record, manifest))
        };
        let (record, manifest) = Work::start(&self.environment().network, cell.key(), request).await?;
        let is_new = cell.load().is_some_and(|state| state.portable_data_hash() != record.portable_data_hash);
        if is_new {
            self.ask(cell, |reply| collection::Load { fresh: true, reply }).await?;
        }
        Ok((record, manifest))
    }

    /// Everything in a listing.
    pub async fn list(&self, cell: &Arc<ListingCell>) -> Result<Arc<Listing>, Error> {
        let load = |fresh| move |reply| listing::Load { fresh, reply };
        let listing = cell.load().and_then(|listing| Some((listing.age(cell)?, listing)));
        match listing {
            None => self.ask(cell, load(false)).await,
            Some((Age::Fresh, listing)) => Ok(listing),
            Some((Age::Old, listing)) => {
                cell.want();
                Ok(listing)
            }
            Some((Age::Outdated, listing)) => self.newer(cell, listing, load(true)).await,
        }
    }

    /// The object with this name in a listing.
    pub async fn find(&self, cell: &Arc<ListingCell>, name: &[u8]) -> Result<Option<Item>, Error> {
        let listing = cell.load().and_then(|listing| Some((listing.age(cell)?, listing)));
        match listing {
            Some((Age::Fresh, listing)) => Ok(listing.by_name(name).cloned()),
            Some((Age::Old, listing)) if listing.by_name(name).is_some() => {
                cell.want();
                Ok(listing.by_name(name).cloned())
            }
            _ => self.ask(cell, |reply| listing::Find { name: name.to_owned(), reply }).await,
        }
    }

    /// Is there a project or filter group with this uuid? Then its time of modification. One that is known to exist is not
    /// asked for again; its listing will tell.
    pub async fn project(&self, uuid: &str, is_known: bool) -> Result<Option<Option<DateTime<Utc>>>, Error> {
        if is_known {
            return Ok(Some(None));
        }
        let environment = self.environment().clone();
        let mut filters =
            vec![Filter::new("uuid", "=", uuid), Filter::new("group_class", "in", json!(["project", "filter"]))];
        filters.extend(environment.filters.of("groups").into_iter().map(Filter::raw));
        let query = Query { filters, limit: Some(1), ..Query::default() };
        let request = async move { Ok(environment.api.groups(&query).await?) };
        let page = Work::start(&self.environment().network, uuid, request).await?;
        Ok(page.items.into_iter().next().map(|group| group.modified_at))
    }

    /// The record of a project, filter group or user.
    pub async fn project_record(&self, uuid: &str) -> Result<(Map<String, Value>, Option<DateTime<Utc>>), Error> {
        let request = project_record(self.environment().api.clone(), uuid.to_owned());
        Work::start(&self.environment().network, uuid, request).await
    }

    /// A newer state than `old`, if it comes soon.
    async fn newer<A, M>(
        &self,
        cell: &Arc<Cell<A>>,
        old: Arc<A::State>,
        message: impl Fn(Reply<Arc<A::State>, Error>) -> M,
    ) -> Result<Arc<A::State>, Error>
    where
        A: Keeper + Handler<M>,
        M: Message<Result = ()> + Send + 'static,
    {
        match tokio::time::timeout(PATIENCE, self.ask(cell, message)).await {
            Ok(result) => result,
            Err(_) => Ok(old),
        }
    }
}

/// The same, to be run anywhere.
pub(super) async fn project_record(
    api: Arc<dyn Api>,
    uuid: String,
) -> Result<(Map<String, Value>, Option<DateTime<Utc>>), Error> {
    if uuid.get(5..12) == Some("-tpzed-") {
        let record = api.user(&uuid).await?;
        return Ok((record.raw, record.fields.modified_at));
    }
    let record = api.group(&uuid).await?;
    Ok((record.raw, record.fields.modified_at))
}
