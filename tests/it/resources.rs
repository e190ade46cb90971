//! Resources: files of the workspace under URIs, listed, read, completed and listened to; links to them in results.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::symlink,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Forkpy, Setup, http::HttpForkpy, processes, wait_for};

const UPDATED: &str = "notifications/resources/updated";
const LIST_CHANGED: &str = "notifications/resources/list_changed";

fn uri(forkpy: &Forkpy, path: &str) -> String {
    format!("file://{}/{path}", forkpy.workspace.canonicalize().expect("there").to_str().expect("UTF-8"))
}

/// Files; health is listed behind them.
fn listed(forkpy: &mut Forkpy) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let params = if cursor.is_null() { json!({}) } else { json!({"cursor": cursor}) };
        let answer = forkpy.request("resources/list", params);
        all.extend(answer["result"]["resources"].as_array().unwrap_or_else(|| panic!("no list: {answer}")).clone());
        cursor = answer["result"]["nextCursor"].clone();
        if cursor.is_null() {
            all.retain(|resource| resource["uri"].as_str().is_some_and(|uri| uri.starts_with("file:")));
            return all;
        }
    }
}

fn names(resources: &[Value]) -> Vec<&str> {
    resources.iter().map(|resource| resource["name"].as_str().expect("a name")).collect()
}

fn read(forkpy: &mut Forkpy, uri: &str) -> Value {
    let answer = forkpy.request("resources/read", json!({"uri": uri}));
    let contents = answer["result"]["contents"].as_array().unwrap_or_else(|| panic!("not read: {answer}"));
    assert_eq!(contents.len(), 1);
    contents[0].clone()
}

fn error(forkpy: &mut Forkpy, method: &str, uri: &str) -> (i64, String) {
    let answer = forkpy.request(method, json!({"uri": uri}));
    let error = &answer["error"];
    assert_eq!(error["data"]["uri"], uri, "{answer}");
    (error["code"].as_i64().expect("a code"), error["message"].as_str().expect("words").to_owned())
}

fn is_update(of: &str) -> impl Fn(&Value) -> bool + '_ {
    move |heard| heard["method"] == UPDATED && heard["params"]["uri"] == of
}

#[test]
fn files_are_listed_and_each_uri_can_be_read() {
    let mut forkpy = Forkpy::start();
    let text = "hällo\n";
    for path in ["a b/ü?#.txt", "data.json", "noext"] {
        fs::create_dir_all(forkpy.file("a b")).expect("made");
        fs::write(forkpy.file(path), text).expect("written");
    }
    fs::write(forkpy.file("pic.png"), b"\x89PNG\r\n\x1a\n\xff").expect("written");
    fs::write(forkpy.file("raw"), b"\xff\xfe\x00").expect("written");
    for hidden in [".git/config", "node_modules/m.js"] {
        fs::create_dir_all(forkpy.file(hidden).parent().expect("a parent")).expect("made");
        fs::write(forkpy.file(hidden), "hidden").expect("written");
    }
    symlink("data.json", forkpy.file("link")).expect("a link");
    let all = listed(&mut forkpy);
    assert_eq!(names(&all), ["a b/ü?#.txt", "data.json", "noext", "pic.png", "raw"]);
    assert_eq!(all[0]["uri"], uri(&forkpy, "a%20b/%C3%BC%3F%23.txt"));
    assert_eq!((&all[0]["mimeType"], &all[0]["size"]), (&json!("text/plain"), &json!(7)));
    assert_eq!(all[1]["mimeType"], "application/json");
    assert_eq!((&all[2]["mimeType"], &all[3]["mimeType"]), (&Value::Null, &json!("image/png")));
    for resource in &all[..3] {
        let got = read(&mut forkpy, resource["uri"].as_str().expect("a URI"));
        assert_eq!((&got["text"], &got["uri"]), (&json!(text), &resource["uri"]));
    }
    assert_eq!(read(&mut forkpy, all[2]["uri"].as_str().expect("a URI"))["mimeType"], "text/plain");
    let picture = read(&mut forkpy, all[3]["uri"].as_str().expect("a URI"));
    assert_eq!((&picture["blob"], &picture["mimeType"]), (&json!("iVBORw0KGgr/"), &json!("image/png")));
    let raw = read(&mut forkpy, all[4]["uri"].as_str().expect("a URI"));
    assert_eq!((&raw["blob"], &raw["mimeType"]), (&json!("//4A"), &json!("application/octet-stream")));
    // Not listed, and there all the same, by the template.
    let template = forkpy.request("resources/templates/list", json!({}));
    let template = template["result"]["resourceTemplates"][0]["uriTemplate"].as_str().expect("a template").to_owned();
    for (path, content) in [(".git/config", "hidden"), ("link", text)] {
        assert_eq!(read(&mut forkpy, &template.replace("{+path}", path))["text"], content);
    }
    // The tool gives the same.
    assert_eq!(forkpy.call("read_file", json!({"path": all[0]["name"]})).data["text"], text);
}

#[test]
fn what_is_no_resource_is_refused_by_name() {
    let mut forkpy = Forkpy::start();
    let outside = forkpy.workspace.parent().expect("a parent").join("secret");
    fs::write(&outside, "secret").expect("written");
    symlink(&outside, forkpy.file("link")).expect("a link");
    nix::unistd::mkfifo(&forkpy.file("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    fs::write(forkpy.file("large"), vec![b'x'; 1 << 20]).expect("written");
    fs::write(forkpy.file("control"), vec![1; 200_000]).expect("written");
    let cases = [
        (uri(&forkpy, "nowhere"), -32002, "No such file"),
        (uri(&forkpy, "link"), -32002, "out of the workspace"),
        (uri(&forkpy, "../secret"), -32002, "out of the workspace"),
        (uri(&forkpy, "%2e%2e/secret"), -32002, "out of the workspace"),
        ("file:///etc/passwd".to_owned(), -32002, "not in the workspace"),
        ("file://elsewhere/etc/passwd".to_owned(), -32002, "another machine"),
        ("http://x/y".to_owned(), -32002, "begin with file:"),
        (String::new(), -32002, "begin with file:"),
        (uri(&forkpy, ""), -32602, "a directory"),
        (uri(&forkpy, "scripts"), -32602, "a directory"),
        (uri(&forkpy, "fifo"), -32602, "named pipe"),
        (uri(&forkpy, "large"), -32602, "read_file gives it by parts"),
        (uri(&forkpy, "control"), -32602, "read_file gives it by parts"),
        (uri(&forkpy, "a%00b"), -32602, "NUL"),
        (uri(&forkpy, &"n".repeat(300)), -32602, "too long"),
    ];
    for (uri, code, words) in cases {
        let (got, message) = error(&mut forkpy, "resources/read", &uri);
        assert!(got == code && message.contains(words), "{uri}: {got} {message}");
    }
    for cursor in ["x", "", "OTkgYQ", "ü"] {
        let answer = forkpy.request("resources/list", json!({"cursor": cursor}));
        assert_eq!(answer["error"]["code"], -32602, "{cursor}: {answer}");
    }
}

#[test]
fn long_lists_come_in_pages_that_files_coming_and_going_do_not_shift() {
    let mut forkpy = Forkpy::start();
    fs::create_dir(forkpy.file("many")).expect("made");
    for index in 0..2500 {
        fs::write(forkpy.file(format!("many/{index:04}")), "").expect("written");
    }
    let first = forkpy.request("resources/list", json!({}))["result"].clone();
    assert_eq!(first["resources"].as_array().expect("a list").len(), 1000);
    fs::remove_file(forkpy.file("many/0000")).expect("there");
    fs::write(forkpy.file("aaa"), "").expect("written");
    let second = forkpy.request("resources/list", json!({"cursor": first["nextCursor"]}))["result"].clone();
    assert_eq!(second["resources"][0]["name"], "many/1000");
    let third = forkpy.request("resources/list", json!({"cursor": second["nextCursor"]}))["result"].clone();
    let (last, health) = (&third["resources"][499], &third["resources"][500]);
    assert_eq!((&last["name"], &health["uri"]), (&json!("many/2499"), &json!("health://alerts")));
    assert!(third.get("nextCursor").is_none());
    assert_eq!(listed(&mut forkpy).len(), 2500);
}

#[test]
fn paths_are_completed() {
    let mut forkpy = Forkpy::start();
    fs::create_dir(forkpy.file("data")).expect("made");
    fs::write(forkpy.file("data/one.csv"), "").expect("written");
    let template = uri(&forkpy, "{+path}");
    let mut complete = |template: &str, name: &str, value: &str| {
        let params =
            json!({"ref": {"type": "ref/resource", "uri": template}, "argument": {"name": name, "value": value}});
        forkpy.request("completion/complete", params)["result"]["completion"]["values"].clone()
    };
    assert_eq!(complete(&template, "path", "da"), json!(["data/"]));
    assert_eq!(complete(&template, "path", "data/"), json!(["data/one.csv"]));
    for (template, name, value) in [("file:///x", "path", "da"), (&*template, "y", "da"), (&*template, "path", "../")] {
        assert_eq!(complete(template, name, value), json!([]));
    }
}

#[test]
fn a_subscriber_hears_of_every_way_a_file_changes_and_of_nothing_else() {
    let mut forkpy = Forkpy::start();
    fs::create_dir(forkpy.file("d")).expect("made");
    for path in ["d/watched", "d/other", "appended"] {
        fs::write(forkpy.file(path), "old").expect("written");
    }
    let (watched, odd, appended) = (uri(&forkpy, "d/watched"), uri(&forkpy, "d/%77atched"), uri(&forkpy, "appended"));
    let later = uri(&forkpy, "new/later");
    for uri in [&watched, &odd, &appended, &later] {
        assert!(forkpy.request("resources/subscribe", json!({"uri": uri}))["result"].is_object());
    }
    // By the tool, by name; each as the client spelt it.
    forkpy.call("write_file", json!({"path": "d/watched", "content": "new"}));
    forkpy.message("the write", is_update(&watched));
    forkpy.message("the write, spelt otherwise", is_update(&odd));
    // By a cell that keeps the file open.
    forkpy.run("f = open('appended', 'a'); _ = f.write('x'); f.flush()");
    forkpy.message("the append", is_update(&appended));
    // By somebody else, in a directory that was not there.
    fs::create_dir(forkpy.file("new")).expect("made");
    fs::write(forkpy.file("new/later"), "").expect("written");
    forkpy.message("the birth", is_update(&later));
    fs::write(forkpy.file("new/later"), "more").expect("written");
    forkpy.message("the growth", is_update(&later));
    fs::remove_dir_all(forkpy.file("new")).expect("removed");
    forkpy.message("the end", is_update(&later));
    forkpy.call("delete_file", json!({"path": "d/watched"}));
    forkpy.message("the deletion", is_update(&watched));
    // Taken back; what is heard after a later change was not told before it.
    for uri in [&watched, &odd] {
        assert!(forkpy.request("resources/unsubscribe", json!({"uri": uri}))["result"].is_object());
    }
    forkpy.notifications.clear();
    fs::write(forkpy.file("d/watched"), "again").expect("written");
    fs::write(forkpy.file("d/other"), "again").expect("written");
    fs::write(forkpy.file("appended"), "again").expect("written");
    forkpy.message("the last", is_update(&appended));
    let heard: Vec<_> = forkpy.notifications.iter().filter(|heard| heard["method"] == UPDATED).collect();
    assert!(heard.iter().all(|heard| heard["params"]["uri"] == appended), "{heard:?}");
    for (path, words) in [(".git/x", "hidden"), ("../x", "no file in the workspace"), ("", "no file in the workspace")]
    {
        let uri = uri(&forkpy, path);
        let (code, message) = error(&mut forkpy, "resources/subscribe", &uri);
        assert!(code == -32602 && message.contains(words), "{path}: {message}");
    }
}

#[test]
fn a_change_of_the_list_is_told() {
    let mut forkpy = Forkpy::start();
    // The client's word that it is initialized has no answer; this one comes after it.
    forkpy.call("ping", json!({}));
    fs::write(forkpy.file("new"), "").expect("written");
    forkpy.message("a new file", |heard| heard["method"] == LIST_CHANGED);
    forkpy.call("delete_file", json!({"path": "new"}));
    forkpy.message("a file less", |heard| heard["method"] == LIST_CHANGED);
}

/// 2026-07-28: no connection to notify, but a request that stays open.
#[test]
fn a_stream_carries_what_it_was_opened_for_until_it_is_cancelled() {
    let mut forkpy = Setup::new().spawn();
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                      "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                      "io.modelcontextprotocol/clientCapabilities": {}});
    let discovered = forkpy.request("server/discover", json!({"_meta": meta}));
    assert_eq!(discovered["result"]["capabilities"]["resources"], json!({"subscribe": true, "listChanged": true}));
    let (watched, hidden) = (uri(&forkpy, "watched"), uri(&forkpy, ".git/x"));
    let filter = json!({"resourceSubscriptions": [watched, hidden, "nonsense"], "resourcesListChanged": true,
                        "toolsListChanged": true});
    let id = forkpy.begin("subscriptions/listen", json!({"notifications": filter, "_meta": meta}));
    let acknowledged =
        forkpy.message("the acknowledgement", |heard| heard["method"] == "notifications/subscriptions/acknowledged");
    let accepted = json!({"resourceSubscriptions": [watched], "resourcesListChanged": true});
    assert_eq!(acknowledged["params"]["notifications"], accepted);
    fs::write(forkpy.file("watched"), "x").expect("written");
    let update = forkpy.message("the update", is_update(&watched));
    assert_eq!(update["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], id);
    forkpy.message("the list", |heard| heard["method"] == LIST_CHANGED);
    forkpy.tolerate(id);
    forkpy.notify("notifications/cancelled", json!({"requestId": id, "_meta": meta}));
    // A second stream hears what the first does not any more.
    let only = json!({"resourceSubscriptions": [watched]});
    let second = forkpy.begin("subscriptions/listen", json!({"notifications": only, "_meta": meta}));
    forkpy.message("the second acknowledgement", |heard| {
        heard["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == second
    });
    forkpy.notifications.clear();
    fs::write(forkpy.file("watched"), "y").expect("written");
    let update = forkpy.message("the second update", is_update(&watched));
    assert_eq!(update["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], second);
    assert!(
        forkpy
            .notifications
            .iter()
            .all(|heard| heard["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] != id)
    );
    forkpy.tolerate(second);
    forkpy.forget(id);
    forkpy.forget(second);
}

#[test]
fn results_link_to_files_within_bounds_and_only_where_the_protocol_has_links() {
    let links = |answer: &Value| -> Vec<Value> {
        let content = answer["result"]["content"].as_array().expect("content").clone();
        content.into_iter().filter(|block| block["type"] == "resource_link").collect()
    };
    let call = |forkpy: &mut Forkpy, tool: &str, arguments: Value| {
        forkpy.request("tools/call", json!({"name": tool, "arguments": arguments}))
    };
    let met = |version: &str, client: &str| {
        let mut forkpy = Setup::new().spawn();
        let client = json!({"name": client, "version": "1"});
        forkpy.request("initialize", json!({"protocolVersion": version, "capabilities": {}, "clientInfo": client}));
        forkpy.notify("notifications/initialized", json!({}));
        forkpy
    };
    let mut forkpy = met("2025-11-25", "mcp-inspector");
    let answer = call(&mut forkpy, "write_file", json!({"path": "a b.json", "content": "{}"}));
    let link = json!({"type": "resource_link", "uri": uri(&forkpy, "a%20b.json"), "name": "a b.json",
                      "mimeType": "application/json"});
    assert_eq!(links(&answer), [link]);
    assert_eq!(answer["result"]["content"][0]["type"], "text", "text comes first");
    let answer = call(&mut forkpy, "save_script", json!({"name": "s", "content": "1"}));
    assert_eq!(links(&answer)[0]["uri"], uri(&forkpy, "scripts/s.py"));
    let code = "for n in range(20): open(f'made{n:02}', 'w').close()";
    let answer = call(&mut forkpy, "run_python_code", json!({"code": code}));
    assert_eq!(links(&answer).len(), 8);
    let first = links(&answer)[0]["uri"].as_str().expect("a URI").to_owned();
    assert_eq!(read(&mut forkpy, &first)["text"], "");
    assert!(links(&call(&mut forkpy, "run_python_code", json!({"code": "1+1"}))).is_empty());
    let mut old = met("2025-03-26", "mcp-inspector");
    assert!(links(&call(&mut old, "write_file", json!({"path": "a", "content": ""}))).is_empty());
    let mut unknown = met("2025-11-25", "somebody");
    assert!(links(&call(&mut unknown, "write_file", json!({"path": "a", "content": ""}))).is_empty());
}

/// Health is read and listened to like a file; what it says is what the tools say.
#[test]
fn health_is_a_resource_that_can_be_listened_to() {
    let mut forkpy = Setup::new().args(&["--health-interval", "0.2", "--recovery", "manual"]).start();
    forkpy.run("1");
    let all = ["health://alerts", "health://report", "health://sessions/default"];
    let answer = forkpy.request("resources/list", json!({}));
    for uri in all {
        assert!(answer["result"]["resources"].as_array().expect("a list").iter().any(|one| one["uri"] == uri), "{uri}");
        assert!(forkpy.request("resources/subscribe", json!({"uri": uri}))["result"].is_object());
    }
    let text = |forkpy: &mut Forkpy, uri: &str| -> Value {
        serde_json::from_str(read(forkpy, uri)["text"].as_str().expect("text")).expect("JSON")
    };
    assert_eq!(text(&mut forkpy, all[0])["alerts"], json!([]));
    assert_eq!(text(&mut forkpy, all[2])["status"], "healthy");
    processes::signal(forkpy.pid(), Signal::SIGKILL);
    for uri in all {
        forkpy.message(uri, is_update(uri));
    }
    wait_for("the alert", || text(&mut forkpy, all[0])["alerts"][0]["kind"] == "unhealthy");
    assert_eq!(text(&mut forkpy, all[1])["unhealthy"], json!(["default"]));
    // For a moment it is a zombie.
    wait_for("its burial", || text(&mut forkpy, all[2])["status"] == "dead");
    assert_eq!(text(&mut forkpy, all[2])["last_exit"]["signal"], "SIGKILL");
    let mut id = String::new();
    wait_for("the report", || {
        let listed = forkpy.call("list_crashes", json!({})).data;
        id = listed["crashes"][0]["id"].as_str().unwrap_or_default().to_owned();
        !id.is_empty()
    });
    let crash = format!("health://crashes/{id}");
    assert_eq!(text(&mut forkpy, &crash)["signal"], "SIGKILL");
    for (uri, method) in [
        ("health://crashes/none", "resources/read"),
        ("health://sessions/none", "resources/read"),
        ("health://elsewhere", "resources/read"),
        ("health://elsewhere", "resources/subscribe"),
    ] {
        let (code, message) = error(&mut forkpy, method, uri);
        assert!(code == -32002 && message.contains("there"), "{uri}: {code} {message}");
    }
    assert!(error(&mut forkpy, "resources/subscribe", &crash).1.contains("never changes"));
    let params = json!({"ref": {"type": "ref/resource", "uri": "health://sessions/{session_id}"},
                        "argument": {"name": "session_id", "value": "de"}});
    let values = forkpy.request("completion/complete", params)["result"]["completion"]["values"].clone();
    assert_eq!(values, json!(["default"]));
}

/// Whether the server asks the kernel for writes to some directory: only somebody who listens is a reason to.
fn watches_writes(pid: i32) -> bool {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("ours").flatten();
    let text: String = infos.filter_map(|info| fs::read_to_string(info.path()).ok()).collect();
    let masks = text.lines().filter(|line| line.starts_with("inotify ")).filter_map(|line| {
        let mask = line.split(' ').find_map(|word| word.strip_prefix("mask:"))?;
        u32::from_str_radix(mask, 16).ok()
    });
    masks.into_iter().any(|mask| mask & nix::libc::IN_MODIFY != 0)
}

/// A stream over HTTP ends with its connection, and with it what was watched for it; one that is open keeps no server up.
#[test]
fn a_client_that_goes_away_is_listened_for_no_more() {
    let server = HttpForkpy::start(Setup::new());
    let watched = format!("file://{}/watched", server.workspace().canonicalize().expect("there").display());
    let listen = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {
        "notifications": {"resourceSubscriptions": [watched]},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                  "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                  "io.modelcontextprotocol/clientCapabilities": {}}}})
    .to_string();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n\
         MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\nContent-Length: {}\r\n\r\n{listen}",
        server.address,
        listen.len()
    );
    let open = || {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    };
    let until = |stream: &mut std::net::TcpStream, wanted: &str| {
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.contains(wanted) {
            let count = stream.read(&mut buffer).expect("it sends");
            assert!(count > 0, "the stream ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    assert!(!watches_writes(server.server_pid()));
    let mut stream = open();
    until(&mut stream, "notifications/subscriptions/acknowledged");
    assert!(watches_writes(server.server_pid()));
    fs::write(server.workspace().join("watched"), "x").expect("written");
    until(&mut stream, "notifications/resources/updated");
    drop(stream);
    wait_for("the end of the watch", || !watches_writes(server.server_pid()));
    let mut stream = open();
    until(&mut stream, "notifications/subscriptions/acknowledged");
    drop(server);
}
