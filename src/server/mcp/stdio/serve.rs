//! Serves the client that started this server.
//!
//! Runs in: server.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::transport::StdioTransport;
use crate::server::{
    mcp::{handler::Handler, resources::Resources},
    tools::call::server::Server,
};

/// Served directly, without rmcp's opening: a client may then change to the other protocol generation on the same pipe.
pub(in crate::server) async fn serve(server: Arc<Server>, resources: Arc<Resources>, stop: CancellationToken) {
    let transport = StdioTransport::stdio();
    let handler = Handler::new(server, resources).on(transport.lane());
    let running = rmcp::service::serve_directly_with_ct(handler, transport, None, stop);
    let _ = running.waiting().await;
}
