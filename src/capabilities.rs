//! What the service can do: one file for each capability, one line here.
pub mod locks;
pub mod network;
pub mod policy;
pub mod profiles;

use crate::registry::Operations;

/// All operations, in the order they are documented.
pub fn all() -> Operations {
    let operations = locks::operations(Operations::default());
    let operations = profiles::operations(operations);
    let operations = policy::operations(operations);
    network::operations(operations)
}
