//! An entry in YAML, with all that is around it kept.
//!
//! Runs in: a process of its own. Pure.

use std::str::FromStr;

use serde_json::{Map, Value};
use yaml_edit::{Document, Mapping, YamlFile};

use super::clients::{Client, Entry, in_order};

/// The file, with the comments around its document, and that document.
fn parse(text: &str) -> Result<(YamlFile, Document), String> {
    let file = YamlFile::from_str(text).map_err(|error| format!("it is not YAML: {error}"))?;
    let document = file.document().ok_or("it holds no YAML document")?;
    // What reads this file here is more lenient than what reads it in the client.
    if let Some(line) = text.lines().position(|line| line.starts_with('\t') && !line.trim().is_empty()) {
        return Err(format!("it is not YAML: line {} is indented with a tab", line + 1));
    }
    Ok((file, document))
}

/// Of two with one name a client takes the one, and an editor shows the other; many take neither.
fn once(mapping: &Mapping, name: &str) -> Result<(), String> {
    match mapping.keys().filter(|key| unquoted(&key.to_string()) == name).count() {
        0 | 1 => Ok(()),
        count => Err(format!("it has {name:?} {count} times: remove all but one")),
    }
}

fn unquoted(key: &str) -> String {
    key.trim().trim_matches(['"', '\'']).to_owned()
}

/// The servers of it, as a value.
pub(super) fn value(text: &str, key: &str) -> Result<Value, String> {
    if nothing_but_comments(text) {
        return Ok(Value::Null);
    }
    let servers = parse(text)?.1.get_mapping(key);
    let mut found = Map::new();
    for name in servers.iter().flat_map(|servers| servers.keys().collect::<Vec<_>>()) {
        let name = unquoted(&name.to_string());
        let server = servers.as_ref().and_then(|servers| servers.get_mapping(name.as_str()));
        found.insert(name, server.map_or(Value::Null, |server| read(&server)));
    }
    Ok(serde_json::json!({ key: found }))
}

/// Of a server, what it runs.
fn read(server: &Mapping) -> Value {
    let text = |key: &str| server.get(key).and_then(|node| node.as_scalar().map(yaml_edit::Scalar::as_string));
    let words = server.get_sequence("args").map(|args| {
        args.values().filter_map(|node| node.as_scalar().map(yaml_edit::Scalar::as_string)).collect::<Vec<_>>()
    });
    serde_json::json!({ "cmd": text("cmd"), "args": words })
}

/// The text with this entry, or without it.
pub(super) fn edited(client: &Client, text: &str, name: &str, entry: Option<&Entry>) -> Result<String, String> {
    let key = client.key;
    if !nothing_but_comments(text) {
        let document = parse(text)?.1;
        document.as_mapping().map_or(Ok(()), |all| once(&all, key))?;
        document.get_mapping(key).map_or(Ok(()), |servers| once(&servers, name))?;
    }
    let known = value(text, key)?[key][name].clone();
    let Some(entry) = entry else {
        if known.is_null() {
            return Ok(text.to_owned());
        }
        if !client.command(&known).is_some_and(|entry| entry.is_forkpy()) {
            return Err(format!("its entry {name:?} is not forkpy's"));
        }
        let (file, document) = parse(text)?;
        if let Some(servers) = document.get_mapping(key) {
            servers.remove(name);
        }
        return checked(file.to_string(), client, name, None);
    };
    if client.command(&known).as_ref() == Some(entry) {
        return Ok(text.to_owned());
    }
    let wanted = block(client, name, entry);
    if nothing_but_comments(text) {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Ok(format!("{text}{gap}{key}:\n  {name}:\n{}", indented(&wanted, 4)));
    }
    let (file, document) = parse(text)?;
    if document.as_mapping().is_none() {
        return Err("it is YAML, but no mapping".to_owned());
    }
    match document.get_mapping(key) {
        Some(servers) => servers.set(name, mapping(&wanted)?),
        None if document.get(key).is_none_or(|node| node.to_string().trim().is_empty()) => {
            document.set(key, mapping(&format!("{name}:\n{}", indented(&wanted, 2)))?);
        }
        None => return Err(format!("its {key:?} is no mapping")),
    }
    checked(file.to_string(), client, name, Some(entry))
}

/// An entry in lines. JSON's texts are YAML's too.
fn block(client: &Client, name: &str, entry: &Entry) -> String {
    let value = client.value(name, entry);
    let mut text = String::new();
    for (field, value) in in_order(&value) {
        match value.as_array() {
            Some(items) => {
                text += &format!("{field}:\n");
                items.iter().for_each(|item| text += &format!("  - {item}\n"));
            }
            None => text += &format!("{field}: {value}\n"),
        }
    }
    text
}

fn nothing_but_comments(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

fn mapping(text: &str) -> Result<Mapping, String> {
    parse(text)?.1.as_mapping().ok_or_else(|| "the entry is no mapping".to_owned())
}

/// What was written reads back, and nothing else has changed.
fn checked(text: String, client: &Client, name: &str, entry: Option<&Entry>) -> Result<String, String> {
    let found = value(&text, client.key)?[client.key][name].clone();
    if client.command(&found).as_ref() == entry {
        return Ok(text);
    }
    Err("it is YAML of a kind that forkpy cannot change; `forkpy install --print` shows what to enter".to_owned())
}
