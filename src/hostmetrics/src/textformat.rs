//! Reading of the Prometheus text format 0.0.4, for files that others write.
//!
//! Strict, as the library of node_exporter: a second `TYPE`, a `TYPE` after a series, a time, a last line without its
//! end, or a label twice is an error, and the whole text is refused.

use crate::exposition::{Kind, Labels, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// A family as read.
#[derive(Debug)]
pub(crate) struct ParsedFamily {
    pub(crate) help: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) series: Vec<(Labels, Value)>,
}

/// Which line is wrong, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FormatError {
    line: usize,
    why: &'static str,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

#[derive(Default)]
struct Draft {
    help: Option<String>,
    kind: Option<Kind>,
    series: Vec<(Labels, Value)>,
    order: usize,
}

/// Families in the order in which they appear.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<(String, ParsedFamily)>, FormatError> {
    let text = std::str::from_utf8(bytes).map_err(|_| FormatError { line: 1, why: "it is not UTF-8" })?;
    let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let fail = |why| FormatError { line: at + 1, why };
        let whole = line.strip_suffix('\n');
        let line = whole.unwrap_or(line).trim_matches([' ', '\t']);
        if !line.is_empty() && whole.is_none() {
            return Err(fail("the last line has no end"));
        }
        if let Some(comment) = line.strip_prefix('#') {
            comment_line(comment, &mut drafts).map_err(fail)?;
        } else if !line.is_empty() {
            series_line(line, &mut drafts).map_err(fail)?;
        }
    }
    let mut families: Vec<(String, Draft)> = drafts.into_iter().collect();
    families.sort_by_key(|(_, draft)| draft.order);
    let finished = families.into_iter().map(|(name, draft)| {
        (name, ParsedFamily { help: draft.help, kind: draft.kind.unwrap_or(Kind::Untyped), series: draft.series })
    });
    Ok(finished.collect())
}

fn draft<'a>(drafts: &'a mut BTreeMap<String, Draft>, name: &str) -> &'a mut Draft {
    let order = drafts.len();
    drafts.entry(name.to_owned()).or_insert_with(|| Draft { order, ..Draft::default() })
}

fn comment_line(comment: &str, drafts: &mut BTreeMap<String, Draft>) -> Result<(), &'static str> {
    let mut words = comment.trim_start_matches([' ', '\t']).splitn(2, [' ', '\t']);
    let (word, rest) =
        (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim_start_matches([' ', '\t']));
    if word != "HELP" && word != "TYPE" {
        return Ok(());
    }
    let (name, rest) = split_name(rest);
    if name.is_empty() || rest.starts_with(|c: char| c != ' ' && c != '\t') {
        return Err("the name of a metric is wrong");
    }
    let (rest, draft) = (rest.trim_start_matches([' ', '\t']), draft(drafts, name));
    if word == "HELP" {
        if draft.help.is_some() {
            return Err("a second HELP for a metric");
        }
        draft.help = Some(unescape(rest, false)?);
        return Ok(());
    }
    if draft.kind.is_some() || !draft.series.is_empty() {
        return Err("a second TYPE for a metric, or TYPE after its series");
    }
    draft.kind = Some(match rest {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "untyped" => Kind::Untyped,
        "histogram" => Kind::Histogram,
        "summary" => Kind::Summary,
        _ => return Err("a type that is none"),
    });
    Ok(())
}

/// The longest metric name at the start, and the rest.
fn split_name(text: &str) -> (&str, &str) {
    let fits =
        |(at, c): (usize, char)| c.is_ascii_alphabetic() || c == '_' || c == ':' || (at > 0 && c.is_ascii_digit());
    text.split_at(text.char_indices().find(|one| !fits(*one)).map_or(text.len(), |(at, _)| at))
}

fn unescape(text: &str, quotes: bool) -> Result<String, &'static str> {
    let mut letters = text.chars();
    let mut value = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, false) => value.push(letter),
            (_, true) => match letters.next() {
                Some('\\') => value.push('\\'),
                Some('n') => value.push('\n'),
                Some('"') if quotes => value.push('"'),
                _ => return Err("an escape that is none"),
            },
        }
    }
    Ok(value)
}

/// `{a="1",b="2"} rest`: labels sorted by name, and the rest.
fn split_labels(text: &str) -> Result<(Labels, &str), &'static str> {
    let space = |text: &'_ str| text.len() - text.trim_start_matches([' ', '\t']).len();
    let mut labels = Labels::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Ok((labels, text)) };
    loop {
        rest = &rest[space(rest)..];
        if let Some(rest) = rest.strip_prefix('}') {
            labels.sort();
            return Ok((labels, rest));
        }
        let (name, after) = split_name(rest);
        if name.is_empty() || name.contains(':') || name == "__name__" {
            return Err("the name of a label is wrong");
        }
        let after = after[space(after)..].strip_prefix('=').ok_or("a label without its value")?;
        let after = after[space(after)..].strip_prefix('"').ok_or("the value of a label is not in quotes")?;
        let mut escaped = false;
        let end = after.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.ok_or("the value of a label does not end")?;
        if labels.iter().any(|(known, _)| known == name) {
            return Err("a label twice");
        }
        labels.push((Cow::Owned(name.to_owned()), unescape(&after[..end], true)?));
        rest = &after[end + 1..];
        rest = &rest[space(rest)..];
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.starts_with('}') => rest,
            None => return Err("no comma between two labels"),
        };
    }
}

fn number(word: &str) -> Result<f64, &'static str> {
    word.parse().map_err(|_| "a value that is no number")
}

/// What a series of a histogram or a summary is part of.
enum Part {
    Point(f64),
    Sum,
    Count,
}

fn series_line(line: &str, drafts: &mut BTreeMap<String, Draft>) -> Result<(), &'static str> {
    let (name, rest) = split_name(line);
    if name.is_empty() {
        return Err("the name of a metric is wrong");
    }
    let (mut labels, rest) = split_labels(rest.trim_start_matches([' ', '\t']))?;
    let mut words = rest.split_ascii_whitespace();
    let value = number(words.next().ok_or("a series without a value")?)?;
    if words.next().is_some() {
        return Err("a time, which cannot be shown");
    }
    let kind_of = |name: &str| drafts.get(name).and_then(|draft| draft.kind);
    let histogram = |name: &str| kind_of(name) == Some(Kind::Histogram);
    let distribution = |name: &str| matches!(kind_of(name), Some(Kind::Histogram | Kind::Summary));
    let part = if let Some(base) = name.strip_suffix("_bucket").filter(|base| histogram(base)) {
        Some((base, Part::Point(take_number(&mut labels, "le")?)))
    } else if let Some(base) = name.strip_suffix("_sum").filter(|base| distribution(base)) {
        Some((base, Part::Sum))
    } else if let Some(base) = name.strip_suffix("_count").filter(|base| distribution(base)) {
        Some((base, Part::Count))
    } else if kind_of(name) == Some(Kind::Summary) {
        Some((name, Part::Point(take_number(&mut labels, "quantile")?)))
    } else {
        None
    };
    match part {
        Some((base, part)) => add_part(draft(drafts, base), labels, part, value),
        None => draft(drafts, name).series.push((labels, Value::Number(value))),
    }
    Ok(())
}

fn take_number(labels: &mut Labels, name: &str) -> Result<f64, &'static str> {
    let at = labels.iter().position(|(label, _)| label == name).ok_or("a bucket or quantile without its label")?;
    number(&labels.remove(at).1)
}

fn add_part(draft: &mut Draft, labels: Labels, part: Part, value: f64) {
    let at = draft.series.iter().position(|(known, _)| *known == labels).unwrap_or_else(|| {
        draft.series.push((labels, Value::Distribution { points: Vec::new(), sum: 0.0, count: 0.0 }));
        draft.series.len() - 1
    });
    if let Value::Distribution { points, sum, count } = &mut draft.series[at].1 {
        match part {
            Part::Sum => *sum = value,
            Part::Count => *count = value,
            Part::Point(point) => {
                points.push((point, value));
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_refused_with_its_line() {
        let cases = [
            ("a 1", 1, "the last line has no end"),
            ("a 1\nb 1 99\n", 2, "a time, which cannot be shown"),
            ("a x\n", 1, "a value that is no number"),
            ("a\n", 1, "a series without a value"),
            ("{a=\"1\"} 1\n", 1, "the name of a metric is wrong"),
            ("a{b=\"1\",b=\"2\"} 1\n", 1, "a label twice"),
            ("a{b=\"1} 1\n", 1, "the value of a label does not end"),
            ("a{b=\"\\x\"} 1\n", 1, "an escape that is none"),
            ("a{b=1} 1\n", 1, "the value of a label is not in quotes"),
            ("a{b=\"1\" c=\"2\"} 1\n", 1, "no comma between two labels"),
            ("a 1\n# TYPE a gauge\n", 2, "a second TYPE for a metric, or TYPE after its series"),
            ("# HELP a x\n# HELP a y\n", 2, "a second HELP for a metric"),
            ("# TYPE a guess\n", 1, "a type that is none"),
            ("# TYPE a histogram\na_bucket 1\n", 2, "a bucket or quantile without its label"),
        ];
        for (text, line, why) in cases {
            assert_eq!(parse(text.as_bytes()).map(|_| ()), Err(FormatError { line, why }), "{text}");
        }
        assert!(parse(b"\xff 1\n").is_err());
        assert!(parse(b"").unwrap().is_empty());
        assert_eq!(parse(b"# any comment\n\n  a { b = \"x\\\"y\" , } 2 \n").unwrap()[0].1.series.len(), 1);
    }
}
