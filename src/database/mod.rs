//! The database: connections and the schema. No code here knows a capability.
mod address;
mod connection;
mod executor;
mod migrate;
mod partitions;
mod pool;
mod pooler;
mod privileges;
mod shares;

pub(crate) use connection::{Database, Db};
pub(crate) use migrate::{SchemaState, Settings, migrate, schema_state};
pub(crate) use partitions::{MONTHS_AHEAD, ensure_partitions};
pub(crate) use pooler::REMEDY;
pub(crate) use shares::{Consumer, ShareObserver};

pub use migrate::{MigrateError, Schema, schema};
