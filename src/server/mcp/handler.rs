//! MCP as rmcp knows it: what the server says of itself, and the way from a request to a tool.
//!
//! Runs in: server. One [`Handler`] a connection, all of them share the [`Server`]. Every protocol version from
//! 2024-11-05 to 2026-07-28 is served; what a version lacks is rmcp's affair.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use axum::http::request::Parts;
use parking_lot::Mutex;
use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams, CompleteResult,
        CompletionInfo, CustomRequest, CustomResult, DiscoverResult, ErrorCode, Extensions, GetPromptRequestParams,
        GetPromptResponse, GetSkillRequestParams, GetSkillResult, GetTaskParams, GetTaskResult, Implementation,
        InitializeRequestParams, InitializeResult, JsonObject, ListPromptsResult, ListResourceTemplatesResult,
        ListResourcesResult, ListSkillsResult, ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams,
        ReadResourceResponse, ReadResourceResult, Reference, ServerCapabilities, ServerConfig, SubscribeRequestParams,
        SubscriptionFilter, UnsubscribeRequestParams, UpdateTaskParams,
    },
    service::{NotificationContext, RequestContext, SubscriptionContext},
};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "conformance")]
use super::conformance;
use super::events;
use super::greeting::{self, Greeting};
use super::identity::{WHO, Who};
use super::introduction::{INSTRUCTIONS, icon};
use super::knowledge::{self, STAYS};
use super::needs;
use super::resources::Resources;
use super::traced;
use crate::server::{
    events::Subscriber,
    owner::Owner,
    scope::Scope,
    sessions::active::Client,
    tools::{
        self,
        call::{
            clients,
            lane::Lane,
            request::{Again, Call},
            server::Server,
            tool::Tool,
        },
        cells::tasks,
    },
    traces::CallSpan,
};

/// Methods that exist in every version (`ping` and others are gone since 2026-07-28): a malformed call of one must not be
/// taken for an unknown method.
const KNOWN_METHODS: [&str; 10] = [
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "skills/list",
    "skills/get",
];

/// Most streams of a connection between acknowledgement and service, an instant each.
const MAX_PREPARED: usize = 64;

/// One connection, or one request of the stateless protocol.
#[derive(Clone)]
pub(crate) struct Handler {
    server: Arc<Server>,
    resources: Arc<Resources>,
    /// Who calls, where no request says it.
    who: Who,
    /// Cancelled when its connection has ended.
    gone: CancellationToken,
    /// What the first reply says besides.
    greeting: Greeting,
    /// Where calls may write their replies themselves.
    lane: Option<Lane>,
    /// What this connection listens to; made at the first wish. Clients of 2026-07-28 have streams instead.
    listener: Arc<OnceLock<Subscriber>>,
    /// Streams that are acknowledged and not yet served: what they were asked for, and who listens.
    prepared: Arc<Mutex<VecDeque<(SubscriptionFilter, Subscriber)>>>,
}

impl Handler {
    /// A handler for a new connection.
    #[must_use]
    pub(crate) fn new(server: Arc<Server>, resources: Arc<Resources>) -> Self {
        let who = Who::of(Client::Process, Owner::User);
        let (greeting, gone) = (Greeting::default(), CancellationToken::new());
        let (listener, prepared) = (Arc::default(), Arc::default());
        Self { server, resources, who, greeting, gone, lane: None, listener, prepared }
    }

    /// A handler for an HTTP request, or for the connection that one begins. Its later requests say who they are of.
    #[must_use]
    pub(super) fn over_http(server: Arc<Server>, resources: Arc<Resources>) -> Self {
        let who = WHO.try_with(Who::clone).unwrap_or_else(|_| Who::of(Client::Unknown, Owner::Unnamed));
        Self { who, ..Self::new(server, resources) }
    }

    /// A handler for the connection of a front.
    pub(super) fn for_front(
        server: Arc<Server>,
        resources: Arc<Resources>,
        client: Client,
        greeting: Greeting,
        gone: CancellationToken,
    ) -> Self {
        let who = Who::of(client, Owner::User);
        Self { who, greeting, gone, ..Self::new(server, resources) }
    }

    /// On a connection to which calls may write their replies.
    pub(super) fn on(self, lane: Lane) -> Self {
        Self { lane: Some(lane), ..self }
    }
}

impl Handler {
    /// Who calls: what the door has found out over HTTP, the connection itself otherwise.
    fn who<'a>(&'a self, extensions: &'a Extensions) -> &'a Who {
        extensions.get::<Parts>().and_then(|parts| parts.extensions.get::<Who>()).unwrap_or(&self.who)
    }

    /// Who calls, whose token is for this.
    fn allowed<'a>(&'a self, extensions: &'a Extensions, needed: Option<Scope>) -> Result<&'a Who, ErrorData> {
        let who = self.who(extensions);
        needs::met(who.scopes, needed).map(|()| who)
    }

    /// Where a call may write its reply: on its connection, or the way that the door has found.
    fn lane_of(&self, extensions: &Extensions) -> Option<Lane> {
        self.lane.clone().or_else(|| extensions.get::<Parts>()?.extensions.get().cloned())
    }

    /// A call of a tool, without arguments.
    fn call(&self, tool: &'static Tool, context: RequestContext<RoleServer>) -> Call {
        let Who { client, visitor, .. } = self.who(&context.extensions).clone();
        Call {
            tool: tool.name,
            takes: tool.input(),
            client,
            visitor,
            arguments: None,
            context,
            gone: self.gone.clone(),
            again: Again::default(),
            sight: None,
            lane: None,
            trace: None,
        }
    }

    /// A look at a task: as the tool that waits for what it stands for.
    fn look(&self, context: RequestContext<RoleServer>) -> Result<Call, ErrorData> {
        self.allowed(&context.extensions, Some(Scope::CellsRun))?;
        let tool = tools::find("wait_for_cell");
        Ok(self.call(tool.ok_or_else(|| ErrorData::internal_error("a tool is missing", None))?, context))
    }

    fn listener(&self, peer: &Peer<RoleServer>, extensions: &Extensions) -> &Subscriber {
        self.listener.get_or_init(|| {
            let Who { client, visitor, .. } = self.who(extensions);
            let name = client.lasting_name().map(ToOwned::to_owned);
            self.resources.connect(visitor.owner().clone(), name, peer.clone())
        })
    }
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let mut capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_resources_list_changed()
            .enable_prompts()
            .enable_completions()
            .enable_skills()
            .enable_tasks()
            .build();
        capabilities.extensions.get_or_insert_default().insert(events::EXTENSION.to_owned(), JsonObject::new());
        #[cfg(feature = "conformance")]
        let capabilities = conformance::declared(capabilities);
        ServerConfig::new(capabilities)
            .with_server_info(
                Implementation::new("forkpy", env!("CARGO_PKG_VERSION")).with_title("forkpy").with_icons(vec![icon()]),
            )
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
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let visitor = &self.allowed(&context.extensions, needs::of_method(&request.method))?.visitor;
        if request.method.starts_with("events/")
            && let Some(answer) = events::answer(&self.server.around.occurrences, visitor.owner(), &request)
        {
            return answer;
        }
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
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let manner = clients::manner(&context, self.server.structured);
        let tools = self.server.listed.iter().filter_map(|name| tools::find(name));
        let mut listed: Vec<_> = tools.map(|tool| tool.listed().clone()).collect();
        // The suite looks at the first tools.
        #[cfg(feature = "conformance")]
        listed.splice(0..0, conformance::tools());
        if !manner.structure {
            listed.iter_mut().for_each(|tool| tool.output_schema = None);
        }
        Ok(ListToolsResult::with_all_items(listed).with_ttl_ms(STAYS))
    }

    #[cfg(feature = "conformance")]
    fn get_tool(&self, name: &str) -> Option<rmcp::model::Tool> {
        conformance::checked_by_transport(name)
    }

    #[cfg(feature = "conformance")]
    #[expect(deprecated, reason = "older protocols have it, and the suite asks for it")]
    async fn set_level(
        &self,
        _request: rmcp::model::SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        conformance::level()
    }

    async fn discover(&self, _context: RequestContext<RoleServer>) -> Result<DiscoverResult, ErrorData> {
        let versions = self.supported_protocol_versions().into_owned();
        Ok(DiscoverResult::from_server_info(versions, self.get_info()).with_ttl_ms(STAYS))
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        #[cfg_attr(not(feature = "conformance"), expect(unused_mut, reason = "fixtures are added"))]
        let mut listed = knowledge::prompts();
        #[cfg(feature = "conformance")]
        listed.prompts.extend(conformance::prompts::list());
        Ok(listed)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        #[cfg(feature = "conformance")]
        if let Some(answer) = conformance::prompts::get(&request) {
            return answer;
        }
        knowledge::prompt(&request.name).map(Into::into)
    }

    async fn list_skills(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListSkillsResult, ErrorData> {
        Ok(knowledge::skills())
    }

    async fn get_skill(
        &self,
        request: GetSkillRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetSkillResult, ErrorData> {
        knowledge::skill(&request.uri)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        #[cfg(feature = "conformance")]
        if let Some(answer) = Box::pin(conformance::call(&request, &context)).await {
            return answer;
        }
        #[cfg(feature = "conformance")]
        let make = |tool| self.call(tool, context.clone());
        #[cfg(feature = "conformance")]
        if let Some(answer) = Box::pin(conformance::tasks::call(&self.server, &request, &context, make)).await {
            return answer;
        }
        let Some(tool) = tools::find(&request.name) else {
            let known: Vec<&str> = tools::TOOLS.iter().map(|tool| tool.name).collect();
            let words = format!("unknown tool {:?}; there are: {}", request.name, known.join(", "));
            return Err(ErrorData::new(ErrorCode::INVALID_PARAMS, words, None));
        };
        let again = Again { request_state: request.request_state, input_responses: request.input_responses };
        let audit = self.server.audit.as_ref();
        let visitor = &self.allowed(&context.extensions, tool.scope)?.visitor;
        let began = audit.map(|audit| audit.begin(visitor.peek(), tool.name, request.arguments.as_ref()));
        let span = traced::begin(tool.name, request.arguments.as_ref(), &context, visitor.peek());
        let trace = span.as_ref().and_then(CallSpan::parent);
        // A reply that gets words added is not to be out before, nor one that is to be written down.
        let lane =
            self.lane_of(&context.extensions).filter(|_| self.greeting.is_said() && audit.is_none() && span.is_none());
        let call = Call { arguments: request.arguments, again, lane, trace, ..self.call(tool, context) };
        let mut answer = tool.answer(&self.server, call).await;
        if let Some(began) = began {
            began.end(&answer);
        }
        if let Some(span) = span {
            traced::end(span, &answer);
        }
        if let CallToolResponse::Complete(result) = &mut answer
            && let Some(words) = self.greeting.take().await
        {
            greeting::add(result, words);
        }
        Ok(answer)
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        #[cfg(feature = "conformance")]
        if let Some(answer) = conformance::tasks::get(&request.task_id) {
            return answer;
        }
        Box::pin(tasks::get(&self.server, self.look(context)?, &request.task_id)).await
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        #[cfg(feature = "conformance")]
        if let Some(answer) = conformance::tasks::update(&request) {
            return answer;
        }
        tasks::update(&self.server, &self.look(context)?, &request.task_id, &request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        #[cfg(feature = "conformance")]
        if let Some(answer) = conformance::tasks::cancel(&request.task_id) {
            return answer;
        }
        tasks::cancel(&self.server, &self.look(context)?, &request.task_id)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let who = self.allowed(&context.extensions, self.resources.needs(&request.uri))?;
        let owner = who.visitor.owner().clone();
        let contents = Box::pin(self.resources.read(owner, &request.uri, context.ct)).await;
        let contents = contents.map_err(|error| error.to_protocol(Some(&request.uri)))?;
        let result = ReadResourceResult::new(contents);
        Ok(if knowledge::stays(&request.uri) { result.with_ttl_ms(STAYS) } else { result }.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let cursor = request.and_then(|request| request.cursor);
        let Who { visitor, scopes, .. } = self.who(&context.extensions);
        let list = self.resources.list((visitor.owner().clone(), *scopes), cursor.as_deref(), context.ct);
        let listed = Box::pin(list).await;
        let (resources, next_cursor) = listed.map_err(|error| error.to_protocol(None))?;
        Ok(ListResourcesResult { next_cursor, ..ListResourcesResult::with_all_items(resources) })
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let templates = self.resources.templates(self.who(&context.extensions).visitor.peek());
        Ok(ListResourceTemplatesResult::with_all_items(templates).with_ttl_ms(STAYS))
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.allowed(&context.extensions, self.resources.needs(&request.uri))?;
        let listener = self.listener(&context.peer, &context.extensions);
        let done = self.resources.subscribe(listener, &request.uri);
        done.map_err(|error| error.to_protocol(Some(&request.uri)))
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.allowed(&context.extensions, self.resources.needs(&request.uri))?;
        let listener = self.listener(&context.peer, &context.extensions);
        let done = self.resources.unsubscribe(listener, &request.uri);
        done.map_err(|error| error.to_protocol(Some(&request.uri)))
    }

    /// A connection that was opened with `initialize` hears when the list changes; others ask for it.
    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let listener = self.listener(&context.peer, &context.extensions);
        listener.want_list();
        if let Some(name) = self.who(&context.extensions).client.lasting_name() {
            self.resources.resume(listener, name);
        }
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        let (accepted, subscriber) = self.resources.prepare((self.who.visitor.owner(), self.who.scopes), requested);
        let mut prepared = self.prepared.lock();
        prepared.push_back((requested.clone(), subscriber));
        // Of those whose acknowledgement could not be sent.
        if prepared.len() > MAX_PREPARED {
            prepared.pop_front();
        }
        Some(accepted)
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let subscriber = {
            let mut prepared = self.prepared.lock();
            let index = prepared.iter().position(|(requested, _)| requested == context.requested());
            index.and_then(|index| prepared.remove(index))
        };
        let subscriber = match subscriber {
            Some((_, subscriber)) => subscriber,
            None => self.resources.prepare((self.who.visitor.owner(), self.who.scopes), context.requested()).1,
        };
        Box::pin(self.resources.listen(&context, subscriber)).await;
        Ok(())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let Reference::Resource(template) = request.r#ref else { return Ok(CompleteResult::default()) };
        let argument = request.argument;
        let Who { visitor, scopes, .. } = self.who(&context.extensions);
        if !scopes.allow(self.resources.needs(&template.uri)) {
            return Ok(CompleteResult::default());
        }
        let owner = visitor.owner().clone();
        let values = self.resources.complete(owner, &template.uri, &argument.name, argument.value).await;
        let info = CompletionInfo::new(values).map_err(|words| ErrorData::internal_error(words, None))?;
        Ok(CompleteResult::new(info))
    }
}
