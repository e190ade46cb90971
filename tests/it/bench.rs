//! `forkpy bench` as its users run it: rows, ratios, other servers, an earlier run. What the figures are is nobody's
//! business here.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(options: &[&str], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forkpy"));
    command.args(["--python", env!("FORKPY_BUILD_PYTHON")]).args(options).arg("bench").args(args);
    command.env("RUST_BACKTRACE", "0").output().expect("it runs")
}

fn report(options: &[&str], args: &[&str]) -> Value {
    let output = bench(options, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

#[test]
fn rows_have_figures_and_ratios_to_their_floors() {
    let only = "1+1,worker,error,result-1mb,new-session-cold,restart,interrupt,restore,cold-start";
    let report = report(&["--preload", "json"], &["--quick", "--only", only]);
    assert_eq!((&report["format"], &report["rounds"]), (&1.into(), &2.into()));
    assert_eq!(report["preload"], serde_json::json!(["json"]));
    for name in only.split(',') {
        let row = row(&report, name);
        let figure = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
        assert!(figure("p50") > 0.0 && figure("p50") <= figure("p99") && figure("low") <= figure("high"), "{row}");
        if let Some(floor) = row["floor"].as_str() {
            let floor = self::row(&report, floor)["p50"].as_f64().expect("a median");
            assert!((figure("ratio") - figure("p50") / floor).abs() < 1e-6, "{row}");
        }
    }
    // A cell is held against the chain of bare processes first, and against a ping.
    let cell = row(&report, "1+1");
    assert_eq!((&cell["floor"], &cell["further"][0]["floor"]), (&"chain".into(), &"ping".into()), "{cell}");
    assert!(cell["further"][0]["ratio"].as_f64().expect("a ratio") > 0.0, "{cell}");
}

/// The four turns of work in it take more than 10 µs on any processor.
#[test]
fn the_chain_is_the_floor_of_a_call() {
    let report = report(&[], &["--quick", "--only", "chain,chain-rested,rested"]);
    let median = |name: &str| row(&report, name)["p50"].as_f64().expect("a median");
    assert!(median("chain") > 10.0, "{report}");
    let floors = |name: &str| [row(&report, name)["floor"].clone(), row(&report, name)["further"][0]["floor"].clone()];
    assert_eq!(floors("rested"), ["chain-rested", "1+1"].map(Value::from), "{report}");
    assert_eq!(row(&report, "chain-rested")["floor"], "chain");
}

#[test]
fn sizes_are_taken() {
    let report = report(
        &[],
        &["--rounds", "1", "--only", "memory,throughput,throughput-http,throughput-http-opened,output,output-memory"],
    );
    for (name, unit) in [
        ("throughput", "cells/s"),
        ("throughput-http", "cells/s"),
        ("throughput-http-opened", "cells/s"),
        ("output", "MB/s"),
    ] {
        let row = row(&report, name);
        assert_eq!(row["unit"], unit);
        assert!(row["p50"].as_f64().expect("a figure") > 1.0, "{row}");
    }
    // The server holds head and tail of 100 MB, and no more.
    assert!(row(&report, "output-memory")["p50"].as_f64().expect("a figure") < 50.0, "{report}");
}

/// The other server is this one: any that speaks MCP over stdio will do.
#[test]
fn another_server_is_measured_beside() {
    let workspace = tempfile::tempdir().expect("a folder");
    let other = format!(
        "{} --log error --workspace {} --python {}",
        env!("CARGO_BIN_EXE_forkpy"),
        workspace.path().display(),
        env!("FORKPY_BUILD_PYTHON")
    );
    let report = report(&[], &["--quick", "--only", "other", "--against", &other]);
    assert!(row(&report, "other")["ratio"].as_f64().expect("a ratio") > 0.0);
    let missing = bench(&[], &["--quick", "--only", "other", "--against", "no-such-program-here"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = text(&missing.stderr);
    assert!(said.contains("no-such-program-here ended in the middle of the measurement"), "{said}");
}

#[test]
fn an_earlier_run_stands_beside_and_one_that_is_none_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("before.json");
    let path = file.to_str().expect("UTF-8");
    let before = bench(&[], &["--quick", "--only", "ping", "--json"]);
    std::fs::write(&file, &before.stdout).expect("written");
    let now = bench(&[], &["--quick", "--only", "ping", "--compare", path]);
    let said = text(&now.stdout);
    assert!(said.contains("now/before") && said.contains("| ping"), "{said}");

    std::fs::write(&file, "{}").expect("written");
    let refused = bench(&[], &["--compare", path]);
    assert!(text(&refused.stderr).contains("it is not what `forkpy bench --json` prints"), "{refused:?}");
    let mut other: Value = serde_json::from_slice(&before.stdout).expect("JSON");
    other["format"] = 99.into();
    std::fs::write(&file, other.to_string()).expect("written");
    assert!(text(&bench(&[], &["--compare", path]).stderr).contains("its format is 99"));
}

#[test]
fn rows_are_explained_and_unknown_ones_refused() {
    let explained = text(&bench(&[], &["--explain"]).stdout);
    assert!(explained.contains("1+1 (us)\n    a cell `1+1`") && explained.contains("Ratio to: ping"), "{explained}");
    let unknown = bench(&[], &["--only", "pong"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("there is no row \"pong\""), "{unknown:?}");
    let skipped = text(&bench(&[], &["--quick", "--only", "ipykernel,ping"]).stdout);
    assert!(skipped.contains("not measured: ipykernel: asked for by --against ipykernel"), "{skipped}");
}
