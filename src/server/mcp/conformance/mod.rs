//! Tools, prompts and resources that the official conformance suite calls by name. Only in builds with the cargo feature
//! `conformance`, which no release has, and there only with `FORKPY_CONFORMANCE=1`.
//!
//! Runs in: server. Answers with what the suite expects, touches no session and no file. After the SDK's own fixtures
//! (modelcontextprotocol/rust-sdk, conformance/src/bin/server.rs). Tasks have none here.

mod inputs;
mod plain;
mod prompts;
mod resources;

use std::sync::LazyLock;

use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ElicitRequest, ElicitRequestParams,
        ErrorCode, InputRequest, JsonObject, ServerCapabilities, Tool,
    },
    service::RequestContext,
};
use serde_json::{Value, json};

pub(super) use self::prompts::{get as prompt, list as prompts};
pub(crate) use self::resources::Fixtures;

/// A red dot as PNG.
const PICTURE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";

/// The tool whose argument is mirrored as a header and checked by the transport.
const HEADER_TOOL: &str = "test_custom_header";

static ON: LazyLock<bool> = LazyLock::new(|| std::env::var_os("FORKPY_CONFORMANCE").is_some_and(|value| value == "1"));

/// Whether the fixtures are wanted.
pub(crate) fn is_on() -> bool {
    *ON
}

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
    let mut tools: Vec<Tool> = plain::NAMES.iter().chain(&inputs::NAMES).map(|name| tool(name, nothing())).collect();
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

fn said(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// A form to be filled in by the client's user.
fn form(message: &str, schema: Value) -> Result<ElicitRequestParams, ErrorData> {
    let requested_schema =
        serde_json::from_value(schema).map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(ElicitRequestParams::FormElicitationParams { meta: None, message: message.to_owned(), requested_schema })
}

fn question(message: &str, field: &str, kind: &str) -> Result<InputRequest, ErrorData> {
    let schema = json!({"type": "object", "properties": {field: {"type": kind}}, "required": [field]});
    Ok(InputRequest::Elicitation(ElicitRequest::new(form(message, schema)?)))
}
