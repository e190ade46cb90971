//! What clients are known to do with a reply, and how long they wait for it. One line each, with where that was read or measured, and when.
//!
//! Runs in: server. Pure. A client that has no line gets text, pictures and structure: programs need the structure, and
//! most clients that show something to a model show the content.

use std::time::Duration;

use rmcp::{RoleServer, service::RequestContext};

use crate::settings::replies::Structured;

/// What of a reply a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Structured content, and output schemas in `tools/list`.
    pub(crate) structure: bool,
    /// Links to files.
    pub(crate) links: bool,
}

/// What a client shows to its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// The content, whatever else there is.
    Content,
    /// The structured content as JSON when there is one; the text is dropped, by some the pictures too.
    Json,
}

/// A client that is known.
struct Known {
    /// What `clientInfo.name` begins with.
    name: &'static str,
    shows: Shows,
    /// It opens links to files, or lets its user open them, and sends none of them to a model that cannot.
    opens_links: bool,
    /// It gives a call up after so many seconds; `None` is never.
    gives_up: Option<u64>,
    /// Progress makes it wait longer.
    progress_counts: bool,
}

/// A client of whose time nothing is known: most limits are a minute.
const fn known(name: &'static str, shows: Shows) -> Known {
    Known { name, shows, opens_links: false, gives_up: Some(60), progress_counts: true }
}

/// One that is deaf to progress.
const fn impatient(name: &'static str, shows: Shows, seconds: u64) -> Known {
    Known { gives_up: Some(seconds), progress_counts: false, ..known(name, shows) }
}

const fn opening(name: &'static str) -> Known {
    Known { opens_links: true, ..known(name, Shows::Content) }
}

#[rustfmt::skip]
const CLIENTS: [Known; 13] = [
    // anthropics/claude-code#79944, #54737, #31208 (2026-11): only JSON of structuredContent; pictures lost in many versions.
    // Its limit (MCP_TOOL_TIMEOUT) is some hours.
    Known { gives_up: None, ..known("claude-code", Shows::Json) },
    // openai/codex#38287 (2026-11): JSON only, pictures dropped; a call waits 60 s.
    impatient("codex-mcp-client", Shows::Json, 60),
    // github/copilot-cli#3258 (2026-11): JSON only, pictures dropped. The name is that of the CLI 1.0.57 (2026-11).
    known("github-copilot-developer", Shows::Json),
    known("copilot-cli", Shows::Json),
    // opencode PR 32868 (2026-11): JSON only, pictures dropped.
    known("opencode", Shows::Json),
    // VS Code's mcp languageModelToolContribution (2026-11): JSON instead of text; reads a linked picture and attaches it again.
    known("Visual Studio Code", Shows::Json),
    known("Code - OSS", Shows::Json),
    // Claude Desktop (2026-11): the content; waits about 60 s.
    impatient("claude-ai", Shows::Content, 60),
    // OpenAI Agents: the content; its own default limit is 5 s. By itself it says that it is "mcp" (0.24, measured 2026-11), as the
    // Python SDK does, whose calls wait without end: this is for those that give it a name.
    impatient("openai-agents", Shows::Content, 5),
    // Python SDKs, and with them langchain-mcp-adapters, smolagents, OpenAI Agents (measured 2026-11): the content. LangChain turns
    // a link into a block with a file: address, on which langchain-openai raises. pydantic-ai 2.68 shows the structure of a reply
    // without pictures, and says the SDK's name too (measured: `mcp` 0.1.0, 2026-11): it cannot be told
    // from the others.
    known("mcp", Shows::Content),
    // MCP Inspector (2026-11): shows both; its user opens a link by resources/read.
    opening("mcp-inspector"),
    opening("inspector-client"),
    opening("inspector-cli"),
];

/// Of whom nothing is known.
const UNKNOWN: Known = known("", Shows::Content);

/// The first version of the protocol that knows links; versions are dates, and their text has their order.
const LINKS_SINCE: &str = "2025-06-18";

/// How this request's client is to be answered.
pub(crate) fn manner(context: &RequestContext<RoleServer>, structured: Structured) -> Manner {
    let client = context.client_info();
    let old = || context.protocol_version().is_some_and(|version| version.as_str() < LINKS_SINCE);
    let manner = of(client.as_ref().map_or("", |client| &client.name), structured);
    Manner { links: manner.links && !old(), ..manner }
}

/// The longest line that fits.
fn find(name: &str) -> Option<&'static Known> {
    CLIENTS.iter().filter(|known| name.starts_with(known.name)).max_by_key(|known| known.name.len())
}

/// How a client of this name is to be answered.
fn of(name: &str, structured: Structured) -> Manner {
    let known = find(name);
    let shows_json = known.is_some_and(|known| known.shows == Shows::Json);
    Manner {
        structure: match structured {
            Structured::Auto => !shows_json,
            Structured::Always => true,
            Structured::Never => false,
        },
        links: known.is_some_and(|known| known.opens_links),
    }
}

/// How long this call may stay without its answer; `None` is for ever.
pub(crate) fn patience(context: &RequestContext<RoleServer>) -> Option<Duration> {
    let name = context.client_info().map(|client| client.name).unwrap_or_default();
    patience_of(&name, context.meta.get_progress_token().is_some())
}

fn patience_of(name: &str, hears_progress: bool) -> Option<Duration> {
    let habits = find(name).unwrap_or(&UNKNOWN);
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
    fn those_that_would_show_json_get_text_and_all_others_both() {
        for name in ["claude-code", "Visual Studio Code - Insiders", "codex-mcp-client", "opencode"] {
            assert!(!of(name, Structured::Auto).structure, "{name}");
            assert!(of(name, Structured::Always).structure, "{name}");
        }
        for name in ["", "mcp", "some-client", "Claude-Code", &"x".repeat(10_000)] {
            assert_eq!(of(name, Structured::Auto), Manner { structure: true, links: false }, "{name}");
            assert!(!of(name, Structured::Never).structure, "{name}");
        }
        assert!(of("mcp-inspector", Structured::Auto).links);
    }

    #[test]
    fn a_call_is_answered_before_its_client_gives_up() {
        let seconds = |name, progress| patience_of(name, progress).map(|patience| patience.as_secs_f64());
        assert_eq!(seconds("claude-ai", true), Some(50.0));
        assert_eq!(seconds("some-client", false), Some(50.0));
        assert_eq!(seconds("some-client", true), None);
        assert_eq!((seconds("claude-code", false), seconds("openai-agents", false)), (None, Some(4.0)));
    }
}
