//! The wall clock jumps: nothing that forkpy decides may follow it.
//!
//! A library of a few lines, preloaded into the server and all its processes, shifts the wall clock by what a file says;
//! the monotonic clock, which is what time limits and ages must go by, it leaves alone.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Forkpy, Setup};

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long jump(void) {
    char text[32] = {0};
    const char *path = getenv("TEST_JUMP_OF_FORKPY");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t count = read(file, text, sizeof text - 1);
    close(file);
    return count > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jump();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
"#;

fn build(directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("jump.c"), directory.join("jump.so"));
    std::fs::write(&source, SHIM).expect("written");
    // The linker that Rust itself uses.
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
    let built = built.expect("a C compiler, as Rust needs one");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}

fn wall_clock(forkpy: &mut Forkpy) -> f64 {
    forkpy.eval("import time; time.time()").parse().expect("a number")
}

#[test]
fn a_clock_that_jumps_decides_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("jump");
    let jump_to = |seconds: i64| std::fs::write(&file, seconds.to_string()).expect("written");
    jump_to(0);
    let library = build(directory.path());
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let mut forkpy = Setup::new()
        .env("LD_PRELOAD", &text(&library))
        .env("TEST_JUMP_OF_FORKPY", &text(&file))
        .args(&["--idle-ttl", "3600", "--max-age", "86400", "--health-interval", "1", "--recovery", "auto"])
        .start();
    forkpy.run("x = 1");
    forkpy.call("create_session", json!({"session_id": "idle"}));
    let (worker, truth) = (forkpy.pid(), wall_clock(&mut forkpy));
    let decade = 315_000_000_i64;
    for jump in [decade, -decade, 0] {
        jump_to(jump);
        let seen = wall_clock(&mut forkpy) - truth;
        #[expect(clippy::cast_precision_loss, reason = "some years in seconds")]
        let expected = jump as f64;
        assert!((seen - expected).abs() < 60.0, "the shim shifts the clock of workers: {seen} and not {expected}");
        // A limit of time is one of time that passes.
        let began = Instant::now();
        let cell = json!({"code": "while True: pass", "timeout": 0.7});
        let reply = forkpy.call("run_python_code", cell).data;
        assert_eq!((&reply["status"], &reply["state"]), (&json!("timeout"), &json!("kept")), "{reply}");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(690) && took < Duration::from_secs(20), "{took:?}");
        assert!(reply["execution_time"].as_f64().is_some_and(|time| (0.69..20.0).contains(&time)), "{reply}");
        // Some rounds of the supervisor and the cleaner.
        std::thread::sleep(Duration::from_millis(2300));
        for session in ["default", "idle"] {
            let health = forkpy.call("get_kernel_health", json!({"session_id": session})).data;
            assert_eq!((&health["status"], &health["state"]), (&json!("healthy"), &json!("idle")), "{health}");
            assert_eq!((&health["restarts"], &health["alerts"]), (&json!(0), &json!([])), "{health}");
            assert!(health["uptime"].as_f64().is_some_and(|uptime| (0.0..120.0).contains(&uptime)), "{health}");
        }
        let check = forkpy.call("check_kernel_responsiveness", json!({"timeout": 5})).data;
        assert!(
            check["responsive"] == true && check["response_time"].as_f64().is_some_and(|time| time < 5.0),
            "{check}"
        );
    }
    assert_eq!((forkpy.eval("x"), forkpy.pid()), ("1".to_owned(), worker));
}
