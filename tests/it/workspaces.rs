//! `--workspaces`: each owner with a token has a workspace of its own, which is nothing to others.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};

use crate::{
    packages::WHEELS,
    support::{
        Setup,
        browser::request,
        http::{Answer, HttpForkpy},
        issuer::{AUDIENCE, Issuer, Signer},
        wait_for,
    },
};

const ALL: &str = "cells:run files:read files:write";

struct Client<'a> {
    server: &'a HttpForkpy,
    bearer: String,
}

impl Client<'_> {
    fn ask(&self, method: &str, name: Option<&str>, params: Value) -> Value {
        request(self.server, &[("Authorization", &self.bearer)], method, name, params).json()
    }

    fn reply(&self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", Some(tool), json!({"name": tool, "arguments": arguments}))["result"].take()
    }

    fn call(&self, tool: &str, arguments: Value) -> Value {
        let mut reply = self.reply(tool, arguments);
        assert!(reply["isError"] == false && reply["structuredContent"].is_object(), "{tool}: {reply}");
        reply["structuredContent"].take()
    }

    fn refused(&self, tool: &str, arguments: Value) -> String {
        let reply = self.reply(tool, arguments);
        assert_eq!(reply["isError"], true, "{reply}");
        reply["content"][0]["text"].as_str().expect("words").to_owned()
    }

    fn run(&self, code: &str) -> Value {
        self.call("run_python_code", json!({"code": code}))
    }

    fn download(&self, path: &str) -> Answer {
        self.server.get_with(&format!("/files/download/{path}"), &[("Authorization", &self.bearer)])
    }

    fn upload(&self, name: &str) -> Answer {
        let form = format!(
            "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\nsent\r\n--x--\r\n"
        );
        let headers = [("Authorization", &*self.bearer), ("Content-Type", "multipart/form-data; boundary=x")];
        self.server.exchange("POST", "/files/upload", &headers, form.as_bytes())
    }
}

fn client<'a>(server: &'a HttpForkpy, (issuer, signer): (&Issuer, &Signer), who: &str) -> Client<'a> {
    Client { server, bearer: format!("Bearer {}", issuer.token(signer, who, ALL)) }
}

/// An issuer whose key is published, and a server with a directory of workspaces.
fn begin(place: &Path, args: &[&str]) -> (Issuer, Signer, HttpForkpy) {
    let (issuer, signer) = (Issuer::start(false), Signer::curve("c"));
    issuer.publish(&[&signer]);
    let below = place.join("of-owners");
    let own = ["--workspaces", below.to_str().expect("UTF-8"), "--oauth-issuer", &issuer.url];
    let server = HttpForkpy::start(Setup::new().args(&own).args(&["--oauth-audience", AUDIENCE]).args(args));
    (issuer, signer, server)
}

#[test]
fn files_of_one_owner_are_nothing_to_another() {
    let place = tempfile::tempdir().expect("a directory");
    let (issuer, signer, server) = begin(place.path(), &["--sandbox", "workspace"]);
    let client = |who: &str| client(&server, (&issuer, &signer), who);
    let (ann, bob) = (client("ann"), client("../ann"));
    let below = place.path().join("of-owners").canonicalize().expect("made");
    let hers = below.join("subject-ann");
    ann.call("write_file", json!({"path": "a.txt", "content": "treasure"}));
    assert_eq!(fs::read_to_string(hers.join("a.txt")).expect("there"), "treasure");
    let names = fs::read_dir(&below).expect("made").map(|entry| entry.expect("one").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["subject-ann"], "bob has not come in yet");

    // Tools, by whatever path.
    assert!(!bob.call("list_files", json!({"recursive": true})).to_string().contains("a.txt"));
    let (whole, beside) = (hers.join("a.txt").display().to_string(), "../subject-ann/a.txt");
    for path in ["a.txt", beside, &*whole, "outputs/../../subject-ann/a.txt"] {
        for (tool, mut arguments) in [
            ("read_file", json!({})),
            ("delete_file", json!({})),
            ("run_script", json!({})),
            ("run_notebook", json!({})),
            ("load_session", json!({})),
        ] {
            arguments["path"] = json!(path);
            let words = bob.refused(tool, arguments);
            assert!(!words.contains("treasure"), "{tool} {path}: {words}");
        }
    }
    assert!(hers.join("a.txt").exists() && below.join("subject-..%2Fann").is_dir());

    // Code, where it is confined, and what it finds when it begins.
    let info = bob.call("get_workspace_info", json!({}));
    assert_eq!(info["workspace"], json!(below.join("subject-..%2Fann")), "{info}");
    let code =
        format!("import os\ntry:\n    print(open({whole:?}).read())\nexcept OSError:\n    print('kept')\nos.getcwd()");
    let ran = bob.run(&code);
    assert_eq!(
        (&ran["stdout"], ran["results"][0].as_str()),
        (&json!("kept\n"), Some(&*format!("'{}'", info["workspace"].as_str().expect("a path"))))
    );
    assert_eq!(ann.run(&code)["stdout"], "treasure\n");
    let written = ann.run("open('made.txt', 'w').write('1'); print('x' * 3_000_000)");
    assert!(written["new_files"].to_string().contains("made.txt"), "{written}");
    let whole_output = written["stdout_file"].as_str().expect("a file");
    assert!(hers.join(whole_output).exists() && !server.workspace().join(whole_output).exists(), "{whole_output}");
    ann.call("save_script", json!({"name": "look.py", "content": code}));
    assert!(
        ann.call("run_script", json!({"path": "scripts/look.py"}))["stdout"]
            .as_str()
            .is_some_and(|out| out.contains("treasure"))
    );

    // Paths of HTTP, and resources.
    assert_eq!((ann.download("a.txt").body.as_str(), bob.download("a.txt").status), ("treasure", 404));
    assert!((200..300).contains(&ann.upload("sent.txt").status));
    assert_eq!(fs::read_to_string(hers.join("uploads/sent.txt")).expect("there"), "sent");
    let uri = format!("file://{whole}");
    let read = |client: &Client| client.ask("resources/read", Some(&uri), json!({"uri": uri})).to_string();
    assert!(read(&ann).contains("treasure") && !read(&bob).contains("treasure"));
    let listed = |client: &Client| client.ask("resources/list", None, json!({})).to_string();
    wait_for("the file to be listed", || listed(&ann).contains("a.txt"));
    assert!(!listed(&bob).contains("a.txt"));
    let templates = bob.ask("resources/templates/list", None, json!({})).to_string();
    assert!(templates.contains("subject-..%252Fann") && !templates.contains("subject-ann/"), "{templates}");
}

#[test]
fn an_owner_holds_no_more_than_its_quota_of_memory_and_disk() {
    let place = tempfile::tempdir().expect("a directory");
    let tokens = place.path().join("tokens.toml");
    fs::write(&tokens, "[subjects.quota]\nmemory-mb = 400\ndisk-mb = 20\n").expect("written");
    fs::set_permissions(&tokens, PermissionsExt::from_mode(0o600)).expect("ours");
    let args = ["--tokens", tokens.to_str().expect("UTF-8"), "--checkpoints", "off"];
    let (issuer, signer, server) = begin(place.path(), &args);
    let client = |who: &str| client(&server, (&issuer, &signer), who);
    let (ann, bob) = (client("ann"), client("bob"));
    // Two sessions that are within it alone, and beyond it together.
    let take = |session: &str| {
        ann.call("create_session", json!({"session_id": session}));
        let code = "held = bytearray(b'x') * (250 << 20)\nimport time\ntime.sleep(60)";
        ann.call("run_python_code", json!({"code": code, "session_id": session, "background": true}));
    };
    take("one");
    take("two");
    let mut died = Value::Null;
    wait_for("one of them to be ended", || {
        let listed = ann.call("list_crashes", json!({}));
        died = listed["crashes"][0].clone();
        died.is_object()
    });
    assert!(died.to_string().contains("owner_memory"), "{died}");
    assert_eq!(bob.run("'as before'")["results"], json!(["'as before'"]));
    // What it holds is refused more of, until there is less.
    let code = "open('large', 'wb').write(b'x' * (30 << 20)); 1";
    bob.reply("run_python_code", json!({"code": code}));
    let mut words = String::new();
    wait_for("the disk to be seen", || {
        let reply = bob.reply("run_python_code", json!({"code": "1"}));
        words = reply["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        reply["isError"] == true
    });
    // Where it is seen while a cell runs, that one is ended.
    assert!(words.contains("quota is 20 MiB (disk-mb)"), "{words}");
    assert!(bob.refused("write_file", json!({"path": "b", "content": "x"})).contains("(disk-mb)"));
    assert_eq!(bob.upload("b").status, 507);
    bob.call("delete_file", json!({"path": "large"}));
    wait_for("the room to be seen", || bob.reply("run_python_code", json!({"code": "1"}))["isError"] == false);
    let options = ["--transport", "http", "--port", "0", "--tokens", args[1], "--oauth-issuer", &issuer.url];
    let (code, log) = Setup::new().args(&options).args(&["--oauth-audience", AUDIENCE]).run_to_end();
    assert!(code == Some(1) && log.contains("add --workspaces DIR"), "{log}");
}

/// A crash report is in the workspace of the session that crashed.
#[test]
fn what_a_session_leaves_is_in_its_owners_workspace_and_found_again() {
    let place = tempfile::tempdir().expect("a directory");
    let (issuer, signer, server) = begin(place.path(), &["--checkpoints", "off"]);
    let ann = client(&server, (&issuer, &signer), "ann");
    ann.call("create_session", json!({"session_id": "work"}));
    ann.reply("run_python_code", json!({"code": "import os; os._exit(3)", "session_id": "work"}));
    wait_for("the report", || ann.call("list_crashes", json!({}))["crashes"][0]["id"].is_string());
    let hers = place.path().join("of-owners/subject-ann");
    assert!(fs::read_dir(hers.join("outputs/crashes")).expect("a folder").next().is_some());
    assert!(!server.workspace().join("outputs/crashes").exists());
    assert_eq!(client(&server, (&issuer, &signer), "bob").call("list_crashes", json!({}))["crashes"], json!([]));
    drop(server);
    let below = place.path().join("of-owners");
    let again = ["--workspaces", below.to_str().expect("UTF-8"), "--oauth-issuer", &issuer.url];
    let server = HttpForkpy::start(Setup::new().args(&again).args(&["--oauth-audience", AUDIENCE]));
    assert!(client(&server, (&issuer, &signer), "ann").call("list_crashes", json!({}))["crashes"][0]["id"].is_string());
    let (code, log) = Setup::new().args(&["--transport", "http", "--port", "0"]).args(&again[..2]).run_to_end();
    assert!(code == Some(1) && log.contains("add --tokens or --oauth-issuer"), "{log}");
}

#[test]
fn packages_of_one_owner_are_nothing_to_another() {
    each_has_its_own_packages(&[]);
}

#[test]
fn confined_owners_install_for_themselves_too() {
    each_has_its_own_packages(&["--sandbox", "workspace"]);
}

fn each_has_its_own_packages(args: &[&str]) {
    let place = tempfile::tempdir().expect("a directory");
    let (issuer, signer, server) = begin(place.path(), args);
    let client = |who: &str| client(&server, (&issuer, &signer), who);
    let (ann, bob) = (client("ann"), client("bob"));
    let version = "import same; (same.version, 'subject-ann/.forkpy-venv/lib' in same.__file__)";
    for (who, number) in [(&ann, 1), (&bob, 2)] {
        // The session is there before its package is.
        assert_eq!(who.run(WHEELS)["status"], "ok");
        who.run(&format!("wheel('same', '{number}.0', 'version = {number}')"));
        let file = format!("wheels/same-{number}.0-py3-none-any.whl");
        let done = who.call("install_dependencies", json!({"packages": [file]}));
        assert_eq!(done["installed_packages"], json!([format!("same=={number}.0")]), "{done}");
        let listed = who.call("list_packages", json!({"filter": "same"}))["packages"].take();
        assert_eq!(listed, json!([{"name": "same", "version": format!("{number}.0")}]), "{done}");
    }
    assert_eq!(ann.run(version)["results"], json!(["(1, True)"]));
    assert_eq!(bob.run(version)["results"], json!(["(2, False)"]));
    // What all have is there too; the list of files is not full of it.
    assert_eq!(ann.run("import pip")["status"], "ok");
    assert!(!ann.call("list_files", json!({"recursive": true})).to_string().contains("same.py"));
    // From the session itself, in a script, in a new session, after a restart.
    let of_session = "import subprocess, sys\nwheel('more', '1.0', 'word = \"more\"')\n\
                      done = subprocess.run([sys.executable, '-m', 'pip', 'install', '--no-index', 'wheels/more-1.0-py3-none-any.whl'], \
                      capture_output=True, text=True)\n(done.returncode, done.stderr[-500:]) if done.returncode else __import__('more').word";
    assert_eq!(ann.run(of_session)["results"], json!(["'more'"]));
    ann.call("save_script", json!({"name": "both.py", "content": "import same, more\nprint(same.version, more.word)"}));
    assert_eq!(ann.call("run_script", json!({"path": "scripts/both.py"}))["stdout"], "1 more\n");
    ann.call("create_session", json!({"session_id": "new"}));
    let both = json!({"session_id": "new", "code": "import same, more; (same.version, more.word)"});
    assert_eq!(ann.call("run_python_code", both)["results"], json!(["(1, 'more')"]));
    ann.call("restart_kernel", json!({}));
    assert_eq!(ann.run(version)["results"], json!(["(1, True)"]));
    assert_eq!(bob.run("import more")["error"]["type"], "ModuleNotFoundError");
    let mine = ann.call("get_workspace_info", json!({}))["python"].take();
    assert!(mine.as_str().expect("a path").ends_with("subject-ann/.forkpy-venv/bin/python"), "{mine}");
    assert_eq!(
        ann.run("import sys; sys.executable")["results"],
        json!([format!("'{}'", mine.as_str().expect("a path"))])
    );
}
