//! Sessions of agents: who is at work, and what becomes of what a session holds when it ends.
//!
//! The invariant: a session's state is judged from when it was last heard, by every statement for
//! itself, and whatever ends a session frees what it holds in the same statement.
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
