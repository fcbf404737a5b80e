//! Requests to the service. The invariants: no redirect is followed, the key goes to nobody but the
//! service, and a write is sent at most twice, both times under one idempotency key.
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

use crate::{routes::Route, run::pause, settings::Settings};

/// The largest answer that is read.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// No time at all would mean any time.
const SHORTEST: Duration = Duration::from_millis(1);

/// What may not stand in a path as it is. The slash may: some parameters are the rest of the path.
const IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
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

/// What may not stand in a segment of a path, or in a query.
const IN_SEGMENT: &AsciiSet = &IN_PATH.add(b'/').add(b'&').add(b'+').add(b'=').add(b';');

/// Asks the service. Cloning is cheap, and the clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    settings: Settings,
    limit: Option<Limit>,
}

/// How long all requests of a client may take together.
#[derive(Clone, Copy, Debug)]
struct Limit {
    total: Duration,
    end: Instant,
}

/// What the service answered, whatever the status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as it came.
    pub text: String,
    /// The body as JSON; `None` when it is something else.
    pub json: Option<Value>,
}

/// Why there is no answer. Where the request may have reached the service the text says so.
#[derive(Debug, Error)]
pub enum CallError {
    /// No connection came about.
    #[error("the service at {url} cannot be reached: {reason}")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The connection ended before the answer was there.
    #[error("the connection to {url} was lost before the answer came: {reason}")]
    Lost {
        /// Where the request went.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The answer took too long.
    #[error("the service at {url} did not answer within {seconds} s")]
    TimedOut {
        /// Where the request went.
        url: String,
        /// How long it was waited for.
        seconds: f64,
    },
    /// The request could not be put together.
    #[error("the request cannot be sent: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
}

/// A request that can be sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The HTTP verb.
    pub method: String,
    /// Path and query, below the URL of the settings.
    pub path: String,
    /// The body, if there is one.
    pub body: Option<String>,
    /// Whether it is a write that carries an idempotency key and may be sent a second time.
    pub is_repeatable: bool,
    /// How long the service may wait before it answers, on top of the time-out.
    pub wait: Duration,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// Whether the key is sent.
    pub with_key: bool,
}

impl Call {
    /// A request with the key and without anything else.
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

    /// The same with a JSON body.
    pub fn json(mut self, body: &Value) -> Call {
        self.body = Some(body.to_string());
        self
    }
}

impl Client {
    /// A client with these settings.
    pub fn new(settings: Settings) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("coord/", env!("CARGO_PKG_VERSION")));
        // A proxy of the environment leads out of a sandbox, never to this machine.
        let config = match settings.url.is_this_machine() {
            true => config.proxy(None),
            false => config,
        };
        Client { agent: config.build().new_agent(), settings, limit: None }
    }

    /// A client with the same settings and connections of its own.
    pub(crate) fn apart(&self) -> Client {
        self.with(self.settings.clone())
    }

    /// A client with other settings that ends as this one does.
    pub(crate) fn with(&self, settings: Settings) -> Client {
        Client { limit: self.limit, ..Client::new(settings) }
    }

    /// The same, but no request takes longer than until the end of this time.
    pub(crate) fn within(self, total: Duration) -> Client {
        Client { limit: Some(Limit { total, end: Instant::now() + total }), ..self }
    }

    /// Ends the connections of this client and its clones, and with them the requests that run. They
    /// send nothing any more.
    pub(crate) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// The settings of this client.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks for a path with a verb and, where there is one, a JSON body. A write of the service is
    /// sent under a fresh idempotency key, and once more when the connection is lost or the service
    /// answers 503.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, CallError> {
        let mut call = Call::new(method, path);
        call.is_repeatable = Route::serving(method, path).is_some_and(|it| it.is_repeatable);
        if let Some(body) = body {
            call = call.json(body);
        }
        self.send(call)
    }

    /// Sends a request and reads the whole answer.
    pub fn send(&self, mut call: Call) -> Result<Answer, CallError> {
        if !call.is_repeatable {
            return Ok(self.once(&call)?.0);
        }
        call.headers.push(("idempotency-key", Uuid::new_v4().to_string()));
        let started = Instant::now();
        match self.once(&call) {
            Err(CallError::Lost { .. }) => Ok(self.once(&call)?.0),
            Ok((answer, after)) if answer.status == 503 => {
                let after = after.unwrap_or_default();
                if after >= self.time_for(&call).saturating_sub(started.elapsed()) {
                    return Ok(answer);
                }
                pause(after);
                Ok(self.once(&call)?.0)
            }
            settled => Ok(settled?.0),
        }
    }

    /// How long an answer may take.
    fn time_for(&self, call: &Call) -> Duration {
        let time = self.settings.timeout + call.wait;
        match self.limit {
            Some(limit) => time.min(limit.end.saturating_duration_since(Instant::now())),
            None => time,
        }
    }

    /// An answer, and when the service wants to be asked again.
    fn once(&self, call: &Call) -> Result<(Answer, Option<Duration>), CallError> {
        let mut response = self.open(call)?;
        let bytes = response
            .body_mut()
            .with_config()
            .limit(MOST_BYTES)
            .read_to_vec()
            .map_err(|error| self.explain(call, error))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).ok();
        let after = response.headers().get(header::RETRY_AFTER);
        let after = after.and_then(|it| it.to_str().ok()).and_then(|it| it.parse().ok());
        let answer = Answer { status: response.status().as_u16(), text, json };
        Ok((answer, after.map(Duration::from_secs)))
    }

    /// Sends a request and returns the answer with its body still to be read.
    pub(crate) fn open(&self, call: &Call) -> Result<Response<Body>, CallError> {
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
        // Only for an answer it is worth waiting longer.
        let agent = &self.agent;
        let timeout = Some(self.time_for(call).max(SHORTEST));
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
        answered.map_err(|error| self.explain(call, error))
    }

    fn explain(&self, call: &Call, error: ureq::Error) -> CallError {
        let url = self.settings.url.to_string();
        let time = match self.limit {
            Some(limit) if limit.end <= Instant::now() => limit.total,
            _ => self.settings.timeout + call.wait,
        };
        let seconds = time.as_secs_f64();
        let reason = error.to_string();
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
                _ => CallError::Unreachable { url, reason: error.to_string() },
            },
            ureq::Error::Protocol(_) => CallError::Lost { url, reason },
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => CallError::Invalid { reason },
            _ => CallError::Unreachable { url, reason },
        }
    }
}

/// A value as it may stand in a path; slashes stay when it is the rest of the path.
pub(crate) fn in_path(value: &str, is_rest: bool) -> String {
    utf8_percent_encode(value, if is_rest { IN_PATH } else { IN_SEGMENT }).to_string()
}

/// A value as it may stand in a query.
pub(crate) fn in_query(value: &str) -> String {
    utf8_percent_encode(value, IN_SEGMENT).to_string()
}
