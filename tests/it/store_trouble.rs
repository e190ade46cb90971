//! A store that is full, servers that are started anew above their sessions, clocks that differ, sessions in a sandbox.

use std::{
    fs::{self, File},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    store::{Fleet, ask, is_away, made, place, run, value},
    support::{http::HttpForkpy, processes, wait_for},
};

/// What cannot go stays here, is used as before, and goes when there is room. What was written of it is not in the way.
#[test]
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
fn a_session_stays_where_the_store_is_full_and_goes_when_there_is_room() {
    let fleet = Fleet::new();
    let setup = fleet.setup("one", &["--put-away-after", "0.3"]).with_disk_of(16, 700, &fleet.path("store"));
    let Some(setup) = setup else {
        println!("NOT TESTED: a store that is full, for this machine allows no mounts");
        return;
    };
    let one = HttpForkpy::start(setup);
    made(&one);
    value(&one, "import os; data = os.urandom(40 << 20); n = 1");
    for round in 2..4 {
        wait_for("it is told", || {
            let health = ask(&one, "get_kernel_health", &json!({"session_id": "work"}));
            health.words().contains("No space left on device")
        });
        assert_eq!(value(&one, "n += 1; n, len(data)"), format!("({round}, 41943040)"));
    }
    value(&one, "del data");
    is_away(&one);
    let images = format!("/proc/{}/root{}/images", one.server_pid(), fleet.path("store").display());
    assert_eq!(fs::read_dir(&images).expect("a folder").count(), 1, "and no part of what did not fit");
    assert_eq!(value(&one, "n"), "3");
}

/// It is the same server for the others, with the sessions that it had.
#[test]
fn a_server_that_becomes_another_program_keeps_its_sessions_and_its_leases() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.lazy("one"), fleet.lazy("two"));
    made(&one);
    value(&one, "n = 1");
    let pid = value(&one, "import os; os.getpid()");
    for round in 2..4 {
        one.hang_up();
        assert_eq!(value(&one, "n += 1; n"), round.to_string());
        assert_eq!(value(&one, "os.getpid()"), pid, "nothing was put away for it");
        let refused = run(&two, "n");
        assert_eq!((refused.status, &refused.body["error"]["data"]["server"]), (421, &json!("one")), "{refused:?}");
    }
    processes::signal(one.server_pid(), Signal::SIGTERM);
    is_away(&two);
    assert_eq!(value(&two, "n"), "3");
    drop(one);
}

/// All that servers write has the time of a clock that is an hour ahead, then of one that is an hour behind. The silence of a server
/// is counted, and not read from a clock.
#[test]
fn clocks_that_are_an_hour_apart_do_no_harm() {
    let fleet = Fleet::new();
    let (one, two) = (fleet.eager("one"), fleet.lazy("two"));
    let (ahead, ends) = (AtomicBool::new(true), AtomicBool::new(false));
    let clock = || {
        while !ends.load(Ordering::Relaxed) {
            let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
            let then = if ahead.load(Ordering::Relaxed) { now + hour } else { now - hour };
            for path in fleet.stored("") {
                // It may just have been removed. Each is written once, and not again for a while.
                let Ok(file) = File::options().write(true).open(path) else { continue };
                let written = file.metadata().and_then(|status| status.modified()).expect("a time");
                if now.duration_since(written).is_ok_and(|age| age < hour / 2) {
                    let _ = file.set_modified(then);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(clock);
        // Also when something below fails.
        let _ends = Ends(&ends);
        made(&one);
        value(&one, "n = 1");
        is_away(&two);
        assert_eq!(value(&two, "n += 1; n"), "2");
        for is_ahead in [true, false] {
            ahead.store(is_ahead, Ordering::Relaxed);
            // Longer than twelve signs take.
            std::thread::sleep(Duration::from_secs(4));
            let refused = run(&one, "n");
            assert_eq!(refused.status, 421, "it lives, ahead {is_ahead}: {refused:?}");
        }
        assert_eq!(value(&two, "n += 1; n"), "3");
        processes::signal(two.server_pid(), Signal::SIGKILL);
        let mut told = run(&one, "n");
        wait_for("the killed one counts as ended", || {
            told = run(&one, "n");
            !told.is_refused()
        });
        assert_eq!(told.data()["results"][0], "1", "as it was put away: {told:?}");
    });
}

/// Ends what runs beside a test, when that is over.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a sandbox forbids its sessions is no reason to stay.
#[test]
fn sessions_in_a_sandbox_are_put_away_and_are_in_one_where_they_come_back() {
    let fleet = Fleet::new();
    let confined = ["--put-away-after", "0.3", "--sandbox", "workspace"];
    let (one, two) =
        (fleet.server("one", &confined), fleet.server("two", &["--put-away-after", "0", "--sandbox", "workspace"]));
    made(&one);
    value(&one, "rows = iter('abc'); next(rows)");
    let outside = fleet.path("outside");
    let escape = format!("open({:?}, 'w')", outside.display().to_string());
    assert!(run(&one, &escape).words().contains("PermissionError"));
    is_away(&one);
    wait_for("two sees it", || place(&two).starts_with("in the store"));
    assert_eq!(value(&two, "next(rows)"), "'b'");
    assert!(run(&two, &escape).words().contains("PermissionError"), "still");
    assert!(!outside.exists());
}
