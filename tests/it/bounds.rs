//! What the kernel keeps a session to, in a cgroup of its own; and what is kept where there is none.
//!
//! A machine that gives no cgroup is named in what the tests print: `NOT TESTED`.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, wait_for, who::Who};

fn limited(args: &[&str]) -> Forkpy {
    Setup::new().args(&["--max-spares", "0", "--checkpoints", "off"]).args(args).start()
}

/// Who keeps a limit of the session `default`; what the machine's own word on it is has to be the same.
fn kept_by(forkpy: &mut Forkpy, limit: &str) -> String {
    let key = if limit == "memory" { "memory_counted_by".to_owned() } else { format!("{limit}_kept_by") };
    let said = forkpy.health()["limits"][&key].as_str().unwrap_or_else(|| panic!("{key} is said")).to_owned();
    let bounds = forkpy.call("get_workspace_info", json!({})).data["bounds"].clone();
    assert_eq!(bounds[limit], said, "the session and the machine say the same: {bounds}");
    said
}

/// Whether the kernel keeps it here; else that is not tested, and said.
#[expect(clippy::print_stderr, reason = "what is not tested is said")]
fn has_cgroup(forkpy: &mut Forkpy, limit: &str) -> bool {
    let has = kept_by(forkpy, limit) == "cgroup";
    if !has {
        eprintln!("NOT TESTED: no cgroup can be made here for {limit}");
    }
    has
}

/// Starts processes until it may not; what it does then is DO.
const FILL: &str = "\
import subprocess, time
running = []
try:
    while len(running) < 2000: running.append(subprocess.Popen(['sleep', '600']))
except BlockingIOError:
    DO";

#[test]
fn who_starts_processes_without_end_meets_an_error_and_then_its_end() {
    let mut forkpy = limited(&["--processes-limit", "3"]);
    if !has_cgroup(&mut forkpy, "processes") {
        return;
    }
    forkpy.call("create_session", json!({"session_id": "other"}));
    let other = |forkpy: &mut Forkpy, code: &str| {
        forkpy.call("run_python_code", json!({"code": code, "session_id": "other"})).data
    };
    assert_eq!(other(&mut forkpy, "x = 7")["status"], "ok");
    // Threads are no processes, whatever the kernel counts.
    let threads = "import threading, time\nover = threading.Event()\nthreads = [threading.Thread(target=over.wait) for _ in range(40)]\n\
                   for one in threads: one.start()\nover.set()\nfor one in threads: one.join()\nlen(threads)";
    assert_eq!(forkpy.eval(threads), "40");
    // One that makes room again in time goes on.
    let yields = FILL.replace("DO", "[(one.kill(), one.wait()) for one in running]");
    assert_eq!(forkpy.eval(&format!("kept = 5\n{yields}\n3 < len(running) < 1000")), "True");
    assert_eq!(forkpy.eval("time.sleep(4); kept"), "5");
    // One that stays beyond is told, and ended.
    let reply = forkpy.run(&FILL.replace("DO", "raise"));
    assert_eq!((&reply["status"], &reply["error"]["type"]), (&json!("error"), &json!("BlockingIOError")), "{reply}");
    let words = reply["stderr"].as_str().expect("a traceback");
    assert!(words.contains("Hint: the session has ") && words.contains("--processes-limit"), "{words}");
    // The session is at rest, and is told of it all the same before its end.
    forkpy.until("its end", |health| health["last_exit"]["reason"] == "process_limit");
    let told = forkpy.call("get_health_report", json!({})).data;
    let told = format!("{}{}", told["alerts"], told["past_alerts"]);
    assert!(told.contains("process_limit") && told.contains("with more than 3 the session is ended"), "{told}");
    assert_eq!(other(&mut forkpy, "x")["results"], json!(["7"]), "no other is touched");
    wait_for("its processes to be gone", || forkpy.family().len() == 3);
}

/// Processes that start others, which no Python asks first.
#[test]
fn a_fork_bomb_ends_with_its_session() {
    let mut forkpy = limited(&["--processes-limit", "10"]);
    if !has_cgroup(&mut forkpy, "processes") {
        return;
    }
    let bomb = "import os, time\nif os.fork() == 0:\n    while True:\n        try: os.fork()\n        except OSError: time.sleep(0.05)\n\
                seen = 0\nwhile True:\n    time.sleep(0.05)\n    seen = max(seen, int(open(COUNT).read()))\n    open('new', 'w').write(str(seen)) and os.replace('new', 'seen')";
    // Of any version.
    let count = "next(p for line in open('/proc/self/cgroup') for p in [\
                 '/sys/fs/cgroup/pids' + line.rstrip().split(':', 2)[2] + '/pids.current', '/sys/fs/cgroup' + line.rstrip().split(':', 2)[2] + '/pids.current'] \
                 if 'forkpy-' in p and __import__('os').path.exists(p))";
    let reply = forkpy.run(&bomb.replace("COUNT", count));
    assert_eq!((&reply["status"], &reply["death"]["reason"]), (&json!("died"), &json!("process_limit")), "{reply}");
    let most: u32 = std::fs::read_to_string(forkpy.file("seen")).expect("it looked").parse().expect("a number");
    assert!(most < 1000, "the kernel let it have {most}");
    wait_for("its processes to be gone", || forkpy.family().len() == 2);
    assert_eq!(forkpy.eval("1 + 1"), "2");
}

#[test]
fn processors_are_shared_out_by_the_kernel() {
    let mut forkpy = limited(&["--cpus", "0.5"]);
    if !has_cgroup(&mut forkpy, "cpus") {
        return;
    }
    let limits = forkpy.health()["limits"].clone();
    assert_eq!((&limits["cpus"], &limits["throttled_seconds"]), (&json!(0.5), &json!(0.0)), "{limits}");
    let burn = "import time\nbegan, end = time.perf_counter(), time.process_time() + 0.6\nwhile time.process_time() < end: pass\n\
                time.perf_counter() - began";
    let took: f64 = forkpy.eval(burn).parse().expect("seconds");
    assert!(took > 1.0, "0.6 s of half a processor took {took} s");
    // With all it starts.
    let children = "import subprocess, sys\nbegan = time.perf_counter()\n\
                    code = 'import time\\nwhile time.process_time() < 0.4: pass'\n\
                    running = [subprocess.Popen([sys.executable, '-I', '-S', '-c', code]) for _ in range(2)]\n\
                    for one in running: one.wait()\ntime.perf_counter() - began";
    let took: f64 = forkpy.eval(children).parse().expect("seconds");
    assert!(took > 1.3, "0.8 s of half a processor took {took} s");
    let limits = forkpy.health()["limits"].clone();
    // On a busy machine it may not come to use up its share.
    assert!(limits["throttled_seconds"].is_number(), "{limits}");
    assert_eq!(forkpy.call("check_kernel_responsiveness", json!({})).data["responsive"], true);
    // Only ever less.
    let asked = |cpus: f64| json!({"session_id": "less", "limits": {"cpus": cpus}});
    let words = forkpy.refused("create_session", asked(0.6));
    assert!(words.contains("above this server's own limit of 0.5 (--cpus)"), "{words}");
    let made = forkpy.call("create_session", asked(0.2)).data;
    assert_eq!((&made["limits"]["cpus"], &made["limits"]["cpus_kept_by"]), (&json!(0.2), &json!("cgroup")), "{made}");
    // The next worker is kept to it as well.
    forkpy.call("restart_kernel", json!({}));
    let took: f64 = forkpy.eval(burn).parse().expect("seconds");
    assert!(took > 1.0, "0.6 s of half a processor took {took} s");
}

#[test]
fn a_session_is_told_before_it_meets_its_limit_of_memory() {
    let mut forkpy = limited(&["--memory-limit", "100M"]);
    if !has_cgroup(&mut forkpy, "memory") {
        return;
    }
    assert!(!forkpy.run("x = b'x' * (40 << 20)")["alerts"].to_string().contains("memory"));
    forkpy.run("y = b'x' * (48 << 20)");
    forkpy.until("an alert", |health| health["alerts"].to_string().contains("memory_limit"));
    let told = forkpy.run("len(y)");
    assert!(told["alerts"].to_string().contains("with more than 100 MB allocations fail"), "{told}");
    assert_eq!(told["state"], "kept");
    forkpy.run("del x, y");
    forkpy.until("its end", |health| !health["alerts"].to_string().contains("memory_limit"));
}

/// Nothing of what was made for sessions stays, whether a server ends or is killed.
#[test]
fn no_cgroup_stays_behind() {
    let ours = |pid: i32| {
        let found = ["memory", "pids", "cpu", "unified", "."].map(|kind| Path::new("/sys/fs/cgroup").join(kind));
        let prefix = format!("forkpy-{pid}-");
        let in_folder = |folder: &Path| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).count()
        };
        found.iter().map(|folder| in_folder(folder)).sum::<usize>()
    };
    let all = ["--processes-limit", "30", "--cpus", "1.5"];
    let mut forkpy = limited(&all);
    if !has_cgroup(&mut forkpy, "processes") {
        return;
    }
    forkpy.eval("1");
    let first = forkpy.server_pid();
    assert!(ours(first) >= 2, "the test looks where they are");
    forkpy.call("create_session", json!({"session_id": "brief"}));
    forkpy.call("delete_session", json!({"session_id": "brief"}));
    drop(forkpy);
    assert_eq!(ours(first), 0);
    let mut forkpy = limited(&all);
    forkpy.eval("1");
    let second = forkpy.server_pid();
    forkpy.kill();
    drop(forkpy);
    // The next one removes what a killed one has left.
    let mut forkpy = limited(&all);
    forkpy.eval("1");
    drop(forkpy);
    assert_eq!(ours(second), 0);
}

/// An ordinary user has none unless it was delegated: then it is as it was before there were any.
#[test]
fn where_the_kernel_keeps_nothing_it_is_said() {
    for who in Who::every() {
        let options = ["--max-spares", "0", "--checkpoints", "off", "--processes-limit", "3", "--cpus", "1"];
        let mut forkpy = Setup::new().args(&options).run_by(who).keep_log().start();
        forkpy.eval("1");
        let (processes, cpus) = (kept_by(&mut forkpy, "processes"), kept_by(&mut forkpy, "cpus"));
        assert!(["cgroup", "processes"].contains(&processes.as_str()) && ["cgroup", "none"].contains(&cpus.as_str()));
        let is_said = forkpy.log().contains("--cpus 1 is not kept on this machine");
        assert_eq!(is_said, cpus == "none", "{who:?}: {}", forkpy.log());
        let throttled: &Value = &forkpy.health()["limits"]["throttled_seconds"];
        assert_eq!(throttled.is_null(), cpus == "none", "{who:?}");
        let beyond =
            "import subprocess, time\nrunning = [subprocess.Popen(['sleep', '600']) for _ in range(4)]\ntime.sleep(60)";
        let reply = forkpy.run(beyond);
        assert_eq!(
            (&reply["status"], &reply["death"]["reason"]),
            (&json!("died"), &json!("process_limit")),
            "{who:?} {reply}"
        );
    }
}
