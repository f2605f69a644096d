//! JSON Schemas by which editors complete and check the files.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::Value;

use crate::written::{pipeline::Pipeline, schema::EventSchema, server::ServerFile};

/// The schema of each kind of file: its file name and its text. Draft 7, the newest that the YAML
/// language server reads.
pub fn json_schemas() -> [(&'static str, String); 3] {
    [
        (
            "pipeline.schema.json",
            text::<Pipeline>("An Alluvium pipeline"),
        ),
        (
            "event.schema.json",
            text::<EventSchema>("An Alluvium event schema"),
        ),
        (
            "server.schema.json",
            text::<ServerFile>("An Alluvium server"),
        ),
    ]
}

fn text<T: JsonSchema>(title: &str) -> String {
    let mut schema = SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    let mut schema = schema.to_value();
    without_null(&mut schema);
    let schema = Schema::try_from(schema).expect("a schema stays an object");
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is JSON already");
    text.push('\n');
    text
}

/// A key may be absent, but one that stands there has a value: takes the null out that an optional
/// field brings along.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(object) => {
            object.values_mut().for_each(without_null);
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(values)) = object.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if let Some(Value::Array(ways)) = object.get_mut("anyOf") {
                ways.retain(|way| *way != serde_json::json!({"type": "null"}));
                if let [Value::Object(only)] = ways.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    // Draft 7 ignores what stands beside a `$ref`.
                    if only.contains_key("$ref") {
                        object.insert("allOf".into(), serde_json::json!([only]));
                    } else {
                        object.extend(only);
                    }
                }
            }
        }
        _ => {}
    }
}
