//! `input()`, `sys.stdin` and the debugger: the client is asked, in both protocol generations, or the code is told at once
//! why not. No cell runs twice, and none hangs.

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, http::HttpForkpy, wait_for};

fn with_forms() -> Forkpy {
    Setup::new().start_with(json!({"elicitation": {"form": {}}}))
}

/// The server's question.
fn question(forkpy: &mut Forkpy) -> Value {
    let asked = forkpy.message("a question", |message| message["method"] == "elicitation/create");
    assert_eq!(asked["params"]["mode"], "form", "{asked}");
    let schema = &asked["params"]["requestedSchema"];
    assert_eq!((&schema["type"], &schema["properties"]["input"]["type"]), (&json!("object"), &json!("string")));
    asked
}

fn accept(text: &str) -> Value {
    json!({"action": "accept", "content": {"input": text}})
}

fn error(reply: &Value) -> (String, String) {
    let word = |key: &str| reply["error"][key].as_str().unwrap_or_else(|| panic!("no error: {reply}")).to_owned();
    (word("type"), word("message"))
}

#[test]
fn the_client_is_asked_and_its_answer_is_the_line() {
    let mut forkpy = with_forms();
    let cell = forkpy.begin_run("print('Who are you?')\nname = input('Name: ')\nprint('Hello', name)\nname");
    let asked = question(&mut forkpy);
    let message = asked["params"]["message"].as_str().expect("words");
    assert!(message.contains("session \"default\", cell 1") && message.ends_with("Who are you?\nName:"), "{message}");
    assert_eq!(asked["params"]["requestedSchema"]["properties"]["input"]["title"], "Name");
    let health = forkpy.until_state("waiting_input");
    assert_eq!((&health["status"], &health["cell"]), (&json!("healthy"), &json!(1)));
    forkpy.respond(&asked, accept("Ada Lovelace 🎉"));
    let reply = forkpy.reply(cell).data;
    assert_eq!(reply["stdout"], "Who are you?\nName: Hello Ada Lovelace 🎉\n");
    assert_eq!(reply["results"], json!(["'Ada Lovelace 🎉'"]));
    assert_eq!(forkpy.health()["state"], "idle");
}

#[test]
fn standard_input_is_what_the_client_answers() {
    let mut forkpy = with_forms();
    let code = "import sys\nfirst = sys.stdin.readline()\nrest = [line for line in sys.stdin]\nfirst, rest";
    let cell = forkpy.begin_run(code);
    for answer in [accept("one"), accept("two"), accept(""), json!({"action": "decline"})] {
        let asked = question(&mut forkpy);
        forkpy.respond(&asked, answer);
    }
    assert_eq!(forkpy.reply(cell).data["results"], json!(["('one\\n', ['two\\n', '\\n'])"]));
    let cell = forkpy.begin_run("sys.stdin.read(), sys.stdin.fileno(), sys.stdin.isatty()");
    let asked = question(&mut forkpy);
    forkpy.respond(&asked, accept("all of it"));
    assert_eq!(forkpy.reply(cell).data["results"], json!(["('all of it\\n', 0, False)"]));
}

#[test]
fn who_declines_or_dismisses_raises_a_clear_error() {
    let mut forkpy = with_forms();
    for (action, words) in [("decline", "declined"), ("cancel", "dismissed")] {
        let cell = forkpy.begin_run("x = input('? ')");
        let asked = question(&mut forkpy);
        forkpy.respond(&asked, json!({"action": action}));
        let (kind, message) = error(&forkpy.reply(cell).data);
        assert!(kind == "EOFError" && message.contains(words), "{kind}: {message}");
    }
    let cell = forkpy.begin_run("input()");
    let asked = question(&mut forkpy);
    let refusal = json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no forms today"}});
    forkpy.send_bytes(format!("{refusal}\n").as_bytes());
    let (kind, message) = error(&forkpy.reply(cell).data);
    assert!(kind == "EOFError" && message.contains("no forms today"), "{kind}: {message}");
}

const NO_CLIENT: &[(&str, &str, &str)] = &[
    ("input('? ')", "EOFError", "elicitation"),
    ("import sys\nsys.stdin.readline()", "EOFError", "elicitation"),
    ("import sys\nfor line in sys.stdin: pass", "EOFError", "elicitation"),
    ("import getpass\ngetpass.getpass()", "EOFError", "environment variable"),
    ("breakpoint()", "RuntimeError", "debugger cannot be answered"),
    ("import pdb\npdb.set_trace()\nx = 1", "RuntimeError", "debugger cannot be answered"),
    ("import code\ncode.InteractiveConsole().raw_input('>')", "EOFError", "elicitation"),
];

#[test]
fn without_a_client_to_ask_the_code_is_told_at_once() {
    // One that shows pages but no forms cannot be asked either.
    for capabilities in [json!({}), json!({"elicitation": {"url": {}}})] {
        let mut forkpy = Setup::new().start_with(capabilities);
        for (code, kind, words) in NO_CLIENT {
            let reply = forkpy.run(code);
            let (seen, message) = error(&reply);
            assert!(seen == *kind && message.contains(words), "{code}: {reply}");
        }
        assert_eq!(forkpy.eval("1 + 1"), "2");
    }
}

#[test]
fn a_secret_is_not_asked_for() {
    let mut forkpy = with_forms();
    let reply = forkpy.run("import getpass\ngetpass.getpass('Password: ')");
    let (kind, message) = error(&reply);
    assert!(kind == "EOFError" && message.contains("secret"), "{reply}");
    assert!(!reply["stderr"].as_str().expect("text").contains("GetPassWarning"), "{reply}");
}

#[test]
fn threads_and_forked_children_are_refused() {
    let mut forkpy = with_forms();
    let code = "\
import concurrent.futures, os
with concurrent.futures.ThreadPoolExecutor() as pool:
    print(repr(pool.submit(input).exception()))
child = os.fork()
if child == 0:
    try: input()
    except EOFError as error: os.write(1, str(error).encode())
    os._exit(0)
os.waitpid(child, 0)[1]";
    let reply = forkpy.run(code);
    let stdout = reply["stdout"].as_str().expect("text");
    assert_eq!(stdout.matches("only the main thread").count(), 2, "{reply}");
}

#[test]
fn the_time_limit_counts_the_waiting_and_the_question_is_taken_back() {
    let mut forkpy = with_forms();
    let code = "x = 1\ninput('never answered')";
    let cell = forkpy.begin_call("run_python_code", json!({"code": code, "timeout": 3}));
    let asked = question(&mut forkpy);
    let reply = forkpy.reply(cell).data;
    assert_eq!((&reply["status"], &reply["state"]), (&json!("timeout"), &json!("kept")));
    let back = forkpy.message("the end of it", |message| message["method"] == "notifications/cancelled");
    assert_eq!(back["params"]["requestId"], asked["id"]);
    // An answer that comes too late is nobody's.
    forkpy.respond(&asked, accept("late"));
    assert_eq!(forkpy.eval("x"), "1");
    let cell = forkpy.begin_run("input('again')");
    let asked = question(&mut forkpy);
    forkpy.respond(&asked, accept("in time"));
    assert_eq!(forkpy.reply(cell).data["results"], json!(["'in time'"]));
}

#[test]
fn a_question_that_nobody_answers_ends_after_the_input_timeout() {
    let mut forkpy = Setup::new().args(&["--input-timeout", "0.5"]).start_with(json!({"elicitation": {"form": {}}}));
    let cell =
        forkpy.begin_run("x = 1\ntry:\n    input('Name? ')\nexcept EOFError as error:\n    said = str(error)\nsaid");
    let asked = question(&mut forkpy);
    let reply = forkpy.reply(cell).data;
    assert!(reply["results"][0].as_str().expect("words").contains("within 0.5 s (--input-timeout)"), "{reply}");
    let back = forkpy.message("the end of it", |message| message["method"] == "notifications/cancelled");
    assert_eq!(back["params"]["requestId"], asked["id"], "the client need not ask any more");
    forkpy.respond(&asked, accept("late"));
    let cell = forkpy.begin_run("import sys\nsys.stdin.readline()");
    question(&mut forkpy);
    let (kind, message) = error(&forkpy.reply(cell).data);
    assert!(kind == "EOFError" && message.contains("--input-timeout"), "{kind}: {message}");
    let cell = forkpy.begin_run("input('again')");
    let asked = question(&mut forkpy);
    forkpy.respond(&asked, accept("in time"));
    assert_eq!(forkpy.reply(cell).data["results"], json!(["'in time'"]));
    assert_eq!(forkpy.eval("x"), "1");
}

#[test]
fn a_call_behind_a_waiting_question_is_told_so_at_once() {
    let mut forkpy = with_forms();
    forkpy.run("x = 1\nimport time");
    let cell = forkpy.begin_run("time.sleep(0.2)\nname = input('Your name? ')");
    // One comes before the question, the others behind it.
    let early = forkpy.begin_run("x = 2");
    let asked = question(&mut forkpy);
    for waiting in [early, forkpy.begin_run("x = 3")] {
        let reply = forkpy.reply(waiting);
        assert!(reply.is_error && reply.data["status"] == "refused", "{reply:?}");
        for words in ["waits for input", "cell 2", "Your name?", "Nothing was run", "--input-timeout"] {
            assert!(reply.text.contains(words), "{words}: {}", reply.text);
        }
    }
    for tool in ["list_variables", "checkpoint_session"] {
        assert!(forkpy.refused(tool, json!({})).contains("waits for input"), "{tool}");
    }
    assert!(forkpy.refused("save_session", json!({"path": "s.state"})).contains("waits for input"));
    // Another session is not concerned.
    let other = json!({"session_id": "other"});
    forkpy.call("create_session", other.clone());
    forkpy.call("switch_session", json!({"session_id": "default"}));
    assert_eq!(
        forkpy.call("run_python_code", json!({"code": "1", "session_id": "other"})).data["results"],
        json!(["1"])
    );
    forkpy.respond(&asked, accept("Ada"));
    assert_eq!(forkpy.reply(cell).data["status"], "ok");
    assert_eq!(forkpy.eval("x, name"), "(1, 'Ada')", "nothing behind the question was run");
}

#[test]
fn who_answers_at_once_lets_those_behind_run() {
    let mut forkpy = with_forms();
    let cell = forkpy.begin_run("name = input('? ')");
    let behind = forkpy.begin_run("name");
    let asked = question(&mut forkpy);
    forkpy.respond(&asked, accept("Ada"));
    assert_eq!(forkpy.reply(cell).data["status"], "ok");
    assert_eq!(forkpy.reply(behind).data["results"], json!(["'Ada'"]));
}

#[test]
fn a_waiting_cell_can_be_cancelled_restarted_and_killed() {
    let mut forkpy = with_forms();
    forkpy.run("x = 5");
    let cell = forkpy.begin_run("input()");
    question(&mut forkpy);
    forkpy.forget(cell);
    forkpy.tolerate(cell);
    forkpy.notify("notifications/cancelled", json!({"requestId": cell}));
    assert_eq!(forkpy.eval("x"), "5");
    let cell = forkpy.begin_run("input()");
    question(&mut forkpy);
    let restarted = forkpy.call("restart_kernel", json!({"preserve_state": true})).data;
    assert_eq!(restarted["restored_vars"], json!(["x"]));
    assert_eq!(forkpy.reply(cell).data["status"], "cancelled");
    let cell = forkpy.begin_run("input()");
    question(&mut forkpy);
    let pid = forkpy.pid();
    crate::support::processes::signal(pid, nix::sys::signal::Signal::SIGKILL);
    assert_eq!(forkpy.reply(cell).data["status"], "died");
}

#[test]
fn code_that_swallows_the_interrupt_and_asks_again_still_ends() {
    let mut forkpy = with_forms();
    let code = "while True:\n    try: input()\n    except BaseException as error: last = error";
    let cell = forkpy.begin_call("run_python_code", json!({"code": code, "timeout": 0.3}));
    assert_eq!(forkpy.reply(cell).data["status"], "timeout");
    assert_eq!(forkpy.eval("1"), "1");
}

#[test]
fn the_debugger_talks_to_the_client() {
    let mut forkpy = with_forms();
    let code = "def f(n):\n    half = n / 2\n    breakpoint()\n    return half\nf(6)";
    let cell = forkpy.begin_run(code);
    let asked = question(&mut forkpy);
    let message = asked["params"]["message"].as_str().expect("words");
    // From 3.13 on it stops at the line that asks for it, before that after it.
    assert!(message.contains("breakpoint()") || message.contains("return half"), "{message}");
    assert!(message.ends_with("(Pdb)"), "{message}");
    forkpy.respond(&asked, accept("p half * 10"));
    let asked = question(&mut forkpy);
    assert!(asked["params"]["message"].as_str().expect("words").contains("\n30.0\n(Pdb)"), "{asked}");
    forkpy.respond(&asked, accept("continue"));
    let reply = forkpy.reply(cell).data;
    assert_eq!(reply["results"], json!(["3.0"]), "{reply}");
}

// -- protocol 2026-07-28: the client calls again

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
        "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
    })
}

fn params(code: &str, again: &Value) -> Value {
    let mut params = json!({"name": "run_python_code", "arguments": {"code": code, "timeout": 30}, "_meta": meta()});
    for (key, value) in again.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    params
}

/// The answer to the question of an `InputRequiredResult`, as the client's next call brings it.
fn again(result: &Value, answer: Value) -> Value {
    assert_eq!(result["resultType"], "input_required", "{result}");
    assert_eq!(result["inputRequests"]["input"]["method"], "elicitation/create", "{result}");
    json!({"requestState": result["requestState"], "inputResponses": {"input": answer}})
}

const TWICE: &str = "\
runs = globals().get('runs', 0) + 1
a = input('first: ')
b = input('second: ')
print(runs, a, b)";

#[test]
fn in_the_stateless_protocol_the_client_calls_again_and_the_cell_runs_once() {
    let mut forkpy = Setup::new().spawn();
    let first = forkpy.request("tools/call", params(TWICE, &json!({})))["result"].clone();
    let health = json!({"name": "get_kernel_health", "arguments": {}, "_meta": meta()});
    let seen = forkpy.request("tools/call", health)["result"]["structuredContent"]["state"].clone();
    assert_eq!(seen, "waiting_input");
    // Nothing in it, or nonsense: the question stays open under another name.
    let nothing = json!({"requestState": first["requestState"]});
    let first = forkpy.request("tools/call", params(TWICE, &nothing))["result"].clone();
    let nonsense = again(&first, json!({"action": "dance"}));
    let first = forkpy.request("tools/call", params(TWICE, &nonsense))["result"].clone();
    let answered = again(&first, accept("A"));
    let second = forkpy.request("tools/call", params(TWICE, &answered))["result"].clone();
    let message = second["inputRequests"]["input"]["params"]["message"].as_str().expect("words");
    assert!(message.ends_with("second:") && !message.contains("first:"), "{message}");
    // The same answer once more, as after a lost connection: refused, nothing runs.
    let repeated = forkpy.request("tools/call", params(TWICE, &answered))["result"].clone();
    assert_eq!(repeated["isError"], true, "{repeated}");
    assert!(repeated["content"][0]["text"].as_str().expect("words").contains("Nothing was run"));
    let done = forkpy.request("tools/call", params(TWICE, &again(&second, accept("B"))))["result"].clone();
    assert_eq!(done["structuredContent"]["stdout"], "first: second: 1 A B\n", "{done}");
    assert_eq!(done["structuredContent"]["cell"], 1);
}

#[test]
fn a_client_that_never_calls_again_leaves_a_cell_that_its_time_limit_ends() {
    let mut forkpy = Setup::new().spawn();
    let mut asked = params("x = 1\ninput()", &json!({}));
    asked["arguments"]["timeout"] = json!(3);
    let first = forkpy.request("tools/call", asked)["result"].clone();
    // Until then other calls are told that the question waits.
    wait_for("the end of the cell", || {
        let done = forkpy.request("tools/call", params("x", &json!({})))["result"].clone();
        let status = done["structuredContent"]["status"].as_str().unwrap_or_default().to_owned();
        assert!(status == "refused" || done["structuredContent"]["results"] == json!(["1"]), "{done}");
        status != "refused"
    });
    // Who comes after all hears how it ended.
    let late = forkpy.request("tools/call", params("", &again(&first, accept("late"))))["result"].clone();
    assert_eq!(
        (&late["structuredContent"]["status"], &late["structuredContent"]["cell"]),
        (&json!("timeout"), &json!(1))
    );
}

#[test]
fn over_http_the_question_rides_on_the_answer_to_the_call() {
    let server = HttpForkpy::start(Setup::new());
    let headers =
        [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "run_python_code")];
    let post = |again: &Value| -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params(TWICE, again)});
        let answer = server.post(&headers, &body.to_string());
        let answer: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
        answer["result"].clone()
    };
    let first = post(&json!({}));
    let second = post(&again(&first, accept("A")));
    let done = post(&again(&second, accept("B")));
    assert_eq!(done["structuredContent"]["stdout"], "first: second: 1 A B\n", "{done}");
}
