//! Nonsense, each with a clear error and nothing lost.

use serde_json::json;

use crate::support::{Forkpy, Setup};

/// The session is as it was, and serves.
fn unharmed(forkpy: &mut Forkpy) {
    assert_eq!(forkpy.eval("x"), "1");
}

fn started() -> Forkpy {
    let mut forkpy = Forkpy::start();
    forkpy.run("x = 1");
    forkpy
}

#[test]
fn tools_and_arguments_that_do_not_exist_are_named_with_those_that_do() {
    let mut forkpy = started();
    let answer = forkpy.request("tools/call", json!({"name": "no_such_tool", "arguments": {}}));
    assert_eq!(answer["error"]["code"], -32602);
    let message = answer["error"]["message"].as_str().expect("words");
    assert!(message.contains("no_such_tool") && message.contains("run_python_code"), "{message}");
    let words = forkpy.refused("run_python_code", json!({"kode": "1"}));
    assert!(words.contains("kode") && words.contains("code (required)"), "{words}");
    let words = forkpy.refused("ping", json!({"bogus": 1}));
    assert!(words.contains("bogus") && words.contains("takes no arguments"), "{words}");
    unharmed(&mut forkpy);
}

#[test]
fn a_known_method_with_wrong_parameters_is_not_called_unknown() {
    let mut forkpy = started();
    for (method, params, code) in [
        ("tools/call", json!({"arguments": {}}), -32602),
        ("tools/call", json!({"name": 7}), -32602),
        ("no/such/method", json!({}), -32601),
    ] {
        let answer = forkpy.request(method, params);
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["message"].as_str().expect("words").contains(method), "{answer}");
    }
    unharmed(&mut forkpy);
}

/// `notifications/cancelled` for a discovery that took too long was enough to end a connection before it began.
#[test]
fn nonsense_as_the_first_message_does_not_end_the_connection() {
    let mut forkpy = Setup::new().spawn();
    forkpy.notify("notifications/cancelled", json!({"requestId": 99}));
    forkpy.send_bytes(b"garbage\n");
    forkpy.nameless_error();
    let early = forkpy.request("tools/call", json!({"name": "ping", "arguments": {}}));
    assert_eq!(early["error"]["code"], -32602, "{early}");
    let hello =
        json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    assert_eq!(forkpy.request("initialize", hello)["result"]["protocolVersion"], "2025-03-26");
    assert_eq!(forkpy.eval("1"), "1");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let mut forkpy = started();
    let cases = [
        (json!({"code": 5}), "expected a string"),
        (json!({"code": null}), "`code`"),
        (json!({}), "missing field `code`"),
        (json!({"code": ""}), "empty"),
        (json!({"code": "  \n\t"}), "empty"),
        (json!({"code": "a\u{0}b"}), "NUL"),
        (json!({"code": "1", "timeout": -1}), "above 0"),
        (json!({"code": "1", "timeout": 0}), "above 0"),
        (json!({"code": "1", "timeout": 1e300}), "at most 604800"),
        (json!({"code": "1", "timeout": "soon"}), "`timeout`"),
        (json!({"code": "1", "session_id": "nowhere"}), "\"nowhere\" does not exist"),
        (json!({"code": "1", "session_id": 7}), "`session_id`"),
    ];
    for (arguments, expected) in cases {
        let words = forkpy.refused("run_python_code", arguments.clone());
        assert!(words.contains(expected), "{arguments}: {expected:?} is not in {words}");
    }
    let keep = forkpy.refused("run_branches", json!({"codes": ["1"], "keep": -1}));
    assert!(keep.contains("`keep`: expected none, first, max, min, or the number of a branch"), "{keep}");
    for tool in ["list_crashes", "list_variables", "list_files"] {
        assert!(forkpy.refused(tool, json!({"limit": 0})).contains("`limit` is 0 and must be at least 1"), "{tool}");
    }
    unharmed(&mut forkpy);
}

#[test]
fn names_that_cannot_be_sessions_are_refused() {
    let mut forkpy = started();
    for bad in ["", "../x", "a/b", ".", "a b", "\u{0}", &"a".repeat(300)] {
        let words = forkpy.refused("create_session", json!({"session_id": bad}));
        assert!(words.contains("not allowed") && words.len() < 500, "{words}");
    }
    for tool in ["switch_session", "delete_session", "get_kernel_health", "restart_kernel", "list_variables"] {
        let words = forkpy.refused(tool, json!({"session_id": "a".repeat(300)}));
        assert!(words.contains("does not exist") && words.contains("\"default\"") && words.len() < 500, "{words}");
    }
    assert!(forkpy.refused("delete_session", json!({"session_id": "default"})).contains("cannot be deleted"));
    unharmed(&mut forkpy);
}

#[test]
fn more_sessions_than_allowed_are_refused_and_those_there_go_on() {
    let mut forkpy = Setup::new().args(&["--max-sessions", "3"]).start();
    forkpy.run("x = 1");
    for session in ["a", "b"] {
        assert_eq!(forkpy.call("create_session", json!({"session_id": session})).data["status"], "created");
    }
    assert!(forkpy.refused("create_session", json!({"session_id": "c"})).contains("--max-sessions"));
    assert_eq!(forkpy.call("create_session", json!({"session_id": "a"})).data["status"], "exists");
    forkpy.call("delete_session", json!({"session_id": "a"}));
    assert_eq!(forkpy.call("create_session", json!({"session_id": "c"})).data["status"], "created");
    unharmed(&mut forkpy);
}

#[test]
fn code_of_fifty_megabytes_is_refused_with_the_limit() {
    let mut forkpy = started();
    let words = forkpy.refused("run_python_code", json!({"code": "#".repeat(50_000_000)}));
    assert!(words.contains("47 MiB") && words.contains("16"), "{words}");
    let large = format!("'{}'\nlen(_ if False else 'ok')", "y".repeat(10_000_000));
    assert_eq!(forkpy.eval(&large), "2", "ten megabytes are fine");
    unharmed(&mut forkpy);
}

#[test]
fn a_lone_surrogate_is_an_error_with_the_requests_id() {
    let mut forkpy = started();
    let id = forkpy.expect_id();
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":\"run_python_code\",\
         \"arguments\":{{\"code\":\"'\\ud800'\"}}}}}}\n"
    );
    forkpy.send_bytes(line.as_bytes());
    let answer = forkpy.answer(id);
    assert!(answer["error"]["message"].as_str().expect("words").contains("surrogate"), "{answer}");
    unharmed(&mut forkpy);
}

#[test]
fn lines_that_are_no_messages_are_answered_and_the_connection_goes_on() {
    let mut forkpy = started();
    for line in [&b"garbage\n"[..], b"{\"jsonrpc\": \n", b"\xff\xfe\x80\n", b"[]\n", b"7\n", b"{}\n", b"\0\0\0\n"] {
        forkpy.send_bytes(line);
        let error = forkpy.nameless_error();
        assert!(error["error"]["code"].is_i64() && error["error"]["message"].is_string(), "{error}");
        unharmed(&mut forkpy);
    }
    for ignored in [&b"\n"[..], b"   \n", b"\r\n"] {
        forkpy.send_bytes(ignored);
    }
    unharmed(&mut forkpy);
}

#[test]
fn a_line_of_a_hundred_megabytes_costs_an_error_and_no_memory() {
    let mut forkpy = started();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        forkpy.send_bytes(&chunk);
    }
    forkpy.send_bytes(b"\n");
    let error = forkpy.nameless_error();
    assert!(
        error["error"]["message"].as_str().expect("words").contains("64 MiB") || error.to_string().contains("67108864"),
        "{error}"
    );
    unharmed(&mut forkpy);
    let memory = crate::support::processes::memory(forkpy.server_pid());
    assert!(memory < 100 << 20, "the server holds {memory} bytes");
}

#[test]
fn half_a_line_and_then_the_end_is_the_end() {
    let mut forkpy = started();
    let id = forkpy.expect_id();
    forkpy.send_bytes(format!("{{\"jsonrpc\": \"2.0\", \"id\": {id}, \"meth").as_bytes());
    forkpy.close_input();
    assert_eq!(forkpy.answer(id)["error"]["code"], -32700);
}

/// `printf … | forkpy` and scripts like it close their end as soon as they have asked.
#[test]
fn what_was_asked_before_the_end_of_input_is_answered() {
    let mut forkpy = started();
    let id = forkpy.begin_run("import time; time.sleep(0.5); x + 1");
    forkpy.close_input();
    assert_eq!(forkpy.reply(id).data["results"], json!(["2"]));
}

/// Node gives the programs it starts sockets, not pipes.
#[test]
fn sockets_serve_as_well_as_pipes() {
    let mut forkpy = Setup::new().over_sockets().start();
    forkpy.run("x = 1");
    forkpy.send_bytes(b"garbage\n");
    forkpy.nameless_error();
    let large = format!("'{}'", "y".repeat(3_000_000));
    let reply = forkpy.run(&large);
    assert!(reply["results"][0].as_str().expect("a result").contains("characters left out"));
    let ids: Vec<u64> = (0..200).map(|n| forkpy.begin_run(&format!("print('z' * 30_000); {n}"))).collect();
    let mut ran = 0;
    for id in ids {
        ran += usize::from(forkpy.reply(id).data["status"] == "ok");
    }
    assert!(ran >= 64, "those that the queue took have run: {ran}");
    unharmed(&mut forkpy);
}
