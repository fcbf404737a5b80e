//! Coordination for AI coding agents that share a codebase: the library behind every way of
//! running it.
//!
//! [`router`] builds the one router that the server, the Lambda function, the development loop and
//! the tests share. `docs/architecture.md` is the map.
mod app;
mod audit;
mod auth;
mod authority;
pub mod capabilities;
#[cfg(feature = "cedar")]
mod cedar;
mod config;
mod connection;
mod db;
mod docs;
mod domain;
mod engine;
mod error;
mod gathering;
mod heartbeat;
mod http;
mod idempotency;
mod input;
mod keys;
mod lock_key;
mod mcp;
#[doc(hidden)]
pub mod measured;
mod metrics;
mod migrate;
mod openapi;
pub mod operation;
mod page;
mod policy;
mod pool;
mod pooler;
mod probe;
pub mod registry;
mod server;
pub mod telemetry;
mod timestamp;
pub mod tool;
mod waiting;

pub use app::App;
pub use authority::Profile;
pub use config::{Config, ConfigError, Home, TraceSettings, configuration_table, env_example};
pub use docs::operations_table;
pub use domain::{Domain, DomainError};
pub use error::{Error, Issue, Result};
pub use http::router;
pub use keys::{fresh_key, is_whole_key, key_for_environment, key_report};
pub use lock_key::{LockKey, LockKeyError};
pub use migrate::{MigrateError, Schema, schema};
pub use openapi::document;
#[doc(hidden)]
pub use policy::known_operations;
pub use server::{bind, listen, stop_signal};
pub use timestamp::Timestamp;
