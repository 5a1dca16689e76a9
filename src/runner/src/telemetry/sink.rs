//! The destinations: journald and standard error. Only the writing thread calls them, so they may block.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anstyle::{AnsiColor, Style};
use jiff::tz::TimeZone;
use log::{Level, Record};
use systemd_journal_logger::JournalLog;

use super::record::{OwnedRecord, journal_field};

/// Where the writing thread puts records. An error means that this record is lost.
pub(super) trait Sink: Send {
    fn write(&mut self, record: &OwnedRecord) -> std::io::Result<()>;
}

/// journald's native protocol.
pub(super) struct JournalSink {
    journal: JournalLog,
}

impl JournalSink {
    /// Fails where journald does not listen.
    pub fn open() -> std::io::Result<JournalSink> {
        let journal = JournalLog::empty()?.with_syslog_identifier("ci-runner".to_owned());
        Ok(JournalSink { journal })
    }
}

impl Sink for JournalSink {
    fn write(&mut self, record: &OwnedRecord) -> std::io::Result<()> {
        let fields: Vec<(String, &str)> =
            record.fields.iter().map(|(key, value)| (journal_field(key), value.as_str())).collect();
        let fields: Vec<(&str, &str)> = fields.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        // The crate's priorities are 3, 4, 5, 6, 7 from error to trace, which would make our "info" a notice.
        let level = match record.priority() {
            3 => Level::Error,
            4 => Level::Warn,
            6 => Level::Debug,
            _ => Level::Trace,
        };
        self.journal.journal_send(
            &Record::builder()
                .args(format_args!("{}", record.message))
                .level(level)
                .target(&record.target)
                .key_values(&fields.as_slice())
                .build(),
        )
    }
}

/// How lines on standard error look.
pub(super) enum LineStyle {
    /// `<6>2026-11-22T12:00:00.000Z INFO message key=value`: service managers understand the beginning, and whoever keeps the
    /// lines in a file finds the time.
    Prefixed,
    /// `12:00:00 INFO message key=value` for people.
    Terminal { colour: bool, zone: TimeZone },
    /// One object a line, its fields named as in the journal.
    Json,
}

/// The usual destination, or lines of JSON on standard error: whichever is asked for at the moment.
pub(super) struct EitherSink {
    pub json: Arc<AtomicBool>,
    pub lines: StderrSink,
    pub usual: Box<dyn Sink>,
}

impl Sink for EitherSink {
    fn write(&mut self, record: &OwnedRecord) -> std::io::Result<()> {
        if self.json.load(Ordering::Relaxed) { self.lines.write(record) } else { self.usual.write(record) }
    }
}

/// Lines to a descriptor.
pub(super) struct StderrSink {
    file: File,
    style: LineStyle,
}

impl StderrSink {
    pub fn new(file: File, style: LineStyle) -> StderrSink {
        StderrSink { file, style }
    }
}

impl Sink for StderrSink {
    fn write(&mut self, record: &OwnedRecord) -> std::io::Result<()> {
        self.file.write_all(line(record, &self.style).as_bytes())
    }
}

/// One record as text with its newline. Control characters cannot forge lines or move a cursor.
pub(super) fn line(record: &OwnedRecord, style: &LineStyle) -> String {
    let mut text = String::new();
    let (dim, reset) = match style {
        LineStyle::Json => return json(record),
        LineStyle::Prefixed => {
            push(&mut text, format_args!("<{}>{} {} ", record.priority(), time(record), record.level));
            (String::new(), "")
        }
        LineStyle::Terminal { colour, zone } => {
            let time = jiff::Timestamp::try_from(record.time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            let time = time.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string();
            let (word, style) = level(record.level);
            let paint = |style: Style| if *colour { style.render().to_string() } else { String::new() };
            let reset = if *colour { "\x1b[0m" } else { "" };
            let dim = paint(Style::new().dimmed());
            push(&mut text, format_args!("{dim}{time}{reset} {}{word}{reset} ", paint(style)));
            (dim, reset)
        }
    };
    push_visible(&mut text, &record.message);
    if !record.fields.is_empty() {
        text.push_str(&dim);
        for (key, value) in &record.fields {
            text.push(' ');
            push_visible(&mut text, key);
            text.push('=');
            match value.is_empty() || value.contains([' ', '"', '=']) {
                true => push(&mut text, format_args!("{value:?}")),
                false => push_visible(&mut text, value),
            }
        }
        text.push_str(reset);
    }
    text.push('\n');
    text
}

/// `{"time":…,"level":"info","PRIORITY":"6","MESSAGE":…,"TARGET":…,"CI_RUNNER_JOB_ID":"7"}`; all values are texts, as where the
/// journal itself writes JSON.
fn json(record: &OwnedRecord) -> String {
    let mut object = serde_json::Map::new();
    for (key, value) in &record.fields {
        object.insert(journal_field(key), value.as_str().into());
    }
    object.insert("time".to_owned(), time(record).into());
    object.insert("level".to_owned(), record.level.as_str().to_ascii_lowercase().into());
    object.insert("PRIORITY".to_owned(), record.priority().to_string().into());
    object.insert("MESSAGE".to_owned(), record.message.as_str().into());
    object.insert("TARGET".to_owned(), record.target.as_str().into());
    let mut text = serde_json::Value::Object(object).to_string();
    text.push('\n');
    text
}

/// RFC 3339, UTC.
fn time(record: &OwnedRecord) -> String {
    let time = jiff::Timestamp::try_from(record.time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    crate::quantity::rfc3339_utc(time.as_millisecond())
}

fn level(level: Level) -> (&'static str, Style) {
    let coloured = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match level {
        Level::Error => ("ERROR", coloured(AnsiColor::Red).bold()),
        Level::Warn => (" WARN", coloured(AnsiColor::Yellow)),
        Level::Info => (" INFO", coloured(AnsiColor::Green)),
        Level::Debug => ("DEBUG", coloured(AnsiColor::Blue)),
        Level::Trace => ("TRACE", Style::new().dimmed()),
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a String cannot fail");
}

fn push_visible(text: &mut String, raw: &str) {
    for c in raw.chars() {
        match c {
            '\t' => text.push(' '),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
}
