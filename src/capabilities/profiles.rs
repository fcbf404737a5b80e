//! What agents are trusted with: the caller's own profile, assignments, and the keys.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    access::{IdentityMode, Key, Profile, ProfileSource, max_unbound_trust},
    operation::{Context, McpResource, Meta, Operation, Operations, Tool},
    values::{
        Limit, ListPage, Result,
        list_page::default_limit,
        text::{joined, text_of},
    },
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<GetMyProfile>().with::<AssignProfile>().with::<ManageKeys>().resource(
        McpResource {
            uri: "profiles://current",
            description: "Who you are and what you may do.",
            operation: "get_my_profile",
            input: || json!({}),
            lines: profile_lines,
            empty: "No profile assigned. Using default permissions.",
        },
    )
}

fn profile_lines(answer: &Value) -> Vec<String> {
    let profile = &answer["profile"];
    if profile.is_null() {
        return Vec::new();
    }
    let all =
        |member: &str, none: &str| joined(&profile[member]).unwrap_or_else(|| none.to_owned());
    vec![
        format!("Profile: {} ({})", text_of(&profile["name"]), text_of(&answer["source"])),
        format!("Trust: {}", answer["identity"]["trust_level"]),
        format!("Type: {}", text_of(&profile["agent_type"])),
        format!("File locks at most: {}", profile["max_file_modifications"]),
        format!("Allowed: {}", all("allowed_operations", "everything that the trust allows")),
        format!("Blocked: {}", all("blocked_operations", "nothing")),
    ]
}

const NO_PROFILE_FOUND: &str = "no_profile_found";

/// The trust of a profile is never above this.
const MOST_TRUST: u8 = 4;

/// See who you are to this service: your id, how far you are trusted, and the profile that says
/// what you may do.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct GetMyProfile {}

/// The caller's profile and identity.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MyProfile {
    /// Whether the caller has a profile.
    pub success: bool,
    /// The profile, if there is one.
    pub profile: Option<Profile>,
    /// Where it comes from: `assignment`, by an administrator or by the key, or `default`, by the
    /// type of the agent.
    pub source: Option<&'static str>,
    /// `no_profile_found` when there is none.
    pub reason: Option<&'static str>,
    /// Who the caller is.
    pub identity: CallerIdentity,
}

/// Who a caller is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CallerIdentity {
    /// Effective agent id.
    pub agent_id: String,
    /// Effective agent type.
    pub agent_type: String,
    /// Workspace that the caller sees.
    pub workspace: String,
    /// Session that the request names.
    pub session_id: Option<String>,
    /// Whether the key is bound to this agent.
    pub bound: bool,
    /// The trust that decides, from 0 to 4; that of the profile may be higher.
    pub trust_level: u8,
}

impl Operation for GetMyProfile {
    type Output = MyProfile;
    const META: Meta =
        Meta::read("get_my_profile").at(&["GET /profiles/me"]).tool(Tool::named("get_my_profile"));

    fn example() -> Value {
        json!({})
    }

    async fn run(self, cx: Context<'_>) -> Result<MyProfile> {
        let caller = cx.caller;
        let profile = caller.profile.as_deref().cloned();
        Ok(MyProfile {
            success: profile.is_some(),
            reason: profile.is_none().then_some(NO_PROFILE_FOUND),
            profile,
            source: caller.profile_source.map(|it| match it {
                ProfileSource::Assignment => "assignment",
                ProfileSource::Default => "default",
            }),
            identity: CallerIdentity {
                agent_id: caller.agent_id.clone(),
                agent_type: caller.agent_type.clone(),
                workspace: caller.workspace.clone(),
                session_id: caller.session_id.clone(),
                bound: caller.bound,
                trust_level: caller.trust,
            },
        })
    }
}

/// Give another agent a profile, take it away again, or suspend the agent. It holds from the
/// agent's next request on, within five seconds everywhere.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct AssignProfile {
    /// The agent.
    #[schemars(extend("x-max-bytes" = 256, "x-not-blank" = true))]
    pub target_agent_id: String,
    /// Name of the profile; null removes the assignment.
    #[schemars(extend("x-max-bytes" = 256))]
    pub profile: Option<String>,
    /// Whether the agent may do nothing at all until this is false again.
    #[serde(default)]
    pub suspended: bool,
}

/// What became of an assignment.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Assigned {
    /// Whether it holds now.
    pub success: bool,
    /// The agent.
    pub target_agent_id: String,
    /// The profile asked for.
    pub profile: Option<String>,
    /// Whether a suspension was asked for.
    pub suspended: bool,
    /// Why it was refused: `profile_not_found`, `cannot_assign_self` or `trust_above_caller`, when
    /// the profile or the agent has more trust than the caller.
    pub reason: Option<String>,
}

impl Operation for AssignProfile {
    type Output = Assigned;
    const META: Meta = Meta::admin("assign_profile")
        .at(&["POST /profiles/assign"])
        .identity(IdentityMode::Strict)
        .tool(Tool::named("assign_profile"));

    fn example() -> Value {
        json!({ "target_agent_id": "web-1", "profile": "claude_code_web_implementer" })
    }

    fn target(&self) -> Cow<'_, str> {
        self.target_agent_id.as_str().into()
    }

    fn took_effect(answer: &Assigned) -> bool {
        answer.success
    }

    fn changes_standing_of(answer: &Assigned) -> Option<&str> {
        answer.success.then_some(&answer.target_agent_id)
    }

    async fn run(self, cx: Context<'_>) -> Result<Assigned> {
        let keys = cx.services.keys.of_workspace(&cx.caller.workspace);
        let bound: Vec<_> = keys
            .map(|it| &it.identity)
            .filter(|it| it.agent_id.as_ref() == Some(&self.target_agent_id))
            .collect();
        // Without a key of its own, the agent is one that unbound keys may act as.
        let most_trust = match bound.is_empty() {
            true => max_unbound_trust(cx.config.default_trust),
            false => MOST_TRUST,
        };
        let pad = bound.is_empty().then_some(None);
        let types: Vec<_> =
            bound.iter().map(|it| it.agent_type.clone()).chain(pad.clone()).collect();
        let profiles: Vec<_> = bound.iter().map(|it| it.profile.clone()).chain(pad).collect();
        let reason = sqlx::query_scalar!(
            r#"
            select refusal from assign_profile(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11, $12, $13, $14, $15
            )
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.target_agent_id,
            self.profile,
            self.suspended,
            &types as &[Option<String>],
            &profiles as &[Option<String>],
            i32::from(most_trust),
            i32::from(cx.config.default_trust),
            i32::from(cx.caller.trust),
        )
        .fetch_one(cx.db)
        .await?;
        Ok(Assigned {
            success: reason.is_none(),
            target_agent_id: self.target_agent_id,
            profile: self.profile,
            suspended: self.suspended,
            reason,
        })
    }
}

/// See which API keys the service accepts in your workspace, by fingerprint, and what each is bound
/// to. Keys are changed by configuration and restart.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ManageKeys {
    /// Return at most this many, up to 500.
    #[serde(default = "default_limit::<100>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
}

/// The accepted keys.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyList {
    /// The keys, in the order of the configuration.
    pub keys: Vec<ListedKey>,
    /// How many there are and whether that is all.
    #[serde(flatten)]
    pub page: ListPage,
}

/// A key without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListedKey {
    /// `sha256:` and the first 12 hex digits of the key's digest.
    pub fingerprint: String,
    /// The agent that it is bound to, if any.
    pub agent_id: Option<String>,
    /// The type that it is bound to, if any.
    pub agent_type: Option<String>,
    /// Its workspace.
    pub workspace: String,
    /// The profile of its agent, where none is assigned.
    pub profile: Option<String>,
    /// Whether it is bound to an agent.
    pub bound: bool,
}

impl From<&Key> for ListedKey {
    fn from(key: &Key) -> Self {
        let identity = key.identity.clone();
        Self {
            fingerprint: key.fingerprint(),
            bound: identity.agent_id.is_some(),
            agent_id: identity.agent_id,
            agent_type: identity.agent_type,
            workspace: identity.workspace,
            profile: identity.profile,
        }
    }
}

impl Operation for ManageKeys {
    type Output = KeyList;
    const META: Meta = Meta::admin("manage_keys")
        .at(&["GET /keys"])
        .tool(Tool::named("list_keys").hide(&["limit"]));

    fn example() -> Value {
        json!({ "limit": 10 })
    }

    fn took_effect(_: &KeyList) -> bool {
        false
    }

    async fn run(self, cx: Context<'_>) -> Result<KeyList> {
        let keys = cx.services.keys.of_workspace(&cx.caller.workspace);
        let (keys, page) = Limit::new(self.limit).cut(keys.map(ListedKey::from).collect());
        sqlx::query!(
            "select record_key_list($1, row($2, $3, $4, $5, $6, $7)::request, $8)",
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            page.count as i64,
        )
        .execute(cx.db)
        .await?;
        Ok(KeyList { keys, page })
    }
}
