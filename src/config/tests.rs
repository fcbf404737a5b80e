//! The configuration as a whole.
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{Config, ConfigError, Home, variables::VARIABLES};

const DSN: (&str, &str) = ("POSTGRES_DSN", "postgresql://u:s3cret@localhost/db");

fn parse(home: Home, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse(home, |name| {
        variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned())
    })
}

fn valid(variables: &[(&str, &str)]) -> Config {
    parse(Home::Server, &[&[DSN], variables].concat()).expect("valid")
}

/// Asserts that a value is refused with one line, which names the variable and no secret.
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
    assert_eq!((config.database.pool_min, config.database.pool_max), (2, 10));
    assert_eq!((config.host, config.port, config.workers), (None, 8081, 1));
    assert_eq!(config.lock_ttl_minutes, 120);
    assert_eq!((config.default_trust, config.enforce_profile_limits), (2, true));
    assert_eq!(config.timings.standing_max_age, Duration::from_secs(5));
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
    assert_eq!(
        (config.database.pool_min, config.database.pool_max, config.auto_migrate),
        (0, 1, false)
    );
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
    assert_eq!(config.database.options.0.get_database(), Some("db"));
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
        ("COORDINATION_API_KEYS", "${COORDINATION_KEY}"),
        ("COORDINATION_API_KEYS", "a,<key>"),
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
    ] {
        assert_refused(name, value);
    }
}

#[test]
fn wrong_identities_are_refused_and_not_repeated() {
    for value in [
        "s3cret",
        "[]",
        r#"{"s3cret":1}"#,
        r#"{"s3cret":{"agent_id":1}}"#,
        r#"{"s3cret":{"agent_id":null}}"#,
        r#"{"s3cret":{"note":1}}"#,
        r#"{"s3cret":{"workspace":"No Name"}}"#,
        r#"{"s3cret":{"profile":"p"}}"#,
        r#"{"s3cret":{"agent_id":"${AGENT}"}}"#,
        r#"{"s3cret":{"agent_id":"a","agent_type":"undefined"}}"#,
        r#"{"s3cret":{"workspace":"null"}}"#,
        r#"{"$s3cret":{}}"#,
    ] {
        assert_refused("COORDINATION_API_KEY_IDENTITIES", value);
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
    assert_eq!((last.ports.base, last.ports.slots), (65532, 1));
    assert_eq!(valid(&[("PORT_ALLOC_MAX_SESSIONS", "556")]).ports.slots, 556);
    for beyond in [base, ("PORT_ALLOC_RANGE", "10000"), ("PORT_ALLOC_MAX_SESSIONS", "557")] {
        let error = parse(Home::Server, &[DSN, beyond]).expect_err("beyond").to_string();
        assert!(error.starts_with("PORT_ALLOC_MAX_SESSIONS: expected PORT_ALLOC_BASE"), "{error}");
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
    let keys = |config: &Config| -> Vec<String> {
        config.keys.iter().map(|(key, _)| key.0.clone()).collect()
    };
    assert_eq!(keys(&valid(&[("COORDINATION_API_KEYS", " a , b ,")])), ["a", "b"]);
    let identities = r#"{"k":{"agent_id":"x","workspace":"team"}}"#;
    let mapped = valid(&[("COORDINATION_API_KEY_IDENTITIES", identities)]);
    assert_eq!(keys(&mapped), ["k"]);
    let identity = &mapped.keys[0].1;
    assert_eq!(identity.agent_id.as_deref(), Some("x"));
    assert_eq!(identity.workspace, "team");
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
