//! Tests of `server/environment/make/mod.rs`.
//!
//! Runs in: the test binary.

use std::{fs, os::unix::fs::PermissionsExt, process::Command as Blocking, sync::Mutex};

use tokio::time::{Instant, sleep};

use super::*;
use crate::server::environment::place::MARKER;

/// A machine of its own below a temporary directory: fake tools that write down how they were called.
struct Machine {
    root: tempfile::TempDir,
    /// What the hook heard.
    heard: Mutex<Vec<(u32, bool)>>,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().expect("tempdir"), heard: Mutex::default() };
        fs::create_dir(machine.at("bin")).expect("bin");
        let make = "mkdir -p $last/bin $last/lib/python3.11/site-packages && ln -s /bin/sh $last/bin/python && \
                    echo version_info = $(cat version) > $last/pyvenv.cfg";
        let install = "for name in pip psutil jedi cloudpickle; do case \" $* \" in *\" $name \"*) \
                       mkdir -p $site/$name-1.0.dist-info;; esac; done";
        let uv = format!(
            "case $1 in venv) {make};; pip) [ -e offline ] && echo 'error: no route to host' && exit 2; \
             site=${{4%/bin/python}}/lib/python3.11/site-packages; {install};; esac"
        );
        machine.script("bin/uv", &uv);
        machine.script("base", &format!("[ \"$3\" = venv ] && {make}"));
        fs::write(machine.at("version"), "3.11.7").expect("version");
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Written by a shell: a descriptor of ours, open for writing, would pass to children of other tests, and the
    /// system starts no program that is still open for writing.
    fn script(&self, path: &str, body: &str) {
        let text = format!(
            "#!/bin/sh\ncd '{}'\nprintf '%s\\n' \"${{0##*/}} $*\" >> calls\nfor last; do :; done\n{body}\n",
            self.root.path().display()
        );
        let path = self.at(path);
        let write = Blocking::new("/bin/sh")
            .args(["-c", "printf %s \"$2\" > \"$1\" && chmod +x \"$1\"", "sh"])
            .arg(path)
            .arg(text)
            .status();
        assert!(write.expect("sh runs").success());
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("calls")).unwrap_or_default();
        text.lines().map(|line| line.replace(&self.root.path().display().to_string(), "")).collect()
    }

    fn wish(&self) -> Wish {
        Wish { managed_roots: vec![self.at("envs")], ..Wish::default() }
    }

    async fn prepare(&self, wish: &Wish) -> Result<Environment, EnvironmentError> {
        self.prepare_within(wish, Limits::default()).await
    }

    async fn prepare_within(&self, wish: &Wish, limits: Limits) -> Result<Environment, EnvironmentError> {
        self.prepare_in(wish, limits, false).await
    }

    /// What is done behind a start is done here too.
    async fn prepare_in(&self, wish: &Wish, limits: Limits, bundled: bool) -> Result<Environment, EnvironmentError> {
        let children = |pid, alive| self.heard.lock().expect("lock").push((pid, alive));
        let search = self.at("bin").into();
        let build_python = self.at("base");
        let workshop = Workshop {
            linked: "3.11",
            build_python,
            bundled,
            search,
            limits,
            children: &children,
            confined: wish.confined.clone(),
            wheels: Vec::new(),
        };
        let Prepared { environment, unfinished, .. } = workshop.prepare(wish).await?;
        let Some(unfinished) = unfinished else { return Ok(environment) };
        let finished = unfinished.environment(workshop.finish(&unfinished).await?);
        Ok(Environment { note: format!("{}; then {}", environment.note, finished.note), ..finished })
    }

    /// An interpreter laid out as usual, and only what this binary carries: nothing is to be run.
    async fn write(&self, bundled: bool) -> Prepared {
        let (home, name) = (self.at("home"), if bundled { "python3" } else { "python3.11" });
        let _ = (fs::create_dir_all(home.join("bin")), fs::create_dir_all(home.join("lib/python3.11")));
        fs::write(home.join("lib/python3.11/os.py"), "").expect("written");
        self.script(&format!("home/bin/{name}"), "exit 1");
        let children = |pid, alive| self.heard.lock().expect("lock").push((pid, alive));
        let workshop = Workshop {
            linked: "3.11",
            build_python: home.join("bin").join(name),
            bundled,
            search: self.at("bin").into(),
            limits: Limits::default(),
            children: &children,
            confined: None,
            wheels: wheels::INSIDE.to_vec(),
        };
        let prepared = workshop.prepare(&self.wish()).await.expect("made");
        if let Some(unfinished) = &prepared.unfinished {
            let record = workshop.finish(unfinished).await.expect("finished");
            assert!(record.missing.is_empty() && record.trouble.is_none(), "{record:?}");
        }
        prepared
    }

    /// Every child that was announced was also taken back, in turn.
    fn assert_children_are_over(&self) {
        let heard = self.heard.lock().expect("lock");
        for pair in heard.chunks(2) {
            assert!(matches!(pair, [(one, true), (two, false)] if one == two), "{heard:?}");
        }
    }

    fn venv(&self, name: &str, config: &str) -> PathBuf {
        let root = self.at(name);
        fs::create_dir_all(root.join("bin")).expect("bin");
        fs::create_dir_all(root.join("lib/python3.11/site-packages/jedi-0.20.1.dist-info")).expect("jedi");
        std::os::unix::fs::symlink("/bin/sh", root.join("bin/python")).expect("link");
        fs::write(root.join("pyvenv.cfg"), config).expect("config");
        root
    }
}

#[test]
fn the_configurations_of_three_makers_are_read() {
    let stdlib = "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n";
    let uv = "home = /usr/bin\nimplementation = CPython\nuv = 0.9.7\nversion_info = 3.13.0rc2\n";
    let virtualenv = "version_info = 3.12.1.final.0\ninclude-system-site-packages = True\nversion = 3.12.1\n";
    assert_eq!(VenvConfig::parse(stdlib).version.as_deref(), Some("3.11"));
    assert_eq!(VenvConfig::parse(uv).version.as_deref(), Some("3.13"));
    let config = VenvConfig::parse(virtualenv);
    assert_eq!((config.version.as_deref(), config.system_packages), (Some("3.12"), true));
    for nonsense in ["", "version", "version =", "version = x.y", "version = 3", "\0=\u{fffd}"] {
        assert_eq!(VenvConfig::parse(nonsense), VenvConfig::default(), "{nonsense:?}");
    }
}

#[test]
fn what_is_named_on_the_command_line_wins_over_what_is_found() {
    let (venv, python, active) = (PathBuf::from("v"), PathBuf::from("p"), PathBuf::from("a"));
    let mut wish = Wish { venv: Some(venv), python: Some(python), virtual_env: Some(active), ..Wish::default() };
    assert_eq!(choose(&wish), Choice::Venv(Path::new("v")));
    wish.venv = None;
    assert_eq!(choose(&wish), Choice::Interpreter(Path::new("p")));
    wish.python = None;
    assert_eq!(choose(&wish), Choice::VirtualEnv(Path::new("a")));
    wish.virtual_env = None;
    assert_eq!(choose(&wish), Choice::Managed);
}

#[test]
fn the_name_of_a_managed_environment_never_changes() {
    let name = |base: &str| Place::new(Path::new("/e"), "3.11", Path::new(base)).directory;
    assert_eq!(name("/usr/bin/python3.11"), Path::new("/e/3.11-26f309ee"));
    assert_ne!(name("/usr/bin/python3.11"), name("/usr/local/bin/python3.11"));
}

#[tokio::test]
async fn a_named_environment_is_used_without_running_anything() {
    let machine = Machine::new();
    let root = machine.venv("venv", "version = 3.11.2\ninclude-system-site-packages = false\n");
    let wish = Wish { venv: Some(root.clone()), ..machine.wish() };
    let found = machine.prepare(&wish).await.expect("usable");
    assert_eq!((found.kind, found.python), (Kind::Venv, root.join("bin/python")));
    assert_eq!(
        (found.root, found.missing),
        (Some(root), vec!["pip".to_owned(), "psutil".to_owned(), "cloudpickle".to_owned()])
    );
    assert!(machine.calls().is_empty() && machine.heard.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn a_named_environment_that_does_not_fit_is_an_error_that_says_what_to_do() {
    let machine = Machine::new();
    let refused = async |venv, version: &str, bundled| {
        let place = machine.venv(venv, &format!("version_info = {version}\n"));
        let wish = Wish { venv: Some(place), ..machine.wish() };
        machine.prepare_in(&wish, Limits::default(), bundled).await.expect_err("another version").to_string()
    };
    let (built, bundled) = (refused("built", "3.12.1", false).await, refused("bundled", "3.12.1", true).await);
    let (older, oldest) = (refused("older", "3.9.18", false).await, refused("oldest", "2.7.18", true).await);
    for (words, parts) in [
        (&built, ["/built is Python 3.12 ", "`python3.11 -m venv DIR`", "/built/bin/python cargo install"]),
        (
            &bundled,
            ["`forkpy python -m venv DIR`", "/bundled/bin/python -m pip install forkpy", "uvx --python 3.12 forkpy"],
        ),
        // Of these there is none to be had.
        (
            &older,
            ["/older is Python 3.9 ", "`python3.11 -m venv DIR`", "no forkpy for Python 3.9, only for CPython 3.10"],
        ),
        (&oldest, ["/oldest is Python 2.7 ", "`forkpy python -m venv DIR`", "no forkpy for Python 2.7"]),
    ] {
        for part in parts {
            assert!(words.contains(part), "{part} is not in {words}");
        }
    }
    assert!(!bundled.contains("cargo") && !older.contains("PYO3_PYTHON"), "{bundled}\n{older}");
    let refused = machine.prepare(&Wish { venv: Some(machine.at("none")), ..machine.wish() }).await;
    let words = refused.expect_err("not there").to_string();
    assert!(words.contains("python3.11 -m venv ") && words.contains("/none"), "{words}");
    assert!(!machine.at("envs").exists());
}

#[tokio::test]
async fn an_active_environment_of_another_version_is_passed_over_with_a_word() {
    let machine = Machine::new();
    let active = machine.venv("active", "version = 3.13.1\n");
    let found = machine.prepare(&Wish { virtual_env: Some(active), ..machine.wish() }).await.expect("managed");
    assert_eq!(found.kind, Kind::Managed);
    assert!(found.note.contains("VIRTUAL_ENV is not used") && found.note.contains("3.13"), "{}", found.note);
}

#[tokio::test]
async fn a_projects_environment_that_was_not_named_is_told_of() {
    for (version, words) in [
        ("3.11.4", "the environment here is not used: name it with `--venv "),
        (
            "3.12.1",
            "/.venv is Python 3.12 and this forkpy is linked with Python 3.11: make one with `python3.11 -m venv DIR`",
        ),
    ] {
        let machine = Machine::new();
        machine.venv("project/.venv", &format!("home = /usr/bin\nversion = {version}\n"));
        let wish =
            |named: Option<PathBuf>| Wish { directory: Some(machine.at("project")), venv: named, ..machine.wish() };
        let found = machine.prepare(&wish(None)).await.expect("managed");
        assert!(found.kind == Kind::Managed && found.note.contains(words), "{}", found.note);
        if version == "3.11.4" {
            let named = machine.prepare(&wish(Some(machine.at("project/.venv")))).await.expect("used");
            assert!(!named.note.contains("not used"), "{}", named.note);
        }
    }
}

#[tokio::test]
async fn an_interpreter_is_asked_once_and_used_as_it_names_itself() {
    let machine = Machine::new();
    machine.script("bin/snake", "printf 'hello\\n\\nforkpy\\t3.11\\tcpython\\t/opt/real/python\\n'");
    machine.script("bin/parrot", "printf 'forkpy\\t3.11\\tpypy\\t/opt/pypy\\n'");
    machine.script("bin/stone", "echo not a python at all; exit 1");
    let wish = |name: &str| Wish { python: Some(name.into()), ..machine.wish() };
    let found = machine.prepare(&wish("snake")).await.expect("usable");
    assert_eq!((found.kind, found.python), (Kind::Interpreter, PathBuf::from("/opt/real/python")));
    assert_eq!((found.root, machine.calls().len()), (None, 1));
    let words = machine.prepare(&wish("parrot")).await.expect_err("no CPython").to_string();
    assert!(words.contains("3.11 (pypy)"), "{words}");
    let words = machine.prepare(&wish("stone")).await.expect_err("no Python").to_string();
    assert!(words.contains("bin/stone") && words.contains("not a python at all"), "{words}");
    assert!(machine.prepare(&wish("./snake")).await.is_err(), "a path is not looked up");
    machine.assert_children_are_over();
}

#[tokio::test]
async fn the_managed_environment_is_made_once() {
    let machine = Machine::new();
    let first = machine.prepare(&machine.wish()).await.expect("made");
    assert_eq!((first.kind, first.missing.len()), (Kind::Managed, 0));
    assert!(first.python.exists());
    let calls = machine.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls[0].starts_with("uv venv --quiet --python /base /envs/3.11-"), "{calls:?}");
    assert!(calls[1].starts_with("uv pip install") && calls[1].ends_with("pip psutil jedi cloudpickle"), "{calls:?}");
    assert_eq!(machine.prepare(&machine.wish()).await.expect("there").root, first.root);
    assert_eq!(machine.calls(), calls);
    machine.assert_children_are_over();
}

#[tokio::test]
async fn two_first_starts_make_one_environment() {
    let machine = Machine::new();
    let wish = machine.wish();
    let (one, two) = tokio::join!(machine.prepare(&wish), machine.prepare(&wish));
    assert_eq!(one.expect("made").python, two.expect("found").python);
    assert_eq!(machine.calls().iter().filter(|call| call.starts_with("uv venv")).count(), 1);
}

#[tokio::test]
async fn an_interrupted_creation_is_done_again() {
    let machine = Machine::new();
    let first = machine.prepare(&machine.wish()).await.expect("made");
    let root = first.root.expect("managed ones have one");
    fs::remove_file(root.join(MARKER)).expect("there");
    fs::write(root.join("rest"), "of the interrupted start").expect("written");
    machine.prepare(&machine.wish()).await.expect("made anew");
    assert!(root.join(MARKER).exists() && !root.join("rest").exists());
}

#[tokio::test]
async fn an_environment_whose_interpreter_was_removed_is_made_again() {
    let machine = Machine::new();
    let python = machine.prepare(&machine.wish()).await.expect("made").python;
    fs::remove_file(&python).expect("there");
    machine.prepare(&machine.wish()).await.expect("made anew");
    assert!(python.exists());
}

#[tokio::test]
async fn offline_it_is_usable_says_what_is_missing_and_tries_again_a_day_later() {
    let machine = Machine::new();
    fs::write(machine.at("offline"), "").expect("written");
    let found = machine.prepare(&machine.wish()).await.expect("usable all the same");
    assert_eq!(found.missing, ["pip", "psutil", "jedi", "cloudpickle"]);
    for part in ["without pip, psutil, jedi and cloudpickle", "(error: no route to host)", "tried again once a day"] {
        assert!(found.note.contains(part), "{part} is not in {}", found.note);
    }
    let before = machine.calls().len();
    fs::remove_file(machine.at("offline")).expect("there");
    let again = machine.prepare(&machine.wish()).await.expect("usable");
    assert_eq!((again.missing, machine.calls().len()), (found.missing, before), "not on the same day");
    let marker = found.root.expect("a managed one").join(MARKER);
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&marker).expect("there")).expect("JSON");
    for yesterday in [record["tried"].as_u64().expect("a time") - 86_401, u64::MAX / 2] {
        record["tried"] = yesterday.into();
        fs::write(&marker, record.to_string()).expect("written");
        let before = machine.calls().len();
        // Confined sessions may have put code into it, which the tools would run.
        let confined = Wish { confined: Some(Vec::new()), ..machine.wish() };
        let left = machine.prepare(&confined).await.expect("usable");
        assert!(!left.missing.is_empty() && machine.calls().len() == before, "{}", left.note);
        let found = machine.prepare(&machine.wish()).await.expect("usable");
        assert!(found.missing.is_empty(), "{}", found.note);
        let new = machine.calls().split_off(before);
        assert!(matches!(&new[..], [one] if one.starts_with("uv pip install")), "{new:?}");
        fs::remove_dir_all(marker.with_file_name("lib/python3.11/site-packages/jedi-1.0.dist-info")).expect("there");
    }
    machine.assert_children_are_over();
}

#[tokio::test]
async fn an_interpreter_laid_out_as_usual_needs_no_program_and_no_network() {
    let machine = Machine::new();
    let Prepared { environment, unfinished, .. } = machine.write(false).await;
    assert!(unfinished.is_some() && environment.note.contains("put into it now"), "{}", environment.note);
    let root = environment.root.expect("a managed one");
    assert_eq!(fs::read_link(root.join("bin/python")).expect("a link"), machine.at("home/bin/python3.11"));
    let config = VenvConfig::read(&root);
    assert_eq!((config.version.as_deref(), config.home), (Some("3.11"), Some(machine.at("home/bin"))));
    assert!(!config.system_packages && missing_in(&root, "3.11").is_empty());
    assert!(root.join("lib64/python3.11/site-packages/jedi/third_party/typeshed").is_dir());
    assert!(fs::metadata(root.join("bin/pip")).is_ok_and(|found| found.permissions().mode() & 0o111 == 0o111));
    let again = machine.write(false).await;
    assert!(again.unfinished.is_none() && again.environment.missing.is_empty(), "{again:?}");
    assert!(machine.calls().is_empty() && machine.heard.lock().expect("lock").is_empty());
}

/// A process that was killed while it filled the environment must not keep the next one from doing so; sessions of a third
/// may run in it meanwhile.
#[tokio::test]
async fn what_a_killed_start_left_undone_is_done_by_the_next() {
    let machine = Machine::new();
    let root = machine.write(false).await.environment.root.expect("a managed one");
    let packages = root.join("lib/python3.11/site-packages");
    fs::write(packages.join("of_a_session.py"), "").expect("written");
    fs::remove_dir_all(packages.join("psutil-7.2.2.dist-info")).expect("there");
    fs::create_dir_all(packages.with_file_name("forkpy-psutil.new/psutil")).expect("made");
    let mut record: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join(MARKER)).expect("there")).expect("JSON");
    record["missing"] = serde_json::json!(["psutil"]);
    fs::write(root.join(MARKER), record.to_string()).expect("written");
    machine.write(false).await;
    assert!(packages.join("of_a_session.py").exists());
    assert!(!packages.with_file_name("forkpy-psutil.new").exists() && missing_in(&root, "3.11").is_empty());
}

#[tokio::test]
async fn a_bundles_environment_sees_the_bundles_packages() {
    let machine = Machine::new();
    for name in ["pip", "psutil", "jedi", "cloudpickle"] {
        let info = format!("home/lib/python3.11/site-packages/{name}-1.dist-info");
        fs::create_dir_all(machine.at(&info)).expect("made");
    }
    let Prepared { environment, unfinished, .. } = machine.write(true).await;
    let root = environment.root.expect("a managed one");
    assert!(VenvConfig::read(&root).system_packages && unfinished.is_none() && environment.missing.is_empty());
    assert_eq!(fs::read_dir(root.join("lib/python3.11/site-packages")).expect("there").count(), 0);
}

#[tokio::test]
async fn one_package_that_cannot_be_installed_does_not_keep_out_the_others() {
    let machine = Machine::new();
    machine.prepare(&machine.wish()).await.expect("made");
    let uv = fs::read_to_string(machine.at("bin/uv")).expect("there");
    let (_, body) = uv.split_once("do :; done\n").expect("ours");
    machine.script("bin/uv", &format!("case \" $* \" in *\" psutil \"*) echo no compiler; exit 1;; esac\n{body}"));
    fs::remove_dir_all(machine.at("envs")).expect("there");
    let found = machine.prepare(&machine.wish()).await.expect("usable");
    assert_eq!(found.missing, ["psutil"]);
    assert!(found.note.contains("(no compiler)"), "{}", found.note);
}

#[tokio::test]
async fn a_tool_that_hangs_is_ended_with_its_children_and_the_next_way_is_taken() {
    let machine = Machine::new();
    machine.script("bin/uv", "sleep 1000 & echo $! > sleeper; wait");
    let limits = Limits { make: Duration::from_millis(500), ..Limits::default() };
    let found = machine.prepare_within(&machine.wish(), limits).await.expect("made by venv");
    assert_eq!(found.kind, Kind::Managed);
    assert!(machine.calls().iter().any(|call| call.starts_with("base -I -m venv")));
    let sleeper = fs::read_to_string(machine.at("sleeper")).expect("written");
    let lives = || {
        let state = fs::read_to_string(format!("/proc/{}/stat", sleeper.trim())).unwrap_or_default();
        !(state.is_empty() || state.contains(") Z "))
    };
    // It was killed, which takes effect when the system next runs it.
    let deadline = Instant::now() + Duration::from_secs(5);
    while lives() && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(!lives());
    machine.assert_children_are_over();
}

#[tokio::test]
async fn work_that_is_abandoned_ends_its_child_and_tells_the_hook() {
    let machine = Machine::new();
    machine.script("bin/uv", "echo $$ > waiter; exec sleep 1000");
    let wish = machine.wish();
    tokio::select! {
        _ = machine.prepare(&wish) => panic!("it cannot be done"),
        () = async { while !machine.at("waiter").exists() { sleep(Duration::from_millis(5)).await } } => {}
    }
    machine.assert_children_are_over();
    let heard = machine.heard.lock().expect("lock").clone();
    assert_eq!(heard.len(), 2);
}

#[tokio::test]
async fn where_venv_cannot_bring_pip_the_base_lends_its_own() {
    let machine = Machine::new();
    fs::remove_file(machine.at("bin/uv")).expect("there");
    let base = fs::read_to_string(machine.at("base")).expect("there");
    let (_, body) = base.split_once("do :; done\n").expect("ours");
    let without = "case \" $* \" in *without-pip*) ;; *' venv '*) echo no ensurepip; exit 1;; esac";
    let install = "case \" $* \" in *\" pip --python \"*) \
                   mkdir ${5%/bin/python}/lib/python3.11/site-packages/jedi-1.dist-info; exit;; esac";
    machine.script("base", &format!("{without}\n{install}\n{body}"));
    let found = machine.prepare(&machine.wish()).await.expect("usable");
    let calls = machine.calls();
    assert!(calls[1].starts_with("base -I -m venv --without-pip /envs/3.11-"), "{calls:?}");
    assert!(calls[2].starts_with("base -I -m pip --python /envs/3.11-"), "{calls:?}");
    assert!(calls[2].ends_with(
        " install --no-input --disable-pip-version-check --progress-bar=off --retries=1 --quiet pip psutil jedi cloudpickle"
    ));
    assert!(!found.missing.contains(&"jedi".to_owned()), "{:?}", found.missing);
}

#[tokio::test]
async fn an_interpreter_replaced_by_another_version_is_noticed() {
    let machine = Machine::new();
    fs::write(machine.at("version"), "3.12.1").expect("written");
    let words = machine.prepare(&machine.wish()).await.expect_err("another version").to_string();
    assert!(words.contains("/base is Python 3.12") && words.contains("3.11"), "{words}");
}

#[tokio::test]
async fn without_any_interpreter_the_error_names_the_one_that_is_gone() {
    let machine = Machine::new();
    fs::remove_file(machine.at("base")).expect("there");
    let words = machine.prepare(&machine.wish()).await.expect_err("nothing there").to_string();
    assert!(words.contains("/base is gone") && words.contains("python3.11"), "{words}");
    machine.script("bin/python3.11", "exit 1");
    machine.prepare(&machine.wish()).await.expect("uv makes it from the one on PATH");
}

/// Sessions may have changed what would be run; a base that is no plain interpreter would have to be.
#[tokio::test]
async fn where_sessions_are_confined_no_program_is_run() {
    let machine = Machine::new();
    let confined = Wish { confined: Some(vec![machine.at("workspace")]), ..machine.wish() };
    let refused = machine.prepare(&confined).await.expect_err("the base is a script").to_string();
    assert!(refused.contains("is a script, and none is run"), "{refused}");
    // Not named after its version, and all the same an interpreter.
    fs::create_dir_all(machine.at("home/bin")).expect("made");
    fs::create_dir_all(machine.at("home/lib/python3.11")).expect("made");
    fs::write(machine.at("home/lib/python3.11/os.py"), "").expect("written");
    fs::write(machine.at("home/bin/interpreter"), b"\x7fELF").expect("written");
    fs::remove_file(machine.at("base")).expect("there");
    std::os::unix::fs::symlink(machine.at("home/bin/interpreter"), machine.at("base")).expect("made");
    let found = machine.prepare(&confined).await.expect("made of its files");
    assert_eq!(fs::read_link(&found.python).expect("a link"), machine.at("base"));
    // Neither a named environment's interpreter, nor one that is named itself.
    let venv = machine.venv("venv", &format!("home = {}\nversion = 3.11.4\n", machine.at("home/bin").display()));
    fs::remove_file(machine.at("home/bin/interpreter")).expect("there");
    fs::write(machine.at("home/bin/python3.11"), b"\x7fELF").expect("written");
    let named = Wish { venv: Some(venv), ..confined.clone() };
    machine.prepare(&named).await.expect("read");
    let script = Wish { python: Some(machine.at("bin/uv")), ..confined };
    assert!(machine.prepare(&script).await.is_err());
    assert!(machine.calls().is_empty() && machine.heard.lock().expect("lock").is_empty(), "{:?}", machine.calls());
}
