//! `coord mcp`: an MCP server on standard input and output that forwards to the service.
mod events;
mod message;
mod offline;
pub(super) mod proxy;
mod released;
