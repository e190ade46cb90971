//! Traces by OpenTelemetry: a collector of the test's own reads what the real server sends.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value::Value as Any},
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use serde_json::{Value, json};

use crate::support::{Forkpy, PATIENCE, Setup, http::HttpForkpy, processes, wait_for};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A batch of spans, as it came.
struct Sent {
    head: String,
    body: Vec<u8>,
}

/// Takes spans, and answers as collectors do.
struct Collector {
    address: String,
    sent: Receiver<Sent>,
    seen: Vec<Sent>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (sender, sent) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                take(stream, &sender);
            }
        });
        Self { address, sent, seen: Vec::new() }
    }

    fn setup(&self) -> Setup {
        Setup::new().env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{}", self.address))
    }

    /// All spans so far, once there are so many.
    fn spans(&mut self, count: usize) -> Vec<Span> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans: Vec<Span> = self.seen.iter().flat_map(spans_of).collect();
            if spans.len() >= count {
                return spans;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.seen.push(self.sent.recv_timeout(left).unwrap_or_else(|_| panic!("{count} spans, not {spans:?}")));
        }
    }

    fn resource(&self) -> Resource {
        request_of(&self.seen[0]).resource_spans[0].resource.clone().expect("one")
    }

    /// Whether this text is anywhere in what was sent.
    fn has(&self, text: &str) -> bool {
        self.seen.iter().any(|sent| sent.body.windows(text.len()).any(|part| part == text.as_bytes()))
    }
}

fn take(mut stream: TcpStream, sender: &Sender<Sent>) {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let Ok(count) = stream.read(&mut part) else { return };
        bytes.extend_from_slice(&part[..count]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            if count == 0 {
                return;
            }
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("its length");
        let length: usize = length.parse().expect("a number");
        if bytes.len() < end + 4 + length && count > 0 {
            continue;
        }
        let body = bytes.split_off(end + 4);
        let answer = ExportTraceServiceResponse::default().encode_to_vec();
        let words = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length";
        let _ = write!(stream, "{words}: {}\r\n\r\n", answer.len()).and_then(|()| stream.write_all(&answer));
        let _ = sender.send(Sent { head, body });
        return;
    }
}

fn request_of(sent: &Sent) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest::decode(&sent.body[..]).expect("OTLP")
}

fn spans_of(sent: &Sent) -> Vec<Span> {
    let scopes = request_of(sent).resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn told(all: &[KeyValue], name: &str) -> Value {
    let found = all.iter().find(|pair| pair.key == name).and_then(|pair| pair.value.clone()?.value);
    match found {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        _ => Value::Null,
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name} in {spans:?}"))
}

/// Runs a cell as a part of a trace, as clients say it over stdio.
fn run_within(forkpy: &mut Forkpy, code: &str, traceparent: &str) -> Value {
    let arguments =
        json!({"name": "run_python_code", "arguments": {"code": code}, "_meta": {"traceparent": traceparent}});
    forkpy.request("tools/call", arguments)
}

#[test]
fn a_call_over_http_is_a_part_of_its_callers_trace() {
    let mut collector = Collector::start();
    let setup = collector
        .setup()
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .env("OTEL_SERVICE_NAME", "python")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=sesame")
        .args(&["--server-name", "first"]);
    let server = HttpForkpy::start(setup);
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {
        "name": "run_python_code", "arguments": {"code": "treasure = 41"},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}});
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "run_python_code"),
        ("traceparent", TRACEPARENT),
    ];
    let answer = server.post(&headers, &call.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let spans = collector.spans(4);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "{spans:?}");
    let own = named(&spans, "tools/call run_python_code");
    assert_eq!((hex(&own.parent_span_id).as_str(), own.kind), (CALLER, SpanKind::Server as i32));
    for (name, value) in [
        ("mcp.method.name", json!("tools/call")),
        ("mcp.protocol.version", json!("2026-07-28")),
        ("gen_ai.operation.name", json!("execute_tool")),
        ("gen_ai.tool.name", json!("run_python_code")),
        ("jsonrpc.request.id", json!("7")),
        ("network.transport", json!("tcp")),
        ("forkpy.outcome", json!("ok")),
        ("error.type", Value::Null),
    ] {
        assert_eq!(told(&own.attributes, name), value, "{name}");
    }
    let inner = ["wait for session", "ready worker", "run cell"].map(|name| named(&spans, name));
    assert!(inner.iter().all(|span| span.parent_span_id == own.span_id), "{spans:?}");
    assert!(inner.iter().all(|span| span.start_time_unix_nano <= span.end_time_unix_nano), "{spans:?}");
    let [wait, ready, cell] = inner;
    assert!(
        wait.end_time_unix_nano == ready.start_time_unix_nano && ready.end_time_unix_nano == cell.start_time_unix_nano
    );
    assert!(cell.end_time_unix_nano <= own.end_time_unix_nano && wait.start_time_unix_nano >= own.start_time_unix_nano);
    assert_eq!(
        (told(&cell.attributes, "forkpy.session"), told(&cell.attributes, "forkpy.cell")),
        (json!("default"), json!(1))
    );
    let resource = collector.resource();
    assert_eq!(told(&resource.attributes, "service.name"), "python");
    assert_eq!(told(&resource.attributes, "service.instance.id"), "first");
    assert_eq!(told(&resource.attributes, "service.version"), env!("CARGO_PKG_VERSION"));
    let head = &collector.seen[0].head;
    assert!(head.starts_with("post /v1/traces ") && head.contains("x-key: sesame"), "{head}");
    assert!(!collector.has("treasure"), "code is in a span");
    let seen = server.run("import os; [name for name in os.environ if name == 'OTEL_EXPORTER_OTLP_HEADERS']");
    assert_eq!(seen["results"], json!(["[]"]), "{seen}");
}

/// Nothing is sent for five seconds, and the end of the server waits for no timer.
#[test]
fn a_call_over_stdio_says_its_trace_in_meta_and_the_end_sends_what_is_left() {
    let mut collector = Collector::start();
    let mut forkpy = collector.setup().start();
    run_within(&mut forkpy, "1 / 0", TRACEPARENT);
    forkpy.call("delete_session", json!({"session_id": "no-such"}));
    // What is no context begins a trace of its own.
    run_within(&mut forkpy, "treasure = 1", "00-nonsense");
    drop(forkpy);
    let spans = collector.spans(9);
    assert_eq!(spans.len(), 9, "{spans:?}");
    let within: Vec<_> = spans.iter().filter(|span| hex(&span.trace_id) == TRACE).collect();
    assert_eq!(within.len(), 4, "{spans:?}");
    let raised = within.iter().find(|span| span.name == "run cell").expect("the cell");
    assert_eq!(told(&raised.attributes, "error.type"), "error");
    let own = within.iter().find(|span| span.kind == SpanKind::Server as i32).expect("the call");
    assert_eq!(
        (hex(&own.parent_span_id).as_str(), told(&own.attributes, "network.transport")),
        (CALLER, json!("pipe"))
    );
    let refused = named(&spans, "tools/call delete_session");
    assert_eq!(refused.status.as_ref().expect("one").code, StatusCode::Error as i32);
    assert_eq!(told(&refused.attributes, "error.type"), "tool_error");
    assert!(refused.parent_span_id.is_empty() && hex(&refused.trace_id) != TRACE);
    assert!(!collector.has("treasure"), "code is in a span");
    assert_eq!(told(&collector.resource().attributes, "service.name"), "forkpy");
}

/// The context that the call itself has comes first; the one of its HTTP request is linked.
#[test]
fn what_a_call_says_counts_before_what_its_request_says() {
    let mut collector = Collector::start();
    let server = HttpForkpy::start(collector.setup().env("OTEL_BSP_SCHEDULE_DELAY", "20"));
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {
        "name": "ping", "arguments": {},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "traceparent": TRACEPARENT,
                  "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}});
    let other = "00-11111111111111111111111111111111-2222222222222222-01";
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "ping"),
        ("traceparent", other),
    ];
    assert_eq!(server.post(&headers, &call.to_string()).status, 200);
    let spans = collector.spans(1);
    assert_eq!((hex(&spans[0].trace_id).as_str(), hex(&spans[0].parent_span_id).as_str()), (TRACE, CALLER));
    assert_eq!(hex(&spans[0].links[0].trace_id), "1".repeat(32));
}

fn threads(forkpy: &Forkpy) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", forkpy.process.id())).expect("it runs");
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.map_while(Result::ok).map(name).collect()
}

#[test]
fn nothing_is_traced_unless_it_is_asked_for() {
    let is_on = |forkpy: &Forkpy| threads(forkpy).iter().any(|name| name.starts_with("OpenTelemetry"));
    let collector = Collector::start();
    assert!(is_on(&collector.setup().start()), "this test would see it");
    let mut plain = Setup::new().start();
    plain.run("1");
    assert!(!is_on(&plain), "{:?}", threads(&plain));
    for (name, value) in [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ] {
        let mut forkpy = collector.setup().env(name, value).start();
        run_within(&mut forkpy, "1", "00-nonsense");
        assert!(name == "OTEL_TRACES_SAMPLER" || !is_on(&forkpy), "{name}");
    }
    assert!(collector.sent.try_recv().is_err(), "something was sent");
}

#[test]
fn a_variable_that_cannot_be_followed_is_told() {
    let collector = Collector::start();
    let log = |name: &str, value: &str| {
        let mut forkpy = collector.setup().env(name, value).keep_log().start();
        forkpy.run("1");
        forkpy.log()
    };
    assert!(log("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").contains("speaks http/protobuf only"));
    assert!(log("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "no address").contains("calls are not traced"));
    assert!(log("OTEL_TRACES_SAMPLER", "some").contains("OTEL_TRACES_SAMPLER is \"some\""));
}

/// One that is not there, and one that takes everything and never answers.
#[test]
fn a_collector_that_is_down_or_slow_holds_up_no_call_and_no_end() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    for address in [silent.local_addr().expect("bound"), gone] {
        let mut forkpy = Setup::new()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
            .env("OTEL_BSP_SCHEDULE_DELAY", "1")
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "8")
            .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")
            .keep_log()
            .start();
        for number in 0..50 {
            assert_eq!(forkpy.run(&format!("{number} + 1"))["results"], json!([(number + 1).to_string()]));
        }
        let pid = i32::try_from(forkpy.process.id()).expect("a pid");
        if address == gone {
            wait_for("it says so", || forkpy.log().contains("traces do not arrive"));
        }
        forkpy.close_input();
        // Far below the time for one request to the collector.
        let since = Instant::now();
        wait_for("its end", || forkpy.process.try_wait().is_ok_and(|ended| ended.is_some()));
        assert!(since.elapsed() < Duration::from_secs(60), "{pid}: {:?}", processes::name(pid));
    }
}
