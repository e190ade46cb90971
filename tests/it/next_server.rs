//! Sessions outlive their server: with `--state-dir` the next one on the same workspace has them, as they were when they were
//! written, and says what is missing since.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    sleeping::{CHECK, LIVE, STATE, asleep, works},
    support::{Forkpy, Setup, wait_for},
};

/// Where servers meet: a workspace, and a folder for their sessions.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("workspace")).expect("made");
        Self { folder }
    }

    fn workspace(&self) -> PathBuf {
        self.folder.path().join("workspace")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn setup(&self, args: &[&str]) -> Setup {
        let state = self.state().to_str().expect("UTF-8").to_owned();
        // On a busy machine what takes long is to be waited for.
        let setup = Setup::new().in_workspace(&self.workspace()).env("FORKPY_ERRAND_LIMIT", "40");
        setup.args(&["--state-dir", &state]).args(args)
    }

    fn start(&self) -> Forkpy {
        self.setup(&["--checkpoints", "off"]).start()
    }

    fn images(&self) -> Vec<PathBuf> {
        let below = |path: &Path| -> Vec<PathBuf> {
            fs::read_dir(path).expect("there").map(|entry| entry.expect("readable").path()).collect()
        };
        let servers = below(&self.state()).into_iter().filter(|path| path.is_dir());
        let files = servers.flat_map(|server| below(&server));
        files.filter(|path| path.extension().is_some_and(|end| end == "image")).collect()
    }
}

fn run(forkpy: &mut Forkpy, session: &str, code: &str) -> Value {
    forkpy.call("run_python_code", json!({"code": code, "session_id": session})).data
}

fn notice(reply: &Value) -> &str {
    reply["notice"].as_str().unwrap_or_default()
}

#[test]
fn a_server_that_ends_leaves_its_sessions_to_the_next() {
    let place = Place::new();
    let mut first = place.start();
    works(&mut first, STATE);
    first.call("create_session", json!({"session_id": "work", "description": "the work"}));
    run(&mut first, "work", "kept = [1, 2, 3]");
    first.call("checkpoint_session", json!({"session_id": "work", "name": "here"}));
    first.call("create_session", json!({"session_id": "slept"}));
    run(&mut first, "slept", "rows = iter('abc'); next(rows)");
    assert!(!first.call("sleep_session", json!({"session_id": "slept"})).is_error);
    drop(first);
    assert_eq!(place.images().len(), 3);
    let mut second = place.start();
    let listed = second.call("list_sessions", json!({})).data.to_string();
    assert!(listed.contains("the work") && listed.contains("slept"), "{listed}");
    let asleep_now = second.call("list_checkpoints", json!({})).data;
    assert_eq!(asleep_now["asleep"].as_array().map(Vec::len), Some(3), "{asleep_now}");
    let reply = second.run(&CHECK.replace('N', "0"));
    assert_eq!((&reply["status"], &reply["state"]), (&json!("ok"), &json!("kept")), "{reply}");
    assert!(
        notice(&reply).contains("server before this one") && notice(&reply).contains("All its variables"),
        "{reply}"
    );
    works(&mut second, LIVE);
    assert!(!second.run("1").to_string().contains("server before"), "it is said once");
    let reply = run(&mut second, "work", "kept");
    assert_eq!(reply["results"], json!(["[1, 2, 3]"]));
    assert!(notice(&reply).contains("checkpoints ended with that server: here"), "{reply}");
    assert_eq!(run(&mut second, "slept", "next(rows)")["results"], json!(["'b'"]));
    // And once more, from a process that came from another zygote.
    drop(second);
    let mut third = place.start();
    let reply = third.run(&CHECK.replace('N', "1"));
    assert_eq!(reply["status"], "ok", "{reply}");
    works(&mut third, LIVE);
    assert_eq!(run(&mut third, "slept", "next(rows)")["results"], json!(["'c'"]));
}

/// Its worker was ended for it, and with no copy from before nothing of the session was left.
#[test]
fn a_session_that_is_just_copied_when_the_server_ends_is_left_as_a_whole() {
    let place = Place::new();
    let mut first = place.setup(&["--checkpoint-after", "50"]).start();
    let slow = "import os, time\ndef slow():\n    open('begun', 'w').close()\n    time.sleep(0.5)\n\
                os.register_at_fork(before=slow)\nkept = 7; rows = (n for n in 'abc')";
    works(&mut first, slow);
    wait_for("the copy to begin", || place.workspace().join("begun").exists());
    drop(first);
    assert_eq!(place.start().eval("kept, next(rows)"), "(7, 'a')");
}

#[test]
fn a_server_that_is_killed_leaves_those_that_slept() {
    let place = Place::new();
    let mut first = place.start();
    works(&mut first, "kept = 'default'");
    asleep(&mut first);
    first.call("create_session", json!({"session_id": "awake"}));
    run(&mut first, "awake", "kept = 1");
    first.kill();
    drop(first);
    let mut second = place.start();
    let reply = second.run("kept");
    assert_eq!((&reply["results"], &reply["state"]), (&json!(["'default'"]), &json!("kept")), "{reply}");
    assert!(
        second.refused("run_python_code", json!({"code": "kept", "session_id": "awake"})).contains("does not exist")
    );
}

#[test]
fn an_image_at_rest_brings_back_what_there_was_and_says_what_is_lost() {
    let place = Place::new();
    let mut first = place.setup(&["--checkpoints", "off", "--image-after", "0.2"]).start();
    works(&mut first, "kept = [1]");
    wait_for("the image", || {
        let listed = first.call("list_checkpoints", json!({})).data;
        listed["at_rest"].as_array().is_some_and(|images| images.len() == 1)
    });
    let pid = first.pid();
    // Not one that is written while these run: they are of one burst.
    works(&mut first, "kept.append(2)");
    assert_eq!((first.eval("len(kept)"), first.pid()), ("2".to_owned(), pid));
    wait_for("a newer image", || {
        let listed = first.call("list_checkpoints", json!({})).data;
        listed["at_rest"][0]["after_cell"] == 3
    });
    let busy = first.begin_run("kept.append(4); import time; time.sleep(60)");
    first.until_state("busy");
    first.kill();
    first.forget(busy);
    drop(first);
    let mut second = place.start();
    let reply = second.run("kept");
    assert_eq!((&reply["results"], &reply["state"]), (&json!(["[1, 2]"]), &json!("restored")), "{reply}");
    assert!(notice(&reply).contains("Cell 4 ran after that") && notice(&reply).contains("lost"), "{reply}");
}

#[test]
fn one_server_has_a_session_and_the_other_is_told() {
    let place = Place::new();
    let mut first = place.start();
    first.call("create_session", json!({"session_id": "work"}));
    run(&mut first, "work", "kept = 1");
    assert!(!first.call("sleep_session", json!({"session_id": "work"})).is_error);
    let mut second = place.start();
    let words = second.refused("run_python_code", json!({"code": "kept", "session_id": "work"}));
    assert!(words.contains(&format!("process {}", first.server_pid())), "{words}");
    assert_eq!(run(&mut first, "work", "kept")["results"], json!(["1"]));
    drop(first);
    // It need not have been there when that one ended.
    assert_eq!(run(&mut second, "work", "kept")["results"], json!(["1"]));
}

#[test]
fn two_servers_that_begin_at_once_share_what_was_left_and_each_session_is_one_of_them() {
    let place = Place::new();
    let mut first = place.start();
    for name in ["a", "b", "c"] {
        first.call("create_session", json!({"session_id": name}));
        run(&mut first, name, "kept = 1");
    }
    drop(first);
    let both = [place.setup(&[]), place.setup(&[])].map(|setup| std::thread::spawn(|| setup.start()));
    let [mut one, mut two] = both.map(|started| started.join().expect("started"));
    for name in ["a", "b", "c"] {
        let asked = [&mut one, &mut two]
            .map(|forkpy| forkpy.call("run_python_code", json!({"code": "kept", "session_id": name})));
        let have = asked.iter().filter(|reply| reply.data["results"] == json!(["1"])).count();
        assert_eq!(have, 1, "{name}: {asked:?}");
    }
}

#[test]
fn what_cannot_be_written_as_a_whole_comes_back_by_value_and_both_lists_are_said() {
    let place = Place::new();
    let mut first = place.start();
    works(
        &mut first,
        "import threading; kept = {'a': [1, 2]}; gone = (n for n in 'ab'); \
         thread = threading.Thread(target=threading.Event().wait, daemon=True); thread.start()",
    );
    drop(first);
    let mut second = place.start();
    let reply = second.run("kept");
    assert_eq!((&reply["results"], &reply["state"]), (&json!(["{'a': [1, 2]}"]), &json!("restored")), "{reply}");
    let told = notice(&reply);
    let (there, missing) = told.split_once("not there are").expect("both");
    assert!(there.contains("kept") && missing.contains("gone") && missing.contains("thread"), "{told}");
    assert_eq!(second.run("gone")["error"]["type"], "NameError");
}

#[test]
fn sessions_of_another_workspace_are_left_where_they_are() {
    let place = Place::new();
    let mut first = place.start();
    works(&mut first, "kept = 1");
    drop(first);
    let left = place.images();
    let state = place.state().to_str().expect("UTF-8").to_owned();
    let mut other = Setup::new().args(&["--state-dir", &state]).start();
    assert_eq!(other.run("kept")["error"]["type"], "NameError");
    drop(other);
    assert!(left[0].exists());
    assert_eq!(place.start().eval("kept"), "1");
}

#[test]
fn names_that_two_servers_used_are_both_there() {
    let place = Place::new();
    let (mut one, mut two) = (place.start(), place.start());
    works(&mut one, "kept = 'one'");
    works(&mut two, "kept = 'two'");
    drop(one);
    drop(two);
    let mut third = place.start();
    assert_eq!(third.eval("kept"), "'two'", "the newest has the name");
    let reply = run(&mut third, "default-2", "kept");
    assert_eq!(reply["results"], json!(["'one'"]));
    assert!(notice(&reply).contains("It was called \"default\""), "{reply}");
}

#[test]
fn what_was_damaged_between_two_servers_is_refused_and_the_others_wake() {
    let place = Place::new();
    let mut first = place.start();
    works(&mut first, "kept = 1");
    drop(first);
    let path = place.images().remove(0);
    let whole = fs::read(&path).expect("read");
    let mut changed = whole.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&path, &changed).expect("written");
    let mut second = place.start();
    let words = second.run("kept").to_string();
    assert!(words.contains("could not be woken") && words.contains("changed, cut short or replaced"), "{words}");
    assert_eq!(second.health()["state"], "asleep");
    drop(second);
    let path = place.images().remove(0);
    fs::write(&path, &whole).expect("written");
    assert_eq!(place.start().eval("kept"), "1");
    // One whose head is not right is none, and is left where it is.
    let path = place.images().remove(0);
    fs::write(&path, &whole[..90]).expect("written");
    let mut third = place.start();
    assert_eq!(third.run("kept")["error"]["type"], "NameError");
}

#[test]
fn a_death_while_a_server_ends_costs_that_session_alone() {
    let place = Place::new();
    let setup = place.setup(&["--checkpoints", "off"]).env("FORKPY_FAULT", "checkpoint.image:1=kill");
    let mut first = setup.start();
    first.call("create_session", json!({"session_id": "other"}));
    run(&mut first, "other", "kept = 1");
    works(&mut first, "kept = 2");
    drop(first);
    let mut second = place.start();
    let kept = [second.run("kept")["results"].clone(), run(&mut second, "other", "kept")["results"].clone()];
    // The one of which the image was broken off comes by value.
    assert_eq!(kept, [json!(["2"]), json!(["1"])]);
}
