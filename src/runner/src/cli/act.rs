//! Verbs that act on jobs: `cancel`, `retry`, `hold`, `release`, `priority`.

use super::client::ClientError;
use super::context::{Context, print};
use super::fail::{EXIT_DONE, EXIT_ERROR, Ended, Failure, after, queued};
use crate::api::{ActedView, PriorityRequest, ReasonRequest, SubmittedOne};
use ci_runner_core::job::PRIORITY_MAX;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::process::ExitCode;

/// Jobs by id.
#[derive(Args, Debug)]
pub struct IdsArgs {
    /// Jobs
    #[arg(required = true, value_name = "ID", value_parser = super::job_options::job_id)]
    ids: Vec<u64>,
}

/// Arguments of `cancel`.
#[derive(Args, Debug)]
pub struct CancelArgs {
    /// Jobs
    #[arg(value_name = "ID", value_parser = super::job_options::job_id, conflicts_with = "all")]
    ids: Vec<u64>,
    /// Every job that has not finished
    #[arg(long)]
    all: bool,
}

/// Arguments of `hold`.
#[derive(Args, Debug)]
pub struct HoldArgs {
    /// Jobs
    #[arg(required = true, value_name = "ID", value_parser = super::job_options::job_id)]
    ids: Vec<u64>,
    /// Why, for `why` and `show`
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// Arguments of `priority`.
#[derive(Args, Debug)]
pub struct PriorityArgs {
    /// Higher goes first; jobs have 0 unless told otherwise
    #[arg(value_name = "PRIORITY", allow_negative_numbers = true)]
    priority: i64,
    /// Jobs
    #[arg(required = true, value_name = "ID", allow_negative_numbers = true)]
    ids: Vec<i64>,
}

impl PriorityArgs {
    /// The priority and the jobs. No id is negative, so `priority 7 -5` can only mean that job 7 gets -5.
    fn read(mut self) -> Result<(i16, Vec<u64>), Failure> {
        if self.priority >= 0 && self.ids.last().is_some_and(|last| *last < 0) {
            self.ids.rotate_right(1);
            std::mem::swap(&mut self.priority, &mut self.ids[0]);
        }
        let fits = i16::try_from(self.priority).ok().filter(|number| (-PRIORITY_MAX..=PRIORITY_MAX).contains(number));
        let Some(priority) = fits else {
            let text = format!("priority {}; between {} and {PRIORITY_MAX}", self.priority, -PRIORITY_MAX);
            return Err(Failure::Usage(text));
        };
        let id = |id: &i64| {
            let refuse = |_| Failure::Usage(format!("{id} is no job id; write `ci-runner priority PRIORITY ID…`"));
            u64::try_from(*id).map_err(refuse)
        };
        Ok((priority, self.ids.iter().map(id).collect::<Result<_, _>>()?))
    }
}

/// Ends jobs, all of the named or none.
pub fn cancel(context: &Context<'_>, args: CancelArgs) -> Ended {
    if args.ids.is_empty() && !args.all {
        return Err(Failure::Usage("name the jobs to cancel, or give --all".to_owned()));
    }
    let body = if args.all { json!({ "all": true }) } else { json!({ "ids": args.ids }) };
    let acted: ActedView =
        context.client.post("/api/v1/jobs/cancel", &body).map_err(|error| none_of(&args.ids, error))?;
    if args.all && acted.ids.is_empty() && !context.is_json() {
        context.note("no job was open");
    }
    // They have ended, which is what was wished.
    tell(context, "cancelled", acted, EXIT_DONE)
}

/// What is wrong with one of several jobs: the others were not cancelled either, which is said.
fn none_of(ids: &[u64], error: ClientError) -> Failure {
    let is_unknown = matches!(&error, ClientError::Refused { problem, .. } if problem.status == 404);
    match Failure::from(error) {
        Failure::Error(text) if is_unknown && ids.len() > 1 => {
            Failure::Error(format!("{text}; none of them was cancelled"))
        }
        other => other,
    }
}

/// Keeps queued jobs from starting.
pub fn hold(context: &Context<'_>, args: HoldArgs) -> Ended {
    each(context, "held", "hold", &args.ids, &ReasonRequest { reason: args.reason })
}

/// Lets held jobs go.
pub fn release(context: &Context<'_>, args: IdsArgs) -> Ended {
    each(context, "released", "release", &args.ids, &json!({}))
}

/// Changes the priority.
pub fn priority(context: &Context<'_>, args: PriorityArgs) -> Ended {
    let (priority, ids) = args.read()?;
    each(context, "changed", "priority", &ids, &PriorityRequest { priority })
}

/// Queues the same jobs again.
pub fn retry(context: &Context<'_>, args: IdsArgs) -> Ended {
    let mut made = Vec::new();
    let mut first_failure = None;
    for id in args.ids {
        match context.client.post::<SubmittedOne>(&format!("/api/v1/jobs/{id}/retry"), &json!({})) {
            Ok(submitted) => {
                if !context.is_json() {
                    after(print(&format!("{}\n", submitted.id)), || queued(submitted.id))?;
                }
                made.push(submitted.id);
            }
            Err(error) => keep_going(context, id, error, &mut first_failure)?,
        }
    }
    if context.is_json() {
        after(context.print_json(&json!({ "ids": made })), || format!("{} is queued, but that", jobs(&made)))?;
    }
    first_failure.map_or(Ok(EXIT_DONE), Err)
}

/// One request a job. What is wrong with one is told, and the others are done all the same.
fn each(context: &Context<'_>, done: &str, action: &str, ids: &[u64], body: &impl Serialize) -> Ended {
    let mut acted = ActedView { ids: Vec::new(), finished: Vec::new(), running: Vec::new() };
    let mut first_failure = None;
    for id in ids {
        match context.client.post::<ActedView>(&format!("/api/v1/jobs/{id}/{action}"), body) {
            Ok(one) => {
                acted.ids.extend(one.ids);
                acted.finished.extend(one.finished);
                acted.running.extend(one.running);
            }
            Err(error) => keep_going(context, *id, error, &mut first_failure)?,
        }
    }
    let code = tell(context, done, acted, EXIT_ERROR.into())?;
    first_failure.map_or(Ok(code), Err)
}

/// Keeps the first failure for the end and tells the others now; without a daemon there is no going on.
fn keep_going(context: &Context<'_>, id: u64, error: ClientError, first: &mut Option<Failure>) -> Result<(), Failure> {
    if error.is_passing() {
        return Err(error.into());
    }
    match first {
        Some(_) => {
            let told = error.to_string();
            // Most say themselves which job they are about.
            let names_it = told.starts_with(&format!("job {id} ")) || told.ends_with(&format!("no job {id}"));
            let which = if names_it { String::new() } else { format!("job {id}: ") };
            context.note(&format!("ci-runner: {which}{told}"));
        }
        None => *first = Some(error.into()),
    }
    Ok(())
}

/// Jobs by id, in words.
fn jobs(ids: &[u64]) -> String {
    if ids.is_empty() {
        return "nothing".to_owned();
    }
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("job {}", ids.join(", "))
}

fn tell(context: &Context<'_>, done: &str, acted: ActedView, when_finished: ExitCode) -> Ended {
    let code = if acted.finished.is_empty() { EXIT_DONE } else { when_finished };
    let what = || format!("{done}: {}; but that", jobs(&acted.ids));
    if context.is_json() {
        after(context.print_json(&acted), what)?;
        return Ok(code);
    }
    let text: String = acted.ids.iter().map(|id| format!("{done} {id}\n")).collect();
    after(print(&text), what)?;
    for id in &acted.running {
        context.note(&format!("job {id} has an attempt under way, which goes on: this counts for its next one"));
    }
    for id in &acted.finished {
        context.note(&format!("job {id} had finished before"));
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_priority_is_understood_on_either_side() {
        let read = |priority, ids: &[i64]| PriorityArgs { priority, ids: ids.to_vec() }.read();
        assert_eq!(read(10, &[7, 8]).unwrap(), (10, vec![7, 8]));
        assert_eq!(read(-5, &[7, 8]).unwrap(), (-5, vec![7, 8]));
        assert_eq!(read(7, &[-5]).unwrap(), (-5, vec![7]));
        assert_eq!(read(7, &[8, -5]).unwrap(), (-5, vec![7, 8]));
        for (priority, ids, part) in
            [(101, &[7][..], "between -100 and 100"), (-5, &[-7], "-7 is no job id"), (7, &[-5, 8], "-5 is no job id")]
        {
            let refused = read(priority, ids).unwrap_err().to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
