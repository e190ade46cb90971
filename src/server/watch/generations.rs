//! `--preload auto`: when sessions are at rest, a zygote that has imported what they import takes the place of the one before.
//!
//! Runs in: server, one task; nothing runs while there is nothing to do. What is worth it is `workers/imports.rs`; how a zygote
//! follows another is `workers/zygote`. Sessions that have run nothing yet get a worker of the new one; others keep theirs.

use std::{sync::Arc, time::Duration};

use crate::server::{
    health::evidence::Phase,
    sessions::{context::Surroundings, registry::Registry},
    workers::{
        control::PingOutcome,
        imports::{Auto, Imports},
        link::Worker,
        zygote::{Renewed, Stage},
    },
};

/// At the start sessions must be at rest for so long: the first call of a client may be on its way.
const REST_AT_FIRST: Duration = Duration::from_millis(300);
/// Later on.
const REST: Duration = Duration::from_secs(3);
/// Between two looks whether they are.
const LOOK: Duration = Duration::from_millis(100);
/// How long a worker of a new generation may take to answer.
const PROOF: Duration = Duration::from_secs(10);
/// What was seen is written down after a moment: more of it may come.
const SETTLE: Duration = Duration::from_millis(200);

/// Runs until the task is dropped.
pub(crate) async fn watch(around: Arc<Surroundings>, registry: Arc<Registry>) {
    if around.imports.auto() != Auto::On {
        return;
    }
    let (mut rest, mut given_up) = (REST_AT_FIRST, false);
    loop {
        around.imports.changed().await;
        tokio::time::sleep(SETTLE).await;
        save(&around.imports).await;
        around.zygote.settled().await;
        if !given_up && is_wanted(&around) {
            at_rest(&registry, rest).await;
            given_up = !renew(&around, &registry).await;
            save(&around.imports).await;
        }
        rest = REST;
    }
}

async fn save(imports: &Imports) {
    if !imports.has_unsaved() {
        return;
    }
    let imports = imports.clone();
    let _ = tokio::task::spawn_blocking(move || imports.save()).await;
}

/// Whether sessions import something that the zygote has not.
fn is_wanted(around: &Surroundings) -> bool {
    let Stage::Warm { modules, .. } = around.zygote.stage() else { return false };
    around.imports.wanted().iter().any(|module| !modules.contains(module))
}

/// Waits until no session is at work and none was used a moment ago.
async fn at_rest(registry: &Registry, rest: Duration) {
    loop {
        let is_busy = registry.all_and_branches().iter().any(|session| {
            let status = session.shared.get();
            let idle = status.waiting == 0 && matches!(status.phase, Phase::Idle | Phase::Asleep | Phase::Dead);
            !idle || status.used_at.elapsed() < rest
        });
        if !is_busy {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes the next generation; false when that is not to be tried again.
async fn renew(around: &Surroundings, registry: &Registry) -> bool {
    // What the one before has is wanted still.
    let Stage::Warm { mut modules, .. } = around.zygote.stage() else { return true };
    let wanted = around.imports.wanted();
    modules.retain(|module| !wanted.contains(module));
    let wanted = [wanted, modules].concat();
    tracing::info!(
        modules = wanted.join(", "),
        "preload auto: sessions import these; a zygote is being made that has them"
    );
    let Renewed { modules, left_out } = match around.zygote.renew(wanted).await {
        Ok(renewed) => renewed,
        Err(error) => {
            tracing::warn!(%error, "preload auto: given up; sessions import their modules themselves");
            return false;
        }
    };
    around.imports.leave_out(&left_out);
    for (module, reason) in &left_out {
        tracing::info!(module, reason, "preload auto: left out, sessions import it themselves");
    }
    if modules.is_empty() {
        return true;
    }
    if let Err(reason) = prove(around).await {
        tracing::warn!(reason, "preload auto: the new zygote is of no use; going back to one as at the start");
        around.zygote.go_back();
        let refused = |module: &String| (module.clone(), "no worker of a zygote that had it answered".to_owned());
        around.imports.leave_out(&modules.iter().map(refused).collect::<Vec<_>>());
        return false;
    }
    around.spares.renew();
    registry.all().iter().for_each(|session| session.freshen());
    around.imports.add(modules.clone());
    tracing::info!(modules = modules.join(", "), "preload auto: new sessions have these modules");
    true
}

/// A worker of the new generation answers.
async fn prove(around: &Surroundings) -> Result<(), String> {
    let limits = around.settings.limits.kept_by_kernel();
    let worker =
        Worker::start(&around.zygote, "", limits, around.places.common()).await.map_err(|error| error.to_string())?;
    let answer = worker.control.ping(PROOF).await;
    worker.retire(around.zygote.endings());
    match answer {
        PingOutcome::Pong { value: 2, .. } => Ok(()),
        other => Err(format!("a worker of it did not answer a ping ({other:?})")),
    }
}
