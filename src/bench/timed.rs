//! One turn of each row whose figure is a time.
//!
//! Runs in: bench. What comes before and after what is timed (rest, removal of a session) is done here, untimed.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    BenchError,
    client::Client,
    floors,
    rows::{self, Row},
    stage::{self, KEPT, SESSION, Stage},
};

/// After this the machine has gone to rest, and spare workers are ready.
const REST: Duration = Duration::from_millis(20);
/// After this a checkpoint that was used has another worker ready.
const BEHIND: Duration = Duration::from_millis(50);
/// Copies of a session that are made at once.
const COPIES: u32 = 100;
/// Time limit of the cell that is interrupted.
const LIMIT: Duration = Duration::from_millis(50);

const SUM: &str = "import numpy as np; np.ones(1000).sum()";
const DESCRIBE: &str = "\
import numpy as np, pandas as pd
df = pd.DataFrame({name: np.arange(1000.0) for name in 'abcd'})
df.describe()";

/// Why this row cannot be timed here; `None` when it can.
#[must_use]
pub(crate) fn why_not(row: &Row, stage: &Stage) -> Option<String> {
    let missing = |module: &str| (!stage.has(module)).then(|| format!("the sessions' Python has no {module}"));
    match row.name {
        "numpy-sum" => missing("numpy"),
        "describe" | "memory-preloaded" => missing("pandas"),
        "import-auto" => missing("pandas").or_else(|| {
            (!stage.has_own_python())
                .then(|| "needs --python or --venv, so that no environment is made for it".to_owned())
        }),
        "ipykernel" | "ipykernel-start" if stage.against() != Some("ipykernel") => {
            Some("asked for by --against ipykernel".to_owned())
        }
        "ipykernel" | "ipykernel-start" => missing("ipykernel").or_else(|| missing("jupyter_client")),
        "other" if matches!(stage.against(), None | Some("ipykernel")) => {
            Some("asked for by --against COMMAND".to_owned())
        }
        _ => None,
    }
}

#[expect(clippy::too_many_lines, reason = "a table: one row each")]
pub(crate) fn turn(row: &Row, stage: &mut Stage) -> Result<Duration, BenchError> {
    match row.name {
        "pipe" => stage.pipe()?.turn(),
        "socket" => stage.socket()?.turn(),
        "chain" => stage.chain()?.turn(),
        "chain-rested" => {
            let chain = stage.chain()?;
            thread::sleep(REST);
            chain.turn()
        }
        "fork" => floors::fork(),
        "zygote-fork" => stage.fork().map(Duration::from_nanos),
        "python" => python(stage),
        "ping" => stage.main.call("ping", &json!({})),
        rows::CELL => stage.main.run("1+1", SESSION),
        "front" => stage.behind()?.client()?.run("1+1", SESSION),
        "worker" => worker(stage),
        "pass" => stage.main.run("pass", SESSION),
        "print" => stage.main.run("print(1)", SESSION),
        "error" => stage.main.run("1/0", SESSION),
        "result-1mb" => stage.main.run("'x' * 1_000_000", SESSION),
        "numpy-sum" => stage.main.run(SUM, SESSION),
        "rested" => {
            thread::sleep(REST);
            stage.main.run("1+1", SESSION)
        }
        "new-session" => {
            let name = stage.fresh();
            thread::sleep(REST);
            session(&mut stage.main, &name, "1+1")
        }
        "new-session-cold" => {
            let name = stage.fresh();
            thread::sleep(REST);
            session(stage.cold()?, &name, "1+1")
        }
        "new-session-confined" => {
            let name = stage.fresh();
            thread::sleep(REST);
            session(stage.confined()?, &name, "1+1")
        }
        "confined" => stage.confined()?.run("1+1", SESSION),
        "describe" => {
            let name = stage.fresh();
            let client = stage.preloaded()?;
            thread::sleep(REST);
            session(client, &name, DESCRIBE)
        }
        "restart" => restart(stage),
        "interrupt" => interrupt(stage),
        "checkpoint" => checkpoint(stage),
        "restore" => restore(stage),
        "restore-again" => restore_again(stage),
        "fan-out" => fan_out(stage),
        "import-auto" => import_auto(stage),
        "initialize" => begin(stage, &[], false),
        "cold-start" => begin(stage, &[], true),
        "cold-start-image" => {
            stage.leave_an_image()?;
            begin(stage, stage::WITH_IMAGE, true)
        }
        "ipykernel" => stage.kernel()?.cell(),
        "ipykernel-start" => stage.kernel()?.another(),
        "other" => stage.other()?.cell(),
        name => Err(BenchError::Option(format!("no way to time {name:?}"))),
    }
}

fn python(stage: &Stage) -> Result<Duration, BenchError> {
    let mut command = Command::new(&stage.interpreter.executable);
    command.args(["-c", "pass"]).stdin(Stdio::null());
    let began = Instant::now();
    command.status().map_err(BenchError::system("start Python"))?;
    Ok(began.elapsed())
}

fn worker(stage: &mut Stage) -> Result<Duration, BenchError> {
    stage.main.run("1+1", SESSION)?;
    Ok(Duration::from_secs_f64(stage.main.reply()["execution_time"].as_f64().unwrap_or(0.0)))
}

/// A session and its first cell; the session goes away afterwards.
fn session(client: &mut Client, name: &str, code: &str) -> Result<Duration, BenchError> {
    let began = Instant::now();
    client.call("create_session", &json!({"session_id": name}))?;
    client.run(code, name)?;
    let took = began.elapsed();
    client.call("delete_session", &json!({"session_id": name}))?;
    Ok(took)
}

fn restart(stage: &mut Stage) -> Result<Duration, BenchError> {
    let began = Instant::now();
    stage.main.call("restart_kernel", &json!({"session_id": SESSION}))?;
    stage.main.run("1+1", SESSION)?;
    Ok(began.elapsed())
}

fn interrupt(stage: &mut Stage) -> Result<Duration, BenchError> {
    let call = json!({"code": "while True: pass", "session_id": SESSION, "timeout": LIMIT.as_secs_f64()});
    Ok(stage.main.call("run_python_code", &call)?.saturating_sub(LIMIT))
}

fn checkpoint(stage: &mut Stage) -> Result<Duration, BenchError> {
    let name = json!({"session_id": KEPT, "name": "kept"});
    let took = stage.main.call("checkpoint_session", &name)?;
    stage.main.call("delete_checkpoint", &name)?;
    Ok(took)
}

fn restore(stage: &mut Stage) -> Result<Duration, BenchError> {
    let name = json!({"session_id": KEPT, "name": "kept"});
    stage.main.call("checkpoint_session", &name)?;
    let began = Instant::now();
    stage.main.call("restore_checkpoint", &name)?;
    stage.main.run("1+1", KEPT)?;
    let took = began.elapsed();
    stage.main.call("delete_checkpoint", &name)?;
    Ok(took)
}

/// Goes back to where the session has gone back to before: what that left ready is there after a rest.
fn restore_again(stage: &mut Stage) -> Result<Duration, BenchError> {
    let name = json!({"session_id": KEPT, "name": "again"});
    stage.main.call("checkpoint_session", &name)?;
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        let began = Instant::now();
        stage.main.call("restore_checkpoint", &name)?;
        stage.main.run("1+1", KEPT)?;
        took = began.elapsed();
        thread::sleep(BEHIND);
    }
    stage.main.call("delete_checkpoint", &name)?;
    Ok(took)
}

fn fan_out(stage: &mut Stage) -> Result<Duration, BenchError> {
    let copies = stage.fresh();
    let wish = json!({"session_id": SESSION, "new_session_id": &copies, "count": COPIES});
    let client = stage.many()?;
    let took = client.call("fork_session", &wish)?;
    for number in 1..=COPIES {
        client.call("delete_session", &json!({"session_id": format!("{copies}-{number}")}))?;
    }
    Ok(took)
}

fn import_auto(stage: &mut Stage) -> Result<Duration, BenchError> {
    let name = stage.fresh();
    let client = stage.second_day()?;
    client.call("create_session", &json!({"session_id": name}))?;
    thread::sleep(REST);
    let took = client.run("import pandas", &name)?;
    client.call("delete_session", &json!({"session_id": name}))?;
    Ok(took)
}

/// A new server, to its first answer or to its first result.
fn begin(stage: &mut Stage, more: &[&str], to_result: bool) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let mut client = stage.server(more)?;
    if to_result {
        client.run("1+1", SESSION)?;
    }
    Ok(began.elapsed())
}
