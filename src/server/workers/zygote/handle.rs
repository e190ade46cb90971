//! The handle by which the zygote is asked for workers and scripts.
//!
//! Runs in: server, wherever a process is wanted. The socket is the owner task's.

use std::{
    net::SocketAddrV4,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::PathBuf,
    sync::Arc,
};

use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    births::{Ends, Lease, NewScript, NewWorker, Renewed, Request, ZygoteError},
    exits::Exits,
    image::Store,
    owner::Owner,
    spawner::Spawner,
    stage::Stage,
    starting::Starter,
};
use crate::{
    protocol::{Confinement, Ground, Purpose, Script, WorkerLimits, ZygoteSettings},
    server::{
        egress::callers::{Callers, Kind},
        workers::{
            children::Children,
            door::{self, Reached},
            process::{self, Endings},
        },
        workspace::workplace::Workplace,
    },
    sys::{
        descriptors,
        pidfd::PidFd,
        room::{Room, Rooms},
    },
};

#[derive(Debug, Clone)]
pub(crate) struct Zygote {
    requests: mpsc::UnboundedSender<Request>,
    stage: watch::Receiver<Stage>,
    endings: Endings,
    rooms: Rooms,
    reach: Arc<Reach>,
}

/// What confined processes have outside of themselves: paths that they may change, and the proxy.
#[derive(Debug)]
pub(crate) struct Reach {
    pub write: Vec<PathBuf>,
    pub callers: Option<Arc<Callers>>,
}

impl Zygote {
    /// Starts the owner task; `settings` arrives when the environment is ready.
    #[must_use]
    pub(crate) fn launch(
        settings: oneshot::Receiver<Result<ZygoteSettings, String>>,
        children: Children,
        (spawner, store): (Spawner, Option<Arc<dyn Store>>),
        (rooms, reach): (Rooms, Reach),
    ) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (stage_sender, stage) = watch::channel(Stage::Starting);
        let exits = Arc::new(Exits::new(requests.downgrade()));
        let endings = Endings::new(Arc::clone(&exits), children.clone());
        let starter = Starter { spawner, children, exits: Arc::clone(&exits), store };
        let owner = Owner {
            inbox,
            requests: requests.downgrade(),
            stage: stage_sender,
            exits,
            endings: endings.clone(),
            starter,
            next: 1,
            settings: None,
            coming: None,
            making: None,
        };
        tokio::spawn(owner.run(settings));
        Self { requests, stage, endings, rooms, reach: Arc::new(reach) }
    }

    /// How processes of ours are ended.
    #[must_use]
    pub(crate) fn endings(&self) -> &Endings {
        &self.endings
    }

    /// What the zygote is doing now.
    #[must_use]
    pub(crate) fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// Forks a worker for `session`. Waits for the zygote to be warm first.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub(crate) async fn fork(
        &self,
        session: &str,
        limits: WorkerLimits,
        place: &Workplace,
    ) -> Result<NewWorker, ZygoteError> {
        let room = self.room(limits)?;
        let (ends, passed) = Ends::new(room.clone())?;
        let purpose = Purpose::Session { name: session.to_owned() };
        let (lease, pidfd) = self.ask(purpose, limits, (room.as_deref(), place.ground()), passed).await?;
        let reached = room.as_deref().map(|room| self.reached((room, place), kind_of(limits), &[]));
        Ok(NewWorker { reached, ..ends.with(lease, pidfd) })
    }

    /// The proxy of processes that install, and a folder for one; none where nothing is confined.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub(crate) fn for_installing(&self) -> std::io::Result<(Arc<Room>, Option<SocketAddrV4>)> {
        let callers = self.reach.callers.as_ref();
        Ok((self.rooms.make()?, callers.and_then(|callers| callers.proxy(Kind::Installer))))
    }

    /// A folder for a process that is to be confined.
    fn room(&self, limits: WorkerLimits) -> std::io::Result<Option<Arc<Room>>> {
        (limits.confinement != Confinement::Off).then(|| self.rooms.make()).transpose()
    }

    /// What a confined process may connect to.
    fn reached(&self, (room, place): (&Room, &Workplace), kind: Option<Kind>, more: &[String]) -> Reached {
        let caller = self.reach.callers.as_ref().zip(kind).and_then(|(callers, kind)| callers.admit(kind));
        let write = self.reach.write.iter().cloned().chain(more.iter().map(PathBuf::from));
        Reached::of(place.root(), room.path(), write, caller)
    }

    /// The duty to see to the end of a worker that a checkpoint woke, and that is our own child.
    #[must_use]
    pub(crate) fn lease_of_own(&self, pid: i32) -> Lease {
        Lease::new(pid, self.requests.downgrade())
    }

    /// Forks a process that becomes the checkpoint of an image and its base, with this socket. It is our own child.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub(crate) async fn wake_image(
        &self,
        (image, base): (OwnedFd, OwnedFd),
        link: StdStream,
    ) -> Result<Lease, ZygoteError> {
        let passed = vec![image, base, link.into()];
        let (lease, _) = self.ask(Purpose::Image, WorkerLimits::default(), (None, None), passed).await?;
        Ok(lease)
    }

    /// Forks a process that writes what the zygote has in memory to this file, says so over the socket, and ends.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub(crate) async fn write_base(&self, file: OwnedFd, link: StdStream) -> Result<Lease, ZygoteError> {
        let passed = vec![file, link.into()];
        let (lease, _) = self.ask(Purpose::Base, WorkerLimits::default(), (None, None), passed).await?;
        Ok(lease)
    }

    /// Forks a process that runs a script and ends; confined in a folder that it is given, or in one of its own. Waits for the
    /// zygote to be warm first.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub(crate) async fn fork_script(
        &self,
        script: Script,
        limits: WorkerLimits,
        (source, room): (OwnedFd, Option<Arc<Room>>),
        place: &Workplace,
    ) -> Result<NewScript, ZygoteError> {
        let (lifeline, theirs) = StdStream::pair()?;
        let (stdout, stdout_theirs) = descriptors::pipe()?;
        let (stderr, stderr_theirs) = descriptors::pipe()?;
        let passed = vec![source, theirs.into(), stdout_theirs, stderr_theirs];
        let kind = script.installing.as_ref().map_or_else(|| kind_of(limits), |_| Some(Kind::Installer));
        let room = room.map_or_else(|| self.room(limits), |room| Ok(Some(room)))?;
        let more = script.installing.as_ref().map_or_else(Vec::new, |installing| installing.write.clone());
        let (lease, pidfd) =
            self.ask(Purpose::Script(script), limits, (room.as_deref(), place.ground()), passed).await?;
        let new = NewScript { lease, pidfd, lifeline, stdout, stderr, room };
        if let Some(room) = &new.room {
            // A script that ends before that is followed to its end all the same.
            let _ = door::open(&new.lifeline, self.reached((room, place), kind, &more)).await;
        }
        Ok(new)
    }

    async fn ask(
        &self,
        purpose: Purpose,
        limits: WorkerLimits,
        (room, ground): (Option<&Room>, Option<Ground>),
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Lease, AsyncFd<PidFd>), ZygoteError> {
        let (reply, answer) = oneshot::channel();
        let room = room.map(|room| room.path().to_string_lossy().into_owned());
        let ground = ground.map(Box::new);
        let request = Request::Fork { purpose, limits, room, ground, descriptors, reply };
        self.requests.send(request).map_err(|_| ZygoteError::ShuttingDown)?;
        let lease = answer.await.map_err(|_| ZygoteError::ShuttingDown)??;
        // The zygote keeps a dead child as a zombie until we say `Reap`, so this number cannot be a stranger's.
        let pidfd = process::watch(lease.pid())?;
        Ok((lease, pidfd))
    }

    /// Waits until the zygote is no longer starting. Cancel-safe.
    pub(crate) async fn settled(&self) {
        let mut stage = self.stage.clone();
        let _ = stage.wait_for(|stage| *stage != Stage::Starting).await;
    }

    /// Has a zygote that has imported these modules too take the place of the one that serves.
    ///
    /// # Errors
    /// [`ZygoteError`]; the one that serves goes on then.
    pub(crate) async fn renew(&self, modules: Vec<String>) -> Result<Renewed, ZygoteError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Renew { modules, reply }).map_err(|_| ZygoteError::ShuttingDown)?;
        answer.await.map_err(|_| ZygoteError::ShuttingDown)?
    }

    /// The zygote that serves is of no use: one as at the start takes its place.
    pub(crate) fn go_back(&self) {
        let _ = self.requests.send(Request::GoBack);
    }

    /// Ends the zygote, before this process becomes another program; another is started when `thaw` is cancelled.
    pub(crate) async fn end(&self, thaw: &CancellationToken) {
        let (done, ended) = oneshot::channel();
        if self.requests.send(Request::End { thaw: thaw.clone(), done }).is_ok() {
            let _ = ended.await;
        }
    }

    /// Lets the zygote forget what it cached of the session environment.
    pub(crate) fn refresh(&self) {
        let _ = self.requests.send(Request::Refresh);
    }
}

/// What the proxy takes a confined process for; none for those without sockets.
fn kind_of(limits: WorkerLimits) -> Option<Kind> {
    (limits.confinement == Confinement::Workspace).then_some(Kind::Session)
}
