//! What `--preload` names is imported as in any program, and what cannot be is left out: sessions always start.
//! With real libraries: `tests/clients/test_preload.py`.

use std::fs;

use crate::support::{Forkpy, Setup};

/// A server whose sessions find these modules, with all of them preloaded.
fn preloading(modules: &[(&str, &str)]) -> Forkpy {
    let setup = Setup::new().keep_log();
    let place = setup.workspace.with_file_name("modules");
    fs::create_dir(&place).expect("made");
    for (name, text) in modules {
        fs::write(place.join(format!("{name}.py")), text).expect("written");
    }
    let names: Vec<&str> = modules.iter().map(|(name, _)| *name).collect();
    setup.env("PYTHONPATH", place.to_str().expect("UTF-8")).args(&["--preload", &names.join(",")]).start()
}

const LOADED: &str = "import sys; sorted(name for name in sys.modules if name.startswith('pre_'))";

/// Then no cell of any session ran.
#[test]
fn a_module_that_starts_threads_is_left_out_and_sessions_import_it_themselves() {
    let threads =
        "import threading\nstop = threading.Event()\nt = threading.Thread(target=stop.wait, daemon=True)\nt.start()\n";
    let mut forkpy = preloading(&[("pre_first", "x = 1"), ("pre_threads", threads), ("pre_last", "x = 2")]);
    assert_eq!(forkpy.eval(LOADED), "['pre_first', 'pre_last']");
    assert_eq!(forkpy.eval("import pre_threads; pre_threads.t.is_alive()"), "True");
    let log = forkpy.log();
    assert!(log.contains("left out of --preload") && log.contains("pre_threads"), "{log}");
}

#[test]
fn a_module_that_ends_the_process_is_left_out() {
    let mut forkpy =
        preloading(&[("pre_first", "x = 1"), ("pre_ends", "import os\nos._exit(3)"), ("pre_last", "x = 2")]);
    assert_eq!(forkpy.eval(LOADED), "['pre_first', 'pre_last']");
    assert!(forkpy.log().contains("the process ended while it was imported"), "{}", forkpy.log());
}

/// `OPENBLAS_NUM_THREADS=1` and its like were set meanwhile, so that BLAS had one thread in every session.
#[test]
fn a_preloaded_module_finds_the_environment_as_it_is() {
    let look = "import os\nsaw = {name: value for name, value in os.environ.items() if 'THREADS' in name}";
    let mut forkpy = preloading(&[("pre_looks", look)]);
    let own = std::env::vars().filter(|(name, _)| name.contains("THREADS")).count();
    assert_eq!(forkpy.eval("import pre_looks; len(pre_looks.saw)"), own.to_string());
    assert_eq!(forkpy.eval(&format!("{look}\nsaw == pre_looks.saw")), "True");
}
