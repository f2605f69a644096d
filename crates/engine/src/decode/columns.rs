//! The columns under construction: one builder for each decoded column.
//!
//! Owns the way from a checked slot to a column's buffers. A row is appended whole, after all of it
//! has been checked, so that a refused event leaves no trace.

use std::{ops::Range, sync::Arc};

use datafusion::arrow::{
    array::{
        ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int32Builder,
        Int64Builder, NullBufferBuilder, StringArray, TimestampMicrosecondBuilder,
    },
    buffer::{OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, TimeUnit},
    error::ArrowError,
};

use super::{
    Slot,
    layout::Raw,
    syntax::{TextForm, unescape},
};

/// One decoded column.
pub(crate) enum ColumnBuilder {
    Int(Int32Builder),
    BigInt(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Decimal(Decimal128Builder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Text(TextBuilder),
}

/// Strings under construction, as bytes: that they are text is known of each event as a whole, and is checked once more
/// for all of them together when they are taken out.
pub(crate) struct TextBuilder {
    bytes: Vec<u8>,
    ends: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl TextBuilder {
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            ends: vec![0],
            nulls: NullBufferBuilder::new(0),
        }
    }

    #[inline]
    fn append_value(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.nulls.append_non_null();
        self.end();
    }

    /// Appends what stands at `span` of a payload.
    #[inline]
    fn append_span(&mut self, payload: &[u8], span: Range<usize>) {
        const SHORT: usize = 16;
        // Copying a whole block of known size and cutting it off again is cheaper than copying a few bytes.
        match payload[span.start..].first_chunk::<SHORT>() {
            Some(block) if span.len() <= SHORT => {
                let length = self.bytes.len() + span.len();
                self.bytes.extend_from_slice(block);
                self.bytes.truncate(length);
                self.nulls.append_non_null();
                self.end();
            }
            _ => self.append_value(&payload[span]),
        }
    }

    fn append_null(&mut self) {
        self.nulls.append_null();
        self.end();
    }

    #[inline]
    fn end(&mut self) {
        let end = i32::try_from(self.bytes.len()).expect("a batch of strings stays below 2 GiB");
        self.ends.push(end);
    }

    fn finish(&mut self) -> Result<StringArray, ArrowError> {
        let (bytes, ends) = (self.bytes.len(), self.ends.len());
        let full = std::mem::replace(
            self,
            Self {
                bytes: Vec::with_capacity(bytes),
                ends: Vec::with_capacity(ends),
                nulls: NullBufferBuilder::new(0),
            },
        );
        self.ends.push(0);
        let mut nulls = full.nulls;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(full.ends));
        StringArray::try_new(offsets, full.bytes.into(), nulls.finish())
    }
}

impl ColumnBuilder {
    /// `None` for a type that is not decoded from JSON.
    pub(crate) fn new(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Int32 => Self::Int(Int32Builder::new()),
            DataType::Int64 => Self::BigInt(Int64Builder::new()),
            DataType::Float64 => Self::Double(Float64Builder::new()),
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Decimal128(..) => {
                Self::Decimal(Decimal128Builder::new().with_data_type(data_type.clone()))
            }
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Self::Timestamp(
                TimestampMicrosecondBuilder::new().with_data_type(data_type.clone()),
            ),
            DataType::Utf8 => Self::Text(TextBuilder::new()),
            _ => return None,
        })
    }

    /// Appends one value. `slot` holds a value of this column's type, or none; `payload` is the event
    /// it was read from.
    #[inline]
    pub(crate) fn append(&mut self, slot: Slot, payload: &[u8], unescaped: &mut String) {
        match (self, slot) {
            (Self::Int(column), Slot::Int(value)) => {
                column.append_value(i32::try_from(value).expect("the range was checked"));
            }
            (Self::BigInt(column), Slot::Int(value)) => column.append_value(value),
            (Self::Double(column), Slot::Double(value)) => column.append_value(value),
            (Self::Boolean(column), Slot::Boolean(value)) => column.append_value(value),
            (Self::Decimal(column), Slot::Decimal(value)) => column.append_value(value),
            (Self::Date(column), Slot::Int(value)) => {
                column.append_value(i32::try_from(value).expect("the years were checked"));
            }
            (Self::Timestamp(column), Slot::Int(value)) => column.append_value(value),
            (Self::Text(column), Slot::Text(span)) => {
                let text = &payload[span.start as usize..span.end as usize];
                match span.form {
                    TextForm::Plain => column.append_value(text),
                    TextForm::Escaped => {
                        unescaped.clear();
                        let text = std::str::from_utf8(text).expect("the event was validated");
                        unescape(text, unescaped);
                        column.append_value(unescaped.as_bytes());
                    }
                }
            }
            (column, Slot::Absent | Slot::Null) => column.append_null(),
            (_, slot) => unreachable!("{slot:?} was checked against its column's type"),
        }
    }

    /// Whether its values fit into what a walk along a layout leaves.
    #[inline]
    pub(crate) fn takes_raw(&self) -> bool {
        !matches!(self, Self::Decimal(_))
    }

    /// Appends what a walk has read for this column, which [takes it](Self::takes_raw).
    #[inline]
    pub(crate) fn append_raw(&mut self, raw: Raw, payload: &[u8], unescaped: &mut String) {
        match self {
            Self::Int(column) => column.append_value(raw.0 as i32),
            Self::BigInt(column) => column.append_value(raw.0 as i64),
            Self::Double(column) => column.append_value(f64::from_bits(raw.0)),
            Self::Boolean(column) => column.append_value(raw.0 != 0),
            Self::Date(column) => column.append_value(raw.0 as i32),
            Self::Timestamp(column) => column.append_value(raw.0 as i64),
            Self::Text(column) => {
                let span = raw.span();
                match span.form {
                    TextForm::Plain => {
                        column.append_span(payload, span.start as usize..span.end as usize);
                    }
                    TextForm::Escaped => self.append(Slot::Text(span), payload, unescaped),
                }
            }
            Self::Decimal(_) => unreachable!("its values do not fit"),
        }
    }

    pub(crate) fn append_null(&mut self) {
        match self {
            Self::Int(column) => column.append_null(),
            Self::BigInt(column) => column.append_null(),
            Self::Double(column) => column.append_null(),
            Self::Boolean(column) => column.append_null(),
            Self::Decimal(column) => column.append_null(),
            Self::Date(column) => column.append_null(),
            Self::Timestamp(column) => column.append_null(),
            Self::Text(column) => column.append_null(),
        }
    }

    /// Takes what was appended since the last time.
    ///
    /// # Errors
    /// When the strings are no text, which is a bug.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Int(column) => Arc::new(column.finish()),
            Self::BigInt(column) => Arc::new(column.finish()),
            Self::Double(column) => Arc::new(column.finish()),
            Self::Boolean(column) => Arc::new(column.finish()),
            Self::Decimal(column) => Arc::new(column.finish()),
            Self::Date(column) => Arc::new(column.finish()),
            Self::Timestamp(column) => Arc::new(column.finish()),
            Self::Text(column) => Arc::new(column.finish()?),
        })
    }
}
