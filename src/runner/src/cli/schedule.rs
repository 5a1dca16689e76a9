//! `schedule`: jobs at fixed times.

use super::add::with_command;
use super::client::{Request, encoded, to_json};
use super::context::{Context, print};
use super::fail::{Ended, after, queued};
use super::host::{NoArgs, table};
use super::job_options::{JobOptions, current_dir};
use super::list::unix_ms;
use super::look::Look;
use super::show::local;
use crate::api::{ScheduleRequest, ScheduleView, SubmittedOne};
use crate::quantity::show_relative;
use crate::style::{dim, heading, visible};
use crate::table::Column;
use clap::Args;
use serde_json::json;

/// Arguments of `schedule add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// Its name, unique
    #[arg(value_name = "SCHEDULE")]
    schedule: String,
    /// When: five fields of cron, or @hourly, @daily, @weekly, @monthly
    #[arg(long, value_name = "CALENDAR")]
    cron: String,
    /// Time zone, like Europe/Berlin [default: the host's]
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// When its last job has not finished: skip this run, queue it, cancel the last one, or allow both [default: skip]
    #[arg(long, value_name = "POLICY", value_parser = ["skip", "queue", "cancel", "allow"])]
    overlap: Option<String>,
    /// Runs missed while the daemon was down: none of them, one, or all [default: once]
    #[arg(long, value_name = "POLICY", value_parser = ["skip", "once", "all"])]
    missed: Option<String>,
    /// Program and arguments, run without a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// A text for `sh -c` instead
    #[arg(long, value_name = "TEXT", conflicts_with = "command")]
    shell: Option<String>,
    #[command(flatten)]
    job: JobOptions,
}

/// A schedule by name.
#[derive(Args, Debug)]
pub struct NameArgs {
    /// The schedule
    #[arg(value_name = "SCHEDULE")]
    schedule: String,
}

const SCHEDULES: &str = "/api/v1/schedules";

/// Options of jobs that a schedule cannot have: the daemon refuses them with the reason, and the help leaves them out.
pub const REFUSED: [&str; 3] = ["at", "key", "secret"];

/// Adds one.
pub fn add(context: &Context<'_>, args: AddArgs) -> Ended {
    let mut job = with_command(args.job.request()?, args.command, args.shell)?;
    let connection = context.client.connect()?;
    if job.dir.is_none() && connection.is_same_user() {
        job.dir = Some(current_dir()?);
    }
    let request = ScheduleRequest {
        name: args.schedule,
        calendar: args.cron,
        timezone: args.timezone,
        overlap: args.overlap,
        missed: args.missed,
        job,
    };
    let body = Some(to_json(&request)?);
    let added: ScheduleView =
        connection.call(&Request { method: "POST", path: SCHEDULES, body, ..Request::default() })?;
    after(tell(context, &added), || format!("schedule {} is added, but that", added.name))
}

/// Lists them.
pub fn list(context: &Context<'_>, _: NoArgs) -> Ended {
    let schedules: Vec<ScheduleView> = context.client.get(SCHEDULES)?;
    if context.is_json() {
        return context.print_json(&schedules);
    }
    let look = context.look();
    let columns = [
        Column::left("SCHEDULE"),
        Column::left("WHEN"),
        Column::left("ZONE").importance(1),
        Column::left("NEXT"),
        Column::left("SOURCE").importance(2),
        Column::right("LAST JOB").importance(2),
        Column::left("JOB").importance(3).shrinks_to(12),
    ];
    let row = |schedule: &ScheduleView| {
        let next = match (look.is_terminal(), &schedule.next_at) {
            (_, None) => if schedule.paused_by.is_some() { "paused" } else { "never" }.to_owned(),
            (false, Some(next)) => next.clone(),
            (true, Some(next)) => unix_ms(next).map(|at| show_relative(at, look.now_ms)).unwrap_or_default(),
        };
        [
            schedule.name.clone(),
            schedule.calendar.clone(),
            schedule.timezone.clone(),
            next,
            schedule.source.clone(),
            match &schedule.refused_at {
                Some(_) => "refused".to_owned(),
                None => schedule.last_job.map(|job| job.to_string()).unwrap_or_default(),
            },
            summary(schedule),
        ]
    };
    print(&table(columns, schedules.iter().map(row).collect(), &look, "no schedules"))
}

fn summary(schedule: &ScheduleView) -> String {
    match (&schedule.job.command, &schedule.job.shell) {
        (Some(words), _) => words.join(" "),
        (None, shell) => shell.clone().unwrap_or_default(),
    }
}

/// Shows one.
pub fn show(context: &Context<'_>, args: NameArgs) -> Ended {
    let schedule: ScheduleView = find(context, &args.schedule)?;
    tell(context, &schedule)
}

fn find(context: &Context<'_>, name: &str) -> Result<ScheduleView, super::Failure> {
    let schedules: Vec<ScheduleView> = context.client.get(SCHEDULES)?;
    let names: Vec<String> = schedules.iter().map(|schedule| schedule.name.clone()).collect();
    schedules.into_iter().find(|schedule| schedule.name == name).ok_or_else(|| {
        let hint = match names.is_empty() {
            true => "there are none; `ci-runner schedule add` makes one".to_owned(),
            false => crate::suggest::did_you_mean(name, names.iter().map(String::as_str)),
        };
        super::Failure::Error(format!("there is no schedule {name:?}; {hint}"))
    })
}

fn tell(context: &Context<'_>, schedule: &ScheduleView) -> Ended {
    match context.is_json() {
        true => context.print_json(schedule),
        false => print(&page(schedule, &context.look())),
    }
}

/// One for people.
pub fn page(schedule: &ScheduleView, look: &Look) -> String {
    let mut text = format!("{}\n", look.paint_visible(heading(), &format!("Schedule {}", schedule.name)));
    let mut field = |name: &str, value: &str| {
        text.push_str(&format!("  {}{}\n", look.paint(dim(), &format!("{name:<10}")), visible(value)));
    };
    field("when", &format!("{} ({})", schedule.calendar, schedule.timezone));
    match (&schedule.paused_by, &schedule.next_at) {
        (Some(by), _) => field("next", &format!("paused by {by}")),
        (None, Some(next)) => {
            let relative = unix_ms(next).map(|at| format!(" ({})", show_relative(at, look.now_ms))).unwrap_or_default();
            field("next", &format!("{}{relative}", local(next, look)));
        }
        (None, None) => field("next", "never"),
    }
    field("overlap", &schedule.overlap);
    field("missed", &schedule.missed);
    field("by", &schedule.by);
    field("source", &schedule.source);
    field("last job", &schedule.last_job.map_or_else(|| "none".to_owned(), |job| job.to_string()));
    if let Some((at, why)) = schedule.refused_at.as_ref().zip(schedule.refused_reason.as_ref()) {
        field("refused", &format!("{}: {why}", local(at, look)));
    }
    field("job", &summary(schedule));
    text
}

/// Lets it make no jobs.
pub fn pause(context: &Context<'_>, args: NameArgs) -> Ended {
    act(context, &args.schedule, "pause")?;
    said(context, "paused", &args.schedule)
}

/// Lets it make jobs again.
pub fn resume(context: &Context<'_>, args: NameArgs) -> Ended {
    act(context, &args.schedule, "resume")?;
    said(context, "resumed", &args.schedule)
}

/// Removes it.
pub fn remove(context: &Context<'_>, args: NameArgs) -> Ended {
    let path = format!("{SCHEDULES}/{}", encoded(&args.schedule));
    let _: serde_json::Value = context.client.call(&Request { method: "DELETE", path: &path, ..Request::default() })?;
    said(context, "removed", &args.schedule)
}

/// Queues its job now.
pub fn run(context: &Context<'_>, args: NameArgs) -> Ended {
    let path = format!("{SCHEDULES}/{}/run", encoded(&args.schedule));
    let submitted: SubmittedOne = context.client.post(&path, &json!({}))?;
    let told = match context.is_json() {
        true => context.print_json(&submitted),
        false => print(&format!("{}\n", submitted.id)),
    };
    after(told, || queued(submitted.id))
}

fn act(context: &Context<'_>, name: &str, action: &str) -> Result<(), super::Failure> {
    let _: ScheduleView = context.client.post(&format!("{SCHEDULES}/{}/{action}", encoded(name)), &json!({}))?;
    Ok(())
}

fn said(context: &Context<'_>, what: &str, name: &str) -> Ended {
    let told = match context.is_json() {
        true => context.print_json(&json!({ "name": name, "done": what })),
        false => print(&format!("{what} {name}\n")),
    };
    after(told, || format!("schedule {name} is {what}, but that"))
}
