//! JSON events to columns.
//!
//! Owns what an event must be: one object, valid UTF-8, strict JSON, with every column of the schema
//! that must be present and every value of its column's type, used or not (P5). Builds columns only
//! for what the plan uses; the rest is checked while it is passed over. Of a key that is written
//! twice the last value counts. A refused event leaves no trace in the columns.
//!
//! Does not own event time, filters or expressions.

mod columns;
mod layout;
mod moment;
mod number;
mod processor;
mod syntax;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt, ops::ControlFlow, sync::Arc};

use alluvium_plan::{EpochUnit, EventColumn, Plan, UnknownFields};
use datafusion::arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{DataType, SchemaRef, TimeUnit},
};

use crate::EngineError;
use columns::Rows;
use layout::{Layouts, Raw};
use processor::Processor;
use syntax::{Cursor, NumberForm, SyntaxError, SyntaxKind, TextForm, TextSpan, unescape};

/// A payload beyond this many bytes is refused, so that a column of strings stays within 2 GiB.
const MAX_PAYLOAD: usize = 1 << 30;
/// How much of a wrong value an error shows.
const SHOWN: usize = 40;

/// Why an event was refused, for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    /// What is wrong.
    pub message: String,
    /// The column it is wrong in, where one can be named.
    pub column: Option<String>,
}

impl DecodeError {
    fn whole(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            column: None,
        }
    }
}

impl From<SyntaxError> for DecodeError {
    fn from(error: SyntaxError) -> Self {
        Self::whole(error.to_string())
    }
}

/// What one column takes.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Int,
    BigInt,
    Double,
    Boolean,
    Decimal(u8, i8),
    Date,
    Timestamp(Option<EpochUnit>),
    Text,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int => f.write_str("int"),
            Self::BigInt => f.write_str("bigint"),
            Self::Double => f.write_str("double"),
            Self::Boolean => f.write_str("boolean"),
            Self::Decimal(precision, scale) => write!(f, "decimal({precision},{scale})"),
            Self::Date => f.write_str("date"),
            Self::Timestamp(_) => f.write_str("timestamp"),
            Self::Text => f.write_str("string"),
        }
    }
}

/// What was read for one column of the event at hand.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    Absent,
    Null,
    Boolean(bool),
    /// Also days of a date and microseconds of a timestamp.
    Int(i64),
    Double(f64),
    Decimal(i128),
    Text(TextSpan),
    /// A value that its column does not take. It only counts if no later value of the same key
    /// replaces it.
    Fault(Fault),
}

impl Slot {
    /// What of it fits into 64 bits.
    fn raw(self) -> Raw {
        match self {
            Self::Int(value) => Raw(value as u64),
            Self::Double(value) => Raw(value.to_bits()),
            Self::Boolean(value) => Raw(value.into()),
            Self::Text(span) => Raw::text(span),
            Self::Absent | Self::Null | Self::Decimal(_) | Self::Fault(_) => Raw::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Fault {
    kind: FaultKind,
    start: u32,
    end: u32,
}

/// Why a column does not take a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultKind {
    WrongType,
    /// A fraction or an exponent where an integer belongs.
    NotInteger,
    OutOfRange,
    TooPrecise,
    NoDate,
    NoTimestamp,
    /// A timestamp as a number in a column without a unit.
    NoUnit,
    OutOfYears,
}

#[derive(Debug)]
struct Column {
    name: Arc<str>,
    kind: Kind,
    optional: bool,
    /// Whether the name stands in an event just as it is, so that bytes can be compared.
    plain_name: bool,
    /// The column that followed this one when it was last seen.
    follower: usize,
}

/// Decodes events one by one into the columns that a plan uses.
///
/// Allocates nothing for an event that is taken. [`Self::decode`] appends a row or refuses the event
/// and appends nothing; [`Self::finish`] takes the rows out as one batch.
pub struct JsonDecoder {
    columns: Vec<Column>,
    /// Positions of columns by the length of their names.
    by_length: Vec<Vec<usize>>,
    unknown_fields: UnknownFields,
    /// The column that events begin with, as last seen.
    first: usize,
    slots: Vec<Slot>,
    /// The decoded columns.
    rows: Rows,
    schema: SchemaRef,
    /// What events looked like before.
    layouts: Layouts,
}

impl fmt::Debug for JsonDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonDecoder")
            .field("schema", &self.schema)
            .field("rows", &self.rows.count())
            .finish_non_exhaustive()
    }
}

impl JsonDecoder {
    /// A decoder of a plan's events.
    ///
    /// # Errors
    /// [`EngineError::Column`] when the plan's decoded columns are not columns of its event schema.
    pub fn new(plan: &Plan) -> Result<Self, EngineError> {
        Self::with_schema(&plan.columns, &plan.decoded, plan.unknown_fields)
    }

    /// A decoder of events of `columns` that builds those in `decoded`.
    ///
    /// # Errors
    /// [`EngineError::Column`] when a decoded column is none of `columns`, or a type is not decoded.
    pub fn with_schema(
        columns: &[EventColumn],
        decoded: &SchemaRef,
        unknown_fields: UnknownFields,
    ) -> Result<Self, EngineError> {
        let refused = |name: &str, data_type: &DataType| EngineError::Column {
            column: name.to_owned(),
            data_type: data_type.to_string(),
        };
        let checked = columns
            .iter()
            .map(|column| {
                let kind = kind(column).ok_or_else(|| refused(&column.name, &column.data_type))?;
                Ok(Column {
                    name: column.name.clone(),
                    kind,
                    optional: column.optional,
                    plain_name: !column
                        .name
                        .bytes()
                        .any(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1F)),
                    follower: usize::MAX,
                })
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let mut places = vec![None; columns.len()];
        let mut kept = Vec::new();
        for (place, field) in decoded.fields().iter().enumerate() {
            let position = columns.iter().position(|column| {
                *column.name == **field.name() && column.data_type == *field.data_type()
            });
            let position = position.ok_or_else(|| refused(field.name(), field.data_type()))?;
            places[position] = Some(place);
            kept.push((position, field.data_type().clone()));
        }
        let longest = columns.iter().map(|column| column.name.len()).max();
        let mut by_length = vec![Vec::new(); longest.map_or(0, |longest| longest + 1)];
        for (position, column) in columns.iter().enumerate() {
            by_length[column.name.len()].push(position);
        }
        Ok(Self {
            layouts: Layouts::new(&places),
            slots: vec![Slot::Absent; checked.len()],
            columns: checked,
            by_length,
            unknown_fields,
            first: usize::MAX,
            rows: Rows::new(kept),
            schema: decoded.clone(),
        })
    }

    /// The same decoder without a memory for layouts: every event is read the general way. For measuring what the memory
    /// is worth; the answers are the same.
    #[must_use]
    pub fn without_layouts(mut self) -> Self {
        self.layouts.never_learn();
        self
    }

    /// Rows appended since the last [`Self::finish`].
    pub fn rows(&self) -> usize {
        self.rows.count()
    }

    /// Appends one event as a row.
    ///
    /// # Errors
    /// [`DecodeError`] says why the event is refused; then nothing was appended.
    pub fn decode(&mut self, payload: Option<&[u8]>) -> Result<(), DecodeError> {
        self.append::<processor::Any>(payload)
    }

    /// [`Self::decode`] for one payload after the other, until `each` breaks off. It is told what became of each. Faster
    /// than one by one, because the processor is asked only once what it can do.
    pub fn decode_each<'p>(
        &mut self,
        payloads: impl Iterator<Item = Option<&'p [u8]>>,
        each: impl FnMut(Option<&'p [u8]>, Result<(), DecodeError>) -> ControlFlow<()>,
    ) {
        processor::run(Each {
            decoder: self,
            payloads,
            each,
        });
    }

    #[inline(always)]
    fn append<P: Processor>(&mut self, payload: Option<&[u8]>) -> Result<(), DecodeError> {
        let payload =
            payload.ok_or_else(|| DecodeError::whole("the record has no value (a tombstone)"))?;
        if payload.len() > MAX_PAYLOAD {
            return Err(DecodeError::whole(format!(
                "the record's value has {} bytes, more than a gibibyte",
                payload.len()
            )));
        }
        let walked =
            self.layouts
                .walk::<P>(&self.columns, payload, self.rows.next(), &mut self.slots);
        if let Some(absent) = walked {
            self.rows.take(absent, payload, &self.slots);
            return Ok(());
        }
        self.append_unforeseen(payload)
    }

    /// The way of an event that follows no known layout.
    #[inline(never)]
    fn append_unforeseen(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        let text = valid(payload)?;
        let unknown = self.parse(text)?;
        self.check(text, unknown)?;
        let (columns, by_length) = (&self.columns, &self.by_length);
        self.layouts
            .learn(columns, text, |name| find(columns, by_length, name));
        self.rows.take_slots(payload, &self.slots);
        Ok(())
    }

    /// Takes the appended rows, in the plan's decoded schema.
    ///
    /// # Errors
    /// [`EngineError::Batch`] when they do not fit that schema, which is a bug.
    pub fn finish(&mut self) -> Result<RecordBatch, EngineError> {
        // Without a column nothing else would say how many rows there are.
        let rows = RecordBatchOptions::new().with_row_count(Some(self.rows.count()));
        let arrays = self.rows.finish(&self.schema)?;
        Ok(RecordBatch::try_new_with_options(
            self.schema.clone(),
            arrays,
            &rows,
        )?)
    }

    /// Reads one object into the slots and returns the first key that no column has.
    fn parse(&mut self, text: &str) -> Result<Option<TextSpan>, DecodeError> {
        let mut cursor = Cursor::new(text.as_bytes());
        match cursor.next_token() {
            Some(b'{') => cursor.at += 1,
            None => return Err(DecodeError::whole("the record's value is empty")),
            Some(0xEF) if text.starts_with('\u{FEFF}') => {
                return Err(DecodeError::whole(
                    "the value begins with a byte order mark; send plain UTF-8 without one",
                ));
            }
            Some(_) => return Err(cursor.error(SyntaxKind::Expected("one JSON object")).into()),
        }
        self.slots.fill(Slot::Absent);
        let mut unknown = None;
        if cursor.next_token() == Some(b'}') {
            cursor.at += 1;
        } else {
            let mut previous = usize::MAX;
            loop {
                cursor.take(b'"', "a key in quotes")?;
                let column = self.key(&mut cursor, text, previous, &mut unknown)?;
                cursor.take(b':', "`:`")?;
                match column {
                    Some(position) => {
                        self.slots[position] =
                            read(&self.columns[position].kind, &mut cursor, text)?;
                        previous = position;
                    }
                    None => cursor.skip_value()?,
                }
                match cursor.next_token() {
                    Some(b',') => {
                        cursor.at += 1;
                        cursor.next_token();
                    }
                    Some(b'}') => {
                        cursor.at += 1;
                        break;
                    }
                    _ => return Err(cursor.error(SyntaxKind::Expected("`,` or `}`")).into()),
                }
            }
        }
        match cursor.next_token() {
            None => Ok(unknown),
            Some(_) => Err(cursor.error(SyntaxKind::Trailing).into()),
        }
    }

    /// Reads a key whose opening quote has been passed, and finds its column. Events of one producer
    /// have their keys in one order, so the column that followed last time is tried first.
    #[inline]
    fn key(
        &mut self,
        cursor: &mut Cursor<'_>,
        text: &str,
        previous: usize,
        unknown: &mut Option<TextSpan>,
    ) -> Result<Option<usize>, SyntaxError> {
        let guess = match self.columns.get(previous) {
            Some(column) => column.follower,
            None => self.first,
        };
        if let Some(column) = self.columns.get(guess)
            && column.plain_name
            && cursor.take_key(column.name.as_bytes())
        {
            return Ok(Some(guess));
        }
        let span = cursor.string()?;
        let name = said(text, span);
        let Some(position) = find(&self.columns, &self.by_length, &name) else {
            unknown.get_or_insert(span);
            return Ok(None);
        };
        match self.columns.get_mut(previous) {
            Some(column) => column.follower = position,
            None => self.first = position,
        }
        Ok(Some(position))
    }

    /// Whether the slots may become a row.
    #[inline]
    fn check(&self, text: &str, unknown: Option<TextSpan>) -> Result<(), DecodeError> {
        for (column, slot) in self.columns.iter().zip(&self.slots) {
            match slot {
                Slot::Absent | Slot::Null if !column.optional => {
                    return Err(missing(column, *slot));
                }
                Slot::Fault(fault) => return Err(refusal(column, *fault, text)),
                _ => {}
            }
        }
        match (unknown, self.unknown_fields) {
            (Some(key), UnknownFields::Reject) => Err(DecodeError::whole(format!(
                "the schema has no field {}, and the pipeline says `unknown_fields: reject`",
                shorten(&said(text, key))
            ))),
            _ => Ok(()),
        }
    }
}

/// Decoding one payload after the other.
struct Each<'d, P, E> {
    decoder: &'d mut JsonDecoder,
    payloads: P,
    each: E,
}

impl<'p, P, E> processor::Work for Each<'_, P, E>
where
    P: Iterator<Item = Option<&'p [u8]>>,
    E: FnMut(Option<&'p [u8]>, Result<(), DecodeError>) -> ControlFlow<()>,
{
    type Done = ();

    #[inline(always)]
    fn run<C: Processor>(mut self) {
        for payload in self.payloads {
            let decoded = self.decoder.append::<C>(payload);
            if (self.each)(payload, decoded).is_break() {
                return;
            }
        }
    }
}

fn find(columns: &[Column], by_length: &[Vec<usize>], name: &str) -> Option<usize> {
    by_length
        .get(name.len())?
        .iter()
        .copied()
        .find(|&position| *columns[position].name == *name)
}

fn kind(column: &EventColumn) -> Option<Kind> {
    Some(match &column.data_type {
        DataType::Int32 => Kind::Int,
        DataType::Int64 => Kind::BigInt,
        DataType::Float64 => Kind::Double,
        DataType::Boolean => Kind::Boolean,
        DataType::Decimal128(precision, scale) => Kind::Decimal(*precision, *scale),
        DataType::Date32 => Kind::Date,
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Kind::Timestamp(column.epoch_unit),
        DataType::Utf8 => Kind::Text,
        _ => return None,
    })
}

/// Reads one value for a column of `kind`, which begins behind white space.
#[inline]
fn read(kind: &Kind, cursor: &mut Cursor<'_>, text: &str) -> Result<Slot, SyntaxError> {
    let token = cursor.next_token();
    let start = cursor.at;
    let slot = match token {
        Some(b'"') => {
            cursor.at += 1;
            let span = cursor.string()?;
            match kind {
                Kind::Text => Ok(Slot::Text(span)),
                Kind::Timestamp(_) => moment::timestamp(&said(text, span)).map(Slot::Int),
                Kind::Date => moment::date(&said(text, span)).map(Slot::Int),
                _ => Err(FaultKind::WrongType),
            }
        }
        Some(b'-' | b'0'..=b'9') => {
            let form = cursor.number()?;
            let number = &text[start..cursor.at];
            match (kind, form) {
                (Kind::BigInt, NumberForm::Integer) => number::integer(number).map(Slot::Int),
                (Kind::Int, NumberForm::Integer) => {
                    number::integer(number).and_then(|value| match i32::try_from(value) {
                        Ok(_) => Ok(Slot::Int(value)),
                        Err(_) => Err(FaultKind::OutOfRange),
                    })
                }
                (Kind::Int | Kind::BigInt, NumberForm::Broken) => Err(FaultKind::NotInteger),
                (Kind::Double, _) => number::double(number).map(Slot::Double),
                (Kind::Decimal(precision, scale), _) => {
                    number::decimal(number, *precision, *scale).map(Slot::Decimal)
                }
                (Kind::Timestamp(Some(unit)), form) => {
                    moment::epoch(number, form, *unit).map(Slot::Int)
                }
                (Kind::Timestamp(None), _) => Err(FaultKind::NoUnit),
                _ => Err(FaultKind::WrongType),
            }
        }
        Some(b'n') => {
            cursor.word("null")?;
            Ok(Slot::Null)
        }
        Some(first @ (b't' | b'f')) => {
            let value = first == b't';
            cursor.word(if value { "true" } else { "false" })?;
            match kind {
                Kind::Boolean => Ok(Slot::Boolean(value)),
                _ => Err(FaultKind::WrongType),
            }
        }
        _ => {
            cursor.skip_value()?;
            Err(FaultKind::WrongType)
        }
    };
    Ok(slot.unwrap_or_else(|kind| {
        Slot::Fault(Fault {
            kind,
            start: start as u32,
            end: cursor.at as u32,
        })
    }))
}

/// What a string says, its escapes resolved.
#[inline]
fn said(text: &str, span: TextSpan) -> Cow<'_, str> {
    let written = &text[span.start as usize..span.end as usize];
    match span.form {
        TextForm::Plain => Cow::Borrowed(written),
        TextForm::Escaped => {
            let mut out = String::with_capacity(written.len());
            unescape(written, &mut out);
            Cow::Owned(out)
        }
    }
}

fn valid(payload: &[u8]) -> Result<&str, DecodeError> {
    simdutf8::basic::from_utf8(payload).map_err(|_| not_utf8(payload))
}

#[cold]
fn not_utf8(payload: &[u8]) -> DecodeError {
    let valid = match std::str::from_utf8(payload) {
        Ok(_) => payload.len(),
        Err(error) => error.valid_up_to(),
    };
    DecodeError::whole(format!("the value is not valid UTF-8 at byte {valid}"))
}

fn missing(column: &Column, slot: Slot) -> DecodeError {
    let state = if slot == Slot::Null {
        "null"
    } else {
        "missing"
    };
    DecodeError {
        message: format!(
            "column {} is {state}, and its type {} is not optional",
            column.name, column.kind
        ),
        column: Some(column.name.to_string()),
    }
}

fn refusal(column: &Column, fault: Fault, text: &str) -> DecodeError {
    let shown = shorten(&text[fault.start as usize..fault.end as usize]);
    let (name, kind) = (&column.name, &column.kind);
    let message = match fault.kind {
        FaultKind::WrongType => {
            format!("column {name} is of type {kind}, but the value is {shown}")
        }
        FaultKind::NotInteger => {
            format!("column {name} takes an integer without fraction or exponent, not {shown}")
        }
        FaultKind::OutOfRange => {
            format!("column {name}: {shown} is out of the range of {kind}")
        }
        FaultKind::TooPrecise => {
            format!("column {name}: {shown} has more digits than {kind} keeps")
        }
        FaultKind::NoDate => {
            format!("column {name}: {shown} is no date; write YYYY-MM-DD, year 0001 to 9999")
        }
        FaultKind::NoTimestamp => format!(
            "column {name}: {shown} is no timestamp; write RFC 3339 with a zone, as in 2026-03-01T12:00:05Z"
        ),
        FaultKind::NoUnit => format!(
            "column {name}: {shown} is a number, and the schema gives no `unit` for it; set `unit` (s, ms, us or ns), or send RFC 3339 text"
        ),
        FaultKind::OutOfYears => format!(
            "column {name}: {shown} is outside of the years 0001 to 9999; is its `unit` right?"
        ),
    };
    DecodeError {
        message,
        column: Some(name.to_string()),
    }
}

fn shorten(value: &str) -> Cow<'_, str> {
    match value.char_indices().nth(SHOWN) {
        None => Cow::Borrowed(value),
        Some((end, _)) => Cow::Owned(format!("{}…", &value[..end])),
    }
}
