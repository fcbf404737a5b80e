//! Connection strings as they come out of files, dashboards and other programs: what is wrong with one, and
//! which of its parameters have no effect here. Neither ever repeats a secret.
use std::{io::ErrorKind, net::IpAddr};

use sqlx::postgres::PgConnectOptions;

const FORM: &str = "a connection string such as postgresql://user:password@host:5432/database";

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// The warning about a mode of TLS that the driver accepts and takes for another one.
const NEVER_TLS: &str = "the parameter sslmode of the connection string: `allow` never uses TLS here; set prefer or require";

/// The parameters that the driver reads. Their values are checked here or by the driver.
const READ: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// The parameters that name a file.
const FILES: [&str; 7] =
    ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];

/// The beginning of a certificate or key in PEM form.
const PEM: &str = "-----BEGIN";

/// Parameters of other programs, each with what the operator can do instead.
const HINTS: [(&str, &str); 11] = [
    ("channel_binding", "channels are not bound; sslmode=verify-full checks the server"),
    ("connect_timeout", "a request waits 3 s for a connection"),
    ("connection_limit", "set POSTGRES_POOL_MAX"),
    ("pgbouncer", "for a pooler in transaction mode, set POSTGRES_POOLER=transaction"),
    ("pool_timeout", "a request waits 3 s for a connection"),
    ("schema", "set the search path of the role, or options=-csearch_path=<schema>"),
    ("search_path", "set options=-csearch_path=<schema>"),
    ("ssl", "set sslmode=require, or verify-full"),
    ("sslnegotiation", "TLS is negotiated in the usual way"),
    ("statement_timeout", "set options=-cstatement_timeout=<milliseconds>"),
    ("target_session_attrs", "name a server that accepts writes"),
];

/// A connection string that can be used.
#[derive(Debug)]
pub(super) struct Dsn {
    pub(super) options: PgConnectOptions,
    /// What is passed over, one sentence for each parameter.
    pub(super) warnings: Vec<String>,
}

/// Parses a connection string, or returns what was expected instead. Accepts white space and one pair of
/// quotes around it, as files of variables have them. Leaves out the start-up parameter
/// `extra_float_digits`, which the driver sends by default and poolers refuse.
pub(super) fn parse_dsn(text: &str) -> Result<Dsn, String> {
    let text = unquoted(text.trim());
    check_scheme(text)?;
    let (address, query) = text.split_once('?').unwrap_or((text, ""));
    check_address(address, query)?;
    let mut warnings = Vec::new();
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        if READ.contains(&name.as_str()) || name.starts_with("options[") {
            check_parameter(&name, &value)?;
            if FILES.contains(&name.as_str()) && uses_tls(query) {
                check_file(&name, &value)?;
            }
            if name.starts_with("ssl") && value.eq_ignore_ascii_case("allow") {
                warnings.push(NEVER_TLS.to_owned());
            }
            kept.push(pair);
        } else {
            warnings.push(passed_over(&name));
        }
    }
    let kept = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    let options: PgConnectOptions =
        format!("{address}{kept}").parse().map_err(|_| FORM.to_owned())?;
    let options = options.extra_float_digits(None).application_name("agent-coordinator");
    Ok(Dsn { options, warnings })
}

/// Removes one pair of quotes.
fn unquoted(text: &str) -> &str {
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).map_or(text, str::trim)
}

fn check_scheme(text: &str) -> Result<(), String> {
    let Some((scheme, _)) = text.split_once("://") else {
        let is_conninfo = ["host=", "dbname=", "user=", "hostaddr=", "service="]
            .iter()
            .any(|word| text.split_whitespace().any(|pair| pair.starts_with(word)));
        return Err(if is_conninfo {
            format!("{FORM}, not key=value pairs")
        } else {
            FORM.to_owned()
        });
    };
    if ["postgres", "postgresql"].contains(&scheme) {
        return Ok(());
    }
    if scheme.starts_with("jdbc:")
        || scheme.split('+').next().is_some_and(|it| it.starts_with("postgres"))
    {
        return Err(format!("{FORM}: write postgresql:// without the name of a driver"));
    }
    Err(FORM.to_owned())
}

/// Checks what stands before the parameters: a password with one of `/`, `?` and `#` ends the address early,
/// and its rest would be taken for the host, the database or a parameter.
fn check_address(address: &str, query: &str) -> Result<(), String> {
    let escape = "the characters / ? # and % of user and password written %2F %3F %23 %25";
    if address.contains('#') || query.contains('#') {
        return Err(escape.to_owned());
    }
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_cut_short = path.contains('@') || (path.is_empty() && query.contains('@'));
    if !authority.contains('@') && is_cut_short {
        return Err(escape.to_owned());
    }
    let (credentials, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if decoded(credentials).is_err() {
        return Err(escape.to_owned());
    }
    if host.contains(',') {
        return Err("one host: a list of hosts is not supported".to_owned());
    }
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
    if port.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
        return Err(format!("a number as the port after the host, and {escape}"));
    }
    Ok(())
}

/// Checks a parameter that the driver reads. Names the words that cannot be secrets.
fn check_parameter(name: &str, value: &str) -> Result<(), String> {
    let expected = |what: &str| Err(format!("{name} to be {what}"));
    match name {
        "sslmode" | "ssl-mode" if !SSL_MODES.contains(&value.to_ascii_lowercase().as_str()) => {
            let named = if is_word(value) { format!(", not `{value}`") } else { String::new() };
            let hint = match value {
                "no-verify" => " (require encrypts without a check of the certificate)",
                "true" | "1" | "on" => " (require encrypts always)",
                _ => "",
            };
            expected(&format!("{}{named}{hint}", SSL_MODES.join(", ")))
        }
        "sslrootcert" | "ssl-root-cert" | "ssl-ca" if value == "system" => expected(
            "the path of a file of certificates; without it, the bundled ones of public authorities count",
        ),
        "port" if value.parse::<u16>().is_err() => expected("a port number"),
        "hostaddr" if value.parse::<IpAddr>().is_err() => expected("an IP address"),
        "statement-cache-capacity" if value.parse::<usize>().is_err() => expected("a number"),
        _ => Ok(()),
    }
}

/// Whether a connection with these parameters can use TLS.
fn uses_tls(query: &str) -> bool {
    !query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        ["sslmode", "ssl-mode"].contains(&name) && value.eq_ignore_ascii_case("disable")
    })
}

/// Checks a file of certificates or of a key, which the driver would only miss at the first connection, and
/// without its name. The text of the file itself is accepted too.
fn check_file(name: &str, value: &str) -> Result<(), String> {
    if value.trim_start().starts_with(PEM) {
        return Ok(());
    }
    let problem = match std::fs::read(value) {
        Ok(bytes) if bytes.windows(PEM.len()).any(|part| part == PEM.as_bytes()) => return Ok(()),
        Ok(_) => "has no certificate or key in PEM form",
        Err(error) if error.kind() == ErrorKind::NotFound => "does not exist",
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            "cannot be read with the permissions of this process"
        }
        Err(_) => "cannot be read",
    };
    let path = value.escape_debug();
    Err(format!("{name} to be the path of a file in PEM form, but `{path}` {problem}"))
}

/// Returns the warning about a parameter that has no effect, with what to do instead where that is known.
fn passed_over(name: &str) -> String {
    let shown = if is_word(name) { name } else { "(unreadable)" };
    match HINTS.iter().find(|(known, _)| *known == name) {
        Some((_, hint)) => {
            format!("the parameter {shown} of the connection string has no effect: {hint}")
        }
        None => format!("the parameter {shown} of the connection string has no effect"),
    }
}

/// Whether a text can be shown: a short word.
fn is_word(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Decodes percent-encoded text.
fn decoded(text: &str) -> Result<String, String> {
    let bytes = percent_encoding::percent_decode_str(text);
    let text = bytes.decode_utf8().map_err(|_| format!("{FORM}, percent-encoded as UTF-8"))?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        let problem = parse_dsn(text).expect_err(text);
        for secret in ["s3cret", "hunter"] {
            assert!(!problem.contains(secret), "{problem}");
        }
        problem
    }

    #[test]
    fn a_wrong_word_is_named_with_the_known_ones() {
        for (mode, expected) in [
            ("no-verify", "not `no-verify` (require encrypts without a check"),
            ("required", "verify-full, not `required`"),
            ("true", "not `true` (require encrypts always)"),
            ("", "sslmode to be disable, allow"),
        ] {
            let text = problem(&format!("postgres://u:s3cret@h/d?sslmode={mode}"));
            assert!(text.starts_with("sslmode to be disable, allow, prefer"), "{text}");
            assert!(text.contains(expected), "{text}");
        }
        assert!(parse_dsn("postgres://u@h/d?sslmode=VERIFY-CA").is_ok());
        for (parameter, expected) in [
            ("sslrootcert=system", "the path of a file"),
            ("port=s3cret", "a port number"),
            ("hostaddr=db.example", "an IP address"),
        ] {
            let text = problem(&format!("postgres://u@h/d?{parameter}"));
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_parameter() {
        for parameter in FILES {
            let text = problem(&format!("postgres://u@h/d?{parameter}=/nonexist"));
            let expected = "to be the path of a file in PEM form, but `/nonexist` does not exist";
            assert_eq!(text, format!("{parameter} {expected}"));
        }
        let text =
            problem("postgres://u:s3cret@h/d?sslmode=verify-full&sslrootcert=/proc/self/stat");
        assert!(
            text.ends_with("`/proc/self/stat` has no certificate or key in PEM form"),
            "{text}"
        );
        let text = problem("postgres://u@h/d?sslrootcert=/");
        assert!(text.ends_with("`/` cannot be read"), "{text}");
        assert!(parse_dsn("postgres://u@h/d?sslmode=disable&sslrootcert=/nonexist").is_ok());
    }

    #[test]
    fn parameters_that_have_no_effect_are_warned_of_by_name() {
        let text = "postgres://u:p@h/d?channel_binding=require&sslmode=require&pgbouncer=true\
                    &connect_timeout=10&passwrd=s3cret&s%20cret=1";
        let Dsn { options, warnings } = parse_dsn(text).expect("valid");
        let names: Vec<_> = warnings.iter().filter_map(|it| it.split(' ').nth(2)).collect();
        let expected =
            ["channel_binding", "pgbouncer", "connect_timeout", "passwrd", "(unreadable)"];
        assert_eq!(names, expected);
        assert!(warnings[1].ends_with("set POSTGRES_POOLER=transaction"), "{}", warnings[1]);
        assert!(!warnings.concat().contains("s3cret"));
        assert!(matches!(options.get_ssl_mode(), sqlx::postgres::PgSslMode::Require));
        let warnings = parse_dsn("postgres://h/d?sslmode=allow").expect("valid").warnings;
        assert_eq!(warnings, [NEVER_TLS]);
        assert_eq!(parse_dsn("postgres://h/d?sslmode=disable").expect("valid").warnings.len(), 0);
    }

    #[test]
    fn spaces_and_quotes_of_files_are_no_part_of_the_address() {
        for text in [
            " postgres://u:p@h:1/d ",
            "\"postgres://u:p@h:1/d\"",
            "'postgresql://u:p@h:1/d'\n",
            "\" postgres://u:p@h:1/d \"",
        ] {
            let options = parse_dsn(text).expect(text).options;
            assert_eq!((options.get_host(), options.get_port()), ("h", 1), "{text}");
            assert_eq!(options.get_database(), Some("d"), "{text}");
        }
    }

    #[test]
    fn an_unescaped_password_is_not_taken_for_a_host() {
        for text in [
            "postgres://u:s3cret#1@h/d",
            "postgres://u:12#s3cret@h/d",
            "postgres://u:12/s3cret@h/d",
            "postgres://u:12?s3cret@h/d",
            "postgres://u:s3c%ffret@h/d",
            "postgres://u:p@h/d#hunter",
        ] {
            assert!(problem(text).contains("%23"), "{text}");
        }
        assert!(problem("postgres://u:p@h:s3cret/d").contains("a number as the port"));
        let options = parse_dsn("postgres://u:p@ss@h/d").expect("one host").options;
        assert_eq!((options.get_host(), options.get_username()), ("h", "u"));
        assert!(parse_dsn("postgres://u@[::1]:5433/d").is_ok());
        assert!(parse_dsn("postgres://u@[::1]/d").is_ok());
        assert!(parse_dsn("postgres:///d?host=/var/run/postgresql&user=a@b").is_ok());
        assert!(problem("postgres://u:p@a:1,b:2/d").starts_with("one host"));
    }

    #[test]
    fn other_forms_of_address_are_told_apart() {
        assert!(problem("host=h user=u password=s3cret").ends_with("not key=value pairs"));
        for text in ["jdbc:postgresql://h/d", "postgresql+asyncpg://u:s3cret@h/d"] {
            assert!(problem(text).contains("without the name of a driver"), "{text}");
        }
        for text in ["s3cret", "mysql://u:s3cret@h/d", ""] {
            assert_eq!(problem(text), FORM);
        }
    }
}
