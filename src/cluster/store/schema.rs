//! The tables, and how an older file becomes a current one.
//!
//! `user_version` counts the migrations that were applied. A migration is never changed once it has been in a release:
//! the next one is appended.

use std::fmt::Write;
use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::cluster::record::{MODELS, Model};
use crate::cluster::store::OpenError;

/// Brings the schema up to date.
///
/// # Errors
/// When SQLite refuses, or the file was made by a newer program.
pub fn migrate(sql: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let transaction = sql.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", (), |row| row.get(0)).map_err(sqlite)?;
    let migrations = [first(), SECOND.to_owned()];
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    for migration in migrations.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(migration).map_err(sqlite)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(sqlite)?;
    transaction.commit().map_err(sqlite)
}

/// Schema 1: a table for each kind, manifests by content, and the counter of permission changes.
fn first() -> String {
    let mut text = String::from(
        "CREATE TABLE manifests (hash TEXT PRIMARY KEY, text TEXT NOT NULL, file_names TEXT NOT NULL) WITHOUT ROWID;
         CREATE TABLE permission_changes (id INTEGER PRIMARY KEY CHECK (id = 1), count INTEGER NOT NULL);
         INSERT INTO permission_changes VALUES (1, 0);\n",
    );
    for model in MODELS {
        text += &table(model);
    }
    // Names are unique among what is not in the trash, and old versions have no claim on a name (protocol.md 4.2).
    // SQLite names these columns when it refuses; `store::rows` turns that into the text clients know.
    text += "
        CREATE UNIQUE INDEX index_collections_on_owner_uuid_and_name ON collections (owner_uuid, name)
            WHERE is_trashed = 0 AND current_version_uuid = uuid;
        CREATE INDEX collections_by_hash ON collections (portable_data_hash);
        CREATE INDEX collections_by_current_version ON collections (current_version_uuid);
        CREATE INDEX collections_by_trash_at ON collections (trash_at) WHERE trash_at IS NOT NULL;
        CREATE INDEX collections_by_manifest ON collections (manifest);
        CREATE UNIQUE INDEX index_groups_on_owner_uuid_and_name ON groups (owner_uuid, name) WHERE is_trashed = 0;
        CREATE INDEX groups_by_trash_at ON groups (trash_at) WHERE trash_at IS NOT NULL;
        CREATE UNIQUE INDEX index_users_on_username ON users (username);
        CREATE INDEX links_by_head ON links (head_uuid);
        CREATE INDEX links_by_tail ON links (tail_uuid);
        CREATE INDEX links_by_class_and_name ON links (link_class, name);
        CREATE INDEX logs_by_object ON logs (object_uuid);
        CREATE INDEX logs_by_creation ON logs (created_at);
        CREATE INDEX logs_by_old_manifest ON logs (old_manifest);
        CREATE INDEX logs_by_new_manifest ON logs (new_manifest);
        CREATE UNIQUE INDEX tokens_by_secret ON api_client_authorizations (api_token);\n";
    text
}

/// Schema 2: manifests without the names in them, in a table of rows and an index.
///
/// The names follow from the text, are worked out when somebody searches for one, and were a quarter of what a save writes.
/// And in a table that is its own index SQLite reads every row it compares a key with, whole: each look for a hash read the
/// texts of several large collections.
const SECOND: &str = "CREATE TABLE rows_of_manifests (hash TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL);
    INSERT INTO rows_of_manifests SELECT hash, text FROM manifests;
    DROP TABLE manifests;
    ALTER TABLE rows_of_manifests RENAME TO manifests;";

fn table(model: &Model) -> String {
    let name = model.table;
    let mut text = format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY AUTOINCREMENT");
    for column in model.columns().filter(|column| column.name != "id") {
        _ = write!(text, ", {} {}", column.name, column.column_type());
    }
    for column in model.internal {
        _ = write!(text, ", {column} TEXT");
    }
    text += ");\n";
    _ = writeln!(text, "CREATE UNIQUE INDEX index_{name}_on_uuid ON {name} (uuid);");
    _ = writeln!(text, "CREATE INDEX {name}_by_owner ON {name} (owner_uuid, uuid);");
    _ = writeln!(text, "CREATE INDEX {name}_by_modification ON {name} (modified_at, uuid);");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_file_becomes_a_current_one_with_what_it_holds() {
        let mut sql = Connection::open_in_memory().unwrap();
        sql.execute_batch(&first()).unwrap();
        sql.pragma_update(None, "user_version", 1).unwrap();
        sql.execute("INSERT INTO manifests VALUES ('hash', 'text', 'names')", ()).unwrap();
        migrate(&mut sql, Path::new("memory")).unwrap();
        let found: (String, String) =
            sql.query_row("SELECT * FROM manifests", (), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(found, ("hash".to_owned(), "text".to_owned()));
        migrate(&mut sql, Path::new("memory")).unwrap();
    }
}
