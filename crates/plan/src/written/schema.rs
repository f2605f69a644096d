//! A schema file as written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    reader::{Flag, FromNode, Named, Reader, Text, UnitText, Version, written},
    tree::{Node, Scalar, Value},
};

written! {
    /// The contract between producers and pipelines: the fields of an event.
    EventSchema, "at the top level of a schema" {
        /// The version of the file format: 1.
        #[schemars(required)]
        version: Version,
        /// What these events are.
        description: Text,
        /// The fields and their types.
        #[schemars(required)]
        columns: Named<Column>,
    }
}

written! {
    /// A column in its long form.
    LongColumn, "in a column" {
        /// Its type: string, int, bigint, double, boolean, timestamp, date or decimal(p,s).
        #[schemars(required)]
        type_ as "type": Text,
        /// The unit of a timestamp that is a number.
        unit: UnitText,
        /// Whether it may be missing or null.
        optional: Flag,
        /// What it holds.
        description: Text,
    }
}

/// A column: `string?`, or `{type: string, optional: true}`.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    Short(Scalar),
    Long(Box<LongColumn>),
}

impl FromNode for Column {
    fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar(scalar) => Some(Self::Short(scalar.clone())),
            Value::Map(_) => {
                LongColumn::from_node(node, key, reader).map(|long| Self::Long(Box::new(long)))
            }
            _ => {
                reader.wrong_kind(node, key, "a type like string, int or timestamp");
                None
            }
        }
    }
}

impl JsonSchema for Column {
    fn schema_name() -> Cow<'static, str> {
        "Column".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<LongColumn>();
        json_schema!({
            "anyOf": [
                {
                    "type": "string",
                    "description": "A type, with ? when it may be missing or null.",
                    "pattern": "^(string|int|bigint|double|boolean|timestamp|date|decimal\\([0-9]+, ?[0-9]+\\))\\??$"
                },
                long
            ]
        })
    }
}
