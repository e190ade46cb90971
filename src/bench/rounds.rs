//! The run: rows in rounds, then sizes, then the report.
//!
//! Runs in: bench.

use std::{fs, thread, time::Instant};

use crate::progress::{self, Progress};

use super::{
    BenchError,
    options::BenchArgs,
    report::{FORMAT, Held, Machine, Measured, Report, Skipped},
    rows::{self, Row, Unit},
    sizes,
    stage::Stage,
    stats::Times,
    timed,
};

/// What a quick run is.
const QUICK_ROUNDS: u32 = 2;
/// Turns that are not counted, of the first round: connections open, files in memory, code compiled.
const WARMING: u32 = 2;

pub(crate) fn measure(args: &BenchArgs, server: Vec<String>, preload: &[String]) -> Result<Report, BenchError> {
    let began = (Instant::now(), jiff::Timestamp::now(), load());
    let chosen = rows::chosen(&args.only)
        .map_err(|name| BenchError::Option(format!("there is no row {name:?}; `forkpy bench --explain` names them")))?;
    let starting = progress::of("starting what is measured");
    let mut stage = Stage::new(args, server)?;
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    for row in chosen {
        match timed::why_not(row, &stage) {
            None => rows.push(row),
            Some(why) => skipped.push(Skipped { name: row.name.to_owned(), why }),
        }
    }
    let rounds = if args.quick { QUICK_ROUNDS } else { args.rounds };
    let (times, mut sized): (Vec<&Row>, Vec<&Row>) = rows.into_iter().partition(|row| row.unit == Unit::Microseconds);
    if args.quick {
        let left_out =
            |row: &Row| Skipped { name: row.name.to_owned(), why: "takes longer than --quick allows".to_owned() };
        skipped.extend(sized.drain(..).map(left_out));
    }
    drop(starting);
    let bar = progress::steps((times.len() + sized.len()) as u64 * u64::from(rounds));
    let mut measured = in_rounds(&times, rounds, &mut stage, &bar)?;
    for row in &sized {
        bar.say(row.name);
        measured.push(size(row, rounds, &mut stage)?);
        bar.forward(u64::from(rounds));
    }
    drop(bar);
    hold_against_floors(&mut measured);
    Ok(Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        optimized: !cfg!(debug_assertions),
        when: began.1.to_string(),
        machine: machine(began.2),
        python: stage.interpreter.version.clone(),
        preload: preload.to_vec(),
        rounds,
        seconds: began.0.elapsed().as_secs_f64(),
        rows: measured,
        skipped,
    })
}

/// Each row has its turns in each round.
fn in_rounds(rows: &[&Row], rounds: u32, stage: &mut Stage, bar: &Progress) -> Result<Vec<Measured>, BenchError> {
    let mut times: Vec<Times> = rows.iter().map(|_| Times::default()).collect();
    for round in 0..rounds {
        for (row, times) in rows.iter().zip(&mut times) {
            bar.say(row.name);
            for _ in 0..if round == 0 { WARMING } else { 1 } {
                timed::turn(row, stage)?;
            }
            for _ in 0..row.turns {
                times.add(timed::turn(row, stage)?);
            }
            times.end_round();
            bar.forward(1);
        }
    }
    Ok(rows.iter().zip(&times).map(|(row, times)| of_times(row, times)).collect())
}

fn of_times(row: &Row, times: &Times) -> Measured {
    let (low, high) = times.spread();
    Measured {
        name: row.name.to_owned(),
        unit: row.unit.name().to_owned(),
        count: times.count(),
        p50: times.quantile(0.5),
        p90: times.quantile(0.9),
        p99: times.quantile(0.99),
        low,
        high,
        floor: None,
        ratio: None,
        further: Vec::new(),
    }
}

fn size(row: &Row, rounds: u32, stage: &mut Stage) -> Result<Measured, BenchError> {
    let mut values = (0..row.turns.min(rounds)).map(|_| sizes::take(row, stage)).collect::<Result<Vec<_>, _>>()?;
    values.sort_by(f64::total_cmp);
    let middle = values[values.len() / 2];
    // Few of them: the worst is said for the high percentiles, and which end that is depends on what is measured.
    let (low, high) = (values[0], values[values.len() - 1]);
    let worst = if matches!(row.unit, Unit::CellsPerSecond | Unit::MegabytesPerSecond) { low } else { high };
    Ok(Measured {
        name: row.name.to_owned(),
        unit: row.unit.name().to_owned(),
        count: values.len() as u64,
        p50: middle,
        p90: worst,
        p99: worst,
        low,
        high,
        floor: None,
        ratio: None,
        further: Vec::new(),
    })
}

fn hold_against_floors(measured: &mut [Measured]) {
    let medians: Vec<(String, f64)> = measured.iter().map(|row| (row.name.clone(), row.p50)).collect();
    for row in measured {
        let floors = rows::find(&row.name).map_or(&[][..], |known| known.floors);
        let median = |floor: &str| medians.iter().find(|(name, _)| name == floor).map(|(_, median)| *median);
        let mut held = floors.iter().filter_map(|floor| {
            let ratio = row.p50 / median(floor)?;
            Some(Held { floor: (*floor).to_owned(), ratio })
        });
        (row.floor, row.ratio) = held.next().map(|held| (held.floor, held.ratio)).unzip();
        row.further = held.collect();
    }
}

fn machine(began: f64) -> Machine {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = text("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Machine {
        processor: model.map_or("unknown processor", |(_, name)| name).trim().to_owned(),
        processors: thread::available_parallelism().map_or(1, usize::from),
        memory: sysinfo::System::new_with_specifics(
            sysinfo::RefreshKind::nothing().with_memory(sysinfo::MemoryRefreshKind::everything()),
        )
        .map_or(0, |system| system.total_memory()),
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        load: (began, load()),
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
