//! A store in a bucket: a real server that speaks as S3 does (moto, `tests/clients/s3.txt`), which keeps `If-None-Match`.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Barrier,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::{
    clients,
    store::{Fleet, Told, ask, is_away, made, place, run, value},
    support::wait_for,
};

/// The server, with a bucket.
struct Bucket {
    process: Child,
    address: String,
}

impl Bucket {
    fn start(python: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let arguments = ["-m", "moto.server", "-H", "127.0.0.1", "-p", &free.port().to_string()];
        let quiet = || Stdio::null();
        let process = Command::new(python).args(arguments).stdout(quiet()).stderr(quiet()).spawn().expect("it starts");
        let bucket = Self { process, address: free.to_string() };
        wait_for("the bucket's server listens", || TcpStream::connect(&bucket.address).is_ok());
        let put = format!(
            "PUT /bucket HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            bucket.address
        );
        assert!(bucket.asked(&put).contains(" 200 "), "a bucket");
        bucket
    }

    fn asked(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("read");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// All that lies there.
    fn listed(&self) -> String {
        let host = &self.address;
        self.asked(&format!("GET /bucket?list-type=2 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }

    fn fleet(&self) -> Fleet {
        Self::fleet_by(&self.address)
    }

    /// Servers that reach the bucket by this address.
    fn fleet_by(address: &str) -> Fleet {
        let endpoint = format!("http://{address}");
        let variables = [
            ("AWS_ACCESS_KEY_ID", "one"),
            ("AWS_SECRET_ACCESS_KEY", "two"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
        ];
        Fleet::at("s3://bucket/some/prefix", &variables)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).expect("a pid")), signal).expect("it runs");
    }
}

/// A way to the bucket on which everything takes so long. Gives its address.
fn slow_way(to: &str, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, to) = (listener.local_addr().expect("a port").to_string(), to.to_owned());
    // It ends with the test's process; a connection ends with one of its two ends.
    std::thread::spawn(move || {
        for here in listener.incoming().flatten() {
            let Ok(there) = TcpStream::connect(&to) else { continue };
            let (answers, back) = (there.try_clone().expect("a socket"), here.try_clone().expect("a socket"));
            std::thread::spawn(move || carry(here, there, delay));
            std::thread::spawn(move || carry(answers, back, Duration::ZERO));
        }
    });
    address
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let mut piece = vec![0; 1 << 20];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        std::thread::sleep(delay);
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
fn client_s3_sessions_go_through_a_bucket_and_a_bucket_that_is_gone_costs_none() {
    let Some(python) = clients::with_s3() else {
        println!("NOT TESTED: a store in a bucket, whose server (moto) cannot be had");
        return;
    };
    let bucket = Bucket::start(python);
    let fleet = bucket.fleet();
    let (one, two) = (fleet.eager("one"), fleet.eager("two"));
    made(&one);
    value(&one, "n = 0; rows = iter('abc'); next(rows)");
    assert_eq!(value(&one, "import os; [name for name in os.environ if name.startswith('AWS_')]"), "[]", "hidden");
    is_away(&two);
    let listed = bucket.listed();
    assert!(listed.contains("some/prefix/images/") && !listed.contains("work"), "{listed}");
    for round in 1..=5 {
        is_away(&one);
        let barrier = Barrier::new(2);
        let told: Vec<Told> = std::thread::scope(|scope| {
            let ask = |server| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    run(server, "n += 1; n")
                })
            };
            let asked = [&one, &two].map(ask);
            asked.into_iter().map(|asked| asked.join().expect("answered")).collect()
        });
        let good: Vec<&Told> = told.iter().filter(|told| !told.is_refused()).collect();
        assert_eq!(good.len(), 1, "round {round}: {told:?}");
        assert_eq!(good[0].data()["results"][0], json!(round.to_string()), "round {round}: {told:?}");
    }
    is_away(&one);
    assert_eq!(value(&two, "next(rows)"), "'b'");
    drop(two);
    is_away(&one);
    // The bucket's server stands still, and goes on.
    let three = {
        let setup = fleet.setup("three", &["--put-away-after", "0"]).env("FORKPY_ERRAND_LIMIT", "3");
        crate::support::http::HttpForkpy::start(setup)
    };
    bucket.signal(Signal::SIGSTOP);
    let refused = run(&three, "n");
    bucket.signal(Signal::SIGCONT);
    assert!(refused.is_refused() && refused.words().contains("did not answer within"), "{refused:?}");
    wait_for("it answers again", || !run(&three, "n").is_refused());
    assert_eq!(value(&three, "n"), "5");
    // Another comes in its place, with nothing in it.
    let elsewhere = place(&one);
    assert_eq!(elsewhere, "on server \"three\"");
    drop(bucket);
    let mut refused = run(&three, "n");
    wait_for("it is in doubt", || {
        refused = run(&three, "n");
        refused.is_refused()
    });
    assert!(refused.words().contains("call again"), "{refused:?}");
    let listed = ask(&one, "list_sessions", &json!({}));
    assert!(listed.is_refused() && listed.words().contains("--store"), "{listed:?}");
    assert!(!fs::exists(fleet.path("store")).expect("told"));
}

#[test]
#[expect(clippy::print_stdout, reason = "what is not tested is said")]
fn client_s3_a_bucket_that_is_slow_costs_time_and_no_session() {
    let Some(python) = clients::with_s3() else {
        println!("NOT TESTED: a store in a bucket that is slow, whose server (moto) cannot be had");
        return;
    };
    let bucket = Bucket::start(python);
    // A sign of life takes three requests: longer than this server is sure of itself, and not so long that it counts as ended.
    // Twice the usual times: beside busy loops twelve beats of a fifth of a second are soon over.
    let delay = Duration::from_millis(500);
    let mut fleet = Bucket::fleet_by(&slow_way(&bucket.address, delay));
    fleet.variables.push(("FORKPY_STORE_BEAT".to_owned(), "0.4".to_owned()));
    let (one, two) = (fleet.eager("one"), fleet.lazy("two"));
    made(&one);
    value(&one, "n = 1; rows = iter('abc'); next(rows)");
    is_away(&two);
    let began = Instant::now();
    assert_eq!(value(&two, "n += 1; n, next(rows)"), "(2, 'b')");
    assert!(began.elapsed() > delay * 3, "it was slow: {:?}", began.elapsed());
    for round in 3..6 {
        assert_eq!(value(&two, "n += 1; n"), round.to_string());
        let refused = run(&one, "n");
        assert_eq!((refused.status, &refused.body["error"]["data"]["server"]), (421, &json!("two")), "{refused:?}");
    }
    let deleted = ask(&two, "delete_session", &json!({"session_id": "work"}));
    assert_eq!(deleted.data()["status"], "deleted", "{deleted:?}");
    wait_for("nothing of it is left", || !bucket.listed().contains("some/prefix/images/"));
}
