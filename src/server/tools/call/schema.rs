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

/// Schema of a tool's arguments: closed, every property described.
///
/// # Panics
/// When `T` is no struct, which the first listing of tools would show.
#[must_use]
pub(crate) fn input<T: JsonSchema>() -> JsonObject {
    let mut schema = plain::<T>();
    schema.insert("type".to_owned(), json!("object"));
    schema.entry("properties").or_insert_with(|| json!({}));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema
}

/// Schema of a tool's result.
#[must_use]
pub(crate) fn output<T: JsonSchema>() -> Arc<JsonObject> {
    let mut root = JsonObject::new();
    root.insert("type".to_owned(), json!("object"));
    root.insert("allOf".to_owned(), json!([plain::<T>()]));
    Arc::new(root)
}

fn plain<T: JsonSchema>() -> JsonObject {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
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

/// Takes out what no client needs and some do not know.
fn strip(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            for key in ["format", "title", "$schema"] {
                if object.get(key).is_some_and(Value::is_string) {
                    object.remove(key);
                }
            }
            object.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
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
        assert_eq!(schema["properties"]["timeout"]["type"], json!(["number", "null"]));
        assert!(schema["properties"]["session_id"]["description"].is_string());
        assert_eq!(input::<arguments::Nothing>()["properties"], json!({}));
    }

    #[test]
    fn results_have_no_properties_at_the_root_and_nullable_metrics() {
        let schema = output::<shapes::Health>();
        assert!(!schema.contains_key("properties"));
        let inner = &schema["allOf"][0];
        assert_eq!(inner["properties"]["pid"]["type"], json!(["integer", "null"]));
        assert!(!inner.to_string().contains("\"format\"") && !inner.to_string().contains("$ref"), "{inner}");
    }
}
