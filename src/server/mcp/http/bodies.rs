//! Bodies of requests: how much memory those under way may take together, how slowly one may come, and what a body that is
//! no message is answered.
//!
//! Runs in: server. In front of rmcp at `/mcp`, which gets a body only when all of it is there.

use std::{future::Future, sync::Arc, task::Poll, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header, request::Parts},
    middleware::Next,
    response::Response,
};
use futures::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::words;
use crate::{
    server::mcp::stdio,
    settings::{bounds::MAX_REQUEST, http_bounds::Bounds},
};

/// Bodies up to this size are not counted: calls of every day get through whatever is held.
const SMALL: usize = 64 << 10;
/// KiB by which a body that did not say its size is counted.
const STEP: u32 = 1 << 10;
/// Bytes a second that a large body must come with.
const PACE: u64 = 64 << 10;

pub(crate) struct Intake {
    /// KiB.
    memory: Arc<Semaphore>,
    time: Duration,
}

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the request has more than {MAX_REQUEST} bytes, the most this server takes")]
    TooLarge,
    #[error("the request did not arrive in time (--request-timeout)")]
    TooSlow,
    #[error("too many large requests arrive at the same time: try again later (--request-memory)")]
    TooMuch,
    #[error("the connection broke before the whole request was there: {0}")]
    Broken(axum::Error),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooMuch => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// A body, and what it has been counted with.
pub(super) struct Taken {
    pub(super) bytes: Bytes,
    _counted: Vec<OwnedSemaphorePermit>,
}

impl Intake {
    /// With nothing under way.
    #[must_use]
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { memory: Arc::new(Semaphore::new(bounds.request_memory as usize)), time: bounds.request_time }
    }

    /// When a body of which so much has come must have come.
    fn deadline(&self, began: Instant, size: usize) -> Instant {
        began + self.time + Duration::from_millis(size as u64 * 1000 / PACE)
    }

    async fn take(&self, body: Body, declared: Option<usize>) -> Result<Taken, Refused> {
        let began = Instant::now();
        if declared.is_some_and(|size| size > MAX_REQUEST) {
            return Err(Refused::TooLarge);
        }
        let mut counted = Vec::new();
        let mut room = SMALL;
        if let Some(size) = declared.filter(|size| *size > SMALL) {
            counted.push(self.count(size, self.deadline(began, 0)).await?);
            room = size;
        }
        let mut pieces = body.into_data_stream();
        let mut whole = Vec::new();
        loop {
            let next = timeout_at(self.deadline(began, whole.len()), pieces.next());
            let piece = match next.await.map_err(|_| Refused::TooSlow)? {
                Some(piece) => piece.map_err(Refused::Broken)?,
                None => return Ok(Taken { bytes: whole.into(), _counted: counted }),
            };
            if declared == Some(piece.len()) {
                return Ok(Taken { bytes: piece, _counted: counted });
            }
            if whole.len() + piece.len() > MAX_REQUEST {
                return Err(Refused::TooLarge);
            }
            while whole.len() + piece.len() > room {
                // Not waited for: two that wait for each other would both be too slow.
                counted.push(Arc::clone(&self.memory).try_acquire_many_owned(STEP).map_err(|_| Refused::TooMuch)?);
                room += (STEP as usize) << 10;
            }
            if whole.is_empty() {
                whole.reserve_exact(declared.unwrap_or(piece.len()));
            }
            whole.extend_from_slice(&piece);
        }
    }

    async fn count(&self, size: usize, deadline: Instant) -> Result<OwnedSemaphorePermit, Refused> {
        let size = u32::try_from(size.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let counted = timeout_at(deadline, Arc::clone(&self.memory).acquire_many_owned(size)).await;
        counted.map_err(|_| Refused::TooMuch)?.map_err(|_| Refused::TooMuch)
    }
}

/// The head of a POST and the whole of its body, or the refusal in JSON-RPC's words.
pub(super) async fn receive(intake: &Intake, request: Request) -> Result<(Parts, Taken), Response> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let declared = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let (head, body) = request.into_parts();
    match intake.take(body, declared).await {
        Ok(taken) => Ok((head, taken)),
        Err(refused) => Err(words::refusal(refused.status(), &refused.to_string())),
    }
}

/// The answer to a body; what is no message is answered in JSON-RPC's words.
pub(super) async fn answered(bytes: Bytes, answering: impl Future<Output = Response>) -> Response {
    let mut answering = Box::pin(answering);
    // rmcp parses a body that is all there when it is first polled: after that this copy of it is not needed.
    let first = std::future::poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx))).await;
    match first {
        Poll::Ready(response) if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            stdio::refusal_of(&bytes, "request body").map_or(response, words::bad_request)
        }
        Poll::Ready(response) => response,
        Poll::Pending => {
            drop(bytes);
            answering.await
        }
    }
}

/// Whether this came of [`keep_pace`].
pub(crate) fn is_too_slow(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| matches!(cause.downcast_ref(), Some(Refused::TooSlow)))
}

/// For a body that is read as it comes: it must come with some pace.
pub(crate) async fn keep_pace(State(intake): State<Arc<Intake>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let began = Instant::now();
    let paced =
        futures::stream::unfold((body.into_data_stream(), intake, 0), move |(mut pieces, intake, size)| async move {
            let next = timeout_at(intake.deadline(began, size), pieces.next()).await;
            let piece = match next {
                Ok(piece) => piece?,
                Err(_) => Err(axum::Error::new(Refused::TooSlow)),
            };
            let more = piece.as_ref().map_or(0, Bytes::len);
            Some((piece, (pieces, intake, size + more)))
        });
    next.run(Request::from_parts(head, Body::from_stream(paced))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intake(memory: u32, time: Duration) -> Intake {
        Intake { memory: Arc::new(Semaphore::new(memory as usize)), time }
    }

    /// A body of `first` bytes after which nothing more comes.
    fn held(first: usize) -> Body {
        let piece = futures::stream::once(async move { Ok::<_, axum::Error>(Bytes::from(vec![b' '; first])) });
        Body::from_stream(piece.chain(futures::stream::pending()))
    }

    #[tokio::test]
    async fn what_is_held_back_is_given_up_and_counts_no_more() {
        let intake = intake(1024, Duration::from_millis(50));
        let late = intake.take(held(200_000), Some(1_000_000)).await;
        assert!(matches!(late, Err(Refused::TooSlow)), "it had its time and that of its bytes");
        assert_eq!(intake.memory.available_permits(), 1024);
        assert!(matches!(intake.take(held(10), Some(20)).await, Err(Refused::TooSlow)));
        assert!(intake.take(Body::from(vec![b' '; 1_000_000]), Some(1_000_000)).await.is_ok());
    }

    #[tokio::test]
    async fn large_ones_wait_for_room_and_small_ones_do_not() {
        let intake = intake(1024, Duration::from_millis(300));
        let large = intake.take(Body::from(vec![b' '; 1 << 20]), Some(1 << 20)).await.ok();
        assert!(large.is_some());
        let further = intake.take(Body::from(vec![b' '; 1 << 20]), Some(1 << 20)).await;
        assert!(matches!(further, Err(Refused::TooMuch)));
        let unsized_one = intake.take(Body::from(vec![b' '; 1 << 20]), None).await;
        assert!(matches!(unsized_one, Err(Refused::TooMuch)));
        assert!(intake.take(Body::from(vec![b' '; SMALL]), None).await.is_ok());
        drop(large);
        assert!(intake.take(Body::from(vec![b' '; 900_000]), None).await.is_ok());
        assert!(matches!(intake.take(Body::empty(), Some(MAX_REQUEST + 1)).await, Err(Refused::TooLarge)));
    }
}
