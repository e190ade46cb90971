//! Limits of sessions: the flags that set them for all, the values, and how a single session may have tighter ones.
//!
//! Runs in: server. Pure. Kept by: the kernel, set in the worker (`worker/rlimits.rs`: memory, open files); the server's
//! guard (`server/watch/guard.rs`: memory and number of all processes together; `server/watch/disk.rs`), with the kernel's help
//! where that can be had (`sys/groups`, which also keeps the share of processors); the session's task (`session/cpu_budget.rs`,
//! time limits); the cleaner (`server/watch/cleaner.rs`: idle time, age).

use serde::{Deserialize, Serialize};

use std::time::Duration;

use clap::Args;

use crate::{
    protocol::{Confinement, WorkerLimits},
    settings::bounds::MAX_SECONDS,
    sys::groups::Bounds,
};

const MIB: u64 = 1 << 20;
/// Less than this would not hold what an `import numpy` takes.
const LEAST_MEMORY: u64 = 16 * MIB;
/// Fewer would not do for an import.
const LEAST_FILES: u32 = 32;
/// Processors: with less a ping would wait for seconds; more no machine has.
const CPUS: std::ops::RangeInclusive<f64> = 0.05..=4096.0;

/// The flags. None is set by default.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits (off by default; create_session can set lower ones)")]
pub(crate) struct LimitArgs {
    /// Memory a session may take beyond what its interpreter starts with: MemoryError in the code that asks for more; a
    /// session whose processes together take more is killed. Bytes, or with K, M, G
    #[arg(long, value_name = "SIZE", env = "FORKPY_MEMORY_LIMIT", value_parser = size)]
    pub memory_limit: Option<u64>,

    /// Processor time of one cell, its processes included, in seconds: interrupted then, as by a time-out
    #[arg(long, value_name = "SECONDS", env = "FORKPY_CPU_LIMIT", value_parser = time)]
    pub cpu_limit: Option<f64>,

    /// Processors that a session may use at a time, all its processes together: slowed down beyond, by the kernel; where that
    /// cannot be had, get_kernel_health and the log say so. 1.5 is one and a half
    #[arg(long, value_name = "N", env = "FORKPY_CPUS", value_parser = cpus)]
    pub cpus: Option<u32>,

    /// Processes that a session may have beside its worker: killed with all of them when there are more
    #[arg(long, value_name = "N", env = "FORKPY_PROCESSES_LIMIT")]
    pub processes_limit: Option<u32>,

    /// Disk that the workspace may take, with a confined session's own directory: a session that writes while there is more is
    /// killed. Bytes, or with K, M, G
    #[arg(long, value_name = "SIZE", env = "FORKPY_DISK_LIMIT", value_parser = size)]
    pub disk_limit: Option<u64>,

    /// Descriptors that each process of a session may have open
    #[arg(long, value_name = "N", env = "FORKPY_OPEN_FILES_LIMIT", value_parser = clap::value_parser!(u32).range(i64::from(LEAST_FILES)..))]
    pub open_files_limit: Option<u32>,

    /// Longest time a cell may run, in seconds, whatever the call asks for
    #[arg(long, value_name = "SECONDS", env = "FORKPY_MAX_TIMEOUT", value_parser = time)]
    pub max_timeout: Option<f64>,

    /// A session that no client has used for so many seconds is deleted; `default` loses its variables
    #[arg(long, value_name = "SECONDS", env = "FORKPY_IDLE_TTL", value_parser = time)]
    pub idle_ttl: Option<f64>,

    /// A session older than so many seconds is deleted once it is at rest; `default` loses its variables
    #[arg(long, value_name = "SECONDS", env = "FORKPY_MAX_AGE", value_parser = time)]
    pub max_age: Option<f64>,
}

/// Limits of one session. `None` is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes beyond what the interpreter starts with.
    pub memory: Option<u64>,
    /// Processor time of one cell.
    pub cpu: Option<Duration>,
    /// Thousandths of a processor.
    pub cpus: Option<u32>,
    /// Processes beside the worker.
    pub processes: Option<u32>,
    /// Bytes of the workspace and its own directory.
    pub disk: Option<u64>,
    /// Descriptors of each process.
    pub open_files: Option<u32>,
    /// Longest time of a cell.
    pub cell_time: Option<Duration>,
    /// Unused for so long: cleaned up.
    pub idle: Option<Duration>,
    /// So old: cleaned up.
    pub age: Option<Duration>,
    /// How narrow its sandbox is.
    pub confinement: Confinement,
}

/// What a client wishes for a session of its own, in the units of `create_session`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Wished {
    /// MiB.
    pub memory_mb: Option<f64>,
    /// Seconds.
    pub cpu_seconds: Option<f64>,
    /// Number.
    pub cpus: Option<f64>,
    /// Number.
    pub processes: Option<u32>,
    /// MiB.
    pub disk_mb: Option<f64>,
    /// Number.
    pub open_files: Option<u32>,
    /// Seconds.
    pub cell_seconds: Option<f64>,
    /// Seconds.
    pub idle_seconds: Option<f64>,
    /// Seconds.
    pub age_seconds: Option<f64>,
    /// A narrower sandbox.
    pub confinement: Option<Confinement>,
}

/// Why a wish cannot be granted.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(crate) enum LimitError {
    /// Nonsense.
    #[error("`limits.{name}` must be {allowed}, not {given}")]
    Senseless {
        /// Which.
        name: &'static str,
        /// What it may be.
        allowed: String,
        /// What it was.
        given: f64,
    },
    /// Beyond what the operator allows.
    #[error(
        "`limits.{name}` {given} is above this server's own limit of {most} ({flag}); leave it out or ask for less"
    )]
    Above {
        /// Which.
        name: &'static str,
        /// What was asked for.
        given: f64,
        /// The server's.
        most: f64,
        /// Where that is set.
        flag: &'static str,
    },
    /// A wider sandbox than the operator's.
    #[error(
        "`sandbox` {asked} is wider than this server's own ({own}, --sandbox); leave it out or ask for a narrower one"
    )]
    Wider { asked: Confinement, own: Confinement },
}

impl From<LimitArgs> for Limits {
    fn from(args: LimitArgs) -> Self {
        let time = |seconds: Option<f64>| seconds.map(Duration::from_secs_f64);
        Self {
            memory: args.memory_limit,
            cpu: time(args.cpu_limit),
            cpus: args.cpus,
            processes: args.processes_limit,
            disk: args.disk_limit,
            open_files: args.open_files_limit,
            cell_time: time(args.max_timeout),
            idle: time(args.idle_ttl),
            age: time(args.max_age),
            confinement: Confinement::Off,
        }
    }
}

impl Limits {
    /// These, made tighter where that is wished.
    ///
    /// # Errors
    /// [`LimitError`]: a wish makes no sense, or goes beyond these.
    pub(crate) fn tightened(self, wished: &Wished) -> Result<Self, LimitError> {
        let memory =
            wish("memory_mb", "--memory-limit", wished.memory_mb, self.memory.map(mib), mib(LEAST_MEMORY), 1e9)?;
        let cpus = wish("cpus", "--cpus", wished.cpus, self.cpus.map(whole), *CPUS.start(), *CPUS.end())?;
        let disk = wish("disk_mb", "--disk-limit", wished.disk_mb, self.disk.map(mib), 1.0, 1e9)?;
        let seconds = |name, flag, given, own: Option<Duration>| {
            let granted = wish(name, flag, given, own.map(|time| time.as_secs_f64()), 0.001, MAX_SECONDS)?;
            Ok::<_, LimitError>(granted.map(Duration::from_secs_f64).or(own))
        };
        let number = |name, flag, given: Option<u32>, own: Option<u32>, least: u32| {
            wish(name, flag, given.map(f64::from), own.map(f64::from), f64::from(least), 1e9)?;
            Ok::<_, LimitError>(given.or(own))
        };
        let confinement = wished.confinement.unwrap_or(self.confinement);
        if confinement < self.confinement {
            return Err(LimitError::Wider { asked: confinement, own: self.confinement });
        }
        Ok(Self {
            confinement,
            memory: memory.map(bytes).or(self.memory),
            disk: disk.map(bytes).or(self.disk),
            cpu: seconds("cpu_seconds", "--cpu-limit", wished.cpu_seconds, self.cpu)?,
            cpus: cpus.map(thousandths).or(self.cpus),
            processes: number("processes", "--processes-limit", wished.processes, self.processes, 0)?,
            open_files: number("open_files", "--open-files-limit", wished.open_files, self.open_files, LEAST_FILES)?,
            cell_time: seconds("cell_seconds", "--max-timeout", wished.cell_seconds, self.cell_time)?,
            idle: seconds("idle_seconds", "--idle-ttl", wished.idle_seconds, self.idle)?,
            age: seconds("age_seconds", "--max-age", wished.age_seconds, self.age)?,
        })
    }

    /// These, confined no less than this.
    #[must_use]
    pub(crate) fn confined(self, least: Confinement) -> Self {
        Self { confinement: self.confinement.max(least), ..self }
    }

    /// The time limit of a cell that asked for `asked`; `None` is for ever.
    #[must_use]
    pub(crate) fn cell_limit(&self, asked: Option<Duration>) -> Option<Duration> {
        match (asked, self.cell_time) {
            (Some(asked), Some(most)) => Some(asked.min(most)),
            (asked, most) => asked.or(most),
        }
    }

    /// Bytes above which a session is ended: a worker alone meets its MemoryError first, so what it has from the zygote, and
    /// a sixteenth, are let pass.
    #[must_use]
    pub(crate) fn most_memory(&self) -> Option<u64> {
        self.memory.map(|limit| limit + limit / 16 + 32 * MIB)
    }

    /// Those that a worker sets for itself.
    #[must_use]
    pub(crate) fn kept_by_kernel(&self) -> WorkerLimits {
        WorkerLimits { memory: self.memory, open_files: self.open_files, confinement: self.confinement }
    }

    /// Those for which the kernel is asked for help.
    #[must_use]
    pub(crate) fn in_group(&self) -> Bounds {
        Bounds { memory: self.most_memory(), processes: self.processes, cpus: self.cpus }
    }

    /// Processors, as a person writes them.
    #[must_use]
    pub(crate) fn processors(&self) -> Option<f64> {
        self.cpus.map(whole)
    }

    /// Whether the session's processes must be looked at for them to be kept.
    #[must_use]
    pub(crate) fn need_a_guard(&self) -> bool {
        self.memory.is_some() || self.processes.is_some()
    }
}

fn wish(
    name: &'static str,
    flag: &'static str,
    given: Option<f64>,
    own: Option<f64>,
    least: f64,
    most: f64,
) -> Result<Option<f64>, LimitError> {
    let Some(given) = given else { return Ok(None) };
    if !(least..=most).contains(&given) {
        return Err(LimitError::Senseless { name, allowed: format!("between {least} and {most}"), given });
    }
    match own {
        Some(own) if given > own => Err(LimitError::Above { name, given, most: own, flag }),
        _ => Ok(Some(given)),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a limit is no exact figure")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "checked to lie between some MiB and a PiB"
)]
fn bytes(mib: f64) -> u64 {
    (mib * MIB as f64) as u64
}

fn whole(thousandths: u32) -> f64 {
    f64::from(thousandths) / 1000.0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie within bounds")]
fn thousandths(processors: f64) -> u32 {
    (processors * 1000.0).round() as u32
}

/// `2`, `0.5`.
fn cpus(text: &str) -> Result<u32, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if CPUS.contains(&number) => Ok(thousandths(number)),
        Ok(_) => Err(format!("must be between {} and {}", CPUS.start(), CPUS.end())),
        Err(error) => Err(error.to_string()),
    }
}

/// `512M`, `2G`, `1.5GiB`, `1000000`.
fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|character: char| character.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.trim().parse().map_err(|_| format!("{text:?} is no size; 512M or 2G is one"))?;
    let unit = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 1.0,
        "K" => 1024.0,
        "M" => 1024.0 * 1024.0,
        "G" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("{text:?} has no unit that is known: K, M and G are")),
    };
    let wanted = bytes_of(number * unit);
    if wanted < LEAST_MEMORY {
        return Err(format!("must be at least {}M", LEAST_MEMORY / MIB));
    }
    Ok(wanted)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and nought is refused")]
fn bytes_of(number: f64) -> u64 {
    number as u64
}

fn time(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= MAX_SECONDS => Ok(seconds),
        Ok(_) => Err(format!("must be above 0 and at most {MAX_SECONDS}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expected) in [
            ("512M", 512 * MIB),
            ("2G", 2048 * MIB),
            ("1.5GiB", 1536 * MIB),
            ("20000000", 20_000_000),
            ("64mb", 64 * MIB),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for bad in ["", "much", "-1G", "1T", "5", "NaN", "15M"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_are_read_as_people_write_them() {
        assert_eq!(["2", "0.5", "1.25"].map(cpus), [Ok(2000), Ok(500), Ok(1250)]);
        for bad in ["", "half", "0", "-1", "1e9", "NaN", "0.001"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_may_have_tighter_limits_and_no_looser_ones() {
        let server = Limits { memory: Some(256 * MIB), idle: Some(Duration::from_secs(60)), ..Limits::default() };
        let wished = Wished { memory_mb: Some(64.0), cpu_seconds: Some(0.5), processes: Some(0), ..Wished::default() };
        let granted = server.tightened(&wished).expect("tighter");
        assert_eq!((granted.memory, granted.cpu), (Some(64 * MIB), Some(Duration::from_millis(500))));
        assert_eq!((granted.processes, granted.idle), (Some(0), server.idle), "what is not wished stays");
        let server = Limits { cpus: Some(1500), ..server };
        let granted = server.tightened(&Wished { cpus: Some(0.25), ..Wished::default() }).expect("less");
        assert_eq!((granted.cpus, server.processors()), (Some(250), Some(1.5)));
        for bad in [2.0, 0.0, f64::NAN] {
            assert!(server.tightened(&Wished { cpus: Some(bad), ..Wished::default() }).is_err(), "{bad}");
        }
        let above = server.tightened(&Wished { memory_mb: Some(257.0), ..Wished::default() }).expect_err("looser");
        assert!(above.to_string().contains("limit of 256 (--memory-limit)"), "{above}");
        for bad in [-1.0, 0.0, f64::NAN, f64::INFINITY] {
            assert!(server.tightened(&Wished { cpu_seconds: Some(bad), ..Wished::default() }).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sandbox_is_only_ever_made_narrower() {
        let server = Limits { confinement: Confinement::Workspace, ..Limits::default() };
        let wish = |confinement| server.tightened(&Wished { confinement, ..Wished::default() });
        for (asked, granted) in [
            (None, Confinement::Workspace),
            (Some(Confinement::Workspace), Confinement::Workspace),
            (Some(Confinement::Strict), Confinement::Strict),
        ] {
            assert_eq!(wish(asked).expect("no wider").confinement, granted);
        }
        let refused = wish(Some(Confinement::Off)).expect_err("wider").to_string();
        assert!(refused.contains("`sandbox` off is wider than this server's own (workspace"), "{refused}");
    }

    #[test]
    fn no_call_exceeds_the_longest_time() {
        let second = Duration::from_secs(1);
        let limits = Limits { cell_time: Some(second), ..Limits::default() };
        assert_eq!(limits.cell_limit(Some(second * 9)), Some(second));
        assert_eq!(limits.cell_limit(Some(second / 2)), Some(second / 2));
        assert_eq!(limits.cell_limit(None), Some(second), "for ever is longer than any limit");
        assert_eq!(Limits::default().cell_limit(None), None);
    }
}
