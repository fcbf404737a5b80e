//! The MCP door: the operations as tools, over streamable HTTP without any state in the process.
//!
//! The protocol is the library's, for clients that `initialize` and for those that do not. Name,
//! arguments and description of a tool come from its operation. A tool call is authorized as its
//! operation, everything else as `use_mcp`.
mod endpoint;
mod form;
mod message;
mod prompts;
mod request;
mod server;
mod sets;

pub(crate) use endpoint::endpoint;
