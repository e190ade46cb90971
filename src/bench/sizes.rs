//! Rows whose figure is no time of one call: memory, how much in a second, a thousand sessions.
//!
//! Runs in: bench. Each has servers of its own.

use crate::bench::http::SIDE_BY_SIDE;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    BenchError,
    client::Client,
    http,
    rows::Row,
    stage::{SESSION, Stage},
};

/// Sessions over which memory is shared out.
const MANY: u32 = 200;
/// Cells that are sent before the first of their replies is read, to each session.
const AHEAD: usize = 24;
const BATCHES: usize = 20;
/// What the machine needs until its memory has settled.
const SETTLING: Duration = Duration::from_millis(500);

const OUTPUT: &str = "\
import sys
block = ('x' * 99 + '\\n') * 10_000
for _ in range(100): sys.stdout.write(block)";
const MEGABYTES: f64 = 100.0;

pub(crate) fn take(row: &Row, stage: &mut Stage) -> Result<f64, BenchError> {
    match row.name {
        "memory" => memory(stage, &[]),
        "memory-preloaded" => memory(stage, &["--preload", &stage.science()]),
        "front-memory" => front(stage),
        "thousand" => thousand(stage),
        "throughput" => throughput(stage),
        "throughput-http" => http::throughput(stage, http::Manner::Alone),
        "throughput-http-opened" => http::throughput(stage, http::Manner::Opened),
        "output" => output(stage).map(|(speed, _)| speed),
        "output-memory" => output(stage).map(|(_, grown)| grown),
        name => Err(BenchError::Option(format!("no way to take {name:?}"))),
    }
}

fn create(client: &mut Client, numbers: std::ops::Range<u32>) -> Result<(), BenchError> {
    numbers.into_iter().try_for_each(|number| client.first(&format!("s{number}"), "1+1"))
}

fn memory(stage: &mut Stage, more: &[&str]) -> Result<f64, BenchError> {
    let mut client = stage.server(&[&["--max-sessions", "1100", "--max-spares", "0"], more].concat())?;
    create(&mut client, 0..1)?;
    thread::sleep(SETTLING);
    let before = available();
    create(&mut client, 1..MANY + 1)?;
    thread::sleep(SETTLING);
    Ok((before - available()) / f64::from(MANY))
}

fn front(stage: &mut Stage) -> Result<f64, BenchError> {
    let client = stage.behind()?.client()?;
    for _ in 0..20 {
        client.run("1+1", SESSION)?;
    }
    Ok(mebibytes(&format!("/proc/{}/status", client.pid()), "RssAnon:"))
}

fn thousand(stage: &mut Stage) -> Result<f64, BenchError> {
    let mut client = stage.server(&["--max-sessions", "1100"])?;
    client.run("1", SESSION)?;
    let began = Instant::now();
    create(&mut client, 0..1000)?;
    Ok(began.elapsed().as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "some thousand cells")]
fn throughput(stage: &mut Stage) -> Result<f64, BenchError> {
    let mut client = stage.server(&[])?;
    let names: Vec<String> = (0..SIDE_BY_SIDE).map(|number| format!("s{number}")).collect();
    for name in &names {
        client.first(name, "1")?;
    }
    let batches: Vec<String> = (0..BATCHES)
        .map(|_| {
            let calls = (0..AHEAD).flat_map(|_| &names);
            let lines = calls.map(|name| {
                let call = json!({"name": "run_python_code", "arguments": {"code": "1+1", "session_id": name}});
                client.message("tools/call", &call)
            });
            lines.collect()
        })
        .collect();
    let began = Instant::now();
    for (number, batch) in batches.iter().enumerate() {
        client.write(batch)?;
        // The one before: there is always another to work at.
        if number > 0 {
            client.await_answers(AHEAD * SIDE_BY_SIDE)?;
        }
    }
    client.await_answers(AHEAD * SIDE_BY_SIDE)?;
    Ok((BATCHES * AHEAD * SIDE_BY_SIDE) as f64 / began.elapsed().as_secs_f64())
}

/// MB a second, and MiB that the server's peak grew by.
fn output(stage: &mut Stage) -> Result<(f64, f64), BenchError> {
    let mut client = stage.server(&[])?;
    client.run("1", SESSION)?;
    let before = peak(client.pid());
    let took = client.run(OUTPUT, SESSION)?;
    Ok((MEGABYTES / took.as_secs_f64(), peak(client.pid()) - before))
}

/// MiB that the machine has left.
fn available() -> f64 {
    mebibytes("/proc/meminfo", "MemAvailable:")
}

/// MiB that a process has had at most.
fn peak(pid: u32) -> f64 {
    mebibytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// A line of kB in a file of the kernel's.
fn mebibytes(path: &str, key: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) / 1024.0
}
