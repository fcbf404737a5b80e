//! Every variable that the service reads: name, kind, default, meaning. The parser uses this table, and
//! `docs/configuration.md` and `.env.example` are generated from it.

pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The value when the variable is unset or empty. `""` means that it has no value then.
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

const fn quota(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    int(name, (0, 100_000_000), default, meaning)
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

/// The policy engines of this build.
const ENGINES: &[&str] = if cfg!(feature = "cedar") { &["native", "cedar"] } else { &["native"] };

const COLLECTOR: &str = "an address such as http://collector:4318";
const DSN: &str = "a connection string such as postgresql://user:password@host:5432/database";

/// Every variable that the service reads, in the order of the documents.
pub(super) const VARIABLES: &[Variable] = &[
    words(
        "DB_BACKEND",
        &["postgres", "supabase"],
        "postgres",
        "Kind of database. `supabase` requires `POSTGRES_DSN`, with the Postgres connection string of that project; nothing else differs. The REST interface of a project cannot reach what the service stores: see `docs/cloud-deployment.md`.",
    ),
    text(
        "POSTGRES_DSN",
        DSN,
        "",
        "Connection string of the database. Required unless `DATABASE_URL` is set.",
    ),
    text(
        "DATABASE_URL",
        DSN,
        "",
        "Connection string of the database when `POSTGRES_DSN` is unset.",
    ),
    int(
        "POSTGRES_POOL_MIN",
        (1, 500),
        "2",
        "Minimum number of open database connections. Always 0 on Lambda and with `SLEEP_FRIENDLY`.",
    ),
    int(
        "POSTGRES_POOL_MAX",
        (1, 500),
        "10",
        "Maximum number of open database connections. Always 1 on Lambda.",
    ),
    words(
        "POSTGRES_POOLER",
        &["none", "transaction"],
        "none",
        "Kind of pooler in front of the database. `transaction`: a pooler in transaction mode that does not track prepared statements. `none`: no pooler, or any other; the service checks this before its first statement.",
    ),
    bool(
        "SLEEP_FRIENDLY",
        "false",
        "Send nothing to the database while there are no requests, so that a platform can put the service to sleep. Database connections are closed after a minute or two without a request, and the sweep every 30 s does not run; correctness does not depend on it. The next request waits for a new connection.",
    ),
    bool(
        "COORDINATION_AUTO_MIGRATE",
        "true",
        "Apply migrations at start, under a lock. Never done on Lambda or through a pooler in transaction mode.",
    ),
    text(
        "API_HOST",
        "an IP address",
        "[::]",
        "Address to listen on. The default accepts IPv6 and IPv4, or only IPv4 where IPv6 is missing. `local` ignores it and listens on loopback.",
    ),
    int("API_PORT", (1, 65535), "", "Port to listen on."),
    int("PORT", (1, 65535), "8081", "Port to listen on when `API_PORT` is unset."),
    int("API_WORKERS", (1, 256), "1", "Number of worker threads of the server."),
    int(
        "API_TIMEOUT_KEEP_ALIVE",
        (1, 3600),
        "5",
        "Seconds after which an HTTP connection is closed that is idle or has not sent a complete request head. The time limit of a request body is always 10 s.",
    ),
    int(
        "API_TIMEOUT_WRITE",
        (1, 3600),
        "10",
        "Seconds after which an HTTP connection is closed whose client has not taken any part of an answer. A client that reads slowly is not cut off.",
    ),
    int(
        "API_MAX_CONNECTIONS",
        (1, 100_000),
        "1000",
        "Maximum number of HTTP connections served at once. For a further one, the connection is closed that has been idle, slow or not reading for longest; while the service works on a request of each, further ones wait in the queue of the operating system. Each connection needs a file descriptor, and a waiting request keeps its connection. At most half of this number of requests wait, and as many without a key are in work.",
    ),
    int(
        "API_MAX_REQUESTS_PER_ADDRESS",
        (1, 100_000),
        "250",
        "Maximum number of requests without a key from one address that are in work at once. Further ones are answered with 503. Behind a proxy all requests have the address of the proxy.",
    ),
    int(
        "API_MAX_BYTES_IN_FLIGHT",
        (4_194_304, 68_719_476_736),
        "33554432",
        "Maximum number of bytes of request bodies and answers that a process holds at once, where one has more than 16 KiB. Further requests are answered with 429. A request takes up to six times the bytes of its body while it is in work.",
    ),
    int(
        "API_MAX_BYTES_IN_FLIGHT_PER_KEY",
        (4_194_304, 68_719_476_736),
        "16777216",
        "Maximum number of these bytes for the requests of one API key, and for those without a key together.",
    ),
    bool(
        "API_GATHER",
        "true",
        "Under load, send several requests for one transition to the database in one call. The answers are \
         the same. Ignored on Lambda.",
    ),
    bool(
        "API_ACCESS_LOG",
        "false",
        "Log one line per request: method, path without the query, status, time, request id, operation and agent.",
    ),
    int(
        "SHUTDOWN_GRACE_SECONDS",
        (0, 600),
        "25",
        "Seconds that requests in flight have to finish after SIGTERM.",
    ),
    int(
        "READ_MAX_SECONDS",
        (1, 10),
        "2",
        "Seconds after which the statement of a read is ended and its request answered with 503, so that its client asks for less. Waiting for a connection does not count.",
    ),
    int(
        "WAIT_MAX_SECONDS",
        (0, 300),
        "50",
        "Maximum number of seconds that a request waits for a lock or a task, even if its `wait_seconds` is greater. On Lambda never more than 20.",
    ),
    int(
        "WAIT_MAX_REQUESTS_PER_AGENT",
        (1, 100_000),
        "100",
        "Maximum number of requests of one agent that wait at once in a process. Further ones are answered at once, with `wait_limit`.",
    ),
    int(
        "WAIT_MAX_REQUESTS_PER_KEY",
        (1, 100_000),
        "400",
        "Maximum number of requests of one API key that wait at once in a process. Further ones are answered at once, with `wait_limit`.",
    ),
    text(
        "RUST_LOG",
        "a log filter such as info or info,sqlx=debug",
        "info,sqlx::postgres::notice=warn",
        "Log filter. The default leaves out what the database says at `info` about migrations that find their \
         work done. The MCP library, which logs whole messages, only ever logs errors.",
    ),
    text(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        COLLECTOR,
        "",
        "OTLP collector that receives a span for each operation, over plain HTTP. Only builds with the feature `otel` send spans.",
    ),
    text("OTEL_SERVICE_NAME", "a name", "agent-coordinator", "Service name of the spans."),
    text(
        "COORDINATION_API_KEYS",
        "keys, separated by commas",
        "",
        "Accepted API keys. If unset, the keys of `COORDINATION_API_KEY_IDENTITIES` are accepted.",
    ),
    text(
        "COORDINATION_API_KEY_IDENTITIES",
        "a JSON object that maps keys (members of COORDINATION_API_KEYS, when that is set) to objects with the optional string members agent_id, agent_type, workspace (a name of a-z 0-9 . _ -) and profile (which needs agent_id)",
        "{}",
        "Identity that each key is bound to: `{\"<key>\": {\"agent_id\": …, \"agent_type\": …, \"workspace\": …, \"profile\": …}}`.",
    ),
    bool(
        "COORDINATION_PUBLIC_READS",
        "false",
        "Answer the routes marked \"with public reads\" without a key, for workspace `default` only. `local` sets it to true by default.",
    ),
    bool(
        "COORDINATION_ALLOW_WORKSPACE_HEADER",
        "false",
        "Let unbound keys choose their workspace with `X-Workspace`.",
    ),
    text(
        "COORDINATOR_CORS_ALLOWED_ORIGINS",
        "origins such as https://board.example.com, separated by commas",
        "",
        "Origins whose pages can call the service, besides `http://localhost:5173`.",
    ),
    text(
        "COORDINATION_ALLOWED_ORIGINS",
        "origins such as https://board.example.com, separated by commas",
        "",
        "Origins whose pages can use the MCP endpoint, besides the origins that can call the service and those \
         of this machine. A request without `Origin` does not come from a page and is accepted.",
    ),
    text(
        "COORDINATION_PUBLIC_HOSTS",
        "host names such as coordinator.example.com, separated by commas",
        "",
        "Names that the MCP endpoint, and operations without a key, accept in `Host`, besides those of this machine. If unset, any name is \
         accepted, or only those of this machine if `API_HOST` is a loopback address.",
    ),
    text(
        "RAILWAY_PUBLIC_DOMAIN",
        "a host name",
        "",
        "Another name that the MCP endpoint accepts in `Host`. Set by Railway. Add a custom domain to \
         `COORDINATION_PUBLIC_HOSTS`.",
    ),
    text(
        "RAILWAY_PRIVATE_DOMAIN",
        "a host name",
        "",
        "Another name that the MCP endpoint accepts in `Host`. Set by Railway.",
    ),
    bool("METRICS_PUBLIC", "false", "Answer `/metrics` without a key."),
    int(
        "LOCK_TTL_MINUTES",
        (1, 480),
        "120",
        "Minutes until a lock expires when a client sends `ttl_minutes: 0`.",
    ),
    int(
        "WORK_LEASE_MINUTES",
        (1, 1440),
        "60",
        "Lease of a claimed task in minutes, when the claim does not specify a lease.",
    ),
    int(
        "SESSION_TIMEOUT_MINUTES",
        (1, 10080),
        "120",
        "Minutes without a call after which a session ends and what it holds becomes free.",
    ),
    int(
        "GUARDRAILS_CACHE_TTL",
        (0, 86400),
        "300",
        "Maximum number of seconds for which guardrail patterns are cached.",
    ),
    bool(
        "GUARDRAILS_CODE_FALLBACK",
        "true",
        "Use the built-in guardrail patterns when the table is empty or cannot be read. If false, every check is answered with 503 in that case.",
    ),
    int(
        "AUDIT_RETENTION_DAYS",
        (1, 3650),
        "90",
        "Retention of audit, violation and network records in days. A month of records is dropped once all of its days are older. The audit log is kept at least as long as this variable said in the last migration: set it for `coordinator migrate` too.",
    ),
    int(
        "WORK_RETENTION_DAYS",
        (7, 3650),
        "365",
        "Retention of finished tasks in days, counted from their end. A task on which another one depends is kept as long as that.",
    ),
    quota(
        "QUOTA_LOCKS_PER_AGENT",
        "2000",
        "Maximum number of live locks of one agent. 0: no maximum.",
    ),
    quota(
        "QUOTA_LOCKS_PER_WORKSPACE",
        "20000",
        "Maximum number of live locks of a workspace. 0: no maximum.",
    ),
    quota(
        "QUOTA_SESSIONS_PER_AGENT",
        "1000",
        "Maximum number of live sessions of one agent. 0: no maximum.",
    ),
    quota(
        "QUOTA_SESSIONS_PER_WORKSPACE",
        "10000",
        "Maximum number of live sessions of a workspace. 0: no maximum.",
    ),
    quota(
        "QUOTA_TASKS_PER_AGENT",
        "10000",
        "Maximum number of open tasks that one agent has submitted. 0: no maximum.",
    ),
    quota(
        "QUOTA_TASKS_PER_WORKSPACE",
        "100000",
        "Maximum number of open tasks of a workspace. 0: no maximum.",
    ),
    quota(
        "QUOTA_MEMORIES_PER_AGENT",
        "50000",
        "Maximum number of memories of one agent. 0: no maximum.",
    ),
    quota(
        "QUOTA_MEMORIES_PER_WORKSPACE",
        "500000",
        "Maximum number of memories of a workspace. 0: no maximum.",
    ),
    quota(
        "QUOTA_HANDOFFS_PER_AGENT",
        "20000",
        "Maximum number of handoffs of one agent. 0: no maximum.",
    ),
    quota(
        "QUOTA_HANDOFFS_PER_WORKSPACE",
        "200000",
        "Maximum number of handoffs of a workspace. 0: no maximum.",
    ),
    quota(
        "QUOTA_IDEMPOTENCY_KEYS_PER_AGENT",
        "100000",
        "Maximum number of idempotency keys that one agent has used within 24 hours. 0: no maximum.",
    ),
    quota(
        "QUOTA_IDEMPOTENCY_KEYS_PER_WORKSPACE",
        "500000",
        "Maximum number of idempotency keys that were used in a workspace within 24 hours. 0: no maximum.",
    ),
    quota(
        "QUOTA_MCP_CONNECTIONS_PER_AGENT",
        "10000",
        "Maximum number of MCP connections of one agent that registered a session or were ended by their client, for a week. 0: no maximum.",
    ),
    quota(
        "QUOTA_MCP_CONNECTIONS_PER_WORKSPACE",
        "100000",
        "Maximum number of MCP connections of a workspace, counted in the same way. 0: no maximum.",
    ),
    int("PORT_ALLOC_BASE", (1024, 65532), "10000", "First port that is allocated to sessions."),
    int(
        "PORT_ALLOC_RANGE",
        (4, 10000),
        "100",
        "Distance from the first port of a block to that of the next block.",
    ),
    int(
        "PORT_ALLOC_MAX_SESSIONS",
        (1, 10000),
        "20",
        "Maximum number of port blocks in a workspace. The last block must end at port 65535 at most.",
    ),
    int(
        "PORT_ALLOC_TTL_MINUTES",
        (1, 10080),
        "120",
        "Minutes until an allocation of ports expires.",
    ),
    int("PROFILES_DEFAULT_TRUST", (0, 4), "2", "Trust of an agent without a profile."),
    bool(
        "PROFILES_ENFORCE_LIMITS",
        "true",
        "Apply the operation lists and the file limit of profiles. If false, only trust decides.",
    ),
    int(
        "PROFILES_CACHE_TTL",
        (0, 86400),
        "300",
        "Maximum number of seconds for which the definition of a profile is cached. More than 5 has no effect: definitions are read together with assignments and suspensions, which are cached for at most 5 s.",
    ),
    words(
        "POLICY_ENGINE",
        ENGINES,
        "native",
        "Policy engine. `native`: decides by trust and the category of the operation. `cedar`: decides by the Cedar policies in the database.",
    ),
    int("POLICY_CACHE_TTL", (0, 86400), "300", "Seconds for which Cedar policies are cached."),
    bool(
        "POLICY_CODE_FALLBACK",
        "true",
        "Use the bundled Cedar policies when the database has none or they cannot be read. If false, deny.",
    ),
    text(
        "CEDAR_SCHEMA_PATH",
        "a readable file that holds a valid Cedar schema",
        "",
        "Cedar schema that `/policy/validate` checks against, in Cedar syntax or as JSON. If unset, the bundled schema.",
    ),
    words(
        "NETWORK_DEFAULT_POLICY",
        &["deny", "allow"],
        "deny",
        "Answer of `/network/check` for a domain that matches no rule.",
    ),
];

/// Returns the variable of a name.
///
/// # Panics
/// When the table lacks the variable: every variable that is read must be documented.
pub(super) fn variable(name: &str) -> &'static Variable {
    VARIABLES
        .iter()
        .find(|variable| variable.name == name)
        .expect("every variable read is declared above")
}
