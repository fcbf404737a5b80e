//! The messages of a request, as far as they must be known before the protocol reads them: who is to
//! answer, and what to say of those that nobody can read.
use axum::{
    Json,
    body::Bytes,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const INVALID_PARAMS: i64 = -32602;

/// The last revision of the protocol in which a request may be a list of messages; the one that a
/// request without a revision is in.
const LAST_WITH_BATCHES: &str = "2025-03-26";

/// The most messages of a batch.
const MOST_MESSAGES: usize = 100;

/// What a request holds.
pub(super) struct Incoming {
    pub(super) messages: Vec<Message>,
    /// Whether they came as a list, which is answered with one.
    pub(super) is_batch: bool,
}

/// One message.
pub(super) struct Message {
    pub(super) asks: Asks,
    pub(super) body: Bytes,
}

/// What a message asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// A call of the tool of this name.
    Tool(String),
    /// The resource at this address.
    Resource(String),
    /// Something that runs no operation.
    Nothing {
        /// Whether it opens a connection.
        is_initialize: bool,
    },
}

/// A message that is not passed on.
pub(super) struct Refused {
    status: StatusCode,
    id: Value,
    code: i64,
    text: String,
}

impl Refused {
    pub(super) fn respond(&self) -> Response {
        let error = json!({ "code": self.code, "message": self.text });
        let body = json!({ "jsonrpc": "2.0", "id": self.id, "error": error });
        (self.status, Json(body)).into_response()
    }
}

fn unreadable(code: i64, text: impl Into<String>) -> Refused {
    Refused { status: StatusCode::BAD_REQUEST, id: Value::Null, code, text: text.into() }
}

/// The messages of a body. A body of another type is left to the library, which refuses it.
pub(super) fn read(headers: &HeaderMap, body: Bytes) -> Result<Incoming, Refused> {
    let single = |asks, body| Incoming { messages: vec![Message { asks, body }], is_batch: false };
    let content = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    if !content.is_some_and(|it| it.to_ascii_lowercase().starts_with("application/json")) {
        return Ok(single(Asks::Nothing { is_initialize: false }, body));
    }
    let message: Value = serde_json::from_slice(&body)
        .map_err(|_| unreadable(PARSE_ERROR, "Parse error: the body is no valid JSON"))?;
    let Value::Array(messages) = message else {
        return Ok(single(asks(&message)?, body));
    };
    let revision = headers.get("mcp-protocol-version").map(|it| it.as_bytes());
    if revision.is_some_and(|it| it > LAST_WITH_BATCHES.as_bytes()) {
        let text = "Invalid Request: this revision has no batches; send one message";
        return Err(unreadable(INVALID_REQUEST, text));
    }
    if !(1..=MOST_MESSAGES).contains(&messages.len()) {
        let text = format!("Invalid Request: expected 1 to {MOST_MESSAGES} messages");
        return Err(unreadable(INVALID_REQUEST, text));
    }
    let messages = messages.iter().map(|it| match asks(it)? {
        Asks::Nothing { is_initialize: true } => {
            Err(unreadable(INVALID_REQUEST, "Invalid Request: initialize stands alone"))
        }
        asks => Ok(Message { asks, body: it.to_string().into() }),
    });
    Ok(Incoming { messages: messages.collect::<Result<_, _>>()?, is_batch: true })
}

/// What a message asks for, if it is one.
fn asks(message: &Value) -> Result<Asks, Refused> {
    let invalid = |text: &str| unreadable(INVALID_REQUEST, format!("Invalid Request: {text}"));
    if !message.is_object() || message["jsonrpc"] != "2.0" {
        return Err(invalid("expected an object with `jsonrpc`: \"2.0\""));
    }
    let nothing = Asks::Nothing { is_initialize: false };
    let Some(method) = message.get("method") else { return Ok(nothing) };
    let method = method.as_str().ok_or_else(|| invalid("`method` must be text"))?;
    // A notification: nobody would hear what comes of an operation.
    let Some(id) = message.get("id") else { return Ok(nothing) };
    if !(id.is_string() || id.is_i64()) {
        return Err(invalid("`id` must be text or an integer of 64 bits"));
    }
    let params = &message["params"];
    let wrong = |text: &str| {
        let (status, id, code) = (StatusCode::OK, id.clone(), INVALID_PARAMS);
        Refused { status, id, code, text: format!("Invalid params: {text}") }
    };
    let text = |name: &str| {
        let value = params[name].as_str().map(str::to_owned);
        value.ok_or_else(|| wrong(&format!("`{name}` must be text")))
    };
    let object = |name: &str| match &params[name] {
        Value::Null | Value::Object(_) => Ok(()),
        _ => Err(wrong(&format!("`{name}` must be an object"))),
    };
    match method {
        "tools/call" => {
            object("arguments")?;
            text("name").map(Asks::Tool)
        }
        "resources/read" => text("uri").map(Asks::Resource),
        "prompts/get" => {
            object("arguments")?;
            text("name").map(|_| nothing)
        }
        method => Ok(Asks::Nothing { is_initialize: method == "initialize" }),
    }
}
