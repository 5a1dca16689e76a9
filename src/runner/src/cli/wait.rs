//! `wait`: until jobs have finished, however often the daemon is restarted meanwhile.

use super::context::{Context, print};
use super::fail::{EXIT_DONE, EXIT_ERROR, Ended, Failure};
use super::interrupt::exit_on_ctrl_c;
use super::show::outcome_line;
use super::watch::{Backoff, LOOK_AGAIN, News, Watch, first_contact, job, patiently, pause_in_crowd};
use crate::api::JobView;
use crate::quantity::DurationField;
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Arguments of `wait`.
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// Jobs to wait for
    #[arg(required = true, value_name = "ID", value_parser = super::job_options::job_id)]
    ids: Vec<u64>,
    /// Wait no longer than this; then exit 2. Without it, a daemon that was never there is waited for 30 s
    #[arg(long, value_name = "TIME", value_parser = super::job_options::duration, allow_hyphen_values = true)]
    timeout: Option<DurationField>,
}

/// Waits, and tells how each job ended.
pub fn wait(context: &Context<'_>, args: WaitArgs) -> Ended {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout.0);
    exit_on_ctrl_c(false);
    let look = context.look();
    let tell = |job: &JobView| match context.is_json() || context.globals.quiet {
        true => Ok(EXIT_DONE),
        false => heard_or_not(print(&format!("{}\n", outcome_line(job, &look)))),
    };
    let finished = until_finished(context, &args.ids, deadline, &tell)?;
    if context.is_json() {
        let in_order: Vec<&JobView> = args.ids.iter().filter_map(|id| finished.get(id)).collect();
        heard_or_not(context.print_json(&in_order))?;
    }
    let all = finished.values().all(|job| job.outcome.as_deref() == Some("succeeded"));
    Ok(if all { EXIT_DONE } else { EXIT_ERROR.into() })
}

/// A reader that went away takes nothing from the exit code: 0 says that every job succeeded.
fn heard_or_not(printed: Ended) -> Ended {
    match printed {
        Err(Failure::NobodyListens) => Ok(EXIT_DONE),
        other => other,
    }
}

/// Waits until all of them have finished. `tell` hears of each once, as they finish.
///
/// # Errors
/// No daemon at the start, an unknown id, the time being up.
pub fn until_finished(
    context: &Context<'_>,
    ids: &[u64],
    deadline: Option<Instant>,
    tell: &dyn Fn(&JobView) -> Ended,
) -> Result<BTreeMap<u64, JobView>, Failure> {
    let mut open: BTreeSet<u64> = ids.iter().copied().collect();
    let mut finished = BTreeMap::new();
    let note = |text: &str| context.note(text);
    let all: Vec<u64> = open.iter().copied().collect();
    // A daemon that never comes is an error; one that goes away later is waited for as long as it takes.
    let mut watch = first_contact(deadline, &note, || Watch::open_if_place(&context.client, &all))?;
    let mut crowded = watch.is_none();
    // A daemon whose streams break at once must not be asked in a tight loop.
    let mut backoff = Backoff::default();
    // Which are asked for: all at first and after anything that may have been missed, else the one that an event names.
    let mut ask = all;
    loop {
        for id in ask {
            let view = patiently(deadline, &note, || job(&context.client, id))?;
            if view.state == "finished" {
                tell(&view)?;
                finished.insert(id, view);
                open.remove(&id);
            }
        }
        if open.is_empty() {
            return Ok(finished);
        }
        if std::mem::take(&mut crowded) {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(time_is_up(&open));
            }
            pause_in_crowd(deadline);
        }
        ask = match &mut watch {
            Some(listening) => match next(listening, &open, deadline)? {
                Next::One(id) => {
                    backoff = Backoff::default();
                    vec![id]
                }
                Next::Any => {
                    backoff = Backoff::default();
                    open.iter().copied().collect()
                }
                Next::Broken => {
                    watch = None;
                    backoff.pause(deadline);
                    Vec::new()
                }
            },
            None => {
                let named: Vec<u64> = open.iter().copied().collect();
                watch = patiently(deadline, &note, || Watch::open_if_place(&context.client, &named))?;
                crowded = watch.is_none();
                // What happened while nobody listened is found by asking again.
                named
            }
        };
    }
}

/// What is worth asking for.
enum Next {
    /// This job has finished.
    One(u64),
    /// Any of them may have.
    Any,
    /// The stream is broken.
    Broken,
}

/// Listens until one of the jobs may have finished.
fn next(watch: &mut Watch, open: &BTreeSet<u64>, deadline: Option<Instant>) -> Result<Next, Failure> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(time_is_up(open));
        }
        match watch.next(left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN))) {
            Ok(News::Job(event)) if event.state == "finished" && open.contains(&event.id) => {
                return Ok(Next::One(event.id));
            }
            Ok(News::Job(_)) => {}
            Ok(News::Gap) => return Ok(Next::Any),
            Ok(News::Silence) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {}
            Ok(News::Silence) => return Ok(Next::Any),
            Err(_) => return Ok(Next::Broken),
        }
    }
}

fn time_is_up(open: &BTreeSet<u64>) -> Failure {
    Failure::Temporary(format!("the time is up; not finished: {}", ids_text(open)))
}

/// `7, 8 and 12 more`.
fn ids_text(ids: &BTreeSet<u64>) -> String {
    const SHOWN: usize = 10;
    let mut text = ids.iter().take(SHOWN).map(u64::to_string).collect::<Vec<_>>().join(", ");
    if ids.len() > SHOWN {
        text.push_str(&format!(" and {} more", ids.len() - SHOWN));
    }
    text
}
