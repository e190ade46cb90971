//! A question of the running cell: who answers it, how long it waits, and what becomes of those who wait behind it.
//!
//! Runs in: server, in the session's task. A cell that waits for a person may wait long; a call that would queue behind it
//! is told so instead, as soon as it is plain that no program answers.

use std::time::Duration;

use tokio::{sync::oneshot, time::Instant};

use crate::{
    protocol::Answer,
    server::{
        counters,
        health::evidence::Phase,
        sessions::{
            death::Fate,
            orders::{CellOrder, Order, Question, SessionError},
            outcome::{CellOutcome, refusal},
            status::{Shared, Status},
        },
    },
};

/// A client that answers by itself does it within this time; those behind are not sent away for that.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest prompt in a sentence, characters.
const MAX_PROMPT: usize = 100;

/// What a worker said of its question.
pub(super) struct Asked {
    pub cell: u64,
    pub question: u64,
    pub prompt: String,
}

/// The question that waits for its answer.
pub(super) struct Pending {
    question: u64,
    receiver: oneshot::Receiver<Answer>,
    cell: u64,
    prompt: String,
    since: Instant,
    limit: Option<Duration>,
    /// Those who wait behind it have been told, and who comes now is told at once.
    pub turns_away: bool,
}

impl Pending {
    /// Hands a question to the task that answers for this cell's client; without `output` to none: a cell that is to end gets no
    /// answer but that.
    pub(crate) fn pose(asked: Asked, order: &CellOrder, output: Option<String>, limit: Option<Duration>) -> Self {
        let Asked { cell, question, prompt } = asked;
        let (answer, receiver) = oneshot::channel();
        if let (Some(output), Some(questions)) = (output, &order.questions) {
            let _ = questions.send(Question { cell, prompt: prompt.clone(), output, answer });
        }
        Self { question, receiver, cell, prompt, since: Instant::now(), limit, turns_away: false }
    }

    /// When those behind are to be told, if they have not been.
    pub(crate) fn tell_at(pending: Option<&Self>) -> Option<Instant> {
        pending.filter(|pending| !pending.turns_away).map(|pending| pending.since + PATIENCE)
    }

    /// Why an order is not carried out.
    fn words(&self, session: &str) -> String {
        let prompt = self.prompt.trim();
        let prompt: String = prompt.chars().take(MAX_PROMPT).collect();
        let asks = if prompt.is_empty() { String::new() } else { format!(" ({prompt:?})") };
        let ends = match self.limit {
            Some(limit) => {
                let left = (self.since + limit).saturating_duration_since(Instant::now());
                format!("in {} s it ends by itself (--input-timeout)", left.as_secs().max(1))
            }
            None => "it waits for ever (--input-timeout 0)".to_owned(),
        };
        format!(
            "session {session:?} waits for input: cell {} has asked its client's user a question{asks} and is not answered \
             yet. Nothing was run. Have it answered, cancel that call, use another session, or try again later: {ends}",
            self.cell
        )
    }

    /// Answers an order that would wait behind the question.
    pub(crate) fn turn_away(&self, order: Order, session: &str, shared: &Shared) {
        turn_away(order, self.words(session), Fate::Kept, shared);
    }
}

/// The answer, or that none came in time.
pub(super) async fn answer_to(pending: &mut Option<Pending>) -> (u64, Answer) {
    let Some(Pending { question, receiver, since, limit, .. }) = pending else { return std::future::pending().await };
    let gone = |_| Answer::Failed("the client cannot be asked any more".to_owned());
    let answer = match limit {
        None => receiver.await.unwrap_or_else(gone),
        Some(limit) => match tokio::time::timeout_at(*since + *limit, receiver).await {
            Ok(answer) => answer.unwrap_or_else(gone),
            Err(_) => Answer::Failed(format!(
                "no answer came within {} s (--input-timeout). Go on without the value, or put it into the code",
                limit.as_secs_f64()
            )),
        },
    };
    (*question, answer)
}

/// The phase of a cell that waits for input, or does so no more.
pub(super) fn waiting(phase: Phase, waits: bool) -> Phase {
    match phase.cell() {
        Some((cell, since)) if waits => Phase::WaitingInput { cell, since },
        Some((cell, since)) => Phase::Busy { cell, since },
        None => phase,
    }
}

/// Answers an order that is not carried out; `fate` is what becomes of the variables meanwhile.
pub(super) fn turn_away(order: Order, words: String, fate: Fate, shared: &Shared) {
    if order.is_own() {
        return;
    }
    shared.update(Status::take);
    let error = || SessionError::NotRun { words: words.clone() };
    match order {
        Order::Cell { cell, reply, .. } => {
            let outcome = CellOutcome { fate, ..refusal(words, cell.asked.elapsed()) };
            counters::cell_ended(outcome.measured());
            reply.refuse(outcome);
        }
        Order::Variables { reply, .. } => drop(reply.send(Err(error()))),
        Order::Checkpoint { reply, .. } => drop(reply.send(Err(error()))),
        Order::State { reply, .. } => drop(reply.send(Err(error()))),
        Order::Restore { reply, .. } => drop(reply.send(Err(error()))),
        Order::Hold(hold) => drop(hold.held.send(Err(error()))),
        Order::FallAsleep { asked: Some((_, reply)), .. } => drop(reply.send(Err(error()))),
        Order::Rest { .. }
        | Order::Freshen
        | Order::KeepByValue { .. }
        | Order::FallAsleep { asked: None, .. }
        | Order::WriteImage
        | Order::Depart(_) => {}
    }
}
