//! What differs between CPythons, shown where a test runs with one that has it (`src/zygote/pythons.rs`). Each test asks what
//! holds for the CPython that it meets, and says by name what it could not see there: `NOT TESTED`.

use serde_json::json;

use crate::support::{Forkpy, Setup};

/// Whether sessions have this version or a newer one.
#[expect(clippy::print_stdout, reason = "what is not tested is named to those who run the tests")]
fn has(forkpy: &mut Forkpy, minor: u32, what: &str) -> bool {
    let here: u32 = forkpy.eval("__import__('sys').version_info.minor").parse().expect("a number");
    if here < minor {
        println!("NOT TESTED: CPython 3.{minor} and {what}: sessions have 3.{here}");
    }
    here >= minor
}

#[test]
fn a_session_and_its_copies_are_made_without_warnings() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("import os, warnings\nwarnings.simplefilter('error')\nx = 1");
    let made = forkpy.call("checkpoint_session", json!({"name": "one"}));
    assert!(!made.is_error, "{}", made.text);
    forkpy.run("x = 2");
    let back = forkpy.call("restore_checkpoint", json!({"name": "one"}));
    assert!(!back.is_error, "{}", back.text);
    assert_eq!(forkpy.eval("x"), "1");
    // As under any kernel: a session has threads.
    let warned = usize::from(has(&mut forkpy, 12, "its warning of a fork beside threads"));
    let forks = "with warnings.catch_warnings(record=True) as told:\n    warnings.simplefilter('always')\n    pid = os.fork()\n\
                 \x20   if pid == 0: os._exit(7)\n\
                 len(told), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])";
    assert_eq!(forkpy.eval(forks), format!("({warned}, 7)"));
}

#[test]
fn the_usual_way_to_start_processes_knows_what_cells_define() {
    let mut forkpy = Forkpy::start();
    let usual = if has(&mut forkpy, 14, "forkserver as the usual way") { "forkserver" } else { "fork" };
    forkpy.run("import multiprocessing\ndef double(x): return 2 * x");
    assert_eq!(forkpy.eval("multiprocessing.get_context().get_start_method()"), format!("'{usual}'"));
    let pickler = forkpy.eval("import importlib.util; importlib.util.find_spec('cloudpickle') is not None");
    let pool = "with multiprocessing.Pool(1) as pool: found = pool.map(double, [4])\nfound";
    if usual == "fork" || pickler == "True" {
        assert_eq!(forkpy.eval(pool), "[8]");
    } else {
        let reply = forkpy.run(pool);
        assert!(reply["error"]["message"].as_str().expect("words").contains("cloudpickle"), "{reply}");
    }
}

#[test]
fn a_thread_that_is_called_as_one_of_ours_is_told_before_a_copy() {
    let mut forkpy = Setup::new().args(&["--checkpoints", "off"]).start();
    forkpy.run("import threading\nstop = threading.Event()\nthread = threading.Thread(target=stop.wait, name='fp-pinger')\nthread.start()");
    let names = "sorted(open(f'/proc/self/task/{thread.native_id}/comm'))";
    let in_the_system = forkpy.eval(names).contains("fp-pinger");
    assert_eq!(in_the_system, has(&mut forkpy, 14, "names of threads in the system"));
    let refused = forkpy.call("checkpoint_session", json!({"name": "one"}));
    assert!(refused.is_error && refused.text.contains("fp-pinger"), "{}", refused.text);
    forkpy.run("stop.set(); thread.join()");
    assert!(!forkpy.call("checkpoint_session", json!({"name": "one"})).is_error);
}

/// Nothing is known of these, so a person who builds with one is told before the first session.
#[expect(clippy::print_stdout, reason = "as above")]
#[test]
fn a_build_without_the_gil_says_that_it_was_not_tested() {
    let mut forkpy = Forkpy::start();
    let is_free = forkpy.eval("__import__('sysconfig').get_config_var('Py_GIL_DISABLED') == 1") == "True";
    let looked = Setup::new().args(&["doctor"]).command().output().expect("it runs");
    let text = String::from_utf8_lossy(&looked.stdout);
    assert!(text.contains("CPython"), "{text}");
    assert_eq!(text.contains("NOT TESTED without the GIL"), is_free, "{text}");
    if !is_free {
        println!("NOT TESTED: free-threaded CPython (3.14t): none could be had here, and pyo3 takes no older one");
    }
}
