//! Layouts: what stands between the values of events that were taken before.
//!
//! Events of one producer have the same bytes between their values. This tree remembers them: an edge is the bytes
//! before a value and how that value is read, a path from the root to an end is a layout. Walking down is comparing bytes
//! and reading values; keys are not looked at, white space is not looked for, and which columns are missing is known at
//! the end. Producers with other orders, spellings or optional fields are other branches. Strings that no column wants and that
//! are the same in event after event are compared with what they were, together with what stands around them.
//!
//! Owns the tree, and reading one event along it. A walk takes an event only if the general decoder takes it with the same
//! values: values are read by the same functions or by stricter ones, and whatever is unforeseen ends the walk, so that
//! the general decoder decides. Does not own errors: it never refuses an event, it only does not know it.

use std::cell::Cell;

use wide::u8x16;

use super::{
    Column, Kind, Slot, moment,
    number::{self, Scanned},
    processor::{Processor, opaque},
    read,
    syntax::{Cursor, TextForm, TextSpan},
};

/// Edges from one place; events with more differences there are decoded without a layout.
const MOST_BESIDE: usize = 8;
/// Edges of the tree. A full tree is begun anew when there is credit for it.
const MOST_EDGES: usize = 1024;
/// Values of one event beyond which it is not learned.
const MOST_VALUES: usize = 256;
/// Learning costs about as much as decoding, so it is paid for: with these coins at first ...
const FIRST_COINS: u32 = 256;
/// ... and at most; one for each event that was read along a layout, ...
const MOST_COINS: u32 = 1024;
/// ... and this many for one that is learned. An event that was not known brings one too, so that a stream which changes
/// is learned again, and one that always changes costs a sixteenth more.
const PRICE: u32 = 16;
/// Events in a row that followed no layout, from which on only every so many are tried.
const PATIENCE: u32 = 32;
const TRIED: u32 = 32;
/// Every so many events one is decoded the general way although its layout may be known, to see which strings stay the same.
/// Tests and fuzzers have few events.
const LOOKED_AT: u32 = if cfg!(any(test, fuzzing)) { 3 } else { 1024 };
/// A string is taken for one that stays when so many events in a row that were looked at had it as the one before, ...
const STAYS: u32 = 4;
/// ... and no longer when so many in a row had another.
const CHANGED: u32 = 2;
/// Bytes that are compared at once at most.
const MOST_COMPARED: usize = 1024;
/// No edge.
const NONE: u32 = u32::MAX;

/// A column of the schema, and its place in a row. What no decoded column wants has the last place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    column: u16,
    place: u16,
}

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// A string that no column wants.
    Passed,
    /// A string, kept where it is.
    Text(Spot),
    Timestamp(Spot),
    /// A timestamp as a number of units, each of so many microseconds.
    Epoch(Spot, u32),
    Int(Spot),
    BigInt(Spot),
    Double(Spot),
    Boolean(Spot),
    /// Nothing more: the bytes before it say that it is null, the layout which column that is.
    Null,
    /// A value of a column, read as the general decoder reads it.
    Column(Spot),
    /// A number without a column.
    Number,
    /// Another value without a column.
    Skipped,
    /// The event is over; the layout's number.
    End(u32),
}

/// The bytes before a value, how it is read, and where to go from there.
#[derive(Debug)]
struct Edge {
    before: Gap,
    value: Value,
    /// The first edge behind the value.
    to: u32,
    /// The next edge from the same place.
    beside: u32,
    length: Length,
    /// What was seen of its value, if that is a string that no column wants.
    seen: Seen,
    /// It stands for other edges, one behind the other, whose values stay the same: how many events in a row that were looked at
    /// had others.
    shortcut: Option<u32>,
}

/// A string in the events that were looked at.
#[derive(Debug, Default)]
struct Seen {
    text: Box<[u8]>,
    /// How often in a row it came again.
    times: u32,
}

impl Seen {
    fn look(&mut self, text: &[u8]) {
        if *self.text == *text {
            self.times += 1;
        } else {
            self.times = 0;
            // What is too long to be compared need not be kept.
            self.text = text[..text.len().min(MOST_COMPARED)].into();
        }
    }
}

/// How long the values of an edge have been of late.
///
/// Where a value ends is known only after it was read, and what follows could not be begun before. Most values are as long as
/// the one before, so a processor that guesses right which way a comparison goes can begin at once.
#[derive(Debug, Default)]
struct Length {
    last: Cell<usize>,
    /// How often in a row it came.
    times: Cell<u32>,
}

impl Length {
    /// How often a length has to come in a row to be expected.
    const STEADY: u32 = 3;

    /// The end of a value, which is `end`.
    #[inline(always)]
    fn follow(&self, start: usize, end: usize) -> usize {
        if self.times.get() >= Self::STEADY {
            let expected = start + self.last.get();
            if expected == end {
                // Seen through, it would be replaced by what it is compared with.
                return opaque(expected);
            }
            self.times.set(0);
        }
        let length = end - start;
        if self.last.replace(length) == length {
            self.times.set(self.times.get() + 1);
        } else {
            self.times.set(0);
        }
        end
    }
}

/// The bytes before a value, the first of them ready to be compared at once.
#[derive(Debug)]
struct Gap {
    first: u8x16,
    /// A bit for each byte of `first` that does not count.
    ignored: u32,
    bytes: Box<[u8]>,
}

/// What is kept of one column in a row: a number's bits, a truth, or where a string stands. Which of them it is, the
/// column's type says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw(pub(crate) u64);

impl Raw {
    const ESCAPED: u64 = 1 << 63;

    #[inline]
    pub(crate) fn text(span: TextSpan) -> Self {
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

/// The tree of layouts.
#[derive(Debug)]
pub(crate) struct Layouts {
    edges: Vec<Edge>,
    /// The first edge from the root.
    root: u32,
    /// Events so far, in order to look at one now and then.
    events: u32,
    /// For each layout, the places that have no value.
    absent: Vec<Box<[u16]>>,
    /// The place of each column in a row.
    places: Box<[u16]>,
    /// How many places are kept; the one behind them is for what is not.
    kept: u16,
    /// Events in a row that followed no layout.
    misses: u32,
    coins: u32,
    most_coins: u32,
    days: moment::Days,
}

impl Layouts {
    /// No layouts yet. `places` says for each column of the schema where it stands in a row, if it is kept.
    pub(crate) fn new(places: &[Option<usize>]) -> Self {
        let kept = places.iter().flatten().count();
        // More columns than fit into 16 bits are never learned.
        let narrow = |place: usize| u16::try_from(place).unwrap_or(u16::MAX);
        Self {
            edges: Vec::new(),
            root: NONE,
            events: 0,
            absent: Vec::new(),
            places: places
                .iter()
                .map(|place| narrow(place.unwrap_or(kept)))
                .collect(),
            kept: narrow(kept),
            misses: 0,
            coins: FIRST_COINS,
            most_coins: MOST_COINS,
            days: moment::Days::default(),
        }
    }

    /// Reads an event along a layout into `row`, and returns the places that have no value; nothing when no layout fits.
    /// Values that take more than 64 bits are left in `slots`.
    #[inline(always)]
    pub(super) fn walk<P: Processor>(
        &mut self,
        columns: &[Column],
        bytes: &[u8],
        row: &mut [Raw],
        slots: &mut [Slot],
    ) -> Option<&[u16]> {
        self.events = self.events.wrapping_add(1);
        if self.events.is_multiple_of(LOOKED_AT) {
            return None;
        }
        self.misses = self.misses.wrapping_add(1);
        if self.misses > PATIENCE && !self.misses.is_multiple_of(TRIED) {
            return None;
        }
        self.coins = (self.coins + 1).min(self.most_coins);
        let general = General { columns, bytes };
        let mut text = None;
        let (mut next, mut at) = (self.root, 0);
        loop {
            let edge = self.edges.get(next as usize)?;
            if !edge.before.stands(bytes, at) {
                next = edge.beside;
                continue;
            }
            let start = at + edge.before.bytes.len();
            let read = match edge.value {
                Value::Passed => string::<P>(general, start, &mut text).map(after),
                Value::Text(spot) => string::<P>(general, start, &mut text).and_then(|span| {
                    *row.get_mut(spot.place as usize)? = Raw::text(span);
                    Some(after(span))
                }),
                Value::Timestamp(spot) => match string::<P>(general, start, &mut text) {
                    Some(span) if span.form == TextForm::Plain => {
                        let written = bytes.get(start..span.end as usize)?;
                        match moment::timestamp_with(written, &mut self.days) {
                            Ok(micros) => {
                                *row.get_mut(spot.place as usize)? = Raw(micros as u64);
                                Some(after(span))
                            }
                            Err(_) => None,
                        }
                    }
                    _ => None,
                },
                Value::BigInt(spot) => match number::scan_integer(bytes, start) {
                    Some((value, end)) => {
                        *row.get_mut(spot.place as usize)? = Raw(value as u64);
                        Some(end)
                    }
                    // It may have 19 digits, as the numbers of some producers always do.
                    None => general.column(spot, start, &mut text, row, slots),
                },
                Value::Int(spot) => number::scan_integer(bytes, start).and_then(|(value, end)| {
                    i32::try_from(value).ok()?;
                    *row.get_mut(spot.place as usize)? = Raw(value as u64);
                    Some(end)
                }),
                Value::Double(spot) => match number::scan_double(bytes, start) {
                    Some(Scanned::Value(value, end)) => {
                        *row.get_mut(spot.place as usize)? = Raw(value.to_bits());
                        Some(end)
                    }
                    Some(Scanned::Unusual) => general.column(spot, start, &mut text, row, slots),
                    None => None,
                },
                Value::Boolean(spot) => {
                    let rest = bytes.get(start..)?;
                    let value = rest.starts_with(b"true");
                    *row.get_mut(spot.place as usize)? = Raw(value.into());
                    if value {
                        Some(start + 4)
                    } else {
                        rest.starts_with(b"false").then_some(start + 5)
                    }
                }
                Value::Epoch(spot, micros) => match number::scan_integer(bytes, start) {
                    Some((value, end)) => value
                        .checked_mul(micros.into())
                        .and_then(moment::checked)
                        .and_then(|value| {
                            *row.get_mut(spot.place as usize)? = Raw(value as u64);
                            Some(end)
                        }),
                    None => general.column(spot, start, &mut text, row, slots),
                },
                Value::Null => Some(start),
                Value::Column(spot) => general.column(spot, start, &mut text, row, slots),
                Value::Number => match number::scan_integer(bytes, start) {
                    Some((_, end)) => Some(end),
                    None => general.skipped(start, &mut text),
                },
                Value::Skipped => general.skipped(start, &mut text),
                Value::End(layout) => {
                    if start == bytes.len() {
                        self.misses = 0;
                        return self.absent.get(layout as usize).map(|absent| &**absent);
                    }
                    None
                }
            };
            (next, at) = match read {
                Some(end) => (edge.to, edge.length.follow(start, end)),
                None => (edge.beside, at),
            };
        }
    }

    /// Never learns a layout.
    pub(crate) fn never_learn(&mut self) {
        (self.coins, self.most_coins) = (0, 0);
    }

    /// Knows no layout and learns none until coins come in.
    #[cfg(test)]
    pub(crate) fn forget(&mut self) {
        self.clear();
        (self.coins, self.misses) = (0, 0);
    }

    fn clear(&mut self) {
        self.edges.clear();
        self.absent.clear();
        self.root = NONE;
    }

    /// The first edge behind one, or behind the root.
    fn first(&mut self, from: Option<u32>) -> &mut u32 {
        match from {
            None => &mut self.root,
            Some(from) => &mut self.edges[from as usize].to,
        }
    }

    /// Remembers the layout of an event that was taken, if that is paid for.
    pub(crate) fn learn(
        &mut self,
        columns: &[Column],
        text: &str,
        find: impl Fn(&str) -> Option<usize>,
    ) {
        if self.coins < PRICE || columns.len() >= usize::from(u16::MAX) {
            return;
        }
        self.coins -= PRICE;
        let Some(steps) = steps(columns, &self.places, self.kept, text, find) else {
            return;
        };
        if self.edges.len() + 2 * steps.len() > MOST_EDGES {
            self.clear();
        }
        // The edges that are followed.
        let mut path: Vec<u32> = Vec::with_capacity(steps.len());
        let mut texts = Vec::with_capacity(steps.len());
        for Step {
            before,
            action,
            text,
        } in steps
        {
            let from = path.last().copied();
            let mut last = NONE;
            let mut beside = *self.first(from);
            let mut count = 0;
            while beside != NONE {
                let edge = &self.edges[beside as usize];
                let same = match action {
                    Action::Value(value) => edge.value == value,
                    // Along one path the same columns are absent.
                    Action::End(_) => matches!(edge.value, Value::End(_)),
                };
                if same && edge.shortcut.is_none() && *edge.before.bytes == *before {
                    break;
                }
                (last, beside) = (beside, edge.beside);
                count += 1;
            }
            texts.push(text);
            if beside != NONE {
                path.push(beside);
                continue;
            }
            if count == MOST_BESIDE {
                return;
            }
            let value = match action {
                Action::Value(value) => value,
                Action::End(absent) => {
                    self.absent.push(absent);
                    Value::End(self.absent.len() as u32 - 1)
                }
            };
            let new = self.add(Gap::new(before), value, NONE);
            match last {
                NONE => *self.first(from) = new,
                last => self.edges[last as usize].beside = new,
            }
            path.push(new);
        }
        self.look(&path, &texts);
    }

    fn add(&mut self, before: Gap, value: Value, to: u32) -> u32 {
        let new = self.edges.len() as u32;
        self.edges.push(Edge {
            before,
            value,
            to,
            beside: NONE,
            length: Length::default(),
            seen: Seen::default(),
            shortcut: None,
        });
        new
    }

    /// Looks at the strings of an event that no column wants, `texts` along the edges of `path`, and goes past those that stay the
    /// same by one edge.
    fn look(&mut self, path: &[u32], texts: &[&[u8]]) {
        for (edge, text) in path.iter().zip(texts) {
            let edge = &mut self.edges[*edge as usize];
            if edge.value == Value::Passed {
                edge.seen.look(text);
            }
        }
        let stays = |edges: &[Edge], at: usize| {
            let edge = &edges[path[at] as usize];
            edge.value == Value::Passed && edge.seen.times >= STAYS
        };
        // From the back, so that a way past some leads to the way past those behind them.
        let mut to = path.len();
        while to > 0 {
            to -= 1;
            let mut at = to;
            while at > 0 && stays(&self.edges, at - 1) {
                at -= 1;
            }
            self.go_past(path, at, to);
            // What lies between is gone past already, by whoever comes that way.
            to = at;
        }
    }

    /// Sees to it that an edge leads from place `at` of a path to the value at place `to` if there are some between, whose strings
    /// stay the same, and that no other does for long.
    fn go_past(&mut self, path: &[u32], at: usize, to: usize) {
        let from = at.checked_sub(1).map(|before| path[before]);
        let mut bytes = Vec::new();
        for passed in &path[at..to] {
            let edge = &self.edges[*passed as usize];
            bytes.extend_from_slice(&edge.before.bytes);
            bytes.extend_from_slice(&edge.seen.text);
            bytes.push(b'"');
        }
        let target = &self.edges[path[to] as usize];
        bytes.extend_from_slice(&target.before.bytes);
        let (value, behind) = (target.value, target.to);
        let wanted = at < to && bytes.len() <= MOST_COMPARED;
        let first = *self.first(from);
        if let Some(edge) = self.edges.get_mut(first as usize)
            && let Some(changed) = &mut edge.shortcut
        {
            if wanted && *edge.before.bytes == *bytes {
                *changed = 0;
                edge.to = behind;
            } else if *changed + 1 < CHANGED {
                *changed += 1;
            } else {
                *self.first(from) = edge.beside;
            }
        } else if wanted {
            let new = self.add(Gap::new(bytes.into()), value, behind);
            let edge = &mut self.edges[new as usize];
            (edge.shortcut, edge.beside) = (Some(0), first);
            *self.first(from) = new;
        }
    }
}

/// Behind the closing quote.
#[inline]
fn after(span: TextSpan) -> usize {
    span.end as usize + 1
}

/// The rest of a string whose opening quote has been passed.
///
/// Looks at each byte once: what is neither a quote nor a backslash, and no control character nor beyond ASCII, needs no
/// more care.
#[inline(always)]
fn string<'a, P: Processor>(
    general: General<'a>,
    start: usize,
    text: &mut Option<&'a str>,
) -> Option<TextSpan> {
    let end = P::careful(general.bytes, start);
    if general.bytes.get(end) != Some(&b'"') {
        return general.string(start, text);
    }
    Some(TextSpan {
        start: start as u32,
        end: end as u32,
        form: TextForm::Plain,
    })
}

/// The way of the general decoder, for what a layout does not foresee. All of it is off the fast path.
#[derive(Clone, Copy)]
struct General<'a> {
    columns: &'a [Column],
    bytes: &'a [u8],
}

impl<'a> General<'a> {
    /// The event as text, which is looked at once.
    fn text(self, known: &mut Option<&'a str>) -> Option<&'a str> {
        if known.is_none() {
            *known = simdutf8::basic::from_utf8(self.bytes).ok();
        }
        *known
    }

    /// Where a value ends, if it is text.
    fn checked(self, start: usize, end: usize, text: &mut Option<&'a str>) -> Option<usize> {
        if text.is_none() && !self.bytes[start..end].is_ascii() {
            self.text(text)?;
        }
        Some(end)
    }

    #[cold]
    #[inline(never)]
    fn string(self, start: usize, text: &mut Option<&'a str>) -> Option<TextSpan> {
        let mut cursor = Cursor::new(self.bytes);
        cursor.at = start;
        let span = cursor.string().ok()?;
        self.checked(start, cursor.at, text)?;
        Some(span)
    }

    #[cold]
    #[inline(never)]
    fn skipped(self, start: usize, text: &mut Option<&'a str>) -> Option<usize> {
        let mut cursor = Cursor::new(self.bytes);
        cursor.at = start;
        cursor.skip_value().ok()?;
        self.checked(start, cursor.at, text)
    }

    /// Reads a value of a column and returns where it ends.
    #[cold]
    #[inline(never)]
    fn column(
        self,
        spot: Spot,
        start: usize,
        text: &mut Option<&'a str>,
        row: &mut [Raw],
        slots: &mut [Slot],
    ) -> Option<usize> {
        let column = usize::from(spot.column);
        let text = self.text(text)?;
        let mut cursor = Cursor::new(self.bytes);
        cursor.at = start;
        let slot = read(&self.columns[column].kind, &mut cursor, text).ok()?;
        // The layout says that there is a value.
        if let Slot::Fault(_) | Slot::Null | Slot::Absent = slot {
            return None;
        }
        slots[column] = slot;
        row[usize::from(spot.place)] = slot.raw();
        Some(cursor.at)
    }
}

struct Step<'t> {
    /// The bytes before a value.
    before: Box<[u8]>,
    action: Action,
    /// The rest of a string behind its opening quote, up to the closing one; of other values nothing.
    text: &'t [u8],
}

enum Action {
    Value(Value),
    /// The places that have no value.
    End(Box<[u16]>),
}

/// The way through a valid event, value by value. `None` for an event that names a column twice, or has too many values.
fn steps<'t>(
    columns: &[Column],
    places: &[u16],
    kept: u16,
    text: &'t str,
    find: impl Fn(&str) -> Option<usize>,
) -> Option<Vec<Step<'t>>> {
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
            let kind = column.map(|column| {
                let spot = Spot {
                    column: column as u16,
                    place: places[column],
                };
                (spot, &columns[column].kind)
            });
            // The quote before a string, and a null itself, belong to what stands before.
            let (value, end) = match (token, kind) {
                (b'n', _) => (Value::Null, start + 4),
                (b'"', None) => (Value::Passed, start + 1),
                (b'"', Some((spot, Kind::Text))) if spot.place < kept => {
                    (Value::Text(spot), start + 1)
                }
                (b'"', Some((_, Kind::Text))) => (Value::Passed, start + 1),
                (b'"', Some((spot, Kind::Timestamp(_)))) => (Value::Timestamp(spot), start + 1),
                (b'"', Some((spot, _))) => (Value::Column(spot), start),
                (_, Some((spot, Kind::Timestamp(Some(unit))))) => match moment::micros(*unit) {
                    Some(micros) => (Value::Epoch(spot, micros), start),
                    None => (Value::Column(spot), start),
                },
                (_, Some((spot, Kind::Int))) => (Value::Int(spot), start),
                (_, Some((spot, Kind::BigInt))) => (Value::BigInt(spot), start),
                (_, Some((spot, Kind::Double))) => (Value::Double(spot), start),
                (_, Some((spot, Kind::Boolean))) => (Value::Boolean(spot), start),
                (_, Some((spot, _))) => (Value::Column(spot), start),
                (b'-' | b'0'..=b'9', None) => (Value::Number, start),
                (_, None) => (Value::Skipped, start),
            };
            let is_text = end == start + 1;
            steps.push(Step {
                before: bytes[from..end].into(),
                action: Action::Value(value),
                text: if is_text {
                    &bytes[end..cursor.at - 1]
                } else {
                    &[]
                },
            });
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
    let absent = places
        .iter()
        .zip(&present)
        .filter(|(place, present)| **place < kept && !**present)
        .map(|(place, _)| *place)
        .collect();
    steps.push(Step {
        before: bytes[from..].into(),
        action: Action::End(absent),
        text: &[],
    });
    Some(steps)
}

impl Gap {
    fn new(bytes: Box<[u8]>) -> Self {
        let mut first = [0; 16];
        let length = bytes.len().min(16);
        first[..length].copy_from_slice(&bytes[..length]);
        Self {
            first: u8x16::new(first),
            ignored: (1 << 16) - (1 << length),
            bytes,
        }
    }

    /// Whether these bytes stand at `at`.
    #[inline(always)]
    fn stands(&self, bytes: &[u8], at: usize) -> bool {
        let Some(rest) = bytes.get(at..) else {
            return false;
        };
        match rest.first_chunk::<16>() {
            Some(lane) => {
                let equal = u8x16::new(*lane).simd_eq(self.first).to_bitmask();
                equal | self.ignored == 0xFFFF
                    && (self.bytes.len() <= 16 || begins(rest, &self.bytes))
            }
            // A call would take longer than the few bytes that there are.
            None => {
                rest.len() >= self.bytes.len()
                    && rest
                        .iter()
                        .zip(&self.bytes)
                        .all(|(one, other)| one == other)
            }
        }
    }
}

/// Whether `rest` begins with `bytes`, more than 16 of which the first 16 are known to be there. In place, since calling
/// `memcmp` takes as long as comparing.
#[inline(always)]
fn begins(rest: &[u8], bytes: &[u8]) -> bool {
    const LANE: usize = 32;
    let Some(rest) = rest.get(..bytes.len()) else {
        return false;
    };
    let (Some(last), Some(wanted)) = (rest.last_chunk::<LANE>(), bytes.last_chunk::<LANE>()) else {
        return rest.last_chunk::<16>() == bytes.last_chunk::<16>();
    };
    let (rest, bytes) = (rest.as_chunks::<LANE>().0, bytes.as_chunks::<LANE>().0);
    last == wanted && rest.iter().zip(bytes).all(|(lane, wanted)| lane == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::processor::Any;

    /// Decodes an event as a decoder without columns does; whether its layout was known.
    fn decode(layouts: &mut Layouts, text: &str) -> bool {
        let walked = layouts.walk::<Any>(&[], text.as_bytes(), &mut [Raw::default()], &mut []);
        let known = walked.is_some();
        if !known {
            layouts.learn(&[], text, |_| None);
        }
        known
    }

    fn shortcuts(layouts: &Layouts) -> Vec<&str> {
        let edges = layouts.edges.iter();
        let shortcuts = edges.filter(|edge| edge.shortcut.is_some());
        let bytes = shortcuts.map(|edge| std::str::from_utf8(&edge.before.bytes).unwrap());
        bytes.collect()
    }

    #[test]
    fn strings_that_stay_the_same_are_gone_past() {
        let mut layouts = Layouts::new(&[]);
        let event = |number: u32, agent: &str| {
            format!(
                r#"{{"host":"a\"ü","n":{number},"id":"x{number}","agent":"{agent}","zone":""}}"#
            )
        };
        for number in 0..40 {
            decode(&mut layouts, &event(number, "curl"));
        }
        let one = r#","agent":"curl","zone":""}"#;
        let found = shortcuts(&layouts);
        assert!(found.contains(&one), "{found:?}");
        assert!(found.contains(&r#"{"host":"a\"ü","n":"#), "{found:?}");
        // Whatever is not the same to the last byte goes the other way, or is not known.
        for at in 0..=event(7, "curl").len() {
            let event = event(7, "curl");
            let Some((before, behind)) = event.split_at_checked(at) else {
                continue;
            };
            for changed in [before.to_owned(), format!("{before}!{behind}")] {
                let walk = |layouts: &mut Layouts| {
                    layouts.events = 0;
                    let row = &mut [Raw::default()];
                    layouts
                        .walk::<Any>(&[], changed.as_bytes(), row, &mut [])
                        .is_some()
                };
                let mut fresh = Layouts::new(&[]);
                fresh.learn(&[], &event, |_| None);
                assert_eq!(walk(&mut layouts), walk(&mut fresh), "{changed}");
            }
        }
        layouts.misses = 0;
        for number in 0..40 {
            decode(&mut layouts, &event(number, &format!("agent {number}")));
        }
        assert_eq!(layouts.edges[layouts.root as usize].shortcut, Some(0));
        let passed = layouts.edges.iter().any(|edge| {
            edge.to != NONE && *layouts.edges[edge.to as usize].before.bytes == *one.as_bytes()
        });
        assert!(!passed, "nobody comes by the former one any more");
    }

    #[test]
    fn beginnings_are_compared_to_the_last_byte() {
        let text: Vec<u8> = (0..130).collect();
        for at in 0..20 {
            for length in 0..110 {
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
