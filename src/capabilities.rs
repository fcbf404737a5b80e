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

use std::sync::Arc;

use self::{
    guardrails::Check,
    locks::{acquire::Acquisition, release::Release},
    memory::Storing,
    work::{claim::Claim, finish::Completion, submit::Submission},
};
use crate::{gathering::Gatherer, registry::Operations};

/// The transitions whose calls are gathered: those of every agent's every minute.
#[derive(Debug)]
pub(crate) struct Gatherers {
    pub(crate) acquisitions: Arc<Gatherer<Acquisition>>,
    pub(crate) releases: Arc<Gatherer<Release>>,
    pub(crate) submissions: Arc<Gatherer<Submission>>,
    pub(crate) claims: Arc<Gatherer<Claim>>,
    pub(crate) completions: Arc<Gatherer<Completion>>,
    pub(crate) memories: Arc<Gatherer<Storing>>,
    pub(crate) checks: Arc<Gatherer<Check>>,
}

impl Gatherers {
    pub(crate) fn new(lanes: usize) -> Self {
        Self {
            acquisitions: Arc::new(Gatherer::new(lanes)),
            releases: Arc::new(Gatherer::new(lanes)),
            submissions: Arc::new(Gatherer::new(lanes)),
            claims: Arc::new(Gatherer::new(lanes)),
            completions: Arc::new(Gatherer::new(lanes)),
            memories: Arc::new(Gatherer::new(lanes)),
            checks: Arc::new(Gatherer::new(lanes)),
        }
    }
}

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
