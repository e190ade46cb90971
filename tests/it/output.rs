//! Output: captured at descriptor level, in order, under a cap, the whole in a file.

use serde_json::json;

use crate::support::{Forkpy, Setup, processes};

#[test]
fn python_c_and_child_processes_stay_in_order() {
    let mut forkpy = Forkpy::start();
    let code = "\
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None)
for turn in range(3):
    print('A', end='')
    os.write(1, b'B')
    libc.printf(b'C')
    subprocess.run(['printf', 'D'])
    sys.stdout.write('E')";
    assert_eq!(forkpy.run(code)["stdout"], "ABCDE".repeat(3));
}

#[test]
fn nothing_a_cell_prints_reaches_the_protocol() {
    let mut forkpy = Forkpy::start();
    let code = "\
import os, sys
os.write(1, b'{\"jsonrpc\": \"2.0\", \"id\": 1, \"result\": {}}\\n')
sys.__stdout__.write('not json\\n'); sys.__stdout__.flush()
os.system('echo from a shell')
open('/dev/stdout', 'w').write('by name\\n')";
    let stdout = forkpy.run(code)["stdout"].as_str().expect("text").to_owned();
    for part in ["jsonrpc", "not json", "from a shell", "by name"] {
        assert!(stdout.contains(part), "{stdout}");
    }
    assert_eq!(forkpy.eval("1"), "1");
}

#[test]
fn bytes_that_are_no_text_arrive_as_text() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("import os\nos.write(1, b'a\\xff\\x00b')\nprint('\\ud800')");
    assert_eq!(reply["stdout"], "a\u{fffd}\0b\\ud800\n");
}

#[test]
fn long_output_keeps_head_and_tail_and_the_whole_is_in_a_file() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("print('first')\nfor n in range(200_000): print(n)\nprint('last')");
    let stdout = reply["stdout"].as_str().expect("text");
    assert!(stdout.len() < 42_000 && stdout.starts_with("first\n0\n1\n") && stdout.ends_with("199999\nlast\n"));
    let file = reply["stdout_file"].as_str().expect("named");
    assert!(stdout.contains(file), "the text names the file");
    let whole = std::fs::read_to_string(forkpy.file(file)).expect("there");
    assert_eq!(whole.len() as u64, reply["stdout_bytes"].as_u64().expect("a number"));
    assert_eq!(whole.lines().count(), 200_002);
    assert_eq!(reply["new_files"], json!([]), "our own file is no news");
}

#[test]
fn the_cap_can_be_chosen() {
    let mut forkpy = Setup::new().args(&["--max-output", "1000"]).start();
    let reply = forkpy.run("print('x' * 5000)");
    assert!(reply["stdout"].as_str().expect("text").len() < 1200);
    assert!(reply["stdout_file"].is_string() && reply["stderr_file"].is_null());
}

#[test]
fn a_flood_costs_the_server_no_memory_and_other_sessions_go_on() {
    let mut forkpy = Forkpy::start();
    forkpy.call("create_session", json!({"session_id": "other"}));
    forkpy.call("run_python_code", json!({"code": "1", "session_id": "other"}));
    let server = forkpy.server_pid();
    let before = processes::memory(server);
    // On a busy machine it takes longer than a client waits that says nothing.
    let code = "import sys\nfor _ in range(200): sys.stdout.write('y' * 1_000_000)";
    let flood = forkpy.begin_call("run_python_code", json!({"code": code, "wait": 600, "timeout": 600}));
    while !forkpy.has_answer(flood) {
        let reply = forkpy.call("run_python_code", json!({"code": "1 + 1", "session_id": "other"})).data;
        assert_eq!(reply["results"], json!(["2"]));
    }
    let flood = forkpy.reply(flood);
    assert_eq!(flood.data["stdout_bytes"], 200_000_000, "{}", flood.text.chars().take(300).collect::<String>());
    let grown = processes::peak_memory(server).saturating_sub(before);
    assert!(grown < 20 << 20, "the server grew by {grown} bytes, at its highest");
}

#[test]
fn a_cell_that_never_stops_printing_meets_its_time_out() {
    let mut forkpy = Forkpy::start();
    let code = "x = 1\nwhile True: print('again and again')";
    let reply = forkpy.call("run_python_code", json!({"code": code, "timeout": 2})).data;
    assert_eq!((&reply["status"], &reply["state"]), (&json!("timeout"), &json!("kept")));
    assert_eq!(forkpy.eval("x"), "1");
}

#[test]
fn a_closed_standard_output_is_the_cells_own_affair() {
    let mut forkpy = Forkpy::start();
    assert_eq!(
        forkpy.run("import os, sys\nx = 1\nos.close(1)\nsys.stderr.write('still here')")["stderr"],
        "still here"
    );
    assert_eq!(forkpy.eval("x"), "1");
}

#[test]
fn output_between_cells_comes_with_the_next_reply() {
    let mut forkpy = Forkpy::start();
    let code = "\
import os, threading
gate = threading.Event()
def later():
    gate.wait()
    os.write(1, b'from the background')
    open('written', 'w').close()
threading.Thread(target=later).start()
threading.Timer(0.2, gate.set).start()";
    forkpy.run(code);
    crate::support::wait_for("the thread", || forkpy.workspace.join("written").exists());
    let reply = forkpy.run("print('cell')");
    let both =
        format!("{}{}", reply["background"].as_str().unwrap_or_default(), reply["stdout"].as_str().expect("text"));
    assert!(both.contains("from the background") && both.contains("cell\n"), "{reply}");
}

/// A child that lives on holds the pipe open; waiting for its end would hang the reply.
#[test]
fn a_background_child_does_not_hold_up_the_reply() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("import subprocess\nchild = subprocess.Popen(['sleep', '300'])\nprint('done')");
    assert_eq!((&reply["status"], &reply["stdout"]), (&json!("ok"), &json!("done\n")));
}

/// Scripts may close what the session goes on using.
#[test]
fn closed_streams_serve_the_next_cell() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("import sys\nprint('one')\nsys.stdout.close(); sys.stderr.close(); sys.stdin.close()");
    assert_eq!((&reply["status"], &reply["stdout"]), (&json!("ok"), &json!("one\n")));
    let reply = forkpy.run("print('two'); print('three', file=sys.stderr)");
    assert_eq!((&reply["stdout"], &reply["stderr"]), (&json!("two\n"), &json!("three\n")));
}
