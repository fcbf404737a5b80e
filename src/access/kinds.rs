//! What an operation declares about its callers: the trust it needs, and how a body can name the agent.

/// What an operation can change, which decides the trust it needs: `docs/api-design.md#authorization`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Needs trust 1.
    Read,
    /// Needs trust 2.
    Write,
    /// Needs trust 3.
    Admin,
}

/// What kind of thing an operation acts on, for policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A file, or another lock key.
    File,
    /// A host name.
    Domain,
    /// Anything else.
    Task,
}

/// Which members of a body name the calling agent: `docs/api-design.md#identity`. Headers always can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityMode {
    /// `agent_id` and `agent_type`, checked against the key.
    Strict,
    /// `agent_id`, checked. `agent_type` is ignored.
    StrictId,
    /// Both, for a key that is not bound to an agent. Ignored for a bound key.
    Soft,
    /// No member.
    HeadersOnly,
}

/// Which members of a body are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyIdentity {
    pub(super) agent_id: bool,
    pub(super) agent_type: bool,
    pub(super) session_id: bool,
}

impl IdentityMode {
    /// Returns which members of a body are read, for a key that is bound to an agent or not.
    pub(super) fn body_identity(self, is_bound: bool) -> BodyIdentity {
        let (agent_id, agent_type, session_id) = match (self, is_bound) {
            (Self::Strict, _) | (Self::Soft, false) => (true, true, true),
            (Self::StrictId, _) => (true, false, true),
            (Self::Soft, true) => (false, false, true),
            (Self::HeadersOnly, _) => (false, false, false),
        };
        BodyIdentity { agent_id, agent_type, session_id }
    }
}

/// The way by which a request came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Door {
    #[default]
    Http,
    Mcp,
}
