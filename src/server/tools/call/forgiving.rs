//! Arguments that say plainly what is meant, in another form than the schema has: taken for what they mean.
//!
//! Runs in: server. Pure. Driven by the schema that the client was shown, the same for every tool. What can be read in two
//! ways stays as it is, and reading it then says what is wrong with it.
//!
//! Taken are: numbers and truth values as text, one text for a list, JSON text for a list or an object, nothing (`""`) for
//! an argument that may be left out, a word in other letters, and addresses of files that lie in the workspace.

use std::{borrow::Cow, path::Path};

use rmcp::model::JsonObject;
use serde_json::{Map, Number, Value};

use crate::server::{
    output::numbers::{self, Keep},
    workspace::uri,
};

/// Arguments that name a file or a directory of the workspace, in every tool that has them.
const PATHS: [&str; 3] = ["path", "output_path", "filename"];

/// Most bytes of a wrong value that an error repeats.
const MOST_SHOWN: usize = 100;

/// What an argument was taken for.
enum Meant {
    /// What it says.
    This(Value),
    /// It is left out.
    Nothing,
    /// Two things, or none that would do.
    Unclear,
}

/// An argument that cannot be meant so.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("`{name}` cannot be used: {reason}; give a path relative to the workspace")]
    Path { name: String, reason: &'static str },
    #[error("`{name}` is {value}, expected {form}")]
    Form { name: String, value: String, form: String },
}

/// Makes of arguments what they mean. Those that have the form of the schema cost a look.
///
/// # Errors
/// [`Wrong`], for the first one that is.
pub(super) fn understand(given: &mut JsonObject, schema: &JsonObject, root: &Path) -> Result<(), Wrong> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    let mut nothing = Vec::new();
    for (name, value) in given.iter_mut() {
        let Some(property) = properties.get(name) else { continue };
        if PATHS.contains(&name.as_str())
            && let Value::String(path) = value
        {
            match uri::inside(root, path) {
                Ok(Cow::Borrowed(_)) => {}
                Ok(Cow::Owned(below)) => *path = below,
                Err(reason) => return Err(Wrong::Path { name: name.clone(), reason }),
            }
        }
        if is_plain(value, property) {
            continue;
        }
        match meant(value, property) {
            Meant::This(meant) => *value = meant,
            Meant::Nothing if !is_required(schema, name) => nothing.push(name.clone()),
            Meant::Nothing | Meant::Unclear if is_of_another_form(value, property) => {
                return Err(Wrong::Form { name: name.clone(), value: in_short(value), form: form(property) });
            }
            Meant::Nothing | Meant::Unclear => {}
        }
    }
    for name in nothing {
        given.remove(&name);
    }
    Ok(())
}

/// The form that nearly all arguments have.
fn is_plain(value: &Value, property: &Value) -> bool {
    let kind = property.get("type").and_then(Value::as_str);
    match value {
        Value::String(text) => kind == Some("string") && !text.is_empty() && property.get("enum").is_none(),
        Value::Bool(_) => kind == Some("boolean"),
        Value::Number(number) => kind == Some("number") || (kind == Some("integer") && !number.is_f64()),
        _ => false,
    }
}

/// What no reading would take. Null is as if it were left out.
fn is_of_another_form(value: &Value, property: &Value) -> bool {
    if let Some(choices) = property.get("anyOf").and_then(Value::as_array) {
        return choices.iter().all(|choice| is_of_another_form(value, choice));
    }
    if let Some(words) = property.get("enum").and_then(Value::as_array) {
        return !value.is_null() && !words.contains(value);
    }
    let fits = match property.get("type").and_then(Value::as_str) {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    !fits && !value.is_null()
}

/// What an argument must be, for an error.
fn form(property: &Value) -> String {
    if let Some(choices) = property.get("anyOf").and_then(Value::as_array) {
        return choices.iter().map(form).collect::<Vec<_>>().join(", or ");
    }
    if let Some(words) = property.get("enum").and_then(Value::as_array) {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        return format!("one of {}", words.join(", "));
    }
    let form = match property.get("type").and_then(Value::as_str) {
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") if wants_texts(property) => "a list of strings",
        Some("array") => "a list",
        Some("object") => "an object",
        _ => "a string",
    };
    form.to_owned()
}

fn in_short(value: &Value) -> String {
    let text = value.to_string();
    let end = text.floor_char_boundary(MOST_SHOWN);
    if end < text.len() { format!("{}…", &text[..end]) } else { text }
}

fn is_required(schema: &JsonObject, name: &str) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required.is_some_and(|required| required.iter().any(|known| known == name))
}

fn meant(value: &Value, property: &Value) -> Meant {
    if let Some(choices) = property.get("anyOf").and_then(Value::as_array) {
        return of_choices(value, choices);
    }
    match value {
        // Where an empty text is said to be wrong, it is a mistake.
        Value::String(text) if text.trim().is_empty() && property.get("minLength").is_none() => Meant::Nothing,
        Value::String(text) => of_text(text, property),
        Value::Number(number) => whole(number, property),
        Value::Object(object) => nested(object, property),
        _ => Meant::Unclear,
    }
}

/// The only one of several forms that fits.
fn of_choices(value: &Value, choices: &[Value]) -> Meant {
    if choices.iter().any(|choice| fits(value, choice)) {
        return Meant::Unclear;
    }
    let mut found = choices.iter().map(|choice| meant(value, choice)).filter(|meant| !matches!(meant, Meant::Unclear));
    match (found.next(), found.next()) {
        (Some(meant), None) => meant,
        (Some(Meant::Nothing), Some(_)) => Meant::Nothing,
        _ => Meant::Unclear,
    }
}

/// It is already what this form asks for.
fn fits(value: &Value, form: &Value) -> bool {
    match form.get("enum").and_then(Value::as_array) {
        Some(words) => words.contains(value),
        None => is_plain(value, form),
    }
}

fn of_text(text: &str, property: &Value) -> Meant {
    let trimmed = text.trim();
    let this = |value: Option<Value>| value.map_or(Meant::Unclear, Meant::This);
    if let Some(words) = property.get("enum").and_then(Value::as_array) {
        let same = |word: &&Value| word.as_str().is_some_and(|word| word.eq_ignore_ascii_case(trimmed));
        return this(words.iter().find(same).cloned());
    }
    match property.get("type").and_then(Value::as_str) {
        Some("boolean" | "integer" | "number" | "array" | "object") if is_no_value(trimmed) => Meant::Nothing,
        Some("boolean") => this(truth(trimmed)),
        Some("integer") => match (trimmed.parse::<i64>(), number(trimmed)) {
            (Ok(value), _) => Meant::This(Value::from(value)),
            (_, Some(Value::Number(number))) => whole(&number, property),
            _ => Meant::Unclear,
        },
        Some("number") => this(number(trimmed)),
        Some("array") if wants_texts(property) => Meant::This(texts(text)),
        Some("object") => match parsed(trimmed) {
            Some(Value::Object(object)) => match nested(&object, property) {
                Meant::Unclear => Meant::This(Value::Object(object)),
                meant => meant,
            },
            _ => Meant::Unclear,
        },
        _ => Meant::Unclear,
    }
}

/// How languages write that there is no value. For a text it may be a name.
fn is_no_value(text: &str) -> bool {
    matches!(text, "null" | "None" | "undefined")
}

fn truth(text: &str) -> Option<Value> {
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    (is("true") || is("false")).then(|| Value::Bool(is("true")))
}

/// A finite number, as JSON and Python write it.
fn number(text: &str) -> Option<Value> {
    let is_part = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(is_part) {
        return None;
    }
    text.parse().ok().and_then(Number::from_f64).map(Value::Number)
}

/// `5.0` for 5.
fn whole(number: &Number, property: &Value) -> Meant {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(value) if property["type"] == "integer" && value.fract() == 0.0 && value.abs() <= EXACT =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and within what both hold")]
            Meant::This(Value::from(value as i64))
        }
        _ => Meant::Unclear,
    }
}

fn wants_texts(property: &Value) -> bool {
    property.get("items").is_some_and(|items| items["type"] == "string")
}

/// One text is a list of one, unless it is a list of texts written as JSON.
fn texts(text: &str) -> Value {
    match parsed(text.trim()) {
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => Value::Array(items),
        _ => Value::Array(vec![Value::from(text)]),
    }
}

/// The same within an object that has a schema of its own.
fn nested(object: &Map<String, Value>, property: &Value) -> Meant {
    let Some(schema) = property.as_object().filter(|schema| schema.contains_key("properties")) else {
        return Meant::Unclear;
    };
    let mut object = object.clone();
    // Nothing within is a path.
    if understand(&mut object, schema, Path::new("/")).is_ok() {
        Meant::This(Value::Object(object))
    } else {
        Meant::Unclear
    }
}

/// JSON within a text, with the numbers that it has.
fn parsed(text: &str) -> Option<Value> {
    text.starts_with(['[', '{']).then(|| serde_json::from_str(&numbers::mark(text, Keep::Impossible)).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ROOT: &str = "/ws";

    fn understood(mut given: Value, properties: &Value) -> Value {
        let schema = json!({"properties": properties, "required": ["must"]});
        let (Some(object), Some(schema)) = (given.as_object_mut(), schema.as_object()) else { return Value::Null };
        understand(object, schema, Path::new(ROOT)).expect("no path leads out");
        given
    }

    /// What it is taken for; as it was when it is refused.
    fn one(value: Value, property: Value) -> Value {
        let schema = json!({"properties": {"it": property}});
        let mut given = JsonObject::from_iter([("it".to_owned(), value.clone())]);
        if understand(&mut given, schema.as_object().expect("an object"), Path::new(ROOT)).is_err() {
            return value;
        }
        given.get("it").cloned().unwrap_or(json!("left out"))
    }

    #[test]
    fn what_is_plain_is_taken() {
        let (integer, number) = (|| json!({"type": "integer"}), || json!({"type": "number"}));
        assert_eq!(one(json!(" 5 "), integer()), json!(5));
        assert_eq!(one(json!(5.0), integer()), json!(5));
        assert_eq!((one(json!("5.0"), integer()), one(json!("1e3"), integer())), (json!(5), json!(1000)));
        assert_eq!(one(json!("2.5"), number()), json!(2.5));
        assert_eq!(one(json!("1e3"), number()), json!(1000.0));
        for (text, value) in [("true", true), ("True", true), ("FALSE", false)] {
            assert_eq!(one(json!(text), json!({"type": "boolean"})), json!(value));
        }
        let texts = || json!({"type": "array", "items": {"type": "string"}});
        assert_eq!(one(json!("numpy"), texts()), json!(["numpy"]));
        assert_eq!(one(json!("[\"a\", \"b\"]"), texts()), json!(["a", "b"]));
        assert_eq!(one(json!("[1, 2]"), texts()), json!(["[1, 2]"]), "that is code, too");
        assert_eq!(one(json!("{\"a\": 1}"), json!({"type": "object"})), json!({"a": 1}));
        let within = json!({"type": "object", "properties": {"n": {"type": "number"}}});
        assert_eq!(one(json!({"n": "3"}), within.clone()), json!({"n": 3.0}));
        assert_eq!(one(json!("{\"n\": \"3\"}"), within), json!({"n": 3.0}));
        assert_eq!(one(json!("Rollback"), json!({"type": "string", "enum": ["keep", "rollback"]})), json!("rollback"));
        let keep = json!({"anyOf": [{"type": "integer"}, {"type": "string", "enum": ["none", "max"]}]});
        assert_eq!(one(json!("1"), keep.clone()), json!(1));
        assert_eq!(one(json!("none"), keep.clone()), json!("none"));
        assert_eq!(one(json!("MAX"), keep), json!("max"));
    }

    #[test]
    fn nothing_is_left_out_where_it_may_be() {
        for kind in ["string", "integer", "boolean", "array", "object"] {
            assert_eq!(one(json!(""), json!({"type": kind})), json!("left out"), "{kind}");
        }
        assert_eq!(one(json!("null"), json!({"type": "integer"})), json!("left out"));
        assert_eq!(one(json!("null"), json!({"type": "string"})), json!("null"), "it may be a name");
        assert_eq!(understood(json!({"must": ""}), &json!({"must": {"type": "string"}})), json!({"must": ""}));
    }

    #[test]
    fn what_is_ambiguous_stays_as_it_is() {
        for text in ["five", "5.5", "1,000", "5s", "0x10", "--1", "1 2"] {
            assert_eq!(one(json!(text), json!({"type": "integer"})), json!(text));
        }
        for text in ["inf", "nan", "1e999", "1,5", "5 s"] {
            assert_eq!(one(json!(text), json!({"type": "number"})), json!(text));
        }
        for value in [json!("yes"), json!("1"), json!(1), json!(0)] {
            assert_eq!(one(value.clone(), json!({"type": "boolean"})), value);
        }
        assert_eq!(one(json!(5), json!({"type": "string"})), json!(5));
        assert_eq!(one(json!(5.5), json!({"type": "integer"})), json!(5.5));
        assert_eq!(one(json!(true), json!({"type": "integer"})), json!(true));
        let texts = json!({"type": "array", "items": {"type": "string"}});
        assert_eq!(one(json!(["a", 5]), texts.clone()), json!(["a", 5]));
        assert_eq!(one(json!({"a": 1}), texts), json!({"a": 1}));
        assert_eq!(one(json!("a=1"), json!({"type": "object"})), json!("a=1"));
    }

    #[test]
    fn addresses_in_the_workspace_are_paths() {
        let path =
            |given: &str| understood(json!({"path": given}), &json!({"path": {"type": "string"}}))["path"].clone();
        for (given, below) in [
            ("/ws/a/b", "a/b"),
            ("/ws", "."),
            ("file:///ws/a%20b", "a b"),
            ("a/b", "a/b"),
            ("/etc/passwd", "/etc/passwd"),
        ] {
            assert_eq!(path(given), below);
        }
        let schema = json!({"properties": {"path": {"type": "string"}}});
        let mut given = JsonObject::from_iter([("path".to_owned(), json!("file:///etc/passwd"))]);
        let wrong = understand(&mut given, schema.as_object().expect("an object"), Path::new(ROOT));
        assert_eq!(wrong, Err(Wrong::Path { name: "path".to_owned(), reason: "it is not in the workspace" }));
    }
}
