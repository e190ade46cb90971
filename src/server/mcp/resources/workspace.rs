//! Files of the workspace as resources.
//!
//! Runs in: server. Listed are the regular files that are also watched: nothing in hidden directories, `node_modules` and
//! `__pycache__`. Read can be every file that `read_file` reads, if it fits into one reply.

use crate::server::{
    events::{Hold, Subject},
    owner::Owner,
    scope::Scope,
    workspace::{after::FoundFile, uri::mime_of},
};

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::BoxFuture;
use rmcp::model::{Resource, ResourceContents, ResourceTemplate};
use tokio_util::sync::CancellationToken;

use super::{MAX_CONTENTS, Page, Provider, ResourceError};
use crate::server::workspace::{
    handle::{FileError, Files},
    uri,
    watch::{Watcher, is_watched},
    workplace::Workplaces,
};

/// Values that a completion may have, by the protocol.
const MAX_VALUES: usize = 100;
/// The one variable of the template.
const VARIABLE: &str = "path";

pub(crate) struct WorkspaceFiles(Workplaces);

fn template(files: &Files) -> String {
    format!("{}/{{+{VARIABLE}}}", uri::of(files.root(), "").trim_end_matches('/'))
}

fn relative(files: &Files, asked: &str) -> Result<String, ResourceError> {
    let path = uri::relative(files.root(), asked)
        .map_err(|reason| ResourceError::Unknown { uri: asked.to_owned(), reason: reason.to_owned() })?;
    // The workspace itself, which is told as a directory.
    Ok(if path.is_empty() { ".".to_owned() } else { path })
}

impl WorkspaceFiles {
    /// Of all workspaces.
    #[must_use]
    pub(crate) fn new(places: Workplaces) -> Self {
        Self(places)
    }
}

impl Provider for WorkspaceFiles {
    fn scheme(&self) -> &'static str {
        "file:"
    }

    fn scope(&self) -> Option<Scope> {
        Some(Scope::FilesRead)
    }

    fn templates(&self, owner: &Owner) -> Vec<ResourceTemplate> {
        let Ok(place) = self.0.of(owner) else { return Vec::new() };
        let about = "A file of the workspace by its path, from the workspace on. Also those that the list leaves out: \
                     in hidden directories, node_modules and __pycache__. The tool read_file gives the same, and files of \
                     any size by parts.";
        vec![ResourceTemplate::new(template(&place.files), "workspace file").with_description(about)]
    }

    fn list(
        &self,
        owner: Owner,
        after: Option<String>,
        most: usize,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Page, ResourceError>> {
        Box::pin(async move {
            let place = self.0.of(&owner)?;
            let files = place.files.clone();
            let work = move || files.after(after.as_deref(), most, &cancel);
            let (found, more) = tokio::task::spawn_blocking(work).await.map_err(FileError::Lost)??;
            let next = found.last().filter(|_| more).map(|last| last.path.clone());
            let resources = found.into_iter().map(|found| resource(place.root(), found)).collect();
            Ok(Page { resources, next })
        })
    }

    fn read(
        &self,
        owner: Owner,
        uri: String,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Vec<ResourceContents>, ResourceError>> {
        Box::pin(async move {
            let files = self.0.of(&owner)?.files.clone();
            let path = relative(&files, &uri)?;
            let work = move || {
                if cancel.is_cancelled() {
                    return Err(FileError::cancelled(&path));
                }
                let bytes = files.read_whole(&path, MAX_CONTENTS as u64)?;
                contents(uri, &path, bytes)
            };
            Ok(vec![tokio::task::spawn_blocking(work).await.map_err(FileError::Lost)??])
        })
    }

    fn watch(&self, owner: &Owner, asked: &str) -> Result<(Subject, Option<Hold>), ResourceError> {
        let place = self.0.of(owner)?;
        let path = relative(&place.files, asked)?;
        let no = |reason| Err(ResourceError::NotWatched { uri: asked.to_owned(), reason });
        if Path::new(&path).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return no("it names no file in the workspace");
        }
        if !is_watched(Path::new(&path)) {
            return no("nothing is seen of hidden directories, node_modules and __pycache__");
        }
        if !place.watcher.is_active() {
            return no("this machine has no inotify left for the server");
        }
        let plain: std::path::PathBuf = Path::new(&path).components().collect();
        let directory = plain.parent().unwrap_or(Path::new(""));
        let hold = Watcher::watch_writes(&place.watcher, directory);
        Ok((Subject::File(place.whose().cloned(), plain.to_string_lossy().into_owned()), Some(Box::new(hold))))
    }

    fn complete(&self, owner: Owner, asked: &str, variable: &str, begun: String) -> BoxFuture<'_, Vec<String>> {
        let place = self.0.of(&owner).ok();
        let files = place.map(|place| place.files.clone());
        let ours = files.filter(|files| asked == template(files) && variable == VARIABLE);
        Box::pin(async move {
            let Some(files) = ours else { return Vec::new() };
            let work = move || files.beginning(&begun, MAX_VALUES);
            tokio::task::spawn_blocking(work).await.unwrap_or_default()
        })
    }
}

/// A file as a resource; its type is guessed from its name.
fn resource(root: &Path, found: FoundFile) -> Resource {
    let mut resource = Resource::new(uri::of(root, &found.path), found.path.clone()).with_size(found.size);
    resource.mime_type = mime_of(&found.path).map(str::to_owned);
    resource
}

fn contents(uri: String, path: &str, bytes: Vec<u8>) -> Result<ResourceContents, FileError> {
    let size = bytes.len() as u64;
    let named = mime_of(path);
    let is_text = std::str::from_utf8(&bytes).is_ok() && !named.is_some_and(is_never_text);
    let contents = if is_text {
        let text = String::from_utf8(bytes).unwrap_or_default();
        ResourceContents::text(text, uri).with_mime_type(named.unwrap_or("text/plain"))
    } else {
        ResourceContents::blob(STANDARD.encode(bytes), uri).with_mime_type(named.unwrap_or("application/octet-stream"))
    };
    let cost = match &contents {
        ResourceContents::TextResourceContents { text, .. } => serde_json::to_string(text).map_or(0, |json| json.len()),
        ResourceContents::BlobResourceContents { blob, .. } => blob.len(),
        _ => 0,
    };
    if cost > MAX_CONTENTS {
        return Err(FileError::too_large(path, size, MAX_CONTENTS as u64));
    }
    Ok(contents)
}

/// Pictures and the like stay bytes also when they happen to be valid UTF-8.
fn is_never_text(mime: &str) -> bool {
    let svg = mime == "image/svg+xml";
    !svg && ["image/", "audio/", "font/"].iter().any(|kind| mime.starts_with(kind))
}
