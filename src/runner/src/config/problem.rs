//! What is wrong with a configuration: all of it at once, each with file, line, key and the mend.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, unless the value came from the command line or the environment.
    pub file: Option<PathBuf>,
    /// Its line, counted from one.
    pub line: Option<usize>,
    /// The key with its tables (`pools.big.slots`), or the option (`--http`); empty for the file as a whole.
    pub key: String,
    /// What is wrong, the limit and the mend.
    pub text: String,
}

impl Problem {
    pub(super) fn of_file(file: &Path, line: Option<usize>, key: &str, text: String) -> Problem {
        Problem { file: Some(file.to_owned()), line, key: key.to_owned(), text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(formatter, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(formatter, "{line}:")?;
            }
            formatter.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.text)
    }
}

/// A configuration that cannot be used. Shown as one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn one(problem: Problem) -> ConfigError {
        ConfigError { problems: vec![problem] }
    }

    /// By lines; what has none comes last.
    pub(super) fn in_order(mut self) -> ConfigError {
        self.problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            problem.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
