//! What the rest of the server holds of a session: its orders go into the task's queue, restarts and endings past it.
//!
//! Runs in: server, wherever a tool or a watcher has it; awaits the task's answers and decides nothing.

use std::{io, sync::Arc};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    beginning::{Beginning, Origin},
    checkpoints::Checkpoint,
    context::Surroundings,
    death::DeathReason,
    history::History,
    life::Life,
    orders::{
        Caller, Carry, CellOrder, CheckpointWish, Departing, Departure, Hold, Order, Packing, Restarted, SessionError,
        Slept, Urgent,
    },
    outcome::CellOutcome,
    quotas::Quotas,
    returned::PackedTask,
    runs::{Reply, Run, Runs},
    status::Shared,
    task::{Seat, Task},
};
use crate::{
    protocol::{StateReport, Variable},
    server::{health::recovery::Step, output::peephole::Look, workspace::workplace::Workplace},
    settings::limits::Limits,
    sys::{groups::Group, parcel::Parcel},
};

/// Handle of a session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub id: Arc<str>,
    /// Which bearer of that name it is, and what has happened to it.
    pub life: Life,
    /// What can be seen of it.
    pub shared: Shared,
    /// What it may take.
    pub limits: Limits,
    /// Where it works.
    pub(in crate::server) place: Arc<Workplace>,
    /// What it has run.
    pub history: Arc<History>,
    /// Cells that calls have sent.
    pub(in crate::server) runs: Arc<Runs>,
    cells: mpsc::Sender<Order>,
    urgent: mpsc::UnboundedSender<Urgent>,
    /// What its owner may take.
    quotas: Arc<Quotas>,
}

/// The place of an order in a session's queue.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Shared,
    number: u64,
}

impl Place {
    /// As which number it waits, the next one being 1; none when its turn has come.
    pub(crate) fn number(&self) -> Option<u64> {
        self.number.checked_sub(self.shared.get().taken).filter(|number| *number > 0)
    }
}

impl Session {
    /// Makes the session and begins to make its worker, unless it has one.
    #[must_use]
    pub(crate) fn start(beginning: Beginning, around: Arc<Surroundings>, place: Arc<Workplace>) -> Self {
        let Beginning { life, description, policy, limits, origin } = beginning;
        let id = Arc::clone(life.session());
        let shared = Shared::new(description, policy);
        let group = match &origin {
            Origin::Returned(returned) => returned.group.clone(),
            _ => Group::for_session(limits.in_group()),
        };
        shared.update(|status| status.group = group);
        let (cells, orders) = mpsc::channel(around.settings.queue);
        let (urgent, interventions) = mpsc::unbounded_channel();
        let history = Arc::<History>::default();
        let last = match &origin {
            Origin::Copy { cell, .. } => *cell,
            Origin::Asleep(left) => {
                shared.update(|status| left.show(status));
                left.last_cell()
            }
            Origin::Afresh | Origin::Returned(_) => 0,
        };
        let runs = Arc::new(Runs::new(around.settings.keep_replies, last));
        let quotas = Arc::clone(&around.quotas);
        let task = Task::new(Seat {
            life: life.clone(),
            history: Arc::clone(&history),
            runs: Arc::clone(&runs),
            shared: shared.clone(),
            limits,
            around,
            place: Arc::clone(&place),
            orders,
            queue: cells.downgrade(),
            interventions,
            origin,
        });
        tokio::spawn(task.live());
        Self { id, life, shared, limits, place, history, runs, cells, urgent, quotas }
    }

    /// Runs a cell when its turn comes. Its outcome fails to come only when the session is deleted.
    ///
    /// # Errors
    /// [`SessionError`] when it was not accepted.
    pub(crate) fn run(&self, cell: CellOrder) -> Result<oneshot::Receiver<CellOutcome>, SessionError> {
        let share = self.quotas.admit(self.life.owner())?;
        let (reply, answer) = oneshot::channel();
        let number = self.runs.number();
        let accepted = self.put(Order::Cell { cell, number, reply: Reply::Once(reply), share });
        accepted.inspect_err(|_| self.runs.withdraw(number)).map(|()| answer)
    }

    /// The same for a cell that need not end before its call does: what comes of it is kept for later calls.
    ///
    /// # Errors
    /// [`SessionError`] when it was not accepted.
    pub(in crate::server) fn submit(&self, cell: CellOrder) -> Result<Arc<Run>, SessionError> {
        let share = self.quotas.admit(self.life.owner())?;
        let number = self.runs.number();
        let (run, reply) = self.runs.begin(number, cell.client.clone(), cell.cancel.clone());
        let accepted = self.put(Order::Cell { cell, number, reply, share });
        accepted.inspect_err(|_| self.runs.withdraw(number)).map(|()| run)
    }

    /// The place in the queue of the order that was sent last.
    pub(crate) fn place(&self) -> Place {
        let status = self.shared.get();
        Place { shared: self.shared.clone(), number: status.taken + status.waiting as u64 }
    }

    /// What the running cell has written beyond these bytes of its two streams, if one runs.
    pub(in crate::server) async fn look(&self, from: [u64; 2]) -> Option<Look> {
        let (reply, answer) = oneshot::channel();
        self.urgent.send(Urgent::Look { from, reply }).ok()?;
        answer.await.ok()
    }

    /// Takes along what its task holds, which stands still until `thaw` is cancelled.
    ///
    /// # Errors
    /// When it cannot be taken along now.
    pub(super) async fn pack(&self, parcel: &mut Parcel, thaw: &CancellationToken) -> io::Result<PackedTask> {
        let (reply, answer) = oneshot::channel();
        let busy = || io::Error::from(io::ErrorKind::WouldBlock);
        // Of its own: a task that is at something else drops what it is sent.
        let packing = Packing { parcel: Parcel::default(), thaw: thaw.clone(), reply };
        self.urgent.send(Urgent::Pack(packing)).map_err(|_| busy())?;
        let (packed, filled) = answer.await.map_err(|_| busy())?;
        parcel.join(filled);
        packed
    }

    /// Lists variables when its turn comes.
    pub(crate) async fn variables(&self, caller: Caller) -> Result<Vec<Variable>, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::Variables { caller, reply })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// Makes a checkpoint when its turn comes.
    pub(crate) async fn checkpoint(
        &self,
        wish: CheckpointWish,
        caller: Caller,
    ) -> Result<Arc<Checkpoint>, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::Checkpoint { wish, caller, reply })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// Goes on from a checkpoint when its turn comes.
    ///
    /// # Errors
    /// [`SessionError`]; the session is as before then.
    pub(crate) async fn restore(
        &self,
        from: Arc<Checkpoint>,
        keep_random: bool,
        caller: Caller,
    ) -> Result<(), SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::Restore { from, keep_random, caller, reply })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// Writes variables to a file of our own when its turn comes.
    pub(crate) async fn save_to(&self, path: String, caller: Caller) -> Result<StateReport, SessionError> {
        self.carry(Carry::Save, path, caller).await
    }

    /// Reads variables from a file of our own when its turn comes.
    ///
    /// # Errors
    /// [`SessionError`]; no variable has changed then.
    pub(crate) async fn load_from(&self, path: String, caller: Caller) -> Result<StateReport, SessionError> {
        self.carry(Carry::Load, path, caller).await
    }

    async fn carry(&self, carry: Carry, path: String, caller: Caller) -> Result<StateReport, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::State { carry, path, caller, reply })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// Has the session stand still when its turn comes, see [`Hold`].
    ///
    /// # Errors
    /// [`SessionError`] when it was not accepted.
    pub(crate) fn hold(&self, hold: Hold) -> Result<(), SessionError> {
        self.put(Order::Hold(hold))
    }

    /// Replaces the worker at once, whatever it is doing.
    ///
    /// # Errors
    /// [`SessionError`] when no new worker could be made.
    pub(crate) async fn restart(&self, preserve: bool, caller: Caller) -> Result<Restarted, SessionError> {
        let (reply, answer) = oneshot::channel();
        let deleted = || SessionError::Deleted(self.id.to_string());
        self.urgent.send(Urgent::Restart { preserve, caller, reply }).map_err(|_| deleted())?;
        answer.await.map_err(|_| deleted())?
    }

    /// Has the session's task see to its worker; nothing happens when the session is over.
    pub(crate) fn heal(&self, step: Step) {
        let _ = self.urgent.send(Urgent::Heal(step));
    }

    /// Its policy has changed: what is planned for a session without a worker is planned anew.
    pub(crate) fn reconsider(&self) {
        let _ = self.urgent.send(Urgent::Reconsider);
    }

    /// Ends the session and all it started; returns when that is done.
    pub(crate) async fn delete(&self) {
        self.end(DeathReason::Delete).await;
    }

    /// The server ends: leaves what can be left to the next one.
    pub(crate) async fn leave(&self) {
        let (reply, answer) = oneshot::channel();
        if self.urgent.send(Urgent::Leave { reply }).is_ok() {
            let _ = answer.await;
        }
    }

    /// Ends it, for a reason of the server's own.
    pub(crate) async fn end(&self, why: DeathReason) {
        let (reply, answer) = oneshot::channel();
        if self.urgent.send(Urgent::Delete { why, reply }).is_ok() {
            let _ = answer.await;
        }
    }

    /// Puts it to sleep when its turn comes.
    ///
    /// # Errors
    /// [`SessionError`]; the session is as it was then.
    pub(crate) async fn sleep(&self, by_value: bool, caller: Caller) -> Result<Slept, SessionError> {
        let (reply, answer) = oneshot::channel();
        self.put(Order::FallAsleep { asked: Some((caller, reply)), by_value })?;
        answer.await.map_err(|_| SessionError::Deleted(self.id.to_string()))?
    }

    /// The same without a caller, unless the session is in use then. False when that cannot be asked for now.
    #[must_use]
    pub(crate) fn fall_asleep(&self) -> bool {
        self.cells.try_send(Order::FallAsleep { asked: None, by_value: false }).is_ok()
    }

    /// Has it leave this server: what is to be put away comes, and it stands still until it is told that it is gone, or that is dropped.
    pub(in crate::server) async fn depart(
        &self,
        insists: bool,
    ) -> Result<(Departing, oneshot::Sender<()>), SessionError> {
        let ((ready, made), (tell, gone)) = (oneshot::channel(), oneshot::channel());
        let deleted = || SessionError::Deleted(self.id.to_string());
        let order = Order::Depart(Departure { insists, ready, gone });
        self.cells.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                SessionError::QueueFull { session: self.id.to_string(), waiting: self.shared.get().waiting }
            }
            mpsc::error::TrySendError::Closed(_) => deleted(),
        })?;
        Ok((made.await.map_err(|_| deleted())??, tell))
    }

    /// Has an image of it written while it rests, unless it is in use then.
    pub(crate) fn write_image(&self) {
        let _ = self.cells.try_send(Order::WriteImage);
    }

    /// Ends the worker when its turn comes, unless the session is in use then. False when that cannot be asked for now.
    #[must_use]
    pub(crate) fn rest(&self, why: DeathReason) -> bool {
        self.cells.try_send(Order::Rest { why }).is_ok()
    }

    /// Has it get another worker in the place of one that nothing has run in yet, unless the session is in use.
    pub(crate) fn freshen(&self) {
        let _ = self.cells.try_send(Order::Freshen);
    }

    fn put(&self, order: Order) -> Result<(), SessionError> {
        self.shared.update(|status| {
            status.touch();
            status.waiting += 1;
        });
        self.cells.try_send(order).map_err(|error| {
            let waiting = self.shared.update(|status| {
                status.waiting -= 1;
                status.waiting
            });
            match error {
                mpsc::error::TrySendError::Full(_) => SessionError::QueueFull { session: self.id.to_string(), waiting },
                mpsc::error::TrySendError::Closed(_) => SessionError::Deleted(self.id.to_string()),
            }
        })
    }
}
