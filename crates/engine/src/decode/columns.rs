//! The rows under construction.
//!
//! Owns the way from a checked event to columns. A row is appended whole, after all of it has been checked, so that a
//! refused event leaves no trace. What fits into 64 bits is kept row by row and becomes columns when the rows are taken,
//! one column after the other; only strings and decimals are appended at once.

use std::{ops::Range, sync::Arc};

use datafusion::arrow::{
    array::{
        ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, Decimal128Array,
        PrimitiveArray, StringArray,
    },
    buffer::{BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer},
    datatypes::{
        DataType, Date32Type, Float64Type, Int32Type, Int64Type, SchemaRef, TimeUnit,
        TimestampMicrosecondType,
    },
    error::ArrowError,
};

use super::{
    Slot,
    layout::Raw,
    syntax::{TextForm, TextSpan, unescape},
};

/// One decoded column.
struct Column {
    /// Its position in the schema of events.
    position: usize,
    data_type: DataType,
    /// The rows without a value.
    nulls: Vec<usize>,
}

/// The strings of one column, as bytes: that they are text is known of each event as a whole, and is checked once more
/// for all of them together when they are taken out.
struct Texts {
    place: usize,
    bytes: Vec<u8>,
    ends: Vec<i32>,
}

/// The values of one column that take more than 64 bits.
struct Decimals {
    place: usize,
    position: usize,
    values: Vec<i128>,
}

/// The rows of the decoded columns.
pub(crate) struct Rows {
    columns: Vec<Column>,
    texts: Vec<Texts>,
    decimals: Vec<Decimals>,
    /// So many values for each row: one for each column, and one for what is read and not kept.
    raws: Vec<Raw>,
    count: usize,
    unescaped: String,
}

/// No string; none stands where this one would.
const NO_TEXT: Raw = Raw(u64::MAX);

impl Rows {
    /// Rows of columns, each with its position in the schema of events, and of a type that is decoded from JSON.
    pub(crate) fn new(columns: impl IntoIterator<Item = (usize, DataType)>) -> Self {
        let mut rows = Self {
            columns: Vec::new(),
            texts: Vec::new(),
            decimals: Vec::new(),
            raws: Vec::new(),
            count: 0,
            unescaped: String::new(),
        };
        for (place, (position, data_type)) in columns.into_iter().enumerate() {
            match data_type {
                DataType::Int32
                | DataType::Int64
                | DataType::Float64
                | DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {}
                DataType::Utf8 => rows.texts.push(Texts {
                    place,
                    bytes: Vec::new(),
                    ends: vec![0],
                }),
                DataType::Decimal128(..) => rows.decimals.push(Decimals {
                    place,
                    position,
                    values: Vec::new(),
                }),
                other => unreachable!("{other} is no type of a column of events"),
            }
            rows.columns.push(Column {
                position,
                data_type,
                nulls: Vec::new(),
            });
        }
        rows
    }

    /// Rows since the last [`Self::finish`].
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn width(&self) -> usize {
        self.columns.len() + 1
    }

    /// Where the next row is written.
    #[inline]
    pub(crate) fn next(&mut self) -> &mut [Raw] {
        let width = self.width();
        let from = self.count * width;
        if self.raws.len() < from + width {
            self.raws.resize(2 * from + 64 * width, Raw::default());
        }
        &mut self.raws[from..from + width]
    }

    /// Takes what was written into [`Self::next`], but for the places without a value. `payload` is the event that it was
    /// read from, and `slots` hold what takes more than 64 bits.
    #[inline(always)]
    pub(crate) fn take(&mut self, absent: &[u16], payload: &[u8], slots: &[Slot]) {
        let from = self.count * self.width();
        for place in absent {
            self.take_null(usize::from(*place));
        }
        for texts in &mut self.texts {
            texts.append(self.raws[from + texts.place], payload, &mut self.unescaped);
        }
        for decimals in &mut self.decimals {
            decimals.values.push(match slots[decimals.position] {
                Slot::Decimal(value) if !absent.contains(&(decimals.place as u16)) => value,
                // The row is among those without a value.
                _ => 0,
            });
        }
        self.count += 1;
    }

    /// Takes the slots of an event, which were checked.
    pub(crate) fn take_slots(&mut self, payload: &[u8], slots: &[Slot]) {
        self.next();
        let from = self.count * self.width();
        for place in 0..self.columns.len() {
            let slot = slots[self.columns[place].position];
            self.raws[from + place] = slot.raw();
            if let Slot::Absent | Slot::Null = slot {
                self.take_null(place);
            }
        }
        self.take(&[], payload, slots);
    }

    fn take_null(&mut self, place: usize) {
        let raw = match self.columns[place].data_type {
            DataType::Utf8 => NO_TEXT,
            _ => Raw::default(),
        };
        let at = self.count * self.width() + place;
        self.raws[at] = raw;
        self.columns[place].nulls.push(self.count);
    }

    /// Takes the rows out, as columns of `schema`.
    ///
    /// # Errors
    /// When the strings are no text, which is a bug.
    pub(crate) fn finish(&mut self, schema: &SchemaRef) -> Result<Vec<ArrayRef>, ArrowError> {
        debug_assert_eq!(schema.fields().len(), self.columns.len());
        let arrays = (0..self.columns.len())
            .map(|place| self.array(place))
            .collect();
        self.count = 0;
        arrays
    }

    fn array(&mut self, place: usize) -> Result<ArrayRef, ArrowError> {
        let nulls = nulls(&mut self.columns[place].nulls, self.count);
        let data_type = &self.columns[place].data_type;
        Ok(match data_type {
            DataType::Utf8 => {
                let texts = self.texts.iter_mut().find(|texts| texts.place == place);
                let texts = texts.expect("a column of strings has its strings");
                Arc::new(texts.finish(nulls)?)
            }
            DataType::Decimal128(..) => {
                let decimals = self.decimals.iter_mut().find(|other| other.place == place);
                let decimals = decimals.expect("a column of decimals has its decimals");
                let values = ScalarBuffer::from(std::mem::take(&mut decimals.values));
                let array = Decimal128Array::new(values, nulls);
                Arc::new(array.with_data_type(data_type.clone()))
            }
            DataType::Boolean => {
                let width = self.width();
                let value = |row: usize| self.raws[row * width + place].0 != 0;
                Arc::new(BooleanArray::new(
                    BooleanBuffer::collect_bool(self.count, value),
                    nulls,
                ))
            }
            DataType::Int32 => Arc::new(self.values::<Int32Type>(place, nulls, |raw| raw as i32)),
            DataType::Date32 => Arc::new(self.values::<Date32Type>(place, nulls, |raw| raw as i32)),
            DataType::Int64 => Arc::new(self.values::<Int64Type>(place, nulls, |raw| raw as i64)),
            DataType::Float64 => Arc::new(self.values::<Float64Type>(place, nulls, f64::from_bits)),
            _ => Arc::new(
                self.values::<TimestampMicrosecondType>(place, nulls, |raw| raw as i64)
                    .with_data_type(data_type.clone()),
            ),
        })
    }

    fn values<T: ArrowPrimitiveType>(
        &self,
        place: usize,
        nulls: Option<NullBuffer>,
        value: impl Fn(u64) -> T::Native,
    ) -> PrimitiveArray<T> {
        let rows = self.raws.chunks_exact(self.width()).take(self.count);
        let values: Vec<T::Native> = rows.map(|row| value(row[place].0)).collect();
        PrimitiveArray::new(values.into(), nulls)
    }
}

/// Which of `count` rows have a value; takes the list of those that have none.
fn nulls(rows: &mut Vec<usize>, count: usize) -> Option<NullBuffer> {
    if rows.is_empty() {
        return None;
    }
    let mut valid = BooleanBufferBuilder::new(count);
    valid.append_n(count, true);
    for row in rows.drain(..) {
        valid.set_bit(row, false);
    }
    Some(NullBuffer::new(valid.finish()))
}

impl Texts {
    #[inline]
    fn append(&mut self, raw: Raw, payload: &[u8], unescaped: &mut String) {
        let TextSpan { start, end, form } = raw.span();
        if raw != NO_TEXT {
            let span = start as usize..end as usize;
            match form {
                TextForm::Plain => self.append_plain(payload, span),
                TextForm::Escaped => {
                    unescaped.clear();
                    let text = std::str::from_utf8(&payload[span]);
                    unescape(text.expect("the event was validated"), unescaped);
                    self.bytes.extend_from_slice(unescaped.as_bytes());
                }
            }
        }
        let end = i32::try_from(self.bytes.len()).expect("a batch of strings stays below 2 GiB");
        self.ends.push(end);
    }

    /// Appends what stands at `span` of a payload.
    #[inline]
    fn append_plain(&mut self, payload: &[u8], span: Range<usize>) {
        const SHORT: usize = 16;
        // Copying a whole block of known size and cutting it off again is cheaper than copying a few bytes.
        match payload[span.start..].first_chunk::<SHORT>() {
            Some(block) if span.len() <= SHORT => {
                let length = self.bytes.len() + span.len();
                self.bytes.extend_from_slice(block);
                self.bytes.truncate(length);
            }
            _ => self.bytes.extend_from_slice(&payload[span]),
        }
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<StringArray, ArrowError> {
        let bytes = Vec::with_capacity(self.bytes.len());
        let mut ends = Vec::with_capacity(self.ends.len());
        ends.push(0);
        let bytes = std::mem::replace(&mut self.bytes, bytes);
        let ends = std::mem::replace(&mut self.ends, ends);
        StringArray::try_new(OffsetBuffer::new(ends.into()), bytes.into(), nulls)
    }
}
