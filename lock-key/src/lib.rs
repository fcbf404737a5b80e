//! What a lock key is, and which key a text means that a person or a model wrote where a file is meant.
//!
//! [`LockKey`] is the canonical form. [`read`] knows the spellings that cannot be the path of one file, such
//! as `src/a.rs#L3` or `$HOME/a.rs`, and says which path was probably meant: as another key, such a text would
//! be another lock, and guard nothing. The MCP endpoint and `coord` read by the same rules; [`Start`] is the
//! one difference.
mod decoration;
mod extension;
mod folders;
mod key;
mod lists;
mod reading;
mod refusal;
mod roots;
#[cfg(feature = "schema")]
mod schema;
mod top_folders;
mod wrapping;

pub use decoration::without_position;
pub use folders::{FOLDER, file_of_work_tree};
pub use key::{LockKey, LockKeyError, MAX_BYTES, MAX_SPELLING_BYTES, has_namespace};
pub use reading::{plain, read};
pub use refusal::{Refusal, Start};
