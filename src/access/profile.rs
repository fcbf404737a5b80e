//! Profiles: named levels of trust with lists and limits.
use schemars::JsonSchema;
use serde::Serialize;

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Type of agent that it is made for.
    pub agent_type: String,
    /// Trust from 0 to 4 that it gives.
    pub trust_level: u8,
    /// The only operations allowed. Empty allows all that the trust allows.
    pub allowed_operations: Vec<String>,
    /// Operations that are refused.
    pub blocked_operations: Vec<String>,
    /// How many live file locks an agent can hold.
    pub max_file_modifications: i64,
    /// How many seconds one run of the agent should last. Not enforced here.
    pub max_execution_time_seconds: i64,
    /// How many calls the agent should make in an hour. Not enforced here.
    pub max_api_calls_per_hour: i64,
}

/// How an agent came by its profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileSource {
    /// By a stored assignment, or by its key.
    Assignment,
    /// By the type that its key is bound to.
    Default,
}
