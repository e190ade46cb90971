//! What whoever runs the server sees of it: metrics, and what systemd is told.

use std::{os::unix::net::UnixDatagram, path::Path, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{PATIENCE, Setup, http::HttpForkpy, processes, wait_for};

fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {series} in:\n{metrics}"))
}

#[test]
fn metrics_count_what_happened() {
    // Forks are counted below, and spare workers are forks too.
    let server = HttpForkpy::start(Setup::new().args(&["--max-spares", "0", "--checkpoints", "off"]));
    let before = server.get("/metrics").body;
    assert_eq!(value(&before, "forkpy_cells_total{status=\"ok\"}"), 0.0);
    for _ in 0..3 {
        assert_eq!(server.run("1 + 1")["status"], "ok");
    }
    assert_eq!(server.run("1 / 0")["status"], "error");
    assert_eq!(server.run("import os; os._exit(3)")["status"], "died");
    assert_eq!(server.run("2")["state"], "lost");
    server.call("create_session", json!({"session_id": "other"}));
    server.call("check_kernel_responsiveness", json!({"session_id": "other"}));
    let answer = server.get("/metrics");
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    let after = answer.body;
    for (series, expected) in [
        ("forkpy_cells_total{status=\"ok\"}", 4.0),
        ("forkpy_cells_total{status=\"error\"}", 1.0),
        ("forkpy_cells_total{status=\"died\"}", 1.0),
        ("forkpy_cell_seconds_count", 6.0),
        ("forkpy_queue_seconds_count", 6.0),
        ("forkpy_cell_seconds_bucket{le=\"+Inf\"}", 6.0),
        ("forkpy_worker_deaths_total{reason=\"died\"}", 1.0),
        ("forkpy_worker_start_seconds_count", 3.0),
        ("forkpy_forks_total", 3.0),
        ("forkpy_zygote_warm", 1.0),
        ("forkpy_sessions{state=\"idle\"}", 2.0),
        ("forkpy_sessions{state=\"dead\"}", 0.0),
    ] {
        assert_eq!(value(&after, series), expected, "{series}");
    }
    assert!(value(&after, "forkpy_ping_seconds_count") >= 1.0);
    let at_least = |series: &str, least: f64| assert!(value(&after, series) >= least, "{series} in\n{after}");
    for process in ["server", "zygote", "workers"] {
        at_least(&format!("forkpy_memory_bytes{{process=\"{process}\"}}"), 1e6);
    }
    at_least("process_resident_memory_bytes", 1e6);
    at_least("process_open_fds", 10.0);
    at_least("process_cpu_seconds_total", 0.001);
    assert!(after.contains(&format!("forkpy_build_info{{version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{after}");
}

#[test]
fn metrics_are_behind_the_token_and_probes_are_not() {
    let server = HttpForkpy::start(Setup::new().env("FORKPY_TOKEN", "open-sesame"));
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get_with("/metrics", &[("Authorization", "Bearer wrong")]).status, 401);
    assert_eq!(server.get_with("/metrics", &[("Authorization", "Bearer open-sesame")]).status, 200);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn openmetrics_is_given_to_who_asks_for_it() {
    let server = HttpForkpy::start(Setup::new());
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let answer = server.get_with("/metrics", &[("Accept", accept)]);
    assert!(answer.head.contains("application/openmetrics-text; version=1.0.0"), "{}", answer.head);
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
}

/// A service manager: the socket it gives to services.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self(socket)
    }

    /// The next message, by its lines.
    fn next(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let count = self.0.recv(&mut bytes).expect("the server says something");
        String::from_utf8_lossy(&bytes[..count]).lines().map(str::to_owned).collect()
    }

    /// Reads on until a message has this line.
    fn until(&self, wanted: &str) -> Vec<String> {
        loop {
            let message = self.next();
            if message.iter().any(|line| line == wanted) {
                return message;
            }
        }
    }

    fn throw_away(&self) {
        self.0.set_nonblocking(true).expect("a socket");
        let mut bytes = [0; 4096];
        while self.0.recv(&mut bytes).is_ok() {}
        self.0.set_nonblocking(false).expect("a socket");
    }

    fn is_silent_for(&self, time: Duration) -> bool {
        self.0.set_read_timeout(Some(time)).expect("a socket");
        let silent = self.0.recv(&mut [0; 4096]).is_err();
        self.0.set_read_timeout(Some(PATIENCE)).expect("a socket");
        silent
    }
}

fn under(manager: &Path, watchdog: Option<&str>) -> HttpForkpy {
    let mut setup = Setup::new().env("NOTIFY_SOCKET", manager.to_str().expect("UTF-8"));
    if let Some(micros) = watchdog {
        setup = setup.env("WATCHDOG_USEC", micros);
    }
    HttpForkpy::start(setup)
}

#[test]
fn a_service_manager_is_told_of_readiness_and_of_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let manager = Manager::listen(&path);
    let server = under(&path, None);
    let ready = manager.until("READY=1");
    assert!(ready[1].starts_with("STATUS=0 sessions, zygote warm"), "no client has come: {ready:?}");
    assert_eq!(server.get("/readyz").status, 200);
    let seen = server.run("import os; [name for name in os.environ if name.startswith(('NOTIFY', 'WATCHDOG'))]");
    assert_eq!(seen["results"], json!(["[]"]), "a cell must not speak for the server");
    drop(server);
    manager.until("STOPPING=1");
}

/// The watchdog's beat is proof of work: it stops while the zygote is stopped, and goes on when forks work again.
#[test]
fn the_watchdog_hears_from_us_only_while_workers_can_be_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let manager = Manager::listen(&path);
    let server = under(&path, Some("1000000"));
    manager.until("READY=1");
    let began = std::time::Instant::now();
    for _ in 0..4 {
        manager.until("WATCHDOG=1");
    }
    assert!(began.elapsed() > Duration::from_millis(1400), "a beat each half of the time, not more");
    let zygote = server.zygote_pid();
    processes::signal(zygote, Signal::SIGSTOP);
    wait_for("the zygote to be stopped", || processes::state(zygote) == 'T');
    // A proof may have been under way; one that goes on saying that it works is never silent for so long.
    wait_for("silence", || {
        manager.throw_away();
        manager.is_silent_for(Duration::from_secs(2))
    });
    processes::signal(zygote, Signal::SIGCONT);
    manager.until("WATCHDOG=1");
}
