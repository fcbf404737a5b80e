//! Blocks of ports, so that test environments of agents on one machine do not collide.
//!
//! Invariant: live blocks never share a slot, and a session has at most one block.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::postgres::types::PgInterval;

use crate::{
    access::IdentityMode,
    config::Config,
    operation::{Context, Meta, Operation, Operations, Tool},
    values::{Error, Result, Timestamp},
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<AllocatePorts>().with::<ReleasePorts>().with::<PortsStatus>()
}

/// The trust that is needed to release a block of another agent.
const RELEASE_ANY_TRUST: u8 = 3;

/// Get four ports and a project name for a local test environment, before you start it. Call it
/// again to keep them longer: the ports stay the same.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct AllocatePorts {
    /// The session that gets the ports. They are freed when it ends.
    #[schemars(length(min = 1), extend("x-max-bytes" = 256))]
    pub session_id: String,
}

/// Allocated ports, or why there are none.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AllocatedPorts {
    /// Whether you have ports now.
    pub success: bool,
    /// The ports. Absent when refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// The ports as `export` lines for a shell. Absent when refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_snippet: Option<String>,
    /// Why it was refused: `no_ports_available` or `session_owned_by_other_agent`. Absent
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The ports of a session and its project name.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Ports {
    /// Id of the session.
    pub session_id: String,
    /// Port for a database.
    pub db_port: i32,
    /// Port for a REST interface.
    pub rest_port: i32,
    /// Port for a realtime service.
    pub realtime_port: i32,
    /// Port for an API.
    pub api_port: i32,
    /// Name for a Compose project.
    pub compose_project_name: String,
}

/// The ports that a session was given.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Allocation {
    /// The ports.
    #[serde(flatten)]
    pub ports: Ports,
    /// When the ports are freed unless you allocate them again.
    pub expires_at: Timestamp,
}

impl Operation for AllocatePorts {
    type Output = AllocatedPorts;
    const META: Meta = Meta::write("allocate_ports")
        .at(&["POST /ports/allocate"])
        .identity(IdentityMode::Soft)
        .tool(Tool::named("allocate_ports").show(&["session_id"]));

    fn example() -> Value {
        json!({ "session_id": "s-1" })
    }

    fn took_effect(answer: &AllocatedPorts) -> bool {
        answer.success
    }

    async fn run(self, cx: Context<'_>) -> Result<AllocatedPorts> {
        let ttl_minutes = i64::from(cx.config.ports.ttl_minutes);
        let ttl = PgInterval { months: 0, days: 0, microseconds: ttl_minutes * 60_000_000 };
        let row = sqlx::query!(
            r#"
            select refusal, slot, expires_at as "expires_at: Timestamp"
            from allocate_ports($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.session_id,
            cx.config.ports.slots,
            ttl,
        )
        .fetch_one(cx.db)
        .await?;
        if row.refusal.is_some() {
            let refused = AllocatedPorts {
                success: false,
                allocation: None,
                env_snippet: None,
                error: row.refusal,
            };
            return Ok(refused);
        }
        let (Some(slot), Some(expires_at)) = (row.slot, row.expires_at) else {
            return Err(Error::Internal(
                "allocate_ports returned neither a slot nor a refusal".into(),
            ));
        };
        let ports = Ports::new(cx.config, slot, self.session_id);
        Ok(AllocatedPorts {
            success: true,
            env_snippet: Some(ports.env_snippet()),
            allocation: Some(Allocation { ports, expires_at }),
            error: None,
        })
    }
}

impl Ports {
    /// Returns the ports of a slot.
    fn new(config: &Config, slot: i32, session_id: String) -> Self {
        let base = config.ports.first_port(slot);
        Self {
            db_port: base,
            rest_port: base + 1,
            realtime_port: base + 2,
            api_port: base + 3,
            compose_project_name: compose_project_name(&session_id),
            session_id,
        }
    }

    /// Returns the ports as lines for a shell.
    fn env_snippet(&self) -> String {
        let lines = [
            format!("export AGENT_COORDINATOR_DB_PORT={}", self.db_port),
            format!("export AGENT_COORDINATOR_REST_PORT={}", self.rest_port),
            format!("export AGENT_COORDINATOR_REALTIME_PORT={}", self.realtime_port),
            format!("export API_PORT={}", self.api_port),
            format!("export COMPOSE_PROJECT_NAME={}", self.compose_project_name),
            format!("export SUPABASE_URL=http://localhost:{}", self.rest_port),
        ];
        lines.join("\n")
    }
}

fn compose_project_name(session_id: &str) -> String {
    let digest = Sha256::digest(session_id.as_bytes());
    format!("ac-{}", hex::encode(&digest[..4]))
}

/// Release the ports of a session when its test environment is gone.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ReleasePorts {
    /// The session that was given the ports.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: String,
}

/// The outcome of a release.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReleasedPorts {
    /// Whether the session has no ports now.
    pub success: bool,
    /// `not_owner` if the ports belong to another agent. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether this call released a block.
    #[serde(skip)]
    took_effect: bool,
}

impl Operation for ReleasePorts {
    type Output = ReleasedPorts;
    const META: Meta = Meta::write("release_ports")
        .at(&["POST /ports/release"])
        .identity(IdentityMode::Soft)
        .tool(Tool::named("release_ports").show(&["session_id"]));

    fn example() -> Value {
        json!({ "session_id": "s-1" })
    }

    fn took_effect(answer: &ReleasedPorts) -> bool {
        answer.took_effect
    }

    async fn run(self, cx: Context<'_>) -> Result<ReleasedPorts> {
        let row = sqlx::query!(
            r#"
            select refusal, slot
            from release_ports($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.session_id,
            cx.caller.trust >= RELEASE_ANY_TRUST,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(ReleasedPorts {
            success: row.refusal.is_none(),
            error: row.refusal,
            took_effect: row.slot.is_some(),
        })
    }
}

/// List the sessions that have ports, and until when.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct PortsStatus {}

/// The ports of one session.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct PortBlock {
    /// The ports.
    #[serde(flatten)]
    pub ports: Ports,
    /// Minutes until the ports are freed.
    pub remaining_ttl_minutes: f64,
    /// The agent that allocated the ports.
    pub agent_id: String,
    /// When the ports are freed.
    pub expires_at: Timestamp,
}

impl Operation for PortsStatus {
    type Output = Vec<PortBlock>;
    const META: Meta = Meta::read("ports_status")
        .at(&["GET /ports/status"])
        .open()
        .tool(Tool::named("ports_status"));

    fn example() -> Value {
        json!({})
    }

    async fn run(self, cx: Context<'_>) -> Result<Vec<PortBlock>> {
        let rows = sqlx::query!(
            r#"
            select
                slot as "slot!", agent_id as "agent_id!", session_id as "session_id!",
                expires_at as "expires_at!: Timestamp",
                greatest(extract(epoch from expires_at - clock_timestamp()) / 60, 0)::double precision
                    as "remaining_ttl_minutes!"
            from live_port_blocks($1, $2)
            "#,
            cx.caller.workspace,
            cx.config.session_timeout(),
        )
        .fetch_all(cx.db)
        .await?;
        let blocks = rows.into_iter().map(|row| PortBlock {
            ports: Ports::new(cx.config, row.slot, row.session_id),
            remaining_ttl_minutes: row.remaining_ttl_minutes,
            agent_id: row.agent_id,
            expires_at: row.expires_at,
        });
        Ok(blocks.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_named_after_the_session() {
        assert_eq!(compose_project_name("s-1"), "ac-6a840baf");
    }
}
