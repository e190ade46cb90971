//! What the server says of itself to a client that comes: how to work with it, and its picture.
//!
//! Runs in: server. Pure data.

use rmcp::model::Icon;

pub(super) const INSTRUCTIONS: &str = "Runs Python in persistent sessions, each in a process of its own. Use run_python_code; \
     variables stay between calls. Files are read and written in the workspace, the working directory of every session. \
     A reply with status running or queued is no failure: the code goes on by itself, wait_for_cell has its end, and \
     it must not be sent again. A cell that takes too long is interrupted and its session keeps its variables; when a worker process dies, the reply \
     says that the variables are lost and why, and the next call gets a fresh one. For separate pieces of work make \
     sessions with create_session and pass session_id. Skills and prompts tell more: work-with-data, \
     checkpoints-and-branches, long-jobs, when-a-session-is-sick.";

/// Two branches that come from one stem.
pub(super) fn icon() -> Icon {
    const SVG: &str = "data:image/svg+xml;base64,\
                       PHN2ZyB4bWxucz0naHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmcnIHZpZXdCb3g9JzAgMCAxNiAxNicgZmlsbD0nbm9uZScgc3Ry\
                       b2tlPScjMzc4JyBzdHJva2Utd2lkdGg9JzInPjxwYXRoIGQ9J004IDE1VjlMMyA0VjFNOCA5bDUtNVYxJy8+PC9zdmc+";
    Icon::new(SVG).with_mime_type("image/svg+xml").with_sizes(vec!["any".to_owned()])
}
