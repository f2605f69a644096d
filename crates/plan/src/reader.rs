//! From the tree of a file to its as-written types, collecting every structural mistake on the way.
//!
//! Owns the kinds of value (text, list, map), unknown keys and their hints. Does not own what a value
//! means.

use std::{borrow::Cow, ops::Range, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    diagnostic::{Code, Diagnostic, Diagnostics, Severity, SourceFile},
    tree::{Node, Scalar, Style, Value},
};

/// One file and the mistakes found in it so far.
pub(crate) struct Reader<'a> {
    pub(crate) file: &'a Arc<SourceFile>,
    pub(crate) found: &'a mut Diagnostics,
    /// What to do about a key (first) that does not belong to a place (second) with these keys.
    pub(crate) advise: fn(&str, &str, &[&str]) -> String,
}

impl Reader<'_> {
    pub(crate) fn error(
        &mut self,
        code: Code,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let help = help.into();
        self.found.0.push(Diagnostic {
            file: self.file.clone(),
            code,
            severity: Severity::Error,
            message: message.into(),
            span: Some(span),
            help: (!help.is_empty()).then_some(help),
        });
    }

    pub(crate) fn not_supported(&mut self, span: Range<usize>, what: &str, help: &str) {
        self.error(
            Code::NotSupported,
            span,
            format!("not supported yet: {what}"),
            help,
        );
    }

    /// The entries of a map, or a mistake that says what was expected.
    pub(crate) fn map<'n>(
        &mut self,
        node: &'n Node,
        key: &Scalar,
        expected: &str,
    ) -> Option<&'n [(Scalar, Node)]> {
        if let Value::Map(entries) = &node.value {
            return Some(entries);
        }
        self.wrong_kind(node, key, expected);
        None
    }

    /// Says that `node`, the value of `key`, is of another kind than `expected`.
    pub(crate) fn wrong_kind(&mut self, node: &Node, key: &Scalar, expected: &str) {
        let found = match &node.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        };
        let subject = match key.shown.as_str() {
            "" => "this file".to_owned(),
            name => format!("`{name}`"),
        };
        let (span, message) = match node.value {
            Value::Null if !key.shown.is_empty() => (
                key.span.clone(),
                format!("{subject} has no value; expected {expected}"),
            ),
            _ => (
                node.span.clone(),
                format!("{subject} must be {expected}; this is {found}"),
            ),
        };
        let help = match (&node.value, expected.starts_with("a map")) {
            (Value::Null, true) => "indent the lines that belong to it by two more spaces",
            (Value::Null, false) => "write the value after the colon, or delete the line",
            (Value::List(_), true) => "write `name: value` lines without a leading `-`",
            (Value::Map(_), false) if expected.starts_with("a list") => {
                "write every item on a line of its own with a leading `- `"
            }
            (Value::Scalar(_), false) if expected.starts_with("a list") => {
                "put it in brackets: [value]"
            }
            (Value::Map(_), false) => {
                "is a line indented too far? A text with `{` needs quotation marks"
            }
            _ => "",
        };
        self.error(Code::Structure, span, message, help);
    }

    /// Says that `key` is not one of `known`, and where it may belong.
    pub(crate) fn unknown_key(&mut self, key: &Scalar, place: &str, known: &[&str]) {
        let help = (self.advise)(&key.shown, place, known);
        self.error(
            Code::Structure,
            key.span.clone(),
            format!("unknown key `{}` {place}", key.shown),
            help,
        );
    }
}

/// A type that is read from a tree. Mistakes go to the reader; `None` where nothing could be read.
pub(crate) trait FromNode: Sized {
    fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self>;
}

/// A map of fixed keys.
pub(crate) trait Keys {
    /// Where its keys stand, for messages: "under `event_time`".
    const PLACE: &'static str;
    /// All its keys.
    const KEYS: &'static [&'static str];

    /// Its place in the file: of a map under a key that key's.
    fn span(&self) -> &Range<usize>;

    /// Whether `key` does not stand there at all; one that could not be read has been reported.
    fn lacks(&self, key: &str) -> bool;
}

impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self> {
        let Value::List(items) = &node.value else {
            reader.wrong_kind(node, key, "a list");
            return None;
        };
        Some(
            items
                .iter()
                .filter_map(|item| T::from_node(item, key, reader))
                .collect(),
        )
    }
}

/// An ordered map from names to values.
#[derive(Clone, Debug)]
pub(crate) struct Named<T>(pub(crate) Vec<(Scalar, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: FromNode> FromNode for Named<T> {
    fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self> {
        let entries = reader.map(node, key, "a map of names")?;
        Some(Self(
            entries
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.clone(), T::from_node(value, name, reader)?))
                })
                .collect(),
        ))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Map_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({"type": "object", "additionalProperties": value})
    }
}

/// A part of a file that this release does not act on, and its key's place.
#[derive(Clone, Debug)]
pub(crate) struct Later(pub(crate) Range<usize>);

impl FromNode for Later {
    fn from_node(_: &Node, key: &Scalar, _: &mut Reader<'_>) -> Option<Self> {
        Some(Self(key.span.clone()))
    }
}

impl JsonSchema for Later {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Later".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"deprecated": true})
    }
}

fn scalar(node: &Node, key: &Scalar, reader: &mut Reader<'_>, expected: &str) -> Option<Scalar> {
    match &node.value {
        Value::Scalar(scalar) => Some(scalar.clone()),
        _ => {
            reader.wrong_kind(node, key, expected);
            None
        }
    }
}

/// Declares a kind of single value: its name, what messages call it, and its JSON Schema.
macro_rules! leaf {
    ($(#[$meta:meta])* $name:ident, $expected:literal, $schema:tt) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name(pub(crate) Scalar);

        impl std::ops::Deref for $name {
            type Target = Scalar;

            fn deref(&self) -> &Scalar {
                &self.0
            }
        }

        impl FromNode for $name {
            fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self> {
                scalar(node, key, reader, $expected).map(Self)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

leaf!(
    /// Any text.
    Text, "a text", {"type": "string"}
);
leaf!(
    /// A text that is usually a number in other tools' files.
    Property, "a text", {"type": ["string", "number", "boolean"]}
);
leaf!(
    /// An SQL expression.
    Sql, "an SQL expression", {"type": ["string", "number", "boolean"]}
);
leaf!(
    /// A stretch of time with its unit.
    Span, "a duration like 30s, 5m, 2h or 1d",
    {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d)|\\$\\{.+\\})$"}
);
leaf!(
    /// An amount of bytes with its unit.
    Size, "a size like 512MiB",
    {"type": "string", "pattern": "^([0-9]+ ?(B|KiB|MiB|GiB|TiB|kB|KB|MB|GB|TB)|\\$\\{.+\\})$"}
);
leaf!(
    /// A whole number.
    Number, "a whole number", {"type": ["integer", "string"]}
);
leaf!(
    /// `true` or `false`.
    Flag, "true or false", {"type": "boolean"}
);
leaf!(
    /// The version of the file format.
    Version, "1", {"const": 1}
);
leaf!(
    /// Where tables begin.
    StartText, "earliest, latest, fail or a time",
    {"anyOf": [{"enum": ["earliest", "latest", "fail"]}, {"type": "string", "format": "date-time"}]}
);
leaf!(
    /// `ignore` or `reject`.
    UnknownFieldsText, "ignore or reject", {"enum": ["ignore", "reject"]}
);
leaf!(
    /// `direct` or `portable`.
    DrainText, "direct or portable", {"enum": ["direct", "portable"]}
);
leaf!(
    /// `none`, `day` or `month`.
    PartitionByText, "none, day or month", {"enum": ["none", "day", "month"]}
);
leaf!(
    /// A share over a stretch of time.
    StopIfText, "a share and a time like 5% over 10m",
    {"type": "string", "pattern": "^[0-9.]+ ?% over [0-9]+(ms|s|m|h|d)$"}
);
leaf!(
    /// The unit of a time that is a number.
    UnitText, "s, ms, us or ns", {"enum": ["s", "ms", "us", "ns"]}
);

/// A secret: from a file, from the environment, or (refused later) written out.
#[derive(Clone, Debug)]
pub(crate) struct SecretText {
    pub(crate) span: Range<usize>,
    pub(crate) from: SecretFrom,
}

#[derive(Clone)]
pub(crate) enum SecretFrom {
    /// The value, filled in from the environment.
    Variable(String),
    /// Written out in the file.
    Literal(String),
    File(Scalar),
    Env(Scalar),
}

impl std::fmt::Debug for SecretFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl FromNode for SecretText {
    fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self> {
        let expected = "${NAME}, {file: path} or {env: NAME}";
        let from = match &node.value {
            Value::Scalar(scalar) if scalar.is_filled_in() => {
                SecretFrom::Variable(scalar.text.clone())
            }
            Value::Scalar(scalar) => SecretFrom::Literal(scalar.text.clone()),
            Value::Map(entries) if entries.len() == 1 => {
                let (way, value) = &entries[0];
                let value = scalar(value, way, reader, "a text")?;
                match way.text.as_str() {
                    "file" => SecretFrom::File(value),
                    "env" => SecretFrom::Env(value),
                    _ => {
                        reader.unknown_key(
                            way,
                            &format!("under `{}`", key.shown),
                            &["file", "env"],
                        );
                        return None;
                    }
                }
            }
            _ => {
                reader.wrong_kind(node, key, expected);
                return None;
            }
        };
        Some(Self {
            span: node.span.clone(),
            from,
        })
    }
}

impl JsonSchema for SecretText {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A secret: ${NAME} from the environment, {file: path} or {env: NAME}. Never written out.",
            "anyOf": [
                {"type": "string", "pattern": "^.*\\$\\{.+\\}.*$"},
                {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"], "additionalProperties": false},
                {"type": "object", "properties": {"env": {"type": "string"}}, "required": ["env"], "additionalProperties": false}
            ]
        })
    }
}

/// What proves a secret without being it: may be written out, and is shown nowhere all the same.
#[derive(Clone, Debug)]
pub(crate) struct HashText(pub(crate) SecretText);

impl FromNode for HashText {
    fn from_node(node: &Node, key: &Scalar, reader: &mut Reader<'_>) -> Option<Self> {
        SecretText::from_node(node, key, reader).map(Self)
    }
}

impl JsonSchema for HashText {
    fn schema_name() -> Cow<'static, str> {
        "Hash".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What `alluvium user add` printed: written out, ${NAME} from the environment, {file: path} or {env: NAME}.",
            "anyOf": [
                {"type": "string", "pattern": "^(SCRAM-SHA-256\\$.+|sha256:[0-9a-f]{64}|.*\\$\\{.+\\}.*)$"},
                {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"], "additionalProperties": false},
                {"type": "object", "properties": {"env": {"type": "string"}}, "required": ["env"], "additionalProperties": false}
            ]
        })
    }
}

/// Any value, kept as JSON text with the order of keys.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    pub(crate) span: Range<usize>,
    pub(crate) text: String,
}

impl FromNode for Json {
    fn from_node(node: &Node, _: &Scalar, _: &mut Reader<'_>) -> Option<Self> {
        let mut text = String::new();
        write_json(node, &mut text);
        Some(Self {
            span: node.span.clone(),
            text,
        })
    }
}

impl JsonSchema for Json {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Json".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({})
    }
}

/// Times and everything else that YAML might guess a type for stay texts; only what is a number, a
/// boolean or null in JSON as well is one here.
fn write_json(node: &Node, text: &mut String) {
    match &node.value {
        Value::Null => text.push_str("null"),
        Value::Scalar(scalar) => {
            let is_json = scalar.style == Style::Plain
                && (matches!(scalar.text.as_str(), "true" | "false")
                    || serde_json::from_str::<serde_json::Number>(&scalar.text).is_ok());
            if is_json {
                text.push_str(&scalar.text);
            } else {
                push_string(&scalar.text, text);
            }
        }
        Value::List(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write_json(item, text);
            }
            text.push(']');
        }
        Value::Map(entries) => {
            text.push('{');
            for (position, (key, value)) in entries.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                push_string(&key.text, text);
                text.push(':');
                write_json(value, text);
            }
            text.push('}');
        }
    }
}

fn push_string(value: &str, text: &mut String) {
    text.push_str(&serde_json::Value::from(value).to_string());
}

/// Declares a map of fixed keys, every one of them optional here: what must be there is said by the
/// meaning, which can explain why. An unknown key is a mistake.
macro_rules! written {
    (
        $(#[$meta:meta])*
        $name:ident, $place:literal {
            $( $(#[$field_meta:meta])* $field:ident $(as $key:literal)? : $type:ty ),* $(,)?
        }
    ) => {
        #[derive(Clone, Debug, Default, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        $(#[$meta])*
        pub(crate) struct $name {
            /// Its place in the file.
            #[schemars(skip)]
            pub(crate) span: std::ops::Range<usize>,
            /// The keys that stand there, read or not.
            #[schemars(skip)]
            pub(crate) seen: Vec<String>,
            $(
                $(#[$field_meta])*
                $( #[schemars(rename = $key)] )?
                pub(crate) $field: Option<$type>,
            )*
        }

        impl $crate::reader::Keys for $name {
            const PLACE: &'static str = $place;
            const KEYS: &'static [&'static str] =
                &[$( $crate::reader::written!(@key $field $($key)?) ),*];

            fn span(&self) -> &std::ops::Range<usize> {
                &self.span
            }

            fn lacks(&self, key: &str) -> bool {
                !self.seen.iter().any(|seen| seen == key)
            }
        }

        impl $crate::reader::FromNode for $name {
            fn from_node(
                node: &$crate::tree::Node,
                key: &$crate::tree::Scalar,
                reader: &mut $crate::reader::Reader<'_>,
            ) -> Option<Self> {
                use $crate::reader::Keys as _;
                let entries = reader.map(node, key, "a map of keys")?;
                // What belongs to a missing key is marked at the key that should hold it.
                let span = if key.shown.is_empty() { node.span.clone() } else { key.span.clone() };
                let mut written = Self { span, ..Self::default() };
                for (key, value) in entries {
                    written.seen.push(key.text.clone());
                    match key.text.as_str() {
                        $(
                            $crate::reader::written!(@key $field $($key)?) => {
                                written.$field =
                                    <$type as $crate::reader::FromNode>::from_node(value, key, reader);
                            }
                        )*
                        text => {
                            reader.unknown_key(key, Self::PLACE, Self::KEYS);
                            // A misspelt key is not missing as well.
                            let meant = $crate::hints::meant_key(text, Self::KEYS);
                            written.seen.extend(meant.map(str::to_owned));
                        }
                    }
                }
                Some(written)
            }
        }
    };
    (@key $field:ident $key:literal) => { $key };
    (@key $field:ident) => { stringify!($field) };
}
pub(crate) use written;
