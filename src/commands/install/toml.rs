//! An entry in TOML, with all that is around it kept.
//!
//! Runs in: a process of its own. Pure.

use serde_json::Value;
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value as item};

use super::clients::{Client, Entry};

fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error: toml_edit::TomlError| format!("it is not TOML: {}", error.to_string().trim_end()))
}

/// All of it, as a value.
pub(super) fn value(text: &str) -> Result<Value, String> {
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| format!("it is not TOML: {}", error.to_string().trim_end()))?;
    serde_json::to_value(table).map_err(|error| error.to_string())
}

/// The text with this entry, or without it.
pub(super) fn edited(client: &Client, text: &str, name: &str, entry: Option<&Entry>) -> Result<String, String> {
    let mut document = parse(text)?;
    let known = value(text)?[client.key][name].clone();
    let Some(entry) = entry else {
        if known.is_null() {
            return Ok(text.to_owned());
        }
        if !client.command(&known).is_some_and(|entry| entry.is_forkpy()) {
            return Err(format!("its entry {name:?} is not forkpy's"));
        }
        if let Some(servers) = document.get_mut(client.key).and_then(Item::as_table_like_mut) {
            servers.remove(name);
        }
        return Ok(document.to_string());
    };
    if client.command(&known).as_ref() == Some(entry) {
        return Ok(text.to_owned());
    }
    let mut empty = Table::new();
    empty.set_implicit(true);
    let servers = document.entry(client.key).or_insert(Item::Table(empty));
    let servers = servers.as_table_like_mut().ok_or_else(|| format!("its {:?} is no table", client.key))?;
    if servers.get(name).is_none_or(|known| !known.is_table_like()) {
        servers.insert(name, Item::Table(Table::new()));
    }
    let Some(server) = servers.get_mut(name).and_then(Item::as_table_like_mut) else {
        return Err(format!("its {name:?} is no table"));
    };
    fill(server, entry);
    Ok(document.to_string())
}

/// What else stands in the entry stays: time limits, variables, tools that are allowed.
fn fill(server: &mut dyn TableLike, entry: &Entry) {
    server.remove("url");
    server.insert("command", item(&entry.command));
    server.insert("args", item(entry.args.iter().collect::<Array>()));
}
