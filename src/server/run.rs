//! A server's life: its parts are made, set to work, and ended.
//!
//! Runs in: server. Owns the order of start and end; each part is of its own room. It reads best in one piece: what is started
//! first is ended last.
//!
//! Start: children's register → spawner thread → environment and zygote, behind → sessions → transport, which answers at
//! once. End (end of stdin, SIGTERM, SIGINT, SIGHUP): transport → sessions and scripts, each with what it started →
//! whatever is left.

use std::{
    io,
    os::fd::RawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch::channel as watch_channel},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    progress,
    protocol::{Confinement, ConfinementSettings, ZygoteSettings},
    server::{
        counters,
        egress::{callers::Kind, proxy::Egress},
        environment::{
            kinds::Environment,
            make::{self, Wish},
            packages::{Filling, Packages},
        },
        events::Changes,
        health::alerts::Book,
        mcp::{
            error::ServerError,
            fronts, http,
            knowledge::SkillFiles,
            resources::{self, Resources, workspace as files_as_resources},
            stdio,
        },
        moves::away::Away,
        owner::Owner,
        restart::Packed,
        scripts::Scripts,
        sessions::{
            active::ActiveSessions,
            checkpoints::Checkpoints,
            context::Surroundings,
            drain::Drain,
            happened::What,
            images::{Images, zygotes::ZygoteImages},
            occurrences::Occurrences,
            oom::OomCounter,
            quotas::Quotas,
            registry::Registry,
            turnover::Turnover,
        },
        store::Store as SharedStore,
        tools::{
            self,
            call::{asking::Waiting, audit::Audit, flights::Flights, server::Server, tasks::Tasks},
        },
        traces,
        watch::{
            self, cleaner, disk, generations, guard, owners, readiness::Readiness, readings::Metrics, report::Ward,
            service_manager, supervisor,
        },
        workers::{
            children::{self, Children},
            imports::{Auto, Imports},
            spares::Spares,
            zygote::{Reach, Spawner, Store, Zygote},
        },
        workspace::workplace::Workplaces,
    },
    settings::{
        host::Host,
        limits::Limits,
        options::Transport,
        resolve::{SessionSettings, Settings},
        sandbox::{Sandbox, list_gaps},
        store::{StorePlace, StoreSettings},
    },
    sys::{
        descriptors, fault,
        groups::{self, Controller},
        guarded, processes,
        room::Rooms,
        scratch::{self, Scratch},
        signals,
    },
};

/// Clients kill a server that has not ended two seconds after they closed its input.
const FAREWELL: Duration = Duration::from_millis(1500);
/// How long sessions may take to be written to disk before that: clients send SIGTERM after two seconds, which changes nothing,
/// and SIGKILL after four. Where no client waits there is more time.
const LEAVING: Duration = Duration::from_millis(2500);
const PATIENT_LEAVING: Duration = Duration::from_secs(6);
/// How long the last traces may take to be sent, when all else has taken its time.
const LAST_TRACES: Duration = Duration::from_millis(300);
/// A start that takes longer is explained to a person.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves until the client goes or a signal comes. One thread: a cell's way through the server then needs no hand-over, and
/// children whose life is tied to the thread that made them live as long as the server.
///
/// # Errors
/// [`ServerError`]; whatever was started has been ended.
pub(crate) fn serve(settings: Settings, host: Option<Host>) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServerError::Start)?;
    let served = runtime.block_on(run(settings, host));
    runtime.shutdown_background();
    served
}

/// What of these settings would end a server at its start.
///
/// # Errors
/// [`ServerError`].
pub(crate) fn check(settings: &Settings) -> Result<(), ServerError> {
    tools::catalogue::of(&settings.replies.tools)?;
    if let Some((path, with_code)) = &settings.audit {
        Audit::open(path, *with_code)?;
    }
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "the order of start and end, which reads best in one piece")]
async fn run(settings: Settings, host: Option<Host>) -> Result<(), ServerError> {
    let listed = tools::catalogue::of(&settings.replies.tools)?;
    guarded::close_to_others();
    descriptors::close_inherited_on_exec();
    counters::begin();
    fault::arm(&fault::armed_here());
    traces::begin(settings.sessions.server_name.as_deref());
    signals::become_subreaper();
    signals::bear_file_size_limit();
    descriptors::raise_open_files();
    let stop = stop_on_signals(host.is_none() && settings.transport == Transport::Stdio)?;
    if settings.adopt.is_some() {
        // They are ignored since before the exec; what this program starts is not to inherit that.
        let _ = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
    }
    let (mut earlier, scratch) = what_is_left(settings.adopt)?;
    // Before this program starts anything.
    let before = earlier.as_ref().map(|_| children::all_now()).unwrap_or_default();
    tokio::task::spawn_blocking(scratch::remove_left_behind);
    announce_sandbox(&settings.sessions, &settings.workspace.root, scratch.path());
    announce_bounds(&settings.sessions.limits);
    let egress = Egress::open(&settings.sessions.sandbox, settings.http.tokens.is_some())?;
    let (around, filling) = surroundings(&settings, &scratch, egress, earlier.as_mut())?;
    let registry = Arc::new(Registry::new(Arc::clone(&around), settings.http.bounds.client_idle));
    if let Some(earlier) = &mut earlier {
        go_on_with(earlier, before, &registry, &around);
    }
    registry.adopt();
    if host.is_some() || settings.transport == Transport::Stdio {
        // Its first call finds it warm.
        let _ = registry.of(&Owner::User);
    }
    if let Some((record, end)) = host.as_ref().filter(|_| earlier.is_none()).and_then(fronts::predecessor) {
        registry.succeed(&record.sessions, end);
    }
    tokio::spawn(drain_on_signal(
        Arc::clone(&registry),
        Arc::clone(&around),
        (signal(SignalKind::user_defined1())?, settings.store.is_some()),
        stop.clone(),
    ));
    let away = opened(settings.store.as_ref(), &registry, &around).await?;
    let metrics = Arc::new(Metrics::start()?);
    let readiness = Arc::new(Readiness::new(Arc::clone(&around)));
    let (serving, serves) = oneshot::channel();
    let watching = watch_over(&registry, &metrics, &readiness, &around, serves);
    let (server, resources) = front_room(&settings, listed, (&around, &away), &registry, &metrics, filling)?;
    if let Some(earlier) = &mut earlier {
        if earlier.drains() {
            around.drain.ask();
        }
        around.quotas.go_on(earlier.quotas());
        earlier.choose(&server.active);
        server.tasks.go_on(&earlier.tasks);
    }
    let (scripts, packages) = (Arc::clone(&server.scripts), Arc::clone(&server.packages));
    let hurries = host.is_none() && settings.transport == Transport::Stdio;
    let served = match (host, settings.transport) {
        (Some(host), _) => {
            let _ = serving.send(());
            let earlier = earlier.and_then(Packed::fronts);
            fronts::serve(server, resources, (host, earlier), &scratch, stop).await.map_err(ServerError::from)
        }
        (None, Transport::Http) => {
            let earlier = (earlier.and_then(Packed::http), &scratch);
            http::serve((server, resources), readiness, &settings.http, earlier, serving, stop).await
        }
        (None, Transport::Stdio) => {
            let _ = serving.send(());
            stdio::serve(server, resources, stop).await;
            Ok(())
        }
    };
    watching.iter().for_each(JoinHandle::abort);
    service_manager::stopping().await;
    around.spares.renew();
    let leaving = time_to_leave(&around, hurries);
    if let Some(away) = &away {
        away.put_all_away(fault::limit(if hurries { LEAVING } else { PATIENT_LEAVING })).await;
        away.leave().await;
    }
    let until = Instant::now() + FAREWELL + leaving;
    let ended = futures::future::join3(registry.shut_down(leaving), scripts.shut_down(), packages.shut_down());
    let _ = tokio::time::timeout(FAREWELL + leaving, ended).await;
    // Whatever is still there: the zygote, and workers whose farewell took too long.
    processes::kill_children();
    around.images.end();
    groups::end();
    traces::end(until.saturating_duration_since(Instant::now()).clamp(LAST_TRACES, FAREWELL));
    served
}

/// The store, if there is one; from now on it is watched, and what rests is put away.
async fn opened(
    settings: Option<&StoreSettings>,
    registry: &Arc<Registry>,
    around: &Arc<Surroundings>,
) -> Result<Option<Arc<Away>>, ServerError> {
    let Some(settings) = settings else { return Ok(None) };
    let store = SharedStore::open(settings).await.map_err(|error| ServerError::Start(io::Error::other(error)))?;
    // The first sign of life, before any session is this server's.
    store.beat().await.map_err(|error| ServerError::Start(io::Error::other(error)))?;
    let away = Arc::new(Away::new(store.clone(), Arc::clone(registry), Arc::clone(around)));
    tokio::spawn(store.live());
    tokio::spawn(Arc::clone(&away).watch(settings.after));
    tokio::spawn(Arc::clone(&away).keep_to_leases());
    Ok(Some(away))
}

/// How long sessions may take to be left to the next server: a service manager waits longer than a client does.
fn time_to_leave(around: &Surroundings, hurries: bool) -> Duration {
    match around.images.is_for_the_next() {
        true => fault::limit(if hurries { LEAVING } else { PATIENT_LEAVING }),
        false => Duration::ZERO,
    }
}

/// What the program in whose place this one is has left, if there was one, and the directory for files of an hour.
fn what_is_left(adopt: Option<RawFd>) -> Result<(Option<Packed>, Scratch), ServerError> {
    let Some(number) = adopt else { return Ok((None, Scratch::make()?)) };
    // SAFETY: it is the number with which this process was started, and is looked at here only.
    let mut earlier = unsafe { Packed::open(number) }.map_err(ServerError::Start)?;
    let scratch = earlier.scratch()?;
    Ok((Some(earlier), scratch))
}

/// Sessions of the program in whose place this one is go on.
fn go_on_with(earlier: &mut Packed, before: Vec<i32>, registry: &Registry, around: &Arc<Surroundings>) {
    let lost = earlier.go_on(registry, around, fronts::EDGE);
    registry.not_taken_along(&lost);
    // What that program had started and did not leave to this one: its zygote, workers that were ready.
    let children = around.children.clone();
    tokio::task::spawn_blocking(move || children.end_unknown(before));
}

/// What sessions live in: the zygote and its workers, what is watched, what is kept of all of them.
fn surroundings(
    settings: &Settings,
    scratch: &Scratch,
    egress: Option<Arc<Egress>>,
    mut earlier: Option<&mut Packed>,
) -> io::Result<(Arc<Surroundings>, Filling)> {
    let children = Children::default();
    let imports = Imports::new(match (settings.preloads_more, settings.sessions.limits.confinement) {
        (false, _) => Auto::NotAsked,
        (true, Confinement::Off) => Auto::On,
        (true, _) => Auto::Confined,
    });
    let (zygote, filling) = start_zygote(settings, &children, scratch, (egress.as_deref(), &imports))?;
    let changes = Changes::default();
    let places = Workplaces::new(settings.workspace.clone(), settings.workspaces.clone(), changes.clone())?;
    let kept = settings.sessions.limits.kept_by_kernel();
    let spares = Spares::new(settings.sessions.max_spares, kept, zygote.clone(), Arc::clone(places.common()));
    let around = Surroundings {
        zygote,
        children,
        spares,
        imports,
        settings: settings.sessions.clone(),
        places,
        scratch: scratch.path().to_owned(),
        exchange: scratch.exchange(),
        egress,
        oom: OomCounter::start(),
        health: settings.health,
        alerts: earlier.as_deref_mut().map_or_else(Book::default, Packed::alerts),
        occurrences: earlier.as_deref_mut().map_or_else(Occurrences::default, Packed::occurrences),
        changes,
        checkpoints: Checkpoints::new(settings.sessions.checkpoints),
        images: match earlier.and_then(|earlier| earlier.images(&settings.sessions.sleep, &settings.workspace.root)) {
            Some(images) => images?,
            None => Images::new(&settings.sessions.sleep, scratch.path(), &settings.workspace.root)?,
        },
        drain: Drain::default(),
        turnover: Turnover::default(),
        quotas: Quotas::new(settings.http.tokens.clone()),
    };
    Ok((Arc::new(around), filling))
}

/// The tasks that look after sessions and tell the service manager, until they are aborted.
fn watch_over(
    registry: &Arc<Registry>,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
    around: &Arc<Surroundings>,
    serves: oneshot::Receiver<()>,
) -> [JoinHandle<()>; 9] {
    let zygote = around.zygote.clone();
    [
        tokio::spawn(supervisor::watch(Arc::clone(registry), Arc::clone(metrics), Arc::clone(around))),
        tokio::spawn(guard::watch(Arc::clone(registry), around.checkpoints.clone())),
        tokio::spawn(disk::watch(Arc::clone(registry), Arc::clone(&around.quotas))),
        tokio::spawn(owners::watch(Arc::clone(registry), Arc::clone(around))),
        tokio::spawn(cleaner::watch(
            Arc::clone(registry),
            around.settings.sleep.after,
            around.settings.sleep.image_after,
        )),
        tokio::spawn(watch::checkpoints::watch(around.checkpoints.clone())),
        tokio::spawn(around.spares.clone().keep()),
        tokio::spawn(generations::watch(Arc::clone(around), Arc::clone(registry))),
        tokio::spawn(service_manager::keep_informed(Arc::clone(readiness), Arc::clone(registry), zygote, serves)),
    ]
}

/// What clients reach: the tools' server and the resources.
fn front_room(
    settings: &Settings,
    listed: tools::catalogue::Listed,
    (around, away): (&Arc<Surroundings>, &Option<Arc<Away>>),
    registry: &Arc<Registry>,
    metrics: &Arc<Metrics>,
    filling: Filling,
) -> io::Result<(Arc<Server>, Arc<Resources>)> {
    let scripts = Arc::new(Scripts::new(Arc::clone(around), settings.max_scripts));
    let shown = files_as_resources::WorkspaceFiles::new(around.places.clone());
    let ward = Ward::new(Arc::clone(registry), Arc::clone(metrics), Arc::clone(around));
    let told = resources::health::HealthOfSessions::new(ward.clone());
    #[cfg_attr(not(feature = "conformance"), expect(unused_mut, reason = "fixtures are added"))]
    let mut providers: Vec<Box<dyn resources::Provider>> =
        vec![Box::new(shown), Box::new(told), Box::new(resources::guide::GuideChapters), Box::new(SkillFiles)];
    #[cfg(feature = "conformance")]
    providers.push(Box::new(super::mcp::conformance::resources::Fixtures));
    let resources = Resources::new(providers, around.changes.clone());
    let packages = Packages::new(
        Arc::clone(around),
        Arc::clone(&scripts),
        Arc::clone(registry),
        settings.allow_install_options,
        filling,
    );
    let packages = Arc::new(packages);
    tokio::spawn(Arc::clone(&packages).tell_when_filled());
    let server = Server {
        registry: Arc::clone(registry),
        active: ActiveSessions::default(),
        scripts,
        waiting: Waiting::default(),
        flights: Flights::default(),
        tasks: Tasks::default(),
        packages,
        around: Arc::clone(around),
        away: away.clone(),
        metrics: Arc::clone(metrics),
        health: ward,
        listed,
        structured: settings.replies.structured,
        audit: settings.audit.as_ref().map(|(path, with_code)| Audit::open(path, *with_code)).transpose()?,
    };
    Ok((Arc::new(server), Arc::new(resources)))
}

/// What is not kept of it is no secret.
fn announce_sandbox(settings: &SessionSettings, workspace: &Path, scratch: &Path) {
    let mode = settings.limits.confinement;
    if mode == Confinement::Off {
        return;
    }
    let Sandbox { read, write, .. } = &settings.sandbox;
    let holds_all = |path: &&PathBuf| scratch.canonicalize().is_ok_and(|scratch| scratch.starts_with(path));
    if let Some(open) = read.iter().chain(write).chain([&workspace.to_owned()]).find(holds_all) {
        tracing::warn!(
            "sessions reach each other's temporary files: {} is open to them, and holds {}; set TMPDIR to another directory",
            open.display(),
            scratch.display()
        );
    }
    match list_gaps(&settings.sandbox.gaps) {
        missing if missing.is_empty() => tracing::info!("sessions are confined (--sandbox {mode})"),
        missing => tracing::warn!("sessions are confined (--sandbox {mode}) as far as this machine can: {missing}"),
    }
}

/// A bound that this machine cannot keep is no secret either.
fn announce_bounds(limits: &Limits) {
    if let Some(processors) = limits.processors().filter(|_| !groups::can_be_had(Controller::Cpus)) {
        tracing::warn!(
            "--cpus {processors} is not kept on this machine: forkpy may make no cgroup with the controller cpu (with systemd, \
             Delegate=yes lets it)"
        );
    }
}

/// A token that SIGTERM and SIGINT cancel, and SIGHUP where it does not mean another thing.
fn stop_on_signals(hangup: bool) -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    for kind in kinds.into_iter().chain(hangup.then(SignalKind::hangup)) {
        let mut signal = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signal.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}

/// SIGUSR1, or `POST /admin/drain`: the server takes no new sessions, and ends after its limit.
async fn drain_on_signal(
    registry: Arc<Registry>,
    around: Arc<Surroundings>,
    (mut asked, has_store): (Signal, bool),
    stop: CancellationToken,
) {
    tokio::select! {
        _ = asked.recv() => {}
        () = around.drain.asked() => {}
    }
    let limit = around.settings.drain_limit;
    around.drain.begin();
    tracing::info!(?limit, "drains: no new sessions are made here");
    registry.tell_all(|session| {
        let is_put_away = has_store && Away::can_move(session);
        What::ServerDrains { limit, is_put_away }
    });
    if let Some(limit) = limit {
        tokio::time::sleep(limit).await;
        stop.cancel();
    }
}

/// On a terminal, what the first start is busy with; an ordinary start is over before.
async fn tell_person() {
    tokio::time::sleep(PATIENCE).await;
    let _shown = progress::of("making a Python environment for sessions; later starts have it");
    std::future::pending::<()>().await;
}

/// Starts the zygote's owner at once and prepares the environment behind it; what takes longer than a client would wait is
/// put into the environment when sessions can run.
fn start_zygote(
    settings: &Settings,
    children: &Children,
    scratch: &Scratch,
    (egress, imports): (Option<&Egress>, &Imports),
) -> io::Result<(Zygote, Filling)> {
    let (ready, wanted) = oneshot::channel();
    let (filled, filling) = watch_channel(None);
    let rooms = Rooms::below(scratch.path());
    let write = settings.sessions.sandbox.write.clone();
    let callers = egress.map(|egress| Arc::clone(egress.callers()));
    let proxy = callers.as_ref().and_then(|callers| callers.proxy(Kind::Session));
    let reach = Reach { write, callers };
    let spawner = Spawner::start(children.clone(), hidden_from_sessions(settings))?;
    let store = settings.zygote_images.clone().map(|folder| Arc::new(ZygoteImages::new(folder)) as Arc<dyn Store>);
    let zygote = Zygote::launch(wanted, children.clone(), (spawner, store), (rooms, reach));
    let wish = Wish {
        venv: settings.venv.clone(),
        python: settings.python.clone(),
        managed_roots: settings.env_dirs.clone(),
        virtual_env: settings.virtual_env.clone(),
        directory: std::env::current_dir().ok(),
        confined: (settings.sessions.limits.confinement != Confinement::Off).then(|| {
            let written = settings.sessions.sandbox.write.iter();
            written.chain([&settings.workspace.root]).cloned().collect()
        }),
    };
    let confinement = settings.sessions.sandbox.for_zygote(&scratch.exchange(), proxy);
    let (settings, children, behind) = (settings.clone(), children.clone(), zygote.clone());
    let imports = imports.clone();
    tokio::spawn(async move {
        let hook = |pid: u32, begins: bool| {
            let pid = i32::try_from(pid).unwrap_or(0);
            if begins { children.add(pid) } else { children.remove(pid) }
        };
        let told = tokio::spawn(tell_person());
        let prepared = make::prepare(&wish, &hook).await;
        told.abort();
        let mut unfinished = None;
        let mut lacks = Vec::new();
        // Where nothing is confined, what had to be fetched was fetched.
        let mut is_to_be_completed = false;
        let _ = ready.send(match prepared {
            Ok(prepared) => {
                tracing::info!("{}", prepared.environment.note);
                unfinished = prepared.unfinished;
                is_to_be_completed = prepared.is_new && wish.confined.is_some();
                lacks.clone_from(&prepared.environment.missing);
                imports.open(&settings.env_dirs, &prepared.environment.python);
                Ok(zygote_settings(&settings, &prepared.environment, confinement))
            }
            Err(error) => Err(error.to_string()),
        });
        if let Some(unfinished) = unfinished {
            behind.settled().await;
            drop(behind);
            match make::finish(&unfinished, &hook).await {
                Ok(environment) => {
                    tracing::info!("{}", environment.note);
                    lacks = environment.missing;
                }
                Err(error) => tracing::warn!("{error}"),
            }
        }
        filled.send_replace(Some(if is_to_be_completed { lacks } else { Vec::new() }));
    });
    Ok((zygote, Filling::new(filling)))
}

/// Names of variables that are the server's alone.
fn hidden_from_sessions(settings: &Settings) -> Vec<String> {
    let own = traces::SECRETS.into_iter().filter(|_| traces::is_on()).map(str::to_owned);
    // With them a session could read and remove what is others' in the bucket.
    let has_bucket = matches!(&settings.store, Some(StoreSettings { place: StorePlace::Bucket { .. }, .. }));
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let of_bucket = names.filter(|name| has_bucket && name.starts_with("AWS_"));
    settings.sessions.sandbox.secrets.iter().map(|secret| secret.name.clone()).chain(own).chain(of_bucket).collect()
}

fn zygote_settings(settings: &Settings, environment: &Environment, confinement: ConfinementSettings) -> ZygoteSettings {
    let words = |path: &std::path::Path| path.to_string_lossy().into_owned();
    ZygoteSettings {
        python: words(&environment.python),
        library: environment.library.clone(),
        virtual_env: environment.root.as_deref().map(words),
        python_path: settings.python_path.iter().map(|path| words(path)).collect(),
        preload: settings.preload.clone(),
        workspace: words(&settings.workspace.root),
        outputs: words(&settings.workspace.outputs()),
        own: None,
        keep_html: settings.replies.keep_html,
        confinement,
        faults: fault::armed_here(),
    }
}
