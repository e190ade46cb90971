//! What a model pays: bytes of `tools/list` and of typical replies, and what a client that shows one or the other gets.
//!
//! Runs in: the test binary. Prints the bill; fails beyond the figures.

#![expect(clippy::print_stdout, reason = "the bill is to be read")]

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, http::HttpForkpy};

fn bytes(value: &Value) -> usize {
    value.to_string().len()
}

/// A server whose client says this name, or nothing.
fn met_by(client: &str, args: &[&str]) -> Forkpy {
    let mut forkpy = Setup::new().args(args).spawn();
    let hello =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": client, "version": "1"}});
    forkpy.request("initialize", hello);
    forkpy.notify("notifications/initialized", json!({}));
    forkpy
}

fn result(forkpy: &mut Forkpy, tool: &str, arguments: Value) -> Value {
    forkpy.request("tools/call", json!({"name": tool, "arguments": arguments}))["result"].clone()
}

/// What most coding agents put before their model: the structure as JSON when there is one, else the content.
fn shown_as_json_first(result: &Value) -> String {
    match result.get("structuredContent") {
        Some(structure) => structure.to_string(),
        None => result["content"].to_string(),
    }
}

/// With branches, a session in a list and a file that is read: ten.
const TYPICAL: [(&str, &str, Option<usize>); 7] = [
    ("1+1", "1+1", Some(160)),
    ("an exception", "1/0", Some(450)),
    ("a line", "print('hello')", Some(200)),
    ("a name", "x = 1", Some(160)),
    ("a list", "[n * n for n in range(10)]", Some(240)),
    ("a file", "open('f.txt', 'w').write('x' * 100_000)", Some(200)),
    // As a DataFrame of twenty lines has it; tests/clients has real ones.
    (
        "a table",
        "class T:\n    def __repr__(self): return '\\n'.join(f'{n:3}  x' for n in range(20))\n    \
         def _repr_html_(self): return '<table>' + '<tr><td>1</td></tr>' * 999 + '</table>'\nT()",
        Some(600),
    ),
];

/// Of a tool what clients hand to their model, names of keys included.
fn before_a_model(tool: &Value) -> Value {
    json!({"name": tool["name"], "description": tool["description"], "inputSchema": tool["inputSchema"]})
}

#[test]
fn the_bill_stays_within_its_figures() {
    for (set, shown_most, whole_most, tools_most) in
        [("standard", 16_000, 40_000, 40), ("core", 6_000, 16_000, 8), ("all", 24_000, 60_000, 60)]
    {
        let mut forkpy = met_by("it", &["--tools", set]);
        let tools = forkpy.request("tools/list", json!({}))["result"]["tools"].clone();
        let listed = tools.as_array().expect("tools");
        let shown: usize = listed.iter().map(|tool| bytes(&before_a_model(tool))).sum();
        println!("{set}: {} tools, {shown} bytes before a model, {} in all", listed.len(), bytes(&tools));
        assert!(shown <= shown_most && bytes(&tools) <= whole_most && listed.len() <= tools_most, "{set}");
    }
    let mut forkpy = Forkpy::start();
    // The first one may wait for Python to start, and says so.
    forkpy.run("0");
    for (what, code, most) in TYPICAL {
        let structure = result(&mut forkpy, "run_python_code", json!({"code": code}))["structuredContent"].clone();
        println!("{what}: {} bytes: {structure}", bytes(&structure));
        assert!(most.is_none_or(|most| bytes(&structure) <= most), "{what}: {structure}");
        for key in ["stdout", "stderr", "results", "outputs", "new_files", "execution_time"] {
            assert!(structure.get(key).is_some(), "the ancestor's {key} is always there: {structure}");
        }
    }
    let file = result(&mut forkpy, "read_file", json!({"path": "f.txt"}));
    println!("a file of 100,000 bytes: {} bytes, text and structure", bytes(&file));
    assert!(bytes(&file) <= 61_000, "its first 30,000 bytes, twice");
    let branches = result(&mut forkpy, "run_branches", json!({"codes": ["0.5", "0.9997", "0.7"], "keep": "max"}));
    println!("three branches: {} bytes", bytes(&branches["structuredContent"]));
    assert!(bytes(&branches["structuredContent"]) <= 500, "{branches}");
    assert_eq!(branches["content"][0]["text"], "0: 0.5\n1: 0.9997, kept\n2: 0.7");
    result(&mut forkpy, "create_session", json!({"session_id": "other"}));
    let sessions = result(&mut forkpy, "list_sessions", json!({}))["structuredContent"]["sessions"].clone();
    for (name, entry) in sessions.as_object().expect("sessions") {
        println!("session {name}: {} bytes", bytes(entry));
        assert!(bytes(entry) <= 250, "{entry}");
    }
    let whole = result(&mut forkpy, "list_sessions", json!({"detail": true}));
    assert!(whole["structuredContent"]["sessions"]["default"]["health"]["pid"].is_number(), "{whole}");
}

#[test]
fn a_traceback_is_told_once() {
    let mut forkpy = Forkpy::start();
    let structure = result(&mut forkpy, "run_python_code", json!({"code": "int('x')"}))["structuredContent"].clone();
    assert_eq!(structure.to_string().matches("Traceback").count(), 1, "{structure}");
    assert_eq!(structure["error"]["type"], "ValueError");
}

#[test]
fn clients_that_show_json_instead_of_text_get_text_and_pictures() {
    let plot = "
import base64
class Dot:
    def _repr_png_(self):
        return base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')
Dot()";
    for client in
        ["claude-code", "codex-mcp-client", "opencode", "Visual Studio Code - Insiders", "github-copilot-developer"]
    {
        let mut forkpy = met_by(client, &["--checkpoints", "off"]);
        let tools = forkpy.request("tools/list", json!({}))["result"]["tools"].clone();
        assert!(tools.as_array().expect("tools").iter().all(|tool| tool.get("outputSchema").is_none()), "{client}");
        let shown = shown_as_json_first(&result(&mut forkpy, "run_python_code", json!({"code": plot})));
        assert!(shown.contains("\"image/png\"") && shown.contains("1 x 1 pixels"), "{client}: {shown}");
        let shown = shown_as_json_first(&result(&mut forkpy, "run_python_code", json!({"code": "1/0"})));
        assert!(shown.contains("ZeroDivisionError") && !shown.contains("execution_time"), "{client}: {shown}");
        let shown =
            shown_as_json_first(&result(&mut forkpy, "run_python_code", json!({"code": "import os; os._exit(3)"})));
        assert!(shown.contains("lost"), "the notice arrives: {client}: {shown}");
    }
}

#[test]
fn everybody_else_gets_both_whatever_the_name_and_structured_decides_for_all() {
    for client in ["", "nobody knows", "mcp", &"x".repeat(10_000)] {
        let mut forkpy = met_by(client, &[]);
        let reply = result(&mut forkpy, "run_python_code", json!({"code": "40+2"}));
        assert_eq!(
            (&reply["structuredContent"]["results"][0], &reply["content"][0]["text"]),
            (&json!("42"), &json!("42"))
        );
    }
    let mut always = met_by("claude-code", &["--structured", "always"]);
    assert!(result(&mut always, "ping", json!({})).get("structuredContent").is_some());
    let mut never = met_by("it", &["--structured", "never"]);
    assert!(result(&mut never, "ping", json!({})).get("structuredContent").is_none());
}

#[test]
fn an_unknown_tool_to_list_is_refused_with_those_there_are() {
    let (code, said) = Setup::new().args(&["--tools", "run_python_code,nope"]).run_to_end();
    assert!(code != Some(0) && said.contains("\"nope\"") && said.contains("list_variables"), "{said}");
    let mut forkpy = met_by("it", &["--tools", "list_variables,run_python_code"]);
    let tools = forkpy.request("tools/list", json!({}))["result"]["tools"].clone();
    let names: Vec<&str> = tools.as_array().expect("tools").iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, ["run_python_code", "list_variables"]);
    for former in ["get_health_report", "dump_stacks"] {
        let reply = result(&mut forkpy, former, json!({}));
        assert_eq!(reply["isError"], false, "what was merged can be called under its old name: {reply}");
    }
    let mut all = met_by("it", &["--tools", "all"]);
    let names = all.request("tools/list", json!({}))["result"]["tools"].to_string();
    assert!(!names.contains("\"get_health_report\"") && !names.contains("\"dump_stacks\""), "and is not listed");
}

#[test]
fn schemas_are_flat_and_name_the_header_that_balancers_route_by() {
    let mut forkpy = met_by("it", &["--tools", "all"]);
    let tools = forkpy.request("tools/list", json!({}))["result"]["tools"].clone();
    for tool in tools.as_array().expect("tools") {
        let input = tool["inputSchema"].to_string();
        assert!(!input.contains("\"null\"") && !input.contains("\"const\""), "{input}");
        let title = tool["title"].as_str().expect("a title");
        assert!(title.starts_with(char::is_uppercase) && !title.contains('_'), "{title}");
        let icon = tool["icons"][0]["src"].as_str().expect("an icon");
        assert!(icon.starts_with("data:image/svg+xml,%3Csvg%20") && !icon.contains([' ', '<', '>', '"']), "{icon}");
        let nullable = tool["outputSchema"].to_string();
        assert!(!nullable.contains("\"type\":["), "one type each: {nullable}");
        assert!(!tool["outputSchema"].to_string().contains("\"description\":\""), "{}", tool["name"]);
        let session = &tool["inputSchema"]["properties"]["session_id"];
        assert!(session.is_null() || session["x-mcp-header"] == "Session-Id", "{session}");
    }
}

#[test]
fn variables_and_completions_come_in_pages() {
    let mut forkpy = Forkpy::start();
    forkpy.run("globals().update({f'v{n:04}': n for n in range(2000)})");
    let page = forkpy.call("list_variables", json!({})).data;
    assert_eq!((page["variables"].as_object().expect("some").len(), &page["total"]), (200, &json!(2000)));
    assert_eq!(page["next_offset"], 200);
    let last = forkpy.call("list_variables", json!({"offset": 1990, "limit": 20, "filter": "V"})).data;
    assert_eq!((last["variables"].as_object().expect("some").len(), &last["next_offset"]), (10, &Value::Null));
    assert!(forkpy.refused("list_variables", json!({"limit": 0})).contains("`limit`"));
    let found = forkpy.call("code_completion", json!({"code": "v", "cursor_pos": 1})).data;
    assert_eq!(found["matches"].as_array().expect("some").len(), 50);
    assert!(found["more"].as_u64().expect("more") > 0, "{found}");
}

/// A client that shows its model the text alone does not see `total` or `size`: an empty text must say why it is empty.
#[test]
fn nothing_to_show_is_said_in_words() {
    let mut forkpy = met_by("claude-code", &[]);
    let shown = |forkpy: &mut Forkpy, tool: &str, arguments: Value| {
        let reply = result(forkpy, tool, arguments);
        assert!(reply.get("structuredContent").is_none(), "{reply}");
        reply["content"][0]["text"].as_str().expect("a text").to_owned()
    };
    shown(&mut forkpy, "run_python_code", json!({"code": "a = 1; b = 2"}));
    for (asked, said) in [
        (json!({}), r#"{"a":"int: 1","b":"int: 2"}"#),
        (json!({"offset": 1}), r#"{"b":"int: 2"}"#),
        (json!({"limit": 1}), "{\"a\":\"int: 1\"}\n(variables 0 to 0 of 2; pass offset 1 for more)"),
        (json!({"offset": 2}), "{}\n(there is no variable 2: there are 2, counted from 0)"),
        (json!({"filter": "zz"}), "{}\n(none of 2 variables has \"zz\" in its name)"),
    ] {
        assert_eq!(shown(&mut forkpy, "list_variables", asked.clone()), said, "{asked}");
    }
    shown(&mut forkpy, "write_file", json!({"path": "f.txt", "content": "hi\nthere"}));
    shown(&mut forkpy, "write_file", json!({"path": "empty.txt", "content": ""}));
    for (asked, said) in [
        (json!({"path": "f.txt", "offset": 3}), "there"),
        (json!({"path": "f.txt", "max_bytes": 2}), "hi\n[bytes 0 to 1 of 8; pass offset 2 to read on]"),
        (json!({"path": "f.txt", "offset": 8}), "[nothing at offset 8: the file has 8 bytes]"),
        (json!({"path": "f.txt", "offset": 1_000_000}), "[nothing at offset 1000000: the file has 8 bytes]"),
        (json!({"path": "empty.txt"}), "[the file is empty]"),
    ] {
        assert_eq!(shown(&mut forkpy, "read_file", asked.clone()), said, "{asked}");
    }
}

/// A call that has waited as long as its client can says that `wait_for_cell` has the rest: a list with the one has the other.
#[test]
fn the_small_set_can_bring_what_goes_on() {
    let mut forkpy = met_by("codex-mcp-client", &["--tools", "core"]);
    let tools = forkpy.request("tools/list", json!({}))["result"]["tools"].clone();
    let names: Vec<&str> = tools.as_array().expect("tools").iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert!(names.contains(&"wait_for_cell") && names.contains(&"run_python_code") && names.len() <= 8, "{names:?}");
}

/// A call of 2026-07-28 by a client that says what it is in each request, or does not.
fn call_as(server: &HttpForkpy, client: Option<&str>, code: &str) -> Value {
    let mut meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                          "io.modelcontextprotocol/clientCapabilities": {}});
    if let Some(name) = client {
        meta["io.modelcontextprotocol/clientInfo"] = json!({"name": name, "version": "1"});
    }
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "run_python_code", "arguments": {"code": code}, "_meta": meta}});
    let headers =
        [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "run_python_code")];
    let answer = server.post(&headers, &call.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["result"].clone()
}

#[test]
fn clients_with_different_needs_share_one_server_at_once() {
    let server = HttpForkpy::start(Setup::new());
    let long = "x".repeat(10_000);
    let clients = [Some("claude-code"), Some("some program"), None, Some(&*long), Some("codex-mcp-client"), Some("")];
    std::thread::scope(|scope| {
        for client in clients {
            let server = &server;
            scope.spawn(move || {
                let alone = matches!(client, Some("claude-code" | "codex-mcp-client"));
                for _ in 0..5 {
                    let result = call_as(server, client, "6*7");
                    let words = result["content"][0]["text"].as_str().expect("text");
                    assert!(words.starts_with("42"), "{client:?}: {result}");
                    assert_eq!(result.get("structuredContent").is_none(), alone, "{client:?}: {result}");
                }
            });
        }
    });
}
