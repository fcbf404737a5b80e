//! The operations of the service: one file or folder for each capability. A capability that needs
//! another one calls its functions, in one direction: `work` uses `guardrails`.
pub mod audit_query;
pub mod discovery;
mod filter;
pub mod guardrails;
pub mod handoffs;
pub mod locks;
pub mod maintenance;
pub mod memory;
pub mod network;
pub mod policy;
pub mod ports;
pub mod profiles;
pub(crate) mod retention;
pub mod work;

use std::sync::LazyLock;

use self::{
    guardrails::{CheckRecord, PatternCache},
    locks::{acquire::Acquisition, release::Release},
    memory::{bm25::Bm25, remember::NewMemory},
    work::{claim::Claim, finish::Completion, submission::Submission},
};
use crate::{
    config::Config,
    operation::{Gatherer, Operations, State},
};

/// Returns the state that capabilities keep in the process: caches, and a gatherer for each
/// transition that agents run often.
pub(crate) fn state(config: &Config) -> State {
    let lanes = config.gather_lanes();
    State::default()
        .with(PatternCache::new())
        .with(Bm25::new())
        .with(Gatherer::<Acquisition>::new(lanes))
        .with(Gatherer::<Release>::new(lanes))
        .with(Gatherer::<Submission>::new(lanes))
        .with(Gatherer::<Claim>::new(lanes))
        .with(Gatherer::<Completion>::new(lanes))
        .with(Gatherer::<NewMemory>::new(lanes))
        .with(Gatherer::<CheckRecord>::new(lanes))
}

/// Returns all operations, in the order in which they are documented. Their schemas are generated once for a
/// process, on first use.
pub fn all() -> &'static Operations {
    static ALL: LazyLock<Operations> = LazyLock::new(register);
    &ALL
}

fn register() -> Operations {
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
