//! Puts sessions to sleep that no client has used for some time, or has images of them written, where that is wished. Ends
//! sessions that no client has used for long, or that are too old, where such limits are set; and those of HTTP clients that are
//! away for too long to come back.
//!
//! Runs in: server, one task. A session that runs a cell, has calls waiting or is starting is never touched: looking at it
//! and taking it out of the table are one step without an await, and the server has one thread, so a call either is
//! there before and keeps the session, or comes after and is told what became of it.
//!
//! `default` cannot be deleted: its worker is ended instead, and the next cell is told that the variables are gone. That
//! order takes its place in the session's queue like a call, and is dropped when calls came with it.

use std::{sync::Arc, time::Duration};

use crate::{
    server::{
        counters,
        health::evidence::Phase,
        sessions::{handle::Session, names::DEFAULT, outcome::DeathReason, registry::Registry, status::Status},
    },
    settings::limits::Limits,
};

/// Between two looks: a hundredth of the shortest time that is set, within these.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Runs until the task is dropped.
pub(crate) async fn watch(registry: Arc<Registry>, sleep: Option<Duration>, image: Option<Duration>) {
    loop {
        registry.end_the_absent();
        let all = registry.all();
        let times = all.iter().flat_map(|session| [session.limits.idle, session.limits.age]).flatten();
        let times = times.chain([registry.away()]).chain(sleep).chain(image);
        let pause = times.min().map_or(LONGEST, |time| (time / 100).clamp(SHORTEST, LONGEST));
        for session in all {
            let status = session.shared.get();
            let works = session.runs.has_work();
            if let Some(why) = due(&session.limits, &status).filter(|_| !works) {
                clean_up(&registry, &session, why);
            } else if !works && is_tired(sleep, &status) {
                let _ = session.fall_asleep();
            } else if !works && is_to_be_written(image, &status) {
                session.write_image();
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Why this session is to be cleaned up now, if it is.
fn due(limits: &Limits, status: &Status) -> Option<DeathReason> {
    if status.waiting > 0 || !matches!(status.phase, Phase::Idle | Phase::Asleep | Phase::Dead) {
        return None;
    }
    if let Some(limit) = limits.idle
        && status.used_at.elapsed() >= limit
    {
        return Some(DeathReason::Idle { limit });
    }
    let limit = limits.age?;
    (status.created_at.elapsed() >= limit).then_some(DeathReason::Age { limit })
}

/// Whether this session is to be put to sleep now.
fn is_tired(after: Option<Duration>, status: &Status) -> bool {
    let rests = status.waiting == 0 && status.phase == Phase::Idle && status.stays_awake.is_none();
    rests && status.worker.is_some() && after.is_some_and(|after| status.used_at.elapsed() >= after)
}

/// Whether an image of this session is to be written now: once for each time that it comes to rest.
fn is_to_be_written(after: Option<Duration>, status: &Status) -> bool {
    let rests = status.waiting == 0 && status.phase == Phase::Idle && status.worker.is_some();
    let is_new = status.taken > 0 && status.imaged != Some(status.taken);
    rests && is_new && after.is_some_and(|after| status.used_at.elapsed() >= after)
}

fn clean_up(registry: &Registry, session: &Session, why: DeathReason) {
    if *session.id == *DEFAULT {
        let status = session.shared.get();
        // What is old about it is its worker, or what that has left asleep.
        let born = status.worker.map(|worker| worker.born).or(status.up_since.filter(|_| status.asleep.is_some()));
        let Some(born) = born else { return };
        let young = matches!(why, DeathReason::Age { limit } if born.elapsed() < limit);
        if !young && session.rest(why) {
            tracing::info!(session = %session.id, "{}", why.cleaned_up());
            counters::session_cleaned(why.word());
        }
        return;
    }
    if registry.forget(session, why) {
        tracing::info!(session = %session.id, "{}", why.cleaned_up());
        counters::session_cleaned(why.word());
        let session = session.clone();
        tokio::spawn(async move { session.end(why).await });
    }
}
