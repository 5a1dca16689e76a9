//! Which jobs a list shows, and what that means for one row.

use super::JobRow;
use ci_runner_core::id::JobId;
use ci_runner_core::outcome::Outcome;
use ci_runner_core::state::Phase;
use ci_runner_core::time::WallTime;

/// Which jobs a list shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFilter {
    /// Any of these states; empty: all.
    pub phases: Vec<Phase>,
    /// Any of these outcome words; empty: all.
    pub outcomes: Vec<String>,
    /// Exact name, or a prefix when it ends in `*`.
    pub name: Option<String>,
    /// Pool that it names or ran in.
    pub pool: Option<String>,
    /// Label that it requires.
    pub label: Option<String>,
    /// Group.
    pub group: Option<String>,
    /// Correlation id.
    pub correlation: Option<String>,
    /// Only jobs with an attempt, also one that was given back.
    pub tried: bool,
    /// Submitted at or after.
    pub since: Option<WallTime>,
    /// Submitted before.
    pub until: Option<WallTime>,
    /// Go on after this id, in the direction of the list.
    pub cursor: Option<JobId>,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// Most rows, at least 1.
    pub limit: usize,
}

impl JobFilter {
    /// Every job, newest first.
    pub fn all(limit: usize) -> Self {
        Self {
            phases: Vec::new(),
            outcomes: Vec::new(),
            name: None,
            pool: None,
            label: None,
            group: None,
            correlation: None,
            tried: false,
            since: None,
            until: None,
            cursor: None,
            ascending: false,
            limit,
        }
    }

    /// Whether a job is one of those asked for; cursor and limit are the list's.
    pub(crate) fn matches(&self, row: &JobRow) -> bool {
        let terms = &row.spec.terms;
        let word = row.outcome.as_ref().map(Outcome::word);
        let is = |asked: &Option<String>, is: Option<&str>| asked.as_deref().is_none_or(|asked| Some(asked) == is);
        (self.phases.is_empty() || self.phases.contains(&row.phase))
            && (self.outcomes.is_empty() || word.is_some_and(|word| self.outcomes.iter().any(|asked| asked == word)))
            && self.name.as_deref().is_none_or(|asked| name_matches(asked, row.spec.name.as_deref()))
            && is(&self.pool, terms.pool.as_deref().or(row.ran_in.as_deref()))
            && self.label.as_deref().is_none_or(|asked| terms.labels.iter().any(|label| label.as_str() == asked))
            && is(&self.group, terms.group.as_ref().map(|group| group.name.as_str()))
            && is(&self.correlation, Some(&row.spec.correlation))
            && (!self.tried || row.attempt > 0)
            && self.since.is_none_or(|since| row.submitted >= since)
            && self.until.is_none_or(|until| row.submitted < until)
    }
}

/// Whether a name is the one asked for, or begins as asked when that ends in `*`.
pub(super) fn name_matches(asked: &str, name: Option<&str>) -> bool {
    match (name, asked.strip_suffix('*')) {
        (None, _) => false,
        (Some(name), None) => name == asked,
        (Some(name), Some(prefix)) => name.starts_with(prefix),
    }
}
