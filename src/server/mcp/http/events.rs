//! What was sent on the event streams of protocols up to 2025-11-25, kept so that a client whose stream broke can have the
//! rest of it: while its request runs, and for a minute and more after the reply.
//!
//! Runs in: server. Owns the events; which client may read them is `clients.rs`'s question. Every stream is served from
//! here, also at first: a client that reads slowly holds up no other.
//!
//! An event's id is `STREAM-NUMBER`. A request's stream ends with its reply; a client's common stream ends with the client.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, stream};
use parking_lot::Mutex;
use rmcp::{
    model::JsonRpcMessage,
    transport::streamable_http_server::session::{EventStore, EventStoreError, EventStream, ServerSseMessage},
};
use tokio::sync::Notify;

use crate::server::tools::call::texts::size_of_json;

/// How long a stream that has ended is kept.
const KEPT: Duration = Duration::from_secs(90);
/// Bytes of streams that have ended, beyond which the oldest go before their time.
const MOST: usize = 64 << 20;
/// Events of one stream before its reply; the oldest go first. Progress comes once a second.
const MOST_EVENTS: usize = 4096;
/// Their bytes.
const MOST_OF_STREAM: usize = 4 << 20;

/// All streams.
#[derive(Default)]
pub(crate) struct Events(Mutex<Streams>);

#[derive(Default)]
struct Streams {
    /// By rmcp's names, as long as something may come.
    names: HashMap<String, u64>,
    streams: BTreeMap<u64, Kept>,
    /// Those that have ended, in that order, with their bytes.
    ended: VecDeque<(Instant, u64, usize)>,
    ended_bytes: usize,
    /// Fewer bytes than [`MOST`], for a test.
    most: Option<usize>,
    next: u64,
}

struct Kept {
    name: String,
    /// Whose it is, once that is known.
    client: Option<Arc<str>>,
    /// Ends with a reply.
    of_request: bool,
    events: VecDeque<(u64, ServerSseMessage, usize)>,
    next: u64,
    bytes: usize,
    ended: bool,
    /// Events up to here have been given to a client.
    given: u64,
    /// Who reads it now: a later reader takes over.
    reader: u64,
    read: bool,
    changed: Arc<Notify>,
}

/// A place in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub stream: u64,
    /// The first event that is wanted.
    pub from: u64,
}

impl Place {
    /// After the event of this id.
    pub(crate) fn after(id: &str) -> Option<Self> {
        let (stream, event) = id.split_once('-')?;
        Some(Self { stream: stream.parse().ok()?, from: event.parse::<u64>().ok()?.checked_add(1)? })
    }
}

impl Events {
    /// The stream of this name is this client's.
    pub(crate) fn own(&self, stream: u64, client: &Arc<str>) {
        if let Some(kept) = self.0.lock().streams.get_mut(&stream) {
            kept.client = Some(Arc::clone(client));
        }
    }

    /// Begins a client's common stream, under the name that rmcp will give it.
    pub(crate) fn begin_common(&self, client: &Arc<str>) -> u64 {
        let mut streams = self.0.lock();
        let stream = streams.named(&common(client));
        if let Some(kept) = streams.streams.get_mut(&stream) {
            kept.client = Some(Arc::clone(client));
            kept.of_request = false;
        }
        stream
    }

    /// Whether there is a stream of this number, and this client's.
    pub(crate) fn is_of(&self, stream: u64, client: &str) -> bool {
        self.0.lock().streams.get(&stream).is_some_and(|kept| kept.client.as_deref() == Some(client))
    }

    /// Whether a client reads it now.
    pub(crate) fn is_read(&self, stream: u64) -> bool {
        self.0.lock().streams.get(&stream).is_some_and(|kept| kept.read)
    }

    /// After the last event that a client was given.
    pub(crate) fn unread(&self, stream: u64) -> Place {
        let from = self.0.lock().streams.get(&stream).map_or(0, |kept| kept.given);
        Place { stream, from }
    }

    /// Whether a request of this client's has not been answered yet.
    pub(crate) fn is_waited_for(&self, client: &str) -> bool {
        let is_open = |kept: &Kept| kept.of_request && !kept.ended && kept.client.as_deref() == Some(client);
        self.0.lock().streams.values().any(is_open)
    }

    /// No more will come: the request was cancelled.
    pub(crate) fn end(&self, stream: u64) {
        self.0.lock().end(stream, Instant::now());
    }

    /// The client is gone, and with it all its streams.
    pub(crate) fn forget(&self, client: &str) {
        let mut streams = self.0.lock();
        let its = |kept: &Kept| kept.client.as_deref() == Some(client);
        let gone: Vec<u64> = streams.streams.iter().filter(|(_, kept)| its(kept)).map(|(number, _)| *number).collect();
        gone.into_iter().for_each(|number| streams.remove(number));
    }

    /// Forgets what has been kept long enough.
    pub(crate) fn tidy(&self, now: Instant) {
        self.0.lock().tidy(now);
    }

    /// Reads a stream from a place on, as long as no other request begins to. Ends with the stream.
    pub(crate) fn read(self: &Arc<Self>, place: Place) -> impl Stream<Item = ServerSseMessage> + Send + Sync + use<> {
        let reader = self.0.lock().streams.get_mut(&place.stream).map_or(0, |kept| {
            kept.reader += 1;
            kept.read = true;
            kept.changed.notify_waiters();
            kept.reader
        });
        let reading = Reading { events: Arc::clone(self), place, reader };
        stream::unfold(reading, |mut reading| async move {
            let event = reading.next().await?;
            Some((event, reading))
        })
    }
}

fn common(client: &str) -> String {
    format!("{client}:common")
}

struct Reading {
    events: Arc<Events>,
    place: Place,
    reader: u64,
}

enum Step {
    Event(ServerSseMessage),
    End,
    Wait(Arc<Notify>),
}

impl Reading {
    async fn next(&mut self) -> Option<ServerSseMessage> {
        loop {
            let changed = match self.step() {
                Step::Event(event) => return Some(event),
                Step::End => return None,
                Step::Wait(changed) => changed,
            };
            let notified = changed.notified();
            // What came between the look and the wish to be told.
            match self.step() {
                Step::Event(event) => return Some(event),
                Step::End => return None,
                Step::Wait(_) => notified.await,
            }
        }
    }

    fn step(&mut self) -> Step {
        let mut streams = self.events.0.lock();
        let Some(kept) = streams.streams.get_mut(&self.place.stream) else { return Step::End };
        if kept.reader != self.reader {
            return Step::End;
        }
        let next = kept.events.iter().find(|(number, ..)| *number >= self.place.from);
        match next {
            Some((number, event, _)) => {
                self.place.from = number + 1;
                kept.given = kept.given.max(self.place.from);
                Step::Event(event.clone())
            }
            None if kept.ended => Step::End,
            None => Step::Wait(Arc::clone(&kept.changed)),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(kept) = self.events.0.lock().streams.get_mut(&self.place.stream)
            && kept.reader == self.reader
        {
            kept.read = false;
        }
    }
}

impl Streams {
    fn named(&mut self, name: &str) -> u64 {
        if let Some(stream) = self.names.get(name) {
            return *stream;
        }
        let number = self.next;
        self.next += 1;
        self.names.insert(name.to_owned(), number);
        let kept = Kept {
            name: name.to_owned(),
            client: None,
            of_request: true,
            events: VecDeque::new(),
            next: 0,
            bytes: 0,
            ended: false,
            given: 0,
            reader: 0,
            read: false,
            changed: Arc::default(),
        };
        self.streams.insert(number, kept);
        number
    }

    fn add(&mut self, name: &str, event: &ServerSseMessage, now: Instant) -> String {
        let stream = self.named(name);
        let Some(kept) = self.streams.get_mut(&stream) else { return String::new() };
        let id = format!("{stream}-{}", kept.next);
        let size = size_of(event);
        let mut event = event.clone();
        event.event_id = Some(id.clone());
        let ends = kept.of_request && event.message.as_deref().is_some_and(is_reply);
        kept.events.push_back((kept.next, event, size));
        kept.next += 1;
        kept.bytes += size;
        while !ends && (kept.events.len() > MOST_EVENTS || (kept.bytes > MOST_OF_STREAM && kept.events.len() > 1)) {
            kept.bytes -= kept.events.pop_front().map_or(0, |(.., size)| size);
        }
        kept.changed.notify_waiters();
        if ends {
            self.end(stream, now);
        }
        self.tidy(now);
        id
    }

    fn end(&mut self, stream: u64, now: Instant) {
        let Some(kept) = self.streams.get_mut(&stream) else { return };
        if std::mem::replace(&mut kept.ended, true) {
            return;
        }
        kept.changed.notify_waiters();
        self.ended.push_back((now, stream, kept.bytes));
        self.ended_bytes += kept.bytes;
        let name = kept.name.clone();
        self.names.remove(&name);
    }

    fn remove(&mut self, stream: u64) {
        if let Some(kept) = self.streams.remove(&stream) {
            kept.changed.notify_waiters();
            self.names.remove(&kept.name);
        }
    }

    /// A reply that a client is being given now is let go only after it.
    fn tidy(&mut self, now: Instant) {
        while let Some((when, stream, bytes)) = self.ended.front().copied() {
            let is_alone = self.ended.len() == 1;
            if now.duration_since(when) < KEPT && (self.ended_bytes <= self.most.unwrap_or(MOST) || is_alone) {
                return;
            }
            self.ended.pop_front();
            self.ended_bytes -= bytes;
            // Who reads it holds up nothing but his own copy, which ends here.
            self.remove(stream);
        }
    }
}

fn is_reply<A, B, C>(message: &JsonRpcMessage<A, B, C>) -> bool {
    matches!(message, JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_))
}

/// As it will be written.
fn size_of(event: &ServerSseMessage) -> usize {
    64 + event.message.as_ref().map_or(0, |message| size_of_json(&**message))
}

#[async_trait::async_trait]
impl EventStore for Events {
    async fn store_event(&self, stream_id: &str, event: &ServerSseMessage) -> Result<String, EventStoreError> {
        Ok(self.0.lock().add(stream_id, event, Instant::now()))
    }

    /// Not asked: `clients.rs` reads, because an id alone does not say whose it is.
    async fn replay_events_after(&self, _last_event_id: &str) -> Result<EventStream, EventStoreError> {
        Err("events are read by their client".into())
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use rmcp::model::{ErrorCode, ErrorData, RequestId, ServerJsonRpcMessage};

    use super::*;

    fn reply(text: String) -> ServerSseMessage {
        let error = ErrorData::new(ErrorCode::INTERNAL_ERROR, text, None);
        ServerSseMessage::from_message(ServerJsonRpcMessage::error(error, Some(RequestId::Number(1))))
    }

    fn hint() -> ServerSseMessage {
        ServerSseMessage::retry(Duration::from_secs(3))
    }

    async fn ids(events: &Arc<Events>, place: Place) -> Vec<String> {
        events.read(place).filter_map(|event| async move { event.event_id }).collect().await
    }

    #[tokio::test]
    async fn what_was_missed_is_there_after_the_reply_for_more_than_a_minute() {
        let (events, began) = (Arc::new(Events::default()), Instant::now());
        for event in [hint(), hint(), reply("done".into())] {
            events.0.lock().add("one", &event, began);
        }
        events.tidy(began + Duration::from_secs(61));
        assert_eq!(ids(&events, Place::after("0-0").expect("an id")).await, ["0-1", "0-2"]);
        assert_eq!(ids(&events, Place::after("0-2").expect("an id")).await, [""; 0]);
        events.tidy(began + KEPT);
        assert_eq!(ids(&events, Place::after("0-0").expect("an id")).await, [""; 0]);
        assert!(events.0.lock().streams.is_empty() && events.0.lock().names.is_empty());
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let (events, now) = (Arc::new(Events::default()), Instant::now());
        for _ in 0..MOST_EVENTS + 10 {
            events.0.lock().add("long", &hint(), now);
        }
        assert_eq!(events.0.lock().streams[&0].events.len(), MOST_EVENTS);
        events.0.lock().most = Some(80_000);
        let large = "x".repeat(10_000);
        for number in 0..20 {
            events.0.lock().add(&format!("r{number}"), &reply(large.clone()), now);
        }
        let streams = events.0.lock();
        assert!(streams.ended_bytes <= 80_000, "{}", streams.ended_bytes);
        assert_eq!(streams.streams.len(), 1 + streams.ended.len());
        assert!(streams.streams.contains_key(&20) && streams.streams.contains_key(&0), "the newest, and one that runs");
    }

    #[tokio::test]
    async fn a_later_reader_takes_over_and_the_earlier_one_ends() {
        let events = Arc::new(Events::default());
        let client: Arc<str> = "c".into();
        let stream = events.begin_common(&client);
        let first = events.read(events.unread(stream));
        events.0.lock().add("c:common", &hint(), Instant::now());
        let mut first = Box::pin(first);
        assert!(first.next().await.is_some());
        let mut second = Box::pin(events.read(events.unread(stream)));
        assert!(first.next().await.is_none());
        events.0.lock().add("c:common", &hint(), Instant::now());
        assert_eq!(second.next().await.and_then(|event| event.event_id).as_deref(), Some("0-1"));
        assert!(events.is_read(stream) && events.is_of(stream, "c") && !events.is_of(stream, "d"));
        events.forget("c");
        assert!(second.next().await.is_none() && !events.is_of(stream, "c"));
    }
}
