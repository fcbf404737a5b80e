//! Where the service runs.

/// Where the router runs. It decides a few defaults and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A long-running server, on this machine or in a container.
    Server,
    /// AWS Lambda: one connection per process, and migrations are never applied.
    Lambda,
}
