//! What a model can look up: skills, the same as prompts. What the server declares is what it serves, and how long it stays.
//!
//! Runs in: the test binary.

use serde_json::{Value, json};

use crate::support::{Forkpy, Setup};

const NAMES: [&str; 4] = ["work-with-data", "checkpoints-and-branches", "long-jobs", "when-a-session-is-sick"];

/// A request of 2026-07-28, which says in itself who asks.
fn ask(forkpy: &mut Forkpy, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                             "io.modelcontextprotocol/clientInfo": {"name": "it", "version": "1"},
                             "io.modelcontextprotocol/clientCapabilities": {}});
    forkpy.request(method, params)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect()
}

#[test]
fn skills_and_prompts_have_the_same_texts() {
    let mut forkpy = Forkpy::start();
    let skills = forkpy.request("skills/list", json!({}))["result"]["skills"].clone();
    let found: Vec<&str> =
        skills.as_array().expect("skills").iter().filter_map(|one| one["frontmatter"]["name"].as_str()).collect();
    assert_eq!(found, NAMES);
    let prompts = forkpy.request("prompts/list", json!({}))["result"]["prompts"].clone();
    assert_eq!(names(&prompts), NAMES);
    let listed = forkpy.request("resources/list", json!({}))["result"]["resources"].clone();
    let tools = forkpy.request("tools/list", json!({}))["result"]["tools"].clone();
    for name in NAMES {
        let uri = format!("skill://{name}/SKILL.md");
        let skill = forkpy.request("skills/get", json!({"uri": uri}))["result"]["skill"].clone();
        let contents = forkpy.request("resources/read", json!({"uri": uri}))["result"]["contents"][0].clone();
        let text = contents["text"].as_str().expect("text");
        assert_eq!(
            (&contents["mimeType"], &skill["resources"][0]["size"]),
            (&json!("text/markdown"), &json!(text.len()))
        );
        assert!(listed.as_array().expect("a list").iter().any(|one| one["uri"] == uri), "{uri} is listed");
        let prompt = forkpy.request("prompts/get", json!({"name": name}))["result"].clone();
        let body = prompt["messages"][0]["content"]["text"].as_str().expect("text");
        assert!(text.trim_end().ends_with(body) && body.starts_with("# "), "{body}");
        assert_eq!(prompt["description"], skill["frontmatter"]["description"]);
        // What it tells a model to call is there, with these arguments.
        for call in text.split('`').skip(1).step_by(2) {
            let Some((tool, given)) =
                call.split_once('(').filter(|(tool, _)| tool.contains('_') && !tool.contains('.'))
            else {
                continue;
            };
            let listed = tools.as_array().expect("tools").iter().find(|one| one["name"] == tool);
            let schema = &listed.unwrap_or_else(|| panic!("{name} names {tool}, which is not listed"))["inputSchema"];
            for argument in
                given.split(['(', ',', ' ', ')']).filter_map(|part| part.split_once('=')).map(|(key, _)| key)
            {
                assert!(schema["properties"].get(argument).is_some(), "{name}: {tool} has no {argument}");
            }
        }
    }
    for (method, params) in [
        ("skills/get", json!({"uri": "skill://none/SKILL.md"})),
        ("skills/get", json!({"uri": "file:///etc/passwd"})),
        ("prompts/get", json!({"name": "none"})),
        ("resources/read", json!({"uri": "skill://../SKILL.md"})),
        ("resources/subscribe", json!({"uri": "skill://long-jobs/SKILL.md"})),
    ] {
        let refused = forkpy.request(method, params);
        assert!(refused["error"]["message"].is_string(), "{method}: {refused}");
    }
}

/// `logging` was declared, and no message was ever sent.
#[test]
fn what_is_declared_is_served_and_nothing_else() {
    let mut old = Setup::new().spawn();
    let hello =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    let met = old.request("initialize", hello)["result"].clone();
    old.notify("notifications/initialized", json!({}));
    let declared = &met["capabilities"];
    let keys: Vec<&String> = declared.as_object().expect("capabilities").keys().collect();
    assert_eq!(keys, ["completions", "extensions", "prompts", "resources", "tools"]);
    let extensions: Vec<&String> = declared["extensions"].as_object().expect("extensions").keys().collect();
    assert_eq!(
        extensions,
        ["events", "skills", "tasks"].map(|name| format!("io.modelcontextprotocol/{name}")).each_ref()
    );
    assert_eq!(met["serverInfo"]["icons"][0]["mimeType"], "image/svg+xml");
    let mut new = Setup::new().spawn();
    let discovered = ask(&mut new, "server/discover", json!({}))["result"].clone();
    assert_eq!(&discovered["capabilities"], declared);
    let file = json!({"uri": format!("file://{}/", old.workspace.display())});
    let complete = json!({"ref": {"type": "ref/prompt", "name": "long-jobs"}, "argument": {"name": "a", "value": ""}});
    for (method, params) in [
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("prompts/get", json!({"name": "long-jobs"})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/subscribe", json!({"uri": "health://report"})),
        ("resources/unsubscribe", json!({"uri": "health://report"})),
        ("completion/complete", complete),
        ("skills/list", json!({})),
        ("events/list", json!({})),
    ] {
        let answer = old.request(method, params);
        assert!(answer["result"].is_object(), "{method} is declared: {answer}");
    }
    for (method, params) in [
        ("logging/setLevel", json!({"level": "info"})),
        ("resources/directory/read", json!({"uri": "skill://long-jobs"})),
        ("tasks/list", json!({})),
        ("resources/watch", file),
    ] {
        assert_eq!(old.request(method, params)["error"]["code"], -32601, "{method} is not declared");
    }
}

#[test]
fn what_does_not_change_may_be_kept_for_a_while() {
    let mut forkpy = Setup::new().spawn();
    let skill = json!({"uri": "skill://long-jobs/SKILL.md"});
    for (method, params) in [
        ("server/discover", json!({})),
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/templates/list", json!({})),
        ("skills/list", json!({})),
        ("skills/get", skill.clone()),
        ("resources/read", skill),
    ] {
        let answer = ask(&mut forkpy, method, params);
        assert!(answer["result"]["ttlMs"].as_u64().is_some_and(|ttl| ttl > 0), "{method}: {answer}");
    }
    for (method, params) in [("resources/list", json!({})), ("resources/read", json!({"uri": "health://report"}))] {
        assert_eq!(ask(&mut forkpy, method, params)["result"]["ttlMs"], 0, "{method} changes");
    }
}
