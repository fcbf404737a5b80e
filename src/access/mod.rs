//! Authentication and authorization: keys, callers, standing, policy.
mod caller;
mod claims;
mod fresh_key;
mod keys;
mod kinds;
mod lookalikes;
pub(crate) mod policy;
mod profile;
mod session;
mod standing;

pub(crate) use caller::{Caller, UNNAMED};
pub(crate) use claims::Claims;
pub(crate) use keys::{Key, Keyring};
pub(crate) use session::{end_connection, find_session};
pub(crate) use standing::{Standings, max_unbound_trust};

pub use fresh_key::{fresh_key, is_whole_key, key_for_environment, key_report};
pub(crate) use kinds::Door;
pub use kinds::{Category, IdentityMode, TargetKind};
pub use profile::{Profile, ProfileSource};
