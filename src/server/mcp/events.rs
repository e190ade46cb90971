//! Events (SEP-3415), by asking: `events/list` and `events/poll`. rmcp knows the extension not yet, and hands its requests on as they are.
//!
//! Runs in: server. What has happened is `sessions/occurrences.rs`; here it gets the form that clients know. Events that are pushed
//! (`events/stream`) and webhooks are not offered: each type says that it is polled.

use std::time::Duration;

use rmcp::{
    ErrorData,
    model::{CustomRequest, CustomResult, ErrorCode},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::server::{
    owner::Owner,
    sessions::occurrences::{Occurred, Occurrence, Occurrences, Position},
};

/// The name of the extension.
pub(super) const EXTENSION: &str = "io.modelcontextprotocol/events";
/// How soon a client may ask again.
const POLL: u64 = 2000;
/// Occurrences in one answer, where the client names no number, and at most.
const SOME: usize = 100;
const MOST: usize = 1000;
const NOT_FOUND: ErrorCode = ErrorCode(-32011);
const UNSUPPORTED: ErrorCode = ErrorCode(-32014);

const CELL_ENDED: &str = "cell.ended";
const DIED: &str = "session.died";
const ALERT: &str = "health.alert";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Poll {
    name: String,
    #[serde(default)]
    arguments: Option<Arguments>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    max_age_ms: Option<u64>,
    #[serde(default)]
    max_events: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    session_id: Option<String>,
}

/// The answer, when it is a request of this extension.
pub(super) fn answer(
    log: &Occurrences,
    owner: &Owner,
    request: &CustomRequest,
) -> Option<Result<CustomResult, ErrorData>> {
    Some(match request.method.as_str() {
        "events/list" => Ok(CustomResult::new(list())),
        "events/poll" => poll(log, owner, request).map(CustomResult::new),
        "events/stream" | "events/subscribe" | "events/unsubscribe" => {
            let words = format!("{} is not offered: events are polled here (events/poll)", request.method);
            Err(ErrorData::new(UNSUPPORTED, words, Some(json!({"supported": ["poll"]}))))
        }
        _ => return None,
    })
}

fn list() -> Value {
    let texts = |names: &[&str]| {
        let each = names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"})));
        each.collect::<serde_json::Map<_, _>>()
    };
    let event = |name: &str, about: &str, payload: Value| {
        json!({
            "name": name, "description": about, "delivery": ["poll"], "payloadSchema": payload,
            "inputSchema": {"type": "object", "additionalProperties": false, "properties": {
                "session_id": {"type": "string", "description": "Only of this session. Default: all of the client's."}}},
        })
    };
    let mut ended = texts(&["session_id", "status"]);
    ended.insert("cell".to_owned(), json!({"type": "integer"}));
    let ended = json!({"type": "object", "properties": ended, "required": ["session_id", "cell", "status"]});
    let died = json!({"type": "object", "properties": texts(&["session_id", "reason", "message"]),
                      "required": ["session_id", "reason", "message"]});
    let mut alert = texts(&["session_id", "kind", "message"]);
    alert.insert("cleared".to_owned(), json!({"type": "boolean"}));
    let alert = json!({"type": "object", "properties": alert, "required": ["session_id", "kind", "cleared"]});
    json!({"resultType": "complete", "events": [
        event(CELL_ENDED, "A cell has ended; wait_for_cell has its reply, as long as replies are kept.", ended),
        event(DIED, "A session's worker has died unasked; get_kernel_health and list_crashes tell more.", died),
        event(ALERT, "An alert on a session's health was raised, or is over.", alert),
    ]})
}

fn poll(log: &Occurrences, owner: &Owner, request: &CustomRequest) -> Result<Value, ErrorData> {
    let Poll { name, arguments, cursor, max_age_ms, max_events } = read(request)?;
    if ![CELL_ENDED, DIED, ALERT].contains(&name.as_str()) {
        let words = format!("there is no event {name:?}; events/list names them");
        return Err(ErrorData::new(NOT_FOUND, words, Some(json!({"kind": "event"}))));
    }
    let from = cursor.map(|cursor| position(&cursor)).transpose()?;
    let session = arguments.unwrap_or_default().session_id;
    let is_wanted =
        |one: &Occurrence| name_of(&one.what) == name && session.as_ref().is_none_or(|session| *session == one.session);
    let bounds = (max_age_ms.map(Duration::from_millis), max_events.unwrap_or(SOME).clamp(1, MOST));
    let batch = log.since(owner, from, bounds, is_wanted);
    let log = &batch.position.log;
    let events: Vec<Value> = batch.occurrences.iter().map(|one| shown(log, one)).collect();
    Ok(json!({
        "resultType": "complete", "events": events, "cursor": cursor_at(&batch.position),
        "truncated": batch.is_cut, "hasMore": batch.has_more, "nextPollMs": POLL,
    }))
}

fn read<T: DeserializeOwned>(request: &CustomRequest) -> Result<T, ErrorData> {
    let wrong =
        |reason: String| ErrorData::invalid_params(format!("the parameters of {}: {reason}", request.method), None);
    let params = request.params.clone().ok_or_else(|| wrong("they are missing".to_owned()))?;
    serde_json::from_value(params).map_err(|error| wrong(error.to_string()))
}

fn cursor_at(Position { log, number }: &Position) -> String {
    format!("{log}-{number}")
}

fn position(cursor: &str) -> Result<Position, ErrorData> {
    let parts = cursor.rsplit_once('-').and_then(|(log, number)| Some((log.to_owned(), number.parse().ok()?)));
    let parts =
        parts.ok_or_else(|| ErrorData::invalid_params(format!("{cursor:?} is no cursor of events/poll"), None))?;
    Ok(Position { log: parts.0, number: parts.1 })
}

fn name_of(what: &Occurred) -> &'static str {
    match what {
        Occurred::CellEnded { .. } => CELL_ENDED,
        Occurred::Died { .. } => DIED,
        Occurred::Raised { .. } | Occurred::Cleared { .. } => ALERT,
    }
}

fn shown(log: &str, one: &Occurrence) -> Value {
    let session_id = &one.session;
    let data = match &one.what {
        Occurred::CellEnded { cell, status } => json!({"session_id": session_id, "cell": cell, "status": status}),
        Occurred::Died { reason, words } => json!({"session_id": session_id, "reason": reason, "message": words}),
        Occurred::Raised { alert, words } => {
            json!({"session_id": session_id, "kind": alert, "message": words, "cleared": false})
        }
        Occurred::Cleared { alert } => json!({"session_id": session_id, "kind": alert, "cleared": true}),
    };
    let (log, number) = (log.to_owned(), one.number);
    json!({
        "eventId": format!("{log}-{number}"), "name": name_of(&one.what), "timestamp": one.when.to_string(), "data": data,
        "cursor": cursor_at(&Position { log, number }),
    })
}
