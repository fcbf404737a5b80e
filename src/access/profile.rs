//! Profiles: named levels of trust with lists and limits.
use schemars::JsonSchema;
use serde::Serialize;

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Profile {
    /// Name of the profile.
    pub name: String,
    /// Type of agent that the profile is meant for.
    pub agent_type: String,
    /// Trust of the agents with this profile, from 0 to 4.
    pub trust_level: u8,
    /// The only allowed operations. Empty: every operation that the trust allows.
    pub allowed_operations: Vec<String>,
    /// Operations that are denied, whatever the trust.
    pub blocked_operations: Vec<String>,
    /// Maximum number of live file locks of an agent.
    pub max_file_modifications: i64,
    /// Recommended maximum time of one run of the agent, in seconds. Not enforced by the service.
    pub max_execution_time_seconds: i64,
    /// Recommended maximum number of calls in an hour. Not enforced by the service.
    pub max_api_calls_per_hour: i64,
}

/// Why a profile applies to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileSource {
    /// A stored assignment or the key names the profile.
    Assignment,
    /// It is the default profile of the type that the key is bound to.
    Default,
}
