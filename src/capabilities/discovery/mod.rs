//! Agent sessions, and the release of their locks, claims and ports.
//!
//! Invariants: whether a session is live is computed from its last heartbeat by each statement
//! (`discovery/rules.sql`). Whatever ends a session frees what it holds in the same statement.
pub mod agents;
pub mod end_sessions;
pub mod session;

use self::{
    agents::DiscoverAgents,
    end_sessions::{CleanupAgents, DeregisterSession},
    session::{Heartbeat, RegisterSession},
};
use crate::operation::Operations;

pub(super) fn operations(operations: Operations) -> Operations {
    operations
        .with::<RegisterSession>()
        .with::<Heartbeat>()
        .with::<DeregisterSession>()
        .with::<DiscoverAgents>()
        .with::<CleanupAgents>()
}
