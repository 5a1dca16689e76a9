//! What jobs get that do not say: retries, timeouts, the size of a log, where programs are found.

use super::super::file::ConfigFile;
use super::super::{Backoff, ConfigOverrides, RetryDefaults, Source, check};
use super::{DAY, Resolver, duration_out_of_range};
use crate::quantity::{DurationField, exact_duration, exact_size, parse_duration};
use ci_runner_core::job::LOG_BYTES_MAX;
use ci_runner_core::retry::RULES_MAX;
use std::time::Duration;

const RETRIES_MAX: i64 = 1000;
const FALLBACK_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Resolver<'_> {
    pub(super) fn retry(&mut self, file: &mut ConfigFile, overrides: &ConfigOverrides) -> RetryDefaults {
        let attempts = (overrides.retry_attempts, file.retry_attempts, 3);
        let attempts = self.whole("retry_attempts", attempts, 0..=RETRIES_MAX) as u32;
        let option = match overrides.retry_delay.as_deref().map(parse_duration).transpose() {
            Ok(delay) => delay.map(DurationField),
            Err(error) => {
                self.sources.insert("retry_delay", Source::Option);
                self.problem("retry_delay", error.to_string());
                None
            }
        };
        let delay =
            self.choose("retry_delay", option, file.retry_delay).map_or(Duration::from_secs(5), |field| field.0);
        if delay > DAY {
            self.problem("retry_delay", duration_out_of_range(delay, &(Duration::ZERO..=DAY)));
        }
        let backoff = self.word("retry_backoff", (None, file.retry_backoff.take(), "fixed"), check::backoff);
        let on = match self.choose("retry_on", None, file.retry_on.take()) {
            Some(words) => words.0,
            None => vec!["exit".to_owned(), "signal".to_owned(), "lost".to_owned()],
        };
        for problem in on.iter().filter_map(|rule| check::retry_rule(rule).err()) {
            self.problem("retry_on", problem);
        }
        if on.len() > RULES_MAX {
            self.problem("retry_on", format!("{} rules, at most {RULES_MAX}", on.len()));
        }
        RetryDefaults { attempts, delay, backoff: backoff.unwrap_or(Backoff::Fixed), on }
    }

    pub(super) fn timeouts(&mut self, file: &ConfigFile) -> (Duration, Option<Duration>) {
        let max_timeout = self.choose("max_timeout", None, file.max_timeout).and_then(|limit| limit.into_option());
        let max_timeout = max_timeout.map(|field| field.0);
        let longest = Duration::MAX;
        let default = max_timeout.unwrap_or(longest).min(Duration::from_secs(6 * 3600));
        let default_timeout =
            self.duration("default_timeout", file.default_timeout, default, Duration::from_millis(1)..=longest);
        match max_timeout {
            Some(Duration::ZERO) => {
                self.problem("max_timeout", "is zero; give a duration like 12h or \"unlimited\"".to_owned())
            }
            Some(max) if default_timeout > max => {
                let (default, max) = (exact_duration(default_timeout), exact_duration(max));
                self.problem(
                    "default_timeout",
                    format!("{default} is more than max_timeout, {max}; lower it or raise max_timeout"),
                );
            }
            _ => {}
        }
        (default_timeout, max_timeout)
    }

    pub(super) fn log_max(&mut self, file: &ConfigFile) -> u64 {
        /// Room for the "truncated" mark and a few lines.
        const LEAST: u64 = 4096;
        /// The default cap.
        const DEFAULT: u64 = 64 << 20;
        let bytes = self.choose("log_max", None, file.log_max).map_or(DEFAULT, |field| field.0);
        if bytes < LEAST {
            let text = format!("{} is less than {}; give a size like 64M", exact_size(bytes), exact_size(LEAST));
            self.problem("log_max", text);
        }
        if bytes > LOG_BYTES_MAX {
            let text =
                format!("{} is more than {}, the most a job may have", exact_size(bytes), exact_size(LOG_BYTES_MAX));
            self.problem("log_max", text);
        }
        bytes
    }

    pub(super) fn job_path(&mut self, file: Option<String>) -> String {
        if let Some(path) = self.choose("job_path", None, file) {
            if let Err(problem) = check::search_path(&path) {
                self.problem("job_path", problem);
            }
            return path;
        }
        // What the daemon was started with, without entries that would depend on a directory.
        let own = self.host.variable("PATH").unwrap_or_default();
        let absolute: Vec<&str> = own.split(':').filter(|entry| entry.starts_with('/')).collect();
        if absolute.is_empty() {
            return FALLBACK_PATH.to_owned();
        }
        self.sources.insert("job_path", Source::Environment("PATH"));
        absolute.join(":")
    }
}
