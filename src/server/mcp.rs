//! MCP as rmcp knows it: what the server says of itself, and the way from a request to a tool.
//!
//! Runs in: server. One [`Handler`] a connection, all of them share the [`Server`]. Every protocol version from
//! 2024-11-05 to 2026-07-28 is served; what a version lacks is rmcp's affair.

use std::sync::Arc;

use axum::http::request::Parts;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult, CustomRequest, CustomResult,
        ErrorCode, Implementation, InitializeRequestParams, InitializeResult, ListToolsResult, PaginatedRequestParams,
        ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig,
    },
    service::RequestContext,
};
use serde_json::json;

use super::{
    Server,
    clients::Client,
    http,
    tools::{self, Call},
};

const INSTRUCTIONS: &str = "Runs Python in persistent sessions, each in a process of its own. Use run_python_code; \
     variables stay between calls. Files are read and written in the workspace, the working directory of every session. \
     A cell that takes too long is interrupted and its session keeps its variables; when a worker process dies, the reply \
     says that the variables are lost and why, and the next call gets a fresh one. For separate pieces of work make \
     sessions with create_session and pass session_id.";

/// Methods that exist in every version (`ping` and others are gone since 2026-07-28): a malformed call of one must not be
/// taken for an unknown method.
const KNOWN_METHODS: [&str; 8] = [
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "prompts/list",
    "prompts/get",
    "completion/complete",
];

/// One connection, or one request of the stateless protocol.
#[derive(Clone)]
pub struct Handler {
    server: Arc<Server>,
}

impl Handler {
    /// A handler for a new connection.
    #[must_use]
    pub fn new(server: Arc<Server>) -> Self {
        Self { server }
    }
}

/// What the caller can be recognised by: headers over HTTP, the process itself over stdio.
fn client_of(context: &RequestContext<RoleServer>) -> Client {
    context.extensions.get::<Parts>().map_or(Client::Process, http::client_of)
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        #[expect(deprecated, reason = "logging is deprecated by 2026-07-28 and still right for older clients")]
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_prompts()
            .enable_completions()
            .enable_logging()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("forkpy", env!("CARGO_PKG_VERSION")).with_title("forkpy"))
            .with_instructions(INSTRUCTIONS)
    }

    /// rmcp keeps the version that the client asked for; what was agreed on is what its later requests are read by.
    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        let result = self.negotiate_initialize(&request)?;
        let mut peer = request;
        peer.protocol_version = result.protocol_version.clone();
        context.peer.set_peer_info(peer);
        Ok(result)
    }

    /// What rmcp could not read as any request it knows: a method that does not exist, or one whose parameters are wrong.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method;
        if KNOWN_METHODS.contains(&method.as_str()) {
            let words = format!("the parameters of {method} are not what the protocol says");
            return Err(ErrorData::invalid_params(words, None));
        }
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, format!("there is no method {method:?}"), None))
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::TOOLS.clone()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let call = Call { client: client_of(&context), arguments: request.arguments, context };
        match tools::call(&self.server, &request.name, call).await {
            Some(result) => Ok(result.into()),
            None => {
                let known: Vec<&str> = tools::TOOLS.iter().map(|tool| &*tool.name).collect();
                let words = format!("unknown tool {:?}; there are: {}", request.name, known.join(", "));
                Err(ErrorData::new(ErrorCode::INVALID_PARAMS, words, None))
            }
        }
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let words = format!("there is no resource {:?}", request.uri);
        Err(ErrorData::resource_not_found(words, Some(json!({ "uri": request.uri }))))
    }

    async fn complete(
        &self,
        _request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        Ok(CompleteResult::default())
    }

    #[expect(deprecated, reason = "older clients call it; this server sends no log messages at any level")]
    async fn set_level(
        &self,
        _request: rmcp::model::SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }
}
