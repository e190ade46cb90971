//! Traces by OpenTelemetry: the spans of a call through server, queue and worker, sent to a collector where one is named.
//!
//! Runs in: server. Takes words, numbers and times; knows nothing of MCP. Off, which it is unless a variable names a collector, it
//! costs a call one look at a flag. Spans are sent by a thread of its own: no call waits for a collector. Code is never in them.

mod collector;
mod provider;
mod spans;

pub(crate) use self::{
    provider::{SECRETS, begin, end, flush, is_on},
    spans::{Asked, CallSpan, Carrier, NotRun, Parent, Ran, call},
};
