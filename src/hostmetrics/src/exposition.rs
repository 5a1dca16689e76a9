//! Metric families and their text: the Prometheus text format 0.0.4 and OpenMetrics 1.0.
//!
//! Families are sorted by name; the series of a family by the values of their labels (labels sorted by name, fewer
//! labels first), which is the order of node_exporter's library. A series that is there twice is written once.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

/// Which text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Text,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

impl Format {
    /// The value of the header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Nobody knows.
    Untyped,
    /// Buckets, sum and count.
    Histogram,
    /// Quantiles, sum and count.
    Summary,
}

impl Kind {
    fn word(self, format: Format) -> &'static str {
        match (self, format) {
            (Self::Counter, _) => "counter",
            (Self::Gauge, _) => "gauge",
            (Self::Untyped, Format::Text) => "untyped",
            (Self::Untyped, Format::OpenMetrics) => "unknown",
            (Self::Histogram, _) => "histogram",
            (Self::Summary, _) => "summary",
        }
    }
}

/// Labels of a series, sorted by name.
pub type Labels = Vec<(Cow<'static, str>, String)>;

/// What a series says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of counters, gauges and untyped ones.
    Number(f64),
    /// Upper bounds or quantiles with their values, then sum and count.
    Distribution {
        /// (upper bound, observations) of a histogram, (quantile, value) of a summary; sorted.
        points: Vec<(f64, f64)>,
        /// Sum of all observations.
        sum: f64,
        /// How many observations.
        count: f64,
    },
}

/// All series of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// The text of `# HELP`.
    pub help: Cow<'static, str>,
    /// The text of `# TYPE`.
    pub kind: Kind,
    series: Vec<(Labels, Value)>,
}

impl Family {
    /// Adds a series; the labels come in any order.
    pub fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| (Cow::Borrowed(*name), (*value).to_owned())).collect();
        self.add_owned(labels, Value::Number(value));
    }

    /// Adds a series of any kind.
    pub fn add_owned(&mut self, mut labels: Labels, value: Value) {
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        self.series.push((labels, value));
    }

    fn sort(&mut self) {
        self.drop_twins();
        self.series.sort_by(|(a, _), (b, _)| {
            a.len().cmp(&b.len()).then_with(|| a.iter().map(|label| &label.1).cmp(b.iter().map(|label| &label.1)))
        });
    }

    /// Keeps the first of equal series. A label with an empty value is no label, so `a` and `a{b=""}` are equal.
    fn drop_twins(&mut self) {
        let mut seen = HashSet::with_capacity(self.series.len());
        let new: Vec<bool> = self
            .series
            .iter()
            .map(|(labels, _)| seen.insert(labels.iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>()))
            .collect();
        let mut new = new.into_iter();
        self.series.retain(|_| new.next().unwrap_or(true));
    }
}

/// Families by name.
#[derive(Clone, Debug, Default)]
pub struct Families(BTreeMap<Cow<'static, str>, Family>);

impl Families {
    /// The family of that name; the first to ask decides on type and help. Names are in part what the kernel calls its
    /// fields: what may not stand in a name becomes an underscore, so that no new field can spoil the text.
    pub fn family(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        kind: Kind,
        help: impl Into<Cow<'static, str>>,
    ) -> &mut Family {
        let mut name = name.into();
        let wrong = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != ':';
        if name.contains(wrong) {
            name = name.replace(wrong, "_").into();
        }
        self.0.entry(name).or_insert_with(|| Family { help: help.into(), kind, series: Vec::new() })
    }

    /// A family of gauges.
    pub fn gauge(&mut self, name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) -> &mut Family {
        self.family(name, Kind::Gauge, help)
    }

    /// A family of counters.
    pub fn counter(&mut self, name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) -> &mut Family {
        self.family(name, Kind::Counter, help)
    }

    /// Takes over all families of `other`. Where a name is there with another type, the other's series are dropped:
    /// one name cannot have two types.
    pub fn merge(&mut self, other: Self) {
        for (name, family) in other.0 {
            match self.0.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(family);
                }
                Entry::Occupied(mut place) if place.get().kind == family.kind => {
                    place.get_mut().series.extend(family.series);
                }
                Entry::Occupied(_) => {}
            }
        }
    }

    /// Keeps only families whose name passes.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }

    /// Writes all families that have a series; `# EOF` of OpenMetrics included.
    pub fn write(&mut self, format: Format, out: &mut String) {
        for (name, family) in &mut self.0 {
            if family.series.is_empty() {
                continue;
            }
            family.sort();
            let openmetrics = format == Format::OpenMetrics;
            let head = if openmetrics && family.kind == Kind::Counter { name.trim_end_matches("_total") } else { name };
            let suffix = if openmetrics && family.kind == Kind::Counter { "_total" } else { "" };
            push(out, &["# HELP ", head, " "]);
            escape(out, &family.help, openmetrics);
            push(out, &["\n# TYPE ", head, " ", family.kind.word(format), "\n"]);
            for (labels, value) in &family.series {
                write_series(out, Series { format, kind: family.kind, name: head, suffix, labels }, value);
            }
        }
        if format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
    }
}

struct Series<'a> {
    format: Format,
    kind: Kind,
    name: &'a str,
    suffix: &'a str,
    labels: &'a Labels,
}

impl Series<'_> {
    fn line(&self, out: &mut String, suffix: &str, extra: Option<(&str, f64)>, value: f64) {
        push(out, &[self.name, suffix]);
        let mut before = '{';
        for (name, value) in self.labels {
            out.push(before);
            push(out, &[name, "=\""]);
            escape(out, value, true);
            out.push('"');
            before = ',';
        }
        if let Some((name, point)) = extra {
            out.push(before);
            push(out, &[name, "=\""]);
            write_number(out, point, self.format);
            out.push('"');
            before = ',';
        }
        out.push_str(if before == ',' { "} " } else { " " });
        write_number(out, value, self.format);
        out.push('\n');
    }
}

fn write_series(out: &mut String, series: Series<'_>, value: &Value) {
    match value {
        Value::Number(number) => series.line(out, series.suffix, None, *number),
        Value::Distribution { points, sum, count } => {
            let histogram = series.kind == Kind::Histogram;
            let (suffix, label) = if histogram { ("_bucket", "le") } else { ("", "quantile") };
            for (point, number) in points {
                series.line(out, suffix, Some((label, *point)), *number);
            }
            if histogram && points.last().is_none_or(|(point, _)| *point != f64::INFINITY) {
                series.line(out, suffix, Some((label, f64::INFINITY)), *count);
            }
            series.line(out, "_sum", None, *sum);
            series.line(out, "_count", None, *count);
        }
    }
}

fn push(out: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| out.push_str(part));
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

/// Writes a number as Go's `%g` with the fewest digits does: with an exponent (of at least two digits) below 1e-4 and
/// from 1e6 on, else without: `123456`, `1e+06`, `1.234567e+06`, `0.0001`, `1e-05`.
pub fn write_number(out: &mut String, number: f64, format: Format) {
    let start = out.len();
    if number.is_nan() {
        out.push_str("NaN");
        return;
    }
    if number.is_infinite() {
        out.push_str(if number > 0.0 { "+Inf" } else { "-Inf" });
        return;
    }
    // Writing to a String does not fail.
    let size = number.abs();
    let _ = if number == 0.0 || (1e-4..1e6).contains(&size) {
        write!(out, "{number}")
    } else {
        let mut text = String::with_capacity(24);
        let _ = write!(text, "{number:e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
        write!(out, "{digits}e{sign}{power:0>2}")
    };
    if format == Format::OpenMetrics && !out[start..].contains(['.', 'e']) {
        out.push_str(".0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: f64) -> String {
        let mut text = String::new();
        write_number(&mut text, number, Format::Text);
        text
    }

    #[test]
    fn numbers_look_as_go_writes_them() {
        let cases = [
            (0.0, "0"),
            (1.0, "1"),
            (-125000.0, "-125000"),
            (999_999.0, "999999"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (9653.880000000001, "9653.880000000001"),
            (18_446_744_073_709_551_615.0, "1.8446744073709552e+19"),
            (1e-7, "1e-07"),
            (1e100, "1e+100"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn hostile_text_is_escaped_and_twins_are_written_once() {
        let mut families = Families::default();
        let family = families.gauge("a", "One \\ and\na \"line\".");
        family.add(&[("z", "1"), ("b", "x\"y\\z\nend")], 1.0);
        family.add(&[("z", "1"), ("b", "x\"y\\z\nend")], 2.0);
        family.add(&[("b", "")], 3.0);
        families.counter("b_total", "B").add(&[], 1e9);
        families.gauge("silent", "never written");
        let mut other = Families::default();
        other.counter("a", "A liar").add(&[], 4.0);
        families.merge(other);
        let mut text = String::new();
        families.write(Format::Text, &mut text);
        let wanted = "# HELP a One \\\\ and\\na \"line\".\n# TYPE a gauge\na{b=\"\"} 3\na{b=\"x\\\"y\\\\z\\nend\",z=\"1\"} 1\n\
                      # HELP b_total B\n# TYPE b_total counter\nb_total 1e+09\n";
        assert_eq!(text, wanted);
        text.clear();
        families.write(Format::OpenMetrics, &mut text);
        let wanted = "# HELP a One \\\\ and\\na \\\"line\\\".\n# TYPE a gauge\na{b=\"\"} 3.0\na{b=\"x\\\"y\\\\z\\nend\",z=\"1\"} 1.0\n\
                      # HELP b B\n# TYPE b counter\nb_total 1e+09\n# EOF\n";
        assert_eq!(text, wanted);
    }
}
