//! What the service can do: one file for each capability, one line here.
pub mod audit_query;
pub mod discovery;
pub mod guardrails;
pub mod handoffs;
pub mod locks;
pub mod maintenance;
pub mod memory;
pub mod network;
pub mod policy;
pub mod ports;
pub mod profiles;
pub mod work;

use crate::registry::Operations;

/// All operations, in the order they are documented.
pub fn all() -> Operations {
    [
        locks::operations,
        memory::operations,
        work::operations,
        guardrails::operations,
        profiles::operations,
        audit_query::operations,
        handoffs::operations,
        policy::operations,
        network::operations,
        ports::operations,
        discovery::operations,
        maintenance::operations,
    ]
    .iter()
    .fold(Operations::default(), |operations, add| add(operations))
}
