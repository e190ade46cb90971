//! Prompts that the suite asks for.
//!
//! Runs in: server.

use rmcp::{
    ErrorData,
    model::{
        ContentBlock, GetPromptRequestParams, GetPromptResponse, GetPromptResult, ImageContent, InputRequests,
        InputRequiredResult, Prompt, PromptArgument, PromptMessage, ResourceContents, Role,
    },
};

use super::{
    inputs::{response, text_of},
    parts::{PICTURE, is_on, question},
};

pub(in crate::server::mcp) fn list() -> Vec<Prompt> {
    if !is_on() {
        return Vec::new();
    }
    let arguments = vec![
        PromptArgument::new("arg1").with_description("First test argument").with_required(true),
        PromptArgument::new("arg2").with_description("Second test argument").with_required(false),
    ];
    let prompt = |name: &str, arguments| Prompt::new(name, Some("A fixture of the conformance suite."), arguments);
    vec![
        prompt("test_simple_prompt", None),
        prompt("test_prompt_with_arguments", Some(arguments)),
        prompt("test_prompt_with_embedded_resource", None),
        prompt("test_prompt_with_image", None),
        prompt("test_input_required_result_prompt", None),
    ]
}

fn user(text: impl Into<String>) -> PromptMessage {
    PromptMessage::new_text(Role::User, text)
}

/// The prompt, when it is a fixture that is asked for.
pub(in crate::server::mcp) fn get(request: &GetPromptRequestParams) -> Option<Result<GetPromptResponse, ErrorData>> {
    if !is_on() {
        return None;
    }
    let argument = |name: &str| request.arguments.as_ref().and_then(|given| given.get(name)?.as_str()).unwrap_or("");
    let messages = match request.name.as_str() {
        "test_simple_prompt" => vec![user("This is a simple test prompt.")],
        "test_prompt_with_arguments" => {
            let (first, second) = (argument("arg1"), argument("arg2"));
            vec![user(format!("Prompt with arguments: arg1='{first}', arg2='{second}'"))]
        }
        "test_prompt_with_embedded_resource" => {
            let uri = argument("resourceUri");
            let uri = if uri.is_empty() { "test://static-text" } else { uri };
            let resource = ResourceContents::text("Resource content for prompt", uri).with_mime_type("text/plain");
            vec![PromptMessage::new(Role::User, ContentBlock::resource(resource)), user("Please look at it.")]
        }
        "test_prompt_with_image" => {
            let picture = ContentBlock::Image(ImageContent::new(PICTURE, "image/png"));
            vec![PromptMessage::new(Role::User, picture), user("Please look at it.")]
        }
        "test_input_required_result_prompt" => return Some(asking(request)),
        _ => return None,
    };
    Some(Ok(GetPromptResult::new(messages).into()))
}

fn asking(request: &GetPromptRequestParams) -> Result<GetPromptResponse, ErrorData> {
    if let Some(given) = response(request.input_responses.as_ref(), "user_context") {
        let words = format!("Prompt with elicited context: {}", text_of(given, "context"));
        return Ok(GetPromptResult::new(vec![user(words)]).into());
    }
    let mut requests = InputRequests::new();
    requests.insert("user_context".into(), question("What context should the prompt use?", "context", "string")?);
    Ok(InputRequiredResult::from_input_requests(requests).into())
}
