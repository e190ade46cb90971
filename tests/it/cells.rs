//! What a cell sees: a namespace like `__main__`, order, the queue, sessions side by side.

use std::time::Duration;

use serde_json::json;

use crate::support::{Forkpy, Setup};

#[test]
fn a_session_is_like_main() {
    let mut forkpy = Forkpy::start();
    let code = "\
import dataclasses, pickle
@dataclasses.dataclass
class Point:
    x: int
def double(n):
    return 2 * n
__name__";
    assert_eq!(forkpy.eval(code), "'__main__'");
    assert_eq!(forkpy.eval("pickle.loads(pickle.dumps(Point(3)))"), "Point(x=3)");
    assert!(forkpy.eval("import inspect; inspect.getsource(double)").contains("return 2 * n"));
    assert_eq!(forkpy.eval("ran = False\nif __name__ == '__main__':\n    ran = True\nran"), "True");
    assert_eq!(forkpy.eval("import asyncio\nawait asyncio.sleep(0, 'awaited')"), "'awaited'");
    assert_eq!(forkpy.eval("import sys, os; os.path.samefile(sys.path[0], os.getcwd())"), "True");
}

#[test]
fn a_traceback_shows_the_lines_of_every_cell_it_goes_through() {
    let mut forkpy = Forkpy::start();
    forkpy.run("def inner():\n    return 1 / 0  # the culprit");
    let reply = forkpy.run("x = 5\ninner()  # the caller");
    assert_eq!(reply["status"], "error");
    assert_eq!((&reply["error"]["type"], &reply["error"]["line"]), (&json!("ZeroDivisionError"), &json!(2)));
    let stderr = reply["stderr"].as_str().expect("text");
    for part in ["<cell 1>", "line 2, in inner", "# the culprit", "<cell 2>", "# the caller"] {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
    assert!(!stderr.contains("forkpy_worker"), "our own frames are left out: {stderr}");
    assert_eq!(forkpy.eval("x"), "5");
}

#[test]
fn the_python_of_a_session_is_a_real_one_with_the_same_packages() {
    let mut forkpy = Forkpy::start();
    let code = "\
import subprocess, sys
said = subprocess.run([sys.executable, '-c', 'import sys; print(sys.version_info[:2], sys.prefix)'],
                      capture_output=True, text=True).stdout.strip()
said == f'{sys.version_info[:2]} {sys.prefix}'";
    assert_eq!(forkpy.eval(code), "True");
    let code = "\
import concurrent.futures, multiprocessing
with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context('fork')) as pool:
    squares = list(pool.map(pow, [1, 2, 3], [2, 2, 2]))
squares";
    assert_eq!(forkpy.eval(code), "[1, 4, 9]");
}

#[test]
fn sessions_do_not_draw_the_same_random_numbers() {
    let mut forkpy = Forkpy::start();
    let mut drawn = Vec::new();
    for session in ["a", "b", "c"] {
        forkpy.call("create_session", json!({"session_id": session}));
        let code = "import random, secrets, uuid; random.random(), secrets.token_hex(4), str(uuid.uuid4())";
        let reply = forkpy.call("run_python_code", json!({"code": code, "session_id": session})).data;
        drawn.push(reply["results"][0].to_string());
    }
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), 3, "{drawn:?}");
}

#[test]
fn cells_of_one_session_queue_in_order_and_say_how_long() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os, time; log = []");
    let first = forkpy.begin_run("while not os.path.exists('go'): time.sleep(0.01)\nlog.append(0)");
    let others: Vec<u64> = (1..8).map(|n| forkpy.begin_run(&format!("log.append({n})"))).collect();
    // Its answer says that the server has read all of them; from then on they wait longer than what is left out.
    forkpy.health();
    std::thread::sleep(Duration::from_millis(700));
    std::fs::write(forkpy.file("go"), "").expect("written");
    assert_eq!(forkpy.reply(first).data["status"], "ok");
    for id in others {
        let reply = forkpy.reply(id).data;
        assert!(reply["queued_time"].as_f64().is_some_and(|seconds| seconds > 0.5), "{reply}");
    }
    assert_eq!(forkpy.eval("log"), "[0, 1, 2, 3, 4, 5, 6, 7]");
}

#[test]
fn the_queue_is_bounded_and_what_did_not_fit_was_not_run() {
    let mut forkpy = Setup::new().args(&["--queue", "3"]).start();
    forkpy.run("import os, time; ran = []");
    let busy = forkpy.begin_run("while not os.path.exists('go'): time.sleep(0.01)");
    forkpy.until_state("busy");
    let ids: Vec<u64> = (0..5).map(|n| forkpy.begin_run(&format!("ran.append({n})"))).collect();
    // Those that are refused are answered at once, the others when the cell before them has ended.
    let mut replies: Vec<_> = ids[3..].iter().map(|id| forkpy.reply(*id)).collect();
    std::fs::write(forkpy.file("go"), "").expect("written");
    replies.extend(ids[..3].iter().map(|id| forkpy.reply(*id)));
    forkpy.reply(busy);
    let refused: Vec<_> = replies.iter().filter(|reply| reply.is_error).collect();
    assert_eq!(refused.len(), 2);
    assert!(refused[0].text.contains("session \"default\" has 3 calls waiting"), "{}", refused[0].text);
    assert_eq!(forkpy.eval("ran"), "[0, 1, 2]");
}

#[test]
fn sessions_run_side_by_side_and_do_not_see_each_other() {
    let mut forkpy = Forkpy::start();
    let sessions = ["a", "b", "c", "d"];
    for session in sessions {
        forkpy.call("create_session", json!({"session_id": session}));
    }
    // None of them ends before all have begun.
    let code = "import os, time\nown = globals().get('own', 0) + 1\nopen(f'began-{os.getpid()}', 'w').close()\n\
                while sum(name.startswith('began-') for name in os.listdir()) < 4: time.sleep(0.01)\nown";
    let ids: Vec<u64> = sessions
        .iter()
        .map(|session| forkpy.begin_call("run_python_code", json!({"code": code, "session_id": session})))
        .collect();
    for id in ids {
        assert_eq!(forkpy.reply(id).data["results"], json!(["1"]));
    }
}

/// The ancestor cut off cells that were silent for a second, answered with nothing, and ran them again.
#[test]
fn a_silent_cell_runs_to_its_end_and_once() {
    let mut forkpy = Forkpy::start();
    let code = "import time\nwith open('runs', 'a') as f: f.write('x')\ntime.sleep(2.5)\n'done'";
    assert_eq!(forkpy.eval(code), "'done'");
    assert_eq!(std::fs::read_to_string(forkpy.file("runs")).expect("written"), "x");
}

#[test]
fn files_that_a_cell_makes_are_named() {
    let mut forkpy = Forkpy::start();
    let code = "\
import os
os.makedirs('deep/er', exist_ok=True)
for name in ('a.txt', 'deep/er/b.txt'):
    open(name, 'w').write('x')
open('gone.txt', 'w').close(); os.remove('gone.txt')";
    assert_eq!(forkpy.run(code)["new_files"], json!(["a.txt", "deep/er/b.txt"]));
    assert_eq!(forkpy.run("open('a.txt', 'a').write('y')")["new_files"], json!([]));
}

#[test]
fn variables_are_listed_with_type_and_summary() {
    let mut forkpy = Forkpy::start();
    forkpy.run("import os\nnumber = 7\ntext = 'abc'\n_hidden = 1\nclass Sly:\n    def __repr__(self): raise ValueError\nsly = Sly()");
    let variables = forkpy.call("list_variables", json!({})).data["variables"].clone();
    assert_eq!(variables["number"], "int: 7");
    assert_eq!(variables["text"], "str: 'abc'");
    assert!(variables["sly"].as_str().expect("there").contains("ValueError"));
    assert!(variables.get("os").is_none() && variables.get("_hidden").is_none());
}

#[test]
fn a_restart_carries_over_what_can_be_and_names_the_rest() {
    let mut forkpy = Forkpy::start();
    forkpy.run("kept = {'a': [1, 2]}\ngone = (n for n in range(3))\nimport math");
    let reply = forkpy.call("restart_kernel", json!({"preserve_state": true})).data;
    assert_eq!(reply["preserved_vars"], reply["restored_vars"]);
    assert!(reply["lost_vars"]["gone"].as_str().expect("named").contains("generator"), "{reply}");
    assert_eq!(forkpy.eval("kept, math.pi > 3, 'gone' in globals()"), "({'a': [1, 2]}, True, False)");
    forkpy.call("restart_kernel", json!({}));
    assert_eq!(forkpy.eval("'kept' in globals()"), "False");
}

/// What is running when variables are to be kept is interrupted, not killed: the variables are in that process.
#[test]
fn a_restart_of_a_busy_session_keeps_the_variables_too() {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 1");
    let cell = forkpy.begin_run("x = 2\nopen('running', 'w').close()\nwhile True: pass");
    let running = forkpy.file("running");
    forkpy.until("the cell's second line", |_| running.exists());
    let waiting = forkpy.begin_run("x = 99");
    let reply = forkpy.call("restart_kernel", json!({"preserve_state": true})).data;
    assert_eq!(reply["restored_vars"], json!(["x"]), "{reply}");
    let cut = forkpy.reply(cell);
    assert!(cut.is_error && cut.data["status"] == "cancelled" && cut.text.contains("restart_kernel"), "{cut:?}");
    let never = forkpy.reply(waiting);
    assert!(never.is_error && never.data["status"] == "refused", "{never:?}");
    assert_eq!(forkpy.eval("x"), "2");
}

/// After such a cell nothing that was printed arrived any more, and no word said why.
#[test]
fn standard_output_that_a_cell_has_led_elsewhere_is_told_of_once() {
    let mut forkpy = Forkpy::start();
    let away = "import os\nsaved = os.dup(1)\nnowhere = os.open('/dev/null', os.O_WRONLY)\nos.dup2(nowhere, 1)";
    let told = forkpy.run(away);
    assert!(told["notice"].as_str().is_some_and(|words| words.contains("leads elsewhere")), "{told}");
    let next = forkpy.run("print('gone')");
    assert_eq!((&next["stdout"], &next["notice"]), (&json!(""), &json!(null)), "once");
    let back = forkpy.run("os.dup2(saved, 1)\nprint('back')");
    assert_eq!((&back["stdout"], &back["notice"]), (&json!("back\n"), &json!(null)));
    let within = forkpy.run("os.dup2(nowhere, 1)\nprint('gone')\nos.dup2(saved, 1)\nprint('there')");
    assert_eq!((&within["stdout"], &within["notice"]), (&json!("there\n"), &json!(null)), "{within}");
}
