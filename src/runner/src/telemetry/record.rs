//! A log record that owns what it says, so that it can wait in the queue.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, Record};

/// The longest message or value that is kept: beyond it lies an accident, such as a whole job log.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// The most key-values of one record.
const FIELDS_MAX: usize = 32;

/// One record, with its key-values as texts in the order of the call.
#[derive(Debug, Clone)]
pub(super) struct OwnedRecord {
    pub level: Level,
    pub time: SystemTime,
    pub target: String,
    pub message: String,
    pub fields: Vec<(String, String)>,
}

/// Collects up to [`TEXT_BYTES_MAX`] bytes and lets the rest fall.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_BYTES_MAX - self.0.len().min(TEXT_BYTES_MAX);
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let mut end = room;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.0.push_str(&text[..end]);
        self.0.push('…');
        // Ends the formatting early; what was gathered is kept.
        Err(fmt::Error)
    }
}

fn bounded(text: fmt::Arguments<'_>) -> String {
    let mut bounded = Bounded(String::new());
    // The only error is "full", which is the purpose.
    let _ = bounded.write_fmt(text);
    bounded.0
}

struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        if self.0.len() < FIELDS_MAX {
            self.0.push((key.as_str().to_owned(), bounded(format_args!("{value}"))));
        }
        Ok(())
    }
}

impl OwnedRecord {
    pub fn of(record: &Record<'_>) -> OwnedRecord {
        let mut fields = Fields(Vec::new());
        // Our visitor has no error; a source that has one keeps what came before it.
        let _ = record.key_values().visit(&mut fields);
        OwnedRecord {
            level: record.level(),
            time: SystemTime::now(),
            target: record.target().to_owned(),
            message: bounded(*record.args()),
            fields: fields.0,
        }
    }

    /// About what it takes in memory, in bytes.
    pub fn cost(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
        self.message.len() + self.target.len() + fields + size_of::<OwnedRecord>()
    }

    /// The syslog priority: 3 error, 4 warning, 6 info, 7 debug.
    pub fn priority(&self) -> u8 {
        match self.level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        }
    }
}

/// The journal's field for a key: those of the interface by their names there, others with our prefix.
pub(super) fn journal_field(key: &str) -> String {
    match key {
        "job" | "job_id" => "CI_RUNNER_JOB_ID".to_owned(),
        "correlation" | "correlation_id" => "CI_RUNNER_CORRELATION_ID".to_owned(),
        other => format!("CI_RUNNER_{}", other.to_ascii_uppercase()),
    }
}
