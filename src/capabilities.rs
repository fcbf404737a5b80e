//! What the service can do: one file for each capability, one line here.
pub mod guardrails;
pub mod locks;
pub mod maintenance;
pub mod memory;
pub mod work;
pub mod network;
pub mod policy;
pub mod profiles;

use crate::registry::Operations;

/// All operations, in the order they are documented.
pub fn all() -> Operations {
    [
        locks::operations,
        work::operations,
        memory::operations,
        guardrails::operations,
        profiles::operations,
        policy::operations,
        network::operations,
        maintenance::operations,
    ]
    .iter()
    .fold(Operations::default(), |operations, add| add(operations))
}
