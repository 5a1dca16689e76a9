//! `watches` and `notify`: what is not as it should be, and who is told.

use super::client::encoded;
use super::context::{Context, print};
use super::fail::{EXIT_DONE, Ended, Failure, after};
use super::host::{NoArgs, table};
use super::list::unix_ms;
use super::look::Look;
use crate::api::{AlarmView, NotifierTested, NotifierView, WatchesView};
use crate::quantity::show_relative;
use crate::style::visible;
use crate::table::Column;
use clap::Args;
use serde_json::json;
use std::time::Duration;

/// A notifier has five minutes at most (`timeout`), and the names of its host are looked up besides.
const NOTIFIER_PATIENCE: Duration = Duration::from_secs(6 * 60);

/// A notifier by name.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// The notifier, as in [notifiers.NAME] of the daemon's configuration
    #[arg(value_name = "NOTIFIER")]
    notifier: String,
}

/// Lists alarms: active ones first, then those that ended last.
pub fn watches(context: &Context<'_>, _: NoArgs) -> Ended {
    let watches: WatchesView = context.client.get("/api/v1/watches")?;
    if context.is_json() {
        return context.print_json(&watches);
    }
    print(&watches_page(&watches, &context.look()))
}

/// Alarms for people.
pub fn watches_page(watches: &WatchesView, look: &Look) -> String {
    let columns = [
        Column::left("WATCH").importance(4),
        Column::left("STARTED").importance(3),
        Column::left("ENDED").importance(2),
        Column::right("JOB").importance(1),
        // It says all, the job among it: never left out.
        Column::left("WHAT").shrinks_to(20),
    ];
    let time = |at: &str| match look.is_terminal() {
        true => unix_ms(at).map(|at| show_relative(at, look.now_ms)).unwrap_or_default(),
        false => at.to_owned(),
    };
    let row = |alarm: &AlarmView| {
        [
            alarm.watch.clone(),
            time(&alarm.started_at),
            alarm.ended_at.as_deref().map(time).unwrap_or_default(),
            alarm.job.map(|job| job.to_string()).unwrap_or_default(),
            visible(&alarm.text).into_owned(),
        ]
    };
    let rows = watches.active.iter().chain(&watches.recent).map(row).collect();
    table(columns, rows, look, "nothing was ever wrong")
}

/// Lists notifiers.
pub fn list(context: &Context<'_>, _: NoArgs) -> Ended {
    let notifiers: Vec<NotifierView> = context.client.get("/api/v1/notifiers")?;
    if context.is_json() {
        return context.print_json(&notifiers);
    }
    print(&notifiers_page(&notifiers, &context.look()))
}

/// Notifiers for people.
pub fn notifiers_page(notifiers: &[NotifierView], look: &Look) -> String {
    // Whoever asks wants to know what goes wrong: that it was lost, and why, stays to the last.
    let columns = [
        Column::left("NOTIFIER"),
        Column::left("KIND").importance(1),
        Column::right("WAITING").importance(2),
        Column::right("DELIVERED").importance(1),
        Column::right("GIVEN UP").importance(3),
        Column::right("DROPPED").importance(3),
        Column::left("LAST ERROR").shrinks_to(12),
    ];
    let row = |notifier: &NotifierView| {
        let count = |result: &str| notifier.counts.get(result).copied().unwrap_or(0).to_string();
        [
            notifier.name.clone(),
            notifier.kind.clone(),
            notifier.waiting.to_string(),
            count("delivered"),
            count("given_up"),
            count("dropped"),
            visible(notifier.last_error.as_deref().unwrap_or_default()).into_owned(),
        ]
    };
    let none = "there is no notifier; add a table [notifiers.NAME] to the daemon's configuration";
    table(columns, notifiers.iter().map(row).collect(), look, none)
}

/// Tries one now; exit 1 when it does not take the event.
pub fn test(context: &Context<'_>, args: TestArgs) -> Ended {
    let path = format!("/api/v1/notifiers/{}/test", encoded(&args.notifier));
    let client = context.client.clone().waiting_for("the notifier", NOTIFIER_PATIENCE);
    let tested: NotifierTested = client.post(&path, &json!({}))?;
    let done = || format!("event {} was sent, but that", tested.event);
    if context.is_json() {
        after(context.print_json(&tested), done)?;
    }
    match &tested.error {
        None if context.is_json() => Ok(EXIT_DONE),
        None => after(print(&format!("delivered in {:.3} s (event {})\n", tested.seconds, tested.event)), done),
        Some(why) => Err(Failure::Error(format!("notifier {} did not take it: {}", args.notifier, visible(why)))),
    }
}
