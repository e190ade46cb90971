//! Packages of the session environment: what is there, and installing more, with every session told.
//!
//! Runs in: server. Owns the one install that may run at a time. Installs by a child process (`installer.rs`) of what
//! was checked (`wanted.rs`). Sessions are told over their control sockets, beside a cell that runs. Who has an
//! environment of its own (`--workspaces`) installs there, and no other is told.

use crate::server::environment::error::PackageError;

use std::{
    io,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tempfile::TempDir;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use crate::server::environment::installer::Tool;
use crate::{
    bundle,
    protocol::{Confinement, WorkerExit},
    server::{
        environment::{
            confined, own,
            survey::{Change, Package, Survey, compare, find, modules_of, survey},
            wanted::{Reader, Wanted, normal},
        },
        output::{
            captured::CapturedText,
            peephole::Audience,
            streams::{Bounds, Course, Followed, Keeping},
        },
        owner::Owner,
        scripts::{Held, Scripts},
        sessions::{context::Surroundings, registry::Registry},
        turns::{Line, Turn},
        workers::{process, zygote::Stage},
        workspace::{
            handle::{FileError, Files},
            workplace::Workplace,
        },
    },
    sys::{descriptors, programs},
};

/// Time in which a session should have forgotten what it cached; one that is hung does it later.
const REFRESH_LIMIT: Duration = Duration::from_secs(2);
/// How long a list waits for an environment that is being filled: a second where nothing has to be fetched and the machine is idle.
const LISTING_LIMIT: Duration = Duration::from_secs(30);
/// How long the completing of a new environment may take.
const COMPLETING_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct InstallOrder {
    /// Whose sessions are named in what is said.
    pub owner: Owner,
    /// What is to be there, as [`Packages::check`] has read it.
    pub wanted: Wanted,
    /// How long it may take.
    pub limit: Duration,
    /// Cancelled when the client takes it back.
    pub cancel: CancellationToken,
    /// Who hears of the tool's output.
    pub audience: Audience,
    /// Its place among those that wait.
    pub turn: Arc<Turn>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct InstallOutcome {
    pub tool: &'static str,
    /// Whose doing the tool's end was.
    pub course: Course,
    pub exit: WorkerExit,
    /// What it wrote to descriptor 1.
    pub stdout: CapturedText,
    /// What it wrote to descriptor 2.
    pub stderr: CapturedText,
    pub ran: Duration,
    /// What was asked for and is there now.
    pub installed: Vec<Package>,
    /// What is there now and was not before, or in another version.
    pub changes: Vec<Change>,
    /// Sessions that have imported what has changed.
    pub stale: Vec<Stale>,
    /// Changed packages that every session has from the zygote.
    pub preloaded: Vec<String>,
    /// Sessions that could not be told yet.
    pub untold: Vec<String>,
}

/// A session that has imported a package which is not as it was.
#[derive(Debug, Clone)]
pub(crate) struct Stale {
    pub session: String,
    pub change: Change,
}

/// Whether all is in the environment that it is to have, and what has to be installed for that as sessions install. On a machine
/// where forkpy is new, sessions run before that.
#[derive(Debug, Clone)]
pub(crate) struct Filling(watch::Receiver<Option<Vec<String>>>);

impl Filling {
    pub(crate) fn new(filled: watch::Receiver<Option<Vec<String>>>) -> Self {
        Self(filled)
    }

    fn is_over(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it is; also when it cannot be any more. What is left to be installed.
    async fn over(&self) -> Vec<String> {
        let mut filled = self.0.clone();
        let left = match filled.wait_for(Option::is_some).await {
            Ok(left) => left.clone(),
            Err(_) => None,
        };
        left.unwrap_or_default()
    }
}

pub(crate) struct Packages {
    around: Arc<Surroundings>,
    scripts: Arc<Scripts>,
    registry: Arc<Registry>,
    free: bool,
    /// Held by the install that runs.
    turn: Mutex<()>,
    line: Arc<Line>,
    stop: CancellationToken,
    filling: Filling,
}

impl Packages {
    /// Nothing is looked at before the first call.
    #[must_use]
    pub(crate) fn new(
        around: Arc<Surroundings>,
        scripts: Arc<Scripts>,
        registry: Arc<Registry>,
        free: bool,
        filling: Filling,
    ) -> Self {
        let (turn, line, stop) = (Mutex::default(), Arc::default(), CancellationToken::new());
        Self { around, scripts, registry, free, turn, line, stop, filling }
    }

    /// Waits a moment for an environment that is still being filled.
    pub(crate) async fn filled(&self, at_most: Duration) {
        let all = async {
            self.filling.over().await;
            // Of a bundle what is large may still be unpacked. What does not come is missed by who needs it.
            let _ = tokio::task::spawn_blocking(bundle::rest::wait).await;
        };
        let _ = tokio::time::timeout(at_most, all).await;
    }

    /// Whether the environment is still being filled, for those who tell what an install waits for.
    pub(crate) fn is_filling(&self) -> bool {
        !self.filling.is_over()
    }

    /// Whether an install runs.
    pub(crate) fn is_installing(&self) -> bool {
        self.turn.try_lock().is_err()
    }

    /// A place among the installs that wait.
    pub(crate) fn turn(&self) -> Arc<Turn> {
        self.line.join()
    }

    /// Whether packages are being installed, or the environment is still being filled.
    pub(crate) fn is_at_work(&self) -> bool {
        self.turn.try_lock().is_err() || self.is_filling()
    }

    /// Sessions that began before the environment was whole find what has come into it since.
    pub(crate) async fn tell_when_filled(self: Arc<Self>) {
        let was_filling = self.is_filling();
        let left = self.filling.over().await;
        if was_filling {
            self.tell((&Owner::User, false), &[], (&Survey::default(), &Survey::default())).await;
        }
        if !left.is_empty() {
            self.complete(left).await;
        }
    }

    /// Installs what a new environment lacks, in the sandbox. Without it sessions run all the same.
    async fn complete(self: &Arc<Self>, left: Vec<String>) {
        self.around.zygote.settled().await;
        let names = left.join(", ");
        let (cancel, audience) = (CancellationToken::new(), Audience::default());
        let installed = match self.check(left, self.around.places.common().files.clone()).await {
            Ok(wanted) => {
                let (owner, limit, turn) = (Owner::User, COMPLETING_LIMIT, self.turn());
                self.install(InstallOrder { owner, wanted, limit, cancel, audience, turn }).await
            }
            Err(error) => Err(error),
        };
        match installed {
            Ok(outcome) if outcome.exit == WorkerExit::Code(0) => {
                tracing::info!("installed {names} into the session environment");
            }
            Ok(outcome) => {
                let words =
                    outcome.stderr.text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
                tracing::warn!("the session environment lacks {names}: {words}; install_dependencies may bring it");
            }
            Err(error) => {
                tracing::warn!("the session environment lacks {names}: {error}; install_dependencies may bring it");
            }
        }
    }

    /// Ends the install that runs, and waits for that.
    pub(crate) async fn shut_down(&self) {
        self.stop.cancel();
        let _ = self.turn.lock().await;
    }

    /// What sessions of an owner can import, sorted by name; and whether that is all, or the environment is still being filled.
    ///
    /// # Errors
    /// [`PackageError`] when there is no environment.
    pub(crate) async fn list(&self, owner: &Owner) -> Result<(Vec<Package>, bool), PackageError> {
        let own = self.around.places.of(owner)?.environment();
        self.filled(LISTING_LIMIT).await;
        let is_whole = !self.is_filling();
        let mut packages = survey((&self.around, &self.scripts), own.as_deref(), false).await?.packages;
        packages.sort_by_key(|package| normal(&package.name));
        Ok((packages, is_whole))
    }

    /// Installs. Dropping this future ends the tool.
    ///
    /// # Errors
    /// [`PackageError`] when no tool was run; a tool that failed is an outcome.
    pub(crate) async fn install(self: &Arc<Self>, mut order: InstallOrder) -> Result<InstallOutcome, PackageError> {
        order.cancel = order.cancel.child_token();
        let _ends_with_us = order.cancel.clone().drop_guard();
        tokio::spawn(Arc::clone(self).live(order)).await.unwrap_or(Err(PackageError::Stopped))
    }

    async fn live(self: Arc<Self>, order: InstallOrder) -> Result<InstallOutcome, PackageError> {
        let InstallOrder { owner, wanted, limit, cancel, audience, turn } = order;
        let _turn = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(PackageError::Stopped),
            () = self.stop.cancelled() => return Err(PackageError::Stopped),
            turn = async { self.filling.over().await; self.turn.lock().await } => turn,
        };
        turn.comes();
        let around = (&*self.around, &*self.scripts);
        let workplace = self.around.places.of(&owner)?;
        let own = workplace.environment();
        let before = survey(around, own.as_deref(), true).await?;
        let python = match self.around.zygote.stage() {
            Stage::Warm { executable, .. } => own.as_deref().map_or(executable, own::python),
            Stage::Starting => return Err(PackageError::NoEnvironment("Python is still starting".to_owned())),
            Stage::Failed(reason) => return Err(PackageError::NoEnvironment(reason)),
        };
        let tool = Tool::find();
        let bounds = Bounds { limit, grace: self.around.settings.grace, cancel, stop: self.stop.clone() };
        let began = Instant::now();
        let (mut process, _held) = self.start(&owner, &tool, (&python, &wanted), (audience, &workplace)).await?;
        let course = process.follow(&bounds).await;
        let ran = began.elapsed();
        let exit = self.bury(&mut process).await;
        let [stdout, stderr] = process.finish().await;
        let after = survey(around, own.as_deref(), true).await?;
        let changes = compare(&before.packages, &after.packages);
        let goes_back = own.is_none() && self.tell_zygote(&changes);
        let (stale, untold) = self.tell((&owner, own.is_some()), &changes, (&before, &after)).await;
        let is_preloaded = |name: &str| {
            !goes_back && modules_of(name, [&before, &after]).iter().any(|module| after.preloaded.contains(module))
        };
        let preloaded = changes.iter().filter(|change| change.before.is_some() && is_preloaded(&change.name));
        let preloaded = preloaded.map(|change| change.name.clone()).collect();
        let installed = wanted.names.iter().filter_map(|name| find(&after.packages, name)).cloned().collect();
        let tool = tool.name();
        Ok(InstallOutcome { tool, course, exit, stdout, stderr, ran, installed, changes, stale, preloaded, untold })
    }

    /// Reads what is to be installed, as the client wrote it.
    ///
    /// # Errors
    /// [`PackageError`] when that cannot be meant, or is not allowed.
    pub(crate) async fn check(&self, packages: Vec<String>, files: Files) -> Result<Wanted, PackageError> {
        let free = self.free;
        let checked = tokio::task::spawn_blocking(move || {
            let mut wanted = Reader { files: &files, free, wanted: Wanted::default() }.read(&packages)?;
            wanted.names.sort_unstable();
            wanted.names.dedup();
            Ok(wanted)
        });
        checked.await.map_err(FileError::Lost)?
    }

    /// Starts the tool: confined where sessions are, else as a child of ours. With what has to be there until its end.
    async fn start(
        &self,
        owner: &Owner,
        tool: &Tool,
        (python, wanted): (&str, &Wanted),
        (audience, workplace): (Audience, &Workplace),
    ) -> Result<(Followed, (Option<Held>, Option<TempDir>)), PackageError> {
        // A caller who may name source trees names them from here.
        let place = self.free.then(|| workplace.root());
        let sandbox = self.around.quotas.rights(owner).sandbox;
        if self.around.settings.limits.confined(sandbox).confinement != Confinement::Off {
            let around = (&*self.around, &*self.scripts);
            let (process, held) = confined::start(around, tool, (python, wanted), place, (audience, workplace)).await?;
            return Ok((process, (Some(held), None)));
        }
        if let Some(root) = workplace.environment() {
            own::make((&self.around, &self.scripts), &root).await?;
        }
        let fail = |source| PackageError::Tool { tool: tool.name(), source };
        let directory = tempfile::tempdir_in(&self.around.scratch).map_err(fail)?;
        let mut command = tool.command(python, wanted, directory.path()).map_err(fail)?;
        place.map(|place| command.current_dir(place));
        Ok((self.spawn(command, audience, workplace).map_err(fail)?, (None, Some(directory))))
    }

    fn spawn(&self, mut command: Command, audience: Audience, place: &Workplace) -> io::Result<Followed> {
        let (stdout, stdout_theirs) = descriptors::pipe()?;
        let (stderr, stderr_theirs) = descriptors::pipe()?;
        command.stdout(stdout_theirs).stderr(stderr_theirs);
        programs::lead_and_die_with_us(&mut command);
        let pid = self.around.children.spawn(&mut command)?;
        // Its copies of our pipes' other ends.
        drop(command);
        let keeping = Keeping {
            cap: self.around.settings.max_output,
            outputs: &place.outputs,
            name: "install".to_owned(),
            audience,
        };
        process::watch(pid).and_then(|pidfd| Followed::new(pid, pidfd, [stdout, stderr], keeping))
    }

    /// The tool has ended: learns how, ends what it started, reads what is left, reaps it.
    async fn bury(&self, process: &mut Followed) -> WorkerExit {
        let exit = self.around.zygote.endings().see_off(process.pid, &process.pidfd).await;
        process.drain();
        exit
    }

    /// New sessions see what has changed. True when the zygote begins anew for it: it had modules that no option named, and what
    /// it has imported may be of a version that is gone.
    fn tell_zygote(&self, changes: &[Change]) -> bool {
        let warmed_unasked = match self.around.zygote.stage() {
            Stage::Warm { modules, .. } => !self.around.imports.added(&modules).is_empty(),
            _ => false,
        };
        let goes_back = warmed_unasked && changes.iter().any(|change| change.before.is_some());
        if goes_back {
            self.around.zygote.go_back();
            self.around.imports.look_again();
        } else {
            self.around.zygote.refresh();
        }
        self.around.spares.renew();
        goes_back
    }

    /// Lets every interpreter look at the disk anew; who has imported what has changed, and who did not answer.
    /// Of sessions, this owner is told of its own only; and where the environment is its own, no others are concerned.
    async fn tell(
        &self,
        (owner, is_own): (&Owner, bool),
        changes: &[Change],
        (before, after): (&Survey, &Survey),
    ) -> (Vec<Stale>, Vec<String>) {
        let replaced: Vec<&Change> = changes.iter().filter(|change| change.before.is_some()).collect();
        let modules: Vec<String> =
            replaced.iter().flat_map(|change| modules_of(&change.name, [before, after])).collect();
        let sessions = self.registry.all();
        let concerned = sessions.iter().filter(|session| !is_own || session.life.owner() == owner);
        let asked = concerned.filter_map(|session| {
            let control = session.shared.get().worker?.control;
            let modules = &modules;
            Some(async move { (session, control.refresh(modules, REFRESH_LIMIT).await) })
        });
        let (mut stale, mut untold) = (Vec::new(), Vec::new());
        for (session, imported) in join_all(asked).await {
            if session.life.owner() != owner {
                continue;
            }
            let session = session.id.to_string();
            let Some(imported) = imported else {
                untold.push(session);
                continue;
            };
            let has = |change: &&&Change| {
                modules_of(&change.name, [before, after]).iter().any(|module| imported.contains(module))
            };
            stale.extend(
                replaced.iter().filter(has).map(|change| Stale { session: session.clone(), change: (*change).clone() }),
            );
        }
        (stale, untold)
    }
}
