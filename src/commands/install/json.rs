//! An entry in JSON, with all that is around it kept: comments, trailing commas, indentation.
//!
//! Runs in: a process of its own. Pure.

use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstObject, CstRootNode},
};
use serde_json::Value;

use super::clients::{Client, Entry, in_order};

fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        ..ParseOptions::default()
    }
}

/// All of it, as a value.
pub(super) fn value(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let root = CstRootNode::parse(text, &options()).map_err(|error| format!("it is not JSON: {error}"))?;
    Ok(root.to_serde_value().unwrap_or_default())
}

/// The text with this entry, or without it.
pub(super) fn edited(client: &Client, text: &str, name: &str, entry: Option<&Entry>) -> Result<String, String> {
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    let root = CstRootNode::parse(text, &options()).map_err(|error| format!("it is not JSON: {error}"))?;
    let object = root.object_value().ok_or("it is JSON, but no object")?;
    once(&object, client.key)?;
    let Some(entry) = entry else {
        let servers = object.object_value(client.key);
        if let Some(servers) = servers {
            remove(client, &inner(client, &servers), name)?;
        }
        return Ok(root.to_string());
    };
    let key = client.key;
    let servers = object.object_value_or_create(key).ok_or_else(|| format!("its {key:?} is no object"))?;
    let servers = inner(client, &servers);
    once(&servers, name)?;
    let wanted = client.value(name, entry);
    match servers.get(name) {
        Some(known) if known.to_serde_value().as_ref() == Some(&wanted) => {}
        Some(known) => known.set_value(input(&wanted)),
        None => {
            servers.append(name, input(&wanted));
        }
    }
    Ok(root.to_string())
}

fn remove(client: &Client, servers: &CstObject, name: &str) -> Result<(), String> {
    once(servers, name)?;
    let Some(known) = servers.get(name) else { return Ok(()) };
    let found = known.to_serde_value().unwrap_or_default();
    if !client.command(&found).is_some_and(|entry| entry.is_forkpy()) {
        return Err(format!("its entry {name:?} is not forkpy's"));
    }
    known.remove();
    Ok(())
}

/// opencode's newer files have the servers one level deeper.
fn inner(client: &Client, servers: &CstObject) -> CstObject {
    match servers.object_value("servers") {
        Some(deeper) if client.name == "opencode" && deeper.get("type").is_none() => deeper,
        _ => servers.clone(),
    }
}

/// Of two with one name a client takes the one, and an editor shows the other.
fn once(object: &CstObject, name: &str) -> Result<(), String> {
    let named = object.properties().into_iter().filter(|property| property.decoded_name().as_deref() == Some(name));
    match named.count() {
        0 | 1 => Ok(()),
        count => Err(format!("it has {name:?} {count} times: remove all but one")),
    }
}

/// An entry and what is around it, to be pasted.
pub(super) fn fragment(client: &Client, name: &str, entry: &Entry) -> String {
    edited(client, "", name, Some(entry)).unwrap_or_default()
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(truth) => CstInputValue::Bool(*truth),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(_) => CstInputValue::Object(
            in_order(value).into_iter().map(|(name, value)| (name.clone(), input(value))).collect(),
        ),
    }
}
