//! Verbs about the host: `pause`, `resume`, `drain`, `status`, `pools`, `groups`, `runners`.

use super::context::{Context, print};
use super::fail::{Ended, Failure, after};
use super::interrupt::exit_on_ctrl_c;
use super::list::{seconds, unix_ms};
use super::look::Look;
use super::show::{local, wrapped};
use super::watch::{Backoff, patiently};
use crate::api::{GroupInfo, PoolInfo, ReasonRequest, RunnerInfo, StatusView};
use crate::quantity::{DurationField, show_relative};
use crate::style::{dim, heading, state_style, visible};
use crate::table::{Cell, Column, Table};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::time::Instant;

/// No arguments of its own.
#[derive(Args, Debug)]
pub struct NoArgs {}

/// Arguments of `pause`.
#[derive(Args, Debug)]
pub struct PauseArgs {
    /// Why, for `status` and `why`
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// Arguments of `drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// Why, for `status` and `why`
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Wait until nothing runs any more
    #[arg(long)]
    wait: bool,
    /// Wait no longer than this; then exit 2
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = super::job_options::duration, allow_hyphen_values = true)]
    timeout: Option<DurationField>,
}

/// Starts no more jobs.
pub fn pause(context: &Context<'_>, args: PauseArgs) -> Ended {
    change(context, "pause", &ReasonRequest { reason: args.reason })?;
    done(context, "pause")
}

/// Starts jobs again.
pub fn resume(context: &Context<'_>, _: NoArgs) -> Ended {
    change(context, "resume", &json!({}))?;
    done(context, "resume")
}

/// Starts no more jobs, and waits for those that run if asked to.
pub fn drain(context: &Context<'_>, args: DrainArgs) -> Ended {
    change(context, "drain", &ReasonRequest { reason: args.reason })?;
    if args.wait {
        exit_on_ctrl_c(false);
        let deadline = args.timeout.map(|timeout| Instant::now() + timeout.0);
        let mut backoff = Backoff::default();
        loop {
            let status = patiently(deadline, &|text| context.note(text), || status_of(context))?;
            if status.jobs.running == 0 {
                break;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let running = match status.jobs.running {
                    1 => "1 job still runs".to_owned(),
                    running => format!("{running} jobs still run"),
                };
                return Err(Failure::Temporary(format!("the time is up; {running}")));
            }
            backoff.pause(deadline);
        }
    }
    done(context, "drain")
}

fn change(context: &Context<'_>, what: &str, body: &impl Serialize) -> Result<(), Failure> {
    let _: serde_json::Value = context.client.post(&format!("/api/v1/{what}"), body)?;
    Ok(())
}

fn done(context: &Context<'_>, what: &str) -> Ended {
    let status = status_of(context)?;
    let told = match context.is_json() {
        true => context.print_json(&json!({ "state": status.state, "paused": status.paused })),
        false => {
            let StatusView { state, jobs, .. } = status;
            print(&format!("{state}: {}, {} queued\n", jobs.under_way(), jobs.queued))
        }
    };
    after(told, || format!("`{what}` is done, but that"))
}

fn status_of(context: &Context<'_>) -> Result<StatusView, super::client::ClientError> {
    context.client.get("/api/v1/status")
}

/// The host on one screen.
pub fn status(context: &Context<'_>, _: NoArgs) -> Ended {
    let status = status_of(context)?;
    if context.is_json() {
        return context.print_json(&status);
    }
    print(&status_page(&status, &context.look()))
}

/// What is wrong, behind a sign, in as many lines as it takes.
fn alarm(state: &str, text: &str, look: &Look) -> String {
    let room = look.columns().map_or(usize::MAX, |columns| columns.saturating_sub(4));
    format!("  {} {}\n", look.paint(state_style(state), "!"), wrapped(text, room).join("\n    "))
}

/// The host for people.
pub fn status_page(status: &StatusView, look: &Look) -> String {
    let style = match status.state.as_str() {
        "running" => state_style("succeeded"),
        "degraded" | "stopping" => state_style("failed"),
        _ => state_style("paused"),
    };
    let mut text = format!(
        "{} {}  {}\n",
        look.paint(heading(), "ci-runner"),
        visible(&status.version),
        look.paint_visible(style, &status.state)
    );
    for problem in &status.problems {
        text.push_str(&alarm("failed", &visible(problem), look));
    }
    for (name, part) in &status.components {
        let told = part.detail.as_deref().unwrap_or_default();
        // What is told above in other words is not told twice.
        if !status.problems.iter().any(|problem| told.contains(problem.as_str())) {
            text.push_str(&alarm("failed", &format!("{name}: {}", visible(told)), look));
        }
    }
    for watch in &status.watches {
        text.push_str(&alarm("paused", &format!("{}: {}", visible(&watch.watch), visible(&watch.text)), look));
    }
    let mut field = |name: &str, value: String| text.push_str(&status_field(name, &value, look));
    if let Some(pause) = &status.paused {
        let what = if pause.drain { "draining" } else { "paused" };
        let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", visible(&pause.reason)) };
        let since = unix_ms(&pause.since).map(|at| show_relative(at, look.now_ms)).unwrap_or_default();
        field(what, format!("by {}, {} ({since}){why}", visible(&pause.by), local(&pause.since, look)));
    }
    for busy in &status.busy {
        field("busy", format!("nothing more starts for now: {}", visible(busy)));
    }
    field("slots", format!("{} of {} in use", status.slots.used, status.slots.total));
    let oldest =
        status.oldest_queued_seconds.map(|age| format!(", the oldest for {}", seconds(age))).unwrap_or_default();
    field("queue", format!("{} queued{oldest}; {}", status.jobs.queued, status.jobs.under_way()));
    let jobs = &status.jobs;
    let ended = [
        ("succeeded", jobs.succeeded),
        ("failed", jobs.failed),
        ("timed_out", jobs.timed_out),
        ("cancelled", jobs.cancelled),
        ("superseded", jobs.superseded),
        ("expired", jobs.expired),
    ];
    let ended: Vec<String> = ended
        .iter()
        .filter(|(word, count)| *count > 0 || *word == "succeeded" || *word == "failed")
        .map(|(word, count)| {
            let item = format!("{count} {}", word.replace('_', " "));
            // A count stays with its word when the line is broken, and colours are no part of its length.
            look.paint(state_style(word), &item).replace(' ', "\u{a0}")
        })
        .collect();
    field("finished", ended.join(", "));
    let start =
        format!("up {}, process {}, start number {}", seconds(status.uptime_seconds), status.pid, status.generation);
    field("daemon", start);
    text
}

/// A name and a value on lines that fit the terminal; where that is narrow the value begins below.
fn status_field(name: &str, value: &str, look: &Look) -> String {
    const INDENT: usize = 2;
    const NAME: usize = 10;
    /// Less room for a value is worse than a line for the name.
    const ROOM_MIN: usize = 24;
    let room = look.columns().map_or(usize::MAX, |columns| columns.saturating_sub(INDENT + NAME));
    let is_narrow = room < ROOM_MIN;
    let room = if is_narrow { room.saturating_add(NAME) } else { room };
    let mut text = String::new();
    if is_narrow {
        text.push_str(&format!("{}\n", look.paint(dim(), name)));
    }
    for (index, line) in wrapped(value, room).iter().enumerate() {
        let name = match (is_narrow, index) {
            (true, _) => String::new(),
            (false, 0) => look.paint(dim(), &format!("{name:<NAME$}")),
            (false, _) => " ".repeat(NAME),
        };
        text.push_str(&format!("{:INDENT$}{name}{}\n", "", line.replace('\u{a0}', " ")));
    }
    text
}

/// A table on a terminal, lines with tabs in a pipe.
pub fn table<const N: usize>(columns: [Column; N], rows: Vec<[String; N]>, look: &Look, none: &str) -> String {
    if rows.is_empty() && look.is_terminal() {
        return format!("{none}\n");
    }
    let mut table = Table::new(columns);
    rows.into_iter().for_each(|row| table.push(row.map(Cell::from)));
    table.render(look.output)
}

/// Pools.
pub fn pools(context: &Context<'_>, _: NoArgs) -> Ended {
    let pools: Vec<PoolInfo> = context.client.get("/api/v1/pools")?;
    if context.is_json() {
        return context.print_json(&pools);
    }
    let columns = [
        Column::left("POOL"),
        Column::left("EXECUTOR").importance(1),
        Column::right("USED"),
        Column::right("SLOTS"),
        Column::right("QUEUED"),
        Column::left("LABELS").importance(2).shrinks_to(12),
    ];
    let row = |pool: &PoolInfo| {
        let [used, slots, queued] = [pool.used.to_string(), pool.slots.to_string(), pool.queued.to_string()];
        [pool.name.clone(), pool.executor.clone(), used, slots, queued, pool.labels.join(" ")]
    };
    print(&table(columns, pools.iter().map(row).collect(), &context.look(), "no pools"))
}

/// Groups with open jobs.
pub fn groups(context: &Context<'_>, _: NoArgs) -> Ended {
    let groups: Vec<GroupInfo> = context.client.get("/api/v1/groups")?;
    if context.is_json() {
        return context.print_json(&groups);
    }
    let columns = [
        Column::left("GROUP").shrinks_to(12),
        Column::right("LIMIT"),
        Column::right("WAITING"),
        Column::left("HELD BY").importance(1).shrinks_to(8),
    ];
    let row = |group: &GroupInfo| {
        let holders: Vec<String> = group.holders.iter().map(u64::to_string).collect();
        [group.name.clone(), group.limit.to_string(), group.waiting.to_string(), holders.join(" ")]
    };
    print(&table(columns, groups.iter().map(row).collect(), &context.look(), "no group has open jobs"))
}

/// Slots.
pub fn runners(context: &Context<'_>, _: NoArgs) -> Ended {
    let runners: Vec<RunnerInfo> = context.client.get("/api/v1/runners")?;
    if context.is_json() {
        return context.print_json(&runners);
    }
    let columns = [
        Column::left("POOL"),
        Column::right("SLOT"),
        Column::left("STATE"),
        Column::right("JOB"),
        Column::right("ATTEMPT").importance(1),
        Column::right("TIME").importance(2),
    ];
    let look = context.look();
    let row = |runner: &RunnerInfo| {
        let time = match look.is_terminal() {
            true => runner.run_seconds.map(seconds),
            false => runner.run_seconds.map(|seconds| format!("{seconds:.3}")),
        };
        [
            runner.pool.clone(),
            runner.slot.to_string(),
            runner.state.clone(),
            runner.job.map(|job| job.to_string()).unwrap_or_default(),
            runner.attempt.map(|attempt| attempt.to_string()).unwrap_or_default(),
            time.unwrap_or_default(),
        ]
    };
    print(&table(columns, runners.iter().map(row).collect(), &look, "no runners"))
}
