//! Errors. Every message is for the person who ran the program.

use std::{fmt::Display, io, path::Path, path::PathBuf};

use crate::binaries::OLDEST_MAJOR;

/// Why a server could not be found, started or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine has no PostgreSQL server that is new enough.
    #[error("no PostgreSQL server, version {OLDEST_MAJOR} or newer, was found{}", list(rejected))]
    NotFound {
        /// The servers that were found, with the reason why each cannot be used.
        rejected: Vec<String>,
    },
    /// `PG_BIN_DIR` was set to a folder without a usable server.
    #[error("PG_BIN_DIR has no usable PostgreSQL server: {reason}")]
    BadBinDir {
        /// What is wrong with the folder.
        reason: String,
    },
    /// Another process owns the server in the folder.
    #[error("already running, pid {pid} (it holds {})", lock.display())]
    AlreadyRunning {
        /// The file that the owner keeps locked.
        lock: PathBuf,
        /// The owner's process id, as written in that file.
        pid: String,
    },
    /// The data directory belongs to another major version of PostgreSQL.
    #[error(
        "the data in {} was created by PostgreSQL {made_by}, but the server found is version {found}",
        data.display()
    )]
    OtherVersion {
        /// Where the data is.
        data: PathBuf,
        /// The major version that created the data.
        made_by: String,
        /// The version of the server found.
        found: String,
    },
    /// A step failed. The details are the output of the program that failed.
    #[error("could not {action}: {details}")]
    Failed {
        /// The step.
        action: String,
        /// The output of the program.
        details: String,
    },
    /// A file or folder could not be used.
    #[error("could not {action} {}: {source}", path.display())]
    File {
        /// The attempted action.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
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

/// Adds the path to an error, which `std::io::Error` lacks.
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
