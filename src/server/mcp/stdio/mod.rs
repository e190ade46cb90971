//! MCP over standard input and output: one JSON-RPC message a line, each way. A line that is no message is answered.
//!
//! Runs in: server. Owns both streams for as long as the connection lasts. Knows JSON-RPC and the order in which a
//! connection opens; never tools, sessions or what a request asks for.
//!
//! Ours rather than rmcp's, because rmcp's drops what it cannot parse without a word, so that the client waits for ever,
//! and because rmcp's service ends when the first message is one that it does not expect.

mod held;
mod lines;
mod opening;
mod outgoing;
mod refusal;
mod serve;
mod socket;
mod transport;

pub(in crate::server) use self::serve::serve;
pub(crate) use self::{refusal::refusal_of, transport::over_socket};
