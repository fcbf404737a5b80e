//! Where the service is and who asks: explicit values, then the environment. The invariants: no URL
//! is used whose host is not allowed, and no error says what a key is.
use std::{fmt, fs, net::Ipv6Addr, path::PathBuf, time::Duration};

use thiserror::Error;
use ureq::http::{HeaderValue, Uri};

/// The variables that may hold the URL of the service; the first that is set counts.
pub const URL_VARIABLES: [&str; 4] = [
    "COORDINATION_API_URL",
    "COORDINATOR_HTTP_URL",
    "AGENT_COORDINATOR_API_URL",
    "AGENT_COORDINATOR_HTTP_URL",
];

/// The variables that may hold the key; the first that is set counts.
pub const KEY_VARIABLES: [&str; 2] = ["COORDINATION_API_KEY", "COORDINATOR_API_KEY"];

/// The variable with the hosts that are allowed besides this machine, separated by commas.
pub const HOSTS_VARIABLE: &str = "COORDINATION_ALLOWED_HOSTS";

const PORT_VARIABLE: &str = "AGENT_COORDINATOR_REST_PORT";
const TIMEOUT_VARIABLE: &str = "COORDINATION_HTTP_TIMEOUT";

/// How long an answer may take when nothing else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The hosts that are always allowed.
const THIS_MACHINE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Values that were given explicitly. What is `None` comes from the environment.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// URL of the service.
    pub url: Option<String>,
    /// File with the key, for where the environment has none.
    pub key_file: Option<PathBuf>,
    /// Id of the calling agent.
    pub agent_id: Option<String>,
    /// Type of the calling agent.
    pub agent_type: Option<String>,
    /// Session of the calling agent.
    pub session_id: Option<String>,
    /// Workspace to work in, for a key that may choose one.
    pub workspace: Option<String>,
    /// Seconds that an answer may take.
    pub timeout: Option<String>,
}

/// Who asks. An empty text means "the key's own".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Id of the calling agent.
    pub agent_id: String,
    /// Type of the calling agent.
    pub agent_type: String,
    /// Session of the calling agent.
    pub session_id: String,
    /// Workspace to work in.
    pub workspace: String,
}

/// Everything that a [`crate::Client`] needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the service is.
    pub url: Url,
    /// The key, if there is one.
    pub key: Option<Key>,
    /// Who asks.
    pub identity: Identity,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// An API key. Its `Debug` does not show it.
#[derive(Clone)]
pub struct Key(HeaderValue);

/// The URL of a service on a host that is allowed, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    is_this_machine: bool,
}

/// What is wrong with the configuration. The text names the flag or the variable, and never a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// The URL is none, or its host is not allowed.
    #[error("{source_name}: {problem}")]
    Url {
        /// The flag or variable that gave it.
        source_name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something else.
    #[error("{source_name}: {problem}")]
    Other {
        /// The flag or variable that gave it.
        source_name: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// A key from text, without the white space around it; `None` when it cannot be sent.
    pub fn new(text: &str) -> Option<Key> {
        let mut value = HeaderValue::from_str(text.trim()).ok()?;
        value.set_sensitive(true);
        Some(Key(value))
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// A variable of the environment; an empty one counts as unset.
#[expect(clippy::disallowed_methods, reason = "the one place of the client that reads it")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|it| !it.is_empty())
}

impl Settings {
    /// The settings from explicit values and the environment.
    pub fn from_environment(given: &Given, timeout: Duration) -> Result<Settings, SettingsError> {
        Self::new(given, variable, timeout)
    }

    /// The settings from explicit values and something like an environment. `timeout` counts when
    /// neither says how long an answer may take.
    pub fn new(
        given: &Given,
        variable: impl Fn(&str) -> Option<String>,
        timeout: Duration,
    ) -> Result<Settings, SettingsError> {
        let variable = |name: &str| variable(name).filter(|it| !it.is_empty());
        let text = |given: &Option<String>, name: &str| {
            given.clone().or_else(|| variable(name)).unwrap_or_default()
        };
        let settings = Settings {
            url: url(given, &variable)?,
            key: key(given, &variable)?,
            identity: Identity {
                agent_id: text(&given.agent_id, "AGENT_ID"),
                agent_type: text(&given.agent_type, "AGENT_TYPE"),
                session_id: text(&given.session_id, "SESSION_ID"),
                workspace: text(&given.workspace, "COORDINATION_WORKSPACE"),
            },
            timeout: match (&given.timeout, variable(TIMEOUT_VARIABLE)) {
                (Some(seconds), _) => duration("--timeout", seconds)?,
                (None, Some(seconds)) => duration(TIMEOUT_VARIABLE, &seconds)?,
                (None, None) => timeout,
            },
        };
        settings.identity.check()?;
        Ok(settings)
    }
}

impl Identity {
    /// As headers: name, value, and the member of a body that says the same.
    pub(crate) fn headers(&self) -> [(&'static str, &str, &'static str); 4] {
        [
            ("x-agent-id", &self.agent_id, "agent_id"),
            ("x-agent-type", &self.agent_type, "agent_type"),
            ("x-session-id", &self.session_id, "session_id"),
            ("x-workspace", &self.workspace, ""),
        ]
    }

    pub(crate) fn member(&self, name: &str) -> Option<&str> {
        self.headers().into_iter().find(|it| it.2 == name).map(|(_, value, _)| value)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let names = [
            "--agent-id or AGENT_ID",
            "--agent-type or AGENT_TYPE",
            "--session-id or SESSION_ID",
            "--workspace or COORDINATION_WORKSPACE",
        ];
        for (name, (_, value, _)) in names.into_iter().zip(self.headers()) {
            if HeaderValue::from_str(value).is_err() {
                return Err(other(name, "no control characters are allowed in it"));
            }
        }
        Ok(())
    }
}

fn other(source_name: &str, problem: impl Into<String>) -> SettingsError {
    SettingsError::Other { source_name: source_name.to_owned(), problem: problem.into() }
}

fn duration(name: &str, seconds: &str) -> Result<Duration, SettingsError> {
    let number = seconds.trim().parse::<f64>().ok().filter(|it| *it > 0.0);
    number
        .and_then(|it| Duration::try_from_secs_f64(it.min(86_400.0)).ok())
        .ok_or_else(|| other(name, "expected a number of seconds above 0"))
}

fn key(
    given: &Given,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Key>, SettingsError> {
    let unusable = "the key has characters that no key may have";
    for name in KEY_VARIABLES {
        if let Some(text) = variable(name).filter(|it| !it.trim().is_empty()) {
            return Key::new(&text).map(Some).ok_or_else(|| other(name, unusable));
        }
    }
    let Some(file) = &given.key_file else { return Ok(None) };
    let name = format!("--key-file {}", file.display());
    let text = fs::read_to_string(file).map_err(|error| other(&name, error.to_string()))?;
    if text.trim().is_empty() {
        return Err(other(&name, "the file is empty"));
    }
    Key::new(&text).map(Some).ok_or_else(|| other(&name, unusable))
}

fn url(given: &Given, variable: &impl Fn(&str) -> Option<String>) -> Result<Url, SettingsError> {
    let allowed = variable(HOSTS_VARIABLE).unwrap_or_default();
    let set = given.url.clone().map(|it| ("--url", it)).or_else(|| {
        URL_VARIABLES.into_iter().find_map(|name| variable(name).map(|value| (name, value)))
    });
    if let Some((name, text)) = set {
        return Url::new(&text, &allowed)
            .map_err(|problem| SettingsError::Url { source_name: name.to_owned(), problem });
    }
    let port = match variable(PORT_VARIABLE) {
        None => 8081,
        Some(text) => text.trim().parse::<u16>().ok().filter(|it| *it > 0).ok_or_else(|| {
            SettingsError::Url {
                source_name: PORT_VARIABLE.to_owned(),
                problem: "expected a port, 1 to 65535".to_owned(),
            }
        })?,
    };
    Ok(Url { text: format!("http://localhost:{port}"), is_this_machine: true })
}

impl Url {
    /// Checks a URL against the list of allowed hosts: names separated by commas, where `*.domain`
    /// stands for every name below `domain` but not for `domain` itself. This machine is always
    /// allowed. The error says what is wrong.
    pub fn new(text: &str, allowed: &str) -> Result<Url, String> {
        let text = text.trim().trim_end_matches('/');
        let uri: Uri = text.parse().map_err(|_| "expected an http or https URL".to_owned())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("expected an http or https URL".to_owned());
        }
        let authority = uri.authority().map(|it| it.as_str()).unwrap_or_default();
        if authority.contains('@') {
            return Err("expected a URL without user info; the key goes elsewhere".to_owned());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("expected a URL without `?` and `#`".to_owned());
        }
        let host = uri.host().unwrap_or_default();
        // What is no port would be left out, and the key go to the usual port.
        let port = authority.strip_prefix(host).unwrap_or(authority);
        let is_port = |it: &str| {
            it.bytes().all(|it| it.is_ascii_digit()) && it.parse::<u16>().is_ok_and(|it| it > 0)
        };
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return Err("expected a port from 1 to 65535 after the colon".to_owned());
        }
        let host = match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            Some(address) if address.parse::<Ipv6Addr>().is_err() => {
                return Err("expected an IPv6 address in the brackets".to_owned());
            }
            Some(address) => address.to_owned(),
            None => host.to_ascii_lowercase(),
        };
        if host.is_empty() {
            return Err("expected an http or https URL with a host".to_owned());
        }
        let is_this_machine = THIS_MACHINE.contains(&host.as_str());
        if !is_this_machine && !allowed.split(',').any(|rule| allows(rule.trim(), &host)) {
            return Err(format!(
                "the host {host} is not allowed; if it is right, add it to {HOSTS_VARIABLE}"
            ));
        }
        Ok(Url { text: text.to_owned(), is_this_machine })
    }

    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the host is this machine itself.
    pub fn is_this_machine(&self) -> bool {
        self.is_this_machine
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn allows(rule: &str, host: &str) -> bool {
    let rule = rule.to_ascii_lowercase();
    match rule.strip_prefix("*.") {
        Some(domain) => host
            .strip_suffix(domain)
            .and_then(|it| it.strip_suffix('.'))
            .is_some_and(|below| !domain.is_empty() && !below.is_empty()),
        None => !rule.is_empty() && rule == host,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn settings(given: &Given, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(|it| (*it).to_owned());
        Settings::new(given, variable, DEFAULT_TIMEOUT)
    }

    #[test]
    fn the_first_url_that_is_set_counts() {
        let all: Vec<_> = URL_VARIABLES.into_iter().map(|it| (it, it)).collect();
        for start in 0..all.len() {
            let error = settings(&Given::default(), &all[start..]).unwrap_err();
            assert!(error.to_string().starts_with(URL_VARIABLES[start]), "{error}");
        }
        let given = Given { url: Some("http://[::1]:9/".to_owned()), ..Given::default() };
        assert_eq!(settings(&given, &all).unwrap().url.as_str(), "http://[::1]:9");
        let none = settings(&Given::default(), &[("COORDINATION_API_URL", "")]).unwrap();
        assert_eq!(none.url.as_str(), "http://localhost:8081");
        let port = settings(&Given::default(), &[(PORT_VARIABLE, "3000")]).unwrap();
        assert_eq!(port.url.as_str(), "http://localhost:3000");
        for wrong in ["0", "65536", "x"] {
            let error = settings(&Given::default(), &[(PORT_VARIABLE, wrong)]).unwrap_err();
            assert!(error.to_string().starts_with(PORT_VARIABLE), "{error}");
        }
    }

    #[test]
    fn only_allowed_hosts_are_asked() {
        let list = "coord.example.org, *.Railway.app ,,*., *";
        for allowed in [
            "http://localhost",
            "https://LOCALHOST:1/",
            "http://127.0.0.1:8081",
            "http://[::1]:8081",
            "https://coord.example.org/base/",
            "https://COORD.example.org",
            "https://a.railway.app",
            "https://a.b.railway.APP:444",
        ] {
            assert!(Url::new(allowed, list).is_ok(), "{allowed}");
        }
        for refused in [
            "",
            "localhost:8081",
            "ftp://localhost",
            "file:///etc/passwd",
            "http://",
            "http:///x",
            "http://railway.app",
            "http://arailway.app",
            "http://.railway.app",
            "http://x.coord.example.org",
            "http://example.org",
            "http://localhost.example.org",
            "http://localhost@example.org",
            "http://user:password@localhost",
            "http://@localhost",
            "http://example.org#@localhost",
            "http://example.org\\@localhost",
            "http://localhost?x=1",
            "http://localhost#x",
            "http://127.0.0.2",
            "http://2130706433",
            "http://169.254.169.254",
            "http://[::ffff:127.0.0.1]",
            "http://local host",
            "http://localhost:",
            "http://localhost:/",
            "http://localhost:0",
            "http://localhost:+1",
            "http://localhost:99999",
            "http://localhost:65536/base",
            "http://[::1]:",
            "http://[::1]:99999",
            "http://[localhost]:1",
            "http://[localhost]",
            "http://[127.0.0.1]:1",
            "https://coord.example.org:99999",
        ] {
            assert!(Url::new(refused, list).is_err(), "{refused}");
        }
        assert!(Url::new("http://a.railway.app", "").is_err());
    }

    #[test]
    fn the_key_comes_from_the_environment_before_the_file() {
        let folder = std::env::temp_dir().join(format!("coord-key-{}", std::process::id()));
        fs::write(&folder, " from-file \n").unwrap();
        let given = Given { key_file: Some(folder.clone()), ..Given::default() };
        let key = |variables: &[(&str, &str)]| {
            let key = settings(&given, variables).unwrap().key.unwrap();
            key.header().to_str().unwrap().to_owned()
        };
        let both = [("COORDINATION_API_KEY", "a"), ("COORDINATOR_API_KEY", "b")];
        assert_eq!(key(&both), "a");
        assert_eq!(key(&both[1..]), "b");
        assert_eq!(key(&[("COORDINATION_API_KEY", " ")]), "from-file");
        fs::write(&folder, "\n").unwrap();
        let error = settings(&given, &[]).unwrap_err();
        assert!(error.to_string().contains("the file is empty"), "{error}");
        fs::remove_file(&folder).unwrap();
        assert!(settings(&given, &[]).is_err());
        assert!(settings(&Given::default(), &[]).unwrap().key.is_none());
    }

    #[test]
    fn no_text_shows_a_key() {
        let secret = "s3cret\u{1}";
        let error = settings(&Given::default(), &[("COORDINATION_API_KEY", secret)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        let settings = settings(&Given::default(), &[("COORDINATION_API_KEY", "s3cret")]).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn a_time_out_is_a_number_of_seconds() {
        let given = |it: &str| Given { timeout: Some(it.to_owned()), ..Given::default() };
        let variables = [(TIMEOUT_VARIABLE, "2.5")];
        let timeout = |given: &Given, variables: &[(&str, &str)]| {
            settings(given, variables).map(|it| it.timeout)
        };
        assert_eq!(timeout(&given("0.5"), &variables).unwrap(), Duration::from_millis(500));
        assert_eq!(timeout(&Given::default(), &variables).unwrap(), Duration::from_millis(2500));
        assert_eq!(timeout(&Given::default(), &[]).unwrap(), DEFAULT_TIMEOUT);
        for wrong in ["0", "-1", "x", "NaN", "inf\u{0}"] {
            assert!(timeout(&given(wrong), &[]).is_err(), "{wrong}");
        }
    }
}
