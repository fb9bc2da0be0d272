//! What can go wrong in an actor. Clonable: one failed load is told to everybody who waited for it.

use crate::remote;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The cluster refused, or could not be asked.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// The manifest of a collection is damaged.
    #[error("collection {collection}: {problem}")]
    Manifest { collection: String, problem: String },
    /// The actor ended while it was asked, twice. Its panic is in the log.
    #[error("{0}: the task in charge of it failed: see the log, and report it as a bug")]
    Failed(String),
}

impl Error {
    /// The object is not there, or we may not know of it.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Remote(error) if error.is_not_found())
    }
}
