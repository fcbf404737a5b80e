//! The version of the service.

/// The version in `Cargo.toml`, as health checks, metrics, documents and spans report it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
