//! Coordination for AI coding agents that share a codebase.
//!
//! [`router`] builds the one router that the server, the Lambda function, the development loop and the
//! tests share. The modules are rooms: each uses only the modules before it in this list, see
//! `docs/architecture.md`.
mod values;

mod config;

mod database;

mod access;

pub mod operation;

pub mod capabilities;

mod http;
mod mcp;

mod app;
#[doc(hidden)]
pub mod measured;
mod server;
pub mod telemetry;

pub use access::{
    Category, IdentityMode, Profile, ProfileSource, TargetKind, fresh_key, is_whole_key,
    key_for_environment, key_report,
    policy::{KnownOperation, KnownOperations},
};
pub use app::{App, router};
pub use config::{
    Config, ConfigError, Home, Timings, TraceSettings, configuration_table, env_example,
};
pub use database::{MigrateError, Schema, schema};
pub use http::{document, operations_table};
pub use mcp::mcp_document;
pub use server::{bind, listen, stop_signal};
pub use values::{Domain, DomainError, Error, Issue, LockKey, LockKeyError, Result, Timestamp};
