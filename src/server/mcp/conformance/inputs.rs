//! Fixtures that need the client's input before they can answer (SEP-2322).
//!
//! Runs in: server. What is to be known at the next call travels in `requestState`, sealed with a digest.

#![expect(deprecated, reason = "older protocols have sampling, roots and logging, and the suite asks for them")]

use rmcp::{
    ErrorData, RoleServer,
    model::{
        CallToolRequestParams, CallToolResponse, CreateMessageRequest, CreateMessageRequestParams, InputRequest,
        InputRequests, InputRequiredResult, InputResponses, ListRootsRequest, SamplingMessage, sha256_digest,
    },
    service::RequestContext,
};
use serde_json::{Map, Value};

use super::parts::{question, said};

pub(super) const NAMES: [&str; 9] = [
    "test_input_required_result_elicitation",
    "test_input_required_result_sampling",
    "test_input_required_result_list_roots",
    "test_input_required_result_request_state",
    "test_input_required_result_multiple_inputs",
    "test_input_required_result_multi_round",
    "test_input_required_result_tampered_state",
    "test_input_required_result_capabilities",
    "test_streaming_elicitation",
];

/// No secret: a fixture has nothing to protect.
const KEY: &str = "forkpy's conformance fixtures";

type Answer = Result<CallToolResponse, ErrorData>;

fn seal(state: &str) -> String {
    format!("{} {state}", sha256_digest(format!("{KEY} {state}").as_bytes()))
}

fn open(sealed: &str) -> Result<&str, ErrorData> {
    let state = sealed.split_once(' ').map(|(_, state)| state).filter(|state| seal(state) == sealed);
    state.ok_or_else(|| ErrorData::invalid_params("requestState is not what was given out", None))
}

/// A response is usable when it is an object; anything else is asked for again.
pub(super) fn response<'a>(responses: Option<&'a InputResponses>, key: &str) -> Option<&'a Map<String, Value>> {
    responses?.get(key)?.as_object()
}

pub(super) fn text_of<'a>(response: &'a Map<String, Value>, field: &str) -> &'a str {
    response.get("content").and_then(|content| content.get(field)).and_then(Value::as_str).unwrap_or("nothing")
}

fn sampling(prompt: &str) -> InputRequest {
    let params = CreateMessageRequestParams::new(vec![SamplingMessage::user_text(prompt)], 100);
    InputRequest::CreateMessage(CreateMessageRequest::new(params))
}

fn roots() -> InputRequest {
    InputRequest::ListRoots(ListRootsRequest::default())
}

pub(super) fn ask(requests: impl IntoIterator<Item = (&'static str, InputRequest)>, state: Option<&str>) -> Answer {
    let mut asked = InputRequests::new();
    for (key, request) in requests {
        asked.insert(key.into(), request);
    }
    Ok(InputRequiredResult::new(Some(asked), state.map(seal)).into())
}

pub(super) fn name() -> Result<(&'static str, InputRequest), ErrorData> {
    Ok(("user_name", question("What is your name?", "name", "string")?))
}

pub(super) fn call(request: &CallToolRequestParams, context: &RequestContext<RoleServer>) -> Option<Answer> {
    NAMES.contains(&request.name.as_ref()).then(|| answer(request, context))
}

fn answer(request: &CallToolRequestParams, context: &RequestContext<RoleServer>) -> Answer {
    let responses = request.input_responses.as_ref();
    let state = request.request_state.as_deref().map(open).transpose()?;
    match request.name.trim_start_matches("test_input_required_result_") {
        "elicitation" => match response(responses, "user_name") {
            Some(given) => Ok(said(format!("Hello, {}!", text_of(given, "name"))).into()),
            None => ask([name()?], None),
        },
        "sampling" => match response(responses, "capital_question") {
            Some(given) => Ok(said(format!("Sampling response: {}", text_of(given, "text"))).into()),
            None => ask([("capital_question", sampling("What is the capital of France?"))], None),
        },
        "list_roots" => match response(responses, "client_roots") {
            Some(given) => Ok(said(format!("Client roots: {}", Value::Object(given.clone()))).into()),
            None => ask([("client_roots", roots())], None),
        },
        "request_state" | "tampered_state" => match state {
            Some(_) => Ok(said("Confirmed: state-ok").into()),
            None => ask([("confirm", question("Please confirm", "ok", "boolean")?)], Some("confirm")),
        },
        "multiple_inputs" => {
            let all = ["user_name", "greeting", "client_roots"];
            if state.is_some() && all.iter().all(|key| response(responses, key).is_some()) {
                return Ok(said("All inputs received").into());
            }
            let greeting = ("greeting", sampling("Generate a greeting"));
            ask([name()?, greeting, ("client_roots", roots())], Some("gather"))
        }
        "multi_round" => match state {
            None => ask([("step1", question("Step 1: What is your name?", "name", "string")?)], Some("1")),
            Some("1") => ask([("step2", question("Step 2: Which colour?", "color", "string")?)], Some("2")),
            Some(_) => Ok(said("Multi-round flow complete").into()),
        },
        "capabilities" if responses.is_some() => Ok(said("Capability-aware flow complete").into()),
        "capabilities" => only_declared(context),
        _ => ask([("streaming_elicitation", question("Provide a value", "value", "string")?)], None),
    }
}

/// Asks for what the client has declared that it can give.
fn only_declared(context: &RequestContext<RoleServer>) -> Answer {
    let declared = context.meta.client_capabilities().unwrap_or_default();
    let mut wanted = Vec::new();
    if declared.elicitation.is_some() {
        wanted.push(name()?);
    }
    if declared.sampling.is_some() {
        wanted.push(("greeting", sampling("Generate a greeting")));
    }
    if declared.roots.is_some() {
        wanted.push(("client_roots", roots()));
    }
    if wanted.is_empty() {
        Ok(said("The client has declared nothing that could be asked for").into())
    } else {
        ask(wanted, None)
    }
}
