//! The words for what a session has to tell its clients.
//!
//! Runs in: server. Pure: facts in (`sessions/life.rs`, `sessions/notice.rs`), sentences out, and nowhere else.

use std::time::Duration;

use crate::server::sessions::{
    happened::{Arrival, Event, Gone, KeptByValue, What, Without},
    life::News,
    notice::{NextWorker, Notice},
    outcome::{Death, Fate, Recovered},
};

/// Events that are told one by one; of more, the newest.
const TOLD: usize = 6;
/// Variables that are told by name.
const NAMED: usize = 40;

/// All notices of a cell's reply as one text. `ran` is false for a cell that was not run.
#[must_use]
pub(crate) fn words(session: &str, notices: &[Notice], ran: bool) -> Option<String> {
    let before = notices.iter().filter(|notice| matches!(notice, Notice::Before(_))).count();
    let left_out = before.saturating_sub(TOLD);
    let mut texts = Vec::new();
    if left_out > 0 {
        texts.push(format!("Session {session:?}: {left_out} earlier events are left out here."));
    }
    let mut skip = left_out;
    for notice in notices {
        if skip > 0 && matches!(notice, Notice::Before(_)) {
            skip -= 1;
            continue;
        }
        texts.push(one(session, notice, ran));
    }
    (!texts.is_empty()).then(|| texts.join(" "))
}

/// What a client has not been told yet, for a reply to something else than a cell.
#[must_use]
pub(crate) fn news(session: &str, news: News) -> Option<String> {
    let News { events, doubtful, .. } = news;
    let perhaps = (!doubtful.is_empty()).then_some(Notice::Perhaps(doubtful));
    let notices: Vec<Notice> = perhaps.into_iter().chain(events.into_iter().map(Notice::Before)).collect();
    words(session, &notices, false)
}

fn one(session: &str, notice: &Notice, ran: bool) -> String {
    match notice {
        Notice::Before(event) => before(session, &event.what, ran),
        Notice::Perhaps(events) => perhaps(session, events),
        Notice::Meanwhile { event, next } => meanwhile(session, &event.what, *next),
        Notice::RolledBack { cell } => format!(
            "Session {session:?} is as before cell {cell} (on_error: \"rollback\"); files and the outside world are not \
             rolled back."
        ),
        Notice::NotRolledBack { reason } => format!("It could not be rolled back: {reason}."),
        Notice::MadeWay => format!("Session {session:?}: restart_kernel was called while this cell ran."),
        Notice::Healed { detail } => {
            format!("Session {session:?}: the supervisor found it hung (recovery policy \"auto\"): {detail}.")
        }
        Notice::OfTheCell(words) => words.clone(),
    }
}

fn perhaps(session: &str, events: &[Event]) -> String {
    let skipped = events.len().saturating_sub(TOLD);
    let told: Vec<String> = events[skipped..].iter().map(|event| before(session, &event.what, false)).collect();
    format!(
        "Perhaps you know this already (a client that sends no cookie cannot be told from others, so it is said again): {} \
         End of what you may know.",
        told.join(" ")
    )
}

fn before(session: &str, what: &What, ran: bool) -> String {
    let empty = if ran { "; this cell ran in a new worker with an empty namespace" } else { "" };
    match what {
        What::Lost { death, .. } => {
            let how = death.describe();
            format!("Session {session:?}: the previous worker {how}, so its variables were lost{empty}.")
        }
        What::MadeAnew { ended } => format!(
            "Session {session:?} {} and was made anew since you used it, so its earlier variables are lost.",
            ended.cleaned_up()
        ),
        What::Restarted { carried: None, .. } => {
            format!("Session {session:?}: restart_kernel was called, so its earlier variables are lost.")
        }
        What::Restarted { carried: Some(missing), .. } => {
            let missing = match missing {
                0 => "all variables were carried over".to_owned(),
                1 => "one variable could not be carried over".to_owned(),
                count => format!("{count} variables could not be carried over"),
            };
            format!("Session {session:?}: another client called restart_kernel with preserve_state; {missing}.")
        }
        _ => meanwhile(session, what, NextWorker::WithTheNextCell),
    }
}

fn meanwhile(session: &str, what: &What, next: NextWorker) -> String {
    match what {
        What::Lost { death, .. } => {
            format!("Session {session:?}: its worker {}; its variables are lost. {}", death.describe(), comes(next))
        }
        What::Restored { death, recovered, .. } => restored(session, death, recovered),
        What::WentBack { checkpoint, recovered, .. } => format!(
            "Session {session:?}: another client took it back to checkpoint {checkpoint:?}; {}.",
            recovered.describe()
        ),
        What::BranchKept => {
            format!(
                "Session {session:?}: another client kept a branch of run_branches, and the session goes on as that."
            )
        }
        What::CopyLacks { lacks } => {
            format!("The copy that it went on from does not hold everything: {}.", lacks.join("; "))
        }
        What::Uncopied { why, by_value: Some(kept) } => format!(
            "Session {session:?}: it cannot be copied as it is ({why}), so forkpy keeps its variables by value: {}; a \
             crash would cost all else{}.",
            list(kept.names.iter()),
            missing(", and", &kept.left_out)
        ),
        What::BroughtBack { by_value } => brought_back(by_value),
        What::SleptByValue { by_value } => slept_by_value(session, by_value),
        What::Uncopied { why, by_value: None } => format!(
            "Session {session:?}: forkpy keeps no copy of what it has now ({why}), so that a crash would cost its \
             variables; save_session writes them to a file."
        ),
        What::ServerDrains { limit, is_put_away } => drains(session, *limit, *is_put_away),
        What::Slept { since, cell, lost, without } => slept(session, *since, *cell, (*lost, without)),
        What::TakenUp(arrival) => taken_up(session, arrival),
        What::OtherPackages { names } => format!(
            "Packages of the environment have changed since it fell asleep: {}. Modules that it had imported are as they were \
             then; those that it imports from now on are as they are installed.",
            list(names.iter())
        ),
        What::CheckpointGone { checkpoint, cell, why } => gone(checkpoint, *cell, *why),
        What::Forgotten { count, fate } => {
            let came_to = match fate {
                Fate::Lost => "its variables were lost in the course of it",
                Fate::Restored | Fate::RolledBack => "it went on from checkpoints",
                Fate::Kept => "its variables are there",
            };
            format!(
                "Session {session:?}: {count} events since you last used it are not remembered one by one; {came_to}."
            )
        }
        What::MadeAnew { .. } | What::Restarted { .. } => before(session, what, false),
    }
}

fn drains(session: &str, limit: Option<Duration>, is_put_away: bool) -> String {
    let when = match limit {
        Some(limit) => {
            format!(", and ends {:.0} s after that began. The session goes on until then", limit.as_secs_f64())
        }
        None if is_put_away => ". The session goes on until it ends".to_owned(),
        None => ", so it will be ended some time. The session goes on until then".to_owned(),
    };
    let then = match is_put_away {
        true => ", and is put away into the store: the server that is asked for it next has it.",
        false => "; save_session writes its variables to a file.",
    };
    format!("Session {session:?}: its server drains{when}{then}")
}

/// Names in a sentence's middle.
fn list<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named: Vec<&str> = names.take(NAMED).map(String::as_str).collect();
    match (named.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => named.join(", "),
        (false, more) => format!("{} and {more} more", named.join(", ")),
    }
}

fn missing(begin: &str, left_out: &[(String, String)]) -> String {
    if left_out.is_empty() {
        return String::new();
    }
    let named: Vec<String> = left_out.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    format!("{begin} {}", list(named.iter()))
}

fn restored(session: &str, death: &Death, recovered: &Recovered) -> String {
    format!("Session {session:?}: its worker {}; {}.", death.describe(), recovered.describe())
}

fn slept(session: &str, since: jiff::Timestamp, cell: u64, (lost, without): (Option<(u64, u64)>, &Without)) -> String {
    let mut text = format!("Session {session:?} comes from the server before this one, as it was after cell {cell} ");
    text.push_str(&format!("(written to disk at {}).", since.strftime("%Y-%m-%d %H:%M:%S UTC")));
    match lost {
        Some((first, last)) if first == last => {
            text.push_str(&format!(" Cell {first} ran after that: what it did to the variables is lost."));
        }
        Some((first, last)) => {
            text.push_str(&format!(" Cells {first} to {last} ran after that: what they did to the variables is lost."));
        }
        None => {}
    }
    match &without.by_value {
        Some(kept) => text.push_str(&format!(
            " It does not come back as a whole. It has, by value, {}{}; threads and open connections are gone.",
            list(kept.names.iter()),
            missing("; not there are", &kept.left_out)
        )),
        None if lost.is_none() => text.push_str(" All its variables are there."),
        None => {}
    }
    if let Some(name) = &without.name {
        text.push_str(&format!(" It was called {name:?}, which is another session's name now."));
    }
    if !without.checkpoints.is_empty() {
        text.push_str(&format!(" Its checkpoints ended with that server: {}.", list(without.checkpoints.iter())));
    }
    text.push_str(" Replies and history from before are not kept.");
    text
}

fn taken_up(session: &str, arrival: &Arrival) -> String {
    let Arrival { from, at, cell, ended, without, why } = arrival;
    let mut text = format!(
        "Session {session:?} comes out of the store, where server {from:?} put it away at {at} after cell {cell}."
    );
    if let Some(ended) = ended {
        text.push_str(&format!(
            " Server {ended:?} has had it since, and has ended without putting it away: what cells did there is lost."
        ));
    }
    match &without.by_value {
        Some(kept) => {
            text.push_str(&format!(
                " It does not come as a whole{}. It has, by value, {}{}; threads and open connections are gone.",
                why.as_ref().map_or_else(String::new, |why| format!(" ({why})")),
                list(kept.names.iter()),
                missing("; not there are", &kept.left_out)
            ));
        }
        None if ended.is_none() => text.push_str(" All its variables are there."),
        None => {}
    }
    if !without.checkpoints.is_empty() {
        text.push_str(&format!(" Its checkpoints ended there: {}.", list(without.checkpoints.iter())));
    }
    text.push_str(" Replies and history from before are not kept.");
    text
}

fn brought_back(kept: &KeptByValue) -> String {
    format!(
        "A new worker has, by value, {}{}. Threads and open connections of the one before are gone.",
        list(kept.names.iter()),
        missing("; not there are", &kept.left_out)
    )
}

fn slept_by_value(session: &str, kept: &KeptByValue) -> String {
    format!(
        "Session {session:?} was put to sleep with its variables alone, as was asked for. A new worker has, by value, {}{}. \
         Threads and open connections are gone.",
        list(kept.names.iter()),
        missing("; not there are", &kept.left_out)
    )
}

fn gone(checkpoint: &str, cell: u64, why: Gone) -> String {
    let why = match why {
        Gone::Died => return format!("Checkpoint {checkpoint:?} (after cell {cell}) is lost: its process ended."),
        Gone::LeftBehind => "it did not answer when the server was restarted in place",
        Gone::TooMany => "there are too many checkpoints (--max-checkpoints-total)",
        Gone::Memory => "checkpoints held more memory than --checkpoint-memory allows",
        Gone::SessionMemory => "the session's checkpoints held more than half of the memory of --checkpoint-memory",
    };
    format!("Checkpoint {checkpoint:?} (after cell {cell}) was dropped: {why}.")
}

fn comes(next: NextWorker) -> &'static str {
    match next {
        NextWorker::OnOrder => "restart_kernel brings a new worker; until then cells are refused.",
        NextWorker::WithTheNextCell => "The next cell gets a new worker.",
        NextWorker::Soon => "A new worker is being made.",
    }
}
