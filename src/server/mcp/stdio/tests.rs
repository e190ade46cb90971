//! Tests of `server/mcp/stdio/transport.rs` and what it is made of.
//!
//! Runs in: the test binary.

use std::sync::atomic::Ordering;

use rmcp::{
    ServerHandler,
    model::{ErrorData, RequestId, ServerCapabilities, ServerConfig},
    service::{serve_directly, serve_server},
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines as ClientLines, duplex};

use super::{
    super::outgoing::{KEEP, MUCH, StdioError},
    *,
};

type Server = StdioTransport<DuplexStream, DuplexStream>;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;

struct Client {
    input: DuplexStream,
    output: ClientLines<BufReader<DuplexStream>>,
}

impl Client {
    async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.input.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn read(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(5), self.output.next_line());
        let line = line.await.expect("no reply").unwrap().expect("output ended");
        serde_json::from_str(&line).unwrap()
    }

    async fn ask(&mut self, line: &str) -> Value {
        self.write(format!("{line}\n")).await;
        self.read().await
    }

    /// No more input; everything that was still written.
    async fn finish(self) -> Vec<Value> {
        let Self { input, mut output } = self;
        drop(input);
        let mut lines = Vec::new();
        while let Some(line) = output.next_line().await.unwrap() {
            lines.push(serde_json::from_str(&line).unwrap());
        }
        lines
    }
}

fn pair_of(limit: usize, capacity: usize) -> (Server, Client) {
    let (input, reader) = duplex(capacity);
    let (writer, output) = duplex(capacity);
    let client = Client { input, output: BufReader::new(output).lines() };
    (StdioTransport::new(reader, writer, limit), client)
}

/// A connection that has opened already.
fn pair() -> (Server, Client) {
    let (mut server, client) = pair_of(4096, 1 << 20);
    server.opening = Opening::Done;
    (server, client)
}

fn ping(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)
}

fn id_of(message: ClientJsonRpcMessage) -> Value {
    message.into_request().expect("a request").1.into_json_value()
}

/// Sends `line`, then a ping; returns the reply to the line, if any, once the ping came through.
async fn refused(line: impl AsRef<[u8]>) -> Option<Value> {
    let (mut server, mut client) = pair();
    client.write(line).await;
    client.write(format!("\n{}\n", ping("99"))).await;
    assert_eq!(id_of(server.receive().await.expect("the connection goes on")), 99);
    drop(server);
    let mut replies = client.finish().await;
    assert!(replies.len() <= 1, "{replies:?}");
    replies.pop()
}

async fn code_and_id(line: impl AsRef<[u8]>) -> (i64, Value) {
    let reply = refused(line).await.expect("a reply");
    assert_eq!(reply["jsonrpc"], "2.0");
    let id = reply.as_object().unwrap().get("id").expect("an id, or null").clone();
    (reply["error"]["code"].as_i64().unwrap(), id)
}

#[tokio::test]
async fn garbage_is_answered_and_the_next_line_read() {
    assert_eq!(code_and_id("hello").await, (-32700, Value::Null));
    assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":7,"method":"x", nonsense}"#).await, (-32700, json!(7)));
    assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":7,"method":"#).await, (-32700, json!(7)));
    assert_eq!(code_and_id("null").await, (-32600, Value::Null));
}

#[tokio::test]
async fn an_id_after_a_mistake_is_not_trusted() {
    let line = r#"{"params":{"code":"a "quote", "x},"id":3,"method":"y"}"#;
    assert_eq!(code_and_id(line).await, (-32700, Value::Null));
}

#[tokio::test]
async fn bytes_that_are_not_utf8_are_answered() {
    assert_eq!(code_and_id(b"\xff\xfe\x80").await, (-32700, Value::Null));
    let line = b"{\"jsonrpc\":\"2.0\",\"method\":\"ping\",\"params\":{\"a\":\"\xc3\x28\"},\"id\":\"seven\"}";
    let reply = refused(line).await.unwrap();
    assert_eq!(reply["id"], "seven");
    assert_eq!(reply["error"]["message"], "the line is not valid UTF-8 at byte column 49");
}

#[tokio::test]
async fn json_that_is_no_message_is_answered_with_its_id() {
    assert_eq!(code_and_id(r#"{"id":5}"#).await, (-32600, json!(5)));
    assert_eq!(code_and_id(r#"{"id":1.5,"jsonrpc":"2.0","method":"ping"}"#).await, (-32600, json!(1.5)));
    assert_eq!(code_and_id(r#"{"\u0069d":6,"method":"ping"}"#).await, (-32600, json!(6)));
    assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#).await, (-32600, Value::Null));
    assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}"#).await, (-32600, Value::Null));
    assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","params":{"id":4}}"#).await, (-32600, Value::Null));
    assert_eq!(code_and_id(format!("[{}]", ping("1"))).await, (-32600, Value::Null));
}

#[tokio::test]
async fn a_bad_answer_to_a_request_of_ours_is_not_answered_as_one_of_theirs() {
    assert_eq!(code_and_id(r#"{"jsonrpc":"2.0","id":1,"error":"no"}"#).await, (-32600, Value::Null));
}

#[tokio::test]
async fn depth_beyond_what_serde_takes_is_answered_with_the_id() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let line = format!(r#"{{"jsonrpc":"2.0","method":"ping","params":{{"a":{deep}}},"id":8}}"#);
    assert_eq!(code_and_id(line).await, (-32700, json!(8)));
}

#[tokio::test]
async fn a_lone_surrogate_is_refused_with_the_id_of_its_request() {
    let line = |text: &str| {
        format!(
            r#"{{"method":"tools/call","params":{{"name":"x","arguments":{{"c":"{text}"}}}},"jsonrpc":"2.0","id":12}}"#
        )
    };
    for text in [r"\ud800", r"\udc00", r"a\\\ud83dz", r"\ud83d\ud83d\ude00", r"\uD83D\n"] {
        let reply = refused(line(text)).await.expect(text);
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(12), &json!(-32602)), "{text}");
    }
    let text = line(r"\u0041\ud800");
    let column = text.find(r"\ud800").unwrap() + 1;
    let message = format!("the text contains a lone surrogate at byte column {column}, which is not valid Unicode");
    assert_eq!(refused(text).await.unwrap()["error"]["message"], message);
}

#[tokio::test]
async fn pairs_and_escaped_backslashes_are_no_lone_surrogates() {
    for text in [r"\ud83d\ude00", r"\\ud800", r"\\\\udc00"] {
        let (mut server, mut client) = pair();
        client
            .write(format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"x\",\"params\":{{\"a\":\"{text}\"}}}}\n"))
            .await;
        assert_eq!(id_of(server.receive().await.unwrap()), 1, "{text}");
    }
}

#[tokio::test]
async fn a_notification_gets_no_reply() {
    assert_eq!(refused(r#"{"jsonrpc":"2.0","method":"a","params":"\ud800"}"#).await, None);
    assert_eq!(refused(r#"{"method":"a"}"#).await, None);
    assert_eq!(refused(b"{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":\"\xff\"}").await, None);
}

#[tokio::test]
async fn empty_lines_byte_order_mark_and_carriage_returns_are_tolerated() {
    let (mut server, mut client) = pair();
    client.write(format!("\u{feff}{}\r\n\r\n  \t\n\n{}\r\n", ping("1"), ping("2"))).await;
    assert_eq!(id_of(server.receive().await.unwrap()), 1);
    assert_eq!(id_of(server.receive().await.unwrap()), 2);
    drop(server);
    assert_eq!(client.finish().await, Vec::<Value>::new());
}

#[tokio::test]
async fn the_last_line_may_lack_its_newline() {
    let (mut server, mut client) = pair();
    client.write(ping("1")).await;
    client.input.shutdown().await.unwrap();
    assert_eq!(id_of(server.receive().await.unwrap()), 1);
    assert!(server.receive().await.is_none());
    assert!(server.receive().await.is_none());
}

#[tokio::test]
async fn half_a_line_at_the_end_is_answered() {
    let (mut server, mut client) = pair();
    client.write(r#"{"jsonrpc":"2.0","id":3,"meth"#).await;
    client.input.shutdown().await.unwrap();
    assert!(server.receive().await.is_none());
    let reply = client.read().await;
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(3), &json!(-32700)));
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_without_being_kept() {
    let (mut server, mut client) = pair_of(64 << 10, 4096);
    server.opening = Opening::Done;
    let text = r#"\" \\ {[,\"id\":4,"#.repeat(400_000);
    let line = format!(r#"{{"method":"tools/call","params":{{"id":5,"c":"{text}"}},"jsonrpc":"2.0","id":"last"}}"#);
    let size = line.len();
    let writer = tokio::spawn(async move {
        client.write(line + "\n" + &ping("2") + "\n").await;
        client
    });
    assert_eq!(id_of(server.receive().await.unwrap()), 2);
    assert!(server.lines.buffer.capacity() <= KEEP);
    let reply = writer.await.unwrap().read().await;
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!("last"), &json!(-32600)));
    let message = format!("the message has {size} bytes; the limit is 65536 bytes");
    assert_eq!(reply["error"]["message"], message);
}

#[tokio::test]
async fn the_limit_is_exact_and_holds_at_the_end_of_input() {
    let line = ping("1");
    let (mut server, mut client) = pair_of(line.len(), 4096);
    server.opening = Opening::Done;
    client.write(format!("{line}\n{line} \n{line} ")).await;
    client.input.shutdown().await.unwrap();
    assert_eq!(id_of(server.receive().await.unwrap()), 1);
    assert!(server.receive().await.is_none());
    for _ in 0..2 {
        assert_eq!(client.read().await["error"]["code"], -32600);
    }
}

#[tokio::test]
async fn a_large_buffer_is_given_back() {
    let (mut server, mut client) = pair_of(16 << 20, 4096);
    server.opening = Opening::Done;
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":"{}"}}}}"#, "a".repeat(8 << 20));
    let writer = tokio::spawn(async move {
        client.write(large + "\n" + &ping("2") + "\n").await;
        client
    });
    assert_eq!(id_of(server.receive().await.unwrap()), 1);
    assert!(server.lines.buffer.capacity() > 8 << 20);
    assert_eq!(id_of(server.receive().await.unwrap()), 2);
    server.lines.make_room();
    assert!(server.lines.buffer.capacity() <= KEEP);
    writer.await.unwrap();
}

#[tokio::test]
async fn receiving_may_be_dropped_at_any_time() {
    let (mut server, mut client) = pair_of(4096, 4096);
    server.opening = Opening::Done;
    let mut ids = Vec::new();
    for byte in format!("{}\nnonsense\n{}\n", ping("1"), ping("2")).bytes() {
        client.write([byte]).await;
        if let Ok(message) = tokio::time::timeout(Duration::from_millis(1), server.receive()).await {
            ids.push(id_of(message.unwrap()));
        }
    }
    assert_eq!(ids, [1, 2]);
    assert_eq!(client.read().await["error"]["code"], -32700);
}

fn response(id: i64, text: &str) -> ServerJsonRpcMessage {
    ServerJsonRpcMessage::error(ErrorData::internal_error(text.to_owned(), None), Some(RequestId::Number(id)))
}

#[tokio::test]
async fn sends_never_interleave() {
    let (mut server, mut client) = pair_of(4096, 512);
    let mut sends = JoinSet::new();
    for id in 0..50 {
        sends.spawn(server.send(response(id, &"x".repeat(100 * id as usize))));
    }
    let mut seen = Vec::new();
    for _ in 0..50 {
        let line = client.read().await;
        let id = line["id"].as_i64().unwrap();
        assert_eq!(line["error"]["message"].as_str().unwrap().len() as i64, 100 * id);
        seen.push(id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    while let Some(result) = sends.join_next().await {
        result.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_send_that_is_dropped_half_way_tears_no_message() {
    let (mut server, mut client) = pair_of(4096, 64);
    let dropped = tokio::time::timeout(Duration::from_millis(5), server.send(response(1, &"x".repeat(1000)))).await;
    assert!(dropped.is_err());
    let next = tokio::spawn(server.send(response(2, "y")));
    assert_eq!(client.read().await["id"], 1);
    assert_eq!(client.read().await["id"], 2);
    next.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_reads_no_more_ends_the_connection() {
    let (mut server, Client { input, output }) = pair_of(4096, 64);
    drop(output);
    assert!(matches!(server.send(response(1, "x")).await, Err(StdioError::Write(_))));
    assert!(server.receive().await.is_none());
    assert!(matches!(server.send(response(2, "x")).await, Err(StdioError::Closed)));
    drop(input);
}

#[tokio::test]
async fn closing_does_not_wait_for_a_client_that_does_not_read() {
    let (mut server, mut client) = pair_of(4096, 16);
    let receiving = async {
        client.write("nonsense\n").await;
        server.receive().await
    };
    assert!(tokio::time::timeout(Duration::from_millis(5), receiving).await.is_err());
    tokio::time::timeout(Duration::from_secs(1), server.close()).await.unwrap().unwrap();
    assert!(server.receive().await.is_none());
}

/// rmcp's own answers to everything.
struct Plain;
impl ServerHandler for Plain {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

fn inline(id: i64, method: &str, version: &str) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
    }}})
    .to_string()
}

const NONSENSE: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}
{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}
{"jsonrpc":"2.0","id":1,"result":{}}
{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}
"#;

#[tokio::test]
async fn nonsense_before_initialize_does_not_end_the_server() {
    let (server, mut client) = pair_of(4096, 1 << 16);
    let serving = tokio::spawn(serve_server(Plain, server));
    client.write(NONSENSE).await;
    assert_eq!(client.ask("garbage").await["error"]["code"], -32700);
    assert_eq!(client.ask(&ping("1")).await, json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    let early = client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}"#).await;
    assert_eq!((&early["id"], &early["error"]["code"]), (&json!(2), &json!(-32602)));
    assert!(early["error"]["message"].as_str().unwrap().starts_with("send initialize first"), "{early}");
    let bad = client.ask(r#"{"jsonrpc":"2.0","id":3,"method":"initialize","params":{}}"#).await;
    assert_eq!((&bad["id"], &bad["error"]["code"]), (&json!(3), &json!(-32602)));
    assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
    let running = serving.await.unwrap().unwrap();
    assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
    assert!(client.ask(&inline(9, "server/discover", "2026-07-28")).await["result"].is_object());
    assert!(client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).await["result"]["tools"].is_array());
    assert_eq!(client.finish().await, Vec::<Value>::new());
    running.waiting().await.unwrap();
}

#[tokio::test]
async fn discover_may_come_twice_and_before_initialize() {
    let (server, mut client) = pair_of(4096, 1 << 16);
    let serving = tokio::spawn(serve_server(Plain, server));
    assert_eq!(client.ask(r#"{"jsonrpc":"2.0","id":0,"method":"server/discover"}"#).await["error"]["code"], -32602);
    for id in 1..3 {
        assert!(client.ask(&inline(id, "server/discover", "2026-07-28")).await["result"].is_object());
        client.write(NONSENSE).await;
    }
    assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
    assert!(client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).await["result"]["tools"].is_array());
    serving.await.unwrap().unwrap().cancel().await.unwrap();
}

#[tokio::test]
async fn a_first_request_of_an_unknown_version_leaves_the_connection_unopened() {
    let (server, mut client) = pair_of(4096, 1 << 16);
    let serving = tokio::spawn(serve_server(Plain, server));
    assert_eq!(client.ask(&inline(1, "tools/list", "2031-01-01")).await["error"]["code"], -32022);
    client.write(NONSENSE).await;
    assert!(client.ask(&inline(2, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
    client.write(NONSENSE).await;
    assert!(client.ask(&inline(3, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
    serving.await.unwrap().unwrap().cancel().await.unwrap();
}

/// What the guard is for: without it rmcp's opening fails at the first of these.
#[tokio::test]
async fn rmcp_alone_would_end_at_nonsense() {
    let (mut server, mut client) = pair_of(4096, 1 << 16);
    server.opening = Opening::Done;
    client.write(NONSENSE).await;
    assert!(serve_server(Plain, server).await.is_err());
}

/// With `serve_directly` a connection may change its lifecycle.
#[tokio::test]
async fn served_directly_either_lifecycle_may_follow_the_other() {
    let (server, mut client) = pair_of(4096, 1 << 16);
    let running = serve_directly::<RoleServer, _, _, _, _>(Plain, server, None);
    client.write(NONSENSE).await;
    assert_eq!(client.ask(&ping("1")).await["result"], json!({}));
    assert!(client.ask(r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#).await["error"].is_object());
    assert!(client.ask(&inline(3, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
    assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
    assert!(client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).await["result"]["tools"].is_array());
    assert!(client.ask(&inline(5, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
    running.cancel().await.unwrap();
}

/// rmcp's rule, which no transport can change: what opened without `initialize` stays so.
#[tokio::test]
async fn served_with_rmcps_opening_a_connection_keeps_its_lifecycle() {
    let (server, mut client) = pair_of(4096, 1 << 16);
    let serving = tokio::spawn(serve_server(Plain, server));
    assert!(client.ask(&inline(3, "tools/list", "2026-07-28")).await["result"]["tools"].is_array());
    assert_eq!(client.ask(INITIALIZE).await["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(client.ask(r#"{"jsonrpc":"2.0","id":4,"method":"tools/list"}"#).await["error"]["code"], -32602);
    serving.await.unwrap().unwrap().cancel().await.unwrap();
}

#[tokio::test]
async fn a_request_that_waits_is_cancelled_and_what_is_no_request_passes_by() {
    let (mut server, mut client) = pair_of(1 << 20, 1 << 10);
    let request = |id: u32| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"ping\"}}\n");
    let cancel = |id: u32| {
        let params = json!({"requestId": id});
        format!("{}\n", json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))
    };
    server.outgoing.waiting.store(MUCH + 1, Ordering::Relaxed);
    server.opening = Opening::Done;
    // One that runs already is 9.
    for line in [request(1), request(2), cancel(1), cancel(9)] {
        client.write(line).await;
    }
    let first = server.receive().await.expect("a message");
    assert!(matches!(first, JsonRpcMessage::Notification(_)), "the cancellation of what runs: {first:?}");
    assert!(tokio::time::timeout(Duration::from_millis(50), server.receive()).await.is_err(), "2 waits");
    server.outgoing.waiting.store(0, Ordering::Relaxed);
    server.outgoing.fell.notify_waiters();
    let next = server.receive().await.expect("a message");
    assert!(matches!(&next, JsonRpcMessage::Request(held) if held.id == RequestId::Number(2)), "{next:?}");
    client.write(request(3)).await;
    let last = server.receive().await.expect("a message");
    assert!(matches!(&last, JsonRpcMessage::Request(held) if held.id == RequestId::Number(3)), "1 is gone: {last:?}");
}
