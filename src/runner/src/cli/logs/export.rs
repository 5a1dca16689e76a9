//! `logs --export`: logs of one job or of many, byte for byte, in a tar archive.
//!
//! ```text
//! ci-runner-logs/<job>/<attempt>.log    what the attempt wrote; with --times <attempt>.jsonl, its lines with their times
//! ci-runner-logs/<job>/job.json         the job as `show` tells it, and under `logs` what is in each file, and what is missing
//! ```
//!
//! It stands in no memory and in no list: jobs are asked for page by page, each log passes through, and the archive appears when it
//! is whole (see [`target`]). Of a job that runs it has what was there when its turn came.

mod source;
mod tar;
mod target;

use super::super::client::{Client, with_query};
use super::super::context::{Context, print};
use super::super::fail::{EXIT_DONE, EXIT_ERROR, Ended, Failure};
use super::super::interrupt::exit_on_ctrl_c;
use super::super::list::{range, unix_ms};
use super::super::watch::{first_contact, patiently};
use super::LogsArgs;
use crate::api::{AttemptView, JobList, JobView};
use crate::quantity::show_size;
use serde_json::{Value, json};
use source::{Asked, Missing, Opened};
use std::path::PathBuf;
use std::process::ExitCode;
use tar::{Archive, Entry};
use target::Target;

/// Directory in the archive.
const TOP: &str = "ci-runner-logs";
/// Jobs asked for at once.
const PAGE: usize = 500;
/// Passed on at once.
const PIECE_BYTES: usize = 128 * 1024;

/// What was done.
#[derive(Debug, Default)]
struct Tally {
    jobs: u64,
    logs: u64,
    log_bytes: u64,
    unfinished: u64,
    removed: u64,
    unreadable: u64,
}

struct Export<'a> {
    context: &'a Context<'a>,
    client: Client,
    args: &'a LogsArgs,
    /// RFC 3339.
    since: Option<String>,
    until: Option<String>,
    archive: Archive<Target>,
    /// Room for parts of logs.
    room: PathBuf,
    tally: Tally,
}

/// Exports to this place.
pub(super) fn export(context: &Context<'_>, args: &LogsArgs, place: &str) -> Ended {
    if args.attempt.is_some() && args.ids.len() != 1 {
        return Err(Failure::Usage("--attempt is of one job: name it".to_owned()));
    }
    let chosen = [&args.pattern.name, &args.pattern.pool, &args.pattern.label, &args.pattern.group];
    if !args.ids.is_empty() && (chosen.into_iter().any(Option::is_some) || !args.pattern.outcome.is_empty()) {
        let why = "name jobs by their ids, or choose them by --name, --pool, --label, --group and --outcome: not both";
        return Err(Failure::Usage(why.to_owned()));
    }
    let (since, until) = range(args.since.as_deref(), args.pattern.until.as_deref())?;
    let target = Target::open(place)?;
    if context.is_json() && target.name().is_none() {
        let why = "--output json prints what was done on standard output, which is where the archive goes: give a file";
        return Err(Failure::Usage(why.to_owned()));
    }
    exit_on_ctrl_c(false);
    let room = target.directory();
    let client = context.client.clone().verbose(false);
    let (archive, tally) = (Archive::new(target), Tally::default());
    let mut export = Export { context, client, args, since, until, archive, room, tally };
    if args.ids.is_empty() {
        export.chosen()?;
    } else {
        export.named()?;
    }
    export.end()
}

impl Export<'_> {
    fn patiently<T>(&self, ask: impl FnMut() -> Result<T, super::super::client::ClientError>) -> Result<T, Failure> {
        patiently(None, &|text: &str| self.context.note(text), ask)
    }

    /// Jobs that were named: each must be there.
    fn named(&mut self) -> Result<(), Failure> {
        let mut ids = self.args.ids.clone();
        ids.sort_unstable();
        ids.dedup();
        let note = |text: &str| self.context.note(text);
        let views: Vec<JobView> = ids
            .iter()
            .map(|id| first_contact(None, &note, || super::super::watch::job(&self.client, *id)))
            .collect::<Result<_, _>>()?;
        views.iter().try_for_each(|view| self.job(view))
    }

    /// Jobs that the options choose, the newest first: what is queued meanwhile is not among them.
    fn chosen(&mut self) -> Result<(), Failure> {
        let mut cursor: Option<u64> = None;
        loop {
            let mut pairs = self.pairs();
            pairs.extend(cursor.map(|cursor| ("cursor", cursor.to_string())));
            let path = with_query("/api/v1/jobs", &pairs);
            let page: JobList = match cursor {
                None => {
                    let note = |text: &str| self.context.note(text);
                    first_contact(None, &note, || self.client.get(&path))?
                }
                Some(_) => self.patiently(|| self.client.get(&path))?,
            };
            let tried = page.jobs.iter().filter(|job| job.attempt_count > 0 && self.is_in_range(job));
            let ids: Vec<u64> = tried.map(|job| job.id).collect();
            for id in ids {
                let view = self.patiently(|| match super::super::watch::job(&self.client, id) {
                    // It was removed meanwhile.
                    Err(error) if error.status() == Some(404) => Ok(None),
                    answer => answer.map(Some),
                })?;
                if let Some(view) = view {
                    self.job(&view)?;
                }
            }
            cursor = page.next_cursor.filter(|_| !page.jobs.is_empty());
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let chosen = &self.args.pattern;
        let mut pairs = vec![("order", "desc".to_owned()), ("limit", PAGE.to_string())];
        let named =
            [("name", &chosen.name), ("pool", &chosen.pool), ("label", &chosen.label), ("group", &chosen.group)];
        pairs.extend(named.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        if !chosen.outcome.is_empty() {
            pairs.push(("outcome", chosen.outcome.join(",")));
        }
        pairs
    }

    /// Whether it can have written anything between `--since` and `--until`.
    fn is_in_range(&self, job: &JobView) -> bool {
        in_range(Some(&job.submitted_at), job.finished_at.as_ref(), self.since.as_ref(), self.until.as_ref())
    }

    /// All logs of a job that are asked for, and the job itself.
    fn job(&mut self, job: &JobView) -> Result<(), Failure> {
        let wanted = |attempt: &&AttemptView| {
            attempt.result.as_deref() != Some("released")
                && self.args.attempt.is_none_or(|number| number == attempt.number)
                && in_range(
                    attempt.started_at.as_ref(),
                    attempt.finished_at.as_ref(),
                    self.since.as_ref(),
                    self.until.as_ref(),
                )
        };
        let attempts: Vec<AttemptView> = job.attempts.iter().flatten().filter(wanted).cloned().collect();
        let mut logs = Vec::new();
        for attempt in &attempts {
            logs.extend(self.attempt(job, attempt)?);
        }
        if logs.is_empty() {
            return Ok(());
        }
        let mut told = serde_json::to_value(job).map_err(|error| Failure::Error(error.to_string()))?;
        told["logs"] = Value::Array(logs);
        let mut text = serde_json::to_vec_pretty(&told).map_err(|error| Failure::Error(error.to_string()))?;
        text.push(b'\n');
        let entry = Entry {
            name: format!("{TOP}/{}/job.json", job.id),
            size: text.len() as u64,
            modified_s: modified_s(job.finished_at.as_deref()),
        };
        let begun = self.archive.begin(&entry).and_then(|()| self.archive.write(&text));
        begun.and_then(|()| self.archive.end(&entry)).map_err(|error| self.archive.target().fault(&error))?;
        self.tally.jobs += 1;
        Ok(())
    }

    /// One log, and what is told of it; None: nothing was written in the time that is asked for.
    fn attempt(&mut self, job: &JobView, attempt: &AttemptView) -> Result<Option<Value>, Failure> {
        let (id, number) = (job.id, attempt.number);
        let context = self.context;
        let note = |text: &str| context.note(text);
        let client = self.client.clone();
        let (since, until) = (self.since.clone(), self.until.clone());
        let lines = self.args.times;
        let (since, until) = (since.as_deref(), until.as_deref());
        let asked = Asked { client: &client, id, attempt: number, since, until, lines, note: &note };
        let mut opened = match asked.open(&self.room)? {
            Ok(opened) => opened,
            Err(missing) => return Ok(Some(self.missing(id, number, missing))),
        };
        let size = opened.size();
        if size == 0 && (since.is_some() || until.is_some()) {
            return Ok(None);
        }
        let file = format!("{number}.{}", if lines { "jsonl" } else { "log" });
        let modified_s = modified_s(attempt.finished_at.as_deref());
        self.copy(&Entry { name: format!("{TOP}/{id}/{file}"), size, modified_s }, &mut opened)?;
        let complete = attempt.result.is_some();
        self.tally.logs += 1;
        self.tally.log_bytes += size;
        self.tally.unfinished += u64::from(!complete);
        let part = since.is_some() || until.is_some();
        Ok(Some(json!({ "attempt": number, "file": file, "bytes": size, "complete": complete, "part": part })))
    }

    fn missing(&mut self, id: u64, number: u32, missing: Missing) -> Value {
        let why = match missing {
            Missing::Removed => {
                self.tally.removed += 1;
                "it was removed".to_owned()
            }
            Missing::Unreadable(why) => {
                self.tally.unreadable += 1;
                why
            }
        };
        self.context.note(&format!("the log of attempt {number} of job {id} is missing: {why}"));
        json!({ "attempt": number, "missing": why })
    }

    fn copy(&mut self, entry: &Entry, log: &mut Opened<'_>) -> Result<(), Failure> {
        self.archive.begin(entry).map_err(|error| self.archive.target().fault(&error))?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match log.read(&mut piece)? {
                0 => break,
                count => {
                    self.archive.write(&piece[..count]).map_err(|error| self.archive.target().fault(&error))?;
                }
            }
        }
        self.archive.end(entry).map_err(|error| self.archive.target().fault(&error))
    }

    /// The archive gets its end and its name, and whoever waits is told.
    fn end(mut self) -> Ended {
        let Tally { jobs, logs, log_bytes, unfinished, removed, unreadable } = self.tally;
        if jobs == 0 {
            self.context.note("there is no such log; nothing was written");
            return Ok(ExitCode::from(EXIT_ERROR));
        }
        let name = self.archive.target().name().map(str::to_owned);
        self.archive.finish().map_err(|error| self.archive.target().fault(&error))?;
        self.archive.into_target().settle()?;
        let whole = unreadable == 0 && (removed == 0 || self.args.ids.is_empty());
        let code = if whole { EXIT_DONE } else { ExitCode::from(EXIT_ERROR) };
        if self.context.is_json() {
            self.context.print_json(&json!({
                "path": name, "jobs": jobs, "logs": logs, "log_bytes": log_bytes, "unfinished": unfinished,
                "removed": removed, "unreadable": unreadable,
            }))?;
            return Ok(code);
        }
        if let Some(name) = name {
            print(&format!("{name}\n"))?;
        }
        let mut told = format!("logs: {logs}, of jobs: {jobs}, together {}", show_size(log_bytes));
        for (count, what) in [(unfinished, "still written"), (removed, "removed before"), (unreadable, "not readable")]
        {
            if count > 0 {
                told.push_str(&format!("; {what}: {count}"));
            }
        }
        self.context.note(&told);
        Ok(code)
    }
}

/// Whether something between these two can lie between those two.
fn in_range(begin: Option<&String>, end: Option<&String>, since: Option<&String>, until: Option<&String>) -> bool {
    let ms = |text: Option<&String>| text.and_then(|text| unix_ms(text));
    let ended_before = ms(end).zip(ms(since)).is_some_and(|(end, since)| end + SLACK_MS < since);
    let began_after = ms(begin).zip(ms(until)).is_some_and(|(begin, until)| begin - SLACK_MS > until);
    !ended_before && !began_after
}

/// Times of lists and of lines are taken by different processes; the lines themselves decide.
const SLACK_MS: i64 = 60_000;

/// Seconds after 1970 of a time of the API, or of now.
fn modified_s(at: Option<&str>) -> u64 {
    let ms = at.and_then(unix_ms).unwrap_or_else(|| jiff::Timestamp::now().as_millisecond());
    u64::try_from(ms / 1_000).unwrap_or(0)
}
