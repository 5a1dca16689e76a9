//! `add` and `add_job`: queue jobs, and print their ids only after the daemon has them on disk.
//!
//! The working directory of the caller becomes the job's where the daemon runs as the caller, as the kernel tells of the
//! socket's other end: under other users it would be a directory that the job may not enter, and an empty workspace is what
//! is wanted there. The caller's environment never goes along; `--env` passes single variables.

use super::client::{Client, ClientError, Request, to_json};
use super::context::{Context, print};
use super::fail::{Ended, Failure, after, queued};
use super::interrupt::LastWords;
use super::job_options::{JobOptions, current_dir, current_dir_or};
use super::jobs_file::JobsFile;
use super::run::refuse_options;
use crate::api::{JobRequest, SubmittedMany, SubmittedOne};
use crate::http::JOBS_MAX;
use clap::Args;
use std::fmt::Write as _;

/// Where jobs are queued.
const JOBS: &str = "/api/v1/jobs";

/// What a person who gives up before the answer has to know.
const ONE: &str = "\nci-runner: interrupted before the daemon answered. Whether the job was queued is not known. Look with \
    `ci-runner list` before you try again; with --key KEY trying again is always safe\n";
const ONE_KEYED: &str = "\nci-runner: interrupted before the daemon answered. Whether the job was queued is not known. Try again \
    with the same key: it is queued once at most\n";
const MANY: &str = "\nci-runner: interrupted before the daemon answered. Whether the jobs were queued, all or none, is not known. \
    Look with `ci-runner list` before you try again; with --key KEY trying again is always safe\n";
const MANY_KEYED: &str = "\nci-runner: interrupted before the daemon answered. Whether the jobs were queued, all or none, is not \
    known. Try again with the same key: they are queued once at most\n";

/// Arguments of `add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// Program and arguments, run without a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// A text for `sh -c` instead
    #[arg(long, value_name = "TEXT", conflicts_with = "command")]
    shell: Option<String>,
    /// A file of jobs instead, one JSON object a line; `-` is standard input. One bad line, and nothing is queued
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["command", "shell"])]
    file: Option<String>,
    #[command(flatten)]
    job: JobOptions,
}

/// Queues what the arguments say.
pub fn add(context: &Context<'_>, args: AddArgs) -> Ended {
    if let Some(file) = &args.file {
        return add_file(context, file, args.job);
    }
    let request = args.into_request()?;
    let submitted = add_one(&context.client, request, current_dir)?;
    let told = match context.is_json() {
        true => context.print_json(&submitted),
        false => print(&format!("{}\n", submitted.id)),
    };
    after(told, || queued(submitted.id))
}

impl AddArgs {
    /// The job they describe.
    ///
    /// # Errors
    /// What is wrong with an option.
    pub fn into_request(self) -> Result<JobRequest, Failure> {
        with_command(self.job.request()?, self.command, self.shell)
    }
}

/// Puts the command into a request.
///
/// # Errors
/// There is none.
pub fn with_command(
    mut request: JobRequest,
    command: Vec<String>,
    shell: Option<String>,
) -> Result<JobRequest, Failure> {
    if command.is_empty() && shell.is_none() {
        return Err(Failure::Usage(
            "there is nothing to run: give a command behind `--`, as in `-- make test`, or a text with --shell"
                .to_owned(),
        ));
    }
    request.shell = shell;
    request.command = (!command.is_empty()).then_some(command);
    Ok(request)
}

fn add_one(
    client: &Client,
    mut request: JobRequest,
    own_dir: impl Fn() -> Result<String, Failure>,
) -> Result<SubmittedOne, Failure> {
    let connection = client.connect()?;
    if request.dir.is_none() && connection.is_same_user() {
        request.dir = Some(own_dir()?);
    } else if request.dir.is_none() {
        // Only a pool that runs as a person has a use for it; elsewhere it may be any, or none.
        request.caller_dir = own_dir().ok();
    }
    let keyed = request.key.is_some();
    let body = Some(to_json(&request)?);
    let headers: Vec<String> = trace_header().into_iter().collect();
    let request = Request { method: "POST", path: JOBS, headers: &headers, body };
    let _interrupted = LastWords::on_ctrl_c(if keyed { ONE_KEYED } else { ONE });
    client.call_on(connection, &request).map_err(|error| unsure(error, keyed))
}

fn add_file(context: &Context<'_>, path: &str, options: JobOptions) -> Ended {
    let key = options.key.clone();
    refuse_options(&JobOptions { key: None, ..options }.request()?, path)?;
    let mut file = JobsFile::read(path)?;
    if file.jobs.len() > JOBS_MAX {
        let text = format!(
            "{} holds {} jobs, and one call takes {JOBS_MAX} at most; nothing was queued",
            file.name,
            file.jobs.len()
        );
        return Err(Failure::Usage(format!("{text}. Split it, as in `split -l {JOBS_MAX}`")));
    }
    let connection = context.client.connect()?;
    if file.jobs.iter().any(|job| job.dir.is_none()) {
        let own = connection.is_same_user();
        let dir = if own { Some(current_dir()?) } else { current_dir().ok() };
        for job in file.jobs.iter_mut().filter(|job| job.dir.is_none()) {
            (if own { &mut job.dir } else { &mut job.caller_dir }).clone_from(&dir);
        }
    }
    let keyed = key.is_some() || file.jobs.iter().all(|job| job.key.is_some());
    let headers: Vec<String> = key.map(|key| key_header(&key)).transpose()?.into_iter().chain(trace_header()).collect();
    let body = Some(to_json(&file.jobs)?);
    let request = Request { method: "POST", path: JOBS, headers: &headers, body };
    let interrupted = LastWords::on_ctrl_c(if keyed { MANY_KEYED } else { MANY });
    let submitted: SubmittedMany = context.client.call_on(connection, &request).map_err(|error| match error {
        ClientError::Refused { mut problem, retry_after } if problem.index.is_some() => {
            let index = problem.index.take().unwrap_or_default();
            let place = file.place(index);
            match Failure::from(ClientError::Refused { problem, retry_after }) {
                Failure::Usage(text) => Failure::Usage(format!("{place}: {text}; nothing was queued")),
                other => other,
            }
        }
        error => unsure(error, keyed),
    })?;
    drop(interrupted);
    let done = || match submitted.ids[..] {
        [first, .., last] => {
            format!("{} jobs are queued, {first} the first and {last} the last, but their ids", submitted.ids.len())
        }
        [id] => queued(id),
        [] => "nothing was to be queued, but that".to_owned(),
    };
    if context.is_json() {
        return after(context.print_json(&submitted), done);
    }
    let mut text = String::with_capacity(submitted.ids.len() * 8);
    for id in &submitted.ids {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{id}");
    }
    after(print(&text), done)
}

/// The caller's trace goes on in its jobs, where it has one.
fn trace_header() -> Option<String> {
    let parent = std::env::var("TRACEPARENT").ok()?;
    crate::trace::trace_of(&parent).map(|_| format!("traceparent: {parent}"))
}

fn key_header(key: &str) -> Result<String, Failure> {
    match key.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && !key.trim().is_empty() {
        true => Ok(format!("Idempotency-Key: {key}")),
        false => Err(Failure::Usage(format!("--key {key:?}: use letters, digits and signs of ASCII"))),
    }
}

/// A connection that broke after the request was on its way leaves it open whether the job was queued: say so.
fn unsure(error: ClientError, keyed: bool) -> Failure {
    match error {
        ClientError::Broken { .. } => {
            let mend = match keyed {
                true => "Try again with the same key: it is queued once at most",
                false => "Look with `ci-runner list` before you try again; with --key KEY trying again is always safe",
            };
            Failure::Temporary(format!("{error}. Whether the job was queued is not known. {mend}"))
        }
        other => other.into(),
    }
}

/// `add_job TEXT`: exactly one argument, run by `sh -c`.
pub fn add_job(words: &[String]) -> Ended {
    const USAGE: &str = "usage: add_job 'COMMAND'\n\n\
        Queues one job, run by `sh -c`, and prints its id once it is safe on disk. Everything else is told by\n\
        `ci-runner add --help`.\n\nExamples:\n  add_job 'make -j4 test'\n";
    match words {
        [word] if word == "--help" || word == "-h" => print(USAGE),
        [word] if word == "--version" || word == "-V" => print(concat!("add_job ", env!("CARGO_PKG_VERSION"), "\n")),
        [text] => {
            let request = JobRequest { shell: Some(text.clone()), ..JobRequest::default() };
            let mend = "go to another one, or name one: `ci-runner add --dir DIR --shell 'COMMAND'`";
            let submitted = add_one(&Client::new(None), request, || current_dir_or(mend))?;
            after(print(&format!("{}\n", submitted.id)), || queued(submitted.id))
        }
        words => Err(Failure::Usage(format!(
            "add_job takes exactly one argument, the command, not {}; put it in quotes\n{USAGE}",
            words.len()
        ))),
    }
}
