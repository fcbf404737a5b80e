//! An MCP server on standard input and output that passes everything on to the one of the service.
//! The invariant: nothing but the protocol is written to standard output, one message on a line.
use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use ureq::http::{HeaderValue, header};

use crate::{
    client::{Call, CallError, Client, in_query},
    outcome::{DONE, Outcome},
};

/// How long an answer may take: tools may wait for a lock or for work.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

/// Where a message names the revision of the protocol that it is in.
const VERSION_IN_MESSAGE: &str = "io.modelcontextprotocol/protocolVersion";

const PARSE_ERROR: i64 = -32700;
const SERVER_ERROR: i64 = -32000;

/// What was agreed on when the connection was initialised.
#[derive(Debug, Default)]
struct Agreed {
    session: Option<String>,
    version: Option<String>,
}

struct Proxy<'a> {
    client: &'a Client,
    path: String,
    agreed: Mutex<Agreed>,
    /// One message at a time.
    writing: Mutex<()>,
}

/// Serves until standard input ends and every request that came is answered.
pub(crate) fn serve(client: Client, tools: Option<&str>) -> Outcome {
    let path = match tools {
        Some(tools) => format!("/mcp?tools={}", in_query(tools)),
        None => "/mcp".to_owned(),
    };
    let proxy =
        Proxy { client: &client, path, agreed: Mutex::default(), writing: Mutex::default() };
    thread::scope(|scope| {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if line.trim().is_empty() {
                continue;
            }
            let message: Value = match serde_json::from_str(&line) {
                Ok(message) => message,
                Err(error) => {
                    proxy.write(&failure(&Value::Null, PARSE_ERROR, &error.to_string()));
                    continue;
                }
            };
            // What comes after these two builds on them; anything else may take its time.
            let is_first = message["method"] == "initialize" || message["id"].is_null();
            if is_first && !message.is_array() {
                proxy.forward(&line, &message);
            } else {
                let proxy = &proxy;
                scope.spawn(move || proxy.forward(&line, &message));
            }
        }
    });
    proxy.end();
    Ok(DONE)
}

impl Proxy<'_> {
    fn forward(&self, line: &str, message: &Value) {
        let problem = match self.client.open(&self.call(line, message)) {
            Ok(response) => self.answer(response, message),
            Err(error) => Some(error.to_string()),
        };
        let Some(problem) = problem else { return };
        match &message["id"] {
            // Nobody waits for an answer to a notification.
            Value::Null => eprintln!("coord: {problem}"),
            id => self.write(&failure(id, SERVER_ERROR, &problem)),
        }
    }

    fn call(&self, line: &str, message: &Value) -> Call {
        let mut call = Call::new("POST", &self.path);
        call.body = Some(line.to_owned());
        call.headers = self.headers();
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
        message: &Value,
    ) -> Option<String> {
        let status = response.status().as_u16();
        let header = |name: &str| {
            response.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned)
        };
        let session = header(SESSION);
        let kind = header(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let is_first = message["method"] == "initialize";
        if is_first && let Some(session) = session {
            self.agreed.lock().unwrap_or_else(PoisonError::into_inner).session = Some(session);
        }
        let mut body = response.body_mut().as_reader();
        if status == 202 {
            return None;
        }
        let mut count = 0;
        let passed = if kind.starts_with("text/event-stream") {
            events(body, |text| count += usize::from(self.pass(text, is_first)))
        } else {
            let mut text = String::new();
            body.read_to_string(&mut text).map(|_| count += usize::from(self.pass(&text, is_first)))
        };
        match passed {
            Err(error) => Some(format!("the answer broke off: {error}")),
            Ok(()) if count == 0 && !message["id"].is_null() => Some(match status {
                401 => {
                    "the API key is missing or unknown (401): set COORDINATION_API_KEY".to_owned()
                }
                403 => "not permitted (403)".to_owned(),
                status => format!("the service answered {status} without a message of MCP"),
            }),
            Ok(()) => None,
        }
    }

    /// Writes a message of the service as one line, if it is one.
    fn pass(&self, text: &str, is_first: bool) -> bool {
        let Ok(message) = serde_json::from_str::<Value>(text) else { return false };
        let is_message = |it: &Value| it.get("jsonrpc").is_some();
        if !is_message(&message) && !message.as_array().is_some_and(|it| it.iter().all(is_message))
        {
            return false;
        }
        if is_first && let Some(version) = message["result"]["protocolVersion"].as_str() {
            let mut agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
            agreed.version = Some(version.to_owned());
        }
        self.write(&message);
        true
    }

    fn write(&self, message: &Value) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut output = std::io::stdout();
        // Who has gone away needs no answer.
        let _ = writeln!(output, "{message}").and_then(|()| output.flush());
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

fn failure(id: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
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
