//! The guide as resources, for agents: `forkpy://guide/sessions` and so on.
//!
//! Runs in: server. The texts are `crate::guide`'s, and never change while the server runs.

use futures::future::BoxFuture;
use rmcp::model::{Resource, ResourceContents, ResourceTemplate};
use tokio_util::sync::CancellationToken;

use super::{Page, Provider, ResourceError};
use crate::{
    guide::{CHAPTERS, Chapter, chapter},
    server::{
        events::{Hold, Subject},
        owner::Owner,
        scope::Scope,
    },
};

/// Before a chapter's name.
const GUIDE: &str = "forkpy://guide/";
const MIME: &str = "text/markdown";

pub(crate) struct GuideChapters;

fn uri(chapter: &Chapter) -> String {
    format!("{GUIDE}{}", chapter.name)
}

fn find(uri: &str) -> Result<&'static Chapter, ResourceError> {
    uri.strip_prefix(GUIDE).and_then(chapter).ok_or_else(|| {
        let known: Vec<_> = CHAPTERS.iter().map(|chapter| chapter.name).collect();
        ResourceError::Unknown { uri: uri.to_owned(), reason: format!("{GUIDE} has {}", known.join(", ")) }
    })
}

impl Provider for GuideChapters {
    fn scheme(&self) -> &'static str {
        "forkpy:"
    }

    fn scope(&self) -> Option<Scope> {
        None
    }

    fn templates(&self, _owner: &Owner) -> Vec<ResourceTemplate> {
        let about = "A chapter of forkpy's guide, as Markdown.";
        vec![ResourceTemplate::new(format!("{GUIDE}{{chapter}}"), "guide").with_description(about).with_mime_type(MIME)]
    }

    fn list(
        &self,
        _owner: Owner,
        after: Option<String>,
        most: usize,
        _cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Page, ResourceError>> {
        let page = Page::of(CHAPTERS.iter().map(resource), after.as_deref(), most);
        Box::pin(std::future::ready(Ok(page)))
    }

    fn read(
        &self,
        _owner: Owner,
        uri: String,
        _cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Vec<ResourceContents>, ResourceError>> {
        let found = find(&uri).map(|chapter| vec![ResourceContents::text(chapter.text, uri).with_mime_type(MIME)]);
        Box::pin(std::future::ready(found))
    }

    fn watch(&self, _owner: &Owner, uri: &str) -> Result<(Subject, Option<Hold>), ResourceError> {
        find(uri)?;
        Err(ResourceError::NotWatched { uri: uri.to_owned(), reason: "the guide never changes" })
    }

    fn complete(&self, _owner: Owner, template: &str, variable: &str, begun: String) -> BoxFuture<'_, Vec<String>> {
        let ours = template.starts_with(GUIDE) && variable == "chapter";
        let names = CHAPTERS.iter().map(|chapter| chapter.name).filter(|name| ours && name.starts_with(&begun));
        Box::pin(std::future::ready(names.map(str::to_owned).collect()))
    }
}

fn resource(chapter: &Chapter) -> Resource {
    Resource::new(uri(chapter), format!("guide: {}", chapter.name))
        .with_description(chapter.about)
        .with_mime_type(MIME)
        .with_size(chapter.text.len() as u64)
}
