//! Where each key of the file stands, so that whatever is found wrong with it, also later, is told with its line.

use super::{Config, ConfigError, Problem};
use ci_runner_core::job::Fault;

/// Every key with its line, as a path of names.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Vec<(Vec<String>, usize)>);

impl Places {
    pub fn new(keys: impl Iterator<Item = (Vec<String>, usize)>) -> Self {
        Self(keys.collect())
    }

    /// The line where `key` stands, or its nearest enclosing table.
    pub fn line(&self, key: &[&str]) -> Option<usize> {
        (1..=key.len())
            .rev()
            .find_map(|length| {
                self.0.iter().find(|(known, _)| known.iter().map(String::as_str).eq(key[..length].iter().copied()))
            })
            .map(|(_, line)| *line)
    }

    /// The same of a key in one word, as problems have it (`schedules.nightly.job.labels[0]`): names may hold dots.
    fn line_of(&self, key: &str) -> Option<usize> {
        let holds = |known: &[String]| {
            let rest = key.strip_prefix(&known.join("."));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let enclosing = self.0.iter().filter(|(known, _)| holds(known));
        enclosing.max_by_key(|(known, _)| known.len()).map(|(_, line)| *line)
    }
}

impl Config {
    /// What was found wrong with it when its parts were put together, as the problems that are found when it is read. `faults` is
    /// not empty.
    pub fn refused(&self, faults: Vec<Fault>) -> ConfigError {
        let problem = |Fault { field, why }| {
            let line = self.places.line_of(&field);
            Problem { file: self.file.clone(), line, key: field, text: why }
        };
        ConfigError { problems: faults.into_iter().map(problem).collect() }.in_order()
    }
}
