//! Profiles and keys: the caller's own profile, assignments, and the list of keys.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    access::{IdentityMode, Key, Profile, ProfileSource, UNNAMED, max_unbound_trust},
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
            description: "Your identity, trust and profile.",
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

/// The caller has no profile.
const NO_PROFILE_FOUND: &str = "no_profile_found";

/// The highest trust of a profile.
const MAX_TRUST: u8 = 4;

/// See who you are to this service: your id, your trust, and the profile that determines what you
/// may do.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct GetMyProfile {}

/// The caller's profile and identity.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MyProfile {
    /// Whether you have a profile.
    pub success: bool,
    /// The profile. Null if you have none.
    pub profile: Option<Profile>,
    /// Where the profile comes from: `assignment`, by an administrator or by your key, or
    /// `default`, by your agent type. Null without a profile.
    pub source: Option<&'static str>,
    /// `no_profile_found` if you have no profile.
    pub reason: Option<&'static str>,
    /// Your identity.
    pub identity: CallerIdentity,
    /// Why other clients are the same agent as you, and what to do. Absent if you have a name of your own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<&'static str>,
}

/// The identity of the caller.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CallerIdentity {
    /// Id of the agent that you act as.
    pub agent_id: String,
    /// Type of that agent.
    pub agent_type: String,
    /// Workspace that you see.
    pub workspace: String,
    /// Session that the request names. Null if it names none.
    pub session_id: Option<String>,
    /// Whether your key is bound to this agent.
    pub bound: bool,
    /// Your effective trust, 0 to 4. The profile's can be higher.
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
            source: caller.profile_source.map(|source| match source {
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
            warning: caller.is_unnamed().then_some(UNNAMED),
        })
    }
}

/// Assign a profile to another agent, remove the assignment, or suspend the agent. It applies to
/// the agent's next request; other replicas apply it within five seconds.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct AssignProfile {
    /// Id of the agent.
    #[schemars(extend("x-max-bytes" = 256, "x-not-blank" = true))]
    pub target_agent_id: String,
    /// Name of the profile. Null removes the assignment.
    #[schemars(extend("x-max-bytes" = 256))]
    pub profile: Option<String>,
    /// Whether every request of the agent is denied, until you assign false.
    #[serde(default)]
    pub suspended: bool,
}

/// The outcome of an assignment.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Assigned {
    /// Whether the assignment was stored.
    pub success: bool,
    /// Id of the agent.
    pub target_agent_id: String,
    /// The requested profile. Null for none.
    pub profile: Option<String>,
    /// Whether a suspension was requested.
    pub suspended: bool,
    /// Why it was refused: `profile_not_found`, `cannot_assign_self` or `trust_above_caller`, if
    /// the profile has more trust than you, or the agent has or would have it: without an
    /// assignment, it gets what its key or its type grants.
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
        let identities: Vec<_> = keys
            .map(|key| &key.identity)
            .filter(|identity| identity.agent_id.as_ref() == Some(&self.target_agent_id))
            .collect();
        // An agent without a bound key acts through unbound keys.
        let max_trust = match identities.is_empty() {
            true => max_unbound_trust(cx.config.default_trust),
            false => MAX_TRUST,
        };
        // The function takes a pair of nulls for an agent without keys.
        let no_key = identities.is_empty().then_some(None);
        let types: Vec<_> = identities
            .iter()
            .map(|identity| identity.agent_type.clone())
            .chain(no_key.clone())
            .collect();
        let profiles: Vec<_> =
            identities.iter().map(|identity| identity.profile.clone()).chain(no_key).collect();
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
            i32::from(max_trust),
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

/// List the API keys that the service accepts in your workspace, by fingerprint, and the agents
/// that they are bound to. Keys are changed by configuration and restart.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ManageKeys {
    /// Maximum number of keys, 0 to 500. A higher value counts as 500.
    #[serde(default = "default_limit::<100>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
}

/// Accepted keys.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyList {
    /// The keys, in the order of the configuration.
    pub keys: Vec<ListedKey>,
    /// How many keys are returned, and whether there are more.
    #[serde(flatten)]
    pub page: ListPage,
}

/// A key without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListedKey {
    /// `sha256:` and the first 12 hex digits of the digest of the key.
    pub fingerprint: String,
    /// The agent that the key is bound to. Null if it is not bound.
    pub agent_id: Option<String>,
    /// The agent type that the key is bound to. Null if it is not bound.
    pub agent_type: Option<String>,
    /// Workspace of the key.
    pub workspace: String,
    /// The agent's profile, unless another one is assigned. Null for none.
    pub profile: Option<String>,
    /// Whether the key is bound to an agent.
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
