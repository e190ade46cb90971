//! How changes reach a client: as notifications of the connection (up to 2025-11-25), or on the stream of a
//! `subscriptions/listen` (from 2026-07-28).
//!
//! Runs in: server. One task a listener; it ends with the connection or the stream.

use rmcp::{
    Peer, RoleServer,
    model::{ResourceUpdatedNotificationParam, SubscriptionFilter},
    service::{SubscriptionContext, SubscriptionSink},
};

use super::{ResourceError, Resources};
use crate::server::{
    events::{News, Queue, REST, Subscriber},
    owner::Owner,
    scope::Scopes,
};

impl Resources {
    /// A subscriber whose news go to a connection of this owner's, as long as it is not dropped.
    #[must_use]
    pub(crate) fn connect(&self, owner: Owner, name: Option<String>, peer: Peer<RoleServer>) -> Subscriber {
        let subscriber = self.changes.subscriber_named(owner, name);
        let queue = subscriber.queue();
        tokio::spawn(tell(queue, Way::Connection(peer)));
        subscriber
    }

    /// What connections listen to that another program can go on with: those of protocols up to 2025-11-25 over HTTP.
    pub(crate) fn wishes(&self) -> Vec<(String, Vec<String>)> {
        let mut wishes = self.changes.wishes();
        // Of clients that have not come back since the last time.
        wishes.extend(self.before.lock().iter().map(|(name, uris)| (name.clone(), uris.clone())));
        wishes
    }

    /// Connections of the program in whose place this one is may come back, and go on listening.
    pub(crate) fn go_on(&self, wishes: Vec<(String, Vec<String>)>) {
        self.before.lock().extend(wishes);
    }

    /// A connection has come back: it hears of what it listened to, at once, for something may have happened meanwhile.
    pub(crate) fn resume(&self, subscriber: &Subscriber, name: &str) {
        let Some(uris) = self.before.lock().remove(name) else { return };
        for uri in uris {
            if let Err(error) = self.subscribe(subscriber, &uri) {
                tracing::warn!(uri, %error, "a subscription is lost");
            }
        }
        subscriber.may_have_missed();
    }

    /// Adds a resource to what a connection hears of.
    ///
    /// # Errors
    /// [`ResourceError`] when there is nothing to listen to, or too much.
    pub(crate) fn subscribe(&self, subscriber: &Subscriber, asked: &str) -> Result<(), ResourceError> {
        let (subject, hold) = self.provider(asked)?.watch(subscriber.owner(), asked)?;
        Ok(subscriber.add(subject, asked, hold)?)
    }

    /// Takes it back.
    ///
    /// # Errors
    /// [`ResourceError`] when there cannot be such a resource.
    pub(crate) fn unsubscribe(&self, subscriber: &Subscriber, asked: &str) -> Result<(), ResourceError> {
        let (subject, _) = self.provider(asked)?.watch(subscriber.owner(), asked)?;
        subscriber.remove(&subject, asked);
        Ok(())
    }

    /// What of a `subscriptions/listen` will be served, and who listens to it already: the acknowledgement that tells the
    /// client goes out before [`Resources::listen`] is called, and nothing that happens after it may be missed.
    #[must_use]
    pub(crate) fn prepare(
        &self,
        (owner, scopes): (&Owner, Scopes),
        requested: &SubscriptionFilter,
    ) -> (SubscriptionFilter, Subscriber) {
        let subscriber = self.changes.subscriber(owner.clone());
        let mut accepted = SubscriptionFilter::new();
        accepted.resources_list_changed = requested.resources_list_changed;
        if accepted.resources_list_changed == Some(true) {
            subscriber.want_list();
        }
        let uris = requested.resource_subscriptions.iter().flatten().filter(|uri| scopes.allow(self.needs(uri)));
        let uris: Vec<String> = uris.filter(|uri| self.subscribe(&subscriber, uri).is_ok()).cloned().collect();
        accepted.resource_subscriptions = (!uris.is_empty()).then_some(uris);
        (accepted, subscriber)
    }

    /// Serves a `subscriptions/listen` until it is cancelled.
    pub(crate) async fn listen(&self, context: &SubscriptionContext, subscriber: Subscriber) {
        tokio::select! {
            () = context.cancelled() => {}
            () = tell(subscriber.queue(), Way::Stream(context.sink().clone())) => {}
        }
    }
}

enum Way {
    Connection(Peer<RoleServer>),
    Stream(SubscriptionSink),
}

/// Tells all that comes, until the subscriber is gone or it cannot be told.
async fn tell(queue: Queue, way: Way) {
    while let Some(news) = queue.next().await {
        if !way.tell(news).await {
            return;
        }
        tokio::time::sleep(REST).await;
    }
}

impl Way {
    /// Whether it arrived. A connection that is gone drops its subscriber, a stream cancels its request: no need to tell.
    async fn tell(&self, news: News) -> bool {
        if news.list_changed && !self.list_changed().await {
            return false;
        }
        for uri in news.names {
            if !self.updated(uri).await {
                return false;
            }
        }
        true
    }

    async fn list_changed(&self) -> bool {
        match self {
            Self::Connection(peer) => peer.notify_resource_list_changed().await.is_ok(),
            Self::Stream(sink) => sink.notify_resource_list_changed().await.is_ok(),
        }
    }

    async fn updated(&self, uri: String) -> bool {
        match self {
            Self::Connection(peer) => {
                peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(uri)).await.is_ok()
            }
            Self::Stream(sink) => sink.notify_resource_updated(uri).await.is_ok(),
        }
    }
}
