//! Where the service runs.

/// Where the router runs. Decides only a few defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A long-running server, on this machine or in a container.
    Server,
    /// AWS Lambda: one database connection per process, and no automatic migration.
    Lambda,
}
