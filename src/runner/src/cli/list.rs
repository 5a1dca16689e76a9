//! `list`: jobs as a table, lines or JSON.

use super::client::with_query;
use super::context::{Context, print};
use super::fail::{EXIT_DONE, Ended, Failure};
use super::look::Look;
use crate::api::{JobList, JobView};
use crate::quantity::{self, show_duration, show_relative};
use crate::style::{dim, state_style};
use crate::table::{Cell, Column, Table};
use clap::Args;
use std::time::Duration;

/// Jobs shown unless told otherwise.
const LIMIT: u64 = 50;
/// Jobs asked for at once.
const PAGE: u64 = 500;

/// Arguments of `list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only jobs in these states: queued, starting, running, stopping, finished, or open (all but finished)
    #[arg(long, value_name = "STATE,…", value_delimiter = ',', value_parser = ["queued", "starting", "running", "stopping", "finished", "open"])]
    state: Vec<String>,
    /// Only jobs that ended so: succeeded, failed, timed_out, cancelled, superseded, expired
    #[arg(long, value_name = "OUTCOME,…", value_delimiter = ',',
        value_parser = ["succeeded", "failed", "timed_out", "cancelled", "superseded", "expired"])]
    outcome: Vec<String>,
    /// Only jobs of this name, or whose name begins so: 'build*'
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only jobs of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Only jobs with this label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Option<String>,
    /// Only jobs of this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Only jobs with this correlation id
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Only jobs submitted since: a time or date that was, or how long ago (24h)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only jobs submitted before: a time, or how long ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most so many [default: 50]
    #[arg(long, value_name = "N", conflicts_with = "all", value_parser = clap::value_parser!(u64).range(1..), allow_negative_numbers = true)]
    limit: Option<u64>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// Newest first (desc) or oldest first (asc)
    #[arg(long, value_name = "ORDER", default_value = "desc", value_parser = ["asc", "desc"])]
    order: String,
}

/// Lists jobs.
pub fn list(context: &Context<'_>, args: ListArgs) -> Ended {
    let limit = if args.all { u64::MAX } else { args.limit.unwrap_or(LIMIT) };
    let pairs = args.query()?;
    let mut jobs: Vec<JobView> = Vec::new();
    let mut cursor: Option<u64> = None;
    let more = loop {
        let mut pairs = pairs.clone();
        pairs.push(("limit", PAGE.min(limit - jobs.len() as u64).to_string()));
        pairs.extend(cursor.map(|cursor| ("cursor", cursor.to_string())));
        let page: JobList = context.client.get(&with_query("/api/v1/jobs", &pairs))?;
        let progress = !page.jobs.is_empty();
        jobs.extend(page.jobs);
        cursor = page.next_cursor;
        if cursor.is_none() || !progress || jobs.len() as u64 >= limit {
            break cursor.is_some();
        }
    };
    if context.is_json() {
        return context.print_json(&jobs);
    }
    print(&lines(&jobs, &context.look()))?;
    if more && args.limit.is_none() {
        context.note(&format!("these are {}; there are more: --all, --limit N, or a filter", jobs.len()));
    }
    Ok(EXIT_DONE)
}

impl ListArgs {
    fn query(&self) -> Result<Vec<(&'static str, String)>, Failure> {
        let mut pairs = vec![("order", self.order.clone())];
        for (name, words) in [("state", &self.state), ("outcome", &self.outcome)] {
            if !words.is_empty() {
                pairs.push((name, words.join(",")));
            }
        }
        for (name, value) in [
            ("name", &self.name),
            ("pool", &self.pool),
            ("label", &self.label),
            ("group", &self.group),
            ("correlation", &self.correlation),
        ] {
            pairs.extend(value.clone().map(|value| (name, value)));
        }
        let (since, until) = range(self.since.as_deref(), self.until.as_deref())?;
        pairs.extend(since.map(|since| ("since", since)));
        pairs.extend(until.map(|until| ("until", until)));
        Ok(pairs)
    }
}

/// `--since` and `--until` as RFC 3339 UTC, where they are given.
///
/// # Errors
/// One of them is no time, or they are not in this order: nothing would be found, which must not look like an answer.
pub fn range(since: Option<&str>, until: Option<&str>) -> Result<(Option<String>, Option<String>), Failure> {
    let now = jiff::Zoned::now();
    let point = |option: &str, text: Option<&str>| match text.map(|text| quantity::parse_past(text, &now)) {
        None => Ok(None),
        Some(Ok(at)) => Ok(Some(at.as_millisecond())),
        Some(Err(error)) => Err(Failure::Usage(format!("{option}: {error}"))),
    };
    let (since_ms, until_ms) = (point("--since", since)?, point("--until", until)?);
    if let Some((since_ms, until_ms)) = since_ms.zip(until_ms)
        && !quantity::is_range(Some(since_ms), Some(until_ms))
    {
        let local = |ms| quantity::show_local(ms, now.time_zone());
        let (since, until) = (local(since_ms), local(until_ms));
        return Err(Failure::Usage(format!("--since: is not before `--until`: {since} and {until}")));
    }
    Ok((since_ms.map(quantity::rfc3339_utc), until_ms.map(quantity::rfc3339_utc)))
}

/// Unix milliseconds of a time of the API.
pub fn unix_ms(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// Seconds for people.
pub fn seconds(seconds: f64) -> String {
    show_duration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

/// What a job is to people in one word: its outcome, `held`, or its state.
pub fn word(job: &JobView) -> &str {
    match (&job.outcome, &job.held_by) {
        (Some(outcome), _) => outcome,
        (None, Some(_)) if job.state == "queued" => "held",
        (None, _) => &job.state,
    }
}

/// Jobs for people on a terminal, or as lines in a pipe.
pub fn lines(jobs: &[JobView], look: &Look) -> String {
    if !look.is_terminal() {
        let mut table = Table::new([const { Column::left("") }; PLAIN_COLUMNS]);
        jobs.iter().for_each(|job| table.push(plain_row(job).map(Cell::from)));
        return table.render(look.output);
    }
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let mut table = Table::new([
        Column::right("ID"),
        Column::left("STATE"),
        Column::left("JOB").shrinks_to(12),
        Column::left("POOL").importance(1),
        Column::right("AGE").importance(2),
        Column::right("TIME").importance(3),
    ]);
    jobs.iter().for_each(|job| table.push(row(job, look)));
    table.render(look.output)
}

fn row(job: &JobView, look: &Look) -> [Cell; 6] {
    let word = word(job);
    let state = match (word, job.exit_code, job.attempt_count) {
        ("failed", Some(code), _) => format!("failed ({code})"),
        ("queued", _, 1..) => "retrying".to_owned(),
        (word, ..) => word.replace('_', " "),
    };
    let age = unix_ms(&job.submitted_at).map(|at| show_relative(at, look.now_ms)).unwrap_or_default();
    [
        job.id.to_string().into(),
        Cell::styled(state, state_style(word)),
        job.name.as_deref().unwrap_or(&job.summary).into(),
        Cell::styled(job.pool.as_deref().unwrap_or("-"), dim()),
        Cell::styled(age.trim_end_matches(" ago"), dim()),
        job.run_seconds.map(seconds).unwrap_or_default().into(),
    ]
}

/// Columns of the lines in a pipe: documented in the help, never changed, only added to.
const PLAIN_COLUMNS: usize = 10;

fn plain_row(job: &JobView) -> [String; PLAIN_COLUMNS] {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    [
        job.id.to_string(),
        job.state.clone(),
        text(&job.outcome),
        text(&job.name),
        text(&job.pool),
        job.submitted_at.clone(),
        text(&job.started_at),
        text(&job.finished_at),
        job.run_seconds.map(|seconds| format!("{seconds:.3}")).unwrap_or_default(),
        job.summary.clone(),
    ]
}
