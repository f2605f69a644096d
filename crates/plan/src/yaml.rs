//! YAML text as a tree in which every value knows its place.
//!
//! Owns syntax: duplicate keys, anchors and tags (refused), `${NAME}` in plain scalars. Built on the
//! parser of serde-saphyr instead of on serde, which stops at the first mistake: a person wants all
//! of them. Does not own what keys mean.

use std::{collections::HashMap, iter::Peekable, ops::Range, sync::Arc};

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::{
    diagnostic::{Code, SourceFile},
    reader::Reader,
    tree::{Node, Scalar, Style, Value},
};

/// Values of the environment that files may name as `${NAME}`.
pub type Environment = HashMap<String, String>;

/// Deeper nesting than any file needs, far below what a thread's stack bears.
const MAX_DEPTH: usize = 48;

/// Parses one document; every mistake goes to `reader`. `None`: nothing can be read from it.
pub(crate) fn parse(reader: &mut Reader<'_>, environment: &Environment) -> Option<Node> {
    let file = reader.file.clone();
    let mut tree = Tree {
        events: Parser::new_from_str(&file.text).peekable(),
        file: &file,
        environment,
        reader,
    };
    tree.document()
}

type Events<'t> = Peekable<Parser<'t, StrInput<'t>>>;

struct Tree<'t, 'r, 's> {
    events: Events<'t>,
    file: &'t Arc<SourceFile>,
    environment: &'t Environment,
    reader: &'r mut Reader<'s>,
}

impl<'t> Tree<'t, '_, '_> {
    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_none() => {
                    root = Some(self.node(0)?);
                }
                Event::DocumentStart(..) => {
                    self.reader.error(
                        Code::Syntax,
                        self.range(span),
                        "a second document begins here",
                        "put it into a file of its own",
                    );
                    return None;
                }
                Event::StreamEnd => break,
                _ => {}
            }
        }
        if root.is_none() {
            let help = "write `version: 1` and go on from an example in `pipelines/` or `schemas/`";
            self.reader
                .error(Code::Structure, 0..0, "this file is empty", help);
        }
        root
    }

    /// The next event; a mistake in the syntax ends the file.
    fn next(&mut self) -> Option<(Event<'t>, Span)> {
        match self.events.next() {
            Some(Ok(event)) => Some(event),
            Some(Err(error)) => {
                self.syntax(&error);
                None
            }
            None => Some((Event::StreamEnd, Span::default())),
        }
    }

    fn range(&self, span: Span) -> Range<usize> {
        let length = self.file.text.len();
        let at = |marker: serde_saphyr::granit_parser::Marker| {
            let mut at = marker.byte_offset().unwrap_or(0).min(length);
            while !self.file.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (at(span.start), at(span.end));
        start..end.max(start)
    }

    fn syntax(&mut self, error: &ScanError) {
        let at = self.range(Span::empty(*error.marker())).start;
        let text = &self.file.text;
        let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[line_start..].split('\n').next().unwrap_or("");
        let indent = &line[..line.len() - line.trim_start().len()];
        if let Some(tab) = indent.find('\t') {
            let place = line_start + tab;
            self.reader.error(
                Code::Syntax,
                place..place + 1,
                "a tab indents this line; YAML takes only spaces",
                "replace the tab by spaces, two a level",
            );
            return;
        }
        let info = error.info();
        let help = if line.contains("${") && info.contains("flow") {
            "inside {…} and […] a ${NAME} cannot stand: write that map with one key a line"
        } else if info.contains("mapping values are not allowed") {
            "is a line indented too far, or does a value hold `: `? Then quote it: key: 'a: b'"
        } else if info.contains("quoted scalar") || info.contains("quote") {
            "a quotation mark opens a text that nothing closes; inside '…' write '' for one quote"
        } else if info.contains("flow") || info.contains("',' or") {
            "a bracket or a comma is missing: {key: value, other: value} or [one, two]"
        } else if info.contains("block mapping") || info.contains("indent") {
            "look at the indentation: keys of one level begin in one column, two spaces a level"
        } else if line.contains("${") {
            "an environment variable is written ${NAME} or ${NAME:-default}"
        } else {
            "look at the indentation, brackets, quotation marks and colons on this line and above"
        };
        let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
        self.reader.error(
            Code::Syntax,
            at..end,
            format!("this is not YAML: {info}"),
            help,
        );
    }

    fn node(&mut self, depth: usize) -> Option<Node> {
        let (event, span) = self.next()?;
        let place = self.range(span);
        if depth > MAX_DEPTH {
            self.reader.error(
                Code::Structure,
                place,
                format!("this is nested more than {MAX_DEPTH} levels deep"),
                "no key of these files needs that",
            );
            return None;
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.plain_yaml(anchor != 0 || tag.is_some(), &place);
                Some(self.scalar(&text, style, place))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.plain_yaml(anchor != 0 || tag.is_some(), &place);
                let mut items = Vec::new();
                while !self.at_end(&Event::SequenceEnd)? {
                    items.push(self.node(depth + 1)?);
                }
                let _ = self.next()?;
                Some(Node {
                    span: place,
                    value: Value::List(items),
                })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.plain_yaml(anchor != 0 || tag.is_some(), &place);
                self.map(place, depth)
            }
            Event::Alias(_) => {
                self.plain_yaml(true, &place);
                Some(Node {
                    span: place,
                    value: Value::Null,
                })
            }
            _ => Some(Node {
                span: place,
                value: Value::Null,
            }),
        }
    }

    fn at_end(&mut self, end: &Event<'_>) -> Option<bool> {
        if let Some(Ok((event, _))) = self.events.peek() {
            return Some(event == end || *event == Event::StreamEnd);
        }
        let failed = matches!(self.events.peek(), Some(Err(_)));
        if failed {
            self.next()?;
        }
        Some(true)
    }

    /// Anchors, aliases and tags say with one line what a reader must look up elsewhere, and aliases can
    /// blow a file up; nothing here needs them.
    fn plain_yaml(&mut self, is_special: bool, place: &Range<usize>) {
        if is_special {
            self.reader.error(
                Code::Syntax,
                place.clone(),
                "anchors (&), aliases (*) and tags (!) are not taken",
                "write the value out; a text that begins with one of these signs needs quotation marks",
            );
        }
    }

    fn map(&mut self, place: Range<usize>, depth: usize) -> Option<Node> {
        let mut entries: Vec<(Scalar, Node)> = Vec::new();
        let mut first: HashMap<String, Range<usize>> = HashMap::new();
        while !self.at_end(&Event::MappingEnd)? {
            let key = self.node(depth + 1)?;
            let value = self.node(depth + 1)?;
            let Value::Scalar(key) = key.value else {
                self.reader.error(
                    Code::Structure,
                    key.span,
                    "a key must be a single word",
                    "write `key: value`",
                );
                continue;
            };
            if let Some(before) = first.get(&key.text) {
                let line = 1 + self.file.text[..before.start].matches('\n').count();
                self.reader.error(
                    Code::Structure,
                    key.span.clone(),
                    format!(
                        "`{}` stands here a second time; the first is on line {line}",
                        key.shown
                    ),
                    "keep one of the two",
                );
                continue;
            }
            first.insert(key.text.clone(), key.span.clone());
            entries.push((key, value));
        }
        let _ = self.next()?;
        let span = match entries.first() {
            Some((key, _)) if place.is_empty() => key.span.clone(),
            _ => place,
        };
        Some(Node {
            span,
            value: Value::Map(entries),
        })
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Range<usize>) -> Node {
        let style = match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
            _ => Style::Block,
        };
        if style == Style::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            return Node {
                span,
                value: Value::Null,
            };
        }
        let filled = if style == Style::Plain && text.contains("${") {
            self.fill_in(text, &span)
        } else {
            text.to_owned()
        };
        Node {
            span: span.clone(),
            value: Value::Scalar(Scalar {
                text: filled,
                shown: text.to_owned(),
                span,
                style,
            }),
        }
    }

    /// Replaces `${NAME}`, `${NAME:-default}` and `${NAME:?why}` after parsing, so that no value of the
    /// environment can change the structure of the file.
    fn fill_in(&mut self, text: &str, span: &Range<usize>) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            filled.push_str(&rest[..start]);
            let inner = &rest[start + 2..];
            let Some(end) = inner.find('}') else {
                self.reader.error(
                    Code::Secret,
                    span.clone(),
                    "`${` opens a variable that no `}` closes",
                    "write ${NAME}, ${NAME:-default} or ${NAME:?why it is needed}",
                );
                return text.to_owned();
            };
            let (name, otherwise) = match inner[..end].split_once(':') {
                Some((name, otherwise)) => (name, Some(otherwise)),
                None => (&inner[..end], None),
            };
            let is_name = !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let value = self.environment.get(name).map(String::as_str);
            let (message, help) = match (value, otherwise) {
                _ if !is_name => (
                    format!("`{name}` is not the name of an environment variable"),
                    "names are letters, digits and `_`: ${NAME}".to_owned(),
                ),
                (_, Some(otherwise)) if !otherwise.starts_with(['-', '?']) => (
                    format!("`{}` is not understood", &rest[start..start + end + 3]),
                    "write ${NAME}, ${NAME:-default} or ${NAME:?why it is needed}".to_owned(),
                ),
                (Some(value), otherwise) if otherwise.is_none() || !value.is_empty() => {
                    filled.push_str(value);
                    rest = &inner[end + 1..];
                    continue;
                }
                (_, Some(otherwise)) if otherwise.starts_with('-') => {
                    filled.push_str(&otherwise[1..]);
                    rest = &inner[end + 1..];
                    continue;
                }
                (_, Some(otherwise)) => (
                    format!(
                        "the environment variable {name} is not set: {}",
                        &otherwise[1..]
                    ),
                    format!("set it: export {name}=…"),
                ),
                (_, None) => (
                    format!("the environment variable {name} is not set"),
                    format!("set it (export {name}=…), or give a default: ${{{name}:-default}}"),
                ),
            };
            self.reader.error(Code::Secret, span.clone(), message, help);
            rest = &inner[end + 1..];
        }
        filled.push_str(rest);
        filled
    }
}

impl Scalar {
    /// The key of a whole file.
    pub(crate) fn root() -> Self {
        Self {
            text: String::new(),
            shown: String::new(),
            span: 0..0,
            style: Style::Plain,
        }
    }
}
