//! The sandbox: what works in it as before, what it says of itself, and when a server does not start.

use std::process::Command;

use serde_json::json;

use crate::support::{Forkpy, Setup, http::HttpForkpy, who::Who};

/// The one that forkpy is linked with.
const PYTHON: &str = env!("FORKPY_BUILD_PYTHON");

/// Ordinary work, each with what it prints.
const WORK: &[(&str, &str)] = &[
    (
        "import os\nopen('a.txt', 'w').write('x')\nos.rename('a.txt', 'b.txt')\nos.remove('b.txt')\nprint('files')",
        "files\n",
    ),
    (
        "import os\nos.makedirs('d/e')\nopen('d/e/f', 'w').close()\nos.rename('d/e/f', 'd/g')\nprint(sorted(os.listdir('d')))",
        "['e', 'g']\n",
    ),
    (
        "import os, tempfile\nwith tempfile.NamedTemporaryFile() as file: file.write(b'x')\nwith tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').close()\nprint('temporary')",
        "temporary\n",
    ),
    (
        "import os, shutil, tempfile\npath = tempfile.mkstemp()[1]\nshutil.move(path, 'moved')\nprint(os.path.exists('moved'))",
        "True\n",
    ),
    (
        "import sqlite3\nbase = sqlite3.connect('x.db')\nbase.execute('create table a(b)')\nbase.execute('insert into a values (1)')\nbase.commit()\nprint(base.execute('select b from a').fetchall())",
        "[(1,)]\n",
    ),
    (
        "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout)",
        "42\n\n",
    ),
    (
        "import subprocess\nprint(subprocess.run('echo $((6 * 7)) | cat', shell=True, capture_output=True, text=True).stdout)",
        "42\n\n",
    ),
    (
        "import threading\nseen = []\nthreads = [threading.Thread(target=seen.append, args=(i,)) for i in range(4)]\nfor t in threads: t.start()\nfor t in threads: t.join()\nprint(sorted(seen))",
        "[0, 1, 2, 3]\n",
    ),
    (
        "from concurrent.futures import ProcessPoolExecutor\nwith ProcessPoolExecutor(2) as pool: print(list(pool.map(abs, [-1, -2])))",
        "[1, 2]\n",
    ),
    (
        "import multiprocessing as mp\nqueue, lock = mp.Queue(), mp.Lock()\nchild = mp.Process(target=queue.put, args=(5,))\nchild.start()\nprint(queue.get(timeout=20), child.join())",
        "5 None\n",
    ),
    ("import multiprocessing as mp\nwith mp.get_context('spawn').Pool(1) as pool: print(pool.map(abs, [-3]))", "[3]\n"),
    (
        "from multiprocessing import shared_memory\nblock = shared_memory.SharedMemory(create=True, size=64)\nblock.buf[0] = 7\nagain = shared_memory.SharedMemory(block.name)\nprint(again.buf[0])\nagain.close(); block.close(); block.unlink()",
        "7\n",
    ),
    ("from multiprocessing import Manager\nwith Manager() as manager: print(manager.dict(a=1)['a'])", "1\n"),
    (
        "import multiprocessing as mp\nwith mp.get_context('forkserver').Pool(1) as pool: print(pool.map(abs, [-4]))",
        "[4]\n",
    ),
    (
        "import os, socket\nserver, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)\nserver.bind('own.sock'); server.listen()\nclient.connect('own.sock'); print(client.getpeername() == 'own.sock')\nos.unlink('own.sock')",
        "True\n",
    ),
    ("import asyncio\nprint(asyncio.new_event_loop().run_until_complete(asyncio.sleep(0, 'loop')))", "loop\n"),
    ("import socket\none, other = socket.socketpair()\none.send(b'x')\nprint(other.recv(1))", "b'x'\n"),
    (
        "import os, signal, subprocess\nchild = subprocess.Popen(['sleep', '60'])\nchild.terminate()\nprint(child.wait() == -signal.SIGTERM)",
        "True\n",
    ),
    (
        "import ctypes\ncompare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)\nprint(compare(1))",
        "2\n",
    ),
    (
        "import ssl, zoneinfo, locale, hashlib, secrets\nprint(zoneinfo.ZoneInfo('UTC'), bool(ssl.create_default_context()), len(secrets.token_bytes(4)))",
        "UTC True 4\n",
    ),
    (
        "import os\nprint(os.path.expanduser('~') == os.environ['HOME'], os.getcwd() != '/')\nopen(os.path.expanduser('~/note'), 'w').close()",
        "True True\n",
    ),
    ("import os\nprint(len(os.listdir('/proc/self/fd')) > 2, open('/proc/meminfo').read(3))", "True Mem\n"),
    (
        "import os\nopen('m', 'w').write('x')\nos.chmod('m', 0o600); os.utime('m', (5, 6)); os.chown('m', os.getuid(), os.getgid())\nfd = os.open('m', os.O_RDONLY)\nos.fchmod(fd, 0o640); os.utime(fd, (7, 8))\nprint(oct(os.stat('m').st_mode), os.stat('m').st_mtime)",
        "0o100640 8.0\n",
    ),
    (
        "import os, shutil, tempfile\nos.utime('m', (1, 2)); shutil.copy2('m', 'n'); os.symlink('n', 'l'); os.utime('l', (3, 4), follow_symlinks=False)\nfolder = tempfile.mkdtemp(); os.chmod(folder, 0o750); shutil.copytree('.', folder + '/all', symlinks=True); print(os.stat(folder + '/all/n').st_mtime, os.lstat('l').st_mtime)\nshutil.rmtree(folder)",
        "2.0 4.0\n",
    ),
    (
        "import io, os, tarfile, zipfile\nwith tarfile.open('t.tar', 'w') as file: file.add('n')\nos.mkdir('unpacked')\ntarfile.open('t.tar').extractall('unpacked'); print(os.stat('unpacked/n').st_mtime)",
        "2.0\n",
    ),
    (
        "import subprocess\nprint(subprocess.run('cp -a n p && touch -d 2001-01-01 p && chmod 700 p && tar xf t.tar && mkdir -m 700 q', shell=True).returncode)",
        "0\n",
    ),
    ("import resource, os\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.nice(0)\nprint('limits')", "limits\n"),
];

#[test]
fn ordinary_work_goes_on_as_before() {
    let mut open = Setup::new().start();
    let mut confined = Setup::new().args(&["--sandbox", "workspace"]).start();
    for (code, expected) in WORK {
        for (mode, forkpy) in [("off", &mut open), ("workspace", &mut confined)] {
            let outcome = forkpy.run(code);
            assert_eq!(outcome["stdout"], *expected, "--sandbox {mode}: {code}\n{outcome}");
        }
    }
}

#[test]
fn copies_scripts_and_saved_variables_are_confined_and_work() {
    let mut forkpy = Setup::new().args(&["--sandbox", "workspace"]).start();
    let outside = forkpy.workspace.parent().expect("a directory above").join("secret");
    std::fs::write(&outside, "treasure").expect("written");
    let look =
        format!("try:\n    print(open({outside:?}).read(), x)\nexcept PermissionError:\n    print('refused', x)");
    forkpy.run("x = 5\nopen('kept', 'w').write('1')");
    assert_eq!(forkpy.run(&look)["stdout"], "refused 5\n");
    forkpy.call("checkpoint_session", json!({"name": "one"}));
    forkpy.run("x = 6");
    let restored = forkpy.call("restore_checkpoint", json!({"name": "one"}));
    assert!(!restored.is_error, "{restored:?}");
    let after = forkpy.run(&format!("{look}\nimport tempfile\ntempfile.TemporaryFile().write(b'x')"));
    assert_eq!(after["stdout"], "refused 5\n", "{after}");
    let restarted = forkpy.call("restart_kernel", json!({"preserve_state": true}));
    assert_eq!(restarted.data["restored_vars"], json!(["tempfile", "x"]), "{restarted:?}");
    assert_eq!(forkpy.run(&look)["stdout"], "refused 5\n");
    std::fs::write(forkpy.file("look.py"), format!("x = 7\n{look}")).expect("written");
    assert_eq!(forkpy.call("run_script", json!({"path": "look.py"})).data["stdout"], "refused 7\n");
    let packages = forkpy.call("list_packages", json!({}));
    assert!(!packages.is_error, "{packages:?}");
}

#[test]
fn what_is_allowed_is_reached_and_what_is_refused_names_the_flag() {
    let above = tempfile::tempdir().expect("a directory");
    for name in ["readable", "writable", "closed"] {
        std::fs::create_dir(above.path().join(name)).expect("made");
        std::fs::write(above.path().join(name).join("file"), name).expect("written");
    }
    let path = |name: &str| above.path().join(name).to_str().expect("UTF-8").to_owned();
    let (read, write) = (path("readable"), path("writable"));
    let options = ["--sandbox", "workspace", "--allow-read", &read, "--allow-write", &write];
    let mut forkpy = Setup::new().args(&options).start();
    assert_eq!(forkpy.eval(&format!("open('{read}/file').read()")), "'readable'");
    assert_eq!(forkpy.eval(&format!("open('{write}/new', 'w').write('x')")), "1");
    for code in [format!("open('{read}/new', 'w')"), format!("open('{}/file')", path("closed"))] {
        let refused = forkpy.run(&code)["stderr"].as_str().unwrap_or_default().to_owned();
        assert!(refused.contains("PermissionError") && refused.contains("--allow-write PATH"), "{refused}");
        assert!(refused.contains(&write), "it says where writing is allowed: {refused}");
    }
    let refused = forkpy.run("import socket; socket.create_connection(('127.0.0.1', 9))");
    assert!(refused["stderr"].as_str().is_some_and(|words| words.contains("no network")), "{refused}");
    // What is replaced later opens nothing.
    std::fs::rename(above.path().join("readable"), above.path().join("old")).expect("renamed");
    std::os::unix::fs::symlink(above.path().join("closed"), above.path().join("readable")).expect("a link");
    let refused = forkpy.run(&format!("open('{read}/file').read()"));
    assert!(refused["stderr"].as_str().is_some_and(|words| words.contains("PermissionError")), "{refused}");
    let info = forkpy.call("get_workspace_info", json!({})).data;
    assert_eq!(
        (&info["sandbox"]["mode"], &info["sandbox"]["network"]),
        (&json!("workspace"), &json!("none")),
        "{info}"
    );
    assert_eq!(info["sandbox"]["read"], json!([read]), "{info}");
    assert_eq!(forkpy.health()["limits"]["sandbox"], "workspace");
}

#[test]
fn a_session_may_have_a_narrower_sandbox_and_no_wider_one() {
    let mut forkpy = Setup::new().start();
    let program = "import subprocess\nsubprocess.run(['true']).returncode";
    assert_eq!(forkpy.eval(program), "0");
    let made = forkpy.call("create_session", json!({"session_id": "strict", "sandbox": "strict"}));
    assert_eq!(made.data["limits"]["sandbox"], "strict", "{made:?}");
    let run = |code: &str| json!({"session_id": "strict", "code": code});
    let refused = forkpy.call("run_python_code", run(program));
    assert!(refused.data["stderr"].as_str().is_some_and(|words| words.contains("PermissionError")), "{refused:?}");
    let python = "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True, text=True).stdout)";
    assert_eq!(forkpy.call("run_python_code", run(python)).data["stdout"], "1\n\n", "the environment's Python runs");
    drop(forkpy);
    let mut forkpy = Setup::new().args(&["--sandbox", "workspace"]).start();
    let words = forkpy.refused("create_session", json!({"session_id": "wide", "sandbox": "off"}));
    assert!(words.contains("`sandbox` off is wider than this server's own (workspace"), "{words}");
}

#[test]
fn a_server_that_cannot_keep_a_promise_says_which_and_does_not_start() {
    let of_landlock = |abi: &'static str| ("FORKPY_LANDLOCK", abi);
    for ((name, value), missing) in [
        (of_landlock("0"), "files, and the memory of other processes, are open"),
        (of_landlock("1"), "files elsewhere can be emptied"),
        (of_landlock("2"), "files elsewhere can be emptied"),
        (of_landlock("3"), "devices that are open take all commands"),
        (of_landlock("4"), "devices that are open take all commands"),
        (of_landlock("5"), "can be signalled"),
        (("FORKPY_SECCOMP", "off"), "network, tracing and namespaces are open"),
    ] {
        let setup = || Setup::new().env(name, value).args(&["--sandbox", "workspace"]);
        let (code, log) = setup().run_to_end();
        assert!(code == Some(1) && log.contains(missing), "{name}={value}: {code:?} {log}");
        assert!(log.contains("--sandbox-best-effort"), "{log}");
        if !["0", "5", "off"].contains(&value) {
            continue;
        }
        let mut forkpy = setup().args(&["--sandbox-best-effort"]).start();
        assert_eq!(forkpy.eval("1 + 1"), "2", "{name}={value}");
        let info = forkpy.call("get_workspace_info", json!({})).data;
        assert!(info["sandbox"]["missing"].to_string().contains(missing), "{info}");
    }
    let mut forkpy = Setup::new().env("FORKPY_LANDLOCK", "5").start();
    let words = forkpy.refused("create_session", json!({"session_id": "a", "sandbox": "strict"}));
    assert!(words.contains("can be signalled"), "a session alike: {words}");
}

#[test]
fn senseless_paths_are_refused_at_the_start() {
    for (options, expected) in [
        (["--allow-write", "/"], "that is everything"),
        (["--allow-read", "/usr/.."], "that is everything"),
        (["--allow-read", "/no/such/path"], "--allow-read /no/such/path: No such file"),
        (["--allow-write", "no/such/relative/path"], "No such file"),
    ] {
        let (code, log) = Setup::new().args(&["--sandbox", "workspace"]).args(&options).run_to_end();
        assert!(code == Some(1) && log.contains(expected), "{options:?}: {log}");
    }
    let (code, log) = Setup::new().args(&["--sandbox", "tight"]).run_to_end();
    assert!(code == Some(2) && log.contains("off, workspace, strict"), "{log}");
}

#[test]
fn http_for_others_needs_a_word_on_the_sandbox() {
    let open =
        || Setup::new().env("FORKPY_TOKEN", "x").args(&["--transport", "http", "--host", "0.0.0.0", "--port", "0"]);
    let (code, log) = open().run_to_end();
    assert!(code == Some(1) && log.contains("without a sandbox") && log.contains("--sandbox workspace"), "{log}");
    // That it starts with one is seen by its answer.
    let server = HttpForkpy::start(Setup::new().args(&["--sandbox", "workspace"]));
    assert_eq!(server.get("/healthz").status, 200);
}

/// What confines a session, as its health tells.
fn layers(forkpy: &mut Forkpy) -> Vec<String> {
    forkpy.run("1");
    let told = forkpy.health()["limits"]["sandbox_layers"].clone();
    let layers = told.as_array().unwrap_or_else(|| panic!("{told}")).iter();
    layers.map(|layer| layer.as_str().expect("words").to_owned()).collect()
}

/// Namespaces are had where the system gives them, by root and by others, and are no condition.
#[test]
fn sessions_without_network_have_a_network_of_their_own_where_the_system_gives_it() {
    // The head of the table, and nothing in it.
    let seen = "len(open('/proc/net/tcp').readlines())";
    let service = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    for who in Who::every() {
        let confined = || Setup::new().args(&["--sandbox", "workspace"]).run_by(who);
        let mut forkpy = confined().start();
        let has = layers(&mut forkpy);
        assert!(has.iter().any(|layer| layer.starts_with("Landlock ")), "{has:?}");
        assert!(has.contains(&"seccomp".to_owned()), "{has:?}");
        assert_eq!(forkpy.call("get_workspace_info", json!({})).data["sandbox"]["layers"], json!(has));
        let expected = if has.contains(&"network namespace".to_owned()) { "1" } else { "" };
        let found = forkpy.eval(seen);
        assert!(found == expected || expected.is_empty(), "{who:?} {has:?}: {found}");
        // Who it is, and what it may do, is as before.
        let own = forkpy.eval("import os; (os.getuid(), os.getgid(), os.stat('.').st_uid == os.getuid())");
        let user = if who == Who::Ordinary { "(65534, 65534, True)" } else { "(" };
        assert!(own.starts_with(user), "{own}");
        // What a checkpoint wakes is in the same.
        forkpy.call("checkpoint_session", json!({"name": "one"}));
        assert!(!forkpy.call("restore_checkpoint", json!({"name": "one"})).is_error);
        assert_eq!((layers(&mut forkpy), forkpy.eval(seen)), (has, found));
        // With hosts that it may reach it has the machine's network, and the proxy.
        let mut forkpy = confined().args(&["--allow-net", "all"]).start();
        let has = layers(&mut forkpy);
        assert!(!has.contains(&"network namespace".to_owned()), "{has:?}");
        let mut forkpy = confined().without_namespaces().start();
        let has = layers(&mut forkpy);
        assert!(!has.iter().any(|layer| layer.contains("namespace")), "{has:?}");
        assert!(
            forkpy.run("import socket\nsocket.socket()")["stderr"]
                .as_str()
                .is_some_and(|words| words.contains("PermissionError"))
        );
    }
    drop(service);
}

/// What was written never runs, in the mode that promises it.
#[test]
fn written_memory_runs_in_no_strict_session() {
    let write = "import mmap\ntry:\n    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n    \
                 print('runs')\nexcept PermissionError:\n    print('kept')";
    for (mode, has_it) in [("workspace", false), ("strict", true)] {
        let mut forkpy = Setup::new().args(&["--sandbox", mode]).start();
        let has = layers(&mut forkpy).contains(&"no code from written memory".to_owned());
        // A kernel before 6.3 has it not, and says so.
        let expected = if has { "kept\n" } else { "runs\n" };
        assert_eq!(forkpy.run(write)["stdout"], expected, "{mode}");
        assert!(has_it || !has, "{mode}");
        // Nor in a Python that it starts.
        let child = format!(
            "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', {write:?}], capture_output=True, text=True).stdout)"
        );
        assert_eq!(forkpy.run(&child)["stdout"], format!("{expected}\n"), "{mode}");
    }
}

/// A package can have Python run code at its start. Sessions install packages, and what starts Python for them is not confined.
#[test]
fn code_of_packages_runs_where_it_is_confined() {
    for mode in ["off", "workspace", "strict"] {
        let setup = Setup::without_python();
        let above = setup.workspace.parent().expect("a directory above").to_owned();
        let (venv, outside) = (above.join("venv"), above.join("outside"));
        let options = ["-m", "venv", "--without-pip"];
        let made = Command::new(env!("FORKPY_BUILD_PYTHON")).args(options).arg(&venv).status().expect("Python runs");
        assert!(made.success());
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("secret"), "treasure").expect("written");
        let lib = venv.join("lib").read_dir().expect("a library").next().expect("a Python").expect("its folder").path();
        let packages = lib.join("site-packages");
        let spy = |name: &str| {
            let file = outside.join(name);
            format!(
                "import os, sys; sys.{name} = (os.getpid(), sitedir if 'sitedir' in globals() or 'sitedir' in locals() else None); open({file:?}, 'w').close()"
            )
        };
        std::fs::write(packages.join("one.pth"), format!("{}\n{}\n", spy("line"), outside.display())).expect("written");
        std::fs::write(packages.join("sitecustomize.py"), spy("custom").replace("; open", "\nopen")).expect("written");
        let venv = venv.to_str().expect("UTF-8").to_owned();
        let mut forkpy = setup.args(&["--sandbox", mode, "--venv", &venv]).start();
        let ran =
            forkpy.eval("import os, sys; [hasattr(sys, 'line'), sys.line[1] is not None, hasattr(sys, 'custom')]");
        assert_eq!(ran, "[True, True, True]", "{mode}: it runs, and as in any Python");
        let here = forkpy.eval("(sys.line[0] == os.getpid(), sys.flags.no_site)");
        assert_eq!(here, if mode == "off" { "(False, 0)" } else { "(True, 0)" }, "{mode}");
        let packages = forkpy.call("list_packages", json!({}));
        assert!(!packages.is_error, "{packages:?}");
        forkpy.call("code_completion", json!({"code": "import os; os.pat", "cursor_pos": 17}));
        let searched = format!("{:?} in sys.path", outside.display().to_string());
        assert_eq!(forkpy.eval(&searched), "True", "{mode}");
        let read = forkpy.run(&format!("open({:?}).read()", outside.join("secret")));
        let is_off = mode == "off";
        assert_eq!(read["status"] == "ok", is_off, "{mode}: a path to search is no path to read: {read}");
        for name in ["line", "custom"] {
            assert_eq!(outside.join(name).exists(), is_off, "{mode}: {name}");
        }
        let child = "import subprocess\nsubprocess.run([sys.executable, '-c', 'import sys; print(sys.flags.no_site, hasattr(sys, \"line\"))'], capture_output=True, text=True).stdout";
        assert_eq!(forkpy.eval(child), "'0 True\\n'", "{mode}");
    }
}

/// A device takes its commands only if it was named: terminals are all of a user's.
#[test]
fn terminals_are_closed_unless_they_are_named() {
    let open = "import os, pty, termios\nmaster, slave = pty.openpty()\nos.write(slave, b'x')\nprint(os.read(master, 1), len(termios.tcgetattr(slave)))";
    let mut forkpy = Setup::new().args(&["--sandbox", "workspace"]).start();
    let closed = forkpy.run(open);
    assert!(closed["stderr"].as_str().is_some_and(|words| words.contains("--allow-write /dev/ptmx")), "{closed}");
    let named = ["--sandbox", "workspace", "--allow-write", "/dev/ptmx", "--allow-write", "/dev/pts"];
    let mut forkpy = Setup::new().args(&named).start();
    assert_eq!(forkpy.run(open)["stdout"], "b'x' 7\n");
}

/// What installs packages may change what lies in `bin`. A server that starts runs nothing of it to find its library.
#[test]
fn nothing_that_an_install_can_have_left_is_run_at_the_start() {
    for mode in ["off", "workspace"] {
        let setup = Setup::without_python();
        let above = setup.workspace.parent().expect("a directory above").to_owned();
        let (venv, ran) = (above.join("venv"), above.join("ran"));
        let options = ["-m", "venv", "--without-pip"];
        let made = Command::new(PYTHON).args(options).arg(&venv).status().expect("Python runs");
        assert!(made.success());
        let lib = venv.join("lib").read_dir().expect("a library").next().expect("a Python").expect("its folder").path();
        let evil = lib.join("site-packages/evil/bin");
        std::fs::create_dir_all(&evil).expect("made");
        let script = format!("#!/bin/sh\ntouch {}\nexec {PYTHON} \"$@\"\n", ran.display());
        std::fs::write(evil.join("python"), script).expect("written");
        std::fs::set_permissions(evil.join("python"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("ours");
        std::fs::remove_file(venv.join("bin/python")).expect("there");
        std::os::unix::fs::symlink(evil.join("python"), venv.join("bin/python")).expect("made");
        let named = venv.to_str().expect("UTF-8").to_owned();
        let mut forkpy = setup.args(&["--sandbox", mode, "--venv", &named]).start();
        let prefix = forkpy.eval("import sys; sys.prefix");
        assert_eq!(ran.exists(), mode == "off", "{mode}: {prefix}");
        if mode != "off" {
            assert_eq!(prefix, format!("'{named}'"));
        }
    }
    // What is named itself is not run either, if it may be anything.
    let setup = || Setup::without_python().args(&["--sandbox", "workspace"]);
    let place = tempfile::tempdir().expect("a directory");
    let wrapper = place.path().join("python");
    std::fs::write(&wrapper, format!("#!/bin/sh\ntouch {}/ran\nexec {PYTHON} \"$@\"\n", place.path().display()))
        .expect("written");
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let mut forkpy = setup().args(&["--python", wrapper.to_str().expect("UTF-8")]).start();
    let words = forkpy.refused("run_python_code", json!({"code": "1"}));
    assert!(words.contains("is a script, and none is run to find an interpreter"), "{words}");
    assert!(!place.path().join("ran").exists());
    let setup = setup();
    let own = setup.workspace.join("bin/python3.11");
    std::fs::create_dir_all(own.parent().expect("a folder")).expect("made");
    std::fs::copy(PYTHON, &own).expect("copied");
    let mut forkpy = setup.args(&["--python", own.to_str().expect("UTF-8")]).start();
    let words = forkpy.refused("run_python_code", json!({"code": "1"}));
    assert!(words.contains("which sessions can change"), "{words}");
}

/// A file that may be read, not changed, is not marked either, by a descriptor or by its name.
#[test]
fn what_may_only_be_read_is_not_marked() {
    let above = tempfile::tempdir().expect("a directory");
    let file = above.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let look = || {
        let found = std::fs::metadata(&file).expect("there");
        (std::os::unix::fs::MetadataExt::mode(&found), found.modified().expect("known"))
    };
    let before = look();
    for mode in ["workspace", "strict"] {
        let options = ["--sandbox", mode, "--allow-read", above.path().to_str().expect("UTF-8")];
        let mut forkpy = Setup::new().args(&options).start();
        forkpy.run(&format!(
            "import os\npath = {file:?}\ndescriptor = os.open(path, os.O_RDONLY)\n\
             def tried(what):\n    try:\n        what()\n        return 'out'\n    except PermissionError:\n        return 'kept'"
        ));
        for what in [
            "os.fchmod(descriptor, 0o777)",
            "os.utime(descriptor, (1, 1))",
            "os.fchown(descriptor, os.getuid(), os.getgid())",
            "os.setxattr(descriptor, 'user.x', b'')",
            "os.chmod(path, 0o777)",
            "os.chmod(f'/proc/self/fd/{descriptor}', 0o777)",
            "os.chmod(f'/dev/fd/{descriptor}', 0o777)",
            "__import__('fcntl').ioctl(descriptor, 0x40086602, b'\\0' * 8)",
        ] {
            assert_eq!(forkpy.eval(&format!("tried(lambda: {what})")), "'kept'", "{mode}: {what}");
        }
        let refused = forkpy.run("os.chmod(path, 0)");
        assert!(refused["stderr"].as_str().is_some_and(|words| words.contains("--allow-write PATH")), "{refused}");
    }
    assert_eq!(look(), before);
}

/// A directory of all temporary files is a way from one session to another.
#[test]
fn who_opens_the_place_of_all_temporary_files_is_warned() {
    let above = tempfile::tempdir().expect("a directory");
    let path = above.path().to_str().expect("UTF-8").to_owned();
    let start = |options: &[&str]| {
        let setup = Setup::new().env("TMPDIR", &path).args(&["--sandbox", "workspace"]).args(options).keep_log();
        let mut forkpy = setup.start();
        forkpy.eval("1");
        forkpy.log()
    };
    const WORDS: &str = "sessions reach each other's temporary files";
    assert!(start(&["--allow-write", &path]).contains(WORDS));
    assert!(!start(&[]).contains(WORDS));
}
