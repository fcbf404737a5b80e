//! The configuration as the other rooms use it.
use std::{net::IpAddr, time::Duration};

use http::HeaderValue;
use sqlx::postgres::types::PgInterval;

use super::{
    database::{DatabaseSettings, Statements},
    home::Home,
    identities::Identity,
    logging::TraceSettings,
    mcp::McpSettings,
    policy::PolicySettings,
    ports::PortSettings,
    quotas::Quotas,
    reader::{ConfigError, Reader},
    timings::Timings,
};
use crate::values::Secret;

/// The configuration, read from the environment and checked once, at start.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) database: DatabaseSettings,
    /// The API keys with their identities, in the order of the configuration.
    pub(crate) keys: Vec<(Secret<String>, Identity)>,
    pub(crate) public_reads: bool,
    pub(crate) allow_workspace_header: bool,
    pub(crate) lock_ttl_minutes: i64,
    pub(crate) session_timeout_minutes: i32,
    pub(crate) audit_retention_days: i32,
    pub(crate) work_retention_days: i32,
    pub(crate) work_lease_minutes: i64,
    pub(crate) ports: PortSettings,
    pub(crate) quotas: Quotas,
    pub(crate) default_trust: u8,
    pub(crate) enforce_profile_limits: bool,
    pub(crate) guardrails_max_age: Duration,
    pub(crate) guardrails_code_fallback: bool,
    pub(crate) policy: PolicySettings,
    pub(crate) allow_unlisted_domains: bool,
    pub(crate) access_log: bool,
    pub(crate) public_metrics: bool,
    pub(crate) cors_origins: Vec<HeaderValue>,
    pub(crate) mcp: McpSettings,
    pub(crate) timings: Timings,
    pub(crate) sleep_friendly: bool,
    pub(crate) max_connections: usize,
    /// The longest time that a request waits for a lock or a task.
    pub(crate) wait_max: Duration,
    pub(crate) wait_limits: WaitLimits,
    /// The longest time that a statement of a read takes.
    pub(crate) read_time: Duration,
    /// How many requests from one address are in work that have shown no valid key.
    pub(crate) max_requests_per_address: usize,
    pub(crate) byte_limits: ByteLimits,
    /// Address to listen on. `None` is every address, IPv6 and IPv4.
    pub host: Option<IpAddr>,
    /// Port to listen on.
    pub port: u16,
    /// Worker threads of the server.
    pub workers: usize,
    /// How long a connection can be idle, or take to send the head of a request.
    pub keep_alive: Duration,
    /// How long a client can take no part of an answer.
    pub(crate) write_time: Duration,
    /// How long requests in flight can take to finish after a signal to stop.
    pub shutdown_grace: Duration,
    /// Whether requests for one transition are gathered under load.
    pub(crate) gather: bool,
    /// Whether the server applies migrations at start.
    pub auto_migrate: bool,
    /// What to log, such as `info` or `info,sqlx=debug`.
    pub log: tracing_subscriber::filter::Targets,
    /// Where traces are sent, if anywhere.
    pub traces: TraceSettings,
    /// What the environment says without effect, for the log.
    pub warnings: Vec<String>,
}

/// How many bytes of bodies and answers a process holds at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByteLimits {
    pub(crate) total: usize,
    pub(crate) per_key: usize,
}

/// How many requests can wait at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitLimits {
    pub(crate) per_agent: usize,
    pub(crate) per_key: usize,
    /// A waiting request holds its connection, so this is half of the connections.
    pub(crate) total: usize,
}

/// The longest wait on Lambda, where every second is billed: `docs/api-design.md#limits`.
const LAMBDA_WAIT_MAX: Duration = Duration::from_secs(20);

impl Config {
    /// Reads and checks the environment of the process.
    ///
    /// # Errors
    /// Names every variable with a wrong value.
    pub fn from_env(home: Home) -> Result<Self, ConfigError> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        Self::parse(home, |name| {
            // A value that is not UTF-8 is set and invalid, not missing.
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    /// Reads and checks an environment given as a function from name to value.
    ///
    /// # Errors
    /// Names every variable with a wrong value.
    pub fn parse(home: Home, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut from = Reader::new(&lookup);
        let is_server = home == Home::Server;
        let sleep_friendly = from.bool("SLEEP_FRIENDLY");
        let database = from.database(home, sleep_friendly);
        let has_named_statements = database.statements == Statements::Named;
        let (host, cors_origins) = (from.host(), from.cors_origins());
        let wait_max = from.seconds("WAIT_MAX_SECONDS");
        let max_connections = from.int("API_MAX_CONNECTIONS");
        let wait_limits = WaitLimits {
            per_agent: from.int("WAIT_MAX_REQUESTS_PER_AGENT"),
            per_key: from.int("WAIT_MAX_REQUESTS_PER_KEY"),
            total: half(max_connections),
        };
        let config = Self {
            database,
            keys: from.keys(),
            public_reads: from.bool("COORDINATION_PUBLIC_READS"),
            allow_workspace_header: from.bool("COORDINATION_ALLOW_WORKSPACE_HEADER"),
            lock_ttl_minutes: from.int("LOCK_TTL_MINUTES"),
            session_timeout_minutes: from.int("SESSION_TIMEOUT_MINUTES"),
            audit_retention_days: from.int("AUDIT_RETENTION_DAYS"),
            work_retention_days: from.int("WORK_RETENTION_DAYS"),
            work_lease_minutes: from.int("WORK_LEASE_MINUTES"),
            ports: from.ports(),
            quotas: from.quotas(),
            default_trust: from.int("PROFILES_DEFAULT_TRUST"),
            enforce_profile_limits: from.bool("PROFILES_ENFORCE_LIMITS"),
            guardrails_max_age: from.seconds("GUARDRAILS_CACHE_TTL"),
            guardrails_code_fallback: from.bool("GUARDRAILS_CODE_FALLBACK"),
            policy: from.policy(),
            allow_unlisted_domains: from.word("NETWORK_DEFAULT_POLICY") == "allow",
            access_log: from.bool("API_ACCESS_LOG"),
            public_metrics: from.bool("METRICS_PUBLIC"),
            mcp: from.mcp(host, &cors_origins),
            cors_origins,
            timings: Timings::new(from.seconds("PROFILES_CACHE_TTL")),
            sleep_friendly,
            max_connections,
            wait_limits,
            byte_limits: ByteLimits {
                total: from.int("API_MAX_BYTES_IN_FLIGHT"),
                per_key: from.int("API_MAX_BYTES_IN_FLIGHT_PER_KEY"),
            },
            wait_max: if is_server { wait_max } else { wait_max.min(LAMBDA_WAIT_MAX) },
            read_time: from.seconds("READ_MAX_SECONDS"),
            max_requests_per_address: from.int("API_MAX_REQUESTS_PER_ADDRESS"),
            host,
            port: from.port(),
            workers: from.int("API_WORKERS"),
            keep_alive: from.seconds("API_TIMEOUT_KEEP_ALIVE"),
            write_time: from.seconds("API_TIMEOUT_WRITE"),
            shutdown_grace: from.seconds("SHUTDOWN_GRACE_SECONDS"),
            gather: from.bool("API_GATHER") && is_server,
            auto_migrate: from.bool("COORDINATION_AUTO_MIGRATE")
                && is_server
                && has_named_statements,
            log: from.log(),
            traces: from.traces(),
            warnings: std::mem::take(&mut from.warnings),
        };
        from.finish(config)
    }

    /// Returns the configuration with other timings, for tests that must not depend on how much time
    /// passes.
    #[doc(hidden)]
    pub fn with_timings(mut self, change: impl FnOnce(&mut Timings)) -> Self {
        change(&mut self.timings);
        self
    }

    /// Returns the configuration with another time after which idle database connections are closed,
    /// where `SLEEP_FRIENDLY` closes them early, for tests that must not wait a minute.
    #[doc(hidden)]
    pub fn with_sleepy_idle_time(mut self, limit: Duration) -> Self {
        if self.sleep_friendly {
            self.database.idle_time = limit;
        }
        self
    }

    /// Returns how long a request with this `wait_seconds` can wait.
    pub(crate) fn longest_wait(&self, seconds: i64) -> Duration {
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).min(self.wait_max)
    }

    /// Returns half of the maximum number of connections, at least one.
    pub(crate) fn half_of_connections(&self) -> usize {
        half(self.max_connections)
    }

    /// Returns the number of lanes: calls of one transition that can run at the same time before further
    /// requests are gathered. A fifth of the connections, at least two.
    pub(crate) fn gather_lanes(&self) -> usize {
        usize::try_from(self.database.pool_max / 5).unwrap_or_default().max(2)
    }

    /// Returns the session timeout in the type of the database.
    pub fn session_timeout(&self) -> PgInterval {
        let minutes = i64::from(self.session_timeout_minutes);
        PgInterval { months: 0, days: 0, microseconds: minutes * 60_000_000 }
    }

    /// Whether any key is configured. Without keys, every route that needs a key answers 401.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }
}

/// Returns half of a number of connections, at least one.
fn half(connections: usize) -> usize {
    (connections / 2).max(1)
}
