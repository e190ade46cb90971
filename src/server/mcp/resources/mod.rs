//! Resources of MCP: what the server shows under a URI, read, listed and listened to.
//!
//! Runs in: server. Owns pages across providers and who listens ([`Changes`]). What a resource is, is its provider's:
//! files of the workspace are `resources/workspace.rs`. Nothing is only a resource: whatever can be read here a tool gives
//! as well, for clients that know tools alone.
//!
//! A further kind of resource is one more [`Provider`] in the list that `server/mod.rs` makes, and a call of
//! [`Changes`] where it changes.

pub(crate) mod guide;
pub(crate) mod health;
pub(crate) mod listening;
pub(crate) mod workspace;

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rmcp::{
    ErrorData,
    model::{Resource, ResourceContents, ResourceTemplate},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::server::{
    events::{self, Changes, Hold, Subject},
    owner::Owner,
    scope::{Scope, Scopes},
    workspace::handle::FileError,
};

/// Most resources in a page.
pub(crate) const PAGE: usize = 1000;
/// Bytes of JSON that the contents in one reply may take: official clients refuse an event above 1 MiB.
pub(crate) const MAX_CONTENTS: usize = 850_000;

/// Why a resource could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResourceError {
    #[error("there is no resource {uri:?}: {reason}")]
    Unknown {
        /// As it was given.
        uri: String,
        reason: String,
    },
    /// A cursor that no page gave.
    #[error("cursor {0:?} is not one that a page of this list gave: leave it out to begin again")]
    Cursor(String),
    #[error(transparent)]
    File(#[from] FileError),
    /// It changes without an announcement.
    #[error("changes of {uri:?} cannot be listened to: {reason}")]
    NotWatched {
        /// As it was given.
        uri: String,
        reason: &'static str,
    },
    /// A subscriber that wants too much.
    #[error(transparent)]
    TooMany(#[from] events::TooMany),
}

/// A kind of resource.
pub(crate) trait Provider: Send + Sync {
    /// What the URIs of all its resources begin with, up to and with the `:`.
    fn scheme(&self) -> &'static str;

    /// What a token of an issuer has to be for.
    fn scope(&self) -> Option<Scope>;

    /// How an owner's URIs are made that the list may not have.
    fn templates(&self, owner: &Owner) -> Vec<ResourceTemplate>;

    /// Resources that an owner may see, in an order that stays, those behind the one at which the last page ended.
    fn list(
        &self,
        owner: Owner,
        after: Option<String>,
        most: usize,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Page, ResourceError>>;

    /// The contents of one, within [`MAX_CONTENTS`].
    fn read(
        &self,
        owner: Owner,
        uri: String,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Vec<ResourceContents>, ResourceError>>;

    /// What a URI stands for among the events, and what keeps it announced.
    ///
    /// # Errors
    /// When there cannot be such a resource, or its changes are not seen.
    fn watch(&self, owner: &Owner, uri: &str) -> Result<(Subject, Option<Hold>), ResourceError>;

    /// Values that a variable of a template may have, given how it begins.
    fn complete(&self, owner: Owner, template: &str, variable: &str, begun: String) -> BoxFuture<'_, Vec<String>> {
        let _ = (owner, template, variable, begun);
        Box::pin(std::future::ready(Vec::new()))
    }
}

/// A part of a list.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub resources: Vec<Resource>,
    /// Where the next part begins, if there is one.
    pub next: Option<String>,
}

impl Page {
    /// At most `most` of all that there are, those behind the address `after`, in the order of their addresses.
    pub(crate) fn of(all: impl IntoIterator<Item = Resource>, after: Option<&str>, most: usize) -> Self {
        let behind = |resource: &Resource| after.is_none_or(|after| resource.uri.as_str() > after);
        let mut resources: Vec<Resource> = all.into_iter().filter(behind).collect();
        resources.sort_unstable_by(|a, b| a.uri.cmp(&b.uri));
        let is_cut = resources.len() > most;
        resources.truncate(most);
        let next = resources.last().filter(|_| is_cut).map(|last| last.uri.clone());
        Self { resources, next }
    }
}

/// All resources of the server.
pub(crate) struct Resources {
    providers: Vec<Box<dyn Provider>>,
    changes: Changes,
    /// What connections listened to that have not come back to this program yet.
    before: Mutex<HashMap<String, Vec<String>>>,
}

impl Resources {
    /// These providers, in the order in which they are listed. Who listens, listens to `changes`.
    #[must_use]
    pub(crate) fn new(providers: Vec<Box<dyn Provider>>, changes: Changes) -> Self {
        Self { providers, changes, before: Mutex::default() }
    }

    /// What a token of an issuer has to be for; nothing for a URI that no provider has.
    #[must_use]
    pub(crate) fn needs(&self, uri: &str) -> Option<Scope> {
        self.provider(uri).ok()?.scope()
    }

    /// A page of the list that there is with these scopes, and the cursor of the next.
    ///
    /// # Errors
    /// [`ResourceError::Cursor`], and what the providers say.
    pub(crate) async fn list(
        &self,
        (owner, scopes): (Owner, Scopes),
        cursor: Option<&str>,
        cancel: CancellationToken,
    ) -> Result<(Vec<Resource>, Option<String>), ResourceError> {
        let (first, mut after) = match cursor {
            Some(cursor) => self.place_of(cursor)?,
            None => (0, None),
        };
        let mut found = Vec::new();
        for (index, provider) in self.providers.iter().enumerate().skip(first) {
            if !scopes.allow(provider.scope()) {
                continue;
            }
            if found.len() == PAGE {
                return Ok((found, Some(cursor_of(index, ""))));
            }
            let page = provider.list(owner.clone(), after.take(), PAGE - found.len(), cancel.clone()).await?;
            found.extend(page.resources);
            if let Some(next) = page.next {
                return Ok((found, Some(cursor_of(index, &next))));
            }
        }
        Ok((found, None))
    }

    /// The contents of a resource.
    pub(crate) async fn read(
        &self,
        owner: Owner,
        uri: &str,
        cancel: CancellationToken,
    ) -> Result<Vec<ResourceContents>, ResourceError> {
        self.provider(uri)?.read(owner, uri.to_owned(), cancel).await
    }

    #[must_use]
    pub(crate) fn templates(&self, owner: &Owner) -> Vec<ResourceTemplate> {
        self.providers.iter().flat_map(|provider| provider.templates(owner)).collect()
    }

    /// Values for a variable of a template, or of what is completed instead of it: the URI itself.
    pub(crate) async fn complete(&self, owner: Owner, template: &str, variable: &str, begun: String) -> Vec<String> {
        match self.provider(template) {
            Ok(provider) => provider.complete(owner, template, variable, begun).await,
            Err(_) => Vec::new(),
        }
    }

    fn provider(&self, uri: &str) -> Result<&dyn Provider, ResourceError> {
        let known = self.providers.iter().find(|provider| uri.starts_with(provider.scheme()));
        known.map(|provider| &**provider).ok_or_else(|| {
            let schemes: Vec<_> = self.providers.iter().map(|provider| provider.scheme()).collect();
            ResourceError::Unknown {
                uri: uri.to_owned(),
                reason: format!("resources here begin with {}", schemes.join(" or ")),
            }
        })
    }

    fn place_of(&self, cursor: &str) -> Result<(usize, Option<String>), ResourceError> {
        let read = || {
            let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
            let (index, after) = text.split_once(' ')?;
            let index = index.parse().ok().filter(|index| *index < self.providers.len())?;
            Some((index, (!after.is_empty()).then(|| after.to_owned())))
        };
        read().ok_or_else(|| ResourceError::Cursor(cursor.chars().take(200).collect()))
    }
}

/// Opaque to clients: a number of a provider and its own words.
fn cursor_of(provider: usize, after: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{provider} {after}"))
}

impl ResourceError {
    /// As the protocol has it.
    #[must_use]
    pub(crate) fn to_protocol(&self, uri: Option<&str>) -> ErrorData {
        let data = uri.map(|uri| json!({ "uri": uri }));
        match self {
            Self::Unknown { .. } => ErrorData::resource_not_found(self.to_string(), data),
            Self::File(error) if error.is_not_found() => ErrorData::resource_not_found(self.to_string(), data),
            Self::File(FileError::Lost(_)) => ErrorData::internal_error(self.to_string(), data),
            _ => ErrorData::invalid_params(self.to_string(), data),
        }
    }
}
