//! The configuration: the only reader of the environment. Every problem is reported at once, with
//! the variable's name and what it expects, never with its value.
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use http::{HeaderValue, Uri};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, types::PgInterval};

use crate::{
    auth::{Identity, Keyring},
    db::Statements,
};

mod example;
mod mcp;

pub(crate) use mcp::McpSettings;

pub use example::env_example;

/// Where the router runs. It decides a few defaults and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A long-running server, on this machine or in a container.
    Server,
    /// AWS Lambda: one connection a process, and migrations are never applied.
    Lambda,
}

/// Everything read from the environment, parsed and checked once at start.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) database: Secret<PgConnectOptions>,
    pub(crate) pool_min: u32,
    pub(crate) pool_max: u32,
    pub(crate) statements: Statements,
    pub(crate) keys: Keyring,
    pub(crate) public_reads: bool,
    pub(crate) allow_workspace_header: bool,
    pub(crate) lock_ttl_minutes: i64,
    pub(crate) session_timeout_minutes: i32,
    pub(crate) audit_retention_days: i32,
    pub(crate) work_lease_minutes: i64,
    /// First port of the first slot, ports from one slot to the next, slots in a workspace.
    pub(crate) port_base: i32,
    pub(crate) port_range: i32,
    pub(crate) port_slots: i32,
    pub(crate) port_ttl_minutes: i32,
    pub(crate) default_trust: u8,
    pub(crate) enforce_profile_limits: bool,
    pub(crate) authority_max_age: Duration,
    pub(crate) guardrails_max_age: Duration,
    pub(crate) guardrails_code_fallback: bool,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) policy: PolicySettings,
    pub(crate) allow_unlisted_domains: bool,
    pub(crate) access_log: bool,
    pub(crate) public_metrics: bool,
    pub(crate) cors_origins: Vec<HeaderValue>,
    pub(crate) mcp: McpSettings,
    pub(crate) request_time: Duration,
    pub(crate) body_time: Duration,
    /// How long a connection to the database may be idle.
    pub(crate) idle_time: Duration,
    pub(crate) sleep_friendly: bool,
    pub(crate) sweep_interval: Duration,
    pub(crate) max_connections: usize,
    pub(crate) wait_max: Duration,
    /// Address to listen on; `None` is every address, IPv6 and IPv4.
    pub host: Option<IpAddr>,
    /// Port to listen on.
    pub port: u16,
    /// Worker threads of the server.
    pub workers: usize,
    /// How long a connection may be idle, or take to send a request's head.
    pub keep_alive: Duration,
    /// How long requests in flight may take to finish after a signal to stop.
    pub shutdown_grace: Duration,
    /// Whether calls of one transition that arrive at the same time go to the database together.
    pub(crate) gather: bool,
    /// Whether the server applies migrations at start.
    pub auto_migrate: bool,
    /// What to log, such as `info` or `info,sqlx=debug`.
    pub log: tracing_subscriber::filter::Targets,
    /// Where traces go, if anywhere.
    pub traces: TraceSettings,
}

/// Where the spans of requests are sent, in builds that can (feature `otel`).
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// Base address of an OTLP collector; none: spans are not sent.
    pub endpoint: Option<String>,
    /// The name under which they appear there.
    pub service: String,
}

/// What decides what a caller may do, and from where it takes its policies.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "cedar"), expect(dead_code, reason = "only Cedar reads policies"))]
pub(crate) struct PolicySettings {
    pub(crate) engine: PolicyEngine,
    /// How long policies are kept in memory.
    pub(crate) cache_ttl: Duration,
    /// Whether the bundled policies serve where the database has none.
    pub(crate) code_fallback: bool,
    /// The operator's own schema of policies, checked; none: the bundled one.
    pub(crate) schema: Option<String>,
}

/// The engine that decides what a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyEngine {
    Native,
    #[cfg(feature = "cedar")]
    Cedar,
}

/// The engines of this build.
const ENGINES: &[&str] = if cfg!(feature = "cedar") { &["native", "cedar"] } else { &["native"] };

/// A value that never shows, whoever prints what holds it.
#[derive(Clone)]
pub(crate) struct Secret<T>(pub(crate) T);

impl<T> std::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Everything that is wrong with the environment. Its text names each variable with what it
/// expects, a line each, and holds no value of any.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(Vec<String>);

struct Variable {
    name: &'static str,
    kind: Kind,
    /// What holds when the variable is unset or empty; `""` is nothing.
    default: &'static str,
    meaning: &'static str,
}

enum Kind {
    Int(i64, i64),
    Bool,
    Words(&'static [&'static str]),
    Text(&'static str),
}

const fn int(
    name: &'static str,
    range: (i64, i64),
    default: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable { name, kind: Kind::Int(range.0, range.1), default, meaning }
}

const fn bool(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, kind: Kind::Bool, default, meaning }
}

const fn text(
    name: &'static str,
    expected: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable { name, kind: Kind::Text(expected), default, meaning }
}

const fn words(
    name: &'static str,
    words: &'static [&'static str],
    default: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable { name, kind: Kind::Words(words), default, meaning }
}

const COLLECTOR: &str = "an address such as http://collector:4318";
const DSN: &str = "a connection string such as postgresql://user:password@host:5432/database";

/// Every variable the service reads. The parser takes ranges and defaults from here, and
/// `docs/configuration.md` is printed from it.
const VARIABLES: &[Variable] = &[
    words(
        "DB_BACKEND",
        &["postgres", "supabase"],
        "postgres",
        "Kind of database. `supabase` is the same through that project's own Postgres connection string in `POSTGRES_DSN`.",
    ),
    text(
        "POSTGRES_DSN",
        DSN,
        "",
        "Connection string of the database. Required, unless `DATABASE_URL` is set.",
    ),
    text("DATABASE_URL", DSN, "", "Used when `POSTGRES_DSN` is unset."),
    int(
        "POSTGRES_POOL_MIN",
        (1, 500),
        "2",
        "Connections kept open. Lambda, and with `SLEEP_FRIENDLY`: always 0.",
    ),
    int("POSTGRES_POOL_MAX", (1, 500), "10", "Most connections open at once. Lambda: always 1."),
    words(
        "POSTGRES_POOLER",
        &["none", "transaction"],
        "none",
        "`transaction`: a pooler in front of the database gives each transaction another connection and does not keep track of prepared statements. `none`: anything else, which is checked before the first statement.",
    ),
    bool(
        "SLEEP_FRIENDLY",
        "false",
        "Send nothing while there is nothing to do, so that a platform can put the service to sleep: connections to the database are closed after a minute or two without a request, and the sweep every 30 s, which only tidies up, is left out. The next request then takes as long as a new connection does.",
    ),
    bool(
        "COORDINATION_AUTO_MIGRATE",
        "true",
        "Apply migrations at start, under a lock. Not through a pooler in transaction mode, and never by Lambda.",
    ),
    text(
        "API_HOST",
        "an IP address",
        "[::]",
        "Address to listen on. The default takes IPv6 and IPv4, and IPv4 alone where IPv6 is missing. Not read by `local`, which listens on loopback.",
    ),
    int("API_PORT", (1, 65535), "", "Port to listen on."),
    int("PORT", (1, 65535), "8081", "Port to listen on when `API_PORT` is unset."),
    int("API_WORKERS", (1, 256), "1", "Worker threads of the server."),
    int(
        "API_TIMEOUT_KEEP_ALIVE",
        (1, 3600),
        "5",
        "Seconds after which a connection is closed that is idle, or still sends the head of a request. The body has 10 s, whatever this says.",
    ),
    int(
        "API_MAX_CONNECTIONS",
        (1, 100_000),
        "1000",
        "Most connections served at once; more wait in the system's queue until one ends. Each takes a file handle, and a request that waits keeps its connection.",
    ),
    bool(
        "API_GATHER",
        "true",
        "Under load, send requests of one kind that wait for the database together, as one call. Answers \
         are the same. Ignored by `handler`.",
    ),
    bool(
        "API_ACCESS_LOG",
        "false",
        "Log one line for each request: method, path without the query, status, time, request id, operation and agent.",
    ),
    int(
        "SHUTDOWN_GRACE_SECONDS",
        (0, 600),
        "25",
        "Seconds that requests in flight may take to finish after SIGTERM.",
    ),
    int(
        "WAIT_MAX_SECONDS",
        (0, 300),
        "50",
        "Most seconds that a request waits for a lock or a task, whatever its `wait_seconds` says. Lambda: 20 at most.",
    ),
    text(
        "RUST_LOG",
        "a log filter such as info or info,sqlx=debug",
        "info,rmcp=warn,sqlx::postgres::notice=warn",
        "What to log. At `info` the MCP library tells of every request, and the database of migrations \
         that find their work done.",
    ),
    text(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        COLLECTOR,
        "",
        "Collector that gets a span for each operation, over OTLP and plain HTTP. Only builds with the feature `otel` send any.",
    ),
    text("OTEL_SERVICE_NAME", "a name", "agent-coordinator", "Name of the service in these spans."),
    text(
        "COORDINATION_API_KEYS",
        "keys, separated by commas",
        "",
        "The API keys. Unset: the keys of `COORDINATION_API_KEY_IDENTITIES`.",
    ),
    text(
        "COORDINATION_API_KEY_IDENTITIES",
        "a JSON object that maps keys (members of COORDINATION_API_KEYS, when that is set) to objects with the optional string members agent_id, agent_type, workspace (a name of a-z 0-9 . _ -) and profile (which needs agent_id)",
        "{}",
        "What each key is bound to: `{\"<key>\": {\"agent_id\": …, \"agent_type\": …, \"workspace\": …, \"profile\": …}}`.",
    ),
    bool(
        "COORDINATION_PUBLIC_READS",
        "false",
        "Answer the routes marked \"public reads\" without a key, for workspace `default` only. `local`: true.",
    ),
    bool(
        "COORDINATION_ALLOW_WORKSPACE_HEADER",
        "false",
        "Let keys that are bound to no agent choose their workspace with `X-Workspace`.",
    ),
    text(
        "COORDINATOR_CORS_ALLOWED_ORIGINS",
        "origins such as https://board.example.com, separated by commas",
        "",
        "Origins whose pages may call the service, besides `http://localhost:5173`.",
    ),
    text(
        "COORDINATION_ALLOWED_ORIGINS",
        "origins such as https://board.example.com, separated by commas",
        "",
        "Origins whose pages may use the MCP endpoint, besides those that may call the service and \
         those of this machine. A request without `Origin`, which no page can send, is not asked.",
    ),
    text(
        "COORDINATION_PUBLIC_HOSTS",
        "host names such as coordinator.example.com, separated by commas",
        "",
        "Names by which the MCP endpoint may be reached, besides those of this machine. Unset: any \
         name, or only those of this machine where `API_HOST` is one of its own addresses.",
    ),
    text(
        "RAILWAY_PUBLIC_DOMAIN",
        "a host name",
        "",
        "One more such name; Railway sets it. A custom domain must be added to \
         `COORDINATION_PUBLIC_HOSTS`.",
    ),
    text("RAILWAY_PRIVATE_DOMAIN", "a host name", "", "One more such name; Railway sets it."),
    bool("METRICS_PUBLIC", "false", "Answer `/metrics` without a key."),
    int(
        "LOCK_TTL_MINUTES",
        (1, 480),
        "120",
        "Minutes that a lock lives when a client sends `ttl_minutes: 0`.",
    ),
    int(
        "WORK_LEASE_MINUTES",
        (1, 1440),
        "60",
        "Minutes that a claimed task is leased when the claim does not say.",
    ),
    int(
        "SESSION_TIMEOUT_MINUTES",
        (1, 10080),
        "120",
        "Minutes of silence after which a session is disconnected and what it holds is free.",
    ),
    int(
        "GUARDRAILS_CACHE_TTL",
        (0, 86400),
        "300",
        "Most seconds that guardrail patterns are kept in memory.",
    ),
    bool(
        "GUARDRAILS_CODE_FALLBACK",
        "true",
        "Use the built-in guardrail patterns when the table holds none or cannot be read. False: every check is answered 503 then.",
    ),
    int(
        "AUDIT_RETENTION_DAYS",
        (1, 3650),
        "90",
        "Months of audit, violation and network records that lie wholly before these days are dropped.",
    ),
    int("PORT_ALLOC_BASE", (1024, 65532), "10000", "First port that is allocated to sessions."),
    int("PORT_ALLOC_RANGE", (4, 10000), "100", "Ports from one session's block to the next."),
    int(
        "PORT_ALLOC_MAX_SESSIONS",
        (1, 10000),
        "20",
        "Most blocks of ports in a workspace; the last one must not pass port 65535.",
    ),
    int("PORT_ALLOC_TTL_MINUTES", (1, 10080), "120", "Minutes that ports stay allocated."),
    int("PROFILES_DEFAULT_TRUST", (0, 4), "2", "Trust of an agent without a profile."),
    bool(
        "PROFILES_ENFORCE_LIMITS",
        "true",
        "Apply the operation lists and the file limit of profiles. False: only trust decides.",
    ),
    int(
        "PROFILES_CACHE_TTL",
        (0, 86400),
        "300",
        "Most seconds a profile's definition is kept in memory. Assignments and suspensions are kept for 5 s at most, whatever this says, and definitions are read along with them.",
    ),
    words(
        "POLICY_ENGINE",
        ENGINES,
        "native",
        "Engine that decides what a caller may do: by trust and the category of the operation, or by the Cedar policies in the database.",
    ),
    int("POLICY_CACHE_TTL", (0, 86400), "300", "Seconds that Cedar policies are kept in memory."),
    bool(
        "POLICY_CODE_FALLBACK",
        "true",
        "Use the bundled Cedar policies where the database has none or they cannot be read. False: deny.",
    ),
    text(
        "CEDAR_SCHEMA_PATH",
        "a readable file that holds a valid Cedar schema",
        "",
        "Schema that `/policy/validate` checks against, as Cedar text or JSON. Unset: the bundled one.",
    ),
    words(
        "NETWORK_DEFAULT_POLICY",
        &["deny", "allow"],
        "deny",
        "Answer of `/network/check` for a domain that no rule matches.",
    ),
];

/// The longest that an agent's assignment and suspension may be out of date (conventions 5.2).
const AUTHORITY_MAX_AGE: Duration = Duration::from_secs(5);

/// A caller is not heard again within this time (conventions 14).
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// How long a request may take before it is answered with 503 (conventions, limits).
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// How long the body of a request may take to come in, once its head is there: at the limit of
/// 1 MiB that is a slow line of 1 Mbit/s. Without this, whoever has a key could keep connections for
/// the whole time of a request by sending a byte now and then.
const BODY_TIME: Duration = Duration::from_secs(10);

/// How long a connection to the database may be idle: the driver's own choice, and that of a service
/// which is to sleep.
const IDLE_TIME: Duration = Duration::from_secs(600);
const IDLE_TIME_SLEEPY: Duration = Duration::from_secs(60);

/// How often the server tidies up.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// The longest that a request waits on Lambda, where every second of it is paid for (conventions,
/// limits).
const LAMBDA_WAIT_MAX: Duration = Duration::from_secs(20);

impl Config {
    /// Reads and checks the process's environment.
    pub fn from_env(home: Home) -> Result<Self, ConfigError> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        Self::parse(home, |name| {
            // What is no UTF-8 must not count as unset.
            std::env::var_os(name).map(|it| it.to_string_lossy().into_owned())
        })
    }

    /// Reads and checks an environment given as a function from name to value.
    pub fn parse(home: Home, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut from = Reader { lookup: &lookup, problems: BTreeSet::new() };
        let server = home == Home::Server;
        let sleep_friendly = from.bool("SLEEP_FRIENDLY");
        let (pool_min, pool_max): (u32, u32) =
            (from.int("POSTGRES_POOL_MIN"), from.int("POSTGRES_POOL_MAX"));
        // An invalid bound counts as 0 here and has its own problem.
        if pool_max > 0 && pool_min > pool_max {
            from.problem("POSTGRES_POOL_MIN", "not more than POSTGRES_POOL_MAX");
        }
        let statements = match from.word("POSTGRES_POOLER").as_str() {
            "transaction" => Statements::OneTransaction,
            _ => Statements::Named,
        };
        let (host, cors_origins) = (from.host(), from.cors_origins());
        let mcp = from.mcp(host, &cors_origins);
        let config = Self {
            database: Secret(from.database()),
            pool_min: if server && !sleep_friendly { pool_min } else { 0 },
            pool_max: if server { pool_max } else { 1 },
            statements,
            keys: from.keys(),
            public_reads: from.bool("COORDINATION_PUBLIC_READS"),
            allow_workspace_header: from.bool("COORDINATION_ALLOW_WORKSPACE_HEADER"),
            lock_ttl_minutes: from.int("LOCK_TTL_MINUTES"),
            session_timeout_minutes: from.int("SESSION_TIMEOUT_MINUTES"),
            audit_retention_days: from.int("AUDIT_RETENTION_DAYS"),
            work_lease_minutes: from.int("WORK_LEASE_MINUTES"),
            port_base: from.int("PORT_ALLOC_BASE"),
            port_range: from.int("PORT_ALLOC_RANGE"),
            port_slots: from.int("PORT_ALLOC_MAX_SESSIONS"),
            port_ttl_minutes: from.int("PORT_ALLOC_TTL_MINUTES"),
            default_trust: from.int("PROFILES_DEFAULT_TRUST"),
            enforce_profile_limits: from.bool("PROFILES_ENFORCE_LIMITS"),
            authority_max_age: Duration::from_secs(from.int("PROFILES_CACHE_TTL"))
                .min(AUTHORITY_MAX_AGE),
            guardrails_max_age: Duration::from_secs(from.int("GUARDRAILS_CACHE_TTL")),
            guardrails_code_fallback: from.bool("GUARDRAILS_CODE_FALLBACK"),
            heartbeat_interval: HEARTBEAT_INTERVAL,
            policy: from.policy(),
            allow_unlisted_domains: from.word("NETWORK_DEFAULT_POLICY") == "allow",
            access_log: from.bool("API_ACCESS_LOG"),
            public_metrics: from.bool("METRICS_PUBLIC"),
            cors_origins,
            mcp,
            request_time: REQUEST_TIME,
            body_time: BODY_TIME,
            idle_time: if sleep_friendly { IDLE_TIME_SLEEPY } else { IDLE_TIME },
            sleep_friendly,
            sweep_interval: SWEEP_INTERVAL,
            max_connections: from.int("API_MAX_CONNECTIONS"),
            wait_max: Duration::from_secs(from.int("WAIT_MAX_SECONDS")).min(if server {
                Duration::MAX
            } else {
                LAMBDA_WAIT_MAX
            }),
            host,
            port: from.port(),
            workers: from.int("API_WORKERS"),
            keep_alive: Duration::from_secs(from.int("API_TIMEOUT_KEEP_ALIVE")),
            shutdown_grace: Duration::from_secs(from.int("SHUTDOWN_GRACE_SECONDS")),
            gather: from.bool("API_GATHER") && server,
            auto_migrate: from.bool("COORDINATION_AUTO_MIGRATE")
                && server
                && statements == Statements::Named,
            log: from.log(),
            traces: from.traces(),
        };
        let last_port = config.port_base + (config.port_slots - 1) * config.port_range + 3;
        if from.problems.is_empty() && last_port > 65535 {
            let expected = "PORT_ALLOC_BASE + (PORT_ALLOC_MAX_SESSIONS - 1) * PORT_ALLOC_RANGE + 3 to be 65535 at most";
            from.problem("PORT_ALLOC_MAX_SESSIONS", expected);
        }
        if from.problems.is_empty() {
            return Ok(config);
        }
        Err(ConfigError(from.problems.into_iter().collect()))
    }

    /// The same configuration with another age limit for assignments and suspensions, for tests
    /// that must not depend on how much time passes.
    #[doc(hidden)]
    pub fn with_authority_max_age(mut self, age: Duration) -> Self {
        self.authority_max_age = age;
        self
    }

    /// The same configuration with another time between two heartbeats, for tests that must not
    /// depend on how much time passes.
    #[doc(hidden)]
    pub fn with_heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// The same configuration with another limit on a request's time, for tests of that limit.
    #[doc(hidden)]
    pub fn with_request_time(mut self, limit: Duration) -> Self {
        self.request_time = limit;
        self
    }

    /// The same configuration with another limit on the time that a body takes, for tests of that
    /// limit.
    #[doc(hidden)]
    pub fn with_body_time(mut self, limit: Duration) -> Self {
        self.body_time = limit;
        self
    }

    /// The same configuration, with idle connections closed earlier where they are closed for the
    /// sake of sleep, for tests that must not wait a minute.
    #[doc(hidden)]
    pub fn with_sleepy_idle_time(mut self, limit: Duration) -> Self {
        if self.sleep_friendly {
            self.idle_time = limit;
        }
        self
    }

    /// The same configuration with another time between two sweeps, for tests of the sweep.
    #[doc(hidden)]
    pub fn with_sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// How long a request that asks to wait so many seconds may do so.
    pub(crate) fn longest_wait(&self, seconds: i64) -> Duration {
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).min(self.wait_max)
    }

    /// How many calls of one transition may be under way before further ones are gathered: a fifth of the
    /// connections, at least two.
    pub(crate) fn gather_lanes(&self) -> usize {
        usize::try_from(self.pool_max / 5).unwrap_or_default().max(2)
    }

    /// The silence after which a session is disconnected, as the database takes it.
    pub fn session_timeout(&self) -> PgInterval {
        let minutes = i64::from(self.session_timeout_minutes);
        PgInterval { months: 0, days: 0, microseconds: minutes * 60_000_000 }
    }

    /// Whether there is any key at all; without one every keyed route answers 401.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }
}

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    problems: BTreeSet<String>,
}

impl Reader<'_> {
    fn problem(&mut self, name: &str, expected: &str) {
        self.problems.insert(format!("{name}: expected {expected}"));
    }

    fn invalid(&mut self, name: &str) {
        self.problem(name, &variable(name).kind.expected());
    }

    /// The variable's value or its default; an empty value counts as unset.
    fn text(&self, name: &str) -> Option<String> {
        let value = (self.lookup)(name).filter(|it| !it.trim().is_empty());
        let default = variable(name).default;
        value.or_else(|| (!default.is_empty()).then(|| default.to_owned()))
    }

    fn checked<T: Default>(&mut self, name: &str, parse: impl Fn(&Kind, &str) -> Option<T>) -> T {
        let Some(value) = self.text(name) else { return T::default() };
        parse(&variable(name).kind, value.trim()).unwrap_or_else(|| {
            self.invalid(name);
            T::default()
        })
    }

    fn int<T: TryFrom<i64> + Default>(&mut self, name: &str) -> T {
        self.checked(name, |kind, value| {
            let Kind::Int(low, high) = kind else { return None };
            let number = value.parse().ok().filter(|it| (low..=high).contains(&it))?;
            T::try_from(number).ok()
        })
    }

    fn bool(&mut self, name: &str) -> bool {
        self.checked(name, |_, value| match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        })
    }

    fn word(&mut self, name: &str) -> String {
        self.checked(name, |kind, value| {
            let Kind::Words(words) = kind else { return None };
            words.contains(&value).then(|| value.to_owned())
        })
    }

    fn port(&mut self) -> u16 {
        match self.int("API_PORT") {
            0 => self.int("PORT"),
            port => port,
        }
    }

    fn policy(&mut self) -> PolicySettings {
        let engine = match self.word("POLICY_ENGINE").as_str() {
            #[cfg(feature = "cedar")]
            "cedar" => PolicyEngine::Cedar,
            _ => PolicyEngine::Native,
        };
        PolicySettings {
            engine,
            cache_ttl: Duration::from_secs(self.int("POLICY_CACHE_TTL")),
            code_fallback: self.bool("POLICY_CODE_FALLBACK"),
            schema: self.checked("CEDAR_SCHEMA_PATH", |_, path| {
                let text = std::fs::read_to_string(path).ok()?;
                is_schema(&text).then_some(Some(text))
            }),
        }
    }

    fn host(&mut self) -> Option<IpAddr> {
        self.checked("API_HOST", |_, value| {
            let bare = value.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            let address: IpAddr = bare.unwrap_or(value).parse().ok()?;
            Some((address != Ipv6Addr::UNSPECIFIED).then_some(address))
        })
    }

    fn log(&mut self) -> tracing_subscriber::filter::Targets {
        self.checked("RUST_LOG", |_, value| value.parse().ok())
    }

    fn traces(&mut self) -> TraceSettings {
        let endpoint = self.checked("OTEL_EXPORTER_OTLP_ENDPOINT", |_, value| {
            let uri: Uri = value.parse().ok()?;
            let plain = uri.scheme_str() == Some("http") && uri.authority().is_some();
            plain.then(|| Some(value.trim_end_matches('/').to_owned()))
        });
        let service = self.text("OTEL_SERVICE_NAME").unwrap_or_default();
        TraceSettings { endpoint, service }
    }

    fn cors_origins(&mut self) -> Vec<HeaderValue> {
        let extra = self.origins("COORDINATOR_CORS_ALLOWED_ORIGINS");
        let own = const { HeaderValue::from_static("http://localhost:5173") };
        std::iter::once(own).chain(extra).collect()
    }

    fn origins(&mut self, name: &str) -> Vec<HeaderValue> {
        self.checked(name, |_, value| {
            let origins = value.split(',').map(str::trim).filter(|it| !it.is_empty());
            origins.map(origin).collect::<Option<Vec<_>>>()
        })
    }

    fn database(&mut self) -> PgConnectOptions {
        let backend = self.word("DB_BACKEND");
        let name =
            if self.text("POSTGRES_DSN").is_some() { "POSTGRES_DSN" } else { "DATABASE_URL" };
        if backend == "supabase" && name != "POSTGRES_DSN" {
            let how = "the Postgres connection string of the project, for DB_BACKEND=supabase";
            self.problem("POSTGRES_DSN", how);
            return PgConnectOptions::new_without_pgpass();
        }
        let parsed = self.text(name).and_then(|dsn| connect_options(&dsn));
        parsed.unwrap_or_else(|| {
            let name = if self.text(name).is_some() { name } else { "POSTGRES_DSN" };
            self.invalid(name);
            PgConnectOptions::new_without_pgpass()
        })
    }

    fn keys(&mut self) -> Keyring {
        let listed = (self.lookup)("COORDINATION_API_KEYS").filter(|it| !it.trim().is_empty());
        let listed: Option<Vec<String>> = listed.map(|csv| {
            csv.split(',').map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()).collect()
        });
        if listed.as_ref().is_some_and(|it| it.is_empty()) {
            self.invalid("COORDINATION_API_KEYS");
        }
        let identities = self.text("COORDINATION_API_KEY_IDENTITIES").unwrap_or_default();
        let Some(identities) = parse_identities(&identities, listed.as_deref()) else {
            self.invalid("COORDINATION_API_KEY_IDENTITIES");
            return Keyring::default();
        };
        let unbound = listed.unwrap_or_default().into_iter().map(|key| (key, Identity::default()));
        Keyring::new(identities.into_iter().chain(unbound))
    }
}

/// A scheme, a host and perhaps a port, as a browser sends it: nothing behind, not even a slash.
fn origin(text: &str) -> Option<HeaderValue> {
    let uri: Uri = text.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let whole = format!("{scheme}://{authority}");
    let plain = ["http", "https"].contains(&scheme) && !authority.as_str().contains('@');
    (plain && whole == text).then(|| whole.parse().ok())?
}

fn variable(name: &str) -> &'static Variable {
    VARIABLES.iter().find(|it| it.name == name).expect("every variable read is declared above")
}

/// Whether a text is a schema of policies, as far as this build can tell.
#[cfg(feature = "cedar")]
fn is_schema(text: &str) -> bool {
    crate::cedar::is_schema(text)
}

#[cfg(not(feature = "cedar"))]
fn is_schema(_: &str) -> bool {
    true
}

/// A connection string, as options that also work behind a connection pooler: it would refuse the
/// start-up parameter that the driver sends by default.
fn connect_options(dsn: &str) -> Option<PgConnectOptions> {
    let scheme = dsn.split_once("://")?.0;
    if !["postgres", "postgresql"].contains(&scheme) {
        return None;
    }
    let options: PgConnectOptions = dsn.parse().ok()?;
    Some(options.extra_float_digits(None).application_name("agent-coordinator"))
}

/// The identities by key, or nothing when anything about them is wrong.
fn parse_identities(json: &str, listed: Option<&[String]>) -> Option<Vec<(String, Identity)>> {
    let map: serde_json::Map<String, Value> = serde_json::from_str(json).ok()?;
    let mut identities = Vec::new();
    for (key, members) in map {
        let key = key.trim().to_owned();
        if key.is_empty() || listed.is_some_and(|it| !it.contains(&key)) {
            return None;
        }
        identities.push((key, parse_identity(members.as_object()?)?));
    }
    Some(identities)
}

/// Whether these members make an identity that a key can be bound to.
pub(crate) fn is_identity(members: &serde_json::Map<String, Value>) -> bool {
    parse_identity(members).is_some()
}

fn parse_identity(members: &serde_json::Map<String, Value>) -> Option<Identity> {
    let member = |name: &str| -> Option<Option<String>> {
        match members.get(name) {
            None => Some(None),
            Some(value) => {
                let text = value.as_str()?.trim();
                Some((!text.is_empty()).then(|| text.to_owned()))
            }
        }
    };
    if members.values().any(|it| !it.is_string()) {
        return None;
    }
    let identity = Identity {
        agent_id: member("agent_id")?,
        agent_type: member("agent_type")?,
        workspace: member("workspace")?.unwrap_or_else(|| "default".to_owned()),
        profile: member("profile")?,
    };
    let whole = crate::auth::is_workspace_name(&identity.workspace)
        && (identity.profile.is_none() || identity.agent_id.is_some());
    whole.then_some(identity)
}

impl Kind {
    fn expected(&self) -> String {
        match self {
            Self::Int(low, high) => format!("an integer {low}..{high}"),
            Self::Bool => "true or false (also 1/0, yes/no, on/off)".to_owned(),
            Self::Words(words) => words.join(" or "),
            Self::Text(expected) => (*expected).to_owned(),
        }
    }
}

/// The table of all variables, as Markdown.
pub fn configuration_table() -> String {
    let mut table = String::from(
        "# Configuration\n\n\
         Written by `make docs`. The environment is read once, at start. An empty value counts as \
         unset. When anything is wrong, the process names every variable concerned with what it \
         expects, and exits with code 2 before listening.\n\n\
         | Variable | Default | Expects | Meaning |\n|---|---|---|---|\n",
    );
    for variable in VARIABLES {
        let default = match variable.default {
            "" => "–".to_owned(),
            default => format!("`{default}`"),
        };
        let expected = variable.kind.expected();
        writeln!(table, "| `{}` | {default} | {expected} | {} |", variable.name, variable.meaning)
            .expect("a String takes any text");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const DSN: (&str, &str) = ("POSTGRES_DSN", "postgresql://u:s3cret@localhost/db");

    fn parse(home: Home, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::parse(home, |name| {
            variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn valid(variables: &[(&str, &str)]) -> Config {
        parse(Home::Server, &[&[DSN], variables].concat()).expect("valid")
    }

    /// The problems' text for one variable beside a valid connection string.
    #[track_caller]
    fn assert_refused(name: &str, value: &str) {
        let error = parse(Home::Server, &[(name, value), DSN]).expect_err("refused").to_string();
        assert!(error.starts_with(name), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn defaults() {
        let config = valid(&[]);
        assert_eq!((config.pool_min, config.pool_max), (2, 10));
        assert_eq!((config.host, config.port, config.workers), (None, 8081, 1));
        assert_eq!(config.lock_ttl_minutes, 120);
        assert_eq!((config.default_trust, config.enforce_profile_limits), (2, true));
        assert_eq!(config.authority_max_age, AUTHORITY_MAX_AGE);
        assert_eq!(config.guardrails_max_age, Duration::from_secs(300));
        assert_eq!(config.shutdown_grace, Duration::from_secs(25));
        assert!(config.guardrails_code_fallback);
        assert!(config.auto_migrate && !config.public_reads && !config.allow_workspace_header);
        assert!(!config.has_keys());
    }

    #[test]
    fn a_function_has_one_connection_and_never_migrates() {
        let variables = [DSN, ("COORDINATION_AUTO_MIGRATE", "true"), ("POSTGRES_POOL_MAX", "50")];
        let config = parse(Home::Lambda, &variables).expect("valid");
        assert_eq!((config.pool_min, config.pool_max, config.auto_migrate), (0, 1, false));
    }

    #[test]
    fn waits_are_bounded_and_shorter_in_a_function() {
        let longest = |home, max| {
            let variables = [DSN, ("WAIT_MAX_SECONDS", max)];
            parse(home, &variables).expect("valid").longest_wait(1_000).as_secs()
        };
        assert_eq!((longest(Home::Server, ""), longest(Home::Server, "300")), (50, 300));
        assert_eq!((longest(Home::Lambda, ""), longest(Home::Lambda, "5")), (20, 5));
        let config = valid(&[]);
        assert_eq!(config.longest_wait(7).as_secs(), 7);
        assert_eq!(config.longest_wait(-1).as_secs(), 0);
    }

    #[test]
    fn empty_counts_as_unset_and_the_first_port_set_wins() {
        assert_eq!(valid(&[("API_PORT", ""), ("PORT", "99")]).port, 99);
        assert_eq!(valid(&[("API_PORT", "7"), ("PORT", "99")]).port, 7);
        assert_eq!(valid(&[("API_WORKERS", " ")]).workers, 1);
        let config = parse(Home::Server, &[("DATABASE_URL", DSN.1)]).expect("valid");
        assert_eq!(config.database.0.get_database(), Some("db"));
    }

    #[test]
    fn addresses() {
        for (value, expected) in [
            ("[::]", None),
            ("::", None),
            ("0.0.0.0", Some("0.0.0.0")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("[::1]", Some("::1")),
        ] {
            let expected = expected.map(|it: &str| it.parse::<IpAddr>().expect("an address"));
            assert_eq!(valid(&[("API_HOST", value)]).host, expected, "{value}");
        }
    }

    #[test]
    fn booleans_take_eight_words_in_any_case() {
        for word in ["true", "1", "YES", "On"] {
            assert!(valid(&[("COORDINATION_PUBLIC_READS", word)]).public_reads, "{word}");
        }
        for word in ["False", "0", "no", "OFF"] {
            assert!(!valid(&[("PROFILES_ENFORCE_LIMITS", word)]).enforce_profile_limits, "{word}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_and_not_repeated() {
        for (name, value) in [
            ("POSTGRES_POOL_MAX", "0"),
            ("POSTGRES_POOL_MAX", "501"),
            ("POSTGRES_POOL_MIN", "11"),
            ("POSTGRES_POOL_MIN", "0"),
            ("LOCK_TTL_MINUTES", "\u{fffd}"),
            ("API_PORT", "65536"),
            ("API_PORT", "x"),
            ("PORT", "0"),
            ("API_HOST", "example.com"),
            ("API_WORKERS", "257"),
            ("API_ACCESS_LOG", "maybe"),
            ("API_TIMEOUT_KEEP_ALIVE", "abc"),
            ("API_TIMEOUT_KEEP_ALIVE", "0"),
            ("SHUTDOWN_GRACE_SECONDS", "-1"),
            ("RUST_LOG", "s3cret=loud"),
            ("COORDINATION_API_KEYS", " , ,"),
            ("METRICS_PUBLIC", "maybe"),
            ("COORDINATOR_CORS_ALLOWED_ORIGINS", "board.example.com"),
            ("COORDINATOR_CORS_ALLOWED_ORIGINS", "https://a.example, https://b.example/path"),
            ("COORDINATOR_CORS_ALLOWED_ORIGINS", "https://user@a.example"),
            ("COORDINATOR_CORS_ALLOWED_ORIGINS", "ftp://a.example"),
            ("COORDINATOR_CORS_ALLOWED_ORIGINS", "*"),
            ("COORDINATION_ALLOWED_ORIGINS", "board.example.com"),
            ("COORDINATION_PUBLIC_HOSTS", "https://s3cret.example"),
            ("RAILWAY_PUBLIC_DOMAIN", "a.example/path"),
            ("LOCK_TTL_MINUTES", "481"),
            ("PORT_ALLOC_BASE", "1023"),
            ("PORT_ALLOC_BASE", "65533"),
            ("PORT_ALLOC_RANGE", "3"),
            ("PORT_ALLOC_RANGE", "10001"),
            ("PORT_ALLOC_MAX_SESSIONS", "10001"),
            ("PORT_ALLOC_MAX_SESSIONS", "557"),
            ("PORT_ALLOC_TTL_MINUTES", "0"),
            ("PROFILES_DEFAULT_TRUST", "5"),
            ("PROFILES_CACHE_TTL", "86401"),
            ("GUARDRAILS_CACHE_TTL", "86401"),
            ("GUARDRAILS_CODE_FALLBACK", "maybe"),
            ("POLICY_ENGINE", "opa"),
            #[cfg(not(feature = "cedar"))]
            ("POLICY_ENGINE", "cedar"),
            ("POLICY_CACHE_TTL", "86401"),
            ("POLICY_CODE_FALLBACK", "maybe"),
            ("CEDAR_SCHEMA_PATH", "/s3cret/no-such-file"),
            #[cfg(feature = "cedar")]
            ("CEDAR_SCHEMA_PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
            ("NETWORK_DEFAULT_POLICY", "ask"),
            ("DB_BACKEND", "mysql"),
            ("POSTGRES_DSN", "s3cret"),
            ("POSTGRES_DSN", "mysql://u:s3cret@localhost/db"),
            ("COORDINATION_API_KEY_IDENTITIES", "s3cret"),
            ("COORDINATION_API_KEY_IDENTITIES", "[]"),
            ("COORDINATION_API_KEY_IDENTITIES", r#"{"s3cret":1}"#),
            ("COORDINATION_API_KEY_IDENTITIES", r#"{"s3cret":{"agent_id":1}}"#),
            ("COORDINATION_API_KEY_IDENTITIES", r#"{"s3cret":{"agent_id":null}}"#),
            ("COORDINATION_API_KEY_IDENTITIES", r#"{"s3cret":{"note":1}}"#),
            ("COORDINATION_API_KEY_IDENTITIES", r#"{"s3cret":{"workspace":"No Name"}}"#),
            ("COORDINATION_API_KEY_IDENTITIES", r#"{"s3cret":{"profile":"p"}}"#),
        ] {
            assert_refused(name, value);
        }
        let keys = ("COORDINATION_API_KEYS", "a");
        let identities = ("COORDINATION_API_KEY_IDENTITIES", r#"{"s3cret":{}}"#);
        let error = parse(Home::Server, &[DSN, keys, identities]).expect_err("unlisted key");
        assert!(error.to_string().starts_with(identities.0), "{error}");
    }

    #[test]
    fn the_last_block_of_ports_ends_within_the_ports_there_are() {
        let base = ("PORT_ALLOC_BASE", "65532");
        let last = valid(&[base, ("PORT_ALLOC_MAX_SESSIONS", "1")]);
        assert_eq!((last.port_base, last.port_slots), (65532, 1));
        assert_eq!(valid(&[("PORT_ALLOC_MAX_SESSIONS", "556")]).port_slots, 556);
        for beyond in [base, ("PORT_ALLOC_RANGE", "10000"), ("PORT_ALLOC_MAX_SESSIONS", "557")] {
            let error = parse(Home::Server, &[DSN, beyond]).expect_err("beyond").to_string();
            assert!(
                error.starts_with("PORT_ALLOC_MAX_SESSIONS: expected PORT_ALLOC_BASE"),
                "{error}"
            );
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let variables = [("API_PORT", "x"), ("LOCK_TTL_MINUTES", "x"), ("DB_BACKEND", "supabase")];
        let error = parse(Home::Server, &variables).expect_err("three problems").to_string();
        let names: Vec<_> =
            error.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
        assert_eq!(names, ["API_PORT", "LOCK_TTL_MINUTES", "POSTGRES_DSN"]);
        let error = parse(Home::Server, &[]).expect_err("no database").to_string();
        assert!(error.starts_with("POSTGRES_DSN: expected a connection string"), "{error}");
    }

    #[test]
    fn keys_come_from_the_list_or_else_from_the_identities() {
        let listed = valid(&[("COORDINATION_API_KEYS", " a , b ,")]);
        assert!(listed.keys.find("a").is_some() && listed.keys.find("b").is_some());
        assert!(listed.keys.find("").is_none() && listed.keys.find(" a").is_none());
        let identities = r#"{"k":{"agent_id":"x","workspace":"team"}}"#;
        let mapped = valid(&[("COORDINATION_API_KEY_IDENTITIES", identities)]);
        let key = mapped.keys.find("k").expect("known");
        assert_eq!(key.identity.agent_id.as_deref(), Some("x"));
        assert_eq!(key.identity.workspace, "team");
    }

    #[test]
    fn every_declared_variable_is_read() {
        let read = std::cell::RefCell::new(BTreeSet::new());
        for home in [Home::Server, Home::Lambda] {
            let parsed = Config::parse(home, |name| {
                read.borrow_mut().insert(name.to_owned());
                None
            });
            assert!(parsed.is_err(), "no database is given");
        }
        let declared: BTreeSet<_> = VARIABLES.iter().map(|it| it.name.to_owned()).collect();
        assert_eq!(*read.borrow(), declared);
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let config = valid(&[("COORDINATION_API_KEYS", "topkey")]);
        let shown = format!("{config:?}");
        assert!(!shown.contains("topkey"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
