//! What sessions cost that nobody uses: `cargo bench --bench idle`. Drives the release binary; prints one table.
//!
//! | row | is |
//! |---|---|
//! | CPU | user and system time of the server, the zygote and all workers over the window, from `/proc/PID/stat`, as a share of one core |
//! | memory | proportional set size of all of them, in all and for each session beyond the first |
//!
//! Sessions have run one cell each and are then left alone; the window begins some seconds later. `FORKPY_BENCH_IDLE` sets
//! the numbers of sessions (`0,500,1000`), `FORKPY_BENCH_WINDOW` the seconds (30).

mod client;

use std::{path::Path, time::Duration};

use client::{Client, family, memory, say};
use serde_json::json;

/// What ends with the making of sessions has ended by then.
const SETTLE: Duration = Duration::from_secs(3);
/// `/proc/PID/stat` counts in hundredths of a second, on every Linux there is.
const TICKS: f64 = 100.0;

fn main() {
    let numbers = std::env::var("FORKPY_BENCH_IDLE").unwrap_or_else(|_| "0,500,1000".to_owned());
    let window = std::env::var("FORKPY_BENCH_WINDOW").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let workspace = tempfile::tempdir().expect("a directory");
    say(&format!(
        "{:<10} {:>12} {:>12} {:>12} {:>12} {:>14}",
        "sessions", "server %", "zygote %", "workers %", "PSS MiB", "KiB a session"
    ));
    let mut bare = None;
    for number in numbers.split(',').map(|text| text.trim().parse().expect("numbers")) {
        measure(workspace.path(), number, Duration::from_secs(window), &mut bare);
    }
}

fn measure(workspace: &Path, number: u64, window: Duration, bare: &mut Option<u64>) {
    let mut client = Client::start(workspace, 2000);
    client.run("1+1", "default");
    for name in (0..number).map(|number| format!("s{number}")) {
        client.call("create_session", &json!({"session_id": name}));
        client.run("1+1", &name);
    }
    std::thread::sleep(SETTLE);
    let server = client.process.id();
    let before = Spent::of(server);
    std::thread::sleep(window);
    let after = Spent::of(server);
    let (pss, _) = memory(server);
    #[expect(clippy::cast_precision_loss, reason = "ticks of some seconds")]
    let share = |after: u64, before: u64| (after - before) as f64 / TICKS / window.as_secs_f64() * 100.0;
    let each = bare.map_or(0, |bare| pss.saturating_sub(bare) / number.max(1));
    if number == 0 {
        *bare = Some(pss);
    }
    say(&format!(
        "{number:<10} {:>12.2} {:>12.2} {:>12.2} {:>12} {each:>14}",
        share(after.server, before.server),
        share(after.zygote, before.zygote),
        share(after.workers, before.workers),
        pss / 1024,
    ));
    client.stop();
}

/// Processor time so far, ticks.
struct Spent {
    server: u64,
    zygote: u64,
    workers: u64,
}

impl Spent {
    fn of(server: u32) -> Self {
        let mut spent = Self { server: 0, zygote: 0, workers: 0 };
        for pid in family(server) {
            let Some((name, ticks)) = ticks(pid) else { continue };
            match name.as_str() {
                _ if pid == server => spent.server += ticks,
                "forkpy:zygote" => spent.zygote += ticks,
                _ => spent.workers += ticks,
            }
        }
        spent
    }
}

/// Name, and user and system time: the 14th and 15th field.
fn ticks(pid: u32) -> Option<(String, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (front, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((front.split_once('(')?.1.to_owned(), user + system))
}
