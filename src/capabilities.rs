//! What the service can do: one file for each capability, one line here.
pub mod guardrails;
pub mod locks;
pub mod memory;

use crate::registry::Operations;

/// All operations, in the order they are documented.
pub fn all() -> Operations {
    [locks::operations, memory::operations, guardrails::operations]
        .iter()
        .fold(Operations::default(), |operations, add| add(operations))
}
