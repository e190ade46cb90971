//! Health as resources, to be read and listened to: `health://report`, `health://alerts`, `health://sessions/NAME`,
//! `health://crashes/ID`.
//!
//! Runs in: server. The same JSON as get_health_report, get_kernel_health and list_crashes give. Announced when a worker
//! dies or is made, when a recovery step is taken, and when an alert is raised or cleared; not at every cell.

use futures::future::BoxFuture;
use rmcp::model::{Resource, ResourceContents, ResourceTemplate};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Page, Provider, ResourceError};
use crate::server::{
    events::{Hold, Subject},
    owner::Owner,
    scope::Scope,
    watch::report::Ward,
};

const REPORT: &str = "health://report";
/// Alerts that are up, and those of late.
const ALERTS: &str = "health://alerts";
/// Before a session's name.
const SESSIONS: &str = "health://sessions/";
/// Before a crash report's id.
const CRASHES: &str = "health://crashes/";
/// Most alerts that are over.
const PAST: usize = 50;

pub(crate) struct HealthOfSessions(Ward);

impl HealthOfSessions {
    #[must_use]
    pub(crate) fn new(ward: Ward) -> Self {
        Self(ward)
    }

    async fn text(&self, owner: &Owner, uri: &str) -> Result<String, ResourceError> {
        let unknown = |reason: &str| ResourceError::Unknown { uri: uri.to_owned(), reason: reason.to_owned() };
        if uri == REPORT {
            return json_of(&self.0.look_at_all(owner).await, unknown);
        }
        if uri == ALERTS {
            return json_of(
                &json!({ "alerts": self.0.alerts(owner), "past_alerts": self.0.past_alerts(owner, PAST) }),
                unknown,
            );
        }
        if let Some(name) = uri.strip_prefix(SESSIONS) {
            let session = self.0.session(owner, name).ok_or_else(|| unknown("there is no such session"))?;
            return json_of(&self.0.look(&session).await, unknown);
        }
        if let Some(id) = uri.strip_prefix(CRASHES) {
            let report = self.0.crash(owner, id.to_owned()).await;
            return json_of(&report.ok_or_else(|| unknown("there is no such crash report"))?, unknown);
        }
        Err(unknown(KINDS))
    }
}

const KINDS: &str = "there are health://report, health://alerts, health://sessions/NAME and health://crashes/ID";

fn json_of<T: Serialize>(value: &T, failed: impl Fn(&str) -> ResourceError) -> Result<String, ResourceError> {
    serde_json::to_string(value).map_err(|error| failed(&error.to_string()))
}

impl Provider for HealthOfSessions {
    fn scheme(&self) -> &'static str {
        "health:"
    }

    fn scope(&self) -> Option<Scope> {
        Some(Scope::CellsRun)
    }

    fn templates(&self, _owner: &Owner) -> Vec<ResourceTemplate> {
        vec![
            ResourceTemplate::new(format!("{SESSIONS}{{session_id}}"), "health of a session")
                .with_description("As the tool get_kernel_health gives it."),
            ResourceTemplate::new(format!("{CRASHES}{{id}}"), "crash report").with_description(
                "Why a worker died, with its last cell, output and stacks; as the tool list_crashes gives it.",
            ),
        ]
    }

    fn list(
        &self,
        owner: Owner,
        after: Option<String>,
        most: usize,
        _cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Page, ResourceError>> {
        Box::pin(async move {
            let mut all = vec![
                (ALERTS.to_owned(), "alerts".to_owned()),
                (REPORT.to_owned(), "health of all sessions".to_owned()),
            ];
            let crashes = self.0.crash_ids(&owner).await.into_iter();
            all.extend(crashes.map(|id| (format!("{CRASHES}{id}"), format!("crash report {id}"))));
            let names = self.0.names(&owner).into_iter();
            all.extend(names.map(|name| (format!("{SESSIONS}{name}"), format!("health of session {name}"))));
            all.sort_unstable();
            let mut rest = all.into_iter().filter(|(uri, _)| after.as_ref().is_none_or(|after| uri > after));
            let resources: Vec<Resource> = rest
                .by_ref()
                .take(most)
                .map(|(uri, name)| Resource::new(uri, name).with_mime_type("application/json"))
                .collect();
            let next = resources.last().filter(|_| rest.next().is_some()).map(|last| last.uri.clone());
            Ok(Page { resources, next })
        })
    }

    fn read(
        &self,
        owner: Owner,
        uri: String,
        _cancel: CancellationToken,
    ) -> BoxFuture<'_, Result<Vec<ResourceContents>, ResourceError>> {
        Box::pin(async move {
            let text = self.text(&owner, &uri).await?;
            Ok(vec![ResourceContents::text(text, uri).with_mime_type("application/json")])
        })
    }

    fn watch(&self, owner: &Owner, uri: &str) -> Result<(Subject, Option<Hold>), ResourceError> {
        // A session that is still to be made can be listened to; a crash report never changes.
        let subject = match uri.strip_prefix(SESSIONS) {
            _ if uri == REPORT => Some(Subject::Health(owner.clone())),
            _ if uri == ALERTS => Some(Subject::Alerts(owner.clone())),
            Some(name) if !name.is_empty() => Some(Subject::Session(owner.clone(), name.to_owned())),
            _ => None,
        };
        if let Some(subject) = subject {
            return Ok((subject, None));
        }
        if uri.starts_with(CRASHES) {
            return Err(ResourceError::NotWatched { uri: uri.to_owned(), reason: "a crash report never changes" });
        }
        Err(ResourceError::Unknown { uri: uri.to_owned(), reason: KINDS.to_owned() })
    }

    fn complete(&self, owner: Owner, template: &str, variable: &str, begun: String) -> BoxFuture<'_, Vec<String>> {
        let sessions = template.starts_with(SESSIONS) && variable == "session_id";
        let crashes = template.starts_with(CRASHES) && variable == "id";
        Box::pin(async move {
            let all = match (sessions, crashes) {
                (true, _) => self.0.names(&owner),
                (_, true) => self.0.crash_ids(&owner).await,
                _ => Vec::new(),
            };
            all.into_iter().filter(|value| value.starts_with(&begun)).collect()
        })
    }
}
