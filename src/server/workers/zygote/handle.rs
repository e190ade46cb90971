//! The handle by which the zygote is asked for workers and scripts.
//!
//! Runs in: server, wherever a process is wanted. The socket is the owner task's.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::PathBuf,
    sync::Arc,
};

use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
};

use super::{
    births::{Ends, Lease, NewScript, NewWorker, Request, ZygoteError},
    exits::Exits,
    owner::Owner,
    spawner::Spawner,
    stage::Stage,
};
use crate::{
    protocol::{Confinement, Purpose, Script, WorkerLimits, ZygoteSettings},
    server::workers::{
        children::Children,
        door,
        process::{self, Endings},
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

/// Paths that confined processes may change.
#[derive(Debug)]
pub(crate) struct Reach {
    pub workspace: PathBuf,
    pub write: Vec<PathBuf>,
}

impl Zygote {
    /// Starts the owner task; `settings` arrives when the environment is ready.
    #[must_use]
    pub(crate) fn launch(
        settings: oneshot::Receiver<Result<ZygoteSettings, String>>,
        children: Children,
        spawner: Spawner,
        (rooms, reach): (Rooms, Reach),
    ) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (stage_sender, stage) = watch::channel(Stage::Starting);
        let exits = Arc::new(Exits::new(requests.downgrade()));
        let endings = Endings::new(Arc::clone(&exits), children.clone());
        let owner = Owner {
            inbox,
            requests: requests.downgrade(),
            stage: stage_sender,
            exits,
            endings: endings.clone(),
            children,
            spawner,
            next: 1,
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
    pub(crate) async fn fork(&self, session: &str, limits: WorkerLimits) -> Result<NewWorker, ZygoteError> {
        let room = self.room(limits)?;
        let (ends, passed) = Ends::new(room.clone())?;
        let purpose = Purpose::Session { name: session.to_owned() };
        let (lease, pidfd) = self.ask(purpose, limits, room.as_deref(), passed).await?;
        let reached = room.as_deref().map(|room| self.reached(room));
        Ok(NewWorker { reached, ..ends.with(lease, pidfd) })
    }

    /// A folder for a process that is to be confined.
    fn room(&self, limits: WorkerLimits) -> std::io::Result<Option<Arc<Room>>> {
        (limits.confinement != Confinement::Off).then(|| self.rooms.make()).transpose()
    }

    /// Below which paths a confined process may connect.
    fn reached(&self, room: &Room) -> Vec<PathBuf> {
        door::reached(&self.reach.workspace, room.path(), &self.reach.write)
    }

    /// The duty to see to the end of a worker that a checkpoint woke, and that is our own child.
    #[must_use]
    pub(crate) fn lease_of_own(&self, pid: i32) -> Lease {
        Lease::new(pid, self.requests.downgrade())
    }

    /// Forks a process that runs a script and ends. Waits for the zygote to be warm first.
    ///
    /// # Errors
    /// [`ZygoteError`], in words for a client.
    pub(crate) async fn fork_script(
        &self,
        script: Script,
        limits: WorkerLimits,
        source: OwnedFd,
    ) -> Result<NewScript, ZygoteError> {
        let (lifeline, theirs) = StdStream::pair()?;
        let (stdout, stdout_theirs) = descriptors::pipe()?;
        let (stderr, stderr_theirs) = descriptors::pipe()?;
        let passed = vec![source, theirs.into(), stdout_theirs, stderr_theirs];
        let room = self.room(limits)?;
        let (lease, pidfd) = self.ask(Purpose::Script(script), limits, room.as_deref(), passed).await?;
        let new = NewScript { lease, pidfd, lifeline, stdout, stderr, room };
        if let Some(room) = &new.room {
            // A script that ends before that is followed to its end all the same.
            let _ = door::open(&new.lifeline, self.reached(room)).await;
        }
        Ok(new)
    }

    async fn ask(
        &self,
        purpose: Purpose,
        limits: WorkerLimits,
        room: Option<&Room>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Lease, AsyncFd<PidFd>), ZygoteError> {
        let (reply, answer) = oneshot::channel();
        let room = room.map(|room| room.path().to_string_lossy().into_owned());
        let request = Request::Fork { purpose, limits, room, descriptors, reply };
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

    /// Lets the zygote forget what it cached of the session environment.
    pub(crate) fn refresh(&self) {
        let _ = self.requests.send(Request::Refresh);
    }
}
