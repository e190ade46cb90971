//! Tools, prompts and resources that the official conformance suite calls by name. Only in builds with the cargo feature
//! `conformance`, which no release has, and there only with `FORKPY_CONFORMANCE=1`.
//!
//! Runs in: server. Answers with what the suite expects, touches no file, and no session but for tasks. After the SDK's own fixtures
//! (modelcontextprotocol/rust-sdk, conformance/src/bin/server.rs). Those of tasks run cells: `tasks.rs`.

mod inputs;
mod parts;
mod plain;
pub(super) mod prompts;
pub(crate) mod resources;
pub(super) mod tasks;

use rmcp::{
    ErrorData, RoleServer,
    model::{CallToolRequestParams, CallToolResponse, ErrorCode, JsonObject, ServerCapabilities, Tool},
    service::RequestContext,
};
use serde_json::{Value, json};

use self::parts::{HEADER_TOOL, is_on};

fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(object) => object,
        _ => JsonObject::new(),
    }
}

fn tool(name: &'static str, schema: Value) -> Tool {
    Tool::new(name, "A fixture of the conformance suite.", object(schema))
}

/// A tool that the transport looks at before it is called.
pub(super) fn checked_by_transport(name: &str) -> Option<Tool> {
    let schema = json!({"type": "object", "required": ["value"],
                        "properties": {"value": {"type": "string", "x-mcp-header": "Value"}}});
    (is_on() && name == HEADER_TOOL).then(|| tool(HEADER_TOOL, schema))
}

pub(super) fn tools() -> Vec<Tool> {
    if !is_on() {
        return Vec::new();
    }
    let nothing = || json!({"type": "object", "properties": {}});
    let names = plain::NAMES.iter().chain(&inputs::NAMES).chain(&tasks::NAMES);
    let mut tools: Vec<Tool> = names.map(|name| tool(name, nothing())).collect();
    tools.extend(checked_by_transport(HEADER_TOOL));
    for (name, argument) in [("test_sampling", "prompt"), ("test_elicitation", "message")] {
        let schema = json!({"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]});
        tools.push(tool(name, schema));
    }
    tools.push(tool("json_schema_2020_12_tool", plain::whole_schema()));
    tools
}

/// What a server with fixtures declares beside forkpy's own.
pub(super) fn declared(mut own: ServerCapabilities) -> ServerCapabilities {
    if is_on() {
        own.logging = Some(JsonObject::new());
    }
    own
}

/// Sets no level: all messages are sent.
pub(super) fn level() -> Result<(), ErrorData> {
    let refused = ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "logging/setLevel", None);
    if is_on() { Ok(()) } else { Err(refused) }
}

/// The answer, when it is a fixture that is called.
pub(super) async fn call(
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    if !is_on() {
        return None;
    }
    match inputs::call(request, context) {
        Some(answer) => Some(answer),
        None => plain::call(request, context).await,
    }
}
