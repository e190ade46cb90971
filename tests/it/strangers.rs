//! What those who send and do not read, begin and do not end, come and do not go can take of a server: each has a bound.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Setup, http::HttpForkpy, processes, wait_for};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#;
const MIB: u64 = 1 << 20;

fn with(args: &[&str]) -> HttpForkpy {
    let server = HttpForkpy::start(Setup::new().args(args));
    wait_for("Python", || server.get("/readyz").status == 200);
    server
}

/// A session of an older protocol; its id.
fn initialize(server: &HttpForkpy) -> String {
    let answer = server.post(&[], INITIALIZE);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("mcp-session-id").to_owned()
}

fn ping(server: &HttpForkpy, session: &str) -> u16 {
    server.post(&[("Mcp-Session-Id", session)], PING).status
}

/// Opens the event stream of a session and reads its head.
fn listen(server: &HttpForkpy, session: &str) -> TcpStream {
    let mut stream = server.connect();
    let host = &server.address;
    write!(
        stream,
        "GET /mcp HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\n\r\n"
    )
    .expect("sent");
    let mut head = [0; 15];
    stream.read_exact(&mut head).expect("answered");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stream
}

/// Whether the other end closes the connection within this time.
fn is_closed_within(stream: &mut TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).expect("a socket");
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn clients_that_are_away_give_way_and_those_in_use_do_not() {
    let server = with(&["--max-clients", "4"]);
    let listening = initialize(&server);
    let stream = listen(&server, &listening);
    let worked = initialize(&server);
    assert_eq!(ping(&server, &worked), 200);
    let first = initialize(&server);
    let others: Vec<String> = (0..20).map(|_| initialize(&server)).collect();
    assert_eq!(ping(&server, &first), 404, "forgotten");
    assert_eq!(ping(&server, &worked), 200, "one that has worked goes after those that never did");
    assert_eq!(ping(&server, &listening), 200, "its stream is open");
    assert_eq!(ping(&server, &others[19]), 200, "the newest");
    assert_eq!(ping(&server, &others[17]), 404);
    drop(stream);
}

#[test]
fn when_all_clients_are_in_use_a_new_one_is_told_so() {
    let server = with(&["--max-clients", "2"]);
    let sessions: Vec<String> = (0..2).map(|_| initialize(&server)).collect();
    let streams: Vec<TcpStream> = sessions.iter().map(|session| listen(&server, session)).collect();
    let answer = server.post(&[], INITIALIZE);
    assert!(answer.status == 503 && answer.body.contains("--max-clients"), "{answer:?}");
    assert_eq!(answer.json()["jsonrpc"], "2.0");
    drop(streams);
    wait_for("a place to be free", || server.post(&[], INITIALIZE).status == 200);
}

#[test]
fn a_client_that_asks_for_nothing_is_forgotten_and_one_whose_cell_runs_is_not() {
    let server = with(&["--client-idle", "1"]);
    let (idle, busy) = (initialize(&server), initialize(&server));
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
                      "params": {"name": "run_python_code", "arguments": {"code": "import time; time.sleep(4); 'done'"}}});
    let answer = server.post(&[("Mcp-Session-Id", &busy)], &call.to_string());
    assert!(answer.body.contains("\"results\":[\"'done'\"]"), "{answer:?}");
    assert_eq!(ping(&server, &idle), 404);
    assert_eq!(ping(&server, &busy), 200);
}

/// Two thousand clients that only say hello, with room for fifty: what the others took is given back.
#[test]
fn the_memory_of_forgotten_clients_is_given_back() {
    let server = with(&["--max-clients", "50"]);
    let many = |count: usize| (0..count).for_each(|_| drop(initialize(&server)));
    many(300);
    let before = processes::memory(server.server_pid());
    many(2_000);
    let grown = processes::memory(server.server_pid()).saturating_sub(before);
    assert!(grown < 16 * MIB, "{} kB for each client", grown / 1024 / 2_000);
}

#[test]
fn a_head_that_does_not_end_and_a_connection_that_says_nothing_are_closed() {
    let server = with(&["--request-timeout", "1"]);
    for begun in ["", "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX-", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET "] {
        let mut stream = server.connect();
        stream.write_all(begun.as_bytes()).expect("sent");
        assert!(is_closed_within(&mut stream, Duration::from_secs(20)), "{begun:?}");
    }
}

/// Ten bodies of 59 MB of which the last byte does not come.
#[test]
fn held_bodies_take_bounded_memory_and_time_and_others_are_served_meanwhile() {
    let server = with(&["--request-timeout", "3", "--request-memory", "128"]);
    const SIZE: usize = 59_000_000;
    let before = processes::memory(server.server_pid());
    let holders: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = server.connect();
            let head = format!(
                "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
                 Accept: application/json, text/event-stream\r\nContent-Length: {SIZE}\r\n\r\n",
                server.address
            );
            stream.write_all(head.as_bytes()).expect("sent");
            std::thread::spawn(move || {
                let piece = vec![b' '; 1_000_000];
                stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a socket");
                for _ in 0..SIZE / piece.len() - 1 {
                    if stream.write_all(&piece).is_err() {
                        break;
                    }
                }
                stream
            })
        })
        .collect();
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(server.post(&[], INITIALIZE).status, 200, "a small request is not held up");
        most = most.max(processes::memory(server.server_pid()).saturating_sub(before));
    }
    assert!(most < 200 * MIB, "{} MiB", most / MIB);
    drop(holders.into_iter().map(|holder| holder.join().expect("no panic")).collect::<Vec<_>>());
    wait_for("memory to be given back", || processes::memory(server.server_pid()).saturating_sub(before) < 100 * MIB);
}

#[test]
fn a_body_that_stops_is_answered_and_closed() {
    let server = with(&["--request-timeout", "1"]);
    for (route, kind) in [("/mcp", "application/json"), ("/files/upload", "multipart/form-data; boundary=b")] {
        let mut stream = server.connect();
        let host = &server.address;
        write!(
            stream,
            "POST {route} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: 100\r\n\r\n--b\r\n"
        )
        .expect("sent");
        let mut answer = [0; 12];
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        stream.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer[..10], b"HTTP/1.1 4", "{route}");
        assert!(is_closed_within(&mut stream, Duration::from_secs(20)), "{route}");
    }
}

#[test]
fn healthz_answers_while_strangers_hold_all_connections() {
    let server = with(&["--max-connections", "8"]);
    // Some that say nothing: they give way.
    let silent: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    assert_eq!(server.get("/healthz").status, 200);
    let session = initialize(&server);
    // Some that are served all the time.
    let streams: Vec<TcpStream> = (0..8).map(|_| listen(&server, &session)).collect();
    let more: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
    for _ in 0..5 {
        assert_eq!(server.get("/healthz").status, 200);
    }
    assert_eq!(server.get("/readyz").status, 200);
    let answer = server.post(&[], INITIALIZE);
    assert!(answer.status == 503 && answer.body.contains("--max-connections"), "{answer:?}");
    drop((silent, streams, more));
    wait_for("places to be free", || server.post(&[], INITIALIZE).status == 200);
}

/// 3,000 answers of 25 kB that nobody reads; then somebody does, and all of them are there.
#[test]
fn a_client_that_sends_and_does_not_read_is_not_read_either() {
    const COUNT: u64 = 3_000;
    {
        let mut process = Setup::new()
            .command()
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        let pid = i32::try_from(process.id()).expect("a pid");
        let mut input = process.stdin.take().expect("piped");
        let output = process.stdout.take().expect("piped");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output));
        input.write_all(format!("{INITIALIZE}\n").as_bytes()).expect("sent");
        lines.next().expect("an answer").expect("a line");
        let before = processes::memory(pid);
        let writing = std::thread::spawn(move || {
            for id in 100..100 + COUNT {
                let line = json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"});
                input.write_all(format!("{line}\n").as_bytes()).expect("sent");
            }
            input
        });
        let mut seen = (Instant::now(), 0);
        wait_for("its memory to stand still", || {
            let now = processes::memory(pid);
            if now != seen.1 {
                seen = (Instant::now(), now);
            }
            seen.0.elapsed() > Duration::from_secs(1)
        });
        let grown = seen.1.saturating_sub(before);
        assert!(grown < 40 * MIB, "{} MiB", grown / MIB);
        let mut answered: Vec<u64> = (0..COUNT)
            .map(|_| {
                let line = lines.next().expect("an answer").expect("a line");
                serde_json::from_str::<Value>(&line).expect("JSON")["id"].as_u64().expect("an id")
            })
            .collect();
        answered.sort_unstable();
        assert!(answered.into_iter().eq(100..100 + COUNT), "each once");
        drop(writing.join().expect("no panic"));
        assert!(process.wait().expect("it ends").success());
    }
}
