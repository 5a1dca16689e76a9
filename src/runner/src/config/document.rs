//! The text of a configuration file with the places of its keys, so that every complaint can name a line.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{
    AdmissionFile, ConfigFile, GcFile, GroupFile, HttpFile, MetricsFile, NotifierFile, PoolFile, ScheduleFile,
    WatchFile,
};
use super::places::Places;
use super::problem::{ConfigError, Problem};
use crate::suggest::{did_you_mean, fields_of};

/// The largest configuration file that is read: a hundred times what a thousand pools need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Wrong types that are told at once: each costs another look at the whole file.
const PROBLEMS_MAX: usize = 100;

/// Keys that later versions have: they get their own words instead of "unknown".
const LATER_TOP_KEYS: [&str; 7] = ["redis", "gitlab", "gitea", "github", "docker", "kubernetes", "tokens"];

/// One parsed file: its raw values, and where each key stands.
pub(super) struct Document {
    pub path: PathBuf,
    pub file: ConfigFile,
    /// What could not be read, and is not in `file`.
    pub problems: Vec<Problem>,
    pub places: Places,
}

impl Document {
    pub fn read(path: &Path) -> Result<Document, ConfigError> {
        let refuse = |text: String| ConfigError::one(Problem::of_file(path, None, "", text));
        let metadata = std::fs::metadata(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        if !metadata.is_file() {
            return Err(refuse("is not a regular file; name a TOML file".to_owned()));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(refuse(format!("has {} bytes, at most {FILE_BYTES_MAX} are read", metadata.len())));
        }
        let bytes = std::fs::read(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8 text".to_owned()))?;
        Document::parse(path, &text)
    }

    /// Reads what can be read; keys that are unknown or have a value of the wrong type are left out and told in `problems`.
    pub fn parse(path: &Path, text: &str) -> Result<Document, ConfigError> {
        let at = |offset: usize| line_of(text, offset);
        let mut table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| at(span.start));
            ConfigError::one(Problem::of_file(path, line, "", format!("is not TOML: {}", error.message())))
        })?;

        let mut keys = Vec::new();
        collect_keys(table.get_ref(), &mut Vec::new(), &mut keys);
        let mut problems = Vec::new();
        for (key, span, _) in &keys {
            if let Some(text) = complain_if_unknown(key) {
                problems.push(Problem::of_file(path, Some(at(span.start)), &key.join("."), text));
                remove_key(table.get_mut(), key);
            }
        }
        let file = loop {
            let error = match ConfigFile::deserialize(toml::de::Deserializer::from(table.clone())) {
                Ok(file) => break file,
                Err(error) => error,
            };
            let span = error.span().unwrap_or(0..0);
            // The innermost key whose value holds the place of the error.
            let key = keys
                .iter()
                .filter(|(_, _, value)| value.start <= span.start && span.end <= value.end)
                .min_by_key(|(_, _, value)| value.len())
                .map(|(key, ..)| key.as_slice())
                .unwrap_or_default();
            let text = plain_words(error.message());
            problems.push(Problem::of_file(path, Some(at(span.start)), &key.join("."), text));
            // Without it the others can be looked at. Where nothing goes, or very much is wrong, this is enough.
            if problems.len() >= PROBLEMS_MAX || !remove_key(table.get_mut(), key) {
                return Err(ConfigError { problems }.in_order());
            }
        };
        let places = Places::new(keys.into_iter().map(|(key, span, _)| (key, at(span.start))));
        Ok(Document { path: path.to_owned(), file, problems, places })
    }
}

type KeyPlace = (Vec<String>, std::ops::Range<usize>, std::ops::Range<usize>);

fn collect_keys(table: &DeTable<'_>, above: &mut Vec<String>, keys: &mut Vec<KeyPlace>) {
    // The format's parser bounds nesting; what we know is three deep.
    for (key, value) in table {
        above.push(key.get_ref().to_string());
        keys.push((above.clone(), key.span(), Spanned::span(value)));
        if let DeValue::Table(inner) = value.get_ref() {
            collect_keys(inner, above, keys);
        }
        above.pop();
    }
}

/// Takes a key out; false when it is not there.
fn remove_key(table: &mut DeTable<'_>, key: &[String]) -> bool {
    match key {
        [] => false,
        [name] => table.remove(name.as_str()).is_some(),
        [name, inner @ ..] => match table.get_mut(name.as_str()).map(Spanned::get_mut) {
            Some(DeValue::Table(table)) => remove_key(table, inner),
            _ => false,
        },
    }
}

/// The complaint about a key that we do not have, or `None`. Keys below an unknown one are left alone.
fn complain_if_unknown(key: &[String]) -> Option<String> {
    let names: Vec<&str> = key.iter().map(String::as_str).collect();
    let (name, known, later): (&str, &[&str], &[&str]) = match names.as_slice() {
        [name] => (name, fields_of::<ConfigFile>(), &LATER_TOP_KEYS),
        ["pools", _, name] => (name, fields_of::<PoolFile>(), &[]),
        ["schedules", _, name] => (name, fields_of::<ScheduleFile>(), &[]),
        ["groups", _, name] => (name, fields_of::<GroupFile>(), &[]),
        ["gc", name] => (name, fields_of::<GcFile>(), &[]),
        ["admission", name] => (name, fields_of::<AdmissionFile>(), &[]),
        ["watch", name] => (name, fields_of::<WatchFile>(), &[]),
        ["notifiers", _, name] => (name, fields_of::<NotifierFile>(), &[]),
        ["http", name] => (name, fields_of::<HttpFile>(), &[]),
        ["metrics", name] => (name, fields_of::<MetricsFile>(), &[]),
        ["metrics", "include" | "exclude", name] => (name, &ci_runner_hostmetrics::FILTERS, &[]),
        _ => return None,
    };
    if known.contains(&name) {
        return None;
    }
    if later.contains(&name) {
        return Some("is not in this version of ci-runner; remove it".to_owned());
    }
    Some(format!("is not a known key; {}", did_you_mean(name, known.iter().copied())))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Serde's type names in words for people.
fn plain_words(message: &str) -> String {
    message
        .replace("expected i64", "expected a whole number")
        .replace("expected a string", "expected a text in quotes")
        .replace("expected a boolean", "expected true or false")
        .replace("expected a sequence", "expected a list in brackets")
        .replace("expected struct PoolFile", "expected a table like [pools.NAME]")
        .replace("expected struct ScheduleFile", "expected a table like [schedules.NAME]")
        .replace("expected struct GroupFile", "expected a table like [groups.NAME]")
        .replace("expected struct GcFile", "expected a table [gc]")
        .replace("expected struct AdmissionFile", "expected a table [admission]")
        .replace("expected struct MetricsFile", "expected a table [metrics]")
        .replace("expected struct WatchFile", "expected a table [watch]")
        .replace("expected struct NotifierFile", "expected a table like [notifiers.NAME]")
        .replace("expected f64", "expected a number")
}
