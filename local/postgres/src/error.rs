//! What can go wrong. Every message is meant to be read by the person who ran the program.

use std::{fmt::Display, io, path::Path, path::PathBuf};

use crate::binaries::OLDEST_MAJOR;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine has no PostgreSQL server that is new enough.
    #[error("no PostgreSQL server, version {OLDEST_MAJOR} or newer, was found{}", list(rejected))]
    NotFound {
        /// What was found instead and why it will not do.
        rejected: Vec<String>,
    },
    /// `PG_BIN_DIR` was set to a folder without a usable server.
    #[error("PG_BIN_DIR has no usable PostgreSQL server: {reason}")]
    BadBinDir {
        /// What is wrong with the folder.
        reason: String,
    },
    /// Another process owns the server in that folder.
    #[error("already running, pid {pid} (it holds {})", lock.display())]
    AlreadyRunning {
        /// The file that the owner keeps locked.
        lock: PathBuf,
        /// The owner's process id, as it wrote it there.
        pid: String,
    },
    /// The data belongs to another major version of PostgreSQL.
    #[error(
        "the data in {} was made by PostgreSQL {made_by}, but the server found is version {found}",
        data.display()
    )]
    OtherVersion {
        /// Where the data is.
        data: PathBuf,
        /// The major version that made it.
        made_by: String,
        /// The version of the server found.
        found: String,
    },
    /// A step failed; the details are the program's own words.
    #[error("{action}: {details}")]
    Failed {
        /// What was being done.
        action: String,
        /// What the program said.
        details: String,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server refused a statement or a connection.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The migrations could not be applied.
    #[error("migrations: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl Error {
    pub(crate) fn failed(action: impl Into<String>, details: impl Display) -> Error {
        Error::Failed { action: action.into(), details: details.to_string() }
    }
}

/// Says which file it was, which `std::io::Error` does not.
pub(crate) trait Named<T> {
    fn named(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::File { action, path: path.to_owned(), source })
    }
}

fn list(rejected: &[String]) -> String {
    if rejected.is_empty() { String::new() } else { format!(" ({})", rejected.join("; ")) }
}
