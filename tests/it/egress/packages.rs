//! `install_dependencies` in the sandbox: it alone changes the environment and reaches the index, and what it builds reaches no
//! more than a session.

use std::{fs, path::PathBuf, process::Command};

use serde_json::{Value, json};

use super::{Origin, index, path, stderr};
use crate::support::{Forkpy, Setup, wait_for};

/// A build backend that tells what it can do, beside building.
const BACKEND: &str = r#"
import json, os, socket, urllib.request, zipfile

def tried(what):
    try:
        return bool(what())
    except Exception as error:
        return f"kept: {type(error).__name__}: {error}"

def by_proxy(url):
    return urllib.request.urlopen(url, timeout=60).read()

def alone(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(url, timeout=60).read()

def build_wheel(folder, settings=None, metadata=None):
    facts = json.load(open(os.path.join(FOLDER, "facts.json")))
    found = {
        "read": tried(lambda: open(facts["secret"]).read()),
        "write": tried(lambda: open(facts["new"], "w").write("x")),
        "signal": tried(lambda: os.kill(facts["server"], 0) is None),
        "environ": tried(lambda: open(f"/proc/{facts['server']}/environ").read()),
        "connect": tried(lambda: alone(facts["closed"])),
        "connect by proxy": tried(lambda: by_proxy(facts["closed"])),
        "where Python is": tried(lambda: open(facts["config"], "a").close() is None),
        "index": tried(lambda: by_proxy(facts["open"])),
    }
    with open(os.path.join(FOLDER, "found.json"), "w") as file:
        json.dump(found, file)
    name = "curious-1.0-py3-none-any.whl"
    info = "curious-1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as file:
        file.writestr("curious.py", "")
        file.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: curious\nVersion: 1.0\n")
        file.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(info + "RECORD", "")
    return name
"#;

/// A server with an environment of its own, whose index is the open server.
fn start(origin: &Origin, mode: &str) -> Forkpy {
    let setup = Setup::without_python();
    let venv = setup.workspace.parent().expect("a parent").join("venv");
    let options = ["-m", "venv", "--without-pip", "--system-site-packages"];
    let made = Command::new(env!("FORKPY_BUILD_PYTHON")).args(options).arg(&venv).status().expect("Python runs");
    assert!(made.success());
    let index = format!("http://127.0.0.1:{}/files/simple/", origin.open);
    let setup = setup.env("PIP_CONFIG_FILE", "/dev/null").env("PIP_INDEX_URL", &index).env("UV_DEFAULT_INDEX", &index);
    setup.args(&["--sandbox", mode, "--venv", path(&venv)]).start()
}

fn install(forkpy: &mut Forkpy, package: &str) -> Value {
    let reply = forkpy.call("install_dependencies", json!({"packages": [package]}));
    assert!(reply.data.is_object(), "{reply:?}");
    reply.data
}

#[test]
fn a_confined_install_changes_the_environment_and_nothing_else_does() {
    let origin = Origin::start();
    for mode in ["workspace", "strict"] {
        let mut forkpy = start(&origin, mode);
        index(&mut forkpy, &origin);
        let url = format!("http://127.0.0.1:{}/", origin.open);
        let done = install(&mut forkpy, "tiny-thing");
        assert_eq!(
            (&done["status"], &done["installed_packages"]),
            (&json!("ok"), &json!(["tiny-thing==1.0"])),
            "{done}"
        );
        assert_eq!(forkpy.eval("import tiny_thing\ntiny_thing.answer"), "42");
        let refused = forkpy.run("open(tiny_thing.__file__, 'a')");
        assert!(stderr(&refused).contains("PermissionError"), "{mode}: {refused}");
        let refused = forkpy.run(&format!("import urllib.request\nurllib.request.urlopen({url:?}, timeout=60)"));
        assert_eq!(refused["status"], "error", "the index is for installing alone: {refused}");
        assert_eq!(forkpy.health()["limits"]["sandbox"], mode);
    }
    assert_eq!(origin.heard("closed"), Vec::<Value>::new());
}

/// Puts a source package with this backend into the index.
fn offer(origin: &Origin, name: &str, backend: &str) {
    let folder = origin.file(&format!("files/simple/{name}"));
    fs::create_dir_all(&folder).expect("made");
    let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    let about = format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n");
    let pack = format!(
        "import io, tarfile\nwith tarfile.open('{name}-1.0.tar.gz', 'w:gz') as file:\n\
         \x20   for name, text in [('backend.py', {}), ('pyproject.toml', {}), ('PKG-INFO', {})]:\n\
         \x20       info = tarfile.TarInfo('{name}-1.0/' + name)\n\
         \x20       info.size = len(text)\n\
         \x20       file.addfile(info, io.BytesIO(text.encode()))",
        json!(backend),
        json!(project),
        json!(about),
    );
    let mut python = Command::new(env!("FORKPY_BUILD_PYTHON"));
    let packed = python.args(["-I", "-c", &pack]).current_dir(&folder).status().expect("Python runs");
    assert!(packed.success());
    fs::write(folder.join("index.html"), format!("<a href=\"{name}-1.0.tar.gz\">{name}</a>")).expect("written");
}

/// What the backend of a source package could do in this mode.
fn curiosity(mode: &str) -> Value {
    let origin = Origin::start();
    let mut forkpy = start(&origin, mode);
    let at = |name: &str| forkpy.workspace.parent().expect("a directory above").join(name);
    let (secret, new): (PathBuf, PathBuf) = (at("secret"), at("new"));
    fs::write(&secret, "treasure").expect("written");
    let facts = json!({
        "secret": secret, "new": new, "config": at("venv/pyvenv.cfg"), "server": forkpy.server_pid(),
        "closed": format!("http://127.0.0.1:{}/", origin.closed), "open": format!("http://127.0.0.1:{}/", origin.open),
    });
    fs::write(forkpy.file("facts.json"), facts.to_string()).expect("written");
    offer(&origin, "curious", &format!("FOLDER = {:?}\n{BACKEND}", forkpy.workspace));
    let done = install(&mut forkpy, "curious");
    assert_eq!((&done["status"], &done["installed_packages"]), (&json!("ok"), &json!(["curious==1.0"])), "{done}");
    assert_eq!((origin.heard("closed").is_empty(), new.exists()), (mode != "off", mode == "off"));
    let found = fs::read_to_string(forkpy.file("found.json")).expect("the backend ran");
    serde_json::from_str(&found).expect("JSON")
}

#[test]
fn what_is_built_reaches_no_more_than_a_session_but_the_index() {
    let open = curiosity("off");
    let out = json!({"read": true, "write": true, "signal": true, "environ": open["environ"], "connect": true,
                     "connect by proxy": true, "where Python is": true, "index": true});
    assert_eq!(open, out, "each gets out where nothing is confined, but for what the server keeps anyway");
    let kept = curiosity("workspace");
    for (name, words) in kept.as_object().expect("an object") {
        let is_kept = words.as_str().is_some_and(|words| words.starts_with("kept: "));
        assert_eq!(is_kept, name != "index", "{name}: {kept}");
    }
}

/// The backend of a package that forkpy wants itself; what it could do is told in a file of the workspace.
const SPY: &str = r#"
import os, zipfile

def build_wheel(folder, settings=None, metadata=None):
    found = []
    for what in (lambda: open(SECRET).read(), lambda: open(NEW, "w").close()):
        try:
            what()
            found.append("out")
        except OSError:
            found.append("kept")
    with open(FOUND, "w") as file:
        file.write(" ".join(found))
    name, info = "psutil-1.0-py3-none-any.whl", "psutil-1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as file:
        file.writestr("psutil.py", "")
        file.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: psutil\nVersion: 1.0\n")
        file.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(info + "RECORD", "")
    return name
"#;

/// A binary for another machine has not all in it that a new environment is to have. What has to be fetched is installed as
/// sessions install: a package that attacks while it is built does so in the sandbox.
#[test]
fn a_new_environment_is_completed_in_the_sandbox() {
    for mode in ["off", "workspace"] {
        let origin = Origin::start();
        let setup = Setup::without_python();
        let above = setup.workspace.parent().expect("a directory above").to_owned();
        let (secret, new, found) = (above.join("secret"), above.join("new"), setup.workspace.join("found"));
        fs::write(&secret, "treasure").expect("written");
        let places = format!("SECRET, NEW, FOUND = {secret:?}, {new:?}, {found:?}\n");
        offer(&origin, "psutil", &(places + SPY));
        let index = format!("http://127.0.0.1:{}/files/simple/", origin.open);
        let setup =
            setup.env("PIP_CONFIG_FILE", "/dev/null").env("PIP_INDEX_URL", &index).env("UV_DEFAULT_INDEX", &index);
        let setup = setup.env("FORKPY_WITHOUT_WHEEL", "psutil").keep_log();
        let mut forkpy = setup.args(&["--sandbox", mode, "--env-dir", path(&above.join("envs"))]).start();
        let log = forkpy.log();
        wait_for(&format!("psutil ({mode}): {log}"), || {
            let listed = forkpy.call("list_packages", json!({}));
            listed.data.to_string().contains("psutil")
        });
        assert_eq!(forkpy.eval("import psutil; psutil.__file__ is not None"), "True");
        let said = fs::read_to_string(&found).expect("the backend ran");
        assert_eq!(said, if mode == "off" { "out out" } else { "kept kept" });
        assert_eq!(new.exists(), mode == "off");
    }
}
