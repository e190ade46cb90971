//! The order in which a connection opens.
//!
//! Runs in: server. Knows which message rmcp accepts first; never what a request asks for.

use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, ErrorCode, GetMeta, JsonRpcMessage, JsonRpcRequest, ProtocolVersion,
    RequestId, ServerJsonRpcMessage,
};

use super::refusal::{Reading, Refusal};

/// How far the connection has opened. Until rmcp has a request with which to begin, it ends the connection at any
/// message that is not a request; such a message is not shown to it.
#[derive(Debug)]
pub(super) enum Opening {
    Awaited,
    /// rmcp has a request of protocol 2026-07-28 or later, and has yet to say whether it knows the version.
    Offered(RequestId),
    Done,
}

impl Opening {
    pub(super) fn admit(&mut self, message: ClientJsonRpcMessage) -> Reading {
        if let JsonRpcMessage::Request(request) = &message {
            self.admit_request(request)?;
        } else if matches!(self, Self::Awaited) {
            tracing::warn!("ignored a notification or response that came before the first request");
            return Err(None);
        }
        Ok(message)
    }

    fn admit_request(
        &mut self,
        JsonRpcRequest { id, request, .. }: &JsonRpcRequest<ClientRequest>,
    ) -> Result<(), Option<Refusal>> {
        match request {
            // What does not parse as an `initialize` becomes a request of an unknown kind.
            ClientRequest::CustomRequest(custom) if custom.method == "initialize" => {
                let message = "initialize needs params with protocolVersion, capabilities and clientInfo";
                return Err(Some(Refusal::of(id, ErrorCode::INVALID_PARAMS, message)));
            }
            ClientRequest::InitializeRequest(_) => *self = Self::Done,
            // rmcp answers these two and goes on waiting.
            ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_) => {}
            other if matches!(self, Self::Awaited) => {
                let meta = other.get_meta();
                if meta.protocol_version().is_none() {
                    // The code that protocol 2026-07-28 wants where `_meta` is missing; older ones name none.
                    let message = "send initialize first, or give every request the _meta of protocol 2026-07-28: \
                                   io.modelcontextprotocol/protocolVersion and clientCapabilities";
                    return Err(Some(Refusal::of(id, ErrorCode::INVALID_PARAMS, message)));
                }
                if meta.missing_required_keys(&ProtocolVersion::V_2026_07_28).is_empty() {
                    *self = Self::Offered(id.clone());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// rmcp refuses the first request when it does not know its version, and goes on waiting; so do we.
    pub(super) fn answered(&mut self, item: &ServerJsonRpcMessage) {
        let Self::Offered(offered) = self else { return };
        match item {
            JsonRpcMessage::Error(error) if error.id.as_ref() == Some(offered) => {
                let unknown = error.error.code == ErrorCode::UNSUPPORTED_PROTOCOL_VERSION;
                *self = if unknown { Self::Awaited } else { Self::Done };
            }
            JsonRpcMessage::Response(response) if response.id == *offered => *self = Self::Done,
            _ => {}
        }
    }
}
