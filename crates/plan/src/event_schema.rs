//! The event schema as meant: columns with Arrow types.

use datafusion::arrow::datatypes::DataType;

use crate::{
    diagnostic::Code,
    plan::EventColumn,
    reader::{FromNode, Keys as _, Reader},
    tree::Scalar,
    values,
    written::schema::{Column, EventSchema},
    yaml::{self, Environment},
};

/// Reads a schema file. `None` when a column could not be understood: everything that uses columns
/// would only repeat that.
pub(crate) fn read(reader: &mut Reader<'_>, environment: &Environment) -> Option<Vec<EventColumn>> {
    let before = reader.found.0.len();
    let root = yaml::parse(reader, environment)?;
    let written = EventSchema::from_node(&root, &Scalar::root(), reader)?;
    values::version(written.version.as_deref(), &written, reader);
    let mut columns = Vec::new();
    match &written.columns {
        Some(named) => {
            for (name, column) in &named.0 {
                columns.extend(self::column(name, column, reader));
            }
            if named.0.is_empty() {
                let help = "write one line a field: `user_id: string`";
                reader.error(
                    Code::Structure,
                    written.span,
                    "a schema needs columns",
                    help,
                );
            }
        }
        None if written.lacks("columns") => {
            let help = "list the fields of an event: `columns:` and below it `user_id: string`";
            values::missing(reader, &written.span, "columns", help);
        }
        None => {}
    }
    (reader.found.0.len() == before).then_some(columns)
}

fn column(name: &Scalar, column: &Column, reader: &mut Reader<'_>) -> Option<EventColumn> {
    if name.text.is_empty() {
        let help = "write the field's name before the colon";
        reader.error(Code::Name, name.span.clone(), "a column needs a name", help);
        return None;
    }
    let (type_scalar, long) = match column {
        Column::Short(scalar) => (scalar, None),
        Column::Long(long) => match &long.type_ {
            Some(text) => (&text.0, Some(long)),
            None => {
                if long.lacks("type") {
                    let help = "write {type: timestamp, unit: ms, optional: true}";
                    values::missing(reader, &name.span, "type", help);
                }
                return None;
            }
        },
    };
    let text = type_scalar.text.trim();
    let (base, question) = match text.strip_suffix('?') {
        Some(base) => (base.trim_end(), true),
        None => (text, false),
    };
    let data_type = values::data_type(base, type_scalar, reader)?;
    let mut optional = question;
    let mut epoch_unit = None;
    if let Some(long) = long {
        if let Some(flag) = &long.optional {
            optional |= values::boolean(flag, reader)?;
        }
        if let Some(unit) = &long.unit {
            epoch_unit = Some(values::epoch_unit(unit, reader)?);
            if !matches!(data_type, DataType::Timestamp(..)) {
                let help = "leave it out; only a timestamp that is a number has one";
                let message = format!("`{}` has no unit", type_scalar.shown);
                reader.error(Code::Value, unit.span.clone(), message, help);
                return None;
            }
        }
    }
    Some(EventColumn {
        name: name.text.as_str().into(),
        data_type,
        optional,
        epoch_unit,
    })
}
