//! Event streams of protocols up to 2025-11-25: what one that broke would still have brought can be had afterwards.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{Setup, http::HttpForkpy, legacy::Legacy, wait_for};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;

/// An event.
#[derive(Debug, Default)]
struct Event {
    id: String,
    message: Value,
}

/// A stream that is read event by event.
struct Events(BufReader<TcpStream>);

impl Events {
    /// The next event; `None` at the end.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        let mut any = false;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("it reads") == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some(id) = line.strip_prefix("id: ") {
                event.id = id.to_owned();
                any = true;
            } else if let Some(data) = line.strip_prefix("data:") {
                event.message = serde_json::from_str(data).unwrap_or(Value::Null);
                any = true;
            } else if line == "0" {
                return None;
            } else if line.is_empty() && any && !event.id.is_empty() {
                return Some(event);
            }
        }
    }

    fn all(mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

struct Client {
    server: HttpForkpy,
    session: String,
}

impl Client {
    fn start() -> Self {
        let server = HttpForkpy::start(Setup::new());
        let answer = server.post(&[], INITIALIZE);
        let session = answer.header("mcp-session-id").to_owned();
        Self { server, session }
    }

    fn open(&self, method: &str, headers: &str, body: &str) -> Events {
        let mut stream = self.server.connect();
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        let (host, session, length) = (&self.server.address, &self.session, body.len());
        write!(
            stream,
            "{method} /mcp HTTP/1.1\r\nHost: {host}\r\nMcp-Session-Id: {session}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        )
        .expect("sent");
        Events(BufReader::new(stream))
    }

    fn call(&self, id: u64, code: &str) -> Events {
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {
            "name": "run_python_code", "arguments": {"code": code}, "_meta": {"progressToken": id}}});
        self.open("POST", "", &call.to_string())
    }

    fn resume(&self, last: &str) -> Events {
        self.open("GET", &format!("Last-Event-ID: {last}\r\n"), "")
    }

    fn exists(&self, name: &str) -> bool {
        self.server.workspace().join(name).exists()
    }
}

fn reply(events: &[Event], id: u64) -> &Value {
    let found = events.iter().filter(|event| event.message["id"] == id).collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "once: {events:?}");
    &found[0].message["result"]["structuredContent"]
}

#[test]
fn the_reply_of_a_cell_that_ended_meanwhile_is_had_after_reconnecting() {
    let client = Client::start();
    let code = "import os, time\nopen('began', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)\n\
                open('done', 'w').close()\n'the reply'";
    let mut events = client.call(2, code);
    let first = events.next().expect("the head of the stream");
    wait_for("the cell to run", || client.exists("began"));
    drop(events);
    std::fs::write(client.server.workspace().join("go"), "").expect("written");
    wait_for("the cell to end", || client.exists("done"));
    // More than once: a connection may break again.
    for turn in 0..3 {
        let events = client.resume(&first.id).all();
        assert_eq!(reply(&events, 2)["results"], json!(["'the reply'"]), "turn {turn}");
        assert!(events.iter().all(|event| event.id != first.id), "what was seen does not come again: {events:?}");
        let last = events.last().expect("the reply").id.clone();
        assert_eq!(client.resume(&last).all().len(), 0, "nothing was missed");
    }
}

#[test]
fn the_reply_of_a_cell_that_still_runs_comes_on_the_new_stream() {
    let client = Client::start();
    let code = "import os, time\nopen('began', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)\n'late'";
    let mut events = client.call(2, code);
    let first = events.next().expect("the head of the stream");
    wait_for("the cell to run", || client.exists("began"));
    drop(events);
    let resumed = client.resume(&first.id);
    // A later reader takes the place of an earlier one, which may be a connection that is dead and does not know.
    let again = client.resume(&first.id);
    let earlier = resumed.all();
    assert!(earlier.iter().all(|event| event.message["id"] != 2), "{earlier:?}");
    std::fs::write(client.server.workspace().join("go"), "").expect("written");
    assert_eq!(reply(&again.all(), 2)["results"], json!(["'late'"]));
}

#[test]
fn an_event_is_its_clients_alone_and_nonsense_brings_nothing() {
    let client = Client::start();
    let events = client.call(2, "'secret'").all();
    let head = events.first().expect("the head").id.clone();
    assert_eq!(reply(&client.resume(&head).all(), 2)["results"], json!(["'secret'"]));
    let stranger = client.server.post(&[], INITIALIZE).header("mcp-session-id").to_owned();
    let stranger = Client { session: stranger, ..client };
    for id in [&*head, "99-0", "0-18446744073709551615", "x", "", "1-2-3", "-1-0"] {
        let events = stranger.resume(id).all();
        assert!(events.is_empty(), "{id:?}: {events:?}");
    }
}

#[test]
fn the_stream_of_a_cancelled_request_ends() {
    let client = Client::start();
    let mut events = client.call(2, "import time\nopen('began', 'w').close()\ntime.sleep(60)");
    events.next().expect("the head of the stream");
    wait_for("the cell to run", || client.exists("began"));
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2,"reason":"test"}}"#;
    assert_eq!(client.server.post(&[("Mcp-Session-Id", &client.session)], cancel).status, 202);
    assert!(events.all().iter().all(|event| event.message["id"] != 2));
    assert_eq!(reply(&client.call(3, "'free'").all(), 3)["results"], json!(["'free'"]));
}

/// A client that does not read one stream gets its other replies all the same.
#[test]
fn a_stream_that_nobody_reads_holds_up_no_other() {
    let client = Client::start();
    let unread: Vec<Events> = (10..40).map(|id| client.call(id, "print('x' * 39_000)")).collect();
    assert_eq!(reply(&client.call(2, "'read'").all(), 2)["results"], json!(["'read'"]));
    for (events, id) in unread.into_iter().zip(10..) {
        assert_eq!(reply(&events.all(), id)["status"], "ok");
    }
}

/// A reply that is there at once comes in one piece, with the event before it, and can be had again as any other.
#[test]
fn a_quick_reply_comes_whole_and_a_slow_one_in_pieces() {
    let server = HttpForkpy::start(Setup::new());
    let legacy = Legacy::new(&server, &[]);
    let mut line = legacy.stays();
    // A busy machine may be slow.
    let (mut head, mut body, mut is_whole) = line.run("6 * 7");
    wait_for("a reply in one piece", || {
        if !is_whole {
            (head, body, is_whole) = line.run("6 * 7");
        }
        is_whole
    });
    assert!(head.contains("text/event-stream") && !head.contains("chunked"), "{head}");
    let ids: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), 2, "{body}");
    let client = Client { session: legacy.session().to_owned(), server };
    let again = client.resume(ids[0]).all();
    assert_eq!((again.len(), again[0].id.as_str()), (1, ids[1]));
    assert_eq!(again[0].message["result"]["structuredContent"]["results"], json!(["42"]));
    assert_eq!(again[0].message, reply_in(&body), "as it was");
    let mut events = client.call(4, "import time; time.sleep(0.3); 'slow'");
    assert!(events.next().is_some_and(|event| event.message.is_null()), "the head comes before the reply");
    assert_eq!(reply(&events.all(), 4)["results"], json!(["'slow'"]));
}

fn reply_in(body: &str) -> Value {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: ")).find(|data| !data.is_empty());
    serde_json::from_str(data.expect("a reply")).expect("JSON")
}

/// What is not plainly a call goes by rmcp; the client sees no difference.
#[test]
fn both_ways_to_a_tool_say_the_same() {
    let client = Client::start();
    let said = |headers: &[(&str, &str)], code: &str| {
        let call = json!({"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": {
            "name": "run_python_code", "arguments": {"code": code}}});
        let all = [&[("Mcp-Session-Id", client.session.as_str())], headers].concat();
        let mut reply = reply_in(&client.server.post(&all, &call.to_string()).body);
        let said = &mut reply["result"]["structuredContent"];
        let cell = said["cell"].take();
        for time in ["execution_time", "queued_time"] {
            said[time] = Value::Null;
        }
        reply.to_string().replace(&format!("<cell {cell}>"), "<cell>")
    };
    for code in ["1 + 1", "print('a')\n2", "1 / 0", "", "'\u{e4}\u{1f40d}'"] {
        let quick = said(&[], code);
        assert_eq!(said(&[("Mcp-Method", "tools/call")], code), quick, "{code}");
        assert!(quick.contains(r#""id":"a""#), "{quick}");
    }
}

#[test]
fn a_session_that_ended_is_unknown_by_both_ways() {
    let client = Client::start();
    assert_eq!(reply(&client.call(2, "1").all(), 2)["status"], "ok");
    let session = [("Mcp-Session-Id", client.session.as_str())];
    assert_eq!(client.server.exchange("DELETE", "/mcp", &session, b"").status, 204);
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping","arguments":{}}}"#;
    for more in [&[][..], &[("Mcp-Method", "tools/call")]] {
        assert_eq!(client.server.post(&[&session, more].concat(), call).status, 404, "{more:?}");
    }
}
