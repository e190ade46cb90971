//! What the fixtures have in common.
//!
//! Runs in: server.

use std::sync::LazyLock;

use rmcp::{
    ErrorData,
    model::{CallToolResult, ContentBlock, ElicitRequest, ElicitRequestParams, InputRequest},
};
use serde_json::{Value, json};

/// A red dot as PNG.
pub(super) const PICTURE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";

/// The tool whose argument is mirrored as a header and checked by the transport.
pub(super) const HEADER_TOOL: &str = "test_custom_header";

static ON: LazyLock<bool> = LazyLock::new(|| std::env::var_os("FORKPY_CONFORMANCE").is_some_and(|value| value == "1"));

/// Whether the fixtures are wanted.
pub(super) fn is_on() -> bool {
    *ON
}

pub(super) fn said(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

/// A form to be filled in by the client's user.
pub(super) fn form(message: &str, schema: Value) -> Result<ElicitRequestParams, ErrorData> {
    let requested_schema =
        serde_json::from_value(schema).map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(ElicitRequestParams::FormElicitationParams { meta: None, message: message.to_owned(), requested_schema })
}

pub(super) fn question(message: &str, field: &str, kind: &str) -> Result<InputRequest, ErrorData> {
    let schema = json!({"type": "object", "properties": {field: {"type": kind}}, "required": [field]});
    Ok(InputRequest::Elicitation(ElicitRequest::new(form(message, schema)?)))
}
