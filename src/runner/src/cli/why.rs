//! `why`: the exact reason a job is not running, in the daemon's words.

use super::context::{Context, print};
use super::fail::Ended;
use crate::api::WhyView;
use clap::Args;

/// Arguments of `why`.
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// The job
    #[arg(value_name = "ID", value_parser = super::job_options::job_id)]
    id: u64,
}

/// Prints the reasons, the deciding one first.
pub fn why(context: &Context<'_>, args: WhyArgs) -> Ended {
    let why: WhyView = context.client.get(&format!("/api/v1/jobs/{}/why", args.id))?;
    if context.is_json() {
        return context.print_json(&why);
    }
    let mut text = String::new();
    for (index, reason) in why.reasons.iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "also: " });
        text.push_str(&reason.text);
        text.push('\n');
    }
    if why.reasons.is_empty() {
        text = format!("job {} is {}\n", why.id, why.state);
    }
    print(&text)
}
