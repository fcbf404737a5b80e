//! Exclusive, expiring locks with fencing tokens.
//!
//! Invariant: a key has at most one live lock, and its fencing tokens only increase. The row of a
//! key is never deleted, because it stores the counter of the key's tokens.
pub mod acquire;
pub mod list;
mod reasons;
pub mod release;
pub mod verify;

use serde_json::{Value, json};

use self::{
    acquire::AcquireLock,
    list::{CheckLocks, GetLockStatus, ListLocks},
    release::{ForceReleaseLock, ReleaseLock},
    verify::VerifyLocks,
};
use crate::{
    operation::{McpResource, Operations},
    values::text::{one_line, text_of},
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations
        .with::<AcquireLock>()
        .with::<ReleaseLock>()
        .with::<VerifyLocks>()
        .with::<ListLocks>()
        .with::<CheckLocks>()
        .with::<GetLockStatus>()
        .with::<ForceReleaseLock>()
        .resource(McpResource {
            uri: "locks://current",
            description: "The live locks.",
            operation: "check_locks",
            input: || json!({}),
            lines: lock_lines,
            empty: "No active locks.",
        })
}

fn lock_lines(locks: &Value) -> Vec<String> {
    let line = |lock: &Value| {
        format!(
            "{}: {} ({}), {}, until {}",
            text_of(&lock["file_path"]),
            text_of(&lock["locked_by"]),
            text_of(&lock["agent_type"]),
            lock["reason"].as_str().map_or("Not specified".to_owned(), one_line),
            text_of(&lock["expires_at"]),
        )
    };
    locks.as_array().into_iter().flatten().map(line).collect()
}
