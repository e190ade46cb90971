//! Connections: how many there may be, who gives way, and how long the head of a request may take.
//!
//! Runs in: server. Owns every accepted connection. Knows nothing of what is asked for, but one thing: a probe is answered
//! even when everything is taken.
//!
//! A connection is *busy* from a request's head to the end of its answer, else it is *idle*. When all places are taken, the
//! one that has been idle for longest gives way. When all are busy, a few more may come in and stand: they are told so, and
//! only probes get more than that.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Method, Response, StatusCode, header},
    response::IntoResponse,
};
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};

use crate::{server::mcp::identity::Connection, settings::http_bounds::Bounds};

/// How many may stand.
const STANDING: usize = 32;
/// Time for the head of a request of one that stands.
const STANDING_TIME: Duration = Duration::from_secs(2);
/// Room for the head of a request, and for what is read of a body at a time.
const BUFFER: usize = 64 << 10;
/// Before the next try when no connection could be accepted: out of descriptors, as a rule.
const PAUSE: Duration = Duration::from_millis(100);
/// The method of a stream of events.
const LISTEN: &[u8] = b"subscriptions/listen";
/// What is answered even to those who stand.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Accepts connections and looks after them.
pub(super) struct Connections(Arc<House>);

struct House {
    places: usize,
    guests: Mutex<Guests>,
    /// Requests under way that are to have an answer; streams of events are none.
    asked: watch::Sender<usize>,
    /// Connections end with the answers that are under way.
    closes: watch::Sender<bool>,
}

#[derive(Default)]
struct Guests {
    next: u64,
    here: BTreeMap<u64, Guest>,
    standing: usize,
}

struct Guest {
    /// Since when it has been idle; `None` is busy.
    idle: Option<Instant>,
    standing: bool,
    /// Tells it to go.
    leave: Arc<Notify>,
}

/// A connection's place. Dropped, it is free.
struct Place {
    house: Arc<House>,
    number: u64,
    standing: bool,
    leave: Arc<Notify>,
}

/// While it is there, the connection is busy.
struct Busy {
    place: Arc<Place>,
    /// An answer is awaited.
    asked: bool,
}

impl Connections {
    pub(super) fn new(places: usize) -> Self {
        Self(House::new(places))
    }

    /// Accepts connections for ever. May be broken off, and begun again.
    pub(super) async fn serve(&self, listener: &TcpListener, app: &Router, bounds: Bounds) {
        let house = &self.0;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let place = house.admit();
                    tokio::spawn(attend(stream, app.clone(), place, bounds.request_time));
                }
                Err(error) => {
                    tracing::warn!("no connection could be accepted: {error}");
                    house.dismiss_idle();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Whether connections are to end with the answers that are under way.
    pub(super) fn close(&self, now: bool) {
        self.0.closes.send_replace(now);
    }

    /// Waits until no request waits for its answer.
    pub(super) async fn are_answered(&self) {
        let _ = self.0.asked.subscribe().wait_for(|asked| *asked == 0).await;
    }

    /// Requests that wait for their answers.
    pub(super) fn asked(&self) -> usize {
        *self.0.asked.borrow()
    }
}

async fn attend(stream: TcpStream, app: Router, place: Place, time: Duration) {
    let _ = stream.set_nodelay(true);
    let place = Arc::new(place);
    let leave = Arc::clone(&place.leave);
    let mut closes = place.house.closes.subscribe();
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(if place.standing { time.min(STANDING_TIME) } else { time })
        .max_buf_size(BUFFER)
        .keep_alive(!place.standing);
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Connection(place.number));
        let busy = Busy::begin(&place, is_asked(&request));
        let turned_away = place.standing && !PROBES.contains(&request.uri().path());
        let answer = (!turned_away).then(|| app.call(request.map(Body::new)));
        async move {
            let response = match answer {
                Some(answer) => answer.await?,
                None => full(),
            };
            Ok::<_, Infallible>(response.map(|body| Body::new(Answer { body, _busy: busy })))
        }
    });
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
    let closing = async {
        if closes.wait_for(|closes| *closes).await.is_err() {
            std::future::pending().await
        }
    };
    tokio::select! {
        // How a connection ended is its client's affair.
        _ = &mut connection => return,
        () = leave.notified() => return,
        () = closing => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = &mut connection => {}
        () = leave.notified() => {}
    }
}

/// Whether an answer is awaited that comes to an end: a stream of events does not.
fn is_asked(request: &hyper::Request<Incoming>) -> bool {
    let listens = request.headers().get("mcp-method").is_some_and(|method| method.as_bytes() == LISTEN);
    request.method() != Method::GET && !listens
}

fn full() -> Response<Body> {
    let words = "all connections of this server are busy: try again later (--max-connections)\n";
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], words).into_response()
}

impl House {
    fn new(places: usize) -> Arc<Self> {
        let (asked, closes) = (watch::Sender::new(0), watch::Sender::new(false));
        Arc::new(Self { places, guests: Mutex::default(), asked, closes })
    }

    fn admit(self: &Arc<Self>) -> Place {
        let mut guests = self.guests.lock();
        let seated = guests.here.len() - guests.standing;
        let standing = seated >= self.places && !guests.dismiss(|guest| !guest.standing && guest.idle.is_some());
        if standing && guests.standing >= STANDING {
            // The one that came first, whatever it does.
            guests.dismiss(|guest| guest.standing);
        }
        let number = guests.next;
        guests.next += 1;
        let leave = Arc::new(Notify::new());
        guests.standing += usize::from(standing);
        guests.here.insert(number, Guest { idle: Some(Instant::now()), standing, leave: Arc::clone(&leave) });
        Place { house: Arc::clone(self), number, standing, leave }
    }

    fn dismiss_idle(&self) {
        self.guests.lock().dismiss(|guest| guest.idle.is_some());
    }
}

impl Guests {
    /// Sends away the one that has been idle for longest among these; whether there was one.
    fn dismiss(&mut self, may_go: impl Fn(&Guest) -> bool) -> bool {
        let candidates = self.here.iter().filter(|(_, guest)| may_go(guest));
        // Busy ones last.
        let oldest = candidates.min_by_key(|(number, guest)| (guest.idle.is_none(), guest.idle, **number));
        let Some(number) = oldest.map(|(number, _)| *number) else { return false };
        self.remove(number);
        true
    }

    fn remove(&mut self, number: u64) {
        if let Some(guest) = self.here.remove(&number) {
            self.standing -= usize::from(guest.standing);
            guest.leave.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.house.guests.lock().remove(self.number);
    }
}

impl Busy {
    fn begin(place: &Arc<Place>, asked: bool) -> Self {
        place.note(None);
        place.house.asked.send_modify(|count| *count += usize::from(asked));
        Self { place: Arc::clone(place), asked }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.place.note(Some(Instant::now()));
        self.place.house.asked.send_modify(|count| *count -= usize::from(self.asked));
    }
}

impl Place {
    fn note(&self, idle: Option<Instant>) {
        if let Some(guest) = self.house.guests.lock().here.get_mut(&self.number) {
            guest.idle = idle;
        }
    }
}

/// An answer's body; the connection is busy as long as it is there.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house(places: usize) -> Arc<House> {
        House::new(places)
    }

    fn is_here(place: &Place) -> bool {
        place.house.guests.lock().here.contains_key(&place.number)
    }

    #[test]
    fn the_longest_idle_gives_way_and_the_busy_never_do() {
        let house = house(2);
        let (first, second) = (Arc::new(house.admit()), house.admit());
        let busy = Busy::begin(&first, true);
        let third = house.admit();
        assert!(is_here(&first) && !is_here(&second) && is_here(&third) && !third.standing);
        drop(busy);
        let fourth = house.admit();
        assert!(is_here(&first) && !is_here(&third) && is_here(&fourth), "it was busy a moment ago");
    }

    #[test]
    fn who_comes_to_a_full_house_stands_and_standing_room_is_bounded() {
        let house = house(1);
        let only = Arc::new(house.admit());
        let _busy = Busy::begin(&only, true);
        let standing: Vec<Place> = (0..STANDING + 5).map(|_| house.admit()).collect();
        assert!(standing.iter().all(|place| place.standing));
        assert_eq!(standing.iter().filter(|place| is_here(place)).count(), STANDING);
        assert!(is_here(&only) && is_here(&standing[STANDING + 4]) && !is_here(&standing[0]));
        drop(standing);
        assert_eq!(house.guests.lock().here.len(), 1);
    }
}
