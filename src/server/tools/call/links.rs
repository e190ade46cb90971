//! Links to files in tool results: what a call made, as resources that a client can open.
//!
//! Runs in: server. Bounded, because models read links too.

use std::path::Path;

use rmcp::{
    RoleServer,
    model::{CallToolResult, ContentBlock, Resource},
    service::RequestContext,
};

use crate::server::workspace::uri::{self, mime_of};

/// Most links in one result; the paths of all files are in its text and its structured content.
pub(crate) const MAX_LINKS: usize = 8;
/// The first version of the protocol that knows links.
const SINCE: &str = "2025-06-18";

/// Adds links to these files of the workspace, for clients whose protocol has them.
pub(crate) fn add<'a>(
    result: &mut CallToolResult,
    context: &RequestContext<RoleServer>,
    root: &Path,
    paths: impl IntoIterator<Item = &'a str>,
) {
    let mut paths = paths.into_iter().take(MAX_LINKS).peekable();
    // Versions are dates: their text has their order.
    if paths.peek().is_none() || context.protocol_version().is_some_and(|version| version.as_str() < SINCE) {
        return;
    }
    result.content.extend(paths.map(|path| {
        let mut resource = Resource::new(uri::of(root, path), path);
        resource.mime_type = mime_of(path).map(str::to_owned);
        ContentBlock::resource_link(resource)
    }));
}
