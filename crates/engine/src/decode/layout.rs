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

use super::{
    Column, Kind, Slot, moment,
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
    /// Nothing more: the bytes before it say that the column is null, or that a field without a column is.
    Null(Option<usize>),
    /// A value of a column, read as the general decoder reads it.
    Column(usize),
    /// A value without a column.
    Skipped,
    /// The event is over; the layout's number.
    End(usize),
}

#[derive(Debug)]
struct Edge {
    before: Box<[u8]>,
    value: Value,
    to: usize,
}

/// The tree of layouts.
#[derive(Debug)]
pub(crate) struct Layouts {
    /// The edges from each place; the root comes first.
    nodes: Vec<Vec<Edge>>,
    /// Columns that a layout does not have.
    absent: Vec<Box<[usize]>>,
    coins: u32,
    days: moment::Days,
}

impl Default for Layouts {
    fn default() -> Self {
        Self {
            nodes: vec![Vec::new()],
            absent: Vec::new(),
            coins: FIRST_COINS,
            days: moment::Days::default(),
        }
    }
}

impl Layouts {
    /// Reads an event along a layout into the slots. `false`: no layout fits, and what is in the slots means nothing.
    #[inline]
    pub(crate) fn walk(&mut self, columns: &[Column], text: &str, slots: &mut [Slot]) -> bool {
        let bytes = text.as_bytes();
        let strings = Strings::of(bytes);
        let (mut node, mut at) = (0, 0);
        'node: loop {
            for edge in &self.nodes[node] {
                if !begins_with(&bytes[at..], &edge.before) {
                    continue;
                }
                let start = at + edge.before.len();
                if let Value::End(layout) = edge.value {
                    if start != bytes.len() {
                        continue;
                    }
                    for &column in &self.absent[layout] {
                        slots[column] = Slot::Absent;
                    }
                    self.coins = (self.coins + 1).min(MOST_COINS);
                    return true;
                }
                let place = Place {
                    text,
                    start,
                    strings,
                };
                if let Some(end) = place.read(edge.value, columns, slots, &mut self.days) {
                    (node, at) = (edge.to, end);
                    continue 'node;
                }
            }
            self.coins = (self.coins + 1).min(MOST_COINS);
            return false;
        }
    }

    /// Knows no layout and learns none until coins come in.
    #[cfg(test)]
    pub(crate) fn forget(&mut self) {
        *self = Self {
            coins: 0,
            ..Self::default()
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
            self.absent.clear();
        }
        let mut node = 0;
        for (before, step) in steps {
            let known = self.nodes[node].iter().find(|edge| {
                let same = match step {
                    Step::Value(value) => edge.value == value,
                    // Along one path the same columns are absent.
                    Step::End(_) => matches!(edge.value, Value::End(_)),
                };
                same && *edge.before == *before
            });
            if let Some(edge) = known {
                node = edge.to;
                continue;
            }
            let value = match step {
                Step::Value(value) => value,
                Step::End(absent) => {
                    self.absent.push(absent);
                    Value::End(self.absent.len() - 1)
                }
            };
            node = match self.nodes[node].len() {
                MOST_EDGES => return,
                _ => {
                    let to = self.nodes.len();
                    self.nodes.push(Vec::new());
                    self.nodes[node].push(Edge { before, value, to });
                    to
                }
            };
        }
    }
}

enum Step {
    Value(Value),
    End(Box<[usize]>),
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
            let start = cursor.at;
            cursor.skip_value().ok()?;
            let kind = column.map(|column| (column, &columns[column].kind));
            // The quote before a string, and a null itself, belong to what stands before.
            let (value, end) = match (token, kind) {
                (b'n', _) => (Value::Null(column), start + 4),
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
    let absent = seen.iter().enumerate();
    let absent = absent.filter_map(|(column, seen)| (!seen).then_some(column));
    steps.push((bytes[from..].into(), Step::End(absent.collect())));
    Some(steps)
}

/// Whether a search for the closing quote is enough to pass over a string of this event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strings {
    /// There is no backslash and no control character anywhere.
    Plain,
    Any,
}

impl Strings {
    #[inline]
    fn of(bytes: &[u8]) -> Self {
        // Whole blocks without an early end become vector instructions.
        let is_special = |byte: u8| u8::from(byte < 0x20) | u8::from(byte == b'\\');
        let (blocks, rest) = bytes.as_chunks::<32>();
        let mut found = [0_u8; 32];
        for block in blocks {
            for (found, &byte) in found.iter_mut().zip(block) {
                *found |= is_special(byte);
            }
        }
        let special = found.contains(&1) || rest.iter().any(|&byte| is_special(byte) == 1);
        match special {
            true => Self::Any,
            false => Self::Plain,
        }
    }
}

/// Where a value begins.
struct Place<'a> {
    text: &'a str,
    start: usize,
    strings: Strings,
}

impl Place<'_> {
    /// Reads a value into its slot and returns where it ends.
    #[inline]
    fn read(
        &self,
        value: Value,
        columns: &[Column],
        slots: &mut [Slot],
        days: &mut moment::Days,
    ) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let (column, slot, end) = match value {
            Value::Passed => return self.string().map(|span| span.end as usize + 1),
            Value::Text(column) => {
                let span = self.string()?;
                (column, Slot::Text(span), span.end as usize + 1)
            }
            Value::Timestamp(column) => {
                let span = self.string()?;
                if span.form == TextForm::Escaped {
                    return None;
                }
                let written = &bytes[span.start as usize..span.end as usize];
                let micros = moment::timestamp_with(written, days).ok()?;
                (column, Slot::Int(micros), span.end as usize + 1)
            }
            Value::Int(column) => {
                let (value, end) = number::scan_integer(bytes, self.start)?;
                i32::try_from(value).ok()?;
                (column, Slot::Int(value), end)
            }
            Value::BigInt(column) => match number::scan_integer(bytes, self.start) {
                Some((value, end)) => (column, Slot::Int(value), end),
                // It may have 19 digits, as the numbers of some producers always do.
                None => return self.column(column, columns, slots),
            },
            Value::Double(column) => match number::scan_double(bytes, self.start)? {
                Scanned::Value(value, end) => (column, Slot::Double(value), end),
                Scanned::Unusual => return self.column(column, columns, slots),
            },
            Value::Boolean(column) => {
                let rest = &bytes[self.start..];
                let value = rest.starts_with(b"true");
                if !value && !rest.starts_with(b"false") {
                    return None;
                }
                let end = self.start + if value { 4 } else { 5 };
                (column, Slot::Boolean(value), end)
            }
            Value::Null(column) => {
                if let Some(column) = column {
                    slots[column] = Slot::Null;
                }
                return Some(self.start);
            }
            Value::Column(column) => return self.column(column, columns, slots),
            Value::Skipped => {
                let mut cursor = Cursor::new(bytes);
                cursor.at = self.start;
                cursor.skip_value().ok()?;
                return Some(cursor.at);
            }
            Value::End(_) => return None,
        };
        slots[column] = slot;
        Some(end)
    }

    /// Reads a value of a column the general way.
    fn column(&self, column: usize, columns: &[Column], slots: &mut [Slot]) -> Option<usize> {
        let mut cursor = Cursor::new(self.text.as_bytes());
        cursor.at = self.start;
        let slot = read(&columns[column].kind, &mut cursor, self.text).ok()?;
        match slot {
            Slot::Fault(_) => return None,
            // Whether it may be null was not asked here.
            Slot::Null if !columns[column].optional => return None,
            slot => slots[column] = slot,
        }
        Some(cursor.at)
    }

    /// The rest of a string whose opening quote has been passed.
    #[inline]
    fn string(&self) -> Option<TextSpan> {
        let bytes = self.text.as_bytes();
        match self.strings {
            Strings::Plain => Some(TextSpan {
                start: self.start as u32,
                end: closing_quote(bytes, self.start)? as u32,
                form: TextForm::Plain,
            }),
            Strings::Any => {
                let mut cursor = Cursor::new(bytes);
                cursor.at = self.start;
                cursor.string().ok()
            }
        }
    }
}

/// The first quote from `at` on: by words where most strings end, then by vectors.
#[inline]
fn closing_quote(bytes: &[u8], at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    const WORDS: usize = 3;
    let mut from = at;
    for _ in 0..WORDS {
        let Some(chunk) = bytes[from..].first_chunk::<8>() else {
            break;
        };
        let quote = u64::from_le_bytes(*chunk) ^ (ONES * b'"' as u64);
        // The lowest high bit that is set stands for a quote; a borrow only spoils those above it.
        let hits = quote.wrapping_sub(ONES) & !quote & HIGHS;
        if hits != 0 {
            return Some(from + hits.trailing_zeros() as usize / 8);
        }
        from += 8;
    }
    memchr::memchr(b'"', &bytes[from..]).map(|found| from + found)
}

/// `starts_with` for the lengths that keys have, without a call.
#[inline]
fn begins_with(bytes: &[u8], before: &[u8]) -> bool {
    let length = before.len();
    if bytes.len() < length {
        return false;
    }
    let word = |bytes: &[u8], at: usize| -> Option<u64> {
        bytes
            .get(at..)?
            .first_chunk()
            .map(|chunk| u64::from_le_bytes(*chunk))
    };
    if length < 8 {
        return bytes[..length] == *before;
    }
    let mut at = 0;
    while at + 8 < length {
        if word(bytes, at) != word(before, at) {
            return false;
        }
        at += 8;
    }
    // The last word overlaps the one before it.
    word(bytes, length - 8) == word(before, length - 8)
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
    fn a_quote_is_found_wherever_it_stands() {
        for length in 0..70 {
            let mut text = vec![b'a'; 80];
            text[length] = b'"';
            text[length + 1] = b'"';
            for at in 0..=length {
                assert_eq!(closing_quote(&text, at), Some(length));
            }
        }
        assert_eq!(closing_quote(&[0xA2; 40], 0), None);
        assert_eq!(closing_quote(b"#!#!#!#!\"", 0), Some(8));
    }

    #[test]
    fn beginnings_are_compared_to_the_last_byte() {
        let text: Vec<u8> = (0..40).collect();
        for length in 0..40 {
            assert!(begins_with(&text, &text[..length]));
            for wrong in 0..length {
                let mut other = text[..length].to_vec();
                other[wrong] ^= 0x80;
                assert!(!begins_with(&text, &other), "{wrong} of {length}");
            }
            assert!(!begins_with(&text[..length], &text[..length + 1]));
        }
    }
}
