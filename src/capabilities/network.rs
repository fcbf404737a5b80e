//! Which domains agents may reach. The service is asked and answers; it opens no connection itself.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Domain, Result,
    operation::{Context, IdentityMode, Meta, Operation},
    registry::Operations,
    tool::Tool,
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<CheckNetwork>()
}

const NO_MATCHING_POLICY: &str = "no_matching_policy";
const DEFAULT_POLICY_ALLOW: &str = "default_policy:allow";

/// Ask whether you may reach a domain, before you download from it or call it. The rules are the
/// operator's; each question is logged.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CheckNetwork {
    /// A host name of 1 to 253 characters, without scheme, port or path.
    pub domain: Domain,
}

/// Whether a domain may be reached.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NetworkAnswer {
    /// Whether it may.
    pub allowed: bool,
    /// The domain in canonical form.
    pub domain: String,
    /// The action of the rule that decided, `allow` or `deny`; without a rule `no_matching_policy`
    /// or `default_policy:allow`.
    pub reason: String,
    /// Id of the rule that decided.
    pub policy_id: Option<String>,
}

impl Operation for CheckNetwork {
    type Output = NetworkAnswer;
    const META: Meta = Meta::read("network_access")
        .at(&["POST /network/check"])
        .identity(IdentityMode::Strict)
        .writes()
        .tool(Tool::named("check_network"));

    fn example() -> Value {
        json!({ "domain": "api.github.com" })
    }

    fn resource(&self) -> Cow<'_, str> {
        self.domain.as_str().into()
    }

    async fn run(self, cx: Context<'_>) -> Result<NetworkAnswer> {
        let default_reason = if cx.config.allow_unlisted_domains {
            DEFAULT_POLICY_ALLOW
        } else {
            NO_MATCHING_POLICY
        };
        // `right` compares the end of the domain with what follows the star, dot included, so that
        // a name never matches by a part of a label and no character of a pattern is special.
        let answer = sqlx::query_as!(
            NetworkAnswer,
            r#"
            with picked as (
                select id, action from domain_rule
                where workspace = case
                        when exists (select from domain_rule where workspace = $1) then $1
                        else 'default' end
                    and enabled
                    and (profile is null or profile = $6)
                    and (
                        pattern in ('*', $7)
                        or lower(pattern) = $7
                        or (pattern like '*.%'
                            and right($7, length(pattern) - 1) = lower(substr(pattern, 2)))
                    )
                order by
                    profile is null, priority, pattern like '*%', action = 'allow', id
                limit 1
            ), judged as (
                select
                    coalesce(picked.action = 'allow', $8) as allowed,
                    coalesce(picked.action, $9) as reason,
                    picked.id as policy_id
                from (select) nothing left join picked on true
            ), logged as (
                insert into network_log (
                    workspace, agent_id, agent_type, session_id, request_id, domain, allowed,
                    policy_id, reason
                )
                select $1, $2, $3, $4, $5, $7, allowed, policy_id, reason from judged
            )
            select
                allowed as "allowed!", $7 as "domain!", reason as "reason!",
                policy_id::text as "policy_id?"
            from judged
            "#,
            cx.caller.workspace,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.id,
            cx.caller.profile.as_deref().map(|it| it.name.as_str()),
            self.domain.as_str(),
            cx.config.allow_unlisted_domains,
            default_reason,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(answer)
    }
}
