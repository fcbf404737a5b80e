//! The HTTP client. The invariants: it follows no redirect, so that the key goes to the service
//! alone, and it sends a write at most twice, both times with the same idempotency key.
use std::{
    io,
    time::{Duration, Instant},
};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;
use thiserror::Error;
use ureq::{
    Agent, Body,
    http::{Request, Response, header},
};
use uuid::Uuid;

use super::{answer::Answer, routes::Route, settings::Settings, unreachable::describe};

/// The largest body that is read, in bytes.
const BODY_LIMIT: u64 = 64 * 1024 * 1024;

/// The shortest time-out. `ureq` takes zero for "without a time-out".
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// The characters that are percent-encoded in a segment of a path and in a query.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'/')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A client of the service. Cloning is cheap, and clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    settings: Settings,
    deadline: Option<Deadline>,
}

/// The time at which all requests of a client have to be done.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// The time between the creation of the client and `end`, for messages.
    total: Duration,
    end: Instant,
}

/// Why there is no answer. With [`CallError::Lost`] and [`CallError::TimedOut`] the service has
/// possibly received the request.
#[derive(Debug, Error)]
pub enum CallError {
    /// No connection could be opened.
    #[error("the service at {url} cannot be reached: {reason}")]
    Unreachable {
        /// URL of the service.
        url: String,
        /// Description of the failure.
        reason: String,
    },
    /// The connection ended before the answer was complete.
    #[error("the connection to {url} was lost before the answer came: {reason}")]
    Lost {
        /// URL of the service.
        url: String,
        /// Description of the failure.
        reason: String,
    },
    /// The time-out ended before the answer was complete.
    #[error("the service at {url} did not answer within {seconds} s")]
    TimedOut {
        /// URL of the service.
        url: String,
        /// The time-out in seconds.
        seconds: f64,
    },
    /// The request is not valid HTTP.
    #[error("the request cannot be sent: {reason}")]
    Invalid {
        /// Description of the failure.
        reason: String,
    },
}

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The HTTP method.
    pub method: String,
    /// Path and query, below the URL of the settings.
    pub path: String,
    /// The body, if there is one.
    pub body: Option<String>,
    /// Whether the request is a write that carries an idempotency key, so that it can be sent
    /// twice.
    pub is_repeatable: bool,
    /// How long the service is asked to wait, in addition to the time-out.
    pub wait: Duration,
    /// Headers in addition to the key, `Accept` and `Content-Type`.
    pub headers: Vec<(&'static str, String)>,
    /// Whether the request carries the key.
    pub with_key: bool,
}

impl Call {
    /// Creates a request with the key, without a body.
    pub fn new(method: &str, path: &str) -> Call {
        Call {
            method: method.to_owned(),
            path: path.to_owned(),
            body: None,
            is_repeatable: false,
            wait: Duration::ZERO,
            headers: Vec::new(),
            with_key: true,
        }
    }

    /// Sets a JSON body.
    pub fn json(mut self, body: &Value) -> Call {
        self.body = Some(body.to_string());
        self
    }
}

impl Client {
    /// Creates a client.
    pub fn new(settings: Settings) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("coord/", env!("CARGO_PKG_VERSION")));
        // A proxy that the environment names cannot reach a service on this machine.
        let config = match settings.url.is_this_machine() {
            true => config.proxy(None),
            false => config,
        };
        Client { agent: config.build().new_agent(), settings, deadline: None }
    }

    /// Returns a client with the same settings and with connections of its own.
    pub(crate) fn with_own_connections(&self) -> Client {
        self.with_settings(self.settings.clone())
    }

    /// Returns a client with other settings and the same deadline.
    pub(crate) fn with_settings(&self, settings: Settings) -> Client {
        Client { deadline: self.deadline, ..Client::new(settings) }
    }

    /// Sets a deadline for all requests of the client together.
    pub(crate) fn with_deadline(self, total: Duration) -> Client {
        let deadline = Some(Deadline { total, end: Instant::now() + total });
        Client { deadline, ..self }
    }

    /// Closes the connections of this client and of its clones, which ends their running requests.
    /// Later requests of these clients fail.
    pub(crate) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a request with a method, a path and an optional JSON body. A write carries a new
    /// idempotency key, and is sent again if the connection is lost or the service answers 503.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallError> {
        let mut call = Call::new(method, path);
        call.is_repeatable = Route::serving(method, path).is_some_and(|route| route.is_repeatable);
        if let Some(body) = body {
            call = call.json(body);
        }
        self.send(call)
    }

    /// Sends a request and reads the whole answer. A write is sent again if the connection is lost
    /// or the service answers 503 with a `Retry-After` that the time-out allows.
    pub fn send(&self, mut call: Call) -> Result<Answer, CallError> {
        if !call.is_repeatable {
            return Ok(self.send_once(&call)?.0);
        }
        call.headers.push(("idempotency-key", Uuid::new_v4().to_string()));
        let started = Instant::now();
        match self.send_once(&call) {
            Err(CallError::Lost { .. }) => Ok(self.send_once(&call)?.0),
            Ok((answer, retry_after)) if answer.status == 503 => {
                let retry_after = retry_after.unwrap_or_default();
                if retry_after >= self.timeout_of(&call).saturating_sub(started.elapsed()) {
                    return Ok(answer);
                }
                pause(retry_after);
                Ok(self.send_once(&call)?.0)
            }
            done => Ok(done?.0),
        }
    }

    /// Returns the time-out of a request.
    fn timeout_of(&self, call: &Call) -> Duration {
        let time = self.settings.timeout + call.wait;
        match self.deadline {
            Some(deadline) => time.min(deadline.end.saturating_duration_since(Instant::now())),
            None => time,
        }
    }

    /// Sends a request once. Returns the answer and the value of `Retry-After`.
    fn send_once(&self, call: &Call) -> Result<(Answer, Option<Duration>), CallError> {
        let mut response = self.send_unread(call)?;
        let bytes = response
            .body_mut()
            .with_config()
            .limit(BODY_LIMIT)
            .read_to_vec()
            .map_err(|error| self.call_error(call, error))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).ok();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let answer = Answer { status: response.status().as_u16(), text, json };
        Ok((answer, retry_after.map(Duration::from_secs)))
    }

    /// Sends a request. Returns the response with its body still to be read.
    pub(crate) fn send_unread(&self, call: &Call) -> Result<Response<Body>, CallError> {
        let invalid = |error: ureq::http::Error| CallError::Invalid { reason: error.to_string() };
        let url = format!("{}{}", self.settings.url, call.path);
        let mut request = Request::builder()
            .method(call.method.as_str())
            .uri(url)
            .header(header::ACCEPT, "application/json");
        if let Some(key) = self.settings.key.as_ref().filter(|_| call.with_key) {
            request = request.header("x-api-key", key.header());
        }
        for (name, value) in &call.headers {
            if let Some(headers) = request.headers_mut() {
                headers.remove(*name);
            }
            request = request.header(*name, value);
        }
        // The service may wait before it answers, but not before it accepts the connection.
        let agent = &self.agent;
        let timeout = Some(self.timeout_of(call).max(SHORTEST_TIMEOUT));
        let connect = Some(self.settings.timeout);
        let answered = match &call.body {
            Some(body) => {
                let request = request
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(body.as_str())
                    .map_err(invalid)?;
                let request = agent.configure_request(request).timeout_connect(connect);
                agent.run(request.timeout_global(timeout).build())
            }
            None => {
                let request = request.body(()).map_err(invalid)?;
                let request = agent.configure_request(request).timeout_connect(connect);
                agent.run(request.timeout_global(timeout).build())
            }
        };
        answered.map_err(|error| self.call_error(call, error))
    }

    fn call_error(&self, call: &Call, error: ureq::Error) -> CallError {
        let url = self.settings.url.to_string();
        let time = match self.deadline {
            Some(deadline) if deadline.end <= Instant::now() => deadline.total,
            _ => self.settings.timeout + call.wait,
        };
        let seconds = time.as_secs_f64();
        let reason = error.to_string();
        let why = describe(&error, &url, self.agent.config().proxy());
        match error {
            ureq::Error::Timeout(_) => CallError::TimedOut { url, seconds },
            ureq::Error::Io(error) => match error.kind() {
                io::ErrorKind::TimedOut => CallError::TimedOut { url, seconds },
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => {
                    CallError::Lost { url, reason: error.to_string() }
                }
                _ => CallError::Unreachable { url, reason: why },
            },
            ureq::Error::Protocol(_) => CallError::Lost { url, reason },
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => CallError::Invalid { reason },
            _ => CallError::Unreachable { url, reason: why },
        }
    }
}

/// Encodes a value for a segment of a path, or for a query.
pub(crate) fn encode(value: &str) -> String {
    utf8_percent_encode(value, ENCODED).to_string()
}

/// Encodes a value for the rest of a path. Its slashes stay.
pub(crate) fn encode_rest_of_path(value: &str) -> String {
    value.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// Blocks the thread. The client has nothing else to do until it sends the request again.
#[expect(clippy::disallowed_methods, reason = "the client has nothing else to do meanwhile")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
