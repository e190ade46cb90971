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
};

impl Resources {
    /// A subscriber whose news go to a connection of this owner's, as long as it is not dropped.
    #[must_use]
    pub(crate) fn connect(&self, owner: Owner, peer: Peer<RoleServer>) -> Subscriber {
        let subscriber = self.changes.subscriber(owner);
        let queue = subscriber.queue();
        tokio::spawn(tell(queue, Way::Connection(peer)));
        subscriber
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
    pub(crate) fn prepare(&self, owner: &Owner, requested: &SubscriptionFilter) -> (SubscriptionFilter, Subscriber) {
        let subscriber = self.changes.subscriber(owner.clone());
        let mut accepted = SubscriptionFilter::new();
        accepted.resources_list_changed = requested.resources_list_changed;
        if accepted.resources_list_changed == Some(true) {
            subscriber.want_list();
        }
        let uris = requested.resource_subscriptions.iter().flatten();
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
