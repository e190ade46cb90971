//! What was sent on the event streams of protocols up to 2025-11-25, kept so that a client whose stream broke can have the
//! rest of it: while its request runs, and for a minute and more after the reply.
//!
//! Runs in: server. Owns the events; which client may read them is `clients.rs`'s question, and which stream is whose
//! `post.rs`'s. Every stream is served from here, also at first: a client that reads slowly holds up no other.
//!
//! An event's id is `STREAM-NUMBER`. A request's stream ends with its reply; a client's common stream ends with the client.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Bytes;
use futures::{Stream, stream};
use parking_lot::Mutex;
use rmcp::{model::ServerJsonRpcMessage, transport::streamable_http_server::session::ServerSseMessage};
use tokio::{sync::Notify, time::timeout_at};

use crate::server::tools::call::texts::size_of_json;

/// How long a stream that has ended is kept.
const KEPT: Duration = Duration::from_secs(90);
/// Bytes of streams that have ended, beyond which the oldest go before their time.
const MOST: usize = 64 << 20;
/// Events of one stream before its reply; the oldest go first. Progress comes once a second.
const MOST_EVENTS: usize = 4096;
/// Their bytes.
const MOST_OF_STREAM: usize = 4 << 20;
/// After how long a client whose stream broke is to ask for the rest.
const RETRY: Duration = Duration::from_secs(3);
/// What an event has beside its message, about.
const FRAME: usize = 64;

/// All streams.
#[derive(Default)]
pub(crate) struct Events(Mutex<Streams>);

#[derive(Default)]
struct Streams {
    streams: BTreeMap<u64, Kept>,
    /// Those that have ended, in that order, with their bytes.
    ended: VecDeque<(Instant, u64, usize)>,
    ended_bytes: usize,
    /// Fewer bytes than [`MOST`], for a test.
    most: Option<usize>,
    next: u64,
}

struct Kept {
    client: Arc<str>,
    /// Ends with a reply.
    of_request: bool,
    events: VecDeque<Event>,
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

/// What an event says.
#[derive(Debug, Clone)]
pub(super) enum Said {
    /// Nothing: a client whose stream breaks from here on can ask for the rest.
    Hint,
    Message(Arc<ServerJsonRpcMessage>),
    /// A reply that its call has written.
    Written(Bytes),
}

#[derive(Debug, Clone)]
pub(super) struct Event {
    stream: u64,
    number: u64,
    said: Said,
    size: usize,
}

impl Said {
    /// As it will be written.
    fn size(&self) -> usize {
        FRAME
            + match self {
                Self::Hint => 0,
                Self::Message(message) => size_of_json(&**message),
                Self::Written(text) => text.len(),
            }
    }
}

impl Event {
    fn id(&self) -> String {
        format!("{}-{}", self.stream, self.number)
    }

    /// For rmcp, which writes events itself.
    pub(super) fn for_rmcp(self) -> ServerSseMessage {
        let mut event = match &self.said {
            Said::Hint => ServerSseMessage::retry(RETRY),
            Said::Message(message) => {
                let mut event = ServerSseMessage::default();
                event.message = Some(Arc::clone(message));
                event
            }
            Said::Written(text) => {
                let mut event = ServerSseMessage::default();
                event.message = serde_json::from_slice(text).ok().map(Arc::new);
                event
            }
        };
        event.event_id = Some(self.id());
        event
    }

    /// Adds it as it goes over the line, in the order in which rmcp writes it.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(b"data: ");
        match &self.said {
            Said::Hint => {}
            // A message of ours is JSON always: what cannot be written was refused before.
            Said::Message(message) => drop(serde_json::to_writer(&mut *to, &**message)),
            Said::Written(text) => to.extend_from_slice(text),
        }
        to.extend_from_slice(b"\nid: ");
        to.extend_from_slice(self.id().as_bytes());
        if matches!(self.said, Said::Hint) {
            to.extend_from_slice(format!("\nretry: {}", RETRY.as_millis()).as_bytes());
        }
        to.extend_from_slice(b"\n\n");
    }
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
    /// Begins the stream of a client's request.
    pub(super) fn begin(&self, client: &Arc<str>) -> u64 {
        let mut streams = self.0.lock();
        let stream = streams.begin(client, true);
        streams.add(stream, Said::Hint, false, Instant::now());
        stream
    }

    /// Begins a client's common stream.
    pub(super) fn begin_common(&self, client: &Arc<str>) -> u64 {
        self.0.lock().begin(client, false)
    }

    /// Adds to a stream. A reply ends it.
    pub(super) fn add(&self, stream: u64, said: Said, is_reply: bool) {
        self.0.lock().add(stream, said, is_reply, Instant::now());
    }

    /// Waits until the stream has ended, for so long.
    pub(super) async fn ended_within(&self, stream: u64, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        loop {
            let changed = match self.0.lock().streams.get(&stream) {
                Some(kept) if !kept.ended => Arc::clone(&kept.changed),
                _ => return,
            };
            let notified = changed.notified();
            // What came between the look and the wish to be told.
            let is_open = self.0.lock().streams.get(&stream).is_some_and(|kept| !kept.ended);
            if !is_open || timeout_at(until, notified).await.is_err() {
                return;
            }
        }
    }

    /// All of a stream that has ended, as it goes over the line. It counts as given.
    pub(super) fn whole(&self, stream: u64) -> Option<Bytes> {
        let mut streams = self.0.lock();
        let kept = streams.streams.get_mut(&stream).filter(|kept| kept.ended)?;
        kept.given = kept.next;
        let mut text = Vec::with_capacity(kept.bytes + FRAME);
        kept.events.iter().for_each(|event| event.write(&mut text));
        Some(text.into())
    }

    /// Whether there is a stream of this number, and this client's.
    pub(crate) fn is_of(&self, stream: u64, client: &str) -> bool {
        self.0.lock().streams.get(&stream).is_some_and(|kept| *kept.client == *client)
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

    /// No more will come: the request was cancelled.
    pub(crate) fn end(&self, stream: u64) {
        self.0.lock().end(stream, Instant::now());
    }

    /// The client is gone, and with it all its streams.
    pub(crate) fn forget(&self, client: &str) {
        let mut streams = self.0.lock();
        let its = |kept: &Kept| *kept.client == *client;
        let gone: Vec<u64> = streams.streams.iter().filter(|(_, kept)| its(kept)).map(|(number, _)| *number).collect();
        gone.into_iter().for_each(|number| streams.remove(number));
    }

    /// Forgets what has been kept long enough.
    pub(crate) fn tidy(&self, now: Instant) {
        self.0.lock().tidy(now);
    }

    /// Reads a stream from a place on, as long as no other request begins to. Ends with the stream.
    pub(crate) fn read(self: &Arc<Self>, place: Place) -> impl Stream<Item = Event> + Send + Sync + use<> {
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

struct Reading {
    events: Arc<Events>,
    place: Place,
    reader: u64,
}

enum Step {
    Event(Event),
    End,
    Wait(Arc<Notify>),
}

impl Reading {
    async fn next(&mut self) -> Option<Event> {
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
        let next = kept.events.iter().find(|event| event.number >= self.place.from);
        match next {
            Some(event) => {
                self.place.from = event.number + 1;
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
    fn begin(&mut self, client: &Arc<str>, of_request: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        let kept = Kept {
            client: Arc::clone(client),
            of_request,
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

    fn add(&mut self, stream: u64, said: Said, is_reply: bool, now: Instant) {
        let Some(kept) = self.streams.get_mut(&stream).filter(|kept| !kept.ended) else { return };
        let ends = kept.of_request && is_reply;
        let size = said.size();
        kept.events.push_back(Event { stream, number: kept.next, said, size });
        kept.next += 1;
        kept.bytes += size;
        while !ends && (kept.events.len() > MOST_EVENTS || (kept.bytes > MOST_OF_STREAM && kept.events.len() > 1)) {
            kept.bytes -= kept.events.pop_front().map_or(0, |event| event.size);
        }
        kept.changed.notify_waiters();
        if ends {
            self.end(stream, now);
        }
        self.tidy(now);
    }

    fn end(&mut self, stream: u64, now: Instant) {
        let Some(kept) = self.streams.get_mut(&stream) else { return };
        if std::mem::replace(&mut kept.ended, true) {
            return;
        }
        kept.changed.notify_waiters();
        self.ended.push_back((now, stream, kept.bytes));
        self.ended_bytes += kept.bytes;
    }

    fn remove(&mut self, stream: u64) {
        if let Some(kept) = self.streams.remove(&stream) {
            kept.changed.notify_waiters();
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

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use rmcp::model::{ErrorCode, ErrorData, RequestId};

    use super::*;

    fn client() -> Arc<str> {
        "c".into()
    }

    fn reply(text: String) -> Said {
        let error = ErrorData::new(ErrorCode::INTERNAL_ERROR, text, None);
        Said::Message(Arc::new(ServerJsonRpcMessage::error(error, Some(RequestId::Number(1)))))
    }

    async fn ids(events: &Arc<Events>, place: Place) -> Vec<String> {
        events.read(place).map(|event| event.id()).collect().await
    }

    #[tokio::test]
    async fn what_was_missed_is_there_after_the_reply_for_more_than_a_minute() {
        let (events, began) = (Arc::new(Events::default()), Instant::now());
        let stream = events.begin(&client());
        events.0.lock().add(stream, Said::Hint, false, began);
        assert!(events.whole(stream).is_none(), "it goes on");
        events.0.lock().add(stream, reply("done".into()), true, began);
        events.tidy(began + Duration::from_secs(61));
        assert_eq!(ids(&events, Place::after("0-0").expect("an id")).await, ["0-1", "0-2"]);
        assert_eq!(ids(&events, Place::after("0-2").expect("an id")).await, [""; 0]);
        assert!(events.whole(stream).is_some());
        events.tidy(began + KEPT);
        assert_eq!(ids(&events, Place::after("0-0").expect("an id")).await, [""; 0]);
        assert!(events.0.lock().streams.is_empty() && events.whole(stream).is_none());
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let (events, now) = (Arc::new(Events::default()), Instant::now());
        let long = events.begin(&client());
        for _ in 0..MOST_EVENTS + 10 {
            events.0.lock().add(long, Said::Hint, false, now);
        }
        assert_eq!(events.0.lock().streams[&long].events.len(), MOST_EVENTS);
        events.0.lock().most = Some(80_000);
        let large = "x".repeat(10_000);
        let streams: Vec<u64> = (0..20).map(|_| events.begin(&client())).collect();
        streams.iter().for_each(|stream| events.0.lock().add(*stream, reply(large.clone()), true, now));
        let held = events.0.lock();
        assert!(held.ended_bytes <= 80_000, "{}", held.ended_bytes);
        assert_eq!(held.streams.len(), 1 + held.ended.len());
        assert!(
            held.streams.contains_key(&streams[19]) && held.streams.contains_key(&long),
            "the newest, and one that runs"
        );
    }

    #[tokio::test]
    async fn a_later_reader_takes_over_and_the_earlier_one_ends() {
        let events = Arc::new(Events::default());
        let stream = events.begin_common(&client());
        let first = events.read(events.unread(stream));
        events.add(stream, Said::Hint, false);
        let mut first = Box::pin(first);
        assert!(first.next().await.is_some());
        let mut second = Box::pin(events.read(events.unread(stream)));
        assert!(first.next().await.is_none());
        events.add(stream, Said::Hint, false);
        assert_eq!(second.next().await.map(|event| event.id()).as_deref(), Some("0-1"));
        assert!(events.is_read(stream) && events.is_of(stream, "c") && !events.is_of(stream, "d"));
        events.forget("c");
        assert!(second.next().await.is_none() && !events.is_of(stream, "c"));
    }

    #[tokio::test]
    async fn who_waits_for_the_end_of_a_stream_has_it_at_once_or_goes_on_in_time() {
        let events = Arc::new(Events::default());
        let (stream, limit) = (events.begin(&client()), Duration::from_secs(60));
        let early = tokio::time::timeout(limit, events.ended_within(stream, Duration::from_millis(20))).await;
        assert!(early.is_ok() && events.whole(stream).is_none());
        let waiting = {
            let events = Arc::clone(&events);
            tokio::spawn(async move { events.ended_within(stream, limit).await })
        };
        tokio::task::yield_now().await;
        events.add(stream, Said::Hint, false);
        tokio::task::yield_now().await;
        events.add(stream, Said::Written(Bytes::from_static(b"{}")), true);
        tokio::time::timeout(limit / 2, waiting).await.expect("in time").expect("no panic");
        let text = events.whole(stream).expect("it has ended");
        let hint = |number| format!("data: \nid: 0-{number}\nretry: 3000\n\n");
        assert_eq!(text, format!("{}{}data: {{}}\nid: 0-2\n\n", hint(0), hint(1)));
        // Nothing comes behind a reply.
        events.add(stream, Said::Hint, false);
        assert_eq!(events.whole(stream).map(|text| text.len()), Some(text.len()));
    }

    #[test]
    fn a_reply_that_its_call_has_written_is_the_same_for_rmcp() {
        let Said::Message(message) = reply("no".into()) else { panic!("a message") };
        let text = serde_json::to_vec(&*message).expect("JSON");
        let event = Event { stream: 3, number: 1, said: Said::Written(text.clone().into()), size: 0 };
        let event = event.for_rmcp();
        assert_eq!(event.event_id.as_deref(), Some("3-1"));
        assert_eq!(serde_json::to_vec(&*event.message.expect("a message")).expect("JSON"), text);
    }
}
