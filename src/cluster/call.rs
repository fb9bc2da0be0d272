//! One API call at work in one transaction.
//!
//! A [`Call`] is what all record logic runs in: the transaction, the caller, the settings of this moment, the clock.
//! It collects the events that the change causes; they are published after the commit and before the next writer, so
//! that subscribers see them in the order of their ids, and, as on a real cluster, usually before the answer.
//!
//! The permission graph of a call always fits its transaction. One that contains uncommitted changes stays here.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use crate::cluster::answer::Failure;
use crate::cluster::authentication::Session;
use crate::cluster::clock::{Clock, Timestamp};
use crate::cluster::configuration::Configuration;
use crate::cluster::permission::{Graph, Level, Visibility};
use crate::cluster::record::collection::content::Content;
use crate::cluster::record::log::LogRow;
use crate::cluster::record::{Model, Record, collection, group, link, log, token, user};
use crate::cluster::store::{Eyes, Store, rows};

/// One API call in its transaction.
pub struct Call<'a> {
    /// The database, for its caches.
    pub store: &'a Store,
    /// The transaction.
    pub sql: &'a Connection,
    /// The settings when the call began.
    pub configuration: Arc<Configuration>,
    /// The caller.
    pub session: Session,
    eyes: &'a Eyes,
    clock: &'a dyn Clock,
    events: RefCell<Vec<LogRow>>,
    graph: RefCell<Option<Arc<Graph>>>,
    changed_permissions: Cell<bool>,
}

impl<'a> Call<'a> {
    /// Begins a call.
    pub fn new(
        store: &'a Store,
        (sql, eyes): (&'a Connection, &'a Eyes),
        configuration: Arc<Configuration>,
        session: Session,
        clock: &'a dyn Clock,
    ) -> Self {
        Self {
            store,
            sql,
            configuration,
            session,
            eyes,
            clock,
            events: RefCell::default(),
            graph: RefCell::default(),
            changed_permissions: Cell::default(),
        }
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The same transaction, used by the system user.
    pub fn as_system(&self) -> Call<'a> {
        let session = Session::system(&self.configuration);
        let call = Call::new(self.store, (self.sql, self.eyes), Arc::clone(&self.configuration), session, self.clock);
        call.changed_permissions.set(self.changed_permissions.get());
        call
    }

    /// Takes over what another call in the same transaction has done.
    pub fn absorb(&self, other: &Call<'a>) {
        self.events.borrow_mut().extend(other.take_events());
        if other.changed_permissions.get() {
            self.changed_permissions.set(true);
            self.graph.replace(None);
        }
    }

    /// An event to publish after the commit.
    pub fn announce(&self, event: LogRow) {
        self.events.borrow_mut().push(event);
    }

    /// The events so far, in order.
    pub fn take_events(&self) -> Vec<LogRow> {
        std::mem::take(&mut self.events.borrow_mut())
    }

    /// Users, groups and permission links as this transaction sees them.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn graph(&self) -> Result<Arc<Graph>, Failure> {
        if let Some(graph) = self.graph.borrow().as_ref() {
            return Ok(Arc::clone(graph));
        }
        let shared = if self.changed_permissions.get() { None } else { self.store.graph.load_full() };
        let count = Graph::count(self.sql)?;
        let graph = match shared {
            Some(graph) if graph.count == count => graph,
            _ => {
                let graph = Arc::new(Graph::read(self.sql)?);
                if !self.changed_permissions.get() {
                    self.store.graph.store(Some(Arc::clone(&graph)));
                }
                graph
            }
        };
        self.graph.replace(Some(Arc::clone(&graph)));
        Ok(graph)
    }

    /// What the caller sees; also tells the SQL functions of this connection.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn visibility(&self) -> Result<Arc<Visibility>, Failure> {
        self.visibility_of(&self.session.user_uuid)
    }

    /// What a user sees.
    fn visibility_of(&self, user: &str) -> Result<Arc<Visibility>, Failure> {
        let visibility = Visibility::new(self.graph()?, user, self.configuration.role_groups_visible_to_all);
        let visibility = Arc::new(visibility);
        self.eyes.store(Some(Arc::clone(&visibility)));
        Ok(visibility)
    }

    /// What the caller may do with a record.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn level(&self, record: &Record) -> Result<Level, Failure> {
        let who = self.visibility()?;
        let table = record.model.table;
        if table == token::MODEL.table {
            let mine = record.owner() == self.session.user_uuid || who.is_admin;
            return Ok(if mine { Level::Manage } else { Level::None });
        }
        let mut level = who.level(record.uuid(), record.owner());
        if table == collection::MODEL.table {
            level = level.max(who.level(record.text("current_version_uuid"), record.owner()));
        } else if table == log::MODEL.table {
            level = level.max(who.level(record.text("object_uuid"), record.text("object_owner_uuid")).min(Level::Read));
        } else if table == link::MODEL.table && record.text("link_class") == link::PERMISSION {
            if self.manages(record.text("head_uuid"))? {
                return Ok(Level::Manage);
            }
            if record.text("tail_uuid") == self.session.user_uuid {
                level = level.max(Level::Read);
            }
        }
        if level == Level::None && who.can_read(record.uuid(), record.owner()) {
            level = Level::Read;
        }
        Ok(level)
    }

    /// Whether the caller may manage what a uuid stands for.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn manages(&self, uuid: &str) -> Result<bool, Failure> {
        let who = self.visibility()?;
        if who.level_of_uuid(uuid) == Level::Manage {
            return Ok(true);
        }
        match Model::of_uuid(uuid) {
            Some(model) if model.table != link::MODEL.table => {
                Ok(self.find(model, uuid)?.is_some_and(|found| who.level(found.uuid(), found.owner()) == Level::Manage))
            }
            _ => Ok(false),
        }
    }

    /// Whether a record is in the trash, by itself or inside a trashed project.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn is_hidden(&self, record: &Record) -> Result<bool, Failure> {
        let graph = self.graph()?;
        Ok(record.flag("is_trashed")
            || graph.is_trashed(record.owner())
            || (record.model.table == group::MODEL.table && graph.is_trashed(record.uuid())))
    }

    /// The record of a uuid, whoever may see it.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn find(&self, model: &'static Model, uuid: &str) -> Result<Option<Record>, Failure> {
        let text = format!("SELECT {} FROM {} WHERE uuid = ?", rows::columns(model, ""), model.table);
        Ok(self.sql.prepare_cached(&text)?.query_row([uuid], |row| rows::read(model, row)).optional()?)
    }

    /// The record of a uuid of any kind.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn find_any(&self, uuid: &str) -> Result<Option<Record>, Failure> {
        match Model::of_uuid(uuid) {
            Some(model) => self.find(model, uuid),
            None => Ok(None),
        }
    }

    /// The record of a uuid, if the caller can see it; in the trash only when asked for.
    ///
    /// # Errors
    /// 404 otherwise.
    pub fn readable(&self, model: &'static Model, uuid: &str, include_trash: bool) -> Result<Record, Failure> {
        let record = self.find(model, uuid)?.ok_or_else(Failure::not_found)?;
        if self.level(&record)? < Level::Read || (!include_trash && self.is_hidden(&record)?) {
            return Err(Failure::not_found());
        }
        if model.table == collection::MODEL.table && !include_trash && record.text("current_version_uuid") != uuid {
            // Old versions go with the current one.
            let current = self.find(model, record.text("current_version_uuid"))?;
            if current.is_none_or(|current| current.flag("is_trashed")) {
                return Err(Failure::not_found());
            }
        }
        Ok(record)
    }

    /// Stores a new record.
    ///
    /// # Errors
    /// 422 when the uuid or the name is taken.
    pub fn insert(&self, record: &mut Record) -> Result<(), Failure> {
        rows::insert(self.sql, record)?;
        self.note_permissions(record)
    }

    /// Stores a changed record.
    ///
    /// # Errors
    /// 422 when the name is taken.
    pub fn store(&self, old: &Record, new: &Record) -> Result<(), Failure> {
        rows::update(self.sql, old, new)?;
        self.note_permissions(new)
    }

    /// Removes a record.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn remove(&self, record: &Record) -> Result<(), Failure> {
        let text = format!("DELETE FROM {} WHERE id = ?", record.model.table);
        self.sql.prepare_cached(&text)?.execute([record.id])?;
        self.note_permissions(record)
    }

    fn note_permissions(&self, record: &Record) -> Result<(), Failure> {
        let table = record.model.table;
        if table == group::MODEL.table
            || table == user::MODEL.table
            || (table == link::MODEL.table && record.text("link_class") == link::PERMISSION)
        {
            Graph::touch(self.sql)?;
            self.changed_permissions.set(true);
            self.graph.replace(None);
        }
        Ok(())
    }

    /// The manifest of a hash.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn manifest_text(&self, hash: &str) -> Result<Arc<str>, Failure> {
        if let Some(text) = self.store.manifests.get(hash) {
            return Ok(text);
        }
        let mut statement = self.sql.prepare_cached("SELECT text FROM manifests WHERE hash = ?")?;
        let text: Arc<str> = statement.query_row([hash], |row| row.get(0)).optional()?.unwrap_or_default();
        self.store.manifests.put(hash, Arc::clone(&text));
        Ok(text)
    }

    /// Stores a manifest. One that is there already is not written again.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn put_manifest(&self, content: &Content) -> Result<(), Failure> {
        let Content { key, text, .. } = content;
        self.sql.prepare_cached("INSERT OR IGNORE INTO manifests VALUES (?, ?)")?.execute(params![key, text])?;
        self.store.grown(text.len());
        self.store.manifests.put(key, Arc::clone(text));
        Ok(())
    }

    /// Only for administrators.
    ///
    /// # Errors
    /// 403 for everybody else.
    pub fn require_admin(&self) -> Result<(), Failure> {
        if self.session.is_admin { Ok(()) } else { Err(Failure::forbidden()) }
    }
}
