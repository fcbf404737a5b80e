//! Authentication and authorization: keys, callers, standing, policy.
mod caller;
mod claims;
mod fresh_key;
mod keys;
mod kinds;
mod mcp_connection;
pub(crate) mod policy;
mod profile;
mod standing;

pub(crate) use caller::{Caller, UNNAMED};
pub(crate) use claims::Claims;
pub(crate) use keys::{Key, Keyring};
pub(crate) use mcp_connection::{end_connection, join_connection};
pub(crate) use standing::{Standings, max_unbound_trust};

pub use fresh_key::{fresh_key, is_whole_key, key_for_environment, key_report};
pub use kinds::{Category, IdentityMode, TargetKind};
pub use profile::{Profile, ProfileSource};
