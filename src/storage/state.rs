//! `state.db`: one row per workspace. WAL with full sync: a row that was acknowledged survives the loss of power.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StorageError;
use crate::id::Id;

/// Version of the schema, kept in `PRAGMA user_version`.
const VERSION: i32 = 1;

/// The database. Clones share one connection.
#[derive(Clone, Debug)]
pub struct State {
    connection: Arc<Mutex<Connection>>,
}

/// How soon a change must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before the call returns.
    Synced,
    /// With the next synced change: for what does not outlive the daemon anyway.
    Relaxed,
}

impl State {
    /// Opens or makes the database in the state directory.
    ///
    /// # Errors
    /// If it can't be read, is of a newer version, or the disk is full.
    pub fn open(state_dir: &Path) -> Result<Self, StorageError> {
        let connection = Connection::open(state_dir.join("state.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Err(StorageError::Record(format!("any: written by a newer version ({version})")));
        }
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS workspace (
                 id TEXT PRIMARY KEY,
                 key TEXT NOT NULL UNIQUE,
                 record BLOB NOT NULL
             ) STRICT, WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS tool_call (
                 workspace TEXT NOT NULL,
                 request TEXT NOT NULL,
                 record BLOB NOT NULL,
                 PRIMARY KEY (workspace, request)
             ) STRICT, WITHOUT ROWID;",
        )?;
        connection.pragma_update(None, "user_version", VERSION)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// Writes a workspace's record.
    ///
    /// # Errors
    /// If the disk is full, or the key belongs to another workspace.
    pub fn save(
        &self,
        id: &Id,
        key: &str,
        record: &impl Serialize,
        durability: Durability,
    ) -> Result<(), StorageError> {
        let record =
            serde_json::to_vec(record).map_err(|_unencodable| StorageError::Record(id.to_string()))?;
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let level = if durability == Durability::Synced { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", level)?;
        let mut statement = connection.prepare_cached(
            "INSERT INTO workspace (id, key, record) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET record = excluded.record",
        )?;
        statement.execute(params![id.as_str(), key, record])?;
        Ok(())
    }

    /// Removes a workspace's record and those of its calls; nothing happens if there is none.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn remove(&self, id: &Id, durability: Durability) -> Result<(), StorageError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let level = if durability == Durability::Synced { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", level)?;
        connection.prepare_cached("DELETE FROM workspace WHERE id = ?1")?.execute([id.as_str()])?;
        connection.prepare_cached("DELETE FROM tool_call WHERE workspace = ?1")?.execute([id.as_str()])?;
        Ok(())
    }

    /// Writes what is known of a call in a workspace.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn save_call(
        &self,
        workspace: &Id,
        request: &str,
        record: &impl Serialize,
    ) -> Result<(), StorageError> {
        let record =
            serde_json::to_vec(record).map_err(|_unencodable| StorageError::Record(request.to_owned()))?;
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.pragma_update(None, "synchronous", "FULL")?;
        let mut statement = connection.prepare_cached(
            "INSERT OR REPLACE INTO tool_call (workspace, request, record) VALUES (?1, ?2, ?3)",
        )?;
        statement.execute(params![workspace.as_str(), request, record])?;
        Ok(())
    }

    /// What is known of a call.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn call<T: DeserializeOwned>(
        &self,
        workspace: &Id,
        request: &str,
    ) -> Result<Option<T>, StorageError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection
            .prepare_cached("SELECT record FROM tool_call WHERE workspace = ?1 AND request = ?2")?;
        let mut rows = statement.query(params![workspace.as_str(), request])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let record: Vec<u8> = row.get(0)?;
        serde_json::from_slice(&record)
            .map(Some)
            .map_err(|_unreadable| StorageError::Record(request.to_owned()))
    }

    /// Forgets a call.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn remove_call(&self, workspace: &Id, request: &str) -> Result<(), StorageError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement =
            connection.prepare_cached("DELETE FROM tool_call WHERE workspace = ?1 AND request = ?2")?;
        statement.execute(params![workspace.as_str(), request])?;
        Ok(())
    }

    /// Every record.
    ///
    /// # Errors
    /// The first one that can't be read.
    pub fn all<T: DeserializeOwned>(&self) -> Result<Vec<T>, StorageError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare("SELECT id, record FROM workspace ORDER BY id")?;
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        rows.map(|row| {
            let (id, record) = row?;
            serde_json::from_slice(&record).map_err(|_unreadable| StorageError::Record(id))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Durability, Id, State};

    #[test]
    fn records_come_back_after_a_reopen_and_keys_are_unique() {
        let scratch = tempfile::tempdir().expect("directory");
        let (one, two) = (Id::fresh("ws"), Id::fresh("ws"));
        {
            let state = State::open(scratch.path()).expect("open");
            state.save(&one, "a", &"first", Durability::Synced).expect("save");
            state.save(&one, "a", &"again", Durability::Relaxed).expect("overwrite");
            assert!(
                state.save(&two, "a", &"other", Durability::Synced).is_err(),
                "two workspaces with one key"
            );
        }
        let state = State::open(scratch.path()).expect("reopen");
        assert_eq!(state.all::<String>().expect("read"), ["again"]);
        state.save_call(&one, "call", &"started").expect("call");
        state.save_call(&one, "call", &"finished").expect("call again");
        assert_eq!(state.call::<String>(&one, "call").expect("read").as_deref(), Some("finished"));
        state.remove(&one, Durability::Synced).expect("remove");
        assert_eq!(state.call::<String>(&one, "call").expect("read"), None, "calls go with their workspace");
        state.remove(&one, Durability::Synced).expect("twice");
        assert!(state.all::<String>().expect("read").is_empty());
    }
}
