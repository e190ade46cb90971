//! Installing into the session environment, from wheels made here: nothing in this file needs a network.

use std::{fs, path::PathBuf, process::Command, time::Instant};

use serde_json::{Value, json};

use crate::lean;
use crate::support::{Forkpy, Setup, processes, wait_for};

/// Defines `wheel(name, version, code, requires)`, which writes a wheel into `wheels/`.
pub const WHEELS: &str = r"
import os, zipfile
def wheel(name, version, code, requires=''):
    os.makedirs('wheels', exist_ok=True)
    info = f'{name}-{version}.dist-info'
    with zipfile.ZipFile(f'wheels/{name}-{version}-py3-none-any.whl', 'w') as file:
        files = {
            f'{name}.py': code,
            f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}',
            f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
        }
        record = ''.join(f'{path},,\n' for path in [*files, f'{info}/RECORD'])
        for path, text in {**files, f'{info}/RECORD': record}.items():
            file.writestr(path, text)
";

/// A server whose sessions have an environment of their own, with the pip of its base and no index to reach.
fn start(args: &[&str]) -> Forkpy {
    let mut setup = Setup::without_python();
    let venv = environment(&mut setup);
    let forkpy = setup
        .args(&["--venv", venv.to_str().expect("UTF-8")])
        .args(args)
        .env("PIP_CONFIG_FILE", "/dev/null")
        // Nobody listens on this port.
        .env("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        .env("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple");
    let mut forkpy = forkpy.start();
    let made = forkpy.run(WHEELS);
    assert_eq!(made["status"], "ok", "{made}");
    forkpy
}

fn environment(setup: &mut Setup) -> PathBuf {
    let venv = setup.workspace.parent().expect("a parent").join("venv");
    let options = ["-m", "venv", "--without-pip", "--system-site-packages"];
    let made = Command::new(env!("FORKPY_BUILD_PYTHON")).args(options).arg(&venv).status().expect("Python runs");
    assert!(made.success());
    venv
}

fn wheel(forkpy: &mut Forkpy, name: &str, version: &str) -> String {
    let made = forkpy.run(&format!("wheel({name:?}, {version:?}, 'version = {version:?}')"));
    assert_eq!(made["status"], "ok", "{made}");
    format!("wheels/{name}-{version}-py3-none-any.whl")
}

fn install(forkpy: &mut Forkpy, packages: &[&str]) -> Value {
    let reply = forkpy.call("install_dependencies", json!({"packages": packages}));
    assert!(!reply.is_error, "{}", reply.text);
    lean::is_lean("install_dependencies", &reply.data);
    reply.data
}

#[test]
fn a_new_package_is_importable_in_living_sessions_at_once_also_beside_a_running_cell() {
    let mut forkpy = start(&[]);
    let file = wheel(&mut forkpy, "fresh_one", "1.0");
    forkpy.call("create_session", json!({"session_id": "other"}));
    let missing = json!({"code": "import fresh_one", "session_id": "other"});
    assert_eq!(forkpy.call("run_python_code", missing).data["error"]["type"], "ModuleNotFoundError");
    let busy = forkpy.begin_run(
        "import time\nwhile not os.path.exists('go'): time.sleep(0.01)\nimport fresh_one\nfresh_one.version",
    );
    forkpy.until_state("busy");
    let done = install(&mut forkpy, &[&file]);
    assert_eq!((&done["status"], &done["returncode"]), (&json!("ok"), &json!(0)), "{done}");
    assert_eq!(done["installed_packages"], json!(["fresh_one==1.0"]));
    assert_eq!(done["changes"], json!([{"name": "fresh_one", "after": "1.0"}]));
    assert_eq!((&done["stale"], &done["notice"]), (&Value::Null, &Value::Null));
    assert!(done["tool"] == "pip" || done["tool"] == "uv", "{done}");
    let imports = json!({"code": "import fresh_one; fresh_one.version", "session_id": "other"});
    assert_eq!(forkpy.call("run_python_code", imports).data["results"], json!(["'1.0'"]));
    fs::write(forkpy.file("go"), "").expect("written");
    assert_eq!(forkpy.reply(busy).data["results"], json!(["'1.0'"]));
    fs::write(forkpy.file("x.py"), "import fresh_one; print(fresh_one.version)").expect("written");
    assert_eq!(forkpy.call("run_script", json!({"path": "x.py"})).data["stdout"], "1.0\n");
    let listed = forkpy.call("list_packages", json!({"filter": "FRESH"})).data;
    assert_eq!(listed["packages"], json!([{"name": "fresh_one", "version": "1.0"}]));
    let all = forkpy.call("list_packages", json!({})).data;
    assert!(all["total"].as_u64().expect("a number") >= 2, "{all}");
}

#[test]
fn a_session_that_has_imported_what_changes_is_named() {
    let mut forkpy = start(&[]);
    let (one, two) = (wheel(&mut forkpy, "moved", "1.0"), wheel(&mut forkpy, "moved", "2.0"));
    install(&mut forkpy, &[&one]);
    forkpy.call("create_session", json!({"session_id": "user"}));
    forkpy.call("run_python_code", json!({"code": "import moved, importlib.metadata", "session_id": "user"}));
    let done = install(&mut forkpy, &[&two]);
    assert_eq!(done["changes"], json!([{"name": "moved", "before": "1.0", "after": "2.0"}]));
    let expected = json!([{"session_id": "user", "package": "moved", "imported": "1.0", "installed": "2.0"}]);
    assert_eq!(done["stale"], expected, "{done}");
    let words = "Session \"user\" has imported moved 1.0, which is now 2.0: it keeps the old one until restart_kernel.";
    assert_eq!(done["notice"], words);
    let code = json!({"code": "import moved; moved.version", "session_id": "user"});
    assert_eq!(forkpy.call("run_python_code", code.clone()).data["results"], json!(["'1.0'"]));
    forkpy.call("restart_kernel", json!({"session_id": "user"}));
    assert_eq!(forkpy.call("run_python_code", code).data["results"], json!(["'2.0'"]));
    assert_eq!(install(&mut forkpy, &[&two])["changes"], Value::Null, "the same again changes nothing");
}

#[test]
fn requirements_constraints_and_dependencies_come_from_the_workspace() {
    let mut forkpy = start(&[]);
    for (name, version) in [("base_pkg", "1.0"), ("base_pkg", "2.0"), ("leaf", "1.0")] {
        wheel(&mut forkpy, name, version);
    }
    forkpy.run("wheel('needy', '1.0', '', 'Requires-Dist: base_pkg (<2)\\nRequires-Dist: leaf; extra == \"more\"\\nProvides-Extra: more\\n')");
    fs::create_dir(forkpy.file("req")).expect("made");
    fs::write(
        forkpy.file("req/all.txt"),
        "# all of it\n-r nested.txt\n../wheels/base_pkg-1.0-py3-none-any.whl  # beside\nbase_pkg \\\n  >=1\n",
    )
    .expect("written");
    fs::write(forkpy.file("req/nested.txt"), "-c limits.txt\n../wheels/leaf-1.0-py3-none-any.whl\n").expect("written");
    fs::write(forkpy.file("req/limits.txt"), "base-pkg<2\n").expect("written");
    let done = install(&mut forkpy, &["-r", "req/all.txt", "wheels/needy-1.0-py3-none-any.whl[more]"]);
    assert_eq!(done["returncode"], 0, "{done}");
    assert_eq!(done["installed_packages"], json!(["base_pkg==1.0", "leaf==1.0", "needy==1.0"]), "{done}");
    let done = install(&mut forkpy, &["--force-reinstall", "--no-deps", "wheels/needy-1.0-py3-none-any.whl"]);
    assert_eq!(done["returncode"], 0, "{done}");
}

#[test]
fn an_index_out_of_reach_and_an_unknown_package_are_the_tools_own_words_soon() {
    let mut forkpy = start(&[]);
    let began = Instant::now();
    let done = install(&mut forkpy, &["no-such-package-forkpy-1"]);
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    assert_eq!(done["status"], "error", "{done}");
    assert_ne!(done["returncode"], 0);
    assert!(done["stderr"].as_str().expect("text").contains("no-such-package-forkpy-1"), "{done}");
    assert_eq!((&done["installed_packages"], &done["changes"]), (&json!([]), &Value::Null));
    assert_eq!(forkpy.eval("1 + 1"), "2");
}

#[test]
fn what_could_come_from_anywhere_or_run_anything_is_refused_by_name() {
    let mut forkpy = start(&[]);
    let refused = [
        "--index-url=http://127.0.0.1:9/",
        "--index-url http://127.0.0.1:9/",
        "-i",
        "--extra-index-url=x",
        "--find-links=wheels",
        "-e .",
        "--editable=.",
        "--config-settings=a=b",
        "--target=/tmp/x",
        "--python=/bin/sh",
        "git+file:///tmp/x",
        "x @ git+file:///tmp/x",
        "http://127.0.0.1:9/x.whl",
        "file:///tmp/x.whl",
        ".",
        "./project",
        "project.tar.gz",
        "numpy pandas",
        "",
        " ",
        "a\u{0}b",
        "-",
        "--",
    ];
    for item in refused {
        let words = forkpy.refused("install_dependencies", json!({"packages": ["leaf", item]}));
        assert!(words.contains("cannot install") && words.len() < 600, "{item:?}: {words}");
    }
    for (item, words) in [
        ("../outside.whl", "out of the workspace"),
        ("/etc/x.whl", "out of the workspace"),
        ("wheels/nowhere-1.0-py3-none-any.whl", "No such file"),
        ("-r nowhere.txt", "No such file"),
        ("-r ../outside.txt", "out of the workspace"),
        ("-r scripts", "a directory"),
        ("-r", "not followed by a file"),
    ] {
        let said = forkpy.refused("install_dependencies", json!({"packages": [item]}));
        assert!(said.contains(words), "{item}: {said}");
    }
    fs::write(forkpy.file("bad.txt"), "leaf\n\n--index-url http://127.0.0.1:9/\n").expect("written");
    let said = forkpy.refused("install_dependencies", json!({"packages": ["-r bad.txt"]}));
    assert!(said.contains("(line 3 of bad.txt)"), "{said}");
    fs::write(forkpy.file("loop.txt"), "-r loop.txt\n").expect("written");
    assert!(forkpy.refused("install_dependencies", json!({"packages": ["-r loop.txt"]})).contains("too deeply"));
    fs::write(forkpy.file("latin.txt"), b"\xe9\n").expect("written");
    assert!(forkpy.refused("install_dependencies", json!({"packages": ["-r latin.txt"]})).contains("not UTF-8"));
    assert!(forkpy.refused("install_dependencies", json!({"packages": []})).contains("names nothing"));
    assert!(forkpy.refused("install_dependencies", json!({"packages": {"leaf": "1"}})).contains("`packages`"));
    assert!(forkpy.refused("install_dependencies", json!({})).contains("missing field `packages`"));
    let said = forkpy.refused("install_dependencies", json!({"packages": ["leaf"], "timeout": -1}));
    assert!(said.contains("above 0"), "{said}");
}

#[test]
fn options_are_taken_when_the_server_allows_them() {
    let mut forkpy = start(&["--allow-install-options"]);
    wheel(&mut forkpy, "leaf", "1.5");
    let done = install(&mut forkpy, &["--no-index", "--find-links wheels", "leaf"]);
    assert_eq!((&done["returncode"], &done["installed_packages"]), (&json!(0), &json!(["leaf==1.5"])), "{done}");
}

/// A source tree whose build does not end.
const ENDLESS: &str = "import os, time\nos.makedirs('slow', exist_ok=True)\n\
     open('slow/pyproject.toml', 'w').write('[build-system]\\nrequires = []\\nbuild-backend = \"slow\"\\nbackend-path = [\".\"]\\n')\n\
     open('slow/slow.py', 'w').write('import time\\nopen(\"../building\", \"w\").close()\\nprint(\"building\", flush=True)\\ntime.sleep(300)\\n')\n";

fn left(forkpy: &Forkpy) -> usize {
    // Server, zygote and the one session.
    forkpy.family().len().saturating_sub(3)
}

#[test]
fn an_install_that_takes_too_long_or_is_taken_back_ends_with_all_it_started() {
    // Processes are counted: a spare worker or a copy that comes up meanwhile is no part of the install.
    let mut forkpy = start(&["--allow-install-options", "--grace", "0.5", "--max-spares", "0", "--checkpoints", "off"]);
    forkpy.run(ENDLESS);
    let packages = json!({"packages": ["./slow"], "timeout": 12});
    let reply = forkpy.call("install_dependencies", packages);
    assert!(reply.is_error && reply.data["status"] == "timeout", "{reply:?}");
    assert!(reply.data["notice"].as_str().expect("words").contains("limit of 12 s was over"));
    assert!(forkpy.file("building").exists(), "{reply:?}");
    wait_for("the end of the build", || left(&forkpy) == 0);
    fs::remove_file(forkpy.file("building")).expect("there");
    let id = forkpy.begin_call("install_dependencies", json!({"packages": ["./slow"]}));
    wait_for("the build", || forkpy.file("building").exists());
    forkpy.forget(id);
    forkpy.tolerate(id);
    forkpy.notify("notifications/cancelled", json!({"requestId": id}));
    wait_for("the end of the build", || left(&forkpy) == 0);
    let id = forkpy.begin_call("install_dependencies", json!({"packages": ["./slow"]}));
    fs::remove_file(forkpy.file("building")).expect("there");
    wait_for("the build", || forkpy.file("building").exists());
    forkpy.forget(id);
    forkpy.tolerate(id);
    processes::signal(forkpy.server_pid(), nix::sys::signal::Signal::SIGTERM);
    // The drop asserts that nothing outlives the server.
}

#[test]
fn output_of_the_tool_reaches_a_client_that_asked_for_progress() {
    let mut forkpy = start(&[]);
    let file = wheel(&mut forkpy, "told", "1.0");
    let call =
        json!({"name": "install_dependencies", "arguments": {"packages": [file]}, "_meta": {"progressToken": "p"}});
    let id = forkpy.begin("tools/call", call);
    assert_eq!(forkpy.reply(id).data["status"], "ok");
    let told: String = forkpy.notifications.iter().filter_map(|note| note["params"]["message"].as_str()).collect();
    assert!(told.contains("told"), "{told}");
}
