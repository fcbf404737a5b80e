//! Small types of the domain and of the wire, and functions for texts and JSON. Uses no other room.
mod cache;
mod cursor;
mod domain;
mod error;
pub(crate) mod issue;
pub(crate) mod json;
pub(crate) mod limits;
pub(crate) mod list_page;
mod mutex;
pub(crate) mod name;
mod nearest;
pub(crate) mod raw_json;
mod secret;
pub(crate) mod text;
mod timestamp;
mod version;
mod visit_scalars;

pub(crate) use cache::{Cache, Generation};
pub(crate) use cursor::{Order, read_cursor};
pub(crate) use error::{ReadTooLong, is_lost_connection};
pub(crate) use list_page::{Limit, ListPage};
pub(crate) use mutex::lock;
pub(crate) use nearest::nearest;
pub(crate) use raw_json::RawJson;
pub(crate) use secret::Secret;
pub(crate) use version::VERSION;
pub(crate) use visit_scalars::visit_scalars;

pub use domain::{Domain, DomainError};
pub use error::{Error, Result};
pub use issue::Issue;
pub use timestamp::Timestamp;

pub use lock_key::{LockKey, LockKeyError};
