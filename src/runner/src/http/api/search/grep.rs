//! Finds lines in one log.
//!
//! The log is read in large pieces that end with a line, and the pattern is tried on a whole piece at once: lines without a
//! match cost no more than the search for what every match must hold. What of a pattern could match a newline is taken out
//! of it, so that a match never crosses lines, and no line costs the reading of those behind it.

use ci_runner_spawner::joblog::{LINE_PART_BYTES_MAX, LogReader};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Capture, Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange};
use regex_syntax::hir::{Hir, HirKind, Look, Repetition};
use std::io;

/// Read at once. A longer line is searched in parts of this size: a match over the seam of two is not seen.
const PIECE_BYTES: usize = 1024 * 1024;
/// A pattern compiles to at most this, and its automaton grows to at most twice as much.
const PATTERN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A pattern without its newlines is written out as text, with every range of every class; at most so much is read again.
const PATTERN_TEXT_BYTES_MAX: usize = 1024 * 1024;

/// A pattern, ready to search.
#[derive(Clone, Debug)]
pub(super) struct Grep {
    regex: Regex,
}

/// What is wrong with an expression, and where; the library draws it over several lines.
fn in_one_line(error: &regex_syntax::Error) -> String {
    let (what, at) = match error {
        regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span().start),
        regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span().start),
        other => return other.to_string().replace('\n', " "),
    };
    let line = if at.line > 1 { format!(" of line {}", at.line) } else { String::new() };
    format!("{what} (at character {}{line})", at.column)
}

/// Who is told what is found in a log.
pub(super) trait Finder {
    /// Asked before each piece; false: stop.
    fn go_on(&mut self) -> bool;

    /// A line with a match begins here, or the part of [`LINE_PART_BYTES_MAX`] of a longer one in which the match begins.
    /// False: enough of this log.
    fn found(&mut self, offset: u64) -> io::Result<bool>;
}

impl Grep {
    /// A regular expression, or a text as it is.
    ///
    /// # Errors
    /// What is wrong with the expression.
    pub(super) fn new(pattern: &str, fixed: bool, ignore_case: bool) -> Result<Self, String> {
        let pattern = if fixed { regex::escape(pattern) } else { pattern.to_owned() };
        let mut parser = regex_syntax::ParserBuilder::new();
        let parsed = parser.multi_line(true).case_insensitive(ignore_case).utf8(false).build().parse(&pattern);
        let asked = parsed.map_err(|error| in_one_line(&error))?;
        let within_lines = without_newlines(&asked);
        let text = if within_lines == asked { pattern } else { within_lines.to_string() };
        if text.len() > PATTERN_TEXT_BYTES_MAX {
            return Err("it is too large".to_owned());
        }
        let mut builder = RegexBuilder::new(&text);
        builder.multi_line(true).case_insensitive(ignore_case);
        let built = builder.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(2 * PATTERN_BYTES_MAX).build();
        built.map(|regex| Self { regex }).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            error => error.to_string().replace('\n', " "),
        })
    }

    /// Tells `finder` of each line with a match from offset `from` on, in their order, up to what is there now. Returns how
    /// many bytes were searched; None: the finder stopped it.
    pub(super) fn search(
        &self,
        log: &mut LogReader,
        from: u64,
        piece: &mut Vec<u8>,
        finder: &mut impl Finder,
    ) -> io::Result<Option<u64>> {
        piece.resize(PIECE_BYTES, 0);
        let (mut offset, end) = (from, log.size()?);
        loop {
            if !finder.go_on() {
                return Ok(None);
            }
            let wanted = usize::try_from(end.saturating_sub(offset)).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let read = log.read_at(&mut piece[..wanted], offset)?;
            if read == 0 {
                return Ok(Some(offset - from));
            }
            let text = &piece[..read];
            // The last line may have no newline.
            let is_last = offset + read as u64 >= end;
            let whole = if is_last { None } else { memchr::memrchr(b'\n', text) };
            let text = &text[..whole.map_or(read, |newline| newline + 1)];
            for (begin, at) in self.lines(text) {
                let part = (at - begin) / LINE_PART_BYTES_MAX * LINE_PART_BYTES_MAX;
                if !finder.found(offset + (begin + part) as u64)? {
                    return Ok(Some(offset + begin as u64 - from));
                }
            }
            offset += text.len() as u64;
        }
    }

    /// Where the lines with a match begin, and the first match in each.
    fn lines<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, usize)> + 'a {
        let mut from = 0;
        std::iter::from_fn(move || {
            if from >= text.len() {
                return None;
            }
            let at = self.regex.find_at(text, from)?.start();
            // An empty match behind the last newline is on no line.
            if at == text.len() && text.ends_with(b"\n") {
                return None;
            }
            let begin = memchr::memrchr(b'\n', &text[..at]).map_or(0, |newline| newline + 1);
            from = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |newline| at + newline + 1);
            Some((begin, at))
        })
    }
}

/// The same expression, of which nothing matches a newline, and for which a text is a line.
fn without_newlines(hir: &Hir) -> Hir {
    match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => Hir::fail(),
        HirKind::Literal(literal) => Hir::literal(literal.0.clone()),
        HirKind::Class(Class::Unicode(class)) => {
            let mut class = class.clone();
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(class)) => {
            let mut class = class.clone();
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Look(Look::Start) => Hir::look(Look::StartLF),
        HirKind::Look(Look::End) => Hir::look(Look::EndLF),
        HirKind::Look(look) => Hir::look(*look),
        HirKind::Repetition(repetition) => {
            let sub = Box::new(without_newlines(&repetition.sub));
            Hir::repetition(Repetition { sub, ..repetition.clone() })
        }
        HirKind::Capture(capture) => {
            let sub = Box::new(without_newlines(&capture.sub));
            Hir::capture(Capture { sub, ..capture.clone() })
        }
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(without_newlines).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(without_newlines).collect()),
    }
}

#[cfg(test)]
mod tests;
