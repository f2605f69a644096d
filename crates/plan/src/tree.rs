//! A file as a tree in which every value knows its place.
//!
//! Does not own where it comes from (`yaml.rs`) nor what its keys mean.

use std::ops::Range;

use crate::diagnostic::SourceFile;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Scalar, Node)>),
}

/// Text in a file: with its environment variables filled in, and as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    /// The value.
    pub(crate) text: String,
    /// What messages show: the text before environment variables were filled in, so that no secret
    /// gets into a log.
    pub(crate) shown: String,
    pub(crate) span: Range<usize>,
    pub(crate) style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
    Block,
}

impl Scalar {
    /// Whether an environment variable was filled in.
    pub(crate) fn is_filled_in(&self) -> bool {
        self.style == Style::Plain && self.shown.contains("${")
    }

    /// The place in the file of a stretch of this text. Quotes, escapes, indentation and folding lie
    /// between; where they cannot be followed, the whole scalar.
    pub(crate) fn place(&self, file: &SourceFile, stretch: Range<usize>) -> Range<usize> {
        let whole = self.span.clone();
        if self.is_filled_in() {
            return whole;
        }
        let Some(source) = file.text.get(whole.clone()) else {
            return whole;
        };
        let mut places = Vec::with_capacity(self.text.len() + 1);
        // The quote or the header of a block is not text.
        let mut at = match self.style {
            Style::Plain => 0,
            Style::Quoted => 1,
            Style::Block if source.starts_with(['|', '>']) => source.find('\n').unwrap_or(0),
            Style::Block => 0,
        };
        for wanted in self.text.chars() {
            if wanted.is_whitespace() {
                places.extend((0..wanted.len_utf8()).map(|_| at));
                if source
                    .get(at..)
                    .is_some_and(|rest| rest.starts_with(wanted))
                {
                    at += wanted.len_utf8();
                }
                continue;
            }
            let found = source.get(at..).and_then(|rest| {
                rest.char_indices()
                    .take_while(|(_, c)| *c == wanted || c.is_whitespace() || "\\'\"".contains(*c))
                    .find(|(_, c)| *c == wanted)
                    .map(|(skipped, _)| at + skipped)
            });
            let Some(found) = found else {
                return whole;
            };
            places.extend((0..wanted.len_utf8()).map(|_| found));
            at = found + wanted.len_utf8();
        }
        places.push(at);
        let last = places.len() - 1;
        let start = whole.start + places[stretch.start.min(last)];
        let end = match stretch.end.min(last) {
            0 => start,
            end => {
                let before = places[end - 1];
                let width = source[before..].chars().next().map_or(0, char::len_utf8);
                whole.start + before + width
            }
        };
        start..end.max(start)
    }
}
