//! What the service can do: one file for each capability, one line here.
pub mod audit_query;
pub mod discovery;
pub mod handoffs;
pub mod locks;
pub mod ports;

use crate::registry::Operations;

/// All operations, in the order they are documented.
pub fn all() -> Operations {
    let operations = Operations::default();
    let operations = locks::operations(operations);
    let operations = handoffs::operations(operations);
    let operations = audit_query::operations(operations);
    let operations = ports::operations(operations);
    discovery::operations(operations)
}
