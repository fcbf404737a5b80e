//! Why a claim found no task, although there are tasks that the agent could claim otherwise.
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{operation::Context, values::Result};

/// What an empty claim leaves behind and time alone does not change.
#[derive(Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct UnavailableWork {
    /// How many tasks, at most 100, you could claim if they did not wait for one that failed or was
    /// cancelled for good. Absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<i32>,
    /// Ids of those failed and cancelled tasks, at most 20. Submit a task with `replaces`, or cancel the
    /// tasks that wait. Absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_failed: Option<Vec<Uuid>>,
    /// Archetypes, at most 20, that waiting tasks require and none of your live sessions declares among
    /// its `capabilities`. Absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-untrusted" = true))]
    pub undeclared_archetypes: Option<Vec<String>>,
}

/// The result of the database function `explain_unavailable_work`.
struct Row {
    blocked: i32,
    by_failed: Vec<Uuid>,
    undeclared_archetypes: Vec<String>,
}

/// Explains an empty claim to its agent. A read of its own after the claim, so that a claim that gets a
/// task costs nothing more.
pub(super) async fn explain(cx: Context<'_>, task_types: Value) -> Result<UnavailableWork> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select
            blocked as "blocked!", by_failed as "by_failed!",
            undeclared_archetypes as "undeclared_archetypes!"
        from explain_unavailable_work($1, $2, $3, $4, $5)
        "#,
        cx.caller.workspace,
        cx.caller.agent_id,
        i32::from(cx.caller.trust),
        task_types,
        cx.config.session_timeout(),
    )
    .fetch_one(cx.db)
    .await?;
    let is_blocked = row.blocked > 0;
    Ok(UnavailableWork {
        blocked: is_blocked.then_some(row.blocked),
        by_failed: is_blocked.then_some(row.by_failed),
        undeclared_archetypes: (!row.undeclared_archetypes.is_empty())
            .then_some(row.undeclared_archetypes),
    })
}
