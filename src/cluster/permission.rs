//! Who may do what: the graph of owners and permission links, and what one user sees of it (protocol.md 4.10).
//!
//! The [`Graph`] holds users, groups and permission links only, not the collections: those are readable through their
//! owner or through a link of their own. It is built from the tables when a counter in the database says that they
//! have changed (every transaction that touches a user, a group or a permission link counts it up), and shared between
//! all calls until then. A [`Visibility`] is one user's view of it, computed once per user and graph.
//!
//! What must stay true: a transaction never publishes a graph with its own uncommitted changes (`call.rs` keeps such
//! a graph to itself).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

/// What a user may do with something. The order matters: more includes less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing; not even know that it is there.
    #[default]
    None,
    /// Read it.
    Read,
    /// Change it.
    Write,
    /// Change it and who else may.
    Manage,
}

impl Level {
    /// The level that a permission link of this name gives.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "can_read" | "can_login" => Some(Self::Read),
            "can_write" => Some(Self::Write),
            "can_manage" => Some(Self::Manage),
            _ => None,
        }
    }
}

/// What the graph knows of a group.
#[derive(Debug)]
pub struct Group {
    /// Owner.
    pub owner: String,
    /// `project`, `role` or `filter`.
    pub class: String,
}

/// What the graph knows of a user.
#[derive(Debug)]
pub struct User {
    /// Owner.
    pub owner: String,
    /// Whether the account is in use.
    pub is_active: bool,
    /// Whether everything is allowed.
    pub is_admin: bool,
}

/// Users, groups and who is allowed what.
#[derive(Debug, Default)]
pub struct Graph {
    /// The state of the database it was made from.
    pub count: i64,
    /// Groups by uuid.
    pub groups: HashMap<String, Group>,
    /// Users by uuid.
    pub users: HashMap<String, User>,
    edges: HashMap<String, Vec<(String, Level)>>,
    writers: HashMap<String, Vec<String>>,
    trashed: HashSet<String>,
    frozen: HashSet<String>,
    views: Mutex<HashMap<String, Arc<HashMap<String, Level>>>>,
}

impl Graph {
    /// How often users, groups and permission links have changed.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn count(sql: &Connection) -> Result<i64, rusqlite::Error> {
        sql.prepare_cached("SELECT count FROM permission_changes")?.query_row((), |row| row.get(0))
    }

    /// Notes that they change.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn touch(sql: &Connection) -> Result<(), rusqlite::Error> {
        sql.prepare_cached("UPDATE permission_changes SET count = count + 1")?.execute(()).map(|_| ())
    }

    /// Reads the graph.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn read(sql: &Connection) -> Result<Self, rusqlite::Error> {
        let mut graph = Self { count: Self::count(sql)?, ..Self::default() };
        let (mut trashed, mut frozen) = (Vec::new(), Vec::new());
        let mut statement = sql.prepare_cached(
            "SELECT uuid, owner_uuid, group_class, is_trashed, frozen_by_uuid IS NOT NULL FROM groups",
        )?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let uuid: String = row.get(0)?;
            let group = Group { owner: row.get(1)?, class: row.get::<_, Option<String>>(2)?.unwrap_or_default() };
            if row.get::<_, Option<bool>>(3)?.unwrap_or_default() {
                trashed.push(uuid.clone());
            }
            if row.get(4)? {
                frozen.push(uuid.clone());
            }
            graph.edges.entry(group.owner.clone()).or_default().push((uuid.clone(), Level::Manage));
            graph.groups.insert(uuid, group);
        }
        let mut statement = sql.prepare_cached("SELECT uuid, owner_uuid, is_active, is_admin FROM users")?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let uuid: String = row.get(0)?;
            let flag = |at| Ok::<_, rusqlite::Error>(row.get::<_, Option<bool>>(at)?.unwrap_or_default());
            let user = User { owner: row.get(1)?, is_active: flag(2)?, is_admin: flag(3)? };
            graph.edges.entry(user.owner.clone()).or_default().push((uuid.clone(), Level::Manage));
            graph.users.insert(uuid, user);
        }
        let mut statement = sql.prepare_cached(
            "SELECT tail_uuid, head_uuid, name FROM links WHERE link_class = 'permission' AND tail_uuid IS NOT NULL \
             AND head_uuid IS NOT NULL ORDER BY id",
        )?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            let (tail, head, name): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some(level) = Level::of_name(&name) else { continue };
            if level >= Level::Write {
                graph.writers.entry(head.clone()).or_default().push(tail.clone());
            }
            graph.edges.entry(tail).or_default().push((head, level));
        }
        graph.trashed = graph.below(trashed);
        graph.frozen = graph.below(frozen);
        Ok(graph)
    }

    /// These groups and all groups owned by them, directly or not.
    fn below(&self, roots: Vec<String>) -> HashSet<String> {
        let mut all: HashSet<String> = roots.iter().cloned().collect();
        let mut todo = roots;
        while let Some(group) = todo.pop() {
            for (child, _) in self.edges.get(&group).map(Vec::as_slice).unwrap_or_default() {
                let owned = self.groups.get(child).is_some_and(|child| child.owner == group);
                if owned && all.insert(child.clone()) {
                    todo.push(child.clone());
                }
            }
        }
        all
    }

    /// A project and all projects below it.
    pub fn descendants(&self, group: &str) -> HashSet<String> {
        self.below(vec![group.to_owned()])
    }

    /// Whether it is a group in the trash, or below one.
    pub fn is_trashed(&self, group: &str) -> bool {
        self.trashed.contains(group)
    }

    /// Whether it is a frozen project, or below one.
    pub fn is_frozen(&self, group: &str) -> bool {
        self.frozen.contains(group)
    }

    /// Tails of links that let somebody write to this.
    pub fn writers(&self, head: &str) -> &[String] {
        self.writers.get(head).map(Vec::as_slice).unwrap_or_default()
    }

    /// What a user may do with what the graph knows, and with single objects that links point to.
    fn levels(&self, user: &str) -> Arc<HashMap<String, Level>> {
        if let Some(levels) = self.views.lock().unwrap_or_else(PoisonError::into_inner).get(user) {
            return Arc::clone(levels);
        }
        let mut levels = HashMap::from([(user.to_owned(), Level::Manage)]);
        let mut todo = vec![user.to_owned()];
        while let Some(place) = todo.pop() {
            let level = levels.get(&place).copied().unwrap_or_default();
            // Through another user one gets only with can_manage; then all that is that user's is reachable.
            if self.users.contains_key(&place) && level < Level::Manage {
                continue;
            }
            for (next, edge) in self.edges.get(&place).map(Vec::as_slice).unwrap_or_default() {
                let reached = level.min(*edge);
                let known = levels.entry(next.clone()).or_default();
                if *known < reached {
                    *known = reached;
                    todo.push(next.clone());
                }
            }
        }
        let levels = Arc::new(levels);
        self.views.lock().unwrap_or_else(PoisonError::into_inner).insert(user.to_owned(), Arc::clone(&levels));
        levels
    }
}

/// What one user sees.
#[derive(Debug)]
pub struct Visibility {
    /// Everything there is.
    pub graph: Arc<Graph>,
    /// Who looks.
    pub user: String,
    /// Whether everything is allowed to them.
    pub is_admin: bool,
    is_active: bool,
    roles_visible: bool,
    levels: Arc<HashMap<String, Level>>,
}

impl Visibility {
    /// The view of a user; `roles_visible`: every active user can see all role groups.
    pub fn new(graph: Arc<Graph>, user: &str, roles_visible: bool) -> Self {
        let levels = graph.levels(user);
        let account = graph.users.get(user);
        let (is_admin, is_active) =
            account.map_or((false, false), |user| (user.is_admin && user.is_active, user.is_active));
        Self { user: user.to_owned(), is_admin, is_active, roles_visible, levels, graph }
    }

    /// What the links and owners alone allow with this uuid.
    pub fn level_of_uuid(&self, uuid: &str) -> Level {
        if self.is_admin { Level::Manage } else { self.levels.get(uuid).copied().unwrap_or_default() }
    }

    /// What is allowed with an object, by itself or through its owner. Another user's things count only for who may
    /// manage that user.
    pub fn level(&self, uuid: &str, owner: &str) -> Level {
        let through_owner = match self.level_of_uuid(owner) {
            level if level == Level::Manage || self.graph.groups.contains_key(owner) => level,
            _ => Level::None,
        };
        self.level_of_uuid(uuid).max(through_owner)
    }

    /// Everything the graph allows this user, for `computed_permissions`.
    pub fn all(&self) -> impl Iterator<Item = (&str, Level)> {
        self.levels.iter().map(|(uuid, level)| (uuid.as_str(), *level))
    }

    /// Whether the object can be read.
    pub fn can_read(&self, uuid: &str, owner: &str) -> bool {
        self.level(uuid, owner) >= Level::Read
            || (self.roles_visible
                && self.is_active
                && self.graph.groups.get(uuid).is_some_and(|group| group.class == "role"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(groups: &[(&str, &str, &str)], links: &[(&str, &str, Level)]) -> Arc<Graph> {
        let mut graph = Graph::default();
        for user in ["alice", "bob", "root"] {
            let user_record = User { owner: "root".to_owned(), is_active: true, is_admin: user == "root" };
            graph.users.insert(user.to_owned(), user_record);
            graph.edges.entry("root".to_owned()).or_default().push((user.to_owned(), Level::Manage));
        }
        for (uuid, owner, class) in groups {
            graph.edges.entry((*owner).to_owned()).or_default().push(((*uuid).to_owned(), Level::Manage));
            graph.groups.insert((*uuid).to_owned(), Group { owner: (*owner).to_owned(), class: (*class).to_owned() });
        }
        for (tail, head, level) in links {
            graph.edges.entry((*tail).to_owned()).or_default().push(((*head).to_owned(), *level));
        }
        Arc::new(graph)
    }

    #[test]
    fn a_level_is_the_least_along_a_path_and_the_most_of_all_paths() {
        let graph = graph(
            &[("project", "alice", "project"), ("sub", "project", "project"), ("role", "root", "role")],
            &[("bob", "role", Level::Manage), ("role", "project", Level::Read), ("bob", "sub", Level::Write)],
        );
        let bob = Visibility::new(Arc::clone(&graph), "bob", true);
        assert_eq!(bob.level("thing", "project"), Level::Read);
        assert_eq!(bob.level("thing", "sub"), Level::Write);
        assert_eq!(bob.level("thing", "alice"), Level::None);
        let alice = Visibility::new(graph, "alice", true);
        assert_eq!(alice.level("thing", "sub"), Level::Manage);
        assert!(alice.can_read("role", "root"), "role groups are visible to all");
        assert_eq!(alice.level("role", "root"), Level::None);
    }

    #[test]
    fn reading_another_user_does_not_show_their_things() {
        let graph = graph(&[("home", "alice", "project")], &[("bob", "alice", Level::Write)]);
        let bob = Visibility::new(Arc::clone(&graph), "bob", false);
        assert!(bob.can_read("alice", "root"));
        assert!(!bob.can_read("home", "alice"));
        assert!(!bob.can_read("thing", "alice"));
    }

    #[test]
    fn a_circle_of_links_ends() {
        let graph = graph(
            &[("one", "root", "role"), ("two", "root", "role")],
            &[("bob", "one", Level::Read), ("one", "two", Level::Manage), ("two", "one", Level::Manage)],
        );
        assert_eq!(Visibility::new(graph, "bob", false).level_of_uuid("two"), Level::Read);
    }
}
