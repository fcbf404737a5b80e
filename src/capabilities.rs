//! What the service can do: one file for each capability, one line here.
pub mod guardrails;
pub mod locks;

use crate::registry::Operations;

/// All operations, in the order they are documented.
pub fn all() -> Operations {
    guardrails::operations(locks::operations(Operations::default()))
}
