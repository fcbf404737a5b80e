//! The proxy between standard input and output and the MCP endpoint of the service. The invariants:
//! standard output has nothing but messages of the protocol, one on a line, and no request keeps
//! running at the service after its client has cancelled it or gone away. A client whose
//! `initialize` the service did not get is connected before its first request that the service gets.
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use ureq::http::{HeaderValue, header};

use super::{
    events::read_events,
    message::{Message, describe_failure, server_error, with_error},
    offline::{self, TOOLS_CHANGED},
    released::forget,
};
use crate::{
    output::{
        outcome::{DONE, Outcome, UNANSWERED},
        text::{escape_text, on_one_line},
    },
    service::client::{Call, CallError, Client, encode},
};

/// How long running requests can take after standard input has ended.
const GRACE: Duration = Duration::from_secs(10);

/// How long a request waits for the connection that `initialize` could not open.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

/// The headers that the answer to `initialize` sets for later requests.
#[derive(Debug, Default)]
struct Negotiated {
    session: Option<String>,
    version: Option<String>,
}

/// A message that is forwarded with a client of its own.
struct Forwarded {
    message: Message,
    number: u64,
    client: Client,
}

/// A message whose answer is not complete.
struct InFlight {
    number: u64,
    id: Option<String>,
    /// Whether the service was asked to wait.
    is_waiting: bool,
    is_abandoned: bool,
    /// A client for this message alone, because its connections are closed when it is abandoned.
    client: Client,
}

#[derive(Default)]
struct State {
    in_flight: Vec<InFlight>,
    /// Clients with open connections that no message uses.
    idle: Vec<Client>,
    /// How many messages have come.
    count: u64,
    is_output_broken: bool,
}

struct Proxy {
    client: Client,
    tools: Option<String>,
    path: String,
    /// The `initialize` that this program answered, because the service was not there.
    pending: Mutex<Option<Message>>,
    negotiated: Mutex<Negotiated>,
    /// The session that the client registered last, which counts before that of the environment: a
    /// client can begin another session while this program runs.
    registered: Mutex<Option<String>>,
    /// Held while a message is written, so that messages do not mix.
    writing: Mutex<()>,
    state: Mutex<State>,
    /// Notified when the answer to a message is complete.
    changed: Condvar,
}

/// Serves until standard input ends. Earlier requests are still answered, except those in which the
/// service waits.
pub(crate) fn serve(client: Client, tools: Option<&str>) -> Outcome {
    let path = match tools {
        Some(tools) => format!("/mcp?tools={}", encode(tools)),
        None => "/mcp".to_owned(),
    };
    let proxy = Proxy {
        client,
        tools: tools.map(str::to_owned),
        path,
        pending: Mutex::default(),
        negotiated: Mutex::default(),
        registered: Mutex::default(),
        writing: Mutex::default(),
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    let proxy = &proxy;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel::<Forwarded>();
        scope.spawn(move || {
            for forwarded in receiver {
                // Later messages depend on `initialize` and on notifications, so these go first.
                if forwarded.message.is_initialize() || forwarded.message.id.is_none() {
                    proxy.forward(forwarded);
                } else {
                    scope.spawn(move || proxy.forward(forwarded));
                }
            }
        });
        for line in BufReader::new(std::io::stdin()).split(b'\n') {
            let Ok(line) = line else { break };
            if line.trim_ascii().is_empty() {
                continue;
            }
            match Message::parse(&line) {
                Ok(message) => {
                    let _ = sender.send(proxy.accept(message));
                }
                Err(answer) => proxy.write(&answer),
            }
        }
        drop(sender);
        proxy.finish_requests();
    });
    proxy.end_session();
    Ok(DONE)
}

impl Proxy {
    /// Registers a message as in flight, and abandons the request that it cancels.
    fn accept(&self, message: Message) -> Forwarded {
        if let Some(cancelled) = &message.cancelled_id {
            self.abandon(|request| request.id.as_ref() == Some(cancelled));
        }
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        let client = state.idle.pop().unwrap_or_else(|| self.client.with_own_connections());
        state.in_flight.push(InFlight {
            number,
            id: message.id.clone(),
            is_waiting: message.wait() > Duration::ZERO,
            is_abandoned: false,
            client: client.clone(),
        });
        Forwarded { message, number, client }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Closes the connections of requests, so that the service stops working on them.
    fn abandon(&self, is_meant: impl Fn(&InFlight) -> bool) {
        for request in self.state().in_flight.iter_mut().filter(|request| is_meant(request)) {
            request.is_abandoned = true;
            request.client.shut_down();
        }
    }

    fn is_abandoned(&self, number: u64) -> bool {
        let state = self.state();
        state.in_flight.iter().any(|request| request.number == number && request.is_abandoned)
    }

    /// Waits for running requests after standard input has ended, but not for longer than
    /// [`GRACE`].
    fn finish_requests(&self) {
        self.abandon(|request| request.is_waiting);
        let ended = Instant::now();
        let mut state = self.state();
        while !state.in_flight.is_empty() {
            let left = GRACE.saturating_sub(ended.elapsed());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.abandon(|_| true);
    }

    /// Sends a message to the service, and writes the answer or the reason why there is none. The
    /// client is connected first, if that is still to be done.
    fn forward(&self, forwarded: Forwarded) {
        let Forwarded { message, number, client } = forwarded;
        let problem = match self.connect() {
            Ok(()) => self.send(&message, number, &client),
            Err(problem) => Some((problem, true)),
        };
        if let Some((problem, is_absent)) = problem.filter(|_| !self.is_abandoned(number)) {
            self.report(message, &problem, is_absent);
        }
        let mut state = self.state();
        if let Some(index) = state.in_flight.iter().position(|request| request.number == number) {
            let done = state.in_flight.swap_remove(index);
            if !done.is_abandoned {
                state.idle.push(done.client);
            }
        }
        self.changed.notify_all();
    }

    /// Sends a message to the service, and writes the answer. Returns the problem if there is none,
    /// and whether the service cannot have got the message or is not ready for it.
    fn send(&self, message: &Message, number: u64, client: &Client) -> Option<(String, bool)> {
        match client.send_unread(&self.call_of(message)) {
            Ok(response) => {
                // A proxy in front of the service answers so while the service starts.
                let is_starting = matches!(response.status().as_u16(), 502..=504);
                let problem = self.pass_response(response, message, number)?;
                Some((problem, is_starting && offline::is_start(message)))
            }
            Err(error) => {
                let is_unreachable = matches!(error, CallError::Unreachable { .. });
                Some((error.to_string(), is_unreachable || offline::is_start(message)))
            }
        }
    }

    /// Answers a request that the service did not answer: from the document of this build, if the
    /// service is not there, else with the problem.
    fn report(&self, message: Message, problem: &str, is_absent: bool) {
        let is_pending = lock(&self.pending).is_some();
        let is_ping = message.json["method"] == "ping";
        let answer = match is_absent && (is_pending || !is_ping) {
            true => offline::answer(&message, self.tools.as_deref(), problem),
            false => None,
        };
        let is_first = message.is_initialize() && answer.is_some();
        match (answer, &message.id) {
            (Some(answer), _) => self.write(&answer),
            (None, Some(id)) => self.write(&server_error(id, problem)),
            // It has no answer that could carry the problem. While the client is not connected, the
            // answer to `initialize` has told so.
            (None, None) if is_pending => {}
            (None, None) => eprintln!("coord: {}", escape_text(problem)),
        }
        if is_first {
            eprintln!("coord: {}; the tools are listed without it", escape_text(problem));
            *lock(&self.pending) = Some(message);
        }
    }

    /// Connects a client whose `initialize` the service did not get. Returns why that fails.
    fn connect(&self) -> Result<(), String> {
        let mut pending = lock(&self.pending);
        let Some(message) = &*pending else { return Ok(()) };
        let client = self.client.with_own_connections().with_deadline(CONNECT_LIMIT);
        let response = client.send_unread(&self.call_of(message));
        let mut response = response.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let session = response.headers().get(SESSION).and_then(|value| value.to_str().ok());
        let session = session.map(str::to_owned);
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        let answer = serde_json::from_str::<Value>(&text).unwrap_or_default();
        let version = match answer["result"]["protocolVersion"].as_str() {
            Some(version) => version.to_owned(),
            None => {
                let refusal = answer["error"]["message"].as_str().map(str::to_owned);
                return Err(refusal.unwrap_or_else(|| describe_failure(status, &text)));
            }
        };
        *lock(&self.negotiated) = Negotiated { session, version: Some(version) };
        let mut call = Call::new("POST", &self.path);
        call.body = Some(INITIALIZED.to_owned());
        call.headers = self.headers();
        client.send(call).map_err(|error| error.to_string())?;
        *pending = None;
        drop(pending);
        // The service can have other tools than this build.
        self.write(TOOLS_CHANGED);
        Ok(())
    }

    fn call_of(&self, message: &Message) -> Call {
        let mut call = Call::new("POST", &self.path);
        call.body = Some(message.line.clone());
        call.headers = self.headers();
        call.wait = message.wait();
        let params = &message.json["params"];
        if let Some(version) = message.revision() {
            let name = params["name"].as_str().or_else(|| params["uri"].as_str());
            // The revision of the message comes before the negotiated one.
            let headers = [
                (VERSION, Some(version)),
                ("mcp-method", message.json["method"].as_str()),
                ("mcp-name", name),
            ];
            for (name, value) in headers {
                if let Some(value) = value.filter(|value| HeaderValue::from_str(value).is_ok()) {
                    call.headers.push((name, value.to_owned()));
                }
            }
        }
        call
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut identity = self.client.settings().identity.clone();
        if let Some(session_id) = &*lock(&self.registered) {
            identity.session_id.clone_from(session_id);
        }
        let identity = identity.headers();
        let mut headers: Vec<_> = identity
            .into_iter()
            .filter(|(_, value, _)| !value.is_empty())
            .map(|(name, value, _)| (name, value.to_owned()))
            .collect();
        headers.push(("accept", "application/json, text/event-stream".to_owned()));
        let negotiated = lock(&self.negotiated);
        headers.extend(negotiated.session.iter().map(|session| (SESSION, session.clone())));
        headers.extend(negotiated.version.iter().map(|version| (VERSION, version.clone())));
        headers
    }

    /// Writes the messages of a response. Returns the problem with a response that has none.
    fn pass_response(
        &self,
        mut response: ureq::http::Response<ureq::Body>,
        message: &Message,
        number: u64,
    ) -> Option<String> {
        let status = response.status().as_u16();
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let session = header(SESSION);
        let content_type = header(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        if message.is_initialize() && session.is_some() {
            lock(&self.negotiated).session = session;
        }
        let mut body = response.body_mut().as_reader();
        if message.id.is_none() && status == 202 {
            return None;
        }
        let (mut count, mut text) = (0, String::new());
        let mut pass = |text: &str| count += usize::from(self.pass_message(text, message, number));
        let read = if content_type.starts_with("text/event-stream") {
            read_events(body, pass)
        } else {
            body.read_to_string(&mut text).map(|_| pass(&text))
        };
        match read {
            Err(error) => Some(format!("the answer ended early: {error}")),
            Ok(()) if count == 0 && (message.id.is_some() || status >= 400) => {
                Some(describe_failure(status, &text))
            }
            Ok(()) => None,
        }
    }

    /// Writes a message of the service as one line. Returns false if the text is not a message.
    fn pass_message(&self, text: &str, message: &Message, number: u64) -> bool {
        let Ok(json) = serde_json::from_str::<Value>(text) else { return false };
        if json.get("jsonrpc").is_none() {
            return false;
        }
        if message.is_initialize()
            && let Some(version) = json["result"]["protocolVersion"].as_str()
        {
            lock(&self.negotiated).version = Some(version.to_owned());
        }
        self.follow(message, &json["result"]["structuredContent"]);
        if self.is_abandoned(number) {
            return true;
        }
        match &message.id {
            // The service could not read the id, for example because the number is too large.
            Some(id) if json["error"].is_object() && json["id"].is_null() => {
                self.write(&with_error(id, &json["error"]));
            }
            _ => self.write(&on_one_line(text)),
        }
        true
    }

    /// Does on this machine what follows from the answer of a tool.
    fn follow(&self, message: &Message, answer: &Value) {
        if answer["success"] != true {
            return;
        }
        if let Some(session_id) = message.registered_session()
            && HeaderValue::from_str(session_id).is_ok()
        {
            *lock(&self.registered) = Some(session_id.to_owned());
        }
        if let Some(key) = answer["file_path"].as_str().filter(|_| message.calls("release_lock")) {
            forget(self.client.with_own_connections(), key);
        }
    }

    fn write(&self, message: &str) {
        let guard = lock(&self.writing);
        let mut output = std::io::stdout();
        let written = writeln!(output, "{message}").and_then(|()| output.flush());
        drop(guard);
        if written.is_ok() || std::mem::replace(&mut self.state().is_output_broken, true) {
            return;
        }
        // The client has gone away, so no answer can reach it. Standard input can stay open, and
        // only the end of the process stops the thread that reads it.
        self.abandon(|_| true);
        self.end_session();
        std::process::exit(UNANSWERED.into());
    }

    /// Ends the MCP session at the service, if there is one.
    fn end_session(&self) {
        let headers = self.headers();
        if headers.iter().any(|(name, _)| *name == SESSION) {
            let mut call = Call::new("DELETE", "/mcp");
            call.headers = headers;
            if let Err(error @ CallError::Invalid { .. }) = self.client.send(call) {
                eprintln!("coord: {error}");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
