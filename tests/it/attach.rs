//! Sessions that outlive their clients: `forkpy attach`, `status`, `stop`.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{Forkpy, as_user, attach::Attached, processes, wait_for};

fn notice(reply: &Value) -> &str {
    reply["notice"].as_str().unwrap_or_default()
}

/// What LangChain's client does by default: a new process for each call.
#[test]
fn variables_stay_from_client_to_client_and_the_first_reply_says_so() {
    let attached = Attached::new();
    let mut first = attached.client();
    let reply = first.run("x, y = 20, 'two'");
    assert_eq!((reply["state"].as_str(), notice(&reply)), (Some("kept"), ""));
    drop(first);
    let pid = attached.server_pid();
    for (call, sum) in [(1, "21"), (2, "22"), (3, "23")] {
        let mut client = attached.client();
        let reply = client.run("x += 1; x");
        assert_eq!((reply["results"][0].as_str(), reply["state"].as_str()), (Some(sum), Some("kept")), "{reply}");
        let cells = if call == 1 { "1 cell".to_owned() } else { format!("{} cells", 2 * call - 1) };
        let words = format!("Session \"default\" goes on: {cells}, 2 variables, last used");
        assert!(notice(&reply).starts_with(&words), "{reply}");
        assert_eq!(notice(&client.run("x")), "", "said once");
    }
    let mut other = attached.client();
    let listed = other.call("list_variables", json!({}));
    assert_eq!(listed.data["variables"]["x"], "int: 23");
    assert_eq!(attached.server_pid(), pid);
}

#[test]
fn each_client_has_its_own_active_session() {
    let attached = Attached::new();
    let (mut one, mut two) = (attached.client(), attached.client());
    one.call("create_session", json!({"session_id": "a"}));
    one.call("switch_session", json!({"session_id": "a"}));
    one.run("where = 'a'");
    two.run("where = 'default'");
    assert_eq!((one.eval("where"), two.eval("where")), ("'a'".to_owned(), "'default'".to_owned()));
    drop(one);
    let mut three = attached.client();
    let reply = three.run("where");
    assert_eq!(reply["results"][0], "'default'");
    assert!(notice(&reply).contains("Other sessions go on too: \"a\""), "{reply}");
    // What happened to a session is told to each of them.
    two.call("restart_kernel", json!({}));
    assert_eq!((three.run("1")["state"].as_str(), two.run("1")["state"].as_str()), (Some("lost"), Some("kept")));
}

#[test]
fn fifty_fronts_at_once_make_one_server() {
    let attached = Attached::new();
    let fronts: Vec<Forkpy> = (0..50).map(|_| attached.front().spawn()).collect();
    let mut clients: Vec<(Forkpy, u64)> = fronts
        .into_iter()
        .map(|mut front| {
            let client = json!({"name": "it", "version": "1"});
            let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
            let id = front.begin("initialize", hello);
            (front, id)
        })
        .collect();
    for (front, id) in &mut clients {
        assert_eq!(front.answer(*id)["result"]["serverInfo"]["name"], "forkpy");
    }
    assert_eq!(attached.status()["status"]["clients"], 50);
    let servers = attached.family().into_iter().filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"__host")
    });
    // The zygote was begun as another role.
    assert_eq!(servers.count(), 1);
}

#[test]
fn a_front_that_is_killed_in_the_middle_of_a_message_harms_nobody() {
    let attached = Attached::new();
    let mut other = attached.client();
    other.run("x = 1");
    let mut front = attached.client();
    let pid = attached.server_pid();
    front.send_bytes(br#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"run_python_code","arguments":{"code":"x = 2"#);
    front.kill();
    wait_for("the server to see it", || attached.status()["status"]["clients"] == 1);
    assert_eq!((other.eval("x"), attached.server_pid()), ("1".to_owned(), pid));
}

#[test]
fn a_server_that_is_killed_is_told_to_all_and_the_next_call_gets_a_new_one() {
    let attached = Attached::new();
    let (mut one, mut two) = (attached.client(), attached.client());
    one.run("x = 1");
    one.call("create_session", json!({"session_id": "mine"}));
    two.run("y = 2");
    let (listed, before) = (attached.status(), attached.server_pid());
    assert_eq!(listed["status"]["sessions"][1]["session_id"], "mine", "{listed}");
    let open = one.begin_run("import time; time.sleep(600)");
    one.until_state("busy");
    // The record of sessions is written within a second.
    let record = attached.directory().join("run/forkpy").join(format!("{}.json", listed["name"].as_str().unwrap()));
    wait_for("the record", || fs::read_to_string(&record).is_ok_and(|text| text.contains("mine")));
    attached.kill_server();
    let answer = one.answer(open);
    let words = answer["error"]["message"].as_str().expect("an error");
    assert!(words.contains(&before.to_string()) && words.contains("killed") && words.contains("not known"), "{words}");

    let reply = one.run("x");
    assert_eq!((reply["status"].as_str(), reply["state"].as_str()), (Some("error"), Some("lost")), "{reply}");
    assert!(notice(&reply).contains("ended with its server, which was killed"), "{reply}");
    let gone = one.refused("run_python_code", json!({"code": "1", "session_id": "mine"}));
    assert!(gone.contains("does not exist any more") && gone.contains("server, which was killed"), "{gone}");
    // The other one used those variables too, and is told as well; a client that comes new is not.
    assert_eq!(two.run("1")["state"], "lost");
    assert_eq!(two.run("1")["state"], "kept");
    assert_ne!(attached.server_pid(), before);
    assert_eq!(attached.client().run("1")["state"], "kept");
}

/// Nobody was connected when it died: the next client learns it all the same.
#[test]
fn a_client_that_comes_after_a_death_learns_of_it() {
    let attached = Attached::new();
    attached.client().run("x = 1");
    attached.kill_server();
    let told = String::from_utf8(attached.run(&["status"]).stdout).expect("UTF-8");
    assert!(told.contains("does not run; its socket was left"), "{told}");
    let reply = attached.client().run("x = 1");
    assert_eq!(reply["state"], "lost", "{reply}");
    let stopped = attached.run(&["stop"]);
    assert!(stopped.status.success() && attached.family().is_empty(), "{stopped:?}");
    let reply = attached.client().run("x");
    assert!(notice(&reply).contains("ended with its server, which was stopped"), "{reply}");
}

#[test]
fn a_message_that_the_server_had_not_whole_is_not_run_by_the_next_one() {
    let attached = Attached::new();
    let mut client = attached.client();
    client.run("1");
    let id = client.expect_id();
    client.send_bytes(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","#).as_bytes());
    attached.kill_server();
    // Whether the front has seen the end or not: the rest of the message is nobody's.
    std::thread::sleep(Duration::from_millis(200));
    client.send_bytes(b"\"params\":{\"name\":\"run_python_code\",\"arguments\":{\"code\":\"x = 1\"}}}\n");
    let answer = client.answer(id);
    assert!(answer["error"]["message"].as_str().is_some_and(|words| words.contains("nothing was run")), "{answer}");
    assert_eq!(client.run("'x' in globals()")["results"][0], "False");
}

#[test]
fn large_messages_go_through_whole_both_ways() {
    let attached = Attached::new();
    for sockets in [false, true] {
        let front = attached.front();
        let mut client = if sockets { front.over_sockets() } else { front }.start();
        let text = "ä\u{1}\"\\".repeat(700_000);
        let written = client.call("write_file", json!({"path": "large.txt", "content": text}));
        assert!(!written.is_error, "{written:?}");
        let size = client.eval("len(open('large.txt', encoding='utf-8').read())");
        assert_eq!(size, text.chars().count().to_string());
        let ids: Vec<u64> = (0..20).map(|_| client.begin_run("print('y' * 30_000)")).collect();
        for id in ids {
            assert_eq!(client.reply(id).data["stdout"].as_str().map(str::len), Some(30_001));
        }
    }
}

#[test]
fn a_server_that_nobody_uses_ends_and_says_so() {
    let attached = Attached::new().args(&["--idle-exit", "1"]);
    let mut client = attached.client();
    client.run("x = 1");
    let (pid, name) = (attached.server_pid(), attached.status()["name"].clone());
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!((client.eval("x"), attached.server_pid()), ("1".to_owned(), pid), "a client is there");
    drop(client);
    wait_for("its end", || attached.family().is_empty());
    let runtime = attached.directory().join("run/forkpy");
    assert!(!runtime.join(format!("{}.sock", name.as_str().expect("a name"))).exists());
    assert_eq!(fs::metadata(&runtime).expect("made").mode() & 0o777, 0o700);
    let told = attached.run(&["status"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("no server runs"), "{told:?}");
    let reply = attached.client().run("x");
    assert!(notice(&reply).contains("server, which no client had used for long"), "{reply}");
}

#[test]
fn each_workspace_has_a_server_of_its_own_unless_a_name_is_given() {
    let attached = Attached::new();
    attached.client().run("x = 1");
    let other = attached.directory().join("other");
    let workspace = ["--workspace", other.to_str().expect("UTF-8")];
    // Said twice, the later one counts, as everywhere.
    let mut client = attached.front().args(&["--name", "second"]).args(&[]).start();
    assert_eq!(client.run("'x' in globals()")["results"][0], "False");
    drop(client);
    let refused = attached.run(&["stop"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("several servers run"), "{refused:?}");
    let unknown = attached.run(&["stop", "third"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there are: second, workspace-"), "{unknown:?}");
    assert!(attached.run(&["stop", "second"]).status.success());
    let bad = attached.run(&[&["attach", "--name", "../x"][..], &workspace].concat());
    assert!(String::from_utf8_lossy(&bad.stderr).contains("is not allowed"), "{bad:?}");
}

#[test]
fn options_that_a_server_cannot_have_are_refused_where_they_are_read() {
    let attached = Attached::new();
    let refused = attached.run(&["attach", "--workspace", "/proc/nowhere"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("/proc/nowhere") && said.contains("the server did not start"), "{said}");
    let wrong = attached.run(&["attach", "--idle-exit", "-1"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn runtime_directories_that_cannot_be_used_are_replaced_or_named() {
    // Not there, and cannot be made, whoever asks.
    let attached = Attached::new().env("XDG_RUNTIME_DIR", "/proc/nowhere");
    let temporary = attached.directory().join("tmp");
    fs::create_dir(&temporary).expect("made");
    let attached = attached.env("TMPDIR", &temporary);
    let mut client = attached.client();
    assert_eq!(client.eval("1 + 1"), "2");
    assert!(attached.status()["socket"].as_str().is_some_and(|path| path.starts_with(temporary.to_str().unwrap())));
    drop(client);
    let nowhere = Attached::new().env("XDG_RUNTIME_DIR", "/proc/nowhere").env("TMPDIR", "/proc/neither");
    let refused = nowhere.run(&["attach", "--name", "a"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("/proc/nowhere") && said.contains("set XDG_RUNTIME_DIR"), "{said}");
    let long = Attached::new();
    let deep = long.directory().join("x".repeat(100));
    let long = long.env("XDG_RUNTIME_DIR", deep);
    let refused = long.command(&["attach", "--name", "a"]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("107 bytes"), "{refused:?}");
    drop(long.env("XDG_RUNTIME_DIR", "/proc/nowhere"));
}

/// As for a user without a login: all lies below the temporary directory then.
#[test]
fn without_a_runtime_directory_the_temporary_one_is_taken() {
    let attached = Attached::new().without("XDG_RUNTIME_DIR");
    let temporary = attached.directory().join("tmp");
    fs::create_dir(&temporary).expect("made");
    let attached = attached.env("TMPDIR", &temporary);
    attached.client().run("x = 1");
    assert_eq!(attached.client().eval("x"), "1");
    let socket = attached.status()["socket"].as_str().expect("a path").to_owned();
    assert!(socket.starts_with(temporary.to_str().expect("UTF-8")), "{socket}");
    let folder = std::path::Path::new(&socket).parent().expect("a folder");
    assert_eq!(fs::metadata(folder).expect("made").mode() & 0o777, 0o700);
}

/// File systems of the test's own, where the kernel lets a user make some.
#[test]
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
fn a_full_or_read_only_runtime_directory_is_named_with_the_reason() {
    let mounts = |words: &str| Command::new("unshare").args(["-rm", "sh", "-c", words]).output();
    if !mounts("mount -t tmpfs none /mnt").is_ok_and(|done| done.status.success()) {
        println!("NOT TESTED: full runtime directories: this machine lets users mount nothing");
        return;
    }
    // Room for the folder alone, for the lock too, for the socket too and not for the log; and none at all.
    for (options, said) in [
        ("nr_inodes=2", "No space left on device"),
        ("nr_inodes=3", "No space left on device"),
        ("nr_inodes=4", "No space left on device"),
        ("ro", "Read-only file system"),
    ] {
        let attached = Attached::new().env("TMPDIR", "/proc/nowhere");
        let run = attached.directory().join("run");
        fs::create_dir(&run).expect("made");
        let words = format!("mount -t tmpfs -o {options} none {0} && \"$@\"; ls {0}/forkpy/*.sock", run.display());
        let attach = attached.command(&["attach", "--name", "a", "--python", env!("FORKPY_BUILD_PYTHON")]);
        let mut inside = Command::new("unshare");
        inside.args(["-rm", "sh", "-c", &words, "sh"]).arg(attach.get_program()).args(attach.get_args());
        inside.envs(attach.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
        let done = inside.output().expect("it runs");
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(told.contains(said) && told.contains(run.to_str().expect("UTF-8")), "{options}: {told}");
        assert!(done.stdout.is_empty(), "no socket of a server that never was: {done:?}");
    }
}

#[test]
fn what_others_may_write_and_sockets_of_others_are_not_used() {
    let attached = Attached::new();
    let runtime = attached.directory().join("run/forkpy");
    fs::create_dir_all(&runtime).expect("made");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o777)).expect("ours");
    let open = attached.command(&["attach", "--name", "a"]).env("TMPDIR", "/proc/nowhere").output().expect("it runs");
    assert!(String::from_utf8_lossy(&open.stderr).contains("others may write"), "{open:?}");
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let socket = runtime.join("a.sock");
    let code = "import socket, sys\ns = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('up', flush=True); s.accept()[0].recv(1)";
    let mut stranger = as_user(65534, env!("FORKPY_BUILD_PYTHON"));
    stranger.args(["-c", code]).arg(&socket).stdout(Stdio::piped());
    let mut stranger = stranger.spawn().expect("it starts");
    wait_for("the socket", || socket.exists() && processes::state(i32::try_from(stranger.id()).unwrap()) == 'S');
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("ours");
    let refused = attached.run(&["attach", "--name", "a"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    stranger.kill().and_then(|()| stranger.wait()).expect("ours");
    assert!(said.contains("belongs to user 65534"), "{said}");
    fs::remove_file(socket).expect("ours");
}
