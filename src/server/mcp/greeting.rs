//! What the first reply to a client says of the session that it finds: how far that is, and when it was last used.
//!
//! Runs in: server. Looks at the session when the client connects; makes the sentence.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rmcp::model::{CallToolResult, ContentBlock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    protocol::attach::span,
    server::{
        health::evidence::Phase,
        owner::Owner,
        sessions::{active::Client, names::DEFAULT, orders::Caller},
        tools::call::server::Server,
    },
};

/// How long counting variables may take; without the number the rest is said.
const LIMIT: Duration = Duration::from_millis(500);

/// The sentence, once it is made, until it has been said.
#[derive(Debug, Clone, Default)]
pub(super) struct Greeting(Arc<Mutex<Option<JoinHandle<Option<String>>>>>);

impl Greeting {
    /// The sentence, for the first who asks.
    pub(super) async fn take(&self) -> Option<String> {
        let made = self.0.lock().take()?;
        made.await.ok().flatten()
    }

    /// Whether nothing is left to say.
    pub(super) fn is_said(&self) -> bool {
        self.0.lock().is_none()
    }
}

/// Looks at the session in which the client begins.
pub(super) fn prepare(server: &Arc<Server>, client: &Client) -> Greeting {
    let (server, client) = (Arc::clone(server), client.clone());
    let made = tokio::spawn(async move { words(&server, client).await });
    Greeting(Arc::new(Mutex::new(Some(made))))
}

async fn words(server: &Server, client: Client) -> Option<String> {
    let session = server.registry.get(&Owner::User, DEFAULT).ok()?;
    let status = session.shared.get();
    let others = server.registry.of(&Owner::User);
    let mut others: Vec<String> =
        others.iter().filter(|other| *other.id != *DEFAULT).map(|other| format!("{:?}", other.id)).collect();
    if status.executed == 0 && others.is_empty() {
        return None;
    }
    let unused = span(status.used_at.elapsed().as_secs_f64());
    let cells = count(status.executed, "cell");
    let mut text = match status.phase {
        _ if status.executed == 0 => format!("Session {DEFAULT:?} is new."),
        Phase::Busy { cell, since } | Phase::WaitingInput { cell, since } => {
            let running = span(since.elapsed().as_secs_f64());
            format!("Session {DEFAULT:?} goes on: {cells}; cell {cell} still runs, for {running}.")
        }
        _ if status.worker.is_none() => return None,
        _ => {
            let caller = Caller { client, cancel: CancellationToken::new() };
            let found = tokio::time::timeout(LIMIT, session.variables(caller)).await;
            let variables = found
                .ok()
                .and_then(Result::ok)
                .map_or(String::new(), |variables| format!(", {}", count(variables.len() as u64, "variable")));
            format!("Session {DEFAULT:?} goes on: {cells}{variables}, last used {unused} ago.")
        }
    };
    if !others.is_empty() {
        others.truncate(12);
        text += &format!(" Other sessions go on too: {}.", others.join(", "));
    }
    Some(text)
}

/// Says it in a reply: to people and models in the text, to programs as the reply's notice, where it has one.
pub(super) fn add(result: &mut CallToolResult, words: String) {
    // A reply to a cell has a place for it, empty or not there yet.
    let reply = result.structured_content.as_mut().and_then(|structured| structured.as_object_mut());
    if let Some(reply) = reply.filter(|reply| reply.contains_key("notice") || reply.contains_key("execution_time")) {
        let earlier = reply.get("notice").and_then(|notice| notice.as_str());
        let notice = earlier.map_or_else(|| words.clone(), |earlier| format!("{earlier} {words}"));
        reply.insert("notice".to_owned(), notice.into());
    }
    result.content.insert(1.min(result.content.len()), ContentBlock::text(words));
}

fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}
