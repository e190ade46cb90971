//! What was measured, as JSON: what `--json` prints and `--compare` reads.
//!
//! Runs in: bench.

use serde::{Deserialize, Serialize};

/// Counts up when a field changes its meaning.
pub(crate) const FORMAT: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub format: u32,
    pub version: String,
    /// Whether this binary was built with optimization.
    pub optimized: bool,
    /// When it began (RFC 3339).
    pub when: String,
    pub machine: Machine,
    /// Version of the sessions' interpreter.
    pub python: String,
    /// Modules that were preloaded.
    pub preload: Vec<String>,
    pub rounds: u32,
    /// Seconds that it took.
    pub seconds: f64,
    /// Rows that were measured.
    pub rows: Vec<Measured>,
    /// Rows that were not.
    pub skipped: Vec<Skipped>,
}

impl Report {
    /// What was measured, where and when, in two lines.
    #[must_use]
    pub(super) fn about(&self) -> String {
        let machine = &self.machine;
        let build = if self.optimized { "" } else { " (NOT an optimized build: these figures say little)" };
        format!(
            "forkpy {}{build}, CPython {}, preloaded: {}\n{} × {}, Linux {}, load {:.1} to {:.1}; {} rounds in {:.0} s, {}",
            self.version,
            self.python,
            if self.preload.is_empty() { "nothing".to_owned() } else { self.preload.join(", ") },
            machine.processors,
            machine.processor,
            machine.kernel,
            machine.load.0,
            machine.load.1,
            self.rounds,
            self.seconds,
            self.when,
        )
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Model of its processor.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Version of the kernel.
    pub kernel: String,
    /// Load over a minute, when it began and when it ended.
    pub load: (f64, f64),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub name: String,
    /// `us`, `s`, `MiB`, `cells/s` or `MB/s`; of all figures of the row.
    pub unit: String,
    pub count: u64,
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Smallest of the rounds' medians.
    pub low: f64,
    /// Largest of the rounds' medians.
    pub high: f64,
    /// The row that `ratio` is to.
    pub floor: Option<String>,
    /// Median by the median of the floor.
    pub ratio: Option<f64>,
    /// The same for further rows that it is held against.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Held>,
}

/// Another row that one is held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub floor: String,
    /// Median by the median of that row.
    pub ratio: f64,
}

/// A row that was not measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub name: String,
    pub why: String,
}

impl Report {
    /// The row of this name.
    #[must_use]
    pub(crate) fn row(&self, name: &str) -> Option<&Measured> {
        self.rows.iter().find(|row| row.name == name)
    }
}
