//! `run`: commands here and now, without a daemon, with a progress display.
//!
//! The command line decides nothing about jobs: the engine (the same as the daemon's, over a store in memory) runs them on
//! a thread of its own and tells [`Event`]s; here they are shown. Ctrl-C, SIGTERM or the terminal's end asks the jobs to end,
//! a second time kills them.

mod display;
mod signals;

use super::add::with_command;
use super::context::Context;
use super::fail::{EXIT_DONE, EXIT_ERROR, Ended, Failure};
use super::job_options::{JobOptions, current_dir};
use super::jobs_file::JobsFile;
use crate::api::JobRequest;
use crate::daemon::local::{BadJob, Event, JobResult, Plan, Stop};
use clap::{Args, Command};
use display::Display;
use signals::Signals;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Events that may wait for the display: an engine that is ahead waits, which slows the jobs' output and nothing else.
const EVENTS_MAX: usize = 1_024;
/// How often a display on a terminal is drawn anew.
const TICK: Duration = Duration::from_millis(100);

/// Runs a plan to its end: returns when every job has finished and nothing of them is left, or with the reason why it could
/// not run them. Called on a thread of its own, outside any async runtime. It must send one [`Event::Finished`] for each job,
/// watch the last argument, and send with `blocking_send` or `send`; a closed channel is no reason to stop.
pub type Engine = fn(Plan, mpsc::Sender<Event>, watch::Receiver<Stop>) -> anyhow::Result<()>;

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Program and arguments, run without a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// A text for `sh -c` instead; may be repeated for several jobs
    #[arg(long, value_name = "TEXT", conflicts_with = "command")]
    shell: Vec<String>,
    /// A file of jobs instead, one JSON object a line; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["command", "shell"])]
    file: Option<String>,
    /// How many run at once [default: as many as there are processors]
    #[arg(short = 'P', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024), allow_negative_numbers = true)]
    parallel: Option<u32>,
    #[command(flatten)]
    job: JobOptions,
}

/// Options of jobs that mean nothing here. They are refused with the reason, in the lines of a file as well.
const REFUSED: [&str; 5] = ["hold", "key", "after", "notify", "label"];

/// Leaves what is refused anyhow out of the help, and tells the defaults that are other ones than the daemon's.
pub fn hide_refused(command: Command) -> Command {
    hide(command, &REFUSED)
        .mut_arg("timeout", |argument| argument.help("End each attempt after so long [default: never]"))
        .mut_arg("retry", |argument| argument.help("Tries after the first one that failed [default: 0]"))
}

/// Leaves these options out of the help.
pub fn hide(command: Command, options: &[&'static str]) -> Command {
    options.iter().fold(command, |command, id| command.mut_arg(id, |argument| argument.hide(true)))
}

impl RunArgs {
    /// The plan, and the file that its jobs are from.
    pub(super) fn plan(self) -> Result<(Plan, Option<JobsFile>), Failure> {
        let processors =
            std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        let parallel = self.parallel.unwrap_or(processors);
        let template = self.job.request()?;
        let mut file = self.file.map(|path| read_file(&template, &path)).transpose()?;
        let mut jobs = match &mut file {
            Some(file) => std::mem::take(&mut file.jobs),
            None if self.shell.len() > 1 => self
                .shell
                .into_iter()
                .map(|text| with_command(template.clone(), Vec::new(), Some(text)))
                .collect::<Result<_, _>>()?,
            None => vec![with_command(template, self.command, self.shell.into_iter().next())?],
        };
        if jobs.iter().any(|job| job.dir.is_none()) {
            let dir = current_dir()?;
            for job in jobs.iter_mut().filter(|job| job.dir.is_none()) {
                job.dir = Some(dir.clone());
            }
        }
        Ok((Plan { jobs, parallel }, file))
    }
}

fn read_file(template: &JobRequest, path: &str) -> Result<JobsFile, Failure> {
    if [".yaml", ".yml"].iter().any(|end| path.ends_with(end)) {
        let text = format!("{path}: pipelines are not in this version; write a file of jobs (FILE.jsonl)");
        return Err(Failure::Usage(text));
    }
    refuse_options(template, path)?;
    JobsFile::read(path)
}

/// A file says all of each job: an option beside it would be another truth.
///
/// # Errors
/// The first option that stands beside a file.
pub fn refuse_options(options: &JobRequest, file: &str) -> Result<(), Failure> {
    let given = serde_json::to_value(options).unwrap_or_default();
    match given.as_object().and_then(|given| given.keys().next()) {
        None => Ok(()),
        Some(name) => {
            // Two keys are plural where the option is said once for each.
            let option = match name.as_str() {
                "labels" => "label".to_owned(),
                "secrets" => "secret".to_owned(),
                name => name.replace('_', "-"),
            };
            Err(Failure::Usage(format!("--{option} cannot stand beside -f: write it into the lines of {file}")))
        }
    }
}

/// Runs the jobs and shows them; the exit code tells how they ended.
pub fn run(context: &Context<'_>, args: RunArgs) -> Ended {
    let (plan, file) = args.plan()?;
    let (events, told) = mpsc::channel(EVENTS_MAX);
    let (stop, stopped) = watch::channel(Stop::No);
    let mut display = Display::new(context, &plan.jobs);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Error(format!("cannot start: {error}")))?;
    // Before anything runs: none of them may end us and leave it.
    let mut signals = {
        let _entered = runtime.enter();
        Signals::listen()?
    };
    let engine = context.hooks.run;
    let running = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || engine(plan, events, stopped))
        .map_err(|error| Failure::Error(format!("cannot start the engine: {error}")))?;
    let (shown, asked) = runtime.block_on(async {
        let mut told = told;
        let shown = follow(&mut told, &mut signals, &stop, Some(&mut display)).await;
        if shown.is_err() {
            // Nobody reads any more: the jobs end too, as they would behind a closed pipe.
            stop.send_if_modified(|stop| *stop == Stop::No && std::mem::replace(stop, Stop::Ask) == Stop::No);
            follow(&mut told, &mut signals, &stop, None).await.ok();
        }
        (shown, signals.exit_code())
    });
    let ran = running.join().map_err(|_| Failure::Error("the engine crashed; see above".to_owned()))?;
    shown.map_err(unread)?;
    ran.map_err(|error| failure(file.as_ref(), &error))?;
    display.finish(context).map_err(unread)?;
    // Output that was cut is no success for whoever reads it.
    Ok(match (asked, display.all_succeeded() && display.is_complete()) {
        (Some(code), _) => code.into(),
        (None, true) => EXIT_DONE,
        (None, false) => EXIT_ERROR.into(),
    })
}

/// 0 says that every job succeeded and was seen.
fn unread(failure: Failure) -> Failure {
    match failure {
        Failure::NobodyListens => {
            Failure::Error("nobody reads the output any more: what still ran was ended".to_owned())
        }
        other => other,
    }
}

/// What the engine could not do. What is wrong with a job is the caller's to mend.
fn failure(file: Option<&JobsFile>, error: &anyhow::Error) -> Failure {
    match (error.downcast_ref::<BadJob>(), file) {
        (Some(bad), Some(file)) => Failure::Usage(format!("{}: {bad}; nothing was run", file.place(bad.index))),
        (Some(bad), None) => Failure::Usage(bad.to_string()),
        (None, _) => Failure::Error(format!("{error:#}")),
    }
}

/// Shows events until the engine has no more, and passes Ctrl-C and its like on. Without a display events are only taken.
async fn follow(
    told: &mut mpsc::Receiver<Event>,
    signals: &mut Signals,
    stop: &watch::Sender<Stop>,
    mut display: Option<&mut Display>,
) -> Result<(), Failure> {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = told.recv() => match (event, &mut display) {
                (Some(event), Some(display)) => display.show(event)?,
                (Some(_), None) => {}
                (None, _) => return Ok(()),
            },
            () = signals.next() => {
                let next = if *stop.borrow() == Stop::No { Stop::Ask } else { Stop::Kill };
                stop.send_replace(next);
                if let Some(display) = &display {
                    display.remark(match next {
                        Stop::Kill => "killing the jobs",
                        _ => "asked the jobs to end; Ctrl-C again kills them",
                    });
                }
            }
            _ = tick.tick(), if display.as_ref().is_some_and(|display| display.is_live()) => {
                if let Some(display) = &display {
                    display.tick();
                }
            }
        }
    }
}
