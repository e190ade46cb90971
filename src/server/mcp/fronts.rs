//! Clients that come through fronts (`forkpy attach`): each connection of the socket is a client of its own, and the server
//! outlives them all.
//!
//! Runs in: server. Owns the socket from the first connection to the end: who may connect, how many are there, when no front
//! is left. What follows the welcome is MCP as on standard input and output.

use std::{
    ffi::OsString,
    io,
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::unistd::geteuid;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    greeting::{self, Greeting},
    handler::Handler,
    resources::Resources,
    stdio,
};
use crate::{
    protocol::attach::{
        self, GO_ON, HOLD, Hello, MAX_LINE, Record, ServerEnd, ServerStatus, SessionSummary, Wants, Welcome,
    },
    server::{
        health::{errand::Errand, evidence::Phase},
        owner::Owner,
        restart::{self, Door, Fronts, Program, Refused},
        sessions::{active::Client, packed::Edge},
        tools::{
            call::{notices, server::Server},
            cells::jobs,
        },
    },
    settings::host::Host,
    sys::{
        rendezvous::{self, Identity},
        scratch::Scratch,
    },
};

/// How long a connection may take to say what it wants.
const HELLO: Duration = Duration::from_secs(10);
/// How often it is looked whether a client is left, and whether the record is still right.
const LOOK: Duration = Duration::from_secs(1);
/// After an `accept` that failed: the process may be out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long calls may take that are answered soon, when the server is to become another program.
pub(super) const SHORT: Duration = Duration::from_secs(1);
/// How long fronts may take to leave when the server is to become another program.
pub(super) const COME_TO_REST: Duration = Duration::from_secs(10);
/// How long connections may take to end with the server.
const FAREWELL: Duration = Duration::from_secs(3);

/// What the server before this one has left written, and how that ended.
pub(in crate::server) fn predecessor(host: &Host) -> Option<(Record, ServerEnd)> {
    let text = std::fs::read(host.place.record()).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let end = record.ended.unwrap_or(ServerEnd::Killed);
    record.used.then_some((record, end))
}

/// Nothing is at work that is no session's own.
pub(super) fn is_free(server: &Server) -> Result<(), Refused> {
    match () {
        () if server.scripts.is_at_work() => Err(Refused::AtWork("a script runs")),
        () if server.packages.is_at_work() => Err(Refused::AtWork("packages are being installed")),
        () => Ok(()),
    }
}

/// How sessions are put into words when they are taken along.
pub(in crate::server) const EDGE: Edge = Edge { words: notices::words, pack: jobs::pack, unpack: jobs::unpack };

/// Serves until no client has used the server for long, or it is told to stop; `earlier` is what the program in whose place
/// this one is has left, and `scratch` what it may have to leave itself.
pub(in crate::server) async fn serve(
    server: Arc<Server>,
    resources: Arc<Resources>,
    (host, earlier): (Host, Option<Fronts>),
    scratch: &Scratch,
    stop: CancellationToken,
) -> io::Result<()> {
    host.listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(host.listener.try_clone()?)?;
    let identity = Identity::of(&host.place.socket());
    let mut hangup = signal(SignalKind::hangup())?;
    let (wishes, mut wished) = mpsc::unbounded_channel();
    let was_used = earlier.is_some();
    let earlier = earlier.unwrap_or_else(|| Fronts { since: Timestamp::now().to_string(), ..Fronts::default() });
    let room = Arc::new(Room {
        server,
        resources,
        since: earlier.since,
        restarts: earlier.restarts,
        wishes,
        hold: watch::Sender::new(false),
        stiff: AtomicUsize::new(0),
        clients: AtomicUsize::new(0),
        numbers: AtomicUsize::new(earlier.next),
        left: Mutex::new(Instant::now()),
        used: AtomicBool::new(was_used),
        stop: stop.clone(),
        closing: CancellationToken::new(),
        written: Mutex::new(None),
        host,
    });
    room.write_record(None);
    let mut connections = JoinSet::new();
    let end = loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break ServerEnd::Stopped,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(Arc::clone(&room).meet(stream))),
                Err(error) => {
                    tracing::warn!("failed to accept a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            Some(wish) = wished.recv() => room.restart(wish, &mut connections, scratch).await,
            _ = hangup.recv() => room.restart(Wish::default(), &mut connections, scratch).await,
            () = tokio::time::sleep(LOOK) => {
                room.write_record(None);
                if room.is_deserted() {
                    break ServerEnd::Idle;
                }
            }
        }
    };
    // Under the lock no process starts another server, and a new front finds this one or none.
    if let (Ok(held), Some(identity)) = (room.host.place.lock(), identity) {
        room.host.place.leave(&held, identity);
        room.write_record(Some(end));
    }
    drop(listener);
    room.closing.cancel();
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, all_ended).await;
    Ok(())
}

struct Room {
    server: Arc<Server>,
    resources: Arc<Resources>,
    host: Host,
    since: String,
    /// How often this process has become another program.
    restarts: u64,
    wishes: mpsc::UnboundedSender<Wish>,
    /// Fronts are to leave and come back.
    hold: watch::Sender<bool>,
    /// Fronts that cannot.
    stiff: AtomicUsize,
    clients: AtomicUsize,
    numbers: AtomicUsize,
    /// When the last client left.
    left: Mutex<Instant>,
    /// There has been a client.
    used: AtomicBool,
    stop: CancellationToken,
    /// Connections end: after it is written why.
    closing: CancellationToken,
    /// The record as it is on the disk.
    written: Mutex<Option<Record>>,
}

/// That the server become another program, which is named or not, and who waits for an answer.
#[derive(Debug, Default)]
struct Wish {
    program: Option<PathBuf>,
    asked_by: Option<UnixStream>,
}

/// A client that is here.
struct Present<'a>(&'a Room);

impl<'a> Present<'a> {
    fn enter(room: &'a Room) -> Self {
        room.clients.fetch_add(1, Ordering::Relaxed);
        Self(room)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
        *self.0.left.lock() = Instant::now();
    }
}

/// A front that cannot wait for a restart.
struct Stiff<'a>(&'a Room);

impl<'a> Stiff<'a> {
    fn enter(room: &'a Room) -> Self {
        room.stiff.fetch_add(1, Ordering::Relaxed);
        Self(room)
    }
}

impl Drop for Stiff<'_> {
    fn drop(&mut self) {
        self.0.stiff.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    async fn meet(self: Arc<Self>, stream: UnixStream) {
        match rendezvous::peer(&stream) {
            Ok(user) if user == geteuid().as_raw() => {}
            Ok(user) => return tracing::warn!(user, "refused a connection of another user"),
            Err(error) => return tracing::warn!("refused a connection that does not say whose it is: {error}"),
        }
        let Some((hello, mut stream)) = hello(stream).await else { return };
        // Counted before the welcome: from then on the server does not end for want of clients.
        let present = (hello.wants == Wants::Mcp).then(|| Present::enter(&self));
        if present.is_some() && !self.used.swap(true, Ordering::Relaxed) {
            self.write_record(None);
        }
        if hello.wants == Wants::Restart {
            let _ = self.wishes.send(Wish { program: hello.program, asked_by: Some(stream) });
            return;
        }
        let status = (hello.wants != Wants::Mcp).then(|| self.status());
        let number = (hello.wants == Wants::Mcp).then(|| self.number(&hello));
        let welcome = Welcome { status, client: number, ..self.welcome() };
        if self.stop.is_cancelled() || stream.write_all(&attach::line(&welcome)).await.is_err() {
            return;
        }
        match hello.wants {
            Wants::Mcp => self.serve(stream, &hello, number.unwrap_or_default()).await,
            Wants::Status | Wants::Restart => {}
            Wants::Stop => {
                tracing::info!("told to stop");
                self.stop.cancel();
                // Its other end is closed when this process has ended, and not before.
                let _ = stream.into_std().map(std::mem::forget);
            }
        }
    }

    fn welcome(&self) -> Welcome {
        Welcome {
            pid: own_pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            args: self.host.args.clone(),
            status: None,
            client: None,
            refused: None,
        }
    }

    /// The number by which a front is known: its own again, when it has left to let this process become another program.
    fn number(&self, hello: &Hello) -> u64 {
        match (hello.after, hello.client) {
            (Some(pid), Some(number)) if pid == own_pid() => number,
            _ => self.numbers.fetch_add(1, Ordering::Relaxed) as u64,
        }
    }

    /// Becomes another program, with all that is here; or says why not, and goes on.
    async fn restart(&self, wish: Wish, connections: &mut JoinSet<()>, scratch: &Scratch) {
        let refused = self.try_to_restart(wish.program, connections, scratch).await;
        self.hold.send_replace(false);
        self.server.around.turnover.hurry(false);
        tracing::warn!("not restarted: {refused}");
        if let Some(mut stream) = wish.asked_by {
            let answer = Welcome { refused: Some(refused.to_string()), ..self.welcome() };
            let _ = stream.write_all(&attach::line(&answer)).await;
        }
    }

    async fn try_to_restart(
        &self,
        program: Option<PathBuf>,
        connections: &mut JoinSet<()>,
        scratch: &Scratch,
    ) -> Refused {
        let Server { registry, around, active, .. } = &*self.server;
        let ready = async {
            let program = Program::checked(program, self.args(0), &around.children).await?;
            self.is_free()?;
            restart::ready(registry).await?;
            self.hold.send_replace(true);
            // They come back to the socket, which is not looked at meanwhile.
            let mut left = pin!(async { while connections.join_next().await.is_some() {} });
            if tokio::time::timeout(SHORT, &mut left).await.is_err() {
                // Calls that wait for what takes longer are told so.
                around.turnover.hurry(true);
                if tokio::time::timeout(COME_TO_REST, &mut left).await.is_err() {
                    let count = self.clients.load(Ordering::Relaxed);
                    return Err(Refused::Clients { count, limit: COME_TO_REST });
                }
            }
            self.is_free()?;
            restart::ready(registry).await?;
            Ok(program)
        };
        let program = match ready.await {
            Ok(program) => program,
            Err(refused) => return refused,
        };
        self.write_record(None);
        tracing::info!(?program, "becomes another program");
        let fronts = Fronts {
            listener: 0,
            next: self.numbers.load(Ordering::Relaxed),
            since: self.since.clone(),
            restarts: self.restarts + 1,
        };
        let door = (&self.host.listener, Door::Fronts(fronts));
        restart::become_program(
            program,
            |listener| self.args(listener),
            door,
            (registry, around, active),
            (scratch, EDGE, self.server.tasks.pack()),
        )
        .await
    }

    /// The command line of the program that this server becomes.
    fn args(&self, listener: RawFd) -> Vec<OsString> {
        let place = &self.host.place;
        let first = ["__host".into(), "--listener".into(), listener.to_string().into()];
        let met = ["--socket-dir".into(), place.directory().into(), "--socket-name".into(), place.name().into()];
        first.into_iter().chain(met).chain(self.host.args.iter().map(Into::into)).collect()
    }

    /// Nothing but sessions has to be taken along.
    fn is_free(&self) -> Result<(), Refused> {
        match self.stiff.load(Ordering::Relaxed) {
            0 => {}
            count => return Err(Refused::Stiff(count)),
        }
        is_free(&self.server)
    }

    async fn serve(&self, stream: UnixStream, hello: &Hello, number: u64) {
        let client = Client::Front(number);
        let greeting = match hello.after {
            // It has left to let this process become another program.
            Some(pid) if pid == own_pid() && hello.client.is_some() => Greeting::default(),
            Some(pid) if pid != own_pid() => {
                // It used the server before this one.
                self.server.registry.lost_with_its_server(&client);
                Greeting::default()
            }
            _ => greeting::prepare(&self.server, &client),
        };
        let connected = stream.into_std().and_then(|stream| stdio::over_socket(OwnedFd::from(stream)));
        let transport = match connected {
            Ok(transport) => transport,
            Err(error) => return tracing::warn!("failed to serve a connection: {error}"),
        };
        let (server, resources) = (Arc::clone(&self.server), Arc::clone(&self.resources));
        let handler = Handler::for_front(server, resources, client, greeting, transport.ended());
        let handler = handler.on(transport.lane());
        let _stiff = (!hello.holds).then(|| Stiff::enter(self));
        let aside = transport.aside();
        let running = rmcp::service::serve_directly_with_ct(handler, transport, None, self.closing.child_token());
        let mut hold = self.hold.subscribe();
        let told = async {
            while hold.wait_for(|hold| *hold).await.is_ok() {
                aside.say(HOLD).await;
                if hold.wait_for(|hold| !*hold).await.is_err() {
                    break;
                }
                aside.say(GO_ON).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = running.waiting() => {}
            () = told => {}
        }
    }

    /// No client is here, nothing runs, and that has been so for long.
    fn is_deserted(&self) -> bool {
        let Some(limit) = self.host.idle_exit else { return false };
        if self.clients.load(Ordering::Relaxed) > 0 || self.left.lock().elapsed() < limit {
            return false;
        }
        self.server.registry.all_and_branches().iter().all(|session| {
            let status = session.shared.get();
            status.used_at.elapsed() >= limit
                && status.waiting == 0
                && !session.runs.has_work()
                && !is_busy(status.phase)
        })
    }

    fn status(&self) -> ServerStatus {
        let sessions = self.server.registry.of(&Owner::User).into_iter().map(|session| {
            let status = session.shared.get();
            SessionSummary {
                session_id: session.id.to_string(),
                cells: status.executed,
                busy: is_busy(status.phase),
                last_activity: status.last_activity.to_string(),
            }
        });
        ServerStatus {
            since: self.since.clone(),
            workspace: self.server.around.places.common().root().to_string_lossy().into_owned(),
            clients: self.clients.load(Ordering::Relaxed),
            idle_exit: self.host.idle_exit.map_or(0.0, |limit| limit.as_secs_f64()),
            sessions: sessions.collect(),
            restarts: Some(self.restarts),
        }
    }

    /// Writes what the next server is to know, if it has changed.
    fn write_record(&self, ended: Option<ServerEnd>) {
        let record = Record {
            pid: own_pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            used: self.used.load(Ordering::Relaxed),
            sessions: self.server.registry.of(&Owner::User).iter().map(|session| session.id.to_string()).collect(),
            ended,
        };
        let mut written = self.written.lock();
        if written.as_ref() == Some(&record) {
            return;
        }
        let path = self.host.place.record();
        let draft = path.with_extension("json.new");
        let done = std::fs::write(&draft, attach::line(&record)).and_then(|()| std::fs::rename(&draft, &path));
        if let Err(error) = done {
            tracing::warn!("failed to write {}: {error}", path.display());
        }
        *written = Some(record);
    }
}

fn is_busy(phase: Phase) -> bool {
    match phase {
        Phase::Busy { .. } | Phase::WaitingInput { .. } => true,
        Phase::Serving { errand, .. } => errand != Errand::Keep,
        Phase::Starting | Phase::Idle | Phase::Asleep | Phase::Dead => false,
    }
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// The first line; nothing for a connection that says something else, or nothing.
async fn hello(stream: UnixStream) -> Option<(Hello, UnixStream)> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let mut limited = (&mut reader).take(MAX_LINE as u64);
    tokio::time::timeout(HELLO, limited.read_until(b'\n', &mut line)).await.ok()?.ok()?;
    let hello = serde_json::from_slice(&line).map_err(|error| tracing::warn!("refused a connection: {error}")).ok()?;
    Some((hello, reader.into_inner()))
}
