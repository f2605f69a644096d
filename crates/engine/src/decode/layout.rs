//! Layouts: what stands between the values of events that were taken before.
//!
//! Events of one producer have the same bytes between their values. This tree remembers them: an edge is the bytes
//! before a value and how that value is read, a path from the root to an end is a layout. Walking down is comparing bytes
//! and reading values; keys are not looked at, white space is not looked for, and which columns are missing is known at
//! the end. Producers with other orders, spellings or optional fields are other branches.
//!
//! Owns the tree, and reading one event along it. A walk takes an event only if the general decoder takes it with the same
//! values: values are read by the same functions or by stricter ones, and whatever is unforeseen ends the walk, so that
//! the general decoder decides. Does not own errors: it never refuses an event, it only does not know it.

use std::sync::Arc;

use wide::u8x16;

use super::{
    Column, Kind, Slot,
    marks::Marks,
    moment,
    number::{self, Scanned},
    read,
    syntax::{Cursor, TextForm, TextSpan},
};

/// Edges from one place; events with more differences there are decoded without a layout.
const MOST_EDGES: usize = 8;
/// Places of the tree. A full tree is begun anew when there is credit for it.
const MOST_NODES: usize = 1024;
/// Values of one event beyond which it is not learned.
const MOST_VALUES: usize = 256;
/// Learning costs about as much as decoding, so it is paid for: with these coins at first ...
const FIRST_COINS: u32 = 256;
/// ... and at most; one for each event that was read along a layout, ...
const MOST_COINS: u32 = 1024;
/// ... and this many for one that is learned. An event that was not known brings one too, so that a stream which changes
/// is learned again, and one that always changes costs a sixteenth more.
const PRICE: u32 = 16;

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// A string that no column wants.
    Passed,
    /// A string, kept where it is.
    Text(usize),
    Timestamp(usize),
    Int(usize),
    BigInt(usize),
    Double(usize),
    Boolean(usize),
    /// Nothing more: the bytes before it say that it is null, the layout which column that is.
    Null,
    /// A value of a column, read as the general decoder reads it.
    Column(usize),
    /// A value without a column.
    Skipped,
    /// The event is over; the layout's number.
    End(usize),
}

#[derive(Debug)]
struct Edge {
    before: Gap,
    value: Value,
    to: usize,
}

/// The bytes before a value, the first of them ready to be compared at once.
#[derive(Debug)]
struct Gap {
    bytes: Box<[u8]>,
    first: u8x16,
    second: u8x16,
    /// A bit for each byte of `first` and `second` that does not count.
    ignored: u32,
}

/// What a walk leaves for one column: a number's bits, a truth, or where a string stands. Which of them it is, the
/// column's type says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Raw(pub(crate) u64);

impl Raw {
    const ESCAPED: u64 = 1 << 63;

    #[inline]
    fn text(span: TextSpan) -> Self {
        let form = match span.form {
            TextForm::Plain => 0,
            TextForm::Escaped => Self::ESCAPED,
        };
        // Payloads end below a gibibyte, so the highest bit of a start is free.
        Self(form | u64::from(span.start) << 32 | u64::from(span.end))
    }

    /// Where a string stands.
    #[inline]
    pub(crate) fn span(self) -> TextSpan {
        TextSpan {
            start: (self.0 >> 32) as u32 & (u32::MAX >> 1),
            end: self.0 as u32,
            form: if self.0 & Self::ESCAPED == 0 {
                TextForm::Plain
            } else {
                TextForm::Escaped
            },
        }
    }
}

/// An event that was walked through.
pub(crate) struct Walked<'l> {
    present: &'l [bool],
    raw: &'l [Raw],
}

impl Walked<'_> {
    /// What was read for a column, if it has a value.
    #[inline]
    pub(crate) fn value(&self, column: usize) -> Option<Raw> {
        self.present[column].then(|| self.raw[column])
    }
}

/// The tree of layouts.
#[derive(Debug)]
pub(crate) struct Layouts {
    /// The edges from each place; the root comes first.
    nodes: Vec<Vec<Edge>>,
    /// For each layout, which columns have a value.
    present: Vec<Box<[bool]>>,
    raw: Vec<Raw>,
    coins: u32,
    most_coins: u32,
    days: moment::Days,
}

impl Layouts {
    /// No layouts, for so many columns.
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            nodes: vec![Vec::new()],
            present: Vec::new(),
            raw: vec![Raw::default(); columns],
            coins: FIRST_COINS,
            most_coins: MOST_COINS,
            days: moment::Days::default(),
        }
    }
}

impl Layouts {
    /// Reads an event along a layout; nothing when none fits. `text` is the event as text where it had to be validated,
    /// that is, where it is not ASCII. Values that take more than 64 bits are left in `slots`.
    #[inline]
    pub(crate) fn walk(
        &mut self,
        columns: &[Column],
        bytes: &[u8],
        text: Option<&str>,
        marks: &Marks,
        slots: &mut [Slot],
    ) -> Option<Walked<'_>> {
        let mut reading = Reading {
            columns,
            bytes,
            text,
            marks,
            slots,
            raw: &mut self.raw,
            days: &mut self.days,
        };
        let (mut node, mut at) = (0, 0);
        self.coins = (self.coins + 1).min(self.most_coins);
        'node: loop {
            for edge in &self.nodes[node] {
                if !edge.before.stands(bytes, at) {
                    continue;
                }
                let start = at + edge.before.bytes.len();
                if let Value::End(layout) = edge.value {
                    if start != bytes.len() {
                        continue;
                    }
                    return Some(Walked {
                        present: &self.present[layout],
                        raw: &self.raw,
                    });
                }
                if let Some(end) = reading.value(edge.value, start) {
                    (node, at) = (edge.to, end);
                    continue 'node;
                }
            }
            return None;
        }
    }

    /// Never learns a layout.
    pub(crate) fn never_learn(&mut self) {
        (self.coins, self.most_coins) = (0, 0);
    }

    /// Knows no layout and learns none until coins come in.
    #[cfg(test)]
    pub(crate) fn forget(&mut self) {
        *self = Self {
            coins: 0,
            ..Self::new(self.raw.len())
        };
    }

    /// Remembers the layout of an event that was taken, if that is paid for.
    pub(crate) fn learn(
        &mut self,
        columns: &[Column],
        wanted: &[bool],
        text: &str,
        find: impl Fn(&str) -> Option<usize>,
    ) {
        if self.coins < PRICE {
            return;
        }
        self.coins -= PRICE;
        let Some(steps) = steps(columns, wanted, text, find) else {
            return;
        };
        if self.nodes.len() + steps.len() > MOST_NODES {
            self.nodes = vec![Vec::new()];
            self.present.clear();
        }
        let mut node = 0;
        for (before, step) in steps {
            let known = self.nodes[node].iter().find(|edge| {
                let same = match step {
                    Step::Value(value) => edge.value == value,
                    // Along one path the same columns are absent.
                    Step::End(_) => matches!(edge.value, Value::End(_)),
                };
                same && *edge.before.bytes == *before
            });
            if let Some(edge) = known {
                node = edge.to;
                continue;
            }
            let value = match step {
                Step::Value(value) => value,
                Step::End(present) => {
                    self.present.push(present);
                    Value::End(self.present.len() - 1)
                }
            };
            node = match self.nodes[node].len() {
                MOST_EDGES => return,
                _ => {
                    let to = self.nodes.len();
                    self.nodes.push(Vec::new());
                    self.nodes[node].push(Edge {
                        before: Gap::new(before),
                        value,
                        to,
                    });
                    to
                }
            };
        }
    }
}

enum Step {
    Value(Value),
    /// Which columns have a value.
    End(Box<[bool]>),
}

/// The bytes before each value of a valid event and how the value is read. `None` for an event that names a column twice,
/// or has too many values.
fn steps(
    columns: &[Column],
    wanted: &[bool],
    text: &str,
    find: impl Fn(&str) -> Option<usize>,
) -> Option<Vec<(Box<[u8]>, Step)>> {
    let bytes = text.as_bytes();
    let mut cursor = Cursor::new(bytes);
    let mut seen = vec![false; columns.len()];
    let mut present = vec![false; columns.len()];
    let mut steps = Vec::new();
    let mut from = 0;
    cursor.take(b'{', "an object").ok()?;
    if cursor.next_token() != Some(b'}') {
        loop {
            cursor.take(b'"', "a key").ok()?;
            let key = cursor.string().ok()?;
            let column = find(&super::said(text, key));
            cursor.take(b':', "`:`").ok()?;
            if let Some(column) = column
                && std::mem::replace(&mut seen[column], true)
            {
                return None;
            }
            let token = cursor.next_token()?;
            if let Some(column) = column {
                present[column] = token != b'n';
            }
            let start = cursor.at;
            cursor.skip_value().ok()?;
            let kind = column.map(|column| (column, &columns[column].kind));
            // The quote before a string, and a null itself, belong to what stands before.
            let (value, end) = match (token, kind) {
                (b'n', _) => (Value::Null, start + 4),
                (b'"', None) => (Value::Passed, start + 1),
                (b'"', Some((column, Kind::Text))) if wanted[column] => {
                    (Value::Text(column), start + 1)
                }
                (b'"', Some((_, Kind::Text))) => (Value::Passed, start + 1),
                (b'"', Some((column, Kind::Timestamp(_)))) => (Value::Timestamp(column), start + 1),
                (_, Some((column, Kind::Int))) => (Value::Int(column), start),
                (_, Some((column, Kind::BigInt))) => (Value::BigInt(column), start),
                (_, Some((column, Kind::Double))) => (Value::Double(column), start),
                (_, Some((column, Kind::Boolean))) => (Value::Boolean(column), start),
                (_, Some((column, _))) => (Value::Column(column), start),
                (_, None) => (Value::Skipped, start),
            };
            steps.push((bytes[from..end].into(), Step::Value(value)));
            if steps.len() > MOST_VALUES {
                return None;
            }
            from = cursor.at;
            if cursor.next_token() == Some(b'}') {
                break;
            }
            cursor.take(b',', "`,`").ok()?;
            cursor.next_token();
        }
    }
    steps.push((bytes[from..].into(), Step::End(present.into())));
    Some(steps)
}

impl Gap {
    fn new(bytes: Box<[u8]>) -> Self {
        let mut first = [0; 32];
        let length = bytes.len().min(32);
        first[..length].copy_from_slice(&bytes[..length]);
        let (first, second) = first.split_at(16);
        let lane = |half: &[u8]| u8x16::new(half.try_into().expect("half of 32 bytes"));
        Self {
            first: lane(first),
            second: lane(second),
            ignored: !(((1_u64 << length) - 1) as u32),
            bytes,
        }
    }

    /// Whether these bytes stand at `at`.
    #[inline]
    fn stands(&self, bytes: &[u8], at: usize) -> bool {
        let Some(rest) = bytes.get(at..) else {
            return false;
        };
        let Some(chunk) = rest.first_chunk::<32>() else {
            return rest.starts_with(&self.bytes);
        };
        let (lanes, _) = chunk.as_chunks::<16>();
        let first = u8x16::new(lanes[0]).simd_eq(self.first).to_bitmask();
        let second = u8x16::new(lanes[1]).simd_eq(self.second).to_bitmask();
        first | second << 16 | self.ignored == u32::MAX
            && (self.bytes.len() <= 32 || rest[32..].starts_with(&self.bytes[32..]))
    }
}

/// One event while it is walked through.
struct Reading<'a> {
    columns: &'a [Column],
    bytes: &'a [u8],
    text: Option<&'a str>,
    marks: &'a Marks,
    slots: &'a mut [Slot],
    raw: &'a mut [Raw],
    days: &'a mut moment::Days,
}

impl Reading<'_> {
    /// Reads the value that begins at `start` and returns where it ends.
    #[inline]
    fn value(&mut self, value: Value, start: usize) -> Option<usize> {
        let (column, raw, end) = match value {
            Value::Passed => return self.string(start).map(|span| span.end as usize + 1),
            Value::Text(column) => {
                let span = self.string(start)?;
                (column, Raw::text(span), span.end as usize + 1)
            }
            Value::Timestamp(column) => {
                let span = self.string(start)?;
                if span.form == TextForm::Escaped {
                    return None;
                }
                let written = &self.bytes[start..span.end as usize];
                let micros = moment::timestamp_with(written, self.days).ok()?;
                (column, Raw(micros as u64), span.end as usize + 1)
            }
            Value::Int(column) => {
                let (value, end) = number::scan_integer(self.bytes, start)?;
                i32::try_from(value).ok()?;
                (column, Raw(value as u64), end)
            }
            Value::BigInt(column) => match number::scan_integer(self.bytes, start) {
                Some((value, end)) => (column, Raw(value as u64), end),
                // It may have 19 digits, as the numbers of some producers always do.
                None => return self.column(column, start),
            },
            Value::Double(column) => match number::scan_double(self.bytes, start)? {
                Scanned::Value(value, end) => (column, Raw(value.to_bits()), end),
                Scanned::Unusual => return self.column(column, start),
            },
            Value::Boolean(column) => {
                let rest = &self.bytes[start..];
                let value = rest.starts_with(b"true");
                if !value && !rest.starts_with(b"false") {
                    return None;
                }
                (column, Raw(value.into()), start + if value { 4 } else { 5 })
            }
            Value::Null => return Some(start),
            Value::Column(column) => return self.column(column, start),
            Value::Skipped => {
                let mut cursor = Cursor::new(self.bytes);
                cursor.at = start;
                cursor.skip_value().ok()?;
                return Some(cursor.at);
            }
            Value::End(_) => return None,
        };
        self.raw[column] = raw;
        Some(end)
    }

    /// Reads a value of a column the general way.
    fn column(&mut self, column: usize, start: usize) -> Option<usize> {
        let mut cursor = Cursor::new(self.bytes);
        cursor.at = start;
        let text = match self.text {
            Some(text) => text,
            None => simdutf8::basic::from_utf8(self.bytes).ok()?,
        };
        self.text = Some(text);
        let slot = read(&self.columns[column].kind, &mut cursor, text).ok()?;
        match slot {
            // The layout says that there is a value.
            Slot::Fault(_) | Slot::Null | Slot::Absent => return None,
            Slot::Int(value) => self.raw[column] = Raw(value as u64),
            Slot::Double(value) => self.raw[column] = Raw(value.to_bits()),
            Slot::Boolean(value) => self.raw[column] = Raw(value.into()),
            Slot::Text(span) => self.raw[column] = Raw::text(span),
            Slot::Decimal(_) => {}
        }
        self.slots[column] = slot;
        Some(cursor.at)
    }

    /// The rest of a string whose opening quote has been passed.
    #[inline]
    fn string(&self, start: usize) -> Option<TextSpan> {
        if self.marks.plain() {
            return Some(TextSpan {
                start: start as u32,
                end: self.marks.quote(start)? as u32,
                form: TextForm::Plain,
            });
        }
        let mut cursor = Cursor::new(self.bytes);
        cursor.at = start;
        cursor.string().ok()
    }
}

/// Which of the columns are built.
pub(crate) fn wanted(columns: usize, built: impl Iterator<Item = usize>) -> Arc<[bool]> {
    let mut wanted = vec![false; columns];
    for column in built {
        wanted[column] = true;
    }
    wanted.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_compared_to_the_last_byte() {
        let text: Vec<u8> = (0..60).collect();
        for at in 0..20 {
            for length in 0..40 {
                let gap = Gap::new(text[at..at + length].into());
                assert!(gap.stands(&text, at));
                assert!(gap.stands(&text[..at + length], at));
                if length > 0 {
                    assert!(!gap.stands(&text[..at + length - 1], at));
                }
                for wrong in at..at + length {
                    let mut other = text.clone();
                    other[wrong] ^= 0x80;
                    assert!(!gap.stands(&other, at), "{wrong} of {length}");
                }
            }
        }
    }
}
