//! An MCP server on standard input and output that passes everything on to the one of the service.
//! The invariants: nothing but the protocol is written to standard output, one message on a line; and
//! a request that nobody waits for any more is not left running at the service.
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read, Write as _},
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json, value::RawValue};
use ureq::http::{HeaderValue, header};

use crate::{
    client::{Call, CallError, Client, in_query},
    outcome::{DONE, Outcome, UNANSWERED, detail},
    show::clean,
};

/// How long answers may still take when nobody asks any more.
const GRACE: Duration = Duration::from_secs(10);

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

/// Where a message names the revision of the protocol that it is in.
const VERSION_IN_MESSAGE: &str = "io.modelcontextprotocol/protocolVersion";

const CANCELLED: &str = "notifications/cancelled";

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const SERVER_ERROR: i64 = -32000;

/// What was agreed on when the connection was initialised.
#[derive(Debug, Default)]
struct Agreed {
    session: Option<String>,
    version: Option<String>,
}

/// A message of the client, with its place among those that are on their way.
struct Message {
    line: String,
    json: Value,
    /// The id as it was written: numbers of any size are told apart that way. A notification has none.
    id: Option<String>,
    number: u64,
    client: Client,
}

/// A message that is on its way, or waits for its turn.
struct Running {
    number: u64,
    id: Option<String>,
    /// Whether the service was asked to wait for something.
    waits: bool,
    is_abandoned: bool,
    /// No other message uses it meanwhile, so that it can be shut down for this one alone.
    client: Client,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    idle: Vec<Client>,
    count: u64,
    is_broken: bool,
}

struct Proxy {
    client: Client,
    path: String,
    agreed: Mutex<Agreed>,
    /// One message at a time.
    writing: Mutex<()>,
    state: Mutex<State>,
    /// Told whenever a message is done with.
    changed: Condvar,
}

/// Serves until standard input ends. Requests that came before are still answered, those excepted in
/// which the service waits for something.
pub(crate) fn serve(client: Client, tools: Option<&str>) -> Outcome {
    let path = match tools {
        Some(tools) => format!("/mcp?tools={}", in_query(tools)),
        None => "/mcp".to_owned(),
    };
    let proxy = Proxy {
        client,
        path,
        agreed: Mutex::default(),
        writing: Mutex::default(),
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    let proxy = &proxy;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel::<Message>();
        scope.spawn(move || {
            for message in receiver {
                // What comes after these two builds on them; anything else may take its time.
                if message.json["method"] == "initialize" || message.id.is_none() {
                    proxy.forward(message);
                } else {
                    scope.spawn(move || proxy.forward(message));
                }
            }
        });
        for line in BufReader::new(std::io::stdin()).split(b'\n') {
            let Ok(line) = line else { break };
            if line.trim_ascii().is_empty() {
                continue;
            }
            match proxy.read(&line) {
                Ok(message) => {
                    let _ = sender.send(message);
                }
                Err((id, code, reason)) => proxy.write(&failure(&id, code, &reason)),
            }
        }
        drop(sender);
        proxy.finish();
    });
    proxy.end();
    Ok(DONE)
}

impl Proxy {
    /// Reads a message; what is none is answered with the id, code and reason that come back.
    fn read(&self, line: &[u8]) -> Result<Message, (String, i64, String)> {
        let none = || "null".to_owned();
        let invalid = |reason: &str| (none(), INVALID_REQUEST, reason.to_owned());
        let damaged = |error: String| (none(), PARSE_ERROR, error);
        let line = str::from_utf8(line).map_err(|error| damaged(error.to_string()))?;
        let json: Value = serde_json::from_str(line).map_err(|error| damaged(error.to_string()))?;
        if json.is_array() {
            return Err(invalid("batches are not supported: send one message on a line"));
        }
        let Ok(members) = serde_json::from_str::<Members>(line) else {
            return Err(invalid("expected an object"));
        };
        let id = members.get("id").map(|it| it.get().to_owned());
        if id.is_some() && !matches!(json["id"], Value::String(_) | Value::Number(_)) {
            return Err(invalid("the id must be a text or a number"));
        }
        let is_answer = json.get("result").is_some() || json.get("error").is_some();
        if !json["method"].is_string() && !is_answer {
            let reason = "expected a method".to_owned();
            return Err((id.unwrap_or_else(none), INVALID_REQUEST, reason));
        }
        if json["method"] == CANCELLED
            && let Some(params) = members.get("params")
            && let Ok(params) = serde_json::from_str::<Members>(params.get())
            && let Some(id) = params.get("requestId")
        {
            self.abandon(|it| it.id.as_deref() == Some(id.get()));
        }
        // An answer has the id of a question, and gets no answer itself.
        let id = id.filter(|_| !is_answer);
        let waits = waiting(&json) > Duration::ZERO;
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        let client = state.idle.pop().unwrap_or_else(|| self.client.apart());
        let running =
            Running { number, id: id.clone(), waits, is_abandoned: false, client: client.clone() };
        state.running.push(running);
        Ok(Message { line: line.trim().to_owned(), json, id, number, client })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connections of messages, so that the service stops what it does for them.
    fn abandon(&self, is_meant: impl Fn(&Running) -> bool) {
        for running in self.state().running.iter_mut().filter(|it| is_meant(it)) {
            running.is_abandoned = true;
            running.client.shut_down();
        }
    }

    fn is_abandoned(&self, message: &Message) -> bool {
        self.state().running.iter().any(|it| it.number == message.number && it.is_abandoned)
    }

    /// Nobody asks any more: lets requests end, for as long as that may take.
    fn finish(&self) {
        self.abandon(|it| it.waits);
        let ended = Instant::now();
        let mut state = self.state();
        while !state.running.is_empty() {
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

    fn forward(&self, message: Message) {
        let problem = match message.client.open(&self.call(&message)) {
            Ok(response) => self.answer(response, &message),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem.filter(|_| !self.is_abandoned(&message)) {
            match &message.id {
                // Nobody waits for an answer to a notification.
                None => eprintln!("coord: {}", clean(&problem)),
                Some(id) => self.write(&failure(id, SERVER_ERROR, &problem)),
            }
        }
        let mut state = self.state();
        if let Some(place) = state.running.iter().position(|it| it.number == message.number) {
            let done = state.running.swap_remove(place);
            if !done.is_abandoned {
                state.idle.push(done.client);
            }
        }
        self.changed.notify_all();
    }

    fn call(&self, message: &Message) -> Call {
        let mut call = Call::new("POST", &self.path);
        call.body = Some(message.line.clone());
        call.headers = self.headers();
        let message = &message.json;
        call.wait = waiting(message);
        let params = &message["params"];
        if let Some(version) = params["_meta"][VERSION_IN_MESSAGE].as_str() {
            let name = params["name"].as_str().or_else(|| params["uri"].as_str());
            // What the message says counts before what was agreed on.
            let said = [
                (VERSION, Some(version)),
                ("mcp-method", message["method"].as_str()),
                ("mcp-name", name),
            ];
            let said = said.into_iter().filter_map(|(name, value)| Some((name, value?)));
            let said = said.filter(|it| HeaderValue::from_str(it.1).is_ok());
            call.headers.extend(said.map(|(name, value)| (name, value.to_owned())));
        }
        call
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let identity = self.client.settings().identity.headers();
        let mut headers: Vec<_> = identity
            .into_iter()
            .filter(|it| !it.1.is_empty())
            .map(|(name, value, _)| (name, value.to_owned()))
            .collect();
        headers.push(("accept", "application/json, text/event-stream".to_owned()));
        let agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        headers.extend(agreed.session.iter().map(|it| (SESSION, it.clone())));
        headers.extend(agreed.version.iter().map(|it| (VERSION, it.clone())));
        headers
    }

    /// Passes the answer on; what cannot be passed on is the problem that comes back.
    fn answer(
        &self,
        mut response: ureq::http::Response<ureq::Body>,
        message: &Message,
    ) -> Option<String> {
        let status = response.status().as_u16();
        let header = |name: &str| {
            response.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned)
        };
        let session = header(SESSION);
        let kind = header(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let is_first = message.json["method"] == "initialize";
        if is_first && let Some(session) = session {
            self.agreed.lock().unwrap_or_else(PoisonError::into_inner).session = Some(session);
        }
        let mut body = response.body_mut().as_reader();
        if message.id.is_none() && status == 202 {
            return None;
        }
        let (mut count, mut text) = (0, String::new());
        let passed = if kind.starts_with("text/event-stream") {
            events(body, |text| count += usize::from(self.pass(text, message)))
        } else {
            body.read_to_string(&mut text).map(|_| count += usize::from(self.pass(&text, message)))
        };
        match passed {
            Err(error) => Some(format!("the answer broke off: {error}")),
            Ok(()) if count == 0 && (message.id.is_some() || status >= 400) => {
                Some(explained(status, &text))
            }
            Ok(()) => None,
        }
    }

    /// Writes a message of the service as one line, if it is one.
    fn pass(&self, text: &str, message: &Message) -> bool {
        let Ok(json) = serde_json::from_str::<Value>(text) else { return false };
        if json.get("jsonrpc").is_none() {
            return false;
        }
        if message.json["method"] == "initialize"
            && let Some(version) = json["result"]["protocolVersion"].as_str()
        {
            let mut agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
            agreed.version = Some(version.to_owned());
        }
        if self.is_abandoned(message) {
            return true;
        }
        match (&message.id, &json) {
            // The service could not make out the id.
            (Some(id), json) if json["error"].is_object() && json["id"].is_null() => {
                self.write(&error_of(id, &json["error"]));
            }
            // Line breaks stand between the tokens of JSON only, never within them.
            _ => self.write(&text.trim().replace(['\n', '\r'], " ")),
        }
        true
    }

    fn write(&self, message: &str) {
        let one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut output = std::io::stdout();
        let written = writeln!(output, "{message}").and_then(|()| output.flush());
        drop(one);
        if written.is_ok() || std::mem::replace(&mut self.state().is_broken, true) {
            return;
        }
        // Whoever has gone away waits for nothing. Standard input may stay open all the same, and the
        // thread that reads it can be ended in no other way.
        self.abandon(|_| true);
        self.end();
        std::process::exit(UNANSWERED.into());
    }

    /// Tells the service that the session is over, where it had begun one.
    fn end(&self) {
        let headers = self.headers();
        if headers.iter().any(|it| it.0 == SESSION) {
            let mut call = Call::new("DELETE", "/mcp");
            call.headers = headers;
            if let Err(error @ CallError::Invalid { .. }) = self.client.send(call) {
                eprintln!("coord: {error}");
            }
        }
    }
}

/// The members of an object as they are written.
type Members = BTreeMap<String, Box<RawValue>>;

/// How long the service is asked to wait before it answers.
fn waiting(message: &Value) -> Duration {
    let seconds = message["params"]["arguments"]["wait_seconds"].as_f64().unwrap_or_default();
    Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or_default()
}

fn failure(id: &str, code: i64, message: &str) -> String {
    error_of(id, &json!({ "code": code, "message": message }))
}

fn error_of(id: &str, error: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// An answer that is no message of the protocol, in words.
fn explained(status: u16, text: &str) -> String {
    let said = serde_json::from_str(text).map(|it: Value| detail(&it)).unwrap_or_default();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    match status {
        401 => format!("the API key is missing or unknown (401{said}): set COORDINATION_API_KEY"),
        403 => format!("not permitted (403){said}"),
        200..=299 => format!("the service answered {status} without a message of MCP"),
        status => format!("the service answered {status}{said}"),
    }
}

/// Reads the data of each event of a stream.
fn events(body: impl Read, mut take: impl FnMut(&str)) -> std::io::Result<()> {
    let mut data: Vec<String> = Vec::new();
    for line in BufReader::new(body).lines() {
        let line = line?;
        match line.strip_prefix("data:") {
            Some(text) => data.push(text.strip_prefix(' ').unwrap_or(text).to_owned()),
            None if line.is_empty() => {
                if !data.is_empty() {
                    take(&data.join("\n"));
                }
                data.clear();
            }
            None => {}
        }
    }
    if !data.is_empty() {
        take(&data.join("\n"));
    }
    Ok(())
}
