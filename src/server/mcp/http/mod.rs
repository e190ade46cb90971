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

mod alone;
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
mod passage;
mod post;
pub(super) mod protected;
mod quick;
mod remembered;
mod routing;
mod upload;
mod words;

use std::{ffi::OsString, net::IpAddr, os::fd::OwnedFd, pin::pin, sync::Arc};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::Response,
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
    alone::Alone,
    bodies::Intake,
    clients::Clients,
    connections::Connections,
    keys::{Keys, demand_scope, demand_token, with_a_token_alone},
    passage::Passage,
    remembered::Remembered,
};
use crate::{
    server::{
        mcp::{
            error::ServerError,
            fronts,
            handler::Handler,
            http::operators::{Probed, drain, healthz, metrics, readyz},
            identity::{Known, Policy},
            resources::Resources,
        },
        oauth::issuer::Issuer,
        owner::Owner,
        restart::{self, Door, Http, Program, Refused},
        scope::Scope,
        sessions::quotas::QuotaError,
        tools::call::server::Server,
        watch::{exposition::Exposition, readiness::Readiness},
        workspace::handle::{FileError, Files},
    },
    settings::resolve::HttpSettings,
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
        .with_cancellation_token(stop.clone());
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
    let passage = Passage {
        door: Arc::clone(&door),
        keys: keys.clone(),
        policy,
        intake: Arc::clone(&intake),
        shown: Arc::clone(&resources),
        server: Arc::clone(&server),
        clients: Arc::clone(&clients),
        alone: Alone::new(Handler::over_http(Arc::clone(&server), Arc::clone(&resources)), stop.child_token()),
        stop: stop.clone(),
    };
    let handler = move || Ok(Handler::over_http(Arc::clone(&server), Arc::clone(&resources)));
    let service = StreamableHttpService::new(handler, clients, config);
    // One layer: each costs every request a copy of all that lies within it.
    let passage = middleware::from_fn_with_state(Arc::new(passage), passage::through);
    let mcp = Router::new().route_service("/mcp", service).layer(passage);
    for_admins
        .merge(files)
        .layer(middleware::from_fn_with_state(keys, demand_token))
        .merge(published)
        .merge(Router::new().route("/readyz", get(readyz)).with_state(Arc::new(probed)))
        .layer(middleware::from_fn_with_state(door, door::guard))
        .merge(mcp)
        .merge(Router::new().route("/healthz", get(healthz)))
        .layer(middleware::from_fn(outside))
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

/// What holds for every request, and for every refusal.
async fn outside(mut request: Request, next: Next) -> Response {
    let is_for_programs = request.uri().path() == "/mcp";
    let response = match door::one_of_each(&mut request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    if is_for_programs { words::as_json_rpc(response).await } else { response }
}
