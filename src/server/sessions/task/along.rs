//! Cells that are taken along when the server becomes another program: the one that runs, and those that wait behind it.
//!
//! Runs in: server, in the session's task, before the exec and after it. Owns how they are packed and how they
//! go on. The cell itself notices nothing: its worker runs on, and what it writes waits in its pipes. How it is followed is `follow.rs`.

use std::{io, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{cpu_budget::CpuBudget, follow::Running, state::Task, underway::Underway};
use crate::{
    server::{
        health::evidence::Phase,
        sessions::{
            checkpoints::Checkpoint,
            orders::{CellOrder, Order},
            outcome::OnError,
            returned::{PackedOrder, PackedUnderway, before},
            runs::{Found, Reply},
            status::Status,
        },
    },
    sys::parcel::Parcel,
};

fn packed(cell: &CellOrder, number: u64, counts: bool) -> PackedOrder {
    PackedOrder {
        number,
        code: cell.code.clone(),
        client: cell.client.clone(),
        timeout: cell.timeout,
        asked: cell.asked.elapsed(),
        rolls_back: cell.on_error == OnError::RollBack,
        max_output: cell.max_output,
        counts,
    }
}

fn unpacked(packed: PackedOrder) -> CellOrder {
    CellOrder {
        code: packed.code,
        client: packed.client,
        timeout: packed.timeout,
        cancel: CancellationToken::new(),
        asked: before(packed.asked),
        live: None,
        on_error: if packed.rolls_back { OnError::RollBack } else { OnError::Keep },
        // Its call is answered: none is there that could ask.
        questions: None,
        notebook: None,
        max_output: packed.max_output,
        // Its call is answered, by another program.
        trace: None,
    }
}

fn busy() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

impl Task {
    /// Cells that wait. All orders stay where they are.
    pub(super) fn pack_orders(&mut self) -> io::Result<Vec<PackedOrder>> {
        let (mut orders, mut cells, mut other) = (Vec::new(), Vec::new(), false);
        while let Ok(order) = self.orders.try_recv() {
            let taken = if order.is_own() { Some(order) } else { order.unless_taken_back(&self.id) };
            let Some(order) = taken else {
                self.shared.update(Status::take);
                continue;
            };
            match &order {
                Order::Cell { cell, number, reply: Reply::Kept(..), share } => {
                    cells.push(packed(cell, *number, share.is_some()));
                }
                order if order.is_own() => {}
                // A greeting did not wait for so long.
                Order::Variables { reply, .. } if reply.is_closed() => {}
                _ => other = true,
            }
            orders.push(order);
        }
        // There is room: they come from there, and nothing else has had its turn.
        if let Some(queue) = self.queue.upgrade() {
            orders.into_iter().for_each(|order| drop(queue.try_send(order)));
        }
        if other { Err(busy()) } else { Ok(cells) }
    }

    /// Takes the cell along that runs.
    pub(super) async fn pack_underway(
        &self,
        under: &Underway,
        running: &mut Running,
        used: Option<Duration>,
        parcel: &mut Parcel,
    ) -> io::Result<PackedUnderway> {
        if !under.is_kept {
            return Err(busy());
        }
        let anchor = match &under.anchor {
            Some(anchor) if anchor.is_alive() => Some(anchor.pack(parcel).await.ok_or_else(busy)?),
            _ => None,
        };
        let mut found = under.found.clone();
        found.add(self.place.watcher.since(&under.mark, |_| false));
        let shown = match self.runs.find(under.cell) {
            Found::Here(run) => run.shown(),
            Found::Dropped(_) | Found::Never => return Err(busy()),
        };
        Ok(PackedUnderway {
            order: packed(&under.order, under.cell, false),
            ran: under.since.elapsed(),
            queued: under.queued,
            before: under.before,
            background: under.background.clone(),
            found,
            anchor,
            streams: running.pack().await?,
            used,
            shown,
        })
    }

    /// Goes on with a cell to its end, and puts those behind it into the queue again.
    pub(super) async fn resume(&mut self, packed: Option<PackedUnderway>, waiting: Vec<PackedOrder>) {
        // It is before them among the cells that calls ask for.
        let begun = packed.map(|packed| self.begin_again(packed));
        if let Some(queue) = self.queue.upgrade() {
            for order in waiting {
                let share = order.counts.then(|| self.around.quotas.admit(self.life.owner()).ok().flatten()).flatten();
                let (number, cell) = (order.number, unpacked(order));
                let (_, reply) = self.runs.begin(number, cell.client.clone(), cell.cancel.clone());
                self.shared.update(|status| status.waiting += 1);
                let _ = queue.try_send(Order::Cell { cell, number, reply, share });
            }
        }
        let Some((under, mut running, budget, reply)) = begun else { return };
        let (code, client, cancel) = (under.order.code.clone(), under.order.client.clone(), under.order.cancel.clone());
        let followed = self.follow_on(&under, &mut running, budget).await;
        let done = self.finish(under, running, followed).await;
        self.hand_over(done, (code, client, cancel), reply, None).await;
    }

    fn begin_again(&mut self, packed: PackedUnderway) -> (Underway, Running, Option<CpuBudget>, Reply) {
        let PackedUnderway { order, ran, queued, before: event, background, found, anchor, streams, used, shown } =
            packed;
        let (cell, since, order) = (order.number, before(ran), unpacked(order));
        let (run, reply) = self.runs.begin(cell, order.client.clone(), order.cancel.clone());
        run.show(shown);
        reply.started(since);
        self.shared.update(|status| status.phase = Phase::Busy { cell, since });
        let anchor = anchor.and_then(|packed| {
            // SAFETY: the number of its socket comes from the parcel in which it was packed, and is used here only.
            let anchor = unsafe { Checkpoint::unpack(packed, self.life.incarnation(), &self.around.children) };
            anchor.inspect_err(|error| tracing::warn!(%error, "the state before a cell is lost")).ok()
        });
        let running = Running::unpack(streams, &self.place.outputs);
        let budget = self.worker.as_ref().zip(self.limits.cpu);
        let budget = budget.map(|(worker, limit)| CpuBudget::going_on(worker.pid, limit, used));
        let mark = self.place.watcher.mark();
        let under =
            Underway { cell, order, since, queued, before: event, background, mark, found, anchor, is_kept: true };
        (under, running, budget, reply)
    }
}
