//! Rules about the domains that agents can reach. The service answers questions only; it opens no
//! connection itself.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    access::{IdentityMode, TargetKind},
    operation::{Context, Meta, Operation, Operations, Tool},
    values::{Domain, Result},
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<CheckNetwork>()
}

/// The reason where no rule matches and unlisted domains are denied.
const NO_MATCHING_POLICY: &str = "no_matching_policy";
/// The reason where no rule matches and unlisted domains are allowed.
const DEFAULT_POLICY_ALLOW: &str = "default_policy:allow";

/// Ask whether you may reach a domain, before you download from it or call it. The operator sets
/// the rules; each question is logged.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CheckNetwork {
    /// A host name of 1 to 253 characters, without scheme, port or path.
    pub domain: Domain,
}

/// Whether an agent may reach a domain.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NetworkAnswer {
    /// Whether you may reach the domain.
    pub allowed: bool,
    /// The domain in canonical form.
    pub domain: String,
    /// Action of the rule that matched, `allow` or `deny`. Without one: `no_matching_policy` or
    /// `default_policy:allow`.
    pub reason: String,
    /// Id of the rule that matched. Null without one.
    pub policy_id: Option<String>,
}

impl Operation for CheckNetwork {
    type Output = NetworkAnswer;
    const META: Meta = Meta::read("network_access")
        .acts_on(TargetKind::Domain)
        .at(&["POST /network/check"])
        .identity(IdentityMode::Strict)
        .writes()
        .tool(Tool::named("check_network"));

    fn example() -> Value {
        json!({ "domain": "api.github.com" })
    }

    fn target(&self) -> Cow<'_, str> {
        self.domain.as_str().into()
    }

    async fn run(self, cx: Context<'_>) -> Result<NetworkAnswer> {
        let default_reason = if cx.config.allow_unlisted_domains {
            DEFAULT_POLICY_ALLOW
        } else {
            NO_MATCHING_POLICY
        };
        let answer = sqlx::query_as!(
            NetworkAnswer,
            r#"
            select
                allowed as "allowed!", $9 as "domain!", reason as "reason!",
                policy_id::text as "policy_id?"
            from check_network($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            cx.caller.profile.as_deref().map(|profile| profile.name.as_str()),
            self.domain.as_str(),
            cx.config.allow_unlisted_domains,
            default_reason,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(answer)
    }
}
