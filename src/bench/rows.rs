//! The rows: their names, what each times, and which floor it is held against.
//!
//! Runs in: bench. The table that `--only`, `--explain` and benches/RESULTS.md go by; how a row is timed is `timed.rs`, how a size is
//! taken is `sizes.rs`.

/// What a row's figures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Time, in microseconds.
    Microseconds,
    /// Memory, in MiB.
    Mebibytes,
    /// Cells in a second.
    CellsPerSecond,
    /// Output in a second, in MB.
    MegabytesPerSecond,
    /// Time, in seconds.
    Seconds,
}

impl Unit {
    /// As it stands in the report.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Microseconds => "us",
            Self::Mebibytes => "MiB",
            Self::CellsPerSecond => "cells/s",
            Self::MegabytesPerSecond => "MB/s",
            Self::Seconds => "s",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Row {
    /// For `--only`, and in the report.
    pub name: &'static str,
    /// What its figures are.
    pub unit: Unit,
    /// How often it is timed in a round; of a size, in the whole run, and
    /// not oftener than there are rounds.
    pub turns: u32,
    /// The rows that its ratios are to, the most important first.
    pub floors: &'static [&'static str],
    /// What exactly is timed.
    pub what: &'static str,
}

const fn time(name: &'static str, turns: u32, floors: &'static [&'static str], what: &'static str) -> Row {
    Row { name, unit: Unit::Microseconds, turns, floors, what }
}

const fn size(name: &'static str, unit: Unit, turns: u32, what: &'static str) -> Row {
    Row { name, unit, turns, floors: &[], what }
}

/// The row that other servers' rows are held against, and theirs.
pub(crate) const CELL: &str = "1+1";

/// All rows, in the order in which they are shown.
pub(crate) const ROWS: &[Row] = &[
    time("pipe", 100, &[], "64 bytes to another process and back, over two pipes: the floor of a client over stdio"),
    time("socket", 100, &[], "the same over a socket pair: the floor between server and worker"),
    time(
        "chain",
        100,
        &[],
        "64 bytes through three bare processes over what forkpy uses, pipes and then a socket pair, and back, with 26 µs of \
         plain work in all: the floor of a call through a server and a worker",
    ),
    time("chain-rested", 10, &["chain"], "the same after 20 ms without any"),
    time("fork", 20, &[], "fork() of the small process that measures, to the child's first byte"),
    time(
        "zygote-fork",
        5,
        &[],
        "os.fork() with CPython's hooks in a fresh session, which is what the zygote is, to the child's first byte",
    ),
    time("python", 1, &[], "`python3 -c pass`, start to end, of the interpreter that sessions have"),
    time("ping", 100, &["pipe"], "the tool `ping`: a call that goes no further than the server"),
    time(CELL, 100, &["chain", "ping"], "a cell `1+1`, request written to reply read"),
    time(
        "worker",
        100,
        &["socket"],
        "the same cell between server and worker only: sent to reported, as its reply says (execution_time)",
    ),
    time(
        "front",
        100,
        &[CELL],
        "the same cell through `forkpy attach`: client to front to a server that outlives both",
    ),
    time("pass", 50, &["ping"], "a cell `pass`"),
    time("print", 50, &["ping"], "a cell `print(1)`"),
    time("error", 50, &["ping"], "a cell `1/0`: the reply has a traceback"),
    time(
        "result-1mb",
        5,
        &["ping"],
        "a cell whose result is a text of 1 MB, of which the reply has what its limit allows and a file the rest",
    ),
    time("numpy-sum", 50, &["ping"], "a cell that sums an array of 1,000 numbers; where numpy is installed"),
    time(
        "rested",
        10,
        &["chain-rested", CELL],
        "a cell `1+1` after 20 ms without any: caches and processors have gone to sleep",
    ),
    time(
        "new-session",
        5,
        &["rested"],
        "create_session and its first `1+1`, 20 ms after the last one: a spare worker is ready",
    ),
    time("new-session-cold", 5, &["zygote-fork"], "the same of a server without spare workers"),
    time(
        "new-session-confined",
        5,
        &["new-session-cold"],
        "the same with --sandbox workspace: what confining a session costs",
    ),
    time("confined", 50, &[CELL], "a cell `1+1` in a confined session"),
    time("restart", 3, &["zygote-fork"], "restart_kernel and the first `1+1`"),
    time("interrupt", 3, &[], "a busy loop with a time limit of 50 ms: how long after that its reply comes"),
    time("checkpoint", 3, &["zygote-fork"], "checkpoint_session of a session with little in it"),
    time("restore", 3, &["zygote-fork"], "restore_checkpoint and the first `1+1`, of a checkpoint that is new"),
    time(
        "restore-again",
        3,
        &["zygote-fork"],
        "the same of a checkpoint to which the session has gone back before, 50 ms after that",
    ),
    time("fan-out", 1, &["zygote-fork"], "fork_session with count 100: a hundred copies of a session, up to the reply"),
    time("initialize", 1, &[], "a new server, process started to `initialize` answered"),
    time("cold-start", 1, &["python"], "the same to the result of its first cell"),
    time(
        "cold-start-image",
        1,
        &["python", "cold-start"],
        "the same from an image of Python's start that an earlier server has left (--zygote-image on)",
    ),
    time(
        "describe",
        3,
        &[],
        "new session to its first `df.describe()`, of a server with numpy, pandas and matplotlib preloaded; where pandas is installed",
    ),
    time(
        "import-auto",
        3,
        &[],
        "a cell `import pandas` in a new session, where an earlier server has noted that sessions import it (--preload auto)",
    ),
    time(
        "ipykernel",
        10,
        &[CELL],
        "`1+1` by jupyter_client to a running ipykernel: execute_request sent to execute_reply and idle read",
    ),
    time("ipykernel-start", 1, &["new-session"], "a new ipykernel, start to the result of its first `1+1`"),
    time("other", 20, &[CELL], "a cell `1+1` of the server that --against names"),
    size(
        "memory",
        Unit::Mebibytes,
        1,
        "what an idle session adds to the memory of the whole machine (MemAvailable, over 200 sessions)",
    ),
    size(
        "memory-preloaded",
        Unit::Mebibytes,
        1,
        "the same with numpy, pandas and matplotlib preloaded; where pandas is installed",
    ),
    size(
        "front-memory",
        Unit::Mebibytes,
        1,
        "memory of its own that a front of `forkpy attach` has (RssAnon), after some cells",
    ),
    size("thousand", Unit::Seconds, 1, "1,000 sessions created one after the other, the first cell of each included"),
    size("throughput", Unit::CellsPerSecond, 5, "cells `1+1` over eight sessions, many at a time on one stdio"),
    size(
        "throughput-http",
        Unit::CellsPerSecond,
        3,
        "the same over HTTP: eight clients that keep their connection and wait for each reply (protocol 2026-07-28)",
    ),
    size(
        "throughput-http-opened",
        Unit::CellsPerSecond,
        3,
        "the same by clients that have opened a session with `initialize` (protocol 2025-11-25), as most do",
    ),
    size(
        "output",
        Unit::MegabytesPerSecond,
        3,
        "a cell that prints 100 MB in lines, to its reply; all of it goes to a file, a part into the reply",
    ),
    size("output-memory", Unit::Mebibytes, 1, "what the server's peak memory grows by meanwhile"),
];

/// The row of this name.
#[must_use]
pub(crate) fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// The rows named, and those that their ratios are to; all when none is named.
///
/// # Errors
/// The name that there is none of.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<&'static Row>, String> {
    if let Some(unknown) = names.iter().find(|name| find(name).is_none()) {
        return Err(unknown.clone());
    }
    let wanted = |row: &Row| {
        let named = |name: &str| names.iter().any(|asked| asked == name);
        named(row.name) || ROWS.iter().any(|other| other.floors.contains(&row.name) && named(other.name))
    };
    Ok(ROWS.iter().filter(|row| names.is_empty() || wanted(row)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_floors_exist() {
        for (place, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..place].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(row.floors.iter().all(|floor| find(floor).is_some()), "{}", row.name);
        }
    }

    #[test]
    fn a_choice_brings_its_floors() {
        let names = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            chosen(&asked).map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["1+1"]), Ok(vec!["chain", "ping", "1+1"]));
        assert_eq!(names(&[]).map(|rows| rows.len()), Ok(ROWS.len()));
        assert_eq!(names(&["pong"]), Err("pong".to_owned()));
    }
}
