//! Every variable that the service reads: name, kind, default, meaning. The parser takes ranges and defaults
//! from here, and the reference documents are printed from it.

pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What holds when the variable is unset or empty; `""` is nothing.
    pub(super) default: &'static str,
    pub(super) meaning: &'static str,
}

pub(super) enum Kind {
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

impl Kind {
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Int(low, high) => format!("an integer {low}..{high}"),
            Self::Bool => "true or false (also 1/0, yes/no, on/off)".to_owned(),
            Self::Words(words) => words.join(" or "),
            Self::Text(expected) => (*expected).to_owned(),
        }
    }
}

/// The engines of this build.
const ENGINES: &[&str] = if cfg!(feature = "cedar") { &["native", "cedar"] } else { &["native"] };

const COLLECTOR: &str = "an address such as http://collector:4318";
const DSN: &str = "a connection string such as postgresql://user:password@host:5432/database";

/// Every variable the service reads. The parser takes ranges and defaults from here, and
/// `docs/configuration.md` is printed from it.
pub(super) const VARIABLES: &[Variable] = &[
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

/// Returns the variable of a name.
///
/// # Panics
/// When the table lacks it: a variable that is read must be documented.
pub(super) fn variable(name: &str) -> &'static Variable {
    VARIABLES.iter().find(|it| it.name == name).expect("every variable read is declared above")
}
