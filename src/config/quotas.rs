//! How much an agent and a workspace can have at the same time. The database function `refused_by_quota`
//! applies the quotas, and `count_for_quota` says what they count.
use super::reader::Reader;

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quota {
    Locks,
    Sessions,
    Tasks,
    Memories,
    Handoffs,
    IdempotencyKeys,
    McpConnections,
}

impl Quota {
    pub(crate) const ALL: [Self; 7] = [
        Self::Locks,
        Self::Sessions,
        Self::Tasks,
        Self::Memories,
        Self::Handoffs,
        Self::IdempotencyKeys,
        Self::McpConnections,
    ];

    /// Returns the variables of the quota per agent and of that per workspace.
    pub(crate) fn variables(self) -> [&'static str; 2] {
        match self {
            Self::Locks => ["QUOTA_LOCKS_PER_AGENT", "QUOTA_LOCKS_PER_WORKSPACE"],
            Self::Sessions => ["QUOTA_SESSIONS_PER_AGENT", "QUOTA_SESSIONS_PER_WORKSPACE"],
            Self::Tasks => ["QUOTA_TASKS_PER_AGENT", "QUOTA_TASKS_PER_WORKSPACE"],
            Self::Memories => ["QUOTA_MEMORIES_PER_AGENT", "QUOTA_MEMORIES_PER_WORKSPACE"],
            Self::Handoffs => ["QUOTA_HANDOFFS_PER_AGENT", "QUOTA_HANDOFFS_PER_WORKSPACE"],
            Self::IdempotencyKeys => {
                ["QUOTA_IDEMPOTENCY_KEYS_PER_AGENT", "QUOTA_IDEMPOTENCY_KEYS_PER_WORKSPACE"]
            }
            Self::McpConnections => {
                ["QUOTA_MCP_CONNECTIONS_PER_AGENT", "QUOTA_MCP_CONNECTIONS_PER_WORKSPACE"]
            }
        }
    }
}

/// The quotas per agent and per workspace, as database functions take them. 0 is no quota.
pub(crate) type Limits = [i32; 2];

/// The configured quotas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quotas([Limits; Quota::ALL.len()]);

impl Quotas {
    pub(crate) fn of(&self, quota: Quota) -> Limits {
        self.0[quota as usize]
    }
}

impl Reader<'_> {
    pub(super) fn quotas(&mut self) -> Quotas {
        Quotas(Quota::ALL.map(|quota| quota.variables().map(|name| self.int(name))))
    }
}
