//! What is known of clients: how long they wait for a call.
//!
//! Runs in: server. Pure: one table, a row a client, by the name with which it introduces itself.

use std::time::Duration;

use rmcp::{RoleServer, service::RequestContext};

/// How a client treats a call.
struct Habits {
    /// Its name begins so.
    name: &'static str,
    /// It gives a call up after so many seconds; `None` is never.
    gives_up: Option<u64>,
    /// Progress makes it wait longer.
    progress_counts: bool,
}

/// Sources: the documents of each client, and the defaults of the SDK that it is built with. TypeScript's SDK gives up after
/// 60 s and counts progress only when its program says so.
const CLIENTS: [Habits; 5] = [
    // Claude Desktop.
    Habits { name: "claude-ai", gives_up: Some(60), progress_counts: false },
    Habits { name: "codex-mcp-client", gives_up: Some(60), progress_counts: false },
    // Its limit (MCP_TOOL_TIMEOUT) is some hours.
    Habits { name: "claude-code", gives_up: None, progress_counts: true },
    Habits { name: "openai-agents", gives_up: Some(5), progress_counts: false },
    Habits { name: "mcp-inspector", gives_up: Some(60), progress_counts: true },
];

/// Of whom nothing is known. Most limits are a minute.
const UNKNOWN: Habits = Habits { name: "", gives_up: Some(60), progress_counts: true };

/// How long this call may stay without its answer; `None` is for ever.
pub(crate) fn patience(context: &RequestContext<RoleServer>) -> Option<Duration> {
    let name = context.client_info().map(|client| client.name).unwrap_or_default();
    patience_of(&name, context.meta.get_progress_token().is_some())
}

fn patience_of(name: &str, hears_progress: bool) -> Option<Duration> {
    let habits = CLIENTS.iter().find(|known| name.starts_with(known.name)).unwrap_or(&UNKNOWN);
    if hears_progress && habits.progress_counts {
        return None;
    }
    // Below it, with time for the way back.
    habits
        .gives_up
        .map(|seconds| Duration::from_millis(if seconds > 20 { seconds * 1000 - 10_000 } else { seconds * 800 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_before_its_client_gives_up() {
        let seconds = |name, progress| patience_of(name, progress).map(|patience| patience.as_secs_f64());
        assert_eq!(seconds("claude-ai", true), Some(50.0));
        assert_eq!(seconds("somebody", false), Some(50.0));
        assert_eq!(seconds("somebody", true), None);
        assert_eq!((seconds("claude-code", false), seconds("openai-agents", false)), (None, Some(4.0)));
    }
}
