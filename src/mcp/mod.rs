//! The MCP interface: the operations as tools, over streamable HTTP, without state in the process.
//!
//! The library rmcp implements the protocol, for clients that `initialize` and for clients that do not.
//! Name, arguments and description of a tool come from its operation. A tool call is authorized as its
//! operation, everything else as `use_mcp`.
mod answer;
mod arguments;
mod bounds;
mod document;
mod endpoint;
mod form;
mod message;
mod paths;
mod prompts;
mod reading;
mod repeated;
mod request;
mod server;
mod sets;

pub use document::mcp_document;
pub(crate) use endpoint::endpoint;
