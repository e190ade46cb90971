//! JSON schemas for tool arguments and results, in the form that clients cope with.
//!
//! Runs in: server, once at start. Pure.
//!
//! A result's schema stands under `allOf`: FastMCP's client turns a schema whose root has `properties` into an object on
//! which `result.data["status"]` fails, and one without into a plain dict. `format` is left out: validators of the
//! TypeScript SDK reject formats they do not know (`double`, `uint64`).

use std::sync::Arc;

use rmcp::model::JsonObject;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

/// The argument that says which session is meant, and by which header balancers see it (SEP-2243).
const SESSION: &str = "session_id";
const HEADER: &str = "x-mcp-header";

/// For fields that say nothing when they are 0.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
pub(crate) fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// For fields that say nothing when they are false.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}

/// Schema of a tool's arguments: closed, every property described. What may be left out may also be null; saying so would
/// cost a model more than it tells.
///
/// # Panics
/// When `T` is no struct, which the first listing of tools would show.
#[must_use]
pub(crate) fn input<T: JsonSchema>() -> JsonObject {
    let mut schema = plain::<T>(SchemaSettings::draft2020_12());
    // The words of the struct, which are for readers of the code.
    schema.remove("description");
    schema.insert("type".to_owned(), json!("object"));
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.values_mut().for_each(|property| {
            not_null(property);
            brief(property);
        });
        if let Some(session) = properties.get_mut(SESSION).and_then(Value::as_object_mut) {
            session.insert(HEADER.to_owned(), json!("Session-Id"));
        }
    }
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

/// Schema of a tool's result, without words: it is for programs.
#[must_use]
pub(crate) fn output<T: JsonSchema>() -> Arc<JsonObject> {
    let mut schema = Value::Object(plain::<T>(SchemaSettings::draft2020_12().for_serialize()));
    without_words(&mut schema);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(shallow);
    }
    one_type_each(&mut schema);
    let mut root = JsonObject::new();
    root.insert("type".to_owned(), json!("object"));
    root.insert("allOf".to_owned(), json!([schema]));
    Arc::new(root)
}

/// Further arguments, which are described where every list has them: with run_python_code.
pub(super) fn add(input: &mut JsonObject, more: JsonObject) {
    let more = more.into_iter().find_map(|(key, value)| (key == "properties").then_some(value));
    if let (Some(Value::Object(properties)), Some(Value::Object(more))) = (input.get_mut("properties"), more) {
        properties.extend(more.into_iter().map(|(name, mut property)| {
            without_words(&mut property);
            (name, property)
        }));
    }
}

/// Of a tool whose work may go on without its call: its result, or what is said of work that has not ended.
pub(super) fn or_unfinished(output: &JsonObject) -> Arc<JsonObject> {
    let unfinished = json!({
        "type": "object",
        "properties": {
            "status": {"type": "string", "enum": ["running", "queued"]},
            "session_id": {"type": "string"},
            "cell": {"type": "integer"},
            "stdout": {"type": "string"},
            "stderr": {"type": "string"},
            "notice": {"type": "string"}
        },
        "required": ["status", "session_id", "cell"]
    });
    let mut root = output.clone();
    if let Some(Value::Array(all)) = root.get_mut("allOf")
        && let Some(whole) = all.pop()
    {
        all.push(json!({"anyOf": [whole, unfinished]}));
    }
    Arc::new(root)
}

/// The argument that most tools have is described once, in the tools that every list has.
pub(super) fn known_session(input: &mut JsonObject) {
    let session = input.get_mut("properties").and_then(|properties| properties.get_mut(SESSION));
    if let Some(Value::Object(session)) = session
        && session.get("description").and_then(Value::as_str) == Some("Default: the active session.")
    {
        session.remove("description");
    }
}

fn plain<T: JsonSchema>(settings: SchemaSettings) -> JsonObject {
    let settings = settings.with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    strip(&mut schema);
    match schema {
        Value::Object(object) => object,
        other => JsonObject::from_iter([("const".to_owned(), other)]),
    }
}

/// Takes out what no client needs and some do not know, and makes choices of words plain lists.
fn strip(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for key in ["format", "title", "$schema"] {
                if object.get(key).is_some_and(Value::is_string) {
                    object.remove(key);
                }
            }
            // That a count is not negative, and fits into a byte.
            for (key, limit) in [("minimum", 0), ("maximum", 255)] {
                if object.get(key) == Some(&json!(limit)) {
                    object.remove(key);
                }
            }
            object.values_mut().for_each(strip);
            flatten(object);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// `oneOf` of single words becomes `enum`.
fn flatten(object: &mut JsonObject) {
    for key in ["oneOf", "anyOf"] {
        let Some(choices) = object.get(key).and_then(Value::as_array) else { continue };
        let words: Option<Vec<Value>> = choices.iter().map(word).collect();
        if let Some(words) = words {
            object.remove(key);
            object.insert("type".to_owned(), json!("string"));
            object.insert("enum".to_owned(), Value::Array(words));
        }
    }
}

fn word(choice: &Value) -> Option<Value> {
    let is_plain = choice.get("type") == Some(&json!("string"));
    choice.get("const").filter(|_| is_plain).cloned()
}

/// Of a property that may be left out: what it is when it is there.
fn not_null(property: &mut Value) {
    let Some(object) = property.as_object_mut() else { return };
    let null = json!("null");
    if let Some(Value::Array(kinds)) = object.get_mut("type") {
        kinds.retain(|kind| *kind != null);
        if let [kind] = kinds.as_slice() {
            let kind = kind.clone();
            object.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type") != Some(&null));
        if choices.len() == 1
            && let Some(Value::Object(only)) = choices.pop()
        {
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(not_null);
    }
}

/// Within a property its own words do: forms to choose from say what they are, keys of an object have names that tell.
fn brief(property: &mut Value) {
    if let Some(choices) = property.get_mut("anyOf") {
        without_words(choices);
    }
    if let Some(Value::Object(properties)) = property.get_mut("properties") {
        properties.values_mut().for_each(without_words);
    }
    if let Some(Value::String(words)) = property.get_mut("description") {
        *words = words.replace('\n', " ");
    }
}

/// Clients that know one type only take a choice of two.
fn one_type_each(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(one_type_each);
            if let Some(Value::Array(kinds)) = object.get("type") {
                let words = object.get("enum").cloned();
                let form = |kind: &Value| match (&words, kind.as_str()) {
                    (Some(words), Some("string")) => json!({"type": kind, "enum": texts_of(words)}),
                    (_, Some("array")) => {
                        json!({"type": kind, "items": object.get("items").cloned().unwrap_or(json!({}))})
                    }
                    _ => json!({"type": kind}),
                };
                let choices: Vec<Value> = kinds.iter().map(form).collect();
                object.remove("type");
                object.remove("enum");
                object.remove("items");
                object.insert("anyOf".to_owned(), Value::Array(choices));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(one_type_each),
        _ => {}
    }
}

fn texts_of(words: &Value) -> Vec<Value> {
    words.as_array().into_iter().flatten().filter(|word| word.is_string()).cloned().collect()
}

fn without_words(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("description").is_some_and(Value::is_string) {
                object.remove("description");
            }
            // Properties may have such a name.
            object.values_mut().for_each(without_words);
            left_out_is_not_null(object);
        }
        Value::Array(items) => items.iter_mut().for_each(without_words),
        _ => {}
    }
}

/// Of what lies within a key of a result, only the kind: a schema is for finding the key.
fn shallow(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for key in ["properties", "required", "additionalProperties"] {
                object.remove(key);
            }
            object.values_mut().for_each(shallow);
        }
        Value::Array(items) => items.iter_mut().for_each(shallow),
        _ => {}
    }
}

/// What is left out when there is nothing to say is never null.
fn left_out_is_not_null(object: &mut JsonObject) {
    let required = object.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        if !required.iter().any(|known| known == name) {
            not_null(property);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{
        tools::{call::arguments, cells::run},
        watch::shapes,
    };

    #[test]
    fn arguments_are_closed_and_described() {
        let schema = input::<run::RunPythonCode>();
        assert_eq!(schema["required"], json!(["code"]));
        assert_eq!(schema["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["timeout"]["type"], json!("number"));
        assert_eq!(schema["properties"]["on_error"]["enum"], json!(["keep", "rollback"]));
        assert_eq!(schema["properties"]["session_id"]["x-mcp-header"], json!("Session-Id"));
        assert!(schema["properties"]["session_id"]["description"].is_string());
        assert_eq!(input::<arguments::Nothing>()["properties"], json!({}));
    }

    #[test]
    fn results_have_no_properties_at_the_root_and_nullable_metrics() {
        let schema = output::<shapes::Health>();
        assert!(!schema.contains_key("properties"));
        let inner = &schema["allOf"][0];
        assert_eq!(inner["properties"]["pid"]["anyOf"], json!([{"type": "integer"}, {"type": "null"}]));
        assert!(!inner.to_string().contains("\"format\"") && !inner.to_string().contains("$ref"), "{inner}");
    }
}
