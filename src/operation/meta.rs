//! What is known of an operation besides its types: name, trust, routes, tool.
use super::tool::Tool;
use crate::access::{Category, IdentityMode, TargetKind};

/// Everything about an operation except its types.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The name in policies, profiles and the audit log.
    pub name: &'static str,
    /// Unique name of this form of the operation, where several forms share a name.
    pub id: &'static str,
    /// The trust that the operation needs.
    pub category: Category,
    /// How a body can name the agent.
    pub identity: IdentityMode,
    /// Methods and paths, such as `POST /locks/acquire`.
    pub routes: &'static [&'static str],
    /// Whether the operation is answered without a key where public reads are enabled.
    pub open: bool,
    /// The kind of thing that the operation acts on, for policies.
    pub target_kind: TargetKind,
    /// The tool that offers the operation over MCP, if any.
    pub tool: Option<Tool>,
    /// Name of its audit row, where that differs from `name` or the operation is a read.
    recorded_as: Option<&'static str>,
    /// Whether the operation changes something although it needs only the trust of a read.
    writes: bool,
}

impl Meta {
    /// Creates an operation that changes nothing.
    pub const fn read(name: &'static str) -> Self {
        Self::new(name, Category::Read)
    }

    /// Creates an operation that changes what belongs to its caller or to everybody.
    pub const fn write(name: &'static str) -> Self {
        Self::new(name, Category::Write)
    }

    /// Creates an operation that overrides other agents.
    pub const fn admin(name: &'static str) -> Self {
        Self::new(name, Category::Admin)
    }

    const fn new(name: &'static str, category: Category) -> Self {
        let identity = IdentityMode::HeadersOnly;
        Self {
            name,
            id: name,
            category,
            identity,
            routes: &[],
            open: false,
            target_kind: TargetKind::Task,
            tool: None,
            recorded_as: None,
            writes: false,
        }
    }

    /// Sets the routes: methods and paths.
    pub const fn at(mut self, routes: &'static [&'static str]) -> Self {
        self.routes = routes;
        self
    }

    /// Sets the unique name of this form, where several forms share a name.
    pub const fn id(mut self, id: &'static str) -> Self {
        self.id = id;
        self
    }

    /// Sets how a body can name the agent.
    pub const fn identity(mut self, mode: IdentityMode) -> Self {
        self.identity = mode;
        self
    }

    /// Allows calls without a key where public reads are enabled.
    pub const fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// Sets the kind of thing that the operation acts on.
    pub const fn acts_on(mut self, kind: TargetKind) -> Self {
        self.target_kind = kind;
        self
    }

    /// Offers the operation as a tool of the MCP endpoint.
    pub const fn tool(mut self, tool: Tool) -> Self {
        self.tool = Some(tool);
        self
    }

    /// Sets the name of its audit row. A read has an audit row only with this.
    pub const fn recorded_as(mut self, name: &'static str) -> Self {
        self.recorded_as = Some(name);
        self
    }

    /// Marks a read with a side effect, such as recording the presence of its caller.
    pub const fn writes(mut self) -> Self {
        self.writes = true;
        self
    }

    /// Whether an `Idempotency-Key` is accepted.
    pub fn idempotent(&self) -> bool {
        self.category != Category::Read
    }

    /// Whether nothing changes except the audit row.
    pub fn is_pure_read(&self) -> bool {
        self.category == Category::Read && !self.writes
    }

    /// Whether each call writes an audit row.
    pub fn is_audited(&self) -> bool {
        self.category != Category::Read || self.recorded_as.is_some()
    }

    /// Returns the name of its audit row.
    pub fn audit(&self) -> &'static str {
        self.recorded_as.unwrap_or(self.name)
    }
}
