//! What a client learns of the MCP endpoint before it calls a tool, as a document. `coord mcp` is built with
//! it, and answers from it while the service is not there.
use rmcp::{
    ServerHandler as _,
    model::{DiscoverResult, ProtocolVersion},
};
use serde_json::{Map, Value, json};

use super::{
    prompts,
    server::{Server, listed, listed_resource},
    sets::ToolSets,
};
use crate::operation::Operations;

/// Returns the answers to `initialize` and `server/discover`, the revisions of the protocol that have
/// `initialize`, the tool sets, and every tool, resource and prompt.
///
/// # Panics
/// When a tool of a set does not exist, as at the start of the service.
pub fn mcp_document(operations: &Operations) -> Value {
    let server = Server { operations: operations.clone() };
    let sets = ToolSets::new(operations);
    let names: Map<String, Value> =
        sets.by_set().map(|(set, names)| (set.to_owned(), json!(names))).collect();
    let tools: Vec<_> = sets.all().map(|tool| listed(tool)).collect();
    let resources: Vec<_> = operations.resources().map(|it| listed_resource(it)).collect();
    let discovered = DiscoverResult::from_server_info(
        server.supported_protocol_versions().into_owned(),
        server.get_info(),
    );
    json!({
        "initialize": server.get_info(),
        "discover": discovered,
        "versions": ProtocolVersion::known_up_to(&ProtocolVersion::V_2025_11_25),
        "sets": names,
        "tools": tools,
        "resources": resources,
        "prompts": prompts::list(),
    })
}
