//! What `--preload` names is imported as in any program, and what cannot be is left out: sessions always start.
//! With real libraries: `tests/clients/test_preload.py`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Forkpy, PATIENCE, Setup};

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

/// Installed modules, and a place where servers note what was imported.
struct Day {
    place: tempfile::TempDir,
}

impl Day {
    fn new(modules: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        fs::create_dir(place.path().join("site-packages")).expect("made");
        for (name, text) in modules {
            let text = format!("import time\ntime.sleep(0.2)\n{text}\n");
            fs::write(place.path().join(format!("site-packages/{name}.py")), text).expect("written");
        }
        Self { place }
    }

    fn start(&self, more: &[&str]) -> Forkpy {
        let (modules, envs) = (self.place.path().join("site-packages"), self.envs());
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let args = ["--pythonpath".to_owned(), path(&modules), "--env-dir".to_owned(), path(&envs)];
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        // What it does without being asked.
        Setup::new().unset("FORKPY_PRELOAD").keep_log().args(&args).start()
    }

    fn envs(&self) -> PathBuf {
        self.place.path().join("envs")
    }

    /// A server whose sessions import these, until that is written down.
    fn first(&self, modules: &[&str]) {
        let mut forkpy = self.start(&[]);
        for module in modules {
            forkpy.run(&format!("import {module}"));
        }
        let began = Instant::now();
        let is_noted = || {
            let files = fs::read_dir(self.envs()).into_iter().flatten().flatten();
            let text: String = files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
            modules.iter().all(|module| text.contains(module))
        };
        while !is_noted() {
            assert!(began.elapsed() < PATIENCE, "{}", forkpy.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn info(forkpy: &mut Forkpy) -> Value {
    forkpy.call("get_workspace_info", json!({})).data["preload"].clone()
}

fn added(forkpy: &mut Forkpy) -> Vec<String> {
    let added = info(forkpy)["added"].clone();
    let names = added.as_array().into_iter().flatten().map(|one| one["module"].as_str().expect("a name").to_owned());
    names.collect()
}

/// What a session that is made now finds loaded.
fn loaded_in_new(forkpy: &mut Forkpy) -> String {
    forkpy.call("create_session", json!({"session_id": "new"}));
    let reply = forkpy.call("run_python_code", json!({"session_id": "new", "code": LOADED}));
    reply.data["results"][0].as_str().unwrap_or_else(|| panic!("{reply:?}")).to_owned()
}

fn wait_for(forkpy: &mut Forkpy, what: impl Fn(&mut Forkpy) -> bool) {
    let began = Instant::now();
    while !what(forkpy) {
        assert!(began.elapsed() < PATIENCE, "{}", forkpy.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_sessions_have_waited_for_the_next_servers_sessions_have() {
    let day = Day::new(&[("pre_slow", "x = 5")]);
    day.first(&["pre_slow"]);
    let mut forkpy = day.start(&[]);
    let before = forkpy.pid();
    wait_for(&mut forkpy, |forkpy| added(forkpy) == ["pre_slow"]);
    let told = info(&mut forkpy);
    assert_eq!(told["mode"], "auto");
    assert!(told["added"][0]["seconds"].as_f64().expect("seconds") >= 0.2, "{told}");
    wait_for(&mut forkpy, |forkpy| forkpy.log().contains("preload auto: new sessions have these modules"));
    // Also the session that was there before, since nothing had run in it; and nothing is said to be lost.
    wait_for(&mut forkpy, |forkpy| forkpy.pid() != before);
    assert_eq!(forkpy.eval(LOADED), "['pre_slow']");
    let cell = forkpy.run("import pre_slow; pre_slow.x");
    assert_eq!((&cell["state"], &cell["results"], &cell["notice"]), (&"kept".into(), &json!(["5"]), &Value::Null));
    assert_eq!(loaded_in_new(&mut forkpy), "['pre_slow']");

    let mut without = day.start(&["--preload", "none"]);
    assert_eq!((without.eval(LOADED), info(&mut without)["mode"].clone()), ("[]".to_owned(), "none".into()));
}

#[test]
fn a_session_in_use_keeps_its_worker() {
    let day = Day::new(&[("pre_slow", "")]);
    day.first(&["pre_slow"]);
    let mut forkpy = day.start(&["--checkpoints", "off"]);
    forkpy.run("x = 41");
    let pid = forkpy.pid();
    wait_for(&mut forkpy, |forkpy| added(forkpy) == ["pre_slow"]);
    assert_eq!(loaded_in_new(&mut forkpy), "['pre_slow']");
    assert_eq!((forkpy.eval("x + 1"), forkpy.pid()), ("42".to_owned(), pid));
    // Its worker's end is heard and told as ever, though the zygote that made it is gone.
    let died = forkpy.run("import os; os._exit(7)");
    assert_eq!(died["exit_code"], 7, "{died}");
    assert_eq!(forkpy.eval(LOADED), "['pre_slow']");
}

#[test]
fn what_starts_threads_is_left_out_and_told() {
    let threads =
        "import threading\nstop = threading.Event()\nt = threading.Thread(target=stop.wait, daemon=True)\nt.start()";
    let day = Day::new(&[("pre_slow", ""), ("pre_threads", threads)]);
    day.first(&["pre_slow", "pre_threads"]);
    let mut forkpy = day.start(&[]);
    wait_for(&mut forkpy, |forkpy| added(forkpy) == ["pre_slow"]);
    let told = info(&mut forkpy);
    assert_eq!(told["left_out"][0]["module"], "pre_threads", "{told}");
    assert!(told["left_out"][0]["reason"].as_str().expect("words").contains("threads"), "{told}");
    assert_eq!(forkpy.eval("import pre_threads; pre_threads.t.is_alive()"), "True");
}

/// It can be imported, but no worker of that zygote ever says a word.
#[test]
fn a_zygote_that_is_of_no_use_is_taken_back() {
    let day = Day::new(&[("pre_slow", "import os\nos.register_at_fork(after_in_child=lambda: os._exit(1))")]);
    day.first(&["pre_slow"]);
    let mut forkpy = day.start(&[]);
    wait_for(&mut forkpy, |forkpy| forkpy.log().contains("the new zygote is of no use"));
    wait_for(&mut forkpy, |forkpy| added(forkpy).is_empty() && info(forkpy)["left_out"][0]["module"] == "pre_slow");
    assert_eq!(loaded_in_new(&mut forkpy), "[]");
    assert_eq!(forkpy.eval("import pre_slow; 1"), "1");
}
