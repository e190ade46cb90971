//! A call whose session lives on another server: 421 with that server's name, by which a balancer or a client finds it.
//!
//! Runs in: server, before rmcp sees the request, since only here a status can be chosen. Where the session lives is `moves/away`'s. What
//! else keeps a session from being here is said by the tool.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::server::{mcp::identity::WHO, moves::away::AwayError, tools::call::server::Server};

/// Names the server, for balancers, which read no bodies.
const HEADER: HeaderName = HeaderName::from_static("forkpy-server");
/// Of the server's own making, as the protocol leaves these numbers to it.
const CODE: i32 = -32_010;

/// The refusal of a call for a session of another server. One that lies in the store is brought here meanwhile.
pub(super) async fn refusal(server: &Server, body: &[u8]) -> Option<Response> {
    server.away.as_ref()?;
    // What is no JSON is refused by those who read it whole.
    let request: Value = serde_json::from_slice(body).ok()?;
    if request["method"] != "tools/call" {
        return None;
    }
    let (tool, named) = (request["params"]["name"].as_str()?, request["params"]["arguments"]["session_id"].as_str());
    let (client, owner) = WHO.try_with(|who| (who.client.clone(), who.visitor.peek().clone())).ok()?;
    let error = server.find_at_the_door(tool, named, (&client, &owner)).await.err()?;
    let AwayError::Elsewhere { server: name, session, .. } = &error else { return None };
    let data = json!({ "server": name, "session_id": session });
    let said = json!({ "code": CODE, "message": error.to_string(), "data": data });
    let body = Json(json!({ "jsonrpc": "2.0", "id": request["id"], "error": said }));
    let mut response = (StatusCode::MISDIRECTED_REQUEST, body).into_response();
    if let Ok(name) = HeaderValue::from_str(name) {
        response.headers_mut().insert(HEADER, name);
    }
    Some(response)
}
