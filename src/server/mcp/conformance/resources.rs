//! Resources that the suite reads and subscribes to.
//!
//! Runs in: server.

use futures::future::BoxFuture;
use rmcp::model::{Resource, ResourceContents, ResourceTemplate};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::parts::{PICTURE, is_on};
use crate::server::{
    events::{Hold, Subject},
    mcp::resources::{Page, Provider, ResourceError},
    owner::Owner,
    scope::Scope,
};

pub(crate) struct Fixtures;

impl Provider for Fixtures {
    fn scheme(&self) -> &'static str {
        "test:"
    }

    fn scope(&self) -> Option<Scope> {
        None
    }

    fn templates(&self, _owner: &Owner) -> Vec<ResourceTemplate> {
        let template = ResourceTemplate::new("test://template/{id}/data", "dynamic fixture");
        if is_on() { vec![template.with_mime_type("application/json")] } else { Vec::new() }
    }

    fn list(
        &self,
        _owner: Owner,
        after: Option<String>,
        most: usize,
        _cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Page, ResourceError>> {
        let all = [("static-text", "text/plain"), ("static-binary", "image/png"), ("watched-resource", "text/plain")];
        let made = |(name, mime): (&str, &str)| Resource::new(format!("test://{name}"), name).with_mime_type(mime);
        let all = all.map(made).into_iter().filter(|_| is_on());
        Box::pin(std::future::ready(Ok(Page::of(all, after.as_deref(), most))))
    }

    fn read(
        &self,
        _owner: Owner,
        uri: String,
        _cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Vec<ResourceContents>, ResourceError>> {
        let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
        let contents = match (&*uri, id) {
            _ if !is_on() => None,
            ("test://static-text", _) => {
                Some(("text/plain", "This is the content of the static text resource.".to_owned()))
            }
            ("test://watched-resource", _) => Some(("text/plain", "Watched.".to_owned())),
            ("test://static-binary", _) => {
                let picture = ResourceContents::blob(PICTURE, uri).with_mime_type("image/png");
                return Box::pin(std::future::ready(Ok(vec![picture])));
            }
            (_, Some(id)) => {
                let data = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
                Some(("application/json", data.to_string()))
            }
            _ => None,
        };
        let found = match contents {
            Some((mime, text)) => Ok(vec![ResourceContents::text(text, uri).with_mime_type(mime)]),
            None => Err(ResourceError::Unknown { uri, reason: "it is no fixture".to_owned() }),
        };
        Box::pin(std::future::ready(found))
    }

    fn watch(&self, owner: &Owner, uri: &str) -> Result<(Subject, Option<Hold>), ResourceError> {
        if is_on() && uri == "test://watched-resource" {
            return Ok((Subject::Health(owner.clone()), None));
        }
        Err(ResourceError::Unknown { uri: uri.to_owned(), reason: "it is no fixture".to_owned() })
    }
}
