//! `logs`: the output of a job, as it was or as it comes; with `--grep`, lines of many; with `--export`, whole logs in an archive.
//!
//! Following is a loop of requests, each from the byte where the last one stopped: a restart of the daemon between two of
//! them loses and repeats nothing. An attempt's stream ends when the attempt has ended and all of it was sent; then the job
//! is asked whether there is or will be another attempt.
//!
//! On a terminal the output is defused (it cannot move the cursor or set the title) unless `--raw`; in a pipe every byte is
//! as the job wrote it.

mod discover;
mod export;
mod grep;
mod many;
mod notes;
mod printer;
pub(super) mod tail;

use super::client::{Client, ClientError, Response, with_query};
use super::context::Context;
use super::fail::{EXIT_DONE, Ended, Failure};
use super::interrupt::exit_on_ctrl_c;
use super::list::range;
use super::watch::{Backoff, first_contact, job, patiently, pause_in_crowd};
use crate::api::{AttemptView, JobView};
use ci_runner_core::outcome::Outcome;
use clap::Args;
use printer::Printer;
pub(super) use printer::bytes_of;
use std::io::{self, Read};

/// Arguments of `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// The job; with --grep, --export or -f any number of them [default with --grep and --export: all jobs]
    #[arg(value_name = "ID", value_parser = super::job_options::job_id,
        required_unless_present_any = ["grep", "export", "name", "pool", "label", "group"])]
    ids: Vec<u64>,
    /// Go on until the job has finished, through retries and restarts of the daemon; with --name, --pool, --label or --group
    /// all jobs that run or start later, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// This attempt [default: the latest; with -f, from the latest on]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    attempt: Option<u32>,
    /// Only the last N lines
    #[arg(long, value_name = "N", conflicts_with = "since", allow_negative_numbers = true)]
    tail: Option<u64>,
    /// Only what was written since: a time, or how long ago (5m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Put the time before each line
    #[arg(long, conflicts_with = "raw")]
    times: bool,
    /// Bytes as they are, control sequences among them, also on a terminal
    #[arg(long)]
    raw: bool,
    /// Write whole logs, of all attempts, and what is known of their jobs, to this new tar archive: FILE.tar, FILE.tar.gz or
    /// FILE.tar.zst, or - for standard output; with --times lines with their times, as JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["follow", "tail", "raw", "grep"])]
    export: Option<String>,
    #[command(flatten)]
    pattern: Pattern,
}

/// What is looked for, and in which logs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Search")]
struct Pattern {
    /// Lines that match this regular expression, in all attempts, the newest job first; exit 1 where there is none
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true, conflicts_with_all = ["follow", "attempt", "tail", "raw"])]
    grep: Option<String>,
    /// PATTERN is a text, not an expression
    #[arg(short = 'F', long, requires = "grep")]
    fixed: bool,
    /// Upper and lower case are the same
    #[arg(short, long, requires = "grep")]
    ignore_case: bool,
    /// With --grep, --export or -f: only jobs of this name, or whose name begins so: 'build*'
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// With --grep, --export or -f: only jobs of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// With --export or -f: only jobs with this label
    #[arg(long, value_name = "KEY[=VALUE]", conflicts_with = "grep")]
    label: Option<String>,
    /// With --export or -f: only jobs of this group
    #[arg(long, value_name = "GROUP", conflicts_with = "grep")]
    group: Option<String>,
    /// With --grep or --export: only jobs that ended so: succeeded, failed, timed_out, cancelled, superseded, expired
    #[arg(long, value_name = "OUTCOME,…", value_delimiter = ',', value_parser = Outcome::WORDS)]
    outcome: Vec<String>,
    /// Only what was written before: a time, or how long ago
    #[arg(long, value_name = "TIME", conflicts_with_all = ["follow", "tail"])]
    until: Option<String>,
    /// At most so many lines [default: 1000]
    #[arg(long, value_name = "N", requires = "grep", value_parser = clap::value_parser!(u64).range(1..=100_000), allow_negative_numbers = true)]
    limit: Option<u64>,
}

/// Where the reading stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    attempt: u32,
    offset: u64,
}

/// Prints the log.
pub fn logs(context: &Context<'_>, args: LogsArgs) -> Ended {
    if let Some(pattern) = &args.pattern.grep {
        return grep::grep(context, &args, pattern);
    }
    if let Some(place) = &args.export {
        return export::export(context, &args, place);
    }
    let chosen = &args.pattern;
    if !chosen.outcome.is_empty() {
        return Err(Failure::Usage("--outcome chooses jobs to search in (--grep) or to export (--export)".to_owned()));
    }
    let by_filter = [&chosen.name, &chosen.pool, &chosen.label, &chosen.group].into_iter().any(Option::is_some);
    if args.follow && (by_filter || args.ids.len() > 1) {
        return many::follow(context, &args);
    }
    if by_filter {
        let why = "--name, --pool, --label and --group choose jobs to follow (-f), to search in (--grep) or to export (--export)";
        return Err(Failure::Usage(why.to_owned()));
    }
    let [id] = args.ids[..] else {
        let why = "logs shows one job at a time; several can be followed, with -f, searched, with --grep, or exported, with --export";
        return Err(Failure::Usage(why.to_owned()));
    };
    let mut printer = Printer::new(context, args.times, args.raw);
    exit_on_ctrl_c(printer.is_defusing());
    let (since, until) = range(args.since.as_deref(), args.pattern.until.as_deref())?;
    let mut first: Vec<(&str, String)> = Vec::new();
    first.extend(args.attempt.map(|attempt| ("attempt", attempt.to_string())));
    first.extend(args.tail.map(|tail| ("tail", tail.to_string())));
    first.extend(since.map(|since| ("since", since)));
    first.extend(until.map(|until| ("until", until)));
    let reading = Reading { context, id, lines: printer.wants_lines() };
    if !args.follow {
        return reading.once(first, &mut printer);
    }
    reading.follow(first, args.attempt, &mut printer)
}

struct Reading<'a> {
    context: &'a Context<'a>,
    id: u64,
    /// As lines with times and offsets, rather than bytes.
    lines: bool,
}

/// How far an answer goes.
enum Reach {
    /// To the end of the attempt.
    Followed,
    /// To what was there when it was asked for; had an attempt ended before, it is this one.
    SoFar { ended: Option<u32> },
}

/// How the reading of one stream ended.
enum StreamEnd {
    /// The attempt has ended and all was printed.
    Whole,
    /// The daemon went away.
    Broken,
}

impl Reading<'_> {
    fn client(&self) -> &Client {
        &self.context.client
    }

    fn open(&self, mut pairs: Vec<(&str, String)>, follow: bool) -> Result<Response, ClientError> {
        if follow {
            pairs.push(("follow", "true".to_owned()));
        }
        if self.lines {
            pairs.push(("format", "ndjson".to_owned()));
        }
        self.client().stream(&with_query(&format!("/api/v1/jobs/{}/log", self.id), &pairs))
    }

    /// What is there now.
    fn once(&self, first: Vec<(&str, String)>, printer: &mut Printer) -> Ended {
        let attempt: Option<u32> =
            first.iter().find(|(name, _)| *name == "attempt").and_then(|(_, number)| number.parse().ok());
        if attempt.is_none() {
            let job = job(self.client(), self.id)?;
            if last_attempt(&job) == 0 {
                self.context
                    .note(&format!("job {} is {}; it has not started, so there is no output", job.id, job.state));
                return Ok(EXIT_DONE);
            }
        }
        let response = self.open(first, false)?;
        let mut position = position_of(&response, None);
        let begin = position;
        match self.copy(response, &mut position, printer)? {
            StreamEnd::Whole => {
                printer.finish()?;
                // The log is whole; a daemon that goes away now takes nothing of it back.
                if let Ok(job) = job(self.client(), self.id) {
                    self.tell_beside(&job, position.attempt, position == begin);
                }
                Ok(EXIT_DONE)
            }
            StreamEnd::Broken => {
                printer.finish()?;
                Err(Failure::Temporary("the daemon went away in the middle of the log; try again".to_owned()))
            }
        }
    }

    fn follow(&self, first: Vec<(&str, String)>, only: Option<u32>, printer: &mut Printer) -> Ended {
        let note = |text: &str| self.context.note(text);
        // The first question decides whether there is such a job and a daemon at all.
        let view = first_contact(None, &note, || job(self.client(), self.id))?;
        let mut position = match (only, last_attempt(&view)) {
            (None, 0) => match self.next_attempt(0)? {
                Some(attempt) => Some(Position { attempt: attempt.number, offset: 0 }),
                None => return Ok(EXIT_DONE),
            },
            _ => None,
        };
        // A tail belongs to what was there at the start, a position to everything after.
        let mut pending = (position.is_none()).then_some(first);
        // A daemon whose streams break before the first byte must not be asked in a tight loop.
        let mut backoff = Backoff::default();
        loop {
            let pairs = match (&position, &pending) {
                (None, Some(first)) => first.clone(),
                (Some(at), _) => vec![("attempt", at.attempt.to_string()), ("offset", at.offset.to_string())],
                (None, None) => Vec::new(),
            };
            let (response, reach) = self.open_in_crowd(&pairs, position.map(|at| at.attempt).or(only))?;
            let mut at = position_of(&response, position);
            pending = None;
            let from = at;
            let end = self.copy(response, &mut at, printer)?;
            position = Some(at);
            if at != from {
                backoff = Backoff::default();
            }
            if matches!(end, StreamEnd::Broken) {
                if at == from {
                    backoff.pause(None);
                }
                continue;
            }
            if matches!(reach, Reach::SoFar { ended } if ended != Some(at.attempt)) {
                pause_in_crowd(None);
                continue;
            }
            if only.is_some() {
                break;
            }
            match self.next_attempt(at.attempt)? {
                Some(next) => {
                    let ended = self.ended(at.attempt)?;
                    if let Some(lost) = ended.as_ref().and_then(notes::lost) {
                        note(&lost);
                    }
                    printer.between(&separator(&ended, &next))?;
                    position = Some(Position { attempt: next.number, offset: 0 });
                }
                None => break,
            }
        }
        printer.finish()?;
        let view = patiently(None, &note, || job(self.client(), self.id))?;
        self.tell_beside(&view, only.unwrap_or_else(|| last_attempt(&view)), true);
        Ok(EXIT_DONE)
    }

    /// A stream to follow; where there is no place for one, what is there now.
    fn open_in_crowd(&self, pairs: &[(&str, String)], attempt: Option<u32>) -> Result<(Response, Reach), Failure> {
        let note = |text: &str| self.context.note(text);
        loop {
            let followed = patiently(None, &note, || match self.open(pairs.to_vec(), true) {
                Err(error) if error.is_crowded() => Ok(None),
                answer => answer.map(Some),
            })?;
            if let Some(response) = followed {
                return Ok((response, Reach::Followed));
            }
            // Whether it has ended must be known before what is there is read.
            let view = patiently(None, &note, || job(self.client(), self.id))?;
            let tried = view.attempts.iter().flatten().filter(|attempt| attempt.result.as_deref() != Some("released"));
            let wanted = |found: &&AttemptView| attempt.is_none_or(|number| found.number == number);
            let found = tried.filter(wanted).max_by_key(|attempt| attempt.number);
            if found.is_none() && view.state != "finished" {
                pause_in_crowd(None);
                continue;
            }
            let ended = found.filter(|attempt| attempt.result.is_some()).map(|attempt| attempt.number);
            let response = patiently(None, &note, || self.open(pairs.to_vec(), false))?;
            return Ok((response, Reach::SoFar { ended }));
        }
    }

    /// What the log itself cannot say: why there is none, or that the end of it is missing.
    fn tell_beside(&self, job: &JobView, number: u32, nothing_came: bool) {
        let attempts = job.attempts.as_deref().unwrap_or_default();
        let Some(attempt) = attempts.iter().find(|attempt| attempt.number == number) else { return };
        let unstarted = notes::unstarted(self.id, attempt).filter(|_| nothing_came);
        for note in unstarted.into_iter().chain(notes::lost(attempt)) {
            self.context.note(&note);
        }
    }

    /// Prints a stream to its end, and keeps count of where it stands.
    fn copy(
        &self,
        mut response: Response,
        position: &mut Position,
        printer: &mut Printer,
    ) -> Result<StreamEnd, Failure> {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            match response.body.read(&mut bytes) {
                Ok(0) => return Ok(StreamEnd::Whole),
                Ok(count) => position.offset = printer.take(&bytes[..count], position.offset)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    printer.forget_half_line();
                    return Ok(StreamEnd::Broken);
                }
            }
        }
    }

    /// The attempt behind `after`, once it is there; `None` when the job has finished without one.
    fn next_attempt(&self, after: u32) -> Result<Option<AttemptView>, Failure> {
        let note = |text: &str| self.context.note(text);
        let mut backoff = Backoff::default();
        let mut told = false;
        loop {
            let view = patiently(None, &note, || job(self.client(), self.id))?;
            let attempts = view.attempts.unwrap_or_default();
            // A claim that was given back has no output.
            let next = attempts
                .into_iter()
                .filter(|attempt| attempt.number > after && attempt.result.as_deref() != Some("released"))
                .min_by_key(|attempt| attempt.number);
            if next.is_some() || view.state == "finished" {
                return Ok(next);
            }
            if after == 0 && !told {
                told = true;
                note(&format!("job {} has not started; `ci-runner why {}` says why", self.id, self.id));
            }
            backoff.pause(None);
        }
    }

    fn ended(&self, number: u32) -> Result<Option<AttemptView>, Failure> {
        let view = patiently(None, &|_: &str| (), || job(self.client(), self.id))?;
        Ok(view.attempts.unwrap_or_default().into_iter().find(|attempt| attempt.number == number))
    }
}

fn last_attempt(job: &JobView) -> u32 {
    let attempts = job.attempts.as_deref().unwrap_or_default();
    attempts.iter().map(|attempt| attempt.number).max().unwrap_or(job.attempt_count)
}

/// Where a stream begins: what the daemon says, else what was asked for.
fn position_of(response: &Response, asked: Option<Position>) -> Position {
    let number = |name: &str| response.header(name).and_then(|value| value.parse::<u64>().ok());
    Position {
        attempt: number("ci-runner-attempt")
            .and_then(|attempt| u32::try_from(attempt).ok())
            .or(asked.map(|at| at.attempt))
            .unwrap_or(1),
        offset: number("ci-runner-log-offset").or(asked.map(|at| at.offset)).unwrap_or(0),
    }
}

fn separator(ended: &Option<AttemptView>, next: &AttemptView) -> String {
    let how = match ended {
        Some(attempt) => match (attempt.result.as_deref(), attempt.exit_code, attempt.signal) {
            (Some("exited"), Some(code), _) => format!("attempt {} exited with {code}", attempt.number),
            (Some("signaled"), _, Some(signal)) => format!("attempt {} was ended by signal {signal}", attempt.number),
            (Some(word), ..) => format!("attempt {}: {}", attempt.number, word.replace('_', " ")),
            (None, ..) => format!("attempt {} ended", attempt.number),
        },
        None => "the attempt before it ended".to_owned(),
    };
    format!("── attempt {} · {how} ──", next.number)
}
