//! Links to files in tool results: what a call made, as resources that a client can open.
//!
//! Runs in: server. Bounded, because models read links too.

use std::path::Path;

use rmcp::model::{ContentBlock, Resource};

use crate::server::workspace::uri::{self, mime_of};

/// Most links in one result; the paths of all files are in its text and its structured content.
pub(crate) const MAX_LINKS: usize = 8;

/// Adds links to these files of the workspace, for clients that are known to open them.
pub(crate) fn add<'a>(content: &mut Vec<ContentBlock>, root: &Path, paths: impl IntoIterator<Item = &'a str>) {
    content.extend(paths.into_iter().take(MAX_LINKS).map(|path| {
        let mut resource = Resource::new(uri::of(root, path), path);
        resource.mime_type = mime_of(path).map(str::to_owned);
        ContentBlock::resource_link(resource)
    }));
}
