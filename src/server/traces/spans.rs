//! The spans of a call: itself, and of each cell the wait for its turn, what makes its worker ready, and the cell.
//!
//! Runs in: server. Names and attributes follow the semantic conventions of OpenTelemetry for MCP and GenAI; what these do not know
//! begins with `forkpy.`. The spans of a cell are made when it has ended, with the times that were taken anyway.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::Span};
use sha2::{Digest as _, Sha256};

use super::provider;

/// Most bytes of a text that a client chooses.
const MOST: usize = 256;
/// The same of `tracestate`, which W3C wants to be handed on up to this.
const MOST_STATE: usize = 512;

/// What is known of a call when it begins.
pub(crate) struct Asked<'a> {
    pub(crate) tool: &'static str,
    /// Its id among the requests of its connection.
    pub(crate) request: String,
    /// The session of forkpy's that it names.
    pub(crate) session: Option<&'a str>,
    /// Whose it is.
    pub(crate) owner: Option<String>,
    /// The session of MCP that it is in, which is what lets its client in.
    pub(crate) mcp_session: Option<&'a str>,
    /// The version of MCP.
    pub(crate) version: Option<String>,
    pub(crate) over_http: bool,
    /// What it is a part of: as the call itself says, and as its HTTP request does.
    pub(crate) said: Carrier<'a>,
    pub(crate) sent: Carrier<'a>,
}

/// A trace context of W3C, as it came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Carrier<'a> {
    pub(crate) traceparent: Option<&'a str>,
    pub(crate) tracestate: Option<&'a str>,
}

/// A call that is traced and goes on. Dropped before its end, it was given up: its client has gone.
#[derive(Debug)]
pub(crate) struct CallSpan(Option<Span>);

/// What the spans of a call's cells hang on.
#[derive(Debug, Clone)]
pub(crate) struct Parent(Arc<SpanContext>);

/// A cell that was not run.
pub(crate) struct NotRun<'a> {
    pub(crate) session: &'a str,
    pub(crate) asked: Instant,
    pub(crate) queued: Duration,
    pub(crate) status: &'static str,
}

/// A cell that has ended.
pub(crate) struct Ran<'a> {
    pub(crate) session: &'a str,
    pub(crate) cell: u64,
    /// When it was asked for, how long it waited for its turn, when it began, and how long it took.
    pub(crate) asked: Instant,
    pub(crate) queued: Duration,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) status: &'static str,
}

/// A call begins; none where it is not traced.
#[must_use]
pub(crate) fn call(asked: &Asked<'_>) -> Option<CallSpan> {
    let tracer = provider::tracer()?;
    let (said, sent) = (asked.said.context(), asked.sent.context());
    let mut builder = SpanBuilder::from_name(format!("tools/call {}", asked.tool))
        .with_kind(SpanKind::Server)
        .with_attributes(attributes(asked));
    if let (Some(said), Some(sent)) = (&said, &sent)
        && said.span().span_context().span_id() != sent.span().span_context().span_id()
    {
        builder = builder.with_links(vec![Link::with_context(sent.span().span_context().clone())]);
    }
    let span = builder.start_with_context(tracer, &said.or(sent).unwrap_or_default());
    span.is_recording().then(|| CallSpan(Some(span)))
}

fn attributes(asked: &Asked<'_>) -> Vec<KeyValue> {
    let mut all = vec![
        KeyValue::new("mcp.method.name", "tools/call"),
        KeyValue::new("gen_ai.operation.name", "execute_tool"),
        KeyValue::new("gen_ai.tool.name", asked.tool),
        KeyValue::new("jsonrpc.request.id", cut(&asked.request)),
        KeyValue::new("network.transport", if asked.over_http { "tcp" } else { "pipe" }),
    ];
    let mut add = |name: &'static str, value: Option<String>| {
        all.extend(value.map(|value| KeyValue::new(name, value)));
    };
    add("network.protocol.name", asked.over_http.then(|| "http".to_owned()));
    add("mcp.protocol.version", asked.version.as_deref().map(cut));
    add("mcp.session.id", asked.mcp_session.map(mark));
    add("enduser.id", asked.owner.clone());
    add("forkpy.session", asked.session.map(cut));
    all
}

impl CallSpan {
    /// For what is done for this call.
    #[must_use]
    pub(crate) fn parent(&self) -> Option<Parent> {
        self.0.as_ref().map(|span| Parent(Arc::new(span.span_context().clone())))
    }

    /// It has ended, with this word for how.
    pub(crate) fn end(mut self, outcome: &str, is_error: bool) {
        let Some(mut span) = self.0.take() else { return };
        span.set_attribute(KeyValue::new("forkpy.outcome", outcome.to_owned()));
        if is_error {
            span.set_attribute(KeyValue::new("error.type", "tool_error"));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if let Some(mut span) = self.0.take() {
            span.set_attribute(KeyValue::new("forkpy.outcome", "abandoned"));
            span.end();
        }
    }
}

impl Parent {
    /// A cell had its turn, and was not run.
    pub(crate) fn not_run(&self, cell: &NotRun<'_>) {
        let clock = clock();
        let about = vec![
            KeyValue::new("forkpy.session", cell.session.to_owned()),
            KeyValue::new("forkpy.outcome", cell.status),
        ];
        self.child("wait for session", about, [clock(cell.asked), clock(cell.asked + cell.queued)], false);
    }

    /// A cell has ended.
    pub(crate) fn ran(&self, cell: &Ran<'_>) {
        let clock = clock();
        let session = || KeyValue::new("forkpy.session", cell.session.to_owned());
        let turn = clock(cell.asked + cell.queued).min(clock(cell.began));
        self.child("wait for session", vec![session()], [clock(cell.asked), turn], false);
        self.child("ready worker", vec![session()], [turn, clock(cell.began)], false);
        let mut about = vec![
            session(),
            KeyValue::new("forkpy.cell", i64::try_from(cell.cell).unwrap_or(i64::MAX)),
            KeyValue::new("forkpy.outcome", cell.status),
        ];
        let is_bad = cell.status != "ok";
        about.extend(is_bad.then(|| KeyValue::new("error.type", cell.status)));
        self.child("run cell", about, [clock(cell.began), clock(cell.began + cell.took)], is_bad);
    }

    fn child(&self, name: &'static str, about: Vec<KeyValue>, [from, to]: [SystemTime; 2], is_bad: bool) {
        let Some(tracer) = provider::tracer() else { return };
        let parent = Context::new().with_remote_span_context(SpanContext::clone(&self.0));
        let builder =
            SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(from).with_attributes(about);
        let mut span = tracer.build_with_context(builder, &parent);
        if is_bad {
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(to);
    }
}

impl Carrier<'_> {
    /// None where nothing came, or nothing that can be read.
    fn context(&self) -> Option<Context> {
        self.traceparent?;
        // Not the current context: there is none.
        let found = TraceContextPropagator::new().extract_with_context(&Context::new(), self);
        found.span().span_context().is_valid().then_some(found)
    }
}

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate.filter(|state| state.len() <= MOST_STATE),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// The time of the day at an instant that has passed.
fn clock() -> impl Fn(Instant) -> SystemTime {
    let (instant, time) = (Instant::now(), SystemTime::now());
    move |then| time - instant.saturating_duration_since(then)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MOST)].to_owned()
}

/// The same for the same text, which cannot be told from it.
fn mark(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_no_trace_context_is_none() {
        let context = |traceparent| Carrier { traceparent, tracestate: None }.context();
        let found = context(Some(PARENT)).expect("one");
        assert_eq!(found.span().span_context().trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        for wrong in ["", "x", "00-00000000000000000000000000000000-b7ad6b7169203331-01", &PARENT[..50]] {
            assert!(context(Some(wrong)).is_none(), "{wrong}");
        }
        assert!(context(None).is_none());
        let state = "a=".to_owned() + &"b".repeat(1000);
        let long = Carrier { traceparent: Some(PARENT), tracestate: Some(&state) }.context().expect("one");
        assert_eq!(long.span().span_context().trace_state().header(), "");
    }

    #[test]
    fn a_session_cannot_be_told_from_its_mark() {
        assert_eq!((mark("a").len(), mark("a") == mark("a"), mark("a") == mark("b")), (16, true, false));
        assert_eq!(cut(&"é".repeat(200)).len(), 256);
    }
}
