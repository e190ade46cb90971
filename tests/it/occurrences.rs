//! Events (SEP-3415): clients ask what has happened since they asked last.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, attach::Attached, http::HttpForkpy, processes, wait_for};

fn poll(forkpy: &mut Forkpy, name: &str, more: Value) -> Value {
    let mut params = json!({"name": name, "arguments": {}});
    params.as_object_mut().expect("one").extend(more.as_object().expect("one").clone());
    let reply = forkpy.request("events/poll", params);
    assert!(reply["result"]["cursor"].is_string(), "{reply}");
    reply["result"].clone()
}

/// What comes behind a cursor, which is moved on.
fn news(forkpy: &mut Forkpy, name: &str, cursor: &mut Value) -> Vec<Value> {
    let mut reply = poll(forkpy, name, json!({ "cursor": cursor }));
    *cursor = reply["cursor"].take();
    reply["events"].as_array().expect("a list").iter().map(|event| event["data"].clone()).collect()
}

fn begin(forkpy: &mut Forkpy, name: &str) -> Value {
    let reply = poll(forkpy, name, json!({"cursor": null}));
    assert_eq!((&reply["events"], &reply["truncated"]), (&json!([]), &json!(false)), "{reply}");
    reply["cursor"].clone()
}

#[test]
fn ends_deaths_and_alerts_are_told_once_to_each_who_asks() {
    let mut forkpy =
        Setup::new().args(&["--health-interval", "0.2", "--checkpoints", "off", "--recovery", "manual"]).start();
    let listed = forkpy.request("events/list", json!({}));
    let events = listed["result"]["events"].as_array().unwrap_or_else(|| panic!("{listed}")).clone();
    let names: Vec<_> = events.iter().map(|event| event["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["cell.ended", "session.died", "health.alert"]);
    assert!(events.iter().all(|event| event["delivery"] == json!(["poll"])), "{listed}");
    forkpy.run("1");
    let (mut cells, mut deaths) = (begin(&mut forkpy, "cell.ended"), begin(&mut forkpy, "session.died"));
    let mut alerts = begin(&mut forkpy, "health.alert");
    let start = cells.clone();
    forkpy.run("x = 1");
    forkpy.run("1/0");
    forkpy.call("create_session", json!({"session_id": "other"}));
    forkpy.call("run_python_code", json!({"code": "1", "session_id": "other"}));
    let ended = |cell: u64, status: &str, session: &str| json!({"session_id": session, "cell": cell, "status": status});
    let all = [ended(2, "ok", "default"), ended(3, "error", "default"), ended(1, "ok", "other")];
    assert_eq!(news(&mut forkpy, "cell.ended", &mut cells), all);
    assert_eq!(news(&mut forkpy, "cell.ended", &mut cells), [Value::Null; 0], "once");
    let of_other = poll(&mut forkpy, "cell.ended", json!({"cursor": start, "arguments": {"session_id": "other"}}));
    assert_eq!(of_other["events"][0]["data"], all[2], "{of_other}");
    let first = poll(&mut forkpy, "cell.ended", json!({"cursor": start, "maxEvents": 2}));
    assert_eq!((first["events"].as_array().map(Vec::len), &first["hasMore"]), (Some(2), &json!(true)), "{first}");
    let rest = poll(&mut forkpy, "cell.ended", json!({"cursor": first["cursor"]}));
    assert_eq!((&rest["events"][0]["data"], &rest["hasMore"]), (&all[2], &json!(false)), "{rest}");
    assert_eq!(rest["events"].as_array().map(Vec::len), Some(1), "{rest}");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    forkpy.until_state("dead");
    let died = news(&mut forkpy, "session.died", &mut deaths);
    assert_eq!((died.len(), &died[0]["reason"], &died[0]["session_id"]), (1, &json!("died"), &json!("default")));
    let mut told = Vec::new();
    wait_for("the alert", || {
        told.extend(news(&mut forkpy, "health.alert", &mut alerts));
        told.iter().any(|alert| alert["kind"] == "unhealthy" && alert["cleared"] == false)
    });
    forkpy.call("restart_kernel", json!({}));
    wait_for("its end", || {
        told.extend(news(&mut forkpy, "health.alert", &mut alerts));
        told.iter().any(|alert| alert["kind"] == "unhealthy" && alert["cleared"] == true)
    });
}

/// Each of these workers was ended because a client wished it, and was looked at while it ended: 73 alerts came of 400 deletions.
#[test]
fn an_end_that_was_ordered_raises_no_alert() {
    let mut forkpy = Setup::new().args(&["--health-interval", "0.2", "--max-spares", "0"]).start();
    forkpy.run("1");
    let mut alerts = begin(&mut forkpy, "health.alert");
    for round in 0..2 {
        for number in 0..20 {
            let session = format!("s{number}");
            forkpy.call("create_session", json!({"session_id": session}));
            forkpy.call("run_python_code", json!({"code": "1", "session_id": session}));
        }
        for number in 0..20 {
            forkpy.call("delete_session", json!({"session_id": format!("s{number}")}));
        }
        assert_eq!(news(&mut forkpy, "health.alert", &mut alerts), [Value::Null; 0], "round {round}");
    }
    // A zygote that stands still reaps no worker, so this one is a zombie for as long as it is looked at.
    let zygote = forkpy.zygote_pid();
    processes::signal(zygote, Signal::SIGSTOP);
    let restart = forkpy.begin_call("restart_kernel", json!({}));
    forkpy.until("its zombie", |seen| seen["status"] == "zombie");
    // The supervisor looks once a second.
    std::thread::sleep(Duration::from_millis(2200));
    assert_eq!(forkpy.health()["status"], "zombie");
    assert_eq!(news(&mut forkpy, "health.alert", &mut alerts), [Value::Null; 0], "a restart");
    processes::signal(zygote, Signal::SIGCONT);
    assert_eq!(forkpy.reply(restart).data["restarted"], true);
    assert_eq!(forkpy.health()["alerts"], json!([]));
}

#[test]
fn what_is_asked_wrongly_is_refused_with_the_extensions_codes() {
    let mut forkpy = Forkpy::start();
    let cursor = begin(&mut forkpy, "cell.ended");
    let other = format!("{}-5", "0".repeat(32));
    for (method, params, code) in [
        ("events/poll", json!({"name": "no.such"}), -32011),
        ("events/poll", json!({}), -32602),
        ("events/poll", json!({"name": "cell.ended", "cursor": "soon"}), -32602),
        ("events/poll", json!({"name": "cell.ended", "cursor": cursor, "arguments": {"session": "a"}}), -32602),
        ("events/poll", json!({"name": "cell.ended", "maxEvents": -1}), -32602),
        ("events/stream", json!({"name": "cell.ended"}), -32014),
        ("events/subscribe", json!({"name": "cell.ended"}), -32014),
        ("events/other", json!({}), -32601),
    ] {
        let reply = forkpy.request(method, params.clone());
        assert_eq!(reply["error"]["code"], code, "{method} {params}: {reply}");
    }
    let cut = poll(&mut forkpy, "cell.ended", json!({ "cursor": other }));
    assert_eq!(cut["truncated"], true, "of another server: {cut}");
}

#[test]
fn a_reader_goes_on_after_a_restart() {
    let attached = Attached::new();
    let mut one = attached.client();
    let mut cursor = begin(&mut one, "cell.ended");
    one.run("x = 1");
    assert!(attached.run(&["restart"]).status.success());
    one.run("x = 2");
    let told = news(&mut one, "cell.ended", &mut cursor);
    assert_eq!(told.iter().map(|event| event["cell"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
}

#[test]
fn over_http_each_owner_hears_of_its_own_sessions() {
    let server = HttpForkpy::start(Setup::new());
    let ask = |cookie: &str, method: &str, mut params: Value| {
        params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                                 "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                                 "io.modelcontextprotocol/clientCapabilities": {}});
        let name = params["name"].as_str().unwrap_or_default().to_owned();
        let body = json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params}).to_string();
        let mut headers = vec![("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method), ("Mcp-Name", &name)];
        if !cookie.is_empty() {
            headers.push(("Cookie", cookie));
        }
        let answer = server.post(&headers, &body);
        let given = answer.header("Set-Cookie").split(';').next().unwrap_or_default().to_owned();
        (answer.json(), given)
    };
    let (discovered, one) = ask("", "server/discover", json!({}));
    assert!(discovered["result"]["capabilities"]["extensions"]["io.modelcontextprotocol/events"].is_object());
    let (_, two) = ask("", "server/discover", json!({}));
    let start = |cookie: &str| {
        let (reply, _) = ask(cookie, "events/poll", json!({"name": "cell.ended", "cursor": null}));
        assert_eq!(reply["result"]["resultType"], "complete", "{reply}");
        reply["result"]["cursor"].clone()
    };
    let (first, second) = (start(&one), start(&two));
    ask(&one, "tools/call", json!({"name": "run_python_code", "arguments": {"code": "1"}}));
    let (own, _) = ask(&one, "events/poll", json!({"name": "cell.ended", "cursor": first}));
    assert_eq!(own["result"]["events"][0]["data"]["cell"], 1, "{own}");
    let (other, _) = ask(&two, "events/poll", json!({"name": "cell.ended", "cursor": second}));
    assert_eq!((&other["result"]["events"], &other["result"]["truncated"]), (&json!([]), &json!(false)), "{other}");
}
