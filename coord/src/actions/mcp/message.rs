//! The messages of MCP, which are JSON-RPC: those of the client, and errors in answer to them.
use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json, value::RawValue};

use crate::service::answer::problem_detail;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const SERVER_ERROR: i64 = -32000;

/// The member of a message with the revision of the protocol that the message is written in.
const REVISION: &str = "io.modelcontextprotocol/protocolVersion";

const CANCELLED: &str = "notifications/cancelled";

/// The id in answers to messages without a valid one.
const NO_ID: &str = "null";

/// The members of an object as they are written, so that numbers of any size stay exact.
type Members = BTreeMap<String, Box<RawValue>>;

/// A message of the client.
#[derive(Debug)]
pub(super) struct Message {
    /// The message as it is written.
    pub(super) line: String,
    pub(super) json: Value,
    /// The id as it is written. `None` if the message gets no answer: a notification, or the answer
    /// to a request of the server.
    pub(super) id: Option<String>,
    /// The id of the request that the message cancels, as it is written.
    pub(super) cancelled_id: Option<String>,
}

impl Message {
    /// Parses a line. The error is the answer to a line that is not a message.
    pub(super) fn parse(line: &[u8]) -> Result<Message, String> {
        let parse_error = |error: String| error_message(NO_ID, PARSE_ERROR, &error);
        let invalid = |reason: &str| error_message(NO_ID, INVALID_REQUEST, reason);
        let line = str::from_utf8(line).map_err(|error| parse_error(error.to_string()))?;
        let json: Value =
            serde_json::from_str(line).map_err(|error| parse_error(error.to_string()))?;
        if json.is_array() {
            return Err(invalid("batches are not supported: send one message on a line"));
        }
        let Ok(members) = serde_json::from_str::<Members>(line) else {
            return Err(invalid("expected an object"));
        };
        let id = members.get("id").map(|id| id.get().to_owned());
        if id.is_some() && !matches!(json["id"], Value::String(_) | Value::Number(_)) {
            return Err(invalid("expected a text or a number as the id"));
        }
        let is_answer = json.get("result").is_some() || json.get("error").is_some();
        if !json["method"].is_string() && !is_answer {
            let id = id.as_deref().unwrap_or(NO_ID);
            return Err(error_message(id, INVALID_REQUEST, "expected a method"));
        }
        let cancelled_id = (json["method"] == CANCELLED).then(|| cancelled_id(&members)).flatten();
        let id = id.filter(|_| !is_answer);
        Ok(Message { line: line.trim().to_owned(), json, id, cancelled_id })
    }

    /// Whether the message opens the connection.
    pub(super) fn is_initialize(&self) -> bool {
        self.json["method"] == "initialize"
    }

    /// Returns the revision of the protocol that the message names, as those without `initialize` do.
    pub(super) fn revision(&self) -> Option<&str> {
        self.json["params"]["_meta"][REVISION].as_str()
    }

    /// Returns the session that the message registers and names.
    pub(super) fn registered_session(&self) -> Option<&str> {
        let session_id = self.json["params"]["arguments"]["session_id"].as_str();
        session_id.filter(|id| self.calls("register_session") && !id.is_empty())
    }

    /// Whether the message calls this tool.
    pub(super) fn calls(&self, tool: &str) -> bool {
        self.json["method"] == "tools/call" && self.json["params"]["name"] == tool
    }

    /// Returns for how long the service is asked to wait before it answers.
    pub(super) fn wait(&self) -> Duration {
        let seconds = self.json["params"]["arguments"]["wait_seconds"].as_f64().unwrap_or_default();
        Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or_default()
    }
}

fn cancelled_id(members: &Members) -> Option<String> {
    let params: Members = serde_json::from_str(members.get("params")?.get()).ok()?;
    Some(params.get("requestId")?.get().to_owned())
}

/// Returns an answer with an error of this program.
pub(super) fn server_error(id: &str, message: &str) -> String {
    error_message(id, SERVER_ERROR, message)
}

fn error_message(id: &str, code: i64, message: &str) -> String {
    with_error(id, &json!({ "code": code, "message": message }))
}

/// Returns an answer with an error of JSON-RPC.
pub(super) fn with_error(id: &str, error: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// Describes an answer of the service that is not a message of MCP.
pub(super) fn describe_failure(status: u16, text: &str) -> String {
    let detail = serde_json::from_str::<Value>(text).map(|answer| problem_detail(&answer));
    let detail = match detail.unwrap_or_default() {
        detail if detail.is_empty() => detail,
        detail => format!(": {detail}"),
    };
    match status {
        401 => format!("the API key is missing or unknown (401{detail}): set COORDINATION_API_KEY"),
        403 => format!("not permitted (403){detail}"),
        200..=299 => format!("the service answered {status} without a message of MCP"),
        status => format!("the service answered {status}{detail}"),
    }
}
