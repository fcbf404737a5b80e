//! The settings of a client, from explicit values, from the environment and from the configuration
//! of git, in this order. The invariant: no error and no `Debug` output contains a key.
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use ureq::http::HeaderValue;

use super::{
    git_config::{GitConfig, HOSTS_SETTING},
    url::{HOSTS_VARIABLE, Url},
};

/// The variables that can hold the URL of the service. The first that is set counts.
pub const URL_VARIABLES: [&str; 4] = [
    "COORDINATION_API_URL",
    "COORDINATOR_HTTP_URL",
    "AGENT_COORDINATOR_API_URL",
    "AGENT_COORDINATOR_HTTP_URL",
];

/// The variables that can hold the API key. The first that is set counts.
pub const KEY_VARIABLES: [&str; 2] = ["COORDINATION_API_KEY", "COORDINATOR_API_KEY"];

const PORT_VARIABLE: &str = "AGENT_COORDINATOR_REST_PORT";
const DEFAULT_PORT: u16 = 8081;
const TIMEOUT_VARIABLE: &str = "COORDINATION_HTTP_TIMEOUT";

/// The variables that can name the session of the caller. The first that is set counts. Claude Code
/// sets the second for every program that it starts.
pub const SESSION_VARIABLES: [&str; 2] = ["SESSION_ID", "CLAUDE_CODE_SESSION_ID"];

/// The time-out of an answer when neither a flag nor a variable sets one.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Explicit values. Where one is `None`, the environment counts, then the configuration of git.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// URL of the service.
    pub url: Option<String>,
    /// File with the API key, read when the environment has no key.
    pub key_file: Option<PathBuf>,
    /// Id of the calling agent.
    pub agent_id: Option<String>,
    /// Type of the calling agent.
    pub agent_type: Option<String>,
    /// Session of the calling agent.
    pub session_id: Option<String>,
    /// Workspace to work in. Only for keys that are not bound to one.
    pub workspace: Option<String>,
    /// Time-out of an answer, in seconds.
    pub timeout: Option<String>,
}

/// The identity of the caller. An empty text means the identity that the key is bound to.
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
    /// URL of the service.
    pub url: Url,
    /// Where the URL comes from, such as a variable. `None` if nothing sets it, so that it is the
    /// default.
    pub url_source: Option<String>,
    /// API key, if there is one.
    pub key: Option<Key>,
    /// Where the key comes from.
    pub key_source: Option<String>,
    /// Identity of the caller.
    pub identity: Identity,
    /// Time-out of an answer.
    pub timeout: Duration,
}

/// An API key. Its `Debug` output does not contain it.
#[derive(Clone)]
pub struct Key(HeaderValue);

/// An invalid setting. The text names the flag or the variable, and never contains a key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// The URL is invalid, or its host is not allowed.
    #[error("{source_name}: {problem}")]
    Url {
        /// The flag or variable with the value.
        source_name: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// Any other setting is invalid.
    #[error("{source_name}: {problem}")]
    Other {
        /// The flag or variable with the value.
        source_name: String,
        /// What is wrong with the value.
        problem: String,
    },
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Creates a key from text, without the white space around it. Returns `None` if an HTTP header
    /// cannot carry it.
    pub fn new(text: &str) -> Option<Key> {
        let mut value = HeaderValue::from_str(text.trim()).ok()?;
        value.set_sensitive(true);
        Some(Key(value))
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// Reads a variable of the environment. An empty one counts as unset.
#[expect(clippy::disallowed_methods, reason = "only this function of coord reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Settings {
    /// Reads the settings from explicit values, from the environment, and from the configuration of
    /// git for the current folder.
    pub fn from_environment(given: &Given, timeout: Duration) -> Result<Settings, SettingsError> {
        Self::read(given, variable, &GitConfig::of_current_folder(), timeout)
    }

    /// Reads the settings from explicit values and from `variable`. `timeout` counts when neither
    /// has a time-out.
    pub fn new(
        given: &Given,
        variable: impl Fn(&str) -> Option<String>,
        timeout: Duration,
    ) -> Result<Settings, SettingsError> {
        Self::read(given, variable, &GitConfig::default(), timeout)
    }

    fn read(
        given: &Given,
        variable: impl Fn(&str) -> Option<String>,
        git: &GitConfig,
        timeout: Duration,
    ) -> Result<Settings, SettingsError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |given: &Option<String>, names: &[&str]| {
            given.clone().or_else(|| names.iter().find_map(|name| variable(name)))
        };
        let (url, url_source) = read_url(given, &variable, git)?;
        let (key, key_source) = read_key(given, &variable, git)?.unzip();
        let workspace = text(&given.workspace, &["COORDINATION_WORKSPACE"]);
        let settings = Settings {
            url,
            url_source,
            key,
            key_source,
            identity: Identity {
                agent_id: text(&given.agent_id, &["AGENT_ID"]).unwrap_or_default(),
                agent_type: text(&given.agent_type, &["AGENT_TYPE"]).unwrap_or_default(),
                session_id: text(&given.session_id, &SESSION_VARIABLES).unwrap_or_default(),
                workspace: workspace.or_else(|| git.value("workspace")).unwrap_or_default(),
            },
            timeout: match (&given.timeout, variable(TIMEOUT_VARIABLE)) {
                (Some(seconds), _) => parse_seconds("--timeout", seconds)?,
                (None, Some(seconds)) => parse_seconds(TIMEOUT_VARIABLE, &seconds)?,
                (None, None) => timeout,
            },
        };
        settings.identity.check()?;
        Ok(settings)
    }
}

impl Identity {
    /// Returns the identity as headers: name, value, and the member of a body with the same meaning
    /// (empty for the workspace, which has none).
    pub(crate) fn headers(&self) -> [(&'static str, &str, &'static str); 4] {
        [
            ("x-agent-id", &self.agent_id, "agent_id"),
            ("x-agent-type", &self.agent_type, "agent_type"),
            ("x-session-id", &self.session_id, "session_id"),
            ("x-workspace", &self.workspace, ""),
        ]
    }

    /// Returns the value of a member of a body, such as `agent_id`.
    pub(crate) fn member(&self, name: &str) -> Option<&str> {
        self.headers().into_iter().find(|(_, _, member)| *member == name).map(|(_, value, _)| value)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let names = [
            "--agent-id or AGENT_ID",
            "--agent-type or AGENT_TYPE",
            "--session-id, SESSION_ID or CLAUDE_CODE_SESSION_ID",
            "--workspace, COORDINATION_WORKSPACE or coord.workspace",
        ];
        for (name, (_, value, _)) in names.into_iter().zip(self.headers()) {
            if HeaderValue::from_str(value).is_err() {
                return Err(other(name, "expected a value without control characters"));
            }
        }
        Ok(())
    }
}

fn other(source_name: &str, problem: impl Into<String>) -> SettingsError {
    SettingsError::Other { source_name: source_name.to_owned(), problem: problem.into() }
}

fn parse_seconds(name: &str, seconds: &str) -> Result<Duration, SettingsError> {
    let number = seconds.trim().parse::<f64>().ok().filter(|number| *number > 0.0);
    number
        .and_then(|number| Duration::try_from_secs_f64(number.min(86_400.0)).ok())
        .ok_or_else(|| other(name, "expected a number of seconds above 0"))
}

/// Returns the key and where it comes from.
fn read_key(
    given: &Given,
    variable: &impl Fn(&str) -> Option<String>,
    git: &GitConfig,
) -> Result<Option<(Key, String)>, SettingsError> {
    let key = |text: &str, name: &str| {
        let key = Key::new(text).map(|key| (key, name.to_owned()));
        key.ok_or_else(|| other(name, "the key has characters that an HTTP header cannot carry"))
    };
    for name in KEY_VARIABLES {
        if let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) {
            return key(&text, name).map(Some);
        }
    }
    let (file, name) = match (&given.key_file, git.value("keyFile")) {
        (Some(file), _) => (file.clone(), format!("--key-file {}", file.display())),
        (None, Some(file)) => {
            let name = format!("git config coord.keyFile {file}");
            (absolute_file(&file, variable).ok_or_else(|| other(&name, ABSOLUTE))?, name)
        }
        (None, None) => return Ok(None),
    };
    let text = fs::read_to_string(file).map_err(|error| other(&name, error.to_string()))?;
    if text.trim().is_empty() {
        return Err(other(&name, "the file is empty"));
    }
    key(&text, &name).map(Some)
}

const ABSOLUTE: &str = "expected an absolute path, or one that begins with `~/`";

/// Returns the path of a file in a configuration, which holds for every folder.
fn absolute_file(text: &str, variable: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let file = match text.strip_prefix("~/") {
        Some(rest) => Path::new(&variable("HOME")?).join(rest),
        None => PathBuf::from(text),
    };
    file.is_absolute().then_some(file)
}

/// Returns the URL and where it comes from.
fn read_url(
    given: &Given,
    variable: &impl Fn(&str) -> Option<String>,
    git: &GitConfig,
) -> Result<(Url, Option<String>), SettingsError> {
    let error =
        |name: &str, problem: String| SettingsError::Url { source_name: name.to_owned(), problem };
    // A repository must not choose the host that gets the key, so its own list does not count.
    let allowed = [variable(HOSTS_VARIABLE), git.value_of_user(HOSTS_SETTING)];
    let allowed = allowed.into_iter().flatten().collect::<Vec<_>>().join(",");
    let parse = |name: &str, text: &str| match Url::new(text, &allowed) {
        Ok(url) => Ok((url, Some(name.to_owned()))),
        Err(problem) => Err(error(name, problem)),
    };
    if let Some(text) = &given.url {
        return parse("--url", text);
    }
    for name in URL_VARIABLES {
        if let Some(text) = variable(name) {
            return parse(name, &text);
        }
    }
    if let Some(text) = variable(PORT_VARIABLE) {
        let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let wrong = || error(PORT_VARIABLE, "expected a port from 1 to 65535".to_owned());
        let url = Url::on_this_machine(port.ok_or_else(wrong)?);
        return Ok((url, Some(PORT_VARIABLE.to_owned())));
    }
    match git.value("url") {
        Some(text) => parse("git config coord.url", &text),
        None => Ok((Url::on_this_machine(DEFAULT_PORT), None)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn settings(given: &Given, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        Settings::new(given, variable, DEFAULT_TIMEOUT)
    }

    #[test]
    fn the_first_url_that_is_set_counts() {
        let all: Vec<_> = URL_VARIABLES.into_iter().map(|name| (name, name)).collect();
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
    fn no_error_contains_a_key() {
        let secret = "s3cret\u{1}";
        let error = settings(&Given::default(), &[("COORDINATION_API_KEY", secret)]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        let settings = settings(&Given::default(), &[("COORDINATION_API_KEY", "s3cret")]).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn a_time_out_is_a_number_of_seconds() {
        let given = |text: &str| Given { timeout: Some(text.to_owned()), ..Given::default() };
        let variables = [(TIMEOUT_VARIABLE, "2.5")];
        let timeout = |given: &Given, variables: &[(&str, &str)]| {
            settings(given, variables).map(|settings| settings.timeout)
        };
        assert_eq!(timeout(&given("0.5"), &variables).unwrap(), Duration::from_millis(500));
        assert_eq!(timeout(&Given::default(), &variables).unwrap(), Duration::from_millis(2500));
        assert_eq!(timeout(&Given::default(), &[]).unwrap(), DEFAULT_TIMEOUT);
        for wrong in ["0", "-1", "x", "NaN", "inf\u{0}"] {
            assert!(timeout(&given(wrong), &[]).is_err(), "{wrong}");
        }
    }
}
