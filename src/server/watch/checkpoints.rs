//! Watches how checkpoints grow: what a session changes, its checkpoints hold alone from then on.
//!
//! Runs in: server, one task; the kernel's figures are read on a blocking thread.

use std::time::{Duration, Instant};

use crate::{
    server::{counters, sessions::checkpoints::Checkpoints},
    sys::processes,
};

const PAUSE: Duration = Duration::from_secs(2);
/// A look that took long is followed by a pause so many times as long.
const SHARE: u32 = 50;

/// Part of the memory that is to be available, in hundredths; the container's, where it has a limit.
const AVAILABLE: u64 = 6;

fn is_short_of_memory() -> bool {
    let ram = sysinfo::RefreshKind::nothing().with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = sysinfo::System::new_with_specifics(ram) else { return false };
    let short = |free: u64, all: u64| all > 0 && free < all / 100 * AVAILABLE;
    short(system.available_memory(), system.total_memory())
        || system.cgroup_limits().is_some_and(|limits| short(limits.free_memory, limits.total_memory))
}

/// Runs until the task is dropped.
pub(crate) async fn watch(checkpoints: Checkpoints) {
    loop {
        let began = Instant::now();
        let held = checkpoints.all();
        let count = held.len();
        if count > 0 {
            let _ = tokio::task::spawn_blocking(move || {
                for checkpoint in held {
                    if let Some(memory) = processes::private_memory(checkpoint.pid) {
                        checkpoint.note_memory(memory);
                    }
                }
            })
            .await;
            checkpoints.relieve();
            if is_short_of_memory() {
                checkpoints.drop_automatic();
            }
        }
        counters::checkpoints(count, checkpoints.memory());
        tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}
