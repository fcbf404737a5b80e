//! Everybody who can send a request: what each of them sends, and what the database says about them.
use std::sync::OnceLock;

use agent_coordinator::capabilities;
use serde_json::{Map, json};

/// A key with its identity and the standing of its agent.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: &'static str,
    pub(super) agent_id: Option<&'static str>,
    pub(super) agent_type: Option<&'static str>,
    pub(super) workspace: &'static str,
    pub(super) standing: Standing,
    /// Whether its agent is suspended, whatever its profile says.
    is_suspended: bool,
    /// The profile, if it is named.
    profile: Option<&'static str>,
}

/// Trust, and the lists of a profile.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) trust: u8,
    pub(super) allowed: Vec<String>,
    pub(super) blocked: Vec<String>,
}

/// Names that unbound keys cannot use: each looks like that of an agent with a key of its own.
pub(super) const LOOKALIKES: [&str; 3] = ["agent-4\u{200b}", "\u{430}gent-4", "agent\u{ff0d}4"];

/// Where the profiles of the callers come from: name, trust, allowed and blocked operations.
fn profiles() -> [(&'static str, Standing); 9] {
    let standing = |trust| Standing { trust, ..Standing::default() };
    let all = capabilities::all();
    let names = |is_in: fn(usize) -> bool| -> Vec<String> {
        let numbered = all.iter().enumerate().filter(|(n, _)| is_in(*n));
        numbered.map(|(_, op)| op.meta.name.to_owned()).chain(["use_mcp".to_owned()]).collect()
    };
    [
        ("trust-0", standing(0)),
        ("trust-1", standing(1)),
        ("trust-2", standing(2)),
        ("trust-3", standing(3)),
        ("trust-4", standing(4)),
        // Reads only, and one write, which the list does not permit to a caller with trust 1.
        ("reader", Standing { allowed: reader(), ..standing(1) }),
        ("only-some", Standing { allowed: names(|n| n % 2 == 0), ..standing(4) }),
        ("all-blocked", Standing { blocked: names(|_| true), ..standing(4) }),
        // Blocked even where it is allowed.
        (
            "both-lists",
            Standing { allowed: names(|_| true), blocked: names(|n| n % 2 == 0), ..standing(4) },
        ),
    ]
}

/// The list of the profile `claude_code_web_reviewer`, as the contract has it.
fn reader() -> Vec<String> {
    let names = "check_guardrails,check_locks,check_policy,discover_agents,get_my_profile,get_task,heartbeat,\
        list_guardrails,network_access,ports_status,query_audit,read_handoff,read_metrics,recall,use_mcp,\
        validate_policy,verify_locks";
    names.split(',').map(str::to_owned).collect()
}

fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let profiles = profiles();
        let bound = |text, agent_id, profile: &'static str| Key {
            text,
            agent_id: Some(agent_id),
            agent_type: None,
            workspace: "default",
            standing: profiles
                .iter()
                .find(|it| it.0 == profile)
                .map(|it| it.1.clone())
                .unwrap_or_default(),
            is_suspended: false,
            profile: Some(profile),
        };
        // The trust of an unbound key, and of a bound one without a profile.
        let plain = Standing { trust: 2, ..Standing::default() };
        let unbound = |text, workspace| Key {
            agent_id: None,
            workspace,
            standing: plain.clone(),
            profile: None,
            ..bound(text, "", "trust-2")
        };
        let suspended = bound("key-suspended", "agent-suspended", "trust-4");
        let suspended = Key { standing: Standing::default(), is_suspended: true, ..suspended };
        vec![
            bound("key-0", "agent-0", "trust-0"),
            bound("key-1", "agent-1", "trust-1"),
            bound("key-2", "agent-2", "trust-2"),
            bound("key-3", "agent-3", "trust-3"),
            bound("key-4", "agent-4", "trust-4"),
            bound("key-reader", "agent-reader", "reader"),
            bound("key-some", "agent-some", "only-some"),
            bound("key-blocked", "agent-blocked", "all-blocked"),
            bound("key-both", "agent-both", "both-lists"),
            // Its profile does not exist: trust 0.
            bound("key-broken", "agent-broken", "no-such-profile"),
            suspended,
            Key { agent_type: Some("type-4"), ..bound("key-typed", "agent-typed", "trust-4") },
            Key {
                profile: None,
                standing: plain.clone(),
                ..bound("key-plain", "agent-plain", "trust-2")
            },
            unbound("key-free", "default"),
            unbound("key-team", "team"),
        ]
    })
}

impl Key {
    pub(super) fn find(text: &str) -> Option<&'static Self> {
        keys().iter().find(|it| it.text == text)
    }

    pub(super) fn is_bound_to(agent_id: &str) -> bool {
        keys().iter().any(|it| it.agent_id == Some(agent_id))
    }
}

pub(super) fn environment() -> [(&'static str, String); 4] {
    let texts: Vec<_> = keys().iter().map(|it| it.text).collect();
    let identities = keys().iter().map(|key| {
        let members = [
            ("agent_id", key.agent_id),
            ("agent_type", key.agent_type),
            ("profile", key.profile),
            ("workspace", Some(key.workspace)),
        ];
        let members =
            members.into_iter().filter_map(|(name, it)| Some((name.to_owned(), json!(it?))));
        (key.text.to_owned(), json!(members.collect::<Map<_, _>>()))
    });
    let identities = json!(identities.collect::<Map<_, _>>());
    [
        ("COORDINATION_API_KEYS", texts.join(",")),
        ("COORDINATION_API_KEY_IDENTITIES", identities.to_string()),
        ("COORDINATION_PUBLIC_READS", "true".to_owned()),
        ("WAIT_MAX_SECONDS", "0".to_owned()),
    ]
}

/// The statement that stores profiles and suspensions, and makes the table of the denials already seen.
pub(super) fn rows() -> String {
    let mut sql = "create table seen (id uuid primary key);".to_owned();
    for (name, standing) in profiles() {
        let list = |names: &[String]| format!("'{{{}}}'", names.join(","));
        sql += &format!(
            "insert into profile (workspace, name, agent_type, is_type_default, trust_level,
                max_file_modifications, max_execution_time_seconds, max_api_calls_per_hour,
                allowed_operations, blocked_operations)
             values ('default', '{name}', 't', false, {}, 100, 1, 1, {}, {});",
            standing.trust,
            list(&standing.allowed),
            list(&standing.blocked),
        );
    }
    for key in keys().iter().filter(|it| it.is_suspended) {
        sql += &format!(
            "insert into agent_assignment (workspace, agent_id, suspended) values ('default', '{}', true);",
            key.agent_id.expect("a bound key"),
        );
    }
    sql
}

/// What somebody sends.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Members of the body, or of the query of a request without a body. They replace those of the example.
    pub(super) body: Vec<(&'static str, &'static str)>,
    /// More of the query.
    pub(super) query: &'static str,
}

impl Caller {
    /// A caller that shows a key and names its own agent.
    fn with_key(text: &'static str) -> Self {
        let key = Key::find(text).expect("a key");
        let body = match key.agent_id {
            Some(id) => vec![("agent_id", id), ("agent_type", key.agent_type.unwrap_or("t"))],
            None => vec![],
        };
        let headers = vec![("x-api-key", text.to_owned())];
        Self { name: text.to_owned(), headers, body, query: "" }
    }

    fn called(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    fn and_header(mut self, name: &'static str, value: &str) -> Self {
        self.name += &format!(" {name}: {value}");
        self.headers.push((name, value.to_owned()));
        self
    }

    fn and_body(mut self, member: &'static str, value: &'static str) -> Self {
        self.name += &format!(" body {member}: {value}");
        self.body.retain(|(name, _)| *name != member);
        self.body.push((member, value));
        self
    }

    fn and_query(mut self, query: &'static str) -> Self {
        self.name += &format!(" ?{query}");
        self.query = query;
        self
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|it| it.0 == name).map(|it| it.1.as_str())
    }

    /// The key that the first header with a key presents.
    pub(super) fn key(&self) -> Option<&str> {
        let bearer = self.header("authorization").and_then(|it| it.split_once(' '));
        let bearer = bearer.filter(|it| it.0.eq_ignore_ascii_case("bearer")).map(|it| it.1);
        let presented =
            bearer.or(self.header("x-coordinator-api-key")).or(self.header("x-api-key"));
        presented.map(str::trim).filter(|it| !it.is_empty())
    }
}

/// Everybody.
pub(super) fn callers() -> Vec<Caller> {
    let mut all: Vec<_> = keys().iter().map(|key| Caller::with_key(key.text)).collect();
    all.extend(strangers());
    all.extend(claimants());
    all
}

/// Requests without a key, with a wrong one, and with the right one where it does not count.
fn strangers() -> Vec<Caller> {
    let nobody = Caller { name: String::new(), headers: vec![], body: vec![], query: "" };
    let with = |name, value: &str| nobody.clone().and_header(name, value);
    let digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    let wrong = [
        "wrong",
        "KEY-4",
        "key-",
        "key-44",
        "key-3,key-4",
        "\"key-4\"",
        "Bearer key-4",
        "key-4%00",
        "*",
        "sha256:2c26b46b68ff",
        "${API_KEY}",
        "null",
        digest,
        "key 4",
    ];
    let long = "k".repeat(4000);
    let mut all: Vec<_> = wrong.into_iter().map(|it| with("x-api-key", it)).collect();
    all.push(with("x-api-key", &long).called("a long key"));
    all.extend([
        nobody.clone().called("no key"),
        with("x-api-key", " "),
        with("authorization", "Bearer "),
        with("authorization", "Bearer wrong"),
        with("authorization", "Basic key-4"),
        with("authorization", "key-4"),
        with("cookie", "x-api-key=key-4"),
        with("authorization", "Bearer wrong").and_header("x-api-key", "key-4"),
        with("authorization", "Bearer key-4 wrong").and_header("x-api-key", "key-4"),
        with("x-coordinator-api-key", "wrong").and_header("x-api-key", "key-4"),
        with("authorization", "bEARER key-4")
            .and_header("x-api-key", "wrong")
            .and_body("agent_id", "agent-4"),
        with("authorization", "Basic wrong")
            .and_header("x-api-key", "key-4")
            .and_body("agent_id", "agent-4"),
        nobody
            .clone()
            .and_query("x-api-key=key-4&api_key=key-4&key=key-4&authorization=Bearer+key-4"),
        nobody.clone().and_body("x-api-key", "key-4"),
        with("x-workspace", "team"),
        with("x-workspace", "default"),
        with("x-agent-id", "agent-4"),
        with("x-api-key", "wrong").and_header("x-workspace", "team"),
    ]);
    all
}

/// Requests with a key that claim to be somebody else, or to be elsewhere.
fn claimants() -> Vec<Caller> {
    let with = Caller::with_key;
    let mut all = vec![
        with("key-4").and_header("x-agent-id", "agent-4"),
        with("key-4").and_header("x-agent-id", "agent-3"),
        with("key-4").and_body("agent_id", "agent-3"),
        with("key-4").and_body("agent_id", "Agent-4"),
        with("key-4")
            .and_query("agent_id=agent-3&agent_type=other&x-agent-id=agent-3&workspace=team"),
        with("key-4").and_header("x-agent-id", "agent-4").and_body("agent_id", "agent-3"),
        // A key that is bound to no type can name any.
        with("key-4").and_header("x-agent-type", "other"),
        with("key-typed").and_header("x-agent-type", "type-4"),
        with("key-typed").and_header("x-agent-type", "other"),
        with("key-typed").and_body("agent_type", "other"),
        with("key-typed").and_query("agent_type=other"),
        with("key-free").and_header("x-agent-id", "agent-4"),
        with("key-free").and_body("agent_id", "agent-4"),
        with("key-free").and_query("x-agent-id=agent-4"),
        with("key-free").and_header("x-agent-id", "claude-1").and_body("agent_id", "agent-4"),
        with("key-free").and_header("x-agent-id", "agent-4").and_body("agent_id", "claude-1"),
        with("key-free").and_header("x-agent-type", "type-4"),
        with("key-team").and_body("agent_id", "agent-4"),
        with("key-team").and_header("x-agent-id", "agent-4"),
        with("key-4").and_header("x-workspace", "team"),
        with("key-4").and_header("x-workspace", "default"),
        with("key-free").and_header("x-workspace", "team"),
        with("key-team").and_header("x-workspace", "default"),
        with("key-team").and_header("x-workspace", "team"),
        with("key-free").and_body("workspace", "team"),
        // The identity comes before the workspace, and both before the standing.
        with("key-4").and_header("x-agent-id", "agent-3").and_header("x-workspace", "team"),
        with("key-suspended").and_header("x-agent-id", "agent-4"),
        with("key-suspended").and_header("x-workspace", "team"),
        with("key-suspended").and_header("x-agent-id", "agent-suspended"),
        with("key-1").and_header("x-trust-level", "4").and_body("trust_level", "4"),
        with("key-1").and_body("profile", "trust-4"),
    ];
    all.extend(LOOKALIKES.map(|name| with("key-free").and_body("agent_id", name)));
    all
}
