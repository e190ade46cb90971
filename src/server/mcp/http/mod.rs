//! Streamable HTTP at `/mcp`: the door (token, Host, Origin, cookie) in front of rmcp's service; files, probes and metrics
//! beside it.
//!
//! Runs in: server. Owns the listener and the rules of who may call; what is called is `mcp.rs`.
//!
//! - Host and Origin are checked before every route but `/healthz` (`http/door.rs`): a page in a browser that was led to
//!   this address must not run code here.
//! - With a token every request must carry `Authorization: Bearer …` (`http/keys.rs`), compared in constant time.
//! - A client of the stateless protocol is recognised by a cookie: random, never logged. Whose sessions a client uses is
//!   `mcp/identity.rs`.
//! - What strangers can take is bounded (`settings/http_bounds.rs`): connections, time, memory, and state kept for clients.

mod bodies;
mod clients;
mod connections;
mod door;
mod download;
mod events;
mod failures;
mod keys;
mod misdirected;
pub(crate) mod operators;
pub(super) mod protected;
mod remembered;
mod routing;
mod upload;
mod words;

use std::{ffi::OsString, net::IpAddr, os::fd::OwnedFd, pin::pin, sync::Arc};

use axum::{
    Extension, Router,
    body::Body,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use self::{
    bodies::Intake,
    clients::Clients,
    connections::Connections,
    keys::{Keys, demand_scope, demand_token, with_a_token_alone},
    remembered::Remembered,
};
use crate::{
    server::{
        mcp::{
            error::ServerError,
            fronts,
            handler::Handler,
            http::operators::{Probed, drain, healthz, metrics, readyz},
            identity::{COOKIE, Known, Policy, WHO, cookie_in, new_cookie},
            needs,
            resources::Resources,
        },
        oauth::issuer::Issuer,
        output::numbers,
        owner::Owner,
        restart::{self, Door, Http, Program, Refused},
        scope::Scope,
        sessions::quotas::QuotaError,
        tools::call::server::Server,
        watch::{exposition::Exposition, readiness::Readiness},
        workspace::handle::{FileError, Files},
    },
    settings::{bounds::MAX_REQUEST, resolve::HttpSettings},
    sys::scratch::Scratch,
};

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What the routes for files need.
struct Shelf {
    server: Arc<Server>,
    /// Most bytes of an uploaded file.
    max_upload: u64,
}

impl Shelf {
    /// The files of whose token it is.
    fn files(&self, known: Option<Extension<Known>>) -> Result<Files, FileError> {
        let owner = known.map_or(Owner::User, |Extension(known)| known.owner);
        Ok(self.server.place(&owner)?.files.clone())
    }

    /// Whether whose token it is may write more.
    fn has_room(&self, known: Option<&Extension<Known>>) -> Result<(), QuotaError> {
        known.map_or(Ok(()), |Extension(known)| self.server.around.quotas.may_write(&known.owner))
    }
}

/// Serves until `stop` is cancelled; tells `serving` when it has begun.
///
/// # Errors
/// [`ServerError::Listen`] when the address cannot be had.
pub(crate) async fn serve(
    (server, resources): (Arc<Server>, Arc<Resources>),
    readiness: Arc<Readiness>,
    settings: &HttpSettings,
    (earlier, scratch): (Option<(Http, OwnedFd)>, &Scratch),
    serving: oneshot::Sender<()>,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    let fail = |error| ServerError::listen(settings.address, &error);
    let (listener, remembered) = match earlier {
        Some((http, listener)) => {
            let listener = std::net::TcpListener::from(listener);
            let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
            resources.go_on(http.wishes);
            (listener.map_err(fail)?, Remembered::unpack(http.clients))
        }
        None => (TcpListener::bind(settings.address).await.map_err(fail)?, Remembered::default()),
    };
    let remembered = Arc::new(remembered);
    let address = listener.local_addr().map_err(fail)?;
    if let Some(egress) = &server.around.egress {
        egress.keep_from(address.port());
    }
    let mut hangup = signal(SignalKind::hangup()).map_err(fail)?;
    let issuer = settings.oauth.clone().map(Issuer::new).transpose()?;
    let app = router(
        (Arc::clone(&server), Arc::clone(&resources)),
        (readiness, issuer),
        settings,
        (Arc::clone(&remembered), stop.clone()),
    );
    let connections = Connections::new(settings.bounds.connections);
    tracing::info!("listening on http://{address}/mcp");
    let _ = serving.send(());
    loop {
        tokio::select! {
            () = connections.serve(&listener, &app, settings.bounds) => {}
            () = stop.cancelled() => return Ok(()),
            _ = hangup.recv() => {}
        }
        let refused = restart((&server, &resources, scratch), &listener, &connections, &remembered).await;
        connections.close(false);
        server.around.turnover.hurry(false);
        tracing::warn!("not restarted: {refused}");
    }
}

/// Becomes this program's own file, which may be another one by now; or says why not.
async fn restart(
    (server, resources, scratch): (&Server, &Resources, &Scratch),
    listener: &TcpListener,
    connections: &Connections,
    remembered: &Remembered,
) -> Refused {
    let Server { registry, around, active, .. } = server;
    let ready = async {
        let program = Program::checked(None, command_line(), &around.children).await?;
        fronts::is_free(server)?;
        restart::ready(registry).await?;
        // Those that come now wait at the listening socket.
        connections.close(true);
        let mut answered = pin!(connections.are_answered());
        if tokio::time::timeout(fronts::SHORT, &mut answered).await.is_err() {
            around.turnover.hurry(true);
            if tokio::time::timeout(fronts::COME_TO_REST, &mut answered).await.is_err() {
                return Err(Refused::Clients { count: connections.asked(), limit: fronts::COME_TO_REST });
            }
        }
        fronts::is_free(server)?;
        restart::ready(registry).await?;
        Ok(program)
    };
    let program = match ready.await {
        Ok(program) => program,
        Err(refused) => return refused,
    };
    tracing::info!(?program, "becomes another program");
    let clients = remembered.pack();
    let mut wishes = resources.wishes();
    wishes.retain(|(name, _)| clients.iter().any(|(id, _)| id == name));
    let door = (listener, Door::Http(Http { clients, wishes, ..Http::default() }));
    restart::become_program(
        program,
        |_| command_line(),
        door,
        (registry, around, active),
        (scratch, fronts::EDGE, server.tasks.pack()),
    )
    .await
}

/// The command line of this server, for the program that it becomes.
fn command_line() -> Vec<OsString> {
    std::env::args_os().skip(1).filter(|word| !word.as_encoded_bytes().starts_with(b"--adopt=")).collect()
}

fn router(
    (server, resources): (Arc<Server>, Arc<Resources>),
    (readiness, issuer): (Arc<Readiness>, Option<Arc<Issuer>>),
    settings: &HttpSettings,
    (remembered, stop): (Arc<Remembered>, CancellationToken),
) -> Router {
    // Bodies, hosts and origins are looked at before rmcp sees a request.
    let mut config = StreamableHttpServerConfig::default()
        .with_json_response(true)
        .with_max_request_body_bytes(usize::MAX)
        .disable_allowed_hosts()
        .disable_allowed_origins()
        .with_cancellation_token(stop);
    config.session_store = Some(Arc::clone(&remembered) as _);
    let intake = Arc::new(Intake::new(settings.bounds));
    let door = Arc::new(door::Door::new(&allowed_hosts(settings), &allowed_origins(settings)));
    let keys = Keys::new(settings, issuer.as_ref());
    let published = protected::routes(keys.protected());
    let zygote = server.around.zygote.clone();
    let exposition = Exposition::new(Arc::clone(&server.registry), Arc::clone(&server.metrics), zygote);
    let scrapes = Router::new().route("/metrics", get(metrics)).with_state(Arc::new(exposition));
    let orders = Router::new().route("/admin/drain", post(drain)).with_state(Arc::clone(&server.around));
    let orders = orders.layer(middleware::from_fn(with_a_token_alone));
    let for_admins = scrapes.merge(orders).layer(middleware::from_fn_with_state(Scope::Admin, demand_scope));
    let files = files(Shelf { server: Arc::clone(&server), max_upload: settings.max_upload }, Arc::clone(&intake));
    let clients = Clients::new(settings.bounds, Arc::clone(&server.registry), remembered);
    let policy = Policy { shared: settings.share_sessions, has_token: keys.are_one() };
    let probed = Probed::new(readiness, issuer, settings.token.is_some() || settings.tokens.is_some());
    if let Some(owner) = policy.first() {
        // It is warm when the first call comes.
        let _ = server.registry.of(&owner);
    }
    let looks = (Arc::clone(&resources), Arc::clone(&server));
    let handler = move || Ok(Handler::over_http(Arc::clone(&server), Arc::clone(&resources)));
    let service = StreamableHttpService::new(handler, Arc::clone(&clients), config);
    Router::new()
        .route_service("/mcp", service)
        .layer(middleware::from_fn(end_without_content))
        .layer(middleware::from_fn_with_state(looks, look_into))
        .layer(middleware::from_fn_with_state(clients, clients::admit))
        .layer(middleware::from_fn_with_state(intake, bodies::receive))
        .layer(middleware::from_fn_with_state(policy, recognise))
        .merge(for_admins)
        .merge(files)
        .layer(middleware::from_fn_with_state(keys, demand_token))
        .merge(published)
        .merge(Router::new().route("/readyz", get(readyz)).with_state(Arc::new(probed)))
        .layer(middleware::from_fn_with_state(door, door::guard))
        .merge(Router::new().route("/healthz", get(healthz)))
        .layer(middleware::from_fn(door::one_of_each))
        .layer(middleware::from_fn(words::speak_json_rpc))
}

fn files(shelf: Shelf, intake: Arc<Intake>) -> Router {
    // Also of bodies that do not say how long they are; the form around the file is small.
    let body = usize::try_from(shelf.max_upload.saturating_add(upload::FORM)).unwrap_or(usize::MAX);
    let paced = middleware::from_fn_with_state(intake, bodies::keep_pace);
    let needs = |scope: Scope| middleware::from_fn_with_state(scope, demand_scope);
    let uploads = post(upload::upload).layer(DefaultBodyLimit::max(body)).layer(paced);
    Router::new()
        .route("/files/upload", uploads.layer(needs(Scope::FilesWrite)))
        .route("/files/download/{*path}", get(download::download).layer(needs(Scope::FilesRead)))
        .with_state(Arc::new(shelf))
}

fn allowed_hosts(settings: &HttpSettings) -> Vec<String> {
    let mut hosts: Vec<String> = LOOPBACK.iter().map(ToString::to_string).chain(["::1".to_owned()]).collect();
    match settings.address.ip() {
        address if address.is_unspecified() => {}
        IpAddr::V4(address) => hosts.push(address.to_string()),
        IpAddr::V6(address) => hosts.extend([address.to_string(), format!("[{address}]")]),
    }
    hosts.extend(settings.allow_hosts.iter().cloned());
    hosts
}

fn allowed_origins(settings: &HttpSettings) -> Vec<String> {
    let own = LOOPBACK.iter().flat_map(|host| [format!("http://{host}:*"), format!("https://{host}:*")]);
    own.chain(settings.allow_origins.iter().cloned()).collect()
}

/// What is looked at in a body before rmcp reads it: what a token has to be for, the session that a header names too and where it lives, and
/// parameters of a notebook, which are numbers of Python's, of any size. Only a body that says how long it is is looked into.
async fn look_into(
    State((shown, server)): State<(Arc<Resources>, Arc<Server>)>,
    request: Request,
    next: Next,
) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_none_or(|length: usize| length > MAX_REQUEST) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let bytes = match axum::body::to_bytes(body, MAX_REQUEST).await {
        Ok(bytes) => bytes,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("the body could not be read: {error}\n")).into_response();
        }
    };
    if let Some(refusal) = routing::refusal(&parts.headers, &bytes) {
        return refusal;
    }
    // The handler looks too, and sees what rmcp has read. Here it is told as OAuth has it, with which a client gets more.
    if keys::is_limited(&parts.extensions)
        && let Some(refusal) = keys::shortage(&parts.extensions, needs::of_body(&shown, &bytes))
    {
        return refusal;
    }
    if let Some(refusal) = misdirected::refusal(&server, &bytes).await {
        return refusal;
    }
    let found = memchr::memmem::find(&bytes, b"run_notebook").and_then(|_| std::str::from_utf8(&bytes).ok());
    let marked = found.map(|text| numbers::mark(text, numbers::Keep::Impossible).into_owned());
    let body = match marked {
        Some(text) => {
            parts.headers.insert(header::CONTENT_LENGTH, text.len().into());
            Body::from(text)
        }
        None => Body::from(bytes),
    };
    next.run(Request::from_parts(parts, body)).await
}

/// The end of a session is answered with 204. rmcp says 202, "accepted", and every Python client takes that for a failure and
/// logs "Session termination failed: 202": they know 200 and 204 only. The specification names neither; to be removed when
/// rmcp answers so itself.
async fn end_without_content(request: Request, next: Next) -> Response {
    let ends = request.method() == Method::DELETE;
    let mut response = next.run(request).await;
    if ends && response.status() == StatusCode::ACCEPTED {
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response
}

/// Says who it is, and gives a cookie to a client that has none.
async fn recognise(State(policy): State<Policy>, mut request: Request, next: Next) -> Response<Body> {
    let known = cookie_in(request.headers()).is_some();
    let who = policy.who(request.headers(), request.extensions());
    request.extensions_mut().insert(who.clone());
    let visitor = who.visitor.clone();
    let mut response = WHO.scope(who, next.run(request)).await;
    if !known && response.status() != StatusCode::FORBIDDEN {
        let value = new_cookie(&visitor);
        let cookie = format!("{COOKIE}={value}; Path=/mcp; HttpOnly; SameSite=Strict");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}
