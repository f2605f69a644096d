//! The grammar of RFC 8259, checked in one pass and without recursion.
//!
//! Owns where a value begins and ends and whether it is well formed. Does not own what it means to a
//! column. Beyond the grammar it refuses what cannot be kept as text everywhere: lone surrogates and
//! the character NUL, and nesting deeper than [`MAX_DEPTH`].

use std::fmt;

/// The deepest nesting that is taken, the event itself included.
pub(crate) const MAX_DEPTH: usize = 128;

/// A string between its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TextSpan {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) form: TextForm,
}

/// Whether a string's bytes are its characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextForm {
    Plain,
    Escaped,
}

/// A number as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberForm {
    /// Digits only.
    Integer,
    /// With a fraction or an exponent.
    Broken,
}

/// Where and how a text leaves the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) at: usize,
    pub(crate) kind: SyntaxKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyntaxKind {
    Expected(&'static str),
    Unterminated,
    Control,
    Escape,
    Surrogate,
    Nul,
    Number,
    TooDeep,
    Trailing,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.kind {
            SyntaxKind::Expected(what) => write!(f, "not valid JSON at byte {at}: expected {what}"),
            SyntaxKind::Unterminated => {
                write!(
                    f,
                    "not valid JSON: the string that begins before byte {at} does not end"
                )
            }
            SyntaxKind::Control => write!(
                f,
                "not valid JSON at byte {at}: control characters in a string must be escaped"
            ),
            SyntaxKind::Escape => write!(f, "not valid JSON at byte {at}: no such escape"),
            SyntaxKind::Surrogate => {
                write!(
                    f,
                    "the escape at byte {at} is half of a surrogate pair, not a character"
                )
            }
            SyntaxKind::Nul => write!(
                f,
                "the escape at byte {at} is the character NUL, which is not taken"
            ),
            SyntaxKind::Number => write!(f, "not valid JSON at byte {at}: malformed number"),
            SyntaxKind::TooDeep => {
                write!(f, "nested deeper than {MAX_DEPTH} levels at byte {at}")
            }
            SyntaxKind::Trailing => {
                write!(
                    f,
                    "bytes follow after the JSON object, from byte {at} on; send one object a record"
                )
            }
        }
    }
}

/// A position in a text. Every method that reads leaves it behind what it has read.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

type Scan<T> = Result<T, SyntaxError>;

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn error(&self, kind: SyntaxKind) -> SyntaxError {
        SyntaxError { at: self.at, kind }
    }

    fn expected<T>(&self, what: &'static str) -> Scan<T> {
        Err(self.error(SyntaxKind::Expected(what)))
    }

    #[inline]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Passes over white space and returns the byte behind it, which is not passed.
    #[inline]
    pub(crate) fn next_token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Passes over white space and `byte`.
    #[inline]
    pub(crate) fn take(&mut self, byte: u8, what: &'static str) -> Scan<()> {
        if self.next_token() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        self.expected(what)
    }

    /// Passes over `name` and the closing quote if exactly they follow. `name` needs no escaping.
    #[inline]
    pub(crate) fn take_key(&mut self, name: &[u8]) -> bool {
        let rest = &self.bytes[self.at..];
        let found = rest.len() > name.len() && rest[name.len()] == b'"' && rest.starts_with(name);
        if found {
            self.at += name.len() + 1;
        }
        found
    }

    /// Reads the rest of a string whose opening quote has been passed.
    #[inline]
    pub(crate) fn string(&mut self) -> Scan<TextSpan> {
        let start = self.at as u32;
        let mut form = TextForm::Plain;
        loop {
            self.at = find_special(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    let end = self.at as u32;
                    self.at += 1;
                    return Ok(TextSpan { start, end, form });
                }
                Some(b'\\') => {
                    self.escape()?;
                    form = TextForm::Escaped;
                }
                Some(_) => return Err(self.error(SyntaxKind::Control)),
                None => return Err(self.error(SyntaxKind::Unterminated)),
            }
        }
    }

    fn escape(&mut self) -> Scan<()> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let unit = self.code_unit(self.at)?;
                match unit {
                    0 => Err(self.error(SyntaxKind::Nul)),
                    0xD800..=0xDBFF => {
                        let low_at = self.at + 6;
                        if self.bytes.get(low_at..low_at + 2) != Some(b"\\u") {
                            return Err(self.error(SyntaxKind::Surrogate));
                        }
                        if !(0xDC00..=0xDFFF).contains(&self.code_unit(low_at)?) {
                            return Err(self.error(SyntaxKind::Surrogate));
                        }
                        self.at += 12;
                        Ok(())
                    }
                    0xDC00..=0xDFFF => Err(self.error(SyntaxKind::Surrogate)),
                    _ => {
                        self.at += 6;
                        Ok(())
                    }
                }
            }
            Some(_) => Err(self.error(SyntaxKind::Escape)),
            None => Err(self.error(SyntaxKind::Unterminated)),
        }
    }

    /// The four hex digits of the `\u` at `at`.
    fn code_unit(&self, at: usize) -> Scan<u32> {
        self.bytes
            .get(at + 2..at + 6)
            .and_then(hex)
            .ok_or_else(|| self.error(SyntaxKind::Escape))
    }

    /// Reads a number.
    #[inline]
    pub(crate) fn number(&mut self) -> Scan<NumberForm> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.error(SyntaxKind::Number)),
        }
        let mut form = NumberForm::Integer;
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
            form = NumberForm::Broken;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits()?;
            form = NumberForm::Broken;
        }
        // `01` and `1x` would end here in the middle of a word.
        match self.peek() {
            Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' | b'+' | b'-') => {
                Err(self.error(SyntaxKind::Number))
            }
            _ => Ok(form),
        }
    }

    #[inline]
    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Scan<()> {
        let before = self.at;
        self.digits();
        if self.at == before {
            return Err(self.error(SyntaxKind::Number));
        }
        Ok(())
    }

    /// Reads `true`, `false` or `null`, of which the first byte is known.
    #[inline]
    pub(crate) fn word(&mut self, word: &'static str) -> Scan<()> {
        let rest = &self.bytes[self.at..];
        if !rest.starts_with(word.as_bytes()) {
            return self.expected("a value");
        }
        self.at += word.len();
        Ok(())
    }

    /// Passes over one value of any kind, which begins here, inside of one object.
    pub(crate) fn skip_value(&mut self) -> Scan<()> {
        // One bit a level: whether it is an object. Levels are at most MAX_DEPTH, the event included.
        let mut objects: u128 = 0;
        let mut level = 0;
        'value: loop {
            match self.next_token() {
                Some(b'"') => {
                    self.at += 1;
                    self.string()?;
                }
                Some(b'{') => {
                    level = self.open(level)?;
                    if self.next_token() == Some(b'}') {
                        self.at += 1;
                        level -= 1;
                    } else {
                        objects = objects << 1 | 1;
                        self.key()?;
                        continue 'value;
                    }
                }
                Some(b'[') => {
                    level = self.open(level)?;
                    if self.next_token() == Some(b']') {
                        self.at += 1;
                        level -= 1;
                    } else {
                        objects <<= 1;
                        continue 'value;
                    }
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                }
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return self.expected("a value"),
            }
            while level > 0 {
                let in_object = objects & 1 == 1;
                match self.next_token() {
                    Some(b',') => {
                        self.at += 1;
                        if in_object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                    Some(b'}') if in_object => {}
                    Some(b']') if !in_object => {}
                    _ if in_object => return self.expected("`,` or `}`"),
                    _ => return self.expected("`,` or `]`"),
                }
                self.at += 1;
                objects >>= 1;
                level -= 1;
            }
            return Ok(());
        }
    }

    fn open(&mut self, level: usize) -> Scan<usize> {
        // The event itself is one level.
        if level + 2 > MAX_DEPTH {
            return Err(self.error(SyntaxKind::TooDeep));
        }
        self.at += 1;
        Ok(level + 1)
    }

    fn key(&mut self) -> Scan<()> {
        self.take(b'"', "a key in quotes")?;
        self.string()?;
        self.take(b':', "`:`")
    }
}

/// The first quote, backslash or control character from `at` on, eight bytes at a time.
#[inline]
fn find_special(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        // A byte's high bit comes out set where it is zero (below 0x20 for the third); a borrow
        // can only spoil bytes above a true hit, and the lowest hit is the one that is taken.
        let hits = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let hits = hits & HIGHS;
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at)
        && !matches!(byte, b'"' | b'\\' | 0..=0x1F)
    {
        at += 1;
    }
    at
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| {
        Some(value << 4 | (digit as char).to_digit(16)?)
    })
}

/// Appends to `out` what a string that has been checked by [`Cursor::string`] says.
pub(crate) fn unescape(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        out.push(match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = |text: &str| hex(&text.as_bytes()[..4]).expect("escapes were checked");
                let high = unit(rest);
                rest = &rest[4..];
                let code = if (0xD800..=0xDBFF).contains(&high) {
                    let low = unit(&rest[2..]);
                    rest = &rest[6..];
                    0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
                } else {
                    high
                };
                char::from_u32(code).expect("escapes were checked")
            }
            plain => plain as char,
        });
    }
    out.push_str(rest);
}
