//! Fixtures that answer by themselves, or ask while they run (protocols up to 2025-11-25).
//!
//! Runs in: server.

#![expect(deprecated, reason = "older protocols have sampling, roots and logging, and the suite asks for them")]

use std::time::Duration;

use rmcp::{
    ErrorData, RoleServer,
    model::{
        AudioContent, CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ClientResult,
        ContentBlock, CreateMessageRequestParams, ElicitRequest, LoggingLevel, LoggingMessageNotificationParam,
        ProgressNotificationParam, ResourceContents, SamplingMessage, ServerRequest,
    },
    service::RequestContext,
};
use serde_json::{Value, json};

use super::parts::{HEADER_TOOL, PICTURE, form, said};

/// Those without arguments.
pub(super) const NAMES: [&str; 12] = [
    "test_simple_text",
    "test_image_content",
    "test_audio_content",
    "test_embedded_resource",
    "test_multiple_content_types",
    "test_tool_with_logging",
    "test_error_handling",
    "test_tool_with_progress",
    "test_elicitation_sep1034_defaults",
    "test_elicitation_sep1330_enums",
    "test_missing_capability",
    "test_logging_tool",
];

/// Silence, as WAV.
const SOUND: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=";
/// Between two notifications, so that each is sent by itself.
const PAUSE: Duration = Duration::from_millis(50);

fn embedded(uri: &str, mime: &str, text: &str) -> ContentBlock {
    ContentBlock::resource(ResourceContents::text(text, uri).with_mime_type(mime))
}

pub(super) async fn call(
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let text_of = |name: &str| request.arguments.as_ref()?.get(name)?.as_str();
    let result = match request.name.as_ref() {
        "test_simple_text" => Ok(said("This is a simple text response for testing.")),
        "test_image_content" => Ok(CallToolResult::success(vec![ContentBlock::image(PICTURE, "image/png")])),
        "test_audio_content" => {
            Ok(CallToolResult::success(vec![ContentBlock::Audio(AudioContent::new(SOUND, "audio/wav"))]))
        }
        "test_embedded_resource" => {
            let resource = embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.");
            Ok(CallToolResult::success(vec![resource]))
        }
        "test_multiple_content_types" => Ok(CallToolResult::success(vec![
            ContentBlock::text("Multiple content types test:"),
            ContentBlock::image(PICTURE, "image/png"),
            embedded("test://mixed-content-resource", "application/json", r#"{"test":"data","value":123}"#),
        ])),
        "test_error_handling" => {
            let words = "This tool intentionally returns an error for testing";
            Ok(CallToolResult::error(vec![ContentBlock::text(words)]))
        }
        "test_tool_with_logging" => Ok(logging(context).await),
        "test_logging_tool" => Ok(log_if_wanted(context).await),
        "test_tool_with_progress" => Ok(progress(context).await),
        "test_sampling" => Ok(sampling(context, text_of("prompt").unwrap_or_default()).await),
        "test_elicitation" => elicit(context, text_of("message").unwrap_or("Who are you?"), user_schema()).await,
        "test_elicitation_sep1034_defaults" => elicit(context, "All have defaults", defaults_schema()).await,
        "test_elicitation_sep1330_enums" => elicit(context, "Choose", enums_schema()).await,
        "test_missing_capability" => capability(context),
        "json_schema_2020_12_tool" => Ok(said("Hello!")),
        HEADER_TOOL => Ok(said(text_of("value").unwrap_or_default())),
        _ => return None,
    };
    Some(result.map(Into::into))
}

fn capability(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    let declared = context.meta.client_capabilities().unwrap_or_default();
    if declared.sampling.is_none() {
        let wanted = ClientCapabilities::builder().enable_sampling().build();
        return Err(ErrorData::missing_required_client_capability(wanted));
    }
    Ok(said("Required capability declared"))
}

async fn log(context: &RequestContext<RoleServer>, level: LoggingLevel, words: &str) {
    let message = LoggingMessageNotificationParam::new(level, json!(words)).with_logger("forkpy");
    // A client that has gone needs no messages.
    let _ = context.peer.notify_logging_message(message).await;
}

async fn logging(context: &RequestContext<RoleServer>) -> CallToolResult {
    for words in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
        log(context, LoggingLevel::Info, words).await;
        tokio::time::sleep(PAUSE).await;
    }
    said("Logging test completed")
}

async fn log_if_wanted(context: &RequestContext<RoleServer>) -> CallToolResult {
    if let Some(level) = context.meta.log_level() {
        log(context, level, "logLevel was requested").await;
    }
    said("Logging tool completed")
}

async fn progress(context: &RequestContext<RoleServer>) -> CallToolResult {
    for (done, words) in [(0.0, "Starting"), (50.0, "Halfway"), (100.0, "Complete")] {
        if let Some(token) = context.meta.get_progress_token() {
            let told = ProgressNotificationParam::new(token, done).with_total(100.0).with_message(words);
            let _ = context.peer.notify_progress(told).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    said("Progress test completed")
}

async fn sampling(context: &RequestContext<RoleServer>, prompt: &str) -> CallToolResult {
    let request = CreateMessageRequestParams::new(vec![SamplingMessage::user_text(prompt)], 100);
    match context.peer.create_message(request).await {
        Ok(result) => {
            let text = result.message.content.first().and_then(|content| content.as_text());
            said(format!("LLM response: {}", text.map_or("no text", |text| &text.text)))
        }
        Err(error) => CallToolResult::error(vec![ContentBlock::text(error.to_string())]),
    }
}

async fn elicit(
    context: &RequestContext<RoleServer>,
    message: &str,
    schema: Value,
) -> Result<CallToolResult, ErrorData> {
    let request = ServerRequest::ElicitRequest(ElicitRequest::new(form(message, schema)?));
    Ok(match context.peer.send_request(request).await {
        Ok(ClientResult::ElicitResult(result)) => {
            let (action, content) = (json!(result.action), json!(result.content));
            said(format!("Elicitation completed: action={action}, content={content}"))
        }
        Ok(_) => CallToolResult::error(vec![ContentBlock::text("that is no result of an elicitation")]),
        Err(error) => CallToolResult::error(vec![ContentBlock::text(error.to_string())]),
    })
}

fn user_schema() -> Value {
    json!({"type": "object", "required": ["username", "email"], "properties": {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"}}})
}

fn defaults_schema() -> Value {
    json!({"type": "object", "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": true}}})
}

fn enums_schema() -> Value {
    let titled = json!([{"const": "value1", "title": "First"}, {"const": "value2", "title": "Second"},
                        {"const": "value3", "title": "Third"}]);
    let words = json!(["option1", "option2", "option3"]);
    json!({"type": "object", "properties": {
        "untitledSingle": {"type": "string", "enum": words},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"],
                       "enumNames": ["Option One", "Option Two", "Option Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": words}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}}}})
}

/// What JSON Schema 2020-12 has beyond the plain.
pub(super) fn whole_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "address", "type": "object",
                              "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
        "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
        "allOf": [{"anyOf": [{"required": ["name"]}, {"required": ["address"]}]}],
        "if": {"required": ["address"]},
        "then": {"properties": {"address": {"required": ["street"]}}},
        "else": {"required": ["name"]},
        "additionalProperties": false
    })
}
