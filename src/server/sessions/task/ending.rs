//! What became of a cell, and of its session after it: one ending, and what the client has to be told.
//!
//! Runs in: server, in the session's task.

use std::{sync::Arc, time::Duration};

use super::{
    follow::{Followed, Verdict, Wish},
    state::Task,
};
use crate::{
    protocol::{CellReport, CellStatus, WorkerExit},
    server::{
        health::RecoveryPolicy,
        output::captured::Method,
        sessions::{
            active::Client,
            checkpoints::Checkpoint,
            death::{Death, DeathReason, Fate, Recovered},
            happened::{What, came_to},
            notice::{NextWorker, Notice},
            outcome::Ending,
        },
    },
};

/// A cell that has ended.
pub(super) struct Concluded {
    pub(super) ending: Ending,
    pub(super) report: Option<CellReport>,
    /// The end of its worker, if that ended.
    pub(super) death: Option<Death>,
}

/// What a reply says of its session.
pub(super) struct Told {
    pub(super) fate: Fate,
    pub(super) recovered: Option<Recovered>,
    pub(super) notices: Vec<Notice>,
    /// All up to this event has been told with it.
    pub(super) up_to: u64,
}

impl Task {
    /// Makes the one ending out of what happened and what was wanted; buries the worker if it is gone.
    pub(super) async fn conclude(&mut self, cell: u64, followed: Followed, timeout: Option<Duration>) -> Concluded {
        let Followed { verdict, wish } = followed;
        let limit = timeout.unwrap_or_default();
        match verdict {
            Verdict::Reported(report) => {
                let ending = self.ending_of(&report, wish, limit);
                Concluded { ending, report: Some(report), death: None }
            }
            Verdict::WorkerEnded => self.died(DeathReason::Itself, cell).await,
            Verdict::Killed(why @ DeathReason::CpuLimit { limit }) => {
                let died = self.died(why, cell).await;
                Concluded { ending: Ending::CpuUsedUp { limit, method: Method::Kill }, ..died }
            }
            Verdict::Killed(DeathReason::Unresponsive) if wish == Wish::Heal => {
                self.died(DeathReason::Hung, cell).await
            }
            Verdict::Killed(DeathReason::Unresponsive) => {
                let died = self.died(DeathReason::Unresponsive, cell).await;
                let method = Method::Kill;
                let ending = match wish {
                    Wish::Cancel | Wish::Yield => Ending::Cancelled { method },
                    Wish::None | Wish::Heal | Wish::TimeOut | Wish::CpuUsedUp => Ending::TimedOut { limit, method },
                };
                Concluded { ending, ..died }
            }
            Verdict::Killed(reason) => self.died(reason, cell).await,
        }
    }

    fn ending_of(&self, report: &CellReport, wish: Wish, limit: Duration) -> Ending {
        // Code may catch an interrupt, or make another exception of it: the cell was ended all the same.
        let method = match report.status {
            CellStatus::Interrupted => Some(Method::Interrupt),
            _ => report.interrupted.then_some(Method::Caught),
        };
        match (method, wish, report.status) {
            (Some(method), Wish::TimeOut, _) => Ending::TimedOut { limit, method },
            (Some(method), Wish::Cancel | Wish::Yield, _) => Ending::Cancelled { method },
            (Some(method), Wish::CpuUsedUp, _) => {
                Ending::CpuUsedUp { limit: self.limits.cpu.unwrap_or_default(), method }
            }
            (Some(_), Wish::Heal, _) | (_, _, CellStatus::Interrupted) => Ending::Interrupted,
            (_, _, CellStatus::Ok) => Ending::Finished,
            (_, _, CellStatus::Error) => Ending::Raised,
            (_, _, CellStatus::Exited(code)) => Ending::Exited(code),
        }
    }

    async fn died(&mut self, reason: DeathReason, cell: u64) -> Concluded {
        let unknown = Death { reason, exit: WorkerExit::Unknown, cell: Some(cell), during: None, report: None };
        let death = self.bury(reason, Some(cell), None).await.unwrap_or(unknown);
        Concluded { ending: Ending::Died(death.clone()), report: None, death: Some(death) }
    }

    /// Brings the session into the state that it is to have after the cell: as before it, or on from a checkpoint. What
    /// came of going back, if that was asked for.
    pub(super) async fn settle_state(
        &mut self,
        cell: u64,
        going_back: Option<Arc<Checkpoint>>,
        death: Option<Death>,
    ) -> Option<Notice> {
        let failed = match going_back {
            Some(anchor) => match self.go_on_from(&anchor, true, std::future::pending()).await {
                Ok(_) => return Some(Notice::RolledBack { cell }),
                Err(error) => Some(Notice::NotRolledBack { reason: error.to_string() }),
            },
            None => None,
        };
        if let Some(death) = death {
            self.mourn(death).await;
        }
        failed
    }

    /// What this client has to be told with the reply to a cell that began after event number `before`.
    pub(super) fn tell(&self, client: &Client, before: u64, rollback: Option<Notice>) -> Told {
        let news = self.life.news(client);
        let (fate, recovered) = came_to(&news.events);
        let rolled_back = matches!(rollback, Some(Notice::RolledBack { .. }));
        let next = self.what_next();
        // A loss by this very cell is said now, and once more with the first cell of the new worker: the client that runs that
        // one may have asked before this reply was there.
        let lost = news.events.iter().find(|event| event.number > before && matches!(event.what, What::Lost { .. }));
        let up_to = lost.map_or(news.up_to, |event| event.number - 1);
        let mut notices: Vec<Notice> = news
            .events
            .into_iter()
            .map(|event| match event.number > before {
                true => Notice::Meanwhile { event, next },
                false => Notice::Before(event),
            })
            .collect();
        if !news.doubtful.is_empty() {
            notices.insert(0, Notice::Perhaps(news.doubtful));
        }
        notices.extend(rollback);
        Told { fate: if rolled_back { fate.or_worse(Fate::RolledBack) } else { fate }, recovered, notices, up_to }
    }

    /// How the session gets its next worker, where it has none.
    fn what_next(&self) -> NextWorker {
        match self.shared.record(|record| record.policy.recovery) {
            RecoveryPolicy::Manual => NextWorker::OnOrder,
            RecoveryPolicy::OnDemand => NextWorker::WithTheNextCell,
            RecoveryPolicy::Auto => NextWorker::Soon,
        }
    }
}
