//! The messages of a request. They are parsed before the library gets them, to find the operation that each
//! message runs, and to refuse messages that are not valid JSON-RPC.
use axum::{
    Json,
    body::Bytes,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json, value::RawValue};

use super::{
    reading::{IsFreeForm, Reader},
    repeated::has_repeated_member,
};
use crate::values::limits::MAX_ID_BYTES;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const INVALID_PARAMS: i64 = -32602;

/// The last revision of the protocol in which a request can be a list of messages. A request without a
/// revision counts as this one.
const LAST_WITH_BATCHES: &str = "2025-03-26";

/// The maximum number of messages of a batch.
const MAX_MESSAGES: usize = 100;

/// What a request contains.
pub(super) struct Incoming {
    pub(super) messages: Vec<Message>,
    /// Whether they came as a list, which is answered with a list.
    pub(super) is_batch: bool,
}

/// One message.
pub(super) struct Message {
    pub(super) asks: Asks,
    /// The id of a request, as JSON.
    pub(super) id: Option<String>,
    pub(super) body: Bytes,
}

/// What a message asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// A call of the tool of this name.
    Tool(String),
    /// The resource at this address.
    Resource(String),
    /// The end of the call of the request with this id, as JSON.
    Cancellation(String),
    /// Something that runs no operation.
    Nothing {
        /// Whether it opens a connection.
        is_initialize: bool,
    },
}

/// The answer to a request that is not passed on to the library.
pub(super) struct Refusal {
    status: StatusCode,
    id: Value,
    code: i64,
    text: String,
}

impl Refusal {
    pub(super) fn respond(&self) -> Response {
        let error = json!({ "code": self.code, "message": self.text });
        let body = json!({ "jsonrpc": "2.0", "id": self.id, "error": error });
        (self.status, Json(body)).into_response()
    }
}

fn invalid_request(code: i64, text: impl Into<String>) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, id: Value::Null, code, text: text.into() }
}

/// Parses the messages of a body. A body of another type is left to the library, which refuses it.
pub(super) fn parse(
    headers: &HeaderMap,
    body: Bytes,
    is_free_form: &IsFreeForm<'_>,
) -> Result<Incoming, Refusal> {
    let single =
        |asks, id, body| Incoming { messages: vec![Message { asks, id, body }], is_batch: false };
    let content = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content.is_some_and(|content| content.to_ascii_lowercase().starts_with("application/json"))
    {
        return Ok(single(Asks::Nothing { is_initialize: false }, None, body));
    }
    let not_json =
        || invalid_request(PARSE_ERROR, "Parse error: the body is not valid JSON".to_owned());
    let reader = Reader::new(is_free_form);
    let read = |text: &str| {
        let mut message = reader.message(text).map_err(|_| not_json())?;
        read_params(&mut message);
        Ok(message)
    };
    let text: &RawValue = serde_json::from_slice(&body).map_err(|_| not_json())?;
    if has_repeated_member(&body) {
        return Err(invalid("a member occurs twice"));
    }
    if !text.get().starts_with('[') {
        let message = read(text.get())?;
        return Ok(single(asks(&message)?, id_of(&message), message.to_string().into()));
    }
    let texts: Vec<&RawValue> = serde_json::from_str(text.get()).map_err(|_| not_json())?;
    let revision = headers.get("mcp-protocol-version").map(|value| value.as_bytes());
    if revision.is_some_and(|revision| revision > LAST_WITH_BATCHES.as_bytes()) {
        let text = "Invalid Request: this revision has no batches; send one message";
        return Err(invalid_request(INVALID_REQUEST, text));
    }
    if !(1..=MAX_MESSAGES).contains(&texts.len()) {
        let text = format!("Invalid Request: expected 1 to {MAX_MESSAGES} messages");
        return Err(invalid_request(INVALID_REQUEST, text));
    }
    let messages = texts.into_iter().map(|text| {
        let message = read(text.get())?;
        match asks(&message)? {
            Asks::Nothing { is_initialize: true } => {
                Err(invalid_request(INVALID_REQUEST, "Invalid Request: send initialize by itself"))
            }
            asks => Ok(Message { asks, id: id_of(&message), body: message.to_string().into() }),
        }
    });
    Ok(Incoming { messages: messages.collect::<Result<_, _>>()?, is_batch: true })
}

fn id_of(message: &Value) -> Option<String> {
    message.get("id").map(Value::to_string)
}

/// Takes parameters and arguments that are null or blank for absent.
fn read_params(message: &mut Value) {
    let is_nothing = |value: &Value| {
        value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
    };
    let Some(members) = message.as_object_mut() else { return };
    if members.get("params").is_some_and(is_nothing) {
        members.remove("params");
        return;
    }
    let Some(Value::Object(params)) = members.get_mut("params") else { return };
    if params.get("arguments").is_some_and(is_nothing) {
        params.remove("arguments");
    }
}

/// The member of `_meta` in which requests of the newest revisions name their revision.
const REVISION: &str = "io.modelcontextprotocol/protocolVersion";

/// Returns what is wrong with the parameters that open a connection, if anything.
fn initialize_problem(params: &Value) -> Option<String> {
    let lacking = [
        ("protocolVersion", params["protocolVersion"].is_string(), "text such as \"2025-11-25\""),
        ("capabilities", params["capabilities"].is_object(), "an object, which can be empty"),
        (
            "clientInfo",
            params["clientInfo"]["name"].is_string(),
            "an object with `name` and `version`",
        ),
        (
            "clientInfo",
            params["clientInfo"]["version"].is_string(),
            "an object with `name` and `version`",
        ),
    ];
    let (name, _, expected) = lacking.into_iter().find(|(_, is_there, _)| !is_there)?;
    Some(format!("`params` of initialize: `{name}` must be {expected}"))
}

fn invalid(text: &str) -> Refusal {
    invalid_request(INVALID_REQUEST, format!("Invalid Request: {text}"))
}

/// Refuses what cannot be the id of a request.
fn check_id(name: &str, id: &Value) -> Result<(), Refusal> {
    if id.is_i64() || id.as_str().is_some_and(|text| text.len() <= MAX_ID_BYTES) {
        return Ok(());
    }
    let expected = format!("text of at most {MAX_ID_BYTES} bytes or an integer of 64 bits");
    Err(invalid(&format!("`{name}` must be {expected}")))
}

/// Returns what a message asks for, if it is a message.
fn asks(message: &Value) -> Result<Asks, Refusal> {
    if !message.is_object() || message["jsonrpc"] != "2.0" {
        return Err(invalid("expected an object with `jsonrpc`: \"2.0\""));
    }
    let nothing = Asks::Nothing { is_initialize: false };
    let Some(method) = message.get("method") else { return Ok(nothing) };
    let method = method.as_str().ok_or_else(|| invalid("`method` must be text"))?;
    // A notification has no answer, so it runs no operation.
    let Some(id) = message.get("id") else {
        let cancelled = &message["params"]["requestId"];
        if method != "notifications/cancelled" || cancelled.is_null() {
            return Ok(nothing);
        }
        check_id("requestId", cancelled)?;
        return Ok(Asks::Cancellation(cancelled.to_string()));
    };
    check_id("id", id)?;
    let params = &message["params"];
    let wrong = |text: &str| {
        let (status, id, code) = (StatusCode::OK, id.clone(), INVALID_PARAMS);
        Refusal { status, id, code, text: format!("Invalid params: {text}") }
    };
    let text = |name: &str| {
        let value = params[name].as_str().map(str::to_owned);
        value.ok_or_else(|| wrong(&format!("`{name}` must be text")))
    };
    let object = |name: &str| match &params[name] {
        Value::Null | Value::Object(_) => Ok(()),
        _ => Err(wrong(&format!("`{name}` must be an object"))),
    };
    if !(params.is_null() || params.is_object()) {
        return Err(wrong("`params` must be an object"));
    }
    match method {
        // A revision that names itself in each request has no initialize: the library says so.
        "initialize" if params["_meta"].get(REVISION).is_some() => Ok(nothing),
        "initialize" => match initialize_problem(params) {
            Some(text) => Err(wrong(&text)),
            None => Ok(Asks::Nothing { is_initialize: true }),
        },
        "tools/call" => {
            object("arguments")?;
            text("name").map(Asks::Tool)
        }
        "resources/read" => text("uri").map(Asks::Resource),
        "prompts/get" => {
            object("arguments")?;
            text("name").map(|_| nothing)
        }
        _ => Ok(nothing),
    }
}
