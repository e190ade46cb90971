//! What is counted and timed for operators, and under which names: the one list of them.
//!
//! Runs in: server. The rest of the server calls the functions here, each of which costs some tens of nanoseconds;
//! `exposition.rs` writes it all out when asked. Names follow Prometheus' conventions: a prefix, base units, `_total` for
//! counters (added when written). No label has a session's name or anything else that clients choose: the number of
//! series is fixed by this file.

use std::{
    fmt,
    sync::{LazyLock, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

/// One label and its value; every value is a word of ours.
type Label = [(&'static str, &'static str); 1];
type Counters = Family<Label, Counter>;
type Gauges = Family<Label, Gauge>;

/// Time a cell runs or waits: from a tenth of a millisecond, which is what a warm `1+1` takes, to half an hour.
const CELL_SECONDS: [f64; 18] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0];
/// Time a worker takes to say hello, and a ping to come back.
const SHORT_SECONDS: [f64; 13] = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0];

static METERS: LazyLock<Meters> = LazyLock::new(Meters::default);

struct Meters {
    cells: Counters,
    cell_seconds: Histogram,
    queue_seconds: Histogram,
    worker_start_seconds: Histogram,
    worker_failures: Counter,
    deaths: Counters,
    forks: Counter,
    fork_failures: Counter,
    zygote_starts: Counter,
    recoveries: Family<[(&'static str, &'static str); 3], Counter>,
    alerts: Counters,
    pings: Histogram,
    cleaned: Counters,
    limits: Counters,
    sessions: Gauges,
    waiting: Gauge,
    memory: Gauges,
    zygote_up: Gauge,
    spares: Counters,
    checkpoints: Gauge,
    checkpoint_bytes: Gauge,
    checkpoint_seconds: Histogram,
    process: ProcessMeters,
}

/// The server process itself, under the names that every Prometheus client library uses.
struct ProcessMeters {
    resident: Gauge,
    virtual_memory: Gauge,
    open_files: Gauge,
    max_files: Gauge,
    cpu: Counter<f64, AtomicU64>,
    started: Gauge<f64, AtomicU64>,
    uptime: Gauge<f64, AtomicU64>,
}

/// Has what is measured, not what is looked up on request.
impl Default for Meters {
    fn default() -> Self {
        let short = || Histogram::new(SHORT_SECONDS);
        Self {
            cells: Family::default(),
            cell_seconds: Histogram::new(CELL_SECONDS),
            queue_seconds: Histogram::new(CELL_SECONDS),
            worker_start_seconds: short(),
            worker_failures: Counter::default(),
            deaths: Family::default(),
            forks: Counter::default(),
            fork_failures: Counter::default(),
            zygote_starts: Counter::default(),
            recoveries: Family::default(),
            alerts: Family::default(),
            pings: short(),
            cleaned: Family::default(),
            limits: Family::default(),
            sessions: Family::default(),
            waiting: Gauge::default(),
            memory: Family::default(),
            zygote_up: Gauge::default(),
            spares: Family::default(),
            checkpoints: Gauge::default(),
            checkpoint_bytes: Gauge::default(),
            checkpoint_seconds: short(),
            process: ProcessMeters::new(),
        }
    }
}

impl ProcessMeters {
    fn new() -> Self {
        let started = Gauge::<f64, AtomicU64>::default();
        started.set(Timestamp::now().as_duration().as_secs_f64());
        Self {
            resident: Gauge::default(),
            virtual_memory: Gauge::default(),
            open_files: Gauge::default(),
            max_files: Gauge::default(),
            cpu: Counter::default(),
            started,
            uptime: Gauge::default(),
        }
    }
}

/// The clock of `process_start_time_seconds` begins here, and every outcome is listed from the start, at nought: a rate
/// needs a series to rise.
pub(crate) fn begin() {
    let meters = &*METERS;
    for status in ["ok", "error", "exited", "interrupted", "timeout", "cancelled", "died", "refused"] {
        let _ = meters.cells.get_or_create(&[("status", status)]);
    }
}

/// What telemetry wants of an outcome; taken before the outcome goes to its client.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The word for how.
    pub status: &'static str,
    /// Time it waited for its turn.
    pub queued: Duration,
    pub ran: Duration,
}

/// A cell got its outcome.
pub(crate) fn cell_ended(ended: Ended) {
    METERS.cells.get_or_create(&[("status", ended.status)]).inc();
    METERS.queue_seconds.observe(ended.queued.as_secs_f64());
    if !ended.ran.is_zero() {
        METERS.cell_seconds.observe(ended.ran.as_secs_f64());
    }
}

/// A session got a worker, so long after it asked for one.
pub(crate) fn worker_started(after: Duration) {
    METERS.worker_start_seconds.observe(after.as_secs_f64());
}

/// A session asked for a worker, and one was ready or not.
pub(crate) fn spare_taken(ready: bool) {
    METERS.spares.get_or_create(&[("ready", if ready { "true" } else { "false" })]).inc();
}

/// A session asked for a worker and got none.
pub(crate) fn worker_failed() {
    METERS.worker_failures.inc();
}

/// A session's worker is gone.
pub(crate) fn worker_died(reason: &'static str) {
    METERS.deaths.get_or_create(&[("reason", reason)]).inc();
}

/// The zygote forked, or said why not.
pub(crate) fn forked(done: bool) {
    if done { &METERS.forks } else { &METERS.fork_failures }.inc();
}

/// A zygote is warm: the first, or one after another that died.
pub(crate) fn zygote_started() {
    METERS.zygote_starts.inc();
}

/// A step of recovery was taken on a sick session. `verified`: a ping and an evaluation showed that it helped.
pub(crate) fn recovered(policy: &'static str, step: &'static str, verified: bool) {
    let verified = if verified { "true" } else { "false" };
    METERS.recoveries.get_or_create(&[("policy", policy), ("step", step), ("verified", verified)]).inc();
}

/// An alert was raised: what kind of threshold was crossed.
pub(crate) fn alert_raised(kind: &'static str) {
    METERS.alerts.get_or_create(&[("kind", kind)]).inc();
}

/// An interpreter answered a ping.
pub(crate) fn ping(latency: Duration) {
    METERS.pings.observe(latency.as_secs_f64());
}

/// A session was cleaned up: `idle` or `age`.
pub(crate) fn session_cleaned(why: &'static str) {
    METERS.cleaned.get_or_create(&[("reason", why)]).inc();
}

/// A checkpoint was made, and its session stood still so long.
pub(crate) fn checkpoint_made(after: Duration) {
    METERS.checkpoint_seconds.observe(after.as_secs_f64());
}

/// Checkpoints there are, and bytes that they hold alone.
pub(crate) fn checkpoints(count: usize, bytes: u64) {
    METERS.checkpoints.set(i64::try_from(count).unwrap_or(i64::MAX));
    METERS.checkpoint_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
}

/// A limit did what it is for: `memory_limit`, `cpu_limit`, `process_limit`, `disk_limit`.
pub(crate) fn limit_hit(which: &'static str) {
    METERS.limits.get_or_create(&[("limit", which)]).inc();
}

/// What is looked up on request.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub sessions: Vec<(&'static str, i64)>,
    /// Calls that wait in sessions.
    pub waiting: i64,
    /// Resident bytes of the three kinds of processes.
    pub server_memory: i64,
    pub zygote_memory: i64,
    /// Of all workers together.
    pub workers_memory: i64,
    /// Whether forks are welcome.
    pub zygote_up: bool,
    /// Address space of the server.
    pub virtual_memory: i64,
    /// Descriptors of the server.
    pub open_files: i64,
    /// Most it may have.
    pub max_files: i64,
    /// User and system time of the server.
    pub cpu: Duration,
    /// Since the server's start.
    pub uptime: Duration,
}

/// Writes everything in the text format that `write` encodes.
///
/// # Errors
/// When `write` fails, which writing to a string does not.
pub(crate) fn expose(now: &Snapshot, write: impl FnOnce(&Registry) -> fmt::Result) -> fmt::Result {
    let meters = &*METERS;
    for (state, count) in &now.sessions {
        meters.sessions.get_or_create(&[("state", *state)]).set(*count);
    }
    meters.waiting.set(now.waiting);
    let memory = [("server", now.server_memory), ("zygote", now.zygote_memory), ("workers", now.workers_memory)];
    for (process, bytes) in memory {
        meters.memory.get_or_create(&[("process", process)]).set(bytes);
    }
    meters.zygote_up.set(i64::from(now.zygote_up));
    let process = &meters.process;
    process.resident.set(now.server_memory);
    process.virtual_memory.set(now.virtual_memory);
    process.open_files.set(now.open_files);
    process.max_files.set(now.max_files);
    process.cpu.inc_by((now.cpu.as_secs_f64() - process.cpu.get()).max(0.0));
    process.uptime.set(now.uptime.as_secs_f64());
    write(&REGISTRY)
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let meters = &*METERS;
    let mut all = Registry::default();
    name_ours(all.sub_registry_with_prefix("forkpy"), meters);
    name_process(all.sub_registry_with_prefix("process"), &meters.process);
    all
});

fn name_ours(own: &mut Registry, meters: &Meters) {
    let build = [("version", env!("CARGO_PKG_VERSION")), ("python", env!("FORKPY_PYTHON_VERSION"))];
    own.register("build", "Versions of forkpy and of the CPython it was built with", Info::new(build));
    own.register("sessions", "Sessions by what they are doing", meters.sessions.clone());
    own.register("calls_waiting", "Calls that wait for their turn in a session", meters.waiting.clone());
    own.register("cells", "Cells by outcome", meters.cells.clone());
    seconds(own, "cell", "Time that cells ran", &meters.cell_seconds);
    seconds(own, "queue", "Time that cells waited for their turn", &meters.queue_seconds);
    seconds(own, "worker_start", "Time from asking for a worker to its hello", &meters.worker_start_seconds);
    own.register("worker_failures", "Workers asked for and not made", meters.worker_failures.clone());
    own.register("worker_deaths", "Workers that ended, by reason", meters.deaths.clone());
    own.register("forks", "Workers forked by the zygote, probes included", meters.forks.clone());
    own.register("fork_failures", "Forks that the zygote could not make", meters.fork_failures.clone());
    own.register("zygote_starts", "Zygotes that became warm", meters.zygote_starts.clone());
    own.register("zygote_warm", "1 while the zygote takes forks", meters.zygote_up.clone());
    own.register("recoveries", "Steps of recovery, by policy, step and proof", meters.recoveries.clone());
    own.register("alerts", "Alerts raised, by kind", meters.alerts.clone());
    seconds(own, "ping", "Time that interpreters took to answer a ping", &meters.pings);
    own.register("sessions_cleaned", "Sessions cleaned up, by reason", meters.cleaned.clone());
    own.register("limits_hit", "Limits that ended or stopped something", meters.limits.clone());
    own.register(
        "spare_workers_asked",
        "Sessions that began, by whether a spare worker was ready",
        meters.spares.clone(),
    );
    own.register("checkpoints", "Checkpoints of sessions", meters.checkpoints.clone());
    let help = "Memory that checkpoints hold and no session any more";
    own.register_with_unit("checkpoint_memory", help, Unit::Bytes, meters.checkpoint_bytes.clone());
    seconds(own, "checkpoint", "Time that sessions stood still for a checkpoint", &meters.checkpoint_seconds);
    let help = "Resident memory; pages that processes share are counted for each";
    own.register_with_unit("memory", help, Unit::Bytes, meters.memory.clone());
}

fn name_process(own: &mut Registry, process: &ProcessMeters) {
    own.register_with_unit("resident_memory", "Resident memory of the server", Unit::Bytes, process.resident.clone());
    let help = "Address space of the server";
    own.register_with_unit("virtual_memory", help, Unit::Bytes, process.virtual_memory.clone());
    own.register("open_fds", "Descriptors the server has open", process.open_files.clone());
    own.register("max_fds", "Descriptors the server may have open", process.max_files.clone());
    let help = "User and system time of the server";
    own.register_with_unit("cpu", help, Unit::Seconds, process.cpu.clone());
    let help = "When the server began, seconds since 1970";
    own.register_with_unit("start_time", help, Unit::Seconds, process.started.clone());
    own.register_with_unit("uptime", "Age of the server", Unit::Seconds, process.uptime.clone());
}

fn seconds(own: &mut Registry, name: &str, help: &str, histogram: &Histogram) {
    own.register_with_unit(name, help, Unit::Seconds, histogram.clone());
}
